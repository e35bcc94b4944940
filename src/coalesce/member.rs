//! What a frame may be part of, and whether it continues another one.
//!
//! The rules are in the documentation of [`super`]. Offsets of a [`Member`] have been checked against its frame;
//! what is compared of two frames is compared as bytes, because nearly all of the headers must be the same.

use crate::frame::{Checksum, Frame, Offload, Segment};
use crate::limits::{COALESCED_DATAGRAMS_MAX, FRAME_MAX, SEGMENTS_MAX};
use crate::offload::IPV6_HEADER_LEN;
use crate::port::virtio_net::{TCP_CHECKSUM, UDP_CHECKSUM};
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::transport::{ACK, ECE, FIN, PSH};
use crate::wire::{be16, be32, put16};

/// Largest IP packet: what its length field can say (RFC 791 3.1). IPv6 could be longer by its header, but no
/// kernel makes such a super-frame.
const PACKET_MAX: usize = 65_535;

/// Bytes of a UDP header (RFC 768).
const UDP_HEADER_LEN: usize = 8;

/// Smallest TCP header (RFC 9293 3.1).
const TCP_HEADER_LEN: usize = 20;

/// ICMPv6 (RFC 4443) and "no next header" (RFC 8200 4.7): no flow of ours can be behind them.
const ICMPV6: u8 = 58;
const NO_NEXT_HEADER: u8 = 59;

/// What a frame can be part of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Of a super-frame of its flow.
    Member(Member),
    /// Of nothing, but its flow's packets must not overtake it.
    Alone {
        /// The hash of its flow.
        slot: u8,
    },
    /// Of any flow: the frame does not show it.
    Hidden,
    /// Of no TCP and no UDP.
    Foreign,
}

/// A packet that can be put together with others of its flow, or several that have been.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// The hash of its flow.
    pub(super) slot: u8,
    pub(super) is_tcp: bool,
    is_ipv6: bool,
    /// Where the IP header, the transport header and the payload begin, from the frame's first byte on.
    ip: usize,
    transport: usize,
    payload: usize,
    /// Payload bytes.
    len: usize,
    /// Payload bytes of every packet but the last.
    size: usize,
    /// TCP's PSH and FIN, with which the last packet ends it.
    end: u8,
    /// Whether the checksum is known to be right.
    verified: bool,
}

impl Part {
    /// Reads the headers of `frame`.
    #[inline]
    pub(super) fn of(frame: &Frame) -> Part {
        let bytes = frame.bytes();
        let Ok(eth) = Ethernet::parse(bytes) else { return Part::Hidden };
        match eth.inner_ethertype {
            ethernet::IPV4 => Self::of_ipv4(frame, eth.len),
            ethernet::IPV6 => Self::of_ipv6(frame, eth.len),
            _ => Part::Foreign,
        }
    }

    #[inline]
    fn of_ipv4(frame: &Frame, at: usize) -> Part {
        let packet = &frame.bytes()[at..];
        let Ok(ip) = Ipv4::parse(packet) else { return Part::Hidden };
        if !matches!(ip.protocol, ipv4::TCP | ipv4::UDP) {
            return Part::Foreign;
        }
        if ip.is_fragment || ip.header_len != ipv4::HEADER_LEN {
            return Part::Hidden;
        }
        let slot = slot(&packet[12..ipv4::HEADER_LEN], be32(packet, ipv4::HEADER_LEN));
        let member = if ip.total_len == packet.len() {
            Member::parse(frame, at, at + ipv4::HEADER_LEN, ip.protocol, slot)
        } else {
            None
        };
        member.map_or(Part::Alone { slot }, Part::Member)
    }

    fn of_ipv6(frame: &Frame, at: usize) -> Part {
        let packet = &frame.bytes()[at..];
        let Some(header) = packet.first_chunk::<IPV6_HEADER_LEN>() else { return Part::Hidden };
        let next = match header[6] {
            next @ (ipv4::TCP | ipv4::UDP) if header[0] >> 4 == 6 => next,
            ICMPV6 | NO_NEXT_HEADER => return Part::Foreign,
            _ => return Part::Hidden,
        };
        let slot = slot(&header[8..], be32(packet, IPV6_HEADER_LEN));
        let member = if IPV6_HEADER_LEN + usize::from(be16(header, 4)) == packet.len() {
            Member::parse(frame, at, at + IPV6_HEADER_LEN, next, slot)
        } else {
            None
        };
        member.map_or(Part::Alone { slot }, Part::Member)
    }
}

