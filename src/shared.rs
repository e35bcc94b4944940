//! State that several workers share: the only home of locks.
//!
//! A worker takes one short lock at a time and never while it holds another, but for the rare case that external
//! ports move between shards of conntrack. The MAC table and conntrack
//! are cut into shards, so that workers rarely meet; the configuration is an immutable
//! [`Snapshot`] behind an [`ArcSwap`], which readers take without a lock.

use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut, Range, RangeInclusive};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;

use crate::addr::{Endpoint, MacAddr, PortId, Protocol};
use crate::clock::Time;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::limits::{
    ARP_DEFEND_INTERVAL, DROP_SAMPLE_BYTES, DROP_SAMPLES, FRAGMENT_BYTES, FRAGMENT_BYTES_PER_SOURCE,
    FRAGMENT_DATAGRAMS, FRAGMENT_DATAGRAMS_PER_SOURCE, ICMP_ERRORS_PER_PORT, ICMP_ERRORS_PER_SECOND,
    MAC_TABLE_SIZE, NAT_PORTS_SHARE, NEIGHBOR_QUEUE_TOTAL, NEIGHBORS_MAX, PORTS_MAX,
};
use crate::snapshot::Snapshot;
use crate::table::conntrack::{
    self, Activities, Activity, Ended, NewConnection, Seen, Sponsor, Timeouts, Track,
};
use crate::table::datagram_ids::DatagramIds;
use crate::table::fragment_table::{Datagram, Fragment, FragmentTable, Room};
use crate::table::mac_table::{Entry, Learned, MacTable, Station};
use crate::table::neighbor_table::NeighborTable;
use crate::table::rate_limit::{Allowance, Rate, RateLimit};

/// Locks, and goes on if another thread panicked while it held the lock: the tables are consistent between
/// any two of their operations, and a switch that stops is worse than one that misses an entry.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A count of the changes after which what was once found out about a flow may be wrong: a station has moved,
/// a neighbor has another MAC address, an entry was removed. The tables that can change so share it.
///
/// An entry that is forgotten because of its age or for want of room is no such change: what it said stays
/// true until it is learned otherwise.
#[derive(Debug, Clone, Default)]
pub struct Epoch(Arc<AtomicU64>);

impl Epoch {
    /// The count now. To be taken before the first lookup that it shall vouch for.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        self.0.load(Acquire)
    }

    /// Counts a change that was made. Called while the table is still locked, so that whoever sees the old
    /// count afterwards has seen the old table.
    fn advance(&self) {
        self.0.fetch_add(1, Release);
    }
}

/// Shards of a network's MAC table; a power of two.
const FDB_SHARDS: usize = 8;

/// A network's forwarding database (FDB, CAM table), sharded by MAC address.
#[derive(Debug)]
pub struct Fdb {
    shards: [Mutex<MacTable>; FDB_SHARDS],
    /// An odd number that nobody else knows, to deal the addresses to the shards.
    factor: u64,
    limit: usize,
    epoch: Epoch,
}

impl Fdb {
    /// An empty table for [`MAC_TABLE_SIZE`] addresses, whose changes advance `epoch`.
    pub fn new(epoch: &Epoch) -> Self {
        let limit = MAC_TABLE_SIZE;
        let shard = |_| Mutex::new(MacTable::new(limit.div_ceil(FDB_SHARDS)));
        Fdb {
            shards: std::array::from_fn(shard),
            factor: RandomState::new().hash_one(limit) | 1,
            limit,
            epoch: epoch.clone(),
        }
    }

