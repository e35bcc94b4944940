//! Redeeming promises at the edge: what a device cannot pass on is done here, just before it is sent.
//!
//! A frame may promise two things ([`crate::frame::Offload`]): that its transport checksum is still to be
//! computed, and that it stands for several packets. [`send`] asks the device what it passes on
//! ([`Device::promises`]) and does the rest: [`finish`] computes the checksum, [`Segments`] cuts a
//! super-frame into packets.
//!
//! The cut is the one that the kernel's own segmentation offload makes (Linux `net/ipv4/tcp_offload.c`,
//! `udp_offload.c`, `af_inet.c` and their IPv6 fellows), so that a receiver cannot tell where it was made.
//! Every packet repeats the headers, and in them
//!
//! | field | in packet number `i` |
//! |---|---|
//! | IPv4 total length, IPv6 payload length, UDP length | its own |
//! | IPv4 identification | the super-frame's plus `i`, modulo 2^16 |
//! | TCP sequence number | the super-frame's plus `i` times the size |
//! | TCP FIN, PSH | only on the last |
//! | TCP CWR | only on the first (RFC 3168 6.1.2) |
//! | checksums | its own |
//!
//! Promises may come from a guest, so they are checked against the frame before they are believed; a
//! contradiction is [`BadOffload`]. The length that the IP header of a super-frame states is not one of the
//! checks: like the kernel we take the frame's.
//!
//! A third promise is the switch's own, and no device passes it on: a datagram that is to leave in fragments
//! is cut by [`fragments`].

use crate::frame::{BadOffload, Checksum, Frame, Offload, Segment};
use crate::limits::SEGMENTS_MAX;
use crate::port::virtio_net::{self, TCP_CHECKSUM, UDP_CHECKSUM};
use crate::port::{Device, NotSent};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::transport::{FIN, PSH};
use crate::wire::{be16, be32, checksum, ipv4, put16};

pub mod fragments;

use fragments::Fragments;

/// Sends `frame` by `device`, after redeeming what the device does not pass on, and returns how many packets
/// it became. `scratch` is a frame to work in, whose contents are lost. `frame` remains as it is, or with
/// its checksum in place.
///
/// # Errors
/// [`NotSent`]. Of a super-frame that was cut, the packets before the failure have been sent; the rest has
/// not even been tried, because a device that did not take one would not take the next either.
pub fn send(device: &dyn Device, frame: &mut Frame, scratch: &mut Frame) -> Result<usize, NotSent> {
    let promises = device.promises();
    if promises.carry_segments(&frame.offload) {
        if !promises.checksum {
            finish(frame)?;
        }
        device.transmit(frame)?;
        return Ok(1);
    }
    let mut sent = 0;
    if let Segment::Fragments { size } = frame.offload.segment {
        finish(frame)?;
        let mut fragments = Fragments::of(frame, usize::from(size))?;
        while fragments.next_into(scratch) {
            device.transmit(scratch)?;
            sent += 1;
        }
        return Ok(sent);
    }
    let mut segments = Segments::of(frame)?;
    while segments.next_into(scratch) {
        if !promises.checksum {
            finish(scratch)?;
        }
        device.transmit(scratch)?;
        sent += 1;
    }
    Ok(sent)
}

/// Computes the checksum of a frame that has it partial. Others stay as they are.
///
/// # Errors
/// [`BadOffload`] if the checksum lies outside the frame, or the frame is a super-frame, whose packets each
/// have a checksum of their own.
pub fn finish(frame: &mut Frame) -> Result<(), BadOffload> {
    let Checksum::Partial { start, offset } = frame.offload.checksum else {
        return Ok(());
    };
    if frame.offload.segment.size().is_some() {
        return Err(BadOffload);
    }
    let covered = frame.bytes_mut().get_mut(usize::from(start)..).ok_or(BadOffload)?;
    // The field holds the sum of the pseudo-header, so summing it along adds that.
    let sum = checksum::checksum(covered);
    let field = covered.get_mut(usize::from(offset)..usize::from(offset) + 2).ok_or(BadOffload)?;
    // Zero would say "no checksum" in UDP (RFC 768); the other zero of ones' complement means the same.
    put16(field, 0, if sum == 0 { 0xffff } else { sum });
    frame.offload.checksum = Checksum::Complete;
    Ok(())
}

