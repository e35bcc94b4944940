//! The pipeline through memory ports in virtual time: no root, no threads, no clock.
//!
//! Every test ends by asking whether the books balance: frames in = frames out + drops.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test that panics says so

use std::net::Ipv4Addr;
use std::time::Duration;

use vswitchd::addr::{Endpoint, MacAddr, PortId, Protocol};
use vswitchd::drops::DropReason;
use vswitchd::frame::{Checksum, Offload, Segment};
use vswitchd::port::memory::Condition;
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, ROUTER, ROUTER_MAC, SERVER, Station, Switch, UPLINK_MAC};
use vswitchd::snapshot::{NetworkMode, UplinkMode};
use vswitchd::wire::icmpv4::{Error, is_error};
use vswitchd::wire::ipv4::Ipv4;
use vswitchd::wire::transport::{ACK, FIN, RST, SYN, Transport};

const SECOND: Duration = Duration::from_secs(1);

fn server(port: u16) -> Endpoint {
    Endpoint::new(SERVER, port)
}

fn external(port: u16) -> Endpoint {
    Endpoint::new(EXTERNAL, port)
}

/// From a station to its gateway; for the router, to the uplink.
fn via(station: &Station) -> Macs {
    Macs { src: station.mac, dst: station.gateway_mac }
}

fn between(from: &Station, to: &Station) -> Macs {
    Macs { src: from.mac, dst: to.mac }
}

/// What a frame says, after its checksums were found right.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    src: Endpoint,
    dst: Endpoint,
    ttl: u8,
    payload: Vec<u8>,
}

/// Reads a frame with an independent library, and sees that all its checksums are right.
fn read(frame: &[u8]) -> Seen {
    let parsed = etherparse::PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4: {parsed:?}") };
    assert_eq!(ip.calc_header_checksum(), ip.header_checksum, "IP header checksum");
    let payload = parsed.payload.slice();
    let (src_port, dst_port) = match parsed.transport.expect("a transport") {
        etherparse::TransportHeader::Udp(udp) => {
            let right = udp.calc_checksum_ipv4(&ip, payload).unwrap();
            assert!(udp.checksum == 0 || udp.checksum == right, "UDP checksum");
            (udp.source_port, udp.destination_port)
        }
        etherparse::TransportHeader::Tcp(tcp) => {
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload).unwrap(), "TCP checksum");
            (tcp.source_port, tcp.destination_port)
        }
        etherparse::TransportHeader::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload), "ICMP checksum");
            match icmp.icmp_type {
                etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                _ => (0, 0),
            }
        }
        other => panic!("unexpected transport {other:?}"),
    };
    Seen {
        src: Endpoint::new(ip.source.into(), src_port),
        dst: Endpoint::new(ip.destination.into(), dst_port),
        ttl: ip.time_to_live,
        payload: payload.to_vec(),
    }
}

fn received(station: &Station) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| station.device.pop()).map(|(bytes, _)| bytes).collect()
}

/// The one frame that a station received.
fn one(station: &Station) -> Vec<u8> {
    let mut frames = received(station);
    assert_eq!(frames.len(), 1, "frames at {}: {frames:02x?}", station.ip);
    frames.remove(0)
}

fn nothing(station: &Station) {
    assert_eq!(received(station), Vec::<Vec<u8>>::new(), "at {}", station.ip);
}

/// Type and code of the ICMP error in a frame, and the packet that it quotes.
fn icmp_error(frame: &[u8]) -> (u8, u8, Vec<u8>) {
    let ip = Ipv4::parse(&frame[14..]).expect("an IPv4 packet");
    let message = &frame[14 + ip.header_len..14 + ip.total_len];
    assert_eq!(vswitchd::wire::checksum::checksum(message), 0, "ICMP checksum");
    assert!(is_error(message[0]), "not an ICMP error: {message:02x?}");
    (message[0], message[1], message[8..].to_vec())
}

/// A network with `count` containers whose places are known.
fn lan(count: usize) -> (Switch, Vec<Station>) {
    let mut switch = Switch::new(1000);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let stations: Vec<_> = (0..count).map(|_| switch.add_port(network)).collect();
    stations.iter().for_each(|station| switch.resolve(station));
    (switch, stations)
}

fn settle(switch: &Switch) {
    assert_eq!(switch.imbalance(), 0, "{:?}", switch.totals());
}

