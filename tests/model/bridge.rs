//! A network of stations that speak, move, fall silent and are unplugged.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use vswitchd::addr::{MacAddr, NetworkId};
use vswitchd::sim::packet::{self, Macs};
use vswitchd::sim::{Station, Switch};
use vswitchd::snapshot::NetworkMode;

/// Ports 0 to 3 are on the first network, 4 and 5 on the second.
const PORTS: usize = 6;
const SECOND_NETWORK: usize = 4;

/// Addresses that frames have: stations that may be anywhere, and special ones.
const MACS: [MacAddr; 12] = [
    MacAddr([2, 0, 0, 0, 0, 1]),
    MacAddr([2, 0, 0, 0, 0, 2]),
    MacAddr([2, 0, 0, 0, 0, 3]),
    MacAddr([2, 0, 0, 0, 0, 4]),
    MacAddr([2, 0, 0, 0, 0, 5]),
    GATEWAY_MAC,
    MacAddr::BROADCAST,
    MacAddr([1, 0, 0x5e, 0, 0, 9]),
    MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]),
    MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]),
    MacAddr::ZERO,
    MacAddr([0x33, 0x33, 0, 0, 0, 1]),
];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const GATEWAY_MAC: MacAddr = MacAddr::from_ipv4(GATEWAY);

const AGEING: u64 = 300;

#[derive(Debug, Clone)]
enum Step {
    /// A frame from a port: source, destination, EtherType, bytes behind the header.
    Frame {
        port: usize,
        src: usize,
        dst: usize,
        ethertype: u16,
        len: usize,
    },
    /// Somebody on the first network asks for the gateway's address.
    AskGateway {
        port: usize,
        src: usize,
    },
    Pass {
        seconds: u64,
    },
    Flush {
        port: Option<usize>,
    },
    Pin {
        mac: usize,
        port: usize,
    },
    Unplug {
        port: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let ethertype = prop_oneof![Just(0x1234), Just(0x86dd), Just(0x8100)];
    let len = prop_oneof![46_usize..60, Just(1500), Just(1501)];
    // Mostly stations.
    let mac = || prop_oneof![4 => 0..5_usize, 1 => 0..MACS.len()];
    prop_oneof![
        20 => (0..PORTS, mac(), mac(), ethertype, len)
            .prop_map(|(port, src, dst, ethertype, len)| Step::Frame { port, src, dst, ethertype, len }),
        2 => (0..SECOND_NETWORK, 0..5_usize).prop_map(|(port, src)| Step::AskGateway { port, src }),
        3 => prop_oneof![1..400_u64, Just(AGEING), Just(1)].prop_map(|seconds| Step::Pass { seconds }),
        1 => proptest::option::of(0..PORTS).prop_map(|port| Step::Flush { port }),
        1 => (0..5_usize, 0..PORTS).prop_map(|(mac, port)| Step::Pin { mac, port }),
        1 => (0..PORTS).prop_map(|port| Step::Unplug { port }),
    ]
}

/// Where a station is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Seen { port: usize, at: u64 },
    Pinned { port: usize },
}

/// A bridge.
struct Bridge {
    now: u64,
    plugged: [bool; PORTS],
    places: BTreeMap<(bool, MacAddr), Place>,
}

fn network_of(port: usize) -> bool {
    port >= SECOND_NETWORK
}

impl Bridge {
    /// The ports that a frame leaves by.
    fn frame(&mut self, port: usize, src: MacAddr, dst: MacAddr, len: usize) -> Vec<usize> {
        let network = network_of(port);
        let is_group = |mac: MacAddr| mac.0[0] & 1 == 1;
        let reserved = dst.0[..5] == [1, 0x80, 0xc2, 0, 0] && dst.0[5] < 16;
        let gateway = if network { MacAddr::from_ipv4(Ipv4Addr::new(172, 31, 0, 1)) } else { GATEWAY_MAC };
        if !self.plugged[port]
            || is_group(src)
            || src == MacAddr::ZERO
            || src == gateway
            || reserved
            || len > 1500
        {
            return Vec::new();
        }
        if !matches!(self.places.get(&(network, src)), Some(Place::Pinned { .. })) {
            self.places.insert((network, src), Place::Seen { port, at: self.now });
        }
        let others = (0..PORTS).filter(|&to| to != port && self.plugged[to] && network_of(to) == network);
        match self.places.get(&(network, dst)) {
            _ if dst == gateway => Vec::new(),
            _ if is_group(dst) => others.collect(),
            Some(&Place::Pinned { port: to }) => others.filter(|&other| other == to).collect(),
            Some(&Place::Seen { port: to, at }) if self.now - at <= AGEING => {
                others.filter(|&other| other == to).collect()
            }
            _ => others.collect(),
        }
    }

    fn forget(&mut self, which: impl Fn(Place) -> bool) {
        self.places.retain(|_, &mut place| !which(place));
    }

