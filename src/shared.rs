//! State that several workers share: the only home of locks.
//!
//! A worker takes one short lock at a time and never while it holds another. The MAC table and conntrack
//! are cut into shards, so that workers rarely meet; the configuration is an immutable
//! [`Snapshot`] behind an [`ArcSwap`], which readers take without a lock.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut, Range, RangeInclusive};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
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
    FRAGMENT_DATAGRAMS, FRAGMENT_DATAGRAMS_PER_SOURCE, MAC_TABLE_SIZE, NEIGHBOR_QUEUE_TOTAL, NEIGHBORS_MAX,
    PORTS_MAX,
};
use crate::snapshot::Snapshot;
use crate::table::conntrack::{self, Activities, Activity, NewConnection, Seen, Timeouts, Track};
use crate::table::datagram_ids::DatagramIds;
use crate::table::fragment_table::{Datagram, Fragment, FragmentTable, Room};
use crate::table::mac_table::{Entry, Learned, MacTable, Station};
use crate::table::neighbor_table::NeighborTable;
use crate::table::rate_limit::{Rate, RateLimit};

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
/// inside endpoint share one external port; a container's port that lies in the external range goes where
/// that port belongs, so that it can be kept. A published port's packets go where its target's go.
#[derive(Debug)]
pub struct Conntrack {
    shards: Box<[Mutex<conntrack::Table>]>,
    /// By shard.
    activities: Box<[Arc<Activities>]>,
    hasher: RandomState,
    nat_ports: RangeInclusive<u16>,
    /// Connections of each port of the switch.
    per_port: Box<[AtomicU32]>,
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
        Conntrack {
            activities: shards.iter().map(|shard| lock(shard).activities()).collect(),
            shards,
            hasher: RandomState::new(),
            nat_ports,
            per_port: (0..PORTS_MAX).map(|_| AtomicU32::new(0)).collect(),
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
        let admitted = Cell::new(false);
        let index = self.index_inside(ask.seen.protocol, inside);
        let mut shard = lock(&self.shards[index]);
        let new = || self.admit(ask, &admitted);
        let answer = shard.outward(inside, remote, external, &ask.seen, new, ask.timeouts);
        self.translated(index, answer, ask, &admitted)
    }

    /// As [`conntrack::Table::inward`].
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
        let admitted = Cell::new(false);
        let index = self.index_outside(ask.seen.protocol, outside, target).ok_or(DropReason::Unsolicited)?;
        let mut shard = lock(&self.shards[index]);
        let new = || self.admit(ask, &admitted);
        let answer = shard.inward(outside, remote, target, &ask.seen, new, ask.timeouts);
        self.translated(index, answer, ask, &admitted)
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

    /// As [`conntrack::Table::mapping`].
    pub fn mapping(&self, protocol: Protocol, inside: Endpoint) -> Option<u16> {
        self.shard_inside(protocol, inside).mapping(protocol, inside)
    }

    /// Ends connections whose time is over, in the shards that are worker `worker`'s to sweep.
    pub fn expire(&self, worker: usize, workers: usize, now: Time, budget: usize) {
        for shard in self.shards.iter().skip(worker).step_by(workers.max(1)) {
            lock(shard).expire(now, budget, |port| self.dismiss(port));
        }
    }

    /// Ends the connections that `which` picks. Returns how many.
    pub fn flush(&self, now: Time, mut which: impl FnMut(&conntrack::Info) -> bool) -> usize {
        self.shards.iter().map(|shard| lock(shard).flush(now, &mut which, |port| self.dismiss(port))).sum()
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
        self.per_port.get(port.index()).map_or(0, |count| count.load(Relaxed))
    }

    /// Keeps an external port from being dealt: it is published, or the host uses it.
    pub fn reserve(&self, protocol: Protocol, port: u16) {
        if let Some(mut shard) = self.shard_of_port(port) {
            shard.reserve(protocol, port);
        }
    }

    /// Ends a reservation.
    pub fn release(&self, protocol: Protocol, port: u16, now: Time) {
        if let Some(mut shard) = self.shard_of_port(port) {
            shard.release(protocol, port, now);
        }
    }

    fn shard_of_port(&self, port: u16) -> Option<MutexGuard<'_, conntrack::Table>> {
        Some(lock(&self.shards[self.index_of_port(port)?]))
    }

    fn shard_inside(&self, protocol: Protocol, inside: Endpoint) -> MutexGuard<'_, conntrack::Table> {
        lock(&self.shards[self.index_inside(protocol, inside)])
    }

    fn index_of_port(&self, port: u16) -> Option<usize> {
        let offset = self.nat_ports.contains(&port).then(|| port - self.nat_ports.start())?;
        Some(block_shard(offset, self.shards.len()))
    }

    fn index_inside(&self, protocol: Protocol, inside: Endpoint) -> usize {
        #[allow(clippy::cast_possible_truncation)] // a hash: any bits will do
        let by_hash = || self.hasher.hash_one((protocol, inside)) as usize & (self.shards.len() - 1);
        self.index_of_port(inside.port).unwrap_or_else(by_hash)
    }

    fn index_outside(
        &self,
        protocol: Protocol,
        outside: Endpoint,
        target: Option<Endpoint>,
    ) -> Option<usize> {
        match target {
            Some(target) => Some(self.index_inside(protocol, target)),
            None => self.index_of_port(outside.port),
        }
    }

    /// Counts one more connection for the asking port, unless it has its quota.
    fn admit(&self, ask: &Ask<'_>, admitted: &Cell<bool>) -> Result<NewConnection, DropReason> {
        let count = self.per_port.get(ask.owner.index()).ok_or(DropReason::PortGone)?;
        if count.fetch_add(1, Relaxed) >= ask.quota {
            count.fetch_sub(1, Relaxed);
            return Err(DropReason::ConntrackQuota);
        }
        admitted.set(true);
        Ok(NewConnection { port: ask.owner, hairpin: ask.hairpin })
    }

    fn dismiss(&self, port: PortId) {
        if let Some(count) = self.per_port.get(port.index()) {
            count.fetch_sub(1, Relaxed);
        }
    }

    /// A shard's answer. An asking port is not charged for a connection that was not made.
    #[inline(always)]
    fn translated(
        &self,
        shard: usize,
        answer: Result<conntrack::Answer, DropReason>,
        ask: &Ask<'_>,
        admitted: &Cell<bool>,
    ) -> Result<Translated, DropReason> {
        if answer.is_err() && admitted.get() {
            self.dismiss(ask.owner);
        }
        let conntrack::Answer { endpoint, track } = answer?;
        let tracked = track.and_then(|track| Some(Tracked { shard: u16::try_from(shard).ok()?, track }));
        Ok(Translated { endpoint, tracked })
    }
}

/// The shard, of a power of two, that owns the external port at `offset` of the range.
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
