//! Ethernet II headers (IEEE 802.3, 3.1.1) and VLAN tags (IEEE 802.1Q, 9.6).

use super::{Malformed, be16, mac_at};
use crate::addr::{MacAddr, Vid};
use crate::limits::PRIORITY_TAGS_MAX;

/// Bytes of an Ethernet header.
pub const HEADER_LEN: usize = 14;

/// Largest length that stands in the EtherType's place (IEEE 802.3, 3.2.6).
const LENGTH_MAX: u16 = 1500;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// Bytes of a VLAN tag: its EtherType and its control information.
pub const TAG_LEN: usize = 4;

/// The VID in a tag's control information; priority and drop eligibility are beside it (IEEE 802.1Q 9.6).
const VID_MASK: u16 = 0x0fff;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// The destination.
    pub dst: MacAddr,
    /// The source.
    pub src: MacAddr,
    /// The EtherType behind the addresses: that of the outermost VLAN tag, if there is one.
    pub ethertype: u16,
    /// The EtherType behind all VLAN tags (at most two are looked through).
    pub inner_ethertype: u16,
    /// Bytes of the header with its VLAN tags.
    pub len: usize,
}

impl Ethernet {
    /// Reads the header of `frame`.
    ///
    /// # Errors
    /// If the frame is shorter than its header and tags.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let header = frame.first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
        let ethertype = be16(header, 12);
        let (mut inner, mut len) = (ethertype, HEADER_LEN);
        for _ in 0..2 {
            if inner != VLAN && inner != SERVICE_VLAN {
                break;
            }
            if frame.len() < len + 4 {
                return Err(Malformed);
            }
            inner = be16(frame, len + 2);
            len += 4;
        }
        let (dst, src) = (mac_at(header, 0), mac_at(header, 6));
        Ok(Ethernet { dst, src, ethertype, inner_ethertype: inner, len })
    }

    /// Whether the frame carries a VLAN tag.
    pub fn is_tagged(&self) -> bool {
        self.len > HEADER_LEN
    }
}

/// EtherType and contents of what a station without VLANs takes a frame for: it looks through priority tags, which
/// are tags with VID 0 (IEEE 802.1Q 6.9), and some look through a SNAP header as well. A frame of a VLAN shows its
/// tag.
///
/// # Errors
/// If there are more than [`PRIORITY_TAGS_MAX`] such headers, or they are cut off.
pub fn carried(frame: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (mut ethertype, mut rest) = (be16(frame, 12), frame.get(HEADER_LEN..).ok_or(Malformed)?);
    for _ in 0..=PRIORITY_TAGS_MAX {
        let skipped = match ethertype {
            VLAN | SERVICE_VLAN if be16(rest, 0) & VID_MASK == 0 => TAG_LEN,
            0..=LENGTH_MAX if is_snap(rest) => 8,
            _ => return Ok((ethertype, rest)),
        };
        let header = rest;
        rest = header.get(skipped..).ok_or(Malformed)?;
        ethertype = be16(header, skipped - 2);
    }
    Err(Malformed)
}

/// The VID of the customer VLAN tag that a frame begins with; 0 of a priority tag. `None` for a frame with another tag
/// or none, or one that ends within it.
pub fn outer_vid(frame: &[u8]) -> Option<u16> {
    let is_tagged = be16(frame, 12) == VLAN && frame.len() >= HEADER_LEN + TAG_LEN;
    is_tagged.then(|| be16(frame, HEADER_LEN) & VID_MASK)
}

/// Whether a station with an interface for each customer VLAN may take a frame for one of a VLAN, as it came: it has
/// such a tag, or one is behind what stations look through ([`carried`]).
pub fn names_vlan(frame: &[u8]) -> bool {
    matches!(be16(frame, 12), VLAN | SERVICE_VLAN)
        && carried(frame).map_or(true, |(ethertype, _)| ethertype == VLAN)
}

/// A customer VLAN tag, with the lowest priority.
pub fn vlan_tag(vid: Vid) -> [u8; TAG_LEN] {
    let ([a, b], [c, d]) = (VLAN.to_be_bytes(), u16::from(vid).to_be_bytes());
    [a, b, c, d]
}

/// Whether an LLC header says that an EtherType follows (RFC 1042, IEEE 802.1H).
fn is_snap(llc: &[u8]) -> bool {
    matches!(llc, [0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00 | 0xf8, ..])
}

/// Writes a header without tags into the first 14 bytes of `frame`; a shorter frame stays as it is.
pub fn write(frame: &mut [u8], dst: MacAddr, src: MacAddr, ethertype: u16) {
    if let Some(header) = frame.first_chunk_mut::<HEADER_LEN>() {
        header[..6].copy_from_slice(&dst.0);
        header[6..12].copy_from_slice(&src.0);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_looked_through() {
        let mut frame = vec![0; 60];
        write(&mut frame, MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 1]), SERVICE_VLAN);
        frame[16..18].copy_from_slice(&VLAN.to_be_bytes());
        frame[20..22].copy_from_slice(&IPV4.to_be_bytes());
        let header = Ethernet::parse(&frame).unwrap();
        assert_eq!((header.ethertype, header.inner_ethertype, header.len), (SERVICE_VLAN, IPV4, 22));
        assert!(header.is_tagged());
        assert_eq!(Ethernet::parse(&frame[..20]), Err(Malformed));
        assert_eq!(Ethernet::parse(&frame[..13]), Err(Malformed));
    }

    #[test]
    fn what_a_station_takes_in_is_found_behind_priority_tags_and_snap() {
        let frame = |headers: &[&[u8]]| [&[0; 12], headers.concat().as_slice()].concat();
        let (priority, service) = ([0x81, 0, 0xe0, 0], [0x88, 0xa8, 0, 0]);
        let snap = [0, 9, 0xaa, 0xaa, 3, 0, 0, 0];
        let arp = [8, 6, 7];
        for headers in [
            vec![arp.as_slice()],
            vec![&priority, &arp],
            vec![&service, &priority, &arp],
            vec![&snap, &arp],
            vec![&priority, &snap, &priority, &arp],
        ] {
            assert_eq!(carried(&frame(&headers)), Ok((ARP, [7].as_slice())), "{headers:02x?}");
        }
        let vlan = frame(&[&priority, &[0x81, 0, 0, 5], &arp]);
        assert_eq!(carried(&vlan).map(|(ethertype, _)| ethertype), Ok(VLAN), "it is not for everybody");
        let mut tags = vec![priority.as_slice(); PRIORITY_TAGS_MAX];
        assert!(carried(&frame(&[tags.concat().as_slice(), &arp])).is_ok());
        tags.push(&priority);
        assert_eq!(carried(&frame(&[tags.concat().as_slice(), &arp])), Err(Malformed));
        assert_eq!(carried(&frame(&[&priority[..3]])), Err(Malformed));
    }
}
