//! Routing: the next hop, and whether the packet may go on from here.

use std::net::Ipv4Addr;

use super::nat::{Arrived, Way};
use super::{Context, icmp_error};
use crate::addr::MacAddr;
use crate::drops::DropReason;
use crate::frame::{Frame, Segment};
use crate::shared::Neighbors;
use crate::snapshot::{Network, Uplink};
use crate::table::route_table::Via;
use crate::wire::ethernet;
use crate::wire::icmpv4::Error;

/// The link that a packet leaves by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Link<'a> {
    /// A network of the switch.
    Network(&'a Network),
    /// The uplink, speaking with this address.
    Uplink(&'a Uplink, Ipv4Addr),
}

impl<'a> Link<'a> {
    /// The addresses that the switch speaks with on the link.
    pub(super) fn own(&self) -> (MacAddr, Ipv4Addr) {
        match self {
            Link::Network(network) => (network.gateway_mac, network.speaks_as()),
            Link::Uplink(uplink, address) => (uplink.mac, *address),
        }
    }

    pub(super) fn neighbors(&self) -> &'a Neighbors {
        match self {
            Link::Network(network) => &network.neighbors,
            Link::Uplink(uplink, _) => &uplink.neighbors,
        }
    }

    fn mtu(&self) -> u16 {
        match self {
            Link::Network(network) => network.mtu,
            Link::Uplink(uplink, _) => uplink.mtu,
        }
    }
}

/// A packet that may leave by `link` to `next_hop`.
#[derive(Debug)]
pub(super) struct Routed<'a> {
    pub(super) arrived: &'a Arrived<'a>,
    pub(super) link: Link<'a>,
    pub(super) next_hop: Ipv4Addr,
    /// How it is cut at the edge.
    pub(super) segment: Segment,
}

/// Finds the next hop of a packet whose destination is known, and sees that it may make one more hop and
/// fits the link.
#[inline(always)]
pub(super) fn route<'a>(
    cx: &mut Context<'_>,
    frame: &Frame,
    arrived: &'a Arrived<'a>,
) -> Result<Routed<'a>, DropReason> {
    let ip = &arrived.view.ip;
    let (link, next_hop) = match arrived.way {
        Way::Along(network) | Way::Between(network) => (Link::Network(network), ip.dst),
        Way::In { network, inside, .. } | Way::Around { network, inside, .. } => {
            (Link::Network(network), inside.ip)
        }
        Way::Out { uplink, external, .. } => {
            let next_hop = match uplink.routes.lookup(ip.dst) {
                Some(Via::Link) => ip.dst,
                Some(Via::Gateway(gateway)) => gateway,
                Some(Via::Elsewhere) | None => {
                    let reason = DropReason::NoRoute;
                    return Err(icmp_error::refuse(cx, frame, ip, Error::NetworkUnreachable, reason));
                }
            };
            (Link::Uplink(uplink, external), next_hop)
        }
    };
    if ip.ttl <= 1 {
        return Err(icmp_error::refuse(cx, frame, ip, Error::TimeExceeded, DropReason::TtlExceeded));
    }
    let mtu = link.mtu();
    let mut segment = frame.offload.segment;
    if arrived.view.len > usize::from(mtu) {
        if ip.dont_fragment {
            let error = Error::FragmentationNeeded { mtu };
            return Err(icmp_error::refuse(cx, frame, ip, error, DropReason::TooBig));
        }
        segment = smaller(frame, mtu).ok_or(DropReason::TooBig)?;
    }
    Ok(Routed { arrived, link, next_hop, segment })
}

/// How the packets of a frame that may be fragmented are cut so that none has more than `mtu` bytes. `None` for
/// a UDP super-frame, whose datagrams would have to be cut twice: its sender knows the MTU of its own link.
#[cold]
fn smaller(frame: &Frame, mtu: u16) -> Option<Segment> {
    match frame.offload.segment {
        Segment::None | Segment::Fragments { .. } => Some(Segment::Fragments { size: mtu }),
        Segment::Tcp4 { ecn, .. } => {
            // Nobody has cut it yet, so smaller segments are as good as fragments, and better.
            let headers = usize::from(frame.offload.header_len).checked_sub(ethernet::HEADER_LEN)?;
            let size = mtu.checked_sub(u16::try_from(headers).ok()?).filter(|&size| size > 0)?;
            Some(Segment::Tcp4 { size, ecn })
        }
        Segment::Tcp6 { .. } | Segment::Udp { .. } => None,
    }
}
