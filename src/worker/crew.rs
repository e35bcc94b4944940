//! Who reads which port, and how many workers read at all.
//!
//! A second worker that reads costs before it helps: a conversation's two directions then cross between two
//! threads, each of them is woken, and on a small machine they take the cores from the endpoints. So as few
//! workers read as there is work for. One begins; another one joins when a reader has had no pause for a while
//! and a core is idle that could do its work, and leaves when the others could do it with half of their time.
//!
//! | every [`CREW_INTERVAL`] | so |
//! |---|---|
//! | the busiest reader was busy for [`BUSY`] of it, and so it was the time before, and a core was idle | one more reads |
//! | all readers' work was less than [`SPARE`] of what one fewer can do, [`CALM`] times in a row | one fewer reads |
//!
//! Readers are the first ones of all workers. A port that one worker reads goes to reader *port modulo
//! readers*, and is handed over by the old one itself, between two bursts: the frames of a flow keep their
//! order. An interface that brings each worker a socket of its own ([`Device::deal`]) stops dealing to those who
//! do not read; they still read what they were dealt before.
//!
//! Every worker writes to every port, whoever reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::addr::PortId;
use crate::clock::Time;
use crate::port::Device;

/// How often it is decided how many workers read.
pub const CREW_INTERVAL: Duration = Duration::from_millis(250);

/// The share of its time from which on a reader counts as busy.
const BUSY: f64 = 0.9;

/// The share of the time of one fewer below which one is not needed.
const SPARE: f64 = 0.5;

/// How often in a row: five seconds.
const CALM: u32 = 20;

/// Who reads which port.
#[derive(Debug)]
pub(super) struct Crew {
    workers: usize,
    readers: usize,
    ports: BTreeMap<PortId, Source>,
    /// When it was decided last, and what each worker had been busy for by then.
    last: Option<(Time, Vec<Duration>)>,
    /// For how long the machine's cores had been idle when the busiest reader began to be busy.
    idle: Option<Duration>,
    calm: u32,
}

/// Where a port's frames come from.
#[derive(Debug)]
pub(super) enum Source {
    /// One device, which one worker reads.
    One,
    /// A device for each worker. Gone with the port.
    Each(Weak<dyn Device>),
}

impl Crew {
    /// A crew of `workers`, of which `readers` read.
    pub(super) fn new(workers: usize, readers: usize) -> Self {
        let (ports, workers) = (BTreeMap::new(), workers.max(1));
        Crew { workers, readers: readers.clamp(1, workers), ports, last: None, idle: None, calm: 0 }
    }

    /// How many workers read.
    pub(super) fn readers(&self) -> usize {
        self.readers
    }

    /// The worker that reads a port of one device, and sends what the switch itself has for it.
    pub(super) fn reader(&self, port: PortId) -> usize {
        port.index() % self.readers
    }

    /// Takes note of a port.
    pub(super) fn attach(&mut self, port: PortId, devices: &[Arc<dyn Device>]) {
        let source = match devices {
            [first, _, ..] => {
                first.deal(self.readers);
                Source::Each(Arc::downgrade(first))
            }
            _ => Source::One,
        };
        self.ports.insert(port, source);
    }

    /// Forgets a port.
    pub(super) fn detach(&mut self, port: PortId) {
        self.ports.remove(&port);
    }

    /// Has so many workers read, and calls `hand_over` with each port that another one is to read: port, from, to.
    pub(super) fn set_readers(&mut self, readers: usize, mut hand_over: impl FnMut(PortId, usize, usize)) {
        let before = std::mem::replace(&mut self.readers, readers.clamp(1, self.workers));
        for (&port, source) in &self.ports {
            let (from, to) = (port.index() % before, port.index() % self.readers);
            match source {
                Source::One if from != to => hand_over(port, from, to),
                Source::One => {}
                Source::Each(device) => {
                    if let Some(device) = device.upgrade() {
                        device.deal(self.readers);
                    }
                }
            }
        }
    }

