//! Section A: the bridge.

use vswitchd::snapshot::Network;
use vswitchd::table::mac_table::Station as Place;

use crate::*;

/// The one network that there is.
fn network(switch: &Switch) -> std::sync::Arc<Network> {
    switch.shared.snapshot().networks[0].clone().unwrap()
}

/// What the switch has learned of `mac`.
fn place(switch: &Switch, mac: MacAddr) -> Place {
    let ageing = switch.shared.snapshot().mac_ageing;
    network(switch).fdb.lookup(mac, switch.now, ageing)
}

/// Addresses that it has learned.
fn learned(switch: &Switch) -> usize {
    // One is the gateway's.
    network(switch).fdb.entries(switch.now, Duration::from_secs(300)).len() - 1
}

/// An address of nobody.
fn stranger(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([0x02, 0xaa, a, b, c, d])
}

#[test]
fn row_01_known_unicast_leaves_only_its_port() {
    let (mut switch, c) = lan(3);
    for n in 0..1000u16 {
        let frame = packet::udp(between(&c[0], &c[1]), c[0].at(1), c[1].at(2), &n.to_be_bytes());
        switch.send(&c[0], &frame);
        assert_eq!(one(&c[1]), frame);
    }
    nothing(&c[2]);
    settle(&switch);
}

#[test]
fn row_02_unknown_and_group_destinations_reach_every_other_port_once() {
    let (mut switch, c) = lan(8);
    let multicast = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    for dst in [stranger(1), MacAddr::BROADCAST, multicast] {
        for n in 0..100 {
            let frame = packet::frame(Macs { src: c[0].mac, dst }, 0x86dd, &[n]);
            switch.send(&c[0], &frame);
            nothing(&c[0]);
            for other in &c[1..] {
                assert_eq!(one(other), frame);
            }
        }
    }
    settle(&switch);
}

#[test]
fn row_03_a_source_that_is_no_station_is_dropped_and_not_learned() {
    let (mut switch, c) = lan(2);
    let before = learned(&switch);
    let wrong = [MacAddr([1, 2, 3, 4, 5, 6]), MacAddr::BROADCAST, MacAddr::ZERO];
    for src in wrong {
        for dst in [c[1].mac, MacAddr::BROADCAST, stranger(1), c[0].gateway_mac] {
            switch.send(&c[0], &packet::frame(Macs { src, dst }, 0x0800, b""));
        }
    }
    nothing(&c[1]);
    assert_eq!((switch.drops(DropReason::BadSourceMac), learned(&switch)), (12, before));
    // What is sent to it finds nobody.
    switch.send(&c[1], &packet::frame(Macs { src: c[1].mac, dst: MacAddr::ZERO }, 0x1234, b"x"));
    one(&c[0]);
    settle(&switch);
}

#[test]
fn row_04_reserved_group_addresses_are_not_relayed() {
    let (mut switch, c) = lan(4);
    for last in 0..0x10 {
        for tag in [[].as_slice(), &[0x81, 0, 0, 5]] {
            let dst = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
            let mut frame = packet::frame(Macs { src: c[0].mac, dst }, 0x88cc, &[last]);
            frame.splice(12..12, tag.iter().copied());
            switch.send(&c[0], &frame);
        }
    }
    c.iter().for_each(nothing);
    assert_eq!(switch.drops(DropReason::ReservedGroup), 32);
    settle(&switch);
}

#[test]
fn row_05_the_addresses_behind_the_reserved_ones_are_plain_multicast() {
    let (mut switch, c) = lan(4);
    for last in 0x10..0x30 {
        let dst = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
        let frame = packet::frame(Macs { src: c[0].mac, dst }, 0x88f5, &[last]);
        switch.send(&c[0], &frame);
        nothing(&c[0]);
        c[1..].iter().for_each(|c| assert_eq!(one(c), frame));
    }
    settle(&switch);
}

