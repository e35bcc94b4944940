//! The connection table in virtual time.

use super::*;
use crate::wire::transport::{ACK, FIN, RST, SYN, TcpSegment};

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: PortId = PortId(7);

fn table(ports: std::ops::Range<u16>) -> Table {
    Table::new(1000, ports)
}

fn inside(host: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(172, 30, 0, host), port)
}

fn remote(host: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(198, 51, 100, host), port)
}

fn udp(now: Time) -> Seen {
    Seen { protocol: Protocol::Udp, segment: None, is_answer: false, bytes: 100, now }
}

fn tcp(flags: u8, seq: u32, ack: u32, now: Time) -> Seen {
    let segment = TcpSegment { seq, ack, flags, len: u32::from(flags & (SYN | FIN) != 0) };
    Seen { protocol: Protocol::Tcp, segment: Some(segment), ..udp(now) }
}

fn yes() -> Result<NewConnection, DropReason> {
    Ok(NewConnection { port: PORT, hairpin: false, called: false })
}

fn out(table: &mut Table, from: Endpoint, to: Endpoint, seen: &Seen) -> Result<Endpoint, DropReason> {
    table.outward(from, to, EXTERNAL, seen, yes, &Timeouts::default()).map(|answer| answer.endpoint)
}

fn back(table: &mut Table, to: Endpoint, from: Endpoint, seen: &Seen) -> Result<Endpoint, DropReason> {
    table.inward(to, from, None, seen, yes, &Timeouts::default()).map(|answer| answer.endpoint)
}

fn sweep(table: &mut Table, now: Time) -> usize {
    let mut count = 0;
    table.expire(now, usize::MAX, |ended| {
        assert_eq!(ended.port, PORT);
        count += 1;
    });
    count
}

#[test]
fn one_inside_endpoint_has_one_outside_port_whatever_the_remote() {
    let mut table = table(61_000..61_100);
    let first = out(&mut table, inside(2, 5000), remote(1, 53), &udp(Time::ZERO)).unwrap();
    for to in [remote(1, 54), remote(2, 53), remote(9, 1)] {
        assert_eq!(out(&mut table, inside(2, 5000), to, &udp(Time::ZERO)), Ok(first));
        assert_eq!(back(&mut table, first, to, &udp(Time::ZERO)), Ok(inside(2, 5000)));
    }
    let stranger = back(&mut table, first, remote(3, 53), &udp(Time::ZERO));
    assert_eq!(stranger, Err(DropReason::Unsolicited), "filtering is by address and port");
    let other = out(&mut table, inside(3, 5000), remote(1, 53), &udp(Time::ZERO)).unwrap();
    assert_ne!(other, first);
}

#[test]
fn a_port_of_the_range_is_kept_where_free() {
    let mut table = table(61_000..61_100);
    let kept = out(&mut table, inside(2, 61_050), remote(1, 53), &udp(Time::ZERO)).unwrap();
    assert_eq!(kept.port, 61_050);
    let other = out(&mut table, inside(3, 61_050), remote(1, 53), &udp(Time::ZERO)).unwrap();
    assert_ne!(other.port, 61_050);
    let same_number = out(&mut table, inside(3, 61_050), remote(1, 53), &tcp(SYN, 0, 0, Time::ZERO)).unwrap();
    assert_eq!(same_number.port, 61_050, "protocols have ports of their own");
}

#[test]
fn a_full_range_is_refused_and_nobody_who_has_a_port_notices() {
    let mut table = table(61_000..61_002);
    let held =
        [2, 3].map(|host| out(&mut table, inside(host, 5000), remote(1, 53), &udp(Time::ZERO)).unwrap());
    for to in [remote(1, 53), remote(2, 53)] {
        let refused = out(&mut table, inside(4, 5000), to, &udp(Time::ZERO));
        assert_eq!(refused, Err(DropReason::NatPortsExhausted));
    }
    assert_eq!(out(&mut table, inside(3, 5000), remote(2, 53), &udp(Time::ZERO)), Ok(held[1]));
    assert_eq!(table.flush(Time::ZERO, |info| info.inside == inside(2, 5000), |_| ()), 1);
    let rests = out(&mut table, inside(4, 5000), remote(1, 53), &udp(Time::from_secs(119)));
    assert_eq!(rests, Err(DropReason::NatPortsExhausted), "RFC 6888 REQ-8");
    assert_eq!(out(&mut table, inside(4, 5000), remote(1, 53), &udp(Time::from_secs(120))), Ok(held[0]));
}

