//! The threads of all workers, and the control thread's way to them.
//!
//! Control never waits for a worker but in [`WorkerPool::detach`], [`WorkerPool::settle`] and [`WorkerPool::stop`]: everything else is
//! a command in a queue, and a nudge for a worker that may sleep.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use mio::Waker;

use super::crew::Crew;
use super::{Command, Load, OnEvent, Outgoing, Worker, WorkerLoad, WorkerOptions};
use crate::addr::{NetworkId, PortId, Vid};
use crate::clock::Time;
use crate::frame::Offload;
use crate::port::Device;
use crate::shared::Shared;

/// How long a worker is waited for.
const DONE_WAIT: Duration = Duration::from_secs(1);

/// The control thread's end of a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    load: Arc<Load>,
}

impl WorkerHandle {
    pub(super) fn new(commands: Sender<Command>, waker: Arc<Waker>, load: Arc<Load>) -> Self {
        WorkerHandle { commands, waker, load }
    }

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
        self.send(Command::Attach { port, device, vid: None, reads });
    }

    /// Gives the worker the device of a trunk for one of its VLANs.
    pub fn attach_vlan(&self, port: PortId, trunk: Arc<dyn Device>, vid: Vid) {
        self.send(Command::Attach { port, device: trunk, vid: Some(vid), reads: false });
    }

    /// Has the worker read a port that it writes to.
    pub(super) fn read(&self, port: PortId) {
        self.send(Command::Read { port });
    }

    /// Has the worker send a finished frame out by a port.
    pub fn send_frame(&self, port: PortId, bytes: Vec<u8>) {
        self.send_frames(vec![Outgoing { port, bytes, offload: Offload::NONE }]);
    }

    /// Has the worker send frames.
    pub fn send_frames(&self, frames: Vec<Outgoing>) {
        self.send(Command::Send { frames });
    }

    /// Lets the worker ask everybody on a network who has `ip`.
    pub fn probe(&self, network: NetworkId, ip: Ipv4Addr) {
        self.send(Command::Probe { network, ip });
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
    options: WorkerOptions,
    handles: Arc<[WorkerHandle]>,
    crew: Arc<Mutex<Crew>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl WorkerPool {
    /// Starts a thread for each of the switch's workers. Those that read are all of them if the options say so,
    /// and else one, until [`WorkerPool::staff`] finds that more are needed.
    ///
    /// # Errors
    /// If a thread or its epoll instance cannot be made.
    pub fn start(shared: &Arc<Shared>, options: WorkerOptions, on_event: OnEvent) -> io::Result<WorkerPool> {
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for index in 0..shared.workers() {
            let (worker, handle) = Worker::new(shared.clone(), index, options, on_event.clone())?;
            handles.push(handle);
            let name = format!("worker-{index}");
            threads.push(std::thread::Builder::new().name(name).spawn(move || worker.run())?);
        }
        let readers = if options.all_read { handles.len() } else { 1 };
        let crew = Arc::new(Mutex::new(Crew::new(handles.len(), readers)));
        Ok(WorkerPool { options, handles: handles.into(), crew, threads: Arc::new(Mutex::new(threads)) })
    }

    /// How the workers go about their work.
    pub fn options(&self) -> WorkerOptions {
        self.options
    }

    /// Makes every worker write to a port's device, and one of them read it. Of several devices, as many as
    /// workers, each worker reads and writes its own.
    pub fn attach(&self, port: PortId, devices: &[Arc<dyn Device>]) {
        let mut crew = self.crew();
        crew.attach(port, devices);
        for (index, handle) in self.handles.iter().enumerate() {
            let Some(device) = devices.get(index % devices.len().max(1)) else { return };
            let reads = devices.len() > 1 || index == crew.reader(port);
            handle.attach(port, device.clone(), reads);
        }
    }

    /// Makes every worker write to the device of a trunk for one of its VLANs. Who reads it is who reads the trunk.
    pub fn attach_vlan(&self, port: PortId, trunk: &Arc<dyn Device>, vid: Vid) {
        self.handles.iter().for_each(|handle| handle.attach_vlan(port, trunk.clone(), vid));
    }

    /// Makes every worker let go of a port's device. Returns when all have, or after a second.
    pub fn detach(&self, port: PortId) {
        self.crew().detach(port);
        if !self.wait_for(|done| Command::Detach { port, done }) {
            log::warn!("a worker is slow to let go of port {}", port.0);
        }
    }

    /// Returns when every worker has ended its turn, and uses the snapshot that is published now; or after a second.
    pub fn settle(&self) {
        if !self.wait_for(|done| Command::Settle { done }) {
            log::warn!("a worker is slow to follow a change");
        }
    }

    /// Gives every worker a command, and says whether all have done it in time.
    fn wait_for(&self, command: impl Fn(Sender<()>) -> Command) -> bool {
        let (done, answers) = bounded(self.handles.len());
        self.handles.iter().for_each(|handle| handle.send(command(done.clone())));
        drop(done);
        self.handles.iter().all(|_| answers.recv_timeout(DONE_WAIT).is_ok())
    }

    /// Lets a frame that the switch made go its way as if the port had sent it.
    pub fn inject(&self, port: PortId, bytes: Vec<u8>) {
        self.reader(port).send(Command::Inject { port, bytes });
    }

    /// Sends a frame that the switch made out by a port. Those to one port keep their order.
    pub fn send(&self, port: PortId, bytes: Vec<u8>) {
        self.reader(port).send_frame(port, bytes);
    }

    /// Sends frames that the switch made, as [`WorkerPool::send`] each, and those by one worker together.
    pub fn send_all(&self, frames: Vec<Outgoing>) {
        let mut shares: Vec<Vec<Outgoing>> = self.handles.iter().map(|_| Vec::new()).collect();
        let crew = self.crew();
        for frame in frames {
            shares[crew.reader(frame.port)].push(frame);
        }
        for (handle, share) in self.handles.iter().zip(shares) {
            if !share.is_empty() {
                handle.send_frames(share);
            }
        }
    }

    /// Asks everybody on a network who has `ip`. The answer will be in the network's neighbor table.
    pub fn probe(&self, network: NetworkId, ip: Ipv4Addr) {
        if let Some(handle) = self.handles.first() {
            handle.probe(network, ip);
        }
    }

    /// Decides how many workers read, which is worth asking every [`super::CREW_INTERVAL`]. `idle` says for how
    /// long the machine's cores have been idle, all together.
    pub fn staff(&self, now: Time, idle: impl FnOnce() -> Option<Duration>) {
        if self.options.all_read || self.handles.len() == 1 {
            return;
        }
        let busy = self.loads().iter().map(|load| Duration::from_micros(load.busy_micros)).collect();
        let mut crew = self.crew();
        let readers = crew.decide(now, busy, idle);
        if readers != crew.readers() {
            self.hand_over(&mut crew, readers);
        }
    }

    /// Has so many workers read from now on, but at least one and at most all.
    pub fn set_readers(&self, readers: usize) {
        self.hand_over(&mut self.crew(), readers);
    }

    fn hand_over(&self, crew: &mut Crew, readers: usize) {
        log::debug!("{readers} of {} workers read", self.handles.len());
        crew.set_readers(readers, |port, from, to| {
            self.handles[from].send(Command::HandOver { port, to: self.handles[to].clone() });
        });
    }

    /// The worker that reads a port of one device.
    fn reader(&self, port: PortId) -> &WorkerHandle {
        &self.handles[self.crew().reader(port)]
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
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
