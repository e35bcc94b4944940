//! What coalescing adds to a burst of 64 datagrams: where nothing can be merged, and where all can.

#![allow(missing_docs)] // criterion's macros make functions without docs

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vswitchd::addr::{Endpoint, MacAddr, PortId};
use vswitchd::coalesce::Coalescer;
use vswitchd::frame::{Checksum, Offload};
use vswitchd::limits::BURST_FRAMES;
use vswitchd::pipeline::Outbox;
use vswitchd::port::Promises;
use vswitchd::sim::packet::{self, Macs};
use vswitchd::sim::{EXTERNAL, SERVER};

const MACS: Macs = Macs { src: MacAddr([2, 0, 0, 0, 0, 1]), dst: MacAddr([2, 0, 0, 0, 0, 2]) };

/// The port that all datagrams go to, the uplink; and one that sends them.
const TO: PortId = PortId::UPLINK;
const FROM: PortId = PortId(1);

fn coalesce(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    group.throughput(Throughput::Elements(BURST_FRAMES as u64));
    for (name, flows, len, checksum) in [
        ("64 flows, 18 bytes", 64, 18, Checksum::Valid),
        ("one flow, 18 bytes", 1, 18, Checksum::Valid),
        ("one flow, 18 bytes, checksums unverified", 1, 18, Checksum::Complete),
        ("one flow, 1000 bytes", 1, 1000, Checksum::Valid),
        ("one flow, 1000 bytes, checksums unverified", 1, 1000, Checksum::Complete),
    ] {
        let frames: Vec<_> = (0u16..)
            .take(BURST_FRAMES)
            .map(|n| {
                let source = Endpoint::new(EXTERNAL, 61_000 + n % flows);
                packet::udp(MACS, source, Endpoint::new(SERVER, 53), &vec![0; len])
            })
            .collect();
        let (mut outbox, mut coalescer) = (Outbox::new(), Coalescer::new());
        group.bench_function(name, |b| {
            b.iter_custom(|bursts| {
                let spent = (0..bursts).map(|_| burst(&mut outbox, &mut coalescer, &frames, checksum));
                spent.sum()
            });
        });
    }
    group.finish();
}

/// The time that a burst takes, without the copies that stand for reading it.
fn burst(outbox: &mut Outbox, coalescer: &mut Coalescer, frames: &[Vec<u8>], checksum: Checksum) -> Duration {
    for bytes in frames {
        let mut frame = outbox.fresh();
        frame.fill(bytes, Offload { checksum, ..Offload::NONE });
        outbox.send(frame, [TO], FROM);
    }
    #[allow(clippy::disallowed_methods)] // a benchmark measures
    let start = Instant::now();
    coalescer.coalesce(outbox, |_| Promises::ALL);
    let spent = start.elapsed();
    outbox.drain(|send, frame| {
        black_box((send, frame.bytes()));
    });
    spent
}

criterion_group!(benches, coalesce);
criterion_main!(benches);