/// The hash of a flow, by its addresses (a multiple of eight bytes) and ports.
#[inline]
fn slot(addresses: &[u8], ports: u32) -> u8 {
    // Fibonacci hashing (Knuth, TAOCP 6.4): the high bits of a product depend on all bits below.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let words = addresses.as_chunks().0.iter().map(|&word| u64::from_ne_bytes(word));
    let hash = words.fold(0, |hash: u64, word| (hash ^ word).wrapping_mul(GOLDEN));
    (hash ^ u64::from(ports)).wrapping_mul(GOLDEN).to_be_bytes()[0]
}

impl Member {
    /// Reads the transport header at `transport`; `None` if its packet is one to be left alone.
    #[inline]
    fn parse(frame: &Frame, ip: usize, transport: usize, protocol: u8, slot: u8) -> Option<Member> {
        let (is_tcp, is_ipv6) = (protocol == ipv4::TCP, transport - ip == IPV6_HEADER_LEN);
        let segment = &frame.bytes()[transport..];
        let (header_len, end) = if is_tcp { tcp_header(segment)? } else { (udp_header(segment, frame)?, 0) };
        let len = segment.len().checked_sub(header_len).filter(|&len| len > 0)?;
        let size = match frame.offload.segment {
            Segment::None => len,
            Segment::Tcp4 { size, ecn: false } if is_tcp && !is_ipv6 => usize::from(size).min(len),
            Segment::Tcp6 { size, ecn: false } if is_tcp && is_ipv6 => usize::from(size).min(len),
            Segment::Udp { size } if !is_tcp => usize::from(size).min(len),
            Segment::Tcp4 { .. } | Segment::Tcp6 { .. } | Segment::Udp { .. } | Segment::Fragments { .. } => {
                return None;
            }
        };
        let payload = transport + header_len;
        let member =
            Member { slot, is_tcp, is_ipv6, ip, transport, payload, len, size, end, verified: false };
        let promised = match frame.offload.checksum {
            Checksum::Partial { .. } => frame.offload.checksum == member.promise(),
            Checksum::Complete | Checksum::Valid => !frame.offload.is_super(),
        };
        (promised && size > 0).then_some(member)
    }

