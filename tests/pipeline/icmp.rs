//! Section F: ICMP through the translation.

use vswitchd::table::conntrack::Info;
use vswitchd::wire::checksum::checksum;
use vswitchd::wire::edit;

use crate::*;

/// A router on the way, which is no party to any connection.
const THIRD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// Types and codes of all errors that are about a packet and not about a link.
const ERRORS: [(u8, u8); 22] = {
    let mut all = [(3, 0); 22];
    let mut code = 0;
    while code < 16 {
        all[code as usize].1 = code;
        code += 1;
    }
    all[16] = (4, 0);
    all[17] = (11, 0);
    all[18] = (11, 1);
    all[19] = (12, 0);
    all[20] = (12, 1);
    all[21] = (12, 2);
    all
};

/// An ICMP error with everything about it said: `rest` is the second half of its header.
fn error(macs: Macs, src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind.0, kind.1, 0, 0];
    message.extend(rest);
    message.extend(quoted);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet::ip(macs, src, dst, 1, &message)
}

/// What an error says, after its checksums were found right.
struct Told {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    kind: (u8, u8),
    rest: [u8; 4],
    quoted: Vec<u8>,
}

fn told(frame: &[u8]) -> Told {
    let ip = Ipv4::parse(&frame[14..]).expect("a right IP header");
    let (kind, code, quoted) = icmp_error(frame);
    let rest = frame[14 + ip.header_len + 4..][..4].try_into().unwrap();
    Told { src: ip.src, dst: ip.dst, kind: (kind, code), rest, quoted }
}

/// What a router on the way makes of a packet before it quotes it: one hop less.
fn underway(frame: &[u8]) -> Vec<u8> {
    let mut packet = frame[14..].to_vec();
    edit::decrement_ttl(&mut packet);
    packet
}

/// The packet as its sender sent it, but for the TTL that the quoted one has.
fn as_sent(frame: &[u8], quoted: &[u8]) -> Vec<u8> {
    let mut packet = frame[14..14 + quoted.len()].to_vec();
    edit::set_ttl(&mut packet, quoted[8]);
    packet
}

/// A flow through the switch: what its sender sent, and what the receiver got.
struct Flow {
    from: Station,
    sent: Vec<u8>,
    to: Station,
    got: Vec<u8>,
}

/// Everything that is translated, once in each direction.
fn flows(switch: &mut Switch, c: &Station, router: &Station) -> Vec<Flow> {
    switch.publish(Protocol::Udp, 53, c, 5353);
    switch.publish(Protocol::Tcp, 80, c, 8080);
    let syn = Tcp { flags: SYN, seq: 5, ack: 0 };
    let mut flows = Vec::new();
    let mut flow = |switch: &mut Switch, from: &Station, to: &Station, sent: Vec<u8>| {
        switch.send(from, &sent);
        let got = one(to);
        flows.push(Flow { from: from.clone(), sent, to: to.clone(), got: got.clone() });
        read(&got)
    };
    let udp = flow(switch, c, router, packet::udp(via(c), c.at(5000), server(53), b"question"));
    flow(switch, router, c, packet::udp(via(router), server(53), udp.src, b"answer"));
    flow(switch, c, router, packet::tcp(via(c), c.at(5001), server(80), syn, b""));
    let echo = flow(switch, c, router, packet::echo(via(c), c.ip, SERVER, true, 7, b"ping"));
    flow(switch, router, c, packet::echo(via(router), SERVER, EXTERNAL, false, echo.src.port, b"ping"));
    flow(switch, router, c, packet::udp(via(router), server(999), external(53), b"question"));
    flow(switch, c, router, packet::udp(via(c), c.at(5353), server(999), b"answer"));
    flow(switch, router, c, packet::tcp(via(router), server(998), external(80), syn, b""));
    let mut unsummed = packet::udp(via(c), c.at(5000), server(54), b"no checksum");
    unsummed[40..42].fill(0);
    flow(switch, c, router, unsummed);
    flows
}

fn connections(switch: &Switch) -> Vec<Info> {
    let mut all = switch.shared.conntrack.entries(switch.now);
    all.sort_by_key(|info| (info.protocol as u8, info.inside.port, info.remote.port));
    all
}

