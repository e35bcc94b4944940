//! UDP datagrams in finished Ethernet frames: read with all checksums looked at, and made.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;

use crate::addr::{Endpoint, MacAddr};
use crate::frame::Checksum;
use crate::shared::Punt;
use crate::wire::be16;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::Ipv4;
use crate::wire::transport::{Transport, is_intact};

/// TTL of what services send (RFC 1700).
const TTL: u8 = 64;

/// Bytes of a UDP header.
const HEADER_LEN: usize = 8;

/// A UDP datagram, and the frame's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The frame's source.
    pub src_mac: MacAddr,
    /// The frame's destination.
    pub dst_mac: MacAddr,
    /// The source.
    pub src: Endpoint,
    /// The destination.
    pub dst: Endpoint,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads the datagram in a frame; `None` if there is no whole one, or its checksum is wrong.
    pub fn parse(frame: &'a [u8]) -> Option<Datagram<'a>> {
        Self::read(frame, Checksum::Complete)
    }

    /// Reads the datagram that was punted; `None` if there is no single whole one, or its checksum is wrong.
    pub fn of(punt: &'a Punt) -> Option<Datagram<'a>> {
        if punt.offload.is_super() {
            return None;
        }
        Self::read(&punt.bytes, punt.offload.checksum)
    }

    /// A checksum that is verified or not even computed is not looked at.
    fn read(frame: &'a [u8], checksum: Checksum) -> Option<Datagram<'a>> {
        let eth = Ethernet::parse(frame).ok().filter(|eth| eth.ethertype == ethernet::IPV4)?;
        let packet = &frame[ethernet::HEADER_LEN..];
        let ip = Ipv4::parse(packet).ok().filter(|ip| !ip.is_fragment)?;
        let datagram = &packet[ip.header_len..ip.total_len];
        let Ok(Transport::Udp { src, dst }) = Transport::parse(ip.protocol, datagram) else { return None };
        if checksum == Checksum::Complete && !is_intact(&ip, datagram) {
            return None;
        }
        Some(Datagram {
            src_mac: eth.src,
            dst_mac: eth.dst,
            src: Endpoint::new(ip.src, src),
            dst: Endpoint::new(ip.dst, dst),
            payload: datagram.get(HEADER_LEN..usize::from(be16(datagram, 4)))?,
        })
    }

    /// The datagram as a frame, finished; `None` if the payload is too long for one.
    pub fn frame(&self) -> Option<Vec<u8>> {
        let octets = |ip: Ipv4Addr| ip.octets();
        let builder = PacketBuilder::ethernet2(self.src_mac.0, self.dst_mac.0)
            .ipv4(octets(self.src.ip), octets(self.dst.ip), TTL)
            .udp(self.src.port, self.dst.port);
        let mut frame = Vec::with_capacity(builder.size(self.payload.len()));
        builder.write(&mut frame, self.payload).ok()?;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_survives_its_frame_and_a_torn_one_does_not() {
        let datagram = Datagram {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr::BROADCAST,
            src: Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), 67),
            dst: Endpoint::new(Ipv4Addr::BROADCAST, 68),
            payload: b"offer",
        };
        let frame = datagram.frame().unwrap();
        assert_eq!(Datagram::parse(&frame), Some(datagram));
        for len in 0..frame.len() {
            assert_eq!(Datagram::parse(&frame[..len]), None, "{len} bytes");
        }
        let mut wrong = frame.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(Datagram::parse(&wrong), None, "its checksum says so");
        assert!(Datagram::read(&wrong, Checksum::Valid).is_some(), "somebody has looked at it");
        wrong[40..42].fill(0);
        assert!(Datagram::parse(&wrong).is_some(), "without a checksum nothing says so");
    }
}
