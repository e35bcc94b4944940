//! An existing interface, by a packet socket: the uplink, or a VM's own TAP.
//!
//! The socket sees every frame that the interface receives before the host's own stack does, and what it
//! sends leaves by the interface as if the host had sent it. With `PACKET_VNET_HDR` frames carry their
//! promises, and this is not a matter of speed: a local sender behind a veth hands over unfinished checksums
//! and super-frames, which without the header would be read as broken packets. So the header is always on,
//! and [`PacketOptions::offload`] only decides what the device says it passes on.
//!
//! The order of opening is what makes it exact (Linux `net/packet/af_packet.c`):
//! 1. header, auxiliary data, "ignore outgoing" (a second socket on the interface would otherwise see our
//!    own frames and loop them);
//! 2. a filter that refuses everything, because the socket cannot join a fanout group before it is bound,
//!    and until it has joined it would get every frame that the group's other members get too;
//! 3. bind to every EtherType: a socket for one EtherType sits behind the nft ingress hook that guards the
//!    uplink, this one before it;
//! 4. the fanout group, the interface's memberships, and away with the filter.
//!
//! **Fanout** ([`fanout`]) deals frames over the sockets of a group by their flow, so that one worker reads all
//! frames of a flow and direction. **VLAN tags** that the network card took out of a frame come beside it,
//! and are put back. **Link down** is reported once as ENETDOWN and is not the end: the kernel hooks the
//! socket up again when the interface comes back. **Deletion** of the interface shows as the same ENETDOWN,
//! or not at all if it was down already; what tells it is that the socket has lost its interface
//! ([`Device::is_gone`]).
#![allow(unsafe_code)] // socket calls that no safe wrapper knows
#![allow(clippy::cast_possible_truncation)] // the C headers' constants are ints where the fields are shorts

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_uint};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::write;

use crate::addr::MacAddr;
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::limits::BURST_FRAMES;
use crate::port::fanout;
use crate::port::framing::Framing;
use crate::port::virtio_net::HEADER_LEN;
use crate::port::{Device, NotSent, Promises, Received, check_interface_name};

/// Size of each socket buffer in bytes, which the kernel doubles. A super-frame of 64 KiB is charged with up
/// to twice that, and both a burst of the switch and a scheduling delay of some milliseconds at 10 Gbit/s
/// are about 64 of them. The default holds three.
const SOCKET_BUFFER: c_int = 4 << 20;

/// What it reads and writes; what it reads has more beside it.
const FRAMING: Framing = Framing::VirtioNet;

/// TPID of a tag that came without one.
const TPID_VLAN: u16 = 0x8100;

/// How to open an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketOptions {
    /// Join this fanout group: its sockets share the interface's frames. Numbers are per namespace.
    pub fanout: Option<u16>,
    /// Receive frames for every station. Otherwise only those for the interface, for groups, and for
    /// `own_mac`.
    pub promiscuous: bool,
    /// A MAC address of our own, to be received beside the interface's.
    pub own_mac: Option<MacAddr>,
    /// Whether to pass on super-frames and unfinished checksums when sending.
    pub offload: bool,
}

/// An interface, opened by a packet socket.
#[derive(Debug)]
pub struct Packet {
    socket: OwnedFd,
    promiscuous: bool,
    own_mac: Option<MacAddr>,
    promises: Promises,
}

impl Packet {
    /// Opens the interface called `ifname` in the calling thread's network namespace.
    ///
    /// # Errors
    /// ENODEV if there is none, EPERM without CAP_NET_RAW, EINVAL if another kind of fanout group has this
    /// number, [`io::ErrorKind::InvalidInput`] if the interface is not an Ethernet one.
    pub fn open(ifname: &str, options: PacketOptions) -> io::Result<Packet> {
        check_interface_name(ifname)?;
        let index = nix::net::if_::if_nametoindex(ifname)?.cast_signed();
        // Protocol 0: nothing is received before the bind.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;

        let udp_segments = enable_headers(&socket)?;
        set_packet(&socket, libc::PACKET_AUXDATA, &1)?;
        unless_unknown(set_packet(&socket, libc::PACKET_IGNORE_OUTGOING, &1))?;
        enlarge_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
        enlarge_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;

        refuse_everything(&socket)?;
        bind(&socket, index)?;
        check_ethernet(&socket, ifname)?;
        if let Some(group) = options.fanout {
            fanout::join(&socket, group)?;
        }
        if options.promiscuous {
            add_membership(&socket, index, libc::PACKET_MR_PROMISC, None)?;
        }
        if let Some(mac) = options.own_mac {
            add_membership(&socket, index, PACKET_MR_UNICAST, Some(mac))?;
        }
        set(&socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0)?;

        let promises = Promises { udp_segments, ..Promises::ALL };
        Ok(Packet {
            socket,
            promiscuous: options.promiscuous,
            own_mac: options.own_mac,
            promises: if options.offload { promises } else { Promises::NONE },
        })
    }

