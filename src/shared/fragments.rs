//! The fragment table.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use ahash::RandomState;

use super::lock;
use crate::addr::PortId;
use crate::clock::Time;
use crate::drops::DropReason;
use crate::limits::{
    FRAGMENT_BYTES, FRAGMENT_BYTES_PER_SOURCE, FRAGMENT_DATAGRAMS, FRAGMENT_DATAGRAMS_PER_SOURCE,
};
use crate::table::fragment_table::{Datagram, Fragment, FragmentTable, Room};

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
    pub(super) fn new() -> Self {
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
