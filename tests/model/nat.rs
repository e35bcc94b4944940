//! Three containers, a world, published ports: flows that open, answer, fall silent and are reported about.

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use vswitchd::addr::{Endpoint, Protocol};
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, NAT_PORTS, Station, Switch};
use vswitchd::snapshot::{NetworkMode, UplinkMode};
use vswitchd::wire::checksum::{checksum, fold, pseudo_header, sum};
use vswitchd::wire::ethernet;
use vswitchd::wire::ipv4::{self, Ipv4};
use vswitchd::wire::transport::{ACK, FIN, Kind, Ports, RST, SYN};

const CONTAINERS: usize = 3;
/// Container ports, and identifiers of echo: one in the external range, which masquerading may keep.
const PORTS: [u16; 3] = [1000, 5001, 61_500];
const REMOTES: [Endpoint; 3] = [
    Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), 53),
    Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), 443),
    Endpoint::new(Ipv4Addr::new(203, 0, 113, 9), 53),
];
/// Ports of the uplink's address that are published now and then.
const PUBLISHED: [u16; 2] = [8080, 62_000];
/// A router that is no party to any flow.
const THIRD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

/// What TCP may say without breaking its own rules; the last one is a RST at a number that nobody expects.
const FLAGS: [u8; 5] = [SYN, SYN | ACK, ACK, FIN | ACK, RST];

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A container's packet to the world.
    Out {
        from: usize,
        protocol: Protocol,
        port: usize,
        remote: usize,
        flags: usize,
    },
    /// The world's packet to what a flow looks like from outside; to a published port; to any port.
    Answer {
        flow: usize,
        flags: usize,
    },
    Client {
        protocol: Protocol,
        port: usize,
        remote: usize,
        flags: usize,
    },
    Stray {
        protocol: Protocol,
        port: u16,
        remote: usize,
        flags: usize,
    },
    /// A container's packet to a published port, by the uplink's address.
    Around {
        from: usize,
        protocol: Protocol,
        port: usize,
        to: usize,
        flags: usize,
    },
    /// An ICMP error about an earlier packet, by who received it or by somebody on its way.
    Report {
        about: usize,
        kind: u8,
        code: u8,
        quoted: usize,
        third: bool,
    },
    Publish {
        protocol: Protocol,
        port: usize,
        to: usize,
    },
    Withdraw {
        protocol: Protocol,
        port: usize,
    },
    Flush {
        of: usize,
    },
    Pass {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let protocol = || prop_oneof![Just(Protocol::Udp), Just(Protocol::Tcp), Just(Protocol::Icmp)];
    let publishable = || prop_oneof![Just(Protocol::Udp), Just(Protocol::Tcp)];
    // SYN and ACK open flows; the others are rarer.
    let flags = || prop_oneof![3 => Just(0_usize), 2 => Just(1), 3 => Just(2), 1 => Just(3), 1 => Just(4)];
    let seconds = prop_oneof![4 => 1..30_u64, 2 => 30..320_u64, 1 => Just(8000)];
    prop_oneof![
        8 => (0..CONTAINERS, protocol(), 0..3_usize, 0..3_usize, flags()).prop_map(
            |(from, protocol, port, remote, flags)| Step::Out { from, protocol, port, remote, flags }),
        8 => (any::<usize>(), flags()).prop_map(|(flow, flags)| Step::Answer { flow, flags }),
        3 => (publishable(), 0..2_usize, 0..3_usize, flags()).prop_map(
            |(protocol, port, remote, flags)| Step::Client { protocol, port, remote, flags }),
        1 => (protocol(), NAT_PORTS, 0..3_usize, flags()).prop_map(
            |(protocol, port, remote, flags)| Step::Stray { protocol, port, remote, flags }),
        3 => (0..CONTAINERS, publishable(), 0..3_usize, 0..2_usize, flags()).prop_map(
            |(from, protocol, port, to, flags)| Step::Around { from, protocol, port, to, flags }),
        4 => (any::<usize>(), prop_oneof![Just((3, 1)), Just((3, 4)), Just((11, 0))], 20..80_usize, any::<bool>())
            .prop_map(|(about, (kind, code), quoted, third)| Step::Report { about, kind, code, quoted, third }),
        2 => (publishable(), 0..2_usize, 0..CONTAINERS).prop_map(
            |(protocol, port, to)| Step::Publish { protocol, port, to }),
        1 => (publishable(), 0..2_usize).prop_map(|(protocol, port)| Step::Withdraw { protocol, port }),
        1 => (0..CONTAINERS).prop_map(|of| Step::Flush { of }),
        3 => seconds.prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// Which side of the translation a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Inside,
    Outside,
}

/// How far a connection of TCP is: who sent a SYN, who acknowledged the other's, and who sent a FIN.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    syn: [bool; 2],
    agreed: [bool; 2],
    fin: [bool; 2],
}

