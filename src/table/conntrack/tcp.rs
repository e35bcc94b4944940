//! The TCP state of a connection, as a middlebox sees it.
//!
//! The tracker is liberal: it decides how long a connection lives, never whether a segment of a known
//! connection passes. Challenge ACKs, retransmitted old data and late segments are the endpoints' business
//! (RFC 5961 section 5); dropping them has stalled real connections. It is strict in one thing: a RST ends
//! a connection only when its sequence number is exactly the next one that its receiver expects (RFC 5961
//! 3.2), so that blind RSTs do nothing.
//!
//! ```text
//!  SYN ──▶ SynSent ── SYN from the other side (with ACK or without) ──▶ SynReceived ── ACKs of both ──▶ Established
//!  Established ── FIN ──▶ Closing ── FIN from the other side ──▶ TimeWait
//!  any ── exact RST ──▶ Closed ── the side that had reset goes on ──▶ Established
//!  TimeWait, Closed ── SYN ──▶ the same ── SYN from the other side ──▶ SynReceived
//! ```
//! Only Established has the long timeout.
//!
//! **A connection that is over** (TimeWait, Closed) still passes what comes, for its four minutes (RFC 7857
//! section 2). A SYN opens it anew only if the other side answers with one: until then it stays what it is, and
//! outsiders cannot keep it alive with SYNs. A side that goes on after its RST never sent it, so the connection
//! is what it was (RFC 6146 3.5.2.2, state TRANS).

use super::Direction;
use super::activity::Activity;
use crate::wire::transport::{ACK, FIN, RST, SYN, TcpSegment};

/// States of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// One side sent a SYN.
    SynSent,
    /// Both sides sent a SYN.
    SynReceived,
    /// The handshake is complete.
    Established,
    /// One side sent a FIN.
    Closing,
    /// Both sides sent a FIN.
    TimeWait,
    /// A valid RST was seen.
    Closed,
}

impl TcpState {
    /// The name, as other connection trackers print it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynReceived => "SYN_RECV",
            TcpState::Established => "ESTABLISHED",
            TcpState::Closing => "CLOSING",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Closed => "CLOSED",
        }
    }
}

/// What is remembered of a TCP connection, beside the highest acknowledgment number of each direction, which
/// is what its sender expects next: that is in the connection's [`Activity`]. Indices are [`Direction`]s.
#[derive(Debug, Clone, Copy)]
pub struct Tcp {
    /// The state.
    pub state: TcpState,
    /// Who has acknowledged the other's SYN.
    agreed: [bool; 2],
    /// Who has sent a FIN.
    fin: [bool; 2],
    /// Who sent the first SYN; in `Closed`, who sent the RST.
    first: Direction,
    /// Who has sent a SYN since the connection was over.
    reopener: Option<Direction>,
}

impl Tcp {
    /// A connection that `segment`, a SYN, opens.
    pub fn open(direction: Direction, segment: &TcpSegment, activity: &Activity) -> Self {
        expect_after(direction, segment, activity);
        Tcp {
            state: TcpState::SynSent,
            agreed: [false; 2],
            fin: [false; 2],
            first: direction,
            reopener: None,
        }
    }

    /// Whether a segment may open a connection: SYN, without ACK, RST or FIN.
    pub const fn opens(segment: &TcpSegment) -> bool {
        segment.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// Whether nothing but SYN, FIN and RST changes the state from now on.
    pub const fn is_settled(&self) -> bool {
        !matches!(self.state, TcpState::SynSent | TcpState::SynReceived | TcpState::Closed)
    }

    /// Whether the handshake is not complete.
    pub const fn is_opening(&self) -> bool {
        matches!(self.state, TcpState::SynSent | TcpState::SynReceived)
    }

    /// Whether both sides, or one by force, have ended it.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, TcpState::TimeWait | TcpState::Closed)
    }

