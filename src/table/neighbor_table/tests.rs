use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

type Table = NeighborTable<Ipv4Addr, u32>;
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const EVERYTHING: usize = usize::MAX;

fn ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + n)
}

fn at(secs: u64) -> Time {
    Time::from_secs(secs)
}

fn poll(table: &mut Table, now: Time) -> Vec<Event<Ipv4Addr, u32>> {
    let mut events = Vec::new();
    table.poll(now, EVERYTHING, |event| events.push(event));
    events
}

fn state(table: &Table, ip: Ipv4Addr, now: Time) -> Option<&'static str> {
    table.entries(now).iter().find(|entry| entry.ip == ip).map(|entry| entry.state)
}

#[test]
fn row_18_packets_from_others_update_but_only_those_to_us_create() {
    let mut table = Table::new(16, 16);
    assert_eq!(table.heard(ip(1), MAC, at(0)), Heard::Noted(VecDeque::new()));
    assert!(table.is_empty());
    table.answered(ip(1), MAC, at(0));
    table.heard(ip(1), OTHER, at(1));
    assert_eq!(table.resolve(ip(1), at(1)), Answer::Found(OTHER));
}

#[test]
fn row_19_group_addresses_are_not_believed() {
    let mut table = Table::new(16, 16);
    table.resolve(ip(1), at(0));
    for wrong in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        table.answered(ip(1), wrong, at(0));
        assert_eq!(table.resolve(ip(1), at(0)), Answer::Pending);
    }
}

#[test]
fn row_22_answers_are_revalidated_when_used() {
    let mut table = Table::new(16, 16);
    table.answered(ip(1), MAC, at(0));
    assert_eq!(table.resolve(ip(1), at(30)), Answer::Found(MAC));
    assert_eq!(poll(&mut table, at(40)), [], "nobody asks unless traffic needs it");
    assert_eq!(table.resolve(ip(1), at(40)), Answer::Refresh(MAC));
    assert_eq!(table.resolve(ip(1), at(40)), Answer::Found(MAC));
    assert_eq!(state(&table, ip(1), at(40)), Some("stale"));
    // The station has a new address: the broadcast finds it.
    assert_eq!(poll(&mut table, at(41)), [Event::Solicit(ip(1), None)]);
    table.answered(ip(1), OTHER, at(41));
    assert_eq!(table.resolve(ip(1), at(42)), Answer::Found(OTHER));
    assert_eq!(poll(&mut table, at(60)), []);
    // Or it is gone.
    assert_eq!(table.resolve(ip(1), at(80)), Answer::Refresh(OTHER));
    for n in 81..83 {
        assert_eq!(poll(&mut table, at(n)), [Event::Solicit(ip(1), None)]);
    }
    assert_eq!(poll(&mut table, at(83)), [Event::Failed(ip(1), VecDeque::new())]);
    assert_eq!(table.resolve(ip(1), at(83)), Answer::Unreachable);
}

#[test]
fn row_22_a_claim_does_not_move_a_neighbor_that_answers() {
    let mut table = Table::new(16, 16).cautious();
    table.answered(ip(1), MAC, at(0));
    let mut requests = Vec::new();
    // A thousand claims a second, and a neighbor that answers within a poll.
    for millis in 1..10_000 {
        let now = at(0) + Duration::from_millis(millis);
        assert_eq!(table.heard(ip(1), OTHER, now), Heard::Doubted(MAC));
        for event in poll(&mut table, now) {
            assert_eq!(event, Event::Solicit(ip(1), Some(MAC)), "the neighbor alone is asked");
            requests.push(now);
            table.answered(ip(1), MAC, now);
        }
        assert_eq!(table.resolve(ip(1), now), Answer::Found(MAC));
    }
    assert!(requests.windows(2).all(|pair| pair[1].since(pair[0]) >= ARP_INTERVAL));
    assert_eq!((requests.len(), table.changes()), (10, 0));
}

