//! Fragments, in all sections: rows 38 to 41, 43, 54 and 58, and the fragments of others.

use crate::*;
use vswitchd::wire::edit;
use vswitchd::wire::ipv4;

/// The part of an IP packet's payload from `from` to `to`, as a fragment of the datagram `id`.
fn piece(frame: &[u8], id: u16, from: usize, to: usize, more: bool) -> Vec<u8> {
    let ip = Ipv4::parse(&frame[14..]).unwrap();
    let (headers, payload) = frame.split_at(14 + ip.header_len);
    let mut bytes = [headers, &payload[from..to.min(payload.len())]].concat();
    bytes[20] = 0;
    edit::set_id(&mut bytes[14..], id);
    ipv4::make_fragment(&mut bytes[14..], ip.header_len, from, more);
    bytes
}

/// A frame's packet in fragments of `size` payload bytes.
pub(super) fn pieces(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let len = Ipv4::parse(&frame[14..]).unwrap().payload_len();
    (0..len).step_by(size).map(|from| piece(frame, id, from, from + size, from + size < len)).collect()
}

/// Puts fragments together that came in order, none overlapping, each with a right header.
fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let heads: Vec<_> = fragments.iter().map(|frame| Ipv4::parse(&frame[14..]).expect("a header")).collect();
    let last = heads.last().expect("a fragment");
    let mut bytes = fragments[0][..14 + heads[0].header_len].to_vec();
    for (head, frame) in heads.iter().zip(fragments) {
        assert_eq!(head.id, last.id);
        assert_eq!(head.fragment_offset, bytes.len() - 14 - heads[0].header_len);
        assert_eq!(head.more_fragments, !std::ptr::eq(head, last));
        assert_eq!(frame.len(), 14 + head.total_len, "nothing behind it");
        bytes.extend(&frame[14 + head.header_len..]);
    }
    ipv4::make_whole(&mut bytes[14..], heads[0].header_len, false, false);
    bytes
}

/// What arrived at a station: one datagram, and in how many pieces.
pub(super) fn joined(station: &Station) -> (Seen, usize) {
    let frames = received(station);
    assert!(!frames.is_empty(), "nothing at {}", station.ip);
    (read(&join(&frames)), frames.len())
}

fn id_of(frame: &[u8]) -> u16 {
    Ipv4::parse(&frame[14..]).unwrap().id
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

/// All orders of `n` things.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    shorter
        .iter()
        .flat_map(|order| (0..n).map(|at| [&order[..at], &[n - 1], &order[at..]].concat()))
        .collect()
}

fn set_mtu(switch: &Switch, mtu: u16) {
    switch.shared.publish(|snapshot| {
        std::sync::Arc::make_mut(&mut snapshot.uplinks[0]).mtu = mtu;
    });
}

#[test]
fn row_38_too_big_without_df_leaves_in_fragments_in_order() {
    let (mut switch, c, router) = Switch::with_uplink();
    set_mtu(&switch, 1280);
    let data = payload(1472);
    let mut sent = packet::udp(via(&c), c.at(61_000), server(2), &data);
    sent[20] = 0; // may be fragmented
    ipv4::make_whole(&mut sent[14..], 20, false, false);
    switch.send(&c, &sent);
    let frames = received(&router);
    assert_eq!(frames.iter().map(|frame| frame.len() - 14).collect::<Vec<_>>(), [1276, 20 + 1480 - 1256]);
    let seen = read(&join(&frames));
    assert_eq!((seen.src, seen.dst, seen.ttl, seen.payload), (external(61_000), server(2), 63, data.clone()));
    // With its checksum unfinished.
    let partial = Offload { checksum: Checksum::Partial { start: 34, offset: 6 }, ..Offload::NONE };
    let pseudo = vswitchd::wire::checksum::pseudo_header(c.ip, SERVER, 17, 1480);
    sent[40..42].copy_from_slice(&vswitchd::wire::checksum::fold(pseudo).to_be_bytes());
    switch.send_promising(&c, &sent, partial);
    assert_eq!(joined(&router).0.payload, data);
    // Already in fragments, which are too big for the next link.
    let big = packet::udp(via(&c), c.at(61_000), server(2), &payload(5000));
    for frame in pieces(&big, 9, 1480) {
        switch.send(&c, &frame);
    }
    let (seen, count) = joined(&router);
    assert_eq!((seen.payload, count), (payload(5000), 4));
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_38_both_directions_are_told_the_mtu_of_what_is_behind() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Udp, 53, &c, 53);
    switch.shared.publish(|snapshot| {
        let network = snapshot.networks[0].as_mut().unwrap();
        std::sync::Arc::make_mut(network).mtu = 1280;
    });
    let mut frame = packet::udp(via(&router), server(9), external(53), &payload(1253));
    switch.send(&router, &frame);
    let told = one(&router);
    assert_eq!((icmp_error(&told).0, icmp_error(&told).1), (3, 4));
    assert_eq!(&told[38..42], &[0, 0, 5, 0], "the network's MTU is 1280");
    assert_eq!(Ipv4::parse(&told[14..]).unwrap().src, EXTERNAL);
    assert_eq!(icmp_error(&told).2[..20], frame[14..34], "about the packet as it came");
    nothing(&c);
    ipv4::make_whole(&mut frame[14..], 20, false, false);
    switch.send(&router, &frame);
    let (seen, count) = joined(&c);
    assert_eq!((seen.dst, seen.payload, count), (c.at(53), payload(1253), 2));
    settle(&switch);
}

