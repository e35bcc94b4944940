//! What is asked of a table about a packet, and what it answers.

use std::net::Ipv4Addr;

use crate::addr::{Address, Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::drops::DropReason;
use crate::wire::transport::TcpSegment;

/// Which way a packet goes through the translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the container to the world.
    Outward = 0,
    /// From the world to the container.
    Inward = 1,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn other(self) -> Direction {
        match self {
            Direction::Outward => Direction::Inward,
            Direction::Inward => Direction::Outward,
        }
    }
}

/// What a packet means to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// TCP, UDP or ICMP query.
    pub protocol: Protocol,
    /// The TCP header, where it is TCP.
    pub segment: Option<TcpSegment>,
    /// Whether it is an ICMP answer, which opens nothing.
    pub is_answer: bool,
    /// Bytes of the IP packet.
    pub bytes: usize,
    /// When.
    pub now: Time,
}

/// What a new connection needs beyond its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewConnection {
    /// The container's port of the switch, who answers for it.
    pub port: PortId,
    /// Whether its remote is reached through a second translation.
    pub hairpin: bool,
    /// Whether that port is called, and does not call: then it does not choose how many connections it has.
    pub called: bool,
}

/// Answers for what a packet makes in a table: it is asked before.
pub trait Sponsor {
    /// A connection is to be made.
    ///
    /// # Errors
    /// Why it may not be.
    fn connection(&mut self) -> Result<NewConnection, DropReason>;

    /// The connection is to have an external port of its own, which was free until now.
    ///
    /// # Errors
    /// Why it may not.
    fn external_port(&mut self) -> Result<(), DropReason>;
}

/// Who does not mind how many external ports there are.
impl<F: FnMut() -> Result<NewConnection, DropReason>> Sponsor for F {
    fn connection(&mut self) -> Result<NewConnection, DropReason> {
        self()
    }

    fn external_port(&mut self) -> Result<(), DropReason> {
        Ok(())
    }
}

/// A connection that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The container's port of the switch, who answered for it.
    pub port: PortId,
    /// If it was the last one of a mapping: the protocol of the external port, and who answered for that.
    pub freed: Option<(Protocol, PortId)>,
}

/// What a table answers about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<A: Address = Ipv4Addr> {
    /// What the packet's own endpoint becomes on the other side of the translation.
    pub endpoint: Endpoint<A>,
    /// How further packets like it may be noted without the table; `None` if they may change more of the
    /// connection than its [`Activity`](super::Activity).
    pub track: Option<Track>,
}

/// How to note further packets of a direction of a connection in its [`Activity`](super::Activity).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Track {
    /// The connection's place.
    pub number: u32,
    /// The life that it leads there.
    pub life: u32,
    /// The direction.
    pub direction: Direction,
    /// Whether its packets push the deadline.
    pub refreshes: bool,
}
