//! Edits of a packet's headers that keep every checksum right.
//!
//! The rules for a checksum that nobody has computed yet, one that is in place, and UDP's "none" are those
//! of the module docs of [`crate::frame`] and [`crate::wire::checksum`].

use super::{be16, ip_at, put_ip, put16};
use crate::addr::Endpoint;
use crate::wire::checksum::Delta;
use crate::wire::ipv4;
use crate::wire::transport::Kind;

/// New endpoints for a packet. A field that stays is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Endpoints {
    /// The new source.
    pub src: Option<Endpoint>,
    /// The new destination.
    pub dst: Option<Endpoint>,
}

/// Where a transport keeps what translation changes.
struct Layout {
    /// The source's port or identifier, from the transport header on.
    src: Option<usize>,
    /// The destination's.
    dst: Option<usize>,
    /// The checksum.
    checksum: usize,
    /// Whether the checksum covers the addresses (by the pseudo-header).
    pseudo_header: bool,
}

const fn layout(kind: Kind) -> Layout {
    match kind {
        Kind::Tcp => Layout { src: Some(0), dst: Some(2), checksum: 16, pseudo_header: true },
        Kind::Udp => Layout { src: Some(0), dst: Some(2), checksum: 6, pseudo_header: true },
        Kind::EchoRequest => Layout { src: Some(4), dst: None, checksum: 2, pseudo_header: false },
        Kind::EchoReply => Layout { src: None, dst: Some(4), checksum: 2, pseudo_header: false },
    }
}

/// Gives the IP packet `packet` new endpoints. `header_len` is its IP header's length, `kind` what is
/// behind it, and `partial` says that its transport checksum is not finished yet. What lies beyond the end
/// of `packet`, as with one that an ICMP error quotes, is left out.
#[inline(always)]
pub fn translate(packet: &mut [u8], header_len: usize, kind: Kind, partial: bool, new: Endpoints) {
    let addresses = readdress(packet, new);
    let Some(transport) = packet.get_mut(header_len..) else { return };
    let layout = layout(kind);
    let mut ports = Delta::NONE;
    for (at, endpoint) in [(layout.src, new.src), (layout.dst, new.dst)] {
        if let (Some(at), Some(endpoint)) = (at, endpoint) {
            ports = ports.word(be16(transport, at), endpoint.port);
            put16(transport, at, endpoint.port);
        }
    }
    let covered = if layout.pseudo_header { addresses } else { Delta::NONE };
    let old = be16(transport, layout.checksum);
    let new = match (kind, partial, old) {
        // The ports are among the bytes that are still to be summed.
        (_, true, _) => covered.update_partial(old),
        // RFC 768: zero means that the sender made none; a computed zero goes out as all ones.
        (Kind::Udp, false, 0) => 0,
        (Kind::Udp, false, _) => match covered.and(ports).update(old) {
            0 => 0xffff,
            sum => sum,
        },
        (_, false, _) => covered.and(ports).update(old),
    };
    put16(transport, layout.checksum, new);
}

/// Gives the IP packet new addresses, and its header checksum their change, which is returned. What is
/// shorter than a header stays as it is.
#[inline(always)]
pub fn readdress(packet: &mut [u8], new: Endpoints) -> Delta {
    let mut addresses = Delta::NONE;
    let Some(header) = packet.first_chunk_mut::<{ ipv4::HEADER_LEN }>() else { return addresses };
    for (at, endpoint) in [(12, new.src), (16, new.dst)] {
        if let Some(endpoint) = endpoint {
            addresses = addresses.address(ip_at(header, at), endpoint.ip);
            put_ip(header, at, endpoint.ip);
        }
    }
    let sum = addresses.update(be16(header, 10));
    put16(header, 10, sum);
    addresses
}

/// Takes one off the TTL. The caller has seen that it is at least one.
#[inline(always)]
pub fn decrement_ttl(packet: &mut [u8]) {
    let ttl = packet.get(8).copied().unwrap_or(1);
    set_ttl(packet, ttl.wrapping_sub(1));
}

/// Gives the packet this identification. What is shorter than a header stays as it is.
pub fn set_id(packet: &mut [u8], id: u16) {
    let Some(header) = packet.first_chunk_mut::<{ ipv4::HEADER_LEN }>() else { return };
    let sum = Delta::NONE.word(be16(header, 4), id).update(be16(header, 10));
    put16(header, 4, id);
    put16(header, 10, sum);
}

