//! Several networks and uplinks, trunks, a LAN, the host and rules that change: who reaches whom.
//!
//! Where `switch` asks what becomes of any frame, this target asks where it comes out. Every frame that does is held
//! against an opinion of its own: what is switched is as it was sent, by another station of the same network; what
//! the gateway passes on from elsewhere, a rule allows, or it is of a connection that one allowed when it was opened.

mod judge;
mod said;
mod site;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use vswitchd::addr::{Endpoint, Protocol};
use vswitchd::frame::Offload;
use vswitchd::limits::{FRAGMENT_BYTES, PUNT_QUEUE_PER_PORT};
use vswitchd::shared::{OpenPort, Punt, Service};
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::table::policy::{Listed, Policy, Zone};
use vswitchd::wire::ethernet;
use vswitchd::wire::ipv4::Ipv4;
use vswitchd::wire::transport::{Ports, SYN};

use super::Input;
use super::speech::Talk;
use super::switch::{REPAIR, SPEAK, TIME, promise, repair};
use judge::{Line, Whom, gateway};
pub use site::Site;
use site::{NAT_PORTS, PREFIXES, QUOTA, SECOND, UPLINKS, id};
use watch::{Seen, Sent, Watch};

/// First bytes of records between [`TIME`] and [`SPEAK`].
pub const RULES: u8 = 0x88;
pub const DEFAULT: u8 = 0x90;
pub const HEALTH: u8 = 0x98;
pub const UPLINK: u8 = 0xa0;
pub const SECURITY: u8 = 0xa8;
pub const FLUSH: u8 = 0xb0;
pub const SERVE: u8 = 0xb8;

/// Stations whose MAC addresses one port may have, and how far the table's shards round that up.
const MACS: u32 = 16;

struct World {
    site: Site,
    talk: Talk,
    watch: Watch,
    open: Vec<OpenPort>,
    opened: Vec<u16>,
}

/// The input is a sequence of records as in [`super::switch`]: a station, a promise, its parameter, a length and a frame;
/// [`TIME`]; [`SPEAK`]; or a change of the configuration, which is the upper five bits of its first byte, and its second
/// byte says how. [`RULES`] are four bytes each.
pub fn run(input: &[u8]) {
    let mut world = World::new();
    let mut input = Input(input);
    while let (Some(what), Some(how)) = (input.byte(), input.byte()) {
        if world.step(what, how, &mut input).is_none() {
            break;
        }
    }
    world.settle();
}

impl World {
    fn new() -> World {
        let mut site = Site::new();
        let few = |port: &mut vswitchd::snapshot::Port| port.policing.macs = MACS;
        site.switch.change_port(&site.stations[site::FIRST], few);
        let talk = Talk::about(site.places());
        let mut world = World { site, talk, watch: Watch::default(), open: Vec::new(), opened: Vec::new() };
        world.check(None);
        world
    }

    fn step(&mut self, what: u8, how: u8, input: &mut Input<'_>) -> Option<()> {
        if what >= SPEAK {
            if let Some((station, frame)) = self.talk.next(what, input, &self.site.stations) {
                self.send(station, frame, Offload::NONE);
            }
            return Some(());
        }
        if what < TIME {
            let (parameter, len) = (input.word()?, input.word()?);
            let mut frame = input.bytes(usize::from(len)).to_vec();
            if how & REPAIR != 0 {
                repair(&mut frame);
            }
            let station = usize::from(what) % self.site.stations.len();
            let offload = promise(how & !REPAIR, parameter, &frame);
            self.send(station, frame, offload);
            return Some(());
        }
        match what & 0xf8 {
            RULES => self.rules(how, input),
            DEFAULT => self.default(how),
            HEALTH => drop(self.site.conditions[usize::from(how & 1)].note(how & 2 != 0)),
            UPLINK => self.uplink(how),
            SECURITY => self.site.secure(usize::from(how >> 1) % self.site.stations.len(), how & 1 != 0),
            FLUSH => self.flush(how),
            SERVE => self.serve(how),
            _ => {
                self.site.switch.now += Duration::from_millis(50 * u64::from(how));
                self.site.switch.run();
                self.punts();
            }
        }
        self.check(None);
        Some(())
    }

