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

/// What the gateway knows of `ip`.
fn known(switch: &Switch, ip: Ipv4Addr) -> Option<MacAddr> {
    let snapshot = switch.shared.snapshot();
    let entries = snapshot.networks[0].as_ref().unwrap().neighbors.lock().entries(switch.now);
    entries.iter().find(|entry| entry.ip == ip).and_then(|entry| entry.mac)
}

#[test]
fn row_18_any_arp_updates_an_entry_and_only_a_request_to_us_makes_one() {
    let (mut switch, c) = lan(2);
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let newcomer = (c[0].mac, Ipv4Addr::new(172, 30, 7, 7));
    let all = Macs { src: c[0].mac, dst: MacAddr::BROADCAST };
    let somebody = (MacAddr::ZERO, c[1].ip);
    for (operation, target) in [(1, somebody), (2, somebody), (1, newcomer), (2, newcomer)] {
        switch.send(&c[0], &packet::arp(all, operation, newcomer, target));
        assert_eq!(known(&switch, newcomer.1), None, "a third party's");
    }
    switch.send(&c[0], &packet::arp(via(&c[0]), 2, newcomer, (c[0].gateway_mac, gateway)));
    assert_eq!(known(&switch, newcomer.1), None, "an answer that nobody asked for");
    switch.send(&c[0], &packet::arp(all, 1, newcomer, (MacAddr::ZERO, gateway)));
    assert_eq!(known(&switch, newcomer.1), Some(c[0].mac));
    // From now on whatever it says is taken note of, before it is looked at what it is (RFC 826).
    for (n, operation, target) in [(1, 1, somebody), (2, 2, somebody), (3, 2, (c[0].gateway_mac, gateway))] {
        let moved = MacAddr([2, 0, 0, 0, 0, n]);
        switch.send(&c[0], &packet::arp(all, operation, (moved, newcomer.1), target));
        assert_eq!(known(&switch, newcomer.1), Some(moved));
    }
    // An address that is not of the network is nobody's.
    switch.send(&c[0], &packet::arp(all, 1, (c[0].mac, SERVER), (MacAddr::ZERO, gateway)));
    assert_eq!(known(&switch, SERVER), None);
    drop([&c[0], &c[1]].map(received));
    settle(&switch);
}

#[test]
fn row_19_a_group_address_is_believed_from_nobody() {
    let (mut switch, c, router) = unresolved();
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), b"waits"));
    received(&router);
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    for wrong in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        switch.send(&router, &packet::arp(via(&router), 2, (wrong, ROUTER), (UPLINK_MAC, EXTERNAL)));
        nothing(&router);
        for operation in [1, 2] {
            switch.send(&c, &packet::arp(via(&c), operation, (wrong, c.ip), (MacAddr::ZERO, gateway)));
        }
        nothing(&c);
        assert_eq!(known(&switch, c.ip), Some(c.mac));
    }
    assert_eq!((switch.drops(DropReason::BadArp), switch.waiting()), (6, 1));
    switch.send(&router, &arp_reply(&router));
    assert_eq!(read(&one(&router)).payload, b"waits");
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
    let (mut switch, c) = lan(3);
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let echo = packet::echo(via(&c[1]), c[1].ip, gateway, true, 1, b"still there?");
    let macs = [Macs { src: c[0].mac, dst: MacAddr::BROADCAST }, between(&c[0], &c[1]), via(&c[0])];
    // A hundred claims a second of every kind, for thirty seconds.
    for n in 0..3000 {
        let claim = packet::arp(macs[n % 3], [1, 2][n % 2], (c[0].mac, gateway), (c[1].mac, gateway));
        switch.send(&c[0], &claim);
        switch.now += Duration::from_millis(10);
        if n % 100 == 50 {
            switch.send(&c[1], &echo);
        }
    }
    let announcement = received(&c[2]);
    assert_eq!(announcement.len(), 3, "three announcements in thirty seconds");
    let all = Macs { src: c[0].gateway_mac, dst: MacAddr::BROADCAST };
    let expected = packet::arp(all, 1, (c[0].gateway_mac, gateway), (MacAddr::ZERO, gateway));
    assert!(announcement.iter().all(|frame| *frame == expected[..frame.len()]));
    let answers = received(&c[1]).iter().filter(|frame| frame[12..14] == [8, 0]).count();
    assert_eq!((answers, received(&c[0]).len()), (30, 3), "nobody else gets anything");
    assert_eq!((switch.drops(DropReason::ArpConflict), known(&switch, gateway)), (3000, None));
    settle(&switch);
}