/// Gives the packet this TTL. What is shorter than a header stays as it is.
#[inline(always)]
pub fn set_ttl(packet: &mut [u8], ttl: u8) {
    let Some(header) = packet.first_chunk_mut::<{ ipv4::HEADER_LEN }>() else { return };
    let old = be16(header, 8);
    let new = u16::from_be_bytes([ttl, header[9]]);
    put16(header, 8, new);
    let sum = Delta::NONE.word(old, new).update(be16(header, 10));
    put16(header, 10, sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::{checksum, fold, pseudo_header, sum};
    use crate::wire::ipv4::Ipv4;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    /// A UDP or TCP packet with right checksums, the transport one partial if asked.
    fn packet(protocol: u8, src: Endpoint, dst: Endpoint, payload: &[u8], partial: bool) -> Vec<u8> {
        let header = if protocol == ipv4::TCP { 20 } else { 8 };
        let mut bytes = vec![0; 20 + header + payload.len()];
        let len = header + payload.len();
        ipv4::write(&mut bytes, src.ip, dst.ip, protocol, 64, len);
        put16(&mut bytes, 20, src.port);
        put16(&mut bytes, 22, dst.port);
        if protocol == ipv4::TCP {
            bytes[32] = 5 << 4;
        } else {
            put16(&mut bytes, 24, u16::try_from(len).unwrap());
        }
        bytes[20 + header..].copy_from_slice(payload);
        let pseudo = pseudo_header(src.ip, dst.ip, protocol, len);
        let value = if partial { fold(pseudo) } else { !fold(pseudo + sum(&bytes[20..])) };
        let at = if protocol == ipv4::TCP { 36 } else { 26 };
        put16(&mut bytes, at, if value == 0 && !partial && protocol == ipv4::UDP { 0xffff } else { value });
        bytes
    }

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| Endpoint::new(Ipv4Addr::from_bits(ip), port))
    }

    proptest! {
        #[test]
        fn a_translated_packet_is_as_if_made_so(
            src in endpoint(), dst in endpoint(), new_src in endpoint(), new_dst in endpoint(),
            tcp: bool, partial: bool, payload in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let protocol = if tcp { ipv4::TCP } else { ipv4::UDP };
            let mut bytes = packet(protocol, src, dst, &payload, partial);
            let kind = if tcp { Kind::Tcp } else { Kind::Udp };
            let new = Endpoints { src: Some(new_src), dst: Some(new_dst) };
            translate(&mut bytes, 20, kind, partial, new);
            prop_assert_eq!(&bytes, &packet(protocol, new_src, new_dst, &payload, partial));
            translate(&mut bytes, 20, kind, partial, Endpoints { src: Some(src), dst: Some(dst) });
            prop_assert_eq!(bytes, packet(protocol, src, dst, &payload, partial));
        }

        #[test]
        fn an_echo_keeps_a_right_checksum(id: u16, new in endpoint(), payload in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut bytes = vec![0; 28 + payload.len()];
            ipv4::write(&mut bytes, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), ipv4::ICMP, 9, 8 + payload.len());
            bytes[20] = 8;
            put16(&mut bytes, 24, id);
            bytes[28..].copy_from_slice(&payload);
            let value = checksum(&bytes[20..]);
            put16(&mut bytes, 22, value);
            translate(&mut bytes, 20, Kind::EchoRequest, false, Endpoints { src: Some(new), dst: None });
            prop_assert_eq!(be16(&bytes, 24), new.port);
            prop_assert_eq!(checksum(&bytes[20..]), 0);
            prop_assert!(Ipv4::parse(&bytes).is_ok());
        }
    }

    #[test]
    fn row_55_a_sum_that_comes_out_as_zero_goes_as_all_ones() {
        let [a, b, c] = [1, 2, 3].map(|host| Endpoint::new(Ipv4Addr::new(10, 0, 0, host), 4000));
        let mut zeros = 0;
        for word in 0..=u16::MAX {
            let mut bytes = packet(ipv4::UDP, a, b, &word.to_be_bytes(), false);
            translate(&mut bytes, 20, Kind::Udp, false, Endpoints { src: Some(c), dst: None });
            assert_eq!(bytes, packet(ipv4::UDP, c, b, &word.to_be_bytes(), false));
            zeros += u32::from(be16(&bytes, 26) == 0xffff);
        }
        assert_eq!(zeros, 1, "one of all values comes out so");
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        let (a, b) =
            (Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), 1), Endpoint::new(Ipv4Addr::new(10, 0, 0, 2), 2));
        let mut bytes = packet(ipv4::UDP, a, b, b"x", false);
        put16(&mut bytes, 26, 0);
        translate(&mut bytes, 20, Kind::Udp, false, Endpoints { src: Some(b), dst: Some(a) });
        assert_eq!(be16(&bytes, 26), 0);
    }

    #[test]
    fn every_ttl_steps_right() {
        for ttl in 1..=255 {
            let mut bytes = vec![0; 20];
            ipv4::write(&mut bytes, Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::new(5, 6, 7, 8), 6, ttl, 0);
            decrement_ttl(&mut bytes);
            assert_eq!(Ipv4::parse(&bytes).unwrap().ttl, ttl - 1);
        }
    }
}
