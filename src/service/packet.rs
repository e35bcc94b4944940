//! Packets between a container and the gateway: read from punted frames, and written into frames to be sent.

use std::net::Ipv4Addr;

use crate::addr::{Endpoint, MacAddr, PortId};
use crate::frame::{Checksum, Frame, Offload, Segment};
use crate::offload::Segments;
use crate::shared::Punt;
use crate::snapshot::Network;
use crate::table::datagram_ids::DatagramIds;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::transport::{SYN, Transport, is_intact};
use crate::wire::{arp, be16, checksum, edit, put16};
use crate::worker::Outgoing;

/// TTL of what the gateway sends (RFC 1700).
pub const TTL: u8 = 64;

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

/// Where answers go: back the way that the question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The station.
    pub mac: MacAddr,
    /// The port it is behind.
    pub port: PortId,
}

/// What a frame carries, whose checksums are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried<'a> {
    /// A datagram.
    Datagram {
        /// Its sender.
        src: Endpoint,
        /// Whom it is for.
        dst: Endpoint,
        /// What it says.
        payload: &'a [u8],
    },
    /// A segment, which may be longer than the link's.
    Segment {
        /// Its sender.
        src: Endpoint,
        /// Whom it is for.
        dst: Endpoint,
        /// Whether it opens a connection.
        opens: bool,
        /// The packet, from the IP header on.
        packet: &'a [u8],
    },
}

/// Hands what a punted frame carries to `take`, datagram by datagram, with who has sent it. What is wrong in itself
/// is not handed on.
pub fn unpack(punt: &Punt, mut take: impl FnMut(Peer, Carried<'_>)) {
    let mut hand = |frame: &[u8], checksum| {
        if let Some((mac, carried)) = read(frame, checksum) {
            take(Peer { mac, port: punt.ingress }, carried);
        }
    };
    if !matches!(punt.offload.segment, Segment::Udp { .. }) {
        return hand(&punt.bytes, punt.offload.checksum);
    }
    let mut frame = Frame::new();
    frame.fill(&punt.bytes, punt.offload);
    let Ok(mut datagrams) = Segments::of(&frame) else { return };
    let mut datagram = Frame::new();
    while datagrams.next_into(&mut datagram) {
        hand(datagram.bytes(), datagram.offload.checksum);
    }
}

/// What a frame carries. A checksum that is verified or not even computed is not looked at.
fn read(frame: &[u8], checksum: Checksum) -> Option<(MacAddr, Carried<'_>)> {
    let eth = Ethernet::parse(frame).ok()?;
    let packet = frame.get(ethernet::HEADER_LEN..)?;
    let ip = Ipv4::parse(packet).ok()?;
    let packet = &packet[..ip.total_len];
    let payload = &packet[ip.header_len..];
    if checksum == Checksum::Complete && !is_intact(&ip, payload) {
        return None;
    }
    let transport = Transport::parse(ip.protocol, payload).ok()?;
    let ports = transport.ports()?;
    let (src, dst) = (Endpoint::new(ip.src, ports.src), Endpoint::new(ip.dst, ports.dst));
    let carried = match transport {
        Transport::Udp { .. } => {
            let len = usize::from(be16(payload, 4));
            Carried::Datagram { src, dst, payload: payload.get(UDP_HEADER..len)? }
        }
        Transport::Tcp { segment, .. } => Carried::Segment { src, dst, opens: segment.has(SYN), packet },
        Transport::Echo { .. } | Transport::IcmpError | Transport::IcmpOther | Transport::Other => {
            return None;
        }
    };
    Some((eth.src, carried))
}

/// A datagram from port `from` of a network's gateway, in fragments if it must. `None` if it is too long for UDP.
pub fn datagram(
    network: &Network,
    ids: &DatagramIds,
    peer: Peer,
    from: u16,
    to: Endpoint,
    payload: &[u8],
) -> Option<Outgoing> {
    let src = network.speaks_as();
    let length = UDP_HEADER + payload.len();
    let udp_length = u16::try_from(length).ok()?;
    u16::try_from(ipv4::HEADER_LEN + length).ok()?;
    let mut bytes = vec![0; ethernet::HEADER_LEN + ipv4::HEADER_LEN + length];
    let (headers, body) = bytes.split_at_mut(ethernet::HEADER_LEN + ipv4::HEADER_LEN);
    put16(body, 0, from);
    put16(body, 2, to.port);
    put16(body, 4, udp_length);
    body[UDP_HEADER..].copy_from_slice(payload);
    let sum = checksum::pseudo_header(src, to.ip, ipv4::UDP, length) + checksum::sum(body);
    // RFC 768: zero would say that there is none.
    put16(
        body,
        6,
        match !checksum::fold(sum) {
            0 => 0xffff,
            sum => sum,
        },
    );
    ipv4::write(&mut headers[ethernet::HEADER_LEN..], src, to.ip, ipv4::UDP, TTL, length);
    let mut offload = Offload::NONE;
    if bytes.len() - ethernet::HEADER_LEN > usize::from(network.mtu) {
        offload.segment = Segment::Fragments { size: network.mtu };
        let packet = &mut bytes[ethernet::HEADER_LEN..];
        ipv4::make_whole(packet, ipv4::HEADER_LEN, false, false);
        edit::set_id(packet, ids.take((src, to.ip, ipv4::UDP), 1));
    }
    Some(framed(network, peer, bytes, offload))
}

/// The gateway's request for the MAC address of `ip`, sent to `at` (RFC 826).
pub fn arp_request(network: &Network, ip: Ipv4Addr, at: Peer) -> Outgoing {
    let bytes = arp::request((network.gateway_mac, network.speaks_as()), ip, at.mac).to_vec();
    Outgoing { port: at.port, bytes, offload: Offload::NONE }
}

/// A packet of the gateway, for which there is room for an Ethernet header in front.
pub fn framed(network: &Network, peer: Peer, mut bytes: Vec<u8>, offload: Offload) -> Outgoing {
    ethernet::write(&mut bytes, peer.mac, network.gateway_mac, ethernet::IPV4);
    Outgoing { port: peer.port, bytes, offload }
}

/// The port and the destination of an IPv4 packet with TCP or UDP of our own making.
pub fn flow(packet: &[u8]) -> Option<(u16, Endpoint)> {
    let ip = Ipv4::parse(packet).ok()?;
    let ports = Transport::parse(ip.protocol, &packet[ip.header_len..ip.total_len]).ok()?.ports()?;
    Some((ports.src, Endpoint::new(ip.dst, ports.dst)))
}
