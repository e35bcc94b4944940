//! Trunks: one device that carries several networks, told apart by VLAN tags.

use vswitchd::addr::Vid;
use vswitchd::port::Promises;
use vswitchd::port::memory::MemoryPort;

use super::*;

const EXPERIMENTAL: u16 = 0x88b5;

/// A trunk: on the first network untagged, on the second as VLAN 10, on the third as VLAN 20; and two stations beside
/// it on each.
struct World {
    switch: Switch,
    /// The trunk's stations, one on each network; they have one device and one MAC address.
    trunk: [Station; 3],
    here: [Vec<Station>; 3],
}

impl World {
    fn new() -> World {
        World::with(Promises::ALL)
    }

    fn with(promises: Promises) -> World {
        let mut switch = Switch::new(1000);
        let networks = ["172.30.0.0/16", "10.1.0.0/24", "10.2.0.0/24"]
            .map(|subnet| switch.add_network(subnet.parse().unwrap(), NetworkMode::Nat));
        let native = switch.add_port_with(networks[0], std::sync::Arc::new(MemoryPort::new(promises)));
        let ten = switch.add_vlan(&native, networks[1], vid(10));
        let twenty = switch.add_vlan(&native, networks[2], vid(20));
        let here = networks.map(|network| (0..2).map(|_| switch.add_port(network)).collect::<Vec<_>>());
        let trunk = [native, ten, twenty];
        trunk.iter().chain(here.iter().flatten()).for_each(|station| switch.resolve(station));
        World { switch, trunk, here }
    }

    /// One of the trunk's stations sends a frame with these tags.
    fn send(&mut self, tags: &[u8], frame: &[u8]) {
        self.switch.send(&self.trunk[0], &tagged(frame, tags));
    }

    /// What came out of the trunk.
    fn out(&self) -> Vec<Vec<u8>> {
        received(&self.trunk[0])
    }

    fn drops(&self, station: &Station, reason: DropReason) -> u64 {
        self.switch.shared.snapshot().port(station.id).unwrap().counters.drop_count(reason)
    }

    fn counts(&self, station: &Station) -> (u64, u64) {
        let totals = self.switch.shared.snapshot().port(station.id).unwrap().counters.totals();
        (totals.rx_packets, totals.tx_packets)
    }
}

fn vid(number: u16) -> Vid {
    number.try_into().unwrap()
}

fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.splice(12..12, tags.iter().copied());
    frame
}

const NATIVE: &[u8] = &[];
const TEN: &[u8] = &[0x81, 0x00, 0x00, 0x0a];
const TWENTY: &[u8] = &[0x81, 0x00, 0x00, 0x14];

fn talk(from: &Station, to: &Station) -> Vec<u8> {
    packet::udp(between(from, to), from.at(1), to.at(2), b"hello")
}

#[test]
fn a_vlan_of_a_trunk_is_a_port_on_its_own_network() {
    let mut world = World::new();
    for (number, tag) in [NATIVE, TEN, TWENTY].into_iter().enumerate() {
        let (ours, peer) = (world.trunk[number].clone(), world.here[number][0].clone());
        // The second time it is the flow cache's turn.
        for _ in 0..2 {
            let frame = talk(&ours, &peer);
            world.send(tag, &frame);
            assert_eq!(one(&peer), frame);
            let answer = talk(&peer, &ours);
            world.switch.send(&peer, &answer);
            assert_eq!(world.out(), [tagged(&answer, tag)]);
        }
        assert_eq!(world.counts(&ours), (2, 2), "each frame counts once, where it is handed to");
        let snapshot = world.switch.shared.snapshot_full();
        let network = snapshot.port(ours.id).and_then(|port| port.network).unwrap();
        let fdb = snapshot.network(network).unwrap().fdb.clone();
        let station = fdb.lookup(ours.mac, world.switch.now, snapshot.mac_ageing);
        assert_eq!(station, vswitchd::table::mac_table::Station::Port(ours.id));
    }
    assert!(world.switch.totals().rx_cached >= 6, "{:?}", world.switch.totals());
    world.here.iter().flatten().for_each(nothing);
    settle(&world.switch);
}

