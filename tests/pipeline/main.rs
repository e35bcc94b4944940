//! The pipeline through memory ports in virtual time: no root, no threads, no clock.
//!
//! Tests that show a row of docs/conformance.md have its number in their name; its sections are the modules.
//! Every test ends by asking whether the books balance: frames in = frames out + drops.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test that panics says so

use std::net::Ipv4Addr;
use std::time::Duration;

use vswitchd::addr::{Endpoint, MacAddr, NetworkId, PortId, Protocol};
use vswitchd::drops::DropReason;
use vswitchd::frame::{Checksum, Offload, Segment};
use vswitchd::port::memory::Condition;
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, ROUTER, ROUTER_MAC, SERVER, Station, Switch, UPLINK_MAC};
use vswitchd::snapshot::{NetworkMode, UplinkMode};
use vswitchd::wire::icmpv4::{Error, is_error};
use vswitchd::wire::ipv4::Ipv4;
use vswitchd::wire::transport::{ACK, FIN, RST, SYN, Transport};

mod arp;
mod bridge;
mod fragments;
mod gateway;
mod icmp;
mod ipv4;
mod lan;
mod nat;
mod networks;
mod policy;
mod publish;
mod security;
mod services;
mod tcp;
mod uplinks;
mod vlans;

const SECOND: Duration = Duration::from_secs(1);

fn server(port: u16) -> Endpoint {
    Endpoint::new(SERVER, port)
}

fn external(port: u16) -> Endpoint {
    Endpoint::new(EXTERNAL, port)
}

/// From a station to its gateway; for the router, to the uplink.
fn via(station: &Station) -> Macs {
    Macs { src: station.mac, dst: station.gateway_mac }
}

fn between(from: &Station, to: &Station) -> Macs {
    Macs { src: from.mac, dst: to.mac }
}

/// What a frame says, after its checksums were found right.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    src: Endpoint,
    dst: Endpoint,
    ttl: u8,
    payload: Vec<u8>,
}

/// Reads a frame with an independent library, and sees that all its checksums are right.
fn read(frame: &[u8]) -> Seen {
    let parsed = etherparse::PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4: {parsed:?}") };
    assert_eq!(ip.calc_header_checksum(), ip.header_checksum, "IP header checksum");
    let payload = parsed.payload.slice();
    let (src_port, dst_port) = match parsed.transport.expect("a transport") {
        etherparse::TransportHeader::Udp(udp) => {
            let right = udp.calc_checksum_ipv4(&ip, payload).unwrap();
            assert!(udp.checksum == 0 || udp.checksum == right, "UDP checksum");
            (udp.source_port, udp.destination_port)
        }
        etherparse::TransportHeader::Tcp(tcp) => {
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload).unwrap(), "TCP checksum");
            (tcp.source_port, tcp.destination_port)
        }
        etherparse::TransportHeader::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload), "ICMP checksum");
            match icmp.icmp_type {
                etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                _ => (0, 0),
            }
        }
        other => panic!("unexpected transport {other:?}"),
    };
    Seen {
        src: Endpoint::new(ip.source.into(), src_port),
        dst: Endpoint::new(ip.destination.into(), dst_port),
        ttl: ip.time_to_live,
        payload: payload.to_vec(),
    }
}

/// An IPv6 packet with one more header, from and to an address.
fn v6(macs: Macs, [src, dst]: [&str; 2], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, u8::try_from(payload.len()).unwrap(), next, 64];
    for ip in [src, dst] {
        packet.extend(ip.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    packet.extend(payload);
    packet::frame(macs, 0x86dd, &packet)
}

fn received(station: &Station) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| station.device.pop()).map(|(bytes, _)| bytes).collect()
}

/// The one frame that a station received.
fn one(station: &Station) -> Vec<u8> {
    let mut frames = received(station);
    assert_eq!(frames.len(), 1, "frames at {}: {frames:02x?}", station.ip);
    frames.remove(0)
}

fn nothing(station: &Station) {
    assert_eq!(received(station), Vec::<Vec<u8>>::new(), "at {}", station.ip);
}

/// Type and code of the ICMP error in a frame, and the packet that it quotes.
fn icmp_error(frame: &[u8]) -> (u8, u8, Vec<u8>) {
    let ip = Ipv4::parse(&frame[14..]).expect("an IPv4 packet");
    let message = &frame[14 + ip.header_len..14 + ip.total_len];
    assert_eq!(vswitchd::wire::checksum::checksum(message), 0, "ICMP checksum");
    assert!(is_error(message[0]), "not an ICMP error: {message:02x?}");
    (message[0], message[1], message[8..].to_vec())
}

/// A network with `count` containers whose places are known.
fn lan(count: usize) -> (Switch, Vec<Station>) {
    let mut switch = Switch::new(1000);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let stations: Vec<_> = (0..count).map(|_| switch.add_port(network)).collect();
    stations.iter().for_each(|station| switch.resolve(station));
    (switch, stations)
}

/// One more container on the first network, whose place is known.
fn neighbor(switch: &mut Switch) -> Station {
    let station = switch.add_port(NetworkId(0));
    switch.resolve(&station);
    station
}

fn settle(switch: &Switch) {
    assert_eq!(switch.imbalance(), 0, "{:?}", switch.totals());
}
