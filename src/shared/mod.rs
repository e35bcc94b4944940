//! State that several workers share: the only home of locks.
//!
//! A worker takes one short lock at a time and never while it holds another, but for the rare case that external
//! ports move between shards of conntrack. The MAC table and conntrack are cut into shards, so that workers
//! rarely meet; the configuration is an immutable [`Snapshot`] behind an [`ArcSwap`], which readers take without
//! a lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;

use crate::addr::PortId;
use crate::clock::Time;
use crate::drops::DropReason;
use crate::limits::{
    DROP_SAMPLE_BYTES, DROP_SAMPLES, ICMP_ERRORS_PER_PORT, ICMP_ERRORS_PER_SECOND, PORTS_MAX,
};
use crate::snapshot::Snapshot;
use crate::table::datagram_ids::DatagramIds;
use crate::table::rate_limit::{Allowance, Rate};

mod conntrack;
mod fdb;
mod fragments;
mod neighbors;
mod open_ports;
mod punts;

pub use conntrack::{Ask, Conntrack, Tracked, Translated};
pub use fdb::Fdb;
pub use fragments::{DatagramKey, FragmentSource, Fragments};
pub use neighbors::{LockedNeighbors, Neighbors, Waiting};
pub use open_ports::{OpenPort, OpenPorts};
pub use punts::{Punt, Punts, Service};

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
    /// Frames for the services that control gives.
    pub punts: Punts,
    /// Frames for what the gateway itself speaks with TCP and UDP.
    pub stack_punts: Punts,
    /// Ports of the gateways that connections of their own use.
    pub open_ports: Arc<OpenPorts>,
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
            punts: Punts::default(),
            stack_punts: Punts::default(),
            open_ports: Arc::default(),
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

    /// State of the same configuration with tables of its own, for whoever wants to try a change of it. No packet finds
    /// its way by it.
    pub fn rehearsal(&self) -> Shared {
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let epoch = Epoch::default();
        snapshot.networks.iter_mut().flatten().for_each(|network| {
            let network = Arc::make_mut(network);
            network.fdb = Arc::new(Fdb::new(&epoch));
            network.neighbors = Arc::new(Neighbors::of_network(&epoch));
        });
        Shared { epoch, ..Shared::new(1, snapshot, self.conntrack.idle()) }
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
