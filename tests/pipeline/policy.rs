//! Policy: who may open a connection to whom, between networks, to the world, from it, and on one network.

use std::sync::Arc;

use vswitchd::snapshot::{Publication, Scope, Target};
use vswitchd::table::policy::{Action, Defaults, Listed, Place, Policy, Rule};
use vswitchd::wire::ethernet;

use crate::*;

const OPEN: Tcp = Tcp { flags: SYN, seq: 100, ack: 0 };
const ACCEPT: Tcp = Tcp { flags: SYN | ACK, seq: 500, ack: 101 };
const DATA: Tcp = Tcp { flags: ACK, seq: 101, ack: 501 };

fn rule(action: Action, from: &[Place], to: &[Place]) -> Rule {
    Rule { action, from: from.to_vec(), to: to.to_vec(), protocol: None, ports: None }
}

fn tcp_to(port: u16, rule: Rule) -> Rule {
    Rule { protocol: Some(Protocol::Tcp), ports: Some(port..=port), ..rule }
}

/// As a user has it who names ports and networks.
fn at(station: &Station) -> Place {
    Place::Port(format!("p{}", station.id.0))
}

fn network(id: NetworkId) -> Place {
    Place::Network(format!("net{}", id.0))
}

fn set(switch: &mut Switch, rules: impl IntoIterator<Item = Rule>) {
    let rules = rules.into_iter().map(|rule| Arc::new(Listed::new(rule, None)));
    switch.set_policy(Policy::new(rules.collect(), Defaults::new()));
}

/// Two networks with a station each, that know their gateways.
fn two_networks() -> (Switch, [NetworkId; 2], [Station; 2]) {
    let mut switch = Switch::new(1000);
    let red = switch.add_network("10.1.0.0/24".parse().unwrap(), NetworkMode::Nat);
    let blue = switch.add_network("10.2.0.0/24".parse().unwrap(), NetworkMode::Nat);
    let (a, b) = (switch.add_port(red), switch.add_port(blue));
    switch.resolve(&a);
    switch.resolve(&b);
    (switch, [red, blue], [a, b])
}

fn is_refused(station: &Station) {
    let (kind, code, _) = icmp_error(&one(station));
    assert_eq!((kind, code), (3, 13), "communication administratively prohibited");
}

#[test]
fn one_rule_lets_exactly_that_traffic_cross() {
    let (mut switch, [red, blue], [a, b]) = two_networks();
    let allow = rule(Action::Allow, &[network(red)], &[network(blue)]);
    set(&mut switch, [tcp_to(80, allow)]);
    switch.send(&a, &packet::tcp(via(&a), a.at(1000), b.at(80), OPEN, b""));
    let seen = read(&one(&b));
    assert_eq!((seen.src, seen.dst, seen.ttl), (a.at(1000), b.at(80), 63), "routed, not translated");
    switch.send(&b, &packet::tcp(via(&b), b.at(80), a.at(1000), ACCEPT, b""));
    assert_eq!(read(&one(&a)).src, b.at(80));
    for _ in 0..3 {
        switch.send(&a, &packet::tcp(via(&a), a.at(1000), b.at(80), DATA, b"question"));
        assert_eq!(read(&one(&b)).payload, b"question");
        switch.send(&b, &packet::tcp(via(&b), b.at(80), a.at(1000), Tcp { seq: 501, ..DATA }, b"answer"));
        assert_eq!(read(&one(&a)).payload, b"answer");
    }
    assert!(switch.totals().rx_cached >= 4, "an established flow takes no decision");
    let info = switch.shared.conntrack.entries(switch.now);
    assert_eq!(info.len(), 1);
    assert_eq!((info[0].original(), info[0].nat.as_str()), ((a.at(1000), b.at(80)), "none"));
    // Nothing else of theirs, in either direction.
    let gateway = Endpoint::new(Ipv4Addr::new(10, 2, 0, 1), 80);
    for (from, frame) in [
        (&a, packet::tcp(via(&a), a.at(1001), b.at(81), OPEN, b"")),
        (&a, packet::udp(via(&a), a.at(1001), b.at(80), b"x")),
        (&a, packet::echo(via(&a), a.ip, b.ip, true, 7, b"x")),
        (&a, packet::tcp(via(&a), a.at(1001), gateway, OPEN, b"")),
        (&b, packet::tcp(via(&b), b.at(1001), a.at(80), OPEN, b"")),
        // What was a client's answer does not open one.
        (&b, packet::tcp(via(&b), b.at(80), a.at(1000), OPEN, b"")),
        (&b, packet::tcp(via(&b), b.at(80), a.at(1002), ACCEPT, b"")),
    ] {
        switch.send(from, &frame);
        is_refused(from);
    }
    nothing(&a);
    nothing(&b);
    assert_eq!(switch.drops(DropReason::Isolated), 7);
    // Without the rule and its connections, it is as it was.
    set(&mut switch, []);
    switch.shared.conntrack.flush(switch.now, |_| true);
    switch.send(&a, &packet::tcp(via(&a), a.at(1000), b.at(80), DATA, b"question"));
    is_refused(&a);
    nothing(&b);
    settle(&switch);
}

