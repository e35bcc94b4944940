//! What it costs to look something up, and to remember it.

#![allow(missing_docs)] // criterion's macros make functions without docs
#![allow(clippy::cast_possible_truncation)] // numbers that go round

use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vswitchd::addr::{Endpoint, MacAddr, PortId, Protocol};
use vswitchd::clock::Time;
use vswitchd::host::memory::prefer_huge_pages;
use vswitchd::limits::{MAC_AGEING, MAC_TABLE_SIZE, NEIGHBORS_MAX};
use vswitchd::table::conntrack::{NewConnection, Seen, Table, Timeouts};
use vswitchd::table::mac_table::MacTable;
use vswitchd::table::neighbor_table::NeighborTable;
use vswitchd::table::route_table::{RouteTable, Via};

const NOW: Time = Time::from_secs(1);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const NEW: NewConnection = NewConnection { port: PortId(1), hairpin: false, called: false };

/// A number that runs through `0..end`, in an order that caches do not like.
fn scatter(n: &mut u32, end: u32) -> u32 {
    *n = n.wrapping_add(0x9e37_79b1);
    ((u64::from(*n) * u64::from(end)) >> 32) as u32
}

fn ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xac1e_0000 | n)
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));
    let mut n = 0;

    let macs = MAC_TABLE_SIZE as u32;
    let mut table = MacTable::new(MAC_TABLE_SIZE);
    for n in 0..macs {
        table.learn(MacAddr::from_ipv4(ip(n)), PortId(1), NOW);
    }
    group.bench_function("mac, known", |b| {
        b.iter(|| table.lookup(MacAddr::from_ipv4(ip(scatter(&mut n, macs))), NOW, MAC_AGEING));
    });
    group.bench_function("mac, unknown", |b| {
        b.iter(|| table.lookup(MacAddr::from_ipv4(ip(macs + scatter(&mut n, macs))), NOW, MAC_AGEING));
    });
    group.bench_function("mac, learn again", |b| {
        b.iter(|| table.learn(MacAddr::from_ipv4(ip(scatter(&mut n, macs))), PortId(1), NOW));
    });
    group.bench_function("mac, learn by eviction", |b| {
        let mut fresh = macs;
        b.iter(|| {
            fresh = fresh.wrapping_add(1);
            table.learn(MacAddr::from_ipv4(Ipv4Addr::from_bits(fresh)), PortId(1), NOW)
        });
    });

    let neighbors = NEIGHBORS_MAX as u32;
    let mut table: NeighborTable<Ipv4Addr, ()> = NeighborTable::new(NEIGHBORS_MAX, 0);
    for n in 0..neighbors {
        table.answered(ip(n), MacAddr::from_ipv4(ip(n)), NOW);
    }
    group.bench_function("neighbor", |b| b.iter(|| table.resolve(ip(scatter(&mut n, neighbors)), NOW)));

    let mut table = RouteTable::new();
    table.insert(Ipv4Addr::UNSPECIFIED, 0, Via::Gateway(EXTERNAL), 0);
    for n in 0..1_000 {
        table.insert(ip(n << 4), 28, Via::Link, 0);
        table.insert(ip(n << 8), 24, Via::Elsewhere, 0);
    }
    group.bench_function("route, 3 lengths", |b| b.iter(|| table.lookup(ip(scatter(&mut n, 1 << 20)))));
    group.finish();
}

fn conntrack(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    group.throughput(Throughput::Elements(1));
    let timeouts = Timeouts::default();
    let seen = |now| Seen { protocol: Protocol::Udp, segment: None, is_answer: false, bytes: 60, now };
    let inside = Endpoint::new(ip(2), 61_000);
    let remote = |n: u32| Endpoint::new(Ipv4Addr::from_bits(0xcb00_0000 | n), 53);
    let mut n = 0;

    for size in [1_000, 100_000, 1_000_000] {
        let mut table = Table::new(size as usize, 61_000..=65_535);
        // As the daemon does.
        table.memory().into_iter().for_each(prefer_huge_pages);
        for n in 0..size {
            let made = table.outward(inside, remote(n), EXTERNAL, &seen(NOW), || Ok(NEW), &timeouts);
            assert_eq!(made.map(|answer| answer.endpoint), Ok(Endpoint::new(EXTERNAL, inside.port)));
        }
        group.bench_function(format!("outward hit of {size}"), |b| {
            b.iter(|| {
                let remote = remote(scatter(&mut n, size));
                table.outward(inside, remote, EXTERNAL, &seen(NOW), || Ok(NEW), &timeouts)
            });
        });
        let outside = Endpoint::new(EXTERNAL, inside.port);
        group.bench_function(format!("outward lookup in {size}"), |b| {
            b.iter(|| table.peek_outward(Protocol::Udp, inside, remote(scatter(&mut n, size))));
        });
        group.bench_function(format!("inward lookup in {size}"), |b| {
            b.iter(|| table.peek_inward(Protocol::Udp, outside, remote(scatter(&mut n, size))));
        });
        group.bench_function(format!("inward hit of {size}"), |b| {
            b.iter(|| {
                let remote = remote(scatter(&mut n, size));
                table.inward(outside, remote, None, &seen(NOW), || Ok(NEW), &timeouts)
            });
        });
    }

    group.bench_function("create and expire", |b| {
        let mut table = Table::new(100_000, 61_000..=65_535);
        let mut now = NOW;
        let mut n = 0_u32;
        b.iter(|| {
            n = n.wrapping_add(1);
            now += Duration::from_millis(10);
            // 300 s at 100 a second: 30,000 live at a time.
            let made = table.outward(inside, remote(n), EXTERNAL, &seen(now), || Ok(NEW), &timeouts);
            table.expire(now, 4, |_| {});
            made
        });
    });
    group.finish();
}

criterion_group!(benches, lookup, conntrack);
criterion_main!(benches);
