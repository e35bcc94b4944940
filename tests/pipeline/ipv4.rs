//! Section C: IPv4 forwarding, and what the gateway answers.

use vswitchd::limits::{ICMP_ERRORS_PER_PORT, ICMP_ERRORS_PER_SECOND};
use vswitchd::wire::edit;

use crate::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

pub(super) fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    edit::set_ttl(&mut frame[14..], ttl);
    frame
}

/// The frame with one byte of its IP header changed, and a right checksum again.
fn with_byte(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    sum_header(&mut frame);
    frame
}

fn sum_header(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = vswitchd::wire::checksum::checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// The packet with these IP options, whole words of them.
fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..34], options, &frame[34..]].concat();
    frame[14] += u8::try_from(options.len() / 4).unwrap();
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    sum_header(&mut frame);
    frame
}

/// The sender of the ICMP error in a frame, its type and its code.
fn told(frame: &[u8]) -> (Ipv4Addr, u8, u8) {
    let (kind, code, _) = icmp_error(frame);
    (Ipv4::parse(&frame[14..]).unwrap().src, kind, code)
}

/// A switch whose container publishes UDP port 53.
fn published() -> (Switch, Station, Station) {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Udp, 53, &c, 53);
    (switch, c, router)
}

/// From the server to the published port.
fn question(router: &Station) -> Vec<u8> {
    packet::udp(via(router), server(2), external(53), b"x")
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
    let gateway = Endpoint::new(Ipv4Addr::new(172, 30, 0, 1), 69);
    let question = packet::udp(via(&c[0]), c[0].at(1000), gateway, b"?");
    switch.send(&c[0], &question);
    let (kind, code, quoted) = icmp_error(&one(&c[0]));
    assert_eq!((kind, code), (3, 3));
    assert_eq!(quoted, question[14..]);
    settle(&switch);
}

#[test]
fn row_38_too_big_with_df_is_told_the_mtu() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.shared.publish(|snapshot| {
        let uplink = std::sync::Arc::make_mut(&mut snapshot.uplinks[0]);
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

#[test]
fn row_26_a_ttl_that_runs_out_is_told_from_the_side_it_came_from() {
    let (mut switch, c, router) = published();
    let outwards = packet::udp(via(&c), c.at(1), server(2), b"x");
    for ttl in [0, 1] {
        switch.send(&c, &with_ttl(outwards.clone(), ttl));
        assert_eq!(told(&one(&c)), (GATEWAY, 11, 0), "TTL {ttl}");
        switch.send(&router, &with_ttl(question(&router), ttl));
        let error = one(&router);
        assert_eq!((told(&error), &error[..6]), ((EXTERNAL, 11, 0), &ROUTER_MAC.0[..]), "TTL {ttl}");
        assert_eq!(icmp_error(&error).2, with_ttl(question(&router), ttl)[14..], "quoted as it was sent");
    }
    for ttl in [2, 64, 255] {
        switch.send(&c, &with_ttl(outwards.clone(), ttl));
        assert_eq!(read(&one(&router)).ttl, ttl - 1);
        switch.send(&router, &with_ttl(question(&router), ttl));
        assert_eq!(read(&one(&c)).ttl, ttl - 1);
    }
    // The gateway itself is reached with any TTL, and what is only switched keeps its own.
    switch.send(&c, &with_ttl(packet::echo(via(&c), c.ip, GATEWAY, true, 7, b"x"), 1));
    assert_eq!(read(&one(&c)).ttl, 64);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::TtlExceeded), 4);
    settle(&switch);
}

#[test]
fn row_26_the_ttl_of_a_switched_packet_stays() {
    let (mut switch, c) = lan(2);
    for ttl in [0, 1, 64] {
        let frame = with_ttl(packet::udp(between(&c[0], &c[1]), c[0].at(1), c[1].at(2), b"x"), ttl);
        switch.send(&c[0], &frame);
        assert_eq!(one(&c[1]), frame);
        switch.send(&c[0], &with_ttl(packet::udp(via(&c[0]), c[0].at(1), c[1].at(2), b"x"), ttl));
        match ttl {
            0 | 1 => assert_eq!(told(&one(&c[0])), (GATEWAY, 11, 0), "by way of the gateway, it is routed"),
            _ => assert_eq!(read(&one(&c[1])).ttl, ttl - 1),
        }
    }
    settle(&switch);
}

