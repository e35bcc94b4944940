//! The seeds of the fuzz targets: small inputs that reach far.
//!
//! They are committed as files, because that is what the fuzzer reads, and made here, because hexadecimal
//! is not what people read. `UPDATE_SEEDS=1 cargo test --test fuzz_seeds` writes the files anew.

#![allow(unreachable_pub, clippy::unwrap_used)]

use std::net::Ipv4Addr;

use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::wire::icmpv4::Error;
use vswitchd::wire::{ethernet, ipv4};

use crate::bodies::switch::{REPAIR, TIME};
use crate::packets::{self, Way, cut, with_byte};
use crate::rig::{self, across, inward, outward};

const C1: MacAddr = MacAddr([0x02, 0x76, 172, 30, 0, 2]);
const GATEWAY: MacAddr = MacAddr([0x02, 0x76, 172, 30, 0, 1]);

/// From a container to a server on the internet.
const OUT: Way = Way {
    src_mac: C1,
    dst_mac: GATEWAY,
    src: Endpoint::new(Ipv4Addr::new(172, 30, 0, 2), 40_000),
    dst: Endpoint::new(Ipv4Addr::new(203, 0, 113, 80), 80),
};

/// A seed: its name and what is in it.
pub type Seed = (&'static str, Vec<u8>);

/// The seeds of each target.
pub fn all() -> Vec<(&'static str, Vec<Seed>)> {
    vec![("wire", wire()), ("switch", switch()), ("conntrack", conntrack())]
}

fn wire() -> Vec<Seed> {
    let ask = Way { dst_mac: MacAddr::BROADCAST, ..OUT };
    let syn = packets::tcp(OUT, "S", 1_000, 0, &[]);
    let datagram = packets::udp(OUT, b"hello");
    let no_checksum = [&datagram[..40], &[0, 0], &datagram[42..]].concat();
    vec![
        ("arp-request", packets::arp(ask, 1, MacAddr::ZERO)),
        ("arp-reply", packets::arp(OUT.back(), 2, C1)),
        ("tcp-syn", syn.clone()),
        ("tcp-data", packets::tcp(OUT, "A", 1_001, 2_000, b"GET / HTTP/1.0\r\n\r\n")),
        ("tcp-rst", packets::tcp(OUT, "RA", 1_001, 2_000, &[])),
        ("tcp-header-too-long", with_byte(syn.clone(), 46, 0xf0)),
        ("tcp-cut", with_byte(cut(syn.clone(), 44), 17, 30)),
        ("udp", datagram.clone()),
        ("udp-without-checksum", no_checksum),
        ("udp-length-too-long", with_byte(datagram.clone(), 39, 200)),
        ("udp-trailing-bytes", [&datagram[..], &[0xaa; 18]].concat()),
        ("udp-first-fragment", with_byte(datagram.clone(), 20, 0x20)),
        ("udp-later-fragment", with_byte(datagram.clone(), 21, 0x03)),
        ("echo-request", packets::ping(OUT, 1)),
        ("time-exceeded", packets::icmp_error(OUT.back(), Error::TimeExceeded, &datagram)),
        (
            "fragmentation-needed",
            packets::icmp_error(OUT.back(), Error::FragmentationNeeded { mtu: 1_280 }, &syn),
        ),
        ("source-route", source_routed(&datagram)),
        ("vlan", packets::vlan(OUT, 7)),
        ("vlan-cut", cut(packets::vlan(OUT, 7), 16)),
        ("ipv6", packets::ipv6(OUT)),
        ("ttl-0", with_byte(datagram.clone(), 22, 0)),
        ("total-length-too-long", with_byte(datagram.clone(), 16, 0xff)),
        ("total-length-too-short", with_byte(datagram.clone(), 17, 19)),
        ("version-5", with_byte(datagram.clone(), 14, 0x55)),
        ("runt", cut(datagram, 13)),
    ]
}

/// The packet with a strict source route option.
fn source_routed(frame: &[u8]) -> Vec<u8> {
    let (head, payload) = frame.split_at(ethernet::HEADER_LEN + ipv4::HEADER_LEN);
    let option = [137, 7, 4, 203, 0, 113, 1, 0];
    let mut frame = [head, &option, payload].concat();
    frame[14] = 0x47;
    frame[17] += 8;
    frame[24..26].fill(0);
    let sum = vswitchd::wire::checksum::checksum(&frame[14..42]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Records of a port, a promise and a frame. See `bodies/switch.rs`.
fn switch() -> Vec<Seed> {
    let plain = |port: u16, frame: &[u8]| record(port, 0, 0, frame);
    let time = |steps: u8| vec![TIME, steps];
    let router = || plain(0, &packets::arp(from_router(), 2, rig::EXTERNAL_MAC));
    let answers =
        |port: u16| plain(port, &packets::arp(to_gateway(port), 2, MacAddr::from_ipv4(rig::GATEWAY)));
    let (out, back) = (outward(1), inward(61_001));
    let hairpin = Way { dst: Endpoint::new(rig::EXTERNAL, 8080), ..outward(3) };
    let client = inward(8080);
    let big = packets::tcp(out, "A", 2, 2, &[0x55; 20_000]);
    let datagrams = packets::udp(across(1, 2), &[0x66; 9_000]);
    vec![
        (
            "learn-and-forward",
            [
                plain(1, &packets::udp(across(1, 3), b"flooded")),
                plain(3, &packets::udp(across(3, 1), b"direct")),
                plain(2, &packets::ipv6(across(2, 1))),
                plain(2, &packets::vlan(across(2, 3), 9)),
            ]
            .concat(),
        ),
        (
            "arp-and-ping-the-gateway",
            [
                plain(
                    1,
                    &packets::arp(Way { dst_mac: MacAddr::BROADCAST, ..to_gateway(1) }, 1, MacAddr::ZERO),
                ),
                plain(1, &packets::ping(to_gateway(1), 1)),
            ]
            .concat(),
        ),
        (
            "tcp-out-and-back",
            [
                plain(1, &packets::tcp(out, "S", 1, 0, &[])),
                router(),
                plain(0, &packets::tcp(back, "SA", 1, 2, &[])),
                answers(1),
                plain(1, &packets::tcp(out, "A", 2, 2, b"hello")),
                plain(0, &packets::tcp(back, "FA", 2, 7, &[])),
                plain(1, &packets::tcp(out, "FA", 7, 3, &[])),
                time(255),
            ]
            .concat(),
        ),
        (
            "udp-and-echo-out",
            [
                plain(1, &packets::udp(out, b"question")),
                router(),
                plain(0, &packets::udp(back, b"answer")),
                plain(2, &packets::ping(outward(2), 7)),
                plain(
                    0,
                    &packets::icmp_error(back, Error::HostUnreachable, &packets::udp(back.back(), b"q")),
                ),
            ]
            .concat(),
        ),
        (
            "super-frames",
            [
                plain(1, &packets::tcp(out, "S", 1, 0, &[])),
                router(),
                record(1, 4, 1_448, &big),
                record(1, 5, 1_000, &datagrams),
                record(3, 2, 0, &packets::tcp(across(3, 2), "A", 1, 1, b"partial")),
                record(3, 4, 0, &big),
                record(3, 7, 65_535, &datagrams),
            ]
            .concat(),
        ),
        (
            "published",
            [
                router(),
                plain(0, &packets::tcp(client, "S", 1, 0, &[])),
                answers(1),
                plain(
                    1,
                    &packets::tcp(Way { src: Endpoint::new(rig::container(1), 80), ..out }, "SA", 1, 2, &[]),
                ),
                plain(0, &packets::tcp(client, "A", 2, 2, b"GET / HTTP/1.0\r\n\r\n")),
            ]
            .concat(),
        ),
        ("hairpin", [plain(3, &packets::tcp(hairpin, "S", 1, 0, &[])), answers(1), answers(3)].concat()),
        (
            "neighbors-that-do-not-answer",
            [plain(1, &packets::udp(out, b"lost")), time(30), time(30), time(30), time(30)].concat(),
        ),
        (
            "no-way-between-networks",
            [
                plain(4, &packets::udp(across(4, 1), b"no")),
                plain(
                    4,
                    &packets::udp(
                        Way { dst_mac: MacAddr::from_ipv4(rig::INNER_GATEWAY), ..across(4, 1) },
                        b"no",
                    ),
                ),
                plain(
                    1,
                    &packets::udp(Way { dst_mac: MacAddr::from_ipv4(rig::GATEWAY), ..across(1, 4) }, b"no"),
                ),
                plain(
                    4,
                    &packets::arp(Way { dst_mac: MacAddr::BROADCAST, ..across(4, 1) }, 1, MacAddr::ZERO),
                ),
            ]
            .concat(),
        ),
        (
            "errors-of-the-gateway",
            [
                record(1, REPAIR, 0, &with_byte(packets::udp(out, b"ttl"), 22, 1)),
                record(1, REPAIR, 0, &with_byte(packets::udp(out, b"fragment"), 20, 0x20)),
                plain(1, &packets::udp(out, &[0; 1_473])),
                plain(1, &packets::udp(to_gateway(1), b"nobody listens")),
                plain(1, &cut(packets::udp(out, b"runt"), 13)),
                plain(1, &source_routed(&packets::udp(out, b"routed"))),
            ]
            .concat(),
        ),
    ]
}

fn record(port: u16, promise: u8, parameter: u16, frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len()).unwrap();
    let [_, port] = port.to_be_bytes();
    [&[port, promise], &parameter.to_be_bytes()[..], &len.to_be_bytes(), frame].concat()
}

/// From the container at `port` to its gateway.
fn to_gateway(port: u16) -> Way {
    Way { dst: Endpoint::new(rig::GATEWAY, 9), ..outward(port) }
}

/// From the router to the uplink's address.
fn from_router() -> Way {
    Way { src: Endpoint::new(rig::ROUTER, 0), ..inward(0) }
}

/// Operations are four bytes: what, who, whom, how. See `bodies/conntrack.rs`.
fn conntrack() -> Vec<Seed> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const FIN_ACK: u8 = 0x11;
    const OUT_TCP: u8 = 0x00;
    const OUT_UDP: u8 = 0x20;
    const OUT_ICMP: u8 = 0x30;
    const IN_PUBLISHED: u8 = 0x06;
    const IN_UNPUBLISHED: u8 = 0x07;
    const IN_UDP_PUBLISHED: u8 = 0x26;
    const TIME: u8 = 0x0a;
    const EXPIRE: u8 = 0x0b;
    const FLUSH: u8 = 0x0c;
    const RESERVE_UDP: u8 = 0x2d;
    const RELEASE_UDP: u8 = 0x2e;
    let many = |what: u8| (0..40).flat_map(|n| [what, n * 4, n, SYN]).collect::<Vec<u8>>();
    vec![
        (
            "tcp-life",
            [
                [OUT_TCP, 0x80, 1, SYN],
                [IN_UNPUBLISHED, 0, 1, SYN | ACK],
                [OUT_TCP, 0x80, 1, ACK],
                [OUT_TCP, 0x80, 1, FIN_ACK],
                [IN_UNPUBLISHED, 0, 1, FIN_ACK],
                [TIME, 250, 0, 0],
                [EXPIRE, 0, 0, 0],
            ]
            .concat(),
        ),
        ("ports-run-out", [many(OUT_UDP), many(OUT_TCP)].concat()),
        ("one-mapping-many-remotes", (0..8).flat_map(|n| [OUT_UDP, 0x84, n | n << 6, 0]).collect()),
        ("published", [[IN_PUBLISHED, 1, 1, SYN], [IN_UDP_PUBLISHED, 2, 2, 3], [OUT_UDP, 2, 2, 3]].concat()),
        ("unsolicited", [[IN_UNPUBLISHED, 1, 1, SYN], [IN_UNPUBLISHED, 1, 1, ACK]].concat()),
        ("out-of-state", [[OUT_TCP, 1, 1, ACK], [OUT_TCP, 1, 1, SYN]].concat()),
        ("echo", [[OUT_ICMP, 1, 1, 0], [OUT_ICMP, 1, 1, 1], [0x37, 1, 1, 1]].concat()),
        (
            "reserved-port",
            [
                [RESERVE_UDP, 0, 0, 0],
                [OUT_UDP, 0x80, 1, 0],
                [RELEASE_UDP, 0, 0, 0],
                [OUT_UDP, 0x81, 1, 0],
                [RESERVE_UDP, 0, 0, 1],
            ]
            .concat(),
        ),
        (
            "flush-and-reuse",
            [
                [OUT_UDP, 0x80, 1, 0],
                [FLUSH, 0, 0, 0],
                [OUT_UDP, 0x81, 1, 0],
                [TIME, 200, 0, 0],
                [OUT_UDP, 0x80, 2, 0],
            ]
            .concat(),
        ),
    ]
}
