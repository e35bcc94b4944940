//! Workers: the threads that move frames, each to completion.
//!
//! Every worker knows every device and may write to all of them; each device is read by one worker, so
//! that the frames of a flow keep their order. A turn takes the time once, reads a burst from every port
//! that is ready, decides each frame, writes what came of the burst, merged where it can be, and does what
//! time asks for.
//!
//! [`Worker::turn`] needs neither a thread nor a clock: a test drives a whole switch with it. The threads
//! are in [`WorkerPool`], and the only reading of the clock is [`now`].
//!
//! **Readiness.** Epoll tells, edge-triggered, when a port becomes readable: it then joins the worker's list
//! of ports to read, and leaves it when a read has found it empty. While the worker has patience
//! ([`patience`]) an empty port stays a little longer, to be read again without being waited for; at most
//! [`LINGERING_MAX`] do, so that looking at idle ports is never what a turn spends its time on. A device that
//! is gone for good (its namespace died) is dropped at once and reported, so that it cannot spin.
//!
//! **Who reads.** As few workers as there is work for ([`crew`]).
//!
//! **Bursts** are bounded by frames and by bytes, and no frame waits for another one beyond its burst. How much
//! is asked for at once is what the port had last time ([`burst`]).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::addr::{NetworkId, PortId, Vid};
use crate::clock::Time;
use crate::coalesce::Coalescer;
use crate::frame::{Frame, Offload};
use crate::limits::BURST_FRAMES;
use crate::pipeline::{Outbox, Pipeline};
use crate::port::exchange::{Exchange, Io, Lane};
use crate::port::{Device, Promises, Received, vlan};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

mod burst;
mod crew;
mod patience;
mod pool;

use burst::Appetite;
pub use crew::CREW_INTERVAL;
pub use patience::PollMode;
use patience::{Idle, Patience};
pub use pool::{WorkerHandle, WorkerPool};

/// The token of a worker's waker; ports use their numbers.
const WAKER: Token = Token(usize::MAX);

/// Longest sleep: how late what time asks for may be done when nothing else happens.
const IDLE: Duration = Duration::from_millis(100);

/// How long a worker with work goes without asking epoll for more ports with work.
const WATCH_INTERVAL: Duration = Duration::from_micros(20);

/// Ports that are looked at although the last look found nothing.
const LINGERING_MAX: usize = 8;

/// As many bursts of a port in a row, without anything sent to it in between, are no part of a conversation any more.
/// Bulk TCP is one: it has an acknowledgment for every few super-frames.
pub const MONOLOGUE: u8 = 16;

/// How often devices are asked what their events do not tell.
const CARE_INTERVAL: Duration = Duration::from_millis(500);

/// Monotonic time since the process first asked.
pub fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods)] // the one place that reads the clock
    let now = Instant::now();
    Time::ZERO + now.duration_since(*START.get_or_init(|| now))
}

/// How workers go about their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerOptions {
    /// How they read and write.
    pub io: Io,
    /// What they do while they have nothing to do.
    pub poll: PollMode,
    /// Whether all of them read all the time, instead of as many as there is work for.
    pub all_read: bool,
}

/// What workers tell the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The port's device is gone for good.
    PortGone(PortId),
    /// Frames wait for the gateway's services ([`crate::shared::Punts`]).
    Punted,
    /// Frames wait for the gateway's own stack ([`Shared::stack_punts`]).
    StackPunted,
}

/// A frame that the switch made, to be sent by a port.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The port.
    pub port: PortId,
    /// The frame.
    pub bytes: Vec<u8>,
    /// Its promises.
    pub offload: Offload,
}

/// Where a worker's events go.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

enum Command {
    Attach {
        port: PortId,
        device: Arc<dyn Device>,
        /// The tag that its frames get, if it is a VLAN of the device.
        vid: Option<Vid>,
        reads: bool,
    },
    Detach {
        port: PortId,
        done: Sender<()>,
    },
    /// Read a port no longer, and have another worker read it.
    HandOver {
        port: PortId,
        to: WorkerHandle,
    },
    Read {
        port: PortId,
    },
    Settle {
        done: Sender<()>,
    },
    Inject {
        port: PortId,
        bytes: Vec<u8>,
    },
    Send {
        frames: Vec<Outgoing>,
    },
    Probe {
        network: NetworkId,
        ip: Ipv4Addr,
    },
    Stop,
}

