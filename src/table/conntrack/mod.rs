//! Connection tracking and the address translations that hang on it.
//!
//! # Purpose
//! A connection relates three endpoints: the container's (`inside`), the one that the world sees in its
//! place (`outside`), and the peer (`remote`). Masquerading and publishing are the same relation; they
//! differ in who chose the outside endpoint and who spoke first. A packet from inside is found by
//! `(protocol, inside, remote)`, one from outside by `(protocol, outside, remote)`.
//!
//! A connection between two containers whose networks the gateway routes between is not translated. It has the same
//! three endpoints, of which `outside` is `inside`; which of the two containers is `inside` is settled by their
//! endpoints, so that a packet of either one finds it at once.
//!
//! # Mappings
//! Masquerading is endpoint-independent (RFC 4787 REQ-1, RFC 5382 REQ-1): all connections of one inside
//! endpoint share one external port, whatever their remotes. That is a mapping; it lives as long as one of
//! its connections. The port is the container's own if it is within the range and free, else a random one
//! ([`crate::table::port_pool`]). No two mappings share a port (RFC 4787 REQ-3): when none is free, a new inside
//! endpoint gets no connection, and those that have a mapping do not notice (RFC 4787 REQ-11).
//!
//! Filtering is address and port-dependent (RFC 4787 REQ-8): from outside only the remote of an existing
//! connection gets in. Only for the containers of the same network a mapping is open to everyone: they reach the
//! container directly as well.
//!
//! # States, and who moves them
//! TCP: see [`tcp`]. UDP and ICMP: unreplied until the other side speaks. A packet pushes its connection's
//! deadline; for masqueraded UDP only one from inside does (RFC 4787 REQ-6). ICMP errors push nothing and
//! end nothing (RFC 5508 REQ-6). A connection whose deadline has passed lives until the wheel comes by,
//! which is a second or two.
//!
//! # Bounds
//! A table holds `limit` connections and refuses one more. How many of them one port of the switch may
//! have, and how many external ports, is the caller's to count ([`Sponsor`]): every connection and every mapping
//! names its port, and the table tells when it ends ([`Ended`]).
//!
//! # Locks and clocks
//! None. The table is one shard; [`crate::shared::Conntrack`] owns the locks and picks the shard.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashTable;

use crate::addr::{Address, Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::drops::DropReason;
use crate::table::port_pool::PortPool;
use crate::wire::transport::TcpSegment;

mod activity;
mod index;
mod info;
mod over;
pub mod tcp;
#[cfg(test)]
mod tests;
mod timeouts;
mod wheel;

pub use activity::{Activities, Activity};
use index::Index;
pub use info::{Info, Nat, Stats};
use over::Over;
use tcp::Tcp;
pub use timeouts::Timeouts;
use wheel::Wheel;

/// Which way a packet goes through the translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the container to the world.
    Outward = 0,
    /// From the world to the container.
    Inward = 1,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn other(self) -> Direction {
        match self {
            Direction::Outward => Direction::Inward,
            Direction::Inward => Direction::Outward,
        }
    }
}

/// What a packet means to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// TCP, UDP or ICMP query.
    pub protocol: Protocol,
    /// The TCP header, where it is TCP.
    pub segment: Option<TcpSegment>,
    /// Whether it is an ICMP answer, which opens nothing.
    pub is_answer: bool,
    /// Bytes of the IP packet.
    pub bytes: usize,
    /// When.
    pub now: Time,
}

/// What a new connection needs beyond its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewConnection {
    /// The container's port of the switch, who answers for it.
    pub port: PortId,
    /// Whether its remote is reached through a second translation.
    pub hairpin: bool,
}

/// Answers for what a packet makes in a table: it is asked before.
pub trait Sponsor {
    /// A connection is to be made.
    ///
    /// # Errors
    /// Why it may not be.
    fn connection(&mut self) -> Result<NewConnection, DropReason>;

    /// The connection is to have an external port of its own, which was free until now.
    ///
    /// # Errors
    /// Why it may not.
    fn external_port(&mut self) -> Result<(), DropReason>;
}

/// Who does not mind how many external ports there are.
impl<F: FnMut() -> Result<NewConnection, DropReason>> Sponsor for F {
    fn connection(&mut self) -> Result<NewConnection, DropReason> {
        self()
    }

