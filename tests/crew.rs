//! Workers with devices in memory: ports that change their readers while frames flow, between real threads, and what
//! counts as a conversation.
#![allow(clippy::disallowed_methods, reason = "the workers are threads, in real time")]
#![allow(clippy::unwrap_used)] // a test that panics says so

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vswitchd::addr::{NetworkId, Vid};
use vswitchd::clock::Time;
use vswitchd::frame::Offload;
use vswitchd::port::exchange::Io;
use vswitchd::port::memory::MemoryPort;
use vswitchd::port::{Device, Promises};
use vswitchd::sim::packet::{self, Macs};
use vswitchd::sim::{Station, Switch};
use vswitchd::snapshot::NetworkMode;
use vswitchd::wire::ethernet;
use vswitchd::worker::{MONOLOGUE, PollMode, Worker, WorkerOptions, WorkerPool};

/// Frames of the flow.
const FRAMES: u32 = 50_000;

/// Frames that wait in a device at most.
const WAITING: usize = 500;

fn station(switch: &mut Switch) -> Station {
    let station = switch.add_port_with(NetworkId(0), Arc::new(MemoryPort::new(Promises::NONE)));
    switch.resolve(&station);
    station
}

#[test]
fn a_flow_keeps_its_order_while_its_port_changes_readers() {
    let mut switch = Switch::for_workers(3, 1000);
    switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let (a, b) = (station(&mut switch), station(&mut switch));
    let options = WorkerOptions { io: Io::Syscall, poll: PollMode::Sleep, all_read: false };
    let pool = WorkerPool::start(&switch.shared, options, Arc::new(|_| ())).unwrap();
    for station in [&a, &b] {
        let device: Arc<dyn Device> = station.device.clone();
        pool.attach(station.id, &[device]);
    }

    let sender = thread::spawn({
        let (a, b) = (a.clone(), b.clone());
        move || {
            for number in 0..FRAMES {
                while a.device.waiting() >= WAITING {
                    thread::yield_now();
                }
                let macs = Macs { src: a.mac, dst: b.mac };
                let frame = packet::udp(macs, a.at(7), b.at(7), &number.to_be_bytes());
                a.device.push(&frame, Offload::NONE);
            }
        }
    });
    let (mut arrived, mut changes, since) = (Vec::new(), 0, Instant::now());
    while arrived.len() < FRAMES as usize && since.elapsed() < Duration::from_secs(60) {
        changes += 1;
        pool.set_readers(1 + changes % 3);
        arrived.extend(
            std::iter::from_fn(|| b.device.pop())
                .map(|(bytes, _)| u32::from_be_bytes(bytes[bytes.len() - 4..].try_into().unwrap())),
        );
        thread::sleep(Duration::from_micros(200));
    }
    sender.join().unwrap();
    pool.stop();
    assert!(changes > 20, "{changes}");
    assert!(arrived.iter().copied().eq(0..FRAMES), "{} arrived, or in another order", arrived.len());
    let readers = pool.loads().iter().filter(|load| load.frames > 100).count();
    assert!(readers > 1, "{:?}", pool.loads());
}

#[test]
fn a_port_that_is_sent_nothing_is_no_part_of_a_conversation() {
    let mut switch = Switch::for_workers(2, 1000);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let [a, b] = [switch.add_port(network), switch.add_port(network)];
    let vid = Vid::try_from(7).unwrap();
    let vlan = switch.add_vlan(&b, network, vid);
    let options = WorkerOptions { io: Io::Syscall, poll: PollMode::Adaptive, all_read: true };
    let (mut worker, handle) = Worker::new(switch.shared.clone(), 1, options, Arc::new(|_| ())).unwrap();
    [&a, &b].into_iter().for_each(|station| handle.attach(station.id, station.device.clone(), true));
    handle.attach_vlan(vlan.id, b.device.clone(), vid);
    let mut converses = |from: &Station, to: &Station| {
        let frame = packet::udp(Macs { src: from.mac, dst: to.mac }, from.at(1), to.at(2), b"x");
        let tag = if from.id == vlan.id { &ethernet::vlan_tag(vid)[..] } else { &[] };
        from.device.push(&[&frame[..12], tag, &frame[12..]].concat(), Offload::NONE);
        assert!(worker.turn(Time::from_secs(1)));
        worker.conversed()
    };
    for (a, b) in [(&a, &b), (&a, &vlan)] {
        assert!((0..100).all(|_| converses(a, b) && converses(b, a)), "they talk to each other");
        for _ in 0..10 {
            assert!((1..MONOLOGUE).all(|_| converses(a, b)), "acknowledged now and then");
            assert!(converses(b, a));
        }
        assert!((0..MONOLOGUE).all(|_| converses(a, b)), "the last answer was just before");
        assert!((0..100).all(|_| !converses(a, b)), "a flood");
        assert!(converses(b, a) && converses(a, b), "and its answer");
    }
}