impl Progress {
    /// Notes a segment, and says whether it is a sign of life.
    fn note(&mut self, side: Side, flags: u8) -> bool {
        if flags & RST != 0 {
            // Nobody expects it.
            return false;
        }
        let was_over = self.fin == [true, true];
        self.syn[side as usize] |= flags & SYN != 0;
        self.agreed[side as usize] |= flags & ACK != 0 && self.syn == [true, true];
        self.fin[side as usize] |= flags & FIN != 0;
        side == Side::Inside || !was_over
    }

    fn lasts(self) -> u64 {
        if self.agreed == [true, true] && self.fin == [false, false] { 7440 } else { 240 }
    }
}

#[derive(Debug, Clone)]
struct Connection {
    protocol: Protocol,
    inside: Endpoint,
    outside: Endpoint,
    remote: Endpoint,
    /// Whether its outside port is its inside endpoint's mapping.
    mapped: bool,
    progress: Progress,
    ends: u64,
    packets: u64,
}

impl Connection {
    fn note(&mut self, side: Side, flags: u8, now: u64) {
        self.packets += 1;
        // Nobody outside keeps a masqueraded flow alive, nor a connection of TCP that is over.
        let refreshes = match self.protocol {
            Protocol::Tcp => self.progress.note(side, flags),
            Protocol::Udp | Protocol::Icmp => side == Side::Inside || !self.mapped,
        };
        if refreshes {
            self.ends = now + self.lasts();
        }
    }

    fn lasts(&self) -> u64 {
        match self.protocol {
            Protocol::Tcp => self.progress.lasts(),
            Protocol::Udp => 300,
            Protocol::Icmp => 60,
        }
    }
}

/// What a packet is, to the translator.
#[derive(Debug, Clone, Copy)]
struct Asked {
    protocol: Protocol,
    flags: u8,
    is_answer: bool,
}

impl Asked {
    fn opens(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.flags == SYN,
            Protocol::Udp | Protocol::Icmp => !self.is_answer,
        }
    }
}

/// An address translator.
struct Nat {
    now: u64,
    connections: Vec<Connection>,
    published: Vec<(Protocol, u16, Endpoint)>,
}

impl Nat {
    /// A packet from inside: what its source becomes. `choose` tells which external port was chosen, where that is
    /// not for the rules to say.
    fn outward(
        &mut self,
        asked: Asked,
        inside: Endpoint,
        remote: Endpoint,
        choose: impl FnOnce() -> Option<u16>,
    ) -> Option<Endpoint> {
        let Asked { protocol, flags, .. } = asked;
        let is_it = |c: &&mut Connection| c.protocol == protocol && c.inside == inside && c.remote == remote;
        if let Some(connection) = self.connections.iter_mut().find(is_it) {
            connection.note(Side::Inside, flags, self.now);
            return Some(connection.outside);
        }
        if !asked.opens() {
            return None;
        }
        let chosen = choose().expect("a packet that may open a connection goes out");
        for other in self.connections.iter().filter(|c| c.protocol == protocol && c.mapped) {
            // RFC 4787 REQ-1 and REQ-3: one external port for one inside endpoint, and for no other.
            assert_eq!(
                other.inside == inside,
                other.outside.port == chosen,
                "{inside} as {chosen}, beside {other:?}"
            );
        }
        assert!(NAT_PORTS.contains(&chosen), "{chosen} is not for masquerading");
        let taken = self.published.iter().any(|&(of, port, _)| of == protocol && port == chosen);
        let known = self.connections.iter().any(|c| c.protocol == protocol && c.inside == inside);
        assert!(!taken || known, "{chosen} is published");
        let outside = Endpoint::new(EXTERNAL, chosen);
        self.open(asked, Side::Inside, [inside, outside, remote]);
        Some(outside)
    }

