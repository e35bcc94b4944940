//! The MAC table (FDB, CAM table): behind which port a station is.
//!
//! **Key and value.** A MAC address leads to a port. Learned (*dynamic*) entries come from source addresses
//! of frames, follow a station that moves with its first frame from the new port (IEEE 802.1D-2004 7.8),
//! and age. *Static* entries are the administrator's and *local* ones are the switch's own; learning
//! neither moves nor ages them.
//!
//! **Ageing.** An entry remembers when its station was last seen, to [`REFRESH`]; a lookup does not return
//! what is older than the ageing time, so nothing depends on when [`MacTable::expire`] runs. That frees the
//! memory, and touches only what it removes.
//!
//! **Bounds.** The table holds `limit` dynamic entries. One more evicts the least recently seen entry of
//! the port that has the most of them: a port that floods random sources pushes out its own, and
//! the other ports' entries survive. Static entries do not count against that, and have the same bound for
//! themselves. A port may have a quota of its own, at which it loses its oldest. Each step is at most logarithmic in the number of ports, however hard the table is pressed.
//! Hashes are keyed, so that nobody can choose addresses that collide.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ahash::RandomState;
use lru::LruCache;

use crate::addr::{MacAddr, PortId};
use crate::clock::Time;

/// How exactly an entry knows when its station was last seen. A frame within this time after the last
/// noted one changes nothing, which keeps learning cheap for busy stations.
pub const REFRESH: Duration = Duration::from_secs(1);

/// What learning an address changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// The address was not known.
    New,
    /// The address was known on this port.
    Refreshed,
    /// The station was on another port until now.
    Moved {
        /// The port it was on.
        from: PortId,
    },
    /// The entry is static or local, and stays what it was.
    Fixed,
    /// The station is on another port, and may not move.
    Refused,
}

/// Where a station is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Station {
    /// Behind this port.
    Port(PortId),
    /// It is the switch itself.
    Local,
    /// Not known: flood.
    Unknown,
}

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Learned from traffic.
    Dynamic,
    /// Put there by the administrator.
    Static,
    /// An address of the switch.
    Local,
}

impl EntryKind {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            EntryKind::Dynamic => "dynamic",
            EntryKind::Static => "static",
            EntryKind::Local => "local",
        }
    }
}

/// An entry, for people to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The station's address.
    pub mac: MacAddr,
    /// The port it is behind; `None` for the switch itself.
    pub port: Option<PortId>,
    /// Where the entry comes from.
    pub kind: EntryKind,
    /// Time since the station was last seen, or since a fixed entry was added.
    pub age: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Dynamic { port: PortId, seen: Time },
    Static { port: PortId, added: Time },
    Local { added: Time },
}

/// A MAC table. See the module's text for what it promises.
#[derive(Debug)]
pub struct MacTable {
    limit: usize,
    slots: HashMap<MacAddr, Slot, RandomState>,
    /// The dynamic entries of each port, most recently seen first.
    recent: HashMap<PortId, LruCache<MacAddr, (), RandomState>, RandomState>,
    /// The ports that have dynamic entries, by how many.
    busiest: BTreeSet<(usize, PortId)>,
    dynamic: usize,
    statics: usize,
}

impl MacTable {
    /// An empty table for `limit` learned addresses (at least one).
    pub fn new(limit: usize) -> Self {
        MacTable {
            limit: limit.max(1),
            slots: HashMap::default(),
            recent: HashMap::default(),
            busiest: BTreeSet::new(),
            dynamic: 0,
            statics: 0,
        }
    }

    /// Notes that a frame from `mac` came in by `port`.
    pub fn learn(&mut self, mac: MacAddr, port: PortId, now: Time) -> Learned {
        self.learn_if(mac, port, self.limit, now, |_| true)
    }

    /// As [`MacTable::learn`], for a port that may have `quota` learned addresses, at least one. A station moves
    /// to it only if `may_move` says so, given the port that it was on.
    pub fn learn_if(
        &mut self,
        mac: MacAddr,
        port: PortId,
        quota: usize,
        now: Time,
        may_move: impl FnOnce(PortId) -> bool,
    ) -> Learned {
        debug_assert!(mac.is_station(), "groups are not admitted");
        let from = match self.slots.get_mut(&mac) {
            None => {
                self.make_room(port, quota);
                self.insert_dynamic(mac, port, now);
                return Learned::New;
            }
            Some(Slot::Static { .. } | Slot::Local { .. }) => return Learned::Fixed,
            Some(Slot::Dynamic { port: known, seen }) if *known == port => {
                if now.since(*seen) >= REFRESH {
                    *seen = now;
                    if let Some(recent) = self.recent.get_mut(&port) {
                        recent.promote(&mac);
                    }
                }
                return Learned::Refreshed;
            }
            Some(Slot::Dynamic { port: known, .. }) => *known,
        };
        if !may_move(from) {
            return Learned::Refused;
        }
        self.remove(mac);
        self.make_room(port, quota);
        self.insert_dynamic(mac, port, now);
        Learned::Moved { from }
    }

