//! The connection table: which shard has a connection, who is charged for it, and how external ports move.

use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard};

use ahash::RandomState;

use super::lock;
use crate::addr::{Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::drops::DropReason;
use crate::limits::{NAT_PORTS_SHARE, PORTS_MAX};
use crate::table::conntrack::{
    self, Activities, Activity, Direction, Ended, NewConnection, Seen, Sponsor, Timeouts, Track,
};

/// External ports that one shard owns in a row.
const PORT_BLOCK: u16 = 8;

/// The connection table, sharded so that both directions of a connection meet in one shard.
///
/// The external ports are dealt to the shards in blocks, so the port of a packet from outside names its
/// shard. A packet from inside is hashed by its inside endpoint alone, because all connections of an
/// inside endpoint share one external port; a container's port that lies in the external range goes to the
/// shard whose that port was at first, so that it can be kept. A published port's packets go where its target's go.
///
/// A shard that has no port left gets free ones of other shards: a container that aims at one shard with the ports
/// that it chooses does not take it away from others.
#[derive(Debug)]
pub struct Conntrack {
    shards: Box<[Mutex<conntrack::Table>]>,
    /// By shard.
    activities: Box<[Arc<Activities>]>,
    hasher: RandomState,
    nat_ports: RangeInclusive<u16>,
    /// The shard of each external port, by protocol.
    homes: [Box<[AtomicU16]>; 3],
    /// Locked, before a shard is, while a port changes hands between shards or is reserved: so that a reservation
    /// always finds its port.
    moves: Mutex<()>,
    /// What each port of the switch has.
    accounts: Box<[Account]>,
}

/// What a port of the switch has of what all ports share.
#[derive(Debug, Default)]
struct Account {
    connections: AtomicU32,
    /// External ports, by protocol.
    nat_ports: [AtomicU32; 3],
}

/// Counts one more, unless there are as many as there may be.
fn charge(count: &AtomicU32, limit: u32) -> bool {
    let within = count.fetch_add(1, Relaxed) < limit;
    if !within {
        count.fetch_sub(1, Relaxed);
    }
    within
}

/// What a packet asks of the connection table.
#[derive(Debug)]
pub struct Ask<'a> {
    /// What the packet means to its connection.
    pub seen: Seen,
    /// Timeouts to use.
    pub timeouts: &'a Timeouts,
    /// The port that a new connection counts for, and how many it may have.
    pub owner: PortId,
    /// Most connections of that port.
    pub quota: u32,
    /// Most external ports of each protocol of that port.
    pub nat_ports: u32,
    /// Whether the packet is translated at both ends.
    pub hairpin: bool,
    /// Whether the owner of a new connection is called, and does not call.
    pub called: bool,
}

/// What becomes of a packet's own endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    /// The endpoint on the other side of the translation.
    pub endpoint: Endpoint,
    /// How further packets like it are noted without a lock, if they may be.
    pub tracked: Option<Tracked>,
}

/// How packets of one direction of a connection are noted without a lock ([`Conntrack::activity`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    shard: u16,
    /// What to note, and where in the shard.
    pub track: Track,
}

impl Conntrack {
    /// A table for `limit` connections that masquerades with `nat_ports`, for `workers` workers.
    pub fn new(limit: usize, nat_ports: RangeInclusive<u16>, workers: usize) -> Self {
        // A power of two, so that a mask finds the shard.
        let count = (workers.max(1) * 2).next_power_of_two();
        let (first, last) = (*nat_ports.start(), *nat_ports.end());
        let shards = (0..count).map(|shard| {
            let ports = (first..=last).filter(|port| block_shard(port - first, count) == shard);
            Mutex::new(conntrack::Table::new(limit.div_ceil(count), ports))
        });
        let shards: Box<[_]> = shards.collect();
        #[allow(clippy::cast_possible_truncation)] // there are not as many shards
        let home = |port| AtomicU16::new(block_shard(port - first, count) as u16);
        Conntrack {
            homes: std::array::from_fn(|_| (first..=last).map(home).collect()),
            moves: Mutex::new(()),
            activities: shards.iter().map(|shard| lock(shard).activities()).collect(),
            shards,
            hasher: RandomState::new(),
            nat_ports,
            accounts: (0..PORTS_MAX).map(|_| Account::default()).collect(),
        }
    }

