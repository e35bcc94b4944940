//! Coalescing: what is merged, what is not, and that cutting it again gives what came.
//!
//! The property is the fuzz target's ([`bodies::coalesce`]); here it is asked of bursts that are mostly
//! regular, and beside it, how much is merged.

use proptest::prelude::*;
use vswitchd::addr::PortId;
use vswitchd::limits::COALESCED_DATAGRAMS_MAX;

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use bodies::coalesce::{ALL, Burst, NONE, TCP_ONLY, run};
use bodies::flows::{Flow, Odd};

/// Flow numbers: UDP and TCP, over IPv4 and IPv6.
const UDP4: u8 = 0;
const TCP4: u8 = 1;
const UDP6: u8 = 2;
const TCP6: u8 = 3;
const KINDS: [u8; 4] = [UDP4, TCP4, UDP6, TCP6];

/// What is known of a checksum: nothing, that it is right, that it is partial.
const SUMS: [u8; 3] = [0, 1, 2];

/// How many frames the port gets for these packets of one flow, as (length, oddity, checksum).
fn frames(kind: u8, port: PortId, packets: &[(u8, Option<u8>, u8)]) -> usize {
    let (mut flow, mut burst) = (Flow::new(kind), Burst::default());
    for &(length, odd, sum) in packets {
        let (bytes, offload) = flow.packet(length, odd, sum);
        burst.add(&bytes, offload, &[port]);
    }
    burst.check()[&port]
}

const REGULAR: (u8, Option<u8>, u8) = (0, None, 2);
const SHORTER: (u8, Option<u8>, u8) = (13, None, 2);
const LONGER: (u8, Option<u8>, u8) = (14, None, 2);
const EMPTY: (u8, Option<u8>, u8) = (15, None, 2);

const fn odd(what: u8) -> (u8, Option<u8>, u8) {
    (0, Some(what), 2)
}

proptest! {
    #[test]
    fn cutting_gives_what_came(burst in proptest::collection::vec((0u8..0xf0, any::<u8>()), 0..90)) {
        run(&burst.iter().flat_map(|&(what, how)| [what, how]).collect::<Vec<_>>());
    }

    #[test]
    fn cutting_gives_what_came_of_regular_flows(
        burst in proptest::collection::vec((0u8..16, prop_oneof![9 => Just(0u8), 1 => 0u8..15], 0u8..3), 0..90),
    ) {
        run(&burst.iter().flat_map(|&(flow, length, sum)| [length << 4 | flow, sum]).collect::<Vec<_>>());
    }
}

#[test]
fn packets_of_one_flow_become_one_frame_whatever_is_known_of_their_checksums() {
    for kind in KINDS {
        for sum in SUMS {
            assert_eq!(frames(kind, ALL, &[(0, None, sum); 5]), 1, "flow {kind}, checksum {sum}");
        }
        assert_eq!(frames(kind, ALL, &SUMS.map(|sum| (0, None, sum))), 1, "flow {kind}, all kinds");
    }
}

#[test]
fn a_shorter_packet_is_the_last_and_a_longer_or_empty_one_is_apart() {
    for kind in KINDS {
        assert_eq!(frames(kind, ALL, &[REGULAR, REGULAR, SHORTER]), 1);
        assert_eq!(frames(kind, ALL, &[REGULAR, SHORTER, REGULAR, REGULAR]), 2);
        assert_eq!(frames(kind, ALL, &[REGULAR, LONGER, LONGER]), 2);
        assert_eq!(frames(kind, ALL, &[REGULAR, EMPTY, REGULAR]), 3);
    }
}

#[test]
fn a_super_frame_stays_within_its_bounds() {
    for kind in [UDP4, UDP6] {
        assert_eq!(frames(kind, ALL, &[REGULAR; COALESCED_DATAGRAMS_MAX]), 1);
        assert_eq!(frames(kind, ALL, &[REGULAR; COALESCED_DATAGRAMS_MAX + 1]), 2);
    }
    // 1400 bytes from the second packet on: 46 of them are 64,400 bytes.
    for kind in KINDS {
        let packets: Vec<_> = std::iter::once((12, None, 2)).chain([REGULAR; 46]).collect();
        assert_eq!(frames(kind, ALL, &packets[..46]), 1);
        assert_eq!(frames(kind, ALL, &packets), 2);
    }
}

#[test]
fn flows_are_merged_though_they_are_interleaved() {
    let mut flows: Vec<_> = (0..16).map(Flow::new).collect();
    let mut burst = Burst::default();
    for _ in 0..4 {
        for (number, flow) in flows.iter_mut().enumerate() {
            let (bytes, offload) = flow.packet(0, None, 2);
            burst.add(&bytes, offload, &[if number < 8 { ALL } else { TCP_ONLY }]);
        }
    }
    // Of the second port's flows, four of TCP become a frame each, and four of UDP stay four frames each.
    assert_eq!(burst.check(), [(ALL, 8), (TCP_ONLY, 4 + 4 * 4)].into());
}

#[test]
fn only_a_port_that_takes_super_frames_gets_them() {
    for kind in KINDS {
        assert_eq!(frames(kind, NONE, &[REGULAR; 3]), 3);
    }
    assert_eq!([UDP4, TCP4, UDP6, TCP6].map(|kind| frames(kind, TCP_ONLY, &[REGULAR; 3])), [3, 1, 3, 1]);
}