    fn shard(&self, mac: MacAddr) -> MutexGuard<'_, MacTable> {
        // The table itself hashes well, so the shard need not: the product's highest bits are enough.
        #[allow(clippy::cast_possible_truncation)] // below FDB_SHARDS
        let index = (mac.to_bits().wrapping_mul(self.factor) >> (u64::BITS - FDB_SHARDS.ilog2())) as usize;
        lock(&self.shards[index])
    }

    /// Notes that `mac` was seen as a source on `port`, which may have about `quota` learned addresses. A station
    /// moves there only if `may_move` says so, given the port that it was on.
    pub fn learn(
        &self,
        mac: MacAddr,
        port: PortId,
        quota: u32,
        now: Time,
        may_move: impl FnOnce(PortId) -> bool,
    ) -> Learned {
        let share = usize::try_from(quota).unwrap_or(usize::MAX).div_ceil(FDB_SHARDS);
        let mut shard = self.shard(mac);
        let learned = shard.learn_if(mac, port, share, now, may_move);
        if matches!(learned, Learned::Moved { .. }) {
            self.epoch.advance();
        }
        learned
    }

    /// Where `mac` is, if it was seen within `ageing`.
    pub fn lookup(&self, mac: MacAddr, now: Time, ageing: Duration) -> Station {
        self.shard(mac).lookup(mac, now, ageing)
    }

    /// Adds or replaces a static entry: never aged, never moved by learning. Says whether there was room.
    pub fn add_static(&self, mac: MacAddr, port: PortId, now: Time) -> bool {
        let mut shard = self.shard(mac);
        let added = shard.add_static(mac, port, now);
        self.epoch.advance();
        added
    }

    /// Adds an entry for an address of the switch itself.
    pub fn add_local(&self, mac: MacAddr, now: Time) {
        let mut shard = self.shard(mac);
        shard.add_local(mac, now);
        self.epoch.advance();
    }

    /// Removes an entry; local ones stay. Says whether there was one.
    pub fn remove(&self, mac: MacAddr) -> bool {
        let mut shard = self.shard(mac);
        let removed = shard.remove(mac);
        self.epoch.advance();
        removed
    }

    /// Removes every entry of a port, static ones too: the port is gone.
    pub fn remove_port(&self, port: PortId) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.remove_port(port);
            self.epoch.advance();
        }
    }

    /// Removes the learned entries, of one port or of all. Returns how many.
    pub fn flush(&self, port: Option<PortId>) -> usize {
        let flush = |shard: &Mutex<MacTable>| {
            let mut shard = lock(shard);
            let count = shard.flush(port);
            self.epoch.advance();
            count
        };
        self.shards.iter().map(flush).sum()
    }

    /// Forgets what was not seen within `ageing`. Called now and then; looking up never returns such entries.
    pub fn expire(&self, now: Time, ageing: Duration) {
        self.shards.iter().for_each(|shard| lock(shard).expire(now, ageing));
    }

    /// All entries that are not older than `ageing`, in no order.
    pub fn entries(&self, now: Time, ageing: Duration) -> Vec<Entry> {
        self.shards.iter().flat_map(|shard| lock(shard).entries(now, ageing)).collect()
    }

    /// Most entries that it holds.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// A frame that waits for its next hop's MAC address, as it came in.
#[derive(Debug)]
pub struct Waiting {
    /// The port it came in by.
    pub ingress: PortId,
    /// Its bytes.
    pub bytes: Box<[u8]>,
    /// Its promises.
    pub offload: Offload,
}

impl Waiting {
    /// A copy of `frame`.
    pub fn new(ingress: PortId, frame: &Frame) -> Self {
        Waiting { ingress, bytes: frame.bytes().into(), offload: frame.offload }
    }
}

/// The neighbor table of a network or of the uplink.
#[derive(Debug)]
pub struct Neighbors {
    table: Mutex<NeighborTable<Ipv4Addr, Waiting>>,
    epoch: Epoch,
    defence: RateLimit,
    warning: RateLimit,
}

impl Neighbors {
    /// An empty table for a network, whose changes advance `epoch`.
    pub fn of_network(epoch: &Epoch) -> Self {
        Self::new(NeighborTable::new(NEIGHBORS_MAX, NEIGHBOR_QUEUE_TOTAL), epoch)
    }

    /// An empty table for the uplink, whose changes advance `epoch`. It is cautious: whoever is out there can say
    /// whatever they like.
    pub fn of_uplink(epoch: &Epoch) -> Self {
        Self::new(NeighborTable::new(NEIGHBORS_MAX, NEIGHBOR_QUEUE_TOTAL).cautious(), epoch)
    }

    fn new(table: NeighborTable<Ipv4Addr, Waiting>, epoch: &Epoch) -> Self {
        let (defence, warning) = (RateLimit::default(), RateLimit::default());
        Neighbors { table: Mutex::new(table), epoch: epoch.clone(), defence, warning }
    }

    /// Whether an address of ours that somebody else claims on this link may be defended now.
    pub fn may_defend(&self, now: Time) -> bool {
        self.defence.allows(Rate::every(ARP_DEFEND_INTERVAL), 1, now)
    }

