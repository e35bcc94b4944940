//! One million connections within 128 MiB: an allocator that adds up says so.

#![allow(unsafe_code)] // an allocator is

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use vswitchd::addr::{Endpoint, PortId, Protocol};
use vswitchd::clock::Time;
use vswitchd::limits::CONNECTIONS_MAX;
use vswitchd::shared::{Ask, Conntrack};
use vswitchd::table::conntrack::{Seen, Timeouts};

struct Adding;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Adding {
    // SAFETY: as the trait asks.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait asks.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Adding = Adding;

#[test]
fn a_million_connections_fit_into_128_mib() {
    let before = LIVE.load(Relaxed);
    let conntrack = Conntrack::new(CONNECTIONS_MAX, 61_000..=65_535, 2);
    let timeouts = Timeouts::default();
    let seen = Seen { protocol: Protocol::Udp, segment: None, is_answer: false, bytes: 60, now: Time::ZERO };
    for socket in 0..4_000u16 {
        let inside = Endpoint::new(Ipv4Addr::new(172, 30, 0, 2), 61_000 + socket);
        for remote in 0..250u8 {
            let remote = Endpoint::new(Ipv4Addr::new(198, 51, 100, remote), 53);
            let (owner, quota, nat_ports) = (PortId(1), u32::MAX, u32::MAX);
            let ask =
                Ask { seen, timeouts: &timeouts, owner, quota, nat_ports, hairpin: false, called: false };
            let made = conntrack.outward(inside, remote, Ipv4Addr::new(192, 0, 2, 1), &ask);
            assert_eq!(made.map(|made| made.endpoint.port), Ok(inside.port));
        }
    }
    assert_eq!(conntrack.stats().connections, 1_000_000);
    let mib = (LIVE.load(Relaxed) - before) as f64 / f64::from(1 << 20);
    assert!(mib <= 128.0, "{mib:.1} MiB");
    println!("1,000,000 connections: {mib:.1} MiB with all that is reserved for {CONNECTIONS_MAX}");
}
