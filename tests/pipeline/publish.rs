//! Section G: published ports, quotas and allocation.

use crate::*;

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
