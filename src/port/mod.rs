//! Devices: where frames come from and go to.
//!
//! Every kind of device, from a TAP to a test's memory, is a [`Device`]: non-blocking, usable from every
//! worker at once, and honest about its state. One worker reads a device; any worker may write to it.

use std::os::fd::RawFd;

use crate::drops::DropReason;
use crate::frame::Frame;

/// What a device can be asked to do later: the offload promises that it passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promises {
    /// Unfinished transport checksums.
    pub checksum: bool,
    /// TCP super-frames, IPv4 and IPv6.
    pub tcp_segments: bool,
    /// UDP super-frames (`UDP_L4`).
    pub udp_segments: bool,
}

impl Promises {
    /// A device that takes finished, single packets only.
    pub const NONE: Promises = Promises { checksum: false, tcp_segments: false, udp_segments: false };
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame.
    Frame,
    /// Something that is none of our business (our own frame coming back); read again.
    Skipped,
    /// Nothing now: wait for readiness.
    Empty,
    /// The device is gone for good (its namespace died, it was deleted): remove the port.
    Gone,
}

/// Why a write did not happen. The frame is lost, the device may live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// The device's queue is full.
    Full,
    /// The device is down, or its link is.
    Down,
    /// The device is gone for good.
    Gone,
    /// The device refused the frame with this errno.
    Error(i32),
}

impl From<NotSent> for DropReason {
    fn from(why: NotSent) -> DropReason {
        match why {
            NotSent::Full => DropReason::EgressFull,
            NotSent::Down => DropReason::EgressDown,
            NotSent::Gone => DropReason::PortGone,
            NotSent::Error(_) => DropReason::EgressError,
        }
    }
}

/// A device that carries frames.
pub trait Device: Send + Sync + std::fmt::Debug {
    /// Reads one frame into `frame`, without blocking.
    fn receive(&self, frame: &mut Frame) -> Received;

    /// Writes one frame whose promises the device can pass on, without blocking. It may use the frame's
    /// headroom but leaves its bytes and promises as they are.
    ///
    /// # Errors
    /// [`NotSent`], with the frame lost.
    fn transmit(&self, frame: &mut Frame) -> Result<(), NotSent>;

    /// Which promises may be passed on to this device.
    fn promises(&self) -> Promises;

    /// The descriptor to wait on for reading; `None` if the device is asked every turn.
    fn fd(&self) -> Option<RawFd>;

    /// Frames that the kernel had for us and threw away because we were too slow, since the last call.
    fn missed(&self) -> u64 {
        0
    }
}
