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
//!
//! **Who is believed.** By RFC 826 whoever speaks for an address has it, and so it is in a table of
//! [`NeighborTable::new`]. Where anybody may send anything, that hands the next hop to whoever claims it. In a
//! [`NeighborTable::cautious`] table another MAC address for a known neighbor is a doubt and not an answer
//! ([`Heard::Doubted`]): the neighbor is asked at its known address, [`NEIGHBOR_POLLS`] times, and only when that
//! is silent everybody is asked, and whoever answers then is believed. A neighbor that has really changed its
//! address is so found again in [`NEIGHBOR_POLLS`] times [`ARP_INTERVAL`] if it says so, and that much after
//! [`NEIGHBOR_REACHABLE`] if it does not. Meanwhile traffic goes to the known address.
//!
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
    ARP_INTERVAL, ARP_TRIES, NEIGHBOR_AGEING, NEIGHBOR_HOLD, NEIGHBOR_POLLS, NEIGHBOR_QUEUE,
    NEIGHBOR_REACHABLE,
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

/// What came of an ARP packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<W> {
    /// It was taken note of as far as it concerns us. This waited for it, in order.
    Noted(VecDeque<W>),
    /// It was not believed: the neighbor is known at this address, and is asked there.
    Doubted(MacAddr),
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
    /// Requests under way, because the last sign of life was long ago or is in doubt.
    probe: Option<Requests>,
    /// When the next request may be sent, if none is under way.
    ask_after: Time,
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

    /// The state after one more request, or `None` when `tries` were sent.
    fn again(self, tries: u32, now: Time) -> Option<Self> {
        (self.sent < tries).then(|| Requests { sent: self.sent + 1, next: now + ARP_INTERVAL })
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
    cautious: bool,
    /// Most recently used first.
    known: LruCache<A, Known, RandomState>,
    /// Most recently begun first. An address is here or in `known`, never in both.
    unresolved: LruCache<A, Unresolved<W>, RandomState>,
    /// When something is due: one for each unresolved and each probed neighbor.
    deadlines: BTreeSet<(Time, A)>,
    /// Items of removed entries, until the next poll hands them back.
    orphans: VecDeque<(A, VecDeque<W>)>,
    waiting: usize,
    changes: u64,
}

impl<A: Address, W> NeighborTable<A, W> {
    /// An empty table for `limit` neighbors (at least one), where `queue_total` items may wait.
    pub fn new(limit: usize, queue_total: usize) -> Self {
        NeighborTable {
            limit: limit.max(1),
            queue_total,
            cautious: false,
            known: LruCache::unbounded_with_hasher(RandomState::new()),
            unresolved: LruCache::unbounded_with_hasher(RandomState::new()),
            deadlines: BTreeSet::new(),
            orphans: VecDeque::new(),
            waiting: 0,
            changes: 0,
        }
    }

    /// The table, but it does not believe that a known neighbor has another address until the old one is silent.
    #[must_use]
    pub fn cautious(self) -> Self {
        NeighborTable { cautious: true, ..self }
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
    /// merge).
    pub fn heard(&mut self, ip: A, mac: MacAddr, now: Time) -> Heard<W> {
        if self.known.contains(&ip) || self.unresolved.contains(&ip) {
            self.answered(ip, mac, now)
        } else {
            Heard::Noted(VecDeque::new())
        }
    }

    /// Notes an ARP packet from `ip` to us: updates or makes an entry. A group or zero address is ignored
    /// (RFC 1812 3.3.2).
    pub fn answered(&mut self, ip: A, mac: MacAddr, now: Time) -> Heard<W> {
        if !mac.is_station() {
            return Heard::Noted(VecDeque::new());
        }
        let polls = self.polls();
        if let Some(known) = self.known.peek_mut(&ip) {
            let is_silent = known.probe.is_some_and(|requests| requests.sent > polls);
            if known.mac != mac && self.cautious && !is_silent {
                if known.probe.is_none() {
                    let next = known.ask_after.max(now);
                    known.probe = Some(Requests { sent: 0, next });
                    self.deadlines.insert((next, ip));
                }
                return Heard::Doubted(known.mac);
            }
            if std::mem::replace(&mut known.mac, mac) != mac {
                self.changes += 1;
            }
            known.confirmed = now;
            if let Some(probe) = known.probe.take() {
                known.ask_after = probe.next;
                self.deadlines.remove(&(probe.next, ip));
            }
            return Heard::Noted(VecDeque::new());
        }
        let released = match self.take_unresolved(ip) {
            Some(unresolved) => unresolved.waiting,
            None => {
                self.make_room();
                VecDeque::new()
            }
        };
        self.waiting -= released.len();
        self.known.put(ip, Known { mac, confirmed: now, used: now, probe: None, ask_after: now });
        Heard::Noted(released)
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

    /// When a neighbor was heard last.
    pub fn confirmed(&self, ip: A) -> Option<Time> {
        self.known.peek(&ip).map(|known| known.confirmed)
    }

    /// The MAC address that is known of a neighbor, however old.
    pub fn mac_of(&self, ip: A) -> Option<MacAddr> {
        self.known.peek(&ip).map(|known| known.mac)
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
            self.changes += 1;
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

    /// How often an answer that was given with a MAC address became wrong: the neighbor changed it, fell silent
    /// or was removed.
    pub fn changes(&self) -> u64 {
        self.changes
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
        let polls = self.polls();
        if let Some(known) = self.known.peek_mut(&ip) {
            // A cautious table polls once more, and that shall not cost everybody a chance to answer.
            if let Some(requests) = known.probe?.again(ARP_TRIES - 1 + polls, now) {
                known.probe = Some(requests);
                self.deadlines.insert((requests.next, ip));
                return Some(Event::Solicit(ip, (requests.sent <= polls).then_some(known.mac)));
            }
            self.known.pop(&ip);
            self.changes += 1;
            self.put_unresolved(ip, Phase::Failed { until: now + NEIGHBOR_HOLD }, VecDeque::new(), now);
            return Some(Event::Failed(ip, VecDeque::new()));
        }
        let unresolved = self.unresolved.peek_mut(&ip)?;
        let Phase::Incomplete(requests) = unresolved.phase else {
            self.unresolved.pop(&ip);
            return None;
        };
        if let Some(requests) = requests.again(ARP_TRIES, now) {
            unresolved.phase = Phase::Incomplete(requests);
            self.deadlines.insert((requests.next, ip));
            return Some(Event::Solicit(ip, None));
        }
        let items = std::mem::take(&mut unresolved.waiting);
        self.waiting -= items.len();
        self.put_unresolved(ip, Phase::Failed { until: now + NEIGHBOR_HOLD }, VecDeque::new(), now);
        Some(Event::Failed(ip, items))
    }

    /// Requests that go to a known neighbor alone before everybody is asked.
    fn polls(&self) -> u32 {
        if self.cautious { NEIGHBOR_POLLS } else { 1 }
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
mod tests;