#[test]
fn row_38_a_super_frame_is_judged_by_its_segments() {
    let (mut switch, c, router) = Switch::with_uplink();
    let header = Tcp { flags: SYN, seq: 99, ack: 0 };
    switch.send(&c, &packet::tcp(via(&c), c.at(61_001), server(80), header, b""));
    one(&router);
    let back = Tcp { flags: SYN | ACK, seq: 499, ack: 100 };
    switch.send(&router, &packet::tcp(via(&router), server(80), external(61_001), back, b""));
    one(&c);
    let header = Tcp { flags: ACK, seq: 100, ack: 500 };
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    let offload = |size| Offload { checksum, segment: Segment::Tcp4 { size, ecn: false }, header_len: 54 };
    let sized = |df| {
        let mut frame = packet::tcp(via(&c), c.at(61_001), server(80), header, &payload(14_000));
        ipv4::make_whole(&mut frame[14..], 20, df, false);
        frame
    };
    set_mtu(&switch, 1280);
    switch.send_promising(&c, &sized(true), offload(1460));
    let told = one(&c);
    assert_eq!((icmp_error(&told).1, &told[38..42]), (4, &[0, 0, 5, 0][..]));
    nothing(&router);
    // With DF or not, if its segments fit.
    switch.send_promising(&c, &sized(true), offload(1240));
    let (bytes, promises) = router.device.pop().unwrap();
    assert_eq!((bytes.len(), promises.segment), (14_054, Segment::Tcp4 { size: 1240, ecn: false }));
    // Without DF, it is cut into smaller segments: nobody has cut it before.
    switch.send_promising(&c, &sized(false), offload(1460));
    let (_, promises) = router.device.pop().unwrap();
    assert_eq!(promises.segment, Segment::Tcp4 { size: 1240, ecn: false });
    settle(&switch);
}

#[test]
fn row_39_every_order_of_four_fragments_is_one_datagram() {
    let (mut switch, c, router) = Switch::with_uplink();
    let data = payload(3100);
    let sent = packet::udp(via(&c), c.at(61_000), server(2), &data);
    for (n, order) in (0..).zip(orders(4)) {
        let parts = pieces(&sent, n, 800);
        for &at in &order {
            switch.send(&c, &parts[at]);
        }
        let (seen, count) = joined(&router);
        assert_eq!((seen.src, seen.payload, count), (external(61_000), data.clone(), 4), "{order:?}");
    }
    assert_eq!(switch.shared.fragments.waiting(), 0);
    settle(&switch);
}

