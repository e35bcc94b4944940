//! The flow cache through memory ports in virtual time: it repeats exactly what the story does, and forgets
//! when the story would end differently.

use std::time::Duration;

use proptest::prelude::*;
use vswitchd::addr::{Endpoint, MacAddr, NetworkId};
use vswitchd::frame::{Checksum, Offload, Segment};
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, ROUTER, SERVER, Station, Switch};
use vswitchd::wire::transport::{ACK, FIN, RST, SYN};

/// Longer than an entry of the cache is used.
const STALE: Duration = Duration::from_millis(150);

const DNS: Endpoint = Endpoint::new(SERVER, 53);
const WEB: Endpoint = Endpoint::new(SERVER, 80);
/// Ports in the external range, so that masquerading keeps them.
const UDP_PORT: u16 = 61_000;
const TCP_PORT: u16 = 61_001;

/// A switch with two containers, and an answered UDP flow and an open TCP connection of the first one.
struct World {
    switch: Switch,
    c: Station,
    peer: Station,
    router: Station,
}

impl World {
    fn new() -> World {
        let (mut switch, c, router) = Switch::with_uplink();
        let peer = switch.add_port(NetworkId(0));
        switch.resolve(&peer);
        let mut world = World { switch, c, peer, router };
        let header = |flags, seq, ack| Tcp { flags, seq, ack };
        for (out, frame) in [
            (true, world.udp_out(b"question")),
            (false, world.udp_in(b"answer")),
            (true, world.tcp_out(header(SYN, 100, 0), b"")),
            (false, world.tcp_in(header(SYN | ACK, 900, 101), b"")),
            (true, world.tcp_out(header(ACK, 101, 901), b"")),
            (false, world.tcp_in(header(ACK, 901, 101), b"")),
        ] {
            let from = if out { world.c.clone() } else { world.router.clone() };
            assert_eq!(world.send(&from, &frame, Offload::NONE).len(), 1);
        }
        world
    }

    fn udp_out(&self, payload: &[u8]) -> Vec<u8> {
        packet::udp(via(&self.c), self.c.at(UDP_PORT), DNS, payload)
    }

    fn udp_in(&self, payload: &[u8]) -> Vec<u8> {
        packet::udp(via(&self.router), DNS, Endpoint::new(EXTERNAL, UDP_PORT), payload)
    }

    fn tcp_out(&self, header: Tcp, payload: &[u8]) -> Vec<u8> {
        packet::tcp(via(&self.c), self.c.at(TCP_PORT), WEB, header, payload)
    }

    fn tcp_in(&self, header: Tcp, payload: &[u8]) -> Vec<u8> {
        packet::tcp(via(&self.router), WEB, Endpoint::new(EXTERNAL, TCP_PORT), header, payload)
    }

    fn across(&self, payload: &[u8]) -> Vec<u8> {
        let macs = Macs { src: self.c.mac, dst: self.peer.mac };
        packet::udp(macs, self.c.at(1), self.peer.at(2), payload)
    }

    /// Sends a frame and returns what comes out where, by the number of the port.
    fn send(&mut self, from: &Station, frame: &[u8], offload: Offload) -> Vec<(u16, Vec<u8>, Offload)> {
        self.switch.send_promising(from, frame, offload);
        let mut out = Vec::new();
        for station in [&self.c, &self.peer, &self.router] {
            while let Some((bytes, offload)) = station.device.pop() {
                out.push((station.id.0, bytes, offload));
            }
        }
        assert_eq!(self.switch.imbalance(), 0, "frames in = frames out + drops");
        out
    }

    /// Whether the cache knew what to do with a frame.
    fn is_repeated(&mut self, from: &Station, frame: &[u8]) -> bool {
        let before = self.switch.totals().rx_cached;
        self.send(from, frame, Offload::NONE);
        self.switch.totals().rx_cached > before
    }
}

