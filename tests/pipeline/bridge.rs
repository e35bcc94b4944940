//! Section A: the bridge.

use crate::*;

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
    let stranger = MacAddr([0x02, 0xaa, 0, 0, 0, 1]);
    let multicast = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    for dst in [stranger, MacAddr::BROADCAST, multicast] {
        let frame = packet::frame(Macs { src: c[0].mac, dst }, 0x86dd, b"hello");
        switch.send(&c[0], &frame);
        nothing(&c[0]);
        for other in &c[1..] {
            assert_eq!(one(other), frame);
        }
    }
    settle(&switch);
}

#[test]
fn row_03_a_source_that_is_no_station_is_dropped_and_not_learned() {
    let (mut switch, c) = lan(2);
    for src in [MacAddr([1, 2, 3, 4, 5, 6]), MacAddr::BROADCAST, MacAddr::ZERO] {
        switch.send(&c[0], &packet::frame(Macs { src, dst: c[1].mac }, 0x0800, b""));
    }
    nothing(&c[1]);
    assert_eq!(switch.drops(DropReason::BadSourceMac), 3);
    settle(&switch);
}

#[test]
fn row_04_reserved_group_addresses_are_not_relayed_and_the_next_ones_are() {
    let (mut switch, c) = lan(2);
    for last in 0..0x30 {
        let dst = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
        switch.send(&c[0], &packet::frame(Macs { src: c[0].mac, dst }, 0x88cc, &[last]));
    }
    assert_eq!(received(&c[1]).len(), 0x20);
    assert_eq!(switch.drops(DropReason::ReservedGroup), 0x10);
    settle(&switch);
}

#[test]
fn row_06_an_address_ages_unless_its_station_speaks() {
    let (mut switch, c) = lan(3);
    let ping = |from: &Station, to: &Station| packet::frame(between(from, to), 0x1234, b"x");
    switch.now += Duration::from_secs(299);
    switch.send(&c[0], &ping(&c[0], &c[1]));
    one(&c[1]);
    nothing(&c[2]);
    switch.now += Duration::from_secs(3);
    switch.send(&c[0], &ping(&c[0], &c[1]));
    one(&c[1]);
    one(&c[2]); // traffic to a station does not refresh it
    switch.send(&c[1], &ping(&c[1], &c[0]));
    nothing(&c[2]);
    settle(&switch);
}

#[test]
fn row_07_a_station_moves_with_its_first_frame() {
    let (mut switch, c) = lan(3);
    let moved = Macs { src: c[1].mac, dst: c[0].mac };
    switch.send(&c[2], &packet::frame(moved, 0x1234, b"I am here now"));
    received(&c[0]);
    switch.send(&c[0], &packet::frame(between(&c[0], &c[1]), 0x1234, b"x"));
    nothing(&c[1]);
    one(&c[2]);
    settle(&switch);
}

#[test]
fn row_09_a_port_cannot_speak_as_the_gateway() {
    let (mut switch, c) = lan(2);
    let spoof = Macs { src: c[0].gateway_mac, dst: c[1].mac };
    switch.send(&c[0], &packet::frame(spoof, 0x1234, b"x"));
    nothing(&c[1]);
    assert_eq!(switch.drops(DropReason::SpoofedGateway), 1);
    let echo = packet::echo(via(&c[1]), c[1].ip, Ipv4Addr::new(172, 30, 0, 1), true, 1, b"still there?");
    switch.send(&c[1], &echo);
    one(&c[1]);
    settle(&switch);
}

#[test]
fn row_12_tagged_frames_are_carried_unchanged() {
    let (mut switch, c) = lan(2);
    for tag in [[0x81, 0x00, 0x00, 0x07], [0x88, 0xa8, 0x0f, 0xff], [0x81, 0x00, 0x00, 0x00]] {
        let mut frame = packet::frame(between(&c[0], &c[1]), 0x0800, b"payload");
        frame.splice(12..12, tag);
        switch.send(&c[0], &frame);
        assert_eq!(one(&c[1]), frame);
    }
    settle(&switch);
}

#[test]
fn row_13_a_frame_over_the_mtu_is_dropped_whole_and_a_super_frame_is_measured_by_its_packets() {
    let (mut switch, c) = lan(2);
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