    /// A packet from outside, or around from a container: where it goes.
    fn inward(
        &mut self,
        asked: Asked,
        outside: Endpoint,
        remote: Endpoint,
        is_hairpin: bool,
    ) -> Option<Endpoint> {
        let Asked { protocol, flags, .. } = asked;
        let is_it =
            |c: &&mut Connection| c.protocol == protocol && c.outside == outside && c.remote == remote;
        if let Some(connection) = self.connections.iter_mut().find(is_it) {
            connection.note(Side::Outside, flags, self.now);
            return Some(connection.inside);
        }
        let holder = || self.holder(protocol, outside.port).filter(|_| is_hairpin);
        let inside = self.target(protocol, outside.port).or_else(holder)?;
        let ambiguous = self
            .connections
            .iter()
            .any(|c| c.protocol == protocol && c.inside == inside && c.remote == remote);
        if ambiguous || !asked.opens() {
            return None;
        }
        self.open(asked, Side::Outside, [inside, outside, remote]);
        Some(inside)
    }

    fn open(&mut self, asked: Asked, opener: Side, [inside, outside, remote]: [Endpoint; 3]) {
        let Asked { protocol, flags, .. } = asked;
        let progress = Progress::default();
        let mapped = opener == Side::Inside || self.holder(protocol, outside.port) == Some(inside);
        let mut new = Connection { protocol, inside, outside, remote, mapped, progress, ends: 0, packets: 0 };
        new.ends = self.now + new.lasts();
        new.note(opener, flags, self.now);
        self.connections.push(new);
    }

    fn target(&self, protocol: Protocol, port: u16) -> Option<Endpoint> {
        let found = self.published.iter().find(|&&(of, at, _)| of == protocol && at == port);
        found.map(|&(_, _, target)| target)
    }

    /// Whose mapping has this external port.
    fn holder(&self, protocol: Protocol, port: u16) -> Option<Endpoint> {
        self.find(|c| c.protocol == protocol && c.mapped && c.outside.port == port).map(|c| c.inside)
    }

    fn find(&self, which: impl Fn(&Connection) -> bool) -> Option<&Connection> {
        self.connections.iter().find(|c| which(c))
    }
}

/// A packet that was delivered.
#[derive(Debug, Clone)]
struct Delivered {
    sent: Vec<u8>,
    receiver: usize,
    got: Vec<u8>,
}

/// The world's place in the list of stations, behind the containers.
const WORLD: usize = CONTAINERS;

struct World {
    switch: Switch,
    stations: Vec<Station>,
    nat: Nat,
    delivered: Vec<Delivered>,
}

impl World {
    fn new() -> World {
        let mut switch = Switch::new(4096);
        let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
        let router = switch.add_uplink(UplinkMode::Shared);
        let mut stations: Vec<_> = (0..CONTAINERS).map(|_| switch.add_port(network)).collect();
        stations.push(router);
        let nat = Nat { now: 0, connections: Vec::new(), published: Vec::new() };
        World { switch, stations, nat, delivered: Vec::new() }
    }

