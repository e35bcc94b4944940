//! A network that is bridged to a LAN: who is on it, what passes, and what the switch keeps out of.

use super::*;
use vswitchd::snapshot::Pins;
use vswitchd::table::policy::{Action, Listed, Place, Policy, Rule};

const HOST_MAC: MacAddr = UPLINK_MAC;
/// Stations of the LAN besides the one that the simulation knows.
const PRINTER: MacAddr = MacAddr([0x00, 0x11, 0x22, 0, 0, 1]);
const ROUTER_ON_LAN: MacAddr = MacAddr([0x00, 0x11, 0x22, 0, 0, 0xfe]);

const PREFIX: &str = "192.168.1.0/24";

const fn on_lan(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 1, host)
}

/// A bridged network with two secured containers, and a station on the LAN.
fn bridged() -> (Switch, Station, Vec<Station>) {
    let mut switch = Switch::new(1000);
    let (network, station) = switch.add_lan(PREFIX.parse().unwrap());
    let containers: Vec<_> = (0..2).map(|_| switch.add_port(network)).collect();
    for container in &containers {
        switch.resolve(container);
        switch.secure(container);
    }
    switch.resolve(&station);
    (switch, station, containers)
}

fn left_to_the_lan(switch: &Switch) -> u64 {
    switch.totals().left_to_host
}

#[test]
fn containers_and_stations_speak_with_their_own_addresses() {
    let (mut switch, station, c) = bridged();
    for (from, to) in [(&c[0], &station), (&station, &c[0]), (&c[0], &c[1])] {
        for n in 0..3 {
            let datagram = packet::udp(between(from, to), from.at(5), to.at(7), &[n]);
            switch.send(from, &datagram);
            assert_eq!(one(to), datagram, "from {} to {}", from.ip, to.ip);
        }
    }
    // TTL, checksums and addresses are theirs: nothing was routed, and nothing tracked.
    assert_eq!(switch.shared.conntrack.stats().connections, 0);
    settle(&switch);
}

#[test]
fn what_is_for_all_reaches_all_and_does_not_come_back() {
    let (mut switch, station, c) = bridged();
    let all = MacAddr::BROADCAST;
    let group = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    for (from, others) in [(&station, [&c[0], &c[1]]), (&c[0], [&station, &c[1]])] {
        for (dst, ethertype) in [(all, 0x88b5), (group, 0x88b5)] {
            let frame = packet::frame(Macs { src: from.mac, dst }, ethertype, b"to all of you");
            switch.send(from, &frame);
            others.iter().for_each(|to| assert_eq!(one(to), frame));
            nothing(from);
        }
        let asks = packet::arp(
            Macs { src: from.mac, dst: all },
            1,
            (from.mac, from.ip),
            (MacAddr::ZERO, on_lan(77)),
        );
        switch.send(from, &asks);
        others.iter().for_each(|to| assert_eq!(one(to), asks));
        nothing(from);
    }
    settle(&switch);
}

#[test]
fn a_lan_has_no_storm_limit_and_a_container_has() {
    let (mut switch, station, c) = bridged();
    let sent = 6000;
    for from in [&station, &c[0]] {
        let frame = packet::frame(Macs { src: from.mac, dst: MacAddr::BROADCAST }, 0x88b5, b"x");
        (0..sent).for_each(|_| switch.send(from, &frame));
        let heard = received(&c[1]).len();
        assert_eq!(heard == sent, from.id == station.id, "{heard} frames");
        [&station, &c[0]].into_iter().for_each(|station| drop(received(station)));
    }
    assert!(switch.drops(DropReason::StormBroadcast) > 0);
    settle(&switch);
}

