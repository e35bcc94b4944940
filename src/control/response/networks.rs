//! What is answered about networks: themselves, their DHCP servers and leases.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::super::dhcp_setting::Route;
use super::{UplinkInfo, Usage};
use crate::addr::{MacAddr, Vid};
use crate::snapshot::NetworkMode;

/// The answer to `network dhcp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DhcpInfo {
    pub network: String,
    pub enabled: bool,
    pub lease_seconds: u64,
    /// `null` for all of the network.
    pub range: Option<DhcpRange>,
    /// `null` for the gateway.
    pub dns: Option<Vec<Ipv4Addr>>,
    pub ntp: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    pub routes: Vec<Route>,
}

/// The addresses that a DHCP server gives, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DhcpRange {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

/// A row of `dhcp leases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LeaseInfo {
    pub network: String,
    pub ip: Ipv4Addr,
    /// The name of the port; it may be gone.
    pub port: String,
    pub mac: Option<MacAddr>,
    /// What the client calls itself, in hexadecimal digits.
    pub client: String,
    pub hostname: Option<String>,
    /// `offered`, `bound`, `free` or `declined`.
    pub state: String,
    /// `null` for a free one.
    pub expires_seconds: Option<u64>,
}

/// `network ls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct NetworkInfo {
    pub name: String,
    pub subnet: Ipv4Net,
    /// Where default routes lead: the switch, or on a bridged network the LAN's router; `null` if none is known.
    pub gateway: Option<Ipv4Addr>,
    pub mode: NetworkMode,
    pub mtu: u16,
    /// How many ports are on it.
    pub ports: usize,
    /// `null` on a bridged network, whose gateway is not the switch.
    pub gateway_mac: Option<MacAddr>,
    /// The uplink that leads out of it, or the interface that it is bridged to; `null` if there is none.
    #[serde(default)]
    pub uplink: Option<String>,
}

/// `network inspect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct NetworkDetail {
    #[serde(flatten)]
    pub network: NetworkInfo,
    pub port_names: Vec<String>,
    /// Those of them that are on it by a VLAN, and its tag there.
    pub vlans: BTreeMap<String, Vid>,
    /// Addresses given to ports, of those that the prefix has for hosts.
    pub addresses: Usage,
    pub macs: Usage,
    pub neighbors: usize,
    /// What it is bridged to, if it is.
    #[serde(default)]
    pub bridged_to: Option<UplinkInfo>,
}
