//! Ethernet II headers (IEEE 802.3, 3.1.1) and VLAN tags (IEEE 802.1Q, 9.6).

use super::{Malformed, be16, mac_at};
use crate::addr::MacAddr;

/// Bytes of an Ethernet header.
pub const HEADER_LEN: usize = 14;

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
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        if frame.len() < HEADER_LEN {
            return Err(Malformed);
        }
        let ethertype = be16(frame, 12);
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
        Ok(Ethernet { dst: mac_at(frame, 0), src: mac_at(frame, 6), ethertype, inner_ethertype: inner, len })
    }

    /// Whether the frame carries a VLAN tag.
    pub fn is_tagged(&self) -> bool {
        self.len > HEADER_LEN
    }
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
}