#[test]
fn row_22_a_claim_is_believed_when_the_known_address_is_silent() {
    let mut table = Table::new(16, 16).cautious();
    table.answered(ip(1), MAC, at(0));
    assert_eq!(table.heard(ip(1), OTHER, at(5)), Heard::Doubted(MAC));
    assert_eq!(poll(&mut table, at(5)), [Event::Solicit(ip(1), Some(MAC))]);
    assert_eq!(table.heard(ip(1), OTHER, at(6)), Heard::Doubted(MAC));
    assert_eq!(poll(&mut table, at(6)), [Event::Solicit(ip(1), Some(MAC))]);
    assert_eq!(table.resolve(ip(1), at(6)), Answer::Found(MAC), "meanwhile it is used");
    assert_eq!(poll(&mut table, at(7)), [Event::Solicit(ip(1), None)]);
    assert_eq!(table.answered(ip(1), OTHER, at(7)), Heard::Noted(VecDeque::new()));
    assert_eq!((table.resolve(ip(1), at(7)), table.changes()), (Answer::Found(OTHER), 1));
    assert_eq!(poll(&mut table, at(30)), []);
    // Nobody at all: it fails as ever.
    table.heard(ip(1), MAC, at(30));
    let events: Vec<_> = (30..35).flat_map(|secs| poll(&mut table, at(secs))).collect();
    let [one, all] = [Some(OTHER), None].map(|to| Event::Solicit(ip(1), to));
    let [one_more, all_again] = [Some(OTHER), None].map(|to| Event::Solicit(ip(1), to));
    assert_eq!(events, [one, one_more, all, all_again, Event::Failed(ip(1), VecDeque::new())]);
}

#[test]
fn row_23_at_most_one_request_a_second_however_much_traffic() {
    let mut table = Table::new(16, 16);
    let mut requests = Vec::new();
    for millis in 0..60_000 {
        let now = Time::from_millis(millis);
        if table.resolve(ip(1), now) == Answer::Solicit {
            requests.push(now);
        }
        for event in poll(&mut table, now) {
            if let Event::Solicit(..) = event {
                requests.push(now);
            }
        }
    }
    assert!(requests.windows(2).all(|pair| pair[1].since(pair[0]) >= ARP_INTERVAL));
    assert!(requests.len() >= 20, "it keeps trying: {}", requests.len());
}

#[test]
fn row_24_the_latest_packets_wait_and_come_out_in_order() {
    let mut table = Table::new(16, 2 * NEIGHBOR_QUEUE);
    assert_eq!(table.wait(ip(1), 0), Err(0), "nothing is being resolved");
    assert_eq!(table.resolve(ip(1), at(0)), Answer::Solicit);
    let room = u32::try_from(NEIGHBOR_QUEUE).unwrap();
    for n in 0..room {
        assert_eq!(table.wait(ip(1), n), Ok(()));
    }
    assert_eq!(table.wait(ip(1), 99), Err(0), "the oldest makes room");
    assert_eq!(table.waiting(), NEIGHBOR_QUEUE);
    assert_eq!(table.heard(ip(1), MAC, at(1)), Heard::Noted((1..room).chain([99]).collect()));
    assert_eq!(table.waiting(), 0);
    assert_eq!(table.next_deadline(), Some(at(1) + NEIGHBOR_AGEING));
}

#[test]
fn row_24_all_queues_together_are_bounded() {
    let mut table = Table::new(16, 3);
    for n in 1..=3 {
        table.resolve(ip(n), at(0));
        assert_eq!(table.wait(ip(n), n), Ok(()));
    }
    table.resolve(ip(4), at(0));
    assert_eq!(table.wait(ip(4), 4), Err(4), "others' packets do not make room");
    assert_eq!(table.wait(ip(3), 5), Err(3), "one's own do");
    assert_eq!(table.waiting(), 3);
}

#[test]
fn row_24_a_scan_of_dead_addresses_leaves_known_neighbors_alone() {
    let mut table = Table::new(40, 100);
    for n in 0..20 {
        table.answered(ip(n), MAC, at(0));
    }
    let mut refused = 0;
    let mut failed = 0;
    for n in 0..65_000 {
        table.resolve(ip(1_000 + n), at(0));
        refused += usize::from(table.wait(ip(1_000 + n), n).is_err());
        assert!(table.len() <= 40 && table.waiting() <= 100);
        table.poll(at(0), EVERYTHING, |event| match event {
            Event::Failed(_, items) => failed += items.len(),
            Event::Solicit(..) => panic!("too early"),
        });
    }
    assert_eq!(refused + failed + table.waiting(), 65_000);
    assert!((0..20).all(|n| table.resolve(ip(n), at(0)) == Answer::Found(MAC)));
}