    fn external_port(&mut self) -> Result<(), DropReason> {
        Ok(())
    }
}

/// A connection that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The container's port of the switch, who answered for it.
    pub port: PortId,
    /// If it was the last one of a mapping: the protocol of the external port, and who answered for that.
    pub freed: Option<(Protocol, PortId)>,
}

/// What a table answers about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<A: Address = Ipv4Addr> {
    /// What the packet's own endpoint becomes on the other side of the translation.
    pub endpoint: Endpoint<A>,
    /// How further packets like it may be noted without the table; `None` if they may change more of the
    /// connection than its [`Activity`].
    pub track: Option<Track>,
}

/// How to note further packets of a direction of a connection in its [`Activity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Track {
    /// The connection's place.
    pub number: u32,
    /// The life that it leads there.
    pub life: u32,
    /// The direction.
    pub direction: Direction,
    /// Whether its packets push the deadline.
    pub refreshes: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Tcp(Tcp),
    /// UDP or an ICMP query, and whether the other side has spoken.
    Query {
        replied: bool,
    },
}

#[derive(Debug)]
struct Connection<A> {
    protocol: Protocol,
    nat: Nat,
    opener: Direction,
    /// Whether the outside port is the mapping's, to be given back with it.
    mapped: bool,
    port: PortId,
    inside: Endpoint<A>,
    outside: Endpoint<A>,
    remote: Endpoint<A>,
    state: State,
    /// How long it lives after it was last refreshed, in milliseconds.
    timeout: u32,
}

impl<A: Address> Connection<A> {
    fn has_inside(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> bool {
        self.inside == inside && self.remote == remote && self.protocol == protocol
    }

    fn has_outside(&self, protocol: Protocol, outside: Endpoint<A>, remote: Endpoint<A>) -> bool {
        self.outside == outside && self.remote == remote && self.protocol == protocol
    }

    fn note(&mut self, direction: Direction, seen: &Seen, timeouts: &Timeouts, activity: &Activity) {
        activity.count(direction, seen.bytes);
        let refreshes = match (&mut self.state, &seen.segment) {
            (State::Tcp(tcp), Some(segment)) => tcp.segment(direction, segment, activity),
            (State::Tcp(_), None) => false,
            (State::Query { replied }, _) => {
                *replied |= direction != self.opener;
                self.is_refreshed_by(direction)
            }
        };
        if refreshes {
            activity.refresh(seen.now);
            self.set_timeout(timeouts);
        }
    }

    /// Whether it is a TCP connection that only waits for late segments.
    fn is_over(&self) -> bool {
        matches!(self.state, State::Tcp(tcp) if tcp.is_over())
    }

    fn set_timeout(&mut self, timeouts: &Timeouts) {
        self.timeout = u32::try_from(self.timeout(timeouts).as_millis()).unwrap_or(u32::MAX);
    }

    /// Whether a packet of this direction pushes the deadline. From outside it does not where that would keep a
    /// mapping (RFC 4787 REQ-6), but does where a port is published, and for TCP until that says that it is over.
    fn is_refreshed_by(&self, direction: Direction) -> bool {
        let from_outside = match self.state {
            State::Tcp(tcp) => !tcp.is_over(),
            State::Query { .. } => !self.mapped,
        };
        direction == Direction::Outward || from_outside
    }

    /// Whether further packets of this direction, those with SYN, FIN or RST apart, change nothing but the
    /// connection's activity.
    fn is_settled(&self, direction: Direction) -> bool {
        match self.state {
            State::Tcp(tcp) => tcp.is_settled(),
            State::Query { replied } => replied || direction == self.opener,
        }
    }

    fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match (&self.state, self.protocol) {
            (State::Tcp(tcp), _) if tcp.state == tcp::TcpState::Established => timeouts.tcp_established,
            (State::Tcp(_), _) => timeouts.tcp_transitory,
            (State::Query { .. }, Protocol::Icmp) => timeouts.icmp,
            (State::Query { .. }, Protocol::Tcp | Protocol::Udp) => timeouts.udp,
        }
    }

    fn deadline(&self, activity: &Activity) -> Time {
        activity.refreshed() + Duration::from_millis(u64::from(self.timeout))
    }

