//! Several uplinks: which one a packet leaves by, whose a packet is that comes in, and that they leave each other alone.

use std::sync::Arc;

use vswitchd::addr::UplinkId;
use vswitchd::sim::on_link;
use vswitchd::snapshot::{Publication, Scope, Target, Uplink};
use vswitchd::table::policy::{Action, Defaults, Listed, Place, Policy, Rule};

use crate::*;

const OPEN: Tcp = Tcp { flags: SYN, seq: 100, ack: 0 };
const ACCEPT: Tcp = Tcp { flags: SYN | ACK, seq: 500, ack: 101 };

/// Two uplinks, and a network with a container for each. The first network says nothing, the second one chooses.
struct Two {
    switch: Switch,
    networks: [NetworkId; 2],
    inside: [Station; 2],
    routers: [Station; 2],
}

impl Two {
    fn new(modes: [UplinkMode; 2]) -> Two {
        let mut switch = Switch::new(1000);
        let routers = modes.map(|mode| switch.add_uplink(mode));
        let networks = ["10.1.0.0/24", "10.2.0.0/24"]
            .map(|subnet| switch.add_network(subnet.parse().unwrap(), NetworkMode::Nat));
        switch.lead_out(networks[1], &routers[1]);
        let inside = networks.map(|network| switch.add_port(network));
        routers.iter().chain(&inside).for_each(|station| switch.resolve(station));
        Two { switch, networks, inside, routers }
    }

    fn shared() -> Two {
        Two::new([UplinkMode::Shared; 2])
    }

    fn change_uplink(&self, number: usize, change: impl FnOnce(&mut Uplink)) {
        self.switch.shared.publish(|snapshot| change(Arc::make_mut(&mut snapshot.uplinks[number])));
    }

    /// A datagram from a container to the server, which arrives at this router. Returns the endpoint that it is seen
    /// from.
    fn leaves_by(&mut self, inside: usize, router: usize) -> Endpoint {
        let Two { switch, inside: stations, routers, .. } = self;
        let c = &stations[inside];
        switch.send(c, &packet::udp(via(c), c.at(5000), server(53), b"out"));
        let frame = one(&routers[router]);
        assert_eq!(frame[6..12], routers[router].gateway_mac.0, "the uplink's MAC address");
        nothing(&routers[1 - router]);
        let seen = read(&frame);
        assert_eq!((seen.src.ip, seen.dst), (address(router), server(53)));
        seen.src
    }
}

/// The address of an uplink.
fn address(uplink: usize) -> Ipv4Addr {
    on_link(u8::try_from(uplink).unwrap(), EXTERNAL)
}

#[test]
fn each_network_leaves_by_its_uplink_with_its_address() {
    let mut two = Two::shared();
    for n in [0, 1] {
        let shown = two.leaves_by(n, n);
        for _ in 0..3 {
            return_to(&mut two, n, shown);
            assert_eq!(two.leaves_by(n, n), shown);
        }
    }
    assert!(two.switch.totals().rx_cached >= 4, "{:?}", two.switch.totals());
    settle(&two.switch);
}

/// The server answers by a router.
fn return_to(two: &mut Two, n: usize, shown: Endpoint) {
    let Two { switch, inside, routers, .. } = two;
    switch.send(&routers[n], &packet::udp(via(&routers[n]), server(53), shown, b"back"));
    let seen = read(&one(&inside[n]));
    assert_eq!((seen.src, seen.dst), (server(53), inside[n].at(5000)));
}