#[test]
fn what_is_refused_is_not_heard_of_by_arp() {
    let (mut switch, [red, blue], [a, b]) = two_networks();
    let stranger = Endpoint::new(Ipv4Addr::new(10, 2, 0, 77), 80);
    switch.send(&a, &packet::tcp(via(&a), a.at(1), stranger, OPEN, b""));
    is_refused(&a);
    nothing(&b);
    set(&mut switch, [rule(Action::Allow, &[network(red)], &[network(blue)])]);
    switch.send(&a, &packet::tcp(via(&a), a.at(1), stranger, OPEN, b""));
    assert_eq!(one(&b)[12..14], ethernet::ARP.to_be_bytes(), "now it is looked for");
    settle(&switch);
}

#[test]
fn udp_and_echo_and_errors_about_them_cross_with_their_connection() {
    let (mut switch, [red, blue], [a, b]) = two_networks();
    set(&mut switch, [rule(Action::Allow, &[network(red)], &[network(blue)])]);
    let question = packet::udp(via(&a), a.at(5000), b.at(53), b"question");
    let unreachable =
        |quoted: &[u8]| packet::icmp_error(via(&b), b.ip, a.ip, Error::PortUnreachable, &quoted[14..]);
    switch.send(&b, &unreachable(&question));
    assert_eq!(switch.drops(DropReason::IcmpErrorUnmatched), 1, "about nothing");
    switch.send(&a, &question);
    let arrived = one(&b);
    switch.send(&b, &unreachable(&arrived));
    assert_eq!((icmp_error(&one(&a)).0, switch.drops(DropReason::IcmpErrorUnmatched)), (3, 1));
    switch.send(&b, &packet::udp(via(&b), b.at(53), a.at(5000), b"answer"));
    assert_eq!(read(&one(&a)).payload, b"answer");
    for (from, to, request) in [(&a, &b, true), (&b, &a, false), (&a, &b, true)] {
        switch.send(from, &packet::echo(via(from), from.ip, to.ip, request, 77, b"ping"));
        assert_eq!(read(&one(to)).payload, b"ping");
    }
    switch.send(&b, &packet::echo(via(&b), b.ip, a.ip, true, 77, b"ping"));
    is_refused(&b);
    let ping = switch.shared.conntrack.entries(switch.now).into_iter().find(|c| c.protocol == Protocol::Icmp);
    assert_eq!(ping.unwrap().original(), (a.at(77), b.at(77)));
    settle(&switch);
}