    fn info(&self, activity: &Activity, now: Time) -> Info<A> {
        let ordered = |by_direction: [u64; 2]| {
            [by_direction[self.opener as usize], by_direction[self.opener.other() as usize]]
        };
        Info {
            protocol: self.protocol,
            state: match self.state {
                State::Tcp(tcp) => tcp.state.as_str(),
                State::Query { replied: true } => "REPLIED",
                State::Query { replied: false } => "UNREPLIED",
            },
            nat: self.nat,
            opener: self.opener,
            port: self.port,
            inside: self.inside,
            outside: self.outside,
            remote: self.remote,
            expires: self.deadline(activity).since(now),
            packets: ordered(activity.packets()),
            bytes: ordered(activity.bytes()),
        }
    }
}

/// A place for a connection.
#[derive(Debug)]
enum Slot<A> {
    Used(Connection<A>),
    /// Free, as is the next one, until [`NIL`].
    Free {
        next: u32,
    },
}

impl<A> Slot<A> {
    fn used(&self) -> Option<&Connection<A>> {
        if let Slot::Used(connection) = self { Some(connection) } else { None }
    }
}

/// No place.
const NIL: u32 = u32::MAX;

/// What is settled about a connection before its first packet is noted.
struct New<A> {
    opener: Direction,
    nat: Nat,
    mapped: bool,
    port: PortId,
    inside: Endpoint<A>,
    outside: Endpoint<A>,
    remote: Endpoint<A>,
}

/// The external port that all connections of one inside endpoint share.
#[derive(Debug)]
struct Mapping<A> {
    protocol: Protocol,
    inside: Endpoint<A>,
    outside_port: u16,
    /// Who answers for the external port.
    port: PortId,
    connections: u32,
}

/// One shard of the connection table.
#[derive(Debug)]
pub struct Table<A: Address = Ipv4Addr> {
    slots: Vec<Slot<A>>,
    /// The place that became free last.
    free: u32,
    activities: Arc<Activities>,
    by_inside: Index,
    by_outside: Index,
    mappings: HashTable<Mapping<A>>,
    pools: [PortPool<A>; 3],
    wheel: Wheel,
    over: Over,
    hasher: RandomState,
    dice: u64,
    stats: Stats,
}

impl<A: Address> Table<A> {
    /// A table for `limit` connections that masquerades with these external ports. Its memory is reserved
    /// now, so that it never has to grow in the way of a packet, and used as connections need it.
    pub fn new(limit: usize, ports: impl Iterator<Item = u16> + Clone) -> Self {
        Table {
            slots: Vec::with_capacity(limit),
            free: NIL,
            activities: Arc::new(Activities::new(limit)),
            by_inside: Index::new(limit),
            by_outside: Index::new(limit),
            mappings: HashTable::new(),
            pools: std::array::from_fn(|_| PortPool::new(ports.clone())),
            wheel: Wheel::new(limit),
            over: Over::default(),
            hasher: RandomState::new(),
            dice: 0,
            stats: Stats { limit: limit as u64, ..Stats::default() },
        }
    }

    /// The addresses of the memory that lookups read at random, for whoever knows how to make that faster.
    pub fn memory(&self) -> [Range<usize>; 3] {
        let places = self.slots.as_ptr() as usize;
        let places = places..places + self.slots.capacity() * size_of::<Slot<A>>();
        [places, self.by_inside.memory(), self.by_outside.memory()]
    }

    /// Where to note what packets of known connections change.
    pub fn activities(&self) -> Arc<Activities> {
        self.activities.clone()
    }

    /// A packet from `inside` to `remote`: the outside endpoint that the world shall see instead. Makes the
    /// connection, masqueraded to `external`, if `sponsor` allows and the packet may open one.
    ///
    /// # Errors
    /// Why there is no connection and none could be made.
    pub fn outward(
        &mut self,
        inside: Endpoint<A>,
        remote: Endpoint<A>,
        external: A,
        seen: &Seen,
        mut sponsor: impl Sponsor,
        timeouts: &Timeouts,
    ) -> Result<Answer<A>, DropReason> {
        if let Some(number) = self.find_inside(seen.protocol, inside, remote) {
            return self.note(number, Direction::Outward, seen, timeouts);
        }
        opens(seen)?;
        self.refuse_if_full()?;
        let made = sponsor.connection().map_err(|reason| self.refuse(reason))?;
        let NewConnection { port, hairpin } = made;
        let outside = self.map(seen, [inside, remote], external, port, sponsor)?;
        let nat = if hairpin { Nat::Hairpin } else { Nat::Snat };
        let (opener, mapped) = (Direction::Outward, true);
        self.insert(New { opener, nat, mapped, port, inside, outside, remote }, seen, timeouts)
    }