#[test]
fn what_comes_by_another_uplink_is_no_part_of_a_connection() {
    for modes in [[UplinkMode::Shared; 2], [UplinkMode::Own; 2], [UplinkMode::Shared, UplinkMode::Own]] {
        let mut two = Two::new(modes);
        let shown = two.leaves_by(0, 0);
        let Two { switch, inside, routers, .. } = &mut two;
        // To the other's address, and to the right one by the wrong way.
        let before = switch.totals();
        for outside in [Endpoint::new(address(1), shown.port), shown] {
            switch.send(&routers[1], &packet::udp(via(&routers[1]), server(53), outside, b"astray"));
        }
        inside.iter().chain(&*routers).for_each(nothing);
        let unsolicited = switch.drops(DropReason::Unsolicited);
        match modes[1] {
            UplinkMode::Shared => assert_eq!(unsolicited, 2, "the guard hides both from the host"),
            // Nobody there has the other address, as nobody has any other one.
            UplinkMode::Own => {
                assert_eq!((unsolicited, switch.totals().left_to_host - before.left_to_host), (1, 1));
            }
        }
        // Its connection has taken no harm.
        switch.send(&routers[0], &packet::udp(via(&routers[0]), server(53), shown, b"back"));
        assert_eq!(read(&one(&inside[0])).payload, b"back");
        settle(switch);
    }
}

#[test]
fn who_calls_a_published_port_is_answered_by_the_uplink_that_was_called() {
    let Two { mut switch, inside: [c, _], routers, .. } = Two::shared();
    switch.publish(Protocol::Tcp, 8080, &c, 80);
    for (n, router) in routers.iter().enumerate() {
        let client = server(40_000 + u16::try_from(n).unwrap());
        let called = Endpoint::new(address(n), 8080);
        switch.send(router, &packet::tcp(via(router), client, called, OPEN, b""));
        assert_eq!(read(&one(&c)).src, client);
        switch.send(&c, &packet::tcp(via(&c), c.at(80), client, ACCEPT, b""));
        let answer = one(router);
        assert_eq!(read(&answer).src, called);
        assert_eq!((&answer[..6], &answer[6..12]), (&router.mac.0[..], &router.gateway_mac.0[..]));
        for step in 1..=4 {
            let data = Tcp { flags: ACK, seq: 100 + step, ack: 501 };
            switch.send(router, &packet::tcp(via(router), client, called, data, b"q"));
            one(&c);
            let data = Tcp { flags: ACK, seq: 500 + step, ack: 100 + step };
            switch.send(&c, &packet::tcp(via(&c), c.at(80), client, data, b"a"));
            assert_eq!(read(&one(router)).src, called);
        }
    }
    routers.iter().for_each(nothing);
    assert!(switch.totals().rx_cached >= 8, "{:?}", switch.totals());
    settle(&switch);
}

#[test]
fn what_is_published_on_an_address_is_at_the_uplink_that_has_it() {
    let Two { mut switch, inside: [c, _], routers, .. } = Two::shared();
    let targets = vec![Target { endpoint: c.at(53), to: c.id }];
    let publication = Publication {
        protocol: Protocol::Udp,
        ip: Some(address(1)),
        ports: 53..=53,
        scope: Scope::Any,
        targets,
        health: None,
    };
    switch.shared.publish(|snapshot| Arc::make_mut(&mut snapshot.publications).insert(publication));
    let question = |router: &Station, n| {
        packet::udp(via(router), server(4000), Endpoint::new(address(n), 53), b"question")
    };
    switch.send(&routers[1], &question(&routers[1], 1));
    assert_eq!(read(&one(&c)).dst, c.at(53));
    // Another service of the host has the same port at the other address.
    let left = switch.totals().left_to_host;
    switch.send(&routers[0], &question(&routers[0], 0));
    assert_eq!(switch.totals().left_to_host, left + 1);
    // By the wrong way, it is not there.
    switch.send(&routers[0], &question(&routers[0], 1));
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    nothing(&c);
    settle(&switch);
}

