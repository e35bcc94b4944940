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