#[test]
fn internet_yes_lan_no_host_no() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    set(&mut switch, [rule(Action::Deny, &[at(&c)], &[Place::Lan, Place::Host])]);
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(53), b"x"));
    assert_eq!(read(&one(&router)).dst, server(53));
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let printer = Endpoint::new(Ipv4Addr::new(192, 168, 7, 7), 631);
    for frame in [
        packet::udp(via(&c), c.at(1), Endpoint::new(ROUTER, 53), b"x"),
        packet::tcp(via(&c), c.at(1), printer, OPEN, b""),
        packet::echo(via(&c), c.ip, gateway, true, 7, b"x"),
        packet::echo(via(&c), c.ip, EXTERNAL, true, 7, b"x"),
    ] {
        switch.send(&c, &frame);
        is_refused(&c);
    }
    nothing(&router);
    assert_eq!(switch.drops(DropReason::PolicyDenied), 4);
    assert_eq!(switch.shared.snapshot().policy.rules()[0].denied(), 4);
    // The others are not meant, and its own network is not.
    switch.send(&d, &packet::echo(via(&d), d.ip, gateway, true, 7, b"x"));
    assert_eq!(read(&one(&d)).src.ip, gateway);
    switch.send(&c, &packet::udp(between(&c, &d), c.at(1), d.at(1), b"x"));
    assert_eq!(read(&one(&d)).src, c.at(1));
    assert_eq!(
        switch.shared.conntrack.entries(switch.now).len(),
        1,
        "what is switched is not tracked for that"
    );
    settle(&switch);
}

#[test]
fn what_was_said_to_a_neighbor_opens_nothing_by_the_gateway() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    // A rule about neighbors, for which what they say to each other is tracked, whatever the address.
    let within = tcp_to(99, rule(Action::Deny, &[at(&c)], &[at(&d)]));
    set(&mut switch, [within.clone()]);
    let to_server = |macs| packet::udp(macs, c.at(61_001), server(53), b"x");
    for _ in 0..2 {
        switch.send(&c, &to_server(between(&c, &d)));
        assert_eq!(one(&d), to_server(between(&c, &d)), "it may pass it on");
        switch.send(&c, &to_server(via(&c)));
        assert_eq!(read(&one(&router)).src.ip, EXTERNAL, "nobody outside sees an inner address");
    }
    let answer = packet::udp(via(&router), server(53), external(61_001), b"answer");
    switch.send(&router, &answer);
    assert_eq!(read(&one(&c)).dst, c.at(61_001));
    // Nor does it open what is forbidden there.
    set(&mut switch, [within, rule(Action::Deny, &[at(&c)], &[Place::Internet])]);
    switch.shared.conntrack.flush(switch.now, |_| true);
    switch.send(&c, &to_server(between(&c, &d)));
    assert_eq!(one(&d), to_server(between(&c, &d)));
    switch.send(&c, &to_server(via(&c)));
    is_refused(&c);
    nothing(&router);
    settle(&switch);
}

#[test]
fn a_published_service_answers_though_it_may_not_call() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Tcp, 8080, &c, 80);
    switch.publish(Protocol::Udp, 8080, &c, 80);
    let elsewhere = Place::Prefix("203.0.113.0/24".parse().unwrap());
    set(&mut switch, [rule(Action::Deny, &[at(&c)], &[]), rule(Action::Deny, &[elsewhere], &[at(&c)])]);
    switch.send(&router, &packet::tcp(via(&router), server(4000), external(8080), OPEN, b""));
    assert_eq!(read(&one(&c)).dst, c.at(80), "rules see the container's port");
    switch.send(&c, &packet::tcp(via(&c), c.at(80), server(4000), ACCEPT, b""));
    assert_eq!(read(&one(&router)).src, external(8080));
    switch.send(&router, &packet::udp(via(&router), server(4000), external(8080), b"question"));
    switch.send(&c, &packet::udp(via(&c), c.at(80), server(4000), b"answer"));
    assert_eq!(read(&one(&router)).payload, b"answer");
    received(&c);
    // It calls nobody, not even its client from the same port.
    for to in [server(4000), server(4001)] {
        switch.send(&c, &packet::tcp(via(&c), c.at(80), to, OPEN, b""));
        is_refused(&c);
    }
    switch.send(&c, &packet::udp(via(&c), c.at(80), server(4001), b"x"));
    is_refused(&c);
    // Whom it is closed to hears nothing at all.
    let stranger = Endpoint::new(Ipv4Addr::new(203, 0, 113, 9), 1);
    switch.send(&router, &packet::tcp(via(&router), stranger, external(8080), OPEN, b""));
    nothing(&router);
    nothing(&c);
    assert_eq!(switch.drops(DropReason::PolicyDenied), 4);
    settle(&switch);
}

