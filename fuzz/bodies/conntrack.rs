//! Connection tracking under any sequence of packets, timeouts, flushes and reservations.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use vswitchd::addr::{Endpoint, PortId, Protocol};
use vswitchd::clock::Time;
use vswitchd::drops::DropReason;
use vswitchd::table::conntrack::{Answer, Direction, Nat, NewConnection, Seen, Table, Timeouts, Track};
use vswitchd::wire::transport::TcpSegment;

use super::Input;

/// So few that inputs reach the bounds.
const LIMIT: usize = 24;
const PORTS: std::ops::RangeInclusive<u16> = 61_000..=61_007;
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The input is a sequence of operations of four bytes: what, who, whom, how.
pub fn run(input: &[u8]) {
    let mut world = World {
        table: Table::new(LIMIT, PORTS),
        now: Time::from_secs(1),
        live: HashMap::new(),
        tracks: Vec::new(),
        timeouts: Timeouts::default(),
    };
    let mut input = Input(input);
    while let (Some(what), Some(who), Some(whom), Some(how)) =
        (input.byte(), input.byte(), input.byte(), input.byte())
    {
        world.step(what, who, whom, how);
        world.check();
    }
    // However it went: with time, everything ends, and whoever counts is told.
    world.now += Duration::from_secs(100_000);
    for _ in 0..=LIMIT {
        world.expire();
    }
    assert_eq!(world.table.stats().connections, 0, "a connection never ends");
    world.check();
}

struct World {
    table: Table,
    now: Time,
    /// Connections of each port of the switch, as the caller of the table counts them.
    live: HashMap<PortId, u64>,
    /// What a flow cache remembers, with the connection that it is about.
    tracks: Vec<(Track, Protocol, [Endpoint; 3])>,
    timeouts: Timeouts,
}

impl World {
    fn step(&mut self, what: u8, who: u8, whom: u8, how: u8) {
        let port = PortId(u16::from(who % 4) + 1);
        let inside = Endpoint::new(Ipv4Addr::new(172, 30, 0, who % 4), inside_port(who));
        let remote = Endpoint::new(Ipv4Addr::new(203, 0, 113, whom % 4), 50 + u16::from(whom >> 6));
        let seen = self.seen(what, how);
        match what & 0x0f {
            0..=4 => self.outward(port, inside, remote, &seen),
            5 => {
                let direction = if whom & 0x20 == 0 { Direction::Outward } else { Direction::Inward };
                self.direct(port, direction, inside, remote, &seen);
            }
            6..=9 => {
                let outside = Endpoint::new(EXTERNAL, PORTS.start() + u16::from(how & 7));
                let target = (what & 1 == 0).then_some(inside);
                self.inward(port, outside, remote, target, &seen);
            }
            // Up to 8,160 seconds, which is longer than any timeout.
            10 => self.now += Duration::from_secs(u64::from(who) << (whom % 6)),
            11 => self.expire(),
            12 => self.flush(port),
            13 => self.table.reserve(seen.protocol, PORTS.start() + u16::from(how & 7)),
            14 => self.table.release(seen.protocol, PORTS.start() + u16::from(how & 7), self.now),
            _ if how & 0x80 != 0 => self.reclaim((whom & 1 == 0).then_some(port)),
            _ => {
                self.timeouts.udp = Duration::from_secs(u64::from(who) + 1);
            }
        }
    }

    fn seen(&self, what: u8, how: u8) -> Seen {
        let protocol = match what >> 4 & 3 {
            0 | 1 => Protocol::Tcp,
            2 => Protocol::Udp,
            _ => Protocol::Icmp,
        };
        let segment = TcpSegment { seq: u32::from(how), ack: u32::from(how), flags: how, len: 1 };
        Seen {
            protocol,
            segment: (protocol == Protocol::Tcp).then_some(segment),
            is_answer: protocol == Protocol::Icmp && how & 1 != 0,
            bytes: 60,
            now: self.now,
        }
    }

    fn outward(&mut self, port: PortId, inside: Endpoint, remote: Endpoint, seen: &Seen) {
        let known = self.table.peek_outward(seen.protocol, inside, remote);
        let mapping = self.table.mapping(seen.protocol, inside);
        let mut made = false;
        let allow = || {
            made = true;
            Ok(NewConnection { port, hairpin: false, called: false })
        };
        let answer = self.table.outward(inside, remote, EXTERNAL, seen, allow, &self.timeouts);
        let Ok(Answer { endpoint: outside, track }) = answer else {
            assert_eq!(known, None, "a connection refused its own packet");
            return;
        };
        assert!(PORTS.contains(&outside.port) && outside.ip == EXTERNAL);
        assert_eq!(self.table.peek_inward(seen.protocol, outside, remote), Some(inside));
        self.tracks.extend(track.map(|track| (track, seen.protocol, [inside, outside, remote])));
        match known {
            Some(known) => assert_eq!(outside, known, "a connection changed its translation"),
            None => {
                assert!(made, "a connection that nobody allowed");
                *self.live.entry(port).or_default() += 1;
                if let Some(mapping) = mapping {
                    assert_eq!(outside.port, mapping, "RFC 4787 REQ-1");
                }
            }
        }
    }