#[test]
fn row_68_the_same_identifier_from_many_containers_stays_apart() {
    let mut switch = Switch::new(10_000);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let router = switch.add_uplink(UplinkMode::Shared);
    switch.resolve(&router);
    let containers: Vec<_> = (0..250).map(|_| switch.add_port(network)).collect();
    let mut shown = Vec::new();
    for c in &containers {
        switch.resolve(c);
        switch.send(c, &packet::echo(via(c), c.ip, SERVER, true, 500, &c.ip.octets()));
        let seen = read(&one(&router));
        assert_eq!((seen.src.ip, seen.dst.ip), (EXTERNAL, SERVER));
        shown.push((seen.src.port, seen.payload));
    }
    // The answers come in another order.
    for (id, data) in shown.iter().rev() {
        switch.send(&router, &packet::echo(via(&router), SERVER, EXTERNAL, false, *id, data));
    }
    for c in &containers {
        let seen = read(&one(c));
        assert_eq!((seen.src.ip, seen.dst, seen.payload), (SERVER, c.at(500), c.ip.octets().to_vec()));
    }
    settle(&switch);
}

#[test]
fn row_68_other_queries_are_dropped_by_name() {
    let (mut switch, c, router) = Switch::with_uplink();
    // Router solicitation, timestamp, information, address mask, extended echo (RFC 8335).
    let queries = [10, 13, 15, 17, 42];
    for kind in queries {
        let message = [kind, 0, 0, 0, 0, 7, 0, 1, 0, 0, 0, 0];
        let mut frame = packet::ip(via(&c), c.ip, SERVER, 1, &message);
        let sum = checksum(&frame[34..]);
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        switch.send(&c, &frame);
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::NotTranslatable), queries.len() as u64);
    settle(&switch);
}

#[test]
fn row_69_a_query_is_remembered_for_a_minute_and_its_answers_do_not_prolong_it() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::echo(via(&c), c.ip, SERVER, true, 500, b"x"));
    let id = read(&one(&router)).src.port;
    let answer = packet::echo(via(&router), SERVER, EXTERNAL, false, id, b"x");
    for _ in 0..3 {
        switch.pass(Duration::from_millis(19_900), SECOND / 2);
        switch.resolve(&c);
        switch.send(&router, &answer);
        assert_eq!(read(&one(&c)).dst, c.at(500), "RFC 5508 REQ-2: at least 60 seconds");
    }
    switch.pass(4 * SECOND, SECOND);
    switch.send(&router, &answer);
    nothing(&c);
    assert_eq!(connections(&switch), []);
    // It can be set while the switch runs.
    switch.shared.publish(|snapshot| assert!(snapshot.timeouts.set("icmp", 5 * SECOND)));
    switch.send(&c, &packet::echo(via(&c), c.ip, SERVER, true, 501, b"x"));
    switch.pass(9 * SECOND, SECOND);
    assert_eq!(connections(&switch), []);
    settle(&switch);
}

#[test]
fn row_70_what_is_checked_of_an_error_and_what_is_not() {
    let (mut switch, c, router) = Switch::with_uplink();
    let sent = packet::udp(via(&c), c.at(5000), server(53), b"question");
    switch.send(&c, &sent);
    let about = underway(&one(&router));
    let good = error(via(&router), THIRD, EXTERNAL, (11, 0), [0; 4], &about);
    // Vector 1: the message's checksum is wrong. Vector 2: the quoted header's is.
    let mut bad_message = good.clone();
    bad_message[37] ^= 1;
    let mut quoted = about.clone();
    quoted[10] ^= 1;
    let bad_quote = error(via(&router), THIRD, EXTERNAL, (11, 0), [0; 4], &quoted);
    for bad in [bad_message, bad_quote] {
        switch.send(&router, &bad);
        nothing(&c);
    }
    assert_eq!(switch.drops(DropReason::BadIcmp), 2);
    // Vector 3: the quoted transport's checksum is wrong, and stays as wrong as it is.
    let mut quoted = about.clone();
    quoted[26] ^= 1;
    switch.send(&router, &error(via(&router), THIRD, EXTERNAL, (11, 0), [0; 4], &quoted));
    let told_so = told(&one(&c)).quoted;
    let sum_in = |packet: &[u8]| u32::from(packet[26]) << 8 | u32::from(packet[27]);
    let wrong_by = |wrong: &[u8], right: &[u8]| (sum_in(wrong) + 0xffff - sum_in(right)) % 0xffff;
    assert_eq!(wrong_by(&told_so, &sent[14..]), wrong_by(&quoted, &about));
    assert_eq!(told_so[28..], sent[42..]);
    // Vector 4: the good one.
    switch.send(&router, &good);
    assert_eq!(told(&one(&c)).quoted, as_sent(&sent, &about));
    settle(&switch);
}

