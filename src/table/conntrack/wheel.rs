//! A lazy timing wheel: which connection may have ended by now.
//!
//! A wheel of [`SLOTS`] one-second slots holds every connection once, in a doubly linked list per slot
//! whose links live beside the connections. Traffic does not touch the wheel: it only moves a connection's
//! deadline. When the wheel comes to the slot that the connection stands in, its deadline is looked at, and
//! it is put into a later slot if it still lives. Inserting and removing are O(1), and a turn of the
//! worker does a bounded number of steps.

use crate::clock::Time;

/// Slots of a wheel; a deadline further away is looked at once a turn.
const SLOTS: usize = 512;

/// No connection.
const NIL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Links {
    before: u32,
    after: u32,
    slot: u16,
}

/// Memory that a number takes.
#[cfg(test)]
pub(super) const BYTES_EACH: usize = size_of::<Links>();

/// A wheel of numbers.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32; SLOTS]>,
    links: Vec<Links>,
    /// The second whose slot is looked at next.
    cursor: u64,
}

impl Wheel {
    /// An empty wheel with room for the numbers below `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Wheel { heads: Box::new([NIL; SLOTS]), links: Vec::with_capacity(limit), cursor: 0 }
    }

    /// Puts `number`, which is not in the wheel, into the slot of `deadline`.
    pub(super) fn insert(&mut self, number: u32, deadline: Time) {
        let index = number as usize;
        if self.links.len() <= index {
            self.links.resize(index + 1, Links { before: NIL, after: NIL, slot: 0 });
        }
        // The slot before the cursor is the furthest away. A deadline's slot is looked at when its second
        // is over.
        let second = (deadline.as_secs() + 1).clamp(self.cursor + 1, self.cursor + SLOTS as u64 - 1);
        #[allow(clippy::cast_possible_truncation)] // below SLOTS
        let slot = (second % SLOTS as u64) as u16;
        let head = self.heads[usize::from(slot)];
        self.links[index] = Links { before: NIL, after: head, slot };
        if head != NIL {
            self.links[head as usize].before = number;
        }
        self.heads[usize::from(slot)] = number;
    }

    /// Takes `number`, which is in the wheel, out of it.
    pub(super) fn remove(&mut self, number: u32) {
        let Links { before, after, slot } = self.links[number as usize];
        match before {
            NIL => self.heads[usize::from(slot)] = after,
            before => self.links[before as usize].after = after,
        }
        if after != NIL {
            self.links[after as usize].before = before;
        }
    }

    /// Takes the next number out whose slot's second is over at `now`; `None` when there is none.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<u32> {
        while self.cursor <= now.as_secs() {
            #[allow(clippy::cast_possible_truncation)] // below SLOTS
            let head = self.heads[(self.cursor % SLOTS as u64) as usize];
            if head != NIL {
                self.remove(head);
                return Some(head);
            }
            if self.is_far_behind(now) {
                self.cursor = now.as_secs() - SLOTS as u64;
            }
            self.cursor += 1;
        }
        None
    }

    /// After a long sleep every slot is due once, and no slot more than once.
    fn is_far_behind(&self, now: Time) -> bool {
        self.cursor + (SLOTS as u64) < now.as_secs() && self.heads.iter().all(|&head| head == NIL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: Time) -> Vec<u32> {
        let mut all: Vec<_> = std::iter::from_fn(|| wheel.pop_due(now)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn numbers_come_when_their_second_is_over() {
        let mut wheel = Wheel::new(10);
        for (number, second) in [(0, 5), (1, 5), (2, 6), (3, 100_000)] {
            wheel.insert(number, Time::from_secs(second));
        }
        wheel.remove(1);
        assert!(due(&mut wheel, Time::from_secs(5)).is_empty());
        assert_eq!(due(&mut wheel, Time::from_secs(6)), [0]);
        assert_eq!(due(&mut wheel, Time::from_secs(7)), [2]);
        assert!(due(&mut wheel, Time::from_secs(510)).is_empty());
        assert_eq!(due(&mut wheel, Time::from_secs(511)), [3], "a far deadline is looked at once a turn");
    }

    #[test]
    fn a_long_sleep_finds_everything_once() {
        let mut wheel = Wheel::new(10);
        for number in 0..1000 {
            wheel.insert(number, Time::from_secs(u64::from(number)));
        }
        assert_eq!(due(&mut wheel, Time::from_secs(1_000_000)).len(), 1000);
        wheel.insert(7, Time::from_secs(1_000_010));
        assert!(due(&mut wheel, Time::from_secs(1_000_010)).is_empty());
        assert_eq!(due(&mut wheel, Time::from_secs(1_000_011)), [7]);
    }
}
