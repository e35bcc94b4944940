//! The exchange: a worker's way of moving frames between its buffers and devices, in batches.
//!
//! Each device is a [`Lane`] of the exchange. Where the system allows it, batches go by io_uring
//! ([`Io::Uring`]), a read or write of many frames in one system call; else by one call a frame. A frame that
//! comes or goes alone is read and written by a plain call in any case, because a ring of one is slower.
//!
//! Frames leave in the order in which they are given, whatever way they take: one that cannot go by the
//! ring, because the device does not pass its promises on or is no plain descriptor, waits until those before
//! it have gone.
//!
//! Should io_uring cease to work while the switch runs (a system call filter that comes late), the exchange
//! goes on by plain calls.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::addr::Vid;
use crate::frame::Frame;
use crate::limits::BURST_FRAMES;
use crate::offload;
use crate::port::framing::Framing;
use crate::port::ring::{BATCH, Ring};
use crate::port::vlan::Tagged;
use crate::port::{Device, NotSent, Promises, Received};

/// How batches of frames are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// One io_uring call a batch.
    Uring,
    /// One system call a frame.
    Syscall,
}

impl Io {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Io::Uring => "uring",
            Io::Syscall => "syscall",
        }
    }
}

/// A device that frames are exchanged with.
#[derive(Debug)]
pub struct Lane {
    device: Arc<dyn Device>,
    promises: Promises,
    /// How the ring reads it, if it can.
    reads: Option<(RawFd, Framing)>,
    /// How the ring writes it, if it can.
    writes: Option<(RawFd, Framing)>,
    /// What frames are tagged with before they are written.
    vid: Option<Vid>,
}

impl Lane {
    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Which promises may be passed on to the device.
    pub fn promises(&self) -> Promises {
        self.promises
    }
}

/// A frame that is to be written by the ring.
#[derive(Debug, Clone, Copy)]
struct Queued {
    fd: RawFd,
    framing: Framing,
    /// The frame's place.
    index: usize,
}

/// Moves frames for one worker.
#[derive(Debug)]
pub struct Exchange {
    ring: Option<Ring>,
    queue: Vec<Queued>,
    /// For what a device does not pass on.
    scratch: Frame,
}

impl Exchange {
    /// An exchange without devices, for the thread that will use it.
    ///
    /// # Errors
    /// [`Io::Uring`] is refused where there is no io_uring, or too little of it.
    pub fn new(io: Io) -> io::Result<Exchange> {
        let ring = match io {
            Io::Uring => Some(Ring::new()?),
            Io::Syscall => None,
        };
        Ok(Exchange { ring, queue: Vec::with_capacity(BATCH), scratch: Frame::new() })
    }

