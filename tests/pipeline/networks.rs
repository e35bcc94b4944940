//! Networks beside each other, networks that are routed, and the host on a network.

use super::*;

const GROUP_MAC: MacAddr = MacAddr([0x01, 0, 0x5e, 0, 0, 0xfb]);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PUBLISHED: u16 = 8080;

/// A network, its containers, and its gateway's and broadcast address.
struct Site {
    stations: Vec<Station>,
    gateway: Ipv4Addr,
    broadcast: Ipv4Addr,
}

/// The seven kinds of frames with which `from` tries to reach `to` on another network.
fn seven_kinds(from: &Station, to: &Station, there: &Site) -> Vec<(&'static str, Vec<u8>)> {
    let direct = between(from, to);
    let all = Macs { src: from.mac, dst: MacAddr::BROADCAST };
    let group = Macs { src: from.mac, dst: GROUP_MAC };
    let gateway = via(from);
    let foreign_gateway = Macs { src: from.mac, dst: to.gateway_mac };
    let own = (from.mac, from.ip);
    let mut kinds = Vec::new();
    for dst in [to.ip, there.gateway, there.broadcast] {
        for macs in [direct, all, group, gateway, foreign_gateway] {
            kinds.push(("unicast", packet::udp(macs, from.at(1), Endpoint::new(dst, 2), b"x")));
            kinds.push(("unicast", packet::echo(macs, from.ip, dst, true, 7, b"x")));
            let syn = Tcp { flags: SYN, ..Tcp::default() };
            kinds.push(("unicast", packet::tcp(macs, from.at(1), Endpoint::new(dst, 80), syn, b"")));
            kinds.push(("ARP", packet::arp(macs, 1, own, (MacAddr::ZERO, dst))));
            kinds.push(("ARP", packet::arp(macs, 2, own, (to.mac, dst))));
        }
    }
    for macs in [direct, all, group, gateway, foreign_gateway] {
        let everybody = Endpoint::new(Ipv4Addr::BROADCAST, 67);
        kinds.push(("broadcast", packet::udp(macs, from.at(68), everybody, b"x")));
        kinds.push(("multicast", packet::udp(macs, from.at(1), Endpoint::new(GROUP, 5353), b"x")));
        kinds.push(("IPv6", packet::frame(macs, 0x86dd, &[0x60; 60])));
        kinds.push(("non-IP", packet::frame(macs, 0x88b5, b"x")));
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let dst = external(PUBLISHED);
            kinds.push(match protocol {
                Protocol::Udp => ("unicast", packet::udp(macs, from.at(1), dst, b"x")),
                _ => {
                    ("unicast", packet::tcp(macs, from.at(2), dst, Tcp { flags: SYN, ..Tcp::default() }, b""))
                }
            });
        }
    }
    let tagged: Vec<_> = kinds
        .iter()
        .flat_map(|(_, frame)| {
            [[0x81, 0x00, 0x00, 0x00], [0x81, 0x00, 0x00, 0x05], [0x88, 0xa8, 0x00, 0x05]].map(|tag| {
                let mut frame = frame.clone();
                frame.splice(12..12, tag);
                ("tagged", frame)
            })
        })
        .collect();
    kinds.extend(tagged);
    kinds
}

