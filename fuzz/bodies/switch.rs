//! Whole frames through a whole switch: any bytes, with any promises, at any port, in any order.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use vswitchd::addr::{Endpoint, Protocol};
use vswitchd::frame::{Checksum, Offload, Segment};
use vswitchd::port::Promises;
use vswitchd::port::memory::MemoryPort;
use vswitchd::sim::{EXTERNAL, ROUTER, SERVER, Station, Switch, UPLINK_MAC};
use vswitchd::snapshot::{NetworkMode, UplinkMode};
use vswitchd::wire::checksum::checksum;
use vswitchd::wire::ethernet::{self, Ethernet};
use vswitchd::wire::ipv4::{self, Ipv4};

use super::Input;
use super::speech::{Places, Talk, is_fragment, is_sound};

/// A first byte of a record from here on lets time pass.
pub const TIME: u8 = 0x80;
/// One from here on says a packet ([`super::speech`]).
pub const SPEAK: u8 = 0xc0;
/// With this bit in a record's second byte, checksums are made right before the frame is sent, so that the
/// fuzzer gets past them.
pub const REPAIR: u8 = 0x80;

/// The MTU of every port.
const MTU: usize = 1500;

/// The switch under test.
///
/// | station | is on | its device passes on |
/// |---|---|---|
/// | 0 | the uplink | everything |
/// | 1, 3 | 172.30.0.0/16, translated | everything |
/// | 2 | the same | nothing |
/// | 4, 5 | 172.31.0.0/16, internal | everything |
///
/// TCP port 8080 of the uplink is published by station 1, port 80; UDP port 5353 by station 2, port 53.
pub struct World {
    switch: Switch,
    /// The stations, by their ports.
    pub stations: Vec<Station>,
    talk: Talk,
    /// Whether all checksums of all packets so far were right; then those of all that leave are, too.
    sound: bool,
}

impl World {
    /// The switch, where nobody has spoken yet.
    pub fn new() -> World {
        let mut switch = Switch::new(64);
        let subnet = |third| ipnet::Ipv4Net::new_assert([172, third, 0, 0].into(), 16);
        let translated = switch.add_network(subnet(30), NetworkMode::Nat);
        let internal = switch.add_network(subnet(31), NetworkMode::Internal);
        let stations = vec![
            switch.add_uplink(UplinkMode::Shared),
            switch.add_port(translated),
            switch.add_port_with(translated, Arc::new(MemoryPort::new(Promises::NONE))),
            switch.add_port(translated),
            switch.add_port(internal),
            switch.add_port(internal),
        ];
        switch.publish(Protocol::Tcp, 8080, &stations[1], 80);
        switch.publish(Protocol::Udp, 5353, &stations[2], 53);
        let talk = Talk::about(places(&stations));
        World { switch, stations, talk, sound: true }
    }
}

fn places(stations: &[Station]) -> Places {
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
    const BROADCAST: Ipv4Addr = Ipv4Addr::new(172, 30, 255, 255);
    let [router, container, .., internal] = stations else { unreachable!() };
    let remotes = vec![
        Endpoint::new(SERVER, 443),
        Endpoint::new([203, 0, 113, 9].into(), 53),
        Endpoint::new(EXTERNAL, 8080),
        Endpoint::new(EXTERNAL, 5353),
        Endpoint::new(ROUTER, 80),
        Endpoint::new(GATEWAY, 53),
        router.at(7),
        container.at(7),
    ];
    let others = [EXTERNAL, GATEWAY, Ipv4Addr::UNSPECIFIED, BROADCAST].map(Some);
    let stations = [internal.ip, router.ip, container.ip].map(Some);
    let addresses = others.into_iter().chain([None]).chain(stations).collect();
    Places { remotes, addresses, uplinks: 1 }
}

/// The input is a sequence of records: a station, a kind of promise, its parameter (two bytes), a length
/// (two bytes) and a frame; or [`TIME`] and how long, in steps of 50 ms; or [`SPEAK`], a byte that does not matter, and
/// what is said.
pub fn run(input: &[u8]) {
    let mut world = World::new();
    let mut input = Input(input);
    while let (Some(what), Some(how)) = (input.byte(), input.byte()) {
        if what >= SPEAK {
            let World { talk, stations, .. } = &mut world;
            if let Some((number, frame)) = talk.next(what & 7, &mut input, stations) {
                world.send(number, &frame, Offload::NONE);
            }
            continue;
        }
        if what >= TIME {
            world.switch.now += Duration::from_millis(50 * u64::from(how));
            world.switch.run();
            world.check(None);
            continue;
        }
        let (Some(parameter), Some(len)) = (input.word(), input.word()) else { break };
        let mut frame = input.bytes(usize::from(len)).to_vec();
        if how & REPAIR != 0 {
            repair(&mut frame);
        }
        let number = usize::from(what) % world.stations.len();
        let offload = promise(how & !REPAIR, parameter, &frame);
        world.send(number, &frame, offload);
    }
}

/// What a record promises of its frame.
pub fn promise(kind: u8, parameter: u16, frame: &[u8]) -> Offload {
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
pub fn repair(frame: &mut [u8]) {
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

impl World {
    fn send(&mut self, number: usize, frame: &[u8], offload: Offload) {
        self.sound &= offload == Offload::NONE && is_sound(frame) && !is_fragment(frame);
        self.switch.send_promising(&self.stations[number], frame, offload);
        self.check(Some(number));
    }

    /// What must hold after every step; `sender` is the station that sent a frame, if one did.
    fn check(&mut self, sender: Option<usize>) {
        assert_eq!(self.switch.imbalance(), 0, "frames in are frames out and drops");
        for (number, station) in self.stations.iter().enumerate() {
            while let Some((frame, offload)) = station.device.pop() {
                let Ok(eth) = Ethernet::parse(&frame) else { panic!("a frame without a header left") };
                if !offload.is_super() {
                    assert!(frame.len() - eth.len <= MTU, "a frame over the MTU left");
                }
                // One that is not finished yet is finished at the edge, which the target `coalesce` watches.
                let is_finished = !matches!(offload.checksum, Checksum::Partial { .. });
                assert!(
                    !self.sound || !is_finished || is_sound(&frame),
                    "a wrong checksum left: {frame:02x?}"
                );
                self.talk.hear(number, &frame);
                if number == 0 {
                    shows_nothing_inside(&eth, &frame);
                }
                if let Some(sender) = sender
                    && is_internal(sender) != is_internal(number)
                {
                    // The gateway itself may speak: an ARP request whose time has come.
                    assert_eq!(eth.src, station.gateway_mac, "a frame of {sender} reached {number}");
                }
            }
        }
    }
}

fn is_internal(station: usize) -> bool {
    station >= 4
}

/// On the uplink, nobody sees more than the uplink's own addresses.
fn shows_nothing_inside(eth: &Ethernet, frame: &[u8]) {
    assert_eq!(eth.src, UPLINK_MAC);
    if eth.ethertype == ethernet::IPV4 {
        let Ok(ip) = Ipv4::parse(&frame[eth.len..]) else { panic!("a broken packet left") };
        assert_eq!(ip.src, EXTERNAL);
    }
}