    /// A packet from `remote` to `outside`: the container's endpoint. Makes the connection to `target`, the
    /// publication's or the mapping's, if there is one, `sponsor` allows and the packet may open one.
    ///
    /// # Errors
    /// Why there is no connection and none could be made.
    pub fn inward(
        &mut self,
        outside: Endpoint<A>,
        remote: Endpoint<A>,
        target: Option<Endpoint<A>>,
        seen: &Seen,
        mut sponsor: impl Sponsor,
        timeouts: &Timeouts,
    ) -> Result<Answer<A>, DropReason> {
        if let Some(number) = self.find_outside(seen.protocol, outside, remote) {
            return self.note(number, Direction::Inward, seen, timeouts);
        }
        let inside = target.ok_or(DropReason::Unsolicited)?;
        opens(seen)?;
        // A connection of the container's own to this very remote would make the inside tuple ambiguous.
        if self.find_inside(seen.protocol, inside, remote).is_some() {
            return Err(DropReason::NatPortsExhausted);
        }
        self.refuse_if_full()?;
        let made = sponsor.connection().map_err(|reason| self.refuse(reason))?;
        let NewConnection { port, hairpin } = made;
        let nat = if hairpin { Nat::Hairpin } else { Nat::Dnat };
        let opener = Direction::Inward;
        let mapping = self.mapping_of(seen.protocol, inside).filter(|m| m.outside_port == outside.port);
        let mapped = mapping.map(|mapping| mapping.connections += 1).is_some();
        self.insert(New { opener, nat, mapped, port, inside, outside, remote }, seen, timeouts)
    }

    /// A packet of a connection that is not translated, between `inside` and `remote`, in this direction. Makes the
    /// connection if `sponsor` allows and the packet may open one.
    ///
    /// # Errors
    /// Why there is no connection and none could be made.
    pub fn direct(
        &mut self,
        direction: Direction,
        inside: Endpoint<A>,
        remote: Endpoint<A>,
        seen: &Seen,
        mut sponsor: impl Sponsor,
        timeouts: &Timeouts,
    ) -> Result<Answer<A>, DropReason> {
        if let Some(number) = self.find_inside(seen.protocol, inside, remote) {
            return self.note(number, direction, seen, timeouts);
        }
        opens(seen)?;
        self.refuse_if_full()?;
        let NewConnection { port, .. } = sponsor.connection().map_err(|reason| self.refuse(reason))?;
        let (opener, outside, nat, mapped) = (direction, inside, Nat::None, false);
        self.insert(New { opener, nat, mapped, port, inside, outside, remote }, seen, timeouts)
    }

    /// The container's endpoint behind `outside` towards `remote`, without taking note of a packet.
    pub fn peek_inward(
        &self,
        protocol: Protocol,
        outside: Endpoint<A>,
        remote: Endpoint<A>,
    ) -> Option<Endpoint<A>> {
        let number = self.find_outside(protocol, outside, remote)?;
        self.slots[number as usize].used().map(|connection| connection.inside)
    }

    /// What the world sees instead of `inside` towards `remote`, without taking note of a packet.
    pub fn peek_outward(
        &self,
        protocol: Protocol,
        inside: Endpoint<A>,
        remote: Endpoint<A>,
    ) -> Option<Endpoint<A>> {
        let number = self.find_inside(protocol, inside, remote)?;
        self.slots[number as usize].used().map(|connection| connection.outside)
    }