#[test]
fn the_switch_has_no_address_there() {
    let (mut switch, station, c) = bridged();
    let first = on_lan(1);
    let gateway_mac = c[0].gateway_mac;
    for from in [&station, &c[0]] {
        let to_all = Macs { src: from.mac, dst: MacAddr::BROADCAST };
        switch.send(from, &packet::arp(to_all, 1, (from.mac, from.ip), (MacAddr::ZERO, first)));
        nothing(from);
        [&station, &c[0], &c[1]].into_iter().for_each(|station| drop(received(station)));
        // Whatever is sent to the address that it probes with ends there, and is not routed.
        let to_us = Macs { src: from.mac, dst: gateway_mac };
        switch.send(from, &packet::echo(to_us, from.ip, first, true, 1, b"x"));
        switch.send(from, &packet::udp(to_us, from.at(1), server(53), b"x"));
        switch.send(from, &packet::arp(to_us, 1, (from.mac, from.ip), (gateway_mac, first)));
        [&station, &c[0], &c[1]].into_iter().for_each(nothing);
    }
    settle(&switch);
}

#[test]
fn a_probe_asks_without_an_address_and_hears_the_answer() {
    let (mut switch, station, c) = bridged();
    switch.probe(NetworkId(0), on_lan(50));
    let asked = one(&station);
    let probe = Macs { src: c[0].gateway_mac, dst: MacAddr::BROADCAST };
    let sender = (c[0].gateway_mac, Ipv4Addr::UNSPECIFIED);
    let expected = packet::arp(probe, 1, sender, (MacAddr::ZERO, on_lan(50)));
    assert!(expected.starts_with(&asked) && asked.len() == 42, "{asked:02x?}");
    c.iter().for_each(|container| assert_eq!(one(container), asked));
    let answer = Macs { src: PRINTER, dst: c[0].gateway_mac };
    switch.send(&station, &packet::arp(answer, 2, (PRINTER, on_lan(50)), sender));
    let snapshot = switch.shared.snapshot_full();
    let known = snapshot.network(NetworkId(0)).unwrap().neighbors.lock().entries(switch.now);
    assert!(known.iter().any(|entry| entry.ip == on_lan(50) && entry.mac == Some(PRINTER)), "{known:?}");
    c.iter().for_each(nothing);
    assert_eq!(switch.totals().drops, 0);
    settle(&switch);
}

#[test]
fn what_stations_say_to_each_other_and_to_the_host_stays_there() {
    let (mut switch, station, c) = bridged();
    // The printer is known, as the station is.
    let hello = packet::frame(Macs { src: PRINTER, dst: MacAddr::BROADCAST }, 0x88b5, b"I am here");
    switch.send(&station, &hello);
    c.iter().for_each(|container| assert_eq!(one(container), hello));
    for dst in [PRINTER, HOST_MAC] {
        for tag in [None, Some([0x81, 0x00, 0x00, 0x05])] {
            let mut frame =
                packet::udp(Macs { src: station.mac, dst }, station.at(1), Endpoint::new(on_lan(9), 9), b"x");
            tag.into_iter().for_each(|tag| drop(frame.splice(12..12, tag)));
            switch.send(&station, &frame);
        }
        let arp = Macs { src: station.mac, dst };
        switch.send(&station, &packet::arp(arp, 2, (station.mac, station.ip), (dst, on_lan(9))));
    }
    c.iter().for_each(nothing);
    nothing(&station);
    assert_eq!((left_to_the_lan(&switch), switch.totals().drops), (6, 0), "none of it is lost");
    // To whom nobody knows goes to all, as at every switch.
    let strange = packet::frame(Macs { src: station.mac, dst: MacAddr([0, 0x55, 0, 0, 0, 1]) }, 0x88b5, b"x");
    switch.send(&station, &strange);
    c.iter().for_each(|container| assert_eq!(one(container), strange));
    settle(&switch);
}

#[test]
fn a_lan_on_which_nobody_else_is_loses_nothing() {
    let mut switch = Switch::new(1000);
    let (_, station) = switch.add_lan(PREFIX.parse().unwrap());
    switch.send(&station, &packet::frame(Macs { src: station.mac, dst: MacAddr::BROADCAST }, 0x88b5, b"x"));
    nothing(&station);
    assert_eq!((left_to_the_lan(&switch), switch.totals().drops), (1, 0));
    settle(&switch);
}