#[test]
fn a_network_changes_its_uplink_and_connections_keep_theirs() {
    let mut two = Two::shared();
    let shown = two.leaves_by(0, 0);
    return_to(&mut two, 0, shown);
    // Often enough for the flow cache.
    for _ in 0..3 {
        two.leaves_by(0, 0);
    }
    two.switch.lead_out(two.networks[0], &two.routers[1]);
    assert_eq!(two.leaves_by(0, 0), shown, "nobody else could answer it");
    // Control ends what left by the other one.
    assert_eq!(two.switch.shared.conntrack.flush(two.switch.now, |_| true), 1);
    for _ in 0..3 {
        two.leaves_by(0, 1);
    }
    // The old way is closed.
    let Two { switch, inside, routers, .. } = &mut two;
    switch.send(&routers[0], &packet::udp(via(&routers[0]), server(53), shown, b"late"));
    nothing(&inside[0]);
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    settle(switch);
}

#[test]
fn a_container_reaches_what_is_published_by_the_address_of_any_uplink() {
    for modes in [[UplinkMode::Shared; 2], [UplinkMode::Own; 2]] {
        let Two { mut switch, networks, inside: [c, d], routers } = Two::new(modes);
        let e = switch.add_port(networks[1]);
        switch.resolve(&e);
        switch.publish(Protocol::Tcp, 8080, &e, 80);
        for n in [0, 1] {
            let called = Endpoint::new(address(n), 8080);
            let port = 1000 + u16::try_from(n).unwrap();
            switch.send(&d, &packet::tcp(via(&d), d.at(port), called, OPEN, b""));
            let seen = read(&one(&e));
            assert_eq!((seen.src.ip, seen.dst), (address(1), e.at(80)), "seen as the world sees it");
            switch.send(&e, &packet::tcp(via(&e), e.at(80), seen.src, ACCEPT, b""));
            let back = read(&one(&d));
            assert_eq!((back.src, back.dst), (called, d.at(port)));
            // From another network, no address of whichever uplink is a way around the isolation.
            switch.send(&c, &packet::tcp(via(&c), c.at(port), called, OPEN, b""));
            assert_eq!(icmp_error(&one(&c)).1, 13);
            // The gateway answers for the host.
            switch.send(&d, &packet::echo(via(&d), d.ip, called.ip, true, 7, b"ping"));
            assert_eq!(read(&one(&d)).src.ip, called.ip);
        }
        nothing(&e);
        routers.iter().for_each(nothing);
        assert_eq!(switch.drops(DropReason::Isolated), 2);
        settle(&switch);
    }
}

#[test]
fn a_mapping_is_open_to_its_own_network_at_its_own_uplinks_address_only() {
    let mut two = Two::shared();
    let shown = two.leaves_by(1, 1);
    let Two { switch, networks, inside: [_, d], .. } = &mut two;
    let e = switch.add_port(networks[1]);
    switch.resolve(&e);
    switch.send(&e, &packet::udp(via(&e), e.at(9), Endpoint::new(address(0), shown.port), b"knock"));
    assert_eq!(icmp_error(&one(&e)).1, 3);
    nothing(d);
    switch.send(&e, &packet::udp(via(&e), e.at(9), shown, b"knock"));
    assert_eq!(read(&one(d)).payload, b"knock");
    settle(switch);
}