    fn step(&mut self, step: Step) {
        // Whoever is asked for its address answers at once.
        for station in &self.stations {
            self.switch.resolve(station);
        }
        match step {
            Step::Out { from, protocol, port, remote, flags } => {
                let remote = peer(protocol, remote);
                let inside = self.stations[from].at(PORTS[port]);
                self.exchange(from, asked(protocol, flags, false), inside, remote);
            }
            Step::Answer { flow, flags } if !self.nat.connections.is_empty() => {
                let flow = self.nat.connections[flow % self.nat.connections.len()].clone();
                // What goes around is answered by a container.
                if flow.remote.ip != EXTERNAL {
                    let asked = asked(flow.protocol, flags, true);
                    self.exchange(WORLD, asked, flow.remote, flow.outside);
                } else if let Some(from) = self.number_of(flow.inside.ip) {
                    self.exchange(from, asked(flow.protocol, flags, false), flow.inside, flow.remote);
                }
            }
            Step::Answer { .. } => {}
            Step::Client { protocol, port, remote, flags } => {
                let to = Endpoint::new(EXTERNAL, PUBLISHED[port]);
                self.exchange(WORLD, asked(protocol, flags, false), REMOTES[remote], to);
            }
            Step::Stray { protocol, port, remote, flags } => {
                let to = Endpoint::new(EXTERNAL, port);
                self.exchange(WORLD, asked(protocol, flags, true), peer(protocol, remote), to);
            }
            Step::Around { from, protocol, port, to, flags } => {
                let to = Endpoint::new(EXTERNAL, PUBLISHED[to]);
                self.exchange(from, asked(protocol, flags, false), self.stations[from].at(PORTS[port]), to);
            }
            Step::Report { about, kind, code, quoted, third } if !self.delivered.is_empty() => {
                let about = self.delivered[about % self.delivered.len()].clone();
                self.report(&about, [kind, code], quoted, third);
            }
            Step::Report { .. } => {}
            Step::Publish { protocol, port, to } => self.publish(protocol, PUBLISHED[port], to),
            Step::Withdraw { protocol, port } => self.withdraw(protocol, PUBLISHED[port]),
            Step::Flush { of } => {
                let ip = self.stations[of].ip;
                self.switch.shared.conntrack.flush(self.switch.now, |info| info.inside.ip == ip);
                self.nat.connections.retain(|c| c.inside.ip != ip);
            }
            Step::Pass { seconds } => self.pass(seconds),
        }
        self.compare_connections();
        assert_eq!(self.switch.imbalance(), 0, "frames in are frames out and drops");
    }

    /// A packet, and what must become of it.
    fn exchange(&mut self, sender: usize, mut asked: Asked, src: Endpoint, dst: Endpoint) {
        if asked.protocol == Protocol::Tcp && asked.flags & SYN != 0 && self.is_closing(src, dst) {
            // Whether a SYN reopens is a question of its own.
            asked.flags = ACK;
        }
        let frame = self.packet(sender, asked, src, dst);
        self.switch.send(&self.stations[sender], &frame);
        let got = self.received();
        let chosen = || got.first().map(|(_, frame)| endpoints(frame).0.port);
        let expected = if sender == WORLD {
            self.nat.inward(asked, dst, src, false).map(|inside| (src, inside))
        } else if dst.ip != EXTERNAL {
            self.nat.outward(asked, src, dst, chosen).map(|shown| (shown, dst))
        } else {
            self.around(asked, src, dst, chosen)
        };
        let Some((new_src, new_dst)) = expected else {
            // The world is told only that a published port cannot take it.
            let is_told = sender != WORLD || self.nat.target(asked.protocol, dst.port).is_some();
            let silent = got.iter().all(|(to, frame)| *to == sender && is_told && is_refusal(frame));
            assert!(silent, "{asked:?} {src} to {dst} goes nowhere, but {got:02x?}");
            return;
        };
        let receiver = self.number_of(new_dst.ip).unwrap_or(WORLD);
        let [(to, frame_got)] = &got[..] else {
            panic!("{asked:?} {src} to {dst} is not one frame: {got:02x?}")
        };
        assert_eq!((*to, endpoints(frame_got)), (receiver, (new_src, new_dst)), "{asked:?} {src} to {dst}");
        is_sound(frame_got);
        assert_eq!(frame_got[22], 63, "one hop");
        let payload = if asked.protocol == Protocol::Tcp { 54.. } else { 42.. };
        assert_eq!(frame_got[payload.clone()], frame[payload], "the payload");
        self.delivered.push(Delivered { sent: frame, receiver, got: frame_got.clone() });
    }

