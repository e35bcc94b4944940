//! Section G: published ports, quotas and allocation.

use crate::*;

#[test]
fn row_77_a_published_port_shows_the_client_and_reaches_the_container_from_inside_too() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
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
    let d = neighbor(&mut switch);
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
    // As a host has it: 127.0.0.1 is one of its addresses.
    switch.shared.publish(|snapshot| {
        let uplink = std::sync::Arc::make_mut(&mut snapshot.uplinks[0]);
        uplink.host_addresses.push(Ipv4Addr::LOCALHOST);
    });
    let loopback = Endpoint::new(Ipv4Addr::LOCALHOST, 53);
    switch.send(&router, &packet::udp(via(&router), server(1), loopback, b"x"));
    nothing(&c);
    assert_eq!(switch.drops(DropReason::MartianDestination), 1);
    settle(&switch);
}

#[test]
fn row_79_a_containers_own_source_port_captures_no_service() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    switch.publish(Protocol::Udp, 1194, &d, 1194);
    switch.publish(Protocol::Udp, 62_000, &d, 2000);
    // c speaks from the ports of the published services and of the host's own (53) to a client of theirs.
    let client = server(7000);
    for port in [1194, 62_000, 53] {
        switch.send(&c, &packet::udp(via(&c), c.at(port), client, b"shadow"));
        assert_ne!(read(&one(&router)).src.port, port);
    }
    for (port, target) in [(1194, 1194), (62_000, 2000)] {
        switch.send(&router, &packet::udp(via(&router), client, external(port), b"to the service"));
        assert_eq!(read(&one(&d)).dst, d.at(target));
    }
    let left = switch.totals().left_to_host;
    switch.send(&router, &packet::udp(via(&router), client, external(53), b"to the host"));
    assert_eq!(switch.totals().left_to_host, left + 1);
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_80_an_old_flow_follows_the_publication_and_ends_with_it() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    let question = packet::udp(via(&router), server(7000), external(53), b"x");
    let unpublish = |switch: &mut Switch| {
        switch.shared.publish(|snapshot| {
            std::sync::Arc::make_mut(&mut snapshot.publications).remove(Protocol::Udp, None, 53);
        });
        switch.shared.conntrack.flush(switch.now, |connection| connection.outside.port == 53)
    };
    for target in [&c, &d] {
        switch.publish(Protocol::Udp, 53, target, 5353);
        for _ in 0..3 {
            switch.send(&router, &question);
            assert_eq!(read(&one(target)).dst, target.at(5353));
        }
        assert_eq!(unpublish(&mut switch), 1);
        let left = switch.totals().left_to_host;
        switch.send(&router, &question);
        assert_eq!(switch.totals().left_to_host, left + 1, "nothing is left of it");
    }
    nothing(&c);
    assert_eq!(switch.shared.conntrack.stats().connections, 0);
    settle(&switch);
}

#[test]
fn row_81_a_port_does_not_get_all_external_ports() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    let quota = usize::try_from(switch.shared.conntrack.fair_ports()).unwrap();
    // Those of the range as well: they would all be in one shard's hands.
    for port in (1..3000).chain(61_000..=65_535) {
        switch.send(&c, &packet::udp(via(&c), c.at(port), server(53), b"x"));
    }
    assert_eq!(received(&router).len(), quota);
    assert!(received(&c).iter().all(|frame| (icmp_error(frame).0, icmp_error(frame).1) == (3, 13)));
    assert!(switch.drops(DropReason::NatPortQuota) > 0);
    for port in 1..=1000 {
        switch.send(&d, &packet::udp(via(&d), d.at(port), server(53), b"x"));
        assert_eq!(received(&router).len(), 1, "{port}");
    }
    assert_eq!(switch.shared.conntrack.nat_ports_of(d.id, Protocol::Udp), 1000);
    switch.pass(302 * SECOND, SECOND);
    assert_eq!(switch.shared.conntrack.nat_ports_of(c.id, Protocol::Udp), 0, "time gives the quota back");
    settle(&switch);
}