    /// A station sends a frame; a VLAN's goes behind its tag.
    fn send(&mut self, station: usize, mut frame: Vec<u8>, mut offload: Offload) {
        let mut device = station;
        if let Some((trunk, vid)) = self.site.spots[station].vlan
            && frame.len() >= ethernet::HEADER_LEN
        {
            let [a, b] = vid.to_be_bytes();
            frame.splice(12..12, [0x81, 0x00, a, b]);
            offload.header_len = offload.header_len.saturating_add(4);
            if let vswitchd::frame::Checksum::Partial { start, .. } = &mut offload.checksum {
                *start = start.saturating_add(4);
            }
            device = trunk;
        }
        let dealt = self.site.deal(device, &frame, false);
        let sent = dealt.map(|(station, frame)| Sent { station, frame, offload });
        if let Some(sent) = &sent {
            self.watch.hear(sent);
        }
        let from = self.site.stations[device].clone();
        self.site.switch.send_promising(&from, &frame, offload);
        self.check(sent.as_ref());
    }

    /// A new list of rules, one more, or one less.
    fn rules(&mut self, how: u8, input: &mut Input<'_>) {
        let count = if how & 0x80 == 0 { how & 7 } else { u8::from(how & 0x40 == 0) };
        let lines: Vec<Line> = (0..count).map_while(|_| self.line(input)).collect();
        let listed = |line: &Line| Arc::new(Listed::new(line.rule(&self.site.stations), None));
        let list = &mut self.watch.judge.lines;
        let snapshot = self.site.switch.shared.snapshot_full();
        let place = usize::from(how & 7).min(list.len());
        let policy = match (how & 0x80, how & 0x40, lines.first()) {
            (0, ..) => {
                let policy =
                    Policy::new(lines.iter().map(listed).collect(), snapshot.policy.defaults().clone());
                *list = lines;
                policy
            }
            (_, 0, Some(line)) => {
                list.insert(place, *line);
                snapshot.policy.with(place, listed(line))
            }
            _ => {
                if place < list.len() {
                    list.remove(place);
                }
                snapshot.policy.without(place)
            }
        };
        self.site.switch.set_policy(policy);
    }

    fn line(&self, input: &mut Input<'_>) -> Option<Line> {
        let (how, from, to, port) = (input.byte()?, input.byte()?, input.byte()?, input.byte()?);
        let protocol = [None, Some(Protocol::Tcp), Some(Protocol::Udp), Some(Protocol::Icmp)];
        let protocol = protocol[usize::from(how >> 1 & 3)];
        let has_ports = matches!(protocol, Some(Protocol::Tcp | Protocol::Udp)) && how & 8 != 0;
        let ports = [7, site::SERVICE, 53, 443, site::NEAR_SERVICE, 5353, 61_000, 61_001];
        Some(Line {
            allow: how & 1 != 0,
            from: self.whom(from),
            to: self.whom(to),
            protocol,
            port: has_ports.then(|| ports[usize::from(port) % ports.len()]),
        })
    }

    fn whom(&self, which: u8) -> Option<Whom> {
        const ZONES: [Zone; 3] = [Zone::Internet, Zone::Lan, Zone::Host];
        const NETS: [&str; 6] =
            ["172.30.0.0/16", "10.0.0.0/8", "10.1.0.0/28", "192.168.1.0/25", "198.51.100.0/24", "0.0.0.0/0"];
        let which = usize::from(which);
        Some(match which & 0x1f {
            0 => return None,
            place @ 1..=5 => Whom::Network(place - 1),
            place @ 6..=8 => Whom::Zone(ZONES[place - 6]),
            place @ 9..=14 => Whom::Prefix(NETS[place - 9].parse().expect("a prefix")),
            place => Whom::Station(UPLINKS + (place - 15) % (self.site.stations.len() - UPLINKS)),
        })
    }

