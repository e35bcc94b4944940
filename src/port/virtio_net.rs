//! The virtio-net header: how the kernel writes down what a frame promises.
//!
//! TAPs (`IFF_VNET_HDR`) and packet sockets (`PACKET_VNET_HDR`) put these ten bytes before each frame
//! (virtio 1.2, 5.1.6, without the `num_buffers` that only rings have), all numbers in the machine's own
//! byte order:
//!
//! | bytes | field | is |
//! |---|---|---|
//! | 0 | `flags` | `NEEDS_CSUM`, `DATA_VALID` |
//! | 1 | `gso_type` | what to cut, and the `ECN` bit |
//! | 2..4 | `hdr_len` | bytes of the headers; exact when we write, only a hint when we read |
//! | 4..6 | `gso_size` | payload bytes of every packet but the last |
//! | 6..8 | `csum_start` | where the sum begins |
//! | 8..10 | `csum_offset` | where it goes, from there |
//!
//! Ten bytes and not twelve, because the IP header then starts at a multiple of four.
//!
//! Both directions check the promises against the frame, because a header may have been written by a guest:
//! what [`decode`] returns and [`encode`] accepts points into the frame.

use crate::frame::{BadOffload, Checksum, Offload, Segment};

/// Bytes of the header.
pub const HEADER_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the transport checksum is still to be computed.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksums were verified.
const DATA_VALID: u8 = 2;

