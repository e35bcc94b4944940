//! Counters of ports.
//!
//! Each worker has its own row of every port's counters and is the only one that writes it, so counting is
//! a plain load, add and store: no locked instruction, no shared cache line. Reading sums the rows.
//!
//! The books balance. For all ports together and at any quiet moment
//! `rx + originated + copies == tx + consumed + left_to_host + reassembled + drops + waiting`,
//! where `waiting` are the frames in neighbor queues and in the fragment table; [`Totals::imbalance`] is the difference.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::Time;
use crate::drops::DropReason;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the one writer of this counter may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Sets the value. Only the one writer of this counter may call it.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

/// What one worker counts of one port.
#[derive(Debug)]
#[repr(align(64))]
pub struct Row {
    /// Frames read from the port. A super-frame is one frame.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames written to the port. A super-frame is one frame, unless it was made here by coalescing: then it is
    /// as many as went into it.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Of the frames read, those that carry several segments (TSO, USO).
    pub rx_super: Counter,
    /// Super-frames written, those made by coalescing included.
    pub tx_super: Counter,
    /// Of the frames read, those whose flow a worker's flow cache knew.
    pub rx_cached: Counter,
    /// Of the frames written, those that left within another one's super-frame.
    pub tx_coalesced: Counter,
    /// Frames that the switch itself made because of this port: ARP, ICMP, announcements.
    pub originated: Counter,
    /// Extra copies of frames from this port, made by flooding.
    pub copies: Counter,
    /// Frames from this port that the gateway itself was the destination of.
    pub consumed: Counter,
    /// Frames from the uplink that are the host's own business.
    pub left_to_host: Counter,
    /// Fragments from this port that went on as a part of the datagram that another fragment of it completed. The
    /// datagram is one frame.
    pub reassembled: Counter,
    drops: [Counter; DropReason::COUNT],
    last_drop: [Counter; DropReason::COUNT],
}

impl Row {
    fn new() -> Self {
        Row {
            rx_packets: Counter::default(),
            rx_bytes: Counter::default(),
            tx_packets: Counter::default(),
            tx_bytes: Counter::default(),
            rx_super: Counter::default(),
            tx_super: Counter::default(),
            rx_cached: Counter::default(),
            tx_coalesced: Counter::default(),
            originated: Counter::default(),
            copies: Counter::default(),
            consumed: Counter::default(),
            left_to_host: Counter::default(),
            reassembled: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            last_drop: std::array::from_fn(|_| Counter::default()),
        }
    }

    /// Counts a frame read.
    pub fn received(&self, bytes: usize, is_super: bool) {
        self.rx_packets.add(1);
        self.rx_bytes.add(bytes as u64);
        self.rx_super.add(u64::from(is_super));
    }

    /// Counts a frame written, which stands for `frames` frames that had `bytes` bytes.
    pub fn transmitted(&self, frames: u32, bytes: usize, is_super: bool) {
        self.tx_packets.add(u64::from(frames));
        self.tx_bytes.add(bytes as u64);
        self.tx_super.add(u64::from(is_super));
        self.tx_coalesced.add(u64::from(frames.saturating_sub(1)));
    }

    /// Counts a drop.
    pub fn dropped(&self, reason: DropReason, now: Time) {
        self.dropped_many(reason, 1, now);
    }

    /// Counts the drop of a frame that stands for `frames`.
    pub fn dropped_many(&self, reason: DropReason, frames: u32, now: Time) {
        self.drops[reason as usize].add(u64::from(frames));
        self.last_drop[reason as usize].set(now.as_micros());
    }
}

/// The counters of a port: a row for each worker, and one for the control thread.
#[derive(Debug)]
pub struct PortCounters {
    rows: Box<[Row]>,
}

impl PortCounters {
    /// Counters for `workers` workers.
    pub fn new(workers: usize) -> Self {
        PortCounters { rows: (0..workers.max(1)).map(|_| Row::new()).collect() }
    }