#[test]
fn errors_are_told_by_the_uplink_concerned() {
    let Two { mut switch, inside: [c, d], routers, .. } = Two::shared();
    switch.publish(Protocol::Udp, 53, &c, 53);
    // To the world, by the uplink that was called, from the address that was called.
    let call = packet::udp(via(&routers[1]), server(4000), Endpoint::new(address(1), 53), b"x");
    switch.send(&routers[1], &crate::ipv4::with_ttl(call, 1));
    let error = one(&routers[1]);
    assert_eq!((icmp_error(&error).0, read(&error).src.ip), (11, address(1)));
    // To a container, what the link of its own uplink does not carry.
    switch.shared.publish(|snapshot| Arc::make_mut(&mut snapshot.uplinks[1]).mtu = 1400);
    let large = |from: &Station| packet::udp(via(from), from.at(1), server(2), &[0; 1450]);
    switch.send(&d, &large(&d));
    let (kind, code, _) = icmp_error(&one(&d));
    assert_eq!((kind, code), (3, 4));
    switch.send(&c, &large(&c));
    assert_eq!(read(&one(&routers[0])).payload.len(), 1450);
    // What the container itself says about a call by the other uplink leaves by that one.
    let call = packet::udp(via(&routers[1]), server(4001), Endpoint::new(address(1), 53), b"x");
    switch.send(&routers[1], &call);
    let arrived = one(&c);
    let refused = Error::PortUnreachable;
    switch.send(&c, &packet::icmp_error(via(&c), c.ip, SERVER, refused, &arrived[14..]));
    let told = one(&routers[1]);
    assert_eq!((icmp_error(&told).1, read(&told).src.ip), (3, address(1)));
    assert_eq!(icmp_error(&told).2[..20][12..], call[26..34], "its quote is what the client has sent");
    // Of the world's errors, those that come by the wrong uplink are about nothing.
    let sent = packet::udp(via(&d), d.at(6), server(7), b"x");
    switch.send(&d, &sent);
    let out = one(&routers[1]);
    let astray = packet::icmp_error(via(&routers[0]), SERVER, address(1), Error::HostUnreachable, &out[14..]);
    switch.send(&routers[0], &astray);
    nothing(&d);
    let right = packet::icmp_error(via(&routers[1]), SERVER, address(1), Error::HostUnreachable, &out[14..]);
    switch.send(&routers[1], &right);
    assert_eq!(icmp_error(&one(&d)).1, 1);
    settle(&switch);
}

#[test]
fn an_uplink_that_is_down_leaves_the_others_alone() {
    let mut two = Two::shared();
    let shown = two.leaves_by(0, 0);
    two.change_uplink(1, |uplink| uplink.up = false);
    let Two { switch, inside: [_, d], .. } = &mut two;
    switch.send(d, &packet::udp(via(d), d.at(5000), server(53), b"out"));
    assert_eq!(icmp_error(&one(d)).1, 0, "network unreachable");
    assert_eq!(switch.drops(DropReason::UplinkDown), 1);
    two.routers.iter().for_each(nothing);
    return_to(&mut two, 0, shown);
    two.leaves_by(0, 0);
    two.change_uplink(1, |uplink| uplink.up = true);
    two.leaves_by(1, 1);
    settle(&two.switch);
}

#[test]
fn the_lan_is_that_of_the_uplink_concerned() {
    let Two { mut switch, networks, inside: [c, d], routers } = Two::shared();
    let to_lan = Rule {
        action: Action::Deny,
        from: networks.map(|id| Place::Network(format!("net{}", id.0))).to_vec(),
        to: vec![Place::Lan],
        protocol: None,
        ports: None,
    };
    switch.set_policy(Policy::new(vec![Arc::new(Listed::new(to_lan, None))], Defaults::new()));
    // Both links have global addresses, so that only who is on one of them is near.
    let near = |n| Endpoint::new(on_link(n, Ipv4Addr::new(192, 0, 2, 254)), 53);
    for (from, own, other, router) in [(&c, 0, 1, &routers[0]), (&d, 1, 0, &routers[1])] {
        switch.send(from, &packet::udp(via(from), from.at(1), near(own), b"x"));
        assert_eq!(icmp_error(&one(from)).1, 13);
        switch.send(from, &packet::udp(via(from), from.at(1), near(other), b"x"));
        assert_eq!(read(&one(router)).dst, near(other), "by its router, as all the world");
    }
    settle(&switch);
}