/// `VIRTIO_NET_HDR_GSO_NONE`.
const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`.
const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, a bit beside the type: the TCP packet has CWR set.
const GSO_ECN: u8 = 0x80;

/// Bytes from a TCP header to its checksum.
pub(crate) const TCP_CHECKSUM: u16 = 16;
/// Bytes from a UDP header to its checksum.
pub(crate) const UDP_CHECKSUM: u16 = 6;

/// What `header` says of `frame`.
///
/// # Errors
/// [`BadOffload`] if it contradicts the frame or itself, or names a segmentation that we never agreed to.
pub fn decode(header: &[u8; HEADER_LEN], frame: &[u8]) -> Result<Offload, BadOffload> {
    let [flags, gso_type, ..] = *header;
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);

    let checksum = if flags & NEEDS_CSUM != 0 {
        Checksum::Partial { start: field(6), offset: field(8) }
    } else if flags & DATA_VALID != 0 {
        Checksum::Valid
    } else {
        Checksum::Complete
    };
    let (size, ecn) = (field(4), gso_type & GSO_ECN != 0);
    let segment = match gso_type & !GSO_ECN {
        GSO_NONE if !ecn => Segment::None,
        GSO_TCPV4 => Segment::Tcp4 { size, ecn },
        GSO_TCPV6 => Segment::Tcp6 { size, ecn },
        GSO_UDP_L4 if !ecn => Segment::Udp { size },
        _ => return Err(BadOffload),
    };
    let offload = Offload { checksum, segment, header_len: 0 };
    Ok(Offload { header_len: header_len(&offload, frame)?, ..offload })
}

/// The header for a frame with these promises. `header_len` of the promises is not read: it is computed
/// from the frame, because the kernel believes it.
///
/// # Errors
/// [`BadOffload`] if the promises contradict the frame.
pub fn encode(offload: &Offload, frame: &[u8]) -> Result<[u8; HEADER_LEN], BadOffload> {
    let header_len = header_len(offload, frame)?;
    let (flags, start, offset) = match offload.checksum {
        Checksum::Complete => (0, 0, 0),
        Checksum::Valid => (DATA_VALID, 0, 0),
        Checksum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
    };
    let (gso_type, ecn, size) = match offload.segment {
        Segment::None | Segment::Fragments { .. } => (GSO_NONE, false, 0),
        Segment::Tcp4 { size, ecn } => (GSO_TCPV4, ecn, size),
        Segment::Tcp6 { size, ecn } => (GSO_TCPV6, ecn, size),
        Segment::Udp { size } => (GSO_UDP_L4, false, size),
    };

    let mut header = [0; HEADER_LEN];
    header[0] = flags;
    header[1] = if ecn { gso_type | GSO_ECN } else { gso_type };
    for (at, value) in [(2, header_len), (4, size), (6, start), (8, offset)] {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    Ok(header)
}

/// Checks the promises against the frame and returns the length of its headers if it is a super-frame, else
/// zero. A super-frame always has a partial checksum: nobody can have summed packets that do not exist yet.
pub(crate) fn header_len(offload: &Offload, frame: &[u8]) -> Result<u16, BadOffload> {
    if let Checksum::Partial { start, offset } = offload.checksum {
        let end = usize::from(start) + usize::from(offset) + 2;
        if end > frame.len() {
            return Err(BadOffload);
        }
    }
    if offload.segment.size() == Some(0) {
        return Err(BadOffload);
    }
    let header_len = match (offload.segment, offload.checksum) {
        (Segment::None, _) => return Ok(0),
        // Not in the terms of the standard: a device gets them cut.
        (Segment::Fragments { .. }, _) => return Err(BadOffload),
        (Segment::Tcp4 { .. } | Segment::Tcp6 { .. }, Checksum::Partial { start, offset: TCP_CHECKSUM }) => {
            // The upper half of byte 12 is the length of the TCP header in words of four bytes.
            let words = u16::from(frame[usize::from(start) + 12] >> 4);
            if words < 5 {
                return Err(BadOffload);
            }
            start.checked_add(words * 4).ok_or(BadOffload)?
        }
        (Segment::Udp { .. }, Checksum::Partial { start, offset: UDP_CHECKSUM }) => {
            start.checked_add(8).ok_or(BadOffload)?
        }
        (Segment::Tcp4 { .. } | Segment::Tcp6 { .. } | Segment::Udp { .. }, _) => return Err(BadOffload),
    };
    if usize::from(header_len) > frame.len() { Err(BadOffload) } else { Ok(header_len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ethernet, IPv4 and TCP headers of 14 + 20 + 32 bytes, and a payload.
    fn tcp_frame(payload: usize) -> Vec<u8> {
        let mut frame = vec![0; 66 + payload];
        frame[34 + 12] = 0x80;
        frame
    }

    const TCP: Checksum = Checksum::Partial { start: 34, offset: TCP_CHECKSUM };
    const UDP: Checksum = Checksum::Partial { start: 34, offset: UDP_CHECKSUM };

    #[test]
    fn every_kind_of_promise_reads_back_as_written() {
        let frame = tcp_frame(3000);
        let plain = |checksum| Offload { checksum, ..Offload::NONE };
        let cut = |checksum, segment, header_len| Offload { checksum, segment, header_len };
        for offload in [
            Offload::NONE,
            plain(Checksum::Valid),
            plain(UDP),
            cut(TCP, Segment::Tcp4 { size: 1448, ecn: false }, 66),
            cut(TCP, Segment::Tcp6 { size: 1, ecn: true }, 66),
            cut(UDP, Segment::Udp { size: 1400 }, 42),
        ] {
            let header = encode(&offload, &frame).unwrap();
            assert_eq!(decode(&header, &frame), Ok(offload));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_standard() {
        let offload =
            Offload { checksum: TCP, segment: Segment::Tcp4 { size: 1448, ecn: true }, header_len: 0 };
        let header = encode(&offload, &tcp_frame(3000)).unwrap();
        assert_eq!(header[..2], [1, 0x81]);
        let numbers: Vec<_> = header[2..].chunks(2).map(|n| u16::from_ne_bytes([n[0], n[1]])).collect();
        assert_eq!(numbers, [66, 1448, 34, 16]);
    }

    #[test]
    fn contradictions_are_refused_both_ways() {
        let frame = tcp_frame(100);
        let partial = |start, offset| Checksum::Partial { start, offset };
        let tcp = Segment::Tcp4 { size: 10, ecn: false };
        let udp = Segment::Udp { size: 10 };
        for (what, checksum, segment) in [
            ("sum beyond the end", partial(165, 0), Segment::None),
            ("sum far beyond the end", partial(u16::MAX, u16::MAX), Segment::None),
            ("no size", TCP, Segment::Tcp4 { size: 0, ecn: false }),
            ("no size", UDP, Segment::Udp { size: 0 }),
            ("segments without a sum", Checksum::Complete, tcp),
            ("segments with a verified sum", Checksum::Valid, udp),
            ("TCP segments with UDP's sum", UDP, tcp),
            ("UDP segments with TCP's sum", TCP, udp),
            ("no TCP header there", partial(40, TCP_CHECKSUM), tcp),
            ("headers beyond the end", partial(148, TCP_CHECKSUM), tcp),
        ] {
            let mut frame = frame.clone();
            frame[148 + 12] = 0x50;
            let offload = Offload { checksum, segment, header_len: 0 };
            assert_eq!(encode(&offload, &frame), Err(BadOffload), "{what}");
        }
        for (what, bytes) in [
            ("UFO, never agreed to", [1, 3, 0, 0, 10, 10, 34, 34, 0, 0]),
            ("unknown type", [0, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("ECN without TCP", [0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(decode(&bytes, &frame), Err(BadOffload), "{what}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_points_outside_its_frame(
            header: [u8; HEADER_LEN],
            frame in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            if let Ok(offload) = decode(&header, &frame) {
                assert!(usize::from(offload.header_len) <= frame.len());
                assert!(encode(&offload, &frame).is_ok());
                if let Checksum::Partial { start, offset } = offload.checksum {
                    assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len());
                }
            }
        }
    }
}