    /// What a listing shows.
    fn listing(&self) -> Vec<(bool, MacAddr, usize)> {
        let listed = self.places.iter().filter_map(|(&(network, mac), &place)| match place {
            Place::Pinned { port } => Some((network, mac, port)),
            Place::Seen { port, at } => (self.now - at <= AGEING).then_some((network, mac, port)),
        });
        listed.collect()
    }
}

struct World {
    switch: Switch,
    stations: Vec<Station>,
    model: Bridge,
}

impl World {
    fn new() -> World {
        let mut switch = Switch::new(16);
        let networks = ["172.30.0.0/16", "172.31.0.0/16"]
            .map(|subnet| switch.add_network(subnet.parse().unwrap(), NetworkMode::Nat));
        let stations = (0..PORTS).map(|n| switch.add_port(networks[usize::from(network_of(n))])).collect();
        World { switch, stations, model: Bridge { now: 0, plugged: [true; PORTS], places: BTreeMap::new() } }
    }

    fn step(&mut self, step: &Step) {
        let mut expected = vec![Vec::new(); PORTS];
        match *step {
            Step::Frame { port, src, dst, ethertype, len } => {
                let (src, dst) = (MACS[src], MACS[dst]);
                let frame = packet::frame(Macs { src, dst }, ethertype, &vec![0x55; len]);
                // A tag is no part of what an MTU limits.
                let len = if ethertype == 0x8100 { len - 4 } else { len };
                for to in self.model.frame(port, src, dst, len) {
                    expected[to].push(frame.clone());
                }
                self.switch.send(&self.stations[port], &frame);
            }
            Step::AskGateway { port, src } => {
                let (mac, ip) = (MACS[src], Ipv4Addr::new(172, 30, 9, u8::try_from(src).unwrap()));
                let ask = packet::arp(
                    Macs { src: mac, dst: MacAddr::BROADCAST },
                    1,
                    (mac, ip),
                    (MacAddr::ZERO, GATEWAY),
                );
                let macs = Macs { src: GATEWAY_MAC, dst: mac };
                let mut answer = packet::arp(macs, 2, (GATEWAY_MAC, GATEWAY), (mac, ip));
                answer.truncate(42);
                self.model.frame(port, mac, MacAddr::BROADCAST, 46);
                if self.model.plugged[port] {
                    expected[port].push(answer);
                }
                self.switch.send(&self.stations[port], &ask);
            }
            Step::Pass { seconds } => {
                self.model.now += seconds;
                self.switch.now += Duration::from_secs(seconds);
                self.switch.run();
            }
            Step::Flush { port } => {
                let id = port.map(|port| self.stations[port].id);
                for network in self.switch.shared.snapshot().networks.iter().flatten() {
                    network.fdb.flush(id);
                }
                self.model.forget(|place| match place {
                    Place::Seen { port: at, .. } => port.is_none_or(|port| port == at),
                    Place::Pinned { .. } => false,
                });
            }
            Step::Pin { mac, port } if self.model.plugged[port] => {
                let network = NetworkId(u16::from(network_of(port)));
                let snapshot = self.switch.shared.snapshot_full();
                let fdb = &snapshot.network(network).unwrap().fdb;
                assert!(fdb.add_static(MACS[mac], self.stations[port].id, self.switch.now));
                self.model.places.insert((network_of(port), MACS[mac]), Place::Pinned { port });
            }
            Step::Pin { .. } => {}
            Step::Unplug { port } => {
                let id = self.stations[port].id;
                self.switch.shared.publish(|snapshot| snapshot.remove_port(id));
                for network in self.switch.shared.snapshot().networks.iter().flatten() {
                    network.fdb.remove_port(id);
                }
                self.model.plugged[port] = false;
                self.model.forget(|place| match place {
                    Place::Seen { port: at, .. } | Place::Pinned { port: at } => at == port,
                });
            }
        }
        self.compare(&expected);
    }

    fn compare(&self, expected: &[Vec<Vec<u8>>]) {
        for (port, (station, expected)) in self.stations.iter().zip(expected).enumerate() {
            let got: Vec<_> = std::iter::from_fn(|| station.device.pop()).map(|(frame, _)| frame).collect();
            assert_eq!(&got, expected, "what port {port} gets");
        }
        let mut listing = Vec::new();
        let snapshot = self.switch.shared.snapshot();
        for network in snapshot.networks.iter().flatten() {
            for entry in network.fdb.entries(self.switch.now, snapshot.mac_ageing) {
                if let Some(port) = self.stations.iter().position(|station| Some(station.id) == entry.port) {
                    listing.push((network.id.0 == 1, entry.mac, port));
                }
            }
        }
        listing.sort_unstable();
        assert_eq!(listing, self.model.listing(), "the address table");
        if self.model.plugged == [true; PORTS] {
            // A port that goes takes its counters along.
            assert_eq!(self.switch.imbalance(), 0, "frames in are frames out and drops");
        }
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_bridge_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
    }
}