#[test]
fn a_full_table_forgets_the_longest_unused_neighbor() {
    let mut table = Table::new(2, 4);
    table.answered(ip(1), MAC, at(0));
    table.answered(ip(2), MAC, at(1));
    table.resolve(ip(1), at(5));
    table.answered(ip(3), MAC, at(6));
    assert_eq!(state(&table, ip(1), at(6)), Some("reachable"));
    assert_eq!(state(&table, ip(2), at(6)), None);
}

#[test]
fn silence_fails_what_waits_and_then_is_forgotten() {
    let mut table = Table::new(16, 16);
    table.resolve(ip(1), at(0));
    table.wait(ip(1), 7).unwrap();
    assert_eq!(poll(&mut table, Time::from_millis(999)), []);
    assert_eq!(poll(&mut table, at(1)), [Event::Solicit(ip(1), None)]);
    assert_eq!(poll(&mut table, at(2)), [Event::Solicit(ip(1), None)]);
    assert_eq!(poll(&mut table, at(3)), [Event::Failed(ip(1), VecDeque::from([7]))]);
    assert_eq!((table.waiting(), state(&table, ip(1), at(3))), (0, Some("failed")));
    assert_eq!(table.wait(ip(1), 8), Err(8));
    assert_eq!(poll(&mut table, at(3) + NEIGHBOR_HOLD), []);
    assert!(table.is_empty() && table.next_deadline().is_none());
}

#[test]
fn a_failed_neighbor_that_speaks_is_reachable_at_once() {
    let mut table = Table::new(16, 16);
    table.resolve(ip(1), at(0));
    (1..=3).for_each(|n| drop(poll(&mut table, at(n))));
    table.heard(ip(1), MAC, at(4));
    assert_eq!(table.resolve(ip(1), at(4)), Answer::Found(MAC));
    assert_eq!(poll(&mut table, at(20)), []);
}

#[test]
fn unused_neighbors_age() {
    let mut table = Table::new(16, 16);
    table.answered(ip(1), MAC, at(0));
    table.answered(ip(2), MAC, at(0));
    table.resolve(ip(1), at(25));
    let due = at(0) + NEIGHBOR_AGEING;
    assert_eq!(table.next_deadline(), Some(due));
    assert_eq!(poll(&mut table, due), []);
    assert_eq!((state(&table, ip(1), due), state(&table, ip(2), due)), (Some("stale"), None));
}

#[test]
fn removed_neighbors_hand_back_what_waited() {
    let mut table = Table::new(16, 16);
    table.resolve(ip(1), at(0));
    table.wait(ip(1), 7).unwrap();
    table.answered(ip(2), MAC, at(0));
    table.answered(ip(3), OTHER, at(0));
    assert_eq!(table.remove_where(|_, mac| mac != Some(OTHER)), 2);
    assert!(!table.remove(ip(1)));
    assert_eq!((table.len(), table.waiting()), (1, 1));
    assert_eq!(table.next_deadline(), Some(Time::ZERO));
    assert_eq!(poll(&mut table, at(0)), [Event::Failed(ip(1), VecDeque::from([7]))]);
    assert_eq!(table.waiting(), 0);
}

#[test]
fn a_poll_keeps_to_its_budget() {
    let mut table = Table::new(16, 16);
    (0..8).for_each(|n| assert_eq!(table.resolve(ip(n), at(0)), Answer::Solicit));
    let mut count = 0;
    table.poll(at(1), 3, |_| count += 1);
    assert_eq!(count, 3);
    assert_eq!(poll(&mut table, at(1)).len(), 5);
}

#[test]
fn ipv6_is_the_same_table() {
    let router: Ipv6Addr = "fe80::1".parse().unwrap();
    let mut table: NeighborTable<Ipv6Addr, &str> = NeighborTable::new(16, 16);
    assert_eq!(table.resolve(router, at(0)), Answer::Solicit);
    table.wait(router, "packet").unwrap();
    assert_eq!(table.answered(router, MAC, at(0)), Heard::Noted(["packet"].into()));
    assert_eq!(table.resolve(router, at(0)), Answer::Found(MAC));
}
