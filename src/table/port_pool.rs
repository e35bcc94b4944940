//! External ports for masquerading: which are free, which are dealt and to whom, which rest, which are reserved.
//!
//! A pool deals the ports of one conntrack shard for one protocol. Taking a random port, taking a certain
//! port (to keep the one that the container chose) and giving one back are O(1) up to the last free port:
//! the free ports stand in arrays, in any order, and every port knows its place in its array.
//!
//! **Which port.** Ports are dealt at random (RFC 6056 3.3.1), of the same class (below 1024 or not) and parity as
//! the container's where one is free (RFC 4787 REQ-3a, REQ-4), else of the same class, else any. There is an array
//! for each combination of both. A port is never dealt twice (RFC 4787 REQ-3).
//!
//! **Rest.** A port that comes back rests for [`NAT_PORT_HOLD`] (RFC 6888 REQ-8), so that a late segment of its old
//! connection does not meet a new one. The pool does not deal it before; whoever finds every pool empty may take
//! the port that has rested longest instead of refusing a connection ([`PortPool::lend_resting`]).
//!
//! **Reservation.** A reserved port (somebody published it, or a socket of the host has it) is not dealt. Who has
//! it when it becomes reserved keeps it until the caller ends that connection.

use std::collections::VecDeque;

use ahash::AHashMap;

use crate::addr::{Address, Endpoint};
use crate::clock::Time;
use crate::limits::NAT_PORT_HOLD;

/// First port that is not well-known: the border of the classes of RFC 4787 REQ-3a.
const WELL_KNOWN_END: u16 = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State<A> {
    /// Free, at this place of its kind's array.
    Free(usize),
    /// Dealt to this inside endpoint.
    Dealt(Endpoint<A>),
    /// Given back, resting.
    Resting,
    /// Reserved, and in nobody's hands.
    Withheld,
}

#[derive(Debug, Clone, Copy)]
struct Slot<A> {
    state: State<A>,
    reserved: bool,
}

/// Class and parity of a port, as an index.
const fn kind(port: u16) -> usize {
    (if port < WELL_KNOWN_END { 0 } else { 2 }) + (port & 1) as usize
}

/// The external ports of one protocol that one shard may deal.
#[derive(Debug)]
pub struct PortPool<A: Address> {
    slots: AHashMap<u16, Slot<A>>,
    /// By [`kind`].
    free: [Vec<u16>; 4],
    resting: VecDeque<(Time, u16)>,
}

