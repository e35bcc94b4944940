//! Requests about networks, and who is on them.

use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::Args;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::super::dhcp_setting::DhcpSetting;
use super::super::error::Error;
use super::super::name::{IfName, Name};
use super::parse_subnet;
use crate::addr::{MacAddr, Vid};
use crate::snapshot::NetworkMode;

/// Makes a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name
    pub name: Name,
    /// Its prefix, like 10.1.0.0/24 [default: a private one that the host has no route to]
    #[arg(long, value_name = "CIDR", value_parser = parse_subnet)]
    pub subnet: Option<Ipv4Net>,
    /// The gateway's address [default: the first of the prefix; of a LAN, the host's own next hop]
    #[arg(long, value_name = "IP")]
    pub gateway: Option<Ipv4Addr>,
    /// nat (masqueraded to the uplink), routed (to the uplink with its own addresses), internal (no way out) or bridge
    /// (part of the LAN behind --uplink) [default: nat]
    #[arg(long, value_parser = parse_mode)]
    pub mode: Option<NetworkMode>,
    /// Largest IP packet in bytes [default: the uplink's]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// The uplink that leads out of it [default: the first], or of mode bridge the interface that it is bridged to
    #[arg(long, value_name = "IFACE")]
    #[serde(default)]
    pub uplink: Option<IfName>,
}

/// `NAME=CIDR[,gateway=IP][,mtu=N][,mode=nat|routed|internal|bridge][,uplink=IFACE]`, as the daemon's command line has it.
impl FromStr for NetworkCreate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const GRAMMAR: &str =
            "write NAME=CIDR[,gateway=IP][,mtu=N][,mode=nat|routed|internal|bridge][,uplink=IFACE]";
        let wrong = |why: &str| Error::usage(text, why, GRAMMAR);
        let mut fields = text.split(',');
        let (name, subnet) =
            fields.next().and_then(|field| field.split_once('=')).ok_or_else(|| wrong("no NAME=CIDR"))?;
        let (name, subnet) = (name.parse()?, Some(parse_subnet(subnet)?));
        let mut network = NetworkCreate { name, subnet, gateway: None, mode: None, mtu: None, uplink: None };
        for field in fields {
            match field.split_once('=') {
                Some(("gateway", ip)) => {
                    network.gateway = Some(ip.parse().map_err(|_| wrong("the gateway is not an address"))?);
                }
                Some(("mtu", mtu)) => {
                    network.mtu =
                        Some(mtu.parse().map_err(|_| wrong("the MTU is not a number up to 65535"))?);
                }
                Some(("mode", mode)) => network.mode = Some(parse_mode(mode)?),
                Some(("uplink", ifname)) => network.uplink = Some(ifname.parse()?),
                _ => return Err(wrong("unknown field")),
            }
        }
        Ok(network)
    }
}

/// Shows or changes a network's DHCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NetworkDhcp {
    /// The network's name
    pub name: Name,
    /// on, off, lease=SECONDS, range=FIRST-LAST|all, dns=IP,...|gateway, ntp=IP,..., domain=NAME, search=NAME,...,
    /// routes=PREFIX:ROUTER,...; without any, all are shown
    #[arg(value_name = "on|off|KEY=VALUE")]
    #[serde(default)]
    pub settings: Vec<DhcpSetting>,
}

/// Changes a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NetworkSet {
    /// Its name
    pub name: Name,
    /// mode=nat|routed|internal, mtu=BYTES (ports with an MTU of their own keep it), uplink=IFACE (connections that left
    /// by another one end)
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub settings: Vec<NetworkSetting>,
}

/// One setting of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkSetting {
    /// What it is connected to.
    Mode(NetworkMode),
    /// Largest IP packet in bytes.
    Mtu(u16),
    /// The uplink that leads out of it.
    Uplink(IfName),
}

impl FromStr for NetworkSetting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong =
            |why| Error::usage(text, why, "write mode=nat|routed|internal, mtu=BYTES or uplink=IFACE");
        match text.split_once('=') {
            Some(("mode", mode)) => parse_mode(mode).map(NetworkSetting::Mode),
            Some(("mtu", mtu)) => {
                mtu.parse().map(NetworkSetting::Mtu).map_err(|_| wrong("not a number in range"))
            }
            Some(("uplink", ifname)) => ifname.parse().map(NetworkSetting::Uplink),
            _ => Err(wrong("no such setting of a network")),
        }
    }
}

