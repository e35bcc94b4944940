//! A flood of UDP datagrams: one thread sends as fast as it can, one receives and counts.
//!
//! Both use the calls for many datagrams at a time (`sendmmsg`, `recvmmsg`) wherever the next datagrams are
//! of one socket, so that the generator is not what is measured. A flow is a socket with a port of its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt, sockopt};
use vswitchd::host::netns::Netns;
use vswitchd::lab::traffic::Talk;

use super::{Sample, Stage, inside, joined, window};
use crate::case::{Flows, Window};
use crate::site::Site;

/// Datagrams of one flow in a burst, and in one call.
const BURST: usize = 32;

/// Datagrams that are received with one call at most.
const RECEIVE: usize = 64;

/// Bytes that wait for the receiver: it must not lose what the switch delivered because it slept a while.
const RECEIVE_BUFFER: usize = 8 << 20;

/// How long nothing must arrive, once the run is over, until nothing more is on its way: the queue of a slow
/// switch must not be left for the next run.
const GLANCE: Duration = Duration::from_millis(50);

impl Flows {
    /// How many, and how many datagrams of one follow each other.
    const fn shape(self) -> (usize, usize) {
        match self {
            Flows::One => (1, BURST),
            Flows::Bursts => (16, BURST),
            Flows::Mixed => (16, 1),
            Flows::Scattered => (2048, 1),
        }
    }
}

pub(super) fn run(
    talk: Talk<'_>,
    payload: usize,
    flows: Flows,
    site: &Site,
    length: Window,
) -> io::Result<Sample> {
    let (count, burst) = flows.shape();
    let receiver = receiver(talk.server, talk.at)?;
    let senders = senders(talk.client, talk.to, count)?;
    let stage = Stage::default();
    let measured = thread::scope(|scope| -> io::Result<_> {
        let sending = scope.spawn(|| send(&senders, payload, burst, &stage));
        let receiving = scope.spawn(|| receive(&receiver, payload, &stage));
        let measured = window(&stage, site, length);
        joined(sending)?;
        joined(receiving)?;
        Ok(measured)
    })?;
    Ok(measured.thousands_per_second(1e6))
}

/// A socket on which datagrams arrive, with room for many of them.
pub(super) fn receiver(netns: &Netns, at: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = inside(netns, || UdpSocket::bind(at))?;
    // Beyond what the system allows everybody; with less privilege, as much as it does.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    socket.set_read_timeout(Some(GLANCE))?;
    Ok(socket)
}

/// As many sockets that send to `to`, each with a port of its own.
fn senders(netns: &Netns, to: SocketAddrV4, count: usize) -> io::Result<Vec<UdpSocket>> {
    inside(netns, || {
        let sender = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            Ok(socket)
        };
        (0..count).map(|_| sender()).collect()
    })
}

/// Sends `burst` datagrams from each socket in turn until the stage is over.
fn send(sockets: &[UdpSocket], payload: usize, burst: usize, stage: &Stage) -> io::Result<()> {
    let datagram = vec![0; payload];
    let messages = vec![[IoSlice::new(&datagram)]; burst];
    let to_whom_connected = vec![None::<()>; burst];
    let mut headers = MultiHeaders::<()>::preallocate(burst, None);
    for socket in sockets.iter().cycle() {
        if stage.over() {
            break;
        }
        let fd = socket.as_raw_fd();
        let none = MsgFlags::empty();
        match sendmmsg(fd, &mut headers, &messages, &to_whom_connected, [], none) {
            Ok(_) => {}
            // A full queue is what a flood is about. Refused: an answer to a datagram of the run before.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Counts what arrives until the stage is over and nothing more is on its way.
pub(super) fn receive(socket: &UdpSocket, payload: usize, stage: &Stage) -> io::Result<()> {
    let mut datagrams = vec![vec![0; payload]; RECEIVE];
    let mut headers = MultiHeaders::<()>::preallocate(RECEIVE, None);
    loop {
        let mut places: Vec<_> = datagrams.iter_mut().map(|datagram| [IoSliceMut::new(datagram)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut places, flags, None) {
            Ok(received) => stage.add(received.count() as u64),
            Err(Errno::EAGAIN | Errno::EINTR) if stage.over() => return Ok(()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
