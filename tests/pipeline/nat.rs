//! Section D: translation of UDP, and in general.

use crate::*;

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
fn row_45_tcp_and_udp_keep_their_port_whatever_the_destination() {
    let (mut switch, c, router) = Switch::with_uplink();
    let destinations = [server(1), server(2), Endpoint::new(Ipv4Addr::new(198, 51, 100, 8), 1)];
    for port in 5000..5100 {
        let mut shown = Vec::new();
        for to in destinations {
            let syn = Tcp { flags: SYN, ..Tcp::default() };
            switch.send(&c, &packet::tcp(via(&c), c.at(port), to, syn, b""));
            shown.push(read(&one(&router)).src);
        }
        assert!(shown.iter().all(|&src| src == shown[0]), "{shown:?}");
    }
    settle(&switch);
}

#[test]
fn row_46_two_containers_with_one_port_and_one_destination_never_cross() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    for port in [1, 80, 5000, 61_000, 65_535] {
        let shown = [&c, &d].map(|station| {
            let syn = Tcp { flags: SYN, ..Tcp::default() };
            switch.send(station, &packet::tcp(via(station), station.at(port), server(80), syn, b""));
            read(&one(&router)).src
        });
        assert_ne!(shown[0], shown[1]);
        for (station, src) in [(&d, shown[1]), (&c, shown[0])] {
            let answer = Tcp { flags: SYN | ACK, ..Tcp::default() };
            switch.send(&router, &packet::tcp(via(&router), server(80), src, answer, b""));
            assert_eq!(read(&one(station)).dst, station.at(port));
        }
        nothing(&c);
    }
    settle(&switch);
}

#[test]
fn row_47_parity_is_kept_and_the_class_as_far_as_the_range_has_it() {
    let (mut switch, c, router) = Switch::with_uplink();
    for port in (500..540).chain(40_000..40_040) {
        switch.send(&c, &packet::udp(via(&c), c.at(port), server(53), b"x"));
        let shown = read(&one(&router)).src.port;
        assert_eq!(shown % 2, port % 2, "{port} became {shown}");
        assert!(vswitchd::sim::NAT_PORTS.contains(&shown), "the range has no port below 1024");
    }
    settle(&switch);
}

/// Opens a UDP flow from each of these ports, and says how many were shown to the world.
fn fill(switch: &mut Switch, from: &Station, router: &Station, ports: std::ops::Range<u16>) -> usize {
    ports
        .map(|port| {
            switch.send(from, &packet::udp(via(from), from.at(port), server(53), b"x"));
            received(router).len()
        })
        .sum()
}

#[test]
fn row_48_mappings_are_the_same_at_any_load() {
    let (mut switch, c, router) = Switch::with_uplink();
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let stations: Vec<_> = (0..2).map(|_| switch.add_port(network)).collect();
    stations.iter().for_each(|station| switch.resolve(station));
    let [d, e] = &stations[..] else { panic!() };
    let all = vswitchd::sim::NAT_PORTS.len();
    let half = u16::try_from(all / 2).unwrap();
    assert_eq!(fill(&mut switch, d, &router, 1..1 + half), all / 2, "the quota is half of the range");
    assert_eq!(fill(&mut switch, e, &router, 1..1 + 1814), 1814);
    // Nine in ten are used: row 45 again.
    for socket in 0..50 {
        let mut shown = std::collections::HashSet::new();
        for n in 1..=20 {
            switch.send(&c, &packet::udp(via(&c), c.at(3000 + socket), server(n), b"x"));
            shown.insert(read(&one(&router)).src);
        }
        assert_eq!(shown.len(), 1);
    }
    // Up to the last one, whatever shard it belongs to; then new ones are refused, and old ones do not notice.
    let left = all - all / 2 - 1814 - 50;
    assert_eq!(fill(&mut switch, &c, &router, 10_000..10_000 + u16::try_from(left).unwrap()), left);
    received(&c);
    switch.send(&c, &packet::udp(via(&c), c.at(9), server(53), b"x"));
    let refused = icmp_error(&one(&c));
    assert_eq!((refused.0, refused.1), (3, 13));
    assert_eq!(switch.drops(DropReason::NatPortsExhausted), 1);
    assert_eq!(switch.shared.conntrack.stats().ports_exhausted, 1);
    nothing(&router);
    switch.send(&c, &packet::udp(via(&c), c.at(3000), server(99), b"x"));
    let mapped = switch.shared.conntrack.mapping(Protocol::Udp, c.at(3000)).unwrap();
    assert_eq!(read(&one(&router)).src, external(mapped));
    settle(&switch);
}