    /// From a container to the uplink's address: first out, then in.
    fn around(
        &mut self,
        asked: Asked,
        src: Endpoint,
        dst: Endpoint,
        chosen: impl FnOnce() -> Option<u16>,
    ) -> Option<(Endpoint, Endpoint)> {
        let Asked { protocol, .. } = asked;
        // Whom the packet is for must be known before it changes anything.
        let is_from = |c: &Connection| c.protocol == protocol && c.inside == src;
        let own = self.nat.find(|c| is_from(c) && c.remote == dst).map(|c| c.outside);
        let own = own.or_else(|| self.nat.find(|c| is_from(c) && c.mapped).map(|c| c.outside));
        let known = own
            .and_then(|own| self.nat.find(|c| c.protocol == protocol && c.outside == dst && c.remote == own));
        let known = known.map(|c| c.inside).or_else(|| self.nat.target(protocol, dst.port));
        known.or_else(|| self.nat.holder(protocol, dst.port))?;
        let shown = self.nat.outward(asked, src, dst, chosen)?;
        let inside = self.nat.inward(asked, dst, shown, true)?;
        Some((shown, inside))
    }

    /// An ICMP error about a packet that was delivered.
    fn report(&mut self, about: &Delivered, kind: [u8; 2], quoted: usize, third: bool) {
        let quoted = about.got[14..about.got.len().min(14 + quoted)].to_vec();
        let (seen_src, seen_dst) = endpoints(&about.got);
        let macs = self.macs(about.receiver);
        let outer = if third { THIRD } else { seen_dst.ip };
        // From outside, the sender of an error is anybody.
        let outer = if about.receiver == WORLD || !third { outer } else { Ipv4Addr::new(10, 5, 0, 9) };
        let mut message = vec![kind[0], kind[1], 0, 0, 0, 0, 5, 0];
        message.extend(&quoted);
        let value = checksum(&message);
        message[2..4].copy_from_slice(&value.to_be_bytes());
        let frame = packet::ip(macs, outer, seen_src.ip, ipv4::ICMP, &message);
        let before: Vec<_> = self.nat.connections.iter().map(|c| (c.ends, c.packets)).collect();
        self.switch.send(&self.stations[about.receiver], &frame);
        let got = self.received();

        let protocol = protocol_of(&about.got);
        let tells = quoted.len() >= 28;
        let own = |c: &&Connection| c.protocol == protocol;
        let connections = &self.nat.connections;
        let out = connections.iter().filter(own).find(|c| c.outside == seen_src && c.remote == seen_dst);
        let inward = connections.iter().filter(own).find(|c| c.inside == seen_dst && c.remote == seen_src);
        // Who gets it, and the endpoints of the quote as that one knows them.
        let expected = match (about.receiver == WORLD, seen_src.ip == EXTERNAL) {
            (true, _) => out.map(|c| (c.inside.ip, c.inside, seen_dst, outer)),
            (false, false) => inward.map(|c| (seen_src.ip, seen_src, c.outside, c.outside.ip)),
            // A hairpin; who is behind the container has no part in it.
            (false, true) if third => None,
            (false, true) => inward.and_then(|c| {
                let other = connections
                    .iter()
                    .filter(own)
                    .find(|o| o.outside == seen_src && o.remote == c.outside)?;
                Some((other.inside.ip, other.inside, c.outside, EXTERNAL))
            }),
        };
        let Some((to, src, dst, by)) = expected.filter(|_| tells) else {
            assert_eq!(got, [], "an error about nothing");
            return;
        };
        let [(receiver, frame)] = &got[..] else { panic!("not one frame: {got:02x?}") };
        assert_eq!(*receiver, self.number_of(to).unwrap_or(WORLD), "who is told");
        is_sound(frame);
        let ip = Ipv4::parse(&frame[14..]).unwrap();
        assert_eq!((ip.src, ip.dst), (by, to));
        assert_eq!(
            (&frame[34..36], &frame[38..42]),
            (&kind[..], &[0, 0, 5, 0][..]),
            "type, code and the rest"
        );
        let inner = &frame[42..];
        let inner_ip = Ipv4::parse_quoted(inner).expect("a right checksum of the quoted header");
        let ports = Ports::parse_quoted(inner_ip.protocol, &inner[20..]).unwrap();
        let told = (Endpoint::new(inner_ip.src, ports.src), Endpoint::new(inner_ip.dst, ports.dst));
        assert_eq!(told, (src, dst), "the quote");
        let (sent_src, sent_dst) = endpoints(&about.sent);
        if (src, dst) == (sent_src, sent_dst) && inner.len() != 37 {
            // But for the TTL and the header's checksum, what was once sent: the transport's checksum, too.
            let sent = &about.sent[14..14 + inner.len()];
            assert_eq!((&inner[..8], &inner[12..]), (&sent[..8], &sent[12..]));
        }
        let after: Vec<_> = self.nat.connections.iter().map(|c| (c.ends, c.packets)).collect();
        assert_eq!(before, after);
    }

