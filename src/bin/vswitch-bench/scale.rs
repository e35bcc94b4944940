//! `--ports`: what many ports cost, and that those who shout do not silence those who talk.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vswitchd::control::error::Error;
use vswitchd::host::netns::Netns;
use vswitchd::lab::interrupt::Interrupt;

use crate::case::{Cores, Plane, Window};
use crate::load::ping_pong::{self, Rounds};
use crate::load::{inside, joined};
use crate::peer::Peer;
use crate::progress::Progress;
use crate::report::tell;
use crate::site::{NETWORK, Site};
use crate::stats::median;

/// The number of the first container; what `Site` has itself comes before.
const FIRST: u16 = 100;

/// How long attaching a port may take, in milliseconds.
const ATTACH_MS: f64 = 20.0;

/// The share of a core that an idle switch may use, in percent.
const IDLE_PERCENT: f64 = 1.0;

/// How long idleness is measured.
const IDLE: Duration = Duration::from_secs(10);

/// A conversation stalls if one in a hundred of its round trips takes longer, in microseconds: people begin
/// to notice about there, and no scheduler is to blame any more.
const STALL_MICROS: f64 = 10_000.0;

/// Between two broadcasts of what is a storm already; without a pause it is a flood.
const STORM: Duration = Duration::from_millis(10);

/// Builds a switch with so many ports, says what it costs, and tells whether all is within its bounds.
///
/// # Errors
/// If it cannot be built, or we are interrupted.
pub(crate) fn run(
    peer: &Peer,
    options: &[String],
    ports: u16,
    window: &Window,
    interrupt: &Interrupt,
) -> Result<bool, Error> {
    let site = Site::build(peer, options)?;
    let before = site.resident();
    let (crowd, times) = attach(&site, ports, interrupt)?;
    let grown = site.resident().saturating_sub(before);

    let (all, late) = (median(&times), median(&times[times.len() - times.len().div_ceil(10)..]));
    let worst = times.iter().copied().fold(0.0, f64::max);
    let (all, late) = (all.unwrap_or(0.0), late.unwrap_or(0.0));
    let mut passed = tell(
        late < ATTACH_MS,
        &format!("attaching a port takes {all:.1} ms, the last tenth {late:.1} ms, at most {worst:.1} ms"),
    );
    tell(true, &format!("memory of the switch grows by {} KiB a port", grown / u64::from(ports) / 1024));

    let idle = idle(&site);
    passed &= tell(
        idle < IDLE_PERCENT,
        &format!("the idle switch uses {idle:.2} % of a core, over {} s", IDLE.as_secs()),
    );

    let mut quiet = talk(&site, window)?;
    tell(true, &format!("two containers talk: {}", describe(&mut quiet)));
    for pause in [STORM, Duration::ZERO] {
        let (mut loud, shouted) = shout(&crowd, pause, || talk(&site, window))?;
        let undisturbed = loud.lost == 0 && loud.micros(0.99) < STALL_MICROS;
        let what = format!("while a third sends {shouted} broadcasts to {ports} ports");
        passed &= tell(undisturbed, &format!("{what}: {}", describe(&mut loud)));
    }
    Ok(passed)
}

/// Attaches that many namespaces, and returns how long each took, in milliseconds.
fn attach(site: &Site, ports: u16, interrupt: &Interrupt) -> Result<(Vec<Netns>, Vec<f64>), Error> {
    let mut progress = Progress::new(usize::from(ports));
    let (mut crowd, mut times) = (Vec::new(), Vec::new());
    for host in (FIRST..).take(usize::from(ports)) {
        if interrupt.came() {
            return Err(Error::failed("ports", "interrupted", ""));
        }
        progress.step("attach", &format!("c{host}"));
        let netns = site.rig.container(&format!("c{host}"))?;
        let begun = Instant::now();
        site.attach(&netns, host)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        crowd.push(netns);
    }
    Ok((crowd, times))
}

/// The share of a core that the switch uses while nothing happens, in percent.
fn idle(site: &Site) -> f64 {
    // What attaching left to do is done by then.
    thread::sleep(Duration::from_secs(1));
    let before = site.cpu_time().unwrap_or_default();
    thread::sleep(IDLE);
    let used = site.cpu_time().unwrap_or_default().saturating_sub(before);
    used.as_secs_f64() / IDLE.as_secs_f64() * 100.0
}

/// A ping-pong of two containers.
fn talk(site: &Site, window: &Window) -> Result<Rounds, Error> {
    let failed = |why: &dyn std::fmt::Display| Error::failed("ping-pong", why, "");
    let talk = site.talk(Plane::Switched).ok_or_else(|| failed(&"the switch has no such plane"))?;
    ping_pong::datagrams(talk, Cores::Two, site, *window).map_err(|error| failed(&error))
}

/// In words, how a conversation went.
fn describe(rounds: &mut Rounds) -> String {
    let (p50, p99, lost) = (rounds.micros(0.5), rounds.micros(0.99), rounds.lost);
    format!("{} round trips, {lost} lost, p50 {p50:.0} us, p99 {p99:.0} us", rounds.count())
}

/// Has one of the crowd broadcast while `f` runs, with a pause after each; how often it did.
fn shout<T>(
    crowd: &[Netns],
    pause: Duration,
    f: impl FnOnce() -> Result<T, Error>,
) -> Result<(T, u64), Error> {
    /// RFC 863: whoever gets it throws it away.
    const DISCARD: u16 = 9;
    let failed = |error: std::io::Error| Error::failed("broadcast", error, "");
    let [shouter, ..] = crowd else { return Err(Error::failed("broadcast", "nobody is there", "")) };
    let socket = inside(shouter, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).map_err(failed)?;
    socket.set_broadcast(true).map_err(failed)?;
    let to = SocketAddrV4::new(NETWORK.broadcast(), DISCARD);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let shouting = scope.spawn(|| {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                // A full queue is what a flood is about.
                count += u64::from(socket.send_to(&[0; 18], to).is_ok());
                if !pause.is_zero() {
                    thread::sleep(pause);
                }
            }
            count
        });
        let outcome = f();
        over.store(true, Ordering::Relaxed);
        let count = joined(shouting);
        outcome.map(|outcome| (outcome, count))
    })
}
