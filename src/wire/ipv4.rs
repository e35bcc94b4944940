//! IPv4 headers (RFC 791 3.1), checked as a router must (RFC 1812 5.2.2).

use std::net::Ipv4Addr;

use super::{Malformed, be16, ip_at, put16};
use crate::wire::checksum;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// Bytes of a header with as many options as there can be.
pub const HEADER_MAX: usize = 60;

/// Most bytes of a packet.
pub const TOTAL_MAX: usize = 65_535;

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
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// The bit of an option's type that has it in every fragment.
const COPIED: u8 = 0x80;

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
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// The identification that the fragments of a datagram share.
    pub id: u16,
    /// Bytes of the header with its options; 20 to 60.
    pub header_len: usize,
    /// Bytes of the packet; never more than there are.
    pub total_len: usize,
    /// Whether it must not be fragmented.
    pub dont_fragment: bool,
    /// Whether it is a fragment, and not the datagram's last one.
    pub more_fragments: bool,
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
    #[inline(always)]
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let header = Self::parse_quoted(packet)?;
        if header.total_len > packet.len() { Err(Malformed) } else { Ok(header) }
    }

    /// Reads and checks the header of a packet that is quoted in an ICMP error, where the rest may be cut off.
    ///
    /// # Errors
    /// If the version, header length or header checksum is wrong, or the total length is below the header's.
    #[inline(always)]
    pub fn parse_quoted(packet: &[u8]) -> Result<Self, Malformed> {
        let header = packet.first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || header_len < HEADER_LEN {
            return Err(Malformed);
        }
        let options = packet.get(HEADER_LEN..header_len).ok_or(Malformed)?;
        let total_len = usize::from(be16(header, 2));
        let sum = checksum::sum(header) + if options.is_empty() { 0 } else { checksum::sum(options) };
        if total_len < header_len || checksum::fold(sum) != 0xffff {
            return Err(Malformed);
        }
        let fragment = be16(header, 6);
        Ok(Ipv4 {
            src: ip_at(header, 12),
            dst: ip_at(header, 16),
            protocol: header[9],
            ttl: header[8],
            tos: header[1],
            id: be16(header, 4),
            header_len,
            total_len,
            dont_fragment: fragment & DONT_FRAGMENT != 0,
            more_fragments: fragment & MORE_FRAGMENTS != 0,
            is_fragment: fragment & (MORE_FRAGMENTS | OFFSET_MASK) != 0,
            fragment_offset: usize::from(fragment & OFFSET_MASK) * 8,
            source_route: has_source_route(options),
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
            (END_OF_OPTIONS, _) => return false,
            (NO_OPERATION, rest) => options = rest,
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

/// Makes the header at the start of `packet` that of a whole packet as long as `packet`: no fragment, with or
/// without leave to be fragmented, and marked as having experienced congestion if it has.
pub fn make_whole(packet: &mut [u8], header_len: usize, dont_fragment: bool, congested: bool) {
    put16(packet, 6, if dont_fragment { DONT_FRAGMENT } else { 0 });
    if let Some(tos) = packet.get_mut(1).filter(|_| congested) {
        *tos |= 0b11;
    }
    put_length(packet, header_len);
}

/// Makes the header at the start of `packet` that of the fragment at `offset`, in bytes, of a datagram.
/// Whether it may be fragmented further stays as it is.
pub fn make_fragment(packet: &mut [u8], header_len: usize, offset: usize, more: bool) {
    let more = if more { MORE_FRAGMENTS } else { 0 };
    #[allow(clippy::cast_possible_truncation)] // a packet has less than 2^16 bytes
    let offset = (offset / 8) as u16 & OFFSET_MASK;
    put16(packet, 6, be16(packet, 6) & DONT_FRAGMENT | more | offset);
    put_length(packet, header_len);
}

/// Gives the header the length of `packet`, and its checksum.
fn put_length(packet: &mut [u8], header_len: usize) {
    put16(packet, 2, u16::try_from(packet.len()).unwrap_or(u16::MAX));
    put16(packet, 10, 0);
    let sum = checksum::checksum(&packet[..header_len.min(packet.len())]);
    put16(packet, 10, sum);
}

/// Writes the header of a datagram's later fragments, whose first one has `header`, and returns its length:
/// of the options only those that are to be copied (RFC 791 3.1).
pub fn later_header(header: &[u8], later: &mut [u8; HEADER_MAX]) -> usize {
    let (fixed, mut options) = header.split_at(HEADER_LEN.min(header.len()));
    later[..fixed.len()].copy_from_slice(fixed);
    let mut len = HEADER_LEN;
    while let [kind, rest @ ..] = options {
        let size = match (*kind, rest) {
            (END_OF_OPTIONS, _) => break,
            (NO_OPERATION, _) => 1,
            (_, [size, ..]) if *size >= 2 => usize::from(*size),
            _ => break,
        };
        let Some((option, others)) = options.split_at_checked(size) else { break };
        if kind & COPIED != 0 {
            later[len..len + size].copy_from_slice(option);
            len += size;
        }
        options = others;
    }
    let end = len.next_multiple_of(4);
    later[len..end].fill(END_OF_OPTIONS);
    later[0] = 0x40 | u8::try_from(end / 4).unwrap_or(0x0f);
    end
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