/// A connection of the container from this port, closed by both sides if `closes`. Says whether it was made.
fn tcp_talk(switch: &mut Switch, [c, router]: [&Station; 2], port: u16, closes: bool) -> bool {
    let tcp = |flags, seq, ack| Tcp { flags, seq, ack };
    let out = |tcp| packet::tcp(via(c), c.at(port), server(80), tcp, b"");
    switch.send(c, &out(tcp(SYN, 100, 0)));
    let Some(syn) = received(router).first().map(|frame| read(frame)) else { return false };
    let back = |tcp| packet::tcp(via(router), server(80), syn.src, tcp, b"");
    switch.send(router, &back(tcp(SYN | ACK, 500, 101)));
    switch.send(c, &out(tcp(ACK, 101, 501)));
    if closes {
        switch.send(router, &back(tcp(FIN | ACK, 501, 101)));
        switch.send(c, &out(tcp(FIN | ACK, 101, 502)));
    }
    received(c);
    received(router);
    true
}

#[test]
fn connections_that_are_over_make_room_for_new_ones() {
    let (mut switch, c, router) = Switch::with_uplink();
    let quota = |switch: &Switch, connections, nat_ports| {
        switch.shared.publish(|snapshot| {
            let mut port = vswitchd::snapshot::Port::clone(snapshot.port(c.id).unwrap());
            (port.quota, port.nat_ports) = (connections, nat_ports);
            snapshot.set_port(port);
        });
    };
    let over = |switch: &mut Switch, ports: std::ops::Range<u16>| {
        ports.filter(|&port| tcp_talk(switch, [&c, &router], port, true)).count()
    };
    let used = |switch: &Switch| {
        let conntrack = &switch.shared.conntrack;
        (conntrack.connections_of(c.id), conntrack.nat_ports_of(c.id, Protocol::Tcp))
    };
    // Far more than the quota of external ports, and than the quota of connections.
    quota(&switch, 100, 5);
    assert_eq!(over(&mut switch, 1000..1200), 200);
    assert_eq!(used(&switch), (5, 5));
    quota(&switch, 7, 100);
    assert_eq!(over(&mut switch, 1200..1400), 200);
    assert_eq!(used(&switch), (7, 7));
    assert_eq!(switch.shared.conntrack.stats().reclaimed, 195 + 198);
    assert_eq!(switch.shared.conntrack.stats().refused_quota, 0);
    // Those that live are not touched.
    let live = (1400..1500).filter(|&port| tcp_talk(&mut switch, [&c, &router], port, false)).count();
    assert_eq!((live, used(&switch)), (7, (7, 7)));
    assert_eq!(over(&mut switch, 1500..1501), 0);
    assert_eq!(switch.drops(DropReason::ConntrackQuota), 94);
    let frame = packet::tcp(via(&c), c.at(1400), server(80), Tcp { flags: ACK, seq: 101, ack: 501 }, b"x");
    switch.send(&c, &frame);
    assert_eq!(read(&one(&router)).payload, b"x");
    // Nor are those that opened anew after they were over.
    switch.shared.conntrack.flush(switch.now, |_| true);
    received(&c);
    assert!(tcp_talk(&mut switch, [&c, &router], 2000, true));
    assert!(tcp_talk(&mut switch, [&c, &router], 2000, false));
    quota(&switch, 1, 1);
    assert_eq!(over(&mut switch, 2001..2002), 0);
    settle(&switch);
}

#[test]
fn row_82_a_freed_port_rests_two_minutes() {
    let (mut switch, c, router) = Switch::with_uplink();
    let shown = |switch: &mut Switch| {
        switch.resolve(&router);
        switch.send(&c, &packet::udp(via(&c), c.at(62_000), server(53), b"x"));
        read(&one(&router)).src.port
    };
    assert_eq!(shown(&mut switch), 62_000);
    for (wait, expected) in [(0, false), (119, false), (3, true)] {
        switch.shared.conntrack.flush(switch.now, |_| true);
        switch.pass(wait * SECOND, SECOND);
        let kept = shown(&mut switch) == 62_000;
        assert_eq!(kept, expected, "after {wait} s more");
    }
    settle(&switch);
}

