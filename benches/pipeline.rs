//! What a frame costs from its first parsed byte to the rewritten frame, without any device.
//!
//! Every iteration includes copying the frame into its buffer, which stands for what a read does.

#![allow(missing_docs)] // criterion's macros make functions without docs

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use vswitchd::addr::{Endpoint, MacAddr, NetworkId};
use vswitchd::drops::DropReason;
use vswitchd::frame::{Checksum, Offload, Segment};
use vswitchd::pipeline::{Outbox, Pipeline};
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, SERVER, Station, Switch};
use vswitchd::snapshot::Snapshot;
use vswitchd::wire::edit::{self, Endpoints};
use vswitchd::wire::transport::{ACK, FIN, SYN};
use vswitchd::wire::{checksum, ethernet, ipv4};

/// The container's port and what masquerading makes of it: the same, as it is in the external range.
const PORT: u16 = 61_000;
const REMOTE: Endpoint = Endpoint::new(SERVER, 443);

/// Type of the ICMP error that routers send most.
const TIME_EXCEEDED: u8 = 11;

/// Connections that are made before they are flushed and the next ones measured.
const MISSES: u64 = 4_000;

/// A pipeline on a simulated switch's configuration, with two containers and a router that are known.
struct Bench {
    switch: Switch,
    container: Station,
    peer: Station,
    router: Station,
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
    out: Outbox,
}

impl Bench {
    fn new() -> Bench {
        let (mut switch, container, router) = Switch::with_uplink();
        let peer = switch.add_port(NetworkId(0));
        switch.resolve(&peer);
        Bench {
            snapshot: switch.shared.snapshot_full(),
            pipeline: Pipeline::new(switch.shared.clone(), 0),
            out: Outbox::new(),
            switch,
            container,
            peer,
            router,
        }
    }

    /// Lets a frame come in, and returns how many go out.
    fn process(&mut self, from: &Station, bytes: &[u8], offload: Offload) -> usize {
        let mut frame = self.out.fresh();
        frame.fill(bytes, offload);
        self.pipeline.process(&self.snapshot, from.id, frame, self.switch.now, &mut self.out);
        let mut sent = 0;
        self.out.drain(|_, frame| {
            black_box(frame.bytes());
            sent += 1;
        });
        sent
    }

    /// Measures a frame that goes out `copies` times.
    fn measure(&mut self, c: &mut Group<'_>, name: &str, case: &Case<'_>, copies: usize) {
        let Case(from, frame, offload) = case;
        assert_eq!(self.process(from, frame, *offload), copies, "{name}");
        c.throughput(Throughput::Elements(1));
        c.bench_function(name, |b| b.iter(|| self.process(from, black_box(frame), *offload)));
    }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Who sends, what, with which promises.
struct Case<'a>(&'a Station, Vec<u8>, Offload);

fn to_gateway(station: &Station) -> Macs {
    Macs { src: station.mac, dst: station.gateway_mac }
}

fn switch(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch");
    let mut bench = Bench::new();
    let (from, to) = (bench.container.clone(), bench.peer.clone());
    let known = Macs { src: from.mac, dst: to.mac };
    let unknown = Macs { dst: MacAddr([2, 0, 0, 0, 0, 9]), ..known };
    for (name, macs, len) in [
        ("known unicast, 60 bytes", known, 18),
        ("known unicast, 1514 bytes", known, 1_472),
        ("flood, 60 bytes", unknown, 18),
    ] {
        let frame = packet::udp(macs, from.at(1), to.at(2), &vec![0; len]);
        bench.measure(&mut group, name, &Case(&from, frame, Offload::NONE), 1);
    }
    group.finish();
}

