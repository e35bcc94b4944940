//! One container connects while another one opens flow after flow.
//!
//! The figure is by how much the slowest of a hundred connections is slower beside the neighbor than without it:
//! p99 against p99, of the same run. The neighbor sends one datagram from each of as many sockets as it can make,
//! as fast as it can; a switch may refuse it flows, but has to look at each. It computes all the time, and so
//! takes a core: where there are two, everybody else shares the other one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use vswitchd::host::netns::Netns;
use vswitchd::lab::traffic::Talk;

use super::{Sample, Stage, any_address, connections, inside, joined};
use crate::site::REMOTES;
use crate::stats::percentile;

/// Flows that the neighbor opens.
const FLOWS: u32 = 70_000;

/// Connections without the neighbor, and at least so many beside it.
const CONNECTIONS: usize = 500;

/// How long a connection may take. Longer than the kernel takes to repeat a lost SYN.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn run(talk: Talk<'_>, neighbor: &Netns) -> io::Result<Sample> {
    let listener = inside(talk.server, || TcpListener::bind(any_address(talk.at)))?;
    setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(50))?;
    let (stage, port) = (Stage::default(), talk.to.port());
    let mut remotes = REMOTES.hosts().cycle();
    let mut connect = || {
        let to = SocketAddrV4::new(remotes.next().unwrap_or(*talk.to.ip()), port);
        connected(SocketAddr::V4(to))
    };
    thread::scope(|scope| {
        let serving = scope.spawn(|| connections::serve(&listener, &stage));
        let asking = scope.spawn(|| {
            inside(talk.client, || {
                let mut alone = (0..CONNECTIONS).map(|_| connect()).collect::<io::Result<Vec<_>>>()?;
                let crowding = scope.spawn(|| inside(neighbor, || crowd(port)));
                let mut beside = Vec::with_capacity(1 << 14);
                while beside.len() < CONNECTIONS || !crowding.is_finished() {
                    beside.push(connect()?);
                }
                joined(crowding)?;
                Ok(sample(&mut alone, &mut beside))
            })
        });
        let sample = joined(asking);
        stage.end();
        joined(serving)?;
        sample
    })
}

/// How long it takes to connect, in nanoseconds.
fn connected(to: SocketAddr) -> io::Result<u32> {
    let begun = Instant::now();
    TcpStream::connect_timeout(&to, PATIENCE)?;
    Ok(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX))
}

/// Opens the flows, each from a port of its own as long as there are any.
fn crowd(port: u16) -> io::Result<()> {
    let remotes: Vec<Ipv4Addr> = REMOTES.hosts().collect();
    for (flow, remote) in (0..FLOWS).zip(remotes.into_iter().cycle()) {
        // Somebody else has the port, or the switch told of a refusal: both are as they may be.
        let own = u16::try_from(1024 + flow % 64_000).unwrap_or(0);
        let _ = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, own))
            .and_then(|socket| socket.send_to(b"x", (remote, port)));
    }
    Ok(())
}

/// How much slower the slowest of a hundred are, and how slow.
fn sample(alone: &mut [u32], beside: &mut [u32]) -> Sample {
    let p99 = |times: &mut [u32]| f64::from(percentile(times, 0.99).unwrap_or(0)) / 1e3;
    let (alone, beside) = (p99(alone), p99(beside));
    let value = if alone > 0.0 { beside / alone } else { 0.0 };
    Sample { value, p99: Some(beside), cpu: None, own_cpu: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_compared() {
        let mut alone = vec![100_000; 98];
        alone.extend([200_000, 900_000]);
        let mut beside = alone.iter().map(|time| time * 3).collect::<Vec<u32>>();
        let sample = sample(&mut alone, &mut beside);
        assert_eq!((sample.value, sample.p99), (3.0, Some(600.0)));
    }
}