    /// A table that says the same of ports, and makes no connection: it has none of them to deal. A pool of 64,512
    /// ports takes milliseconds to fill.
    pub(super) fn idle(&self) -> Self {
        let shards: Box<[_]> = [Mutex::new(conntrack::Table::new(1, std::iter::empty()))].into();
        Conntrack {
            homes: Default::default(),
            moves: Mutex::new(()),
            activities: shards.iter().map(|shard| lock(shard).activities()).collect(),
            shards,
            hasher: RandomState::new(),
            nat_ports: self.nat_ports.clone(),
            accounts: Box::default(),
        }
    }

    /// As [`conntrack::Table::memory`], of all shards.
    pub fn memory(&self) -> Vec<Range<usize>> {
        self.shards.iter().flat_map(|shard| lock(shard).memory()).collect()
    }

    /// Whether masquerading uses this port.
    pub fn masquerades_with(&self, port: u16) -> bool {
        self.nat_ports.contains(&port)
    }

    /// Most external ports of a protocol that a port may have unless it is told otherwise.
    pub fn fair_ports(&self) -> u32 {
        (u32::try_from(self.nat_ports.len()).unwrap_or(u32::MAX) / NAT_PORTS_SHARE).max(1)
    }

    /// As [`conntrack::Table::outward`].
    ///
    /// # Errors
    /// Why the packet has no connection.
    pub fn outward(
        &self,
        inside: Endpoint,
        remote: Endpoint,
        external: Ipv4Addr,
        ask: &Ask<'_>,
    ) -> Result<Translated, DropReason> {
        let index = self.index_inside(ask.seen.protocol, inside);
        let attempt = || {
            let mut bill = Bill { conntrack: self, ask, connection: false };
            let answer = lock(&self.shards[index]).outward(
                inside,
                remote,
                external,
                &ask.seen,
                &mut bill,
                ask.timeouts,
            );
            self.translated(index, answer, &bill)
        };
        let attempt = || match attempt() {
            Err(DropReason::NatPortsExhausted) if self.borrow(index, inside.port, &ask.seen) => attempt(),
            answer => answer,
        };
        match attempt() {
            Err(reason) if self.reclaim(index, reason, ask) => attempt(),
            answer => answer,
        }
    }

    /// As [`conntrack::Table::inward`]; without a `target`, a hairpin's is who masquerades with the port.
    ///
    /// # Errors
    /// Why the packet has no connection.
    pub fn inward(
        &self,
        outside: Endpoint,
        remote: Endpoint,
        target: Option<Endpoint>,
        ask: &Ask<'_>,
    ) -> Result<Translated, DropReason> {
        let protocol = ask.seen.protocol;
        let index = self.index_outside(protocol, outside, target).ok_or(DropReason::Unsolicited)?;
        let attempt = || {
            let mut bill = Bill { conntrack: self, ask, connection: false };
            let mut shard = lock(&self.shards[index]);
            let holder = || ask.hairpin.then(|| shard.holder(protocol, outside.port)).flatten();
            let target = target.or_else(holder);
            let answer = shard.inward(outside, remote, target, &ask.seen, &mut bill, ask.timeouts);
            drop(shard);
            self.translated(index, answer, &bill)
        };
        match attempt() {
            Err(reason) if self.reclaim(index, reason, ask) => attempt(),
            answer => answer,
        }
    }

    /// As [`conntrack::Table::direct`], for a packet from `src` to `dst`.
    ///
    /// # Errors
    /// Why the packet has no connection.
    pub fn direct(&self, src: Endpoint, dst: Endpoint, ask: &Ask<'_>) -> Result<Option<Tracked>, DropReason> {
        let seen = &ask.seen;
        let (inside, remote, direction) = sides(seen.protocol, src, dst, seen.is_answer);
        let index = self.index_inside(seen.protocol, inside);
        let attempt = || {
            let mut bill = Bill { conntrack: self, ask, connection: false };
            let mut shard = lock(&self.shards[index]);
            let answer = shard.direct(direction, inside, remote, seen, &mut bill, ask.timeouts);
            drop(shard);
            self.translated(index, answer, &bill)
        };
        let answer = match attempt() {
            Err(reason) if self.reclaim(index, reason, ask) => attempt(),
            answer => answer,
        };
        answer.map(|translated| translated.tracked)
    }