#[test]
fn row_27_bad_headers_are_dropped_in_silence() {
    let (mut switch, c, router) = published();
    let outwards = packet::udp(via(&c), c.at(1), server(2), b"x");
    let mut count = 0;
    for (from, good) in [(&c, outwards), (&router, question(&router))] {
        // Version 6 and 0, a header of 16 bytes, one of 60 where there are not so many, a packet longer than the
        // frame, one shorter than its header, each with a right checksum; and a wrong checksum, on its last hop too.
        let mut bad: Vec<_> = [(14, 0x65), (14, 0x05), (14, 0x44), (14, 0x4f), (16, 0x05), (17, 19)]
            .map(|(at, value)| {
                let mut frame = good.clone();
                frame[at] = value;
                frame[24..26].fill(0);
                let sum = vswitchd::wire::checksum::checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                frame
            })
            .into();
        for ttl in [64, 1] {
            let mut frame = with_ttl(good.clone(), ttl);
            frame[24] ^= 0x10;
            bad.push(frame);
        }
        for frame in bad {
            switch.send(from, &frame);
            count += 1;
            assert_eq!(switch.drops(DropReason::BadIpv4), count, "{:02x?}", &frame[14..34]);
        }
    }
    nothing(&c);
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_28_what_stands_behind_the_packet_is_not_forwarded() {
    let (mut switch, c, router) = published();
    let outwards = packet::udp(via(&c), c.at(1), server(2), b"x");
    // The first makes the connection, the others are repeated from the flow cache.
    for padding in [4, 0, 18, 500, 1457] {
        let mut frame = outwards.clone();
        frame.resize(outwards.len() + padding, 0xee);
        switch.send(&c, &frame);
        assert_eq!(one(&router).len(), outwards.len(), "{padding}");
        let mut frame = question(&router);
        frame.resize(frame.len() + padding, 0xee);
        switch.send(&router, &frame);
        assert_eq!(one(&c).len(), question(&router).len(), "{padding}");
        // Nor answered, nor quoted.
        let mut frame = packet::echo(via(&c), c.ip, GATEWAY, true, 7, b"x");
        let len = frame.len();
        frame.resize(len + padding, 0xee);
        switch.send(&c, &frame);
        assert_eq!(one(&c).len(), len);
        let mut frame = with_ttl(outwards.clone(), 1);
        frame.resize(outwards.len() + padding, 0xee);
        switch.send(&c, &frame);
        assert_eq!(icmp_error(&one(&c)).2.len(), outwards.len() - 14);
    }
    settle(&switch);
}

#[test]
fn row_29_a_link_broadcast_is_not_routed() {
    let (mut switch, c, router) = published();
    for dst in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        switch.send(&c, &packet::udp(Macs { src: c.mac, dst }, c.at(1), server(2), b"x"));
        switch.send(&c, &packet::echo(Macs { src: c.mac, dst }, c.ip, GATEWAY, true, 1, b"x"));
        let macs = Macs { src: ROUTER_MAC, dst };
        switch.send(&router, &packet::udp(macs, server(2), external(53), b"x"));
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.shared.conntrack.stats().created, 0);
    settle(&switch);
}

#[test]
fn row_30_broadcasts_are_not_forwarded() {
    let (mut switch, c, router) = published();
    let other = switch.add_network("10.9.0.0/24".parse().unwrap(), NetworkMode::Nat);
    let d = switch.add_port(other);
    let broadcasts = [
        ip(255, 255, 255, 255),
        ip(172, 30, 255, 255),
        ip(172, 30, 0, 0),
        ip(10, 9, 0, 255),
        ip(10, 9, 0, 0),
        ip(192, 0, 2, 255),
        ip(192, 0, 2, 0),
    ];
    for ttl in [64, 1] {
        for dst in broadcasts {
            let frame = packet::udp(via(&c), c.at(1), Endpoint::new(dst, 53), b"x");
            switch.send(&c, &with_ttl(frame, ttl));
            let frame = packet::udp(via(&router), server(2), Endpoint::new(dst, 53), b"x");
            switch.send(&router, &with_ttl(frame, ttl));
        }
    }
    // Not even asked for: an ARP request for a broadcast address could be answered.
    switch.pass(5 * SECOND, SECOND);
    [&c, &d, &router].into_iter().for_each(nothing);
    assert_eq!(switch.drops(DropReason::MartianDestination), 2 * broadcasts.len() as u64);
    settle(&switch);
}

/// Addresses that no packet can come from, seen from anywhere.
const NOBODY: [Ipv4Addr; 12] = [
    Ipv4Addr::new(0, 0, 0, 0),
    Ipv4Addr::new(0, 1, 2, 3),
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(127, 255, 255, 254),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::new(239, 255, 255, 255),
    Ipv4Addr::new(240, 0, 0, 1),
    Ipv4Addr::new(255, 255, 255, 255),
    Ipv4Addr::new(172, 30, 255, 255),
    Ipv4Addr::new(172, 30, 0, 0),
    Ipv4Addr::new(192, 0, 2, 255),
    Ipv4Addr::new(192, 0, 2, 0),
];

