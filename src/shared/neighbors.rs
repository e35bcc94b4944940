//! The neighbor tables, and the frames that wait in them.

use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

use super::{Epoch, lock};
use crate::addr::PortId;
use crate::clock::Time;
use crate::frame::{Frame, Offload};
use crate::limits::{ARP_DEFEND_INTERVAL, NEIGHBOR_QUEUE_TOTAL, NEIGHBORS_MAX};
use crate::table::neighbor_table::NeighborTable;
use crate::table::rate_limit::{Rate, RateLimit};

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
