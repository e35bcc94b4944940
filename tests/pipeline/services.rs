//! Section H: what is punted to the gateway's services, and how answers go out.

use vswitchd::limits::{DHCP_MESSAGES, PUNT_QUEUE_PER_PORT};
use vswitchd::shared::{Punt, Service};

use crate::*;

const NOBODY: Endpoint = Endpoint::new(Ipv4Addr::UNSPECIFIED, 68);
const EVERYBODY: Endpoint = Endpoint::new(Ipv4Addr::BROADCAST, 67);

fn to_all(station: &Station) -> Macs {
    Macs { src: station.mac, dst: MacAddr::BROADCAST }
}

fn punted(switch: &Switch) -> Vec<Punt> {
    std::iter::from_fn(|| switch.shared.punts.take()).collect()
}

#[test]
fn dhcp_is_punted_by_broadcast_and_to_the_gateway_and_goes_no_further() {
    let (mut switch, c) = lan(2);
    let gateway = Endpoint::new(Ipv4Addr::new(172, 30, 0, 1), 67);
    let discover = packet::udp(to_all(&c[0]), NOBODY, EVERYBODY, b"discover");
    switch.send(&c[0], &discover);
    assert_eq!(one(&c[1]), discover, "a network without a DHCP server is asked as a whole");
    switch.send(&c[0], &packet::udp(via(&c[0]), c[0].at(68), gateway, b"renew"));
    assert_eq!(icmp_error(&one(&c[0])).0, 3, "and its gateway has no such service");
    assert!(punted(&switch).is_empty());

    switch.serve_dhcp(NetworkId(0));
    let renew = packet::udp(via(&c[0]), c[0].at(68), gateway, b"renew");
    let all_of_the_subnet = Endpoint::new(Ipv4Addr::new(172, 30, 255, 255), 67);
    let inform = packet::udp(to_all(&c[0]), c[0].at(68), all_of_the_subnet, b"inform");
    for frame in [&discover, &renew, &inform] {
        switch.send(&c[0], frame);
        let punts = punted(&switch);
        assert_eq!(punts.len(), 1);
        assert_eq!((punts[0].service, punts[0].ingress), (Service::Dhcp, c[0].id));
        assert_eq!((punts[0].network, &punts[0].bytes[..]), (Some(NetworkId(0)), &frame[..]));
        nothing(&c[0]);
        nothing(&c[1]);
    }
    // To another port, to somebody else, or unreadable: a frame like any other.
    let other = packet::udp(to_all(&c[0]), NOBODY, Endpoint::new(Ipv4Addr::BROADCAST, 69), b"tftp");
    let unicast = packet::udp(between(&c[0], &c[1]), c[0].at(68), c[1].at(67), b"his own server");
    let mut torn = discover.clone();
    torn.truncate(30);
    for frame in [other, unicast, torn] {
        switch.send(&c[0], &frame);
        assert_eq!(one(&c[1]), frame);
    }
    assert!(punted(&switch).is_empty());
    settle(&switch);
}

#[test]
fn a_port_that_floods_a_service_is_held_and_others_are_served() {
    let (mut switch, c) = lan(2);
    switch.serve_dhcp(NetworkId(0));
    for _ in 0..3 * DHCP_MESSAGES {
        switch.send(&c[0], &packet::udp(to_all(&c[0]), NOBODY, EVERYBODY, b"discover"));
    }
    assert_eq!(switch.drops(DropReason::ServiceRate), u64::from(2 * DHCP_MESSAGES));
    // While control is busy, those that wait for it find an end too.
    for _ in 0..20 * DHCP_MESSAGES {
        switch.now += SECOND / DHCP_MESSAGES;
        switch.send(&c[0], &packet::udp(to_all(&c[0]), NOBODY, EVERYBODY, b"discover"));
    }
    let waiting = PUNT_QUEUE_PER_PORT as u64;
    assert_eq!(switch.drops(DropReason::ServiceQueueFull), u64::from(21 * DHCP_MESSAGES) - waiting);
    switch.send(&c[1], &packet::udp(to_all(&c[1]), NOBODY, EVERYBODY, b"me too"));
    assert_eq!(punted(&switch)[1].ingress, c[1].id, "it has its turn");
    settle(&switch);
}