#[test]
fn row_06_an_address_ages_unless_its_station_speaks() {
    let ping = |from: &Station, to: &Station| packet::frame(between(from, to), 0x1234, b"x");
    for ageing in [300, 10] {
        let (mut switch, c) = lan(3);
        switch.shared.publish(|snapshot| snapshot.mac_ageing = Duration::from_secs(ageing));
        switch.now += Duration::from_secs(ageing - 1);
        switch.send(&c[0], &ping(&c[0], &c[1]));
        one(&c[1]);
        nothing(&c[2]);
        switch.now += Duration::from_secs(3);
        switch.send(&c[0], &ping(&c[0], &c[1]));
        one(&c[1]);
        one(&c[2]); // traffic to a station does not refresh it
        switch.send(&c[1], &ping(&c[1], &c[0]));
        nothing(&c[2]);
        one(&c[0]);
        // Frames from it do, for as long as they come.
        for _ in 0..5 {
            switch.now += Duration::from_secs(ageing - 2);
            switch.send(&c[1], &ping(&c[1], &c[0]));
            received(&c[0]);
            received(&c[2]);
            switch.send(&c[0], &ping(&c[0], &c[1]));
            one(&c[1]);
            nothing(&c[2]);
        }
        settle(&switch);
    }
}

#[test]
fn row_07_a_station_moves_with_its_first_frame() {
    let (mut switch, c) = lan(3);
    let moved = Macs { src: c[1].mac, dst: c[0].mac };
    let to_it = packet::udp(between(&c[0], &c[1]), c[0].at(1), c[1].at(2), b"x");
    let (mut here, mut there) = (&c[1], &c[2]);
    // Ten thousand frames a second to a station that moves to and fro, a thousand frames apart.
    for _ in 0..5 {
        for _ in 0..1000 {
            switch.now += Duration::from_micros(100);
            switch.send(&c[0], &to_it);
            assert_eq!(one(here), to_it);
            nothing(there);
        }
        switch.send(there, &packet::frame(moved, 0x1234, b"I am here now"));
        one(&c[0]);
        (here, there) = (there, here);
    }
    switch.send(&c[0], &to_it);
    one(here);
    nothing(there);
    settle(&switch);
}

#[test]
fn row_08_a_static_entry_neither_moves_nor_ages() {
    let (mut switch, c) = lan(3);
    assert!(network(&switch).fdb.add_static(c[1].mac, c[1].id, switch.now));
    for _ in 0..100 {
        switch.send(&c[2], &packet::frame(Macs { src: c[1].mac, dst: c[0].mac }, 0x1234, b"mine now"));
        one(&c[0]);
        assert_eq!(place(&switch, c[1].mac), Place::Port(c[1].id));
    }
    switch.pass(Duration::from_secs(1000), Duration::from_secs(1));
    switch.send(&c[0], &packet::frame(between(&c[0], &c[1]), 0x1234, b"x"));
    one(&c[1]);
    nothing(&c[2]);
    assert_eq!(network(&switch).fdb.flush(None), 1, "the sender's own");
    assert_eq!(place(&switch, c[1].mac), Place::Port(c[1].id));
    settle(&switch);
}

#[test]
fn row_09_a_port_cannot_speak_as_the_gateway() {
    let (mut switch, c) = lan(2);
    let before = learned(&switch);
    let echo = packet::echo(via(&c[1]), c[1].ip, Ipv4Addr::new(172, 30, 0, 1), true, 1, b"still there?");
    for n in 0..1000 {
        switch.now += Duration::from_millis(1);
        let dst = [c[1].mac, MacAddr::BROADCAST, stranger(1), c[0].gateway_mac][n % 4];
        switch.send(&c[0], &packet::frame(Macs { src: c[0].gateway_mac, dst }, 0x1234, b"x"));
        nothing(&c[1]);
        switch.send(&c[1], &echo);
        assert_eq!(read(&one(&c[1])).payload, b"still there?");
    }
    assert_eq!((switch.drops(DropReason::SpoofedGateway), learned(&switch)), (1000, before));
    assert_eq!(place(&switch, c[0].gateway_mac), Place::Local);
    settle(&switch);
}