// ---- switching ----

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
    let bytes = burst(&mut switch, &c[0], &c[1], 10);
    let (frame, offload) = c[1].device.pop().unwrap();
    assert_eq!((frame.len(), offload.segment), (42 + 10 * 100, Segment::Udp { size: 100 }));
    nothing(&c[1]);
    let sent = switch.shared.snapshot().port(c[1].id).unwrap().counters.totals();
    assert_eq!((sent.tx_packets, sent.tx_bytes, sent.tx_super, sent.tx_coalesced), (10, bytes, 1, 9));
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

// ---- the gateway ----

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

#[test]
fn row_43_the_gateway_answers_echo() {
    let (mut switch, c) = lan(1);
    for size in [0, 1, 56, 1472] {
        let gateway = Ipv4Addr::new(172, 30, 0, 1);
        switch.send(&c[0], &packet::echo(via(&c[0]), c[0].ip, gateway, true, 77, &vec![5; size]));
        let seen = read(&one(&c[0]));
        assert_eq!(
            seen,
            Seen { src: Endpoint::new(gateway, 0), dst: c[0].at(77), ttl: 64, payload: vec![5; size] }
        );
    }
    settle(&switch);
}

#[test]
fn the_gateway_answers_echo_for_the_host_whose_address_it_shares() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::echo(via(&c), c.ip, EXTERNAL, true, 7, b"host?"));
    let seen = read(&one(&c));
    assert_eq!((seen.src.ip, seen.payload), (EXTERNAL, b"host?".to_vec()));
    let internal = switch.add_network("10.9.0.0/16".parse().unwrap(), NetworkMode::Internal);
    let d = switch.add_port(internal);
    switch.send(&d, &packet::echo(via(&d), d.ip, EXTERNAL, true, 7, b"host?"));
    assert_eq!(icmp_error(&one(&d)).0, 3, "an internal network has no way there");
    nothing(&router);
    settle(&switch);
}

#[test]
fn a_service_that_the_gateway_has_not_is_unreachable() {
    let (mut switch, c) = lan(1);
    let gateway = Endpoint::new(Ipv4Addr::new(172, 30, 0, 1), 53);
    let question = packet::udp(via(&c[0]), c[0].at(1000), gateway, b"?");
    switch.send(&c[0], &question);
    let (kind, code, quoted) = icmp_error(&one(&c[0]));
    assert_eq!((kind, code), (3, 3));
    assert_eq!(quoted, question[14..]);
    settle(&switch);
}

// ---- forwarding ----

#[test]
fn row_26_a_ttl_that_runs_out_is_told_from_the_side_it_came_from() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Udp, 53, &c, 53);
    let with_ttl = |mut frame: Vec<u8>, ttl| {
        vswitchd::wire::edit::set_ttl(&mut frame[14..], ttl);
        frame
    };
    for ttl in [0, 1] {
        switch.send(&c, &with_ttl(packet::udp(via(&c), c.at(1), server(2), b"x"), ttl));
        let told = one(&c);
        assert_eq!(icmp_error(&told).0, 11);
        assert_eq!(Ipv4::parse(&told[14..]).unwrap().src, Ipv4Addr::new(172, 30, 0, 1));
        switch.send(&router, &with_ttl(packet::udp(via(&router), server(2), external(53), b"x"), ttl));
        let told = one(&router);
        assert_eq!(icmp_error(&told).0, 11);
        assert_eq!(Ipv4::parse(&told[14..]).unwrap().src, EXTERNAL);
    }
    switch.send(&c, &with_ttl(packet::udp(via(&c), c.at(1), server(2), b"x"), 2));
    assert_eq!(read(&one(&router)).ttl, 1);
    assert_eq!(switch.drops(DropReason::TtlExceeded), 4);
    settle(&switch);
}

#[test]
fn row_27_bad_headers_are_dropped_in_silence() {
    let (mut switch, c, router) = Switch::with_uplink();
    let good = packet::udp(via(&c), c.at(1), server(2), b"x");
    for (at, value) in [(14, 0x65), (14, 0x44), (17, 0xff), (24, 0x00)] {
        let mut bad = good.clone();
        bad[at] = value;
        switch.send(&c, &bad);
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::BadIpv4), 4);
    settle(&switch);
}