#[test]
fn a_published_address_leads_to_another_network_only_by_a_rule() {
    let (mut switch, c, router) = Switch::with_uplink();
    let blue = switch.add_network("10.2.0.0/24".parse().unwrap(), NetworkMode::Nat);
    let b = switch.add_port(blue);
    switch.resolve(&b);
    switch.publish(Protocol::Tcp, 8080, &c, 80);
    let call = packet::tcp(via(&b), b.at(1000), external(8080), OPEN, b"");
    switch.send(&b, &call);
    is_refused(&b);
    nothing(&c);
    assert_eq!(switch.drops(DropReason::Isolated), 1);
    set(&mut switch, [tcp_to(80, rule(Action::Allow, &[at(&b)], &[at(&c)]))]);
    switch.send(&b, &call);
    let shown = read(&one(&c));
    assert_eq!((shown.src.ip, shown.dst), (EXTERNAL, c.at(80)));
    switch.send(&c, &packet::tcp(via(&c), c.at(80), shown.src, ACCEPT, b""));
    assert_eq!(read(&one(&b)).src, external(8080));
    nothing(&router);
    settle(&switch);
}

#[test]
fn neighbors_are_kept_apart_where_a_rule_says_so() {
    let (mut switch, stations) = lan(3);
    let [a, b, c] = &stations[..] else { unreachable!() };
    set(&mut switch, [rule(Action::Deny, &[at(a)], &[at(b)])]);
    let v6 = |from: &Station, to: &Station| {
        let mut frame = vec![0; 54];
        ethernet::write(&mut frame, to.mac, from.mac, ethernet::IPV6);
        frame[14] = 0x60;
        frame[20] = 59;
        frame
    };
    // Not by any of what has an answer, in one packet or in several.
    for frame in [
        packet::tcp(between(a, b), a.at(1), b.at(80), OPEN, b""),
        packet::udp(between(a, b), a.at(1), b.at(80), b"x"),
        packet::echo(between(a, b), a.ip, b.ip, true, 7, b"x"),
    ] {
        switch.send(a, &frame);
        is_refused(a);
    }
    // Nor by the gateway.
    switch.send(a, &packet::udp(via(a), a.at(1), b.at(80), b"x"));
    is_refused(a);
    switch.send(a, &v6(a, b));
    // Nor in a frame for all, or behind a tag that stations look through.
    let to_all = Macs { src: a.mac, dst: MacAddr::BROADCAST };
    switch.send(a, &packet::udp(to_all, a.at(1), b.at(80), b"x"));
    let mut tagged = packet::udp(between(a, b), a.at(1), b.at(80), b"x");
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    switch.send(a, &tagged);
    nothing(a);
    nothing(b);
    nothing(c);
    assert_eq!((switch.drops(DropReason::PolicyDenied), switch.drops(DropReason::LinkBroadcast)), (6, 1));
    let everybody = Endpoint::new(Ipv4Addr::BROADCAST, 67);
    switch.send(a, &packet::udp(to_all, a.at(1), everybody, b"x"));
    assert_eq!((received(b).len(), received(c).len()), (1, 1), "groups hear it");
    // The other way round, and with others.
    switch.send(b, &packet::tcp(between(b, a), b.at(1), a.at(80), OPEN, b""));
    assert_eq!(read(&one(a)).ttl, 64, "switched, not routed");
    switch.send(a, &packet::tcp(between(a, b), a.at(80), b.at(1), ACCEPT, b""));
    assert_eq!(read(&one(b)).src, a.at(80));
    for _ in 0..3 {
        switch.send(b, &packet::tcp(between(b, a), b.at(1), a.at(80), DATA, b"x"));
        assert_eq!(read(&one(a)).payload, b"x");
    }
    assert!(switch.totals().rx_cached > 0);
    switch.send(b, &v6(b, a));
    one(a);
    switch.send(a, &packet::udp(between(a, c), a.at(1), c.at(80), b"x"));
    assert_eq!(read(&one(c)).src, a.at(1));
    settle(&switch);
}