#[test]
fn row_10_a_flood_of_sources_leaves_the_other_ports_entries_alone() {
    let (mut switch, c) = lan(6);
    // Two others with many stations, and two ports that flood.
    let of = |n: u32| &c[if n.is_multiple_of(2) { 2 } else { 3 }];
    for n in 0..600 {
        let port = of(n);
        switch.send(port, &packet::frame(Macs { src: stranger(n), dst: port.gateway_mac }, 0x1234, b""));
    }
    for n in 0..100_000 {
        let attacker = &c[if n % 2 == 0 { 0 } else { 1 }];
        let src = stranger(1_000_000 + n);
        switch.send(attacker, &packet::frame(Macs { src, dst: c[5].mac }, 0x1234, b""));
    }
    for c in &c[2..] {
        received(c);
    }
    assert!((0..600).all(|n| place(&switch, stranger(n)) == Place::Port(of(n).id)));
    for station in &c[2..] {
        assert_eq!(place(&switch, station.mac), Place::Port(station.id));
    }
    assert!(learned(&switch) <= 600 + 2 * 1024 + 4, "{} entries", learned(&switch));
    // The flooder keeps its latest, and others still get new ones.
    assert_eq!(place(&switch, stranger(1_099_999)), Place::Port(c[1].id));
    switch.send(&c[4], &packet::frame(Macs { src: stranger(3000), dst: c[5].mac }, 0x1234, b""));
    assert_eq!(place(&switch, stranger(3000)), Place::Port(c[4].id));
    received(&c[5]);
    settle(&switch);
}

#[test]
fn a_flood_of_sources_hears_nothing_of_the_others() {
    let (mut switch, c) = lan(3);
    let (client, server, attacker) = (&c[0], &c[1], &c[2]);
    // Whatever it sends to, there and back goes between the two alone.
    let targets = [stranger(0xffff_ffff), MacAddr::BROADCAST, client.mac];
    for n in 0..10_000u32 {
        for (k, dst) in (0..10).zip(targets.iter().cycle().copied()) {
            let macs = Macs { src: stranger(n * 10 + k), dst };
            attacker.device.push(&packet::frame(macs, 0x1234, b"flood"), Offload::NONE);
        }
        switch.now += Duration::from_micros(100);
        switch.run();
        let (from, to) = if n % 2 == 0 { (client, server) } else { (server, client) };
        received(to);
        let frame = packet::udp(between(from, to), from.at(1), to.at(2), &n.to_be_bytes());
        switch.send(from, &frame);
        assert_eq!(one(to), frame);
        nothing(attacker);
        received(from);
    }
    assert!(learned(&switch) <= 1024 + 2, "{} entries", learned(&switch));
    settle(&switch);
}

