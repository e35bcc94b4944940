//! The neighbor table (ARP cache): which MAC address has an IP address, and what waits to know.
//!
//! **States and who moves them.**
//!
//! | state | begins with | ends with |
//! |---|---|---|
//! | incomplete | [`NeighborTable::resolve`] of an unknown address | an answer: reachable; [`ARP_TRIES`] requests without one: failed |
//! | reachable | an answer, or any ARP packet from a neighbor in the table | [`NEIGHBOR_REACHABLE`] without another one: stale |
//! | stale | as above; it is still used, and the next use starts requests | an answer: reachable; [`ARP_TRIES`] requests without one: failed |
//! | failed | silence | [`NEIGHBOR_HOLD`], then it is forgotten; an ARP packet from it: reachable |
//!
//! The first request for a stale neighbor is unicast (RFC 1122 2.3.2.1, unicast poll), further ones are
//! broadcast, because its address may have changed.
//! A neighbor that no traffic needs is never asked for again, and is forgotten after
//! [`NEIGHBOR_AGEING`].
//! Between two requests for one address lies [`ARP_INTERVAL`], whatever the traffic.
//!
//! **What waits.** Items for an incomplete neighbor queue up, at most [`NEIGHBOR_QUEUE`] each and
//! `queue_total` in all. Nothing that waits is lost silently: it comes back from [`NeighborTable::heard`],
//! [`NeighborTable::answered`] or [`NeighborTable::wait`], or as [`Event::Failed`] from the next
//! [`NeighborTable::poll`], also when its neighbor was removed or evicted.
//!
//! **Bounds.** The table holds `limit` neighbors. What a scan of dead addresses leaves behind (incomplete
//! and failed ones) may displace at most [`UNRESOLVED_SHARE`] of it; beyond that the oldest of them make
//! room for each other, and known neighbors stay. Otherwise the longest unused known one goes.
//!
//! **Time.** All deadlines are in one ordered set, and the known neighbors in order of use, so that a poll
//! touches what is due and nothing else.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use ahash::RandomState;
use lru::LruCache;

use crate::addr::{Address, MacAddr};
use crate::clock::Time;
use crate::limits::{
    ARP_INTERVAL, ARP_TRIES, NEIGHBOR_AGEING, NEIGHBOR_HOLD, NEIGHBOR_QUEUE, NEIGHBOR_REACHABLE,
};

/// One in this many entries may be unresolved before unresolved ones make room for each other.
pub const UNRESOLVED_SHARE: usize = 4;

/// How exactly a neighbor knows when it was last used. Within this time after the last noted use,
/// resolving changes nothing, which keeps it cheap on the way of every frame.
const USE_REFRESH: Duration = Duration::from_secs(1);

/// What to do with a packet for a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Send it to this address.
    Found(MacAddr),
    /// Send it to this address, and a request to the same address now: it is time to ask again.
    Refresh(MacAddr),
    /// Broadcast a request now, and let the packet [`NeighborTable::wait`].
    Solicit,
    /// A request is under way: let the packet [`NeighborTable::wait`].
    Pending,
    /// The neighbor did not answer a moment ago: drop the packet.
    Unreachable,
}

/// What a poll asks its caller to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<A, W> {
    /// Send a request for this address; to this MAC address, or to all if there is none.
    Solicit(A, Option<MacAddr>),
    /// The neighbor did not answer, or its entry had to go: these items will not be sent.
    Failed(A, VecDeque<W>),
}

/// An entry, for people to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborEntry<A> {
    /// The neighbor's IP address.
    pub ip: A,
    /// Its MAC address, once known.
    pub mac: Option<MacAddr>,
    /// `reachable`, `stale`, `incomplete` or `failed`.
    pub state: &'static str,
    /// Time since the neighbor's last sign of life, or since its resolution began or failed.
    pub age: Duration,
}

/// A neighbor whose MAC address is known.
#[derive(Debug)]
struct Known {
    mac: MacAddr,
    confirmed: Time,
    used: Time,
    /// Requests under way, because the last sign of life was long ago.
    probe: Option<Requests>,
}

/// A neighbor whose MAC address is not known.
#[derive(Debug)]
struct Unresolved<W> {
    since: Time,
    phase: Phase,
    waiting: VecDeque<W>,
}