/// The packets that a super-frame stands for.
#[derive(Debug)]
pub struct Segments<'a> {
    layout: Layout,
    headers: &'a [u8],
    /// Payload that has not been cut off yet.
    rest: &'a [u8],
    /// Payload bytes of every packet but the last.
    size: usize,
    /// Packets that have been cut off.
    index: usize,
}

impl<'a> Segments<'a> {
    /// Gets ready to cut `frame`.
    ///
    /// # Errors
    /// [`BadOffload`] if it is not a super-frame, its headers are not those that its promises speak of, or
    /// it would become more than [`SEGMENTS_MAX`] packets.
    pub fn of(frame: &'a Frame) -> Result<Self, BadOffload> {
        let size = usize::from(frame.offload.segment.size().ok_or(BadOffload)?);
        let header_len = usize::from(virtio_net::header_len(&frame.offload, frame.bytes())?);
        let layout = Layout::of(&frame.offload, frame.bytes())?;
        let (headers, rest) = frame.bytes().split_at_checked(header_len).ok_or(BadOffload)?;
        if rest.len().div_ceil(size) > SEGMENTS_MAX {
            return Err(BadOffload);
        }
        Ok(Segments { layout, headers, rest, size, index: 0 })
    }

    /// Puts the next packet into `packet`, its checksum partial. Says whether there was one; a super-frame
    /// without payload is one packet.
    pub fn next_into(&mut self, packet: &mut Frame) -> bool {
        if self.index > 0 && self.rest.is_empty() {
            return false;
        }
        let payload;
        (payload, self.rest) = self.rest.split_at(self.size.min(self.rest.len()));
        let len = self.headers.len() + payload.len();
        let (headers, room) = packet.space(0).split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        room[..payload.len()].copy_from_slice(payload);
        packet.set_len(len);
        packet.offload.checksum = self.layout.checksum;
        self.number(packet.bytes_mut());
        self.index += 1;
        true
    }