    /// The port of the switch that the connection from `inside` to `remote` belongs to.
    pub fn owner(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> Option<PortId> {
        let number = self.find_inside(protocol, inside, remote)?;
        self.slots[number as usize].used().map(|connection| connection.port)
    }

    /// The external port that a new connection of `inside` will have, if it has one already.
    pub fn mapping(&self, protocol: Protocol, inside: Endpoint<A>) -> Option<u16> {
        let hash = self.hasher.hash_one((protocol, inside));
        let mapping = self.mappings.find(hash, |m| m.protocol == protocol && m.inside == inside)?;
        Some(mapping.outside_port)
    }

    /// Who masquerades with this external port.
    pub fn holder(&self, protocol: Protocol, port: u16) -> Option<Endpoint<A>> {
        self.pools[protocol as usize].holder(port)
    }

    /// Ends connections whose time is over, looking at no more than `budget`. Tells `ended` of each.
    pub fn expire(&mut self, now: Time, budget: usize, mut ended: impl FnMut(Ended)) {
        for _ in 0..budget {
            let Some(number) = self.wheel.pop_due(now) else { return };
            let Slot::Used(connection) = &self.slots[number as usize] else { continue };
            let deadline = connection.deadline(self.activities.at(number));
            if deadline > now {
                self.wheel.insert(number, deadline);
            } else {
                self.stats.expired += 1;
                ended(self.forget(number, now));
            }
        }
    }

    /// Ends the oldest TCP connection that is over, of `port` if one is given: it makes room for a new one.
    pub fn reclaim(&mut self, port: Option<PortId>, now: Time) -> Option<Ended> {
        let (slots, activities) = (&self.slots, &self.activities);
        let number = self.over.take(|number, life| {
            let connection = slots.get(number as usize)?.used()?;
            let it_is = activities.at(number).life() == life && connection.is_over();
            it_is.then(|| port.is_none_or(|port| connection.port == port))
        })?;
        self.wheel.remove(number);
        self.stats.reclaimed += 1;
        Some(self.forget(number, now))
    }

    /// Ends the connections that `which` picks, and returns how many. Tells `ended` of each.
    pub fn flush(
        &mut self,
        now: Time,
        mut which: impl FnMut(&Info<A>) -> bool,
        mut ended: impl FnMut(Ended),
    ) -> usize {
        let mut count = 0;
        for (number, at) in (0..).zip(0..self.slots.len()) {
            let activity = self.activities.at(number);
            if self.slots[at].used().is_some_and(|connection| which(&connection.info(activity, now))) {
                self.wheel.remove(number);
                ended(self.forget(number, now));
                count += 1;
            }
        }
        self.stats.flushed += count as u64;
        count
    }

    /// All connections whose time is not over.
    pub fn entries(&self, now: Time) -> impl Iterator<Item = Info<A>> + '_ {
        let used = (0..).zip(&self.slots).filter_map(|(number, slot)| Some((number, slot.used()?)));
        used.map(move |(number, connection)| connection.info(self.activities.at(number), now))
            .filter(|info| !info.expires.is_zero())
    }

    /// What it has done.
    pub fn stats(&self) -> Stats {
        Stats { connections: self.by_inside.len() as u64, ..self.stats }
    }

    /// Keeps an external port from being dealt.
    pub fn reserve(&mut self, protocol: Protocol, port: u16) {
        self.pools[protocol as usize].reserve(port);
    }

    /// Ends a reservation.
    pub fn release(&mut self, protocol: Protocol, port: u16, now: Time) {
        self.pools[protocol as usize].release(port, now);
    }

    /// Takes back that a connection was refused for this reason: there is room now, and it is tried once more.
    pub fn readmit(&mut self, reason: DropReason) {
        if let Some(count) = self.refusals(reason) {
            *count = count.saturating_sub(1);
        }
    }

    /// Gives a free external port away to another table, as much like `like` as there is one.
    pub fn lend(&mut self, protocol: Protocol, like: u16, now: Time) -> Option<u16> {
        let random = self.random();
        self.pools[protocol as usize].lend(like, random, now)
    }

    /// As [`Table::lend`], the port that has rested longest.
    pub fn lend_resting(&mut self, protocol: Protocol) -> Option<u16> {
        self.pools[protocol as usize].lend_resting()
    }

    /// Takes over an external port that no table has.
    pub fn adopt(&mut self, protocol: Protocol, port: u16) {
        self.pools[protocol as usize].adopt(port);
    }

    fn refuse_if_full(&mut self) -> Result<(), DropReason> {
        if self.by_inside.len() as u64 >= self.stats.limit {
            return Err(self.refuse(DropReason::ConntrackFull));
        }
        Ok(())
    }