#[derive(Debug)]
enum Phase {
    Incomplete(Requests),
    Failed { until: Time },
}

/// Requests that were sent, and when to send the next or give up.
#[derive(Debug, Clone, Copy)]
struct Requests {
    sent: u32,
    next: Time,
}

impl Requests {
    fn first(now: Time) -> Self {
        Requests { sent: 1, next: now + ARP_INTERVAL }
    }

    /// The state after one more request, or `None` when enough were sent.
    fn again(self, now: Time) -> Option<Self> {
        (self.sent < ARP_TRIES).then(|| Requests { sent: self.sent + 1, next: now + ARP_INTERVAL })
    }
}

impl<W> Unresolved<W> {
    fn deadline(&self) -> Time {
        match self.phase {
            Phase::Incomplete(requests) => requests.next,
            Phase::Failed { until } => until,
        }
    }
}

/// A neighbor table for addresses `A` where items `W` wait. See the module's text for what it promises.
#[derive(Debug)]
pub struct NeighborTable<A: Address, W> {
    limit: usize,
    queue_total: usize,
    /// Most recently used first.
    known: LruCache<A, Known, RandomState>,
    /// Most recently begun first. An address is here or in `known`, never in both.
    unresolved: LruCache<A, Unresolved<W>, RandomState>,
    /// When something is due: one for each unresolved and each probed neighbor.
    deadlines: BTreeSet<(Time, A)>,
    /// Items of removed entries, until the next poll hands them back.
    orphans: VecDeque<(A, VecDeque<W>)>,
    waiting: usize,
}

impl<A: Address, W> NeighborTable<A, W> {
    /// An empty table for `limit` neighbors (at least one), where `queue_total` items may wait.
    pub fn new(limit: usize, queue_total: usize) -> Self {
        NeighborTable {
            limit: limit.max(1),
            queue_total,
            known: LruCache::unbounded_with_hasher(RandomState::new()),
            unresolved: LruCache::unbounded_with_hasher(RandomState::new()),
            deadlines: BTreeSet::new(),
            orphans: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Says what to do with a packet for `ip`, and starts a resolution where one is needed.
    pub fn resolve(&mut self, ip: A, now: Time) -> Answer {
        if let Some(known) = self.known.peek_mut(&ip) {
            let mac = known.mac;
            let ask = known.probe.is_none() && now.since(known.confirmed) > NEIGHBOR_REACHABLE;
            if ask {
                let requests = Requests::first(now);
                known.probe = Some(requests);
                self.deadlines.insert((requests.next, ip));
            }
            if now.since(known.used) >= USE_REFRESH {
                known.used = now;
                self.known.promote(&ip);
            }
            return if ask { Answer::Refresh(mac) } else { Answer::Found(mac) };
        }
        match self.unresolved.peek(&ip).map(|unresolved| &unresolved.phase) {
            Some(Phase::Incomplete(_)) => Answer::Pending,
            Some(Phase::Failed { .. }) => Answer::Unreachable,
            None => {
                self.make_room();
                self.put_unresolved(ip, Phase::Incomplete(Requests::first(now)), VecDeque::new(), now);
                Answer::Solicit
            }
        }
    }

    /// Lets `item` wait for the answer that [`Answer::Solicit`] or [`Answer::Pending`] promised.
    ///
    /// # Errors
    /// The item that did not find room: the oldest one for the same neighbor, so that the latest packet is
    /// kept (RFC 1122 2.3.2.2), or `item` itself if all the room is taken by others or `ip` is not being
    /// resolved.
    pub fn wait(&mut self, ip: A, item: W) -> Result<(), W> {
        let Some(Unresolved { phase: Phase::Incomplete(_), waiting, .. }) = self.unresolved.peek_mut(&ip)
        else {
            return Err(item);
        };
        if waiting.len() >= NEIGHBOR_QUEUE || self.waiting >= self.queue_total {
            let Some(oldest) = waiting.pop_front() else { return Err(item) };
            waiting.push_back(item);
            return Err(oldest);
        }
        waiting.push_back(item);
        self.waiting += 1;
        Ok(())
    }

    /// Notes an ARP packet from `ip` that was not for us: updates an entry, but makes none (RFC 826, the
    /// merge). Returns what waited for it, in order.
    pub fn heard(&mut self, ip: A, mac: MacAddr, now: Time) -> VecDeque<W> {
        if self.known.contains(&ip) || self.unresolved.contains(&ip) {
            self.answered(ip, mac, now)
        } else {
            VecDeque::new()
        }
    }

    /// Notes an ARP packet from `ip` to us: updates or makes an entry. Returns what waited for it, in order.
    /// A group or zero address is not believed (RFC 1812 3.3.2).
    pub fn answered(&mut self, ip: A, mac: MacAddr, now: Time) -> VecDeque<W> {
        if !mac.is_station() {
            return VecDeque::new();
        }
        if let Some(known) = self.known.peek_mut(&ip) {
            known.mac = mac;
            known.confirmed = now;
            if let Some(probe) = known.probe.take() {
                self.deadlines.remove(&(probe.next, ip));
            }
            return VecDeque::new();
        }
        let released = match self.take_unresolved(ip) {
            Some(unresolved) => unresolved.waiting,
            None => {
                self.make_room();
                VecDeque::new()
            }
        };
        self.waiting -= released.len();
        self.known.put(ip, Known { mac, confirmed: now, used: now, probe: None });
        released
    }

    /// Does what is due, at most `budget` steps of it, and tells `act` what to send and what has failed.
    pub fn poll(&mut self, now: Time, budget: usize, mut act: impl FnMut(Event<A, W>)) {
        for _ in 0..budget {
            if let Some((ip, items)) = self.orphans.pop_front() {
                self.waiting -= items.len();
                act(Event::Failed(ip, items));
            } else if let Some(&(due, ip)) = self.deadlines.first()
                && due <= now
            {
                self.deadlines.pop_first();
                if let Some(event) = self.step(ip, now) {
                    act(event);
                }
            } else if let Some(ip) = self.aged(now) {
                self.remove(ip);
            } else {
                return;
            }
        }
    }

    /// When [`NeighborTable::poll`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.orphans.is_empty() {
            return Some(Time::ZERO);
        }
        let timer = self.deadlines.first().map(|&(due, _)| due);
        let ageing = self.known.peek_lru().map(|(_, known)| known.used + NEIGHBOR_AGEING);
        timer.into_iter().chain(ageing).min()
    }