fn via(station: &Station) -> Macs {
    Macs { src: station.mac, dst: station.gateway_mac }
}

#[derive(Debug, Clone, Copy)]
enum What {
    UdpOut,
    UdpIn,
    TcpOut,
    TcpIn,
    Across,
}

/// A frame of a known flow, with what can be different about it.
#[derive(Debug, Clone)]
struct Shape {
    what: What,
    payload: usize,
    flags: u8,
    ttl: u8,
    partial: bool,
    segments: Option<u16>,
    padding: usize,
    no_checksum: bool,
    /// Bytes that are changed at random.
    damage: Vec<(usize, u8)>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let what = prop_oneof![
        Just(What::UdpOut),
        Just(What::UdpIn),
        Just(What::TcpOut),
        Just(What::TcpIn),
        Just(What::Across)
    ];
    let flags = prop_oneof![5 => Just(ACK), 1 => any::<u8>(), 1 => Just(ACK | FIN), 1 => Just(RST)];
    let ttl = prop_oneof![5 => Just(64u8), 1 => 0u8..4];
    let segments = prop_oneof![3 => Just(None), 1 => (0u16..1600).prop_map(Some)];
    let damage = prop_oneof![
        4 => Just(Vec::new()),
        1 => proptest::collection::vec((0usize..60, any::<u8>()), 1..3).prop_filter(
            "another source has another external port, which is random",
            |damage| damage.iter().all(|(at, _)| !(26..30).contains(at) && !(34..36).contains(at))
        )
    ];
    let odd = prop_oneof![4 => Just(0usize), 1 => 1usize..20];
    (what, 0usize..1600, flags, ttl, any::<bool>(), segments, odd, any::<bool>(), damage).prop_map(
        |(what, payload, flags, ttl, partial, segments, padding, no_checksum, damage)| Shape {
            what,
            payload,
            flags,
            ttl,
            partial,
            segments,
            padding,
            no_checksum,
            damage,
        },
    )
}

