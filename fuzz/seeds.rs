//! The seeds of the fuzz targets: small inputs that reach far.
//!
//! They are committed as files, because that is what the fuzzer reads, and made here, because hexadecimal
//! is not what people read. `UPDATE_SEEDS=1 cargo test --test fuzz_seeds` writes the files anew.

#![allow(unreachable_pub)]

use std::net::Ipv4Addr;

use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::wire::icmpv4::Error;
use vswitchd::wire::{ethernet, ipv4};

use crate::packets::{self, Way, cut, with_byte};

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
    vec![("wire", wire()), ("conntrack", conntrack())]
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