    /// All entries, in no order.
    pub fn entries(&self, now: Time) -> Vec<NeighborEntry<A>> {
        let known = self.known.iter().map(|(&ip, known)| {
            let age = now.since(known.confirmed);
            let state = if age > NEIGHBOR_REACHABLE { "stale" } else { "reachable" };
            NeighborEntry { ip, mac: Some(known.mac), state, age }
        });
        let unresolved = self.unresolved.iter().map(|(&ip, unresolved)| {
            let state = match unresolved.phase {
                Phase::Incomplete(_) => "incomplete",
                Phase::Failed { .. } => "failed",
            };
            NeighborEntry { ip, mac: None, state, age: now.since(unresolved.since) }
        });
        known.chain(unresolved).collect()
    }

    /// Forgets a neighbor. Says whether there was one.
    pub fn remove(&mut self, ip: A) -> bool {
        if let Some(known) = self.known.pop(&ip) {
            if let Some(probe) = known.probe {
                self.deadlines.remove(&(probe.next, ip));
            }
            return true;
        }
        let Some(unresolved) = self.take_unresolved(ip) else { return false };
        if !unresolved.waiting.is_empty() {
            self.orphans.push_back((ip, unresolved.waiting));
        }
        true
    }

    /// Forgets the neighbors for which `which` says so, given what is known of them. Returns how many.
    pub fn remove_where(&mut self, mut which: impl FnMut(A, Option<MacAddr>) -> bool) -> usize {
        let known = self.known.iter().map(|(&ip, known)| (ip, Some(known.mac)));
        let unresolved = self.unresolved.iter().map(|(&ip, _)| (ip, None));
        let gone: Vec<A> =
            known.chain(unresolved).filter(|&(ip, mac)| which(ip, mac)).map(|(ip, _)| ip).collect();
        gone.iter().for_each(|&ip| {
            self.remove(ip);
        });
        gone.len()
    }

    /// Items that wait, those included that the next poll hands back.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Neighbors in the table.
    pub fn len(&self) -> usize {
        self.known.len() + self.unresolved.len()
    }