    /// Counts a connection that is refused.
    fn refuse(&mut self, reason: DropReason) -> DropReason {
        if let Some(count) = self.refusals(reason) {
            *count += 1;
        }
        reason
    }

    /// How many connections were refused for this reason, where it is one for want of room.
    fn refusals(&mut self, reason: DropReason) -> Option<&mut u64> {
        #[allow(clippy::wildcard_enum_match_arm)] // the others say what is wrong with the packet
        match reason {
            DropReason::ConntrackFull => Some(&mut self.stats.refused_full),
            DropReason::ConntrackQuota => Some(&mut self.stats.refused_quota),
            DropReason::NatPortQuota => Some(&mut self.stats.refused_port_quota),
            DropReason::NatPortsExhausted => Some(&mut self.stats.ports_exhausted),
            _ => None,
        }
    }

    /// The external endpoint for one more connection from `inside` to `remote`: its mapping's, made if there is
    /// none.
    ///
    /// A connection by a publication that was taken back while its packet was on the way may stand at that
    /// endpoint, towards the same remote. Then this one is refused until that one has ended: there is one
    /// connection behind an outside endpoint and a remote.
    fn map(
        &mut self,
        seen: &Seen,
        [inside, remote]: [Endpoint<A>; 2],
        external: A,
        port: PortId,
        mut sponsor: impl Sponsor,
    ) -> Result<Endpoint<A>, DropReason> {
        let (protocol, random) = (seen.protocol, self.random());
        let known = self.mapping(protocol, inside);
        let pool = &mut self.pools[protocol as usize];
        let Some(outside_port) = known.or_else(|| pool.take(inside, random, seen.now)) else {
            return Err(self.refuse(DropReason::NatPortsExhausted));
        };
        let outside = Endpoint::new(external, outside_port);
        let free = self.find_outside(protocol, outside, remote).is_none();
        let allowed = match known {
            _ if !free => Err(DropReason::NatPortsExhausted),
            Some(_) => Ok(()),
            None => sponsor.external_port(),
        };
        if let Err(reason) = allowed {
            if known.is_none() {
                self.pools[protocol as usize].untake(outside_port);
            }
            return Err(self.refuse(reason));
        }
        if let Some(mapping) = self.mapping_of(protocol, inside) {
            mapping.connections += 1;
            return Ok(outside);
        }
        let mapping = Mapping { protocol, inside, outside_port, port, connections: 1 };
        let hasher = &self.hasher;
        let hash = hasher.hash_one((protocol, inside));
        self.mappings.insert_unique(hash, mapping, |m| hasher.hash_one((m.protocol, m.inside)));
        Ok(outside)
    }

    fn mapping_of(&mut self, protocol: Protocol, inside: Endpoint<A>) -> Option<&mut Mapping<A>> {
        let hash = self.hasher.hash_one((protocol, inside));
        self.mappings.find_mut(hash, |m| m.protocol == protocol && m.inside == inside)
    }

    /// The next number of a keyed sequence: nobody outside can predict it.
    fn random(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(1);
        self.hasher.hash_one(self.dice)
    }

    /// Notes a packet of a known connection.
    #[inline(always)]
    fn note(
        &mut self,
        number: u32,
        direction: Direction,
        seen: &Seen,
        timeouts: &Timeouts,
    ) -> Result<Answer<A>, DropReason> {
        let activity = self.activities.at(number);
        let Slot::Used(connection) = &mut self.slots[number as usize] else {
            return Err(DropReason::Unsolicited); // an index names used places only
        };
        let was_over = connection.is_over();
        connection.note(direction, seen, timeouts, activity);
        if connection.is_over() && !was_over {
            self.over.push(number, activity.life());
        }
        let track = connection.is_settled(direction).then(|| Track {
            number,
            life: activity.life(),
            direction,
            refreshes: connection.is_refreshed_by(direction),
        });
        let endpoint = match direction {
            Direction::Outward => connection.outside,
            Direction::Inward => connection.inside,
        };
        Ok(Answer { endpoint, track })
    }