/// What a worker has done.
#[derive(Debug, Default)]
struct Load {
    turns: AtomicU64,
    frames: AtomicU64,
    busy_micros: AtomicU64,
}

/// What a worker has done, as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Turns of its loop.
    pub turns: u64,
    /// Frames read.
    pub frames: u64,
    /// Time not asleep, in microseconds.
    pub busy_micros: u64,
}

/// A port's device, as the worker has it.
struct Attached {
    lane: Lane,
    /// The descriptor that can wake this worker, if it reads the device and the device has one.
    watched: Option<RawFd>,
    reads: bool,
    /// Whether it is on the list of ports to read.
    listed: bool,
    /// When it last brought something.
    last: Time,
    /// How many frames it had been sent by then.
    sent: u64,
    /// How many bursts it has brought without being sent anything in between.
    unanswered: u8,
    appetite: Appetite,
}

/// What a burst came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Burst {
    /// There may be more.
    More,
    /// The port is empty now. `true` if it brought something before it was.
    Empty(bool),
    /// There is no such port any more.
    Gone,
}

/// One worker: a loop's state.
pub struct Worker {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
    outbox: Outbox,
    coalescer: Coalescer,
    exchange: Exchange,
    /// The burst that is being read, and what the read said of each of its frames.
    burst: Vec<Frame>,
    received: Vec<Received>,
    poll: Poll,
    events: Events,
    commands: Receiver<Command>,
    attached: Vec<Option<Attached>>,
    /// Ports to read.
    list: Vec<PortId>,
    /// Whether frames of this turn belong to a conversation.
    conversed: bool,
    patience: Patience,
    next_watch: Time,
    next_care: Time,
    on_event: OnEvent,
    load: Arc<Load>,
    stopped: bool,
}

