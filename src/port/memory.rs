//! A device of two queues in memory, for tests and benchmarks.
//!
//! What a test [`push`](MemoryPort::push)es, the switch receives; what the switch transmits, the test
//! [`pop`](MemoryPort::pop)s. The promises that it passes on are the test's choice, and it can be put into
//! every state that a real device can be in. A [`sink`](MemoryPort::sink) counts what it is sent and keeps
//! nothing, so that it does not allocate.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::frame::{Frame, Offload};
use crate::limits::FRAME_MAX;
use crate::port::virtio_net;
use crate::port::{Device, NotSent, Promises, Received};

/// What state the device is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// It works.
    #[default]
    Up,
    /// It takes no frame just now.
    Full,
    /// It is down: it brings nothing and takes nothing.
    Down,
    /// It is gone for good.
    Gone,
}

#[derive(Debug, Default)]
struct State {
    incoming: VecDeque<(Vec<u8>, Offload)>,
    outgoing: VecDeque<(Vec<u8>, Offload)>,
    condition: Condition,
    transmitted: u64,
    missed: u64,
}

/// A device in memory.
#[derive(Debug)]
pub struct MemoryPort {
    promises: Promises,
    keeps: bool,
    state: Mutex<State>,
}

impl MemoryPort {
    /// A device that passes on `promises` and keeps what it is sent until it is popped.
    pub fn new(promises: Promises) -> Self {
        MemoryPort { promises, keeps: true, state: Mutex::default() }
    }

    /// A device that passes on `promises` and only counts what it is sent.
    pub fn sink(promises: Promises) -> Self {
        MemoryPort { keeps: false, ..MemoryPort::new(promises) }
    }

    /// Queues a frame for the switch to receive. Bytes beyond the largest frame are cut.
    pub fn push(&self, bytes: &[u8], offload: Offload) {
        let bytes = &bytes[..bytes.len().min(FRAME_MAX)];
        self.state().incoming.push_back((bytes.to_vec(), offload));
    }

    /// The oldest frame that the switch transmitted.
    pub fn pop(&self) -> Option<(Vec<u8>, Offload)> {
        self.state().outgoing.pop_front()
    }

    /// Frames transmitted since the device was made, popped or not.
    pub fn transmitted(&self) -> u64 {
        self.state().transmitted
    }

    /// Frames pushed that the switch has not received yet.
    pub fn waiting(&self) -> usize {
        self.state().incoming.len()
    }

    /// Puts the device into a state.
    pub fn set_condition(&self, condition: Condition) {
        self.state().condition = condition;
    }

    /// Claims that `count` more frames were lost before the switch could receive them.
    pub fn miss(&self, count: u64) {
        self.state().missed += count;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for MemoryPort {
    fn receive(&self, frame: &mut Frame) -> Received {
        let mut state = self.state();
        match state.condition {
            Condition::Gone => return Received::Gone,
            Condition::Down => return Received::Empty,
            Condition::Up | Condition::Full => {}
        }
        let Some((bytes, offload)) = state.incoming.pop_front() else {
            return Received::Empty;
        };
        frame.fill(&bytes, offload);
        Received::Frame
    }

    /// As a TAP, it refuses promises that contradict the frame; and those it was not asked to take.
    fn transmit(&self, frame: &mut Frame) -> Result<(), NotSent> {
        let mut state = self.state();
        match state.condition {
            Condition::Up => {}
            Condition::Full => return Err(NotSent::Full),
            Condition::Down => return Err(NotSent::Down),
            Condition::Gone => return Err(NotSent::Gone),
        }
        if !self.promises.carry(&frame.offload) {
            return Err(NotSent::BadOffload);
        }
        virtio_net::encode(&frame.offload, frame.bytes())?;
        state.transmitted += 1;
        if self.keeps {
            state.outgoing.push_back((frame.bytes().to_vec(), frame.offload));
        }
        Ok(())
    }

    fn promises(&self) -> Promises {
        self.promises
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }

    fn missed(&self) -> u64 {
        std::mem::take(&mut self.state().missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Checksum;

    #[test]
    fn frames_keep_their_order_bytes_and_promises() {
        let port = MemoryPort::new(Promises::ALL);
        let mut frame = Frame::new();
        port.push(&[1; 60], Offload::NONE);
        port.push(&[2; 60], Offload { checksum: Checksum::Valid, ..Offload::NONE });
        for byte in [1, 2] {
            assert_eq!(port.receive(&mut frame), Received::Frame);
            assert_eq!(frame.bytes(), [byte; 60]);
            port.transmit(&mut frame).unwrap();
        }
        assert_eq!(port.receive(&mut frame), Received::Empty);
        assert_eq!(port.pop(), Some((vec![1; 60], Offload::NONE)));
        assert_eq!(port.pop().unwrap().1.checksum, Checksum::Valid);
        assert_eq!((port.pop(), port.transmitted()), (None, 2));
    }

    #[test]
    fn it_refuses_what_it_did_not_promise_and_what_its_state_forbids() {
        let port = MemoryPort::sink(Promises::NONE);
        let mut frame = Frame::new();
        frame.fill(&[0; 60], Offload::NONE);
        assert_eq!(port.transmit(&mut frame), Ok(()));
        frame.offload.checksum = Checksum::Partial { start: 34, offset: 6 };
        assert_eq!(port.transmit(&mut frame), Err(NotSent::BadOffload));
        frame.offload = Offload::NONE;
        for (condition, why) in [
            (Condition::Full, NotSent::Full),
            (Condition::Down, NotSent::Down),
            (Condition::Gone, NotSent::Gone),
        ] {
            port.set_condition(condition);
            assert_eq!(port.transmit(&mut frame), Err(why));
        }
        assert_eq!(port.receive(&mut frame), Received::Gone);
        assert_eq!((port.transmitted(), port.pop()), (1, None));
    }
}