    /// The default from one network to another, or to itself; or none any more.
    fn default(&mut self, how: u8) {
        let how = usize::from(how);
        let key = (how % PREFIXES.len(), how / 5 % PREFIXES.len());
        match how / 25 % 3 {
            0 => drop(self.watch.judge.defaults.remove(&key)),
            action => drop(self.watch.judge.defaults.insert(key, action == 1)),
        }
        let policy = self.site.switch.shared.snapshot().policy.with_defaults(self.watch.judge.defaults());
        self.site.switch.set_policy(policy);
    }

    /// An uplink goes up or down, or a network is led out by another.
    fn uplink(&mut self, how: u8) {
        let uplink = usize::from(how & 1);
        if how & 0x80 == 0 {
            let network = [0, 1, site::ROUTED, site::ROUTED][usize::from(how >> 1 & 3)];
            let router = self.site.stations[uplink].clone();
            self.site.switch.lead_out(id(network), &router);
            return;
        }
        let is_up = how & 2 != 0;
        self.site.switch.shared.publish(|snapshot| Arc::make_mut(&mut snapshot.uplinks[uplink]).up = is_up);
    }

    fn flush(&mut self, how: u8) {
        let (shared, now) = (self.site.switch.shared.clone(), self.site.switch.now);
        if how & 1 != 0 {
            shared.conntrack.flush(now, |_| true);
            self.watch.forget();
        }
        if how & 2 != 0 {
            let network = id(usize::from(how >> 2) % PREFIXES.len());
            shared.snapshot().network(network).expect("the network").fdb.flush(None);
        }
    }

    /// Control speaks: it knocks at a station, looks for one, or serves DHCP on its network or does not any more.
    fn serve(&mut self, how: u8) {
        let place = UPLINKS + usize::from(how & 0x0f) % (self.site.stations.len() - UPLINKS);
        let station = self.site.stations[place].clone();
        let Some(network) = self.site.spots[place].network else { return };
        match how >> 4 & 3 {
            0 => {
                let switch = &mut self.site.switch;
                let Some(port) = switch.shared.open_ports.open(Protocol::Tcp, u16::from(how)) else { return };
                let Some(own) = gateway(network) else { return };
                let macs = Macs { src: station.gateway_mac, dst: station.mac };
                let header = Tcp { flags: SYN, ..Tcp::default() };
                let knock = packet::tcp(macs, Endpoint::new(own, port.number()), station.at(80), header, b"");
                switch.send_out(station.id, knock);
                self.opened.push(port.number());
                self.open.push(port);
                if self.open.len() > 4 {
                    self.open.remove(0);
                }
            }
            1 => {
                self.punts();
                self.site.change_network(network, |network| network.dhcp = how & 0x40 == 0);
            }
            2 => self.site.switch.probe(id(network), station.ip),
            _ => self.punts(),
        }
    }

    /// What must hold after every step.
    fn check(&mut self, sent: Option<&Sent>) {
        let Site { switch, .. } = &self.site;
        assert_eq!(switch.imbalance(), 0, "frames in are frames out and drops");
        let mut all = Vec::new();
        for device in self.site.devices() {
            while let Some((frame, offload)) = self.site.stations[device].device.pop() {
                let dealt = self.site.deal(device, &frame, true);
                let Some((station, frame)) = dealt else { panic!("another VLAN's tag left: {frame:02x?}") };
                all.push(Seen { station, frame, offload, is_one_of_many: false });
            }
        }
        let is_one_of_many = all.len() > 1;
        for seen in all {
            let seen = Seen { is_one_of_many, ..seen };
            self.watch.see(&self.site, &seen, sent);
            self.talk.hear(seen.station, &seen.frame);
        }
        self.bounds();
    }