    /// Makes a connection, and notes the packet that opens it.
    fn insert(&mut self, new: New<A>, seen: &Seen, timeouts: &Timeouts) -> Result<Answer<A>, DropReason> {
        let New { opener, nat, mapped, port, inside, outside, remote } = new;
        let number = self.take_place();
        let activity = self.activities.at(number);
        activity.reset(seen.now);
        let state = match &seen.segment {
            Some(segment) => State::Tcp(Tcp::open(opener, segment, activity)),
            None => State::Query { replied: false },
        };
        let mut connection = Connection {
            protocol: seen.protocol,
            nat,
            opener,
            mapped,
            port,
            inside,
            outside,
            remote,
            state,
            timeout: 0,
        };
        // Its packet may be of a direction that does not push the deadline.
        connection.set_timeout(timeouts);
        self.slots[number as usize] = Slot::Used(connection);
        let answer = self.note(number, opener, seen, timeouts)?;
        if let Slot::Used(connection) = &self.slots[number as usize] {
            self.wheel.insert(number, connection.deadline(self.activities.at(number)));
        }
        self.by_inside.insert(self.hasher.hash_one((seen.protocol, inside, remote)), number);
        self.by_outside.insert(self.hasher.hash_one((seen.protocol, outside, remote)), number);
        self.stats.created += 1;
        Ok(answer)
    }

    /// A free place.
    fn take_place(&mut self) -> u32 {
        match self.slots.get(self.free as usize) {
            Some(&Slot::Free { next }) => std::mem::replace(&mut self.free, next),
            _ => {
                self.slots.push(Slot::Free { next: NIL });
                u32::try_from(self.slots.len() - 1).unwrap_or(NIL)
            }
        }
    }

    /// Removes a connection that is not in the wheel, and its mapping with the last one.
    fn forget(&mut self, number: u32, now: Time) -> Ended {
        let place = &mut self.slots[number as usize];
        let Slot::Used(connection) = std::mem::replace(place, Slot::Free { next: self.free }) else {
            return Ended { port: PortId(0), freed: None }; // nobody forgets a place twice
        };
        self.free = number;
        self.activities.at(number).end_life();
        let Connection { protocol, inside, outside, remote, .. } = connection;
        let (slots, hasher) = (&self.slots, &self.hasher);
        let used = |n: u32| slots.get(n as usize).and_then(Slot::used);
        self.by_inside.remove(hasher.hash_one((protocol, inside, remote)), number, |other| {
            used(other).map_or(0, |c| hasher.hash_one((c.protocol, c.inside, c.remote)))
        });
        self.by_outside.remove(hasher.hash_one((protocol, outside, remote)), number, |other| {
            used(other).map_or(0, |c| hasher.hash_one((c.protocol, c.outside, c.remote)))
        });
        let mut freed = None;
        if connection.mapped {
            let hash = self.hasher.hash_one((protocol, inside));
            let entry = self.mappings.find_entry(hash, |m| m.protocol == protocol && m.inside == inside);
            if let Ok(mut entry) = entry {
                entry.get_mut().connections -= 1;
                if entry.get().connections == 0 {
                    freed = Some((protocol, entry.remove().0.port));
                    self.pools[protocol as usize].give(outside.port, now);
                }
            }
        }
        Ended { port: connection.port, freed }
    }

    fn find_inside(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> Option<u32> {
        let hash = self.hasher.hash_one((protocol, inside, remote));
        let slot = |n: u32| self.slots.get(n as usize).and_then(Slot::used);
        self.by_inside.find(hash, |n| slot(n).is_some_and(|c| c.has_inside(protocol, inside, remote)))
    }

    fn find_outside(&self, protocol: Protocol, outside: Endpoint<A>, remote: Endpoint<A>) -> Option<u32> {
        let hash = self.hasher.hash_one((protocol, outside, remote));
        let slot = |n: u32| self.slots.get(n as usize).and_then(Slot::used);
        self.by_outside.find(hash, |n| slot(n).is_some_and(|c| c.has_outside(protocol, outside, remote)))
    }
}

/// Whether a packet may open a connection.
fn opens(seen: &Seen) -> Result<(), DropReason> {
    match (seen.protocol, &seen.segment) {
        (Protocol::Tcp, Some(segment)) if Tcp::opens(segment) => Ok(()),
        (Protocol::Tcp, _) => Err(DropReason::TcpOutOfState),
        (Protocol::Udp | Protocol::Icmp, _) if seen.is_answer => Err(DropReason::Unsolicited),
        (Protocol::Udp | Protocol::Icmp, _) => Ok(()),
    }
}
