//! The gateway's services on a switch: what they take of what is punted, and whom they answer.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, yield_now};
use vswitchd::limits::{PUNT_QUEUE_PER_PORT, PUNTS_PER_TURN};
use vswitchd::service::gateway::Gateway;
use vswitchd::worker::Outgoing;

use crate::*;

const DNS: Endpoint = Endpoint::new(Ipv4Addr::new(172, 30, 0, 1), 53);

/// The services, which have a turn when they are told to.
struct Services {
    gateway: Rc<Gateway>,
    runtime: Runtime,
    tasks: LocalSet,
    sent: Rc<RefCell<Vec<Outgoing>>>,
}

impl Services {
    fn of(switch: &Switch) -> Services {
        let sent = Rc::<RefCell<Vec<Outgoing>>>::default();
        let sends = sent.clone();
        let send = Box::new(move |frames| sends.borrow_mut().extend(frames));
        let gateway = Gateway::new(switch.shared.clone(), "/nonexistent/resolv.conf".into(), send);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Services { gateway, runtime, tasks: LocalSet::new(), sent }
    }

    /// Has one turn, and then the tasks have theirs. Returns what was sent.
    fn turn(&self) -> Vec<Outgoing> {
        self.tasks.block_on(&self.runtime, async {
            self.gateway.turn();
            yield_now().await;
        });
        self.sent.take()
    }
}

/// A query for an address, by everybody's number 7.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.bytes());
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn ask(from: &Station) -> Vec<u8> {
    packet::udp(via(from), from.at(1000), DNS, &query("p1"))
}

/// How many of these frames are for a station.
fn count(sent: &[Outgoing], to: &Station) -> usize {
    sent.iter().filter(|frame| frame.port == to.id && frame.bytes[..6] == to.mac.0).count()
}

#[test]
fn a_flood_of_questions_is_taken_in_turns_and_holds_up_no_other_port() {
    let (mut switch, c) = lan(2);
    let services = Services::of(&switch);
    for _ in 0..300 {
        switch.send(&c[0], &ask(&c[0]));
    }
    switch.send(&c[1], &ask(&c[1]));
    assert_eq!(switch.drops(DropReason::ServiceQueueFull), 300 - PUNT_QUEUE_PER_PORT as u64);
    let first = services.turn();
    assert_eq!((first.len(), count(&first, &c[1])), (PUNTS_PER_TURN, 1), "it has its turn at once");
    let rest: Vec<_> = (0..PUNT_QUEUE_PER_PORT / PUNTS_PER_TURN).flat_map(|_| services.turn()).collect();
    assert_eq!(count(&first, &c[0]) + count(&rest, &c[0]), PUNT_QUEUE_PER_PORT);
    assert!(switch.shared.stack_punts.is_empty() && services.turn().is_empty());
    settle(&switch);
}

#[test]
fn a_super_frame_counts_for_as_many_as_it_carries() {
    let (mut switch, c) = lan(1);
    let services = Services::of(&switch);
    let one = query("p1");
    let ask = |switch: &mut Switch, count: usize| {
        let frame = packet::udp(via(&c[0]), c[0].at(1000), DNS, &one.repeat(count));
        let segment = Segment::Udp { size: u16::try_from(one.len()).unwrap() };
        let checksum = Checksum::Partial { start: 34, offset: 6 };
        switch.send_promising(&c[0], &frame, Offload { checksum, segment, header_len: 42 });
    };
    ask(&mut switch, PUNT_QUEUE_PER_PORT);
    ask(&mut switch, 1);
    assert_eq!(switch.drops(DropReason::ServiceQueueFull), 1);
    assert_eq!(count(&services.turn(), &c[0]), PUNT_QUEUE_PER_PORT);
    ask(&mut switch, 3);
    assert_eq!(count(&services.turn(), &c[0]), 3);
    settle(&switch);
}

#[test]
fn nothing_is_sent_to_a_port_that_is_on_another_network_by_then() {
    let (mut switch, c) = lan(1);
    let services = Services::of(&switch);
    let other = switch.add_network("10.9.0.0/16".parse().unwrap(), NetworkMode::Nat);
    switch.send(&c[0], &ask(&c[0]));
    switch.change_port(&c[0], |port| port.network = Some(other));
    assert!(services.turn().is_empty());
    settle(&switch);
}

/// Sequence number and flags of a segment.
fn segment(frame: &[u8]) -> (u32, u8) {
    let ip = Ipv4::parse(&frame[14..]).unwrap();
    let transport = Transport::parse(ip.protocol, &frame[14 + ip.header_len..14 + ip.total_len]).unwrap();
    let segment = transport.segment().unwrap();
    (segment.seq, segment.flags)
}

#[test]
fn a_connection_of_the_gateway_keeps_its_peer() {
    let (mut switch, c) = lan(2);
    let services = Services::of(&switch);
    let tcp = |from: &Station, seq, ack, flags, payload: &[u8]| {
        packet::tcp(via(from), c[0].at(1000), DNS, Tcp { seq, ack, flags }, payload)
    };
    switch.send(&c[0], &tcp(&c[0], 100, 0, SYN, &[]));
    let opened = services.turn();
    assert_eq!((opened.len(), count(&opened, &c[0])), (1, 1));
    let (theirs, flags) = segment(&opened[0].bytes);
    assert_eq!(flags, SYN | ACK);
    switch.send(&c[0], &tcp(&c[0], 101, theirs + 1, ACK, &[]));
    services.turn();
    // Another station says that it is the other end, and then that the connection is over.
    switch.send(&c[1], &tcp(&c[1], 101, theirs + 1, ACK, b"\0\x01x"));
    switch.send(&c[1], &tcp(&c[1], 101, theirs + 1, RST, &[]));
    assert!(services.turn().is_empty());
    let query = query("p1");
    let message = [&u16::try_from(query.len()).unwrap().to_be_bytes(), &query[..]].concat();
    switch.send(&c[0], &tcp(&c[0], 101, theirs + 1, ACK, &message));
    let answered: Vec<_> = (0..4).flat_map(|_| services.turn()).collect();
    assert_eq!(count(&answered, &c[0]), answered.len());
    assert!(answered.iter().any(|frame| frame.bytes.len() > 54 + query.len()), "{answered:02x?}");
    // What is of no connection is refused where it came from.
    switch.send(&c[1], &packet::tcp(via(&c[1]), c[1].at(9), DNS, Tcp { seq: 1, ack: 1, flags: ACK }, &[]));
    let refused = services.turn();
    assert_eq!((count(&refused, &c[1]), segment(&refused[0].bytes).1 & RST), (1, RST));
    settle(&switch);
}