#[test]
fn row_21_a_claim_of_an_own_address_on_the_uplink_is_defended_too() {
    for (mode, announcements) in [(UplinkMode::Own, 3), (UplinkMode::Shared, 0)] {
        let mut switch = Switch::new(100);
        let router = switch.add_uplink(mode);
        let all = Macs { src: ROUTER_MAC, dst: MacAddr::BROADCAST };
        for _ in 0..3000 {
            switch.send(&router, &packet::arp(all, 2, (ROUTER_MAC, EXTERNAL), (ROUTER_MAC, EXTERNAL)));
            switch.now += Duration::from_millis(10);
        }
        let mine = (UPLINK_MAC, EXTERNAL);
        let all = Macs { src: UPLINK_MAC, dst: MacAddr::BROADCAST };
        let expected = packet::arp(all, 1, mine, (MacAddr::ZERO, EXTERNAL));
        let got = received(&router);
        assert!(got.len() == announcements && got.iter().all(|frame| *frame == expected[..frame.len()]));
        assert_eq!(switch.drops(DropReason::ArpConflict), 3000);
        settle(&switch);
    }
}

#[test]
fn row_25_arp_of_the_wrong_form_is_dropped() {
    let (mut switch, c) = lan(2);
    let mut expected = 0;
    let mut wrong = |switch: &mut Switch, frame: &[u8]| {
        switch.send(&c[0], frame);
        c.iter().for_each(nothing);
        expected += 1;
        assert_eq!(switch.drops(DropReason::BadArp), expected, "{frame:02x?}");
    };
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    for macs in [Macs { src: c[0].mac, dst: MacAddr::BROADCAST }, via(&c[0]), between(&c[0], &c[1])] {
        for target in [c[1].ip, gateway] {
            let good = packet::arp(macs, 1, (c[0].mac, c[0].ip), (MacAddr::ZERO, target));
            // Hardware type, protocol type, lengths, operation, sender.
            for (at, values) in [
                (14, &[1, 0xff][..]),
                (15, &[0, 6, 0x20]),
                (16, &[0, 0x86]),
                (17, &[6]),
                (18, &[0, 5, 7, 8, 16, 20, 255]),
                (19, &[0, 3, 5, 16, 255]),
                (20, &[1]),
                (21, &[0, 3, 4, 8, 9, 255]),
                (22, &[0xff, 0x01]),
                (28, &[224, 239]),
            ] {
                for &value in values {
                    let mut bad = good.clone();
                    bad[at] = value;
                    wrong(&mut switch, &bad);
                }
            }
            for len in 14..14 + 28 {
                wrong(&mut switch, &good[..len]);
            }
            // As in tcpdump's arp-too-long-tha.pcap: an address longer than the packet.
            let mut long = good.clone();
            long[18] = 64;
            wrong(&mut switch, &long);
        }
    }
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
fn row_24_a_scan_of_dead_addresses_takes_no_memory() {
    let (mut switch, c, router) = Switch::with_uplink();
    let len = |switch: &Switch| {
        let snapshot = switch.shared.snapshot();
        let network = snapshot.networks[0].as_ref().unwrap().neighbors.lock().len();
        network + snapshot.uplinks[0].neighbors.lock().len()
    };
    let mut most = (0, 0);
    for n in 0..65_000u32 {
        // Some in the network, some on the uplink's link.
        let dead = Ipv4Addr::from_bits(if n % 8 == 0 { 0xc000_0202 + n / 8 % 250 } else { 0xac1e_0100 + n });
        switch.send(&c, &packet::udp(via(&c), c.at(1), Endpoint::new(dead, 9), b"anybody?"));
        switch.now += Duration::from_micros(50);
        most = (most.0.max(len(&switch)), most.1.max(switch.waiting()));
    }
    assert!(most.0 <= 4096 + 256 && most.1 <= 2 * 1024, "{most:?} neighbors and frames");
    assert_eq!(known(&switch, c.ip), Some(c.mac));
    received(&c);
    received(&router);
    // Who is there is still found.
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), b"still there?"));
    let arrived: Vec<_> = received(&router).into_iter().filter(|frame| frame[12..14] == [8, 0]).collect();
    assert_eq!(read(&arrived[0]).payload, b"still there?");
    switch.pass(Duration::from_secs(10), Duration::from_millis(100));
    assert_eq!(switch.waiting(), 0);
    settle(&switch);
}