    /// Makes the headers of the super-frame those of packet number `index`.
    #[allow(clippy::cast_possible_truncation)] // lengths of a frame; counters wrap in their fields
    fn number(&self, packet: &mut [u8]) {
        let Layout { ip, transport, is_ipv6, is_tcp, .. } = self.layout;
        let (ip_len, transport_len) = (packet.len() - ip, packet.len() - transport);

        let addresses = if is_ipv6 {
            put16(packet, ip + 4, (ip_len - IPV6_HEADER_LEN) as u16);
            ip + 8..ip + 40
        } else {
            let id = be16(packet, ip + 4).wrapping_add(self.index as u16);
            put16(packet, ip + 2, ip_len as u16);
            put16(packet, ip + 4, id);
            put16(packet, ip + 10, 0);
            let header_sum = checksum::checksum(&packet[ip..transport]);
            put16(packet, ip + 10, header_sum);
            ip + 12..ip + 20
        };

        let (protocol, checksum_at) = if is_tcp {
            let sequence = be32(packet, transport + 4).wrapping_add((self.index * self.size) as u32);
            packet[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut packet[transport + 13];
            if self.index > 0 {
                *flags &= !CWR;
            }
            if !self.rest.is_empty() {
                *flags &= !(FIN | PSH);
            }
            (ipv4::TCP, transport + usize::from(TCP_CHECKSUM))
        } else {
            put16(packet, transport + 4, transport_len as u16);
            (ipv4::UDP, transport + usize::from(UDP_CHECKSUM))
        };
        let pseudo_header = checksum::sum(&packet[addresses]) + u64::from(protocol) + transport_len as u64;
        put16(packet, checksum_at, checksum::fold(pseudo_header));
    }
}

/// Where a super-frame's headers are, as its own bytes say.
#[derive(Debug, Clone, Copy)]
struct Layout {
    ip: usize,
    transport: usize,
    is_ipv6: bool,
    is_tcp: bool,
    checksum: Checksum,
}

impl Layout {
    /// Walks the headers of `frame` and compares what it finds with `offload`.
    fn of(offload: &Offload, frame: &[u8]) -> Result<Self, BadOffload> {
        let Checksum::Partial { start, .. } = offload.checksum else { return Err(BadOffload) };
        let ethernet = Ethernet::parse(frame).map_err(|_| BadOffload)?;
        let ip = ethernet.len;
        let (is_ipv6, (protocol, transport)) = match ethernet.inner_ethertype {
            ethernet::IPV4 => (false, behind_ipv4(frame, ip)?),
            ethernet::IPV6 => (true, behind_ipv6(frame, ip)?),
            _ => return Err(BadOffload),
        };
        let expected = match offload.segment {
            Segment::Tcp4 { .. } => !is_ipv6 && protocol == ipv4::TCP,
            Segment::Tcp6 { .. } => is_ipv6 && protocol == ipv4::TCP,
            Segment::Udp { .. } => protocol == ipv4::UDP,
            Segment::None | Segment::Fragments { .. } => false,
        };
        if !expected || transport != usize::from(start) {
            return Err(BadOffload);
        }
        Ok(Layout { ip, transport, is_ipv6, is_tcp: protocol == ipv4::TCP, checksum: offload.checksum })
    }
}

/// The protocol behind the IPv4 header at `ip`, and where it begins. A fragment is no super-frame.
fn behind_ipv4(frame: &[u8], ip: usize) -> Result<(u8, usize), BadOffload> {
    let header = frame.get(ip..ip + ipv4::HEADER_LEN).ok_or(BadOffload)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let is_fragment = be16(header, 6) & 0x3fff != 0;
    if header[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN || is_fragment {
        return Err(BadOffload);
    }
    Ok((header[9], ip + header_len))
}

/// The protocol behind the IPv6 header at `ip` and the extension headers of packets that are not fragments
/// (RFC 8200 4.1), and where it begins.
fn behind_ipv6(frame: &[u8], ip: usize) -> Result<(u8, usize), BadOffload> {
    let header = frame.get(ip..ip + IPV6_HEADER_LEN).ok_or(BadOffload)?;
    if header[0] >> 4 != 6 {
        return Err(BadOffload);
    }
    let (mut next, mut at) = (header[6], ip + IPV6_HEADER_LEN);
    // Each turn goes on by at least eight bytes, so the frame's end is the bound.
    while let HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS = next {
        let &[following, units] = frame.get(at..at + 2).ok_or(BadOffload)? else { return Err(BadOffload) };
        next = following;
        at += (usize::from(units) + 1) * 8;
    }
    Ok((next, at))
}

/// Bytes of an IPv6 header (RFC 8200 section 3).
pub(crate) const IPV6_HEADER_LEN: usize = 40;
/// Extension headers (RFC 8200 sections 4.3, 4.4, 4.6).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// TCP flag CWR (RFC 3168 6.1).
const CWR: u8 = 0x80;

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // test patterns, and fields that wrap
mod tests {
    use super::*;
    use crate::port::Promises;
    use crate::port::memory::{Condition, MemoryPort};
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanId};
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    struct Shape {
        ipv6: bool,
        tcp: bool,
        tagged: bool,
        payload: usize,
        size: u16,
    }

    const SEQUENCE: u32 = u32::MAX - 1000;
    const ID: u16 = 65_534;

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
    }

