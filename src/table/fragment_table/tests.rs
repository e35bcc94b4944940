use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::wire::ethernet;
use proptest::prelude::*;

const TOTAL: Room = Room { datagrams: 8, bytes: 40_000 };
const EACH: Room = Room { datagrams: 4, bytes: 20_000 };

fn now() -> Time {
    Time::from_secs(9)
}

/// Byte `n` of every datagram.
fn byte(n: usize) -> u8 {
    u8::try_from(n % 249).unwrap()
}

fn fragment_bytes(protocol: u8, offset: usize, len: usize, more: bool) -> Vec<u8> {
    let mut bytes = vec![0; 34 + len];
    ethernet::write(&mut bytes, crate::addr::MacAddr::ZERO, crate::addr::MacAddr::ZERO, ethernet::IPV4);
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    ipv4::write(&mut bytes[14..], src, dst, protocol, 64, len);
    bytes[20] = 0;
    ipv4::make_fragment(&mut bytes[14..], 20, offset, more);
    for (n, place) in bytes[34..].iter_mut().enumerate() {
        *place = byte(offset + n);
    }
    bytes
}

#[derive(Debug)]
struct Bench {
    table: FragmentTable<u8, u16>,
    lost: Vec<(u8, usize, DropReason)>,
    now: Time,
}

impl Bench {
    fn new() -> Bench {
        Bench { table: FragmentTable::new(TOTAL, EACH), lost: Vec::new(), now: now() }
    }

    fn add_bytes(&mut self, source: u8, key: u16, bytes: &[u8]) -> Result<Option<Datagram>, DropReason> {
        let ip = Ipv4::parse(&bytes[14..]).unwrap();
        let (headers, payload) = bytes.split_at(14 + ip.header_len);
        let fragment = Fragment { ip: &ip, headers, payload };
        let lost = &mut self.lost;
        let added = self.table.add(source, key, &fragment, self.now, |s, n, why| lost.push((s, n, why)));
        self.check();
        added
    }

    fn add(&mut self, key: u16, piece: (usize, usize, bool)) -> Result<bool, DropReason> {
        self.add_from(1, key, piece)
    }

    fn add_from(
        &mut self,
        source: u8,
        key: u16,
        (offset, len, more): (usize, usize, bool),
    ) -> Result<bool, DropReason> {
        let whole = self.add_bytes(source, key, &fragment_bytes(ipv4::UDP, offset, len, more))?;
        Ok(whole.is_some_and(|datagram| {
            let mut frame = Frame::new();
            datagram.assemble(&mut frame);
            let ip = Ipv4::parse(&frame.bytes()[14..]).unwrap();
            assert!(!ip.is_fragment && ip.total_len == frame.len() - 14);
            assert!(frame.bytes()[34..].iter().enumerate().all(|(n, &b)| b == byte(n)));
            true
        }))
    }

    /// The sums are those of what is there, and within their bounds.
    fn check(&self) {
        let shares: Vec<_> = self.table.shares.values().collect();
        let datagrams: Vec<_> =
            shares.iter().flat_map(|share| share.datagrams.iter().map(|(_, datagram)| datagram)).collect();
        assert_eq!(self.table.datagrams, datagrams.len());
        assert_eq!(self.table.bytes, datagrams.iter().map(|datagram| datagram.cost).sum::<usize>());
        assert_eq!(self.table.fragments, datagrams.iter().map(|d| d.fragments()).sum::<usize>());
        assert!(self.table.datagrams <= TOTAL.datagrams && self.table.bytes <= TOTAL.bytes);
        for share in shares {
            let bytes: usize = share.datagrams.iter().map(|(_, datagram)| datagram.cost).sum();
            assert_eq!(share.bytes, bytes);
            assert!((1..=EACH.datagrams).contains(&share.datagrams.len()) && bytes <= EACH.bytes);
        }
    }
}

const FIRST: (usize, usize, bool) = (0, 16, true);
const MIDDLE: (usize, usize, bool) = (16, 24, true);
const LAST: (usize, usize, bool) = (40, 5, false);

#[test]
fn every_order_makes_the_datagram() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut bench = Bench::new();
        let outcomes = order.map(|n| bench.add(7, [FIRST, MIDDLE, LAST][n]));
        assert_eq!(outcomes, [Ok(false), Ok(false), Ok(true)], "{order:?}");
        assert_eq!((bench.table.fragments(), bench.table.bytes()), (0, 0));
    }
}

