//! Section B: ARP.

use crate::*;

#[test]
fn row_17_the_gateway_answers_arp_for_itself_only() {
    let (mut switch, c) = lan(2);
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let ask = |ip| {
        let macs = Macs { src: c[0].mac, dst: MacAddr::BROADCAST };
        packet::arp(macs, 1, (c[0].mac, c[0].ip), (MacAddr::ZERO, ip))
    };
    switch.send(&c[0], &ask(gateway));
    let reply = one(&c[0]);
    let macs = Macs { src: c[0].gateway_mac, dst: c[0].mac };
    let expected = packet::arp(macs, 2, (c[0].gateway_mac, gateway), (c[0].mac, c[0].ip));
    assert_eq!(reply, expected[..reply.len()]);
    nothing(&c[1]);
    for other in [c[1].ip, Ipv4Addr::new(172, 30, 9, 9)] {
        switch.send(&c[0], &ask(other));
        nothing(&c[0]);
        assert_eq!(one(&c[1]), ask(other), "it is flooded as it is");
    }
    settle(&switch);
}

#[test]
fn row_20_a_probe_for_the_gateways_address_is_answered_and_makes_no_entry() {
    let (mut switch, c) = lan(1);
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let macs = Macs { src: c[0].mac, dst: MacAddr::BROADCAST };
    let before = switch.shared.snapshot().networks[0].as_ref().unwrap().neighbors.lock().len();
    switch.send(&c[0], &packet::arp(macs, 1, (c[0].mac, Ipv4Addr::UNSPECIFIED), (MacAddr::ZERO, gateway)));
    one(&c[0]);
    let after = switch.shared.snapshot().networks[0].as_ref().unwrap().neighbors.lock().len();
    assert_eq!(before, after);
    settle(&switch);
}

#[test]
fn row_21_a_claim_of_the_gateways_address_is_defended_every_ten_seconds_at_most() {
    let (mut switch, c) = lan(2);
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let macs = Macs { src: c[0].mac, dst: MacAddr::BROADCAST };
    let claim = packet::arp(macs, 2, (c[0].mac, gateway), (c[0].mac, gateway));
    for _ in 0..300 {
        switch.send(&c[0], &claim);
        switch.now += Duration::from_millis(100);
    }
    assert_eq!(received(&c[1]).len(), 3, "three announcements in thirty seconds");
    assert_eq!(switch.drops(DropReason::ArpConflict), 300);
    settle(&switch);
}

#[test]
fn row_25_arp_of_the_wrong_form_is_dropped() {
    let (mut switch, c) = lan(2);
    let macs = Macs { src: c[0].mac, dst: MacAddr::BROADCAST };
    let good = packet::arp(macs, 1, (c[0].mac, c[0].ip), (MacAddr::ZERO, c[1].ip));
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 9), (22, 0xff)] {
        let mut bad = good.clone();
        bad[at] = value;
        switch.send(&c[0], &bad);
    }
    switch.send(&c[0], &good[..30]);
    nothing(&c[1]);
    assert_eq!(switch.drops(DropReason::BadArp), 7);
    settle(&switch);
}

/// A switch that does not know its router yet.
fn unresolved() -> (Switch, Station, Station) {
    let mut switch = Switch::new(100);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let router = switch.add_uplink(UplinkMode::Shared);
    let c = switch.add_port(network);
    switch.resolve(&c);
    (switch, c, router)
}

fn arp_reply(router: &Station) -> Vec<u8> {
    packet::arp(via(router), 2, (ROUTER_MAC, ROUTER), (UPLINK_MAC, EXTERNAL))
}

#[test]
fn row_24_the_first_packet_waits_for_the_next_hop_and_is_not_lost() {
    let (mut switch, c, router) = unresolved();
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), b"first"));
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), b"second"));
    let request = one(&router);
    let macs = Macs { src: UPLINK_MAC, dst: MacAddr::BROADCAST };
    let expected = packet::arp(macs, 1, (UPLINK_MAC, EXTERNAL), (MacAddr::ZERO, ROUTER));
    assert_eq!(request, expected[..request.len()]);
    assert_eq!(switch.shared.conntrack.stats().connections, 0, "nothing is made before the next hop answers");
    settle(&switch);
    switch.send(&router, &arp_reply(&router));
    let frames: Vec<_> = received(&router).iter().map(|frame| read(frame).payload).collect();
    assert_eq!(frames, [b"first".to_vec(), b"second".to_vec()]);
    settle(&switch);
}

#[test]
fn rows_23_and_44_a_dead_next_hop_is_asked_once_a_second_and_then_told() {
    let (mut switch, c, router) = unresolved();
    let frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    for _ in 0..1000 {
        switch.send(&c, &frame);
        switch.pass(Duration::from_millis(10), Duration::from_millis(10));
    }
    let requests = received(&router).len();
    assert!((4..=11).contains(&requests), "{requests} requests in ten seconds");
    let told = received(&c);
    assert!(told.iter().all(|frame| (icmp_error(frame).0, icmp_error(frame).1) == (3, 1)));
    assert!(!told.is_empty());
    assert_eq!(switch.shared.conntrack.stats().created, 0);
    settle(&switch);
}

#[test]
fn row_22_a_next_hop_that_changes_its_address_is_found_again() {
    let (mut switch, c, router) = Switch::with_uplink();
    let frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    let moved = MacAddr([0x02, 0xee, 0, 0, 0, 0x77]);
    for _ in 0..60 {
        switch.send(&c, &frame);
        for got in received(&router) {
            let is_broadcast_request = got[..6] == [0xff; 6] && got[12..14] == [8, 6];
            if is_broadcast_request {
                let macs = Macs { src: moved, dst: UPLINK_MAC };
                switch.send(&router, &packet::arp(macs, 2, (moved, ROUTER), (UPLINK_MAC, EXTERNAL)));
            }
        }
        switch.pass(SECOND, Duration::from_millis(100));
    }
    switch.send(&c, &frame);
    let last = received(&router).pop().unwrap();
    assert_eq!(last[..6], moved.0);
    settle(&switch);
}