    /// Whether the table has no neighbors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The deadline of `ip` has passed: asks again, gives up, or forgets that it failed.
    fn step(&mut self, ip: A, now: Time) -> Option<Event<A, W>> {
        if let Some(known) = self.known.peek_mut(&ip) {
            if let Some(requests) = known.probe?.again(now) {
                known.probe = Some(requests);
                self.deadlines.insert((requests.next, ip));
                return Some(Event::Solicit(ip, None));
            }
            self.known.pop(&ip);
            self.put_unresolved(ip, Phase::Failed { until: now + NEIGHBOR_HOLD }, VecDeque::new(), now);
            return Some(Event::Failed(ip, VecDeque::new()));
        }
        let unresolved = self.unresolved.peek_mut(&ip)?;
        let Phase::Incomplete(requests) = unresolved.phase else {
            self.unresolved.pop(&ip);
            return None;
        };
        if let Some(requests) = requests.again(now) {
            unresolved.phase = Phase::Incomplete(requests);
            self.deadlines.insert((requests.next, ip));
            return Some(Event::Solicit(ip, None));
        }
        let items = std::mem::take(&mut unresolved.waiting);
        self.waiting -= items.len();
        self.put_unresolved(ip, Phase::Failed { until: now + NEIGHBOR_HOLD }, VecDeque::new(), now);
        Some(Event::Failed(ip, items))
    }

    /// The longest unused known neighbor, if it is old enough to be forgotten.
    fn aged(&self, now: Time) -> Option<A> {
        let (&ip, known) = self.known.peek_lru()?;
        (now.since(known.used) >= NEIGHBOR_AGEING).then_some(ip)
    }

    /// Makes room for one more entry.
    fn make_room(&mut self) {
        if self.len() < self.limit {
            return;
        }
        let known = self.known.peek_lru().map(|(&ip, _)| ip);
        let unresolved = self.unresolved.peek_lru().map(|(&ip, _)| ip);
        let many_unresolved = self.unresolved.len() >= self.limit.div_ceil(UNRESOLVED_SHARE);
        let victim = if many_unresolved { unresolved.or(known) } else { known.or(unresolved) };
        if let Some(ip) = victim {
            self.remove(ip);
        }
    }

    fn put_unresolved(&mut self, ip: A, phase: Phase, waiting: VecDeque<W>, now: Time) {
        let unresolved = Unresolved { since: now, phase, waiting };
        self.deadlines.insert((unresolved.deadline(), ip));
        self.unresolved.put(ip, unresolved);
    }

    fn take_unresolved(&mut self, ip: A) -> Option<Unresolved<W>> {
        let unresolved = self.unresolved.pop(&ip)?;
        self.deadlines.remove(&(unresolved.deadline(), ip));
        Some(unresolved)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    type Table = NeighborTable<Ipv4Addr, u32>;
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const EVERYTHING: usize = usize::MAX;

    fn ip(n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + n)
    }

    fn at(secs: u64) -> Time {
        Time::from_secs(secs)
    }

    fn poll(table: &mut Table, now: Time) -> Vec<Event<Ipv4Addr, u32>> {
        let mut events = Vec::new();
        table.poll(now, EVERYTHING, |event| events.push(event));
        events
    }

