//! A TAP of finished frames (`--offload off`), by the `tun-tap` crate.
//!
//! Every frame is one packet of at most the MTU with all its checksums in place: simpler to look at, and
//! ten times the work for bulk TCP. The crate opens devices and no more: they are blocking, and it knows
//! neither virtio-net headers nor queues. So the descriptor is set non-blocking afterwards.
#![allow(unsafe_code)] // the crate's descriptor is a raw one

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tun_tap::{Iface, Mode};

use crate::frame::Frame;
use crate::port::framing::Framing;
use crate::port::{Device, NotSent, Promises, Received, check_interface_name};

/// What its reads and writes carry.
const FRAMING: Framing = Framing::Bare;

/// A TAP of finished frames.
#[derive(Debug)]
pub struct PlainTap {
    iface: Iface,
}

impl PlainTap {
    /// Makes a TAP called `name` in the calling thread's network namespace. A persistent TAP of that name
    /// that nobody has open is taken.
    ///
    /// # Errors
    /// As [`super::tap::Tap::create`].
    pub fn create(name: &str) -> io::Result<PlainTap> {
        check_interface_name(name)?;
        let tap = PlainTap { iface: Iface::without_packet_info(name, Mode::Tap)? };
        let flags = fcntl(&tap, FcntlArg::F_GETFL)?;
        fcntl(&tap, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK))?;
        Ok(tap)
    }

    /// The name that the device was made with.
    pub fn name(&self) -> &str {
        self.iface.name()
    }
}

impl AsFd for PlainTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `iface`, which `self` owns and never replaces.
        unsafe { BorrowedFd::borrow_raw(self.iface.as_raw_fd()) }
    }
}

impl Device for PlainTap {
    fn receive(&self, frame: &mut Frame) -> Received {
        match self.iface.recv(FRAMING.space(frame)) {
            Ok(got) => FRAMING.received(frame, got),
            Err(error) => Received::failed(errno(&error)),
        }
    }

    fn transmit(&self, frame: &mut Frame) -> Result<(), NotSent> {
        self.iface.send(frame.bytes()).map_err(|error| errno(&error))?;
        Ok(())
    }

    fn read_framing(&self) -> Option<Framing> {
        Some(FRAMING)
    }

    fn write_framing(&self) -> Option<Framing> {
        Some(FRAMING)
    }

    fn promises(&self) -> Promises {
        Promises::NONE
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.iface.as_raw_fd())
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
