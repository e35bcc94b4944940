//! Section E: TCP.

use crate::*;

#[test]
fn row_61_an_unsolicited_syn_finds_silence() {
    let (mut switch, c, router) = Switch::with_uplink();
    let syn = Tcp { flags: SYN, ..Tcp::default() };
    switch.send(&router, &packet::tcp(via(&router), server(80), external(62_000), syn, b""));
    nothing(&c);
    nothing(&router);
    assert_eq!(switch.drops(DropReason::Unsolicited), 1);
    switch.send(&router, &packet::tcp(via(&router), server(80), external(22), syn, b""));
    assert_eq!(switch.totals().left_to_host, 1, "port 22 is the host's");
    settle(&switch);
}

/// A container's connection to a server, segment by segment.
struct Pair {
    switch: Switch,
    c: Station,
    router: Station,
    shown: Endpoint,
}

impl Pair {
    /// Before the first segment. The container's port is kept.
    fn new() -> Pair {
        let (switch, c, router) = Switch::with_uplink();
        Pair { switch, c, router, shown: external(62_000) }
    }

    fn established() -> Pair {
        let mut pair = Pair::new();
        assert!(
            pair.out(SYN, 100, 0, b"") && pair.back(SYN | ACK, 500, 101, b"") && pair.out(ACK, 101, 501, b"")
        );
        assert_eq!(pair.state(), "ESTABLISHED");
        pair
    }

