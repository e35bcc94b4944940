//! The pipeline allocates nothing per frame: a counting allocator says so.

#![allow(unsafe_code)] // an allocator is

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vswitchd::addr::{Endpoint, PortId};
use vswitchd::frame::Offload;
use vswitchd::pipeline::{Outbox, Pipeline};
use vswitchd::sim::packet::{self, Macs};
use vswitchd::sim::{SERVER, Switch};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait asks.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait asks.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_allocation_per_frame() {
    let (mut switch, c, router) = Switch::with_uplink();
    let network = switch.shared.snapshot().networks[0].as_ref().map(|n| n.id).expect("a network");
    let d = switch.add_port(network);
    switch.resolve(&d);
    let via = Macs { src: c.mac, dst: c.gateway_mac };
    let out = packet::udp(via, c.at(5000), Endpoint::new(SERVER, 53), b"question");
    switch.send(&c, &out);
    let (shown, _) = router.device.pop().expect("the first packet");
    let back = {
        let source = Endpoint::new(vswitchd::sim::EXTERNAL, u16::from_be_bytes([shown[34], shown[35]]));
        packet::udp(
            Macs { src: router.mac, dst: router.gateway_mac },
            Endpoint::new(SERVER, 53),
            source,
            b"a",
        )
    };
    let across = packet::udp(Macs { src: c.mac, dst: d.mac }, c.at(1), d.at(2), b"hello");
    let dropped = packet::udp(Macs { src: c.gateway_mac, dst: d.mac }, c.at(1), d.at(2), b"spoofed");

    let snapshot = switch.shared.snapshot_full();
    let mut pipeline = Pipeline::new(Arc::clone(&switch.shared), 0);
    let mut outbox = Outbox::new();
    let mut turn = || {
        for (port, bytes) in [(c.id, &out), (PortId::UPLINK, &back), (c.id, &across), (c.id, &dropped)] {
            let mut frame = outbox.fresh();
            frame.fill(bytes, Offload::NONE);
            pipeline.process(&snapshot, port, frame, switch.now, &mut outbox);
        }
        let mut sent = 0;
        outbox.drain(|_, _| sent += 1);
        assert_eq!(sent, 3);
    };
    // The first turns fill the pools and the ring of dropped frames' samples.
    (0..100).for_each(|_| turn());
    let before = ALLOCATIONS.load(Relaxed);
    (0..10_000).for_each(|_| turn());
    assert_eq!(ALLOCATIONS.load(Relaxed) - before, 0);
}