#[test]
fn a_port_that_its_sponsor_refuses_is_free_at_once() {
    struct Poor;
    impl Sponsor for Poor {
        fn connection(&mut self) -> Result<NewConnection, DropReason> {
            yes()
        }
        fn external_port(&mut self) -> Result<(), DropReason> {
            Err(DropReason::NatPortQuota)
        }
    }
    let mut table = table(61_000..61_001);
    let (a, b, now) = (inside(2, 5000), remote(1, 53), udp(Time::ZERO));
    let refused = table.outward(a, b, EXTERNAL, &now, Poor, &Timeouts::default());
    assert_eq!(refused, Err(DropReason::NatPortQuota));
    let made = out(&mut table, a, b, &now).unwrap();
    let again = table.outward(a, remote(2, 53), EXTERNAL, &now, Poor, &Timeouts::default());
    assert_eq!(again.map(|answer| answer.endpoint), Ok(made), "it has that port already");
    let mut freed = Vec::new();
    table.flush(Time::ZERO, |_| true, |ended| freed.extend(ended.freed));
    assert_eq!(freed, [(Protocol::Udp, PORT)], "the last connection frees it");
}

#[test]
fn a_mapping_is_open_to_a_hairpin_and_outlives_none_of_its_connections() {
    let mut table = table(61_000..61_100);
    let outside = out(&mut table, inside(2, 5000), remote(1, 53), &udp(Time::ZERO)).unwrap();
    let holder = table.holder(Protocol::Udp, outside.port);
    assert_eq!(holder, Some(inside(2, 5000)));
    let peer = Endpoint::new(EXTERNAL, 61_001);
    let timeouts = Timeouts::default();
    let to = table.inward(outside, peer, holder, &udp(Time::ZERO), yes, &timeouts).unwrap();
    assert_eq!(to.endpoint, inside(2, 5000));
    assert_eq!(table.entries(Time::from_secs(299)).count(), 2);
    table.flush(Time::ZERO, |info| info.remote == remote(1, 53), |ended| assert_eq!(ended.freed, None));
    // What only comes in does not keep it (RFC 4787 REQ-6).
    table.inward(outside, peer, None, &udp(Time::from_secs(299)), yes, &timeouts).unwrap();
    assert_eq!(sweep(&mut table, Time::from_secs(302)), 1);
    assert_eq!(table.holder(Protocol::Udp, outside.port), None);
}

#[test]
fn udp_lives_by_what_the_container_sends() {
    let mut table = table(61_000..61_100);
    let outside = out(&mut table, inside(2, 5000), remote(1, 53), &udp(Time::ZERO)).unwrap();
    out(&mut table, inside(2, 5000), remote(1, 53), &udp(Time::from_secs(200))).unwrap();
    for second in [250, 300, 400, 499] {
        assert_eq!(sweep(&mut table, Time::from_secs(second)), 0);
        assert!(back(&mut table, outside, remote(1, 53), &udp(Time::from_secs(second))).is_ok());
    }
    assert_eq!(sweep(&mut table, Time::from_secs(502)), 1);
    assert!(back(&mut table, outside, remote(1, 53), &udp(Time::from_secs(502))).is_err());
    assert_eq!(table.stats().connections, 0);
}

#[test]
fn an_established_connection_idles_two_hours_and_a_closed_one_four_minutes() {
    let mut table = table(61_000..61_100);
    let (a, b) = (inside(2, 5000), remote(1, 80));
    let o = out(&mut table, a, b, &tcp(SYN, 100, 0, Time::ZERO)).unwrap();
    back(&mut table, o, b, &tcp(SYN | ACK, 900, 101, Time::ZERO)).unwrap();
    out(&mut table, a, b, &tcp(ACK, 101, 901, Time::ZERO)).unwrap();
    assert_eq!(table.entries(Time::ZERO).next().unwrap().state, "ESTABLISHED");
    assert_eq!(sweep(&mut table, Time::from_secs(7400)), 0);
    back(&mut table, o, b, &tcp(RST, 901, 0, Time::from_secs(7400))).unwrap();
    assert_eq!(sweep(&mut table, Time::from_secs(7639)), 0);
    assert_eq!(sweep(&mut table, Time::from_secs(7642)), 1);
}