#[test]
fn no_kind_of_frame_crosses_between_networks() {
    let (mut switch, _, router) = Switch::with_uplink();
    let plan = [
        ("10.1.0.0/24", NetworkMode::Nat),
        ("10.2.0.0/24", NetworkMode::Nat),
        ("10.3.0.0/24", NetworkMode::Routed),
        ("10.4.0.0/24", NetworkMode::Internal),
    ];
    let sites = plan.map(|(subnet, mode)| {
        let subnet: ipnet::Ipv4Net = subnet.parse().unwrap();
        let network = switch.add_network(subnet, mode);
        let stations: Vec<_> = (0..2).map(|_| switch.add_port(network)).collect();
        for station in &stations {
            switch.resolve(station);
            switch.change_port(station, |port| {
                (port.policing.broadcast, port.policing.multicast, port.policing.unknown) = (0, 0, 0);
            });
        }
        Site { stations, gateway: subnet.hosts().next().unwrap(), broadcast: subnet.broadcast() }
    });
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        switch.publish(protocol, PUBLISHED, &sites[1].stations[0], 80);
    }
    let mut sent = 0;
    for (number, here) in sites.iter().enumerate() {
        for (other, there) in sites.iter().enumerate().filter(|(other, _)| *other != number) {
            // Secured or not, cached or not.
            for secured in [false, true] {
                if secured {
                    here.stations.iter().for_each(|station| switch.secure(station));
                }
                for (kind, frame) in seven_kinds(&here.stations[0], &there.stations[0], there) {
                    for _ in 0..2 {
                        switch.send(&here.stations[0], &frame);
                        sent += 1;
                    }
                    for (place, site) in sites.iter().enumerate().filter(|(place, _)| *place != number) {
                        for station in &site.stations {
                            let heard = received(station);
                            assert!(heard.is_empty(), "{kind} from {number} for {other} crosses to {place}");
                        }
                    }
                    // What the router gets is masqueraded or from the routed network, and for no other network.
                    for leaked in received(&router) {
                        let dst = Ipv4::parse(&leaked[14..]).unwrap().dst;
                        assert!(dst == GROUP, "{kind} from {number} for {other} leaves for {dst}");
                    }
                    here.stations.iter().for_each(|station| drop(received(station)));
                }
                switch.now += 2 * SECOND;
                switch.run();
            }
            here.stations.iter().for_each(|station| switch.change_port(station, |port| port.pins = None));
        }
    }
    assert!(sent > 4 * 3 * 7 * 2, "{sent}");
    assert!(switch.drops(DropReason::Isolated) > 0);
    received(&router);
    switch.pass(10 * SECOND, SECOND);
    settle(&switch);
}

/// A container on a routed network, one on a masqueraded one, and the router.
fn routed() -> (Switch, Station, Station, Station) {
    let (mut switch, c, router) = Switch::with_uplink();
    let network = switch.add_network("10.8.0.0/24".parse().unwrap(), NetworkMode::Routed);
    let r = switch.add_port(network);
    switch.resolve(&r);
    (switch, c, r, router)
}

#[test]
fn a_routed_network_keeps_its_addresses_both_ways() {
    let (mut switch, c, r, router) = routed();
    for round in 0..3 {
        switch.send(&r, &packet::udp(via(&r), r.at(7), server(53), b"question"));
        let out = one(&router);
        assert_eq!((&out[..6], &out[6..12]), (&router.mac.0[..], &UPLINK_MAC.0[..]));
        let seen = read(&out);
        assert_eq!((seen.src, seen.dst, seen.ttl), (r.at(7), server(53), 63));
        switch.send(&router, &packet::udp(via(&router), server(53), r.at(7), b"answer"));
        let seen = read(&one(&r));
        assert_eq!((seen.src, seen.dst, seen.ttl), (server(53), r.at(7), 63), "round {round}");
    }
    assert!(switch.totals().rx_cached >= 4, "{:?}", switch.totals());
    // Whoever knows the way may begin.
    let syn = Tcp { flags: SYN, ..Tcp::default() };
    switch.send(&router, &packet::tcp(via(&router), server(9), r.at(80), syn, b""));
    assert_eq!(read(&one(&r)).dst, r.at(80));
    // What cannot be translated needs not be.
    switch.send(&r, &packet::ip(via(&r), r.ip, SERVER, 47, b"GRE"));
    assert_eq!(&one(&router)[26..34], [r.ip.octets(), SERVER.octets()].concat());
    // The others are where they were: behind the translation, and apart.
    switch.send(&router, &packet::udp(via(&router), server(53), c.at(7), b"x"));
    nothing(&c);
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    switch.send(&r, &packet::udp(via(&r), r.at(1), c.at(1), b"x"));
    assert_eq!(icmp_error(&one(&r)).1, 13);
    assert_eq!(switch.shared.conntrack.stats().connections, 0);
    settle(&switch);
}