#[test]
fn row_28_what_stands_behind_the_packet_is_not_forwarded() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mut frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    let len = frame.len();
    frame.extend([0xee; 500]);
    switch.send(&c, &frame);
    assert_eq!(one(&router).len(), len);
    settle(&switch);
}

#[test]
fn row_29_a_link_broadcast_is_not_routed() {
    let (mut switch, c, router) = Switch::with_uplink();
    let macs = Macs { src: c.mac, dst: MacAddr::BROADCAST };
    switch.send(&c, &packet::udp(macs, c.at(1), server(2), b"x"));
    nothing(&router);
    settle(&switch);
}

#[test]
fn rows_30_to_33_addresses_that_are_never_forwarded() {
    let (mut switch, c, router) = Switch::with_uplink();
    let ip = |a, b, c, d| Ipv4Addr::new(a, b, c, d);
    let destinations = [
        ip(255, 255, 255, 255),
        ip(172, 30, 255, 255),
        ip(172, 30, 0, 0),
        ip(224, 0, 0, 1),
        ip(240, 0, 0, 1),
        ip(127, 0, 0, 1),
        ip(169, 254, 1, 1),
        ip(0, 0, 0, 0),
    ];
    for dst in destinations {
        switch.send(&c, &packet::udp(via(&c), c.at(1), Endpoint::new(dst, 9), b"x"));
    }
    assert_eq!(switch.drops(DropReason::MartianDestination), destinations.len() as u64);
    let gateway = ip(172, 30, 0, 1);
    for src in
        [ip(0, 0, 0, 0), ip(127, 0, 0, 1), ip(224, 1, 1, 1), ip(255, 255, 255, 255), ip(169, 254, 1, 1)]
    {
        switch.send(&c, &packet::udp(via(&c), Endpoint::new(src, 1), server(9), b"x"));
        switch.send(&router, &packet::udp(via(&router), Endpoint::new(src, 1), external(62_000), b"x"));
    }
    assert_eq!(switch.drops(DropReason::MartianSource), 10);
    for src in [gateway, EXTERNAL, SERVER, ip(172, 30, 255, 255)] {
        switch.send(&c, &packet::udp(via(&c), Endpoint::new(src, 1), server(9), b"x"));
    }
    assert_eq!(switch.drops(DropReason::ForeignSource), 4);
    nothing(&c);
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_34_nobody_outside_routes_into_a_network() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&router, &packet::udp(via(&router), server(1), c.at(2), b"x"));
    nothing(&c);
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    settle(&switch);
}

#[test]
fn row_35_no_error_about_an_error() {
    let (mut switch, c, router) = Switch::with_uplink();
    let quoted = packet::udp(via(&c), server(1), c.at(2), b"x");
    let mut error = packet::icmp_error(via(&c), c.ip, SERVER, Error::PortUnreachable, &quoted[14..]);
    vswitchd::wire::edit::set_ttl(&mut error[14..], 1);
    switch.send(&c, &error);
    nothing(&c);
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_36_errors_are_rate_limited_and_echo_is_not() {
    let (mut switch, c, _router) = Switch::with_uplink();
    let mut frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    vswitchd::wire::edit::set_ttl(&mut frame[14..], 1);
    for _ in 0..50_000 {
        switch.send(&c, &frame);
        switch.now += Duration::from_micros(20);
    }
    let errors = received(&c).len();
    assert!((900..=1101).contains(&errors), "{errors} errors in one second");
    switch.send(&c, &packet::echo(via(&c), c.ip, Ipv4Addr::new(172, 30, 0, 1), true, 1, b""));
    one(&c);
    settle(&switch);
}

#[test]
fn row_38_too_big_with_df_is_told_the_mtu() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.shared.publish(|snapshot| {
        let uplink = std::sync::Arc::make_mut(snapshot.uplink.as_mut().unwrap());
        uplink.mtu = 1280;
    });
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), &[0; 1253]));
    let told = one(&c);
    assert_eq!((icmp_error(&told).0, icmp_error(&told).1), (3, 4));
    assert_eq!(&told[38..42], &[0, 0, 5, 0], "the next link's MTU is 1280");
    nothing(&router);
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), &[0; 1252]));
    one(&router);
    settle(&switch);
}

#[test]
fn fragments_are_dropped_by_name() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mut frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    frame[20] = 0x20; // more fragments
    frame[24] = 0;
    frame[25] = 0;
    let sum = vswitchd::wire::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    switch.send(&c, &frame);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::Fragment), 1);
    settle(&switch);
}

