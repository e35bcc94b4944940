//! What the switch answers. Field names are part of the command line's contract: scripts read them.
//!
//! Every field is present in every object; what does not apply is `null`. Numbers are plain numbers in
//! the unit that the name says (bytes, seconds); names stand for networks and ports, never their numbers.

use serde::{Deserialize, Serialize};

mod files;
mod networks;
mod ports;
mod rules;
mod switch;
mod tables;

pub use files::{Applied, Configuration, Fault};
pub use networks::{DhcpInfo, DhcpRange, LeaseInfo, NetworkDetail, NetworkInfo};
pub use ports::{NatPorts, PolicingInfo, PortDetail, PortInfo, PortKind};
pub use rules::{CheckInfo, DefaultInfo, PublicationInfo, RuleInfo, TargetInfo};
pub use switch::{
    Counts, DropInfo, DroppedFrame, Limits, PortStats, StateInfo, Stats, Status, UplinkInfo, Usage,
    WorkerStats,
};
pub use tables::{ConnectionInfo, ConnectionStats, FdbEntry, Flow, NeighborInfo, PerDirection, Timeout};

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)] // one variant for each type of answer
pub enum Response {
    Status(Box<Status>),
    Networks(Vec<NetworkInfo>),
    Uplinks(Vec<UplinkInfo>),
    Network(NetworkInfo),
    NetworkDetail(Box<NetworkDetail>),
    Dhcp(DhcpInfo),
    Leases(Vec<LeaseInfo>),
    Ports(Vec<PortInfo>),
    Port(Box<PortInfo>),
    PortDetail(Box<PortDetail>),
    Fdb(Vec<FdbEntry>),
    Neighbors(Vec<NeighborInfo>),
    Connections(Vec<ConnectionInfo>),
    ConnectionStats(ConnectionStats),
    Timeouts(Vec<Timeout>),
    Publications(Vec<PublicationInfo>),
    Publication(PublicationInfo),
    Rules(Vec<RuleInfo>),
    Rule(RuleInfo),
    Defaults(Vec<DefaultInfo>),
    Check(CheckInfo),
    Drops(Vec<DropInfo>),
    Stats(Stats),
    Applied(Applied),
    Configuration(Configuration),
    Done(Done),
}

/// How many things a request changed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many.
    pub changed: usize,
}