#[test]
fn row_12_a_priority_tag_is_of_no_vlan_and_others_of_those_that_the_trunk_carries() {
    let mut world = World::new();
    let (ours, peer) = (world.trunk[0].clone(), world.here[0][0].clone());
    let frame = talk(&ours, &peer);
    for priority in [[0x81, 0x00, 0x00, 0x00], [0x81, 0x00, 0xf0, 0x00]] {
        world.send(&priority, &frame);
        assert_eq!(one(&peer), frame);
    }
    // Priority and drop eligibility do not make it another VLAN's.
    let to_ten = talk(&world.trunk[1], &world.here[1][0]);
    world.send(&[0x81, 0x00, 0xf0, 0x0a], &to_ten);
    assert_eq!(one(&world.here[1][0]), to_ten);
    let mut refused = 0;
    for other in [1u16, 9, 11, 30, 4094, 4095] {
        let [a, b] = other.to_be_bytes();
        for macs in [between(&ours, &peer), Macs { src: ours.mac, dst: MacAddr::BROADCAST }] {
            world.send(&[0x81, 0x00, 0xe0 | a, b], &packet::frame(macs, EXPERIMENTAL, b"x"));
            refused += 1;
        }
    }
    assert_eq!(world.drops(&ours, DropReason::UnknownVlan), refused);
    world.here.iter().flatten().for_each(nothing);
    // A service tag is none of the trunk's: the native network carries it.
    world.send(&[0x88, 0xa8, 0x00, 0x0a], &frame);
    assert_eq!(one(&peer), tagged(&frame, &[0x88, 0xa8, 0x00, 0x0a]));
    // Cut off within its tag.
    world.switch.send(&ours, &tagged(&frame, TEN)[..17]);
    assert_eq!(world.drops(&ours, DropReason::Runt), 1);
    settle(&world.switch);
}

#[test]
fn without_its_vlan_a_tag_is_unknown_and_without_any_tags_are_carried_again() {
    let mut world = World::new();
    let (ours, peer) = (world.trunk[0].clone(), world.here[0][0].clone());
    let frame = talk(&ours, &peer);
    let remove = |world: &World, id| world.switch.shared.publish(|snapshot| snapshot.remove_port(id));
    remove(&world, world.trunk[1].id);
    world.send(TEN, &frame);
    assert_eq!(world.drops(&ours, DropReason::UnknownVlan), 1);
    let to_twenty = talk(&world.trunk[2], &world.here[2][0]);
    world.send(TWENTY, &to_twenty);
    assert_eq!(one(&world.here[2][0]), to_twenty);
    remove(&world, world.trunk[2].id);
    world.send(TEN, &frame);
    assert_eq!(one(&peer), tagged(&frame, TEN));
    world.switch.send(&peer, &tagged(&talk(&peer, &ours), TWENTY));
    assert_eq!(world.out(), [tagged(&talk(&peer, &ours), TWENTY)]);
}

#[test]
fn no_frame_hops_to_another_vlan_by_a_tag_of_its_own() {
    let mut world = World::new();
    let native = world.trunk[0].clone();
    let (a, b) = (world.here[0][0].clone(), world.here[0][1].clone());
    let priority: &[u8] = &[0x81, 0x00, 0x00, 0x00];
    let service: &[u8] = &[0x88, 0xa8, 0x00, 0x00];
    let hops = [
        TEN.to_vec(),
        TWENTY.to_vec(),
        [priority, TEN].concat(),
        [service, TEN].concat(),
        [TEN, TEN].concat(),
    ];
    let mut refused = 0;
    for tags in hops.iter().map(Vec::as_slice).chain([&[0x81, 0x00, 0x00, 0x05][..]]) {
        for kind in [
            packet::frame(between(&a, &native), EXPERIMENTAL, b"x"),
            talk(&a, &native),
            packet::frame(Macs { src: a.mac, dst: MacAddr::BROADCAST }, EXPERIMENTAL, b"x"),
            packet::frame(Macs { src: a.mac, dst: MacAddr([2, 0, 0, 0, 0, 9]) }, EXPERIMENTAL, b"x"),
        ] {
            let frame = tagged(&kind, tags);
            world.switch.send(&a, &frame);
            assert_eq!(world.out(), Vec::<Vec<u8>>::new(), "{tags:02x?}");
            refused += 1;
            assert_eq!(world.drops(&a, DropReason::VlanHopping), refused);
            // Who is no trunk gets it as ever.
            let flooded = kind[..6] != native.mac.0;
            assert_eq!(received(&b), if flooded { vec![frame] } else { Vec::new() });
        }
    }
    // What its reader takes for the native network's, or for a service VLAN's, passes.
    for tags in [priority, &[0x88, 0xa8, 0x00, 0x0a], &[0x88, 0xa8, 0x00, 0x05, 0x81, 0x00, 0x00, 0x0a]] {
        let frame = tagged(&talk(&a, &native), tags);
        world.switch.send(&a, &frame);
        assert_eq!(world.out(), [frame]);
    }
    world.here[1..].iter().flatten().for_each(nothing);
    settle(&world.switch);
}