    /// Takes note of a segment. Says whether it is a sign of life, for which the connection's time begins anew:
    /// a RST that ends nothing is none, and neither is what comes in for a connection that is over.
    pub fn segment(&mut self, direction: Direction, segment: &TcpSegment, activity: &Activity) -> bool {
        if segment.has(RST) {
            let ends = self.state != TcpState::Closed && self.is_exact(direction, segment, activity);
            if ends {
                // From now on, every packet may change more than the connection's activity.
                activity.end_life();
                *self = Tcp { state: TcpState::Closed, first: direction, reopener: None, ..*self };
            }
            return ends;
        }
        let was_over = self.is_over();
        if was_over && segment.has(SYN) {
            return self.reopen(direction, segment, activity);
        }
        match self.state {
            TcpState::SynSent if segment.has(SYN) && direction != self.first => {
                self.state = TcpState::SynReceived;
                expect_after(direction, segment, activity);
            }
            TcpState::Closed if direction == self.first && segment.has(ACK) => {
                self.state = if self.fin == [false; 2] { TcpState::Established } else { TcpState::Closing };
            }
            TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::Established
            | TcpState::Closing
            | TcpState::TimeWait
            | TcpState::Closed => {}
        }
        // An acknowledgment of something other than the SYN is an answer of an older connection (RFC 9293 3.5.1).
        if segment.has(ACK) && self.state != TcpState::SynSent {
            self.acknowledge(direction, segment, activity);
        }
        if segment.has(FIN) {
            self.fin[direction as usize] = true;
            self.state = match (self.state, self.fin) {
                (TcpState::Closed, _) => TcpState::Closed,
                (_, [true, true]) => TcpState::TimeWait,
                _ => TcpState::Closing,
            };
        }
        if self.is_over() && !was_over {
            activity.end_life();
        }
        direction == Direction::Outward || !(was_over && self.is_over())
    }
    /// A SYN to a connection that is over.
    fn reopen(&mut self, direction: Direction, segment: &TcpSegment, activity: &Activity) -> bool {
        match self.reopener {
            Some(first) if first != direction => {
                *self =
                    Tcp { state: TcpState::SynReceived, first, ..Tcp::open(direction, segment, activity) };
                activity.end_life();
                if segment.has(ACK) {
                    self.acknowledge(direction, segment, activity);
                }
                true
            }
            _ if Tcp::opens(segment) => {
                expect_after(direction, segment, activity);
                self.reopener = Some(direction);
                direction == Direction::Outward
            }
            _ => false,
        }
    }

    fn acknowledge(&mut self, direction: Direction, segment: &TcpSegment, activity: &Activity) {
        if std::mem::replace(&mut self.agreed[direction as usize], true) {
            activity.acknowledge(direction, segment.ack);
        } else {
            activity.set_acked(direction, segment.ack);
        }
        if self.state == TcpState::SynReceived && self.agreed == [true, true] {
            self.state = TcpState::Established;
        }
    }

    /// Whether a RST is at exactly the number that its receiver expects next. A receiver that has said
    /// nothing yet is one that refuses a SYN: its RST acknowledges the SYN.
    fn is_exact(&self, direction: Direction, segment: &TcpSegment, activity: &Activity) -> bool {
        if self.state == TcpState::SynSent && direction != self.first {
            return segment.has(ACK) && segment.ack == activity.acked(direction);
        }
        segment.seq == activity.acked(direction.other())
    }
}

