//! The seeds of the fuzz targets: small inputs that reach far.
//!
//! They are committed as files, because that is what the fuzzer reads, and made here, because hexadecimal
//! is not what people read. `UPDATE_SEEDS=1 cargo test --test fuzz_seeds` writes the files anew.

#![allow(unreachable_pub, clippy::unwrap_used)]

use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, SERVER, Station};
use vswitchd::wire::icmpv4::Error;
use vswitchd::wire::transport::{ACK, FIN, RST, SYN};
use vswitchd::wire::{checksum, ethernet, ipv4};

use crate::bodies::coalesce::RAW;
use crate::bodies::config::NEXT;
use crate::bodies::dhcp::{ANSWER, ANSWER_RAW, ASK, ASK_RAW, TIME as SECONDS};
use crate::bodies::networks::{DEFAULT, FLUSH, HEALTH, RULES, SECURITY, SERVE, Site, UPLINK};
use crate::bodies::speech::{Say, say};
use crate::bodies::switch::{REPAIR, TIME, World};

/// A seed: its name and what is in it.
pub type Seed = (&'static str, Vec<u8>);

/// The seeds of each target.
pub fn all() -> Vec<(&'static str, Vec<Seed>)> {
    vec![
        ("wire", wire()),
        ("switch", switch()),
        ("networks", networks()),
        ("conntrack", conntrack()),
        ("control", control()),
        ("coalesce", coalesce()),
        ("config", config()),
        ("dhcp", dhcp()),
        ("dns", dns()),
    ]
}

/// Where a packet comes from and goes to.
#[derive(Clone, Copy)]
struct Way {
    macs: Macs,
    src: Endpoint,
    dst: Endpoint,
}

impl Way {
    /// From a station to somewhere, by its gateway. The source port is in the external range, so that
    /// masquerading keeps it.
    fn out(station: &Station, dst: Endpoint) -> Way {
        let macs = Macs { src: station.mac, dst: station.gateway_mac };
        Way { macs, src: station.at(61_000 + station.id.0), dst }
    }

    /// From one station to another on its network.
    fn across(from: &Station, to: &Station) -> Way {
        Way { macs: Macs { src: from.mac, dst: to.mac }, src: from.at(40_000), dst: to.at(7) }
    }

    /// From the server, by the router, to a port of the uplink.
    fn inward(router: &Station, port: u16) -> Way {
        let macs = Macs { src: router.mac, dst: router.gateway_mac };
        Way { macs, src: Endpoint::new(SERVER, 443), dst: Endpoint::new(EXTERNAL, port) }
    }

    fn broadcast(self) -> Way {
        Way { macs: Macs { dst: MacAddr::BROADCAST, ..self.macs }, ..self }
    }

    fn udp(self, payload: &[u8]) -> Vec<u8> {
        packet::udp(self.macs, self.src, self.dst, payload)
    }

    fn tcp(self, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
        packet::tcp(self.macs, self.src, self.dst, Tcp { seq, ack, flags }, payload)
    }

    fn ping(self) -> Vec<u8> {
        packet::echo(self.macs, self.src.ip, self.dst.ip, true, self.src.port, b"abcdefgh")
    }

    /// An ICMP error about `about`, a frame.
    fn error(self, error: Error, about: &[u8]) -> Vec<u8> {
        packet::icmp_error(self.macs, self.src.ip, self.dst.ip, error, &about[ethernet::HEADER_LEN..])
    }

    fn arp(self, operation: u8) -> Vec<u8> {
        packet::arp(self.macs, operation, (self.macs.src, self.src.ip), (self.macs.dst, self.dst.ip))
    }
}

fn wire() -> Vec<Seed> {
    let World { stations, .. } = World::new();
    let out = Way::out(&stations[1], Endpoint::new(SERVER, 80));
    let back = Way::inward(&stations[0], 61_001);
    let syn = out.tcp(SYN, 1_000, 0, &[]);
    let datagram = out.udp(b"hello");
    vec![
        ("arp-request", out.broadcast().arp(1)),
        ("arp-reply", back.arp(2)),
        ("tcp-syn", syn.clone()),
        ("tcp-data", out.tcp(ACK, 1_001, 2_000, b"GET / HTTP/1.0\r\n\r\n")),
        ("tcp-rst", out.tcp(RST | ACK, 1_001, 2_000, &[])),
        ("tcp-header-too-long", with_byte(syn.clone(), 46, 0xf0)),
        ("tcp-cut", with_byte(cut(syn.clone(), 44), 17, 30)),
        ("udp", datagram.clone()),
        ("udp-without-checksum", [&datagram[..40], &[0, 0], &datagram[42..]].concat()),
        ("udp-length-too-long", with_byte(datagram.clone(), 39, 200)),
        ("udp-trailing-bytes", [&datagram[..], &[0xaa; 18]].concat()),
        ("udp-first-fragment", with_byte(datagram.clone(), 20, 0x20)),
        ("udp-later-fragment", with_byte(datagram.clone(), 21, 0x03)),
        ("echo-request", out.ping()),
        ("time-exceeded", back.error(Error::TimeExceeded, &datagram)),
        ("fragmentation-needed", back.error(Error::FragmentationNeeded { mtu: 1_280 }, &syn)),
        ("source-route", source_routed(&datagram)),
        ("vlan", tagged(&datagram, &[ethernet::VLAN])),
        ("vlan-in-vlan", tagged(&datagram, &[ethernet::SERVICE_VLAN, ethernet::VLAN])),
        ("vlan-cut", cut(tagged(&datagram, &[ethernet::VLAN]), 16)),
        ("ipv6", ipv6(out.macs)),
        ("ttl-0", with_byte(datagram.clone(), 22, 0)),
        ("total-length-too-long", with_byte(datagram.clone(), 16, 0xff)),
        ("total-length-too-short", with_byte(datagram.clone(), 17, 19)),
        ("version-5", with_byte(datagram.clone(), 14, 0x55)),
        ("runt", cut(datagram, 13)),
    ]
}

/// The frame with one byte changed, and its IPv4 header checksum made right again, so that the change gets
/// past it.
fn with_byte(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame[24..26].fill(0);
    let sum = checksum::checksum(&frame[ethernet::HEADER_LEN..ethernet::HEADER_LEN + ipv4::HEADER_LEN]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

/// The packet with a strict source route option.
fn source_routed(frame: &[u8]) -> Vec<u8> {
    let (head, payload) = frame.split_at(ethernet::HEADER_LEN + ipv4::HEADER_LEN);
    let option = [137, 7, 4, 203, 0, 113, 1, 0];
    let mut frame = [head, &option, payload].concat();
    frame[14] = 0x47;
    frame[17] += 8;
    frame[24..26].fill(0);
    let sum = checksum::checksum(&frame[14..42]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The frame behind VLAN tags of these types.
fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tags: Vec<u8> = tags.iter().flat_map(|tag| [tag.to_be_bytes(), [0x00, 0x07]].concat()).collect();
    [addresses, &tags, rest].concat()
}

/// An IPv6 packet without payload ("no next header", RFC 8200 4.7).
fn ipv6(macs: Macs) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
    packet::frame(macs, ethernet::IPV6, &packet)
}

/// Records of a station, a promise and a frame. See `bodies/switch.rs`.
fn switch() -> Vec<Seed> {
    let World { stations, .. } = World::new();
    let [router, c1, c2, c3, d4, d5] = &stations[..] else { return Vec::new() };
    let plain = |station: &Station, frame: Vec<u8>| record(station, 0, 0, &frame);
    let time = |steps: u8| vec![TIME, steps];
    let server = Endpoint::new(SERVER, 443);
    let gateway = |station: &Station| Way::out(station, Endpoint::new([172, 30, 0, 1].into(), 9));
    let answers = |station: &Station| plain(station, gateway(station).arp(2));
    let router_answers = || {
        let way = Way { src: router.at(0), ..Way::inward(router, 0) };
        plain(router, way.arp(2))
    };
    let (out, back) = (Way::out(c1, server), Way::inward(router, 61_001));
    let client = Way::inward(router, 8080);
    let big = out.tcp(ACK, 2, 2, &[0x55; 20_000]);
    let datagrams = Way::across(c1, c2).udp(&[0x66; 9_000]);
    let to_d4 = Way { dst: d4.at(7), ..out };
    vec![
        (
            "learn-and-forward",
            [
                plain(c1, Way::across(c1, c3).udp(b"flooded")),
                plain(c3, Way::across(c3, c1).udp(b"direct")),
                plain(c2, ipv6(Way::across(c2, c1).macs)),
                plain(c2, tagged(&Way::across(c2, c3).udp(b"tagged"), &[ethernet::VLAN])),
            ]
            .concat(),
        ),
        (
            "arp-and-ping-the-gateway",
            [plain(c1, gateway(c1).broadcast().arp(1)), plain(c1, gateway(c1).ping())].concat(),
        ),
        (
            "tcp-out-and-back",
            [
                plain(c1, out.tcp(SYN, 1, 0, &[])),
                router_answers(),
                plain(router, back.tcp(SYN | ACK, 1, 2, &[])),
                answers(c1),
                plain(c1, out.tcp(ACK, 2, 2, b"hello")),
                plain(router, back.tcp(FIN | ACK, 2, 7, &[])),
                plain(c1, out.tcp(FIN | ACK, 7, 3, &[])),
                time(255),
            ]
            .concat(),
        ),
        (
            "udp-and-echo-out",
            [
                plain(c1, out.udp(b"question")),
                router_answers(),
                plain(router, back.udp(b"answer")),
                plain(c2, Way::out(c2, server).ping()),
                plain(
                    router,
                    back.error(
                        Error::HostUnreachable,
                        &Way { src: back.dst, dst: back.src, ..back }.udp(b"question"),
                    ),
                ),
            ]
            .concat(),
        ),
        (
            "super-frames",
            [
                plain(c1, out.tcp(SYN, 1, 0, &[])),
                router_answers(),
                record(c1, 4, 1_448, &big),
                record(c1, 5, 1_000, &datagrams),
                record(c3, 2, 0, &Way::across(c3, c2).tcp(ACK, 1, 1, b"partial")),
                record(c3, 4, 0, &big),
                record(c3, 7, 65_535, &datagrams),
            ]
            .concat(),
        ),
        (
            "published",
            [
                plain(router, client.tcp(SYN, 1, 0, &[])),
                answers(c1),
                router_answers(),
                plain(c1, Way { src: c1.at(80), ..out }.tcp(SYN | ACK, 1, 2, &[])),
                plain(router, client.tcp(ACK, 2, 2, b"GET / HTTP/1.0\r\n\r\n")),
            ]
            .concat(),
        ),
        (
            "hairpin",
            [
                plain(c3, Way::out(c3, Endpoint::new(EXTERNAL, 8080)).tcp(SYN, 1, 0, &[])),
                answers(c1),
                answers(c3),
            ]
            .concat(),
        ),
        (
            "neighbors-that-do-not-answer",
            [plain(c1, out.udp(b"lost")), time(30), time(30), time(30), time(30)].concat(),
        ),
        (
            "no-way-between-networks",
            [
                plain(d4, Way::across(d4, c1).udp(b"no")),
                plain(d4, Way { macs: Way::out(d4, server).macs, ..Way::across(d4, c1) }.udp(b"no")),
                plain(c1, to_d4.udp(b"no")),
                plain(d5, Way::across(d5, c1).broadcast().arp(1)),
            ]
            .concat(),
        ),
        (
            "errors-of-the-gateway",
            [
                record(c1, REPAIR, 0, &with_byte(out.udp(b"ttl"), 22, 1)),
                record(c1, REPAIR, 0, &with_byte(out.udp(b"fragment"), 20, 0x20)),
                plain(c1, out.udp(&[0; 1_473])),
                plain(c1, gateway(c1).udp(b"nobody listens")),
                plain(c1, cut(out.udp(b"runt"), 13)),
                plain(c1, source_routed(&out.udp(b"routed"))),
            ]
            .concat(),
        ),
    ]
    .into_iter()
    .chain(speech())
    .collect()
}

/// Stations that keep to the protocols. The first of the frames heard or said last is number 0.
fn speech() -> Vec<Seed> {
    const TCP: u8 = 0x00;
    const UDP: u8 = 0x80;
    const ECHO: u8 = 0xc0;
    const SERVER: u8 = 0;
    const PUBLISHED: u8 = 2;
    // Everybody tells the gateway, or the uplink, where it is.
    let everybody =
        |count: u8| -> Vec<u8> { (0..count).flat_map(|who| say(Say::ARP, [who, 2, 4, 1])).collect() };
    let out = |how| say(Say::OUT, [1, SERVER, 5, how]);
    let answer = |how| say(Say::ANSWER, [0, how, 0, 0]);
    let report = |how, quoted, by| say(Say::REPORT, [0, how, quoted, by]);
    // ARP for the router is heard and answered; what waited for it goes on.
    let begin = |how| [everybody(4), out(how), answer(0)].concat();
    let conversation = [begin(TCP | SYN), answer(SYN | ACK), answer(ACK), answer(ACK)].concat();
    vec![
        ("said-tcp", [&conversation[..], &answer(FIN | ACK), &answer(FIN | ACK), &answer(ACK)].concat()),
        ("said-rst", [&conversation[..], &answer(RST | ACK), &answer(ACK)].concat()),
        ("said-simultaneous-open", [begin(TCP | SYN), say(Say::IN, [0, SERVER, 5, SYN])].concat()),
        ("said-udp", [begin(UDP), answer(0), answer(0)].concat()),
        ("said-echo", [begin(ECHO), answer(0)].concat()),
        ("said-published", [everybody(4), say(Say::IN, [0, SERVER, 16, SYN]), answer(SYN | ACK)].concat()),
        ("said-around", [everybody(4), say(Say::OUT, [3, PUBLISHED, 5, SYN]), answer(SYN | ACK)].concat()),
        ("said-errors-in", [begin(UDP), report(0, 255, 1), report(6, 28, 0), report(7, 128, 64)].concat()),
        ("said-errors-out", [begin(UDP), answer(0), report(3, 255, 0), report(3, 28, 1)].concat()),
        ("said-error-around", [everybody(4), say(Say::OUT, [3, 3, 5, UDP]), report(3, 255, 0)].concat()),
        (
            "said-fragments",
            [begin(UDP), say(Say::FRAGMENT, [0, 0x20, 0, 8]), say(Say::FRAGMENT, [1, 0, 1, 8])].concat(),
        ),
        (
            "said-arp",
            (0..=255).step_by(5).flat_map(|how| say(Say::ARP, [how, how, how >> 3, how >> 5])).collect(),
        ),
        (
            "said-again",
            [begin(UDP), say(Say::AGAIN, [0, 2, 0, 0]), say(Say::ALTERED, [1, 22, 1, 0])].concat(),
        ),
    ]
}

/// Stations of several networks that try to reach each other, under rules. See `bodies/networks.rs`.
fn networks() -> Vec<Seed> {
    const TCP: u8 = 0x00;
    const UDP: u8 = 0x80;
    const ECHO: u8 = 0xc0;
    // Whom stations call, as `Site::places` lists them: two ports of each station follow.
    const SERVER: u8 = 0;
    const PUBLISHED: u8 = 2;
    const OTHER_PUBLISHED: u8 = 3;
    const NEAR: u8 = 5;
    const GATEWAY_DNS: u8 = 13;
    const GATEWAY_DHCP: u8 = 14;
    const STATIONS: u8 = 19;
    // Whom rules name.
    const NET0: u8 = 1;
    const NET1: u8 = 2;
    const NET2: u8 = 3;
    const NET3: u8 = 4;
    const LAN: u8 = 7;
    const HOST: u8 = 8;
    const ALL: u8 = 0;
    const ALLOW: u8 = 1;
    const TO_80: u8 = 2 | 8;
    let Site { stations, .. } = Site::new();
    let service = |station: u8| STATIONS + 2 * (station - 2) + 1;
    let port = |station: u8| STATIONS + 2 * (station - 2);
    let rules = |list: &[[u8; 4]]| [&[RULES, u8::try_from(list.len()).unwrap()][..], &list.concat()].concat();
    let time = |steps: u8| vec![TIME, steps];
    let out = |who, whom, how| say(Say::OUT, [who, whom, 5, how]);
    let straight = |who, whom, how| say(Say::OUT | Say::STRAIGHT, [who, whom, 5, how]);
    let answer = |how| say(Say::ANSWER | Say::STRAIGHT, [0, how, 0, 0]);
    let call = |router: u8, port, how| say(Say::IN, [0, router << 1, port, how]);
    let plain = |place: u8, frame: &[u8]| record(&stations[usize::from(place)], 0, 0, frame);
    let cross = rules(&[[ALLOW | TO_80, NET0, NET1, 1], [ALLOW, NET1, NET3, 0]]);
    let kinds = |from: u8, to: u8| {
        let way = Way::across(&stations[usize::from(from)], &stations[usize::from(to)]);
        let by_gateway = Way { macs: Way::out(&stations[usize::from(from)], way.dst).macs, ..way };
        let frames = [
            way.udp(b"to one"),
            way.broadcast().udp(b"to all"),
            way.broadcast().arp(1),
            by_gateway.udp(b"routed"),
            by_gateway.ping(),
            ipv6(way.macs),
            packet::frame(way.macs, 0x88b5, b"neither"),
            tagged(&way.udp(b"tagged"), &[ethernet::VLAN]),
            tagged(&way.udp(b"tagged"), &[ethernet::SERVICE_VLAN, ethernet::VLAN]),
        ];
        frames.iter().flat_map(|frame| plain(from, frame)).collect::<Vec<u8>>()
    };
    let tags = |device: u8, vid: u8| {
        let way = Way::across(&stations[usize::from(device)], &stations[5]).broadcast();
        let mut frame = tagged(&way.udp(b"on a trunk"), &[ethernet::VLAN, ethernet::VLAN]);
        (frame[14], frame[15], frame[18], frame[19]) = (0, vid, 0, 20);
        [plain(device, &frame), plain(device, &[&frame[..16], &frame[20..]].concat())].concat()
    };
    let discover = {
        let macs = Macs { src: stations[7].mac, dst: MacAddr::BROADCAST };
        let (nobody, all) = (Endpoint::new([0; 4].into(), 68), Endpoint::new([255; 4].into(), 67));
        packet::udp(macs, nobody, all, b"discover")
    };
    let fragments = |who: u8, whom| {
        let pieces = [say(Say::FRAGMENT, [0, 0x20, 0, 8]), say(Say::FRAGMENT, [1, 0, 1, 8])];
        [out(who, whom, UDP), pieces.concat()].concat()
    };
    vec![
        (
            "every-kind-to-every-network",
            [kinds(5, 7), kinds(7, 8), kinds(8, 10), kinds(12, 5), kinds(2, 13)].concat(),
        ),
        (
            "a-rule-lets-in",
            [cross.clone(), out(5, service(7), TCP | SYN), answer(SYN | ACK), answer(ACK)].concat(),
        ),
        (
            "and-nothing-else",
            [cross.clone(), out(5, port(7), UDP), out(7, service(5), TCP | SYN), out(7, service(10), ECHO)]
                .concat(),
        ),
        (
            "answers-outlive-a-rule-until-a-flush",
            [
                cross.clone(),
                out(5, service(7), TCP | SYN),
                answer(SYN | ACK),
                rules(&[]),
                answer(ACK),
                out(5, service(7), TCP | SYN),
                vec![FLUSH, 1],
                answer(ACK),
            ]
            .concat(),
        ),
        (
            "the-first-rule-that-matches",
            [
                rules(&[
                    [ALLOW | TO_80, ALL, 15 + 5, 0],
                    [ALLOW | TO_80, NET0, NET1, 2],
                    [0, ALL, 15 + 5, 0],
                    [ALLOW, NET0, NET1, 0],
                ]),
                out(5, service(7), TCP | SYN),
                out(5, port(7), TCP | SYN),
            ]
            .concat(),
        ),
        (
            "rules-one-by-one",
            [
                [RULES, 0x80, ALLOW, ALL, NET2, 0].to_vec(),
                [RULES, 0x80, TO_80, NET1, ALL, 1].to_vec(),
                [RULES, 0x81, ALLOW, NET0, 15 + 6, 0].to_vec(),
                out(7, service(8), TCP | SYN),
                out(5, service(8), TCP | SYN),
                vec![RULES, 0xc0],
                out(7, service(8), TCP | SYN),
                vec![DEFAULT, 25 + 5, DEFAULT, 50 + 1],
                out(5, port(10), UDP),
            ]
            .concat(),
        ),
        (
            "deny-on-a-network",
            [
                rules(&[[4, 15 + 3, NET0, 0]]),
                straight(5, port(6), UDP),
                straight(6, port(5), UDP),
                answer(0),
                straight(5, service(13), SYN),
            ]
            .concat(),
        ),
        (
            "internet-yes-lan-no-host-no",
            [
                rules(&[[0, NET0, LAN, 0], [0, NET0, HOST, 0]]),
                out(5, SERVER, SYN),
                out(5, 6, SYN),
                out(5, 12, ECHO),
            ]
            .concat(),
        ),
        (
            "vlans",
            [
                straight(2, port(5), UDP),
                straight(3, port(7), UDP),
                straight(4, port(8), UDP),
                straight(7, port(3), SYN),
                out(13, SERVER, UDP),
                straight(12, port(11), UDP),
            ]
            .concat(),
        ),
        ("tags", [tags(2, 0), tags(2, 10), tags(2, 20), tags(2, 30), tags(12, 30), tags(5, 10)].concat()),
        (
            "out-by-both-uplinks",
            [
                out(5, SERVER, SYN),
                answer(SYN | ACK),
                out(7, SERVER, UDP),
                answer(0),
                out(10, SERVER, ECHO),
                answer(0),
            ]
            .concat(),
        ),
        (
            "moved-to-another-uplink",
            [
                out(5, SERVER, UDP),
                vec![UPLINK, 1],
                answer(0),
                out(5, 1, UDP),
                vec![UPLINK, 0x81, UPLINK, 0x83],
                out(10, SERVER, UDP),
            ]
            .concat(),
        ),
        (
            "published-at-both-uplinks",
            [
                call(0, 144, SYN),
                say(Say::IN, [144, 0, 31, SYN]),
                answer(SYN | ACK),
                say(Say::IN, [144, 2, 31, SYN]),
                answer(SYN | ACK),
                answer(ACK),
            ]
            .concat(),
        ),
        (
            "targets-go-down",
            [
                vec![HEALTH, 0, HEALTH, 0],
                say(Say::IN, [144, 0, 31, SYN]),
                say(Say::IN, [144, 1, 31, SYN]),
                answer(SYN | ACK),
                vec![FLUSH, 1, HEALTH, 1, HEALTH, 1, HEALTH, 2, HEALTH, 2],
                say(Say::IN, [144, 2, 31, SYN]),
                say(Say::IN, [144, 3, 31, SYN]),
            ]
            .concat(),
        ),
        ("for-the-lan-only", [say(Say::IN, [130, 0, 35, SYN]), out(7, NEAR, SYN), out(0, 5, SYN)].concat()),
        (
            "around",
            [
                out(6, PUBLISHED, SYN),
                answer(SYN | ACK),
                out(7, OTHER_PUBLISHED, SYN),
                rules(&[[ALLOW, NET1, NET0, 0]]),
                out(7, PUBLISHED, SYN),
                answer(SYN | ACK),
            ]
            .concat(),
        ),
        (
            "services",
            [
                out(7, GATEWAY_DNS, UDP),
                out(3, GATEWAY_DNS, SYN),
                out(7, GATEWAY_DHCP, UDP),
                plain(7, &discover),
                plain(5, &discover),
                vec![SERVE, 5],
                answer(SYN | ACK),
                vec![SERVE, 0x55],
                plain(7, &discover),
                out(7, GATEWAY_DHCP, UDP),
                vec![SERVE, 0x15],
                vec![SERVE, 0x3f],
            ]
            .concat(),
        ),
        (
            "the-gateways-answer",
            [
                say(Say::ARP, [5, 2, 8, 4]),
                out(5, 12, ECHO),
                out(7, 13, ECHO),
                out(3, 13, ECHO),
                out(8, 15, ECHO),
                out(10, 16, ECHO),
                out(1, 16, ECHO),
                out(1, 18, ECHO),
                rules(&[[0, NET1, HOST, 0]]),
                out(7, 13, ECHO),
            ]
            .concat(),
        ),
        (
            "who-is-there",
            [vec![SERVE, 0x24, SERVE, 0x29, SERVE, 0x2a], answer(0), time(30), answer(0)].concat(),
        ),
        (
            "the-host",
            [
                straight(7, port(9), UDP),
                straight(9, port(7), SYN),
                out(9, SERVER, UDP),
                straight(7, SERVER, UDP),
                out(5, port(9), ECHO),
                out(9, port(5), SYN),
            ]
            .concat(),
        ),
        (
            "the-lan",
            [
                straight(11, port(12), UDP),
                answer(0),
                straight(12, 11, UDP),
                kinds(11, 12),
                rules(&[[0, 15 + 10, LAN, 0]]),
                straight(12, port(11), SYN),
            ]
            .concat(),
        ),
        (
            "insecure",
            [vec![SECURITY, 14], kinds(7, 9), vec![SECURITY, 15], kinds(7, 9), vec![SECURITY, 11]].concat(),
        ),
        (
            "in-fragments",
            [
                fragments(5, SERVER),
                cross,
                fragments(7, port(10)),
                fragments(10, SERVER),
                rules(&[[0, 15 + 3, NET0, 0]]),
                fragments(2, port(6)),
            ]
            .concat(),
        ),
        (
            "errors",
            [
                out(5, SERVER, UDP),
                say(Say::REPORT, [0, 0, 255, 1]),
                out(10, SERVER, UDP),
                say(Say::REPORT, [0, 3, 28, 0]),
                rules(&[[ALLOW, NET0, NET1, 0]]),
                out(5, port(7), UDP),
                say(Say::REPORT, [0, 3, 255, 0]),
            ]
            .concat(),
        ),
        ("quota", (0..16).flat_map(|n| say(Say::OUT, [7, SERVER, n, UDP])).chain(time(255)).collect()),
    ]
}

fn record(station: &Station, promise: u8, parameter: u16, frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len()).unwrap();
    let [_, number] = station.id.0.to_be_bytes();
    [&[number, promise], &parameter.to_be_bytes()[..], &len.to_be_bytes(), frame].concat()
}

/// Operations are four bytes: what, who, whom, how. See `bodies/conntrack.rs`.
fn conntrack() -> Vec<Seed> {
    const OUT_TCP: u8 = 0x00;
    const OUT_UDP: u8 = 0x20;
    const OUT_ICMP: u8 = 0x30;
    const DIRECT_TCP: u8 = 0x05;
    const DIRECT_UDP: u8 = 0x25;
    const MADE_ROOM: u8 = 0x0f;
    const IN_PUBLISHED: u8 = 0x06;
    const IN_UNPUBLISHED: u8 = 0x07;
    const IN_UDP_PUBLISHED: u8 = 0x26;
    const TIME: u8 = 0x0a;
    const EXPIRE: u8 = 0x0b;
    const FLUSH: u8 = 0x0c;
    const RESERVE_UDP: u8 = 0x2d;
    const RELEASE_UDP: u8 = 0x2e;
    let many = |what: u8| (0..40).flat_map(|n| [what, n * 4, n, SYN]).collect::<Vec<u8>>();
    vec![
        (
            "tcp-life",
            [
                [OUT_TCP, 0x80, 1, SYN],
                [IN_UNPUBLISHED, 0, 1, SYN | ACK],
                [OUT_TCP, 0x80, 1, ACK],
                [OUT_TCP, 0x80, 1, FIN | ACK],
                [IN_UNPUBLISHED, 0, 1, FIN | ACK],
                [TIME, 250, 0, 0],
                [EXPIRE, 0, 0, 0],
            ]
            .concat(),
        ),
        ("ports-run-out", [many(OUT_UDP), many(OUT_TCP)].concat()),
        ("one-mapping-many-remotes", (0..8).flat_map(|n| [OUT_UDP, 0x84, n | n << 6, 0]).collect()),
        ("published", [[IN_PUBLISHED, 1, 1, SYN], [IN_UDP_PUBLISHED, 2, 2, 3], [OUT_UDP, 2, 2, 3]].concat()),
        ("unsolicited", [[IN_UNPUBLISHED, 1, 1, SYN], [IN_UNPUBLISHED, 1, 1, ACK]].concat()),
        (
            "room-by-what-is-over",
            [
                [OUT_TCP, 0x80, 1, SYN],
                [OUT_TCP, 0x80, 1, RST],
                [MADE_ROOM, 1, 0, 0x80],
                [MADE_ROOM, 0, 1, 0x80],
                [OUT_TCP, 0x84, 1, SYN],
                [IN_UNPUBLISHED, 0, 1, SYN | ACK],
                [IN_UNPUBLISHED, 0, 1, RST | ACK],
                [MADE_ROOM, 0, 0, 0x80],
            ]
            .concat(),
        ),
        (
            "between-networks",
            [
                [DIRECT_TCP, 1, 1, SYN],
                [DIRECT_TCP, 1, 0x21, SYN | ACK],
                [DIRECT_UDP, 2, 0x22, 0],
                [FLUSH, 1, 0, 0],
            ]
            .concat(),
        ),
        ("out-of-state", [[OUT_TCP, 1, 1, ACK], [OUT_TCP, 1, 1, SYN]].concat()),
        ("echo", [[OUT_ICMP, 1, 1, 0], [OUT_ICMP, 1, 1, 1], [0x37, 1, 1, 1]].concat()),
        (
            "reserved-port",
            [
                [RESERVE_UDP, 0, 0, 0],
                [OUT_UDP, 0x80, 1, 0],
                [RELEASE_UDP, 0, 0, 0],
                [OUT_UDP, 0x81, 1, 0],
                [RESERVE_UDP, 0, 0, 1],
            ]
            .concat(),
        ),
        (
            "flush-and-reuse",
            [
                [OUT_UDP, 0x80, 1, 0],
                [FLUSH, 0, 0, 0],
                [OUT_UDP, 0x81, 1, 0],
                [TIME, 200, 0, 0],
                [OUT_UDP, 0x80, 2, 0],
            ]
            .concat(),
        ),
    ]
}

/// Requests as the API takes them: each noun and verb, and a life of a switch with its mistakes.
fn control() -> Vec<Seed> {
    let life = [
        r#"network create {"name":"default","subnet":"172.30.0.0/16"}"#,
        r#"network create {"name":"lab","subnet":"10.9.0.0/24","gateway":"10.9.0.9","mode":"internal","mtu":1400}"#,
        r#"port add {"name":"c1","netns":"red"}"#,
        r#"port add {"name":"c1","netns":"red"}"#,
        r#"port add {"name":"c2","netns":"blue","network":"lab","ip":"10.9.0.7","mac":"02:00:00:00:00:07","ifname":"eth7"}"#,
        r#"port add {"name":"vm","device":"veth0","no_address":true}"#,
        r#"port add {"name":"host","tap":"vsw0"}"#,
        r#"publish add {"spec":"8080-8089:80-89/tcp","to":"c1"}"#,
        r#"publish add {"spec":"192.0.2.5:53:53/udp","to":"c1"}"#,
        r#"fdb add {"mac":"02:00:00:00:00:aa","port":"c1"}"#,
        "port ls {}",
        "publish ls {}",
        "stats  {}",
        r#"network rm {"name":"lab"}"#,
        r#"port rm {"name":"c2"}"#,
        r#"network rm {"name":"lab"}"#,
        r#"port rm {"name":"c1"}"#,
    ];
    let mistakes = [
        r#"port add {"name":"c1","netns":"gone"}"#,
        r#"port add {"name":"","netns":"red"}"#,
        r#"port add {"name":"c1","netns":"red","mac":"01:00:00:00:00:01"}"#,
        r#"network create {"name":"n","subnet":"10.0.0.0/33"}"#,
        r#"network create {"name":"n","subnet":"10.0.0.0/32"}"#,
        r#"publish add {"spec":"90-80:90-80","to":"c1"}"#,
        r#"port set {"name":"c1","settings":["mtu=9"]}"#,
        r#"ct timeouts {"settings":["udp=0"]}"#,
        r#"frob ls {}"#,
        r#"port add [1,2"#,
    ];
    let every: String = vswitchd::control::request::Request::ALL
        .iter()
        .map(|(noun, verb)| format!("{noun} {verb} {{}}\n"))
        .collect();
    vec![
        ("life", life.join("\n").into_bytes()),
        ("mistakes", mistakes.join("\n").into_bytes()),
        ("every-request", every.into_bytes()),
    ]
}

/// Bursts: flows of every kind alone and interleaved, every oddity between two packets that would join, and
/// frames of any bytes between such.
fn coalesce() -> Vec<Seed> {
    /// Checksums in place, verified and partial, as a record's second byte says them.
    const SUMS: [u8; 3] = [0, 1, 2];
    let record = |flow: u8, length: u8, how: u8| [length << 4 | flow, how];
    let odd = |what: u8, sum: u8| 0x80 | sum << 5 | what;
    let flows = 0..16u8;
    let alone: Vec<_> = flows.clone().flat_map(|flow| SUMS.map(|sum| record(flow, 0, sum))).collect();
    let interleaved: Vec<_> =
        SUMS.iter().flat_map(|&sum| flows.clone().map(move |f| record(f, 0, sum))).collect();
    let lengths: Vec<_> = (0..4u8)
        .flat_map(|flow| [0, 0, 13, 0, 14, 0, 15, 12, 0, 0, 12, 0, 13].map(|length| record(flow, length, 2)))
        .collect();
    let oddities: Vec<_> = (0..4u8)
        .flat_map(|flow| (0..32).map(move |what| (flow, what)))
        .flat_map(|(flow, what)| {
            [record(flow, 0, 2), record(flow, 0, odd(what, what % 3)), record(flow, 0, 2)]
        })
        .collect();
    let many = |flow, length| -> Vec<u8> { [record(flow, length, 2); 70].concat() };
    let raw = [
        record(0, 0, 2).to_vec(),
        vec![RAW, 0, 0, 3, 1, 2, 3],
        record(0, 0, 2).to_vec(),
        vec![RAW, 2, 0, 20, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 20, 0, 0],
        record(0, 0, 2).to_vec(),
    ];
    vec![
        ("alone", alone.concat()),
        ("interleaved", interleaved.concat()),
        ("lengths", lengths.concat()),
        ("oddities", oddities.concat()),
        ("many-datagrams", many(0, 0)),
        ("many-segments", many(3, 0)),
        ("raw-frames-between", raw.concat()),
    ]
}

/// Files: a rich one, one that takes most of it back, and such as have faults of every kind.
fn config() -> Vec<Seed> {
    let base = "uplink = \"eth0\"\nnat_ports = \"61000-61099\"\n";
    let whole = include_str!("../src/control/config/sample.toml");
    let network = "[[network]]\nname = \"default\"\nsubnet = \"172.30.0.0/16\"\n";
    let ways = r#"
[[network]]
name = "seen"
subnet = "10.3.0.0/24"
mode = "routed"
[[network]]
name = "backend"
subnet = "10.2.0.0/24"
[[port]]
name = "vm"
tap = "tap9"
no_address = true
vlan = ["backend=10"]
[[connect]]
network = "seen"
port = "vm"
vlan = 20
"#;
    let faults = r#"
[[network]]
name = "one"
subnet = "10.2.0.0/33"
[[network]]
name = "two"
subnet = "172.30.0.0/24"
[[port]]
name = "-"
[[port]]
name = "web"
netns = "gone"
ip = "10.77.0.1"
[[port]]
name = "web"
netns = "red"
tap = "tap1"
[[publish]]
spec = "90-80:80"
to = "nobody"
[[policy]]
action = "perhaps"
[[policy]]
action = "deny"
from = "nowhere"
[timeouts]
udp = 0
sctp = 1
[frob]
"#;
    vec![
        ("a-rich-file", whole.into()),
        ("and-back", [whole, NEXT, network].concat().into_bytes()),
        (
            "and-changed",
            [whole, NEXT, &whole.replace("77", "78").replace("10.2.0.9", "10.2.0.8")].concat().into_bytes(),
        ),
        ("faults", [network, faults].concat().into_bytes()),
        ("half-a-file", whole.as_bytes()[..whole.len() / 2].to_vec()),
        ("vlans-and-a-routed-network", [network, ways].concat().into_bytes()),
        ("head", [base, network].concat().into_bytes()),
        ("no-toml", b"[[network]\nname = ".to_vec()),
    ]
}

/// Records of clients and servers. See `bodies/dhcp.rs`.
fn dhcp() -> Vec<Seed> {
    const DISCOVER: u8 = 1;
    const REQUEST: u8 = 3;
    const DECLINE: u8 = 4;
    const RELEASE: u8 = 7;
    const INFORM: u8 = 8;
    const WISH: u8 = 1;
    const SERVER: u8 = 2;
    const CIADDR: u8 = 4;
    const BROADCAST: u8 = 8;
    const LIST: u8 = 32;
    const TIMES: u8 = 64;
    const RELAY: u8 = 128;
    // From client 1 at a port; 2 is the first address of the pool.
    let ask = |seat: u8, kind: u8, how: u8, more: &[u8]| [&[ASK, seat, kind, 1, how], more].concat();
    let get = [ask(0, DISCOVER, 0, &[]), ask(0, REQUEST, WISH | SERVER, &[2, 0])].concat();
    let stations = |count: u8| {
        (1..=count)
            .flat_map(|who| [ASK, 0, DISCOVER, who, 0, ASK, 0, REQUEST, who, WISH | SERVER, who + 1, 0])
    };
    let raw = |seat: u8, message: &[u8]| {
        [&[ASK_RAW, seat], &u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
    };
    let mut discover = vec![1, 1, 6, 0, 0, 0, 0, 7, 0, 0, 0x80, 0];
    discover.resize(28, 0);
    discover.extend([2, 0, 0, 0, 1, 1]);
    discover.resize(236, 0);
    discover.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1]);
    let plain = [&discover[..], &[57, 2, 2, 64, 61, 3, 0, 1, 2, 12, 2, b'v', b'm', 255]].concat();
    // Options go on in the fields for names, and one of them in parts.
    let mut overloaded = [&discover[..], &[52, 1, 3, 12, 1, b'v', 255]].concat();
    overloaded[44..52].copy_from_slice(&[12, 1, b'm', 50, 4, 10, 1, 0]);
    overloaded[108..113].copy_from_slice(&[55, 2, 1, 3, 255]);
    let cut = [&discover[..], &[61, 200, 1]].concat();
    let answer = |kind: u8, how: u8, host: u8, more: &[u8]| [&[ANSWER, kind, how, host], more].concat();
    let leased = [answer(2, 4, 9, &[10]), answer(5, 4 | 32, 9, &[10, 254])].concat();
    vec![
        (
            "a-lease-and-its-life",
            [
                &get[..],
                &ask(0, REQUEST, CIADDR, &[2]),
                &[SECONDS, 10],
                &ask(0, RELEASE, CIADDR | SERVER, &[2, 2]),
            ]
            .concat(),
        ),
        ("declined", [&get[..], &ask(0, DECLINE, WISH | SERVER, &[2, 0]), &get].concat()),
        ("inform", ask(1, INFORM, CIADDR | LIST, &[40, 5, 1, 3, 6, 121, 119])),
        (
            "init-reboot",
            [
                ask(1, REQUEST, WISH, &[2]),
                get.clone(),
                ask(0, REQUEST, WISH, &[2]),
                ask(1, REQUEST, WISH, &[0xff]),
            ]
            .concat(),
        ),
        ("many-clients-of-a-port", stations(20).collect()),
        (
            "of-another-port",
            [get.clone(), ask(1, REQUEST, WISH | SERVER, &[2, 0]), ask(1, REQUEST, WISH | SERVER, &[9, 0])]
                .concat(),
        ),
        (
            "another-server",
            [ask(0, DISCOVER, BROADCAST, &[]), ask(0, REQUEST, WISH | SERVER, &[2, 1])].concat(),
        ),
        ("own-address", [ask(3, DISCOVER, TIMES, &[3]), ask(0xc3, REQUEST, WISH | SERVER, &[5, 0])].concat()),
        ("relayed", [ask(0, DISCOVER, RELAY | TIMES, &[9, 20]), ask(0, DISCOVER, RELAY, &[0xff])].concat()),
        ("raw", [raw(0, &plain), raw(1, &overloaded), raw(2, &cut)].concat()),
        (
            "uplink-leased",
            [&leased[..], &[SECONDS, 71], &answer(5, 4, 9, &[10]), &[SECONDS, 90, SECONDS, 255]].concat(),
        ),
        ("uplink-refused", [&leased[..], &[SECONDS, 71], &answer(6, 0, 0, &[])].concat()),
        (
            "uplink-routes",
            [answer(2, 4, 9, &[10]), answer(5, 4 | 64, 9, &[10, 8, 0, 192, 0, 2, 1, 24, 10, 9, 8])].concat(),
        ),
        ("uplink-raw", vec![ANSWER_RAW, 0, 4, 2, 1, 6, 0]),
    ]
}

/// A client's message behind its length, and a resolver's. See `bodies/dns.rs`.
fn dns() -> Vec<Seed> {
    let message =
        |flags: [u8; 2], counts: [u8; 8], rest: &[u8]| [&[0x12, 0x34], &flags[..], &counts, rest].concat();
    let one = [0, 1, 0, 0, 0, 0, 0, 0];
    let example = b"\x03www\x07Example\x03com\x00\x00\x01\x00\x01";
    let record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xcb\x00\x71\x01";
    let edns = b"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x06\xff\xfe\x00\x02\xca\xfe";
    let both = |query: &[u8], reply: &[u8]| {
        [&u16::try_from(query.len()).unwrap().to_be_bytes(), query, reply].concat()
    };
    let ask = |question: &[u8]| message([1, 0], one, question);
    let query = ask(example);
    let reply = message([0x81, 0x80], [0, 1, 0, 1, 0, 0, 0, 0], &[&example[..], record].concat());
    let with_edns = |version: u8| {
        let mut extra = edns.to_vec();
        extra[6] = version;
        message([1, 0], [0, 1, 0, 0, 0, 0, 0, 1], &[&b"\x02p1\x00\x00\x01\x00\x01"[..], &extra].concat())
    };
    let lower = message([0x81, 0x80], one, &example.to_ascii_lowercase());
    let mut another = reply.clone();
    another[1] ^= 1;
    vec![
        ("query-and-reply", both(&query, &reply)),
        ("other-case", both(&query, &lower)),
        ("other-number", both(&query, &another)),
        ("reply-is-a-query", both(&query, &query)),
        ("name-of-ours", both(&ask(b"\x02p1\x04net0\x00\x00\x01\x00\x01"), &[])),
        ("any-of-ours", both(&ask(b"\x04NET0\x00\x00\xff\x00\x01"), &[])),
        ("reverse", both(&ask(b"\x013\x010\x0230\x03172\x07in-addr\x04arpa\x00\x00\x0c\x00\x01"), &[])),
        ("edns", both(&with_edns(0), &[])),
        ("edns-of-the-future", both(&with_edns(1), &[])),
        ("update", both(&message([0x28, 0], one, example), &[])),
        (
            "two-questions",
            both(&message([1, 0], [0, 2, 0, 0, 0, 0, 0, 0], &[&example[..], example].concat()), &[]),
        ),
        ("pointer-to-itself", both(&ask(b"\xc0\x0c\x00\x01\x00\x01"), &reply)),
        ("pointer-in-a-reply", both(&query, &message([0x81, 0x80], one, b"\x03www\xc0\x0c\x00\x01\x00\x01"))),
        ("long-label", both(&ask(&[&[64][..], &[b'a'; 64], &[0, 0, 1, 0, 1]].concat()), &[])),
        (
            "long-name",
            both(&ask(&[&[&[63][..], &[b'a'; 63]].concat().repeat(4)[..], &[0, 0, 1, 0, 1]].concat()), &[]),
        ),
        ("cut", both(&query[..20], &reply[..11])),
    ]
}
