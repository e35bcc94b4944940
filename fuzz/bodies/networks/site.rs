//! The switch of the target `networks`, and who is where.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use vswitchd::addr::{Endpoint, NetworkId, Protocol};
use vswitchd::port::Promises;
use vswitchd::port::memory::MemoryPort;
use vswitchd::sim::{EXTERNAL, ROUTER, SERVER, Station, Switch, on_link};
use vswitchd::snapshot::{
    Check, Condition, NetworkMode, Pins, Publication, Scope, Target, UplinkMode, Watch,
};

use crate::bodies::speech::Places;

/// The networks' prefixes. The last one is bridged to a LAN.
pub const PREFIXES: [&str; 5] =
    ["172.30.0.0/16", "10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "192.168.1.0/24"];
/// The network without a way out.
pub const INTERNAL: usize = 2;
/// The network whose own addresses the world knows.
pub const ROUTED: usize = 3;
/// The network that is bridged.
pub const LAN: usize = 4;
/// How many stations are routers at an uplink. They are the first.
pub const UPLINKS: usize = 2;

/// The container with the second target, and the only port on its network that masquerades little.
pub const SECOND: usize = 7;
/// The container with the first target of the published port.
pub const FIRST: usize = 5;
/// The host on a network.
pub const HOST: usize = 9;
/// A station of the LAN.
pub const NEIGHBOR: usize = 11;

/// The published ports: of both targets, and of the first one, for the LAN only.
pub const PUBLISHED: u16 = 8080;
pub const NEAR: u16 = 9090;
/// Where the targets listen.
pub const SERVICE: u16 = 80;
pub const NEAR_SERVICE: u16 = 90;

/// Connections that a port may have.
pub const QUOTA: u32 = 8;
/// External ports that the second target's port may have.
pub const NAT_PORTS: u32 = 3;

/// Where a station is.
#[derive(Clone, Copy)]
pub struct Spot {
    /// Its network; none is an uplink's.
    pub network: Option<usize>,
    /// The station whose device it shares, and the VLAN that it is there.
    pub vlan: Option<(usize, u16)>,
}

/// The switch with its stations.
///
/// | station | is on | besides |
/// |---|---|---|
/// | 0, 1 | the uplinks, of mode shared and own | the second one is a DHCP client, with a small MTU |
/// | 2, 3, 4 | networks 0, 1 and 2 | one trunk, with the VLANs 10 and 20; the first VLAN is secured |
/// | 5, 6 | network 0, translated to uplink 0 | 6 passes no promises on |
/// | 7 | network 1, translated to uplink 1, with DHCP | secured, with three external ports |
/// | 8 | network 2, internal | |
/// | 9 | network 1 | the host |
/// | 10 | network 3, routed by uplink 1 | a small MTU |
/// | 11 | network 4, bridged | the LAN |
/// | 12, 13 | networks 4 and 0 | one trunk, with the VLAN 30; 12 is secured |
///
/// TCP port 8080 of the uplinks is published by 5 and 7 with health, 9090 by 5 for the LAN, UDP port 5353 by 6.
pub struct Site {
    pub switch: Switch,
    pub stations: Vec<Station>,
    pub spots: Vec<Spot>,
    /// Of the targets of the published port.
    pub conditions: [Arc<Condition>; 2],
}

impl Site {
    pub fn new() -> Site {
        let mut switch = Switch::new(48);
        let modes = [NetworkMode::Nat, NetworkMode::Nat, NetworkMode::Internal, NetworkMode::Routed];
        for (prefix, mode) in PREFIXES.into_iter().zip(modes) {
            switch.add_network(prefix.parse().expect("a prefix"), mode);
        }
        let networks = [0, 1, 2, 3].map(NetworkId);
        let routers = [UplinkMode::Shared, UplinkMode::Own].map(|mode| switch.add_uplink(mode));
        networks[1..].iter().for_each(|&network| switch.lead_out(network, &routers[1]));
        let vid = |number: u16| number.try_into().expect("a VID");
        let trunk = switch.add_port(networks[0]);
        let vlans =
            [switch.add_vlan(&trunk, networks[1], vid(10)), switch.add_vlan(&trunk, networks[2], vid(20))];
        let plain = [
            switch.add_port(networks[0]),
            switch.add_port_with(networks[0], Arc::new(MemoryPort::new(Promises::NONE))),
            switch.add_port(networks[1]),
            switch.add_port(networks[2]),
            switch.add_port(networks[1]),
            switch.add_port(networks[3]),
        ];
        let (lan, neighbor) = switch.add_lan(PREFIXES[LAN].parse().expect("a prefix"));
        let bridged = switch.add_port(lan);
        let vlan = switch.add_vlan(&bridged, networks[0], vid(30));
        let stations: Vec<Station> =
            [&routers[..], &[trunk], &vlans[..], &plain[..], &[neighbor, bridged, vlan]].concat();
        let on = |network| Spot { network: Some(network), vlan: None };
        let tagged = |network, trunk, vid| Spot { network: Some(network), vlan: Some((trunk, vid)) };
        let uplink = Spot { network: None, vlan: None };
        let spots = vec![
            uplink,
            uplink,
            on(0),
            tagged(1, 2, 10),
            tagged(2, 2, 20),
            on(0),
            on(0),
            on(1),
            on(2),
            on(1),
            on(3),
            on(4),
            on(4),
            tagged(0, 12, 30),
        ];
        let mut site = Site { switch, stations, spots, conditions: Default::default() };
        site.furnish();
        site
    }

    fn furnish(&mut self) {
        let Site { switch, stations, conditions, .. } = self;
        for station in &stations[UPLINKS..] {
            switch.change_port(station, |port| port.quota = QUOTA);
        }
        for place in [3, SECOND, HOST, 12] {
            switch.secure(&stations[place]);
        }
        switch.change_port(&stations[SECOND], |port| port.nat_ports = NAT_PORTS);
        let host = stations[HOST].ip;
        switch.change_port(&stations[HOST], |port| port.host = Ipv4Net::new(host, 24).ok());
        switch.serve_dhcp(NetworkId(1));
        // Who has not spoken yet: the one that takes no promises, and the one on the routed network.
        let spoken = stations.iter().enumerate().filter(|(place, _)| ![6, 10].contains(place));
        spoken.for_each(|(_, station)| switch.resolve(station));
        switch.publish(Protocol::Udp, 5353, &stations[6], 53);
        let target =
            |place: usize, port| Target { endpoint: stations[place].at(port), to: stations[place].id };
        let watch = Watch { check: Check::Tcp, interval: Duration::from_secs(1) };
        let publications = [
            Publication {
                protocol: Protocol::Tcp,
                ip: None,
                ports: PUBLISHED..=PUBLISHED,
                scope: Scope::Any,
                targets: vec![target(FIRST, SERVICE), target(SECOND, SERVICE)],
                health: Some((watch, conditions.to_vec())),
            },
            Publication {
                protocol: Protocol::Tcp,
                ip: None,
                ports: NEAR..=NEAR,
                scope: Scope::Lan,
                targets: vec![target(FIRST, NEAR_SERVICE)],
                health: None,
            },
        ];
        switch.shared.publish(|snapshot| {
            let all = Arc::make_mut(&mut snapshot.publications);
            publications.into_iter().for_each(|publication| all.insert(publication));
            Arc::make_mut(&mut snapshot.uplinks[0]).host_addresses.push(host);
            let second = Arc::make_mut(&mut snapshot.uplinks[1]);
            (second.dhcp, second.mtu) = (true, 1280);
        });
        self.change_network(ROUTED, |network| network.mtu = 1400);
    }

    /// Changes a network.
    pub fn change_network(&mut self, place: usize, change: impl FnOnce(&mut vswitchd::snapshot::Network)) {
        let shared = &self.switch.shared;
        let mut network =
            vswitchd::snapshot::Network::clone(shared.snapshot().network(id(place)).expect("the network"));
        change(&mut network);
        shared.publish(|snapshot| snapshot.set_network(network));
    }

    /// Whether a port keeps to its station's addresses. What the LAN may say is nobody's to pin.
    pub fn secure(&mut self, place: usize, on: bool) {
        if place != NEIGHBOR {
            let Station { mac, ip, .. } = self.stations[place];
            let pins = Pins { mac: Some(mac), ip: Some(ip) };
            self.switch.change_port(&self.stations[place], |port| port.pins = on.then_some(pins));
        }
    }

    /// The stations on a network.
    pub fn on(&self, network: usize) -> impl Iterator<Item = usize> {
        self.spots.iter().enumerate().filter(move |(_, spot)| spot.network == Some(network)).map(|(n, _)| n)
    }

    /// The stations whose devices are not another's.
    pub fn devices(&self) -> impl Iterator<Item = usize> {
        self.spots.iter().enumerate().filter(|(_, spot)| spot.vlan.is_none()).map(|(place, _)| place)
    }

    /// Whose frame it is that passes a device, and what it is without the tag that says so. The station that a trunk is
    /// where there is no tag has priority-tagged frames, too.
    pub fn deal(&self, device: usize, frame: &[u8], outward: bool) -> Option<(usize, Vec<u8>)> {
        let vlans = || self.spots.iter().enumerate().filter_map(|(place, spot)| Some((place, spot.vlan?)));
        let is_trunk = vlans().any(|(_, (trunk, _))| trunk == device);
        let Some(&[0x81, 0x00, high, low]) = frame.get(12..16).filter(|_| is_trunk && frame.len() >= 18)
        else {
            return Some((device, frame.to_vec()));
        };
        let without = || [&frame[..12], &frame[16..]].concat();
        match u16::from_be_bytes([high, low]) & 0x0fff {
            0 if outward => Some((device, frame.to_vec())),
            0 => Some((device, without())),
            vid => {
                let (place, _) = vlans().find(|&(_, vlan)| vlan == (device, vid))?;
                Some((place, without()))
            }
        }
    }

    /// Whom stations speak of: everybody, by a port that something may listen at and by one that nothing does.
    pub fn places(&self) -> Places {
        let gateways = [[172, 30, 0, 1], [10, 1, 0, 1], [10, 2, 0, 1], [10, 3, 0, 1]].map(Ipv4Addr::from);
        let at = |ip, port| Endpoint::new(ip, port);
        let second = on_link(1, EXTERNAL);
        let mut remotes = vec![
            at(SERVER, 443),
            at([203, 0, 113, 9].into(), 53),
            at(EXTERNAL, PUBLISHED),
            at(second, PUBLISHED),
            at(EXTERNAL, 5353),
            at(EXTERNAL, NEAR),
            at(ROUTER, 80),
            at(Ipv4Addr::BROADCAST, 67),
            at(Ipv4Addr::BROADCAST, 68),
            at([224, 0, 0, 251].into(), 5353),
            at([10, 1, 0, 255].into(), 67),
            at([192, 168, 1, 77].into(), 7),
            at(gateways[0], 53),
            at(gateways[1], 53),
            at(gateways[1], 67),
            at(gateways[2], 80),
            at(gateways[3], 7),
            at(EXTERNAL, 61_000),
            at(second, 61_001),
        ];
        remotes
            .extend(self.stations[UPLINKS..].iter().flat_map(|station| [station.at(7), station.at(SERVICE)]));
        let others = [EXTERNAL, second, Ipv4Addr::UNSPECIFIED, [10, 1, 0, 255].into()];
        let stations = self.stations.iter().map(|station| station.ip);
        let all = others.into_iter().chain(gateways).chain(stations).map(Some);
        Places { remotes, addresses: all.chain([None]).collect(), uplinks: 2 }
    }
}

/// A network's number.
pub fn id(place: usize) -> NetworkId {
    NetworkId(u16::try_from(place).expect("a network"))
}
