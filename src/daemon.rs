//! The daemon: puts the parts together, runs them, and takes everything apart again.
//!
//! One thread runs a single-threaded tokio runtime with three things on it: the API server, the watcher of
//! the host, and the loop that owns [`Control`]. Workers have threads of their own and only report.
//!
//! Kernel work happens inside the loop: each piece takes some milliseconds, and one change after the other
//! is what keeps the books right. Events of workers come before requests, so that a port number that a
//! request deals again cannot be removed by an event about its last owner.

pub mod arguments;
pub mod program;
mod setup;

pub use setup::check;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use crate::control::apply::Control;
use crate::control::config::Document;
use crate::control::error::Error;
use crate::control::linux::LinuxHost;
use crate::control::name::IfName;
use crate::control::request::NetworkCreate;
use crate::control::server::{self, Call};
use crate::control::socket::{Socket, usual_path};
use crate::control::uplink::UplinkSettings;
use crate::control::uplink_spec::{self, UplinkSpec};
use crate::host::cores;
use crate::host::memory::prefer_huge_pages;
use crate::host::state::{self, StateDir};
use crate::host::watch::Watcher;
use crate::limits::{API_CLIENTS_MAX, CONNECTIONS_MAX, HOST_PORTS_INTERVAL, WORKERS_MAX};
use crate::port::exchange::Io;
use crate::service::{Services, until};
use crate::shared::{Conntrack, Shared};
use crate::snapshot::{Snapshot, UplinkMode};
use crate::worker::{CREW_INTERVAL, Event, PollMode, WorkerOptions, WorkerPool, now};

/// External ports for masquerading unless others are said: above the host's own ephemeral ports.
pub const NAT_PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// The file that names the host's resolvers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A network to start with.
pub type NetworkSpec = NetworkCreate;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The uplinks, the usual one first; none for networks only.
    pub uplinks: Vec<UplinkSpec>,
    /// The interface that the network "default" is bridged to, if it is.
    pub bridged: Option<IfName>,
    /// Networks; when empty, one called "default" on a prefix that is free.
    pub networks: Vec<NetworkSpec>,
    /// External ports for masquerading.
    pub nat_ports: RangeInclusive<u16>,
    /// Number of workers, all of which read; `None` for one per core, of which as many read as there is work for.
    pub workers: Option<usize>,
    /// How workers read and write; `None` for io_uring where it works.
    pub io: Option<Io>,
    /// What workers do while they have nothing to do.
    pub poll: PollMode,
    /// Whether devices pass super-frames and unfinished checksums on.
    pub offload: bool,
    /// Where the API listens.
    pub socket: PathBuf,
    /// The group that may use the API.
    pub group: Option<String>,
    /// The configuration file, and what it said.
    pub config: Option<(PathBuf, Document)>,
    /// All options that have a value, as a configuration file has them.
    pub settings: Vec<(String, String)>,
    /// Where addresses and leases outlive the process; `None` for the place that belongs to the socket.
    pub state_dir: Option<PathBuf>,
    /// The file that names the resolvers to ask about names that are not the switch's own.
    pub resolv_conf: PathBuf,
}

impl Default for Options {
    /// No uplink, one network, everything else as the command line has it.
    fn default() -> Self {
        Options {
            uplinks: Vec::new(),
            bridged: None,
            networks: Vec::new(),
            nat_ports: NAT_PORTS,
            workers: None,
            io: None,
            poll: PollMode::default(),
            offload: true,
            socket: crate::control::socket::default_path(),
            group: None,
            config: None,
            settings: Vec::new(),
            state_dir: None,
            resolv_conf: RESOLV_CONF.into(),
        }
    }
}