    fn state(table: &Table, ip: Ipv4Addr, now: Time) -> Option<&'static str> {
        table.entries(now).iter().find(|entry| entry.ip == ip).map(|entry| entry.state)
    }

    #[test]
    fn row_18_packets_from_others_update_but_only_those_to_us_create() {
        let mut table = Table::new(16, 16);
        assert!(table.heard(ip(1), MAC, at(0)).is_empty());
        assert!(table.is_empty());
        table.answered(ip(1), MAC, at(0));
        table.heard(ip(1), OTHER, at(1));
        assert_eq!(table.resolve(ip(1), at(1)), Answer::Found(OTHER));
    }

    #[test]
    fn row_19_group_addresses_are_not_believed() {
        let mut table = Table::new(16, 16);
        table.resolve(ip(1), at(0));
        for wrong in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
            table.answered(ip(1), wrong, at(0));
            assert_eq!(table.resolve(ip(1), at(0)), Answer::Pending);
        }
    }

    #[test]
    fn row_22_answers_are_revalidated_when_used() {
        let mut table = Table::new(16, 16);
        table.answered(ip(1), MAC, at(0));
        assert_eq!(table.resolve(ip(1), at(30)), Answer::Found(MAC));
        assert_eq!(poll(&mut table, at(40)), [], "nobody asks unless traffic needs it");
        assert_eq!(table.resolve(ip(1), at(40)), Answer::Refresh(MAC));
        assert_eq!(table.resolve(ip(1), at(40)), Answer::Found(MAC));
        assert_eq!(state(&table, ip(1), at(40)), Some("stale"));
        // The station has a new address: the broadcast finds it.
        assert_eq!(poll(&mut table, at(41)), [Event::Solicit(ip(1), None)]);
        table.answered(ip(1), OTHER, at(41));
        assert_eq!(table.resolve(ip(1), at(42)), Answer::Found(OTHER));
        assert_eq!(poll(&mut table, at(60)), []);
        // Or it is gone.
        assert_eq!(table.resolve(ip(1), at(80)), Answer::Refresh(OTHER));
        for n in 81..83 {
            assert_eq!(poll(&mut table, at(n)), [Event::Solicit(ip(1), None)]);
        }
        assert_eq!(poll(&mut table, at(83)), [Event::Failed(ip(1), VecDeque::new())]);
        assert_eq!(table.resolve(ip(1), at(83)), Answer::Unreachable);
    }

    #[test]
    fn row_23_at_most_one_request_a_second_however_much_traffic() {
        let mut table = Table::new(16, 16);
        let mut requests = Vec::new();
        for millis in 0..60_000 {
            let now = Time::from_millis(millis);
            if table.resolve(ip(1), now) == Answer::Solicit {
                requests.push(now);
            }
            for event in poll(&mut table, now) {
                if let Event::Solicit(..) = event {
                    requests.push(now);
                }
            }
        }
        assert!(requests.windows(2).all(|pair| pair[1].since(pair[0]) >= ARP_INTERVAL));
        assert!(requests.len() >= 20, "it keeps trying: {}", requests.len());
    }

    #[test]
    fn row_24_the_latest_packets_wait_and_come_out_in_order() {
        let mut table = Table::new(16, 16);
        assert_eq!(table.wait(ip(1), 0), Err(0), "nothing is being resolved");
        assert_eq!(table.resolve(ip(1), at(0)), Answer::Solicit);
        let room = u32::try_from(NEIGHBOR_QUEUE).unwrap();
        for n in 0..room {
            assert_eq!(table.wait(ip(1), n), Ok(()));
        }
        assert_eq!(table.wait(ip(1), 99), Err(0), "the oldest makes room");
        assert_eq!(table.waiting(), NEIGHBOR_QUEUE);
        let released: Vec<u32> = table.heard(ip(1), MAC, at(1)).into();
        assert_eq!(released, (1..room).chain([99]).collect::<Vec<_>>());
        assert_eq!(table.waiting(), 0);
        assert_eq!(table.next_deadline(), Some(at(1) + NEIGHBOR_AGEING));
    }

    #[test]
    fn row_24_all_queues_together_are_bounded() {
        let mut table = Table::new(16, 3);
        for n in 1..=3 {
            table.resolve(ip(n), at(0));
            assert_eq!(table.wait(ip(n), n), Ok(()));
        }
        table.resolve(ip(4), at(0));
        assert_eq!(table.wait(ip(4), 4), Err(4), "others' packets do not make room");
        assert_eq!(table.wait(ip(3), 5), Err(3), "one's own do");
        assert_eq!(table.waiting(), 3);
    }

    #[test]
    fn row_24_a_scan_of_dead_addresses_leaves_known_neighbors_alone() {
        let mut table = Table::new(40, 100);
        for n in 0..20 {
            table.answered(ip(n), MAC, at(0));
        }
        let mut refused = 0;
        let mut failed = 0;
        for n in 0..65_000 {
            table.resolve(ip(1_000 + n), at(0));
            refused += usize::from(table.wait(ip(1_000 + n), n).is_err());
            assert!(table.len() <= 40 && table.waiting() <= 100);
            table.poll(at(0), EVERYTHING, |event| match event {
                Event::Failed(_, items) => failed += items.len(),
                Event::Solicit(..) => panic!("too early"),
            });
        }
        assert_eq!(refused + failed + table.waiting(), 65_000);
        assert!((0..20).all(|n| table.resolve(ip(n), at(0)) == Answer::Found(MAC)));
    }

    #[test]
    fn a_full_table_forgets_the_longest_unused_neighbor() {
        let mut table = Table::new(2, 4);
        table.answered(ip(1), MAC, at(0));
        table.answered(ip(2), MAC, at(1));
        table.resolve(ip(1), at(5));
        table.answered(ip(3), MAC, at(6));
        assert_eq!(state(&table, ip(1), at(6)), Some("reachable"));
        assert_eq!(state(&table, ip(2), at(6)), None);
    }

    #[test]
    fn silence_fails_what_waits_and_then_is_forgotten() {
        let mut table = Table::new(16, 16);
        table.resolve(ip(1), at(0));
        table.wait(ip(1), 7).unwrap();
        assert_eq!(poll(&mut table, Time::from_millis(999)), []);
        assert_eq!(poll(&mut table, at(1)), [Event::Solicit(ip(1), None)]);
        assert_eq!(poll(&mut table, at(2)), [Event::Solicit(ip(1), None)]);
        assert_eq!(poll(&mut table, at(3)), [Event::Failed(ip(1), VecDeque::from([7]))]);
        assert_eq!((table.waiting(), state(&table, ip(1), at(3))), (0, Some("failed")));
        assert_eq!(table.wait(ip(1), 8), Err(8));
        assert_eq!(poll(&mut table, at(3) + NEIGHBOR_HOLD), []);
        assert!(table.is_empty() && table.next_deadline().is_none());
    }

    #[test]
    fn a_failed_neighbor_that_speaks_is_reachable_at_once() {
        let mut table = Table::new(16, 16);
        table.resolve(ip(1), at(0));
        (1..=3).for_each(|n| drop(poll(&mut table, at(n))));
        table.heard(ip(1), MAC, at(4));
        assert_eq!(table.resolve(ip(1), at(4)), Answer::Found(MAC));
        assert_eq!(poll(&mut table, at(20)), []);
    }

    #[test]
    fn unused_neighbors_age() {
        let mut table = Table::new(16, 16);
        table.answered(ip(1), MAC, at(0));
        table.answered(ip(2), MAC, at(0));
        table.resolve(ip(1), at(25));
        let due = at(0) + NEIGHBOR_AGEING;
        assert_eq!(table.next_deadline(), Some(due));
        assert_eq!(poll(&mut table, due), []);
        assert_eq!((state(&table, ip(1), due), state(&table, ip(2), due)), (Some("stale"), None));
    }

    #[test]
    fn removed_neighbors_hand_back_what_waited() {
        let mut table = Table::new(16, 16);
        table.resolve(ip(1), at(0));
        table.wait(ip(1), 7).unwrap();
        table.answered(ip(2), MAC, at(0));
        table.answered(ip(3), OTHER, at(0));
        assert_eq!(table.remove_where(|_, mac| mac != Some(OTHER)), 2);
        assert!(!table.remove(ip(1)));
        assert_eq!((table.len(), table.waiting()), (1, 1));
        assert_eq!(table.next_deadline(), Some(Time::ZERO));
        assert_eq!(poll(&mut table, at(0)), [Event::Failed(ip(1), VecDeque::from([7]))]);
        assert_eq!(table.waiting(), 0);
    }

    #[test]
    fn a_poll_keeps_to_its_budget() {
        let mut table = Table::new(16, 16);
        (0..8).for_each(|n| assert_eq!(table.resolve(ip(n), at(0)), Answer::Solicit));
        let mut count = 0;
        table.poll(at(1), 3, |_| count += 1);
        assert_eq!(count, 3);
        assert_eq!(poll(&mut table, at(1)).len(), 5);
    }

    #[test]
    fn ipv6_is_the_same_table() {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let mut table: NeighborTable<Ipv6Addr, &str> = NeighborTable::new(16, 16);
        assert_eq!(table.resolve(router, at(0)), Answer::Solicit);
        table.wait(router, "packet").unwrap();
        assert_eq!(table.answered(router, MAC, at(0)), ["packet"]);
        assert_eq!(table.resolve(router, at(0)), Answer::Found(MAC));
    }
}
