//! What is answered about ports.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::super::request::Security;
use super::{DropInfo, PublicationInfo, Usage};
use crate::addr::{MacAddr, Vid};
use crate::snapshot::Policing;

/// External ports that a port of the switch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct NatPorts {
    pub tcp: Usage,
    pub udp: Usage,
    /// Identifiers of echo requests.
    pub icmp: Usage,
}

/// How a port is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A TAP moved into a namespace.
    Netns,
    /// A TAP in the switch's namespace.
    Tap,
    /// An interface that existed before.
    Device,
    /// A TAP in the switch's namespace with an address for the host.
    Host,
    /// The interface that a network is bridged to.
    Uplink,
    /// A VLAN of the port's first interface.
    Vlan,
}

impl PortKind {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            PortKind::Netns => "netns",
            PortKind::Tap => "tap",
            PortKind::Device => "device",
            PortKind::Host => "host",
            PortKind::Uplink => "uplink",
            PortKind::Vlan => "vlan",
        }
    }
}

/// `port ls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PortInfo {
    pub name: String,
    pub network: String,
    pub kind: PortKind,
    pub ip: Option<Ipv4Addr>,
    pub mac: Option<MacAddr>,
    /// The namespace as the user called it.
    pub netns: Option<String>,
    pub ifname: String,
    /// What its frames are tagged with on that interface; `null` for one without a tag.
    pub vlan: Option<Vid>,
    /// `up` or `down`.
    pub state: String,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub drops: u64,
}

/// `port inspect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PortDetail {
    #[serde(flatten)]
    pub port: PortInfo,
    /// All interfaces of the port, this one included.
    pub interfaces: Vec<PortInfo>,
    pub mtu: u16,
    /// `on` or `off`.
    pub security: Security,
    pub policing: PolicingInfo,
    pub connections: Usage,
    /// External ports that masquerading has taken for it.
    pub nat_ports: NatPorts,
    pub rx_super: u64,
    pub tx_super: u64,
    pub tx_coalesced: u64,
    pub missed: u64,
    pub drop_reasons: Vec<DropInfo>,
    pub published: Vec<PublicationInfo>,
}

/// What a port may do to the others; zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicingInfo {
    /// Broadcast frames a second.
    pub broadcast: u32,
    /// Multicast frames a second.
    pub multicast: u32,
    /// Frames a second to stations that are not known.
    pub unknown: u32,
    /// Stations a second that it takes over from other ports.
    pub moves: u32,
    /// MAC addresses that are learned from it.
    pub macs: u32,
}

impl From<Policing> for PolicingInfo {
    fn from(Policing { broadcast, multicast, unknown, moves, macs }: Policing) -> PolicingInfo {
        PolicingInfo { broadcast, multicast, unknown, moves, macs }
    }
}
