//! What every packet of a connection changes, kept apart from what only some packets change.
//!
//! Most packets of a connection count, push its deadline and acknowledge, and do nothing else. That much is
//! here, in atomics, so that a worker whose flow cache knows the connection can note a packet without the
//! table's lock ([`Activities::alive`]). Everything else about a connection is behind that lock.
//!
//! **Writers.** The packets of one direction of a connection are read by one worker, so a direction's fields
//! have one writer and adding is a plain load and store. While a port changes hands between workers, or the
//! kernel moves a flow to another uplink socket, a packet may go uncounted; nothing else can go wrong.
//!
//! **Lives.** A connection's place is used again by later connections. Each has a number, its *life*; whoever
//! remembers a place remembers the life with it, and notes nothing once it is over ([`Activity::life`]). A TCP
//! connection that is closed, reset or begins anew begins a new life too, because its packets now change more or
//! less than what is here.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::Direction;
use crate::clock::Time;
use crate::counters::Counter;

/// Places that are made at one time: 56 KiB.
const CHUNK: usize = 1024;

/// What every packet of one connection changes. Arrays are indexed by [`Direction`].
#[derive(Debug, Default)]
pub struct Activity {
    packets: [Counter; 2],
    bytes: [Counter; 2],
    /// When the deadline was last pushed, in microseconds.
    refreshed: AtomicU64,
    /// The highest acknowledgment number.
    acked: [AtomicU32; 2],
    life: AtomicU32,
}

impl Activity {
    /// Counts a packet.
    #[inline(always)]
    pub fn count(&self, direction: Direction, bytes: usize) {
        self.packets[direction as usize].add(1);
        self.bytes[direction as usize].add(bytes as u64);
    }

    /// Notes that the connection's time begins anew.
    #[inline(always)]
    pub fn refresh(&self, now: Time) {
        self.refreshed.store(now.as_micros(), Relaxed);
    }

    /// Notes an acknowledgment number, if it comes after the last one.
    #[inline(always)]
    pub fn acknowledge(&self, direction: Direction, ack: u32) {
        let acked = &self.acked[direction as usize];
        if is_after(ack, acked.load(Relaxed)) {
            acked.store(ack, Relaxed);
        }
    }

    /// The life that the connection at this place leads.
    #[inline(always)]
    pub fn life(&self) -> u32 {
        self.life.load(Relaxed)
    }

    pub(super) fn packets(&self) -> [u64; 2] {
        [self.packets[0].value(), self.packets[1].value()]
    }

    pub(super) fn bytes(&self) -> [u64; 2] {
        [self.bytes[0].value(), self.bytes[1].value()]
    }

    pub(super) fn refreshed(&self) -> Time {
        Time::from_micros(self.refreshed.load(Relaxed))
    }

    pub(super) fn acked(&self, direction: Direction) -> u32 {
        self.acked[direction as usize].load(Relaxed)
    }

    /// Sets an acknowledgment number, whatever was there before.
    pub(super) fn set_acked(&self, direction: Direction, ack: u32) {
        self.acked[direction as usize].store(ack, Relaxed);
    }

    /// Ends the life that is led here: nothing that was remembered of it is noted from now on.
    pub(super) fn end_life(&self) {
        self.life.store(self.life().wrapping_add(1), Relaxed);
    }

    /// Gets the place ready for the next connection.
    pub(super) fn reset(&self, now: Time) {
        self.packets.iter().chain(&self.bytes).for_each(|counter| counter.set(0));
        self.refresh(now);
    }
}

/// The places of all connections of a shard. They are made as they are needed and stay.
#[derive(Debug)]
pub struct Activities {
    chunks: Box<[OnceLock<Box<[Activity]>>]>,
}

impl Activities {
    /// Places for `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Activities { chunks: (0..limit.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect() }
    }

    /// The place with this number, which is below the limit.
    #[inline(always)]
    pub(super) fn at(&self, number: u32) -> &Activity {
        let make = || (0..CHUNK).map(|_| Activity::default()).collect();
        &self.chunks[number as usize / CHUNK].get_or_init(make)[number as usize % CHUNK]
    }

    /// The place with this number, if the life that is led there is still the one that is remembered.
    #[inline(always)]
    pub fn alive(&self, number: u32, life: u32) -> Option<&Activity> {
        let chunk = self.chunks.get(number as usize / CHUNK)?.get()?;
        let activity = &chunk[number as usize % CHUNK];
        (activity.life() == life).then_some(activity)
    }
}

/// Whether sequence number `a` comes after `b` (RFC 9293 3.4).
const fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inward, Outward};

    #[test]
    fn acknowledgments_only_grow_in_sequence_space() {
        let activity = Activity::default();
        activity.set_acked(Inward, u32::MAX - 5);
        for (ack, expected) in [(u32::MAX - 9, u32::MAX - 5), (3, 3), (2, 3), (u32::MAX, 3)] {
            activity.acknowledge(Inward, ack);
            assert_eq!(activity.acked(Inward), expected, "after {ack}");
        }
        assert_eq!(activity.acked(Outward), 0);
    }

    #[test]
    fn a_life_that_is_over_is_not_found() {
        let places = Activities::new(CHUNK + 1);
        #[allow(clippy::cast_possible_truncation)] // 1024
        let number = CHUNK as u32;
        assert!(places.alive(number, 0).is_none(), "nobody has lived there");
        let life = places.at(number).life();
        places.alive(number, life).expect("alive").count(Outward, 60);
        places.at(number).end_life();
        assert!(places.alive(number, life).is_none());
        assert!(places.alive(2 * number, life).is_none(), "beyond the limit");
        assert_eq!((places.at(number).packets(), places.at(number).bytes()), ([1, 0], [60, 0]));
    }

    #[test]
    fn a_place_is_small() {
        assert!(size_of::<Activity>() <= 56);
    }
}