#[test]
fn row_11_no_kind_of_frame_crosses_to_another_network() {
    let (mut switch, c) = lan(2);
    let other = switch.add_network("172.31.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let victims: Vec<_> = (0..3).map(|_| switch.add_port(other)).collect();
    victims.iter().for_each(|victim| switch.resolve(victim));
    let victim = &victims[0];
    let own = (c[0].mac, c[0].ip);
    let to = |dst| Macs { src: c[0].mac, dst };
    let group = MacAddr([0x01, 0, 0x5e, 0, 0, 0xfb]);
    let kinds = [
        packet::udp(to(victim.mac), c[0].at(1), victim.at(2), b"unicast"),
        packet::udp(to(MacAddr::BROADCAST), c[0].at(1), Endpoint::new(Ipv4Addr::BROADCAST, 2), b"broadcast"),
        packet::udp(to(group), c[0].at(1), Endpoint::new(Ipv4Addr::new(224, 0, 0, 251), 5353), b"multicast"),
        packet::arp(to(MacAddr::BROADCAST), 1, own, (MacAddr::ZERO, victim.ip)),
        packet::frame(to(victim.mac), 0x88b5, b"not IP"),
        packet::frame(to(MacAddr([0x33, 0x33, 0, 0, 0, 1])), 0x86dd, &[0x60; 60]),
        packet::udp(via(&c[0]), c[0].at(1), victim.at(2), b"by the gateway"),
    ];
    let vids = [0, 1, 2, 3, 7, 8, 10, 99, 100, 512, 1000, 1024, 2048, 4094, 4095u16];
    for kind in &kinds {
        for vid in std::iter::once(None).chain(vids.map(Some)) {
            for tpid in [0x8100u16, 0x88a8] {
                let mut frame = kind.clone();
                if let Some(vid) = vid {
                    frame.splice(12..12, [tpid.to_be_bytes(), vid.to_be_bytes()].concat());
                }
                switch.send(&c[0], &frame);
            }
        }
    }
    victims.iter().for_each(nothing);
    assert_eq!(switch.drops(DropReason::Isolated), 3, "by the gateway, untagged or with a priority tag");
    received(&c[1]);
    settle(&switch);
}

#[test]
fn row_12_tagged_frames_are_carried_unchanged() {
    let (mut switch, c) = lan(3);
    c[..2].iter().for_each(|c| switch.secure(c));
    let tags: [&[u8]; 8] = [
        &[0x81, 0x00, 0x00, 0x07],
        &[0x81, 0x00, 0xef, 0xff], // priority 7, VID 4095
        &[0x88, 0xa8, 0x0f, 0xff],
        &[0x81, 0x00, 0x00, 0x00], // a priority tag
        &[0x81, 0x00, 0xe0, 0x00],
        &[0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x00, 0x07], // double
        &[0x81, 0x00, 0x00, 0x01, 0x81, 0x00, 0x00, 0x02],
        &[0x81, 0x00, 0x00, 0x00, 0x81, 0x00, 0x00, 0x02],
    ];
    for tag in tags {
        for kind in [
            packet::frame(between(&c[0], &c[1]), 0x88b5, b"payload"),
            packet::udp(between(&c[0], &c[1]), c[0].at(1), c[1].at(2), b"payload"),
            packet::frame(between(&c[0], &c[1]), 0x0800, b"payload"),
        ] {
            let mut frame = kind;
            frame.splice(12..12, tag.iter().copied());
            switch.send(&c[0], &frame);
            assert_eq!(one(&c[1]), frame);
            nothing(&c[2]);
        }
    }
    settle(&switch);
}

#[test]
fn row_12_the_gateway_and_the_uplink_take_a_priority_tag_for_none() {
    let (mut switch, c, router) = Switch::with_uplink();
    let tagged = |mut frame: Vec<u8>, tci: [u8; 2]| {
        frame.splice(12..12, [0x81, 0x00, tci[0], tci[1]]);
        frame
    };
    let (priority, vlan) = ([0xe0, 0], [0, 7]);
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let ask =
        packet::arp(Macs { src: c.mac, dst: MacAddr::BROADCAST }, 1, (c.mac, c.ip), (MacAddr::ZERO, gateway));
    switch.send(&c, &tagged(ask.clone(), priority));
    assert_eq!(one(&c)[12..14], [0x08, 0x06], "who has no queues answers without a tag");
    switch.send(&c, &tagged(packet::echo(via(&c), c.ip, gateway, true, 7, b"x"), priority));
    assert_eq!(one(&c)[12..14], [0x08, 0x00]);
    let out = packet::udp(via(&c), c.at(5000), server(53), b"out");
    switch.send(&c, &tagged(out.clone(), priority));
    let seen = read(&one(&router));
    assert_eq!((seen.dst, &*seen.payload), (server(53), &b"out"[..]));
    let back = packet::udp(via(&router), server(53), seen.src, b"back");
    switch.send(&router, &tagged(back.clone(), priority));
    assert_eq!(read(&one(&c)).dst, c.at(5000));

    // A VLAN is another matter.
    switch.send(&c, &tagged(out, vlan));
    switch.send(&router, &tagged(back, vlan));
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::NotForGateway), 1);
    settle(&switch);
}