#[test]
fn row_44_no_route_is_told() {
    let (mut switch, c, _router) = Switch::with_uplink();
    switch.shared.publish(|snapshot| {
        let uplink = std::sync::Arc::make_mut(snapshot.uplink.as_mut().unwrap());
        uplink.routes = Default::default();
    });
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), b"x"));
    assert_eq!((icmp_error(&one(&c)).0, switch.drops(DropReason::NoRoute)), (3, 1));
    settle(&switch);
}

#[test]
fn networks_do_not_reach_each_other() {
    let (mut switch, c, _router) = Switch::with_uplink();
    let other = switch.add_network("10.9.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let d = switch.add_port(other);
    switch.resolve(&d);
    switch.publish(Protocol::Udp, 53, &d, 53);
    let gateway = Endpoint::new(Ipv4Addr::new(10, 9, 0, 1), 1);
    for dst in [d.at(1), gateway, Endpoint::new(EXTERNAL, 53)] {
        switch.send(&c, &packet::udp(via(&c), c.at(1), dst, b"x"));
        assert_eq!(icmp_error(&one(&c)).1, 13);
    }
    switch.send(&c, &packet::frame(Macs { src: c.mac, dst: MacAddr::BROADCAST }, 0x86dd, b"x"));
    switch.send(&c, &packet::frame(Macs { src: c.mac, dst: d.mac }, 0x0800, b"x"));
    switch.send(&c, &packet::frame(Macs { src: c.mac, dst: d.gateway_mac }, 0x0800, b"x"));
    nothing(&d);
    assert_eq!(switch.drops(DropReason::Isolated), 3);
    settle(&switch);
}

#[test]
fn an_internal_network_has_no_way_out() {
    let (mut switch, _c, router) = Switch::with_uplink();
    let internal = switch.add_network("10.9.0.0/16".parse().unwrap(), NetworkMode::Internal);
    let d = switch.add_port(internal);
    switch.send(&d, &packet::udp(via(&d), d.at(1), server(2), b"x"));
    assert_eq!(icmp_error(&one(&d)).1, 0);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::Internal), 1);
    settle(&switch);
}

// ---- neighbors ----

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

// ---- translation ----

#[test]
fn udp_tcp_and_echo_go_out_masqueraded_and_their_answers_come_back() {
    let (mut switch, c, router) = Switch::with_uplink();
    let udp = packet::udp(via(&c), c.at(5000), server(53), b"question");
    switch.send(&c, &udp);
    let shown = read(&one(&router));
    assert_eq!((shown.src.ip, shown.dst, shown.ttl), (EXTERNAL, server(53), 63));
    assert!(vswitchd::sim::NAT_PORTS.contains(&shown.src.port));
    switch.send(&router, &packet::udp(via(&router), server(53), shown.src, b"answer"));
    let seen = read(&one(&c));
    assert_eq!((seen.src, seen.dst, seen.payload), (server(53), c.at(5000), b"answer".to_vec()));

    let header = |flags, seq, ack| Tcp { flags, seq, ack };
    switch.send(&c, &packet::tcp(via(&c), c.at(6000), server(80), header(SYN, 100, 0), b""));
    let shown = read(&one(&router));
    switch.send(&router, &packet::tcp(via(&router), server(80), shown.src, header(SYN | ACK, 900, 101), b""));
    assert_eq!(read(&one(&c)).dst, c.at(6000));
    switch.send(&c, &packet::tcp(via(&c), c.at(6000), server(80), header(ACK, 101, 901), b"GET /"));
    assert_eq!(
        read(&one(&router)),
        Seen { src: shown.src, dst: server(80), ttl: 63, payload: b"GET /".to_vec() }
    );

    switch.send(&c, &packet::echo(via(&c), c.ip, SERVER, true, 500, b"ping"));
    let shown = read(&one(&router));
    assert_eq!(shown.src.ip, EXTERNAL);
    switch.send(&router, &packet::echo(via(&router), SERVER, EXTERNAL, false, shown.src.port, b"ping"));
    let seen = read(&one(&c));
    assert_eq!((seen.dst, seen.payload), (c.at(500), b"ping".to_vec()));
    assert_eq!(switch.shared.conntrack.stats().connections, 3);
    settle(&switch);
}

