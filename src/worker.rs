//! Workers: the threads that move frames, each to completion.
//!
//! Every worker knows every device and may write to all of them; each device is read by one worker, so
//! that the frames of a flow keep their order. A turn takes the time once, reads a burst from every port
//! that is ready, decides each frame, writes what came of it, merged where it can be, does what time asks
//! for, and sleeps until a device or a command wakes it.
//!
//! [`Worker::turn`] needs neither a thread nor a clock: a test drives a whole switch with it. The threads
//! and the only reading of the clock are in [`WorkerPool`].
//!
//! Readiness is edge-triggered: a port stays on the worker's list of ready ports until a read finds it
//! empty. A device that is gone for good (its namespace died) leaves the list at once and is reported, so
//! that it cannot spin.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::addr::PortId;
use crate::clock::Time;
use crate::coalesce::Coalescer;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::limits::{BURST_BYTES, BURST_FRAMES};
use crate::offload;
use crate::pipeline::{Outbox, Pipeline};
use crate::port::{Device, Promises, Received};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// The token of a worker's waker; ports use their numbers.
const WAKER: Token = Token(usize::MAX);

/// Longest sleep: how late what time asks for may be done when nothing else happens.
const IDLE: Duration = Duration::from_millis(100);

/// How often devices are asked what their events do not tell.
const CARE_INTERVAL: Duration = Duration::from_millis(500);

/// How long [`WorkerPool::detach`] waits for a worker.
const DETACH_WAIT: Duration = Duration::from_secs(1);

/// Monotonic time since the process first asked.
pub fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods)] // the one place that reads the clock
    let now = Instant::now();
    Time::ZERO + now.duration_since(*START.get_or_init(|| now))
}

/// What workers tell the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The port's device is gone for good.
    PortGone(PortId),
}

/// Where a worker's events go.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

enum Command {
    Attach { port: PortId, device: Arc<dyn Device>, reads: bool },
    Detach { port: PortId, done: Sender<()> },
    Inject { port: PortId, bytes: Vec<u8> },
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

struct Attached {
    device: Arc<dyn Device>,
    /// The descriptor that wakes this worker, if it reads the device and the device has one.
    watched: Option<RawFd>,
    reads: bool,
    ready: bool,
}

/// One worker: a loop's state.
pub struct Worker {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
    outbox: Outbox,
    coalescer: Coalescer,
    scratch: Frame,
    poll: Poll,
    events: Events,
    commands: Receiver<Command>,
    attached: Vec<Option<Attached>>,
    /// Ports whose device may have something to read.
    ready: Vec<PortId>,
    next_care: Time,
    on_event: OnEvent,
    load: Arc<Load>,
    stopped: bool,
}

/// The control thread's end of a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    load: Arc<Load>,
}

impl WorkerHandle {
    fn send(&self, command: Command) {
        // A worker that has stopped needs no commands.
        if self.commands.send(command).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::error!("cannot wake a worker: {error}");
        }
    }

    /// Gives the worker a device to write to, and to read from if `reads`.
    pub fn attach(&self, port: PortId, device: Arc<dyn Device>, reads: bool) {
        self.send(Command::Attach { port, device, reads });
    }
}