    /// From the container. Says whether it arrived, unchanged but for its endpoints.
    fn out(&mut self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> bool {
        let frame = packet::tcp(via(&self.c), self.c.at(62_000), server(80), Tcp { flags, seq, ack }, data);
        self.switch.resolve(&self.router);
        self.switch.send(&self.c, &frame);
        arrived(&self.router, &frame, self.shown, server(80))
    }

    /// From the server.
    fn back(&mut self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> bool {
        let frame = packet::tcp(via(&self.router), server(80), self.shown, Tcp { flags, seq, ack }, data);
        self.switch.resolve(&self.c);
        self.switch.send(&self.router, &frame);
        arrived(&self.c, &frame, server(80), self.c.at(62_000))
    }

    fn state(&self) -> &'static str {
        let entries = self.switch.shared.conntrack.entries(self.switch.now);
        entries.first().map_or("NONE", |info| info.state)
    }

    fn pass(&mut self, seconds: u32) {
        self.switch.pass(seconds * SECOND, SECOND);
    }
}

fn arrived(at: &Station, sent: &[u8], src: Endpoint, dst: Endpoint) -> bool {
    let Some(frame) = received(at).pop() else { return false };
    let seen = read(&frame);
    assert_eq!((seen.src, seen.dst), (src, dst));
    assert_eq!((&frame[38..50], &frame[52..]), (&sent[38..50], &sent[52..]), "numbers, options, data");
    true
}

#[test]
fn row_59_a_simultaneous_open_is_a_connection() {
    let mut pair = Pair::new();
    assert!(pair.out(SYN, 100, 0, b""));
    assert!(pair.back(SYN, 500, 0, b""));
    assert!(pair.out(SYN | ACK, 100, 501, b""));
    assert!(pair.back(SYN | ACK, 500, 101, b""));
    assert_eq!(pair.state(), "ESTABLISHED");
    pair.pass(7400);
    assert!(pair.back(ACK, 501, 101, b"data") && pair.out(FIN | ACK, 101, 505, b""));
    assert!(
        pair.back(ACK, 505, 102, b"") && pair.back(FIN | ACK, 505, 102, b"") && pair.out(ACK, 102, 506, b"")
    );
    assert_eq!(pair.state(), "TIME_WAIT");
    settle(&pair.switch);
}

#[test]
fn row_60_idle_connections_live_as_long_as_they_must() {
    // Established, half open, half closed, closed; at the defaults and shortened.
    for (established, transitory, set) in [(7440, 240, false), (30, 10, true)] {
        for (step, expected) in
            [(0, transitory), (1, transitory), (2, established), (3, transitory), (4, transitory)]
        {
            let mut pair = Pair::new();
            if set {
                pair.switch.shared.publish(|snapshot| {
                    snapshot.timeouts.tcp_established = established * SECOND;
                    snapshot.timeouts.tcp_transitory = transitory * SECOND;
                });
            }
            let story: [&dyn Fn(&mut Pair) -> bool; 5] = [
                &|pair| pair.out(SYN, 100, 0, b""),
                &|pair| pair.back(SYN | ACK, 500, 101, b""),
                &|pair| pair.out(ACK, 101, 501, b""),
                &|pair| pair.out(FIN | ACK, 101, 501, b""),
                &|pair| pair.back(FIN | ACK, 501, 102, b""),
            ];
            assert!(story.iter().take(step + 1).all(|segment| segment(&mut pair)));
            pair.pass(expected - 1);
            assert_ne!(pair.state(), "NONE", "step {step} after {} s", expected - 1);
            pair.pass(3);
            assert_eq!(pair.state(), "NONE", "step {step} after {} s", expected + 2);
            settle(&pair.switch);
        }
    }
}

#[test]
fn row_61_a_syn_of_the_container_after_a_silent_one_opens_simultaneously() {
    let mut pair = Pair::new();
    assert!(!pair.back(SYN, 500, 0, b""), "silence");
    for _ in 0..6 {
        pair.pass(1);
        nothing(&pair.router);
    }
    assert!(pair.out(SYN, 100, 0, b""));
    assert!(pair.back(SYN, 500, 0, b""), "the same SYN again is a simultaneous open now");
    assert!(pair.out(SYN | ACK, 100, 501, b"") && pair.back(ACK, 501, 101, b""));
    assert_eq!(pair.state(), "ESTABLISHED");
    settle(&pair.switch);
}

#[test]
fn row_62_after_a_reset_the_session_stays_four_minutes_and_passes_data() {
    let mut pair = Pair::established();
    assert!(pair.back(RST, 501, 0, b""), "it is translated");
    assert_eq!(pair.state(), "CLOSED");
    pair.pass(200);
    assert!(pair.out(ACK, 101, 501, b"data") && pair.back(ACK, 501, 105, b"data"));
    assert_eq!(pair.state(), "ESTABLISHED", "the server never reset it");
    assert!(pair.out(RST, 105, 0, b""));
    pair.pass(238);
    assert!(pair.back(ACK, 505, 105, b"late"));
    pair.pass(4);
    assert_eq!(pair.state(), "NONE", "what comes in does not keep it");
    settle(&pair.switch);
}

#[test]
fn row_63_only_an_exact_reset_closes() {
    for (inward, exact) in [(true, 501), (false, 101)] {
        let mut pair = Pair::established();
        let reset = |pair: &mut Pair, seq: u32| {
            if inward { pair.back(RST, seq, 0, b"") } else { pair.out(RST, seq, 0, b"") }
        };
        for seq in [exact + 1, exact - 1, exact + 30_000, 0] {
            assert!(reset(&mut pair, seq), "the endpoint judges it for itself");
            assert_eq!(pair.state(), "ESTABLISHED", "{seq}");
        }
        assert!(pair.out(ACK, 101, 501, b"") && pair.back(ACK, 501, 101, b""));
        pair.pass(7400);
        assert_eq!(pair.state(), "ESTABLISHED");
        assert!(reset(&mut pair, exact));
        assert_eq!(pair.state(), "CLOSED");
        settle(&pair.switch);
    }
}

#[test]
fn row_64_odd_segments_of_a_connection_are_the_endpoints_business() {
    let mut pair = Pair::established();
    assert!(pair.out(ACK, 101, 501, b"0123456789") && pair.back(ACK, 501, 111, b""));
    assert!(pair.out(ACK, 101, 501, b"0123456789"), "old data again");
    assert!(pair.back(RST, 400, 0, b""), "a late reset");
    // The container has forgotten it: its SYN is answered by a challenge (RFC 5961 4), that by a reset.
    assert!(pair.out(SYN, 9000, 0, b""));
    assert_eq!(pair.state(), "ESTABLISHED");
    assert!(pair.back(ACK, 501, 111, b""));
    assert!(pair.out(RST, 111, 0, b""));
    assert_eq!(pair.state(), "CLOSED");
    assert!(
        pair.out(SYN, 9000, 0, b"") && pair.back(SYN | ACK, 700, 9001, b"") && pair.out(ACK, 9001, 701, b"")
    );
    assert_eq!(pair.state(), "ESTABLISHED");
    settle(&pair.switch);
}

#[test]
fn row_65_a_closed_connection_opens_anew_by_syns_of_both_sides_only() {
    for inside_first in [true, false] {
        let mut pair = Pair::established();
        assert!(pair.out(FIN | ACK, 101, 501, b"") && pair.back(FIN | ACK, 501, 102, b""));
        assert!(pair.out(ACK, 102, 502, b""));
        assert_eq!(pair.state(), "TIME_WAIT");
        pair.pass(100);
        let alone = if inside_first { pair.out(SYN, 9000, 0, b"") } else { pair.back(SYN, 9000, 0, b"") };
        assert!(alone, "it passes");
        assert_eq!(pair.state(), "TIME_WAIT", "and opens nothing");
        if inside_first {
            assert!(pair.back(SYN | ACK, 800, 9001, b"") && pair.out(ACK, 9001, 801, b""));
        } else {
            assert!(pair.out(SYN | ACK, 800, 9001, b"") && pair.back(ACK, 9001, 801, b""));
        }
        assert_eq!(pair.state(), "ESTABLISHED");
        pair.pass(7400);
        assert_eq!(pair.state(), "ESTABLISHED");
        settle(&pair.switch);
    }
    let mut pair = Pair::established();
    assert!(pair.out(FIN | ACK, 101, 501, b"") && pair.back(FIN | ACK, 501, 102, b""));
    for _ in 0..5 {
        pair.pass(48);
        pair.back(SYN, 9000, 0, b"");
    }
    pair.pass(3);
    assert_eq!(pair.state(), "NONE", "outsiders do not keep it");
    settle(&pair.switch);
}

#[test]
fn row_66_options_pass_untouched() {
    let mut pair = Pair::new();
    // MSS 1460, SACK permitted, timestamps, window scale 7; an unknown one; then SACK blocks.
    let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let odd = [254, 6, 0xab, 0xcd, 9, 9, 1, 1];
    let sack = [1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 9];
    for (flags, options) in [(SYN, &syn[..]), (SYN, &odd[..]), (ACK, &sack[..]), (ACK | FIN, &syn[..])] {
        let header = Tcp { flags, seq: 100, ack: 0 };
        let mut frame = packet::tcp(via(&pair.c), pair.c.at(62_000), server(80), header, options);
        frame[46] = u8::try_from(5 + options.len() / 4).unwrap() << 4;
        frame[50..52].copy_from_slice(&[0, 0]);
        let (sum, len) = (vswitchd::wire::checksum::sum(&frame[34..]), frame.len() - 34);
        let pseudo = vswitchd::wire::checksum::pseudo_header(pair.c.ip, SERVER, 6, len);
        frame[50..52].copy_from_slice(&(!vswitchd::wire::checksum::fold(sum + pseudo)).to_be_bytes());
        pair.switch.send(&pair.c, &frame);
        assert!(arrived(&pair.router, &frame, pair.shown, server(80)));
    }
    settle(&pair.switch);
}

#[test]
fn row_67_no_payload_is_rewritten() {
    let own = "172.30.0.3";
    let payloads = [
        "PORT 172,30,0,3,200,10\r\n".to_owned(),
        format!("227 Entering Passive Mode ({})\r\n", own.replace('.', ",")),
        format!(
            "INVITE sip:a@b SIP/2.0\r\nContact: <sip:me@{own}:5060>\r\nc=IN IP4 {own}\r\nm=audio 4000 RTP/AVP 0\r\n"
        ),
        "\u{3}\0\0\u{30}\u{8}\u{2} H.225 setup".to_owned(),
    ];
    for (port, payload) in [21, 21, 5060, 1720].into_iter().zip(payloads) {
        let mut pair = Pair::established();
        assert!(pair.out(ACK, 101, 501, payload.as_bytes()) && pair.back(ACK, 501, 101, payload.as_bytes()));
        let datagram = packet::udp(via(&pair.c), pair.c.at(port), server(port), payload.as_bytes());
        pair.switch.send(&pair.c, &datagram);
        assert_eq!(read(&one(&pair.router)).payload, payload.as_bytes());
        let syn = Tcp { flags: SYN, ..Tcp::default() };
        pair.switch.send(&pair.c, &packet::tcp(via(&pair.c), pair.c.at(port), server(port), syn, b""));
        let shown = read(&one(&pair.router)).src;
        let ack = Tcp { flags: ACK, seq: 1, ack: 1 };
        pair.switch.send(
            &pair.c,
            &packet::tcp(via(&pair.c), pair.c.at(port), server(port), ack, payload.as_bytes()),
        );
        let seen = read(&one(&pair.router));
        assert_eq!((seen.src, seen.payload), (shown, payload.into_bytes()));
        settle(&pair.switch);
    }
}
