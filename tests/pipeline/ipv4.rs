//! Section C: IPv4 forwarding, and what the gateway answers.

use crate::*;

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