/// Gives a port an interface on one more network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NetworkConnect {
    /// The network
    pub network: Name,
    /// The port, which is attached to a namespace; with --vlan, any
    pub port: Name,
    /// Its address on this network [default: what it had there last, or the lowest free one]
    #[arg(long)]
    pub ip: Option<Ipv4Addr>,
    /// The interface's MAC address [default: what it had there last, or made from its address]
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// The interface's name inside the namespace [default: eth1, or the next free number]
    #[arg(long)]
    pub ifname: Option<IfName>,
    /// Make no interface: the port's first one carries the network, tagged with this VLAN
    #[arg(long, value_name = "VID", conflicts_with = "ifname")]
    #[serde(default)]
    pub vlan: Option<Vid>,
}

/// A network, and its VLAN on a port's interface: `NETWORK=VID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VlanSpec {
    /// The network.
    pub network: Name,
    /// Its tag.
    pub vid: Vid,
}

impl FromStr for VlanSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why| Error::usage(text, why, "write NETWORK=VID, like backend=10");
        let (network, vid) = text.split_once('=').ok_or_else(|| wrong("no VLAN of a network"))?;
        let vid = vid.parse().map_err(|_| wrong("a VLAN's number is from 1 to 4094"))?;
        Ok(VlanSpec { network: network.parse()?, vid })
    }
}

impl TryFrom<String> for VlanSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<VlanSpec> for String {
    fn from(VlanSpec { network, vid }: VlanSpec) -> String {
        format!("{network}={vid}")
    }
}

/// Takes a port's interface on a network away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NetworkDisconnect {
    /// The network
    pub network: Name,
    /// The port
    pub port: Name,
    /// Succeed if it is not connected
    #[arg(long)]
    #[serde(default)]
    pub if_exists: bool,
}

/// Gives the host an address on a network, or takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NetworkHostPort {
    /// The network
    pub network: Name,
    /// The host's address [default: what it had there last, or the lowest free one]
    #[arg(long, conflicts_with = "off")]
    pub ip: Option<Ipv4Addr>,
    /// The interface's name on the host [default: vsw-NETWORK]
    #[arg(long, conflicts_with = "off")]
    pub ifname: Option<IfName>,
    /// Take it away
    #[arg(long)]
    #[serde(default)]
    pub off: bool,
}

fn parse_mode(text: &str) -> Result<NetworkMode, Error> {
    match text {
        "nat" => Ok(NetworkMode::Nat),
        "routed" => Ok(NetworkMode::Routed),
        "internal" => Ok(NetworkMode::Internal),
        "bridge" => Ok(NetworkMode::Bridge),
        _ => Err(Error::usage(text, "no such mode", "nat, routed, internal or bridge")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::error::Kind;
    use super::*;

    #[test]
    fn settings_of_a_network_read_as_they_are_written() {
        for (text, json) in [
            ("mode=routed", r#"{"mode":"routed"}"#),
            ("mtu=1400", r#"{"mtu":1400}"#),
            ("uplink=eth1", r#"{"uplink":"eth1"}"#),
        ] {
            let setting: NetworkSetting = text.parse().unwrap();
            assert_eq!(serde_json::to_string(&setting).unwrap(), json);
            assert_eq!(serde_json::from_str::<NetworkSetting>(json).unwrap(), setting);
        }
        for text in ["backend=1", "b=4094"] {
            assert_eq!(String::from(text.parse::<VlanSpec>().unwrap()), text);
        }
        for wrong in ["backend", "backend=", "backend=0", "backend=4095", "=7", "a b=7", "b=-1"] {
            assert_eq!(wrong.parse::<VlanSpec>().unwrap_err().kind, Kind::Usage, "{wrong}");
        }
        for wrong in ["mode", "mode=host", "mtu=", "mtu=70000", "subnet=10.0.0.0/8", "uplink=", "uplink=a/b"]
        {
            assert_eq!(wrong.parse::<NetworkSetting>().unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }
}