#[test]
fn what_does_not_open_is_refused() {
    let mut table = table(61_000..61_100);
    for flags in [ACK, SYN | ACK, RST, FIN | ACK, SYN | FIN, 0] {
        let refused = out(&mut table, inside(2, 1), remote(1, 2), &tcp(flags, 0, 0, Time::ZERO));
        assert_eq!(refused, Err(DropReason::TcpOutOfState), "{flags:#x}");
    }
    let reply = Seen { protocol: Protocol::Icmp, is_answer: true, ..udp(Time::ZERO) };
    assert_eq!(out(&mut table, inside(2, 0), remote(1, 2), &reply), Err(DropReason::Unsolicited));
    assert_eq!(table.stats().created, 0);
}

#[test]
fn a_published_port_leads_to_its_target_and_back() {
    let mut table = table(61_000..61_100);
    let (listen, target, client) = (Endpoint::new(EXTERNAL, 8080), inside(2, 80), remote(1, 40_000));
    let syn = tcp(SYN, 1, 0, Time::ZERO);
    let timeouts = Timeouts::default();
    let to = table.inward(listen, client, Some(target), &syn, yes, &timeouts).unwrap();
    assert_eq!(to.endpoint, target);
    let reply = out(&mut table, target, client, &tcp(SYN | ACK, 9, 2, Time::ZERO)).unwrap();
    assert_eq!(reply, listen);
    let info = table.entries(Time::ZERO).next().unwrap();
    assert_eq!(info.nat, Nat::Dnat);
    assert_eq!((info.original(), info.reply()), ((client, listen), (target, client)));
    assert_eq!(info.packets, [1, 1]);
}

#[test]
fn the_table_refuses_beyond_its_limit_and_the_quota() {
    let mut table = Table::new(2, 61_000..61_100);
    for port in [1, 2] {
        out(&mut table, inside(2, port), remote(1, 53), &udp(Time::ZERO)).unwrap();
    }
    let full = out(&mut table, inside(2, 3), remote(1, 53), &udp(Time::ZERO));
    assert_eq!(full, Err(DropReason::ConntrackFull));
    assert!(out(&mut table, inside(2, 1), remote(1, 53), &udp(Time::ZERO)).is_ok(), "old ones go on");
    assert_eq!(table.flush(Time::ZERO, |info| info.inside.port == 1, |_| ()), 1);
    let quota = table.outward(
        inside(2, 3),
        remote(1, 53),
        EXTERNAL,
        &udp(Time::ZERO),
        || Err(DropReason::ConntrackQuota),
        &Timeouts::default(),
    );
    assert_eq!(quota, Err(DropReason::ConntrackQuota));
    let stats = table.stats();
    assert_eq!((stats.connections, stats.refused_full, stats.refused_quota, stats.flushed), (1, 1, 1, 1));
}

/// What two packets of the flow may have its worker remember, outwards and inwards.
fn remembered(table: &mut Table, to: Endpoint, outward: &Seen, inward: &Seen) -> [Option<Track>; 2] {
    let timeouts = Timeouts::default();
    let there = table.outward(inside(2, 1), to, EXTERNAL, outward, yes, &timeouts).unwrap();
    let here = table.inward(there.endpoint, to, None, inward, yes, &timeouts).unwrap();
    [there.track, here.track]
}

#[test]
fn only_settled_directions_may_be_remembered() {
    let mut table = table(61_000..61_100);
    let [out, back] = remembered(&mut table, remote(1, 53), &udp(Time::ZERO), &udp(Time::ZERO));
    let (out, back) = (out.unwrap(), back.unwrap());
    assert!(out.refreshes && !back.refreshes, "RFC 4787 REQ-6");
    assert_eq!((out.number, out.life), (back.number, back.life));

    let now = Time::ZERO;
    let opening = remembered(&mut table, remote(1, 80), &tcp(SYN, 1, 0, now), &tcp(SYN | ACK, 9, 2, now));
    assert_eq!(opening, [None, None]);
    let open = remembered(&mut table, remote(1, 80), &tcp(ACK, 2, 10, now), &tcp(ACK, 10, 2, now));
    assert!(open.iter().all(|direction| direction.is_some_and(|track| track.refreshes)));
}

