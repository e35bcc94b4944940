//! What a burst produces: frames, and the ports that each of them leaves by.

use crate::addr::PortId;
use crate::frame::{Frame, FramePool};

/// One frame to be written to one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    /// The port to write to.
    pub port: PortId,
    /// The port on whose account the frame is.
    pub account: PortId,
    /// The frame's place in the outbox.
    pub frame: usize,
    /// Frames as they were decided that this one stands for: more than one if others were merged into
    /// it. Whoever sends or loses it has sent or lost that many.
    pub frames: u32,
    /// Their bytes.
    pub bytes: usize,
}

/// The frames that a worker has decided on and not yet written, in order. One frame may go to many ports.
#[derive(Debug, Default)]
pub struct Outbox {
    pool: FramePool,
    frames: Vec<Frame>,
    sends: Vec<Send>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Outbox::default()
    }

    /// Has at least `count` frames at hand, so that a burst of so many allocates nothing.
    pub fn reserve(&mut self, count: usize) {
        self.pool.reserve(count);
    }

    /// An empty frame.
    pub fn fresh(&mut self) -> Frame {
        self.pool.take()
    }

    /// Gives back a frame that goes nowhere.
    pub fn discard(&mut self, frame: Frame) {
        self.pool.give(frame);
    }

    /// Sends `frame` to every port of `ports`, on the account of `account`.
    pub fn send(&mut self, frame: Frame, ports: impl IntoIterator<Item = PortId>, account: PortId) {
        let (index, bytes) = (self.frames.len(), frame.len());
        for port in ports {
            self.sends.push(Send { port, account, frame: index, frames: 1, bytes });
        }
        self.frames.push(frame);
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How often a frame is to be written.
    pub fn sends(&self) -> usize {
        self.sends.len()
    }

    /// Bytes of all frames that are to be written.
    pub fn bytes(&self) -> usize {
        self.frames.iter().map(Frame::len).sum()
    }

    /// The frames, and what is to be done with them in order, to be merged. The sends of one frame stand side by
    /// side.
    pub fn contents(&mut self) -> (&mut [Frame], &mut Vec<Send>) {
        (&mut self.frames, &mut self.sends)
    }

    /// Takes all frames back: they have been written.
    pub fn clear(&mut self) {
        self.sends.clear();
        self.pool.give_all(&mut self.frames);
    }

    /// Hands every frame to `write` with each of its ports, in order, and takes the frames back.
    pub fn drain(&mut self, mut write: impl FnMut(Send, &mut Frame)) {
        for &send in &self.sends {
            write(send, &mut self.frames[send.frame]);
        }
        self.clear();
    }
}
