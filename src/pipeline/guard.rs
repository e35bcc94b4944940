//! Port security: a port speaks for itself only, and is neither router nor DHCP server to its neighbors.
//!
//! What a port is known by is pinned to it ([`Pins`]), and a frame is held against that wherever it names its
//! sender: the Ethernet source, the IPv4 source, both sender addresses of ARP. The gateway's own addresses are
//! refused from every port, whether its security is on or off. Behind the uplink of a bridged network there are routers
//! and servers by right; they only cannot be one of the switch's ports.
//!
//! A station without VLANs looks through priority tags, some through SNAP headers, and all through IPv6 extension
//! headers; what it would find there is looked at here as well ([`ethernet::carried`], [`ipv6::chain`]), or a tag
//! with VID 0 before an ARP reply would do away with all of this (CVE-2021-27853 and its siblings). A frame of a
//! VLAN concerns only those who have made an interface for that VLAN, with addresses that are theirs to choose:
//! only its Ethernet source is pinned.
//!
//! What no stack would take for a packet of its EtherType claims nothing, and goes on like any other frame.
//!
//! **The flow cache** repeats only what was admitted, for frames of the same ingress, MAC and IP addresses and
//! ports; there is nothing else that is looked at here.

use std::net::Ipv4Addr;

use super::packet::Packet;
use super::{Context, arp};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::snapshot::{Network, Pins};
use crate::wire::arp::Arp;
use crate::wire::ipv6::Chain;
use crate::wire::transport::DHCP_CLIENT;
use crate::wire::{be16, ethernet, ipv4, ipv6};

/// The port of a DHCPv6 client (RFC 8415 7.2).
const DHCPV6_CLIENT: u16 = 546;

/// ICMPv6 types that only routers send (RFC 4861 4.2, 4.5).
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// Whether the port may say of itself what this frame says.
pub(super) fn inspect(
    cx: &mut Context<'_>,
    network: &Network,
    frame: &Frame,
    packet: &Packet,
) -> Result<(), DropReason> {
    let (pins, is_lan) = (cx.ingress.pins, cx.ingress.lan);
    if packet.eth.src == network.gateway_mac {
        return Err(DropReason::SpoofedGateway);
    }
    if pins.and_then(|pins| pins.mac).is_some_and(|mac| mac != packet.eth.src) {
        return Err(DropReason::SpoofedMac);
    }
    let (ethertype, contents) =
        ethernet::carried(frame.bytes()).map_err(|_| DropReason::UnreadableHeaders)?;
    match ethertype {
        ethernet::ARP => inspect_arp(cx, network, contents),
        ethernet::IPV4 => inspect_ipv4(pins.filter(|_| !is_lan), network, packet, contents),
        ethernet::IPV6 if pins.is_some() && !is_lan => inspect_ipv6(contents),
        _ => Ok(()),
    }
}

/// The sender's addresses in an ARP packet, which is what others believe.
fn inspect_arp(cx: &mut Context<'_>, network: &Network, contents: &[u8]) -> Result<(), DropReason> {
    let arp = Arp::parse(contents).map_err(|_| DropReason::BadArp)?;
    if network.gateway == Some(arp.sender_ip) {
        arp::defend_gateway(cx, network);
        return Err(DropReason::ArpConflict);
    }
    if arp.sender_mac == network.gateway_mac {
        return Err(DropReason::SpoofedGateway);
    }
    let Some(pins) = cx.ingress.pins else { return Ok(()) };
    let own_mac = pins.mac.is_none_or(|mac| arp.sender_mac == mac);
    // A probe asks whether somebody has an address, and claims none (RFC 5227 1.1).
    let own_ip = pins.ip.is_none_or(|ip| arp.sender_ip == ip || arp.sender_ip.is_unspecified());
    if own_mac && own_ip { Ok(()) } else { Err(DropReason::SpoofedArp) }
}

fn inspect_ipv4(
    pins: Option<Pins>,
    network: &Network,
    packet: &Packet,
    contents: &[u8],
) -> Result<(), DropReason> {
    let Some(header) = contents.first_chunk::<{ ipv4::HEADER_LEN }>().filter(|header| header[0] >> 4 == 4)
    else {
        return Ok(());
    };
    let src = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    if network.gateway == Some(src) {
        return Err(DropReason::SpoofedGateway);
    }
    let Some(pins) = pins else { return Ok(()) };
    // Whoever has no address yet asks for one without (RFC 2131 4.1), and joins groups (RFC 3376 4.2.13).
    let has_none = src.is_unspecified() && packet.eth.dst.is_group();
    if pins.ip.is_some_and(|ip| ip != src) && !has_none {
        return Err(DropReason::SpoofedIp);
    }
    // Only the first fragment has ports, and no other can overwrite them: they are before the first possible offset.
    let is_first = be16(header, 6) & 0x1fff == 0;
    let ports = usize::from(header[0] & 0x0f) * 4;
    // Whatever comes from a port to a client is a server's answer: clients do not look at the source port.
    if header[9] == ipv4::UDP && is_first && be16(contents, ports + 2) == DHCP_CLIENT {
        return Err(DropReason::DhcpServer);
    }
    Ok(())
}

/// RA-Guard (RFC 6105) by the rules of RFC 7113, and DHCPv6-Shield (RFC 7610) by the same.
fn inspect_ipv6(contents: &[u8]) -> Result<(), DropReason> {
    if contents.len() < ipv6::HEADER_LEN || contents[0] >> 4 != 6 {
        return Ok(());
    }
    match ipv6::chain(contents).map_err(|_| DropReason::UnreadableHeaders)? {
        Chain::Upper(ipv6::ICMPV6, message) => match message.first() {
            Some(&(ROUTER_ADVERTISEMENT | REDIRECT)) => Err(DropReason::RouterAdvertisement),
            Some(_) => Ok(()),
            None => Err(DropReason::UnreadableHeaders),
        },
        Chain::Upper(ipv6::UDP, datagram) => match datagram.get(2..4) {
            Some(port) if *port == DHCPV6_CLIENT.to_be_bytes() => Err(DropReason::DhcpServer),
            Some(_) => Ok(()),
            None => Err(DropReason::UnreadableHeaders),
        },
        Chain::Upper(..) | Chain::LaterFragment => Ok(()),
    }
}