impl<A: Address> PortPool<A> {
    /// A pool of these ports, all free.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut pool =
            PortPool { slots: AHashMap::new(), free: Default::default(), resting: VecDeque::new() };
        ports.into_iter().for_each(|port| pool.adopt(port));
        pool
    }

    /// Ports that may be dealt now or after their rest.
    pub fn available(&self) -> usize {
        self.free.iter().map(Vec::len).sum::<usize>() + self.resting.len()
    }

    /// Who has this port.
    pub fn holder(&self, port: u16) -> Option<Endpoint<A>> {
        match self.slots.get(&port)?.state {
            State::Dealt(holder) => Some(holder),
            State::Free(_) | State::Resting | State::Withheld => None,
        }
    }

    /// Deals a port to `inside`: its own number if that is free and rested, else the free port that `random`
    /// picks.
    pub fn take(&mut self, inside: Endpoint<A>, random: u64, now: Time) -> Option<u16> {
        self.wake_rested(now);
        let own = self.slots.get(&inside.port).is_some_and(|slot| matches!(slot.state, State::Free(_)));
        let port = if own { inside.port } else { self.pick(inside.port, random)? };
        self.unlist(port);
        self.set(port, State::Dealt(inside));
        Some(port)
    }

    /// Takes a dealt port back that has not been used: it need not rest.
    pub fn untake(&mut self, port: u16) {
        self.settle(port, |pool| pool.list(port));
    }

    /// Gives a dealt port back.
    pub fn give(&mut self, port: u16, now: Time) {
        self.settle(port, |pool| {
            pool.set(port, State::Resting);
            pool.resting.push_back((now, port));
        });
    }

    /// Keeps a port from being dealt. One that is dealt now stays so until it comes back.
    pub fn reserve(&mut self, port: u16) {
        let Some(slot) = self.slots.get_mut(&port) else { return };
        slot.reserved = true;
        match slot.state {
            State::Free(_) => self.unlist(port),
            State::Resting => self.resting.retain(|&(_, resting)| resting != port),
            State::Dealt(_) | State::Withheld => return,
        }
        self.set(port, State::Withheld);
    }

    /// Ends a reservation.
    pub fn release(&mut self, port: u16, now: Time) {
        let Some(slot) = self.slots.get_mut(&port) else { return };
        slot.reserved = false;
        if slot.state == State::Withheld {
            slot.state = State::Resting;
            self.resting.push_back((now, port));
        }
    }

    /// Gives a free port away for good, to a pool that has none left: of the same kind as `like` if there is one.
    pub fn lend(&mut self, like: u16, random: u64, now: Time) -> Option<u16> {
        self.wake_rested(now);
        let port = self.pick(like, random)?;
        self.unlist(port);
        self.slots.remove(&port);
        Some(port)
    }

    /// As [`PortPool::lend`], the port that has rested longest.
    pub fn lend_resting(&mut self) -> Option<u16> {
        let (_, port) = self.resting.pop_front()?;
        self.slots.remove(&port);
        Some(port)
    }

    /// Takes over a port that belongs to no pool.
    pub fn adopt(&mut self, port: u16) {
        if !self.slots.contains_key(&port) {
            self.slots.insert(port, Slot { state: State::Withheld, reserved: false });
            self.list(port);
        }
    }

    /// The free port that `random` picks of those that are most like `like`.
    fn pick(&self, like: u16, random: u64) -> Option<u16> {
        let kind = kind(like);
        // The other parity, then the other class.
        let free = [kind, kind ^ 1, kind ^ 2, kind ^ 3].map(|kind| &self.free[kind]);
        let free = free.into_iter().find(|free| !free.is_empty())?;
        #[allow(clippy::cast_possible_truncation)] // the remainder fits
        let place = (random % free.len() as u64) as usize;
        Some(free[place])
    }

    /// What becomes of a dealt port that its holder has done with.
    fn settle(&mut self, port: u16, unreserved: impl FnOnce(&mut Self)) {
        let Some(slot) = self.slots.get(&port) else { return };
        debug_assert!(matches!(slot.state, State::Dealt(_)), "port {port} given back, but not dealt");
        match (slot.state, slot.reserved) {
            (State::Dealt(_), true) => self.set(port, State::Withheld),
            (State::Dealt(_), false) => unreserved(self),
            (State::Free(_) | State::Resting | State::Withheld, _) => {}
        }
    }

    fn wake_rested(&mut self, now: Time) {
        while let Some(&(since, port)) = self.resting.front() {
            if now.since(since) < NAT_PORT_HOLD {
                return;
            }
            self.resting.pop_front();
            self.list(port);
        }
    }

    /// Puts a port into the array of its kind.
    fn list(&mut self, port: u16) {
        let free = &mut self.free[kind(port)];
        free.push(port);
        let place = free.len() - 1;
        self.set(port, State::Free(place));
    }

    /// Takes a free port out of its array; the last one moves to its place.
    fn unlist(&mut self, port: u16) {
        let Some(State::Free(place)) = self.slots.get(&port).map(|slot| slot.state) else { return };
        let free = &mut self.free[kind(port)];
        free.swap_remove(place);
        if let Some(&moved) = free.get(place) {
            self.set(moved, State::Free(place));
        }
    }

    fn set(&mut self, port: u16, state: State<A>) {
        if let Some(slot) = self.slots.get_mut(&port) {
            slot.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    type Pool = PortPool<Ipv4Addr>;

    fn from(port: u16) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(172, 30, 0, 2), port)
    }

    #[test]
    fn every_port_is_dealt_once_up_to_the_last() {
        let mut pool = Pool::new(61_000..=61_099);
        let mut dealt: Vec<_> = (0..100).map(|n| pool.take(from(5), n * 7919, Time::ZERO).unwrap()).collect();
        assert_eq!(pool.take(from(5), 1, Time::ZERO), None);
        dealt.sort_unstable();
        dealt.dedup();
        assert_eq!(dealt.len(), 100);
        assert!(dealt.iter().all(|&port| pool.holder(port) == Some(from(5))));
    }

    #[test]
    fn a_port_of_the_range_is_kept_once_and_rests_before_it_comes_again() {
        let mut now = Time::ZERO;
        let mut pool = Pool::new(61_000..=61_003);
        assert_eq!(pool.take(from(61_002), 0, now), Some(61_002));
        assert_eq!(pool.take(from(61_002), 0, now), Some(61_000));
        pool.give(61_002, now);
        assert_eq!(pool.holder(61_002), None);
        now += NAT_PORT_HOLD - Duration::from_secs(1);
        assert_eq!(pool.take(from(61_002), 0, now), Some(61_001), "it rests");
        now += Duration::from_secs(1);
        assert_eq!(pool.take(from(61_002), 0, now), Some(61_002));
    }

    #[test]
    fn row_82_a_resting_port_is_not_dealt_even_if_it_is_the_last() {
        let mut pool = Pool::new([1, 2]);
        let now = Time::from_secs(1);
        assert!(pool.take(from(1), 0, now).is_some() && pool.take(from(2), 0, now).is_some());
        pool.give(2, now);
        assert_eq!(pool.take(from(7), 0, Time::from_secs(120)), None);
        assert_eq!(pool.available(), 1);
        assert_eq!(pool.take(from(7), 0, Time::from_secs(121)), Some(2));
        pool.untake(2);
        assert_eq!(pool.take(from(7), 0, Time::from_secs(121)), Some(2), "nobody has used it");
    }

    #[test]
    fn row_47_class_and_parity_are_kept_while_there_are_such_ports() {
        let mut pool = Pool::new([510, 511, 2000, 2001, 2002, 2003]);
        let mut take = |port| pool.take(from(port), 0, Time::ZERO);
        assert_eq!((take(500), take(501)), (Some(510), Some(511)));
        let odd = [take(40_001), take(40_001)];
        assert!(odd.iter().all(|port| port.is_some_and(|port| port & 1 == 1)), "{odd:?}");
        assert!(take(40_001).is_some_and(|port| port >= 1024), "another parity, but the class");
        assert!(take(500).is_some_and(|port| port & 1 == 0), "another class, but the parity");
    }

    #[test]
    fn a_reserved_port_is_not_dealt_in_any_order_of_events() {
        let later = Time::ZERO + NAT_PORT_HOLD + Duration::from_secs(1);
        let mut pool = Pool::new([1, 2, 3]);
        for port in [2, 3] {
            assert_eq!(pool.take(from(port), 0, Time::ZERO), Some(port));
        }
        pool.give(3, Time::ZERO);
        for port in [1, 2, 3] {
            pool.reserve(port);
        }
        assert_eq!(pool.holder(2), Some(from(2)), "who has it keeps it");
        pool.give(2, Time::ZERO);
        assert_eq!(pool.take(from(1), 0, later), None);
        pool.release(1, Time::ZERO);
        assert_eq!(pool.take(from(9), 0, later), Some(1));
        pool.release(9, Time::ZERO);
    }

    #[test]
    fn a_port_that_is_lent_belongs_to_the_other_pool() {
        let (mut rich, mut poor) = (Pool::new(1..=4), Pool::new([]));
        let port = rich.lend(3, 0, Time::ZERO).unwrap();
        assert_eq!(port & 1, 1);
        poor.adopt(port);
        assert_eq!(poor.take(from(3), 0, Time::ZERO), Some(port));
        assert_eq!((rich.available(), rich.holder(port)), (3, None));
        rich.reserve(2);
        let rest = std::iter::from_fn(|| rich.lend(2, 0, Time::ZERO)).collect::<Vec<_>>();
        assert_eq!(rest.len(), 2, "a reserved port is not lent");
        assert_eq!(rich.lend_resting(), None);
        poor.give(port, Time::ZERO);
        assert_eq!((poor.lend_resting(), poor.lend_resting()), (Some(port), None));
    }
}
