//! Latency: one message there and back, then the next. Both ends sleep while they wait, as servers do.
//!
//! Messages are numbered, so that an answer that comes too late is not taken for the next one.

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

/// The exchanges of a window.
#[derive(Debug)]
pub(crate) struct Rounds {
    measured: Measured,
    /// How long each took, in nanoseconds; [`PATIENCE`] if no answer came.
    times: Vec<u32>,
    /// How many had no answer.
    pub(crate) lost: u64,
}

impl Rounds {
    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// The time that `share` of them did not exceed, in microseconds.
    pub(crate) fn micros(&mut self, share: f64) -> f64 {
        f64::from(percentile(&mut self.times, share).unwrap_or(0)) / 1e3
    }

    /// The median, and the 99th percentile with it.
    pub(super) fn sample(mut self) -> Sample {
        let (p50, p99) = (self.micros(0.5), self.micros(0.99));
        Sample { p99: Some(p99), ..self.measured.sample(p50, 1e6) }
    }
}

/// UDP datagrams of 18 bytes.
///
/// # Errors
/// If the ends have no sockets.
pub(crate) fn datagrams(talk: Talk<'_>, cores: Cores, site: &Site, length: Window) -> io::Result<Rounds> {
    let server = flood::receiver(talk.server, talk.at)?;
    let client = inside(talk.client, || UdpSocket::bind(("0.0.0.0", 0)))?;
    client.connect(talk.to)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let stage = Stage::default();
    let serve = || {
        let mut datagram = [0; 18];
        while !stage.over() {
            match server.recv_from(&mut datagram) {
                Ok((_, client)) => server.send_to(&datagram, client).map(drop)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let exchange = |number: u64| {
        let mut datagram = [0; 18];
        let number = number.to_be_bytes();
        datagram[..8].copy_from_slice(&number);
        client.send(&datagram)?;
        answered(|| client.recv(&mut datagram).map(|_| datagram[..8] == number))
    };
    play(serve, exchange, &stage, cores, site, length)
}

/// Single bytes over a TCP connection.
pub(super) fn requests(talk: Talk<'_>, cores: Cores, site: &Site, length: Window) -> io::Result<Rounds> {
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
    let exchange = |number: u64| {
        let (mut client, [.., number]): (&TcpStream, _) = (&client, number.to_be_bytes());
        let mut byte = [number];
        client.write_all(&byte)?;
        answered(|| client.read_exact(&mut byte).map(|()| byte == [number]))
    };
    play(serve, exchange, &stage, cores, site, length)
}

/// Receives until it is the answer; whether that came in time.
fn answered(mut receive: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    loop {
        match receive() {
            Ok(false) => {}
            Ok(true) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Runs both ends on their cores.
fn play(
    serve: impl FnOnce() -> io::Result<()> + Send,
    mut exchange: impl FnMut(u64) -> io::Result<bool> + Send,
    stage: &Stage,
    cores: Cores,
    site: &Site,
    length: Window,
) -> io::Result<Rounds> {
    let (client_core, server_core) = places(cores)?;
    thread::scope(|scope| {
        let serving = scope.spawn(move || {
            sched_setaffinity(Pid::from_raw(0), &server_core)?;
            serve()
        });
        let asking = scope.spawn(move || -> io::Result<(Vec<u32>, u64)> {
            sched_setaffinity(Pid::from_raw(0), &client_core)?;
            let (mut times, mut lost) = (Vec::with_capacity(1 << 16), 0);
            let begun = Instant::now();
            for number in 0.. {
                if stage.over() {
                    break;
                }
                let sent = Instant::now();
                let answered = exchange(number)?;
                if begun.elapsed() > length.warm_up {
                    times.push(u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX));
                    lost += u64::from(!answered);
                }
                stage.add(1);
            }
            Ok((times, lost))
        });
        let measured = window(stage, site, length);
        let (times, lost) = joined(asking)?;
        joined(serving)?;
        Ok(Rounds { measured, times, lost })
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