#[test]
fn a_vlan_carries_tags_behind_its_own() {
    let mut world = World::new();
    let (ten, peer) = (world.trunk[1].clone(), world.here[1][0].clone());
    // Another trunk, to whose native network the VLAN leads, and which has the inner tag's VLAN.
    let networks = [1, 2].map(NetworkId);
    let other = world.switch.add_port(networks[0]);
    world.switch.add_vlan(&other, networks[1], vid(20));
    world.switch.resolve(&other);

    let answer = tagged(&talk(&peer, &ten), TWENTY);
    world.switch.send(&peer, &answer);
    assert_eq!(world.out(), [tagged(&answer, TEN)]);
    let frame = tagged(&talk(&ten, &peer), TWENTY);
    world.send(TEN, &frame);
    assert_eq!(one(&peer), frame);
    world.send(TEN, &tagged(&talk(&ten, &other), TWENTY));
    nothing(&other);
    assert_eq!(world.drops(&ten, DropReason::VlanHopping), 1);
    world.here[2].iter().for_each(nothing);
    // A tag does not count to the MTU, nor does another one behind it.
    for (len, passes) in [(1500, true), (1501, false)] {
        for inner in [NATIVE, TWENTY] {
            let frame = tagged(&packet::frame(between(&ten, &peer), EXPERIMENTAL, &vec![7; len]), inner);
            world.send(TEN, &frame);
            assert_eq!(received(&peer), if passes { vec![frame] } else { Vec::new() }, "{len}");
            let frame = tagged(&packet::frame(between(&peer, &ten), EXPERIMENTAL, &vec![7; len]), inner);
            world.switch.send(&peer, &frame);
            assert_eq!(world.out(), if passes { vec![tagged(&frame, TEN)] } else { Vec::new() }, "{len}");
        }
    }
    settle(&world.switch);
}

#[test]
fn a_flood_leaves_each_trunk_with_the_tag_that_is_the_networks_there() {
    let mut world = World::new();
    let native = NetworkId(0);
    // Two more trunks, on which the first network is a VLAN, and one without.
    let others: Vec<_> = [NetworkId(1), NetworkId(2)]
        .into_iter()
        .zip([30, 40])
        .map(|(network, number)| {
            let trunk = world.switch.add_port(network);
            let vlan = world.switch.add_vlan(&trunk, native, vid(number));
            (trunk, vlan)
        })
        .collect();
    let last = world.switch.add_port(native);
    let a = world.here[0][0].clone();
    let frame = packet::frame(Macs { src: a.mac, dst: MacAddr::BROADCAST }, EXPERIMENTAL, b"to all");
    world.switch.send(&a, &frame);
    assert_eq!(world.out(), std::slice::from_ref(&frame));
    assert_eq!(one(&others[0].0), tagged(&frame, &[0x81, 0x00, 0x00, 30]));
    assert_eq!(one(&others[1].0), tagged(&frame, &[0x81, 0x00, 0x00, 40]));
    assert_eq!((one(&world.here[0][1]), one(&last)), (frame.clone(), frame));
    // The same from one of the trunks: not back to where it came from.
    let from = &others[0].1;
    let frame = packet::frame(Macs { src: from.mac, dst: MacAddr::BROADCAST }, EXPERIMENTAL, b"to all");
    world.switch.send(&others[0].0, &tagged(&frame, &[0x81, 0x00, 0x00, 30]));
    nothing(&others[0].0);
    assert_eq!(world.out(), std::slice::from_ref(&frame));
    assert_eq!(one(&others[1].0), tagged(&frame, &[0x81, 0x00, 0x00, 40]));
    settle(&world.switch);
}

