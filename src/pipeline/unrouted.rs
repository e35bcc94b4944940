//! What rules can ask of a frame that is switched and could not be routed: IPv6, above all.
//!
//! There are no connections of IPv6 here, so every frame is judged for itself, an answer as well as a question; by the
//! ports of the switch and the networks that it is of, its protocol and the port that it calls, which are read from
//! behind the extension headers as a station would. Rules have no IPv6 addresses: every port has several of them, of
//! its own making. What must not happen is that a rule which forbids IPv4 lets the same pass by IPv6, which every
//! container speaks on its link without being told to.
//!
//! - Neighbor solicitations and advertisements (RFC 4861) are of no protocol that a rule can name: a link works without
//!   ICMPv6 as little as without ARP. A rule about all that two ports say is about these, too.
//! - The later fragments of a datagram show no port. They are nothing without the first one.
//! - On a LAN, nobody tells the switch which global addresses are near. Such a frame passes where rules let it pass
//!   to the LAN and to the internet; link-local and unique local addresses (RFC 4291 2.5.6, RFC 4193) are the LAN's.

use std::net::Ipv6Addr;

use crate::addr::Protocol;
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::table::policy::{Action, End, Policy, Question, Ruling, Zone};
use crate::wire::ipv6::{self, Chain};
use crate::wire::{be16, ethernet};

/// ICMPv6 types by which stations find each other (RFC 4861 4.3, 4.4).
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// What is known of such a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Unrouted {
    protocol: Option<Protocol>,
    /// The port that it calls.
    port: u16,
    /// Whether the sender may be anywhere in the world, by its address.
    from_afar: bool,
    /// Whether the receiver may.
    to_afar: bool,
}

impl Unrouted {
    /// Reads it from a frame as a station without VLANs does.
    ///
    /// # Errors
    /// `UnreadableHeaders` if somebody else might find a protocol or a port where nothing is found here.
    pub(super) fn read(frame: &Frame) -> Result<Self, DropReason> {
        let unreadable = DropReason::UnreadableHeaders;
        let (ethertype, packet) = ethernet::carried(frame.bytes()).map_err(|_| unreadable)?;
        let Some((src, dst)) = (ethertype == ethernet::IPV6).then(|| ipv6::addresses(packet)).flatten()
        else {
            return Ok(Unrouted::default());
        };
        let (protocol, port) = match ipv6::chain(packet).map_err(|_| unreadable)? {
            Chain::Upper(kind @ (ipv6::TCP | ipv6::UDP), header) => {
                let protocol = if kind == ipv6::TCP { Protocol::Tcp } else { Protocol::Udp };
                (Some(protocol), header.get(..4).map(|ports| be16(ports, 2)).ok_or(unreadable)?)
            }
            Chain::Upper(ipv6::ICMPV6, message) => match message.first().ok_or(unreadable)? {
                &(NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT) => (None, 0),
                _ => (Some(Protocol::Icmp), 0),
            },
            Chain::Upper(..) | Chain::LaterFragment => (None, 0),
        };
        Ok(Unrouted { protocol, port, from_afar: is_global(src), to_afar: is_global(dst) })
    }

    /// What decides about it: the first thing that forbids it, wherever its ends may be.
    pub(super) fn judge(&self, policy: &Policy, from: End<'_>, to: End<'_>) -> Ruling {
        let mut ruling = Ruling::Open;
        for from in may_be(from, self.from_afar) {
            for to in may_be(to, self.to_afar) {
                ruling = policy.judge(&Question { from, to, protocol: self.protocol, port: self.port });
                if ruling.action() == Action::Deny {
                    return ruling;
                }
            }
        }
        ruling
    }
}

/// Where an end may be.
fn may_be(end: End<'_>, afar: bool) -> impl Iterator<Item = End<'_>> {
    let is_outside = matches!(end.zone, Zone::Lan | Zone::Internet);
    let far = (is_outside && afar).then_some(End { zone: Zone::Internet, ..end });
    std::iter::once(end).chain(far)
}

/// Whether an address may be routed on the internet.
fn is_global(ip: Ipv6Addr) -> bool {
    !(ip.is_unicast_link_local() || ip.is_unique_local() || ip.is_unspecified() || ip.is_multicast())
}