#[test]
fn row_39_the_timer_is_fixed_and_tells_only_who_sent_the_first_fragment_to_us() {
    let (mut switch, c, router) = Switch::with_uplink();
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    let mut ping = packet::echo(via(&c), c.ip, gateway, true, 7, &payload(3000));
    // Not from the TTL (RFC 1122 3.3.2).
    edit::set_ttl(&mut ping[14..], 2);
    let to_us = pieces(&ping, 1, 1480);
    let beyond = pieces(&packet::udp(via(&c), c.at(1), server(2), &payload(3000)), 1, 1480);
    switch.send(&c, &to_us[0]);
    switch.send(&c, &beyond[0]);
    let other = pieces(&ping, 2, 1480);
    switch.send(&c, &other[1]);
    switch.pass(Duration::from_secs(29), Duration::from_millis(500));
    switch.send(&c, &to_us[1]);
    nothing(&c);
    assert_eq!(switch.shared.fragments.waiting(), 4);
    switch.pass(2 * SECOND, Duration::from_millis(100));
    let told = one(&c);
    let (kind, code, quoted) = icmp_error(&told);
    assert_eq!((kind, code), (11, 1));
    assert_eq!(quoted[..28], to_us[0][14..42]);
    assert_eq!((switch.drops(DropReason::FragmentTimeout), switch.shared.fragments.waiting()), (4, 0));
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_40_overlap_and_contradiction_end_the_datagram_and_a_duplicate_does_not() {
    let (mut switch, c, router) = Switch::with_uplink();
    let sent = packet::udp(via(&c), c.at(61_000), server(2), &payload(2000 - 8));
    let part = |id, from, to, more| piece(&sent, id, from, to, more);
    let mut id = 0;
    let refused =
        |switch: &Switch| switch.drops(DropReason::FragmentOverlap) + switch.drops(DropReason::BadFragment);
    for (what, vectors) in [
        ("overlap", vec![(0, 800, true), (736, 1000, true), (800, 2000, false)]),
        // As many bytes as there should be, and a hole: a sum of lengths would not notice.
        ("an overlap as long as the hole", vec![(0, 800, true), (736, 1000, true), (1064, 2000, false)]),
        ("teardrop", vec![(0, 800, true), (24, 32, false), (800, 2000, false)]),
        ("two ends", vec![(1000, 2000, false), (1000, 1992, false), (0, 800, true)]),
        ("behind the end", vec![(800, 1000, false), (1000, 1080, true), (0, 800, true)]),
        ("an odd middle", vec![(0, 801, true), (1400, 2000, false), (800, 1400, true)]),
    ] {
        for backwards in [false, true] {
            let mut vectors = vectors.clone();
            if backwards {
                vectors.reverse();
            }
            id += 1;
            let before = refused(&switch);
            for &(from, to, more) in &vectors {
                switch.send(&c, &part(id, from, to, more));
            }
            assert_eq!(refused(&switch) - before, 3, "{what}, backwards: {backwards}");
            assert_eq!(received(&router).len(), 0, "{what}, backwards: {backwards}");
        }
    }
    assert!(switch.drops(DropReason::FragmentOverlap) > 0 && switch.drops(DropReason::BadFragment) > 0);
    for (from, to, more) in
        [(0, 1480, true), (0, 1480, true), (1960, 2000, false), (1960, 2000, false), (1480, 1960, true)]
    {
        switch.send(&c, &part(1000, from, to, more));
    }
    assert_eq!(joined(&router).0.payload.len(), 1992);
    assert_eq!(switch.drops(DropReason::DuplicateFragment), 2);
    settle(&switch);
}

#[test]
fn row_41_tcp_cannot_be_smuggled_in_small_pieces() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Tcp, 80, &c, 80);
    let header = Tcp { flags: SYN, seq: 1, ack: 0 };
    for (id, from, to) in [(1, &c, server(80)), (2, &router, external(80))] {
        let src = if from.id == c.id { c.at(61_000) } else { server(61_000) };
        let syn = packet::tcp(via(from), src, to, header, b"");
        for (n, cuts) in [[(0, 8), (8, 20)], [(8, 20), (0, 8)]].iter().enumerate() {
            for &(begin, end) in cuts {
                let id = id + 10 * u16::try_from(n).unwrap();
                switch.send(from, &piece(&syn, id, begin, end, end < 20));
            }
        }
        // An overlap at offset 8 that would rewrite the flags (RFC 1858 section 4).
        let ack = packet::tcp(via(from), src, to, Tcp { flags: ACK, seq: 1, ack: 0 }, b"");
        switch.send(from, &piece(&ack, id + 100, 0, 16, true));
        switch.send(from, &piece(&syn, id + 100, 8, 20, false));
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::TinyFragment), 12);
    assert_eq!(switch.shared.conntrack.entries(switch.now).len(), 0);
    // Eight bytes do not even wait for others.
    let syn = packet::tcp(via(&c), c.at(61_000), server(80), header, b"");
    switch.send(&c, &piece(&syn, 400, 0, 8, true));
    assert_eq!((switch.drops(DropReason::TinyFragment), switch.shared.fragments.waiting()), (13, 0));
    // Sixteen bytes show the flags.
    let syn = packet::tcp(via(&c), c.at(61_000), server(80), header, &payload(8));
    for frame in pieces(&syn, 500, 16) {
        switch.send(&c, &frame);
    }
    assert_eq!(joined(&router).0.payload, payload(8));
    settle(&switch);
}

