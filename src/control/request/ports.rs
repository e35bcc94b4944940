//! Requests about ports.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::{ArgGroup, Args};
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::name::{IfName, Name, NetnsName};
use super::{NetworkConnect, VlanSpec};
use crate::addr::MacAddr;

/// Names a port, or one of its interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PortInspect {
    /// Its name
    pub name: Name,
    /// Its interface on this network [default: its first]
    #[arg(long)]
    #[serde(default)]
    pub network: Option<Name>,
}

/// Attaches a port. Exactly one of `netns`, `tap` and `device` is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
#[command(group(ArgGroup::new("kind").required(true)))]
pub struct PortAdd {
    /// Its name
    pub name: Name,
    /// Attach a namespace: a name under /run/netns, a path, or a PID
    #[arg(long, group = "kind")]
    pub netns: Option<NetnsName>,
    /// Make a TAP and leave it in this namespace
    #[arg(long, value_name = "IFNAME", group = "kind")]
    pub tap: Option<IfName>,
    /// Use an existing interface (a veth, a VM's TAP)
    #[arg(long, value_name = "IFNAME", group = "kind")]
    pub device: Option<IfName>,
    /// The network [default: "default"]
    #[arg(long)]
    pub network: Option<Name>,
    /// Its address [default: what it had there last, or the lowest free one of the network]
    #[arg(long)]
    pub ip: Option<Ipv4Addr>,
    /// Its MAC address [default: what it had there last, or made from its address]
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// The interface's name inside the namespace [default: eth0]
    #[arg(long, conflicts_with_all = ["tap", "device"])]
    pub ifname: Option<IfName>,
    /// Give it no address: what is attached finds its own
    #[arg(long)]
    #[serde(default)]
    pub no_address: bool,
    /// Another name of it in the DNS of its network; may be given several times, and to several ports
    #[arg(long = "alias", value_name = "NAME")]
    #[serde(default)]
    pub aliases: Vec<Name>,
    /// Give its namespace, which must have a name, a resolv.conf that names the gateway (/etc/netns/NETNS/resolv.conf,
    /// which ip netns exec lays over /etc/resolv.conf)
    #[arg(long, conflicts_with_all = ["tap", "device"])]
    #[serde(default)]
    pub dns: bool,
    /// Put it on this network too, as a VLAN of the same interface, like network connect --vlan; may be given several
    /// times
    #[arg(long = "vlan", value_name = "NETWORK=VID")]
    #[serde(default, rename = "vlan")]
    pub vlans: Vec<VlanSpec>,
}

impl PortAdd {
    /// The requests that connect it to the networks of its VLANs.
    pub fn vlans(&self) -> impl Iterator<Item = NetworkConnect> {
        self.vlans.iter().map(|VlanSpec { network, vid }| NetworkConnect {
            network: network.clone(),
            port: self.name.clone(),
            ip: None,
            mac: None,
            ifname: None,
            vlan: Some(*vid),
        })
    }
}

/// Changes settings of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PortSet {
    /// Its name
    pub name: Name,
    /// security=on|off (its own addresses only, no router, no DHCP server), storm=FRAMES|off (a second, for
    /// broadcast, multicast and unknown together, or each by its name), macs=N|off (learned addresses),
    /// moves=N|off (stations a second taken over from other ports), connections=N (most at once), nat_ports=N (most
    /// external ports of a protocol at once), mtu=BYTES
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub settings: Vec<PortSetting>,
    /// Only its interface on this network [default: all of them]
    #[arg(long)]
    #[serde(default)]
    pub network: Option<Name>,
}

/// One setting of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortSetting {
    /// Most connections that it may have at once.
    Connections(u32),
    /// Most external ports of each protocol that masquerading may take for it at once.
    #[serde(rename = "nat_ports")]
    NatPorts(u32),
    /// Largest IP packet in bytes.
    Mtu(u16),
    /// Whether it must keep to its own addresses, and be no router and no DHCP server.
    Security(Security),
    /// Broadcast, multicast and unknown unicast frames a second, each.
    Storm(Bound),
    /// Broadcast frames a second.
    Broadcast(Bound),
    /// Multicast frames a second.
    Multicast(Bound),
    /// Frames a second to stations that are not known.
    Unknown(Bound),
    /// Stations a second that it takes over from other ports.
    Moves(Bound),
    /// MAC addresses that are learned from it.
    Macs(Bound),
}

/// Whether port security is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// The port keeps to its own addresses.
    On,
    /// It may claim to be anybody but the gateway.
    Off,
}

impl Security {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Security::On => "on",
            Security::Off => "off",
        }
    }
}

/// A bound that can be turned off, which is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound(pub u32);

impl FromStr for Bound {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Bound(0)) } else { text.parse().map(Bound) }
    }
}

impl fmt::Display for PortSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, Bound(value)) = match *self {
            PortSetting::Security(security) => return write!(f, "security={}", security.as_str()),
            PortSetting::Connections(count) => return write!(f, "connections={count}"),
            PortSetting::NatPorts(count) => return write!(f, "nat_ports={count}"),
            PortSetting::Mtu(mtu) => return write!(f, "mtu={mtu}"),
            PortSetting::Storm(rate) => ("storm", rate),
            PortSetting::Broadcast(rate) => ("broadcast", rate),
            PortSetting::Multicast(rate) => ("multicast", rate),
            PortSetting::Unknown(rate) => ("unknown", rate),
            PortSetting::Moves(rate) => ("moves", rate),
            PortSetting::Macs(count) => ("macs", count),
        };
        if value == 0 { write!(f, "{key}=off") } else { write!(f, "{key}={value}") }
    }
}

impl FromStr for PortSetting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const KEYS: &str =
            "one of security, storm, broadcast, multicast, unknown, macs, moves, connections, nat_ports, mtu";
        let (key, value) =
            text.split_once('=').ok_or_else(|| Error::usage(text, "no setting", "write KEY=VALUE"))?;
        let bound = |setting: fn(Bound) -> PortSetting| {
            let hint = format!("write {key}=NUMBER or {key}=off");
            value.parse().map(setting).map_err(|_| Error::usage(text, "not a number in range", hint))
        };
        let number = |_| Error::usage(text, "not a number in range", format_args!("write {key}=NUMBER"));
        match key {
            "connections" => value.parse().map(PortSetting::Connections).map_err(number),
            "nat_ports" => value.parse().map(PortSetting::NatPorts).map_err(number),
            "mtu" => value.parse().map(PortSetting::Mtu).map_err(number),
            "security" => match value {
                "on" => Ok(PortSetting::Security(Security::On)),
                "off" => Ok(PortSetting::Security(Security::Off)),
                _ => Err(Error::usage(text, "neither on nor off", "write security=on or security=off")),
            },
            "storm" => bound(PortSetting::Storm),
            "broadcast" => bound(PortSetting::Broadcast),
            "multicast" => bound(PortSetting::Multicast),
            "unknown" => bound(PortSetting::Unknown),
            "moves" => bound(PortSetting::Moves),
            "macs" => bound(PortSetting::Macs),
            _ => Err(Error::usage(key, "no such setting", KEYS)),
        }
    }
}
