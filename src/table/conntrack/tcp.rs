//! The TCP state of a connection, as a middlebox sees it.
//!
//! The tracker is liberal: it decides how long a connection lives, never whether a segment of a known
//! connection passes. Challenge ACKs, retransmitted old data and late segments are the endpoints' business
//! (RFC 5961 section 5); dropping them has stalled real connections. It is strict in one thing: a RST ends
//! a connection only when its sequence number is exactly the next one that its receiver expects (RFC 5961
//! 3.2), so that blind RSTs do nothing.
//!
//! ```text
//!  SYN ──▶ SynSent ── SYN from the other side (with ACK or without) ──▶ SynReceived ── ACK ──▶ Established
//!  Established ── FIN ──▶ Closing ── FIN from the other side ──▶ TimeWait
//!  any ── exact RST ──▶ Closed;    TimeWait, Closed ── SYN ──▶ SynSent
//! ```
//! Only Established has the long timeout.

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
    /// Whether anything is known of what the sender of each direction expects.
    known: [bool; 2],
    fin: [bool; 2],
    opener: Direction,
}

impl Tcp {
    /// A connection that `segment`, a SYN, opens.
    pub fn open(direction: Direction, segment: &TcpSegment, activity: &Activity) -> Self {
        let mut known = [false; 2];
        // What the other side will expect once it has this SYN.
        known[direction.other() as usize] = true;
        activity.set_acked(direction.other(), segment.seq.wrapping_add(segment.len));
        Tcp { state: TcpState::SynSent, known, fin: [false; 2], opener: direction }
    }

    /// Whether a segment may open a connection: SYN, without ACK, RST or FIN.
    pub const fn opens(segment: &TcpSegment) -> bool {
        segment.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// Whether nothing but SYN, FIN and RST changes the state from now on.
    pub const fn is_settled(&self) -> bool {
        !matches!(self.state, TcpState::SynSent | TcpState::SynReceived)
    }

    /// Takes note of a segment.
    pub fn segment(&mut self, direction: Direction, segment: &TcpSegment, activity: &Activity) {
        if segment.has(RST) {
            if self.is_exact(direction, segment, activity) {
                self.state = TcpState::Closed;
            }
            return;
        }
        match self.state {
            TcpState::TimeWait | TcpState::Closed if Tcp::opens(segment) => {
                *self = Tcp::open(direction, segment, activity);
                activity.end_life();
                return;
            }
            TcpState::SynSent if segment.has(SYN) && direction != self.opener => {
                self.state = TcpState::SynReceived;
            }
            TcpState::SynReceived if segment.has(ACK) && !segment.has(SYN) => {
                self.state = TcpState::Established;
            }
            TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::Established
            | TcpState::Closing
            | TcpState::TimeWait
            | TcpState::Closed => {}
        }
        if segment.has(FIN) {
            self.fin[direction as usize] = true;
            self.state = match (self.state, self.fin) {
                (TcpState::Closed, _) => TcpState::Closed,
                (_, [true, true]) => TcpState::TimeWait,
                _ => TcpState::Closing,
            };
        }
        if segment.has(ACK) {
            if std::mem::replace(&mut self.known[direction as usize], true) {
                activity.acknowledge(direction, segment.ack);
            } else {
                activity.set_acked(direction, segment.ack);
            }
        }
    }

    /// Whether a RST is at exactly the number that its receiver expects next. A receiver that has said
    /// nothing yet is one that refuses a SYN: its RST acknowledges the SYN.
    fn is_exact(&self, direction: Direction, segment: &TcpSegment, activity: &Activity) -> bool {
        if self.state == TcpState::SynSent && direction != self.opener {
            return segment.has(ACK) && segment.ack == activity.acked(direction);
        }
        self.known[direction.other() as usize] && segment.seq == activity.acked(direction.other())
    }
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

        fn segment(&mut self, direction: Direction, segment: &TcpSegment) {
            self.0.segment(direction, segment, &self.1);
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
        tcp.segment(Outward, &segment(SYN, 9000, 0, 0));
        assert_eq!(tcp.0.state, TcpState::SynSent);
    }

    #[test]
    fn simultaneous_open_establishes() {
        let mut tcp = Pair::open(Outward, &segment(SYN, 100, 0, 0));
        tcp.segment(Inward, &segment(SYN, 500, 0, 0));
        assert_eq!(tcp.0.state, TcpState::SynReceived);
        tcp.segment(Outward, &segment(SYN | ACK, 100, 501, 0));
        tcp.segment(Inward, &segment(ACK, 501, 101, 0));
        assert_eq!(tcp.0.state, TcpState::Established);
    }

    #[test]
    fn only_an_exact_rst_closes() {
        let mut tcp = established();
        for seq in [0, 500, 502, 501_u32.wrapping_sub(65_535), u32::MAX] {
            tcp.segment(Inward, &segment(RST, seq, 0, 0));
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
