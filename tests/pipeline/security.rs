//! Port security: a port speaks for itself, and is neither router nor DHCP server (rows 9, 17, 33 and beyond).

use vswitchd::snapshot::Pins;

use crate::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// Three containers, the first of them secured.
fn secured() -> (Switch, Vec<Station>) {
    let (mut switch, c) = lan(3);
    switch.secure(&c[0]);
    (switch, c)
}

fn unsecured(switch: &mut Switch, c: &Station) {
    switch.change_port(c, |port| port.pins = None);
}

/// Sends a frame that nobody may get, for this reason.
fn refused(switch: &mut Switch, c: &[Station], frame: &[u8], reason: DropReason) {
    let before = switch.drops(reason);
    switch.send(&c[0], frame);
    c.iter().for_each(nothing);
    assert_eq!(switch.drops(reason), before + 1, "{reason}: {frame:02x?}");
}

/// Sends a frame that the second container gets.
fn passes(switch: &mut Switch, c: &[Station], frame: &[u8]) {
    switch.send(&c[0], frame);
    assert_eq!(one(&c[1]), frame);
    received(&c[2]);
}

fn to_all(from: &Station) -> Macs {
    Macs { src: from.mac, dst: MacAddr::BROADCAST }
}

#[test]
fn a_port_keeps_to_its_own_mac_and_ip_address() {
    let (mut switch, c) = secured();
    let datagram = |macs, ip| packet::udp(macs, Endpoint::new(ip, 1), c[1].at(2), b"x");
    let honest = between(&c[0], &c[1]);
    passes(&mut switch, &c, &datagram(honest, c[0].ip));
    passes(&mut switch, &c, &packet::frame(honest, 0x88b5, b"no address in it"));
    let stranger = Macs { src: MacAddr([2, 0, 0, 0, 0, 9]), dst: c[1].mac };
    refused(&mut switch, &c, &datagram(stranger, c[0].ip), DropReason::SpoofedMac);
    refused(&mut switch, &c, &datagram(between(&c[2], &c[1]), c[2].ip), DropReason::SpoofedMac);
    let others = [c[2].ip, SERVER, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST];
    for ip in others {
        refused(&mut switch, &c, &datagram(honest, ip), DropReason::SpoofedIp);
        refused(&mut switch, &c, &datagram(via(&c[0]), ip), DropReason::SpoofedIp);
    }
    // What was learned once does not open the door: the next packet of another sender has another key.
    for _ in 0..3 {
        passes(&mut switch, &c, &datagram(honest, c[0].ip));
        refused(&mut switch, &c, &datagram(honest, c[2].ip), DropReason::SpoofedIp);
    }
    unsecured(&mut switch, &c[0]);
    passes(&mut switch, &c, &datagram(honest, c[2].ip));
    passes(&mut switch, &c, &datagram(stranger, SERVER));
    switch.secure(&c[0]);
    refused(&mut switch, &c, &datagram(honest, c[2].ip), DropReason::SpoofedIp);
    settle(&switch);
}

#[test]
fn a_port_without_an_address_of_its_own_keeps_to_its_mac() {
    let (mut switch, c) = lan(3);
    switch.change_port(&c[0], |port| port.pins = Some(Pins { mac: Some(c[0].mac), ip: None }));
    let honest = between(&c[0], &c[1]);
    passes(&mut switch, &c, &packet::udp(honest, Endpoint::new(SERVER, 1), c[1].at(2), b"x"));
    passes(&mut switch, &c, &packet::arp(honest, 2, (c[0].mac, SERVER), (c[1].mac, c[1].ip)));
    let spoofed = packet::arp(honest, 2, (c[2].mac, SERVER), (c[1].mac, c[1].ip));
    refused(&mut switch, &c, &spoofed, DropReason::SpoofedArp);
    // Nothing is known of it at all: then it cannot take the address of one that is secured.
    switch.change_port(&c[0], |port| port.pins = Some(Pins { mac: None, ip: None }));
    let other = Macs { src: c[2].mac, dst: c[1].mac };
    passes(&mut switch, &c, &packet::frame(other, 0x88b5, b"it moves"));
    switch.send(&c[2], &packet::frame(to_all(&c[2]), 0x88b5, b"and back"));
    c.iter().for_each(|c| drop(received(c)));
    switch.secure(&c[2]);
    refused(&mut switch, &c, &packet::frame(other, 0x88b5, b"and not again"), DropReason::SpoofedMac);
    switch.send(&c[1], &packet::frame(between(&c[1], &c[2]), 0x88b5, b"for you"));
    one(&c[2]);
    settle(&switch);
}

