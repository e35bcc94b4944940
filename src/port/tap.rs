//! A TAP in offload mode: frames travel with a virtio-net header, as they are.
//!
//! The order of the calls matters (Linux `drivers/net/tun.c`): the descriptor is opened non-blocking,
//! because a blocking one takes the driver's slow path for small frames; the device is made; the header's
//! size is set; only then the kernel is told what it may leave undone. `TUNSETSNDBUF` is never called: a
//! send buffer would make writes fail that the container could take.
//!
//! The device is non-persistent: it lives as long as the descriptor, whatever namespace it is moved to and
//! whatever name it gets there. When that namespace dies, reads and writes say EBADFD ([`Received::Gone`]).
//!
//! Each frame is one `read` and one `write`; both are atomic, so that any thread may write.
#![allow(unsafe_code)] // ioctl

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_uint};
use nix::unistd::{read, write};

use crate::frame::Frame;
use crate::port::framing::Framing;
use crate::port::virtio_net::HEADER_LEN;
use crate::port::{Device, NotSent, Promises, Received, check_interface_name};

/// What the kernel may leave undone on any kernel that we can run on.
const BASE_OFFLOADS: c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// UDP segmentation, where the kernel knows it (Linux 6.2): it wants both bits or none.
const UDP_OFFLOADS: c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

mod ioctl {
    use super::{c_int, libc};

    nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_read_bad!(tungetiff, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_ptr_bad!(tunsetvnethdrsz, libc::TUNSETVNETHDRSZ, c_int);
    // Takes the flags themselves where the others take a pointer.
    nix::ioctl_write_int_bad!(tunsetoffload, libc::TUNSETOFFLOAD);
}

/// A TAP in offload mode.
#[derive(Debug)]
pub struct Tap {
    file: File,
    promises: Promises,
}

impl Tap {
    /// Makes a TAP called `name` in the calling thread's network namespace. A persistent TAP of that name
    /// that nobody has open is taken.
    ///
    /// # Errors
    /// EBUSY if an interface of that name is in use, EINVAL if it is not a TAP, EPERM without
    /// CAP_NET_ADMIN, ENOENT without `/dev/net/tun`, [`io::ErrorKind::InvalidInput`] if `name` cannot be one.
    pub fn create(name: &str) -> io::Result<Tap> {
        check_interface_name(name)?;
        let file = OpenOptions::new() // which sets O_CLOEXEC
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        let fd = file.as_raw_fd();

        let mut request = interface_request();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = TAP_FLAGS;
        // SAFETY: the kernel reads and writes one ifreq, which lives until the call returns.
        unsafe { ioctl::tunsetiff(fd, &raw const request)? };
        let size = HEADER_SIZE;
        // SAFETY: the kernel reads one int.
        unsafe { ioctl::tunsetvnethdrsz(fd, &raw const size)? };

        // SAFETY: the argument is a number.
        let offload = |flags: c_uint| unsafe { ioctl::tunsetoffload(fd, flags.cast_signed()) };
        let udp_segments = match offload(BASE_OFFLOADS | UDP_OFFLOADS) {
            Err(Errno::EINVAL) => {
                offload(BASE_OFFLOADS)?;
                false
            }
            other => {
                other?;
                true
            }
        };
        Ok(Tap { file, promises: Promises { udp_segments, ..Promises::ALL } })
    }

    /// The device's name, as it is called now in the namespace where it is now.
    ///
    /// # Errors
    /// EBADFD if the device is gone.
    pub fn name(&self) -> io::Result<String> {
        let mut request = interface_request();
        // SAFETY: the kernel writes one ifreq.
        unsafe { ioctl::tungetiff(self.file.as_raw_fd(), &raw mut request)? };
        let bytes: Vec<u8> =
            request.ifr_name.iter().map(|&c| c.cast_unsigned()).take_while(|&b| b != 0).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What its reads and writes carry.
const FRAMING: Framing = Framing::VirtioNet;

/// A TAP, without the four bytes of packet information, with a virtio-net header.
#[allow(clippy::cast_possible_truncation)] // flags below 1 << 15
const TAP_FLAGS: libc::c_short = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;

/// The virtio-net header's size as the kernel wants it.
#[allow(clippy::cast_possible_truncation)] // ten
const HEADER_SIZE: c_int = HEADER_LEN as c_int;

fn interface_request() -> libc::ifreq {
    // SAFETY: ifreq is made of integers, an array of them and a union of such, all valid as zeros.
    unsafe { std::mem::zeroed() }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for Tap {
    fn receive(&self, frame: &mut Frame) -> Received {
        match read(&self.file, FRAMING.space(frame)) {
            Ok(got) => FRAMING.received(frame, got),
            Err(errno) => Received::failed(errno),
        }
    }

    fn transmit(&self, frame: &mut Frame) -> Result<(), NotSent> {
        FRAMING.seal(frame)?;
        write(&self.file, FRAMING.sealed(frame))?;
        Ok(())
    }

    fn read_framing(&self) -> Option<Framing> {
        Some(FRAMING)
    }

    fn write_framing(&self) -> Option<Framing> {
        Some(FRAMING)
    }

    fn promises(&self) -> Promises {
        self.promises
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }
}
