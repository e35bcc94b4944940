//! Whether a TAP's interface is up, asked through its descriptor: the interface itself may be in a namespace
//! that is costly to enter, and a list of ports must be cheap.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::port::Device;

/// Whether the interface of a TAP is up. The kernel calls a TAP writable exactly while that is so
/// (`tun_sock_writeable` in `drivers/net/tun.c`), and reports an error when the interface is gone.
pub fn tap_is_up(device: &dyn Device) -> bool {
    let Some(fd) = device.fd() else { return true };
    // SAFETY: the device owns the descriptor and outlives this call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO).is_err() {
        return false;
    }
    let events = fds[0].revents().unwrap_or(PollFlags::empty());
    events.contains(PollFlags::POLLOUT) && !events.contains(PollFlags::POLLERR)
}
