//! Devices: where frames come from and go to.
//!
//! Every kind of device, from a TAP to a test's memory, is a [`Device`]: non-blocking, usable from every
//! worker at once, and honest about its state. One worker reads a device; any worker may write to it.
//!
//! | device | is | passes on |
//! |---|---|---|
//! | [`tap::Tap`] | a TAP with a virtio-net header before each frame | all that the kernel agreed to |
//! | [`plain::PlainTap`] | a TAP of finished frames (`--offload off`) | nothing |
//! | [`packet::Packet`] | an existing interface, by AF_PACKET: the uplink, a VM's own TAP | all |
//! | [`memory::MemoryPort`] | two queues, for tests and benchmarks | what the test says |

pub mod carrier;
pub mod exchange;
mod fanout;
pub mod framing;
pub mod memory;
pub mod packet;
pub mod plain;
mod ring;
pub mod tap;
pub mod virtio_net;
pub mod vlan;

#[cfg(test)]
mod exchange_tests;
#[cfg(test)]
mod kernel_tests;

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::drops::DropReason;
use crate::frame::{BadOffload, Checksum, Frame, Offload, Segment};
use crate::port::framing::Framing;

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

    /// A device that passes everything on.
    pub const ALL: Promises = Promises { checksum: true, tcp_segments: true, udp_segments: true };

    /// Whether the device passes on all that `offload` promises.
    pub const fn carry(self, offload: &Offload) -> bool {
        (self.checksum || !matches!(offload.checksum, Checksum::Partial { .. }))
            && self.carry_segments(offload)
    }

    /// Whether the device passes on what `offload` promises of segments.
    pub const fn carry_segments(self, offload: &Offload) -> bool {
        match offload.segment {
            Segment::None => true,
            Segment::Tcp4 { .. } | Segment::Tcp6 { .. } => self.tcp_segments,
            Segment::Udp { .. } => self.udp_segments,
            Segment::Fragments { .. } => false,
        }
    }
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame.
    Frame,
    /// Something that is none of our business (our own frame coming back); read again.
    Skipped,
    /// A frame that cannot go on, whatever it is for: its promises contradict it, or it was longer than the
    /// buffer. Count it and read again. What could be read of it is in the buffer, without promises.
    Dropped(DropReason),
    /// Nothing now: wait for readiness.
    Empty,
    /// The device is gone for good (its namespace died, it was deleted): remove the port.
    Gone,
}

impl Received {
    /// What a failed read means for the port. Only an errno that says so may remove it; an errno for which
    /// waiting would be a spin means that the descriptor is of no more use.
    fn failed(errno: Errno) -> Received {
        #[allow(clippy::wildcard_enum_match_arm)] // the kernel's list is long, and "the rest" is meant
        match errno {
            Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS | Errno::ENETDOWN => {
                Received::Empty
            }
            _ => Received::Gone,
        }
    }
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
    /// The frame's promises contradict it, so that they can be neither passed on nor redeemed.
    BadOffload,
    /// The device refused the frame with this errno.
    Error(i32),
}

impl From<Errno> for NotSent {
    /// What a failed write means. EIO is a TAP that is down and ENETDOWN any other interface; a TAP's
    /// descriptor says EBADFD when its device is gone, a packet socket says ENXIO.
    fn from(errno: Errno) -> NotSent {
        #[allow(clippy::wildcard_enum_match_arm)] // the kernel's list is long, and "the rest" is meant
        match errno {
            Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM => NotSent::Full,
            Errno::EIO | Errno::ENETDOWN => NotSent::Down,
            Errno::EBADFD | Errno::EBADF | Errno::ENODEV | Errno::ENXIO => NotSent::Gone,
            other => NotSent::Error(other as i32),
        }
    }
}

impl From<BadOffload> for NotSent {
    fn from(BadOffload: BadOffload) -> NotSent {
        NotSent::BadOffload
    }
}

impl From<NotSent> for DropReason {
    fn from(why: NotSent) -> DropReason {
        match why {
            NotSent::Full => DropReason::EgressFull,
            NotSent::Down => DropReason::EgressDown,
            NotSent::Gone => DropReason::PortGone,
            NotSent::BadOffload => DropReason::BadOffload,
            NotSent::Error(_) => DropReason::EgressError,
        }
    }
}

/// A device that carries frames.
pub trait Device: Send + Sync + std::fmt::Debug {
    /// Reads one frame into `frame`, without blocking.
    fn receive(&self, frame: &mut Frame) -> Received;

    /// Reads into `frames`, in order and without blocking, and appends to `received` what became of each, up to
    /// the first for which there was nothing. They may be at most [`crate::limits::BURST_FRAMES`].
    fn receive_many(&self, frames: &mut [Frame], received: &mut Vec<Received>) {
        for frame in frames {
            let outcome = self.receive(frame);
            received.push(outcome);
            if matches!(outcome, Received::Empty | Received::Gone) {
                break;
            }
        }
    }

    /// Writes one frame whose promises the device can pass on, without blocking. It may use the frame's
    /// headroom but leaves its bytes and promises as they are.
    ///
    /// # Errors
    /// [`NotSent`], with the frame lost.
    fn transmit(&self, frame: &mut Frame) -> Result<(), NotSent>;

    /// What a `read` of the descriptor brings, if that is all there is to receiving a frame.
    fn read_framing(&self) -> Option<Framing> {
        None
    }

    /// What a `write` to the descriptor takes, if that is all there is to transmitting a frame.
    fn write_framing(&self) -> Option<Framing> {
        None
    }

    /// Which promises may be passed on to this device.
    fn promises(&self) -> Promises;

    /// The descriptor to wait on for reading; `None` if the device is asked every turn.
    fn fd(&self) -> Option<RawFd>;

    /// Frames that the kernel had for us and threw away because we were too slow, since the last call.
    fn missed(&self) -> u64 {
        0
    }

    /// Deals what arrives over the first `readers` of the devices that share the interface with this one, from now
    /// on. What was dealt before is where it is.
    fn deal(&self, _readers: usize) {}

    /// Whether the device has gone without a sign on its descriptor. To be asked about once a second, as
    /// [`Device::missed`]; what does show on the descriptor is [`Received::Gone`] and does not wait for this.
    fn is_gone(&self) -> bool {
        false
    }
}

/// Says whether `name` can be the name of an interface (Linux `dev_valid_name`), or a pattern for one:
/// with `%d` at its end.
fn check_interface_name(name: &str) -> std::io::Result<()> {
    let valid = (1..nix::libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && !name
            .strip_suffix("%d") // where the kernel puts the next free number
            .unwrap_or(name)
            .bytes()
            .any(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b':' | b'%' | 0));
    if valid {
        return Ok(());
    }
    let why =
        format!("{name:?} cannot be the name of an interface (1 to 15 bytes without space, '/', ':', '%')");
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why))
}