    /// Whether another packet may come behind it.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.end == 0 && self.len.is_multiple_of(self.size)
    }

    /// Puts the payload of `next`, in `frame`, behind that of this one, in `head`, if it goes on there. Says
    /// whether it did. The headers in `head` do not say so before [`Member::seal`].
    pub(super) fn join(&mut self, head: &mut Frame, next: &Member, frame: &Frame) -> bool {
        if !self.goes_on_with(head.bytes(), next, frame.bytes()) {
            return false;
        }
        // Before the first packet joins, `head` is still what was summed.
        self.verified = self.verified || self.is_right(head);
        if !self.verified || !next.is_right(frame) || !head.append(&frame.bytes()[next.payload..]) {
            return false;
        }
        self.len += next.len;
        self.end |= next.end;
        true
    }

    /// Makes `frame` the super-frame of all payload that it has got.
    #[allow(clippy::cast_possible_truncation)] // lengths of an IP packet, and of headers
    pub(super) fn seal(&self, frame: &mut Frame) {
        let header_len = self.payload as u16;
        let size = self.size as u16;
        let segment = match (self.is_tcp, self.is_ipv6) {
            (true, false) => Segment::Tcp4 { size, ecn: false },
            (true, true) => Segment::Tcp6 { size, ecn: false },
            (false, _) => Segment::Udp { size },
        };
        frame.offload = Offload { checksum: self.promise(), segment, header_len };
        let bytes = frame.bytes_mut();
        let transport_len = bytes.len() - self.transport;
        if self.is_ipv6 {
            put16(bytes, self.ip + 4, transport_len as u16);
        } else {
            let (old, new) = (be16(bytes, self.ip + 2), (bytes.len() - self.ip) as u16);
            let sum = Delta::NONE.word(old, new).update(be16(bytes, self.ip + 10));
            put16(bytes, self.ip + 2, new);
            put16(bytes, self.ip + 10, sum);
        }
        if self.is_tcp {
            bytes[self.transport + 13] |= self.end;
        } else {
            put16(bytes, self.transport + 4, transport_len as u16);
        }
        let sum = checksum::fold(self.pseudo_header(bytes));
        put16(bytes, self.transport + usize::from(self.checksum_offset()), sum);
    }

    /// Whether `next` is the next packet by all but the checksums. `head` and `bytes` are their frames.
    fn goes_on_with(&self, head: &[u8], next: &Member, bytes: &[u8]) -> bool {
        let same_layout = (self.ip, self.transport, self.payload) == (next.ip, next.transport, next.payload)
            && (self.is_tcp, self.is_ipv6) == (next.is_tcp, next.is_ipv6);
        // As long as all others; or one packet that is shorter, which then is the last.
        let same_size = next.size == self.size || (next.len == next.size && next.len < self.size);
        let len = self.len + next.len;
        let packets_max = if self.is_tcp { SEGMENTS_MAX } else { COALESCED_DATAGRAMS_MAX };
        same_layout
            && same_size
            && len.div_ceil(self.size) <= packets_max
            && self.payload + len <= FRAME_MAX.min(self.ip + PACKET_MAX)
            && self.same_network(head, bytes)
            && self.same_transport(head, bytes)
    }

    /// Whether the headers up to IP are of one flow and of packets in order.
    fn same_network(&self, head: &[u8], next: &[u8]) -> bool {
        let ip = self.ip;
        let same = |from: usize, to: usize| head[from..to] == next[from..to];
        if self.is_ipv6 {
            // All but the payload length.
            return same(0, ip + 4) && same(ip + 6, self.transport);
        }
        // All but the total length, the identification and the checksum.
        same(0, ip + 2)
            && same(ip + 6, ip + 10)
            && same(ip + 12, self.transport)
            && (head[ip + 6] & DONT_FRAGMENT != 0 || self.next_id(head) == be16(next, ip + 4))
    }

    /// The identification that the packet after these has when they are cut.
    #[allow(clippy::cast_possible_truncation)] // it wraps in its field
    fn next_id(&self, head: &[u8]) -> u16 {
        be16(head, self.ip + 4).wrapping_add((self.len / self.size) as u16)
    }

    /// Whether the transport headers are of one flow, and the sequence number is the next.
    #[allow(clippy::cast_possible_truncation)] // sequence numbers wrap
    fn same_transport(&self, head: &[u8], next: &[u8]) -> bool {
        let at = self.transport;
        let same = |from: usize, to: usize| head[at + from..at + to] == next[at + from..at + to];
        if !self.is_tcp {
            return same(0, 4);
        }
        // All but the sequence number, PSH, FIN and the checksum.
        same(0, 4)
            && same(8, 13)
            && (head[at + 13] ^ next[at + 13]) & !(PSH | FIN) == 0
            && same(14, 16)
            && same(18, self.payload - at)
            && be32(head, at + 4).wrapping_add(self.len as u32) == be32(next, at + 4)
    }

    /// Whether the transport checksum of this one packet or super-frame is right, or as it is promised to be.
    fn is_right(&self, frame: &Frame) -> bool {
        let bytes = frame.bytes();
        match frame.offload.checksum {
            Checksum::Valid => true,
            Checksum::Complete => {
                let sum = self.pseudo_header(bytes) + checksum::sum(&bytes[self.transport..]);
                checksum::fold(sum) == 0xffff
            }
            Checksum::Partial { .. } => {
                let field = be16(bytes, self.transport + usize::from(self.checksum_offset()));
                checksum::fold(self.pseudo_header(bytes)) == field
            }
        }
    }

    /// The sum of the pseudo-header of the packet in `bytes` (RFC 9293 3.1, RFC 768, RFC 8200 8.1).
    fn pseudo_header(&self, bytes: &[u8]) -> u64 {
        let addresses = if self.is_ipv6 { self.ip + 8 } else { self.ip + 12 };
        let protocol = if self.is_tcp { ipv4::TCP } else { ipv4::UDP };
        checksum::sum(&bytes[addresses..self.transport])
            + u64::from(protocol)
            + (bytes.len() - self.transport) as u64
    }

    /// What a frame with these headers promises when its checksum is partial.
    #[allow(clippy::cast_possible_truncation)] // the length of headers
    fn promise(&self) -> Checksum {
        Checksum::Partial { start: self.transport as u16, offset: self.checksum_offset() }
    }

    fn checksum_offset(&self) -> u16 {
        if self.is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }
}

/// DF, in the upper byte of an IPv4 header's flags.
const DONT_FRAGMENT: u8 = 0x40;

/// The length of the TCP header, and whether the segment has PSH or FIN.
fn tcp_header(segment: &[u8]) -> Option<(usize, u8)> {
    let header = segment.first_chunk::<TCP_HEADER_LEN>()?;
    let (header_len, flags) = (usize::from(header[12] >> 4) * 4, header[13]);
    let plain = flags & !(ACK | PSH | FIN | ECE) == 0 && flags & ACK != 0;
    (plain && header_len >= TCP_HEADER_LEN).then_some((header_len, flags & (PSH | FIN)))
}

/// The length of the UDP header of a datagram that has a checksum and is as long as it says.
fn udp_header(datagram: &[u8], frame: &Frame) -> Option<usize> {
    let header = datagram.first_chunk::<UDP_HEADER_LEN>()?;
    let has_checksum = be16(header, 6) != 0 || matches!(frame.offload.checksum, Checksum::Partial { .. });
    (has_checksum && usize::from(be16(header, 4)) == datagram.len()).then_some(UDP_HEADER_LEN)
}
