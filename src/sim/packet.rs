//! Packets for simulated stations: finished frames with right checksums.

use std::net::Ipv4Addr;

use crate::addr::{Endpoint, MacAddr};
use crate::wire::checksum::{checksum, fold, pseudo_header, sum};
use crate::wire::{ethernet, icmpv4, ipv4, put16, put32};

/// Ethernet addresses of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Macs {
    /// The source.
    pub src: MacAddr,
    /// The destination.
    pub dst: MacAddr,
}

/// A frame of any EtherType, padded to 60 bytes.
pub fn frame(macs: Macs, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; (ethernet::HEADER_LEN + payload.len()).max(60)];
    ethernet::write(&mut bytes, macs.dst, macs.src, ethertype);
    bytes[ethernet::HEADER_LEN..][..payload.len()].copy_from_slice(payload);
    bytes
}

/// An IPv4 packet in a frame without padding, with TTL 64 and DF.
pub fn ip(macs: Macs, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN + ipv4::HEADER_LEN + payload.len()];
    ethernet::write(&mut bytes, macs.dst, macs.src, ethernet::IPV4);
    ipv4::write(&mut bytes[ethernet::HEADER_LEN..], src, dst, protocol, 64, payload.len());
    bytes[ethernet::HEADER_LEN + ipv4::HEADER_LEN..].copy_from_slice(payload);
    bytes
}

/// A UDP datagram.
pub fn udp(macs: Macs, src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; 8 + payload.len()];
    put16(&mut datagram, 0, src.port);
    put16(&mut datagram, 2, dst.port);
    let len = datagram.len();
    put16(&mut datagram, 4, u16::try_from(len).unwrap_or(u16::MAX));
    datagram[8..].copy_from_slice(payload);
    let value = !fold(pseudo_header(src.ip, dst.ip, ipv4::UDP, len) + sum(&datagram));
    put16(&mut datagram, 6, if value == 0 { 0xffff } else { value });
    ip(macs, src.ip, dst.ip, ipv4::UDP, &datagram)
}

/// Numbers and flags of a TCP segment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
}

/// A TCP segment.
pub fn tcp(macs: Macs, src: Endpoint, dst: Endpoint, header: Tcp, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20 + payload.len()];
    put16(&mut segment, 0, src.port);
    put16(&mut segment, 2, dst.port);
    put32(&mut segment, 4, header.seq);
    put32(&mut segment, 8, header.ack);
    segment[12] = 5 << 4;
    segment[13] = header.flags;
    put16(&mut segment, 14, 0xffff);
    segment[20..].copy_from_slice(payload);
    let value = !fold(pseudo_header(src.ip, dst.ip, ipv4::TCP, segment.len()) + sum(&segment));
    put16(&mut segment, 16, value);
    ip(macs, src.ip, dst.ip, ipv4::TCP, &segment)
}

/// An ICMP echo request or reply.
pub fn echo(macs: Macs, src: Ipv4Addr, dst: Ipv4Addr, request: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 8 + payload.len()];
    message[0] = if request { icmpv4::ECHO_REQUEST } else { icmpv4::ECHO_REPLY };
    put16(&mut message, 4, id);
    put16(&mut message, 6, 1);
    message[8..].copy_from_slice(payload);
    let value = checksum(&message);
    put16(&mut message, 2, value);
    ip(macs, src, dst, ipv4::ICMP, &message)
}

/// An ICMP error about the IP packet `quoted`.
pub fn icmp_error(macs: Macs, src: Ipv4Addr, dst: Ipv4Addr, error: icmpv4::Error, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN + icmpv4::ERROR_MAX];
    ethernet::write(&mut bytes, macs.dst, macs.src, ethernet::IPV4);
    let len = error.write(&mut bytes[ethernet::HEADER_LEN..], src, dst, quoted);
    bytes.truncate(ethernet::HEADER_LEN + len);
    bytes
}

/// An ARP packet: operation 1 is a request, 2 a reply.
pub fn arp(macs: Macs, operation: u8, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        payload.extend(mac.0);
        payload.extend(ip.octets());
    }
    frame(macs, ethernet::ARP, &payload)
}
