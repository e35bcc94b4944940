//! Identifications for datagrams that leave under an address of ours (RFC 791 3.2, RFC 6864).
//!
//! **Purpose.** Several containers share one external address and do not know of each other's numbers: two
//! datagrams with the same one, both in fragments, would be mixed up at their destination. So whatever may be
//! fragmented gets a new number where its source is translated (RFC 7857 section 8), from a count for its
//! source, destination and protocol. What is atomic (DF set and no fragment) keeps its own, which means
//! nothing (RFC 6864 4.1).
//!
//! **Bounds.** The counts are [`COUNTS`] and shared by what a keyed hash sends to the same one, as in Linux
//! (`ip_idents`): that makes a number return sooner, but never twice within 65,536 datagrams. Who cannot see
//! the datagrams cannot tell from one destination's numbers what is sent to another (RFC 7739).

use std::hash::Hash;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use ahash::RandomState;

/// Counts, a power of two.
const COUNTS: usize = 2048;

/// The counts. They are taken without a lock.
#[derive(Debug)]
pub struct DatagramIds {
    counts: Box<[AtomicU16]>,
    hasher: RandomState,
}

impl DatagramIds {
    /// Counts that begin somewhere.
    pub fn new() -> Self {
        let hasher = RandomState::new();
        #[allow(clippy::cast_possible_truncation)] // any bits will do
        let counts = (0..COUNTS).map(|n| AtomicU16::new(hasher.hash_one(n) as u16)).collect();
        DatagramIds { counts, hasher }
    }

    /// The first of `count` numbers in a row for datagrams of this flow: source, destination and protocol.
    pub fn take(&self, flow: impl Hash, count: u16) -> u16 {
        #[allow(clippy::cast_possible_truncation)] // a hash: any bits will do
        let place = self.hasher.hash_one(flow) as usize & (COUNTS - 1);
        self.counts[place].fetch_add(count, Relaxed)
    }
}

impl Default for DatagramIds {
    fn default() -> Self {
        DatagramIds::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_returns_only_after_all_others() {
        let ids = DatagramIds::new();
        let first = ids.take((1, 2, 17), 1);
        assert_eq!(ids.take((1, 2, 17), 44), first.wrapping_add(1));
        for n in 45..=u16::MAX {
            assert_eq!(ids.take((1, 2, 17), 1), first.wrapping_add(n));
        }
        assert_eq!(ids.take((1, 2, 17), 1), first);
    }
}