#[test]
fn what_is_noted_beside_the_table_counts_refreshes_and_guards_against_resets() {
    let mut table = table(61_000..61_100);
    let (to, now) = (remote(1, 80), Time::ZERO);
    remembered(&mut table, to, &tcp(SYN, 1, 0, now), &tcp(SYN | ACK, 9, 2, now));
    let [out, back] = remembered(&mut table, to, &tcp(ACK, 2, 10, now), &tcp(ACK, 10, 2, now));
    let (out, back) = (out.unwrap(), back.unwrap());
    let later = Time::from_secs(7000);
    let activities = table.activities();
    let activity = activities.alive(out.number, out.life).unwrap();
    activity.count(out.direction, 40);
    activity.acknowledge(out.direction, 5000);
    activity.refresh(later);
    activity.count(back.direction, 1500);

    let info = table.entries(later).next().unwrap();
    assert_eq!((info.packets, info.bytes), ([3, 3], [240, 1700]));
    assert_eq!(info.expires, Timeouts::default().tcp_established);
    let outside = info.outside;
    super::tests::back(&mut table, outside, to, &tcp(RST, 10, 0, later)).unwrap();
    assert_eq!(table.entries(later).next().unwrap().state, "ESTABLISHED", "the container expects 5000");
    super::tests::back(&mut table, outside, to, &tcp(RST, 5000, 0, later)).unwrap();
    assert_eq!(table.entries(later).next().unwrap().state, "CLOSED");
    assert!(activities.alive(out.number, out.life).is_none(), "a connection that was reset");

    out_again(&mut table, to, later);
    let [_, _] = remembered(&mut table, to, &tcp(SYN, 100, 0, later), &tcp(SYN | ACK, 900, 101, later));
    let life = remembered(&mut table, to, &tcp(ACK, 101, 901, later), &tcp(ACK, 901, 101, later))[0].unwrap();
    assert!(activities.alive(life.number, life.life).is_some());
    table.flush(later, |_| true, |_| ());
    assert!(activities.alive(life.number, life.life).is_none(), "a connection that is gone");
}

fn out_again(table: &mut Table, to: Endpoint, now: Time) {
    out(table, inside(2, 1), to, &tcp(SYN, 70_000, 0, now)).unwrap();
}

#[test]
fn places_are_used_again() {
    let mut table = table(61_000..61_100);
    for round in 0..5 {
        for port in 1..=3 {
            out(&mut table, inside(2, port), remote(1, 53), &udp(Time::ZERO)).unwrap();
        }
        assert_eq!(table.flush(Time::ZERO, |_| true, |_| ()), 3, "round {round}");
    }
    assert_eq!(table.slots.len(), 3);
}

#[test]
fn a_million_connections_fit_into_128_mib() {
    // A shard holds a power of two, so its indices have no more cells than they need.
    let each =
        size_of::<Slot<Ipv4Addr>>() + size_of::<Activity>() + wheel::BYTES_EACH + 2 * index::BYTES_EACH;
    assert!(each <= 124, "{each}");
    assert!(size_of::<Mapping<Ipv4Addr>>() <= 16);
}

#[test]
fn what_passes_untranslated_is_no_part_of_a_translation_between_the_same_endpoints() {
    let mut table = table(61_000..61_100);
    let (from, to) = (inside(2, 5000), remote(1, 53));
    let direct = |table: &mut Table, direction, seen: &Seen| {
        table.direct(direction, from, to, seen, yes, &Timeouts::default()).map(|answer| answer.endpoint)
    };
    let seen = udp(Time::ZERO);
    assert_eq!(direct(&mut table, Direction::Outward, &seen), Ok(from));
    assert_eq!(table.peek_outward(Protocol::Udp, from, to), None);
    assert_eq!(back(&mut table, from, to, &seen), Err(DropReason::Unsolicited));
    let shown = out(&mut table, from, to, &seen).unwrap();
    assert_eq!((shown.ip, table.stats().connections), (EXTERNAL, 2));
    assert_eq!(direct(&mut table, Direction::Inward, &seen), Ok(from));
    assert_eq!(back(&mut table, shown, to, &seen), Ok(from));
    // Each ends by itself.
    table.flush(Time::ZERO, |info| info.nat == Nat::None, |_| ());
    assert!(!table.has_direct(Protocol::Udp, from, to));
    assert_eq!(table.peek_outward(Protocol::Udp, from, to), Some(shown));
    table.flush(Time::ZERO, |_| true, |_| ());
    assert_eq!((table.stats().connections, table.peek_outward(Protocol::Udp, from, to)), (0, None));
}
