//! Latency: one message there and back, then the next. Both ends sleep while they wait, as servers do.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt::TcpCongestion};
use nix::unistd::Pid;
use vswitchd::lab::traffic::{Connection, Talk, connect};

use super::{CONGESTION, Measured, Sample, Stage, flood, inside, joined, window};
use crate::case::{Cores, Window};
use crate::site::Site;
use crate::stats::percentile;

/// How long an answer is waited for before the datagram counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// UDP datagrams of 18 bytes.
pub(super) fn datagrams(talk: Talk<'_>, cores: Cores, site: &Site, length: Window) -> io::Result<Sample> {
    let server = flood::receiver(talk.server, talk.at)?;
    let client = inside(talk.client, || UdpSocket::bind(("0.0.0.0", 0)))?;
    client.connect(talk.to)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let stage = Stage::default();
    let serve = || {
        let mut datagram = [0; 18];
        while !stage.over() {
            match server.recv_from(&mut datagram) {
                Ok((_, client)) => drop(server.send_to(&datagram, client)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let exchange = || {
        let mut datagram = [0; 18];
        client.send(&datagram)?;
        answered(client.recv(&mut datagram))
    };
    let (measured, times) = play(serve, exchange, &stage, cores, site, length)?;
    Ok(sample(measured, times))
}

/// Single bytes over a TCP connection.
pub(super) fn requests(talk: Talk<'_>, cores: Cores, site: &Site, length: Window) -> io::Result<Sample> {
    let Connection { client, server, .. } = connect(talk)?;
    for end in [&client, &server] {
        setsockopt(end, TcpCongestion, &OsString::from(CONGESTION))?;
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
    }
    let stage = Stage::default();
    let serve = || {
        let (mut server, mut byte): (&TcpStream, _) = (&server, [0]);
        while !stage.over() {
            match server.read(&mut byte) {
                Ok(length) => server.write_all(&byte[..length])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let exchange = || {
        let (mut client, mut byte): (&TcpStream, _) = (&client, [0]);
        client.write_all(&byte)?;
        answered(client.read_exact(&mut byte))
    };
    let (measured, times) = play(serve, exchange, &stage, cores, site, length)?;
    Ok(sample(measured, times))
}

/// Whether the answer came in time.
fn answered<T>(received: io::Result<T>) -> io::Result<bool> {
    match received {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Runs both ends on their cores, and returns how long each exchange in the window took, in nanoseconds.
fn play(
    serve: impl FnOnce() -> io::Result<()> + Send,
    mut exchange: impl FnMut() -> io::Result<bool> + Send,
    stage: &Stage,
    cores: Cores,
    site: &Site,
    length: Window,
) -> io::Result<(Measured, Vec<u32>)> {
    let (client_core, server_core) = places(cores)?;
    thread::scope(|scope| {
        let serving = scope.spawn(move || {
            sched_setaffinity(Pid::from_raw(0), &server_core)?;
            serve()
        });
        let asking = scope.spawn(move || -> io::Result<Vec<u32>> {
            sched_setaffinity(Pid::from_raw(0), &client_core)?;
            let mut times = Vec::with_capacity(1 << 16);
            let begun = Instant::now();
            while !stage.over() {
                let sent = Instant::now();
                if exchange()? && begun.elapsed() > length.warm_up {
                    times.push(u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX));
                }
                stage.add(1);
            }
            Ok(times)
        });
        let measured = window(stage, site, length);
        let times = joined(asking)?;
        joined(serving)?;
        Ok((measured, times))
    })
}

/// The cores of client and server, of those that we may use.
fn places(cores: Cores) -> io::Result<(CpuSet, CpuSet)> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut usable = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
    let first = usable.next().unwrap_or(0);
    let second = match cores {
        Cores::One => first,
        Cores::Two => usable.next().unwrap_or(first),
    };
    let only = |core| {
        let mut set = CpuSet::new();
        set.set(core).map(|()| set)
    };
    Ok((only(first)?, only(second)?))
}

fn sample(measured: Measured, mut times: Vec<u32>) -> Sample {
    let mut micros = |share| f64::from(percentile(&mut times, share).unwrap_or(0)) / 1e3;
    let (p50, p99) = (micros(0.5), micros(0.99));
    Sample { p99: Some(p99), ..measured.sample(p50, 1e6) }
}
