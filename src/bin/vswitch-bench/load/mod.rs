//! The generator: plays both ends of a workload and measures what arrives.
//!
//! Sockets are made in the ends' namespaces and then used from threads of this process, which stay where they
//! are. Everything is counted at the receiver, in a window of time after a warm-up. All TCP connections use
//! one congestion control, whatever the system's default is: bbr paces, and measures itself.

mod bulk;
mod connections;
mod crowded;
mod flood;
mod new_flows;
pub(crate) mod ping_pong;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vswitchd::control::error::Error;
use vswitchd::host::netns::Netns;

use self::ping_pong::Rounds;
use crate::case::{Case, Load, Window};
use crate::machine::busy_time;
use crate::site::Site;

/// The congestion control of every TCP connection.
pub(crate) const CONGESTION: &str = "cubic";

/// What a run comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The figure, in the case's unit.
    pub(crate) value: f64,
    /// The 99th percentile in microseconds, where the figure is a median or a ratio of such ones.
    pub(crate) p99: Option<f64>,
    /// Busy time of all cores for a unit of work ([`Load::work`]), in seconds.
    pub(crate) cpu: Option<f64>,
    /// Of it, the switch's own processes.
    pub(crate) own_cpu: Option<f64>,
}

/// What happened within a window.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// What the receiver counted.
    count: f64,
    seconds: f64,
    cpu: f64,
    own_cpu: Option<f64>,
}

impl Measured {
    /// The figure `value`, with CPU time for each `work` of what was counted.
    fn sample(self, value: f64, work: f64) -> Sample {
        let amount = self.count / work;
        let each = |cpu: f64| (amount > 0.0).then_some(cpu / amount);
        Sample { value, p99: None, cpu: each(self.cpu), own_cpu: self.own_cpu.and_then(each) }
    }

    /// As many thousands a second as were counted.
    fn thousands_per_second(self, work: f64) -> Sample {
        self.sample(self.count / self.seconds / 1e3, work)
    }
}

/// What the threads of a run share.
#[derive(Debug, Default)]
struct Stage {
    count: AtomicU64,
    over: AtomicBool,
}

impl Stage {
    fn add(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The state of the counters at one moment.
struct Moment {
    at: Instant,
    count: u64,
    busy: Duration,
    own: Option<Duration>,
}

impl Moment {
    fn now(stage: &Stage, site: &Site) -> Moment {
        let count = stage.count.load(Ordering::Relaxed);
        Moment { at: Instant::now(), count, busy: busy_time(), own: site.cpu_time() }
    }

    fn until(self, later: &Moment) -> Measured {
        let own = later.own.zip(self.own).map(|(later, earlier)| later.saturating_sub(earlier));
        Measured {
            count: (later.count - self.count) as f64,
            seconds: (later.at - self.at).as_secs_f64(),
            cpu: later.busy.saturating_sub(self.busy).as_secs_f64(),
            own_cpu: own.map(|own| own.as_secs_f64()),
        }
    }
}

/// Lets a warm-up pass, measures for as long as the window is, and ends the stage.
fn window(stage: &Stage, site: &Site, window: Window) -> Measured {
    thread::sleep(window.warm_up);
    let begin = Moment::now(stage, site);
    thread::sleep(window.length);
    let end = Moment::now(stage, site);
    stage.end();
    begin.until(&end)
}

/// Runs a case once.
///
/// # Errors
/// If the ends cannot talk to each other, or nothing arrives.
pub(crate) fn run(case: &Case, site: &Site, window: Window) -> Result<Sample, Error> {
    let failed = |why: &dyn std::fmt::Display| Error::failed(case.name, why, "");
    if case.load == Load::Idle {
        return Ok(idle(site, window));
    }
    let talk = site.talk(case.plane).ok_or_else(|| failed(&"the switch has no such plane"))?;
    let sample = match case.load {
        Load::Bulk { streams } => bulk::run(talk, streams, site, window),
        Load::Flood { payload, flows } => flood::run(talk, payload, flows, site, window),
        Load::Connections => connections::run(talk, site, window),
        Load::NewFlows => new_flows::run(talk, site, window),
        Load::Crowded => match site.neighbor() {
            Some(neighbor) => crowded::run(talk, neighbor),
            None => return Err(failed(&"there is nobody else behind the switch")),
        },
        Load::PingPong { cores } => ping_pong::datagrams(talk, cores, site, window).map(Rounds::sample),
        Load::RequestResponse { cores } => ping_pong::requests(talk, cores, site, window).map(Rounds::sample),
        Load::Idle => return Ok(idle(site, window)),
    };
    let sample = sample.map_err(|error| failed(&error))?;
    if sample.value > 0.0 { Ok(sample) } else { Err(failed(&"nothing arrives")) }
}

fn idle(site: &Site, window: Window) -> Sample {
    // A switch that spins a while before it sleeps is asleep after that.
    thread::sleep(window.warm_up);
    let begin = Moment::now(&Stage::default(), site);
    thread::sleep(window.length);
    let measured = begin.until(&Moment::now(&Stage::default(), site));
    let share = measured.own_cpu.unwrap_or_default() / measured.seconds;
    Sample { value: share * 100.0, p99: None, cpu: None, own_cpu: Some(share) }
}

/// The same port on every address of the server.
fn any_address(at: SocketAddrV4) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, at.port())
}

/// Runs `f` in the namespace, on a thread of its own.
///
/// # Errors
/// Those of `f`.
pub(crate) fn inside<T: Send>(netns: &Netns, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    netns.run(f).map_err(io::Error::other)?
}

/// What a thread came to; its panic is ours.
pub(crate) fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