    /// How many workers should read from now on. `busy` is what each worker has been busy for since it began,
    /// and `idle` asks for how long the machine's cores have been idle, all together; it is asked only when it
    /// matters.
    pub(super) fn decide(
        &mut self,
        now: Time,
        busy: Vec<Duration>,
        idle: impl FnOnce() -> Option<Duration>,
    ) -> usize {
        let Some((then, before)) = self.last.replace((now, busy.clone())) else { return self.readers };
        let span = now.since(then).as_secs_f64();
        if span <= 0.0 {
            return self.readers;
        }
        let shares =
            busy.iter().zip(&before).map(|(now, then)| now.saturating_sub(*then).as_secs_f64() / span);
        let shares: Vec<f64> = shares.collect();
        #[allow(clippy::cast_precision_loss)] // a number of cores
        let (others, all) = ((self.readers - 1) as f64, shares.iter().sum::<f64>());
        self.calm = if all < SPARE * others { self.calm + 1 } else { 0 };
        if self.calm >= CALM {
            self.calm = 0;
            return self.readers - 1;
        }
        let is_busy = shares.iter().take(self.readers).any(|&share| share >= BUSY);
        if !is_busy || self.readers == self.workers {
            self.idle = None;
            return self.readers;
        }
        let Some(idle) = idle() else { return self.readers };
        let grown = self.idle.replace(idle).map(|before| idle.saturating_sub(before).as_secs_f64());
        self.readers + usize::from(grown.is_some_and(|grown| grown >= span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Promises;
    use crate::port::memory::MemoryPort;

    /// A machine whose cores and workers do as they are told, a tick at a time.
    struct Bench {
        crew: Crew,
        now: Time,
        busy: Vec<Duration>,
        idle: Duration,
    }

    impl Bench {
        fn new(workers: usize) -> Self {
            let now = Time::ZERO;
            Bench {
                crew: Crew::new(workers, 1),
                now,
                busy: vec![Duration::ZERO; workers],
                idle: Duration::ZERO,
            }
        }

        /// Lets each worker be busy for this share of `ticks` intervals, and so many cores be idle.
        fn ticks(&mut self, ticks: u32, shares: &[f64], idle: f64) -> usize {
            for _ in 0..ticks {
                self.now += CREW_INTERVAL;
                for (busy, share) in self.busy.iter_mut().zip(shares) {
                    *busy += CREW_INTERVAL.mul_f64(*share);
                }
                self.idle += CREW_INTERVAL.mul_f64(idle);
                let readers = self.crew.decide(self.now, self.busy.clone(), || Some(self.idle));
                self.crew.set_readers(readers, |_, _, _| {});
            }
            self.crew.readers()
        }
    }

    #[test]
    fn another_one_reads_when_one_cannot_keep_up_and_a_core_is_idle() {
        let mut bench = Bench::new(4);
        assert_eq!(bench.ticks(10, &[0.8], 3.0), 1, "one has time left");
        assert_eq!(bench.ticks(10, &[1.0], 0.5), 1, "the endpoints need the cores");
        assert_eq!(bench.ticks(1, &[1.0], 2.0), 2, "it has been busy for a while");
        assert_eq!(bench.ticks(1, &[1.0, 0.3], 1.0), 3);
        assert_eq!(bench.ticks(50, &[1.0, 1.0, 1.0, 1.0], 1.5), 4, "and not more than there are");
    }

    #[test]
    fn a_moment_of_work_changes_nothing() {
        let mut bench = Bench::new(2);
        for _ in 0..10 {
            assert_eq!(bench.ticks(1, &[1.0], 1.0), 1);
            assert_eq!(bench.ticks(1, &[0.1], 2.0), 1);
        }
    }

    #[test]
    fn one_fewer_reads_only_after_a_long_calm() {
        let mut bench = Bench::new(2);
        assert_eq!(bench.ticks(3, &[1.0, 0.0], 1.0), 2);
        assert_eq!(bench.ticks(100, &[0.3, 0.3], 1.0), 2, "one would be busy for more than half of its time");
        assert_eq!(bench.ticks(CALM - 1, &[0.2, 0.2], 1.0), 2);
        assert_eq!(bench.ticks(1, &[0.3, 0.3], 1.0), 2, "which begins the calm anew");
        assert_eq!(bench.ticks(CALM - 1, &[0.2, 0.2], 1.0), 2);
        assert_eq!(bench.ticks(1, &[0.2, 0.2], 1.0), 1);
        assert_eq!(bench.ticks(100, &[0.0, 0.0], 2.0), 1, "one always reads");
    }

    #[test]
    fn ports_go_to_their_new_readers_and_no_other_moves() {
        let mut crew = Crew::new(3, 1);
        let device: Arc<dyn Device> = Arc::new(MemoryPort::new(Promises::NONE));
        for port in 1..=6 {
            crew.attach(PortId(port), std::slice::from_ref(&device));
        }
        crew.detach(PortId(5));
        crew.attach(PortId(0), &[device.clone(), device.clone(), device]);
        let mut moves = Vec::new();
        crew.set_readers(2, |port, from, to| moves.push((port.0, from, to)));
        assert_eq!(moves, [(1, 0, 1), (3, 0, 1)]);
        moves.clear();
        crew.set_readers(9, |port, from, to| moves.push((port.0, from, to)));
        assert_eq!(crew.readers(), 3);
        assert_eq!(
            moves,
            [(2, 0, 2), (3, 1, 0), (4, 0, 1), (6, 0, 0)]
                .into_iter()
                .filter(|(_, a, b)| a != b)
                .collect::<Vec<_>>()
        );
    }
}
