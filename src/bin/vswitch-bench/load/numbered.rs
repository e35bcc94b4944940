//! Numbered datagrams: what is lost, doubled or overtaken on the way is noticed.
//!
//! Every datagram carries its flow and its number in it. The receiver keeps a bit for each number and the last
//! number of each flow.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};
use vswitchd::lab::interrupt::Interrupt;
use vswitchd::lab::traffic::Talk;

use super::{Stage, flood, joined};

/// Bytes in a datagram; the first twelve are the flow and the number.
const PAYLOAD: usize = 18;

/// Datagrams of one flow that follow each other.
const BURST: usize = 32;

/// Datagrams on their way at most, if nothing is to be lost: fewer than any queue on the way holds.
const WINDOW: u64 = 512;

/// After so long without anything, what is not there is lost.
const SILENCE: Duration = Duration::from_millis(300);

/// What became of the datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Without those that came again.
    pub(crate) received: u64,
    /// Came after a later one of their flow.
    pub(crate) reordered: u64,
    /// Came again.
    pub(crate) duplicated: u64,
}

/// How fast they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as they arrive.
    AsTheyArrive,
    /// As fast as they can be sent.
    Flood,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Series {
    /// Datagrams.
    pub(crate) total: u64,
    /// Flows that they are of, in turn.
    pub(crate) flows: u32,
    pub(crate) pace: Pace,
}

impl Series {
    /// Sends it, and says what became of it.
    ///
    /// # Errors
    /// If the ends have no sockets, or we are interrupted.
    pub(crate) fn run(self, talk: Talk<'_>, interrupt: &Interrupt) -> io::Result<Tally> {
        let receiver = flood::receiver(talk.server, talk.at)?;
        let senders = flood::senders(talk.client, talk.to, self.flows as usize)?;
        let stage = Stage::default();
        thread::scope(|scope| {
            let ledger = Ledger::new(self.total, self.flows);
            let receiving = scope.spawn(|| receive(&receiver, ledger, &stage));
            let sent = self.send(&senders, &stage, interrupt);
            settle(&stage);
            stage.end();
            let tally = joined(receiving)?;
            Ok(Tally { sent: sent?, ..tally })
        })
    }