fn snat_hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("snat_hit");
    let mut bench = Bench::new();
    let (inside, router) = (bench.container.clone(), bench.router.clone());
    let (macs, src) = (to_gateway(&inside), inside.at(PORT));
    let tcp = |flags, payload: &[u8]| packet::tcp(macs, src, REMOTE, Tcp { seq: 1, ack: 1, flags }, payload);
    let outside = Endpoint::new(EXTERNAL, PORT);
    let accept = Tcp { seq: 1, ack: 2, flags: SYN | ACK };
    for (from, frame) in [
        (&inside, tcp(SYN, &[])),
        (&router, packet::tcp(to_gateway(&router), REMOTE, outside, accept, &[])),
        (&inside, tcp(ACK, &[])),
    ] {
        assert_eq!(bench.process(from, &frame, Offload::NONE), 1);
    }
    let partial = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, ..Offload::NONE };
    let tso = Offload { segment: Segment::Tcp4 { size: 1_448, ecn: false }, header_len: 54, ..partial };
    let answer = packet::udp(to_gateway(&router), REMOTE, outside, &[0; 18]);
    for (name, case) in [
        ("udp out, 60 bytes", Case(&inside, packet::udp(macs, src, REMOTE, &[0; 18]), Offload::NONE)),
        ("udp in, 60 bytes", Case(&router, answer, Offload::NONE)),
        ("tcp out, 60 bytes", Case(&inside, tcp(ACK, &[0; 6]), Offload::NONE)),
        ("tcp out, 60 bytes, checksum partial", Case(&inside, tcp(ACK, &[0; 6]), partial)),
        ("tcp out, 1514 bytes", Case(&inside, tcp(ACK, &[0; 1_460]), Offload::NONE)),
        ("tcp out, 64 KiB super-frame", Case(&inside, tcp(ACK, &[0; 65_160]), tso)),
        ("echo out", Case(&inside, packet::echo(macs, src.ip, REMOTE.ip, true, 1, &[0; 18]), Offload::NONE)),
        ("tcp out, 60 bytes, not cached", Case(&inside, tcp(ACK | FIN, &[0; 6]), Offload::NONE)),
    ] {
        bench.measure(&mut group, name, &case, 1);
    }
    group.finish();
}

fn snat_miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("snat_miss");
    let mut bench = Bench::new();
    let (macs, src) = (to_gateway(&bench.container), bench.container.at(PORT));
    let syn = Tcp { seq: 1, ack: 0, flags: SYN };
    group.throughput(Throughput::Elements(1));
    for (name, frame) in
        [("tcp", packet::tcp(macs, src, REMOTE, syn, &[])), ("udp", packet::udp(macs, src, REMOTE, &[0; 18]))]
    {
        group.bench_function(name, |b| {
            b.iter_custom(|mut left| {
                let mut spent = Duration::ZERO;
                while left > 0 {
                    let burst = left.min(MISSES);
                    spent += misses(&mut bench, &frame, burst);
                    left -= burst;
                }
                spent
            });
        });
    }
    group.finish();
}

/// The time that `count` packets take, each to another remote address; then forgets their connections.
fn misses(bench: &mut Bench, frame: &[u8], count: u64) -> Duration {
    let from = bench.container.clone();
    let mut frame = frame.to_vec();
    #[allow(clippy::disallowed_methods)] // a benchmark measures
    let start = Instant::now();
    for n in 0..count {
        #[allow(clippy::cast_possible_truncation)] // below MISSES
        let remote = Endpoint::new(Ipv4Addr::from_bits(0xcb00_7100 + n as u32), REMOTE.port);
        edit::readdress(&mut frame[ethernet::HEADER_LEN..], Endpoints { src: None, dst: Some(remote) });
        bench.process(&from, &frame, Offload::NONE);
    }
    let spent = start.elapsed();
    let made = bench.switch.shared.conntrack.flush(bench.switch.now, |_| true);
    assert_eq!(made as u64, count, "every packet makes a connection");
    spent
}

fn plain(from: &Station, frame: Vec<u8>) -> Case<'_> {
    Case(from, frame, Offload::NONE)
}