#[test]
fn row_45_one_socket_has_one_external_port() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mut ports = std::collections::HashSet::new();
    for n in 0..1000u16 {
        let dst = Endpoint::new(Ipv4Addr::new(198, 51, 100, (n % 200) as u8), n);
        switch.send(&c, &packet::udp(via(&c), c.at(5000), dst, b"x"));
        ports.insert(read(&one(&router)).src);
    }
    assert_eq!(ports.len(), 1);
    settle(&switch);
}

#[test]
fn row_46_and_68_the_same_ports_of_two_containers_stay_apart() {
    let (mut switch, c, router) = Switch::with_uplink();
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let d = switch.add_port(network);
    switch.resolve(&d);
    let mut shown = Vec::new();
    for station in [&c, &d] {
        switch.send(station, &packet::udp(via(station), station.at(62_000), server(53), b"x"));
        shown.push(read(&one(&router)).src);
        switch.send(station, &packet::echo(via(station), station.ip, SERVER, true, 62_000, b"x"));
        shown.push(read(&one(&router)).src);
    }
    assert_eq!(shown[0].port, 62_000, "kept where it is free");
    assert_ne!(shown[0], shown[2]);
    assert_ne!(shown[1], shown[3]);
    switch.send(&router, &packet::udp(via(&router), server(53), shown[2], b"for d"));
    assert_eq!(read(&one(&d)).payload, b"for d");
    switch.send(&router, &packet::echo(via(&router), SERVER, EXTERNAL, false, shown[1].port, b"for c"));
    assert_eq!(read(&one(&c)).payload, b"for c");
    settle(&switch);
}

#[test]
fn row_51_filtering_is_by_address_and_port() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"x"));
    let shown = read(&one(&router)).src;
    for other in [server(54), Endpoint::new(Ipv4Addr::new(198, 51, 100, 8), 53)] {
        switch.send(&router, &packet::udp(via(&router), other, shown, b"x"));
    }
    nothing(&c);
    assert_eq!(switch.drops(DropReason::Unsolicited), 2);
    settle(&switch);
}

#[test]
fn row_55_a_partial_checksum_and_none_at_all_survive_translation() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mut without = packet::udp(via(&c), c.at(5000), server(53), b"x");
    without[40..42].copy_from_slice(&[0, 0]);
    switch.send(&c, &without);
    assert_eq!(one(&router)[40..42], [0, 0]);

    let mut frame = packet::tcp(via(&c), c.at(6000), server(80), Tcp { flags: SYN, ..Tcp::default() }, b"");
    let pseudo = vswitchd::wire::checksum::pseudo_header(c.ip, SERVER, 6, 20);
    frame[50..52].copy_from_slice(&vswitchd::wire::checksum::fold(pseudo).to_be_bytes());
    let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, ..Offload::NONE };
    switch.send_promising(&c, &frame, offload);
    let (mut bytes, promised) = router.device.pop().expect("a frame");
    assert_eq!(promised.checksum, offload.checksum, "the promise is passed on");
    let sum = vswitchd::wire::checksum::checksum(&bytes[34..]);
    bytes[50..52].copy_from_slice(&sum.to_be_bytes());
    read(&bytes);
    settle(&switch);
}

#[test]
fn row_61_an_unsolicited_syn_finds_silence() {
    let (mut switch, c, router) = Switch::with_uplink();
    let syn = Tcp { flags: SYN, ..Tcp::default() };
    switch.send(&router, &packet::tcp(via(&router), server(80), external(62_000), syn, b""));
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    switch.send(&router, &packet::tcp(via(&router), server(80), external(22), syn, b""));
    assert_eq!(switch.totals().left_to_host, 1, "port 22 is the host's");
    settle(&switch);
}

#[test]
fn what_does_not_open_a_connection_goes_nowhere() {
    let (mut switch, c, router) = Switch::with_uplink();
    for flags in [ACK, RST, FIN | ACK, SYN | ACK] {
        switch.send(&c, &packet::tcp(via(&c), c.at(1), server(80), Tcp { flags, ..Tcp::default() }, b""));
    }
    nothing(&router);
    assert_eq!(switch.drops(DropReason::TcpOutOfState), 4);
    settle(&switch);
}

