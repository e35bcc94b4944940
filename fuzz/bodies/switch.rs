//! Whole frames through a whole switch: any bytes, with any promises, at any port, in any order.

use std::time::Duration;

use vswitchd::addr::MacAddr;
use vswitchd::frame::{Checksum, Offload, Segment};
use vswitchd::wire::checksum::checksum;
use vswitchd::wire::ethernet::{self, Ethernet};
use vswitchd::wire::ipv4::{self, Ipv4};

use super::Input;
use crate::rig::{self, Rig};

/// A first byte of a record from here on lets time pass.
pub const TIME: u8 = 0x80;
/// With this bit in a record's second byte, checksums are made right before the frame is sent, so that the
/// fuzzer gets past them.
pub const REPAIR: u8 = 0x80;

/// The input is a sequence of records: a port, a kind of promise, its parameter (two bytes), a length (two
/// bytes) and a frame; or [`TIME`] and how long, in steps of 50 ms.
pub fn run(input: &[u8]) {
    let mut rig = Rig::new();
    let mut input = Input(input);
    while let (Some(what), Some(how)) = (input.byte(), input.byte()) {
        if what >= TIME {
            rig.now += Duration::from_millis(50 * u64::from(how));
            rig.turn();
            check(&rig, None);
            continue;
        }
        let (Some(parameter), Some(len)) = (input.word(), input.word()) else { break };
        let mut frame = input.bytes(usize::from(len)).to_vec();
        if how & REPAIR != 0 {
            repair(&mut frame);
        }
        let port = u16::from(what) % rig::PORTS;
        rig.receive(port, &frame, promise(how & !REPAIR, parameter, &frame));
        check(&rig, Some(port));
    }
}

fn promise(kind: u8, parameter: u16, frame: &[u8]) -> Offload {
    let transport = Ethernet::parse(frame)
        .ok()
        .and_then(|eth| Some(eth.len + Ipv4::parse(frame.get(eth.len..)?).ok()?.header_len))
        .and_then(|start| u16::try_from(start).ok())
        .unwrap_or(parameter);
    let partial = |offset| Checksum::Partial { start: transport, offset };
    let (checksum, segment) = match kind {
        1 => (Checksum::Valid, Segment::None),
        2 => (partial(16), Segment::None),
        3 => (partial(6), Segment::None),
        4 => (partial(16), Segment::Tcp4 { size: parameter, ecn: false }),
        5 => (partial(6), Segment::Udp { size: parameter }),
        6 => (partial(16), Segment::Tcp6 { size: parameter, ecn: true }),
        7 => (Checksum::Partial { start: parameter, offset: 6 }, Segment::None),
        _ => (Checksum::Complete, Segment::None),
    };
    Offload { checksum, segment, header_len: parameter }
}

/// Makes the checksums of an untagged IPv4 header, and of ICMP behind it, right.
fn repair(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(ethernet::HEADER_LEN..) else { return };
    let Some(&first) = packet.first() else { return };
    let header_len = usize::from(first & 0x0f) * 4;
    if header_len < ipv4::HEADER_LEN || packet.len() < header_len {
        return;
    }
    put_checksum(&mut packet[..header_len], 10);
    let Ok(ip) = Ipv4::parse(packet) else { return };
    if ip.protocol == ipv4::ICMP {
        put_checksum(&mut packet[header_len..ip.total_len], 2);
    }
}

fn put_checksum(bytes: &mut [u8], at: usize) {
    if bytes.len() >= at + 2 {
        bytes[at..at + 2].fill(0);
        let sum = checksum(bytes);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// What must hold after every step; `ingress` is the port that a frame came in by, if one did.
fn check(rig: &Rig, ingress: Option<u16>) {
    assert_eq!(rig.imbalance(), 0, "frames in are frames out and drops");
    for port in 0..rig::PORTS {
        while let Some((frame, offload)) = rig.sent(port) {
            let Ok(eth) = Ethernet::parse(&frame) else { panic!("a frame without a header left") };
            if !offload.is_super() {
                assert!(frame.len() - eth.len <= usize::from(rig::MTU), "a frame over the MTU left");
            }
            if port == 2 {
                assert!(!offload.is_super() && !matches!(offload.checksum, Checksum::Partial { .. }));
            }
            if port == 0 {
                leaves_nothing_inside(&eth, &frame);
            }
            is_of_its_network(ingress, port, eth.src);
        }
    }
}

/// On the uplink, nobody sees more than the uplink's own addresses.
fn leaves_nothing_inside(eth: &Ethernet, frame: &[u8]) {
    assert_eq!(eth.src, rig::EXTERNAL_MAC);
    if eth.ethertype == ethernet::IPV4 {
        let Ok(ip) = Ipv4::parse(&frame[eth.len..]) else { panic!("a broken packet left") };
        assert_eq!(ip.src, rig::EXTERNAL);
    }
}

/// Between networks nothing passes; only the gateway itself may speak (an ARP request whose time has come).
fn is_of_its_network(ingress: Option<u16>, egress: u16, src: MacAddr) {
    let is_inner = |port: u16| port >= 4;
    let Some(ingress) = ingress else { return };
    if is_inner(ingress) != is_inner(egress) {
        let gateway = if is_inner(egress) { rig::INNER_GATEWAY } else { rig::GATEWAY };
        let own = if egress == 0 { rig::EXTERNAL_MAC } else { MacAddr::from_ipv4(gateway) };
        assert_eq!(src, own, "a frame crossed from port {ingress} to port {egress}");
    }
}