    /// Whether a frame of this type, as the kernel sees it, is for us.
    fn accepts(&self, packet_type: u8, frame: &Frame) -> bool {
        match packet_type {
            libc::PACKET_HOST | libc::PACKET_BROADCAST | libc::PACKET_MULTICAST => true,
            libc::PACKET_OTHERHOST => {
                self.promiscuous || self.own_mac.is_some_and(|mac| frame.bytes().starts_with(&mac.0))
            }
            _ => false, // our own, coming back
        }
    }
}

impl AsFd for Packet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Device for Packet {
    fn receive(&self, frame: &mut Frame) -> Received {
        let mut received = Received::Empty;
        self.receive_batch::<1>(std::slice::from_mut(frame), |outcome| received = outcome);
        received
    }

    fn receive_many(&self, frames: &mut [Frame], received: &mut Vec<Received>) {
        self.receive_batch::<BURST_FRAMES>(frames, |outcome| received.push(outcome));
    }

    fn transmit(&self, frame: &mut Frame) -> Result<(), NotSent> {
        FRAMING.seal(frame)?;
        write(&self.socket, FRAMING.sealed(frame))?;
        Ok(())
    }

    fn write_framing(&self) -> Option<Framing> {
        Some(FRAMING)
    }

    fn promises(&self) -> Promises {
        self.promises
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn missed(&self) -> u64 {
        // Reading them sets them to zero.
        let statistics: Result<libc::tpacket_stats, _> = read_packet(&self.socket, libc::PACKET_STATISTICS);
        statistics.map_or(0, |statistics| statistics.tp_drops.into())
    }

    fn deal(&self, readers: usize) {
        if let Err(why) = fanout::deal(&self.socket, readers) {
            log::debug!("the kernel deals as it likes: {why}");
        }
    }

    fn is_gone(&self) -> bool {
        // The kernel sets the index to -1 when the interface is unregistered.
        address(&self.socket).is_ok_and(|address| address.sll_ifindex < 0)
    }
}

impl Packet {
    /// Reads into at most `N` frames by one call, and tells `each` what became of every one until the first
    /// for which there was nothing.
    fn receive_batch<const N: usize>(&self, frames: &mut [Frame], mut each: impl FnMut(Received)) {
        let mut besides = [Beside::NOTHING; N];
        // SAFETY: plain data, for which zeros are valid.
        let mut messages: [libc::mmsghdr; N] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut spaces: [libc::iovec; N] = unsafe { zeroed() };
        let count = frames.len().min(N);
        for (((frame, beside), space), message) in
            frames.iter_mut().zip(&mut besides).zip(&mut spaces).zip(&mut messages)
        {
            let bytes = FRAMING.space(frame);
            *space = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut beside.from).cast();
            header.msg_namelen = socklen::<libc::sockaddr_ll>();
            header.msg_iov = space;
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut beside.control).cast();
            header.msg_controllen = size_of::<Control>();
        }
        // SAFETY: every pointer in the first `count` messages is to a live value of the length that is said
        // beside it: a frame's space, and what comes beside that frame.
        let got = unsafe {
            let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as c_uint,
                flags as _, // musl has the flags unsigned
                std::ptr::null_mut(),
            )
        };
        match Errno::result(got) {
            Ok(got) => {
                let got = got.cast_unsigned() as usize;
                for ((frame, beside), message) in frames.iter_mut().zip(&besides).zip(&messages[..got]) {
                    each(self.received(frame, beside, message.msg_len as usize));
                }
                // An error behind a frame is told by the next call.
                if got < count {
                    each(Received::Empty);
                }
            }
            Err(Errno::ENETDOWN) if self.is_gone() => each(Received::Gone),
            // The frame was cut by a method for which the header has no word (SCTP, tunnels). It is lost.
            Err(Errno::EINVAL) => each(Received::Dropped(DropReason::BadOffload)),
            Err(errno) => each(Received::failed(errno)),
        }
    }

    /// What became of a frame whose uncut length with its header is `got`.
    fn received(&self, frame: &mut Frame, beside: &Beside, got: usize) -> Received {
        let received = FRAMING.received(frame, got);
        if !self.accepts(beside.from.sll_pkttype, frame) {
            return Received::Skipped;
        }
        if let Some(tag) = beside.vlan_tag() {
            frame.insert_vlan_tag(tag);
        }
        received
    }
}

/// What comes beside a frame.
#[derive(Clone, Copy)]
struct Beside {
    from: libc::sockaddr_ll,
    control: Control,
}

impl Beside {
    // SAFETY: plain data, for which zeros are valid.
    const NOTHING: Beside = unsafe { zeroed() };