#[test]
fn an_overlap_or_a_contradiction_ends_the_datagram() {
    let overlap = DropReason::FragmentOverlap;
    for (what, pieces, reason) in [
        ("overlap behind", vec![FIRST, (8, 16, true)], overlap),
        ("overlap before", vec![MIDDLE, (8, 16, true)], overlap),
        ("contained", vec![(0, 32, true), (8, 8, true)], overlap),
        ("containing", vec![MIDDLE, (0, 48, true)], overlap),
        ("the same place, another length", vec![FIRST, (0, 24, true)], overlap),
        ("two ends", vec![LAST, (48, 5, false)], overlap),
        ("an end before what is there", vec![(64, 8, true), LAST], overlap),
        ("data behind the end", vec![LAST, (48, 8, true)], overlap),
        ("the same place, but not the end", vec![(40, 8, false), (40, 8, true)], overlap),
        ("no multiple of eight", vec![FIRST, (16, 9, true)], DropReason::BadFragment),
        ("empty", vec![FIRST, (16, 0, true)], DropReason::BadFragment),
        ("beyond the end of the world", vec![FIRST, (65_512, 8, false)], DropReason::BadFragment),
    ] {
        let mut bench = Bench::new();
        let outcomes: Vec<_> = pieces.iter().map(|&piece| bench.add(7, piece)).collect();
        assert_eq!(outcomes, [Ok(false), Err(reason)], "{what}");
        assert_eq!(bench.lost, [(1, 1, reason)], "{what}");
        // RFC 5722: and what still comes of it.
        for piece in [FIRST, MIDDLE, LAST] {
            assert_eq!(bench.add(7, piece), Err(reason), "{what}");
        }
        assert_eq!(bench.table.fragments(), 0);
    }
}

#[test]
fn a_duplicate_is_harmless_and_the_same_place_with_other_bytes_is_not() {
    let mut bench = Bench::new();
    assert_eq!(bench.add(7, LAST), Ok(false));
    assert_eq!(bench.add(7, LAST), Err(DropReason::DuplicateFragment));
    assert_eq!(bench.add(7, FIRST), Ok(false));
    assert_eq!(bench.add(7, FIRST), Err(DropReason::DuplicateFragment));
    assert_eq!(bench.add(7, MIDDLE), Ok(true));
    assert_eq!(bench.lost, []);

    assert_eq!(bench.add(8, FIRST), Ok(false));
    let mut forged = fragment_bytes(ipv4::UDP, 0, 16, true);
    forged[40] ^= 1;
    assert_eq!(bench.add_bytes(1, 8, &forged).err(), Some(DropReason::FragmentOverlap));
}

#[test]
fn tcp_cannot_hide_its_flags() {
    let mut bench = Bench::new();
    for (key, offset, len) in [(1, 0, 8), (2, 8, 800)] {
        let tiny = fragment_bytes(ipv4::TCP, offset, len, true);
        assert_eq!(bench.add_bytes(1, key, &tiny).err(), Some(DropReason::TinyFragment));
    }
    assert!(bench.add_bytes(1, 3, &fragment_bytes(ipv4::TCP, 0, 16, true)).is_ok());
    assert!(bench.add_bytes(1, 3, &fragment_bytes(ipv4::TCP, 16, 16, true)).is_ok());
}

#[test]
fn congestion_is_not_forgotten() {
    let marked = |offset: usize, len, more, ecn: u8| {
        let mut bytes = fragment_bytes(ipv4::UDP, offset, len, more);
        bytes[15] = ecn;
        ipv4::make_fragment(&mut bytes[14..], 20, offset, more);
        bytes
    };
    let mut bench = Bench::new();
    bench.add_bytes(1, 7, &marked(0, 16, true, 0b10)).unwrap();
    let whole = bench.add_bytes(1, 7, &marked(16, 5, false, 0b11)).unwrap().unwrap();
    let mut frame = Frame::new();
    whole.assemble(&mut frame);
    assert_eq!(Ipv4::parse(&frame.bytes()[14..]).unwrap().tos, 0b11);
    bench.add_bytes(1, 8, &marked(0, 16, true, 0b00)).unwrap();
    let confused = bench.add_bytes(1, 8, &marked(16, 5, false, 0b11));
    assert_eq!(confused.err(), Some(DropReason::BadFragment));
}

