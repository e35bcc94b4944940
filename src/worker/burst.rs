//! How many frames to ask a port for at once.
//!
//! To ask for more than there are costs each missing one a fruitless read; to ask for fewer forgoes what
//! comes cheaper together. So the first frame of a burst is always read alone, and what is asked for behind
//! it is what the port had lately: nothing for a conversation, in which one frame waits for the other, and
//! up to [`BURST_FRAMES`] for a flood. Fourfold steps find either in three bursts.
//!
//! A frame may leave by a thousand ports, and whatever waits at other ports waits for all of its copies. So
//! what a port's last frames became also bounds how many of its next ones are read at once
//! ([`BURST_COPIES`]).

use crate::limits::{BURST_BYTES, BURST_COPIES, BURST_FRAMES};

/// The smallest number of frames worth a batch.
const FIRST: usize = 4;

/// By how much the number grows and shrinks.
const STEP: usize = 4;

/// A port's appetite: how many frames it may have behind the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Appetite {
    more: usize,
    /// Copies that a frame became lately.
    copies: usize,
    /// Whether the last burst did not find the end.
    unfinished: bool,
}

impl Appetite {
    /// How many frames to ask for behind one of `len` bytes. Frames of a flood are much alike, so the first
    /// one's length tells how many make up [`BURST_BYTES`].
    pub(super) fn more(self, len: usize) -> usize {
        self.more.min(BURST_BYTES / len.max(1)).min(BURST_COPIES / self.copies.max(1))
    }

    /// The `frames` frames of a burst became `sends` that are to be written.
    pub(super) fn became(&mut self, frames: usize, sends: usize) {
        self.copies = sends.checked_div(frames).unwrap_or(self.copies);
    }

    /// A burst found the port empty behind its `frames`-th frame.
    pub(super) fn emptied(&mut self, frames: usize) {
        if frames <= 1 + self.more / STEP {
            self.more = if self.more > FIRST { self.more / STEP } else { 0 };
        }
        self.unfinished = false;
    }

    /// A burst brought all the frames that it asked for.
    pub(super) fn filled(&mut self) {
        if self.unfinished {
            self.more = (self.more * STEP).clamp(FIRST, BURST_FRAMES - 1);
        }
        self.unfinished = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_to_many_ports_is_read_in_small_bursts() {
        let mut appetite = Appetite::default();
        (0..10).for_each(|_| appetite.filled());
        assert_eq!(appetite.more(60), BURST_FRAMES - 1);
        appetite.became(64, 64 * BURST_COPIES / 4);
        assert_eq!(appetite.more(60), 4);
        appetite.became(5, 5 * BURST_COPIES * 2);
        assert_eq!(appetite.more(60), 0, "and the first one is read in any case");
        appetite.became(1, 1);
        assert_eq!(appetite.more(60), BURST_FRAMES - 1);
    }

    #[test]
    fn a_conversation_is_read_frame_by_frame() {
        let mut appetite = Appetite::default();
        for _ in 0..10 {
            assert_eq!(appetite.more(60), 0);
            appetite.filled();
            appetite.emptied(0);
        }
    }

    #[test]
    fn a_flood_is_read_in_full_bursts_soon_and_forgotten_soon() {
        let mut appetite = Appetite::default();
        let mut asked = Vec::new();
        for _ in 0..5 {
            asked.push(appetite.more(60));
            appetite.filled();
        }
        assert_eq!(asked, [0, 0, 4, 16, 63]);
        assert_eq!(appetite.more(60), 63);
        for (frames, more) in [(40, 63), (17, 63), (16, 15), (1, 3), (0, 0)] {
            appetite.emptied(frames);
            assert_eq!(appetite.more(60), more, "{frames}");
        }
    }

    #[test]
    fn super_frames_are_counted_by_their_bytes() {
        let mut appetite = Appetite::default();
        (0..9).for_each(|_| appetite.filled());
        assert_eq!(appetite.more(BURST_BYTES / 2), 2);
        assert_eq!(appetite.more(BURST_BYTES * 2), 0);
        assert_eq!(appetite.more(0), 63);
    }
}