#[test]
fn the_host_is_not_reached_by_its_own_interface() {
    let (mut switch, station, c) = bridged();
    let to_host = Macs { src: c[0].mac, dst: HOST_MAC };
    switch.send(&c[0], &packet::udp(to_host, c[0].at(1), Endpoint::new(on_lan(9), 22), b"hello?"));
    [&station, &c[1]].into_iter().for_each(nothing);
    assert_eq!(switch.drops(DropReason::HostBehindUplink), 1);
    settle(&switch);
}

#[test]
fn the_lan_has_routers_and_servers_and_containers_have_none() {
    let (mut switch, station, c) = bridged();
    let offer = |from: &Station| {
        let all = Macs { src: from.mac, dst: MacAddr::BROADCAST };
        packet::udp(all, from.at(67), Endpoint::new(Ipv4Addr::BROADCAST, 68), b"take this")
    };
    let advertisement = |from: &Station| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 16, 58, 255];
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet::frame(Macs { src: from.mac, dst: MacAddr([0x33, 0x33, 0, 0, 0, 1]) }, 0x86dd, &packet)
    };
    for frame in [offer(&station), advertisement(&station)] {
        switch.send(&station, &frame);
        c.iter().for_each(|container| assert_eq!(one(container), frame));
    }
    for frame in [offer(&c[0]), advertisement(&c[0])] {
        switch.send(&c[0], &frame);
        [&station, &c[1]].into_iter().for_each(nothing);
    }
    assert_eq!(switch.drops(DropReason::DhcpServer), 1);
    assert_eq!(switch.drops(DropReason::RouterAdvertisement), 1);
    settle(&switch);
}

#[test]
fn nobody_takes_anothers_place() {
    let (mut switch, station, c) = bridged();
    // A container speaks for itself.
    let as_router = Macs { src: ROUTER_ON_LAN, dst: c[1].mac };
    switch.send(&c[0], &packet::udp(as_router, c[0].at(1), c[1].at(2), b"x"));
    let lie = packet::arp(between(&c[0], &c[1]), 2, (c[0].mac, station.ip), (c[1].mac, c[1].ip));
    switch.send(&c[0], &lie);
    switch.send(&c[0], &packet::udp(between(&c[0], &c[1]), station.at(1), c[1].at(2), b"x"));
    // The LAN cannot be one of the containers: not by malice, and not if a loop out there brings frames back.
    switch.send(&station, &packet::frame(Macs { src: c[0].mac, dst: MacAddr::BROADCAST }, 0x88b5, b"x"));
    [&station, &c[1]].into_iter().for_each(nothing);
    for reason in [DropReason::SpoofedArp, DropReason::SpoofedIp] {
        assert_eq!(switch.drops(reason), 1, "{reason}");
    }
    assert_eq!(switch.drops(DropReason::SpoofedMac), 2);
    let datagram = packet::udp(between(&station, &c[0]), station.at(1), c[0].at(2), b"still here?");
    switch.send(&station, &datagram);
    assert_eq!(one(&c[0]), datagram);
    settle(&switch);
}

#[test]
fn stations_of_a_lan_are_as_many_as_they_are_and_move_as_they_like() {
    let (mut switch, station, c) = bridged();
    let mac = |n: u16| MacAddr([0x00, 0x99, 0, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
    for n in 0..3000 {
        switch.send(&station, &packet::frame(Macs { src: mac(n), dst: c[0].mac }, 0x88b5, b"x"));
    }
    assert_eq!(received(&c[0]).len(), 3000);
    for n in 0..3000 {
        switch.send(&c[0], &packet::frame(Macs { src: c[0].mac, dst: mac(n) }, 0x88b5, b"x"));
    }
    assert_eq!((received(&station).len(), received(&c[1]).len()), (3000, 0), "each is known");
    settle(&switch);
}

#[test]
fn reserved_groups_stay_on_their_link() {
    let (mut switch, station, c) = bridged();
    for from in [&station, &c[0]] {
        let stp = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]);
        switch.send(from, &packet::frame(Macs { src: from.mac, dst: stp }, 0x0026, b"BPDU"));
    }
    [&station, &c[0], &c[1]].into_iter().for_each(nothing);
    assert_eq!(switch.drops(DropReason::ReservedGroup), 2);
    settle(&switch);
}