    /// Whether a packet from `src` to `dst` is of a connection that is not translated; of ICMP queries,
    /// `is_answer` says what it is.
    pub fn has_direct(&self, protocol: Protocol, src: Endpoint, dst: Endpoint, is_answer: bool) -> bool {
        let (inside, remote, _) = sides(protocol, src, dst, is_answer);
        self.shard_inside(protocol, inside).has_direct(protocol, inside, remote)
    }

    /// Where to note a packet of a connection that was [`Translated`] before, without a lock; `None` if the
    /// connection has ended or begun anew since.
    #[inline(always)]
    pub fn activity(&self, tracked: &Tracked) -> Option<&Activity> {
        let Tracked { shard, track: Track { number, life, .. } } = *tracked;
        self.activities.get(usize::from(shard))?.alive(number, life)
    }

    /// As [`conntrack::Table::peek_inward`]; `target` is the publication's for `outside`, if there is one.
    pub fn peek_inward(
        &self,
        protocol: Protocol,
        outside: Endpoint,
        remote: Endpoint,
        target: Option<Endpoint>,
    ) -> Option<Endpoint> {
        let shard = &self.shards[self.index_outside(protocol, outside, target)?];
        lock(shard).peek_inward(protocol, outside, remote)
    }

    /// As [`conntrack::Table::peek_outward`].
    pub fn peek_outward(&self, protocol: Protocol, inside: Endpoint, remote: Endpoint) -> Option<Endpoint> {
        self.shard_inside(protocol, inside).peek_outward(protocol, inside, remote)
    }

    /// As [`conntrack::Table::owner`].
    pub fn owner(&self, protocol: Protocol, inside: Endpoint, remote: Endpoint) -> Option<PortId> {
        self.shard_inside(protocol, inside).owner(protocol, inside, remote)
    }

    /// As [`conntrack::Table::mapping`].
    pub fn mapping(&self, protocol: Protocol, inside: Endpoint) -> Option<u16> {
        self.shard_inside(protocol, inside).mapping(protocol, inside)
    }

    /// As [`conntrack::Table::holder`].
    pub fn holder(&self, protocol: Protocol, port: u16) -> Option<Endpoint> {
        lock(&self.shards[self.index_of_port(protocol, port)?]).holder(protocol, port)
    }

    /// Ends connections whose time is over, in the shards that are worker `worker`'s to sweep.
    pub fn expire(&self, worker: usize, workers: usize, now: Time, budget: usize) {
        for shard in self.shards.iter().skip(worker).step_by(workers.max(1)) {
            lock(shard).expire(now, budget, |ended| self.refund(ended));
        }
    }

    /// Ends the connections that `which` picks. Returns how many.
    pub fn flush(&self, now: Time, mut which: impl FnMut(&conntrack::Info) -> bool) -> usize {
        self.shards.iter().map(|shard| lock(shard).flush(now, &mut which, |ended| self.refund(ended))).sum()
    }

    /// Shows all connections to `look`, in no order.
    pub fn for_each(&self, now: Time, mut look: impl FnMut(&conntrack::Info)) {
        self.shards.iter().for_each(|shard| lock(shard).entries(now).for_each(|info| look(&info)));
    }

    /// All connections, in no order.
    pub fn entries(&self, now: Time) -> Vec<conntrack::Info> {
        self.shards.iter().flat_map(|shard| lock(shard).entries(now).collect::<Vec<_>>()).collect()
    }

    /// What it has done.
    pub fn stats(&self) -> conntrack::Stats {
        let mut sum = conntrack::Stats::default();
        self.shards.iter().for_each(|shard| sum += lock(shard).stats());
        sum
    }

    /// Connections of a port of the switch.
    pub fn connections_of(&self, port: PortId) -> u32 {
        self.accounts.get(port.index()).map_or(0, |account| account.connections.load(Relaxed))
    }