#[test]
fn rows_71_and_72_errors_find_the_connection_they_are_about() {
    let (mut switch, c, router) = Switch::with_uplink();
    let third = Ipv4Addr::new(203, 0, 113, 9);
    let sent = packet::udp(via(&c), c.at(5000), server(53), b"question");
    switch.send(&c, &sent);
    let shown = one(&router);
    // From a router on the way, about what went out, quoting as little as allowed.
    for quoted in [&shown[14..], &shown[14..14 + 28]] {
        switch.send(&router, &packet::icmp_error(via(&router), third, EXTERNAL, Error::TimeExceeded, quoted));
        let told = one(&c);
        let ip = Ipv4::parse(&told[14..]).unwrap();
        assert_eq!((ip.src, ip.dst), (third, c.ip));
        let (kind, _, inner) = icmp_error(&told);
        assert_eq!(kind, 11);
        let inner_ip = Ipv4::parse_quoted(&inner).unwrap();
        assert_eq!((inner_ip.src, inner_ip.dst, inner_ip.ttl), (c.ip, SERVER, 63));
        assert_eq!(inner[20..24], sent[34..38], "ports as the container knows them");
        assert_eq!(inner[26..28], sent[40..42], "and the checksum that it computed");
    }
    // From the container, about what came in.
    switch.send(&router, &packet::udp(via(&router), server(53), read(&shown).src, b"answer"));
    let delivered = one(&c);
    switch.send(&c, &packet::icmp_error(via(&c), c.ip, SERVER, Error::PortUnreachable, &delivered[14..]));
    let told = one(&router);
    let ip = Ipv4::parse(&told[14..]).unwrap();
    assert_eq!((ip.src, ip.dst), (EXTERNAL, SERVER));
    let inner_ip = Ipv4::parse_quoted(&icmp_error(&told).2).unwrap();
    assert_eq!((inner_ip.src, inner_ip.dst), (SERVER, EXTERNAL));
    // About nothing that we know.
    let stranger = packet::udp(via(&c), external(62_345), server(9), b"x");
    switch.send(
        &router,
        &packet::icmp_error(via(&router), third, EXTERNAL, Error::TimeExceeded, &stranger[14..]),
    );
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_70_a_bad_checksum_ends_an_error() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"x"));
    let shown = one(&router);
    let error = packet::icmp_error(via(&router), ROUTER, EXTERNAL, Error::TimeExceeded, &shown[14..]);
    let mut bad = error.clone();
    bad[37] ^= 1;
    switch.send(&router, &bad);
    nothing(&c);
    switch.send(&router, &error);
    one(&c);
    settle(&switch);
}

#[test]
fn row_53_no_error_ends_or_refreshes_a_mapping() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"x"));
    let shown = one(&router);
    let error = packet::icmp_error(via(&router), ROUTER, EXTERNAL, Error::HostUnreachable, &shown[14..]);
    for _ in 0..29 {
        switch.pass(10 * SECOND, SECOND);
        switch.resolve(&c);
        switch.send(&router, &error);
        one(&c);
    }
    switch.pass(15 * SECOND, SECOND);
    assert_eq!(switch.shared.conntrack.stats().connections, 0);
    settle(&switch);
}