#[test]
fn row_13_a_frame_over_the_mtu_is_dropped_whole_and_a_super_frame_is_measured_by_its_packets() {
    let (mut switch, c) = lan(2);
    // 1514, 1515 and 9014 bytes as a capture shows them; tags do not count.
    for (len, passes) in [(1500, true), (1501, false), (9000, false)] {
        switch.send(&c[0], &packet::frame(between(&c[0], &c[1]), 0x1234, &vec![7; len]));
        assert_eq!(received(&c[1]).len(), usize::from(passes), "{len}");
    }
    let partial = Checksum::Partial { start: 34, offset: 16 };
    for (size, passes) in [(1460, true), (1461, false)] {
        let header = Tcp { flags: ACK, ..Tcp::default() };
        let frame = packet::tcp(between(&c[0], &c[1]), c[0].at(1), c[1].at(2), header, &[1; 20_000]);
        let offload =
            Offload { checksum: partial, segment: Segment::Tcp4 { size, ecn: false }, header_len: 0 };
        switch.send_promising(&c[0], &frame, offload);
        let got = c[1].device.pop();
        assert_eq!(got.is_some(), passes, "segments of {size}");
        if let Some((bytes, promises)) = got {
            assert_eq!(bytes, frame, "it crosses in one piece");
            assert_eq!(promises, Offload { header_len: 54, ..offload }, "with its promises, made exact");
        }
    }
    assert_eq!(switch.drops(DropReason::OverMtu), 3);
    settle(&switch);
}

#[test]
fn row_14_a_port_that_is_removed_takes_its_entries_along() {
    let (mut switch, c) = lan(3);
    let to_it = packet::udp(between(&c[0], &c[1]), c[0].at(1), c[1].at(2), b"x");
    switch.send(&c[0], &to_it);
    one(&c[1]);
    // As control does it.
    let fdb = network(&switch).fdb.clone();
    switch.shared.publish(|snapshot| snapshot.remove_port(c[1].id));
    fdb.remove_port(c[1].id);
    assert_eq!(place(&switch, c[1].mac), Place::Unknown);
    switch.send(&c[0], &to_it);
    nothing(&c[1]);
    assert_eq!(one(&c[2]), to_it, "it is looked for");
    // One whose device is down keeps its place, so that nobody else hears what is for it.
    c[2].device.set_condition(Condition::Down);
    switch.send(&c[0], &packet::frame(between(&c[0], &c[2]), 0x1234, b"x"));
    nothing(&c[2]);
    assert_eq!(switch.drops(DropReason::EgressDown), 1);
}

/// Numbered datagrams of several flows in bursts of many lengths, each flow's in order and once at the other side.
fn expect_order(flows: u16, each: u32) {
    let (mut switch, c) = lan(2);
    let mut next = vec![0; usize::from(flows)];
    let (mut sent, mut arrived) = (0, 0);
    let mut expected = vec![0; usize::from(flows)];
    for burst in 0.. {
        if sent == u32::from(flows) * each {
            break;
        }
        for n in 0..1 + burst % 97 {
            let flow = usize::try_from((burst + n / 3) % u32::from(flows)).unwrap();
            if next[flow] == each {
                continue;
            }
            let number: u32 = next[flow];
            next[flow] += 1;
            let source = c[0].at(1000 + u16::try_from(flow).unwrap());
            let payload = [number.to_be_bytes().as_slice(), &[0; 96]].concat();
            let frame = packet::udp(between(&c[0], &c[1]), source, c[1].at(2), &payload);
            c[0].device.push(&frame, Offload { checksum: Checksum::Valid, ..Offload::NONE });
            sent += 1;
        }
        switch.now += Duration::from_millis(1);
        switch.run();
        while let Some((frame, _)) = c[1].device.pop() {
            let flow = usize::from(u16::from_be_bytes([frame[34], frame[35]]) - 1000);
            for datagram in frame[42..].chunks(100) {
                assert_eq!(datagram[..4], u32::to_be_bytes(expected[flow]), "flow {flow}");
                expected[flow] += 1;
                arrived += 1;
            }
        }
    }
    assert_eq!((arrived, sent), (u32::from(flows) * each, u32::from(flows) * each));
    settle(&switch);
}