#[test]
fn row_70_a_containers_error_is_checked_as_well() {
    let (mut switch, c, router) = Switch::with_uplink();
    switch.send(&c, &packet::udp(via(&c), c.at(5000), server(53), b"question"));
    let shown = read(&one(&router)).src;
    switch.send(&router, &packet::udp(via(&router), server(53), shown, b"answer"));
    let about = one(&c)[14..].to_vec();
    let good = error(via(&c), c.ip, SERVER, (3, 3), [0; 4], &about);
    let mut bad_message = good.clone();
    bad_message[37] ^= 1;
    let mut quoted = about.clone();
    quoted[10] ^= 1;
    let bad_quote = error(via(&c), c.ip, SERVER, (3, 3), [0; 4], &quoted);
    for bad in [bad_message, bad_quote] {
        switch.send(&c, &bad);
    }
    nothing(&router);
    assert_eq!(switch.drops(DropReason::BadIcmp), 2);
    switch.send(&c, &good);
    assert_eq!(told(&one(&router)).src, EXTERNAL);
    settle(&switch);
}

#[test]
fn row_70_quoted_options_are_skipped() {
    let (mut switch, c, router) = Switch::with_uplink();
    // Router alert and record route, 12 bytes.
    let options = [148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0];
    for sent in [
        packet::udp(via(&c), c.at(5000), server(53), b"question"),
        packet::tcp(via(&c), c.at(5000), server(53), Tcp { flags: SYN, ..Tcp::default() }, b""),
        packet::echo(via(&c), c.ip, SERVER, true, 500, b"x"),
    ] {
        let mut sent = [&sent[..34], &options, &sent[34..]].concat();
        sent[14] = 0x48;
        sent[17] += 12;
        sent[24..26].fill(0);
        let sum = checksum(&sent[14..46]);
        sent[24..26].copy_from_slice(&sum.to_be_bytes());
        switch.send(&c, &sent);
        let about = underway(&one(&router));
        switch.send(&router, &error(via(&router), THIRD, EXTERNAL, (12, 0), [20, 0, 0, 0], &about));
        let told = told(&one(&c));
        assert_eq!((told.rest, told.quoted), ([20, 0, 0, 0], as_sent(&sent, &about)));
    }
    settle(&switch);
}

#[test]
fn row_70_extensions_are_kept_as_they_are() {
    let (mut switch, c, router) = Switch::with_uplink();
    // RFC 4884 section 7: an extension structure with an object, here an MPLS label stack (RFC 4950).
    let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 0x01, 0x40];
    let sum = checksum(&extension);
    extension[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = Tcp { flags: SYN, seq: 77, ack: 0 };
    for sent in [
        packet::udp(via(&c), c.at(5000), server(53), b"question"),
        packet::tcp(via(&c), c.at(5000), server(53), header, &[7; 300]),
        packet::echo(via(&c), c.ip, SERVER, true, 500, b"x"),
    ] {
        switch.send(&c, &sent);
        let about = underway(&one(&router));
        // The quote cut to 128 bytes, to the 8 that are owed and then padded, and to those without padding.
        for (len, padded) in [(128, 128), (28, 128), (28, 28), (36, 36)] {
            let len = len.min(about.len());
            let mut quoted = about[..len].to_vec();
            quoted.resize(padded, 0);
            let words = u8::try_from(padded / 4).unwrap();
            let with_extension = [&quoted[..], &extension].concat();
            for kind in [(3, 1), (11, 0), (12, 0)] {
                let rest = [0, words, 0, 0];
                switch.send(&router, &error(via(&router), THIRD, EXTERNAL, kind, rest, &with_extension));
                let told = told(&one(&c));
                assert_eq!((told.kind, told.rest), (kind, rest), "the length is kept");
                assert_eq!(told.quoted[..len], as_sent(&sent, &about[..len]), "{len} of {padded}, {kind:?}");
                assert_eq!(told.quoted[len..], with_extension[len..], "what follows is not touched");
            }
        }
    }
    settle(&switch);
}

