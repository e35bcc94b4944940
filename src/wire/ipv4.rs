//! IPv4 headers (RFC 791 3.1), checked as a router must (RFC 1812 5.2.2).

use std::net::Ipv4Addr;

use super::{Malformed, be16, ip_at};
use crate::wire::checksum;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    /// The sender.
    pub src: Ipv4Addr,
    /// The destination.
    pub dst: Ipv4Addr,
    /// The protocol behind the header.
    pub protocol: u8,
    /// Hops that the packet may still make.
    pub ttl: u8,
    /// Bytes of the header with its options; 20 to 60.
    pub header_len: usize,
    /// Bytes of the packet; never more than there are.
    pub total_len: usize,
    /// Whether it must not be fragmented.
    pub dont_fragment: bool,
    /// Whether it is a fragment: more follow, or some came before.
    pub is_fragment: bool,
    /// Its place in the datagram, in bytes.
    pub fragment_offset: usize,
    /// Whether it carries a source route option (RFC 791 3.1).
    pub source_route: bool,
}

impl Ipv4 {
    /// Reads and checks the header at the start of `packet`, which may be longer than the packet says.
    ///
    /// # Errors
    /// If the version, header length, total length or header checksum is wrong.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let header = Self::parse_quoted(packet)?;
        if header.total_len > packet.len() { Err(Malformed) } else { Ok(header) }
    }

    /// Reads and checks the header of a packet that is quoted in an ICMP error, where the rest may be cut off.
    ///
    /// # Errors
    /// If the version, header length or header checksum is wrong, or the total length is below the header's.
    pub fn parse_quoted(packet: &[u8]) -> Result<Self, Malformed> {
        let first = *packet.first().ok_or(Malformed)?;
        let header_len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_len < HEADER_LEN || packet.len() < header_len {
            return Err(Malformed);
        }
        let header = &packet[..header_len];
        let total_len = usize::from(be16(header, 2));
        if total_len < header_len || checksum::checksum(header) != 0 {
            return Err(Malformed);
        }
        let fragment = be16(header, 6);
        Ok(Ipv4 {
            src: ip_at(header, 12),
            dst: ip_at(header, 16),
            protocol: header[9],
            ttl: header[8],
            header_len,
            total_len,
            dont_fragment: fragment & DONT_FRAGMENT != 0,
            is_fragment: fragment & (MORE_FRAGMENTS | OFFSET_MASK) != 0,
            fragment_offset: usize::from(fragment & OFFSET_MASK) * 8,
            source_route: has_source_route(&header[HEADER_LEN..]),
        })
    }

    /// Bytes behind the header.
    pub fn payload_len(&self) -> usize {
        self.total_len - self.header_len
    }
}

/// Walks the options; an option with an impossible length ends the walk.
fn has_source_route(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        match (*kind, rest) {
            (0, _) => return false,
            (1, rest) => options = rest,
            (LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, _) => return true,
            (_, [len, ..]) if *len >= 2 && usize::from(*len) <= options.len() => {
                options = &options[usize::from(*len)..];
            }
            _ => return false,
        }
    }
    false
}

/// Writes a header without options and with a right checksum for `payload_len` bytes into the first 20
/// bytes of `packet`; a shorter packet stays as it is. Lengths above 65,535 are cut.
pub fn write(packet: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, payload_len: usize) {
    let Some(header) = packet.first_chunk_mut::<HEADER_LEN>() else { return };
    let total = u16::try_from(HEADER_LEN + payload_len).unwrap_or(u16::MAX);
    *header = [0; HEADER_LEN];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = ttl;
    header[9] = protocol;
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = checksum::checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 28];
        write(&mut packet, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), UDP, 64, 8);
        packet
    }

    #[test]
    fn a_written_header_parses() {
        let header = Ipv4::parse(&packet()).unwrap();
        assert_eq!((header.protocol, header.ttl, header.total_len, header.payload_len()), (UDP, 64, 28, 8));
        assert!(header.dont_fragment && !header.is_fragment && !header.source_route);
    }

    #[test]
    fn every_damaged_header_is_refused() {
        for (at, value) in [(0, 0x55), (0, 0x44), (0, 0x4f), (3, 19), (3, 29), (8, 63), (11, 0)] {
            let mut bytes = packet();
            bytes[at] = value;
            assert_eq!(Ipv4::parse(&bytes), Err(Malformed), "byte {at} = {value:#x}");
        }
        assert_eq!(Ipv4::parse(&packet()[..27]), Err(Malformed));
        assert!(Ipv4::parse_quoted(&packet()[..20]).is_ok());
    }

    #[test]
    fn source_routes_are_found_behind_other_options() {
        assert!(has_source_route(&[1, 7, 3, 4, 131, 3, 4, 0]));
        assert!(!has_source_route(&[1, 7, 3, 4, 0, 131, 3, 4]));
        assert!(!has_source_route(&[7, 0, 131]));
    }
}
