//! The forwarding databases of the networks.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ahash::RandomState;

use super::{Epoch, lock};
use crate::addr::{MacAddr, PortId};
use crate::clock::Time;
use crate::limits::MAC_TABLE_SIZE;
use crate::table::mac_table::{Entry, Learned, MacTable, Station};

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