#[test]
fn a_routed_network_is_reached_as_behind_any_router() {
    let (mut switch, c, r, router) = routed();
    let gateway = Ipv4Addr::new(10, 8, 0, 1);
    // The gateway answers a ping, and nothing else from there.
    switch.send(&router, &packet::echo(via(&router), SERVER, gateway, true, 9, b"ping"));
    assert_eq!(&one(&router)[26..34], [gateway.octets(), SERVER.octets()].concat());
    let to_gateway = Endpoint::new(gateway, 53);
    switch.send(&router, &packet::udp(via(&router), server(1), to_gateway, b"x"));
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    // No broadcast from afar, and nobody who says that they are one of ours.
    let all = Endpoint::new(Ipv4Addr::new(10, 8, 0, 255), 1);
    switch.send(&router, &packet::udp(via(&router), server(1), all, b"x"));
    assert_eq!(switch.drops(DropReason::MartianDestination), 1);
    for liar in [r.ip, c.ip, gateway, EXTERNAL, Ipv4Addr::LOCALHOST] {
        switch.send(&router, &packet::udp(via(&router), Endpoint::new(liar, 1), r.at(1), b"x"));
    }
    assert_eq!(switch.drops(DropReason::MartianSource), 5);
    nothing(&r);
    nothing(&router);
    // Errors come from the router that the sender knows.
    let dying = ipv4::with_ttl(packet::udp(via(&router), server(1), r.at(1), b"x"), 1);
    switch.send(&router, &dying);
    let told = one(&router);
    assert_eq!((icmp_error(&told).0, &told[26..30]), (11, &EXTERNAL.octets()[..]));
    // Errors about its packets reach it as they are.
    switch.send(&r, &packet::udp(via(&r), r.at(7), server(53), b"x"));
    let quoted = one(&router);
    let hop = Ipv4Addr::new(203, 0, 113, 1);
    let error = packet::icmp_error(via(&router), hop, r.ip, Error::HostUnreachable, &quoted[14..]);
    switch.send(&router, &error);
    let told = one(&r);
    assert_eq!((icmp_error(&told).2, &told[26..30]), (quoted[14..].to_vec(), &hop.octets()[..]));
    // One that is not of the network is not let out by it.
    let foreign = packet::icmp_error(
        via(&r),
        Ipv4Addr::new(10, 50, 0, 1),
        SERVER,
        Error::HostUnreachable,
        &quoted[14..],
    );
    switch.send(&r, &foreign);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::ForeignSource), 1);
    settle(&switch);
}