    /// Nobody has more than is allowed, and who counts what agrees.
    fn bounds(&self) {
        let Site { switch, stations, .. } = &self.site;
        let conntrack = &switch.shared.conntrack;
        let counts = stations.iter().map(|station| conntrack.connections_of(station.id));
        let stats = conntrack.stats();
        assert_eq!(counts.clone().map(u64::from).sum::<u64>(), stats.connections, "accounts and tables");
        assert!(counts.skip(UPLINKS).all(|count| count <= QUOTA), "more connections than the quota");
        assert!(stats.connections <= stats.limit);
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            let held = conntrack.nat_ports_of(stations[SECOND].id, protocol);
            assert!(held <= NAT_PORTS, "{held} external ports");
        }
        assert!(switch.shared.fragments.bytes() <= FRAGMENT_BYTES);
        let first = &stations[site::FIRST];
        let snapshot = switch.shared.snapshot();
        let fdb = &snapshot.network(id(0)).expect("the network").fdb;
        let learned = fdb.entries(switch.now, snapshot.mac_ageing);
        let learned = learned.iter().filter(|entry| entry.port == Some(first.id)).count();
        assert!(learned <= MACS as usize, "{learned} MAC addresses");
    }

    /// Takes what waits for the gateway's services, and sees that each has what is its own.
    fn punts(&self) {
        let shared = &self.site.switch.shared;
        let mut taken = vec![0; self.site.stations.len()];
        for queue in [&shared.punts, &shared.stack_punts] {
            while let Some(punt) = queue.take() {
                taken[punt.ingress.index()] += 1;
                self.punt(&punt);
            }
        }
        assert!(taken.into_iter().all(|count| count <= 2 * PUNT_QUEUE_PER_PORT));
    }

    fn punt(&self, punt: &Punt) {
        let Ok(ip) = Ipv4::parse(&punt.bytes[ethernet::HEADER_LEN..]) else { panic!("no packet: {punt:?}") };
        assert!(!ip.is_fragment, "not whole: {punt:?}");
        let payload = &punt.bytes[ethernet::HEADER_LEN + ip.header_len..];
        let ports = Ports::parse_quoted(ip.protocol, payload).expect("a packet with ports");
        let spot = self.site.stations.iter().position(|station| station.id == punt.ingress);
        let network = spot.and_then(|place| self.site.spots[place].network);
        assert_eq!(punt.network, network.map(id), "another network's service");
        let own = network.and_then(gateway);
        let is_for_all = ip.dst.is_broadcast() || ip.dst.octets()[3] == 255;
        match (punt.service, network) {
            (Service::DhcpClient, None) => assert_eq!((ports.dst, punt.ingress.index()), (68, 1)),
            (Service::Dhcp, Some(network)) => {
                let snapshot = self.site.switch.shared.snapshot();
                assert!(snapshot.network(id(network)).is_some_and(|network| network.dhcp), "no such service");
                assert!(ports.dst == 67 && (is_for_all || own == Some(ip.dst)), "{punt:?}");
            }
            (Service::Stack, Some(_)) => {
                assert_eq!(Some(ip.dst), own);
                assert!(ports.dst == 53 || self.opened.contains(&ports.dst), "{punt:?}");
            }
            _ => panic!("{punt:?}"),
        }
    }

    /// However it went: with time everything ends, and whoever counts is told.
    fn settle(&mut self) {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        for pause in [1, 1, 1, 1, 60] {
            self.site.switch.now += Duration::from_secs(pause);
            self.site.switch.run();
            self.check(None);
        }
        self.site.switch.now += 31 * DAY;
        for _ in 0..3 {
            self.site.switch.now += Duration::from_secs(1);
            self.site.switch.run();
        }
        self.check(None);
        self.punts();
        let shared = &self.site.switch.shared;
        assert_eq!(self.site.switch.waiting(), 0, "something waits for ever");
        assert_eq!(shared.conntrack.stats().connections, 0, "a connection never ends");
        for station in &self.site.stations {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
                assert_eq!(
                    shared.conntrack.nat_ports_of(station.id, protocol),
                    0,
                    "a port is never free again"
                );
            }
        }
        assert!(shared.punts.is_empty() && shared.stack_punts.is_empty());
    }
}