    /// The row that worker number `worker` writes.
    pub fn row(&self, worker: usize) -> &Row {
        // On the way of every frame, and a division would show there.
        &self.rows[if worker < self.rows.len() { worker } else { worker % self.rows.len() }]
    }

    /// The sum over all workers.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for row in &self.rows {
            sum.rx_packets += row.rx_packets.value();
            sum.rx_bytes += row.rx_bytes.value();
            sum.tx_packets += row.tx_packets.value();
            sum.tx_bytes += row.tx_bytes.value();
            sum.rx_super += row.rx_super.value();
            sum.tx_super += row.tx_super.value();
            sum.rx_cached += row.rx_cached.value();
            sum.tx_coalesced += row.tx_coalesced.value();
            sum.originated += row.originated.value();
            sum.copies += row.copies.value();
            sum.consumed += row.consumed.value();
            sum.left_to_host += row.left_to_host.value();
            sum.reassembled += row.reassembled.value();
            sum.drops += row.drops.iter().map(Counter::value).sum::<u64>();
        }
        sum
    }

    /// Frames written, of all workers.
    pub fn transmitted(&self) -> u64 {
        self.rows.iter().map(|row| row.tx_packets.value()).sum()
    }

    /// Every reason with a count, and when it last happened.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64, Time)> + '_ {
        DropReason::ALL.iter().filter_map(|&reason| {
            let count: u64 = self.rows.iter().map(|row| row.drops[reason as usize].value()).sum();
            let last = self.rows.iter().map(|row| row.last_drop[reason as usize].value()).max();
            (count > 0).then(|| (reason, count, Time::from_micros(last.unwrap_or(0))))
        })
    }

    /// How often `reason` was counted.
    pub fn drop_count(&self, reason: DropReason) -> u64 {
        self.rows.iter().map(|row| row.drops[reason as usize].value()).sum()
    }
}

/// Sums of a port's counters, or of several ports'. The fields are those of [`Row`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Totals {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub rx_super: u64,
    pub tx_super: u64,
    pub rx_cached: u64,
    pub tx_coalesced: u64,
    pub originated: u64,
    pub copies: u64,
    pub consumed: u64,
    pub left_to_host: u64,
    pub reassembled: u64,
    pub drops: u64,
}

impl Totals {
    /// Frames that came from somewhere minus frames that went somewhere, given how many are `waiting` for a
    /// neighbor or the rest of a datagram: zero, or the books do not balance.
    pub fn imbalance(&self, waiting: u64) -> i128 {
        let came = [self.rx_packets, self.originated, self.copies];
        let went = [self.tx_packets, self.consumed, self.left_to_host, self.reassembled, self.drops, waiting];
        came.iter().map(|&n| i128::from(n)).sum::<i128>() - went.iter().map(|&n| i128::from(n)).sum::<i128>()
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.rx_super += other.rx_super;
        self.tx_super += other.tx_super;
        self.rx_cached += other.rx_cached;
        self.tx_coalesced += other.tx_coalesced;
        self.originated += other.originated;
        self.copies += other.copies;
        self.consumed += other.consumed;
        self.left_to_host += other.left_to_host;
        self.reassembled += other.reassembled;
        self.drops += other.drops;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up() {
        let counters = PortCounters::new(2);
        counters.row(0).received(100, false);
        counters.row(1).received(60_000, true);
        counters.row(1).dropped(DropReason::Runt, Time::from_secs(3));
        counters.row(0).transmitted(1, 100, false);
        let totals = counters.totals();
        assert_eq!((totals.rx_packets, totals.rx_bytes, totals.rx_super, totals.drops), (2, 60_100, 1, 1));
        assert_eq!(totals.imbalance(0), 0);
        assert_eq!(totals.imbalance(1), -1);
        let drops: Vec<_> = counters.drops().collect();
        assert_eq!(drops, [(DropReason::Runt, 1, Time::from_secs(3))]);
    }
}
