//! A connection: what is known of it, and what its packets change.

use std::time::Duration;

use super::activity::Activity;
use super::ask::{Direction, Seen};
use super::info::{Info, Nat};
use super::tcp::{Tcp, TcpState};
use super::timeouts::Timeouts;
use crate::addr::{Address, Endpoint, PortId, Protocol};
use crate::clock::Time;

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    Tcp(Tcp),
    /// UDP or an ICMP query, and whether the other side has spoken.
    Query {
        replied: bool,
    },
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection<A> {
    pub(super) protocol: Protocol,
    pub(super) nat: Nat,
    pub(super) opener: Direction,
    /// Whether the outside port is the mapping's, to be given back with it.
    pub(super) mapped: bool,
    pub(super) port: PortId,
    pub(super) inside: Endpoint<A>,
    pub(super) outside: Endpoint<A>,
    pub(super) remote: Endpoint<A>,
    pub(super) state: State,
    /// How long it lives after it was last refreshed, in milliseconds.
    pub(super) timeout: u32,
}

impl<A: Address> Connection<A> {
    /// Whether it is not translated.
    pub(super) fn is_direct(&self) -> bool {
        self.nat == Nat::None
    }

    pub(super) fn has_inside(&self, protocol: Protocol, inside: Endpoint<A>, remote: Endpoint<A>) -> bool {
        self.inside == inside && self.remote == remote && self.protocol == protocol
    }

    pub(super) fn has_outside(&self, protocol: Protocol, outside: Endpoint<A>, remote: Endpoint<A>) -> bool {
        self.outside == outside && self.remote == remote && self.protocol == protocol
    }

    pub(super) fn note(
        &mut self,
        direction: Direction,
        seen: &Seen,
        timeouts: &Timeouts,
        activity: &Activity,
    ) {
        activity.count(direction, seen.bytes);
        let refreshes = match (&mut self.state, &seen.segment) {
            (State::Tcp(tcp), Some(segment)) => tcp.segment(direction, segment, activity),
            (State::Tcp(_), None) => false,
            (State::Query { replied }, _) => {
                *replied |= direction != self.opener;
                self.is_refreshed_by(direction)
            }
        };
        if refreshes {
            activity.refresh(seen.now);
            self.set_timeout(timeouts);
        }
    }

    /// Whether it is a TCP connection that only waits for late segments.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Tcp(tcp) if tcp.is_over())
    }

    /// Whether both sides have shown that they are where they say they are.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.state, State::Tcp(tcp) if !tcp.is_opening())
    }

    pub(super) fn set_timeout(&mut self, timeouts: &Timeouts) {
        self.timeout = u32::try_from(self.timeout(timeouts).as_millis()).unwrap_or(u32::MAX);
    }

    /// Whether a packet of this direction pushes the deadline. From outside it does not where that would keep a
    /// mapping (RFC 4787 REQ-6), but does where a port is published, and for TCP until that says that it is over.
    pub(super) fn is_refreshed_by(&self, direction: Direction) -> bool {
        let from_outside = match self.state {
            State::Tcp(tcp) => !tcp.is_over(),
            State::Query { .. } => !self.mapped,
        };
        direction == Direction::Outward || from_outside
    }

    /// Whether further packets of this direction, those with SYN, FIN or RST apart, change nothing but the
    /// connection's activity.
    pub(super) fn is_settled(&self, direction: Direction) -> bool {
        match self.state {
            State::Tcp(tcp) => tcp.is_settled(),
            State::Query { replied } => replied || direction == self.opener,
        }
    }

    fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match (&self.state, self.protocol) {
            (State::Tcp(tcp), _) if tcp.state == TcpState::Established => timeouts.tcp_established,
            (State::Tcp(_), _) => timeouts.tcp_transitory,
            (State::Query { .. }, Protocol::Icmp) => timeouts.icmp,
            (State::Query { .. }, Protocol::Tcp | Protocol::Udp) => timeouts.udp,
        }
    }

    pub(super) fn deadline(&self, activity: &Activity) -> Time {
        activity.refreshed() + Duration::from_millis(u64::from(self.timeout))
    }

    pub(super) fn info(&self, activity: &Activity, now: Time) -> Info<A> {
        let ordered = |by_direction: [u64; 2]| {
            [by_direction[self.opener as usize], by_direction[self.opener.other() as usize]]
        };
        Info {
            protocol: self.protocol,
            state: match self.state {
                State::Tcp(tcp) => tcp.state.as_str(),
                State::Query { replied: true } => "REPLIED",
                State::Query { replied: false } => "UNREPLIED",
            },
            nat: self.nat,
            opener: self.opener,
            port: self.port,
            inside: self.inside,
            outside: self.outside,
            remote: self.remote,
            expires: self.deadline(activity).since(now),
            packets: ordered(activity.packets()),
            bytes: ordered(activity.bytes()),
        }
    }
}
