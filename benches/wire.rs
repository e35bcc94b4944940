//! What it costs to read headers and to keep checksums right.

#![allow(missing_docs)] // criterion's macros make functions without docs

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, SERVER};
use vswitchd::wire::checksum;
use vswitchd::wire::edit::{self, Endpoints};
use vswitchd::wire::ethernet::{self, Ethernet};
use vswitchd::wire::ipv4::{HEADER_LEN, Ipv4};
use vswitchd::wire::transport::{ACK, Kind, Transport};

const MACS: Macs = Macs { src: MacAddr([2, 0, 0, 0, 0, 1]), dst: MacAddr([2, 0, 0, 0, 0, 2]) };
const INSIDE: Endpoint = Endpoint::new(Ipv4Addr::new(172, 30, 0, 2), 40_000);
const OUTSIDE: Endpoint = Endpoint::new(EXTERNAL, 61_000);
const REMOTE: Endpoint = Endpoint::new(SERVER, 443);
const SEGMENT: Tcp = Tcp { seq: 1, ack: 1, flags: ACK };

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let frames = [
        ("tcp", packet::tcp(MACS, INSIDE, REMOTE, SEGMENT, &[0; 1_448])),
        ("udp", packet::udp(MACS, INSIDE, REMOTE, &[0; 18])),
        ("echo", packet::echo(MACS, INSIDE.ip, REMOTE.ip, true, 1, &[0; 18])),
    ];
    group.throughput(Throughput::Elements(1));
    for (name, frame) in &frames {
        group.bench_function(*name, |b| b.iter(|| headers(black_box(frame))));
    }
    group.finish();
}

fn headers(frame: &[u8]) -> Option<(Ethernet, Ipv4, Transport)> {
    let eth = Ethernet::parse(frame).ok()?;
    let packet = &frame[eth.len..];
    let ip = Ipv4::parse(packet).ok()?;
    let transport = Transport::parse(ip.protocol, &packet[ip.header_len..ip.total_len]).ok()?;
    Some((eth, ip, transport))
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [20, 1_460, 65_495] {
        let bytes = vec![0xa5; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("sum of {len} bytes"), |b| {
            b.iter(|| checksum::checksum(black_box(&bytes)));
        });
    }
    let mut packet = packet::tcp(MACS, INSIDE, REMOTE, SEGMENT, &[0; 1_448]).split_off(ethernet::HEADER_LEN);
    let ends = [OUTSIDE, INSIDE];
    let mut turn = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("translate and step the TTL", |b| {
        b.iter(|| {
            turn ^= 1;
            let new = Endpoints { src: Some(ends[turn]), dst: None };
            edit::translate(black_box(&mut packet), HEADER_LEN, Kind::Tcp, false, new);
            edit::decrement_ttl(&mut packet);
        });
    });
    group.finish();
}

criterion_group!(benches, parse, checksums);
criterion_main!(benches);
