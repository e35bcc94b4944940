//! From a hash to the place of a connection, by one read of memory.
//!
//! With a million connections nothing of the table is in a cache, and what a lookup costs is how many lines it
//! touches. A map that keeps control bytes beside its values touches two before it comes to the connection;
//! this index touches one. A cell of four bytes holds the connection's number and, in the bits that numbers do
//! not need, a part of the hash, so that hardly ever a wrong connection is looked at:
//!
//! ```text
//!  31                 bits   0        bits: as many as the limit has; the cell is 0 where there is nothing
//!  ├── tag ────────────┼─ number + 1 ─┤
//! ```
//!
//! Collisions go to the next free cell (linear probing). There are at least twice as many cells as
//! connections, so that a run of used cells is short, and mostly within one cache line. Removal moves the rest
//! of the run up instead of leaving a mark, so that the index does not age. Hashes are keyed by the caller:
//! nobody outside can make runs long.
//!
//! It has its size from the beginning: cells are zeros, which the system gives out when they are first touched.

use std::ops::Range;

/// Cells for each connection.
const CELLS_EACH: usize = 2;

/// Memory that a connection takes, if the limit is a power of two.
#[cfg(test)]
pub(super) const BYTES_EACH: usize = CELLS_EACH * size_of::<u32>();

/// An index of numbers by hashes that are not stored.
#[derive(Debug)]
pub(super) struct Index {
    cells: Vec<u32>,
    /// The bits of a cell that hold the number.
    number: u32,
    len: usize,
}

impl Index {
    /// An empty index with room for `limit` numbers, all below `limit`.
    pub(super) fn new(limit: usize) -> Self {
        let cells = (limit.max(1) * CELLS_EACH).next_power_of_two();
        // Numbers are stored plus one; a limit beyond 32 bits is beyond what a place can be called.
        let number = u32::try_from(limit).unwrap_or(u32::MAX).checked_next_power_of_two();
        let number = number.map_or(u32::MAX, |bound| bound * 2 - 1);
        Index { cells: vec![0; cells], number, len: 0 }
    }

    /// How many numbers are in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The addresses of its cells.
    pub(super) fn memory(&self) -> Range<usize> {
        let cells = self.cells.as_ptr_range();
        cells.start as usize..cells.end as usize
    }

    /// The number under `hash` that `matches`.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = self.tag(hash);
        let mut at = self.home(hash);
        loop {
            let cell = self.cells[at];
            if cell == 0 {
                return None;
            }
            if cell & !self.number == tag && matches(self.number_of(cell)) {
                return Some(self.number_of(cell));
            }
            at = self.after(at);
        }
    }

    /// Puts in a number that is not there. There must be room for it.
    pub(super) fn insert(&mut self, hash: u64, number: u32) {
        debug_assert!(self.len * CELLS_EACH < self.cells.len(), "more than the limit");
        let mut at = self.home(hash);
        while self.cells[at] != 0 {
            at = self.after(at);
        }
        self.cells[at] = self.tag(hash) | (number + 1);
        self.len += 1;
    }

    /// Takes out a number that was put in under `hash`. `hash_of` tells the hashes of others.
    pub(super) fn remove(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        let wanted = self.tag(hash) | (number + 1);
        let mut hole = self.home(hash);
        while self.cells[hole] != wanted {
            if self.cells[hole] == 0 {
                return debug_assert!(false, "{number} is not in the index");
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        let mut at = self.after(hole);
        while self.cells[at] != 0 {
            let home = self.home(hash_of(self.number_of(self.cells[at])));
            // What stands between its home and the hole cannot move over its home.
            if self.distance(home, at) >= self.distance(hole, at) {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.cells[hole] = 0;
    }

    /// The cell where a hash's run begins: by the upper bits, as the tag is of the lower ones.
    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.cells.len() - 1)
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // the lower half
    fn tag(&self, hash: u64) -> u32 {
        hash as u32 & !self.number
    }

    #[inline(always)]
    fn number_of(&self, cell: u32) -> u32 {
        (cell & self.number).wrapping_sub(1)
    }

    #[inline(always)]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.cells.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.cells.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Few homes and fewer tags, so that runs are long and go round the end.
    fn bad_hash(key: u8) -> u64 {
        let (home, tag) = (u64::from(key % 5) + 60, u64::from(key % 2));
        home << 32 | tag << 31
    }

    proptest! {
        #[test]
        fn it_finds_what_is_in_it_and_nothing_else(
            steps in prop::collection::vec((any::<bool>(), 0..40_u8), 0..300),
        ) {
            const LIMIT: u32 = 32;
            let mut index = Index::new(LIMIT as usize);
            prop_assert_eq!(index.cells.len(), 64);
            let mut keys = [None; LIMIT as usize];
            let mut model = BTreeMap::new();
            for (put, key) in steps {
                let free = (0..LIMIT).find(|&n| keys[n as usize].is_none());
                match (put, model.get(&key).copied(), free) {
                    (true, None, Some(number)) => {
                        index.insert(bad_hash(key), number);
                        keys[number as usize] = Some(key);
                        model.insert(key, number);
                    }
                    (false, Some(number), _) => {
                        index.remove(bad_hash(key), number, |n| keys[n as usize].map_or(0, bad_hash));
                        keys[number as usize] = None;
                        model.remove(&key);
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len(), model.len());
                for key in 0..40 {
                    let found = index.find(bad_hash(key), |n| keys[n as usize] == Some(key));
                    prop_assert_eq!(found, model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn any_limit_has_room_for_its_numbers() {
        for limit in [0, 1, 2, 3, 1000, 1 << 20] {
            let mut index = Index::new(limit);
            assert!(index.cells.len() >= 2 * limit);
            let Some(last) = limit.checked_sub(1) else { continue };
            let last = u32::try_from(last).unwrap();
            index.insert(u64::MAX, last);
            assert_eq!(index.find(u64::MAX, |n| n == last), Some(last));
            assert_eq!(index.find(u64::MAX >> 32 << 32, |_| true), None, "another tag");
            index.remove(u64::MAX, last, |_| 0);
            assert_eq!(index.len(), 0);
        }
    }
}