#[test]
fn other_networks_and_the_lan_have_nothing_in_common() {
    let (mut switch, station, c) = bridged();
    let inner = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let router = switch.add_uplink(UplinkMode::Shared);
    let db = switch.add_port(inner);
    [&db, &router].into_iter().for_each(|station| switch.resolve(station));
    let gateway = switch.shared.snapshot().network(inner).unwrap().gateway.unwrap();
    for from in [&station, &c[0]] {
        for dst in [db.mac, db.gateway_mac, MacAddr::BROADCAST, from.gateway_mac] {
            let macs = Macs { src: from.mac, dst };
            for ip in [db.ip, gateway, EXTERNAL] {
                switch.send(from, &packet::udp(macs, from.at(1), Endpoint::new(ip, 2), b"x"));
                switch.send(from, &packet::echo(macs, from.ip, ip, true, 3, b"x"));
                switch.send(from, &packet::arp(macs, 1, (from.mac, from.ip), (MacAddr::ZERO, ip)));
            }
            switch.send(from, &packet::frame(macs, 0x86dd, &[0x60; 60]));
        }
        [&db, &router].into_iter().for_each(nothing);
        [&station, &c[0], &c[1]].into_iter().for_each(|station| drop(received(station)));
    }
    // To the others the LAN is what it is to everybody: somewhere behind the uplink.
    switch.send(&db, &packet::udp(via(&db), db.at(1), c[0].at(2), b"x"));
    [&station, &c[0], &c[1]].into_iter().for_each(nothing);
    let seen = read(&one(&router));
    assert_eq!((seen.src.ip, seen.dst), (EXTERNAL, c[0].at(2)));
    settle(&switch);
}

fn deny(from: Place, to: Place) -> Policy {
    let rule = Rule { action: Action::Deny, from: vec![from], to: vec![to], protocol: None, ports: None };
    Policy::new(vec![std::sync::Arc::new(Listed::new(rule, None))], Default::default())
}

#[test]
fn rules_hold_on_a_lan_and_nobody_is_told_by_a_gateway_that_is_not_there() {
    let (mut switch, station, c) = bridged();
    let name = |station: &Station| Place::Port(format!("p{}", station.id.0));
    let far = server(443);
    let to = |dst: Endpoint| packet::udp(between(&c[0], &station), c[0].at(1), dst, b"x");
    let back = |src: Endpoint| packet::udp(between(&station, &c[0]), src, c[0].at(1), b"y");
    for (policy, near_passes, far_passes) in [
        (deny(name(&c[0]), Place::Lan), false, true),
        (deny(name(&c[0]), Place::Internet), true, false),
        (deny(name(&c[0]), name(&station)), false, false),
        (deny(name(&c[0]), Place::Prefix("192.168.1.0/24".parse().unwrap())), false, true),
        (deny(name(&c[1]), Place::Lan), true, true),
    ] {
        switch.set_policy(policy);
        for (dst, passes) in [(station.at(9), near_passes), (far, far_passes)] {
            for _ in 0..2 {
                switch.send(&c[0], &to(dst));
                assert_eq!(received(&station).len(), usize::from(passes), "to {}", dst.ip);
                nothing(&c[0]);
            }
            switch.shared.conntrack.flush(switch.now, |_| true);
        }
    }
    // What answers is of a connection that was allowed; what the LAN opens is another matter.
    switch.set_policy(deny(Place::Lan, name(&c[0])));
    switch.send(&station, &back(station.at(9)));
    nothing(&c[0]);
    switch.send(&c[0], &to(station.at(9)));
    switch.send(&station, &back(station.at(9)));
    assert_eq!((received(&station).len(), received(&c[0]).len()), (1, 1));
    // Nothing of what stations say to each other is looked at.
    let before = switch.shared.conntrack.stats().connections;
    switch.send(&station, &packet::frame(Macs { src: PRINTER, dst: MacAddr::BROADCAST }, 0x88b5, b"x"));
    let among = Macs { src: station.mac, dst: PRINTER };
    switch.send(&station, &packet::udp(among, station.at(1), Endpoint::new(on_lan(8), 2), b"x"));
    assert_eq!(switch.shared.conntrack.stats().connections, before);
    settle(&switch);
}