#[test]
fn row_71_an_inbound_error_quotes_what_the_container_sent() {
    let (mut switch, c, router) = Switch::with_uplink();
    for flow in flows(&mut switch, &c, &router) {
        let Flow { from, sent, to, got } = flow;
        if to.id != router.id {
            continue;
        }
        let about = underway(&got);
        for (n, kind) in (1..).zip(ERRORS) {
            // From the next hop, from the peer, from a router that is no party.
            let src = [ROUTER, SERVER, THIRD][usize::from(n % 3)];
            let rest = [0, 0, 5, n];
            switch.send(&router, &error(via(&router), src, EXTERNAL, kind, rest, &about));
            let told = told(&one(&from));
            assert_eq!((told.src, told.dst, told.kind, told.rest), (src, c.ip, kind, rest));
            assert_eq!(told.quoted, as_sent(&sent, &about), "{kind:?}");
        }
    }
    nothing(&router);
    settle(&switch);
}

#[test]
fn row_72_an_outbound_error_quotes_what_the_world_sent() {
    let (mut switch, c, router) = Switch::with_uplink();
    for flow in flows(&mut switch, &c, &router) {
        let Flow { from, sent, to, got } = flow;
        if to.id != c.id {
            continue;
        }
        let about = underway(&got);
        for (n, kind) in (1..).zip(ERRORS) {
            // From the container, and from a router and a host behind it, whose addresses nobody outside sees.
            let src = [c.ip, Ipv4Addr::new(10, 5, 0, 9), THIRD][usize::from(n % 3)];
            let rest = [0, 0, 5, n];
            switch.send(&c, &error(via(&c), src, SERVER, kind, rest, &about));
            let told = told(&one(&from));
            assert_eq!((told.src, told.dst, told.kind, told.rest), (EXTERNAL, SERVER, kind, rest));
            assert_eq!(told.quoted, as_sent(&sent, &about), "{kind:?}");
        }
    }
    nothing(&c);
    settle(&switch);
}

#[test]
fn row_72_nobody_speaks_about_the_connections_of_another() {
    let (mut switch, c, router) = Switch::with_uplink();
    let network = switch.shared.snapshot().networks[0].as_ref().unwrap().id;
    let d = switch.add_port(network);
    let about: Vec<_> =
        flows(&mut switch, &c, &router).into_iter().filter(|flow| flow.to.id == c.id).collect();
    for flow in &about {
        for src in [d.ip, THIRD] {
            switch.send(&d, &error(via(&d), src, SERVER, (3, 3), [0; 4], &flow.got[14..]));
        }
        // Nor as the gateway, as the host, or as somebody that cannot be; and errors go to whom they quote.
        for src in [Ipv4Addr::new(172, 30, 0, 1), EXTERNAL, Ipv4Addr::LOCALHOST] {
            switch.send(&c, &error(via(&c), src, SERVER, (3, 3), [0; 4], &flow.got[14..]));
        }
        switch.send(&c, &error(via(&c), c.ip, THIRD, (3, 3), [0; 4], &flow.got[14..]));
    }
    // A stranger's address is let through with an error, and with nothing else.
    let stranger = Endpoint::new(Ipv4Addr::new(10, 5, 0, 9), 5353);
    switch.send(&c, &packet::udp(via(&c), stranger, server(999), b"x"));
    switch.send(&c, &packet::echo(via(&c), stranger.ip, SERVER, true, 7, b"x"));
    [&c, &d, &router].into_iter().for_each(nothing);
    let count = about.len() as u64;
    assert_eq!(switch.drops(DropReason::IcmpErrorUnmatched), 3 * count);
    assert_eq!(switch.drops(DropReason::SpoofedGateway), count);
    assert_eq!(switch.drops(DropReason::ForeignSource), count + 2);
    settle(&switch);
}