#[test]
fn rows_23_and_44_a_dead_next_hop_is_asked_once_a_second_and_then_told() {
    let (mut switch, c, router) = unresolved();
    let frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    // Ten thousand packets a second, for ten seconds.
    for _ in 0..10_000 {
        (0..10).for_each(|_| c.device.push(&frame, Offload::NONE));
        switch.now += Duration::from_millis(1);
        switch.run();
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

/// Talks outwards for some seconds, on an uplink where `who` answers for the next hop: how long packets went to
/// nobody who answers, and where they go in the end.
fn next_hop(claim: Option<MacAddr>, who: &[MacAddr], seconds: usize) -> (Duration, MacAddr, Switch) {
    let (mut switch, c, router) = Switch::with_uplink();
    let frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    let to_us = |mac| Macs { src: mac, dst: UPLINK_MAC };
    let mut lost = Duration::ZERO;
    let mut last = ROUTER_MAC;
    for n in 0..seconds * 100 {
        if let Some(claimed) = claim.filter(|_| n % 10 == 0) {
            let all = Macs { src: claimed, dst: MacAddr::BROADCAST };
            let forms = [
                packet::arp(all, 1, (claimed, ROUTER), (MacAddr::ZERO, ROUTER)),
                packet::arp(to_us(claimed), 2, (claimed, ROUTER), (UPLINK_MAC, EXTERNAL)),
                packet::arp(all, 1, (claimed, ROUTER), (MacAddr::ZERO, EXTERNAL)),
            ];
            switch.send(&router, &forms[n / 10 % 3]);
        }
        switch.now += Duration::from_millis(10);
        switch.send(&c, &frame);
        for got in received(&router) {
            let to = MacAddr(got[..6].try_into().unwrap());
            if got[12..14] == [8, 6] {
                // Whoever is asked answers, and of several the first one listed.
                if let Some(&mac) = who.iter().find(|&&mac| to == mac || to.is_group()) {
                    switch.send(&router, &packet::arp(to_us(mac), 2, (mac, ROUTER), (UPLINK_MAC, EXTERNAL)));
                }
            } else {
                last = to;
                lost += if who.contains(&to) { Duration::ZERO } else { Duration::from_millis(10) };
            }
        }
    }
    settle(&switch);
    (lost, last, switch)
}

#[test]
fn row_22_an_impostor_does_not_become_the_next_hop() {
    let impostor = MacAddr([0x02, 0xbb, 0, 0, 0, 1]);
    let (lost, last, switch) = next_hop(Some(impostor), &[ROUTER_MAC, impostor], 100);
    assert_eq!((lost, last), (Duration::ZERO, ROUTER_MAC));
    assert_eq!(switch.drops(DropReason::ArpDoubtful), 1000, "and every claim is counted");
}

#[test]
fn row_22_a_next_hop_that_announces_another_address_is_followed_when_the_old_one_is_silent() {
    let moved = MacAddr([0x02, 0xee, 0, 0, 0, 0x77]);
    let (lost, last, _) = next_hop(Some(moved), &[moved], 20);
    assert_eq!(last, moved);
    assert!(lost < Duration::from_millis(2_200), "{lost:?}");
}

#[test]
fn row_22_a_next_hop_that_changes_silently_is_found_within_the_stated_time() {
    let moved = MacAddr([0x02, 0xee, 0, 0, 0, 0x77]);
    let (lost, last, _) = next_hop(None, &[moved], 60);
    assert_eq!(last, moved);
    assert!(lost < Duration::from_millis(32_200), "{lost:?}: thirty seconds of trust and two requests");
}