#[test]
fn what_is_forbidden_on_a_lan_does_not_pass_by_ipv6() {
    let (mut switch, station, c) = bridged();
    let name = |station: &Station| Place::Port(format!("p{}", station.id.0));
    let (own, near, unique, global) = ("fe80::1", "fe80::2", "fd00::2", "2001:db8::2");
    let cases: [(Policy, bool, &[&str]); 5] = [
        // An address that may be anywhere passes only where it may be anywhere.
        (deny(name(&c[0]), Place::Internet), true, &[near, unique]),
        (deny(name(&c[0]), Place::Lan), true, &[]),
        (deny(Place::Internet, name(&c[0])), false, &[near, unique]),
        (deny(Place::Internet, name(&c[0])), true, &[near, unique, global]),
        (deny(name(&c[1]), Place::Lan), true, &[near, unique, global]),
    ];
    for (policy, out, passing) in cases {
        switch.set_policy(policy);
        for other in [near, unique, global] {
            let (from, to) = if out { (&c[0], &station) } else { (&station, &c[0]) };
            let ends = if out { [own, other] } else { [other, own] };
            switch.send(from, &v6(between(from, to), ends, 17, &[0, 9, 0, 9, 0, 8, 0, 0]));
            assert_eq!(received(to).len() == 1, passing.contains(&other), "{other}, {out}");
        }
    }
    settle(&switch);
}

#[test]
fn super_frames_pass_as_they_are() {
    let (mut switch, station, c) = bridged();
    let segment = Tcp { flags: ACK, ..Tcp::default() };
    let payload = vec![7; 4000];
    for (from, to) in [(&station, &c[0]), (&c[0], &station)] {
        let frame = packet::tcp(between(from, to), from.at(1), to.at(2), segment, &payload);
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            segment: Segment::Tcp4 { size: 1000, ecn: false },
            header_len: 54,
        };
        switch.send_promising(from, &frame, offload);
        let (bytes, promised) = to.device.pop().expect("the frame");
        assert_eq!((bytes, promised.segment), (frame, offload.segment));
    }
    settle(&switch);
}

#[test]
fn frames_larger_than_the_interface_do_not_leave() {
    let (mut switch, station, c) = bridged();
    switch.change_port(&station, |port| port.mtu = 1400);
    switch.send(&c[0], &packet::udp(between(&c[0], &station), c[0].at(1), station.at(2), &[0; 1400]));
    nothing(&station);
    assert_eq!(switch.drops(DropReason::OverMtu), 1);
    settle(&switch);
}

#[test]
fn a_container_that_the_lans_server_addresses_may_use_what_it_gets() {
    let (mut switch, station, c) = bridged();
    let mac = Some(c[0].mac);
    switch.change_port(&c[0], |port| (port.ip, port.pins) = (None, Some(Pins { mac, ip: None })));
    let discover = packet::udp(
        Macs { src: c[0].mac, dst: MacAddr::BROADCAST },
        Endpoint::new(Ipv4Addr::UNSPECIFIED, 68),
        Endpoint::new(Ipv4Addr::BROADCAST, 67),
        b"anybody?",
    );
    switch.send(&c[0], &discover);
    assert_eq!(one(&station), discover, "the switch is no server there");
    received(&c[1]);
    let offer = packet::udp(between(&station, &c[0]), station.at(67), Endpoint::new(on_lan(50), 68), b"this");
    switch.send(&station, &offer);
    assert_eq!(one(&c[0]), offer);
    let datagram =
        packet::udp(between(&c[0], &station), Endpoint::new(on_lan(50), 1), station.at(2), b"thank you");
    switch.send(&c[0], &datagram);
    assert_eq!(one(&station), datagram);
    settle(&switch);
}