#[test]
fn a_port_keeps_to_its_own_addresses_in_arp() {
    let (mut switch, c) = secured();
    let own = (c[0].mac, c[0].ip);
    let nobody = MacAddr::ZERO;
    passes(&mut switch, &c, &packet::arp(to_all(&c[0]), 1, own, (nobody, c[1].ip)));
    passes(&mut switch, &c, &packet::arp(between(&c[0], &c[1]), 2, own, (c[1].mac, c[1].ip)));
    let probe = packet::arp(to_all(&c[0]), 1, (c[0].mac, Ipv4Addr::UNSPECIFIED), (nobody, c[2].ip));
    passes(&mut switch, &c, &probe);
    for sender in
        [(c[0].mac, c[2].ip), (c[2].mac, c[0].ip), (c[2].mac, c[2].ip), (c[2].mac, Ipv4Addr::UNSPECIFIED)]
    {
        for operation in [1, 2] {
            for macs in [to_all(&c[0]), between(&c[0], &c[1])] {
                let spoofed = packet::arp(macs, operation, sender, (c[1].mac, c[1].ip));
                refused(&mut switch, &c, &spoofed, DropReason::SpoofedArp);
            }
        }
    }
    settle(&switch);
}

#[test]
fn row_09_the_gateways_addresses_are_never_accepted_from_a_port() {
    let (mut switch, c) = secured();
    let gateway_mac = c[0].gateway_mac;
    for security in [true, false] {
        if !security {
            unsecured(&mut switch, &c[0]);
        }
        let macs = Macs { src: gateway_mac, dst: c[1].mac };
        refused(&mut switch, &c, &packet::frame(macs, 0x88b5, b"x"), DropReason::SpoofedGateway);
        let honest = between(&c[0], &c[1]);
        let from_gateway = packet::udp(honest, Endpoint::new(GATEWAY, 53), c[1].at(2), b"x");
        refused(&mut switch, &c, &from_gateway, DropReason::SpoofedGateway);
        // Straight to the victim: no broadcast for the gateway to see.
        let claim = packet::arp(honest, 2, (c[0].mac, GATEWAY), (c[1].mac, c[1].ip));
        switch.send(&c[0], &claim);
        let expected = usize::from(security); // it is defended, once in ten seconds
        assert_eq!(received(&c[1]).len(), expected);
        drop([&c[0], &c[2]].map(received));
        let claim = packet::arp(honest, 2, (gateway_mac, Ipv4Addr::UNSPECIFIED), (c[1].mac, c[1].ip));
        refused(&mut switch, &c, &claim, DropReason::SpoofedGateway);
    }
    assert_eq!(switch.drops(DropReason::ArpConflict), 2);
    settle(&switch);
}

#[test]
fn what_hides_behind_priority_tags_or_snap_is_found() {
    let (mut switch, c) = secured();
    let spoofed = packet::arp(between(&c[0], &c[1]), 2, (c[0].mac, c[2].ip), (c[1].mac, c[1].ip));
    let disguise = |bytes: &[u8]| {
        let mut frame = spoofed.clone();
        frame.splice(12..12, bytes.iter().copied());
        frame
    };
    let priority = [0x81, 0, 0xe0, 0];
    let snap = [0, 36, 0xaa, 0xaa, 3, 0, 0, 0];
    for bytes in [
        priority.as_slice(),
        &[0x88, 0xa8, 0, 0],
        &priority.repeat(2),
        &snap,
        &[priority.as_slice(), &snap].concat(),
    ] {
        refused(&mut switch, &c, &disguise(bytes), DropReason::SpoofedArp);
    }
    refused(&mut switch, &c, &disguise(&priority.repeat(9)), DropReason::UnreadableHeaders);
    // In a VLAN of their own, stations have addresses of their own.
    passes(&mut switch, &c, &disguise(&[0x81, 0, 0, 7]));
    passes(&mut switch, &c, &disguise(&[0x81, 0, 0, 0, 0x81, 0, 0, 7]));
    settle(&switch);
}

