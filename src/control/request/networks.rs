//! Requests that change a network, and who is on it.

use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::name::{IfName, Name};
use super::parse_mode;
use crate::addr::{MacAddr, Vid};
use crate::snapshot::NetworkMode;

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