#[test]
fn row_43_the_gateway_answers_echo_of_every_size() {
    let (mut switch, c, _router) = Switch::with_uplink();
    let gateway = Ipv4Addr::new(172, 30, 0, 1);
    for to in [gateway, EXTERNAL] {
        for (id, size) in (1..).zip([1473, 1480, 2000, 2952, 2953, 9000, 65_500, 65_507]) {
            let request = packet::echo(via(&c), c.ip, to, true, 77, &payload(size));
            for frame in pieces(&request, id, 1480) {
                switch.send(&c, &frame);
            }
            let (seen, count) = joined(&c);
            assert_eq!((seen.src.ip, seen.dst, seen.ttl), (to, c.at(77), 64));
            assert!(seen.payload == payload(size), "{size}");
            assert_eq!(count, (size + 8).div_ceil(1480));
        }
    }
    settle(&switch);
}

#[test]
fn row_43_an_address_of_its_own_answers_echo_in_fragments() {
    let mut switch = Switch::new(100);
    let router = switch.add_uplink(UplinkMode::Own);
    switch.resolve(&router);
    let request = packet::echo(via(&router), SERVER, EXTERNAL, true, 5, &payload(4000));
    let parts = pieces(&request, 3, 1480);
    for frame in parts.iter().rev() {
        switch.send(&router, frame);
    }
    let (seen, count) = joined(&router);
    assert_eq!((seen.src.ip, seen.dst, seen.payload, count), (EXTERNAL, server(5), payload(4000), 3));
    settle(&switch);
}

#[test]
fn row_54_every_order_of_three_fragments_is_translated_both_ways() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.publish(Protocol::Udp, 53, &c, 5353);
    let mut sum_none = packet::udp(via(&c), c.at(61_002), server(2), &payload(3500));
    sum_none[40..42].fill(0);
    let flows = [
        (&c, packet::udp(via(&c), c.at(61_000), server(2), &payload(3500)), external(61_000), server(2)),
        (&c, sum_none, external(61_002), server(2)),
        (
            &router,
            packet::udp(via(&router), server(2), external(61_000), &payload(3500)),
            server(2),
            c.at(61_000),
        ),
        (&router, packet::udp(via(&router), server(9), external(53), &payload(3500)), server(9), c.at(5353)),
        (&c, packet::echo(via(&c), c.ip, SERVER, true, 61_003, &payload(3500)), external(61_003), server(0)),
        (
            &router,
            packet::echo(via(&router), SERVER, EXTERNAL, false, 61_003, &payload(3500)),
            server(0),
            c.at(61_003),
        ),
    ];
    for (from, sent, src, dst) in &flows {
        let to = if from.id == c.id { &router } else { &c };
        for (n, order) in (1..).zip(orders(3)) {
            let parts = pieces(sent, n, 1480);
            for &at in &order {
                nothing(to);
                switch.send(from, &parts[at]);
            }
            let (seen, count) = joined(to);
            assert_eq!((seen.src, seen.dst, seen.payload.len(), count), (*src, *dst, 3500, 3), "{order:?}");
        }
    }
    switch.send(&c, &packet::udp(via(&c), c.at(61_000), server(2), b"whole"));
    assert_eq!(read(&one(&router)).payload, b"whole", "and whole packets of the flow");
    settle(&switch);
}

#[test]
fn row_54_fragments_that_are_not_ours_are_the_hosts() {
    let (mut switch, c, router) = Switch::with_uplink();
    let sent = packet::udp(via(&router), server(2), external(53), &payload(3500));
    for frame in pieces(&sent, 1, 1480) {
        switch.send(&router, &frame);
    }
    nothing(&c);
    nothing(&router);
    assert_eq!((switch.totals().left_to_host, switch.totals().reassembled), (1, 2));
    assert_eq!(switch.totals().drops, 0);
    settle(&switch);
}