    /// The VLAN tag that the frame came with.
    fn vlan_tag(&self) -> Option<[u8; 4]> {
        let Control { header, auxdata } = &self.control;
        let is_auxdata = (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA);
        if !is_auxdata || auxdata.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let named = auxdata.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let tpid = if named { auxdata.tp_vlan_tpid } else { TPID_VLAN };
        let ([a, b], [c, d]) = (tpid.to_be_bytes(), auxdata.tp_vlan_tci.to_be_bytes());
        Some([a, b, c, d])
    }
}

/// Room for the one control message that we ask for.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    auxdata: libc::tpacket_auxdata,
}

// `libc` does not have it for every C library.
const PACKET_MR_UNICAST: c_int = 3;

/// Asks for virtio-net headers. Says whether the kernel knows UDP segments in them: it came to know them
/// (Linux 6.2) shortly before it learned to set the header's size (Linux 6.5).
fn enable_headers(socket: &OwnedFd) -> io::Result<bool> {
    let len = HEADER_LEN as c_int;
    if unless_unknown(set_packet(socket, libc::PACKET_VNET_HDR_SZ, &len))? {
        return Ok(true);
    }
    set_packet(socket, libc::PACKET_VNET_HDR, &1)?;
    Ok(false)
}

/// Raises a buffer as far as it may be: beyond the system's limit with CAP_NET_ADMIN, up to it without.
fn enlarge_buffer(socket: &OwnedFd, force: c_int, ask: c_int) -> io::Result<()> {
    let as_far_as = |option| set(socket, libc::SOL_SOCKET, option, &SOCKET_BUFFER);
    Ok(as_far_as(force).or_else(|_| as_far_as(ask))?)
}

/// Attaches the socket filter `return 0`.
fn refuse_everything(socket: &OwnedFd) -> io::Result<()> {
    let refuse = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    Ok(attach_filter(socket, [refuse])?)
}

/// Has a socket of any kind pass what a classic BPF program passes, and nothing else.
///
/// # Errors
/// What the kernel says of the program.
pub(crate) fn attach_filter<const N: usize>(
    socket: &OwnedFd,
    mut steps: [libc::sock_filter; N],
) -> Result<(), Errno> {
    let len = u16::try_from(N).map_err(|_| Errno::EINVAL)?;
    // The kernel reads the steps, which live until the call returns, and does not keep them.
    let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn bind(socket: &OwnedFd, index: c_int) -> io::Result<()> {
    // SAFETY: plain data, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: the pointer is to a live address of the length given.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), socklen::<libc::sockaddr_ll>())
    };
    Errno::result(result)?;
    Ok(())
}

/// The address that the socket is bound to.
fn address(socket: &OwnedFd) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: plain data, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let mut len = socklen::<libc::sockaddr_ll>();
    // SAFETY: the pointers are to live values, and `len` is the first one's size.
    let result = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
    Errno::result(result)?;
    Ok(address)
}

fn check_ethernet(socket: &OwnedFd, ifname: &str) -> io::Result<()> {
    if address(socket)?.sll_hatype == libc::ARPHRD_ETHER {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{ifname} is not an Ethernet interface")))
}

fn add_membership(socket: &OwnedFd, index: c_int, kind: c_int, mac: Option<MacAddr>) -> io::Result<()> {
    // SAFETY: plain data, for which zeros are valid.
    let mut request: libc::packet_mreq = unsafe { zeroed() };
    request.mr_ifindex = index;
    request.mr_type = kind as u16;
    if let Some(MacAddr(mac)) = mac {
        request.mr_alen = mac.len() as u16;
        request.mr_address[..mac.len()].copy_from_slice(&mac);
    }
    set_packet(socket, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Turns the error of a kernel that does not know the option into `false`.
fn unless_unknown(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(why) if why.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(why) => Err(why),
    }
}

pub(super) fn set_packet<T>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    Ok(set(socket, libc::SOL_PACKET, option, value)?)
}

pub(super) fn set<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> Result<(), Errno> {
    let value: *const T = value;
    // SAFETY: the kernel reads no more than the length given, which is that of the live value.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), socklen::<T>()) };
    Errno::result(result).map(drop)
}

/// Reads a packet socket's option that is plain data, for which any bytes are valid.
fn read_packet<T: Copy>(socket: &OwnedFd, option: c_int) -> io::Result<T> {
    // SAFETY: plain data by this function's contract, which its callers in this file keep.
    let mut value: T = unsafe { zeroed() };
    let mut len = socklen::<T>();
    // SAFETY: the pointers are to live values, and `len` is the first one's size.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw mut value).cast(), &raw mut len)
    };
    Errno::result(result)?;
    Ok(value)
}

/// The size of a small structure, as the socket calls want it.
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