    /// A super-frame as a kernel hands it over, made by etherparse.
    fn super_frame(shape: Shape) -> Frame {
        let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut ipv4 =
            etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber(0), [10, 0, 0, 1], [10, 0, 0, 2])
                .unwrap();
        ipv4.identification = ID;
        let ipv6 = etherparse::Ipv6Header {
            source: [1; 16],
            destination: [2; 16],
            hop_limit: 9,
            ..Default::default()
        };
        let headers = if shape.ipv6 {
            etherparse::IpHeaders::Ipv6(ipv6, Default::default())
        } else {
            etherparse::IpHeaders::Ipv4(ipv4, Default::default())
        };
        let ip = if shape.tagged {
            start.single_vlan(VlanId::try_new(7).unwrap()).ip(headers)
        } else {
            start.ip(headers)
        };
        let mut bytes = Vec::new();
        let data = payload(shape.payload);
        if shape.tcp {
            let timestamps = etherparse::TcpOptionElement::Timestamp(1, 2);
            let tcp = ip.tcp(1000, 80, SEQUENCE, 9).ack(1).psh().fin().cwr().options(&[timestamps]).unwrap();
            tcp.write(&mut bytes, &data).unwrap();
        } else {
            ip.udp(1000, 53).write(&mut bytes, &data).unwrap();
        }
        let transport = 14 + if shape.tagged { 4 } else { 0 } + if shape.ipv6 { 40 } else { 20 };
        let (offset, size) = (if shape.tcp { 16 } else { 6 }, shape.size);
        bytes[usize::from(transport + offset)..][..2].copy_from_slice(&[0xde, 0xad]);
        let offload = Offload {
            checksum: Checksum::Partial { start: transport, offset },
            segment: match (shape.tcp, shape.ipv6) {
                (true, false) => Segment::Tcp4 { size, ecn: true },
                (true, true) => Segment::Tcp6 { size, ecn: true },
                (false, _) => Segment::Udp { size },
            },
            header_len: 0,
        };
        let mut frame = Frame::new();
        frame.fill(&bytes, offload);
        frame
    }

    /// Checks every header of a finished packet by etherparse's own arithmetic, and returns its payload.
    fn checked_payload(bytes: &[u8], index: usize, last: bool, shape: Shape) -> Vec<u8> {
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        assert_eq!(packet.link_exts.len(), usize::from(shape.tagged));
        match (packet.net.unwrap(), packet.transport.unwrap()) {
            (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
                let header = ip.header().to_header();
                check_ipv4(&header, index);
                assert_eq!(
                    tcp.calc_checksum_ipv4(header.source, header.destination).unwrap(),
                    tcp.checksum()
                );
                check_tcp(&tcp, index, last, shape);
                tcp.payload().to_vec()
            }
            (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
                let header = ip.header().to_header();
                assert_eq!(
                    tcp.calc_checksum_ipv6(header.source, header.destination).unwrap(),
                    tcp.checksum()
                );
                check_tcp(&tcp, index, last, shape);
                tcp.payload().to_vec()
            }
            (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
                let header = ip.header().to_header();
                check_ipv4(&header, index);
                let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                assert_eq!((sum, usize::from(udp.length())), (udp.checksum(), 8 + udp.payload().len()));
                udp.payload().to_vec()
            }
            (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
                let sum =
                    udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap();
                assert_eq!((sum, usize::from(udp.length())), (udp.checksum(), 8 + udp.payload().len()));
                udp.payload().to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    fn check_ipv4(header: &etherparse::Ipv4Header, index: usize) {
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        assert_eq!(header.identification, ID.wrapping_add(index as u16));
    }

    fn check_tcp(tcp: &etherparse::TcpSlice<'_>, index: usize, last: bool, shape: Shape) {
        let step = (index * usize::from(shape.size)) as u32;
        assert_eq!(tcp.sequence_number(), SEQUENCE.wrapping_add(step));
        assert_eq!((tcp.psh(), tcp.fin(), tcp.cwr(), tcp.ack()), (last, last, index == 0, true));
        assert_eq!(tcp.options().len(), 12);
    }

    fn check(shape: Shape) {
        let mut frame = super_frame(shape);
        let port = MemoryPort::new(Promises::NONE);
        let sent = send(&port, &mut frame, &mut Frame::new()).unwrap();
        let expected = shape.payload.div_ceil(usize::from(shape.size)).max(1);
        assert_eq!(sent, expected);
        let mut whole = Vec::new();
        for index in 0..sent {
            let (bytes, offload) = port.pop().unwrap();
            assert_eq!(offload, Offload::NONE);
            let part = checked_payload(&bytes, index, index + 1 == sent, shape);
            assert!(part.len() == usize::from(shape.size) || index + 1 == sent);
            whole.extend(part);
        }
        assert_eq!(whole, payload(shape.payload));
        assert_eq!(port.pop(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_packet_of_a_super_frame_is_right(
            (ipv6, tcp, tagged) in any::<(bool, bool, bool)>(), payload in 0usize..9000, size in 8u16..2000,
        ) {
            check(Shape { ipv6, tcp, tagged, payload, size });
        }

        #[test]
        fn no_frame_and_no_promise_panics(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100]),
            (start, offset, size, kind) in any::<(u16, u16, u16, u8)>(),
        ) {
            put16(&mut bytes, 12, ethertype);
            let (start, size) = (start % 128, size % 64);
            let segment = match kind % 4 {
                0 => Segment::None,
                1 => Segment::Tcp4 { size, ecn: false },
                2 => Segment::Tcp6 { size, ecn: false },
                _ => Segment::Udp { size },
            };
            let offset = if kind & 4 == 0 { offset } else { 16 };
            let checksum = Checksum::Partial { start, offset };
            let mut frame = Frame::new();
            frame.fill(&bytes, Offload { checksum, segment, header_len: 0 });
            let _ = send(&MemoryPort::sink(Promises::NONE), &mut frame, &mut Frame::new());
        }
    }

    #[test]
    fn a_full_64_kib_super_frame_is_cut() {
        check(Shape { ipv6: false, tcp: true, tagged: true, payload: 65_535 - 52, size: 1448 });
        check(Shape { ipv6: true, tcp: false, tagged: false, payload: 65_487, size: 1400 });
    }

    #[test]
    fn what_the_device_passes_on_stays_as_it_is() {
        let shape = Shape { ipv6: false, tcp: true, tagged: false, payload: 5000, size: 1000 };
        let mut frame = super_frame(shape);
        let before = frame.bytes().to_vec();
        let port = MemoryPort::new(Promises::ALL);
        assert_eq!(send(&port, &mut frame, &mut Frame::new()), Ok(1));
        assert_eq!(port.pop(), Some((before, frame.offload)));

        let port = MemoryPort::new(Promises { checksum: true, ..Promises::NONE });
        assert_eq!(send(&port, &mut frame, &mut Frame::new()), Ok(5));
        assert_eq!(port.pop().unwrap().1.checksum, Checksum::Partial { start: 34, offset: 16 });
    }

    #[test]
    fn a_failing_device_ends_the_cut() {
        let mut frame = super_frame(Shape { ipv6: false, tcp: false, tagged: false, payload: 100, size: 10 });
        let port = MemoryPort::new(Promises::NONE);
        port.set_condition(Condition::Full);
        assert_eq!(send(&port, &mut frame, &mut Frame::new()), Err(NotSent::Full));
        assert_eq!(port.transmitted(), 0);
    }

    #[test]
    fn a_computed_zero_is_written_as_all_ones() {
        let mut frame = Frame::new();
        let checksum = Checksum::Partial { start: 14, offset: 6 };
        frame.fill(&[0; 60], Offload { checksum, ..Offload::NONE });
        put16(frame.bytes_mut(), 14, 0xffff);
        finish(&mut frame).unwrap();
        assert_eq!(be16(frame.bytes(), 20), 0xffff);
        assert_eq!(frame.offload, Offload::NONE);
    }

    #[test]
    fn contradictions_are_refused() {
        let shape = Shape { ipv6: false, tcp: true, tagged: false, payload: 5000, size: 1000 };
        let refused = |what: &str, change: fn(&mut Frame)| {
            let mut frame = super_frame(shape);
            change(&mut frame);
            let sent = send(&MemoryPort::sink(Promises::NONE), &mut frame, &mut Frame::new());
            assert_eq!(sent, Err(NotSent::BadOffload), "{what}");
        };
        refused("not IP", |f| put16(f.bytes_mut(), 12, 0x0806));
        refused("not TCP", |f| f.bytes_mut()[23] = 17);
        refused("the other family", |f| f.offload.segment = Segment::Tcp6 { size: 1000, ecn: false });
        refused("a fragment", |f| put16(f.bytes_mut(), 20, 0x2000));
        refused("transport elsewhere", |f| f.bytes_mut()[14] = 0x46);
        refused("truncated headers", |f| f.truncate(60));
        refused("a segment for every few bytes", |f| {
            f.offload.segment = Segment::Tcp4 { size: 1, ecn: false }
        });
        refused("an unsummed super-frame that claims to be complete", |f| {
            f.offload.checksum = Checksum::Complete
        });

        let mut frame = Frame::new();
        frame.fill(
            &[0; 60],
            Offload { checksum: Checksum::Partial { start: 59, offset: 0 }, ..Offload::NONE },
        );
        assert_eq!(finish(&mut frame), Err(BadOffload));
        frame.offload.checksum = Checksum::Partial { start: u16::MAX, offset: u16::MAX };
        assert_eq!(finish(&mut frame), Err(BadOffload));
    }
}