#[test]
fn row_31_martian_sources_are_dropped() {
    let (mut switch, c, router) = published();
    for src in NOBODY {
        for ttl in [64, 1] {
            let from = Endpoint::new(src, 9);
            switch.send(&c, &with_ttl(packet::udp(via(&c), from, server(2), b"x"), ttl));
            switch.send(&c, &packet::echo(via(&c), src, GATEWAY, true, 7, b"x"));
            switch.send(&router, &with_ttl(packet::udp(via(&router), from, external(53), b"x"), ttl));
        }
    }
    nothing(&c);
    nothing(&router);
    let (martian, foreign) = (DropReason::MartianSource, DropReason::ForeignSource);
    assert_eq!(switch.drops(martian) + switch.drops(foreign), 6 * NOBODY.len() as u64);
    settle(&switch);
}

#[test]
fn row_31_nobody_outside_comes_from_inside_or_is_us() {
    let (mut switch, c, router) = published();
    for src in [c.ip, GATEWAY, ip(172, 30, 9, 9), EXTERNAL] {
        switch.send(&router, &packet::udp(via(&router), Endpoint::new(src, 9), external(53), b"x"));
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::MartianSource), 4);
    settle(&switch);
}

#[test]
fn row_31_what_is_never_a_destination_is_not_routed() {
    let (mut switch, c, router) = Switch::with_uplink();
    let destinations = [ip(224, 0, 0, 1), ip(240, 0, 0, 1), ip(127, 0, 0, 1), ip(0, 0, 0, 0)];
    for dst in destinations {
        switch.send(&c, &packet::udp(via(&c), c.at(1), Endpoint::new(dst, 9), b"x"));
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::MartianDestination), destinations.len() as u64);
    settle(&switch);
}

#[test]
fn row_32_link_local_addresses_stay_on_their_link() {
    let (mut switch, c, router) = published();
    for local in [ip(169, 254, 0, 1), ip(169, 254, 169, 254), ip(169, 254, 255, 255)] {
        let local = Endpoint::new(local, 9);
        switch.send(&c, &packet::udp(via(&c), c.at(1), local, b"x"));
        switch.send(&c, &packet::udp(via(&c), local, server(2), b"x"));
        switch.send(&router, &packet::udp(via(&router), local, external(53), b"x"));
        switch.send(&router, &packet::udp(via(&router), server(2), local, b"x"));
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::MartianDestination), 3);
    assert_eq!(switch.drops(DropReason::MartianSource), 6);
    settle(&switch);
}

#[test]
fn row_33_a_container_speaks_with_an_address_of_its_network() {
    let (mut switch, c, router) = Switch::with_uplink();
    let strangers = [GATEWAY, EXTERNAL, ROUTER, SERVER, ip(172, 31, 0, 9), ip(172, 30, 255, 255)];
    for src in strangers {
        switch.send(&c, &packet::udp(via(&c), Endpoint::new(src, 1), server(9), b"x"));
        switch.send(&c, &packet::echo(via(&c), src, GATEWAY, true, 7, b"x"));
        let syn = Tcp { flags: SYN, ..Tcp::default() };
        switch.send(&c, &packet::tcp(via(&c), Endpoint::new(src, 1), external(80), syn, b""));
    }
    nothing(&c);
    nothing(&router);
    let reasons = [DropReason::MartianSource, DropReason::ForeignSource, DropReason::SpoofedGateway];
    assert_eq!(reasons.map(|reason| switch.drops(reason)).iter().sum::<u64>(), 3 * strangers.len() as u64);
    settle(&switch);
}

#[test]
fn row_34_nobody_outside_routes_into_a_network() {
    let (mut switch, c, router) = published();
    let quoted = packet::udp(via(&c), c.at(1), server(2), b"x");
    let mut count = 0;
    for dst in [c.ip, GATEWAY, ip(172, 30, 0, 99), ip(172, 30, 255, 255)] {
        let syn = Tcp { flags: SYN, ..Tcp::default() };
        let datagram = packet::udp(via(&router), server(1), Endpoint::new(dst, 53), b"x");
        for frame in [
            packet::tcp(via(&router), server(1), Endpoint::new(dst, 80), syn, b""),
            packet::echo(via(&router), SERVER, dst, true, 7, b"x"),
            packet::icmp_error(via(&router), ROUTER, dst, Error::HostUnreachable, &quoted[14..]),
            with_byte(datagram.clone(), 20, 0x20),
            with_byte(datagram.clone(), 21, 3),
            with_ttl(datagram.clone(), 1),
            datagram,
        ] {
            switch.send(&router, &frame);
            count += 1;
        }
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::Unsolicited), count);
    settle(&switch);
}