#[test]
fn the_host_on_a_network_is_a_station_and_no_router() {
    let (mut switch, c) = lan(3);
    let host = c[2].clone();
    let address = ipnet::Ipv4Net::new(host.ip, 16).unwrap();
    switch.change_port(&host, |port| port.host = Some(address));
    switch.secure(&host);
    let to = between(&c[0], &host);
    let all = Macs { src: c[0].mac, dst: MacAddr::BROADCAST };
    let own = (c[0].mac, c[0].ip);
    for frame in [
        packet::udp(to, c[0].at(1), host.at(2), b"for it"),
        packet::arp(to, 1, own, (MacAddr::ZERO, host.ip)),
        packet::arp(all, 1, own, (MacAddr::ZERO, host.ip)),
        packet::udp(all, c[0].at(1), Endpoint::new(Ipv4Addr::BROADCAST, 2), b"for all"),
        packet::udp(all, c[0].at(1), Endpoint::new(address.broadcast(), 2), b"for all here"),
        packet::udp(
            Macs { src: c[0].mac, dst: GROUP_MAC },
            c[0].at(1),
            Endpoint::new(GROUP, 5353),
            b"for some",
        ),
    ] {
        // Twice: the second one may be repeated by the cache.
        switch.send(&c[0], &frame);
        assert_eq!(one(&host), frame);
        switch.send(&c[0], &frame);
        assert_eq!(one(&host), frame);
    }
    received(&c[1]);
    let elsewhere = [EXTERNAL, SERVER, c[1].ip, Ipv4Addr::new(172, 31, 0, 5), Ipv4Addr::LOCALHOST];
    let mut refused = 0;
    for dst in elsewhere {
        for frame in [
            packet::udp(to, c[0].at(1), Endpoint::new(dst, 2), b"by it"),
            packet::tcp(
                to,
                c[0].at(1),
                Endpoint::new(dst, 2),
                Tcp { flags: ACK, ..Tcp::default() },
                b"by it",
            ),
            packet::echo(to, c[0].ip, dst, true, 1, b"by it"),
        ] {
            let mut tagged = frame.clone();
            tagged.splice(12..12, [0x81, 0x00, 0x00, 0x00]);
            switch.send(&c[0], &frame);
            switch.send(&c[0], &tagged);
            refused += 2;
        }
        // As a broadcast it is nobody's to forward, but a host with a weak model might take it.
        switch.send(&c[0], &packet::udp(all, c[0].at(1), Endpoint::new(dst, 2), b"by it"));
    }
    for ethertype in [0x86dd, 0x88b5] {
        switch.send(&c[0], &packet::frame(to, ethertype, &[0x60; 60]));
        refused += 1;
    }
    nothing(&host);
    assert_eq!(switch.drops(DropReason::NotForHost), refused);
    received(&c[1]);
    // Its address there is one of the host's, and still none of another network's business.
    let other = switch.add_network("172.31.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let d = switch.add_port(other);
    switch.resolve(&d);
    switch.add_uplink(UplinkMode::Shared);
    switch.shared.publish(|snapshot| {
        let uplink = std::sync::Arc::make_mut(&mut snapshot.uplinks[0]);
        uplink.host_addresses.push(host.ip);
    });
    switch.send(&d, &packet::echo(via(&d), d.ip, host.ip, true, 1, b"ping"));
    assert_eq!(icmp_error(&one(&d)).1, 13);
    // And it speaks for itself only.
    switch
        .send(&host, &packet::udp(between(&host, &c[0]), Endpoint::new(SERVER, 1), c[0].at(2), b"forwarded"));
    nothing(&c[0]);
    assert_eq!(switch.drops(DropReason::SpoofedIp), 1);
    settle(&switch);
}

#[test]
fn who_has_an_address_is_found_out_by_asking_all() {
    let (mut switch, c) = lan(2);
    let squatter = Ipv4Addr::new(172, 30, 0, 99);
    switch.probe(NetworkId(0), squatter);
    for station in &c {
        let asked = one(station);
        assert_eq!((&asked[..6], &asked[38..42]), (&[0xff; 6][..], &squatter.octets()[..]));
    }
    // Being asked already is enough.
    switch.probe(NetworkId(0), squatter);
    c.iter().for_each(nothing);
    let gateway = (c[0].gateway_mac, Ipv4Addr::new(172, 30, 0, 1));
    switch.send(&c[0], &packet::arp(via(&c[0]), 2, (c[0].mac, squatter), gateway));
    let snapshot = switch.shared.snapshot_full();
    let entries = snapshot.network(NetworkId(0)).unwrap().neighbors.lock().entries(switch.now);
    let found = entries.iter().find(|entry| entry.ip == squatter).and_then(|entry| entry.mac);
    assert_eq!(found, Some(c[0].mac));
    settle(&switch);
}

#[test]
fn a_routed_datagram_of_fragments_arrives_whole() {
    let (mut switch, _c, r, router) = routed();
    let datagram = packet::udp(via(&router), server(1), r.at(2), &[7; 2400]);
    fragments::pieces(&datagram, 1, 1480).iter().for_each(|piece| switch.send(&router, piece));
    let (seen, _) = fragments::joined(&r);
    assert_eq!((seen.src, seen.dst, seen.payload.len()), (server(1), r.at(2), 2400));
    settle(&switch);
}
