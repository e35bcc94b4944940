//! External ports for masquerading: which are free, which rest, which are reserved.
//!
//! A pool deals the ports of one conntrack shard for one protocol. Taking a random port, taking a certain
//! port (to keep the one that the container chose) and giving one back are O(1) up to the last free port:
//! the free ports stand in an array, in any order, and every port knows its place in it.
//!
//! A port that comes back rests for [`NAT_PORT_HOLD`] (RFC 6888 REQ-8), so that a late segment of its old
//! connection does not meet a new one. If nothing else is free, the port that has rested longest is dealt.
//! A reserved port (somebody published it) is never dealt.

use std::collections::VecDeque;

use ahash::AHashMap;

use crate::clock::Time;
use crate::limits::NAT_PORT_HOLD;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Free, at this place of the array.
    Free(usize),
    /// Dealt.
    Taken,
    /// Given back, resting.
    Resting,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: State,
    reserved: bool,
}

/// The external ports of one protocol that one shard may deal.
#[derive(Debug, Default)]
pub struct PortPool {
    slots: AHashMap<u16, Slot>,
    all: Vec<u16>,
    free: Vec<u16>,
    resting: VecDeque<(Time, u16)>,
}

impl PortPool {
    /// A pool of these ports, all free.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut pool = PortPool::default();
        for port in ports {
            let state = State::Free(pool.free.len());
            if pool.slots.insert(port, Slot { state, reserved: false }).is_none() {
                pool.free.push(port);
                pool.all.push(port);
            }
        }
        pool
    }

    /// Whether the pool deals this port at all.
    pub fn owns(&self, port: u16) -> bool {
        self.slots.contains_key(&port)
    }

    /// Ports that are neither dealt nor reserved.
    pub fn available(&self) -> usize {
        self.free.len() + self.resting.len()
    }

    /// Takes this very port, if it is free and rested.
    pub fn take(&mut self, port: u16, now: Time) -> bool {
        self.wake_rested(now);
        let Some(Slot { state: State::Free(place), .. }) = self.slots.get(&port).copied() else {
            return false;
        };
        self.unlist(place);
        self.set(port, State::Taken);
        true
    }

    /// Takes the free port that `random` picks; if none is free, the one that has rested longest.
    pub fn take_any(&mut self, random: u64, now: Time) -> Option<u16> {
        self.wake_rested(now);
        let port = if self.free.is_empty() {
            self.resting.pop_front()?.1
        } else {
            #[allow(clippy::cast_possible_truncation)] // the remainder fits
            let place = (random % self.free.len() as u64) as usize;
            let port = self.free[place];
            self.unlist(place);
            port
        };
        self.set(port, State::Taken);
        Some(port)
    }

    /// The dealt port that `random` picks, to be used once more; `None` if it picks one that is not dealt.
    pub fn any_dealt(&self, random: u64) -> Option<u16> {
        #[allow(clippy::cast_possible_truncation)] // the remainder fits
        let port = *self.all.get(random.checked_rem(self.all.len() as u64)? as usize)?;
        let slot = self.slots.get(&port)?;
        (slot.state == State::Taken && !slot.reserved).then_some(port)
    }

    /// Gives a dealt port back.
    pub fn give(&mut self, port: u16, now: Time) {
        let Some(slot) = self.slots.get(&port) else { return };
        debug_assert_eq!(slot.state, State::Taken, "port {port} given back, but not dealt");
        if slot.state != State::Taken || slot.reserved {
            return;
        }
        self.set(port, State::Resting);
        self.resting.push_back((now, port));
    }

    /// Keeps a port from being dealt. One that is dealt now stays so until it comes back.
    pub fn reserve(&mut self, port: u16) {
        let Some(slot) = self.slots.get_mut(&port) else { return };
        slot.reserved = true;
        match slot.state {
            State::Free(place) => {
                slot.state = State::Taken;
                self.unlist(place);
            }
            State::Resting => {
                slot.state = State::Taken;
                self.resting.retain(|&(_, resting)| resting != port);
            }
            State::Taken => {}
        }
    }

    /// Ends a reservation. `dealt` says whether a mapping still has the port.
    pub fn release(&mut self, port: u16, dealt: bool, now: Time) {
        let Some(slot) = self.slots.get_mut(&port) else { return };
        if std::mem::take(&mut slot.reserved) && !dealt {
            self.give(port, now);
        }
    }

    fn wake_rested(&mut self, now: Time) {
        while let Some(&(since, port)) = self.resting.front() {
            if now.since(since) < NAT_PORT_HOLD {
                return;
            }
            self.resting.pop_front();
            self.set(port, State::Free(self.free.len()));
            self.free.push(port);
        }
    }

    /// Takes the port at `place` out of the array; the last one moves there.
    fn unlist(&mut self, place: usize) {
        self.free.swap_remove(place);
        if let Some(&moved) = self.free.get(place) {
            self.set(moved, State::Free(place));
        }
    }

    fn set(&mut self, port: u16, state: State) {
        if let Some(slot) = self.slots.get_mut(&port) {
            slot.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_port_is_dealt_once_up_to_the_last() {
        let mut pool = PortPool::new(61_000..=61_099);
        let mut dealt: Vec<_> = (0..100).map(|n| pool.take_any(n * 7919, Time::ZERO).unwrap()).collect();
        assert_eq!(pool.take_any(1, Time::ZERO), None);
        dealt.sort_unstable();
        dealt.dedup();
        assert_eq!(dealt.len(), 100);
    }

    #[test]
    fn a_wanted_port_is_taken_once_and_rests_before_it_comes_again() {
        let mut now = Time::ZERO;
        let mut pool = PortPool::new([1, 2, 3]);
        assert!(pool.take(2, now));
        assert!(!pool.take(2, now));
        assert!(!pool.take(9, now));
        pool.give(2, now);
        assert!(!pool.take(2, now), "it rests");
        now += NAT_PORT_HOLD;
        assert!(pool.take(2, now));
    }

    #[test]
    fn the_longest_rested_port_is_dealt_when_nothing_else_is_left() {
        let mut pool = PortPool::new([1, 2]);
        assert!(pool.take(1, Time::ZERO) && pool.take(2, Time::ZERO));
        pool.give(2, Time::from_secs(1));
        pool.give(1, Time::from_secs(2));
        assert_eq!(pool.take_any(0, Time::from_secs(3)), Some(2));
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn a_reserved_port_is_not_dealt_in_any_order_of_events() {
        let later = Time::ZERO + NAT_PORT_HOLD + Duration::from_secs(1);
        let mut pool = PortPool::new([1, 2, 3]);
        assert!(pool.take(2, Time::ZERO));
        pool.take(3, Time::ZERO);
        pool.give(3, Time::ZERO);
        for port in [1, 2, 3] {
            pool.reserve(port);
        }
        pool.give(2, Time::ZERO);
        assert_eq!(pool.take_any(0, later), None);
        pool.release(1, false, Time::ZERO);
        assert_eq!(pool.take_any(0, later), Some(1));
        pool.release(9, false, Time::ZERO);
    }
}