    /// Tries out whether a device can be read by io_uring: kernels and what confines processes differ, and
    /// no version number tells.
    ///
    /// # Errors
    /// What does not work.
    pub fn try_ring(device: &Arc<dyn Device>) -> io::Result<()> {
        let mut exchange = Exchange::new(Io::Uring)?;
        let lane = exchange.open(device.clone(), None);
        let Some((fd, framing)) = lane.reads else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the device has no descriptor to read"));
        };
        let mut frame = Frame::new();
        let ring = exchange.ring.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        match ring.read(fd, std::iter::once(framing.space(&mut frame)))?.first() {
            None | Some(Ok(_) | Err(nix::errno::Errno::EAGAIN)) => Ok(()),
            Some(&Err(errno)) => Err(errno.into()),
        }
    }

    /// Makes a lane to a device. Frames that leave by it are tagged if it has a `vid`.
    pub fn open(&self, device: Arc<dyn Device>, vid: Option<Vid>) -> Lane {
        let by_ring = |framing: Option<Framing>| self.ring.as_ref().and(device.fd().zip(framing));
        let (reads, writes) = (by_ring(device.read_framing()), by_ring(device.write_framing()));
        Lane { promises: device.promises(), reads, writes, vid, device }
    }

    /// Reads into `frames`, in order and without blocking, and appends to `received` what became of each.
    /// They may be at most [`BURST_FRAMES`].
    pub fn receive(&mut self, lane: &Lane, frames: &mut [Frame], received: &mut Vec<Received>) {
        debug_assert!(frames.len() <= BURST_FRAMES);
        if frames.len() > 1
            && let (Some(ring), Some((fd, framing))) = (&mut self.ring, lane.reads)
        {
            match ring.read(fd, frames.iter_mut().map(|frame| framing.space(frame))) {
                Ok(outcomes) => {
                    received.extend(frames.iter_mut().zip(outcomes).map(|(frame, outcome)| match *outcome {
                        Ok(got) => framing.received(frame, got),
                        Err(errno) => Received::failed(errno),
                    }));
                    return;
                }
                Err(error) => self.lose_ring(&error),
            }
        }
        let before = received.len();
        lane.device.receive_many(frames, received);
        received.resize(before + frames.len(), Received::Empty);
    }

    /// Writes frames, in order and without blocking: of `frames` the one that each of `sends` names, to the
    /// lane beside it, if there is one. Tells `done` what became of each send, in order. The sends of one frame stand
    /// side by side.
    pub fn transmit<'a>(
        &mut self,
        frames: &mut [Frame],
        sends: impl ExactSizeIterator<Item = (usize, Option<&'a Lane>)>,
        mut done: impl FnMut(usize, &Frame, Result<(), NotSent>),
    ) {
        let count = sends.len();
        let mut tagged = Tagged::default();
        for (number, (index, lane)) in sends.enumerate() {
            let Some(lane) = lane else {
                self.write_queued(frames, number, &mut done);
                done(number, &frames[index], Err(NotSent::Gone));
                continue;
            };
            if tagged.differs(index, lane.vid) {
                // A copy that is queued goes as it is now.
                if self.queue.last().is_some_and(|queued| queued.index == index) {
                    self.write_queued(frames, number, &mut done);
                }
                tagged.change(index, &mut frames[index], lane.vid);
            }
            let frame = &mut frames[index];
            if self.ring.is_some()
                && count > 1
                && let Some((fd, framing)) = lane.writes
                && lane.promises.carry(&frame.offload)
                && framing.seal(frame).is_ok()
            {
                self.queue.push(Queued { fd, framing, index });
                if self.queue.len() == BATCH {
                    self.write_queued(frames, number + 1, &mut done);
                }
                continue;
            }
            // Before the frame is changed, and so that the order is kept.
            self.write_queued(frames, number, &mut done);
            let frame = &mut frames[index];
            let sent = offload::send(&*lane.device, frame, &mut self.scratch).map(drop);
            done(number, frame, sent);
        }
        self.write_queued(frames, count, &mut done);
    }

    /// Writes what is queued: the sends before number `end`.
    fn write_queued(
        &mut self,
        frames: &[Frame],
        end: usize,
        done: &mut impl FnMut(usize, &Frame, Result<(), NotSent>),
    ) {
        let Some(ring) = self.ring.as_mut().filter(|_| !self.queue.is_empty()) else { return };
        let first = end - self.queue.len();
        let pieces =
            self.queue.iter().map(|queued| (queued.fd, queued.framing.sealed(&frames[queued.index])));
        let lost = match ring.write(pieces) {
            Ok(outcomes) => {
                for (number, (queued, outcome)) in (first..).zip(self.queue.iter().zip(outcomes)) {
                    done(number, &frames[queued.index], outcome.map(drop).map_err(NotSent::from));
                }
                None
            }
            Err(error) => {
                for (number, queued) in (first..).zip(&self.queue) {
                    done(number, &frames[queued.index], Err(NotSent::Full));
                }
                Some(error)
            }
        };
        self.queue.clear();
        if let Some(error) = lost {
            self.lose_ring(&error);
        }
    }

    fn lose_ring(&mut self, error: &io::Error) {
        log::error!("io_uring has ceased to work, going on by plain calls: {error}");
        self.ring = None;
    }
}