/// Notes what the other side will expect once it has this SYN.
fn expect_after(direction: Direction, syn: &TcpSegment, activity: &Activity) {
    activity.set_acked(direction.other(), syn.seq.wrapping_add(syn.len));
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inward, Outward};

    fn segment(flags: u8, seq: u32, ack: u32, data: u32) -> TcpSegment {
        let len = data + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        TcpSegment { seq, ack, flags, len }
    }

    /// A connection with what its packets change.
    struct Pair(Tcp, Activity);

    impl Pair {
        fn open(direction: Direction, segment: &TcpSegment) -> Pair {
            let activity = Activity::default();
            Pair(Tcp::open(direction, segment, &activity), activity)
        }

        fn segment(&mut self, direction: Direction, segment: &TcpSegment) -> bool {
            self.0.segment(direction, segment, &self.1)
        }
    }

    fn established() -> Pair {
        let mut tcp = Pair::open(Outward, &segment(SYN, 100, 0, 0));
        tcp.segment(Inward, &segment(SYN | ACK, 500, 101, 0));
        assert_eq!(tcp.0.state, TcpState::SynReceived);
        tcp.segment(Outward, &segment(ACK, 101, 501, 0));
        assert_eq!(tcp.0.state, TcpState::Established);
        tcp
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let mut tcp = established();
        tcp.segment(Outward, &segment(FIN | ACK, 101, 501, 0));
        assert_eq!(tcp.0.state, TcpState::Closing);
        tcp.segment(Inward, &segment(ACK, 501, 102, 10));
        assert_eq!(tcp.0.state, TcpState::Closing);
        tcp.segment(Inward, &segment(FIN | ACK, 511, 102, 0));
        assert_eq!(tcp.0.state, TcpState::TimeWait);
    }

    #[test]
    fn what_is_over_opens_anew_by_a_syn_of_both_sides_only() {
        for over in [FIN | ACK, RST] {
            for (first, second) in [(Outward, Inward), (Inward, Outward)] {
                let mut tcp = established();
                tcp.segment(Inward, &segment(over, 501, 101, 0));
                tcp.segment(Outward, &segment(FIN | ACK, 101, 502, 0));
                let state = tcp.0.state;
                assert!(matches!(state, TcpState::TimeWait | TcpState::Closed), "{state:?}");
                for seq in [9000, 9000, 9500] {
                    let life = tcp.segment(first, &segment(SYN, seq, 0, 0));
                    assert_eq!((tcp.0.state, life), (state, first == Outward), "one side alone");
                }
                assert!(tcp.segment(second, &segment(SYN | ACK, 700, 9501, 0)));
                assert_eq!(tcp.0.state, TcpState::SynReceived);
                tcp.segment(first, &segment(ACK, 9501, 701, 0));
                assert_eq!(tcp.0.state, TcpState::Established);
            }
        }
    }

    #[test]
    fn a_side_that_goes_on_after_its_reset_never_sent_it() {
        let mut tcp = established();
        tcp.segment(Inward, &segment(RST, 501, 0, 0));
        assert!(tcp.segment(Outward, &segment(ACK, 101, 501, 10)));
        assert_eq!(tcp.0.state, TcpState::Closed, "the other side may not know yet");
        assert!(!tcp.segment(Inward, &segment(RST, 501, 0, 0)), "it ends nothing any more");
        tcp.segment(Inward, &segment(ACK, 501, 111, 10));
        assert_eq!(tcp.0.state, TcpState::Established);
    }

    #[test]
    fn simultaneous_open_establishes() {
        let mut tcp = Pair::open(Outward, &segment(SYN, 100, 0, 0));
        tcp.segment(Inward, &segment(SYN, 500, 0, 0));
        assert_eq!(tcp.0.state, TcpState::SynReceived);
        tcp.segment(Outward, &segment(SYN | ACK, 100, 501, 0));
        assert_eq!(tcp.0.state, TcpState::SynReceived);
        // RFC 9293 figure 7: either side's SYN-ACK is the other's acknowledgment.
        tcp.segment(Inward, &segment(SYN | ACK, 500, 101, 0));
        assert_eq!(tcp.0.state, TcpState::Established);
    }

    #[test]
    fn only_an_exact_rst_closes() {
        let mut tcp = established();
        for seq in [0, 500, 502, 501_u32.wrapping_sub(65_535), u32::MAX] {
            assert!(!tcp.segment(Inward, &segment(RST, seq, 0, 0)), "no sign of life");
            assert_eq!(tcp.0.state, TcpState::Established, "{seq}");
        }
        tcp.segment(Inward, &segment(RST, 501, 0, 0));
        assert_eq!(tcp.0.state, TcpState::Closed);
    }

    #[test]
    fn a_refused_syn_closes_and_a_blind_refusal_does_not() {
        let mut tcp = Pair::open(Outward, &segment(SYN, 100, 0, 0));
        tcp.segment(Inward, &segment(RST | ACK, 0, 77, 0));
        assert_eq!(tcp.0.state, TcpState::SynSent);
        tcp.segment(Inward, &segment(RST | ACK, 0, 101, 0));
        assert_eq!(tcp.0.state, TcpState::Closed);
    }

    #[test]
    fn a_retransmitted_syn_changes_nothing() {
        let mut tcp = Pair::open(Outward, &segment(SYN, 100, 0, 0));
        tcp.segment(Outward, &segment(SYN, 100, 0, 0));
        assert_eq!(tcp.0.state, TcpState::SynSent);
        assert!(!Tcp::opens(&segment(SYN | ACK, 0, 0, 0)) && !Tcp::opens(&segment(ACK, 0, 0, 0)));
    }
}
