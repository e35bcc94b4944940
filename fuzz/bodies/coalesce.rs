//! Bursts of packets of several flows: what is merged and cut again is what it was, in the order of each flow.

use std::collections::{BTreeMap, BTreeSet};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use vswitchd::addr::PortId;
use vswitchd::coalesce::Coalescer;
use vswitchd::frame::{Checksum, Frame, Offload, Segment};
use vswitchd::offload::{self, Segments};
use vswitchd::pipeline::Outbox;
use vswitchd::port::{Promises, virtio_net};
use vswitchd::wire::checksum::checksum;

use super::Input;
use super::flows::{Flow, Odd};

/// From here on, a record's first byte says that a frame of any bytes follows.
pub const RAW: u8 = 0xf0;

/// A port that takes super-frames.
pub const ALL: PortId = PortId(1);
/// A port that takes those of TCP.
pub const TCP_ONLY: PortId = PortId(2);
/// A port that takes none.
pub const NONE: PortId = PortId(3);

/// What each port passes on.
pub fn promises(port: PortId) -> Promises {
    match port {
        ALL => Promises::ALL,
        TCP_ONLY => Promises { udp_segments: false, ..Promises::ALL },
        _ => Promises::NONE,
    }
}

/// The input is a burst, a sequence of records. A record is two bytes: a flow with what is said of the
/// packet's length, and [`Odd`] with what is known of its checksum. One that begins with [`RAW`] is followed
/// by a length (two bytes) and a frame.
pub fn run(input: &[u8]) {
    let mut burst = Burst::default();
    let mut flows: Vec<Flow> = (0..16).map(Flow::new).collect();
    let mut input = Input(input);
    while let (Some(what), Some(how)) = (input.byte(), input.byte()) {
        if what >= RAW {
            let Some(len) = input.word() else { break };
            let offload = raw_promise(how, len);
            burst.add(input.bytes(usize::from(len)), offload, &[ALL]);
            continue;
        }
        let flow = &mut flows[usize::from(what & 15)];
        let (odd, sum) = if how < 128 { (None, how & 3) } else { (Some(how & 31), how >> 5 & 3) };
        let (bytes, offload) = flow.packet(what >> 4, odd, sum);
        let port = if flow.goes_elsewhere() { TCP_ONLY } else { ALL };
        match odd {
            Some(Odd::FLOOD) => burst.add(&bytes, offload, &[ALL, TCP_ONLY, NONE]),
            _ => burst.add(&bytes, offload, &[port]),
        }
    }
    burst.check();
}

/// Frames that leave together.
#[derive(Default)]
pub struct Burst {
    outbox: Outbox,
    frames: u64,
    bytes: u64,
    expected: BTreeMap<PortId, Vec<Vec<u8>>>,
}

impl Burst {
    /// Adds a frame that goes to these ports.
    pub fn add(&mut self, bytes: &[u8], offload: Offload, ports: &[PortId]) {
        let mut frame = self.outbox.fresh();
        frame.fill(bytes, offload);
        for &port in ports {
            self.frames += 1;
            self.bytes += frame.len() as u64;
            self.expected.entry(port).or_default().extend(cut(&frame));
        }
        self.outbox.send(frame, ports.iter().copied(), ALL);
    }

    /// Merges the burst and checks all that must hold. Returns for each port how many frames it gets.
    pub fn check(mut self) -> BTreeMap<PortId, usize> {
        Coalescer::new().coalesce(&mut self.outbox, promises);
        let (mut frames, mut bytes) = (0, 0);
        let mut writes = BTreeMap::new();
        let mut arrived: BTreeMap<PortId, Vec<Vec<u8>>> = BTreeMap::new();
        self.outbox.drain(|send, frame| {
            frames += u64::from(send.frames);
            bytes += send.bytes as u64;
            *writes.entry(send.port).or_default() += 1;
            if send.frames > 1 {
                assert!(promises(send.port).carry(&frame.offload), "a promise that the port does not take");
                let header = virtio_net::encode(&frame.offload, frame.bytes()).expect("honest promises");
                let len = usize::from(u16::from_ne_bytes([header[2], header[3]]));
                assert_eq!(usize::from(frame.offload.header_len), len);
                assert!(Segments::of(frame).is_ok(), "a super-frame that cannot be cut");
            }
            arrived.entry(send.port).or_default().extend(cut(frame));
        });
        assert_eq!((frames, bytes), (self.frames, self.bytes), "every frame is accounted for");
        for (port, expected) in &self.expected {
            same_flows(expected, arrived.get(port).map_or(&[], Vec::as_slice));
        }
        writes
    }
}