#[test]
fn row_15_frames_of_a_flow_arrive_in_order_and_once() {
    expect_order(1, 50_000);
    expect_order(64, 1_000);
}

#[test]
fn row_16_a_storm_is_cut_down_and_leaves_others_alone() {
    let (mut switch, c) = lan(4);
    let kinds = [
        (MacAddr::BROADCAST, DropReason::StormBroadcast),
        (MacAddr([0x33, 0x33, 0, 0, 0, 1]), DropReason::StormMulticast),
        (stranger(1), DropReason::StormUnknown),
    ];
    let talk = packet::udp(between(&c[1], &c[2]), c[1].at(1), c[2].at(2), b"unicast");
    for (dst, reason) in kinds {
        let storm = packet::frame(Macs { src: c[0].mac, dst }, 0x88b5, b"storm");
        let (mut heard, mut got) = (0, 0);
        // A hundred thousand a second, for two seconds.
        for _ in 0..2000 {
            (0..100).for_each(|_| c[0].device.push(&storm, Offload::NONE));
            c[1].device.push(&talk, Offload::NONE);
            switch.now += Duration::from_millis(1);
            switch.run();
            heard += received(&c[3]).len();
            got += received(&c[2]).iter().filter(|frame| **frame == talk).count();
            received(&c[1]);
        }
        // What may come at once, and two seconds' worth.
        assert!((15_000 - 5..=15_000 + 5).contains(&heard), "{reason}: {heard}");
        assert_eq!((switch.drops(reason), got), (200_000 - heard as u64, 2000), "{reason}");
    }
    // Another limit, and none.
    switch.change_port(&c[0], |port| port.policing.broadcast = 10);
    switch.change_port(&c[1], |port| port.policing.broadcast = 0);
    switch.now += Duration::from_secs(2);
    for (from, expected) in [(&c[0], 10), (&c[1], 6000)] {
        for _ in 0..6000 {
            switch.send(from, &packet::frame(Macs { src: from.mac, dst: MacAddr::BROADCAST }, 0x88b5, b"x"));
        }
        assert_eq!(received(&c[3]).len(), expected);
    }
    settle(&switch);
}

#[test]
fn row_16_a_storm_is_counted_by_its_packets_and_by_what_it_makes_the_gateway_send() {
    let (mut switch, c) = lan(2);
    switch.change_port(&c[0], |port| port.policing.multicast = 100);
    let group = Endpoint::new(Ipv4Addr::new(239, 1, 1, 1), 2);
    let macs = Macs { src: c[0].mac, dst: MacAddr([1, 0, 0x5e, 1, 1, 1]) };
    let frame = packet::udp(macs, c[0].at(1), group, &[0; 4000]);
    let checksum = Checksum::Partial { start: 34, offset: 6 };
    for _ in 0..10 {
        let offload = Offload { checksum, segment: Segment::Udp { size: 100 }, header_len: 42 };
        switch.send_promising(&c[0], &frame, offload);
    }
    assert_eq!(switch.drops(DropReason::StormMulticast), 7, "three of forty packets each");
    // ARP requests for dead addresses are broadcasts on the asker's account.
    switch.change_port(&c[0], |port| port.policing.broadcast = 5);
    received(&c[1]);
    for n in 0..100 {
        let dead = Endpoint::new(Ipv4Addr::new(172, 30, 9, n), 9);
        switch.send(&c[0], &packet::udp(via(&c[0]), c[0].at(1), dead, b"x"));
    }
    assert_eq!(received(&c[1]).len(), 5);
    settle(&switch);
}