/// Frames that cost the most that a frame can: what an attacker would send. None may cost much more than an ordinary
/// miss, or a flood of it stops the switch at a rate that a container can send.
fn worst(c: &mut Criterion) {
    let mut group = c.benchmark_group("worst");
    let mut bench = Bench::new();
    let (inside, router) = (bench.container.clone(), bench.router.clone());
    let (macs, src, outside) = (to_gateway(&inside), inside.at(PORT), Endpoint::new(EXTERNAL, PORT));
    let datagram = packet::udp(macs, src, REMOTE, &[0; 18]);
    assert_eq!(bench.process(&inside, &datagram, Offload::NONE), 1);
    let shown = packet::udp(to_gateway(&router), outside, REMOTE, &[0; 1_400]);
    let error = |quoted: &[u8]| {
        let about = [[TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0].as_slice(), quoted].concat();
        let mut frame = packet::ip(to_gateway(&router), SERVER, EXTERNAL, ipv4::ICMP, &about);
        let sum = checksum::checksum(&frame[34..]);
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    for (name, case, copies) in [
        ("icmp error, 28 bytes quoted", plain(&router, error(&shown[14..42])), 1),
        ("icmp error, 1400 bytes quoted", plain(&router, error(&shown[14..1_414])), 1),
        ("icmp error about nothing", plain(&router, error(&unknown(&shown)[14..42])), 0),
        ("40 bytes of options", plain(&inside, with_options(&datagram, 40)), 1),
        ("ttl ends, error refused by its rate", plain(&inside, with_ttl(&datagram, 1)), 0),
    ] {
        // The first ones may take the last of what the rate allows.
        (0..1000).for_each(|_| {
            bench.process(case.0, &case.1, case.2);
        });
        bench.measure(&mut group, name, &case, copies);
    }
    flood_of_ports(&mut group);
    full_table(&mut group);
    group.finish();
}

/// An unknown destination on a network of many ports: the one frame that becomes many.
fn flood_of_ports(group: &mut Group<'_>) {
    const OTHERS: usize = 255;
    let mut bench = Bench::new();
    (1..OTHERS).for_each(|_| {
        bench.switch.add_port(NetworkId(0));
    });
    bench.snapshot = bench.switch.shared.snapshot_full();
    let from = bench.container.clone();
    let macs = Macs { src: from.mac, dst: MacAddr([2, 0, 0, 0, 0, 9]) };
    let frame = packet::udp(macs, from.at(1), bench.peer.at(2), &[0; 18]);
    bench.measure(group, "unknown unicast, 255 copies", &Case(&from, frame, Offload::NONE), OTHERS);
}

/// New flows when the connection table is full: each is looked up and refused.
fn full_table(group: &mut Group<'_>) {
    let mut bench = Bench::new();
    let (macs, src) = (to_gateway(&bench.container), bench.container.at(PORT));
    let frame = packet::udp(macs, src, REMOTE, &[0; 18]);
    let from = bench.container.clone();
    // The simulated table has room for 10,000, in two shards that fill unevenly.
    let remote = |n: u32| Endpoint::new(Ipv4Addr::from_bits(0x0b00_0000 + n), REMOTE.port);
    let send = |bench: &mut Bench, n: u32| {
        let mut frame = frame.clone();
        edit::readdress(&mut frame[ethernet::HEADER_LEN..], Endpoints { src: None, dst: Some(remote(n)) });
        bench.process(&from, &frame, Offload::NONE)
    };
    let mut next = 0;
    // At its limit a shard refuses, and only errors come back, until their rate ends as well.
    while bench.switch.drops(DropReason::ConntrackFull) < 1_000 {
        send(&mut bench, next);
        next += 1;
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("new flow, table full", |b| {
        b.iter(|| {
            next += 1;
            send(&mut bench, next)
        });
    });
}

/// The packet from a port that has no connection.
fn unknown(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[35] ^= 1;
    frame
}

fn with_ttl(frame: &[u8], ttl: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    edit::set_ttl(&mut frame[ethernet::HEADER_LEN..], ttl);
    frame
}

/// The packet with so many bytes of options that do nothing.
fn with_options(frame: &[u8], len: u8) -> Vec<u8> {
    let options = vec![1; usize::from(len)];
    let mut frame = [&frame[..34], &options, &frame[34..]].concat();
    frame[14] += len / 4;
    frame[17] += len;
    frame[24..26].fill(0);
    let sum = checksum::checksum(&frame[14..34 + usize::from(len)]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

criterion_group!(benches, switch, snat_hit, snat_miss, worst);
criterion_main!(benches);