#[test]
fn row_83_external_ports_are_spread_evenly_and_in_no_order() {
    const TRIALS: usize = 10_000;
    let (mut switch, c, router) = Switch::with_uplink();
    let mut ports = Vec::new();
    let mut own = 1024;
    while ports.len() < TRIALS {
        for _ in 0..1000 {
            own = if own == 60_000 { 1024 } else { own + 1 };
            switch.send(&c, &packet::udp(via(&c), c.at(own), server(53), b"x"));
            ports.push(read(&one(&router)).src.port);
        }
        switch.shared.conntrack.flush(switch.now, |_| true);
        switch.now += 121 * SECOND;
        switch.resolve(&router);
        switch.resolve(&c);
    }
    const BINS: usize = 63;
    let (range, mut counts) = (vswitchd::sim::NAT_PORTS, [0_f64; BINS]);
    for port in &ports {
        counts[usize::from(port - range.start()) * BINS / range.len()] += 1.0;
    }
    let expected = TRIALS as f64 / BINS as f64;
    let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    assert!(chi_square < 90.8, "{chi_square:.1} with 62 degrees of freedom: p < 0.01");
    // By chance, three in a row come in about one of 4536^2 triples.
    let runs =
        ports.windows(3).filter(|w| w[1] == w[0].wrapping_add(1) && w[2] == w[1].wrapping_add(1)).count();
    assert!(runs <= 1, "{runs} runs of three");
    settle(&switch);
}

/// Gives a port a quota of connections.
fn limit(switch: &Switch, station: &Station, quota: u32) {
    switch.shared.publish(|snapshot| {
        let mut port = vswitchd::snapshot::Port::clone(snapshot.port(station.id).unwrap());
        port.quota = quota;
        snapshot.set_port(port);
    });
}

/// Who calls lives at one of many addresses.
fn caller(n: u32) -> Endpoint {
    Endpoint::new(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n), 1000)
}

#[test]
fn row_81_who_is_called_by_too_many_is_not_locked_out() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Tcp, 8080, &c, 80);
    switch.publish(Protocol::Udp, 53, &c, 53);
    limit(&switch, &c, 50);
    let syn = Tcp { flags: SYN, seq: 5, ack: 0 };
    let (syn_ack, ack) = (Tcp { flags: SYN | ACK, seq: 9, ack: 6 }, Tcp { flags: ACK, seq: 6, ack: 10 });
    // One who is really there, and goes on.
    let guest = caller(70_000);
    let from_guest = |header| packet::tcp(via(&router), guest, external(8080), header, b"");
    switch.send(&router, &from_guest(syn));
    switch.send(&c, &packet::tcp(via(&c), c.at(80), guest, syn_ack, b""));
    switch.send(&router, &from_guest(ack));
    let asker = caller(70_001);
    let asks = packet::udp(via(&router), asker, external(53), b"a");
    let answers = packet::udp(via(&c), c.at(53), asker, b"b");
    for udp in [false, true] {
        for n in 0..1000 {
            let dial = if udp {
                packet::udp(via(&router), caller(n), external(53), b"x")
            } else {
                packet::tcp(via(&router), caller(n), external(8080), syn, b"")
            };
            switch.send(&router, &dial);
            if n % 10 == 0 {
                switch.send(&router, &asks);
                switch.pass(SECOND / 50, SECOND / 50);
            }
        }
        assert!(switch.shared.conntrack.connections_of(c.id) <= 50);
        received(&c);
        received(&router);
        // The container gets out, a new caller gets in, and those who are there stay.
        switch.send(&c, &packet::udp(via(&c), c.at(40_000 + u16::from(udp)), server(9), b"out"));
        one(&router);
        switch.send(&router, &packet::tcp(via(&router), caller(80_000), external(8080), syn, b""));
        one(&c);
        switch.send(&c, &packet::tcp(via(&c), c.at(80), guest, ack, b"still"));
        switch.send(&c, &answers);
        let seen: Vec<_> = received(&router).iter().map(|frame| read(frame).src).collect();
        assert_eq!(seen, [external(8080), external(53)], "flood by UDP: {udp}");
    }
    settle(&switch);
}

#[test]
fn row_81_a_port_has_a_quota_and_the_next_one_is_not_harmed() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    limit(&switch, &c, 10);
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
    switch.pass(310 * SECOND, SECOND);
    assert_eq!(switch.shared.conntrack.connections_of(c.id), 0, "time gives the quota back");
    settle(&switch);
}
