//! Connections and figures as they are listed.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Direction;
use crate::addr::{Endpoint, PortId, Protocol};

/// How a connection is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// The container spoke first and is masqueraded.
    Snat,
    /// The world spoke first, to a published port.
    Dnat,
    /// Not at all: both ends are containers, on networks that the gateway routes between.
    None,
    /// Both ends are containers, who meet at the uplink's address.
    Hairpin,
}

impl Nat {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Nat::Snat => "snat",
            Nat::Dnat => "dnat",
            Nat::None => "none",
            Nat::Hairpin => "hairpin",
        }
    }
}

/// One connection, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info<A = Ipv4Addr> {
    /// TCP, UDP or ICMP query.
    pub protocol: Protocol,
    /// The state's name.
    pub state: &'static str,
    /// How it is translated.
    pub nat: Nat,
    /// Who spoke first.
    pub opener: Direction,
    /// The container's port of the switch.
    pub port: PortId,
    /// The container's endpoint.
    pub inside: Endpoint<A>,
    /// What the world sees in its place.
    pub outside: Endpoint<A>,
    /// The peer.
    pub remote: Endpoint<A>,
    /// Time left without traffic.
    pub expires: Duration,
    /// Packets in the original direction and in reply.
    pub packets: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
}

impl<A: Copy> Info<A> {
    /// Whether the remote spoke first.
    pub fn inside_answers(&self) -> bool {
        self.opener == Direction::Inward
    }

    /// Source and destination of the packets of who spoke first, as it sent them.
    pub fn original(&self) -> (Endpoint<A>, Endpoint<A>) {
        match self.opener {
            Direction::Outward => (self.inside, self.peer_of(self.inside)),
            Direction::Inward => (self.peer_of(self.outside), self.outside),
        }
    }

    /// Source and destination of the answers, as the answering side sends them.
    pub fn reply(&self) -> (Endpoint<A>, Endpoint<A>) {
        match self.opener {
            Direction::Outward => (self.peer_of(self.outside), self.outside),
            Direction::Inward => (self.inside, self.peer_of(self.inside)),
        }
    }

    /// The remote; an ICMP query's one identifier stands for both ports.
    fn peer_of(&self, end: Endpoint<A>) -> Endpoint<A> {
        match self.protocol {
            Protocol::Icmp => Endpoint { port: end.port, ..self.remote },
            Protocol::Tcp | Protocol::Udp => self.remote,
        }
    }
}

/// What a table has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections now.
    pub connections: u64,
    /// Most connections.
    pub limit: u64,
    /// Connections made.
    pub created: u64,
    /// Connections that timed out.
    pub expired: u64,
    /// TCP connections that were over and made room for new ones.
    pub reclaimed: u64,
    /// Connections that were removed on request.
    pub flushed: u64,
    /// Refused because the table was full.
    pub refused_full: u64,
    /// Refused because the port had its quota.
    pub refused_quota: u64,
    /// Refused because the port had its quota of external ports.
    pub refused_port_quota: u64,
    /// Refused because no external port was left.
    pub ports_exhausted: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.connections += other.connections;
        self.limit += other.limit;
        self.created += other.created;
        self.expired += other.expired;
        self.reclaimed += other.reclaimed;
        self.flushed += other.flushed;
        self.refused_full += other.refused_full;
        self.refused_quota += other.refused_quota;
        self.refused_port_quota += other.refused_port_quota;
        self.ports_exhausted += other.ports_exhausted;
    }
}