    /// Whether a neighbor in doubt is worth another line in the log.
    pub fn may_warn(&self, now: Time) -> bool {
        self.warning.allows(Rate::every(ARP_DEFEND_INTERVAL), 1, now)
    }

    /// The table, locked.
    pub fn lock(&self) -> LockedNeighbors<'_> {
        let table = lock(&self.table);
        LockedNeighbors { changes: table.changes(), table, epoch: &self.epoch }
    }
}

/// A locked neighbor table. When it is unlocked, what has changed advances the epoch.
#[derive(Debug)]
pub struct LockedNeighbors<'a> {
    table: MutexGuard<'a, NeighborTable<Ipv4Addr, Waiting>>,
    changes: u64,
    epoch: &'a Epoch,
}

impl Deref for LockedNeighbors<'_> {
    type Target = NeighborTable<Ipv4Addr, Waiting>;
    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl DerefMut for LockedNeighbors<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.table
    }
}

impl Drop for LockedNeighbors<'_> {
    fn drop(&mut self) {
        if self.table.changes() != self.changes {
            self.epoch.advance();
        }
    }
}

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

    /// Ends a TCP connection that is over, where that makes room for one that shard `index` has refused. Says
    /// whether there was one.
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
        let mut places = (0..shards).map(|step| (index + step) % everywhere);
        let Some(ended) = places.find_map(|at| lock(&self.shards[at]).reclaim(owner, ask.seen.now)) else {
            return false;
        };
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
        Ok(NewConnection { port: self.ask.owner, hairpin: self.ask.hairpin })
    }

    fn external_port(&mut self) -> Result<(), DropReason> {
        let count = &self.conntrack.account(self.ask.owner)?.nat_ports[self.ask.seen.protocol as usize];
        if charge(count, self.ask.nat_ports) { Ok(()) } else { Err(DropReason::NatPortQuota) }
    }
}

/// The shard, of a power of two, that at first owns the external port at `offset` of the range.
fn block_shard(offset: u16, shards: usize) -> usize {
    usize::from(offset / PORT_BLOCK) & (shards - 1)
}

/// Shards of the fragment table.
const FRAGMENT_SHARDS: usize = 4;

/// Who pays for a fragment's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentSource {
    /// The port it came in by.
    pub port: PortId,
    /// Its sender, where many share the port: at the uplink.
    pub sender: Option<Ipv4Addr>,
}

/// What the fragments of a datagram have in common (RFC 791 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// The sender.
    pub src: Ipv4Addr,
    /// The destination.
    pub dst: Ipv4Addr,
    /// The protocol.
    pub protocol: u8,
    /// The identification.
    pub id: u16,
}

/// The fragment table, sharded by datagram: its fragments may be read by different workers, since those behind
/// the first have no ports that the uplink's packets are dealt by.
#[derive(Debug)]
pub struct Fragments {
    shards: [Mutex<FragmentTable<FragmentSource, DatagramKey>>; FRAGMENT_SHARDS],
    hasher: RandomState,
}

impl Fragments {
    /// An empty table.
    fn new() -> Self {
        let share = |datagrams, bytes| Room {
            datagrams: datagrams / FRAGMENT_SHARDS,
            bytes: bytes / FRAGMENT_SHARDS,
        };
        let total = share(FRAGMENT_DATAGRAMS, FRAGMENT_BYTES);
        let per_source = share(FRAGMENT_DATAGRAMS_PER_SOURCE, FRAGMENT_BYTES_PER_SOURCE);
        let shard = |_| Mutex::new(FragmentTable::new(total, per_source));
        Fragments { shards: std::array::from_fn(shard), hasher: RandomState::new() }
    }

    /// As [`FragmentTable::add`].
    ///
    /// # Errors
    /// Why the fragment is dropped.
    pub fn add(
        &self,
        source: FragmentSource,
        key: DatagramKey,
        fragment: &Fragment<'_>,
        now: Time,
        lost: impl FnMut(FragmentSource, usize, DropReason),
    ) -> Result<Option<Datagram>, DropReason> {
        #[allow(clippy::cast_possible_truncation)] // a hash: any bits will do
        let shard = self.hasher.hash_one(key) as usize % FRAGMENT_SHARDS;
        lock(&self.shards[shard]).add(source, key, fragment, now, lost)
    }