impl Worker {
    /// Worker number `index` of the switch, and the handle to command it.
    ///
    /// # Errors
    /// If the kernel has no more descriptors for an epoll instance, or no io_uring where that is asked for.
    pub fn new(
        shared: Arc<Shared>,
        index: usize,
        options: WorkerOptions,
        on_event: OnEvent,
    ) -> io::Result<(Worker, WorkerHandle)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, commands) = unbounded();
        let load = Arc::new(Load::default());
        let mut outbox = Outbox::new();
        outbox.reserve(BURST_FRAMES);
        let worker = Worker {
            snapshot: shared.snapshot_full(),
            pipeline: Pipeline::new(shared.clone(), index),
            shared,
            outbox,
            coalescer: Coalescer::new(),
            exchange: Exchange::new(options.io)?,
            burst: Vec::new(),
            received: Vec::new(),
            poll,
            events: Events::with_capacity(256),
            commands,
            attached: Vec::new(),
            list: Vec::new(),
            conversed: false,
            patience: Patience::new(options.poll),
            next_watch: Time::ZERO,
            next_care: Time::ZERO,
            on_event,
            load: load.clone(),
            stopped: false,
        };
        Ok((worker, WorkerHandle::new(sender, waker, load)))
    }

    /// One turn of the loop. Says whether there was anything to do, or may be at once.
    pub fn turn(&mut self, now: Time) -> bool {
        let mut worked = self.obey(now);
        self.conversed = false;
        if self.shared.generation() != self.snapshot.generation {
            self.snapshot = self.shared.snapshot_full();
        }
        let mut list = std::mem::take(&mut self.list);
        let mut lingering = 0;
        list.retain(|&port| {
            let burst = self.read_burst(port, now);
            self.flush(now);
            worked |= burst != Burst::Empty(false);
            self.stays(port, burst, &mut lingering, now)
        });
        // What joined meanwhile.
        list.append(&mut self.list);
        self.list = list;
        self.pipeline.poll(&self.snapshot, now, &mut self.outbox);
        self.flush(now);
        if now >= self.next_care {
            self.next_care = now + CARE_INTERVAL;
            self.care();
        }
        if self.shared.punts.wants_notice() {
            (self.on_event)(Event::Punted);
        }
        if self.shared.stack_punts.wants_notice() {
            (self.on_event)(Event::StackPunted);
        }
        self.load.turns.fetch_add(1, Relaxed);
        worked
    }

    /// Whether a port that spoke in the last turn has been sent something within its last [`MONOLOGUE`] bursts.
    pub fn conversed(&self) -> bool {
        self.conversed
    }

    /// Puts ports that became readable on the list; waits for one, or for a command, at most `timeout`.
    ///
    /// # Errors
    /// If epoll fails.
    fn watch(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let Some(attached) = self.attached.get_mut(event.token().0).and_then(Option::as_mut) else {
                continue;
            };
            if !std::mem::replace(&mut attached.listed, true)
                && let Ok(number) = u16::try_from(event.token().0)
            {
                self.list.push(PortId(number));
            }
        }
        Ok(())
    }

    /// Runs until it is told to stop.
    fn run(mut self) {
        let mut awake_since = now();
        while !self.stopped {
            let start = now();
            let mut timeout = Duration::ZERO;
            if self.turn(start) {
                self.patience.worked(start, self.conversed());
            } else if self.patience.idle(start) == Idle::Look {
                std::thread::yield_now();
            } else {
                self.unlist();
                timeout = IDLE;
            }
            if timeout.is_zero() && start < self.next_watch && !self.list.is_empty() {
                continue;
            }
            let busy = u64::try_from(start.since(awake_since).as_micros()).unwrap_or(u64::MAX);
            self.load.busy_micros.fetch_add(busy, Relaxed);
            if let Err(error) = self.watch(timeout) {
                log::error!("a worker cannot wait for its ports: {error}");
                std::thread::sleep(IDLE);
            }
            awake_since = if timeout.is_zero() { start } else { now() };
            self.next_watch = awake_since + WATCH_INTERVAL;
        }
    }

    /// Does what control has asked for. Says whether that was anything.
    fn obey(&mut self, now: Time) -> bool {
        let mut obeyed = false;
        while let Ok(command) = self.commands.try_recv() {
            obeyed = true;
            match command {
                Command::Attach { port, device, vid, reads } => self.attach(port, device, vid, reads, now),
                Command::Detach { port, done } => {
                    self.detach(port);
                    // Who asked may have given up waiting.
                    let _ = done.send(());
                }
                Command::HandOver { port, to } => self.hand_over(port, &to),
                Command::Read { port } => self.read(port, now),
                // The snapshot is looked at next.
                Command::Settle { done } => done.send(()).unwrap_or_default(),
                Command::Inject { port, bytes } => self.inject(port, &bytes, now),
                Command::Send { frames } => self.send(&frames, now),
                Command::Probe { network, ip } => {
                    self.snapshot = self.shared.snapshot_full();
                    self.pipeline.probe(&self.snapshot, network, ip, now, &mut self.outbox);
                    self.flush(now);
                }
                Command::Stop => self.stopped = true,
            }
        }
        obeyed
    }

    fn attach(&mut self, port: PortId, device: Arc<dyn Device>, vid: Option<Vid>, reads: bool, now: Time) {
        self.detach(port);
        if self.attached.len() <= port.index() {
            self.attached.resize_with(port.index() + 1, || None);
        }
        let (lane, appetite) = (self.exchange.open(device, vid), Appetite::default());
        self.attached[port.index()] = Some(Attached {
            lane,
            watched: None,
            reads: false,
            listed: false,
            last: now,
            sent: 0,
            unanswered: 0,
            appetite,
        });
        if reads {
            self.read(port, now);
        }
    }

    fn detach(&mut self, port: PortId) {
        self.stop_reading(port);
        if let Some(attached) = self.attached.get_mut(port.index()) {
            *attached = None;
        }
    }

    /// Begins to read a port, if it is still there.
    fn read(&mut self, port: PortId, now: Time) {
        let Some(attached) = self.attached.get_mut(port.index()).and_then(Option::as_mut) else { return };
        let fd = attached.lane.device().fd();
        if let Some(fd) = fd {
            let token = Token(port.index());
            if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE) {
                log::error!("cannot watch the device of port {}: {error}", port.0);
                (self.on_event)(Event::PortGone(port));
                return;
            }
        }
        // What arrived before the device was watched is read now.
        (attached.watched, attached.reads, attached.listed, attached.last) = (fd, true, true, now);
        self.list.push(port);
    }

    /// Ends to read a port. What has arrived waits in the device for the next reader.
    fn stop_reading(&mut self, port: PortId) {
        let Some(attached) = self.attached.get_mut(port.index()).and_then(Option::as_mut) else { return };
        (attached.reads, attached.listed) = (false, false);
        if let Some(fd) = attached.watched.take()
            && let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd))
        {
            log::debug!("the device of port {} is no longer watched: {error}", port.0);
        }
        self.list.retain(|&listed| listed != port);
    }

    /// Leaves the reading of a port to another worker. This is between two bursts: all that this one has read is
    /// written before the other one reads.
    fn hand_over(&mut self, port: PortId, to: &WorkerHandle) {
        let reads = self.attached.get(port.index()).and_then(Option::as_ref).is_some_and(|there| there.reads);
        // A port that has gone meanwhile is nobody's to read.
        if reads {
            self.stop_reading(port);
            to.read(port);
        }
    }

    fn inject(&mut self, port: PortId, bytes: &[u8], now: Time) {
        self.snapshot = self.shared.snapshot_full();
        let mut frame = self.outbox.fresh();
        frame.fill(bytes, Offload::NONE);
        self.pipeline.inject(&self.snapshot, port, frame, now, &mut self.outbox);
        self.flush(now);
    }

    fn send(&mut self, frames: &[Outgoing], now: Time) {
        self.snapshot = self.shared.snapshot_full();
        for burst in frames.chunks(BURST_FRAMES) {
            for Outgoing { port, bytes, offload } in burst {
                let mut frame = self.outbox.fresh();
                frame.fill(bytes, *offload);
                self.pipeline.originate(&self.snapshot, *port, frame, now, &mut self.outbox);
            }
            self.flush(now);
        }
    }

    /// Reads and decides a burst from one port.
    fn read_burst(&mut self, port: PortId, now: Time) -> Burst {
        let Some(attached) = self.attached.get_mut(port.index()).and_then(Option::as_mut) else {
            return Burst::Gone;
        };
        let (lane, appetite) = (&attached.lane, &mut attached.appetite);
        let (burst, received) = (&mut self.burst, &mut self.received);
        burst.push(self.outbox.fresh());
        self.exchange.receive(lane, burst, received);
        if received.last() == Some(&Received::Frame) {
            let more = appetite.more(burst[0].len());
            burst.extend((0..more).map(|_| self.outbox.fresh()));
            self.exchange.receive(lane, &mut burst[1..], received);
        }
        let end = received.last().copied();
        let vlans = self.snapshot.port(port).map(|port| &port.vlans).filter(|vlans| !vlans.is_empty());
        let (mut frames, mut speaker) = (0, port);
        for (mut frame, received) in burst.drain(..).zip(received.drain(..)) {
            match received {
                Received::Frame => {
                    frames += 1;
                    let ingress = vlans.map_or(Ok(port), |vlans| vlan::untag(vlans, port, &mut frame));
                    match ingress {
                        Ok(port) => {
                            speaker = port;
                            self.pipeline.process(&self.snapshot, port, frame, now, &mut self.outbox);
                        }
                        Err(reason) => {
                            self.pipeline.refuse(&self.snapshot, port, &frame, reason, now);
                            self.outbox.discard(frame);
                        }
                    }
                }
                Received::Dropped(reason) => {
                    self.pipeline.refuse(&self.snapshot, port, &frame, reason, now);
                    self.outbox.discard(frame);
                }
                Received::Skipped | Received::Empty | Received::Gone => self.outbox.discard(frame),
            }
        }
        appetite.became(frames, self.outbox.sends());
        if frames > 0 {
            attached.last = now;
            self.load.frames.fetch_add(frames as u64, Relaxed);
        }
        let outcome = match end {
            Some(Received::Gone) => {
                self.lose(port);
                Burst::Gone
            }
            Some(Received::Empty) => {
                appetite.emptied(frames);
                Burst::Empty(frames > 0)
            }
            _ => {
                appetite.filled();
                Burst::More
            }
        };
        if frames > 0 {
            self.hear(speaker);
        }
        outcome
    }

    /// Takes note that a port, or a VLAN of one, has spoken.
    fn hear(&mut self, port: PortId) {
        let Some(attached) = self.attached.get_mut(port.index()).and_then(Option::as_mut) else { return };
        let sent = self.snapshot.port(port).map_or(0, |port| port.counters.transmitted());
        let is_answer = std::mem::replace(&mut attached.sent, sent) != sent;
        attached.unanswered = if is_answer { 0 } else { attached.unanswered.saturating_add(1) };
        self.conversed |= attached.unanswered < MONOLOGUE;
    }

    /// Whether a port stays on the list after a burst. `lingering` counts those that do although they are empty.
    fn stays(&mut self, port: PortId, burst: Burst, lingering: &mut usize, now: Time) -> bool {
        let Some(attached) = self.attached.get_mut(port.index()).and_then(Option::as_mut) else {
            return false;
        };
        let lingers = now.since(attached.last) < self.patience.lingers() && *lingering < LINGERING_MAX;
        // A device that cannot wake us is asked every turn.
        attached.listed = burst == Burst::More || attached.watched.is_none() || lingers;
        *lingering += usize::from(burst != Burst::More && lingers);
        attached.listed
    }

    /// Takes the ports off the list whose devices can wake us.
    fn unlist(&mut self) {
        let attached = &mut self.attached;
        self.list.retain(|port| {
            let Some(Some(attached)) = attached.get_mut(port.index()) else { return false };
            attached.listed = attached.watched.is_none();
            attached.listed
        });
    }

    /// Writes everything that was decided, merged where it can be.
    fn flush(&mut self, now: Time) {
        if self.outbox.is_empty() {
            return;
        }
        let (pipeline, snapshot, attached) = (&self.pipeline, &*self.snapshot, &self.attached);
        let lane = |port: PortId| Some(&attached.get(port.index())?.as_ref()?.lane);
        self.coalescer
            .coalesce(&mut self.outbox, |port| lane(port).map_or(Promises::NONE, |lane| lane.promises()));
        let (frames, sends) = self.outbox.contents();
        let to = sends.iter().map(|send| (send.frame, lane(send.port)));
        self.exchange.transmit(frames, to, |number, frame, outcome| match outcome {
            Ok(()) => pipeline.sent(snapshot, sends[number], frame),
            Err(why) => {
                log::trace!("port {} did not take a frame: {why:?}", sends[number].port.0);
                pipeline.not_sent(snapshot, sends[number], why.into(), frame, now);
            }
        });
        self.outbox.clear();
    }

    /// Asks the devices that this worker reads for what their events do not tell.
    fn care(&mut self) {
        let mut lost = Vec::new();
        for (number, attached) in (0..).zip(&self.attached) {
            let Some(attached) = attached else { continue };
            if !attached.reads {
                continue;
            }
            let device = attached.lane.device();
            let missed = device.missed();
            if missed > 0 {
                self.pipeline.missed(&self.snapshot, PortId(number), missed);
            }
            if device.is_gone() {
                lost.push(PortId(number));
            }
        }
        lost.into_iter().for_each(|port| self.lose(port));
    }

    fn lose(&mut self, port: PortId) {
        self.detach(port);
        (self.on_event)(Event::PortGone(port));
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("list", &self.list).field("load", &self.load).finish_non_exhaustive()
    }
}