    /// Sends them, and returns how many the kernel took.
    fn send(self, sockets: &[UdpSocket], stage: &Stage, interrupt: &Interrupt) -> io::Result<u64> {
        let mut headers = MultiHeaders::<()>::preallocate(BURST, None);
        let to_whom_connected = [None::<()>; BURST];
        let mut next = vec![0_u64; sockets.len()];
        let mut datagrams = [[0; PAYLOAD]; BURST];
        let mut window = SendWindow::default();
        let mut sent = 0;
        for (flow, socket) in (0_u32..).zip(sockets).cycle() {
            if sent >= self.total {
                break;
            }
            if interrupt.came() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
            }
            if self.pace == Pace::AsTheyArrive {
                window.wait(sent, stage);
            }
            let number = &mut next[flow as usize];
            for (at, datagram) in (0..).zip(&mut datagrams) {
                datagram[..4].copy_from_slice(&flow.to_be_bytes());
                datagram[4..12].copy_from_slice(&(*number + at).to_be_bytes());
            }
            let count = usize::try_from(self.total - sent).unwrap_or(BURST).min(BURST);
            let messages = datagrams.each_ref().map(|datagram| [IoSlice::new(datagram)]);
            let (messages, fd) = (&messages[..count], socket.as_raw_fd());
            match sendmmsg(fd, &mut headers, messages, to_whom_connected, [], MsgFlags::empty()) {
                Ok(taken) => {
                    let taken = taken.count() as u64;
                    *number += taken;
                    sent += taken;
                }
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(sent)
    }
}

/// Waits until nothing arrives any more.
fn settle(stage: &Stage) {
    let (mut arrived, mut since) = (stage.count.load(Ordering::Relaxed), Instant::now());
    while since.elapsed() < SILENCE {
        thread::sleep(Duration::from_millis(10));
        let now = stage.count.load(Ordering::Relaxed);
        if now != arrived {
            (arrived, since) = (now, Instant::now());
        }
    }
}

/// Keeps the number of datagrams on their way small.
#[derive(Debug, Default)]
struct SendWindow {
    /// Given up.
    lost: u64,
}

impl SendWindow {
    /// Waits until few enough of `sent` are on their way.
    fn wait(&mut self, sent: u64, stage: &Stage) {
        let mut since = (Instant::now(), 0);
        loop {
            let arrived = stage.count.load(Ordering::Relaxed);
            // What was given up may come after all.
            self.lost = self.lost.min(sent.saturating_sub(arrived));
            if sent.saturating_sub(arrived + self.lost) < WINDOW {
                return;
            }
            if arrived != since.1 {
                since = (Instant::now(), arrived);
            } else if since.0.elapsed() > SILENCE {
                self.lost = sent - arrived;
            }
            thread::yield_now();
        }
    }
}

/// Reads what arrives into the ledger until the stage is over.
fn receive(socket: &UdpSocket, mut ledger: Ledger, stage: &Stage) -> io::Result<Tally> {
    let mut datagrams = [[0; PAYLOAD]; BURST];
    let mut headers = MultiHeaders::<()>::preallocate(BURST, None);
    while !stage.over() {
        let mut places = datagrams.each_mut().map(|datagram| [IoSliceMut::new(datagram)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let count = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut places, flags, None) {
            Ok(received) => received.count(),
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        for datagram in &datagrams[..count] {
            ledger.enter(datagram);
        }
        stage.add(count as u64);
    }
    Ok(ledger.tally)
}

/// What has arrived.
#[derive(Debug)]
struct Ledger {
    flows: Vec<Flow>,
    tally: Tally,
}

#[derive(Debug, Clone)]
struct Flow {
    /// The number after the highest one seen.
    next: u64,
    seen: Vec<u64>,
}

impl Ledger {
    fn new(total: u64, flows: u32) -> Ledger {
        // Flows take turns, but a burst that the kernel did not take shifts them a little.
        let numbers = total / u64::from(flows.max(1)) * 2 + BURST as u64;
        let words = usize::try_from(numbers / 64 + 1).unwrap_or(0);
        let flow = Flow { next: 0, seen: vec![0; words] };
        Ledger { flows: vec![flow; flows as usize], tally: Tally::default() }
    }

    fn enter(&mut self, datagram: &[u8; PAYLOAD]) {
        let [a, b, c, d, rest @ ..] = datagram;
        let flow = u32::from_be_bytes([*a, *b, *c, *d]);
        let number = rest.first_chunk().map_or(u64::MAX, |number| u64::from_be_bytes(*number));
        // Somebody else's datagram.
        let Some(flow) = self.flows.get_mut(flow as usize) else { return };
        let word = usize::try_from(number / 64).ok().and_then(|word| flow.seen.get_mut(word));
        let Some(word) = word else { return };
        let bit = 1 << (number % 64);
        if *word & bit != 0 {
            self.tally.duplicated += 1;
            return;
        }
        *word |= bit;
        self.tally.received += 1;
        if number < flow.next {
            self.tally.reordered += 1;
        } else {
            flow.next = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_notices_what_went_wrong() {
        let mut ledger = Ledger::new(1000, 2);
        for (flow, number) in [(0, 0), (1, 0), (0, 2), (0, 1), (1, 1), (1, 1), (0, 3), (9, 0), (0, u64::MAX)]
        {
            let mut datagram = [0; PAYLOAD];
            datagram[..4].copy_from_slice(&u32::to_be_bytes(flow));
            datagram[4..12].copy_from_slice(&u64::to_be_bytes(number));
            ledger.enter(&datagram);
        }
        assert_eq!(ledger.tally, Tally { sent: 0, received: 6, reordered: 1, duplicated: 1 });
    }
}