#[test]
fn a_routed_network_is_reached_by_its_own_uplink_only() {
    let mut switch = Switch::new(100);
    let routers = [UplinkMode::Shared; 2].map(|mode| switch.add_uplink(mode));
    let plain = switch.add_network("203.0.113.0/24".parse().unwrap(), NetworkMode::Routed);
    switch.lead_out(plain, &routers[1]);
    let c = switch.add_port(plain);
    routers.iter().chain([&c]).for_each(|station| switch.resolve(station));
    for (router, arrives) in [(&routers[0], false), (&routers[1], true)] {
        switch.send(router, &packet::udp(via(router), server(1), c.at(2), b"in"));
        assert_eq!(received(&c).len(), usize::from(arrives));
    }
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    switch.send(&c, &packet::udp(via(&c), c.at(2), server(1), b"out"));
    assert_eq!(read(&one(&routers[1])).src, c.at(2));
    nothing(&routers[0]);
    settle(&switch);
}

#[test]
fn each_uplink_asks_and_answers_on_its_own_link() {
    let mut switch = Switch::new(100);
    let routers = [UplinkMode::Own; 2].map(|mode| switch.add_uplink(mode));
    let network = switch.add_network("10.2.0.0/24".parse().unwrap(), NetworkMode::Nat);
    switch.lead_out(network, &routers[1]);
    let c = switch.add_port(network);
    switch.resolve(&c);
    switch.send(&c, &packet::udp(via(&c), c.at(1), server(2), b"x"));
    nothing(&routers[0]);
    let asked = one(&routers[1]);
    let everybody = Macs { src: routers[1].gateway_mac, dst: MacAddr::BROADCAST };
    let (mac, router) = (routers[1].gateway_mac, &routers[1]);
    let expected = packet::arp(everybody, 1, (mac, address(1)), (MacAddr::ZERO, router.ip));
    assert_eq!(asked, expected[..asked.len()]);
    switch.send(router, &packet::arp(via(router), 2, (router.mac, router.ip), (mac, address(1))));
    assert_eq!(read(&one(router)).payload, b"x");
    // Who asks for the one's address at the other hears nothing.
    for (n, router) in routers.iter().enumerate() {
        for wanted in [0, 1] {
            let all = Macs { src: router.mac, dst: MacAddr::BROADCAST };
            let question = packet::arp(all, 1, (router.mac, router.ip), (MacAddr::ZERO, address(wanted)));
            switch.send(router, &question);
            assert_eq!(received(router).len(), usize::from(wanted == n), "{wanted} at {n}");
        }
    }
    settle(&switch);
}

#[test]
fn nobody_outside_speaks_with_an_address_that_is_ours_alone() {
    let Two { mut switch, inside: [c, _], routers, .. } = Two::new([UplinkMode::Shared, UplinkMode::Own]);
    switch.publish(Protocol::Udp, 53, &c, 53);
    let to = |n| Endpoint::new(address(n), 53);
    let from_own = Endpoint::new(address(1), 61_000);
    switch.send(&routers[0], &packet::udp(via(&routers[0]), from_own, to(0), b"x"));
    nothing(&c);
    assert_eq!(switch.drops(DropReason::MartianSource), 1);
    // The host itself is a stranger to the uplink that has an address of its own.
    let from_host = Endpoint::new(address(0), 4000);
    switch.send(&routers[1], &packet::udp(via(&routers[1]), from_host, to(1), b"x"));
    assert_eq!(read(&one(&c)).src, from_host);
    settle(&switch);
}

#[test]
fn a_port_knows_which_uplink_it_is() {
    let Two { switch, inside: [c, d], networks, .. } = Two::shared();
    let snapshot = switch.shared.snapshot_full();
    let uplink = |port: PortId| snapshot.uplink_at(snapshot.port(port).unwrap()).map(|uplink| uplink.id);
    assert_eq!(
        [PortId(0), PortId(1), c.id, d.id].map(uplink),
        [Some(UplinkId(0)), Some(UplinkId(1)), None, None]
    );
    let of = |network| snapshot.uplink_of(snapshot.network(network).unwrap()).map(|uplink| uplink.id);
    assert_eq!(networks.map(of), [Some(UplinkId(0)), Some(UplinkId(1))]);
    assert_eq!(snapshot.uplink_with(address(1)).map(|uplink| uplink.id), Some(UplinkId(1)));
}
