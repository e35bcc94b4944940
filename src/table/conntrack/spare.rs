//! Connections that can be spared, in the order in which they became so.
//!
//! They live as long as the standards ask, but make room for new ones instead of a refusal when their port has no
//! more ("early drop" in the kernel's connection tracker). There are two kinds.
//!
//! - TCP connections that are *over*. One that both sides have closed, or one by force, is kept for four minutes, for
//!   segments that come late (RFC 5382 REQ-5, RFC 7857 2.1). So who opens and closes many of them has more that are
//!   over than live, and would reach its quota or the end of the external ports by connections that nobody uses.
//! - Connections that somebody else has opened to the port they count for, where TCP is still *opening*, or that are
//!   no TCP. Who is called does not choose how many call, and a caller's address costs nothing to invent: or a
//!   few seconds of SYNs would lock a container out for minutes. Of those that are no TCP, the ones that have gone on
//!   since they were looked at last get another turn, so it is the silent ones that go.
//!
//! A connection is remembered by its place and the life that it leads there; one that was forgotten or opened anew
//! since then leads another. Nothing is taken out of the middle. A queue holds the latest [`RECLAIMABLE_MAX`]; who is
//! not among them stays for its time.

use std::collections::VecDeque;

use super::activity::Activities;
use crate::clock::Time;
use crate::limits::RECLAIMABLE_MAX;

/// How many are looked at for one that will do.
const LOOKS: usize = 32;

/// A connection that can be spared.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    life: u32,
    /// When it had last been refreshed as it was put at the end.
    refreshed: Time,
}

/// A queue of connections that can be spared.
#[derive(Debug, Default)]
pub(super) struct Spare {
    queue: VecDeque<Entry>,
}

impl Spare {
    /// The connection at place `number` can be spared from now on.
    pub(super) fn push(&mut self, number: u32, activities: &Activities) {
        if self.queue.len() >= RECLAIMABLE_MAX {
            self.queue.pop_front();
        }
        let activity = activities.at(number);
        self.queue.push_back(Entry { number, life: activity.life(), refreshed: activity.refreshed() });
    }

    /// When the first one was last refreshed before it was put there.
    pub(super) fn since(&self) -> Option<Time> {
        self.queue.front().map(|entry| entry.refreshed)
    }

    /// Takes out the oldest one that `suits`, which is told of its place, and whether it was refreshed since it was put
    /// where it is: `None` if it cannot be spared any more. Those that do not suit go to the end.
    pub(super) fn take(
        &mut self,
        activities: &Activities,
        suits: impl Fn(u32, bool) -> Option<bool>,
    ) -> Option<u32> {
        for _ in 0..self.queue.len().min(LOOKS) {
            let entry = self.queue.pop_front()?;
            let Some(activity) = activities.alive(entry.number, entry.life) else { continue };
            let refreshed = activity.refreshed();
            match suits(entry.number, refreshed > entry.refreshed) {
                Some(true) => return Some(entry.number),
                Some(false) => self.queue.push_back(Entry { refreshed, ..entry }),
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
        let (mut spare, activities) = (Spare::default(), Activities::new(10));
        (0..6).for_each(|number| spare.push(number, &activities));
        // The first is somebody else's, the second leads another life, the third goes on.
        activities.at(1).end_life();
        activities.at(2).refresh(Time::from_micros(1));
        let suits = |number, goes_on: bool| Some(number != 0 && !goes_on);
        assert_eq!((spare.take(&activities, suits), spare.take(&activities, suits)), (Some(3), Some(4)));
        assert_eq!(spare.take(&activities, |number, _| (number != 5).then_some(true)), Some(0));
        assert_eq!(spare.take(&activities, suits), Some(2), "it has gone on once, and is silent since");
        (0..2 * RECLAIMABLE_MAX).for_each(|_| spare.push(9, &activities));
        assert_eq!(spare.queue.len(), RECLAIMABLE_MAX);
        assert_eq!(spare.take(&activities, |_, _| Some(false)), None);
    }
}