#[test]
fn what_does_not_go_on_ends_the_run_and_may_begin_the_next() {
    let tcp =
        [Odd::ACK_NUMBER, Odd::WINDOW, Odd::OPTIONS, Odd::GAP, Odd::RESERVED, Odd::URGENT_POINTER, Odd::ECE];
    for kind in [TCP4, TCP6] {
        for what in tcp {
            let sides = if what == Odd::GAP { 2 } else { 3 };
            let packets = [REGULAR, REGULAR, odd(what), REGULAR, REGULAR];
            assert_eq!(frames(kind, ALL, &packets), sides, "flow {kind}, oddity {what}");
        }
    }
    for kind in KINDS {
        for what in [Odd::TTL, Odd::TOS, Odd::MAC, Odd::TAGGED] {
            assert_eq!(frames(kind, ALL, &[REGULAR, REGULAR, odd(what), REGULAR]), 3, "flow {kind}, {what}");
            assert_eq!(frames(kind, ALL, &[odd(what), odd(what), odd(what)]), 1, "flow {kind}, {what}");
        }
    }
}

#[test]
fn what_is_never_merged() {
    for kind in [TCP4, TCP6] {
        for what in [Odd::SYN, Odd::RST, Odd::URG, Odd::CWR, Odd::NO_ACK] {
            assert_eq!(frames(kind, ALL, &[odd(what); 3]), 3, "flow {kind}, oddity {what}");
        }
    }
    for kind in KINDS {
        for what in [Odd::FRAGMENT, Odd::EXTENDED, Odd::PADDED, Odd::WRONG_PROMISE] {
            assert_eq!(frames(kind, ALL, &[odd(what); 3]), 3, "flow {kind}, oddity {what}");
            assert_eq!(frames(kind, ALL, &[REGULAR, odd(what), REGULAR]), 3, "flow {kind}, oddity {what}");
        }
    }
    assert_eq!(frames(UDP4, ALL, &[odd(Odd::NO_CHECKSUM); 3]), 3);
    assert_eq!(frames(UDP4, ALL, &[odd(Odd::UDP_LENGTH); 3]), 3);
    assert_eq!(frames(UDP4, ALL, &[odd(Odd::DAMAGED_HEADER); 3]), 3);
}

#[test]
fn psh_and_fin_end_a_run() {
    for what in [Odd::PSH, Odd::FIN] {
        assert_eq!(frames(TCP4, ALL, &[REGULAR, odd(what), REGULAR, REGULAR]), 2);
        assert_eq!(frames(TCP4, ALL, &[odd(what), REGULAR, odd(what)]), 2);
    }
}

#[test]
fn damage_stays_visible() {
    let whole = (0, None, 0);
    let damaged = (0, Some(Odd::DAMAGED), 0);
    for kind in KINDS {
        // That nothing else is merged with it, and that its bytes stay, is part of every check.
        assert_eq!(
            frames(kind, ALL, &[whole, whole, damaged, whole, whole]),
            3,
            "flow {kind}: in the middle"
        );
        assert_eq!(frames(kind, ALL, &[damaged, whole, whole]), 2, "flow {kind}: first");
        assert_eq!(frames(kind, ALL, &[damaged; 3]), 3, "flow {kind}: all");
    }
}

#[test]
fn without_df_identifications_count_up() {
    let begin = odd(Odd::MAY_FRAGMENT);
    for kind in [UDP4, TCP4] {
        assert_eq!(frames(kind, ALL, &[begin, REGULAR, REGULAR]), 1);
        assert_eq!(frames(kind, ALL, &[begin, REGULAR, odd(Odd::ID), REGULAR]), 2);
        assert_eq!(frames(kind, ALL, &[REGULAR, odd(Odd::ID), REGULAR]), 1, "with DF they say nothing");
        assert_eq!(frames(kind, ALL, &[begin, odd(Odd::MAY_FRAGMENT), REGULAR]), 2, "with DF and without");
    }
}

#[test]
fn super_frames_take_more_of_the_same_size() {
    for kind in KINDS {
        assert_eq!(
            frames(kind, ALL, &[odd(Odd::THREE), REGULAR, odd(Odd::THREE), SHORTER]),
            1,
            "flow {kind}"
        );
        assert_eq!(
            frames(kind, ALL, &[odd(Odd::TWO_AND_A_HALF), REGULAR]),
            2,
            "flow {kind}: it has its last"
        );
        assert_eq!(frames(kind, ALL, &[LONGER, odd(Odd::THREE)]), 2, "flow {kind}: another size");
    }
    assert_eq!(frames(UDP4, ALL, &[odd(Odd::FORTY), odd(Odd::FORTY)]), 2);
    assert_eq!(frames(TCP4, ALL, &[odd(Odd::FORTY), odd(Odd::FORTY)]), 1);
}

#[test]
fn what_is_flooded_is_not_merged_and_not_overtaken() {
    let (mut flow, mut burst) = (Flow::new(UDP4), Burst::default());
    for ports in [&[ALL][..], &[ALL], &[ALL, TCP_ONLY, NONE], &[ALL], &[ALL]] {
        let (bytes, offload) = flow.packet(0, None, 2);
        burst.add(&bytes, offload, ports);
    }
    assert_eq!(burst.check(), [(ALL, 3), (TCP_ONLY, 1), (NONE, 1)].into());
}