#[test]
fn row_16_a_flapping_station_stays_where_it_is_after_a_while() {
    let (mut switch, c) = lan(3);
    let claim = |switch: &mut Switch, from: &Station| {
        switch.send(from, &packet::frame(Macs { src: c[0].mac, dst: c[2].mac }, 0x88b5, b"mine"));
        received(&c[2]).len()
    };
    let begun = switch.shared.epoch().now();
    let mut passed = 0;
    for _ in 0..20_000 {
        switch.now += Duration::from_micros(500);
        passed += claim(&mut switch, &c[1]) + claim(&mut switch, &c[0]);
    }
    let moves = switch.shared.epoch().now() - begun;
    // A hundred at once and ten a second for ten seconds, from either port.
    assert!((380..=420).contains(&moves), "{moves} moves");
    assert_eq!(switch.drops(DropReason::MacFlap), 40_000 - passed as u64);
    settle(&switch);
}

#[test]
fn promises_that_contradict_the_frame_are_refused() {
    let (mut switch, c) = lan(2);
    let frame = packet::udp(between(&c[0], &c[1]), c[0].at(1), c[1].at(2), b"x");
    let partial = |start, offset| Checksum::Partial { start, offset };
    for (checksum, segment) in [
        (partial(60_000, 6), Segment::None),
        (partial(34, 60), Segment::None),
        (partial(0, 6), Segment::None),
        (Checksum::Complete, Segment::Udp { size: 1 }),
        (partial(34, 6), Segment::Udp { size: 0 }),
        (partial(40, 1), Segment::Tcp4 { size: 100, ecn: false }),
    ] {
        switch.send_promising(&c[0], &frame, Offload { checksum, segment, header_len: 0 });
    }
    nothing(&c[1]);
    assert_eq!(switch.drops(DropReason::BadOffload), 6);
    settle(&switch);
}

#[test]
fn a_port_that_takes_nothing_costs_a_counted_drop() {
    let (mut switch, c) = lan(2);
    let conditions = [
        (Condition::Full, DropReason::EgressFull),
        (Condition::Down, DropReason::EgressDown),
        (Condition::Gone, DropReason::PortGone),
    ];
    for (condition, reason) in conditions {
        c[1].device.set_condition(condition);
        switch.send(&c[0], &packet::frame(between(&c[0], &c[1]), 0x1234, b"x"));
        assert_eq!(switch.drops(reason), 1, "{reason}");
        settle(&switch);
    }
}

/// Datagrams, pushed together so that they are one burst.
fn burst(switch: &mut Switch, from: &Station, to: &Station, count: u8) -> u64 {
    let datagrams = (0..count).map(|n| packet::udp(between(from, to), from.at(1), to.at(2), &[n; 100]));
    let lengths = datagrams.map(|datagram| {
        from.device.push(&datagram, Offload { checksum: Checksum::Valid, ..Offload::NONE });
        datagram.len() as u64
    });
    let bytes = lengths.sum();
    switch.run();
    bytes
}

#[test]
fn merged_frames_are_counted_as_the_frames_that_they_were() {
    let (mut switch, c) = lan(2);
    // A port has to have shown that it has many frames before many are asked for at once.
    let bytes = burst(&mut switch, &c[0], &c[1], 60);
    let (mut frames, mut datagrams) = (0, 0);
    while let Some((frame, offload)) = c[1].device.pop() {
        frames += 1;
        datagrams += (frame.len() - 42) / 100;
        let merged = (frame.len() > 142).then_some(Segment::Udp { size: 100 });
        assert_eq!(offload.segment, merged.unwrap_or_default());
    }
    assert!(frames < 10 && datagrams == 60, "{datagrams} datagrams in {frames} frames");
    let sent = switch.shared.snapshot().port(c[1].id).unwrap().counters.totals();
    assert_eq!((sent.tx_packets, sent.tx_bytes, sent.tx_coalesced), (60, bytes, 60 - frames));
    settle(&switch);
}

#[test]
fn a_merged_frame_that_is_not_taken_is_as_many_drops_as_went_into_it() {
    let (mut switch, c) = lan(2);
    for (condition, reason) in
        [(Condition::Full, DropReason::EgressFull), (Condition::Gone, DropReason::PortGone)]
    {
        c[1].device.set_condition(condition);
        burst(&mut switch, &c[0], &c[1], 10);
        assert_eq!(switch.drops(reason), 10, "{reason}");
        settle(&switch);
    }
}