    fn publish(&mut self, protocol: Protocol, port: u16, to: usize) {
        // Two publications of one endpoint would be two names for one flow of a client, of which one is refused.
        let target = self.stations[to].at(port / 10);
        let dealt = self.nat.find(|c| c.protocol == protocol && c.mapped && c.outside.port == port);
        // Who has the port already may keep it; that is the control's to refuse.
        if dealt.is_some() || self.nat.target(protocol, port).is_some() {
            return;
        }
        self.switch.publish(protocol, port, &self.stations[to], target.port);
        self.nat.published.push((protocol, port, target));
    }

    fn withdraw(&mut self, protocol: Protocol, port: u16) {
        if self.nat.target(protocol, port).is_none() {
            return;
        }
        let shared = &self.switch.shared;
        shared.publish(|snapshot| {
            std::sync::Arc::make_mut(&mut snapshot.publications).remove(protocol, None, port);
        });
        shared.conntrack.release(protocol, port, self.switch.now);
        shared
            .conntrack
            .flush(self.switch.now, |info| info.protocol == protocol && info.outside.port == port);
        self.nat.published.retain(|&(of, at, _)| (of, at) != (protocol, port));
        self.nat.connections.retain(|c| c.protocol != protocol || c.outside.port != port);
    }

    /// Time passes. A connection whose time is over is there for a second or two more, so that nothing happens in
    /// that time here.
    fn pass(&mut self, mut seconds: u64) {
        loop {
            self.nat.now += seconds;
            self.switch.now += Duration::from_secs(seconds - 1);
            // The last second in a few turns, since a turn looks at a bounded number of connections.
            for _ in 0..4 {
                self.switch.now += Duration::from_millis(250);
                self.switch.run();
            }
            let now = self.nat.now;
            if !self.nat.connections.iter().any(|c| c.ends <= now + 1 && now < c.ends + 4) {
                break;
            }
            seconds = 5;
        }
        self.nat.connections.retain(|c| c.ends > self.nat.now);
        self.received();
    }