    /// Where `mac` is, if it was seen within `ageing` or is fixed.
    pub fn lookup(&self, mac: MacAddr, now: Time, ageing: Duration) -> Station {
        match self.slots.get(&mac) {
            Some(&Slot::Dynamic { port, seen }) if now.since(seen) <= ageing => Station::Port(port),
            Some(&Slot::Static { port, .. }) => Station::Port(port),
            Some(Slot::Local { .. }) => Station::Local,
            Some(Slot::Dynamic { .. }) | None => Station::Unknown,
        }
    }

    /// Adds or replaces a static entry. `false`, and nothing changes, if there are `limit` of them already
    /// or the address is the switch's own.
    pub fn add_static(&mut self, mac: MacAddr, port: PortId, now: Time) -> bool {
        match self.slots.get(&mac) {
            Some(Slot::Local { .. }) => return false,
            Some(Slot::Static { .. }) => {}
            Some(Slot::Dynamic { .. }) | None if self.statics >= self.limit => return false,
            Some(Slot::Dynamic { .. }) | None => {
                self.remove(mac);
                self.statics += 1;
            }
        }
        self.slots.insert(mac, Slot::Static { port, added: now });
        true
    }

    /// Adds an address of the switch itself, in place of whatever was known of it.
    pub fn add_local(&mut self, mac: MacAddr, now: Time) {
        self.remove(mac);
        self.slots.insert(mac, Slot::Local { added: now });
    }

    /// Removes an entry; local ones stay. Says whether one was removed.
    pub fn remove(&mut self, mac: MacAddr) -> bool {
        match self.slots.get(&mac) {
            Some(&Slot::Dynamic { port, .. }) => self.unlink(mac, port),
            Some(Slot::Static { .. }) => self.statics -= 1,
            Some(Slot::Local { .. }) | None => return false,
        }
        self.slots.remove(&mac);
        true
    }

    /// Removes every entry of a port, static ones too: the port is gone.
    pub fn remove_port(&mut self, port: PortId) {
        self.flush_port(port);
        self.recent.remove(&port);
        if self.statics > 0 {
            self.slots.retain(|_, slot| !matches!(slot, Slot::Static { port: of, .. } if *of == port));
            self.statics = self.slots.values().filter(|slot| matches!(slot, Slot::Static { .. })).count();
        }
    }

    /// Removes the learned entries, of one port or of all. Returns how many.
    pub fn flush(&mut self, port: Option<PortId>) -> usize {
        match port {
            Some(port) => self.flush_port(port),
            None => {
                let ports: Vec<PortId> = self.busiest.iter().map(|&(_, port)| port).collect();
                ports.into_iter().map(|port| self.flush_port(port)).sum()
            }
        }
    }

    /// Frees the entries that were not seen within `ageing`.
    pub fn expire(&mut self, now: Time, ageing: Duration) {
        let ports: Vec<PortId> = self.busiest.iter().map(|&(_, port)| port).collect();
        for port in ports {
            while let Some(mac) = self.oldest(port)
                && let Some(&Slot::Dynamic { seen, .. }) = self.slots.get(&mac)
                && now.since(seen) > ageing
            {
                self.remove(mac);
            }
        }
    }

    /// All entries that a lookup finds, in no order.
    pub fn entries(&self, now: Time, ageing: Duration) -> Vec<Entry> {
        let entry = |(&mac, slot): (&MacAddr, &Slot)| {
            let (port, kind, since) = match *slot {
                Slot::Dynamic { port, seen } => (Some(port), EntryKind::Dynamic, seen),
                Slot::Static { port, added } => (Some(port), EntryKind::Static, added),
                Slot::Local { added } => (None, EntryKind::Local, added),
            };
            Entry { mac, port, kind, age: now.since(since) }
        };
        let entries = self.slots.iter().map(entry);
        entries.filter(|entry| entry.kind != EntryKind::Dynamic || entry.age <= ageing).collect()
    }