    /// As [`FragmentTable::expire`], for the shards that are worker `worker`'s to sweep.
    pub fn expire(
        &self,
        worker: usize,
        workers: usize,
        now: Time,
        mut expired: impl FnMut(FragmentSource, &Datagram),
    ) {
        for shard in self.shards.iter().skip(worker).step_by(workers.max(1)) {
            lock(shard).expire(now, &mut expired);
        }
    }

    /// Fragments that wait for the rest of their datagrams.
    pub fn waiting(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).fragments()).sum()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes()).sum()
    }
}

/// The beginning of a dropped frame.
#[derive(Debug, Clone)]
pub struct DropSample {
    /// When.
    pub at: Time,
    /// Where it came from or should have gone.
    pub port: PortId,
    /// Why.
    pub reason: DropReason,
    /// Its first bytes.
    pub bytes: Bytes,
}

/// The last dropped frames that one worker saw.
#[derive(Debug)]
struct DropRing {
    samples: Vec<DropSample>,
    next: usize,
    last: Option<Time>,
}

/// Everything that the workers and the control thread share.
#[derive(Debug)]
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    /// Connections and address translations.
    pub conntrack: Conntrack,
    /// Datagrams that are not whole yet.
    pub fragments: Fragments,
    /// Identifications of datagrams that leave with another source.
    pub datagram_ids: DatagramIds,
    /// How many ICMP errors may be sent, of which each port has a share.
    pub icmp_errors: Allowance,
    drops: Box<[Mutex<DropRing>]>,
    generation: AtomicU64,
    epoch: Epoch,
    workers: usize,
}

impl Shared {
    /// State for `workers` workers that starts from `snapshot`.
    pub fn new(workers: usize, snapshot: Snapshot, conntrack: Conntrack) -> Self {
        let ring = || Mutex::new(DropRing { samples: Vec::new(), next: 0, last: None });
        Shared {
            generation: AtomicU64::new(snapshot.generation),
            epoch: Epoch::default(),
            snapshot: ArcSwap::from_pointee(snapshot),
            conntrack,
            fragments: Fragments::new(),
            datagram_ids: DatagramIds::new(),
            icmp_errors: Allowance::new(
                Rate::within_a_second(ICMP_ERRORS_PER_SECOND),
                Rate::within_a_second(ICMP_ERRORS_PER_PORT),
                PORTS_MAX,
            ),
            drops: (0..workers.max(1)).map(|_| ring()).collect(),
            workers: workers.max(1),
        }
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The configuration now.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The configuration now, to be kept for a while.
    pub fn snapshot_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The generation of the configuration, to see cheaply whether it changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// What the tables of networks and of the uplink count their changes with.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Makes a changed configuration the valid one. `change` works on a copy of the current one.
    pub fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.snapshot.load());
        change(&mut next);
        next.generation += 1;
        let generation = next.generation;
        self.snapshot.store(Arc::new(next));
        self.generation.store(generation, Release);
    }

    /// Keeps the beginning of a dropped frame, at most one a millisecond and worker: a flood of drops must
    /// not cost more than the frames that go through.
    pub fn sample_drop(&self, worker: usize, reason: DropReason, port: PortId, frame: &[u8], now: Time) {
        let mut ring = lock(&self.drops[worker % self.drops.len()]);
        if ring.last.is_some_and(|last| now.since(last) < Duration::from_millis(1)) {
            return;
        }
        ring.last = Some(now);
        let bytes = Bytes::copy_from_slice(&frame[..frame.len().min(DROP_SAMPLE_BYTES)]);
        let sample = DropSample { at: now, port, reason, bytes };
        if ring.samples.len() < DROP_SAMPLES {
            ring.samples.push(sample);
        } else {
            let next = ring.next;
            ring.samples[next] = sample;
            ring.next = (next + 1) % DROP_SAMPLES;
        }
    }

    /// The last dropped frames of all workers, newest first.
    pub fn drop_samples(&self) -> Vec<DropSample> {
        let mut all: Vec<_> = self.drops.iter().flat_map(|ring| lock(ring).samples.clone()).collect();
        all.sort_by_key(|sample| std::cmp::Reverse(sample.at));
        all
    }
}