    /// External ports that masquerading has taken for a port of the switch.
    pub fn nat_ports_of(&self, port: PortId, protocol: Protocol) -> u32 {
        let account = self.accounts.get(port.index());
        account.map_or(0, |account| account.nat_ports[protocol as usize].load(Relaxed))
    }

    /// Keeps an external port from being dealt: it is published, or the host uses it. Connections that have it
    /// already keep it.
    pub fn reserve(&self, protocol: Protocol, port: u16) {
        let _still = lock(&self.moves);
        if let Some(index) = self.index_of_port(protocol, port) {
            lock(&self.shards[index]).reserve(protocol, port);
        }
    }

    /// Ends a reservation.
    pub fn release(&self, protocol: Protocol, port: u16, now: Time) {
        let _still = lock(&self.moves);
        if let Some(index) = self.index_of_port(protocol, port) {
            lock(&self.shards[index]).release(protocol, port, now);
        }
    }

    /// Gets shard `index`, which has none left, a free external port of another shard. If there is none, one that
    /// still rests: RFC 6888 REQ-8 allows that where filtering is address and port-dependent, and it is better
    /// than to refuse. Says whether there was one.
    #[cold]
    fn borrow(&self, index: usize, like: u16, seen: &Seen) -> bool {
        let (protocol, count) = (seen.protocol, self.shards.len());
        let _moving = lock(&self.moves);
        let mut others = (1..count).map(|step| (index + step) % count);
        let found = others.find_map(|other| lock(&self.shards[other]).lend(protocol, like, seen.now));
        let mut all = (0..count).map(|step| (index + step) % count);
        let found = found.or_else(|| all.find_map(|any| lock(&self.shards[any]).lend_resting(protocol)));
        let Some(port) = found else { return false };
        if let (Some(home), Ok(index)) = (self.home(protocol, port), u16::try_from(index)) {
            home.store(index, Relaxed);
        }
        let mut shard = lock(&self.shards[index]);
        shard.adopt(protocol, port);
        shard.readmit(DropReason::NatPortsExhausted);
        true
    }

    /// Ends a connection that can be spared, where that makes room for one that shard `index` has refused: a TCP
    /// connection that is over, or else one of those that others have opened. Says whether there was one.
    #[cold]
    fn reclaim(&self, index: usize, reason: DropReason, ask: &Ask<'_>) -> bool {
        let is_tcp = ask.seen.protocol == Protocol::Tcp;
        let everywhere = self.shards.len();
        #[allow(clippy::wildcard_enum_match_arm)] // the others are not for want of room
        let (owner, shards) = match reason {
            DropReason::ConntrackFull => (None, 1),
            DropReason::ConntrackQuota => (Some(ask.owner), everywhere),
            DropReason::NatPortQuota if is_tcp => (Some(ask.owner), everywhere),
            DropReason::NatPortsExhausted if is_tcp => (None, everywhere),
            _ => return false,
        };
        // Who is called by others has no external port for it.
        let any_will_do = matches!(reason, DropReason::ConntrackFull | DropReason::ConntrackQuota);
        let places = || (0..shards).map(|step| &self.shards[(index + step) % everywhere]);
        let over = || places().find_map(|shard| lock(shard).reclaim_over(owner, ask.seen.now));
        // Whoever has been silent longest, in whichever shard: the callers of one port do not pay for another's. No shard
        // twice, or one who has just been given another turn there would be found again, and be silent since.
        let called = || {
            let since = places().filter_map(|shard| lock(shard).called_since().map(|since| (since, shard)));
            let mut shards: Vec<_> = since.collect();
            shards.sort_by_key(|&(since, _)| since);
            shards.into_iter().find_map(|(_, shard)| lock(shard).reclaim_called(owner, ask.seen.now))
        };
        let Some(ended) = over().or_else(|| if any_will_do { called() } else { None }) else { return false };
        self.refund(ended);
        lock(&self.shards[index]).readmit(reason);
        true
    }

