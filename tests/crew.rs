//! Ports that change their readers while frames flow: real threads, devices in memory.

#![allow(clippy::unwrap_used)] // a test that panics says so

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vswitchd::addr::NetworkId;
use vswitchd::frame::Offload;
use vswitchd::port::exchange::Io;
use vswitchd::port::memory::MemoryPort;
use vswitchd::port::{Device, Promises};
use vswitchd::sim::packet::{self, Macs};
use vswitchd::sim::{Station, Switch};
use vswitchd::snapshot::NetworkMode;
use vswitchd::worker::{PollMode, WorkerOptions, WorkerPool};

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