impl Shape {
    fn frame(&self, world: &World) -> (Station, Vec<u8>, Offload) {
        let payload = vec![0x5a; self.payload];
        let out = Tcp { flags: self.flags, seq: 101, ack: 901 };
        let back = Tcp { flags: self.flags, seq: 901, ack: 101 };
        let (from, mut bytes, tcp) = match self.what {
            What::UdpOut => (&world.c, world.udp_out(&payload), false),
            What::UdpIn => (&world.router, world.udp_in(&payload), false),
            What::TcpOut => (&world.c, world.tcp_out(out, &payload), true),
            What::TcpIn => (&world.router, world.tcp_in(back, &payload), true),
            What::Across => (&world.c, world.across(&payload), false),
        };
        vswitchd::wire::edit::set_ttl(&mut bytes[14..], self.ttl);
        if self.no_checksum && !tcp {
            bytes[40..42].copy_from_slice(&[0, 0]);
        }
        bytes.extend(vec![0; self.padding]);
        for &(at, value) in &self.damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let offset = if tcp { 16 } else { 6 };
        let mut offload = Offload::NONE;
        if self.partial {
            offload.checksum = Checksum::Partial { start: 34, offset };
        }
        offload.segment = match self.segments {
            Some(size) if tcp => Segment::Tcp4 { size, ecn: false },
            Some(size) => Segment::Udp { size },
            None => Segment::None,
        };
        (from.clone(), bytes, offload)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Two switches get the same frames. For one, time passes before each, so that its cache is of no use.
    #[test]
    fn what_is_repeated_is_what_the_story_would_have_done(shapes in proptest::collection::vec(shape(), 1..12)) {
        let (mut quick, mut slow) = (World::new(), World::new());
        for shape in shapes {
            slow.switch.now += STALE;
            let [repeated, told] = [&mut quick, &mut slow].map(|world| {
                let (from, bytes, offload) = shape.frame(world);
                world.send(&from, &bytes, offload)
            });
            prop_assert_eq!(repeated, told, "{:?}", shape);
        }
        prop_assert_eq!(slow.switch.totals().rx_cached, 0);
        let sums = |world: &World| {
            let mut totals = world.switch.totals();
            totals.rx_cached = 0;
            let mut connections = world.switch.shared.conntrack.entries(world.switch.now);
            connections.sort_by_key(|info| (info.inside.port, info.remote.port));
            let known: Vec<_> = connections.iter().map(|c| (c.state, c.packets, c.bytes)).collect();
            (totals, known)
        };
        prop_assert_eq!(sums(&quick), sums(&slow));
    }
}

#[test]
fn the_second_packet_of_every_known_flow_is_repeated() {
    let mut w = World::new();
    let ack = Tcp { flags: ACK, seq: 101, ack: 901 };
    let back = Tcp { flags: ACK, seq: 901, ack: 101 };
    let (c, router) = (w.c.clone(), w.router.clone());
    for (from, frame) in [
        (&c, w.udp_out(b"x")),
        (&router, w.udp_in(b"x")),
        (&c, w.tcp_out(ack, b"x")),
        (&router, w.tcp_in(back, b"x")),
        (&c, w.across(b"x")),
    ] {
        w.send(from, &frame, Offload::NONE);
        assert!(w.is_repeated(from, &frame));
        w.switch.now += STALE;
        assert!(!w.is_repeated(from, &frame), "an entry is used for a while only");
    }
    let fin = w.tcp_out(Tcp { flags: ACK | FIN, ..ack }, b"");
    assert!(!w.is_repeated(&c, &fin) && !w.is_repeated(&c, &fin));
    let echo = packet::echo(via(&c), c.ip, SERVER, true, 7, b"x");
    assert!(!w.is_repeated(&c, &echo) && !w.is_repeated(&c, &echo));
}

/// A change after which the next packet takes the story again.
type Change = fn(&mut World);

#[test]
fn whatever_the_story_looked_at_ends_what_is_remembered() {
    let changes: [(&str, Change); 6] = [
        ("a station moves", |w| {
            let peer =
                packet::udp(Macs { src: w.peer.mac, dst: MacAddr::BROADCAST }, w.peer.at(1), w.c.at(2), b"");
            let c = w.c.clone();
            w.send(&c, &peer, Offload::NONE);
        }),
        ("the FDB is flushed", |w| {
            w.switch.shared.snapshot().networks[0].as_ref().unwrap().fdb.flush(None);
        }),
        ("a neighbor has another MAC address", |w| {
            let snapshot = w.switch.shared.snapshot_full();
            let moved = MacAddr([2, 0xee, 0, 0, 0, 0x77]);
            snapshot.networks[0].as_ref().unwrap().neighbors.lock().answered(w.c.ip, moved, w.switch.now);
        }),
        ("the configuration changes", |w| w.switch.shared.publish(|_| ())),
        ("a neighbor is forgotten", |w| {
            let snapshot = w.switch.shared.snapshot_full();
            snapshot.uplinks[0].neighbors.lock().remove(ROUTER);
        }),
        ("an address is pinned", |w| {
            let (mac, port, now) = (w.peer.mac, w.peer.id, w.switch.now);
            w.switch.shared.snapshot().networks[0].as_ref().unwrap().fdb.add_static(mac, port, now);
        }),
    ];
    for (name, change) in changes {
        let mut w = World::new();
        let c = w.c.clone();
        for frame in [w.udp_out(b"x"), w.across(b"x")] {
            w.send(&c, &frame, Offload::NONE);
            assert!(w.is_repeated(&c, &frame));
        }
        change(&mut w);
        assert!(!w.is_repeated(&c, &w.udp_out(b"x")), "{name}");
        assert!(!w.is_repeated(&c, &w.across(b"x")), "{name}");
    }
}

#[test]
fn a_station_that_moved_gets_its_next_frame_at_its_new_place() {
    let mut w = World::new();
    let (c, peer, router) = (w.c.clone(), w.peer.clone(), w.router.clone());
    let third = w.switch.add_port(NetworkId(0));
    for _ in 0..2 {
        assert_eq!(w.send(&c, &w.across(b"x"), Offload::NONE)[0].0, peer.id.0);
    }
    let hello = packet::udp(Macs { src: peer.mac, dst: c.mac }, peer.at(1), c.at(2), b"");
    w.send(&third, &hello, Offload::NONE);
    assert!(w.send(&c, &w.across(b"x"), Offload::NONE).is_empty(), "not to where it was");
    assert_eq!(third.device.pop().map(|(bytes, _)| bytes[..6].to_vec()), Some(peer.mac.0.to_vec()));
    assert!(router.device.pop().is_none());
}

#[test]
fn a_flushed_connection_is_made_again_and_an_ended_one_ends_at_once() {
    let mut w = World::new();
    let (c, router) = (w.c.clone(), w.router.clone());
    let back = Tcp { flags: ACK, seq: 901, ack: 101 };
    for _ in 0..3 {
        w.send(&router, &w.tcp_in(back, b"x"), Offload::NONE);
        w.send(&c, &w.udp_out(b"x"), Offload::NONE);
    }
    let now = w.switch.now;
    assert_eq!(w.switch.shared.conntrack.flush(now, |_| true), 2);
    assert!(w.send(&router, &w.tcp_in(back, b"x"), Offload::NONE).is_empty(), "nobody's any more");
    assert_eq!(w.send(&c, &w.udp_out(b"x"), Offload::NONE).len(), 1);
    let entries = w.switch.shared.conntrack.entries(now);
    assert_eq!(entries.iter().map(|c| c.packets).collect::<Vec<_>>(), [[1, 0]]);
}

#[test]
fn row_63_acknowledgments_that_were_only_repeated_still_guard_against_resets() {
    let mut w = World::new();
    let (c, router) = (w.c.clone(), w.router.clone());
    for ack in [2000, 3000] {
        w.send(&c, &w.tcp_out(Tcp { flags: ACK, seq: 101, ack }, b""), Offload::NONE);
    }
    assert!(w.switch.totals().rx_cached > 0);
    let state = |w: &World| {
        let connections = w.switch.shared.conntrack.entries(w.switch.now);
        connections.iter().find(|c| c.inside.port == TCP_PORT).map(|c| c.state)
    };
    w.send(&router, &w.tcp_in(Tcp { flags: RST, seq: 2000, ack: 0 }, b""), Offload::NONE);
    assert_eq!(state(&w), Some("ESTABLISHED"), "the container expects 3000");
    w.send(&router, &w.tcp_in(Tcp { flags: RST, seq: 3000, ack: 0 }, b""), Offload::NONE);
    assert_eq!(state(&w), Some("CLOSED"));
}

#[test]
fn what_is_repeated_refreshes_as_the_story_does() {
    let mut w = World::new();
    let (c, router) = (w.c.clone(), w.router.clone());
    let expires = |w: &World| {
        let connections = w.switch.shared.conntrack.entries(w.switch.now);
        connections.iter().find(|c| c.inside.port == UDP_PORT).unwrap().expires
    };
    w.switch.now += Duration::from_secs(100);
    w.switch.resolve(&c);
    w.switch.resolve(&router);
    for _ in 0..3 {
        w.send(&router, &w.udp_in(b"x"), Offload::NONE);
    }
    assert_eq!(expires(&w), Duration::from_secs(200), "what comes from outside refreshes nothing");
    w.send(&c, &w.udp_out(b"x"), Offload::NONE);
    w.switch.now += Duration::from_millis(50);
    assert!(w.is_repeated(&c, &w.udp_out(b"x")));
    assert_eq!(expires(&w), Duration::from_secs(300));
}
