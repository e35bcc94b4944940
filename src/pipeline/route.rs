//! Routing: the next hop, and whether the packet may go on from here.

use std::net::Ipv4Addr;

use super::nat::{Arrived, Way};
use super::{Context, icmp_error};
use crate::addr::MacAddr;
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::shared::Neighbors;
use crate::snapshot::{Network, Uplink};
use crate::table::route_table::Via;
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
            Link::Network(network) => (network.gateway_mac, network.gateway),
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
#[derive(Debug, Clone, Copy)]
pub(super) struct Routed<'a> {
    pub(super) arrived: Arrived<'a>,
    pub(super) link: Link<'a>,
    pub(super) next_hop: Ipv4Addr,
}

/// Finds the next hop of a packet whose destination is known, and sees that it may make one more hop and
/// fits the link.
pub(super) fn route<'a>(
    cx: &mut Context<'_>,
    frame: &Frame,
    arrived: Arrived<'a>,
) -> Result<Routed<'a>, DropReason> {
    let ip = arrived.view.ip;
    let (link, next_hop) = match arrived.way {
        Way::Along(network) => (Link::Network(network), ip.dst),
        Way::In { network, inside, .. } | Way::Around { network, inside, .. } => {
            (Link::Network(network), inside.ip)
        }
        Way::Out { uplink, external } => {
            let next_hop = match uplink.routes.lookup(ip.dst) {
                Some(Via::Link) => ip.dst,
                Some(Via::Gateway(gateway)) => gateway,
                Some(Via::Elsewhere) | None => {
                    let reason = DropReason::NoRoute;
                    return Err(icmp_error::refuse(cx, frame, &ip, Error::NetworkUnreachable, reason));
                }
            };
            (Link::Uplink(uplink, external), next_hop)
        }
    };
    if ip.ttl <= 1 {
        return Err(icmp_error::refuse(cx, frame, &ip, Error::TimeExceeded, DropReason::TtlExceeded));
    }
    let mtu = link.mtu();
    if arrived.view.len > usize::from(mtu) {
        return Err(if ip.dont_fragment {
            icmp_error::refuse(cx, frame, &ip, Error::FragmentationNeeded { mtu }, DropReason::TooBig)
        } else {
            DropReason::TooBig
        });
    }
    Ok(Routed { arrived, link, next_hop })
}
