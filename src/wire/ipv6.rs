//! IPv6 headers, as far as a switch looks into them: what kind of packet it is (RFC 8200 section 4).

use std::net::Ipv6Addr;

use super::{Malformed, be16};
use crate::limits::EXTENSION_HEADERS_MAX;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;

/// Next header value of TCP.
pub const TCP: u8 = 6;
/// Next header value of UDP.
pub const UDP: u8 = 17;
/// Next header value of ICMPv6.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Source and destination of a packet; `None` if no station would take it for one of IPv6.
pub fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header = packet.first_chunk::<HEADER_LEN>().filter(|header| header[0] >> 4 == 6)?;
    let address = |at: usize| Some(Ipv6Addr::from(*header[at..].first_chunk::<16>()?));
    Some((address(8)?, address(24)?))
}

/// Where the headers of a packet lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain<'a> {
    /// To this protocol, with its header and all behind it.
    Upper(u8, &'a [u8]),
    /// To the middle of a datagram, whose headers were in its first fragment.
    LaterFragment,
}

/// Follows the headers of an IPv6 packet to the upper-layer header, through every extension header that has been
/// defined (the IANA registry of RFC 7045). What comes behind an unknown one only a host can read that knows it.
///
/// # Errors
/// If there are more than [`EXTENSION_HEADERS_MAX`] of them or they are cut off, as in a first fragment that does
/// not have them all, which no host sends (RFC 7112).
pub fn chain(packet: &[u8]) -> Result<Chain<'_>, Malformed> {
    let mut next = *packet.get(6).ok_or(Malformed)?;
    let mut rest = packet.get(HEADER_LEN..).ok_or(Malformed)?;
    for _ in 0..=EXTENSION_HEADERS_MAX {
        let units = usize::from(rest.get(1).copied().unwrap_or(0));
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => (units + 1) * 8,
            AUTHENTICATION => (units + 2) * 4, // RFC 4302 2.2
            FRAGMENT => {
                // The offset is in all but the three lowest bits.
                if be16(rest, 2) & 0xfff8 != 0 {
                    return Ok(Chain::LaterFragment);
                }
                8
            }
            upper => return Ok(Chain::Upper(upper, rest)),
        };
        next = *rest.first().ok_or(Malformed)?;
        rest = rest.get(len..).ok_or(Malformed)?;
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, behind: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_LEN];
        (packet[0], packet[6]) = (0x60, first);
        packet.extend(behind.concat());
        packet
    }

    #[test]
    fn the_upper_layer_is_found_behind_every_extension_header() {
        let icmp = [134, 0, 0, 0];
        assert_eq!(chain(&packet(ICMPV6, &[&icmp])), Ok(Chain::Upper(ICMPV6, &icmp)));
        for kind in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, MOBILITY, HIP, SHIM6] {
            let long = [[ICMPV6, 1].as_slice(), &[0; 14]].concat();
            assert_eq!(chain(&packet(kind, &[&long, &icmp])), Ok(Chain::Upper(ICMPV6, &icmp)), "{kind}");
        }
        let authentication = [[UDP, 4].as_slice(), &[0; 22]].concat();
        assert_eq!(chain(&packet(AUTHENTICATION, &[&authentication, &icmp])), Ok(Chain::Upper(UDP, &icmp)));
        let first = [ICMPV6, 0, 0, 1, 0, 0, 0, 7];
        let nested = packet(HOP_BY_HOP, &[&[FRAGMENT, 0, 0, 0, 0, 0, 0, 0], &first, &icmp]);
        assert_eq!(chain(&nested), Ok(Chain::Upper(ICMPV6, &icmp)));
        let later =
            packet(DESTINATION_OPTIONS, &[&[FRAGMENT, 0, 0, 0, 0, 0, 0, 0], &[ICMPV6, 0, 0, 8], &icmp]);
        assert_eq!(chain(&later), Ok(Chain::LaterFragment));
    }

    #[test]
    fn a_packet_has_two_addresses() {
        let mut packet = packet(UDP, &[]);
        (packet[8], packet[23], packet[24], packet[39]) = (0xfe, 1, 0xff, 2);
        let expected = ["fe00::1", "ff00::2"].map(|ip| ip.parse().unwrap());
        assert_eq!(addresses(&packet), Some(expected.into()));
        assert_eq!(addresses(&packet[..39]), None);
        packet[0] = 0x40;
        assert_eq!(addresses(&packet), None);
    }

    #[test]
    fn a_chain_has_an_end() {
        let options = |next| [next, 0, 0, 0, 0, 0, 0, 0];
        for (headers, found) in [(EXTENSION_HEADERS_MAX, true), (EXTENSION_HEADERS_MAX + 1, false)] {
            let before = options(DESTINATION_OPTIONS).repeat(headers - 1);
            let chained = packet(DESTINATION_OPTIONS, &[&before, &options(ICMPV6), &[134]]);
            let expected = if found { Ok(Chain::Upper(ICMPV6, [134].as_slice())) } else { Err(Malformed) };
            assert_eq!(chain(&chained), expected, "{headers}");
        }
    }

    #[test]
    fn a_chain_that_is_cut_off_is_malformed() {
        assert_eq!(chain(&[0x60; 39]), Err(Malformed));
        assert_eq!(chain(&packet(DESTINATION_OPTIONS, &[])), Err(Malformed));
        assert_eq!(chain(&packet(DESTINATION_OPTIONS, &[&[ICMPV6, 2, 0, 0, 0, 0, 0, 0]])), Err(Malformed));
        let first = packet(FRAGMENT, &[&[DESTINATION_OPTIONS, 0, 0, 1, 0, 0, 0, 7], &[ICMPV6, 1]]);
        assert_eq!(chain(&first), Err(Malformed));
    }
}