    /// Makes room for one entry of `port`. It pays itself where it has its quota; in a full table the port with
    /// the most entries pays, and `port` itself where it has as many as any.
    fn make_room(&mut self, port: PortId, quota: usize) {
        let own = self.count(port);
        let full = self.dynamic >= self.limit;
        let Some(&(most, busiest)) = self.busiest.last() else { return };
        let payer = match (own >= quota.max(1), full) {
            (true, _) => port,
            (false, true) if own >= most => port,
            (false, true) => busiest,
            (false, false) => return,
        };
        if let Some(mac) = self.oldest(payer) {
            self.remove(mac);
        }
    }

    fn insert_dynamic(&mut self, mac: MacAddr, port: PortId, now: Time) {
        let recent =
            self.recent.entry(port).or_insert_with(|| LruCache::unbounded_with_hasher(RandomState::new()));
        let before = recent.len();
        recent.put(mac, ());
        self.slots.insert(mac, Slot::Dynamic { port, seen: now });
        self.dynamic += 1;
        self.busiest.remove(&(before, port));
        self.busiest.insert((before + 1, port));
    }

    /// Takes a dynamic entry out of all but `slots`.
    fn unlink(&mut self, mac: MacAddr, port: PortId) {
        let Some(recent) = self.recent.get_mut(&port) else { return };
        let before = recent.len();
        if recent.pop(&mac).is_none() {
            return;
        }
        self.dynamic -= 1;
        self.busiest.remove(&(before, port));
        if before > 1 {
            self.busiest.insert((before - 1, port));
        }
    }

    fn flush_port(&mut self, port: PortId) -> usize {
        let Some(recent) = self.recent.get_mut(&port) else { return 0 };
        let count = recent.len();
        while let Some((mac, ())) = recent.pop_lru() {
            self.slots.remove(&mac);
        }
        self.dynamic -= count;
        self.busiest.remove(&(count, port));
        count
    }

    fn count(&self, port: PortId) -> usize {
        self.recent.get(&port).map_or(0, LruCache::len)
    }