#[test]
fn row_35_no_error_about_what_may_not_cause_one() {
    let (mut switch, c, router) = published();
    let stray = packet::udp(via(&c), server(1), c.at(2), b"x");
    let about = |kind: u8, macs, src, dst| {
        let mut frame = packet::icmp_error(macs, src, dst, Error::PortUnreachable, &stray[14..]);
        frame[34] = kind;
        frame[36..38].fill(0);
        let sum = vswitchd::wire::checksum::checksum(&frame[34..]);
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        with_ttl(frame, 1)
    };
    let everywhere = Macs { src: c.mac, dst: MacAddr::BROADCAST };
    let outwards = with_ttl(packet::udp(via(&c), c.at(1), server(2), b"x"), 1);
    for kind in [3, 4, 5, 11, 12] {
        switch.send(&c, &about(kind, via(&c), c.ip, SERVER));
        switch.send(&router, &about(kind, via(&router), SERVER, EXTERNAL));
        switch.send(&c, &about(kind, via(&c), c.ip, GATEWAY));
    }
    // To a broadcast address of IP or of the link, to a group.
    for dst in [ip(255, 255, 255, 255), ip(172, 30, 255, 255), ip(224, 0, 0, 5)] {
        switch.send(&c, &with_ttl(packet::udp(via(&c), c.at(1), Endpoint::new(dst, 9), b"x"), 1));
    }
    switch.send(&c, &with_ttl(packet::udp(everywhere, c.at(1), server(2), b"x"), 1));
    // A later fragment, by itself.
    switch.send(&c, &with_byte(outwards, 21, 185));
    switch.send(&router, &with_ttl(with_byte(question(&router), 21, 185), 1));
    // From nobody.
    for src in NOBODY {
        switch.send(&c, &with_ttl(packet::udp(via(&c), Endpoint::new(src, 1), server(2), b"x"), 1));
        switch.send(
            &router,
            &with_ttl(packet::udp(via(&router), Endpoint::new(src, 1), external(53), b"x"), 1),
        );
    }
    nothing(&c);
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_36_errors_are_rate_limited_and_echo_is_not() {
    let (mut switch, c, router) = published();
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let more: Vec<_> = (0..6).map(|_| switch.add_port(network)).collect();
    let senders: Vec<_> = more.iter().chain([&c, &router]).collect();
    let mut sums = [0, 0];
    for sum in &mut sums {
        let mut sent = vec![0; senders.len()];
        // 50,000 a second, of all of them together.
        for n in 0..50_000 {
            let (who, from) = (n % senders.len(), senders[n % senders.len()]);
            let frame = match from.id {
                PortId::UPLINK => question(from),
                _ => packet::udp(via(from), from.at(1), server(2), b"x"),
            };
            switch.send(from, &with_ttl(frame, 1));
            switch.now += Duration::from_micros(20);
            sent[who] += u32::try_from(received(from).len()).unwrap();
        }
        assert!(sent.iter().all(|&sent| sent <= ICMP_ERRORS_PER_PORT), "{sent:?}");
        *sum = sent.iter().sum::<u32>();
    }
    assert!(sums.iter().all(|sum| (700..=ICMP_ERRORS_PER_SECOND).contains(sum)), "{sums:?} errors a second");
    switch.send(&c, &packet::echo(via(&c), c.ip, GATEWAY, true, 1, b""));
    one(&c);
    settle(&switch);
}

#[test]
fn row_36_who_causes_errors_without_end_leaves_others_theirs() {
    let (mut switch, c, router) = published();
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let d = switch.add_port(network);
    let mut sent = 0;
    for n in 0..50_000 {
        switch.send(&c, &with_ttl(packet::udp(via(&c), c.at(1), server(2), b"x"), 1));
        sent += u32::try_from(received(&c).len()).unwrap();
        switch.now += Duration::from_micros(20);
        // Traceroute on the other side of the switch, twenty probes a second.
        if n % 2_500 == 0 {
            switch.send(&d, &with_ttl(packet::udp(via(&d), d.at(1), server(2), b"x"), 1));
            assert_eq!(told(&one(&d)).1, 11, "probe {n}");
        }
    }
    assert!((1..=ICMP_ERRORS_PER_PORT).contains(&sent), "{sent} errors in one second");
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_37_an_error_quotes_the_header_with_its_options_and_the_beginning_of_the_rest() {
    let (mut switch, c, router) = published();
    // 40 bytes: a timestamp option with room for nine, and its end.
    let options = [&[68, 40, 5, 0][..], &[0; 36]].concat();
    for (from, to) in [(&c, server(2)), (&router, external(53))] {
        let src = if from.id == PortId::UPLINK { server(2) } else { from.at(1) };
        for payload in [0, 1, 100, 1400] {
            let frame = packet::udp(via(from), src, to, &vec![7; payload]);
            let frame = with_ttl(with_options(&frame, &options), 1);
            switch.send(from, &frame);
            let error = one(from);
            let (kind, _, quoted) = icmp_error(&error);
            assert_eq!(kind, 11);
            // RFC 1812 4.3.2.3: as much as fits in 576 bytes.
            assert_eq!(quoted, frame[14..frame.len().min(14 + 576 - 28)], "{payload} bytes");
            assert!(error.len() <= 14 + 576);
        }
    }
    settle(&switch);
}

#[test]
fn row_42_source_routes_are_refused_and_other_options_pass() {
    let (mut switch, c, router) = published();
    let route = |kind| [kind, 7, 4, 203, 0, 113, 1, 0];
    let behind = |kind| [1, 1, 1, 148, 4, 0, 0, kind, 3, 4, 0, 0];
    let mut count = 0;
    for (from, frame) in [(&c, packet::udp(via(&c), c.at(1), server(2), b"x")), (&router, question(&router))]
    {
        for kind in [131, 137] {
            for options in [&route(kind)[..], &behind(kind)] {
                switch.send(from, &with_options(&frame, options));
                count += 1;
            }
        }
    }
    switch.send(&c, &with_options(&packet::echo(via(&c), c.ip, GATEWAY, true, 7, b"x"), &route(131)));
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::SourceRoute), count + 1);
    // Router alert and record route.
    for options in [&[148, 4, 0, 0][..], &[7, 7, 4, 0, 0, 0, 0, 0]] {
        let frame = with_options(&packet::udp(via(&c), c.at(1), server(2), b"x"), options);
        switch.send(&c, &frame);
        assert_eq!(read(&one(&router)).payload, b"x");
    }
    settle(&switch);
}

