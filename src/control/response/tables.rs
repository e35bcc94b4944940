//! What is answered about what the switch has learned and tracks: FDB, neighbors, connections.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::addr::{Endpoint, MacAddr, Protocol};

/// `fdb show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct FdbEntry {
    pub network: String,
    pub mac: MacAddr,
    /// `null` for the switch's own addresses.
    pub port: Option<String>,
    /// `dynamic`, `static` or `local`.
    pub r#type: String,
    pub age_seconds: u64,
}

/// `neigh show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct NeighborInfo {
    /// The network, or an uplink's interface.
    pub network: String,
    pub ip: Ipv4Addr,
    /// `null` while nobody answered.
    pub mac: Option<MacAddr>,
    pub state: String,
    pub age_seconds: u64,
}

/// One direction of a connection. For ICMP queries both ports are the identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Flow {
    pub src: Ipv4Addr,
    pub sport: u16,
    pub dst: Ipv4Addr,
    pub dport: u16,
}

impl From<(Endpoint, Endpoint)> for Flow {
    fn from((source, destination): (Endpoint, Endpoint)) -> Flow {
        Flow { src: source.ip, sport: source.port, dst: destination.ip, dport: destination.port }
    }
}

/// A count for each direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PerDirection {
    pub original: u64,
    pub reply: u64,
}

impl From<[u64; 2]> for PerDirection {
    fn from([original, reply]: [u64; 2]) -> PerDirection {
        PerDirection { original, reply }
    }
}

/// `ct ls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ConnectionInfo {
    pub proto: Protocol,
    pub state: String,
    pub port: String,
    pub network: String,
    /// As the first packet came.
    pub original: Flow,
    /// As an answer comes, before it is translated back.
    pub reply: Flow,
    pub expires_seconds: u64,
    pub packets: PerDirection,
    pub bytes: PerDirection,
    /// `none`, `snat`, `dnat` or `hairpin`.
    pub nat: String,
}

/// `ct stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ConnectionStats {
    pub connections: u64,
    pub limit: u64,
    pub created: u64,
    pub expired: u64,
    /// TCP connections that were over and made room for new ones.
    pub reclaimed: u64,
    pub flushed: u64,
    /// Refused because the table was full.
    pub refused_full: u64,
    /// Refused because the port had as many as it may have.
    pub refused_quota: u64,
    /// Refused because the port had as many external ports as it may have.
    pub refused_port_quota: u64,
    /// Refused because no external port was free.
    pub ports_exhausted: u64,
}

/// `ct timeouts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Timeout {
    pub key: String,
    pub seconds: u64,
}
