//! TCP connections that are over, in the order in which they ended.
//!
//! A connection that both sides have closed, or one by force, is kept for four minutes, for segments that come
//! late (RFC 5382 REQ-5, RFC 7857 2.1). So who opens and closes many of them has more that are over than live,
//! and would reach its quota or the end of the external ports by connections that nobody uses. Then the oldest
//! of these makes room instead of a refusal, as in the kernel's connection tracker ("early drop").
//!
//! A connection is remembered by its place and the life that it led there when it ended; one that was forgotten
//! or opened anew since then leads another. Nothing is taken out of the middle. The queue holds the latest
//! [`RECLAIMABLE_MAX`]; who is not among them stays for its time.

use std::collections::VecDeque;

use crate::limits::RECLAIMABLE_MAX;

/// How many are looked at for one that will do.
const LOOKS: usize = 32;

/// The queue of connections that are over.
#[derive(Debug, Default)]
pub(super) struct Over {
    queue: VecDeque<(u32, u32)>,
}

impl Over {
    /// The connection at place `number`, which leads this `life` there, is over.
    pub(super) fn push(&mut self, number: u32, life: u32) {
        if self.queue.len() >= RECLAIMABLE_MAX {
            self.queue.pop_front();
        }
        self.queue.push_back((number, life));
    }

    /// Takes out the oldest one that `suits`, which is told of place and life: `None` if there is no such
    /// connection any more. Those that do not suit go to the end.
    pub(super) fn take(&mut self, suits: impl Fn(u32, u32) -> Option<bool>) -> Option<u32> {
        for _ in 0..self.queue.len().min(LOOKS) {
            let (number, life) = self.queue.pop_front()?;
            match suits(number, life) {
                Some(true) => return Some(number),
                Some(false) => self.queue.push_back((number, life)),
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_suits_comes_first_and_the_queue_is_bounded() {
        let mut over = Over::default();
        for number in 0..6 {
            over.push(number, 7);
        }
        // The first is somebody else's, the second leads another life.
        let suits = |number, life| (number != 1 && life == 7).then_some(number != 0);
        assert_eq!((over.take(suits), over.take(suits)), (Some(2), Some(3)));
        assert_eq!(over.take(|_, _| Some(true)), Some(4), "what did not suit went to the end");
        (0..2 * RECLAIMABLE_MAX).for_each(|_| over.push(9, 7));
        assert_eq!(over.queue.len(), RECLAIMABLE_MAX);
        assert_eq!(over.take(|_, _| Some(false)), None);
    }
}