#[test]
fn row_44_no_route_is_told() {
    let (mut switch, c, router) = Switch::with_uplink();
    let publish = |switch: &Switch, change: fn(&mut vswitchd::snapshot::Uplink)| {
        switch.shared.publish(|snapshot| change(std::sync::Arc::make_mut(&mut snapshot.uplinks[0])));
    };
    let frame = packet::udp(via(&c), c.at(1), server(2), b"x");
    publish(&switch, |uplink| uplink.routes = Default::default());
    switch.send(&c, &frame);
    assert_eq!((told(&one(&c)), switch.drops(DropReason::NoRoute)), ((GATEWAY, 3, 0), 1));
    publish(&switch, |uplink| uplink.up = false);
    switch.send(&c, &frame);
    assert_eq!((told(&one(&c)), switch.drops(DropReason::UplinkDown)), ((GATEWAY, 3, 0), 1));
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_44_a_dead_host_is_told_on_every_link() {
    let mut switch = Switch::new(100);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let router = switch.add_uplink(UplinkMode::Shared);
    let [c, dead] = [switch.add_port(network), switch.add_port(network)];
    switch.publish(Protocol::Udp, 53, &dead, 53);
    [&c, &router].into_iter().for_each(|station| switch.resolve(station));
    let outwards = packet::udp(via(&c), c.at(1), Endpoint::new(ip(192, 0, 2, 77), 2), b"x");
    let along = packet::udp(via(&c), c.at(1), dead.at(2), b"x");
    for frame in [&outwards, &along] {
        switch.send(&c, frame);
    }
    switch.send(&router, &question(&router));
    switch.pass(4 * SECOND, SECOND);
    let errors = |station| -> Vec<_> {
        // What is no error is ARP.
        received(station).iter().filter(|frame| frame[12..14] == [8, 0]).map(|frame| told(frame)).collect()
    };
    assert_eq!(errors(&c), [(GATEWAY, 3, 1), (GATEWAY, 3, 1)]);
    assert_eq!(errors(&router), [(EXTERNAL, 3, 1)]);
    // And at once, for a while.
    switch.send(&c, &outwards);
    switch.send(&router, &question(&router));
    assert_eq!((errors(&c).len(), errors(&router).len()), (1, 1));
    assert_eq!(switch.shared.conntrack.stats().created, 0, "no connection with the dead");
    settle(&switch);
}