#[test]
fn row_49_a_udp_flow_lives_five_minutes_or_as_long_as_it_is_told() {
    for (seconds, set) in [(300, None), (120, Some(120)), (20, Some(20))] {
        let (mut switch, c, router) = Switch::with_uplink();
        if let Some(seconds) = set {
            switch.shared.publish(|snapshot| snapshot.timeouts.udp = Duration::from_secs(seconds));
        }
        switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"x"));
        let shown = read(&one(&router)).src;
        switch.pass((seconds - 1) * SECOND, SECOND);
        switch.resolve(&c);
        switch.send(&router, &packet::udp(via(&router), server(53), shown, b"x"));
        assert_eq!(received(&c).len(), 1, "after {} s", seconds - 1);
        switch.pass(3 * SECOND, SECOND);
        switch.send(&router, &packet::udp(via(&router), server(53), shown, b"x"));
        assert_eq!(received(&c).len(), 0, "after {} s", seconds + 2);
        settle(&switch);
    }
}

#[test]
fn row_50_only_what_the_container_wants_to_say_keeps_a_mapping() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.shared.publish(|snapshot| {
        snapshot.timeouts.udp = 20 * SECOND;
        snapshot.timeouts.tcp_transitory = 20 * SECOND;
    });
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"x"));
    let shown = read(&one(&router)).src;
    switch.send(&c, &packet::tcp(via(&c), c.at(5000), server(80), Tcp { flags: SYN, seq: 9, ack: 0 }, b""));
    let tcp = read(&one(&router)).src;
    for _ in 0..3 {
        switch.pass(5 * SECOND, SECOND);
        switch.resolve(&c);
        switch.send(&router, &packet::udp(via(&router), server(53), shown, b"x"));
        let came = one(&c);
        let error = packet::icmp_error(via(&c), c.ip, SERVER, Error::PortUnreachable, &came[14..]);
        switch.send(&c, &error);
        assert_eq!(received(&router).len(), 1, "the error goes out");
        let stray = Tcp { flags: RST, seq: 77, ack: 0 };
        switch.send(&c, &packet::tcp(via(&c), c.at(5000), server(80), stray, b""));
        assert_eq!(read(&one(&router)).src, tcp, "the reset goes out");
    }
    switch.pass(8 * SECOND, SECOND);
    assert_eq!(switch.shared.conntrack.stats().connections, 0);
    settle(&switch);
}

#[test]
fn row_52_a_hairpin_shows_the_external_source_and_needs_no_other_permission() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    // UDP: to the peer's mapping, and to one's own.
    let shown = [&c, &d].map(|station| {
        switch.send(station, &packet::udp(via(station), station.at(5000), server(53), b"x"));
        read(&one(&router)).src
    });
    for (from, to, own, other) in [(&c, &d, shown[0], shown[1]), (&d, &c, shown[1], shown[0])] {
        switch.send(from, &packet::udp(via(from), from.at(5000), other, b"hairpin"));
        let seen = read(&one(to));
        assert_eq!((seen.src, seen.dst, seen.payload), (own, to.at(5000), b"hairpin".to_vec()));
    }
    switch.send(&c, &packet::udp(via(&c), c.at(5001), shown[0], b"me"));
    let me = read(&one(&c));
    assert_eq!((me.src.ip, me.dst), (EXTERNAL, c.at(5000)));
    // TCP, with an answer.
    let header = |flags, seq, ack| Tcp { flags, seq, ack };
    switch.send(&d, &packet::tcp(via(&d), d.at(80), server(80), header(SYN, 1, 0), b""));
    let there = read(&one(&router)).src;
    switch.send(&c, &packet::tcp(via(&c), c.at(6000), there, header(SYN, 10, 0), b""));
    let syn = read(&one(&d));
    assert_eq!((syn.src.ip, syn.dst), (EXTERNAL, d.at(80)));
    switch.send(&d, &packet::tcp(via(&d), d.at(80), syn.src, header(SYN | ACK, 50, 11), b""));
    assert_eq!(read(&one(&c)).src, there);
    // A port that nobody has is nobody's.
    switch.send(&c, &packet::udp(via(&c), c.at(5000), external(1), b"x"));
    assert_eq!((icmp_error(&one(&c)).0, switch.drops(DropReason::HostService)), (3, 1));
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_46_and_68_the_same_ports_of_two_containers_stay_apart() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
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
fn row_55_every_checksum_is_updated_right_in_both_directions() {
    let (mut switch, c, router) = Switch::with_uplink();
    let (mut shown, mut ones) = (server(0), 0);
    for value in 0..=u16::MAX {
        let payload = value.to_be_bytes();
        switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), &payload));
        let out = one(&router);
        let seen = read(&out);
        assert_eq!(seen.payload, payload);
        assert_ne!(out[40..42], [0, 0], "a computed 0 goes out as all ones (RFC 768)");
        ones += usize::from(out[40..42] == [0xff, 0xff]);
        shown = seen.src;
        switch.send(&router, &packet::udp(via(&router), server(53), shown, &payload));
        let back = one(&c);
        assert_eq!(read(&back).payload, payload);
        assert_ne!(back[40..42], [0, 0]);
        // So that both the story and the flow cache are asked.
        switch.now += Duration::from_millis(3);
        if value % 4096 == 0 {
            switch.resolve(&c);
            switch.resolve(&router);
        }
    }
    assert!(ones > 0, "the corner was met");
    let mut none = packet::udp(via(&router), server(53), shown, b"no checksum");
    none[40..42].copy_from_slice(&[0, 0]);
    for _ in 0..3 {
        switch.send(&router, &none);
        assert_eq!(one(&c)[40..42], [0, 0], "none stays none, inwards too");
    }
    settle(&switch);
}

