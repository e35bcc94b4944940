//! Headers on the wire: checked once, then trusted.
//!
//! Each header is a small value that `parse` reads from bytes after every bound was checked; the fields
//! and offsets in it are proven, so that the code behind need not doubt them. Edits go through functions
//! that keep the checksums right ([`edit`]).
//!
//! What every packet passes through is always inlined: with a header's length known, most bounds checks and
//! loops fold away.

use std::net::Ipv4Addr;

use crate::addr::MacAddr;

pub mod arp;
pub mod checksum;
pub mod edit;
pub mod ethernet;
pub mod icmpv4;
pub mod ipv4;
pub mod ipv6;
pub mod transport;

/// Bytes that are not what they claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed header")]
pub struct Malformed;

/// Two bytes in network order at `at`, zero beyond the end.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[a, b]) => u16::from_be_bytes([a, b]),
        _ => 0,
    }
}

/// Four bytes in network order at `at`, zero beyond the end.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// Puts two bytes in network order at `at`; beyond the end nothing happens.
#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Puts four bytes in network order at `at`; beyond the end nothing happens.
pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[inline]
fn ip_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(be32(bytes, at))
}

#[inline]
fn put_ip(bytes: &mut [u8], at: usize, ip: Ipv4Addr) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&ip.octets());
    }
}

#[inline]
fn mac_at(bytes: &[u8], at: usize) -> MacAddr {
    let mut mac = [0; 6];
    if let Some(place) = bytes.get(at..at + 6) {
        mac.copy_from_slice(place);
    }
    MacAddr(mac)
}
