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
//! endpoints, so that a packet of either one finds it at once. Packets on a network may be for any address, by way of a
//! neighbor that passes them on, so the same two endpoints may have a connection that is translated as well; neither is
//! ever found in the other's place, or a packet would leave as it is.
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

use ahash::RandomState;
use hashbrown::HashTable;

use crate::addr::{Address, Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::drops::DropReason;
use crate::table::port_pool::PortPool;

mod activity;
mod ask;
mod connection;
mod index;
mod info;
mod mapping;
mod spare;
pub mod tcp;
#[cfg(test)]
mod tests;
mod timeouts;
mod wheel;

pub use activity::{Activities, Activity};
pub use ask::{Answer, Direction, Ended, NewConnection, Seen, Sponsor, Track};
use connection::{Connection, State};
use index::Index;
pub use info::{Info, Nat, Stats};
use mapping::Mapping;
use spare::Spare;
use tcp::Tcp;
pub use timeouts::Timeouts;
use wheel::Wheel;

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
    called: bool,
    inside: Endpoint<A>,
    outside: Endpoint<A>,
    remote: Endpoint<A>,
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
    over: Spare,
    called: Spare,
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
            over: Spare::default(),
            called: Spare::default(),
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
        let NewConnection { port, hairpin, called } = made;
        let outside = self.map(seen, [inside, remote], external, port, sponsor)?;
        let nat = if hairpin { Nat::Hairpin } else { Nat::Snat };
        let (opener, mapped) = (Direction::Outward, true);
        self.insert(New { opener, nat, mapped, port, called, inside, outside, remote }, seen, timeouts)
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
        let NewConnection { port, hairpin, called } = made;
        let nat = if hairpin { Nat::Hairpin } else { Nat::Dnat };
        let opener = Direction::Inward;
        let mapping = self.mapping_of(seen.protocol, inside).filter(|m| m.outside_port == outside.port);
        let mapped = mapping.map(|mapping| mapping.connections += 1).is_some();
        self.insert(New { opener, nat, mapped, port, called, inside, outside, remote }, seen, timeouts)
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
        if let Some(number) = self.find_direct(seen.protocol, inside, remote) {
            return self.note(number, direction, seen, timeouts);
        }
        opens(seen)?;
        self.refuse_if_full()?;
        let NewConnection { port, called, .. } =
            sponsor.connection().map_err(|reason| self.refuse(reason))?;
        let (opener, outside, nat, mapped) = (direction, inside, Nat::None, false);
        self.insert(New { opener, nat, mapped, port, called, inside, outside, remote }, seen, timeouts)
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

    /// Whether there is a connection between `inside` and `remote` that is not translated.
    pub fn has_direct(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> bool {
        self.find_direct(protocol, inside, remote).is_some()
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

    /// The port of the switch behind which the inside of the connection from `inside` to `remote` is: who has the
    /// mapping, where there is one. The connection may count for another, who called it by a hairpin.
    pub fn owner(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> Option<PortId> {
        let number = self.find_inside(protocol, inside, remote)?;
        let connection = self.slots[number as usize].used()?;
        let mapping = if connection.mapped { self.mapping_owner(protocol, inside) } else { None };
        Some(mapping.unwrap_or(connection.port))
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
    pub fn reclaim_over(&mut self, port: Option<PortId>, now: Time) -> Option<Ended> {
        let slots = &self.slots;
        let number = self.over.take(&self.activities, |number, _| {
            let connection = slots.get(number as usize)?.used().filter(|connection| connection.is_over())?;
            Some(port.is_none_or(|port| connection.port == port))
        })?;
        Some(self.spare(number, now))
    }

    /// Ends the most silent connection that somebody else has opened to `port`, or to any if none is given, and that
    /// may be nobody's yet: it makes room for a new one.
    pub fn reclaim_called(&mut self, port: Option<PortId>, now: Time) -> Option<Ended> {
        let slots = &self.slots;
        let number = self.called.take(&self.activities, |number, goes_on| {
            let connection =
                slots.get(number as usize)?.used().filter(|connection| !connection.is_proven())?;
            let is_idle = connection.protocol == Protocol::Tcp || !goes_on;
            Some(is_idle && port.is_none_or(|port| connection.port == port))
        })?;
        Some(self.spare(number, now))
    }

    /// Since when what [`Table::reclaim_called`] looks at first has been silent.
    pub fn called_since(&self) -> Option<Time> {
        self.called.since()
    }

    fn spare(&mut self, number: u32, now: Time) -> Ended {
        self.wheel.remove(number);
        self.stats.reclaimed += 1;
        self.forget(number, now)
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

    /// Takes back that a connection was refused for this reason: there is room now, and it is tried once more.
    pub fn readmit(&mut self, reason: DropReason) {
        if let Some(count) = self.refusals(reason) {
            *count = count.saturating_sub(1);
        }
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
            self.over.push(number, &self.activities);
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
        let New { opener, nat, mapped, port, called, inside, outside, remote } = new;
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
        if called {
            self.called.push(number, &self.activities);
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
        let unmapped = connection.mapped.then(|| self.unmap(protocol, inside, outside.port, now)).flatten();
        Ended { port: connection.port, freed: unmapped.map(|port| (protocol, port)) }
    }

    /// A translated connection, by what the container knows of it.
    fn find_inside(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> Option<u32> {
        let hash = self.hasher.hash_one((protocol, inside, remote));
        let is_it = |c: &Connection<A>| !c.is_direct() && c.has_inside(protocol, inside, remote);
        self.by_inside.find(hash, |number| self.used(number).is_some_and(is_it))
    }

    /// A connection that is not translated.
    fn find_direct(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> Option<u32> {
        let hash = self.hasher.hash_one((protocol, inside, remote));
        let is_it = |c: &Connection<A>| c.is_direct() && c.has_inside(protocol, inside, remote);
        self.by_inside.find(hash, |number| self.used(number).is_some_and(is_it))
    }

    /// A translated connection, by what the world knows of it.
    fn find_outside(&self, protocol: Protocol, outside: Endpoint<A>, remote: Endpoint<A>) -> Option<u32> {
        let hash = self.hasher.hash_one((protocol, outside, remote));
        let is_it = |c: &Connection<A>| !c.is_direct() && c.has_outside(protocol, outside, remote);
        self.by_outside.find(hash, |number| self.used(number).is_some_and(is_it))
    }

    fn used(&self, number: u32) -> Option<&Connection<A>> {
        self.slots.get(number as usize).and_then(Slot::used)
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