    fn shard_inside(&self, protocol: Protocol, inside: Endpoint) -> MutexGuard<'_, conntrack::Table> {
        lock(&self.shards[self.index_inside(protocol, inside)])
    }

    fn offset(&self, port: u16) -> Option<u16> {
        self.nat_ports.contains(&port).then(|| port - self.nat_ports.start())
    }

    fn home(&self, protocol: Protocol, port: u16) -> Option<&AtomicU16> {
        self.homes[protocol as usize].get(usize::from(self.offset(port)?))
    }

    fn index_of_port(&self, protocol: Protocol, port: u16) -> Option<usize> {
        self.home(protocol, port).map(|home| usize::from(home.load(Relaxed)))
    }

    fn index_inside(&self, protocol: Protocol, inside: Endpoint) -> usize {
        #[allow(clippy::cast_possible_truncation)] // a hash: any bits will do
        let by_hash = || self.hasher.hash_one((protocol, inside)) as usize & (self.shards.len() - 1);
        self.offset(inside.port).map_or_else(by_hash, |offset| block_shard(offset, self.shards.len()))
    }

    fn index_outside(
        &self,
        protocol: Protocol,
        outside: Endpoint,
        target: Option<Endpoint>,
    ) -> Option<usize> {
        match target {
            Some(target) => Some(self.index_inside(protocol, target)),
            None => self.index_of_port(protocol, outside.port),
        }
    }

    fn account(&self, port: PortId) -> Result<&Account, DropReason> {
        self.accounts.get(port.index()).ok_or(DropReason::PortGone)
    }

    /// Gives back what a connection that has ended was charged.
    fn refund(&self, Ended { port, freed }: Ended) {
        if let Ok(account) = self.account(port) {
            account.connections.fetch_sub(1, Relaxed);
        }
        if let Some((protocol, port)) = freed
            && let Ok(account) = self.account(port)
        {
            account.nat_ports[protocol as usize].fetch_sub(1, Relaxed);
        }
    }

    /// A shard's answer. An asking port is not charged for a connection that was not made.
    #[inline(always)]
    fn translated(
        &self,
        shard: usize,
        answer: Result<conntrack::Answer, DropReason>,
        bill: &Bill<'_>,
    ) -> Result<Translated, DropReason> {
        if answer.is_err() && bill.connection {
            self.refund(Ended { port: bill.ask.owner, freed: None });
        }
        let conntrack::Answer { endpoint, track } = answer?;
        let tracked = track.and_then(|track| Some(Tracked { shard: u16::try_from(shard).ok()?, track }));
        Ok(Translated { endpoint, tracked })
    }
}

/// Charges the asking port for what its packet makes.
#[derive(Debug)]
struct Bill<'a> {
    conntrack: &'a Conntrack,
    ask: &'a Ask<'a>,
    /// Whether a connection was charged. An external port is the last thing to be, so that it never comes back.
    connection: bool,
}

impl Sponsor for &mut Bill<'_> {
    fn connection(&mut self) -> Result<NewConnection, DropReason> {
        let account = self.conntrack.account(self.ask.owner)?;
        if !charge(&account.connections, self.ask.quota) {
            return Err(DropReason::ConntrackQuota);
        }
        self.connection = true;
        Ok(NewConnection { port: self.ask.owner, hairpin: self.ask.hairpin, called: self.ask.called })
    }

    fn external_port(&mut self) -> Result<(), DropReason> {
        let count = &self.conntrack.account(self.ask.owner)?.nat_ports[self.ask.seen.protocol as usize];
        if charge(count, self.ask.nat_ports) { Ok(()) } else { Err(DropReason::NatPortQuota) }
    }
}

/// Which end of an untranslated connection is its inside, and which the remote: for both directions the same. An ICMP
/// query has its identifier on the side that asks.
fn sides(
    protocol: Protocol,
    src: Endpoint,
    dst: Endpoint,
    is_answer: bool,
) -> (Endpoint, Endpoint, Direction) {
    let outward = match protocol {
        Protocol::Icmp => !is_answer,
        Protocol::Tcp | Protocol::Udp => src <= dst,
    };
    if outward { (src, dst, Direction::Outward) } else { (dst, src, Direction::Inward) }
}

/// The shard, of a power of two, that at first owns the external port at `offset` of the range.
fn block_shard(offset: u16, shards: usize) -> usize {
    usize::from(offset / PORT_BLOCK) & (shards - 1)
}