    fn compare_connections(&self) {
        let entries = self.switch.shared.conntrack.entries(self.switch.now);
        let mut listed: Vec<_> = entries
            .iter()
            .map(|c| (c.protocol as u8, c.inside, c.outside, c.remote, c.packets.iter().sum::<u64>()))
            .collect();
        let connections = self.nat.connections.iter();
        let mut expected: Vec<_> =
            connections.map(|c| (c.protocol as u8, c.inside, c.outside, c.remote, c.packets)).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected, "the connections");
    }

    /// Whether a connection between these two has seen a FIN.
    fn is_closing(&self, a: Endpoint, b: Endpoint) -> bool {
        let ends = [a, b];
        let touches = |c: &Connection| {
            ends.contains(&c.inside) || (ends.contains(&c.outside) && ends.contains(&c.remote))
        };
        self.nat.connections.iter().any(|c| c.progress.fin != [false, false] && touches(c))
    }

    fn number_of(&self, ip: Ipv4Addr) -> Option<usize> {
        self.stations[..CONTAINERS].iter().position(|station| station.ip == ip)
    }

    fn macs(&self, from: usize) -> Macs {
        Macs { src: self.stations[from].mac, dst: self.stations[from].gateway_mac }
    }

    fn packet(&self, from: usize, asked: Asked, src: Endpoint, dst: Endpoint) -> Vec<u8> {
        let macs = self.macs(from);
        match asked.protocol {
            Protocol::Udp => packet::udp(macs, src, dst, b"sixteen bytes it is"),
            Protocol::Tcp => {
                // Nobody expects a RST at this number.
                let seq = if asked.flags & RST != 0 { 0x7000_0000 } else { 100 };
                packet::tcp(macs, src, dst, Tcp { seq, ack: 101, flags: asked.flags }, b"data")
            }
            Protocol::Icmp => {
                let id = if asked.is_answer { dst.port } else { src.port };
                packet::echo(macs, src.ip, dst.ip, !asked.is_answer, id, b"sixteen bytes it is")
            }
        }
    }

    /// All that stations have received but ARP, with their numbers.
    fn received(&self) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        for (number, station) in self.stations.iter().enumerate() {
            while let Some((frame, _)) = station.device.pop() {
                if frame[12..14] == ethernet::IPV4.to_be_bytes() {
                    all.push((number, frame));
                }
            }
        }
        all
    }
}

fn asked(protocol: Protocol, flags: usize, is_answer: bool) -> Asked {
    let flags = if protocol == Protocol::Tcp { FLAGS[flags] } else { 0 };
    Asked { protocol, flags, is_answer: is_answer && protocol == Protocol::Icmp }
}

/// A remote endpoint; an echo's has no identifier.
fn peer(protocol: Protocol, remote: usize) -> Endpoint {
    let remote = REMOTES[remote];
    Endpoint { port: if protocol == Protocol::Icmp { 0 } else { remote.port }, ..remote }
}

fn protocol_of(frame: &[u8]) -> Protocol {
    match frame[23] {
        ipv4::TCP => Protocol::Tcp,
        ipv4::UDP => Protocol::Udp,
        _ => Protocol::Icmp,
    }
}

/// Source and destination, with an echo's identifier on the side that asks.
fn endpoints(frame: &[u8]) -> (Endpoint, Endpoint) {
    let ip = Ipv4::parse(&frame[14..]).expect("a right IP header");
    let ports = Ports::parse_quoted(ip.protocol, &frame[34..]);
    let ports = ports.unwrap_or(Ports { kind: Kind::Udp, src: 0, dst: 0 });
    (Endpoint::new(ip.src, ports.src), Endpoint::new(ip.dst, ports.dst))
}

/// Whether it is the gateway's word that a packet goes nowhere.
fn is_refusal(frame: &[u8]) -> bool {
    frame[23] == ipv4::ICMP && frame[34] == 3
}

/// Whether all checksums are right, computed anew.
fn is_sound(frame: &[u8]) {
    let ip = Ipv4::parse(&frame[14..]).expect("a right IP header");
    let payload = &frame[34..14 + ip.total_len];
    let pseudo = match ip.protocol {
        ipv4::ICMP => 0,
        protocol => pseudo_header(ip.src, ip.dst, protocol, payload.len()),
    };
    assert_eq!(fold(pseudo + sum(payload)), 0xffff, "the transport's checksum of {frame:02x?}");
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_translator_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for &step in &steps {
            world.step(step);
        }
    }
}