#[test]
fn row_73_eight_bytes_are_enough() {
    let (mut switch, c, router) = Switch::with_uplink();
    for Flow { from, sent, to, got } in flows(&mut switch, &c, &router) {
        let about = underway(&got);
        let (src, dst) = if to.id == c.id { (c.ip, SERVER) } else { (THIRD, EXTERNAL) };
        for len in [28, 29, 36, 38, 40] {
            let about = &about[..len.min(about.len())];
            switch.send(&to, &error(via(&to), src, dst, (11, 0), [0; 4], about));
            assert_eq!(told(&one(&from)).quoted, as_sent(&sent, about), "{len} bytes");
        }
        // One byte less tells too little.
        switch.send(&to, &error(via(&to), src, dst, (11, 0), [0; 4], &about[..27]));
        nothing(&from);
    }
    settle(&switch);
}

#[test]
fn row_73_a_quoted_first_fragment_tells_the_ports_and_a_later_one_does_not() {
    let (mut switch, c, router) = Switch::with_uplink();
    for Flow { from, sent, to, got } in flows(&mut switch, &c, &router) {
        let (src, dst) = if to.id == c.id { (c.ip, SERVER) } else { (THIRD, EXTERNAL) };
        let quoted = |fragment: [u8; 2]| {
            let mut about = underway(&got);
            about[6..8].copy_from_slice(&fragment);
            about[10..12].fill(0);
            let sum = checksum(&about[..20]);
            about[10..12].copy_from_slice(&sum.to_be_bytes());
            about
        };
        let first = quoted([0x20, 0]);
        switch.send(&to, &error(via(&to), src, dst, (11, 1), [0; 4], &first));
        let told = told(&one(&from));
        let inner = Ipv4::parse_quoted(&told.quoted).expect("a right inner checksum");
        assert!(inner.is_fragment && inner.fragment_offset == 0);
        assert_eq!(told.quoted[12..], as_sent(&sent, &first)[12..]);
        for fragment in [[0x20, 1], [0, 185]] {
            switch.send(&to, &error(via(&to), src, dst, (11, 0), [0; 4], &quoted(fragment)));
            nothing(&from);
        }
    }
    settle(&switch);
}

#[test]
fn row_74_errors_change_nothing_about_a_connection() {
    let (mut switch, c, router) = Switch::with_uplink();
    let flows = flows(&mut switch, &c, &router);
    switch.pass(3 * SECOND, SECOND);
    let before = connections(&switch);
    for Flow { from, to, got, .. } in &flows {
        let (src, dst) = if to.id == c.id { (c.ip, SERVER) } else { (THIRD, EXTERNAL) };
        for kind in ERRORS {
            switch.send(to, &error(via(to), src, dst, kind, [0; 4], &underway(got)));
            one(from);
        }
    }
    assert_eq!(connections(&switch), before, "state, time, counters");
    settle(&switch);
}

#[test]
fn row_74_an_error_about_nothing_that_we_know_goes_nowhere() {
    let (mut switch, c, router) = Switch::with_uplink();
    flows(&mut switch, &c, &router);
    let before = connections(&switch);
    let strangers = [
        packet::udp(via(&c), external(62_345), server(53), b"x"),
        packet::tcp(via(&c), external(62_345), server(80), Tcp { flags: ACK, ..Tcp::default() }, b"x"),
        packet::echo(via(&c), EXTERNAL, SERVER, true, 62_345, b"x"),
        packet::udp(via(&c), external(53), server(1), b"published, but nobody asked"),
        packet::ip(via(&c), EXTERNAL, SERVER, 47, &[0; 20]),
    ];
    for stranger in &strangers {
        switch.send(&router, &error(via(&router), THIRD, EXTERNAL, (3, 1), [0; 4], &stranger[14..]));
    }
    for stranger in [
        packet::udp(via(&c), server(53), c.at(62_345), b"x"),
        packet::echo(via(&c), SERVER, c.ip, true, 62_345, b"x"),
    ] {
        switch.send(&c, &error(via(&c), c.ip, SERVER, (3, 1), [0; 4], &stranger[14..]));
    }
    nothing(&c);
    nothing(&router);
    assert_eq!(connections(&switch), before);
    // In the range that the host cannot use, it is our error; the rest may be the host's.
    assert_eq!(switch.drops(DropReason::IcmpErrorUnmatched), 2 + 2);
    assert_eq!(switch.totals().left_to_host, 3);
    settle(&switch);
}