#[test]
fn only_the_switch_may_answer_for_dhcp() {
    let (mut switch, c) = secured();
    let datagram = |macs, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)| {
        packet::udp(macs, Endpoint::new(src.0, src.1), Endpoint::new(dst.0, dst.1), b"dhcp")
    };
    let (own, all) = (c[0].ip, Ipv4Addr::BROADCAST);
    passes(&mut switch, &c, &datagram(to_all(&c[0]), (Ipv4Addr::UNSPECIFIED, 68), (all, 67)));
    passes(&mut switch, &c, &datagram(between(&c[0], &c[1]), (own, 68), (c[1].ip, 67)));
    for macs in [to_all(&c[0]), between(&c[0], &c[1])] {
        for source in [67, 68, 1067] {
            refused(&mut switch, &c, &datagram(macs, (own, source), (all, 68)), DropReason::DhcpServer);
        }
    }
    // With options before the UDP header, and as a first fragment.
    let plain = datagram(to_all(&c[0]), (own, 67), (all, 68));
    let mut options = plain.clone();
    options.splice(34..34, [1; 8]);
    options[14] = 0x47;
    refused(&mut switch, &c, &options, DropReason::DhcpServer);
    let mut fragment = plain.clone();
    fragment[20] = 0x20;
    refused(&mut switch, &c, &fragment, DropReason::DhcpServer);
    // What stands there in a later fragment is no port.
    fragment[21] = 5;
    passes(&mut switch, &c, &fragment);
    unsecured(&mut switch, &c[0]);
    passes(&mut switch, &c, &plain);
    settle(&switch);
}

/// An IPv6 packet of these headers, to all nodes.
fn ipv6(from: &Station, first: u8, headers: &[&[u8]]) -> Vec<u8> {
    let payload = headers.concat();
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, first, 255];
    packet[5] = u8::try_from(payload.len()).unwrap();
    packet.extend([[0xfe, 0x80].as_slice(), &[0; 13], &[1], &[0xff, 2], &[0; 13], &[1]].concat());
    packet.extend(payload);
    packet::frame(Macs { src: from.mac, dst: MacAddr([0x33, 0x33, 0, 0, 0, 1]) }, 0x86dd, &packet)
}

#[test]
fn router_advertisements_come_from_no_port_in_no_disguise() {
    const ICMPV6: u8 = 58;
    let (mut switch, c) = secured();
    let message = |kind| [[kind, 0, 0, 0].as_slice(), &[0; 12]].concat();
    for (kind, passing) in [(133, true), (134, false), (135, true), (136, true), (137, false), (128, true)] {
        let frame = ipv6(&c[0], ICMPV6, &[&message(kind)]);
        match passing {
            true => passes(&mut switch, &c, &frame),
            false => refused(&mut switch, &c, &frame, DropReason::RouterAdvertisement),
        }
    }
    let advertisement = message(134);
    let ra = DropReason::RouterAdvertisement;
    // RFC 7113 2: behind an extension header, behind several, behind a fragment header.
    for kind in [0, 43, 60] {
        let header = [ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        refused(&mut switch, &c, &ipv6(&c[0], kind, &[&header, &advertisement]), ra);
        let twice = [[60, 0, 1, 4, 0, 0, 0, 0], header].concat();
        refused(&mut switch, &c, &ipv6(&c[0], kind, &[&twice, &advertisement]), ra);
    }
    let [atomic, first, later] = [0, 1, 8].map(|offset| [ICMPV6, 0, 0, offset, 0, 0, 0, 7]);
    refused(&mut switch, &c, &ipv6(&c[0], 44, &[&atomic, &advertisement]), ra);
    refused(&mut switch, &c, &ipv6(&c[0], 44, &[&first, &advertisement[..8]]), ra);
    // The message is in the second fragment: the first one lacks it, and so never comes to anything.
    let options = [60, 0, 0, 1, 0, 0, 0, 7];
    let cut = ipv6(&c[0], 44, &[&options, &[ICMPV6, 1, 1, 4, 0, 0, 0, 0]]);
    refused(&mut switch, &c, &cut[..cut.len().min(14 + 40 + 16)], DropReason::UnreadableHeaders);
    passes(&mut switch, &c, &ipv6(&c[0], 44, &[&later, &advertisement]));
    let endless = [60, 0, 1, 4, 0, 0, 0, 0].repeat(10);
    refused(&mut switch, &c, &ipv6(&c[0], 60, &[&endless, &advertisement]), DropReason::UnreadableHeaders);
    let mut tagged = ipv6(&c[0], ICMPV6, &[&advertisement]);
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    refused(&mut switch, &c, &tagged, ra);
    let server = [0, 0, 0x02, 0x22, 0, 8, 0, 0];
    refused(&mut switch, &c, &ipv6(&c[0], 17, &[&server]), DropReason::DhcpServer);
    unsecured(&mut switch, &c[0]);
    passes(&mut switch, &c, &ipv6(&c[0], ICMPV6, &[&advertisement]));
    settle(&switch);
}
