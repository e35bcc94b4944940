//! UDP flows of a single datagram: every one makes the switch remember something new.
//!
//! A socket for each would measure how fast the kernel makes sockets. So one raw socket sends datagrams with
//! the next source port and to the next address of the server each. There are fewer source ports than external
//! ones that our switch lets a container have: its mappings are independent of the endpoint (RFC 4787 REQ-1), so
//! one with more would be refused, and a refusal is no flow. The run ends after [`ENOUGH`] flows at the latest,
//! before any switch's table is full.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
    sockopt,
};
use vswitchd::lab::traffic::Talk;

use super::{Moment, Sample, Stage, any_address, flood, inside, joined};
use crate::case::Window;
use crate::site::{REMOTES, Site};

/// Flows that are measured: fewer than our switch lets one port have, and the kernel of all.
const ENOUGH: u64 = 40_000;

/// Source ports.
const PORTS: std::ops::Range<u16> = 20_000..21_024;

/// Addresses of the server: a number without a common divisor with that of the ports, so that going through
/// both comes to every pair.
const ADDRESSES: usize = 125;

/// Bytes in a datagram.
const PAYLOAD: u8 = 18;

pub(super) fn run(talk: Talk<'_>, site: &Site, length: Window) -> io::Result<Sample> {
    let receiver = flood::receiver(talk.server, any_address(talk.at))?;
    let sender = inside(talk.client, || {
        Ok(socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp)?)
    })?;
    // Answers would come to it as well, and it reads none.
    setsockopt(&sender, sockopt::RcvBuf, &0)?;
    let stage = Stage::default();
    let measured = thread::scope(|scope| -> io::Result<_> {
        let receiving = scope.spawn(|| flood::receive(&receiver, usize::from(PAYLOAD), &stage));
        // The neighbors get to know each other.
        send(&sender, talk.to.port(), &stage, 8)?;
        thread::sleep(length.warm_up);
        let sending = scope.spawn(|| send(&sender, talk.to.port(), &stage, usize::MAX));
        let begin = Moment::now(&stage, site);
        let latest = Instant::now() + length.length;
        let arrived = |begin: &Moment| Moment::now(&stage, site).count - begin.count;
        while arrived(&begin) < ENOUGH && Instant::now() < latest {
            thread::sleep(Duration::from_millis(2));
        }
        let end = Moment::now(&stage, site);
        stage.end();
        joined(sending)?;
        joined(receiving)?;
        Ok(begin.until(&end))
    })?;
    Ok(measured.thousands_per_second(1e6))
}

/// Sends up to `most` datagrams, no two of one flow, until the stage is over.
fn send(socket: &OwnedFd, port: u16, stage: &Stage, most: usize) -> io::Result<()> {
    for (source, remote) in flows().take(most) {
        if stage.over() {
            break;
        }
        let datagram = datagram(source, port);
        let to = SockaddrIn::from(SocketAddrV4::new(remote, 0));
        match sendto(socket.as_raw_fd(), &datagram, &to, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Source port and destination of each flow.
fn flows() -> impl Iterator<Item = (u16, Ipv4Addr)> {
    let remotes: Vec<Ipv4Addr> = REMOTES.hosts().take(ADDRESSES).collect();
    PORTS.cycle().zip(remotes.into_iter().cycle())
}

/// A UDP header and its payload, without a checksum (RFC 768 allows that).
fn datagram(source: u16, destination: u16) -> [u8; 8 + PAYLOAD as usize] {
    let mut datagram = [0; 8 + PAYLOAD as usize];
    datagram[0..2].copy_from_slice(&source.to_be_bytes());
    datagram[2..4].copy_from_slice(&destination.to_be_bytes());
    datagram[5] = 8 + PAYLOAD;
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flow_comes_twice_before_enough() {
        let sent = 100 * PORTS.len();
        let unique: std::collections::HashSet<_> = flows().take(sent).collect();
        assert_eq!(unique.len(), sent);
        assert_eq!(datagram(0x1234, 5001)[..8], [0x12, 0x34, 0x13, 0x89, 0, 26, 0, 0]);
    }
}