/// Runs a switch in the calling thread's namespace until `stop` resolves; calls `on_ready` when ports can be
/// added. Everything that it made is removed when it returns.
///
/// # Errors
/// Why it cannot start.
pub fn run(options: Options, on_ready: impl FnOnce(), stop: impl Future<Output = ()>) -> Result<(), Error> {
    let uplinks = uplink_spec::all(&options.uplinks, &options.nat_ports)?;
    let socket = Socket::bind(&options.socket, options.group.as_deref())?;
    let usual = || state::default_path(&options.socket, &usual_path());
    let state_dir = options.state_dir.clone().unwrap_or_else(usual);
    raise_descriptor_limit();
    let io = LinuxHost::probe(options.offload, options.io)?;
    // Who says how many means it. Workers that never sleep have their cores in any case.
    let all_read = options.workers.is_some() || options.poll == PollMode::Busy;
    let how = WorkerOptions { io, poll: options.poll, all_read };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::failed("event loop", error, "see ulimit -n"))?;
    runtime.block_on(async {
        let mut stop = pin!(stop);
        // Polled once before anything is made: from here on a signal stops the daemon in good order.
        if poll_fn(|context| Poll::Ready(stop.as_mut().poll(context).is_ready())).await {
            return Ok(());
        }
        let count = options.workers.unwrap_or_else(cores::count).clamp(1, WORKERS_MAX);
        let conntrack = Conntrack::new(CONNECTIONS_MAX, options.nat_ports.clone(), count);
        conntrack.memory().into_iter().for_each(prefer_huge_pages);
        let shared = Arc::new(Shared::new(count, Snapshot::new(), conntrack));
        let (reports, events) = mpsc::unbounded_channel();
        let bell = Arc::new(Notify::new());
        let rings = bell.clone();
        let on_event = Arc::new(move |event| match event {
            Event::StackPunted => rings.notify_one(),
            Event::PortGone(_) | Event::Punted => {
                // Nobody listens any more while the daemon stops.
                let _ = reports.send(event);
            }
        });
        let workers = WorkerPool::start(&shared, how, on_event)
            .map_err(|error| Error::failed("workers", error, "choose fewer --workers"))?;
        let sender = workers.clone();
        let services = Services::start(shared.clone(), bell, options.resolv_conf.clone(), move |frames| {
            sender.send_all(frames);
        });
        let services = services.map_err(|error| Error::failed("services", error, "see ulimit -u"))?;
        let host = LinuxHost::new(workers.clone(), count, options.offload, services.doors());
        let control = Control::new(shared, host, StateDir::open(&state_dir));
        let outcome = tokio::select! {
            outcome = serve(control, &options, uplinks, &socket, events, on_ready, stop) => outcome,
            never = staff(&workers) => match never {},
        };
        drop(services);
        workers.stop();
        outcome
    })
}

/// Sets the switch up, and then does what is asked until `stop`. Guard and devices end with `control`.
async fn serve(
    mut control: Control<LinuxHost>,
    options: &Options,
    uplinks: Vec<UplinkSettings>,
    socket: &Socket,
    mut events: mpsc::UnboundedReceiver<Event>,
    on_ready: impl FnOnce(),
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Error> {
    // Before the first look at the host, so that no change falls between.
    let mut watcher = Watcher::new()?;
    if uplinks.iter().any(|uplink| uplink.mode == UplinkMode::Shared) {
        warn_of_ephemeral_ports(&options.nat_ports);
    }
    for uplink in uplinks {
        control.open_uplink(uplink, now())?;
    }
    control.set_options(options.settings.clone());
    setup::set_up(&mut control, options)?;
    control.serve(now());

    let (sender, mut calls) = mpsc::channel::<Call>(API_CLIENTS_MAX);
    let mut server = pin!(server::serve(socket, sender));
    let mut host_ports = tokio::time::interval(HOST_PORTS_INTERVAL);
    host_ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Error::failed("SIGHUP", error, "see ulimit -n"))?;
    on_ready();
    loop {
        let due = control.due();
        let own = control.host().guard_socket();
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            Some(event) = events.recv() => match event {
                Event::PortGone(port) => control.port_gone(port, now()),
                // They are served below, as after everything else.
                Event::Punted => {}
                // It goes to the services.
                Event::StackPunted => {}
            },
            change = watcher.changed(own) => {
                if change.links {
                    control.follow_uplinks(now());
                    control.follow_lans(now());
                }
                if change.nft {
                    control.repair_guard();
                }
            }
            _ = host_ports.tick() => {
                control.follow_host_ports(now());
                if control.host_mut().guard_has_lost_owner() {
                    control.repair_guard();
                }
            }
            _ = hangup.recv() => setup::reload(&mut control, options),
            Some(call) = calls.recv() => {
                // A client that has gone does not need its answer.
                let _ = call.reply.send(control.apply(call.request, now()));
            }
            ended = &mut server => {
                return ended.map_err(|error| Error::failed(options.socket.display(), error, "restart vswitchd"));
            }
            // The last, or a flood of what is punted would hold up all others: each of them ends in serving, too.
            () = until(due) => {}
        }
        control.serve(now());
    }
}

/// Has as many workers read as there is work for.
async fn staff(workers: &WorkerPool) -> Infallible {
    let mut interval = tokio::time::interval(CREW_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        workers.staff(now(), cores::idle_time);
    }
}

/// Says when the host may use ports of the range for masquerading for itself.
fn warn_of_ephemeral_ports(nat_ports: &RangeInclusive<u16>) {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(RANGE).unwrap_or_default();
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ports.next(), ports.next()) else { return };
    let (nat_first, nat_last) = nat_ports.clone().into_inner();
    if first <= nat_last && nat_first <= last {
        log::warn!(
            "NAT ports {nat_first}-{nat_last} overlap the host's own ephemeral ports {first}-{last}, and the \
             host's connections from them will break (choose other --nat-ports, or change {RANGE})"
        );
    }
}

/// Takes as many descriptors as allowed: a port takes one, and a published port takes one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        log::warn!("cannot raise the limit of open files: {errno}");
    }
}