/// A TCP super-frame, and what it promises with `more` bytes before its IP header.
fn super_frame(from: &Station, to: &Station, more: u16) -> (Vec<u8>, Offload) {
    let header = Tcp { flags: ACK, ..Tcp::default() };
    let mut frame = packet::tcp(between(from, to), from.at(1), to.at(2), header, &[9; 20_000]);
    // Partial: the field has the pseudo-header's sum.
    let (src, dst) = (from.ip, to.ip);
    let sum = vswitchd::wire::checksum::pseudo_header(src, dst, 6, 20_020);
    frame[50..52].copy_from_slice(&vswitchd::wire::checksum::fold(sum).to_be_bytes());
    let checksum = Checksum::Partial { start: 34 + more, offset: 16 };
    (frame, Offload { checksum, segment: Segment::Tcp4 { size: 1448, ecn: false }, header_len: 54 + more })
}

#[test]
fn promises_count_from_behind_the_tag_both_ways() {
    let mut world = World::new();
    let (ten, peer) = (world.trunk[1].clone(), world.here[1][0].clone());
    for _ in 0..2 {
        let (frame, plain) = super_frame(&ten, &peer, 0);
        let (_, moved) = super_frame(&ten, &peer, 4);
        world.switch.send_promising(&ten, &tagged(&frame, TEN), moved);
        assert_eq!(peer.device.pop(), Some((frame, plain)));
        let (frame, plain) = super_frame(&peer, &ten, 0);
        world.switch.send_promising(&peer, &frame, plain);
        assert_eq!(ten.device.pop(), Some((tagged(&frame, TEN), moved)));
    }
    // A checksum that begins in the tag, or before.
    let (frame, mut wrong) = super_frame(&ten, &peer, 4);
    for start in [0, 3, 14, 17] {
        wrong.checksum = Checksum::Partial { start, offset: 16 };
        world.switch.send_promising(&ten, &tagged(&frame, TEN), wrong);
    }
    assert_eq!(world.drops(&ten, DropReason::BadOffload), 4);
    nothing(&peer);
    settle(&world.switch);
}

#[test]
fn what_a_trunk_does_not_pass_on_is_done_behind_the_tag() {
    let mut world = World::with(Promises::NONE);
    let (ten, peer) = (world.trunk[1].clone(), world.here[1][0].clone());
    let (frame, offload) = super_frame(&peer, &ten, 0);
    world.switch.send_promising(&peer, &frame, offload);
    let packets = world.out();
    assert_eq!(packets.len(), 14);
    let mut payload = 0;
    for packet in packets {
        assert_eq!(packet[12..16], *TEN);
        payload += read(&tagged(&[&packet[..12], &packet[16..]].concat(), NATIVE)).payload.len();
    }
    assert_eq!(payload, 20_000);
    settle(&world.switch);
}

#[test]
fn datagrams_are_merged_before_they_are_tagged() {
    let mut world = World::new();
    let (ten, peer) = (world.trunk[1].clone(), world.here[1][0].clone());
    for number in 0..8 {
        let frame = packet::udp(between(&peer, &ten), peer.at(1), ten.at(2), &[number; 100]);
        peer.device.push(&frame, Offload::NONE);
    }
    // The first one is read alone, until it turns out that there are more.
    world.switch.run();
    let mut merged = 0;
    let mut bytes = Vec::new();
    while let Some((frame, offload)) = ten.device.pop() {
        assert_eq!(frame[12..16], *TEN);
        bytes.extend_from_slice(&frame[46..]);
        if offload.is_super() {
            merged += 1;
            assert_eq!(offload.checksum, Checksum::Partial { start: 38, offset: 6 });
            assert_eq!(offload.header_len, 46);
        }
    }
    assert!(merged > 0);
    assert_eq!(bytes, (0..8).flat_map(|number| [number; 100]).collect::<Vec<u8>>());
    assert_eq!(world.counts(&ten).1, 8);
    settle(&world.switch);
}