#[test]
fn row_77_a_published_port_shows_the_client_and_reaches_the_container_from_inside_too() {
    let (mut switch, c, router) = Switch::with_uplink();
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let d = switch.add_port(network);
    switch.resolve(&d);
    switch.publish(Protocol::Tcp, 8080, &c, 80);
    let syn = Tcp { flags: SYN, seq: 5, ack: 0 };
    let syn_ack = Tcp { flags: SYN | ACK, seq: 9, ack: 6 };

    switch.send(&router, &packet::tcp(via(&router), server(40_000), external(8080), syn, b""));
    assert_eq!(read(&one(&c)), Seen { src: server(40_000), dst: c.at(80), ttl: 63, payload: vec![] });
    switch.send(&c, &packet::tcp(via(&c), c.at(80), server(40_000), syn_ack, b""));
    assert_eq!(read(&one(&router)).src, external(8080));

    // Hairpin, from a peer and from the container itself.
    for from in [&d, &c] {
        switch.send(from, &packet::tcp(via(from), from.at(40_001), external(8080), syn, b""));
        let seen = read(&one(&c));
        assert_eq!((seen.src.ip, seen.dst), (EXTERNAL, c.at(80)), "the source is shown as external");
        switch.send(&c, &packet::tcp(via(&c), c.at(80), seen.src, syn_ack, b""));
        let back = read(&one(from));
        assert_eq!((back.src, back.dst), (external(8080), from.at(40_001)));
    }
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_76_only_the_published_address_is_translated() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Udp, 53, &c, 53);
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let d = switch.add_port(network);
    switch.resolve(&d);
    let elsewhere = Endpoint::new(Ipv4Addr::new(9, 9, 9, 9), 53);
    switch.send(&d, &packet::udp(via(&d), d.at(1), elsewhere, b"x"));
    assert_eq!(read(&one(&router)).dst, elsewhere);
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_78_a_crafted_loopback_destination_is_not_ours() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Udp, 53, &c, 53);
    let loopback = Endpoint::new(Ipv4Addr::LOCALHOST, 53);
    switch.send(&router, &packet::udp(via(&router), server(1), loopback, b"x"));
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_81_a_port_has_a_quota_and_the_next_one_is_not_harmed() {
    let (mut switch, c, router) = Switch::with_uplink();
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let d = switch.add_port(network);
    switch.resolve(&d);
    switch.shared.publish(|snapshot| {
        let mut port = vswitchd::snapshot::Port::clone(snapshot.port(c.id).unwrap());
        port.quota = 10;
        snapshot.set_port(port);
    });
    for port in 1..=20 {
        switch.send(&c, &packet::udp(via(&c), c.at(port), server(53), b"x"));
        switch.send(&d, &packet::udp(via(&d), d.at(port), server(53), b"x"));
    }
    assert_eq!(received(&router).len(), 30);
    let refusals = received(&c);
    assert_eq!(refusals.len(), 10);
    assert!(refusals.iter().all(|frame| (icmp_error(frame).0, icmp_error(frame).1) == (3, 13)));
    assert_eq!(switch.drops(DropReason::ConntrackQuota), 10);
    assert_eq!(switch.shared.conntrack.connections_of(c.id), 10);
    switch.pass(302 * SECOND, SECOND);
    assert_eq!(switch.shared.conntrack.connections_of(c.id), 0, "time gives the quota back");
    settle(&switch);
}

#[test]
fn without_an_address_the_uplink_carries_nothing() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.shared.publish(|snapshot| {
        std::sync::Arc::make_mut(snapshot.uplink.as_mut().unwrap()).address = None;
    });
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), b"x"));
    assert_eq!(icmp_error(&one(&c)).0, 3);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::UplinkDown), 1);
    settle(&switch);
}

#[test]
fn an_address_of_its_own_answers_for_itself() {
    let mut switch = Switch::new(100);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let router = switch.add_uplink(UplinkMode::Own);
    let c = switch.add_port(network);
    let macs = Macs { src: ROUTER_MAC, dst: MacAddr::BROADCAST };
    switch.send(&router, &packet::arp(macs, 1, (ROUTER_MAC, ROUTER), (MacAddr::ZERO, EXTERNAL)));
    assert_eq!(one(&router)[6..12], UPLINK_MAC.0);
    switch.send(&router, &packet::echo(via(&router), SERVER, EXTERNAL, true, 7, b"own"));
    assert_eq!(read(&one(&router)).payload, b"own");
    switch.send(&router, &packet::udp(via(&router), server(1), external(9), b"x"));
    nothing(&router);
    nothing(&c);
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    settle(&switch);
}

#[test]
fn a_port_that_was_removed_takes_nothing_along() {
    let (mut switch, c) = lan(3);
    switch.shared.publish(|snapshot| snapshot.remove_port(c[1].id));
    switch.shared.snapshot().networks[0].as_ref().unwrap().fdb.remove_port(c[1].id);
    switch.send(&c[0], &packet::frame(between(&c[0], &c[1]), 0x1234, b"x"));
    one(&c[2]);
    nothing(&c[1]);
    settle(&switch);
    assert!(switch.shared.snapshot().port(PortId(99)).is_none());
}

#[test]
fn transport_headers_that_lie_are_dropped() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mut short = packet::udp(via(&c), c.at(1), server(2), b"x");
    short[38..40].copy_from_slice(&[0xff, 0xff]);
    switch.send(&c, &short);
    let mut offset = packet::tcp(via(&c), c.at(1), server(2), Tcp { flags: SYN, ..Tcp::default() }, b"");
    offset[46] = 0x40;
    assert!(Transport::parse(6, &offset[34..]).is_err());
    switch.send(&c, &offset);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::BadTransport), 2);
    settle(&switch);
}