#[test]
fn row_56_empty_odd_and_longest_datagrams_arrive_whole() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mtu = vswitchd::limits::MTU_MAX;
    switch.shared.publish(|snapshot| {
        let mut network = vswitchd::snapshot::Network::clone(snapshot.networks[0].as_ref().unwrap());
        network.mtu = mtu;
        snapshot.set_network(network);
        std::sync::Arc::make_mut(&mut snapshot.uplinks[0]).mtu = mtu;
        for id in [c.id, router.id] {
            let mut port = vswitchd::snapshot::Port::clone(snapshot.port(id).unwrap());
            port.mtu = mtu;
            snapshot.set_port(port);
        }
    });
    let longest = usize::from(mtu) - 28;
    for len in [0, 1, 2, 3, 17, 1471, 1472, 9001, longest - 1, longest] {
        let payload: Vec<u8> = (0..=250).cycle().take(len).collect();
        // The second one is repeated by the flow cache.
        for _ in 0..2 {
            switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), &payload));
            let seen = read(&one(&router));
            assert_eq!(seen.payload.len(), len);
            assert_eq!(seen.payload, payload);
            switch.send(&router, &packet::udp(via(&router), server(53), seen.src, &payload));
            assert_eq!(read(&one(&c)).payload, payload);
        }
    }
    settle(&switch);
}

#[test]
fn row_53_twenty_errors_of_a_third_router_arrive_and_end_nothing() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"x"));
    let udp = one(&router);
    let header = |flags, seq, ack| Tcp { flags, seq, ack };
    switch.send(&c, &packet::tcp(via(&c), c.at(6000), server(80), header(SYN, 1, 0), b""));
    let tcp = one(&router);
    let answer = packet::tcp(via(&router), server(80), read(&tcp).src, header(SYN | ACK, 8, 2), b"");
    switch.send(&router, &answer);
    switch.send(&c, &packet::tcp(via(&c), c.at(6000), server(80), header(ACK, 2, 9), b""));
    received(&c);
    received(&router);
    let third = Ipv4Addr::new(203, 0, 113, 99);
    let kinds = (0..16).map(|code| (3, code)).chain([(11, 0), (11, 1), (12, 0), (12, 1)]);
    for (kind, code) in kinds {
        for shown in [&udp, &tcp] {
            let error = Error::HostUnreachable;
            let mut error = packet::icmp_error(via(&router), third, EXTERNAL, error, &shown[14..]);
            (error[34], error[35]) = (kind, code);
            error[36..38].copy_from_slice(&[0, 0]);
            let sum = vswitchd::wire::checksum::checksum(&error[34..]);
            error[36..38].copy_from_slice(&sum.to_be_bytes());
            switch.send(&router, &error);
            let (seen_kind, seen_code, quoted) = icmp_error(&one(&c));
            assert_eq!((seen_kind, seen_code), (kind, code));
            assert_eq!(quoted[12..16], c.ip.octets(), "the quote is what the container sent");
        }
    }
    let states: Vec<_> = switch.shared.conntrack.entries(switch.now).iter().map(|info| info.state).collect();
    assert!(states.contains(&"ESTABLISHED") && states.len() == 2, "{states:?}");
    switch.send(&router, &packet::udp(via(&router), server(53), read(&udp).src, b"still here"));
    assert_eq!(read(&one(&c)).payload, b"still here");
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
fn without_an_address_the_uplink_carries_nothing() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.shared.publish(|snapshot| {
        std::sync::Arc::make_mut(&mut snapshot.uplinks[0]).address = None;
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