    fn oldest(&self, port: PortId) -> Option<MacAddr> {
        self.recent.get(&port)?.peek_lru().map(|(&mac, ())| mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(10);
    const P1: PortId = PortId(1);
    const P2: PortId = PortId(2);

    fn mac(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    fn at(secs: u64) -> Time {
        Time::from_secs(secs)
    }

    #[test]
    fn row_06_idle_entries_age_and_frames_from_the_station_refresh_them() {
        let mut table = MacTable::new(16);
        assert_eq!(table.learn(mac(1), P1, at(0)), Learned::New);
        assert_eq!(table.lookup(mac(1), at(9), AGEING), Station::Port(P1));
        assert_eq!(table.lookup(mac(1), at(12), AGEING), Station::Unknown);
        assert_eq!(table.learn(mac(1), P1, at(9)), Learned::Refreshed);
        assert_eq!(table.lookup(mac(1), at(12), AGEING), Station::Port(P1));
        table.expire(at(12), AGEING);
        assert_eq!(table.entries(at(12), AGEING).len(), 1);
        table.expire(at(20), AGEING);
        assert_eq!(table.learn(mac(1), P1, at(20)), Learned::New);
    }

    #[test]
    fn row_07_a_station_moves_with_its_first_frame() {
        let mut table = MacTable::new(16);
        table.learn(mac(1), P1, at(0));
        assert_eq!(table.learn(mac(1), P2, at(0)), Learned::Moved { from: P1 });
        assert_eq!(table.lookup(mac(1), at(0), AGEING), Station::Port(P2));
        assert_eq!(table.flush(Some(P1)), 0);
        assert_eq!(table.flush(Some(P2)), 1);
    }

    #[test]
    fn row_08_static_and_local_entries_neither_move_nor_age() {
        let mut table = MacTable::new(16);
        table.learn(mac(1), P2, at(0));
        assert!(table.add_static(mac(1), P1, at(0)));
        table.add_local(mac(9), at(0));
        assert_eq!(table.learn(mac(1), P2, at(1)), Learned::Fixed);
        assert_eq!(table.learn(mac(9), P2, at(1)), Learned::Fixed);
        table.expire(at(1000), AGEING);
        assert_eq!(table.flush(None), 0);
        assert_eq!(table.lookup(mac(1), at(1000), AGEING), Station::Port(P1));
        assert_eq!(table.lookup(mac(9), at(1000), AGEING), Station::Local);
        assert!(!table.add_static(mac(9), P1, at(0)) && !table.remove(mac(9)));
        assert!(table.remove(mac(1)) && !table.remove(mac(1)));
    }

    #[test]
    fn row_10_a_flood_of_sources_pushes_out_only_its_own() {
        let mut table = MacTable::new(100);
        for n in 0..30 {
            table.learn(mac(n), P1, at(0));
        }
        for n in 0..100_000 {
            table.learn(mac(1_000 + n), P2, at(1));
        }
        assert_eq!(table.entries(at(1), AGEING).len(), 100);
        assert!((0..30).all(|n| table.lookup(mac(n), at(1), AGEING) == Station::Port(P1)));
        // The flooder keeps its latest.
        assert_eq!(table.lookup(mac(1_000 + 99_999), at(1), AGEING), Station::Port(P2));
        assert_eq!(table.lookup(mac(1_000), at(1), AGEING), Station::Unknown);
        // A port with few entries still gets new ones.
        assert_eq!(table.learn(mac(30), P1, at(1)), Learned::New);
        assert!((0..31).all(|n| table.lookup(mac(n), at(1), AGEING) == Station::Port(P1)));
    }

    #[test]
    fn a_port_with_its_quota_loses_its_own_oldest() {
        let mut table = MacTable::new(16);
        table.learn(mac(100), P1, at(0));
        for n in 0..10 {
            table.learn_if(mac(n), P2, 3, at(u64::from(n)), |_| true);
        }
        let known = |table: &MacTable, n| table.lookup(mac(n), at(9), AGEING) != Station::Unknown;
        assert_eq!((0..10).filter(|&n| known(&table, n)).collect::<Vec<_>>(), [7, 8, 9]);
        assert!(known(&table, 100));
        // One that moves there counts as well.
        assert_eq!(table.learn_if(mac(100), P2, 3, at(10), |_| true), Learned::Moved { from: P1 });
        assert!(!known(&table, 7) && known(&table, 100));
        assert_eq!((table.flush(Some(P1)), table.flush(Some(P2))), (0, 3));
    }

    #[test]
    fn a_station_that_may_not_move_stays() {
        let mut table = MacTable::new(16);
        table.learn(mac(1), P1, at(0));
        let refuse = |from| {
            assert_eq!(from, P1);
            false
        };
        assert_eq!(table.learn_if(mac(1), P2, 16, at(5), refuse), Learned::Refused);
        assert_eq!(table.lookup(mac(1), at(5), AGEING), Station::Port(P1));
        assert_eq!(table.lookup(mac(1), at(11), AGEING), Station::Unknown, "and is not refreshed");
    }

    #[test]
    fn the_least_recently_seen_goes_first() {
        let mut table = MacTable::new(2);
        table.learn(mac(1), P1, at(0));
        table.learn(mac(2), P1, at(1));
        table.learn(mac(1), P1, at(2));
        table.learn(mac(3), P1, at(3));
        assert_eq!(table.lookup(mac(1), at(3), AGEING), Station::Port(P1));
        assert_eq!(table.lookup(mac(2), at(3), AGEING), Station::Unknown);
    }

    #[test]
    fn ports_with_equally_many_entries_pay_for_themselves() {
        let mut table = MacTable::new(2);
        table.learn(mac(1), P1, at(0));
        table.learn(mac(2), P2, at(0));
        table.learn(mac(3), P1, at(0));
        assert_eq!(table.lookup(mac(1), at(0), AGEING), Station::Unknown);
        assert_eq!(table.lookup(mac(2), at(0), AGEING), Station::Port(P2));
    }

    #[test]
    fn row_14_a_removed_port_leaves_nothing() {
        let mut table = MacTable::new(4);
        table.learn(mac(1), P1, at(0));
        table.add_static(mac(2), P1, at(0));
        table.learn(mac(3), P2, at(0));
        table.remove_port(P1);
        let left = table.entries(at(5), AGEING);
        let expected =
            Entry { mac: mac(3), port: Some(P2), kind: EntryKind::Dynamic, age: Duration::from_secs(5) };
        assert_eq!(left, [expected]);
    }

    #[test]
    fn static_entries_have_a_bound_of_their_own() {
        let mut table = MacTable::new(2);
        assert!(table.add_static(mac(1), P1, at(0)) && table.add_static(mac(2), P1, at(0)));
        assert!(!table.add_static(mac(3), P1, at(0)));
        assert!(table.add_static(mac(2), P2, at(0)), "replacing takes no room");
        assert_eq!(table.learn(mac(4), P1, at(0)), Learned::New);
    }
}