const LINK_LOCAL: [&str; 2] = ["fe80::1", "fe80::2"];
const TCP6: u8 = 6;
const UDP6: u8 = 17;
const ICMP6: u8 = 58;

/// The first bytes of TCP or UDP to a port.
fn calls(port: u8) -> [u8; 8] {
    [0x90, 0, 0, port, 0, 8, 0, 0]
}

#[test]
fn what_is_forbidden_does_not_pass_by_ipv6() {
    let (mut switch, stations) = lan(3);
    let [a, b, c] = &stations[..] else { unreachable!() };
    let no_ping = Rule { protocol: Some(Protocol::Icmp), ..rule(Action::Deny, &[at(a)], &[at(b)]) };
    set(&mut switch, [tcp_to(22, rule(Action::Deny, &[], &[at(b)])), no_ping]);
    let (there, back) = (between(a, b), between(b, a));
    let hop_by_hop = |next: u8| [[next, 0, 1, 4, 0, 0, 0, 0].as_slice(), &calls(22)].concat();
    let fragment = |first: u8| [[TCP6, 0, 0, first, 0, 0, 0, 7].as_slice(), &calls(22)].concat();
    let mut tagged = v6(there, LINK_LOCAL, TCP6, &calls(22));
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    for frame in [
        v6(there, LINK_LOCAL, TCP6, &calls(22)),
        v6(there, LINK_LOCAL, 0, &hop_by_hop(TCP6)),
        v6(there, LINK_LOCAL, 44, &fragment(1)),
        v6(there, LINK_LOCAL, ICMP6, &[128, 0, 0, 0, 0, 1, 0, 1]),
        tagged,
    ] {
        switch.send(a, &frame);
        nothing(b);
    }
    assert_eq!(switch.drops(DropReason::PolicyDenied), 5);
    // Nor to an address of one station in a frame for many, which stations take datagrams from.
    let groups = [MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1])];
    for dst in groups {
        switch.send(a, &v6(Macs { dst, ..there }, LINK_LOCAL, UDP6, &calls(80)));
        nothing(b);
    }
    assert_eq!(switch.drops(DropReason::LinkBroadcast), 2);
    // A port that might be anywhere is none.
    switch.send(
        a,
        &v6(there, LINK_LOCAL, 44, &[[60, 0, 0, 1, 0, 0, 0, 7], [TCP6, 1, 1, 4, 0, 0, 0, 0]].concat()),
    );
    nothing(b);
    assert_eq!(switch.drops(DropReason::UnreadableHeaders), 1);
    // All else goes on: other ports and protocols, answers, others, groups, and finding each other.
    for (from, to, frame) in [
        (a, b, v6(there, LINK_LOCAL, TCP6, &calls(80))),
        (a, b, v6(there, LINK_LOCAL, UDP6, &calls(22))),
        (a, b, v6(there, LINK_LOCAL, ICMP6, &[135, 0, 0, 0, 0, 0, 0, 0])),
        (a, b, v6(there, LINK_LOCAL, ICMP6, &[136, 0, 0, 0, 0, 0, 0, 0])),
        (a, b, v6(there, LINK_LOCAL, 44, &fragment(8))),
        (b, a, v6(back, LINK_LOCAL, TCP6, &calls(22))),
        (a, c, v6(between(a, c), LINK_LOCAL, TCP6, &calls(22))),
    ] {
        switch.send(from, &frame);
        assert_eq!(one(to), frame);
    }
    received(b);
    switch.send(
        a,
        &v6(Macs { dst: groups[1], ..there }, ["fe80::1", "ff02::1"], ICMP6, &[128, 0, 0, 0, 0, 1, 0, 1]),
    );
    assert_eq!((received(b).len(), received(c).len()), (1, 1), "groups hear it");
    // What forbids everything forbids finding each other, too.
    set(&mut switch, [rule(Action::Deny, &[at(a)], &[at(b)])]);
    switch.send(a, &v6(there, LINK_LOCAL, ICMP6, &[136, 0, 0, 0, 0, 0, 0, 0]));
    nothing(b);
    settle(&switch);
}

