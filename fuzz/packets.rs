//! Frames and packets, well-formed and not, for seeds and benchmarks.

// Each user needs some of them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::Ipv4Addr;

use etherparse::{PacketBuilder, PacketBuilderStep, VlanId};
use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::wire::{ethernet, icmpv4, ipv4};

/// Where a frame goes and comes from.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub src_mac: MacAddr,
    pub dst_mac: MacAddr,
    pub src: Endpoint,
    pub dst: Endpoint,
}

impl Way {
    /// The way of the answer.
    #[must_use]
    pub fn back(self) -> Way {
        Way { src_mac: self.dst_mac, dst_mac: self.src_mac, src: self.dst, dst: self.src }
    }

    fn ipv4(self) -> PacketBuilderStep<etherparse::IpHeaders> {
        let link = PacketBuilder::ethernet2(self.src_mac.0, self.dst_mac.0);
        link.ipv4(self.src.ip.octets(), self.dst.ip.octets(), 64)
    }
}

/// A TCP segment with the flags in `flags` ("S", "SA", "A", "F", "R").
pub fn tcp(way: Way, flags: &str, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut step = way.ipv4().tcp(way.src.port, way.dst.port, seq, 64_240);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(ack),
            'F' => step.fin(),
            'R' => step.rst(),
            other => panic!("no such flag: {other}"),
        };
    }
    let mut frame = Vec::new();
    step.write(&mut frame, payload).unwrap();
    frame
}

/// A UDP datagram.
pub fn udp(way: Way, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    way.ipv4().udp(way.src.port, way.dst.port).write(&mut frame, payload).unwrap();
    frame
}

/// An ICMP echo request with the source's port as its identifier.
pub fn ping(way: Way, seq: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    way.ipv4().icmpv4_echo_request(way.src.port, seq).write(&mut frame, b"abcdefgh").unwrap();
    frame
}

/// An ICMP error about `about`, a frame that this way's receiver sent.
pub fn icmp_error(way: Way, error: icmpv4::Error, about: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ethernet::HEADER_LEN + icmpv4::ERROR_MAX];
    ethernet::write(&mut frame, way.dst_mac, way.src_mac, ethernet::IPV4);
    let quoted = &about[ethernet::HEADER_LEN..];
    let len = error.write(&mut frame[ethernet::HEADER_LEN..], way.src.ip, way.dst.ip, quoted);
    frame.truncate(ethernet::HEADER_LEN + len);
    frame
}

/// An ARP request (`operation` 1) or reply (2), RFC 826.
pub fn arp(way: Way, operation: u8, target_mac: MacAddr) -> Vec<u8> {
    let mut frame = vec![0; ethernet::HEADER_LEN];
    ethernet::write(&mut frame, way.dst_mac, way.src_mac, ethernet::ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(way.src_mac.0);
    frame.extend(way.src.ip.octets());
    frame.extend(target_mac.0);
    frame.extend(way.dst.ip.octets());
    frame
}

/// A UDP datagram behind a VLAN tag.
pub fn vlan(way: Way, id: u16) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(way.src_mac.0, way.dst_mac.0);
    let tagged = link.single_vlan(VlanId::try_new(id).unwrap());
    let step = tagged.ipv4(way.src.ip.octets(), way.dst.ip.octets(), 64).udp(way.src.port, way.dst.port);
    let mut frame = Vec::new();
    step.write(&mut frame, b"tagged").unwrap();
    frame
}

/// A UDP datagram over IPv6.
pub fn ipv6(way: Way) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(way.src_mac.0, way.dst_mac.0);
    let address = |ip: Ipv4Addr| ip.to_ipv6_mapped().octets();
    let step = link.ipv6(address(way.src.ip), address(way.dst.ip), 64).udp(way.src.port, way.dst.port);
    let mut frame = Vec::new();
    step.write(&mut frame, b"six").unwrap();
    frame
}

/// The frame with byte `at` changed to `value`, and with the IPv4 header's checksum made right again, so
/// that the change gets past it.
#[must_use]
pub fn with_byte(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    let header = ethernet::HEADER_LEN..ethernet::HEADER_LEN + ipv4::HEADER_LEN;
    frame[24..26].fill(0);
    let sum = vswitchd::wire::checksum::checksum(&frame[header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The frame, cut after `len` bytes.
#[must_use]
pub fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}