#[test]
fn the_timer_is_fixed() {
    let mut bench = Bench::new();
    assert_eq!(bench.add(7, FIRST), Ok(false));
    bench.now += FRAGMENT_TIMEOUT - Duration::from_millis(1);
    assert_eq!(bench.add(7, MIDDLE), Ok(false));
    let mut expired = Vec::new();
    bench.table.expire(bench.now, |source, _| expired.push((source, 0, false)));
    assert_eq!(expired, []);
    bench.now += Duration::from_millis(1);
    bench.table.expire(bench.now, |s, d| expired.push((s, d.fragments(), d.first().is_some())));
    assert_eq!(expired, [(1, 2, true)]);
    bench.check();
    assert_eq!(bench.add(7, LAST), Ok(false), "which begins a datagram that nobody completes");
    bench.now += FRAGMENT_TIMEOUT;
    bench.table.expire(bench.now, |s, d| expired.push((s, d.fragments(), d.first().is_some())));
    assert_eq!(expired[1], (1, 1, false));
}

#[test]
fn a_flood_pushes_out_itself() {
    let mut bench = Bench::new();
    assert_eq!(bench.add_from(2, 7, FIRST), Ok(false));
    for key in 0..1000 {
        assert_eq!(bench.add(key, FIRST), Ok(false));
    }
    assert_eq!(bench.table.datagrams, 1 + EACH.datagrams);
    assert!(bench.lost.iter().all(|&lost| lost == (1, 1, DropReason::FragmentsFull)));
    assert_eq!(bench.add_from(2, 7, MIDDLE), Ok(false));
    assert_eq!(bench.add_from(2, 7, LAST), Ok(true));
    // Large ones.
    for key in 0..1000 {
        assert_eq!(bench.add(key, (0, 8000, true)), Ok(false));
    }
    assert_eq!(bench.table.shares[&1].datagrams.len(), 2);
    // Of many sources with one each, the oldest goes.
    let mut bench = Bench::new();
    for source in 0..100 {
        assert_eq!(bench.add_from(source, 7, FIRST), Ok(false));
        bench.now += Duration::from_micros(1);
    }
    let lost: Vec<_> = bench.lost.iter().map(|&(source, ..)| source).collect();
    assert_eq!(lost, (0..92).collect::<Vec<_>>());
}

#[test]
fn a_datagram_has_no_more_pieces_than_the_smallest_link_makes() {
    let each = Room { datagrams: 4, bytes: 1 << 20 };
    let mut table = FragmentTable::<u8, u16>::new(each, each);
    let mut lost = 0;
    for n in 0..=FRAGMENTS_MAX {
        let bytes = fragment_bytes(ipv4::UDP, n * 8, 8, true);
        let ip = Ipv4::parse(&bytes[14..]).unwrap();
        let fragment = Fragment { ip: &ip, headers: &bytes[..34], payload: &bytes[34..] };
        let added = table.add(1, 1, &fragment, now(), |_, count, _| lost += count);
        assert_eq!(added.err(), (n == FRAGMENTS_MAX).then_some(DropReason::FragmentsFull));
    }
    assert_eq!((lost, table.fragments()), (FRAGMENTS_MAX, 0));
}

proptest! {
    /// Against a naive reassembly: a byte map.
    #[test]
    fn random_pieces_make_what_a_byte_map_makes(
        pieces in proptest::collection::vec((0usize..6, 1usize..4, any::<bool>()), 1..12),
    ) {
        let mut bench = Bench::new();
        let (mut map, mut end, mut dead) = ([0u8; 80], None, false);
        let mut seen: Vec<(usize, usize, bool)> = Vec::new();
        for (place, units, more) in pieces {
            let piece = (place * 8, units * 8, more);
            let (from, to) = (piece.0, piece.0 + piece.1);
            let outcome = bench.add(7, piece);
            if dead {
                prop_assert!(outcome.is_err());
                continue;
            }
            if seen.contains(&piece) {
                prop_assert_eq!(outcome, Err(DropReason::DuplicateFragment));
                continue;
            }
            let highest = map.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
            let wrong_end = end.is_some_and(|end| to > end || (!more && to != end)) || (!more && highest > to);
            if wrong_end || map[from..to].iter().any(|&count| count > 0) {
                dead = true;
                prop_assert_eq!(outcome, Err(DropReason::FragmentOverlap));
                continue;
            }
            map[from..to].fill(1);
            seen.push(piece);
            if !more {
                end = Some(to);
            }
            let whole = end.is_some_and(|end| map[..end].iter().all(|&count| count > 0));
            prop_assert_eq!(outcome, Ok(whole));
            if whole {
                (map, end) = ([0; 80], None);
                seen.clear();
            }
        }
    }
}