#[test]
fn what_control_sends_leaves_by_its_port_alone_and_is_counted() {
    let (mut switch, c) = lan(2);
    let answer = packet::udp(
        Macs { src: c[0].gateway_mac, dst: MacAddr::BROADCAST },
        Endpoint::new(Ipv4Addr::new(172, 30, 0, 1), 67),
        Endpoint::new(Ipv4Addr::BROADCAST, 68),
        b"offer",
    );
    switch.send_out(c[0].id, answer.clone());
    assert_eq!(one(&c[0]), answer);
    nothing(&c[1]);
    let gone = PortId(77);
    switch.send_out(gone, answer);
    assert_eq!(switch.totals().originated, 1);
    settle(&switch);
}

#[test]
fn the_uplinks_client_hears_its_server_and_nobody_elses_frames() {
    let (mut switch, _, router) = Switch::with_uplink();
    let server = Endpoint::new(ROUTER, 67);
    let to_us = packet::udp(via(&router), server, external(68), b"offer");
    let to_all = packet::udp(to_all(&router), server, Endpoint::new(Ipv4Addr::BROADCAST, 68), b"offer");
    for frame in [&to_us, &to_all] {
        switch.send(&router, frame);
        assert!(punted(&switch).is_empty(), "mode shared: the host's own client gets it");
    }
    switch.shared.publish(|snapshot| {
        let uplink = std::sync::Arc::make_mut(&mut snapshot.uplinks[0]);
        (uplink.dhcp, uplink.address) = (true, None);
    });
    for frame in [&to_us, &to_all] {
        switch.send(&router, frame);
        let punts = punted(&switch);
        assert_eq!(punts.len(), 1);
        assert_eq!((punts[0].service, punts[0].ingress), (Service::DhcpClient, PortId::UPLINK));
        assert_eq!((punts[0].network, &punts[0].bytes[..]), (None, &frame[..]));
    }
    let macs = Macs { src: router.mac, dst: MacAddr([2, 9, 9, 9, 9, 9]) };
    switch.send(&router, &packet::udp(macs, server, external(68), b"for the host"));
    switch.send(&router, &packet::udp(via(&router), server, external(69), b"another port"));
    assert!(punted(&switch).is_empty());
    settle(&switch);
}

#[test]
fn row_87_dns_is_punted_from_a_network_to_its_own_gateway_alone() {
    let (mut switch, c, router) = Switch::with_uplink();
    let other = switch.add_network("10.9.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let stack = |switch: &Switch| std::iter::from_fn(|| switch.shared.stack_punts.take()).collect::<Vec<_>>();
    let own = Endpoint::new(Ipv4Addr::new(172, 30, 0, 1), 53);
    let query = packet::udp(via(&c), c.at(1000), own, b"query");
    let syn = packet::tcp(via(&c), c.at(1001), own, Tcp { seq: 0, ack: 0, flags: SYN }, b"");
    for frame in [&query, &syn] {
        switch.send(&c, frame);
        let punts = stack(&switch);
        assert_eq!(punts.len(), 1);
        assert_eq!((punts[0].service, punts[0].ingress), (Service::Stack, c.id));
        assert_eq!((punts[0].network, &punts[0].bytes[..]), (Some(NetworkId(0)), &frame[..]));
        nothing(&c);
    }
    // Another network's gateway, and everything of ours from the uplink's side.
    switch
        .send(&c, &packet::udp(via(&c), c.at(1000), Endpoint::new(Ipv4Addr::new(10, 9, 0, 1), 53), b"query"));
    assert_eq!(icmp_error(&one(&c)).1, 13);
    for at in [own, Endpoint::new(Ipv4Addr::new(10, 9, 0, 1), 53), external(53)] {
        switch.send(&router, &packet::udp(via(&router), server(9), at, b"query"));
    }
    let d = switch.add_port(other);
    let foreign = packet::udp(via(&d), c.at(1000), Endpoint::new(Ipv4Addr::new(10, 9, 0, 1), 53), b"query");
    switch.send(&d, &foreign);
    assert!(stack(&switch).is_empty() && punted(&switch).is_empty());
    settle(&switch);
}

#[test]
fn what_is_for_a_connection_of_the_gateway_is_punted_while_it_is_open() {
    let (mut switch, c) = lan(1);
    let port = switch.shared.open_ports.open(Protocol::Udp, 5).unwrap();
    let at = Endpoint::new(Ipv4Addr::new(172, 30, 0, 1), port.number());
    let answer = packet::udp(via(&c[0]), c[0].at(1000), at, b"answer");
    switch.send(&c[0], &answer);
    assert!(switch.shared.stack_punts.take().is_some());
    nothing(&c[0]);
    drop(port);
    switch.send(&c[0], &answer);
    assert_eq!(icmp_error(&one(&c[0])).1, 3, "nobody is there any more");
    assert!(switch.shared.stack_punts.take().is_none());
    settle(&switch);
}
