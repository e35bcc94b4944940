//! The host on a network: behind its port is one station, and no router.
//!
//! The host's kernel would take a packet for any of its addresses by whatever interface it comes in, and pass on those
//! for others if it forwards. Then everybody on a network with a host port could reach the host's other addresses, its
//! other networks and the world around the switch, by sending to the host's MAC address. So such a port gets what is
//! for its own address, and what is for all: ARP, and IPv4 to the broadcast and to groups.
//!
//! **The flow cache** repeats only what was let through, for packets with the same destination.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::Frame;
use crate::snapshot::Port;
use crate::wire::{ethernet, ipv4, ipv6};

/// Whom a frame's contents are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addressee {
    /// Whoever hears the ARP packet.
    All,
    /// The host or group with this address.
    Ip(Ipv4Addr),
    /// The host or group with this IPv6 address.
    Ipv6(Ipv6Addr),
    /// Whoever understands it.
    Other,
}

impl Addressee {
    /// Reads it from a frame as a station without VLANs does.
    pub(super) fn of(frame: &Frame) -> Addressee {
        match ethernet::carried(frame.bytes()) {
            Ok((ethernet::ARP, _)) => Addressee::All,
            Ok((ethernet::IPV4, packet)) => match packet.first_chunk::<{ ipv4::HEADER_LEN }>() {
                Some(&[.., a, b, c, d]) => Addressee::Ip(Ipv4Addr::new(a, b, c, d)),
                None => Addressee::Other,
            },
            Ok((ethernet::IPV6, packet)) => match ipv6::addresses(packet) {
                Some((_, dst)) => Addressee::Ipv6(dst),
                None => Addressee::Other,
            },
            Ok(_) | Err(_) => Addressee::Other,
        }
    }
}

/// Whether the frame may leave by this port, as far as the host is behind it.
pub(super) fn takes(port: &Port, addressee: Addressee) -> bool {
    let Some(own) = port.host else { return true };
    match addressee {
        Addressee::All => true,
        Addressee::Ip(ip) => {
            ip == own.addr() || ip == own.broadcast() || ip.is_broadcast() || ip.is_multicast()
        }
        Addressee::Ipv6(_) | Addressee::Other => false,
    }
}