#[test]
fn row_54_a_flood_of_fragments_harms_neither_whole_packets_nor_others_fragments() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    let flood = packet::udp(via(&c), c.at(1), server(2), &payload(3000));
    let good = packet::udp(via(&d), d.at(61_000), server(2), &payload(3000));
    let whole = packet::udp(via(&c), c.at(61_001), server(2), b"whole");
    let spoofed = packet::udp(via(&router), server(2), external(61_000), &payload(3000));
    let mut parts = Vec::new();
    for n in 0..50_000_u32 {
        let id = u16::try_from(n % 65_536).unwrap();
        switch.send(&c, &piece(&flood, id, 0, 1480, true));
        // And from outside, of ever new senders.
        let mut frame = piece(&spoofed, id, 0, 1480, true);
        edit::readdress(
            &mut frame[14..],
            edit::Endpoints { src: Some(Endpoint::new(Ipv4Addr::from_bits(0x0808_0000 + n), 0)), dst: None },
        );
        switch.send(&router, &frame);
        if n % 50 == 0 {
            parts = pieces(&good, id, 1480);
        } else if let Some(part) = parts.pop() {
            switch.send(&d, &part);
            if parts.is_empty() {
                assert_eq!(joined(&router).0.payload.len(), 3000, "after {n}");
            }
        }
        if n % 64 == 60 {
            switch.send(&c, &whole);
            assert_eq!(read(&one(&router)).payload, b"whole");
        }
        switch.now += Duration::from_micros(20);
    }
    assert!(switch.shared.fragments.bytes() <= vswitchd::limits::FRAGMENT_BYTES);
    assert!(switch.shared.conntrack.entries(switch.now).len() <= 2, "no fragment makes a connection");
    settle(&switch);
    switch.pass(31 * SECOND, SECOND);
    assert_eq!((switch.shared.fragments.waiting(), switch.shared.fragments.bytes()), (0, 0));
    settle(&switch);
}

#[test]
fn row_52_fragments_go_around_by_the_external_address() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    switch.publish(Protocol::Udp, 53, &d, 5353);
    let question = packet::udp(via(&c), c.at(61_000), external(53), &payload(3000));
    for frame in pieces(&question, 1, 1480).iter().rev() {
        switch.send(&c, frame);
    }
    let (seen, count) = joined(&d);
    assert_eq!((seen.src, seen.dst, seen.payload.len(), count), (external(61_000), d.at(5353), 3000, 3));
    let answer = packet::udp(via(&d), d.at(5353), external(61_000), &payload(4000));
    for frame in pieces(&answer, 1, 1480) {
        switch.send(&d, &frame);
    }
    let (seen, _) = joined(&c);
    assert_eq!((seen.src, seen.dst, seen.payload.len()), (external(53), c.at(61_000), 4000));
    // Along: through the gateway to a neighbor, untranslated.
    let along = packet::udp(via(&c), c.at(1), d.at(2), &payload(3000));
    for frame in pieces(&along, 7, 1480) {
        switch.send(&c, &frame);
    }
    let frames = received(&d);
    assert_eq!((read(&join(&frames)).src, id_of(&frames[0])), (c.at(1), 7));
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_58_containers_with_the_same_identification_stay_apart() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    let from_c = pieces(&packet::udp(via(&c), c.at(61_000), server(2), &payload(3000)), 500, 1480);
    let from_d = pieces(&packet::udp(via(&d), d.at(61_001), server(2), &[7; 3000]), 500, 1480);
    for (a, b) in from_c.iter().zip(&from_d) {
        switch.send(&c, a);
        switch.send(&d, b);
    }
    let frames = received(&router);
    assert_eq!(frames.len(), 6);
    let (first, second) = frames.split_at(3);
    assert_ne!(id_of(&first[0]), id_of(&second[0]));
    assert_eq!((read(&join(first)).payload, read(&join(second)).payload), (payload(3000), vec![7; 3000]));
    settle(&switch);
}

#[test]
fn row_58_what_may_be_fragmented_on_the_way_has_a_number_of_its_own() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    let mut ids = std::collections::HashSet::new();
    for (from, port) in [(&c, 61_000), (&d, 61_001)] {
        let mut whole = packet::udp(via(from), from.at(port), server(2), b"may be fragmented");
        ipv4::make_whole(&mut whole[14..], 20, false, false);
        edit::set_id(&mut whole[14..], 500);
        for _ in 0..1000 {
            switch.send(from, &whole);
            let frame = one(&router);
            assert_eq!(read(&frame).src, external(port));
            assert!(ids.insert(id_of(&frame)));
        }
        // An atomic one keeps its own, however often it was seen before.
        let mut atomic = packet::udp(via(from), from.at(port), server(2), b"may not");
        edit::set_id(&mut atomic[14..], 500);
        for _ in 0..10 {
            switch.send(from, &atomic);
            assert_eq!(id_of(&one(&router)), 500);
        }
    }
    settle(&switch);
}