#[test]
fn what_spoke_before_the_first_rule_goes_on() {
    let (mut switch, stations) = lan(3);
    let [a, b, c] = &stations[..] else { unreachable!() };
    let data = packet::tcp(between(a, b), a.at(1), b.at(80), DATA, b"x");
    switch.send(a, &data);
    set(&mut switch, [rule(Action::Deny, &[at(a)], &[at(c)])]);
    for _ in 0..2 {
        switch.send(a, &data);
    }
    assert_eq!(received(b).len(), 3);
    settle(&switch);
}

#[test]
fn a_default_holds_where_no_rule_decides() {
    let (mut switch, _, [a, b]) = two_networks();
    let defaults = Defaults::from([
        (("net0".into(), "net1".into()), Action::Allow),
        (("net1".into(), "net1".into()), Action::Deny),
    ]);
    switch.set_policy(Policy::new(Vec::new(), defaults));
    switch.send(&a, &packet::udp(via(&a), a.at(1), b.at(2), b"x"));
    assert_eq!(read(&one(&b)).src, a.at(1));
    let c = switch.add_port(NetworkId(1));
    switch.resolve(&c);
    switch.send(&b, &packet::udp(between(&b, &c), b.at(1), c.at(2), b"x"));
    is_refused(&b);
    nothing(&c);
    settle(&switch);
}

#[test]
fn connections_are_spread_over_the_targets_and_stay_where_they_are() {
    let (mut switch, c, router) = Switch::with_uplink();
    let (d, e) = (neighbor(&mut switch), neighbor(&mut switch));
    switch.publish_to_all(Protocol::Udp, 53, &[&c, &d, &e], 5353);
    let call = |switch: &mut Switch, port: u16| {
        switch.send(&router, &packet::udp(via(&router), server(port), external(53), b"question"));
        let hit: Vec<&Station> = [&c, &d, &e].into_iter().filter(|s| !received(s).is_empty()).collect();
        let [hit] = hit[..] else { panic!("one of them") };
        hit.id
    };
    let before: Vec<_> = (1000..1090).map(|port| call(&mut switch, port)).collect();
    for station in [&c, &d, &e] {
        let count = before.iter().filter(|&&id| id == station.id).count();
        assert!((10..60).contains(&count), "{count} of 90 at {}", station.ip);
        switch.send(station, &packet::udp(via(station), station.at(5353), server(9), b"own"));
        assert_ne!(read(&one(&router)).src, external(53));
    }
    // One more target takes no connection from the others, and one fewer ends its own only.
    let f = neighbor(&mut switch);
    switch.publish_to_all(Protocol::Udp, 53, &[&f, &c, &d, &e], 5353);
    let after: Vec<_> = (1000..1090).map(|port| call(&mut switch, port)).collect();
    assert_eq!(before, after);
    let fresh = (2000..2100).filter(|&port| {
        switch.send(&router, &packet::udp(via(&router), server(port), external(53), b"question"));
        !received(&f).is_empty()
    });
    assert!(fresh.count() > 5, "new ones go there, too");
    [&c, &d, &e].into_iter().for_each(|station| drop(received(station)));
    // And from a container, by the uplink's address.
    for port in 1..20 {
        switch.send(&f, &packet::udp(via(&f), f.at(port), external(53), b"question"));
        switch.send(&f, &packet::udp(via(&f), f.at(port), external(53), b"question"));
        let counts = [&c, &d, &e, &f].map(|station| received(station).len());
        assert!(counts.contains(&2) && counts.iter().sum::<usize>() == 2, "{counts:?}");
    }
    settle(&switch);
}