#[test]
fn the_world_is_behind_a_vlans_gateway_and_the_other_vlans_are_not() {
    let mut world = World::new();
    let router = world.switch.add_uplink(UplinkMode::Shared);
    world.switch.resolve(&router);
    let [native, ten, twenty] = world.trunk.clone();
    world.trunk.iter().for_each(|station| world.switch.secure(station));
    for _ in 0..3 {
        world.send(TEN, &packet::udp(via(&ten), ten.at(7), server(53), b"question"));
        let out = read(&one(&router));
        assert_eq!((out.src.ip, out.dst), (EXTERNAL, server(53)));
        world.switch.send(&router, &packet::udp(via(&router), server(53), out.src, b"answer"));
        let answers = world.out();
        assert_eq!((answers.len(), &answers[0][12..16]), (1, TEN));
        let seen = read(&[&answers[0][..12], &answers[0][16..]].concat());
        assert_eq!((seen.dst, seen.payload), (ten.at(7), b"answer".to_vec()));
    }
    // As itself it is refused the way to its own other networks, and as somebody else it is not even asked.
    world.send(TEN, &packet::udp(via(&ten), ten.at(7), twenty.at(9), b"x"));
    let told = world.out();
    assert_eq!(icmp_error(&[&told[0][..12], &told[0][16..]].concat()).1, 13);
    assert_eq!(world.drops(&ten, DropReason::Isolated), 1);
    world.send(TEN, &packet::udp(via(&ten), native.at(7), server(53), b"x"));
    world.send(
        TEN,
        &packet::udp(Macs { src: ten.mac, dst: native.gateway_mac }, native.at(7), server(53), b"x"),
    );
    assert_eq!(world.drops(&ten, DropReason::SpoofedIp), 2);
    nothing(&router);
    // ARP: each gateway on its own VLAN.
    for (number, tag) in [NATIVE, TEN, TWENTY].into_iter().enumerate() {
        let ours = world.trunk[number].clone();
        for (other, there) in world.trunk.clone().iter().enumerate() {
            let gateway =
                Ipv4Addr::from_bits(there.ip.to_bits() & if other == 0 { !0xffff } else { !0xff } | 1);
            let all = Macs { src: ours.mac, dst: MacAddr::BROADCAST };
            world.send(tag, &packet::arp(all, 1, (ours.mac, ours.ip), (MacAddr::ZERO, gateway)));
            let answers = world.out();
            assert_eq!(answers.len(), usize::from(other == number), "{number} asks for {gateway}");
            assert!(answers.iter().all(|answer| answer[12..].starts_with(tag)));
        }
        world.here.iter().flatten().for_each(|station| drop(received(station)));
    }
    world.switch.pass(10 * SECOND, SECOND);
    settle(&world.switch);
}

#[test]
fn a_datagram_leaves_in_tagged_fragments() {
    let mut world = World::new();
    let router = world.switch.add_uplink(UplinkMode::Shared);
    world.switch.resolve(&router);
    let ten = world.trunk[1].clone();
    world.send(TEN, &packet::udp(via(&ten), ten.at(7), server(53), b"question"));
    let asked = read(&one(&router)).src;
    world.switch.shared.publish(|snapshot| {
        let mut network = vswitchd::snapshot::Network::clone(snapshot.network(NetworkId(1)).unwrap());
        network.mtu = 600;
        snapshot.set_network(network);
    });
    let mut answer = packet::udp(via(&router), server(53), asked, &[7; 1200]);
    vswitchd::wire::ipv4::make_whole(&mut answer[14..], 20, false, false);
    world.switch.send(&router, &answer);
    let pieces = world.out();
    assert!(pieces.len() >= 2 && pieces.iter().all(|piece| piece[12..16] == *TEN), "{pieces:02x?}");
    let lengths: usize = pieces.iter().map(|piece| Ipv4::parse(&piece[18..]).unwrap().payload_len()).sum();
    assert_eq!(lengths, 1208);
    settle(&world.switch);
}