    fn inward(
        &mut self,
        port: PortId,
        outside: Endpoint,
        remote: Endpoint,
        target: Option<Endpoint>,
        seen: &Seen,
    ) {
        let known = self.table.peek_inward(seen.protocol, outside, remote);
        let allow = || Ok::<_, DropReason>(NewConnection { port, hairpin: false, called: true });
        let answer = self.table.inward(outside, remote, target, seen, allow, &self.timeouts);
        match (answer.map(|answer| answer.endpoint), known) {
            (Ok(inside), Some(known)) => assert_eq!(inside, known),
            (Ok(inside), None) => {
                assert_eq!(Some(inside), target, "an unpublished port let something in");
                *self.live.entry(port).or_default() += 1;
            }
            (Err(_), known) => assert_eq!(known, None, "a connection refused its own packet"),
        }
    }

    fn direct(
        &mut self,
        port: PortId,
        direction: Direction,
        inside: Endpoint,
        neighbor: Endpoint,
        seen: &Seen,
    ) {
        let known = self.table.has_direct(seen.protocol, inside, neighbor);
        let called = direction == Direction::Inward;
        let allow = || Ok::<_, DropReason>(NewConnection { port, hairpin: false, called });
        let Ok(answer) = self.table.direct(direction, inside, neighbor, seen, allow, &self.timeouts) else {
            assert!(!known, "a connection refused its own packet");
            return;
        };
        if !known {
            *self.live.entry(port).or_default() += 1;
        }
        assert!(self.table.has_direct(seen.protocol, inside, neighbor));
        assert_eq!(answer.endpoint, inside, "it is translated");
    }

    /// Room is made by a connection that is over or that nobody here has asked for, of this port if one is given.
    fn reclaim(&mut self, of: Option<PortId>) {
        let before = self.table.stats();
        let over = self.table.reclaim_over(of, self.now);
        let Some(ended) = over.or_else(|| self.table.reclaim_called(of, self.now)) else { return };
        assert!(of.is_none_or(|port| port == ended.port), "another port's connection");
        *self.live.entry(ended.port).or_default() -= 1;
        assert_eq!(self.table.stats().connections + 1, before.connections);
    }

    fn expire(&mut self) {
        let live = &mut self.live;
        self.table.expire(self.now, 64, |ended| *live.entry(ended.port).or_default() -= 1);
        self.now += Duration::from_secs(1);
    }

    fn flush(&mut self, port: PortId) {
        let live = &mut self.live;
        self.table.flush(
            self.now,
            |info| info.port == port,
            |ended| *live.entry(ended.port).or_default() -= 1,
        );
        assert!(self.table.entries(self.now).all(|info| info.port != port));
    }

    fn check(&self) {
        let stats = self.table.stats();
        assert!(stats.connections <= LIMIT as u64);
        assert_eq!(stats.connections, self.live.values().sum::<u64>(), "callers and table count alike");
        let ended = stats.expired + stats.flushed + stats.reclaimed;
        assert_eq!(stats.created, stats.connections + ended);
        let activities = self.table.activities();
        for (track, protocol, [inside, outside, remote]) in &self.tracks {
            let Some(activity) = activities.alive(track.number, track.life) else { continue };
            activity.count(track.direction, 60);
            let known = self.table.peek_outward(*protocol, *inside, *remote);
            assert_eq!(known, Some(*outside), "what is remembered outlives its connection");
        }
        let mut inside = HashSet::new();
        let mut outside = HashSet::new();
        for info in self.table.entries(self.now) {
            assert!(
                inside.insert((info.protocol, info.nat == Nat::None, info.inside, info.remote)),
                "two from one inside: {info:?}"
            );
            assert!(
                outside.insert((info.protocol, info.outside, info.remote)),
                "two at one outside: {info:?}"
            );
        }
    }
}

/// Some inside ports lie in the external range, so that they can be preserved.
fn inside_port(who: u8) -> u16 {
    if who & 0x80 != 0 { PORTS.start() + u16::from(who >> 2 & 7) } else { 1_000 + u16::from(who >> 2) }
}
