//! A flood of numbered datagrams, and what of it arrived: in order, once, unchanged.
//!
//! A datagram begins with its flow (two bytes) and its number in the flow (four bytes), and all behind follows
//! from the number. Flows differ in their source port and take turns.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::traffic::{Talk, inside};
use crate::worker::now;

/// Smallest datagram: its flow and number.
pub const LENGTH_MIN: usize = 6;

/// Receive buffer of the server, in bytes; the kernel doubles it.
const BUFFER: usize = 8 << 20;

/// How long nothing has to arrive for the rest to count as lost.
const SILENCE: Duration = Duration::from_millis(300);

/// Greetings before the flood counts as one that does not arrive at all.
const GREETINGS: u32 = 10;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Flood<'a> {
    /// From where to where.
    pub talk: Talk<'a>,
    /// Flows.
    pub flows: u16,
    /// Datagrams of each flow.
    pub each: u32,
    /// Datagrams that a flow sends in a row before it is the next one's turn.
    pub in_a_row: u32,
    /// Payload lengths, at least [`LENGTH_MIN`], which each flow's datagrams take in turn.
    pub lengths: &'a [usize],
    /// Datagrams that may be under way at a time; `None` floods without looking.
    pub window: Option<u64>,
}

/// What became of a [`Flood`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams arrived.
    pub arrived: u64,
    /// Of those, behind one of their flow with a higher number.
    pub reordered: u64,
    /// Of those, arrived before.
    pub duplicated: u64,
    /// Of those, with other bytes than were sent, or fewer, or more.
    pub damaged: u64,
}

impl Delivery {
    /// Whether whatever arrived did so in order, once and unchanged.
    pub fn is_faithful(&self) -> bool {
        self.reordered == 0 && self.duplicated == 0 && self.damaged == 0
    }
}

/// Sends the flood and receives it.
///
/// # Errors
/// If sockets cannot be made or used. That something does not arrive is no error.
pub fn flood(flood: &Flood<'_>) -> io::Result<Delivery> {
    let server = inside(flood.talk.server, || UdpSocket::bind(flood.talk.at))?;
    // Beyond the limit for ordinary users only where the namespace is ours, which it is.
    setsockopt(&server, sockopt::RcvBufForce, &BUFFER)?;
    server.set_read_timeout(Some(SILENCE))?;
    let clients = inside(flood.talk.client, || {
        (0..flood.flows).map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).collect::<io::Result<Vec<_>>>()
    })?;
    for client in &clients {
        client.connect(flood.talk.to)?;
        greet(client, &server)?;
    }

    let (arrived, finished) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(flood, &server, &arrived, &finished));
        let sent = send(flood, &clients, &arrived);
        finished.store(true, Relaxed);
        let delivery = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Delivery { sent: sent?, ..delivery })
    })
}

/// Sends an empty datagram until one arrives. All on the way then know their neighbors: a kernel that has to ask
/// sends what waits for the answer beside what comes meanwhile, in any order.
fn greet(client: &UdpSocket, server: &UdpSocket) -> io::Result<()> {
    for _ in 0..GREETINGS {
        client.send(&[])?;
        if server.recv(&mut []).is_ok() {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no datagram arrives"))
}

/// Sends everything, and says how many datagrams that was.
fn send(flood: &Flood<'_>, clients: &[UdpSocket], arrived: &AtomicU64) -> io::Result<u64> {
    let mut datagram = Vec::new();
    let (mut sent, mut given_up) = (0, 0);
    let mut numbers = 0..flood.each;
    while !numbers.is_empty() {
        let end = numbers.start.saturating_add(flood.in_a_row.max(1)).min(numbers.end);
        for (flow, client) in (0..).zip(clients) {
            for number in numbers.start..end {
                fill(&mut datagram, flow, number, flood.lengths);
                client.send(&datagram)?;
                sent += 1;
                if let Some(window) = flood.window {
                    given_up = wait_for_room(sent, window, given_up, arrived);
                }
            }
        }
        numbers.start = end;
    }
    Ok(sent)
}

/// Waits until fewer than `window` datagrams are under way, not counting `given_up`; returns how many have to be
/// given up for that, because they do not arrive.
fn wait_for_room(sent: u64, window: u64, given_up: u64, arrived: &AtomicU64) -> u64 {
    let under_way = || sent.saturating_sub(arrived.load(Relaxed));
    let begun = now();
    while under_way() >= given_up + window {
        if now().since(begun) > SILENCE / 2 {
            return under_way();
        }
        thread::yield_now();
    }
    given_up
}

/// Receives until everything is there, or nothing more comes.
fn receive(
    flood: &Flood<'_>,
    server: &UdpSocket,
    arrived: &AtomicU64,
    finished: &AtomicBool,
) -> io::Result<Delivery> {
    let mut delivery = Delivery::default();
    let mut flows: Vec<Seen> = (0..flood.flows).map(|_| Seen::new(flood.each)).collect();
    let (mut datagram, mut expected) = (vec![0; 1 << 16], Vec::new());
    let all = u64::from(flood.flows) * u64::from(flood.each);
    while delivery.arrived < all {
        let len = match server.recv(&mut datagram) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && finished.load(Relaxed) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        delivery.arrived += 1;
        arrived.store(delivery.arrived, Relaxed);
        let bytes = &datagram[..len];
        let Some(&[a, b, c, d, e, f]) = bytes.first_chunk::<LENGTH_MIN>() else {
            delivery.damaged += 1;
            continue;
        };
        let (flow, number) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
        fill(&mut expected, flow, number, flood.lengths);
        match flows.get_mut(usize::from(flow)).filter(|_| number < flood.each && *bytes == *expected) {
            None => delivery.damaged += 1,
            Some(seen) => match seen.note(number) {
                Order::Next => {}
                Order::Late => delivery.reordered += 1,
                Order::Again => delivery.duplicated += 1,
            },
        }
    }
    Ok(delivery)
}

/// Makes a datagram.
fn fill(datagram: &mut Vec<u8>, flow: u16, number: u32, lengths: &[usize]) {
    let turn = usize::try_from(number).unwrap_or(0) % lengths.len();
    let fill = number.to_le_bytes()[0];
    datagram.clear();
    datagram.extend(flow.to_be_bytes());
    datagram.extend(number.to_be_bytes());
    datagram.resize(lengths[turn].max(LENGTH_MIN), fill ^ flow.to_le_bytes()[0]);
    // What lies at the same place in another datagram of the flow is different from this.
    if let Some(last) = datagram[LENGTH_MIN..].last_mut() {
        *last = !fill;
    }
}

/// Which numbers of a flow have arrived.
struct Seen {
    arrived: Vec<bool>,
    next: u32,
}

enum Order {
    Next,
    Late,
    Again,
}

impl Seen {
    fn new(count: u32) -> Seen {
        Seen { arrived: vec![false; usize::try_from(count).unwrap_or(0)], next: 0 }
    }

    fn note(&mut self, number: u32) -> Order {
        let arrived = usize::try_from(number).ok().and_then(|number| self.arrived.get_mut(number));
        if arrived.is_some_and(|arrived| std::mem::replace(arrived, true)) {
            return Order::Again;
        }
        if number < self.next {
            return Order::Late;
        }
        self.next = number + 1;
        Order::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_and_doubled_numbers_are_told_apart() {
        let mut seen = Seen::new(10);
        let orders = [0, 1, 4, 2, 4, 5].map(|number| seen.note(number));
        assert!(matches!(
            orders,
            [Order::Next, Order::Next, Order::Next, Order::Late, Order::Again, Order::Next]
        ));
    }
}