impl Worker {
    /// Worker number `index` of the switch, and the handle to command it.
    ///
    /// # Errors
    /// If the kernel has no more descriptors for an epoll instance.
    pub fn new(shared: Arc<Shared>, index: usize, on_event: OnEvent) -> io::Result<(Worker, WorkerHandle)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, commands) = unbounded();
        let load = Arc::new(Load::default());
        let worker = Worker {
            snapshot: shared.snapshot_full(),
            pipeline: Pipeline::new(shared.clone(), index),
            shared,
            outbox: Outbox::new(),
            coalescer: Coalescer::new(),
            scratch: Frame::new(),
            poll,
            events: Events::with_capacity(256),
            commands,
            attached: Vec::new(),
            ready: Vec::new(),
            next_care: Time::ZERO,
            on_event,
            load: load.clone(),
            stopped: false,
        };
        Ok((worker, WorkerHandle { commands: sender, waker, load }))
    }

    /// One turn of the loop. Says whether there is more to do at once.
    pub fn turn(&mut self, now: Time) -> bool {
        self.obey(now);
        if self.shared.generation() != self.snapshot.generation {
            self.snapshot = self.shared.snapshot_full();
        }
        let ready = std::mem::take(&mut self.ready);
        for &port in &ready {
            if self.read_burst(port, now) {
                self.ready.push(port);
            }
            self.flush(now);
        }
        if self.ready.is_empty() {
            // Keeps the list's memory.
            let mut ready = ready;
            ready.clear();
            self.ready = ready;
        }
        self.pipeline.poll(&self.snapshot, now, &mut self.outbox);
        self.flush(now);
        if now >= self.next_care {
            self.next_care = now + CARE_INTERVAL;
            self.care();
        }
        self.load.turns.fetch_add(1, Relaxed);
        !self.ready.is_empty()
    }

    /// Waits at most `timeout` for devices and commands.
    ///
    /// # Errors
    /// If epoll fails.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let Some(attached) = self.attached.get_mut(event.token().0).and_then(Option::as_mut) else {
                continue;
            };
            if !std::mem::replace(&mut attached.ready, true)
                && let Ok(number) = u16::try_from(event.token().0)
            {
                self.ready.push(PortId(number));
            }
        }
        Ok(())
    }

    /// Runs until it is told to stop.
    fn run(mut self) {
        while !self.stopped {
            let start = now();
            let more = self.turn(start);
            let busy = u64::try_from(now().since(start).as_micros()).unwrap_or(u64::MAX);
            self.load.busy_micros.fetch_add(busy, Relaxed);
            if let Err(error) = self.wait(if more { Duration::ZERO } else { IDLE }) {
                log::error!("a worker cannot wait for its ports: {error}");
                std::thread::sleep(IDLE);
            }
        }
    }

    fn obey(&mut self, now: Time) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { port, device, reads } => self.attach(port, device, reads),
                Command::Detach { port, done } => {
                    self.detach(port);
                    // Who asked may have given up waiting.
                    let _ = done.send(());
                }
                Command::Inject { port, bytes } => self.inject(port, &bytes, now),
                Command::Stop => self.stopped = true,
            }
        }
    }

    fn attach(&mut self, port: PortId, device: Arc<dyn Device>, reads: bool) {
        self.detach(port);
        let watched = device.fd().filter(|_| reads);
        if let Some(fd) = watched {
            let token = Token(port.index());
            if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE) {
                log::error!("cannot watch the device of port {}: {error}", port.0);
                (self.on_event)(Event::PortGone(port));
                return;
            }
        }
        if self.attached.len() <= port.index() {
            self.attached.resize_with(port.index() + 1, || None);
        }
        // What arrived before the device was watched is read now.
        self.attached[port.index()] = Some(Attached { device, watched, reads, ready: reads });
        if reads {
            self.ready.push(port);
        }
    }

    fn detach(&mut self, port: PortId) {
        let Some(attached) = self.attached.get_mut(port.index()).and_then(Option::take) else { return };
        self.ready.retain(|&ready| ready != port);
        if let Some(fd) = attached.watched
            && let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd))
        {
            log::debug!("the device of port {} is no longer watched: {error}", port.0);
        }
    }

    fn inject(&mut self, port: PortId, bytes: &[u8], now: Time) {
        self.snapshot = self.shared.snapshot_full();
        let mut frame = self.outbox.fresh();
        frame.fill(bytes, Offload::NONE);
        self.pipeline.inject(&self.snapshot, port, frame, now, &mut self.outbox);
        self.flush(now);
    }

    /// Reads and decides up to a burst from one port. Says whether there may be more to read.
    fn read_burst(&mut self, port: PortId, now: Time) -> bool {
        let Some(attached) = self.attached.get_mut(port.index()).and_then(Option::as_mut) else {
            return false;
        };
        let mut bytes = 0;
        for _ in 0..BURST_FRAMES {
            let mut frame = self.outbox.fresh();
            match attached.device.receive(&mut frame) {
                Received::Frame => {
                    bytes += frame.len();
                    self.load.frames.fetch_add(1, Relaxed);
                    self.pipeline.process(&self.snapshot, port, frame, now, &mut self.outbox);
                }
                Received::Dropped(reason) => {
                    self.pipeline.refuse(&self.snapshot, port, &frame, reason, now);
                    self.outbox.discard(frame);
                }
                Received::Skipped => self.outbox.discard(frame),
                Received::Empty => {
                    self.outbox.discard(frame);
                    // A device that cannot wake us is asked every turn.
                    attached.ready = attached.reads && attached.watched.is_none();
                    return attached.ready;
                }
                Received::Gone => {
                    self.outbox.discard(frame);
                    self.lose(port);
                    return false;
                }
            }
            if bytes >= BURST_BYTES {
                break;
            }
        }
        true
    }

    /// Writes everything that was decided, merged where it can be.
    fn flush(&mut self, now: Time) {
        let (pipeline, snapshot, scratch) = (&self.pipeline, &*self.snapshot, &mut self.scratch);
        let attached = &self.attached;
        self.coalescer.coalesce(&mut self.outbox, |port| match attached.get(port.index()) {
            Some(Some(to)) => to.device.promises(),
            _ => Promises::NONE,
        });
        self.outbox.drain(|send, frame| {
            let Some(Some(to)) = attached.get(send.port.index()) else {
                return pipeline.not_sent(snapshot, send, DropReason::PortGone, frame, now);
            };
            match offload::send(&*to.device, frame, scratch) {
                Ok(_) => pipeline.sent(snapshot, send, frame),
                Err(why) => {
                    log::trace!("port {} did not take a frame: {why:?}", send.port.0);
                    pipeline.not_sent(snapshot, send, why.into(), frame, now);
                }
            }
        });
    }

    /// Asks the devices that this worker reads for what their events do not tell.
    fn care(&mut self) {
        let mut lost = Vec::new();
        for (number, attached) in (0..).zip(&self.attached) {
            let Some(attached) = attached else { continue };
            if !attached.reads {
                continue;
            }
            let missed = attached.device.missed();
            if missed > 0 {
                self.pipeline.missed(&self.snapshot, PortId(number), missed);
            }
            if attached.device.is_gone() {
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
        f.debug_struct("Worker").field("ready", &self.ready).field("load", &self.load).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerHandle").field("load", &self.load).finish_non_exhaustive()
    }
}

/// The threads of all workers.
#[derive(Debug, Clone)]
pub struct WorkerPool {
    handles: Arc<[WorkerHandle]>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl WorkerPool {
    /// Starts a thread for each of the switch's workers.
    ///
    /// # Errors
    /// If a thread or its epoll instance cannot be made.
    pub fn start(shared: &Arc<Shared>, on_event: OnEvent) -> io::Result<WorkerPool> {
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for index in 0..shared.workers() {
            let (worker, handle) = Worker::new(shared.clone(), index, on_event.clone())?;
            handles.push(handle);
            let name = format!("worker-{index}");
            threads.push(std::thread::Builder::new().name(name).spawn(move || worker.run())?);
        }
        Ok(WorkerPool { handles: handles.into(), threads: Arc::new(Mutex::new(threads)) })
    }

    /// Makes every worker write to a port's device, and one of them read it. Of several devices, as many as
    /// workers, each worker reads and writes its own.
    pub fn attach(&self, port: PortId, devices: &[Arc<dyn Device>]) {
        for (index, handle) in self.handles.iter().enumerate() {
            let Some(device) = devices.get(index % devices.len().max(1)) else { return };
            let reads = devices.len() > 1 || index == port.index() % self.handles.len();
            handle.attach(port, device.clone(), reads);
        }
    }

    /// Makes every worker let go of a port's device. Returns when all have, or after a second.
    pub fn detach(&self, port: PortId) {
        let (done, gone) = bounded(self.handles.len());
        for handle in self.handles.iter() {
            handle.send(Command::Detach { port, done: done.clone() });
        }
        drop(done);
        for _ in self.handles.iter() {
            if gone.recv_timeout(DETACH_WAIT).is_err() {
                log::warn!("a worker is slow to let go of port {}", port.0);
                return;
            }
        }
    }

    /// Lets a frame that the switch made go its way as if the port had sent it.
    pub fn inject(&self, port: PortId, bytes: Vec<u8>) {
        if let Some(handle) = self.handles.get(port.index() % self.handles.len().max(1)) {
            handle.send(Command::Inject { port, bytes });
        }
    }

    /// What every worker has done.
    pub fn loads(&self) -> Vec<WorkerLoad> {
        let read = |handle: &WorkerHandle| WorkerLoad {
            turns: handle.load.turns.load(Relaxed),
            frames: handle.load.frames.load(Relaxed),
            busy_micros: handle.load.busy_micros.load(Relaxed),
        };
        self.handles.iter().map(read).collect()
    }

    /// Stops the threads, and returns when they have ended.
    pub fn stop(&self) {
        self.handles.iter().for_each(|handle| handle.send(Command::Stop));
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a worker ended by a panic");
            }
        }
    }
}