#[test]
fn rows_71_to_73_an_error_about_a_fragment_finds_its_connection() {
    let (mut switch, c, router) = Switch::with_uplink();
    let sent = packet::udp(via(&c), c.at(5000), server(53), &payload(3000));
    for frame in pieces(&sent, 9, 1480) {
        switch.send(&c, &frame);
    }
    let shown = received(&router).remove(0);
    // With no more than eight bytes behind the header of the first fragment, and with more.
    for quoted in [&shown[14..42], &shown[14..500]] {
        let error = Error::ReassemblyTimeout;
        switch.send(&router, &packet::icmp_error(via(&router), SERVER, EXTERNAL, error, quoted));
        let told = one(&c);
        let (kind, code, inner) = icmp_error(&told);
        let ip = Ipv4::parse_quoted(&inner).unwrap();
        assert_eq!((kind, code, ip.src, ip.dst), (11, 1, c.ip, SERVER));
        assert_eq!(inner[20..22], 5000_u16.to_be_bytes());
    }
    // About a later fragment nobody may send one, and none can be placed.
    let frames = pieces(&sent, 10, 1480);
    let error = Error::TimeExceeded;
    switch.send(&router, &packet::icmp_error(via(&router), SERVER, EXTERNAL, error, &frames[1][14..42]));
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_35_a_refused_datagram_is_told_of_once_and_with_its_first_fragment() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mut sent = packet::udp(via(&c), c.at(5000), server(53), &payload(3000));
    edit::set_ttl(&mut sent[14..], 1);
    for frame in pieces(&sent, 9, 1480) {
        switch.send(&c, &frame);
    }
    let (kind, code, quoted) = icmp_error(&one(&c));
    assert_eq!((kind, code, Ipv4::parse_quoted(&quoted).unwrap().fragment_offset), (11, 0, 0));
    nothing(&router);
    settle(&switch);
}

#[test]
fn a_datagram_waits_for_its_next_hop_as_a_whole() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.shared.publish(|snapshot| {
        let uplink = std::sync::Arc::make_mut(&mut snapshot.uplinks[0]);
        uplink.neighbors = std::sync::Arc::new(vswitchd::shared::Neighbors::of_uplink(switch.shared.epoch()));
    });
    let sent = packet::udp(via(&c), c.at(61_000), server(2), &payload(3000));
    for frame in pieces(&sent, 1, 1480) {
        switch.send(&c, &frame);
    }
    assert_eq!(one(&router)[12..14], [0x08, 0x06], "a question for the router's address");
    assert_eq!(switch.waiting(), 1);
    let macs = Macs { src: ROUTER_MAC, dst: UPLINK_MAC };
    switch.send(&router, &packet::arp(macs, 2, (ROUTER_MAC, ROUTER), (UPLINK_MAC, EXTERNAL)));
    assert_eq!(joined(&router).1, 3);
    settle(&switch);
}

#[test]
fn a_fragment_promises_nothing() {
    let (mut switch, c, router) = Switch::with_uplink();
    let part = piece(&packet::udp(via(&c), c.at(1), server(2), &payload(100)), 1, 0, 64, true);
    let partial = Offload { checksum: Checksum::Partial { start: 34, offset: 6 }, ..Offload::NONE };
    switch.send_promising(&c, &part, partial);
    assert_eq!((switch.drops(DropReason::BadOffload), switch.shared.fragments.waiting()), (1, 0));
    nothing(&router);
    settle(&switch);
}

#[test]
fn fragments_that_contradict_each_other_about_congestion_are_dropped_and_counted_once() {
    let (mut switch, c, router) = Switch::with_uplink();
    let mut parts = pieces(&packet::udp(via(&c), c.at(61_000), server(2), &payload(3000)), 1, 1480);
    parts[2][15] = 0b11;
    ipv4::make_fragment(&mut parts[2][14..], 20, 2960, false);
    for frame in &parts {
        switch.send(&c, frame);
    }
    nothing(&router);
    assert_eq!(switch.drops(DropReason::BadFragment), 3);
    settle(&switch);
}