/// The finished packets that a frame stands for; the frame as it is if its promises contradict it.
fn cut(frame: &Frame) -> Vec<Vec<u8>> {
    let mut copy = Frame::new();
    copy.fill(frame.bytes(), frame.offload);
    if !copy.offload.is_super() {
        let _ = offload::finish(&mut copy);
        return vec![copy.bytes().to_vec()];
    }
    let Ok(mut segments) = Segments::of(&copy) else { return vec![copy.bytes().to_vec()] };
    let (mut packet, mut packets) = (Frame::new(), Vec::new());
    while segments.next_into(&mut packet) {
        offload::finish(&mut packet).expect("a checksum within the packet");
        packets.push(packet.bytes().to_vec());
    }
    packets
}

/// Every flow's packets are the same and in the same order. Packets that do not show their flow count as of
/// every flow.
fn same_flows(expected: &[Vec<u8>], arrived: &[Vec<u8>]) {
    assert_eq!(expected.len(), arrived.len(), "packets");
    let expected: Vec<_> = expected.iter().map(|packet| (flow_of(packet), essence(packet))).collect();
    let arrived: Vec<_> = arrived.iter().map(|packet| (flow_of(packet), essence(packet))).collect();
    let flows: BTreeSet<_> = expected.iter().filter_map(|(flow, _)| flow.as_ref()).collect();
    let all = [None];
    for flow in flows.into_iter().map(Some).chain(all) {
        let of = |packets: &'_ [(Option<Vec<u8>>, Vec<u8>)]| -> Vec<Vec<u8>> {
            let of_flow = |(of, _): &&(Option<Vec<u8>>, _)| of.is_none() || of.as_ref() == flow;
            packets.iter().filter(of_flow).map(|(_, packet)| packet.clone()).collect()
        };
        assert_eq!(of(&expected), of(&arrived), "flow {flow:02x?}");
    }
}

/// Addresses, protocol and ports; `None` if the packet may be of any flow; itself if it is of none.
fn flow_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let itself = Some(bytes.to_vec());
    let Some(packet) = SlicedPacket::from_ethernet(bytes).ok().filter(|_| is_plain_or_tagged(bytes)) else {
        return itself;
    };
    let mut flow = Vec::new();
    match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            flow.extend(ip.header().source().iter().chain(&ip.header().destination()));
            match ip.header().protocol().0 {
                6 | 17 if !ip.header().options().is_empty() || ip.payload().fragmented => return None,
                6 | 17 => {}
                _ => return itself,
            }
        }
        Some(NetSlice::Ipv6(ip)) => {
            flow.extend(ip.header().source().iter().chain(&ip.header().destination()));
            if !ip.extensions().is_empty() {
                return None;
            }
        }
        _ => return itself,
    }
    let (protocol, source, destination) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (6, tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (17, udp.source_port(), udp.destination_port()),
        _ => return itself,
    };
    flow.push(protocol);
    flow.extend(source.to_be_bytes().iter().chain(&destination.to_be_bytes()));
    Some(flow)
}

/// Whether IP is behind no tag or one: what the switch and etherparse agree on.
fn is_plain_or_tagged(bytes: &[u8]) -> bool {
    let ethertype = |at| bytes.get(at..at + 2);
    match ethertype(12) {
        Some([0x81, 0x00] | [0x88, 0xa8]) => matches!(ethertype(16), Some([0x08, 0x00] | [0x86, 0xdd])),
        inner => matches!(inner, Some([0x08, 0x00] | [0x86, 0xdd])),
    }
}

/// The packet without what says nothing: the identification of an IPv4 packet with DF, with which goes its
/// header checksum, and which of its two zeros a checksum is.
fn essence(bytes: &[u8]) -> Vec<u8> {
    let mut essence = bytes.to_vec();
    let Ok(packet) = SlicedPacket::from_ethernet(bytes) else { return essence };
    let offset = |part: &[u8]| part.as_ptr().addr() - bytes.as_ptr().addr();
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let at = offset(ip.header().slice());
        let header = ip.header().slice();
        if checksum(header) == 0 {
            essence[at + 10..at + 12].fill(0);
            if ip.header().dont_fragment() {
                essence[at + 4..at + 6].fill(0);
            }
        }
    }
    if let Some(TransportSlice::Tcp(tcp)) = &packet.transport
        && tcp.checksum() == 0xffff
    {
        let at = offset(tcp.slice());
        essence[at + 16..at + 18].fill(0);
    }
    essence
}

fn raw_promise(how: u8, parameter: u16) -> Offload {
    let (start, size) = (14 + 4 * u16::from(how >> 4), parameter % 100);
    let (checksum, segment) = match how & 7 {
        2 => (Checksum::Partial { start, offset: 6 }, Segment::None),
        3 => (Checksum::Partial { start, offset: 16 }, Segment::None),
        4 => (Checksum::Partial { start, offset: 6 }, Segment::Udp { size }),
        5 => (Checksum::Partial { start, offset: 16 }, Segment::Tcp4 { size, ecn: how & 8 != 0 }),
        6 => (Checksum::Partial { start, offset: 16 }, Segment::Tcp6 { size, ecn: how & 8 != 0 }),
        _ => (Checksum::Complete, Segment::None),
    };
    Offload { checksum, segment, header_len: 0 }
}
