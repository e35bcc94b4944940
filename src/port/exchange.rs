//! The exchange: a worker's way of moving frames between its buffers and devices, in batches.
//!
//! A [`Lane`] is a device as one worker's exchange knows it.

use std::sync::Arc;

use crate::frame::Frame;
use crate::offload;
use crate::port::{Device, NotSent, Received};

/// A device that frames are exchanged with.
#[derive(Debug)]
pub struct Lane {
    device: Arc<dyn Device>,
}

impl Lane {
    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }
}

/// Moves frames for one worker.
#[derive(Debug)]
pub struct Exchange {
    /// For what a device does not pass on.
    scratch: Frame,
}

impl Exchange {
    /// An exchange without devices.
    pub fn new() -> Exchange {
        Exchange { scratch: Frame::new() }
    }

    /// Makes a lane to a device.
    pub fn open(&mut self, device: Arc<dyn Device>) -> Lane {
        Lane { device }
    }

    /// Ends a lane, and lets go of its device.
    pub fn close(&mut self, lane: Lane) {
        drop(lane);
    }

    /// Reads into `frames`, in order and without blocking, and appends to `received` what became of each.
    pub fn receive(&mut self, lane: &Lane, frames: &mut [Frame], received: &mut Vec<Received>) {
        let mut rest = frames.iter_mut();
        for frame in rest.by_ref() {
            let outcome = lane.device.receive(frame);
            received.push(outcome);
            if matches!(outcome, Received::Empty | Received::Gone) {
                break;
            }
        }
        received.extend(rest.map(|_| Received::Empty));
    }

    /// Writes frames, in order and without blocking: of `frames` the one that each of `sends` names, to the
    /// lane beside it, if there is one. Tells `done` what became of each send, in order.
    pub fn transmit<'a>(
        &mut self,
        frames: &mut [Frame],
        sends: impl Iterator<Item = (usize, Option<&'a Lane>)>,
        mut done: impl FnMut(usize, &Frame, Result<(), NotSent>),
    ) {
        for (number, (index, lane)) in sends.enumerate() {
            let frame = &mut frames[index];
            let sent = match lane {
                Some(lane) => offload::send(&*lane.device, frame, &mut self.scratch).map(drop),
                None => Err(NotSent::Gone),
            };
            done(number, frame, sent);
        }
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange::new()
    }
}