#[test]
fn a_port_that_is_published_for_the_lan_is_not_on_the_internet() {
    let (mut switch, c, router) = Switch::with_uplink();
    let targets = vec![Target { endpoint: c.at(80), to: c.id }];
    let publication = Publication {
        protocol: Protocol::Udp,
        ip: None,
        ports: 8080..=8081,
        scope: Scope::Lan,
        targets,
        health: None,
    };
    switch.shared.publish(|snapshot| Arc::make_mut(&mut snapshot.publications).insert(publication));
    let from = |ip: [u8; 4]| Endpoint::new(ip.into(), 4000);
    for client in [from([192, 0, 2, 77]), from([10, 9, 8, 7])] {
        switch.send(&router, &packet::udp(via(&router), client, external(8081), b"x"));
        assert_eq!(read(&one(&c)).dst, c.at(81));
    }
    switch.send(&router, &packet::udp(via(&router), server(4000), external(8080), b"x"));
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::PublicationScope), 1);
    // The container may call whom it likes.
    switch.send(&c, &packet::udp(via(&c), c.at(80), server(4000), b"x"));
    let shown = read(&one(&router)).src;
    switch.send(&router, &packet::udp(via(&router), server(4000), shown, b"x"));
    assert_eq!(read(&one(&c)).dst, c.at(80));
    settle(&switch);
}

#[test]
fn a_routed_network_is_filtered_with_its_own_addresses() {
    let mut switch = Switch::new(1000);
    let routed = switch.add_network("10.1.0.0/24".parse().unwrap(), NetworkMode::Routed);
    let router = switch.add_uplink(UplinkMode::Shared);
    let c = switch.add_port(routed);
    switch.resolve(&router);
    switch.resolve(&c);
    let data = packet::tcp(via(&c), c.at(22), server(99), DATA, b"x");
    switch.send(&c, &data);
    assert_eq!(read(&one(&router)).src, c.at(22));
    set(&mut switch, [rule(Action::Deny, &[Place::Internet], &[])]);
    // What spoke before goes on as far as it may; what opens is asked about.
    switch.send(&c, &data);
    assert_eq!(read(&one(&router)).src, c.at(22));
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"question"));
    assert_eq!(read(&one(&router)).src, c.at(5000), "not translated");
    for _ in 0..2 {
        switch.send(&router, &packet::udp(via(&router), server(53), c.at(5000), b"answer"));
        assert_eq!(read(&one(&c)).payload, b"answer");
    }
    switch.send(&router, &packet::udp(via(&router), server(54), c.at(5000), b"x"));
    switch.send(&router, &packet::tcp(via(&router), server(99), c.at(22), OPEN, b""));
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::PolicyDenied), 2);
    settle(&switch);
}

#[test]
fn the_host_on_a_network_is_the_host() {
    let (mut switch, stations) = lan(3);
    let [c, h, d] = &stations[..] else { unreachable!() };
    switch.change_port(h, |port| port.host = Some(ipnet::Ipv4Net::new(h.ip, 16).unwrap()));
    set(&mut switch, [rule(Action::Deny, &[at(c)], &[Place::Host])]);
    for macs in [between(c, h), via(c)] {
        switch.send(c, &packet::udp(macs, c.at(1), h.at(22), b"x"));
        is_refused(c);
    }
    nothing(h);
    switch.send(h, &packet::udp(between(h, c), h.at(1), c.at(80), b"question"));
    assert_eq!(read(&one(c)).src, h.at(1));
    switch.send(c, &packet::udp(between(c, h), c.at(80), h.at(1), b"answer"));
    assert_eq!(read(&one(h)).payload, b"answer");
    switch.send(d, &packet::udp(between(d, h), d.at(1), h.at(22), b"x"));
    assert_eq!(read(&one(h)).src, d.at(1));
    switch.send(c, &packet::udp(between(c, d), c.at(1), d.at(2), b"x"));
    assert_eq!(switch.shared.conntrack.entries(switch.now).len(), 2, "between containers nothing is tracked");
    settle(&switch);
}