#[test]
fn row_74_a_redirect_is_not_for_another_link() {
    let (mut switch, c, router) = Switch::with_uplink();
    for Flow { to, got, .. } in flows(&mut switch, &c, &router) {
        let (src, dst) = if to.id == c.id { (c.ip, SERVER) } else { (ROUTER, EXTERNAL) };
        switch.send(&to, &error(via(&to), src, dst, (5, 1), [192, 0, 2, 77], &got[14..]));
    }
    nothing(&c);
    nothing(&router);
    settle(&switch);
}

/// Two containers; the first one publishes UDP port 53, and the second one has asked there.
fn hairpin() -> (Switch, Station, Station, Flow) {
    let (mut switch, c, _router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    switch.publish(Protocol::Udp, 53, &c, 5353);
    let sent = packet::udp(via(&d), d.at(5000), external(53), b"question");
    switch.send(&d, &sent);
    let got = one(&c);
    let flow = Flow { from: d.clone(), sent, to: c.clone(), got };
    (switch, c, d, flow)
}

#[test]
fn row_75_hairpinned_errors_are_translated_twice() {
    let (mut switch, c, d, Flow { sent, got, .. }) = hairpin();
    // From who was asked.
    let about = underway(&got);
    for kind in [(3, 3), (3, 4), (11, 1)] {
        switch.send(&c, &error(via(&c), c.ip, EXTERNAL, kind, [0, 0, 5, 0], &about));
        let told = told(&one(&d));
        assert_eq!((told.src, told.dst, told.kind, told.rest), (EXTERNAL, d.ip, kind, [0, 0, 5, 0]));
        assert_eq!(told.quoted, as_sent(&sent, &about));
    }
    // From who asked, about the answer.
    let answer = packet::udp(via(&c), c.at(5353), read(&got).src, b"answer");
    switch.send(&c, &answer);
    let about = underway(&one(&d));
    switch.send(&d, &error(via(&d), d.ip, EXTERNAL, (3, 3), [0; 4], &about));
    let told = told(&one(&c));
    assert_eq!((told.src, told.dst), (EXTERNAL, c.ip));
    assert_eq!(told.quoted, as_sent(&answer, &about));
    settle(&switch);
}

#[test]
fn row_75_who_is_reached_by_its_own_mapping_speaks_about_a_hairpin_too() {
    let (mut switch, c, router) = Switch::with_uplink();
    let d = neighbor(&mut switch);
    switch.send(&c, &packet::udp(via(&c), c.at(2000), server(53), b"x"));
    let shown = read(&one(&router)).src;
    let sent = packet::udp(via(&d), d.at(5000), shown, b"question");
    switch.send(&d, &sent);
    let about = underway(&one(&c));
    switch.send(&c, &error(via(&c), c.ip, EXTERNAL, (3, 3), [0; 4], &about));
    let told = told(&one(&d));
    assert_eq!((told.src, told.dst, told.kind), (EXTERNAL, d.ip, (3, 3)));
    assert_eq!(told.quoted, as_sent(&sent, &about));
    settle(&switch);
}

#[test]
fn row_75_nobody_else_speaks_about_a_hairpin() {
    let (mut switch, c, d, Flow { got, .. }) = hairpin();
    switch.send(&d, &error(via(&d), d.ip, EXTERNAL, (3, 3), [0; 4], &got[14..]));
    nothing(&c);
    nothing(&d);
    assert_eq!(switch.drops(DropReason::IcmpErrorUnmatched), 1);
    settle(&switch);
}

#[test]
fn row_75_who_is_refused_for_want_of_resources_is_told() {
    // Two shards of one connection each; a second one may still find room in the other.
    let mut switch = Switch::new(2);
    let network = switch.add_network("172.30.0.0/16".parse().unwrap(), NetworkMode::Nat);
    let router = switch.add_uplink(UplinkMode::Shared);
    let c = switch.add_port(network);
    [&c, &router].into_iter().for_each(|station| switch.resolve(station));
    for port in 1..=20 {
        let sent = packet::udp(via(&c), c.at(port), server(53), b"x");
        switch.send(&c, &sent);
        if received(&router).is_empty() {
            let told = told(&one(&c));
            assert_eq!((told.src, told.kind), (Ipv4Addr::new(172, 30, 0, 1), (3, 13)));
            assert_eq!(told.quoted, sent[14..]);
        }
    }
    assert!(switch.drops(DropReason::ConntrackFull) >= 18);
    settle(&switch);
}
