//! What can be asked of a running switch: one typed model for the API, the command line and the tests.
//!
//! A request is a noun, a verb and arguments. Over HTTP it is `POST /v1/NOUN/VERB` with the arguments as a
//! JSON object (`/v1/NOUN` where there is no verb); requests that change nothing and need no argument may be
//! `GET`. `vswitchctl` derives its command line from the same types, so the two cannot drift apart.
//!
//! Everything a client sends passes [`Request::parse`], which yields only values that satisfy their own
//! types: names are names, MTUs and port numbers fit, unknown fields are refused. What depends on the state
//! of the switch (does it exist, is it free) is the business of [`super::apply`].

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::{ArgGroup, Args};
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dhcp_setting::DhcpSetting;
use super::error::Error;
use super::name::{IfName, Name, NetnsName};
use super::policy_spec::{PlaceSpec, Places, PortRange, RuleName, WhichRule};
use super::publish_spec::{PublishWish, Unpublish};
use crate::addr::{MacAddr, Protocol};
use crate::snapshot::{Check, NetworkMode};
use crate::table::policy::Action;

mod networks;
mod uplinks;

pub use networks::{
    NetworkConnect, NetworkDisconnect, NetworkHostPort, NetworkSet, NetworkSetting, VlanSpec,
};
pub use uplinks::{UplinkSet, UplinkSetting};

macro_rules! requests {
    ($($(#[doc = $doc:literal])+ $variant:ident($arguments:ty) = $noun:literal $verb:literal $access:ident,)+) => {
        /// A request.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            $($(#[doc = $doc])+ $variant($arguments),)+
        }

        impl Request {
            /// Noun and verb of every request; the verb is empty where the noun says it all.
            pub const ALL: &'static [(&'static str, &'static str)] = &[$(($noun, $verb),)+];

            /// Reads a request from its noun, its verb and the JSON object of its arguments.
            ///
            /// # Errors
            /// `Usage` for an unknown noun or verb, and for arguments that are not what the verb takes.
            pub fn parse(noun: &str, verb: &str, body: &[u8]) -> Result<Request, Error> {
                match (noun, verb) {
                    $(($noun, $verb) => arguments($noun, $verb, body).map(Request::$variant),)+
                    _ => Err(unknown(noun, verb)),
                }
            }

            /// Reads a request from the words of `vswitchctl NOUN VERB ARGUMENTS...`.
            ///
            /// # Errors
            /// As [`Request::parse`].
            pub fn from_line(line: &str) -> Result<Request, Error> {
                let mut words = line.split_whitespace();
                let noun = words.next().unwrap_or_default();
                let takes_verb = !Request::ALL.contains(&(noun, ""));
                let verb = if takes_verb { words.next().unwrap_or_default() } else { "" };
                match (noun, verb) {
                    $(($noun, $verb) => super::cli::arguments(words).map(Request::$variant),)+
                    _ => Err(unknown(noun, verb)),
                }
            }

            /// Noun and verb.
            pub const fn route(&self) -> (&'static str, &'static str) {
                match self { $(Request::$variant(_) => ($noun, $verb),)+ }
            }

            /// The arguments as a JSON object.
            ///
            /// # Errors
            /// `Failed` if they cannot be written as JSON, which no request of this type is known to cause.
            pub fn body(&self) -> Result<Vec<u8>, Error> {
                let json = match self { $(Request::$variant(arguments) => serde_json::to_vec(arguments),)+ };
                json.map_err(|error| Error::failed("request", error, "report this"))
            }

            /// Whether it leaves everything as it is.
            pub const fn is_read_only(&self) -> bool {
                match self { $(Request::$variant(_) => requests!(@ $access),)+ }
            }
        }
    };
    (@ reads) => { true };
    (@ changes) => { false };
}

requests! {
    /// The switch as a whole.
    Status(NoArguments) = "status" "" reads,
    /// All networks.
    NetworkLs(NoArguments) = "network" "ls" reads,
    /// Make a network.
    NetworkCreate(NetworkCreate) = "network" "create" changes,
    /// Remove a network that has no ports.
    NetworkRm(Remove) = "network" "rm" changes,
    /// Change a network.
    NetworkSet(NetworkSet) = "network" "set" changes,
    /// Give a port an interface on one more network.
    NetworkConnect(NetworkConnect) = "network" "connect" changes,
    /// Take a port's interface on a network away.
    NetworkDisconnect(NetworkDisconnect) = "network" "disconnect" changes,
    /// Give the host an address on a network, or take it away.
    NetworkHostPort(NetworkHostPort) = "network" "host-port" changes,
    /// Everything about one network.
    NetworkInspect(Named) = "network" "inspect" reads,
    /// Show a network's DHCP server, after changing settings of it.
    NetworkDhcp(NetworkDhcp) = "network" "dhcp" changes,
    /// All uplinks.
    UplinkLs(NoArguments) = "uplink" "ls" reads,
    /// Change an uplink.
    UplinkSet(UplinkSet) = "uplink" "set" changes,
    /// All ports.
    PortLs(NoArguments) = "port" "ls" reads,
    /// Attach a namespace, a TAP or a device.
    PortAdd(PortAdd) = "port" "add" changes,
    /// Detach a port.
    PortRm(Remove) = "port" "rm" changes,
    /// Everything about one port.
    PortInspect(PortInspect) = "port" "inspect" reads,
    /// Change settings of a port.
    PortSet(PortSet) = "port" "set" changes,
    /// The forwarding database.
    FdbShow(FdbShow) = "fdb" "show" reads,
    /// Add a static entry.
    FdbAdd(FdbAdd) = "fdb" "add" changes,
    /// Remove an entry.
    FdbDel(FdbDel) = "fdb" "del" changes,
    /// Forget what was learned.
    FdbFlush(FdbFlush) = "fdb" "flush" changes,
    /// Show the ageing time of learned entries, after changing it if one is given.
    FdbAgeing(FdbAgeing) = "fdb" "ageing" changes,
    /// The neighbors (ARP) of all networks and of the uplink.
    NeighShow(NoArguments) = "neigh" "show" reads,
    /// The tracked connections.
    CtLs(CtFilter) = "ct" "ls" reads,
    /// Counts and limits of connection tracking.
    CtStats(NoArguments) = "ct" "stats" reads,
    /// Forget connections.
    CtFlush(CtFilter) = "ct" "flush" changes,
    /// Show timeouts, after changing those that are given.
    CtTimeouts(CtTimeouts) = "ct" "timeouts" changes,
    /// Publish ports of a container on the uplink.
    PublishAdd(PublishAdd) = "publish" "add" changes,
    /// All publications.
    PublishLs(NoArguments) = "publish" "ls" reads,
    /// Take a publication back.
    PublishRm(PublishRm) = "publish" "rm" changes,
    /// Add a rule.
    PolicyAdd(PolicyAdd) = "policy" "add" changes,
    /// All rules, in their order.
    PolicyLs(NoArguments) = "policy" "ls" reads,
    /// Remove a rule.
    PolicyRm(PolicyRm) = "policy" "rm" changes,
    /// Show the defaults of networks, after changing one if it is given.
    PolicyDefault(PolicyDefault) = "policy" "default" changes,
    /// What decides about a connection.
    PolicyCheck(PolicyCheck) = "policy" "check" reads,
    /// The addresses that DHCP clients have.
    DhcpLeases(DhcpLeases) = "dhcp" "leases" reads,
    /// Dropped frames by reason and port.
    Drops(Drops) = "drops" "" reads,
    /// Counters per port and per worker.
    Stats(NoArguments) = "stats" "" reads,
    /// Make the switch what a file says.
    Apply(Apply) = "apply" "" changes,
    /// The file that would make this switch.
    Dump(NoArguments) = "dump" "" reads,
}

fn arguments<T: DeserializeOwned>(noun: &str, verb: &str, body: &[u8]) -> Result<T, Error> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let what = [noun, verb].join(" ");
        let hint =
            format!("send a JSON object of the arguments that vswitchctl {} --help lists", what.trim());
        Error::usage(what.trim(), error, hint)
    })
}

fn unknown(noun: &str, verb: &str) -> Error {
    let cut = |text: &str| text.chars().take(64).collect::<String>();
    let verbs: Vec<_> = Request::ALL.iter().filter(|(n, _)| *n == noun).map(|(_, verb)| *verb).collect();
    if verbs.is_empty() {
        let mut nouns: Vec<_> = Request::ALL.iter().map(|(noun, _)| *noun).collect();
        nouns.dedup();
        return Error::usage(cut(noun), "no such noun", format_args!("one of {}", nouns.join(", ")));
    }
    let hint = if verbs == [""] { "it takes no verb".into() } else { format!("one of {}", verbs.join(", ")) };
    Error::usage(cut(verb), format_args!("no such verb of {noun}"), hint)
}

/// For requests without arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NoArguments {}

/// Names one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name
    pub name: Name,
}

/// Removes one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Its name
    pub name: Name,
    /// Succeed if it does not exist
    #[arg(long)]
    #[serde(default)]
    pub if_exists: bool,
}

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

/// Chooses leases of DHCP clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct DhcpLeases {
    /// Only this network's
    #[arg(long)]
    pub network: Option<Name>,
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
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

/// Chooses entries of the forwarding database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbShow {
    /// Only this network
    #[arg(long)]
    pub network: Option<Name>,
    /// Only this port
    #[arg(long)]
    pub port: Option<Name>,
}

/// Adds a static entry to the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbAdd {
    /// The station's address
    pub mac: MacAddr,
    /// The port it is on
    #[arg(long)]
    pub port: Name,
    /// The network [default: the first of the port's]
    #[arg(long)]
    #[serde(default)]
    pub network: Option<Name>,
}

/// Removes an entry from the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbDel {
    /// The station's address
    pub mac: MacAddr,
    /// Only on this network [default: on all]
    #[arg(long)]
    pub network: Option<Name>,
}

/// Forgets learned entries of the forwarding database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbFlush {
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
}

/// Changes the ageing time of learned entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbAgeing {
    /// Time after which an idle entry is forgotten, in seconds; without it, it is shown
    #[serde(default)]
    pub seconds: Option<u32>,
}

/// Chooses connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct CtFilter {
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
    /// Only tcp, udp or icmp
    #[arg(long, value_parser = parse_protocol)]
    pub proto: Option<Protocol>,
}

/// Changes timeouts of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct CtTimeouts {
    /// Timeouts to change; without any, all are shown
    #[arg(value_name = "KEY=SECONDS")]
    #[serde(default)]
    pub settings: Vec<TimeoutSetting>,
}

/// One timeout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutSetting {
    /// Its name.
    pub key: String,
    /// How long.
    pub seconds: u32,
}

impl FromStr for TimeoutSetting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::usage(text, "not a timeout", "write KEY=SECONDS");
        let (key, seconds) = text.split_once('=').ok_or_else(wrong)?;
        Ok(TimeoutSetting { key: key.into(), seconds: seconds.parse().map_err(|_| wrong())? })
    }
}

/// Publishes ports of a container on the uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PublishAdd {
    /// What to publish, as `docker run -p` writes it; without a host port, a free one is chosen
    #[arg(value_name = "[[IP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp]")]
    pub spec: PublishWish,
    /// The port of the switch that it leads to; of several, each connection goes to one
    #[arg(long, value_name = "PORTNAME", required = true, value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub to: Vec<Name>,
    /// Only for the uplink's LAN: its own prefix and private ranges
    #[arg(long, conflicts_with = "loopback")]
    #[serde(default)]
    pub lan: bool,
    /// Only for this host, by 127.0.0.1
    #[arg(long)]
    #[serde(default)]
    pub loopback: bool,
    /// Check the ports that it leads to, and send new connections only to those that are up: by ARP, or by opening a
    /// TCP connection
    #[arg(long, value_name = "arp|tcp", value_parser = parse_check)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Check>,
    /// Seconds between two checks
    #[arg(long, value_name = "SECONDS", requires = "health")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_interval: Option<u32>,
}

fn parse_check(text: &str) -> Result<Check, String> {
    match text {
        "arp" => Ok(Check::Arp),
        "tcp" => Ok(Check::Tcp),
        _ => Err("write arp or tcp".into()),
    }
}

/// A list, or its only element.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Name>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(Name),
        Many(Vec<Name>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(name) => vec![name],
        Either::Many(names) => names,
    })
}

/// Takes a publication back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PublishRm {
    /// As it was added, or only what it listens on
    #[arg(value_name = "[IP:]HOSTPORT[-END][:PORT[-END]][/tcp|udp]")]
    pub spec: Unpublish,
    /// Succeed if it does not exist
    #[arg(long)]
    #[serde(default)]
    pub if_exists: bool,
}

/// Adds a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyAdd {
    /// allow or deny
    #[arg(value_parser = parse_action)]
    pub action: Action,
    /// Put it before the rule with this number [default: behind the last one]
    #[arg(long, value_name = "N")]
    pub before: Option<usize>,
    /// Who opens the connection: networks, ports, prefixes, internet, lan, host, with commas between
    /// [default: anybody]
    #[arg(long, value_name = "NETWORK|PORT|CIDR|internet|lan|host,...")]
    #[serde(default)]
    pub from: Option<Places>,
    /// Whom it is opened to, as --from
    #[arg(long, value_name = "NETWORK|PORT|CIDR|internet|lan|host,...")]
    #[serde(default)]
    pub to: Option<Places>,
    /// Only tcp, udp or icmp
    #[arg(long, value_parser = parse_protocol)]
    pub proto: Option<Protocol>,
    /// Only this port or these ports of who is called, of TCP or UDP; for what is published, the container's
    #[arg(long, value_name = "PORT[-END]")]
    pub dport: Option<PortRange>,
    /// What to call it
    #[arg(long, value_name = "TEXT")]
    pub name: Option<RuleName>,
}

/// Removes a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyRm {
    /// Its number or its name
    #[arg(value_name = "N|NAME")]
    pub rule: WhichRule,
    /// Succeed if it does not exist
    #[arg(long)]
    #[serde(default)]
    pub if_exists: bool,
}

/// Changes what happens between two networks where no rule decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyDefault {
    /// The network of who opens a connection; without it, all defaults are shown
    #[arg(requires = "to")]
    pub from: Option<Name>,
    /// The network of whom it is opened to
    #[arg(requires = "action")]
    pub to: Option<Name>,
    /// allow or deny
    #[arg(value_parser = parse_action)]
    pub action: Option<Action>,
}

/// Asks what decides about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyCheck {
    /// Who opens it: a port, a network, an address, internet, lan or host
    #[arg(long)]
    pub from: PlaceSpec,
    /// Whom it is opened to
    #[arg(long)]
    pub to: PlaceSpec,
    /// tcp, udp or icmp
    #[arg(value_parser = parse_protocol)]
    pub proto: Protocol,
    /// The port, of TCP or UDP
    pub port: Option<u16>,
}

/// Chooses dropped frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Drops {
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
    /// Only what happened within this time, like 10s, 5m or 2h
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub since: Option<u64>,
}

/// Makes the switch what a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The file's text
    pub text: String,
    /// Only say what would change
    #[arg(long)]
    #[serde(default)]
    pub dry_run: bool,
}

/// Reads a prefix in CIDR form.
///
/// # Errors
/// `Usage`.
pub fn parse_subnet(text: &str) -> Result<Ipv4Net, Error> {
    text.parse()
        .map_err(|_| Error::usage(text, "not an IPv4 prefix", "write ADDRESS/LENGTH, like 10.1.0.0/24"))
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

fn parse_action(text: &str) -> Result<Action, Error> {
    match text {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        _ => Err(Error::usage(text, "no such action", "allow or deny")),
    }
}

fn parse_protocol(text: &str) -> Result<Protocol, Error> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        _ => Err(Error::usage(text, "no such protocol", "tcp, udp or icmp")),
    }
}

fn parse_seconds(text: &str) -> Result<u64, Error> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.ok_or_else(|| Error::usage(text, "not a time", "write a number and s, m or h, like 10s"))
}

#[cfg(test)]
mod tests {
    use super::super::error::Kind;
    use super::*;

    #[test]
    fn a_request_is_what_its_path_and_body_say() {
        let body = br#"{"name":"web","netns":"red","ip":"172.30.0.9","mac":"02:00:00:00:00:01"}"#;
        let Ok(Request::PortAdd(add)) = Request::parse("port", "add", body) else { panic!() };
        assert_eq!((add.name.as_str(), add.ip), ("web", Some(Ipv4Addr::new(172, 30, 0, 9))));
        assert_eq!((add.network, add.no_address), (None, false));
        let Ok(Request::PortSet(set)) =
            Request::parse("port", "set", br#"{"name":"web","settings":[{"mtu":1400}]}"#)
        else {
            panic!()
        };
        assert_eq!(set.settings, ["mtu=1400".parse().unwrap()]);
        assert_eq!(Request::parse("status", "", b" ").unwrap(), Request::Status(NoArguments {}));
    }

    #[test]
    fn requests_survive_the_way_to_the_server() {
        for (noun, verb, body) in [
            ("network", "create", r#"{"name":"n","subnet":"10.0.0.0/24","mode":"internal","mtu":1400}"#),
            ("port", "rm", r#"{"name":"web","if_exists":true}"#),
            ("ct", "timeouts", r#"{"settings":[{"key":"udp","seconds":30}]}"#),
            ("publish", "add", r#"{"spec":"10.0.0.1:80-81:80-81/udp","to":"web"}"#),
            ("publish", "add", r#"{"spec":"80","to":["web","db"],"lan":true}"#),
            ("publish", "rm", r#"{"spec":"80"}"#),
            (
                "policy",
                "add",
                r#"{"action":"deny","from":"web","to":"lan,host","proto":"tcp","dport":"1-80"}"#,
            ),
            ("policy", "rm", r#"{"rule":3}"#),
            ("policy", "default", r#"{"from":"a","to":"b","action":"allow"}"#),
            ("policy", "check", r#"{"from":"web","to":"internet","proto":"tcp","port":80}"#),
            ("drops", "", r#"{"since":10}"#),
        ] {
            let request = Request::parse(noun, verb, body.as_bytes()).unwrap();
            assert_eq!(request.route(), (noun, verb));
            assert_eq!(Request::parse(noun, verb, &request.body().unwrap()).unwrap(), request);
        }
    }

    #[test]
    fn a_line_and_a_body_are_the_same_request() {
        for (line, noun, verb, body) in [
            (
                "port add web --netns red --no-address",
                "port",
                "add",
                r#"{"name":"web","netns":"red","no_address":true}"#,
            ),
            ("drops --since 10s", "drops", "", r#"{"since":10}"#),
            ("status", "status", "", ""),
            (
                "policy add --before 2 deny --from web --to lan,host --proto tcp --dport 80-90 --name x",
                "policy",
                "add",
                r#"{"action":"deny","before":2,"from":"web","to":"lan,host","proto":"tcp","dport":"80-90","name":"x"}"#,
            ),
            (
                "publish add 8080:80 --to web --to db --lan",
                "publish",
                "add",
                r#"{"spec":"8080:80","to":["web","db"],"lan":true}"#,
            ),
            (
                "policy check --from web --to 10.0.0.1 tcp 80",
                "policy",
                "check",
                r#"{"from":"web","to":"10.0.0.1","proto":"tcp","port":80}"#,
            ),
        ] {
            assert_eq!(Request::from_line(line), Request::parse(noun, verb, body.as_bytes()));
        }
        for wrong in ["policy add frob", "policy default a", "policy default a b", "policy check tcp 80"] {
            assert_eq!(Request::from_line(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
        for wrong in ["", "port", "port frob", "port add", "port rm web web", "status --frob"] {
            assert_eq!(Request::from_line(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn wrong_requests_are_refused_with_something_to_do() {
        for (noun, verb, body, says) in [
            ("frob", "ls", "", "no such noun (one of status, network, uplink, port"),
            ("port", "frob", "", "no such verb of port (one of ls, add, rm"),
            ("status", "ls", "", "it takes no verb"),
            ("port", "add", "{}", "missing field `name`"),
            ("port", "add", r#"{"name":"web","colour":"red"}"#, "unknown field `colour`"),
            ("port", "add", r#"{"name":"web/1"}"#, "not a name"),
            ("port", "add", r#"{"name":"web","mac":"02:00"}"#, "not a MAC address"),
            ("port", "add", r#"{"name":"web","ip":"10.0.0.256"}"#, "port add"),
            ("port", "add", "[", "EOF"),
            ("port", "ls", r#"{"x":1}"#, "unknown field"),
            ("network", "create", r#"{"name":"n","subnet":"10.0.0.0/24","mtu":70000}"#, "70000"),
            ("publish", "add", r#"{"spec":"90-80:1-2","to":"web"}"#, "runs backwards"),
        ] {
            let error = Request::parse(noun, verb, body.as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            assert!(error.to_string().contains(says), "{noun} {verb} {body}: {error}");
        }
    }

    #[test]
    fn the_daemons_network_option_is_a_network() {
        let network: NetworkCreate =
            "lan=10.1.0.0/24,gateway=10.1.0.254,mtu=1400,mode=internal".parse().unwrap();
        assert_eq!(network.gateway, Some(Ipv4Addr::new(10, 1, 0, 254)));
        assert_eq!((network.mtu, network.mode), (Some(1400), Some(NetworkMode::Internal)));
        let bridged: NetworkCreate = "lan=192.168.1.0/24,mode=bridge,uplink=eth1".parse().unwrap();
        assert_eq!((bridged.mode, bridged.uplink), (Some(NetworkMode::Bridge), "eth1".parse().ok()));
        for wrong in
            ["lan", "lan=", "=10.0.0.0/8", "lan=10.1.0.0/24,mtu=x", "lan=10.1.0.0/24,a=b", "lan=10.1.0.0/33"]
        {
            assert!(wrong.parse::<NetworkCreate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_of_a_port_read_as_they_are_written() {
        for (text, json) in [
            ("security=off", r#"{"security":"off"}"#),
            ("storm=2000", r#"{"storm":2000}"#),
            ("broadcast=off", r#"{"broadcast":0}"#),
            ("macs=64", r#"{"macs":64}"#),
            ("moves=off", r#"{"moves":0}"#),
            ("connections=5", r#"{"connections":5}"#),
        ] {
            let setting: PortSetting = text.parse().unwrap();
            assert_eq!(setting.to_string(), text);
            assert_eq!(serde_json::to_string(&setting).unwrap(), json);
            assert_eq!(serde_json::from_str::<PortSetting>(json).unwrap(), setting);
        }
        for wrong in ["security", "security=maybe", "storm=-1", "storm=", "colour=red", "connections=off"] {
            assert_eq!(wrong.parse::<PortSetting>().unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_seconds("10s"), Ok(10));
        assert_eq!(parse_seconds("2m"), Ok(120));
        assert_eq!(parse_seconds("1h"), Ok(3600));
        assert_eq!(parse_seconds("7"), Ok(7));
        for wrong in ["", "s", "-1s", "1d", "18446744073709551615h", "1.5s", "\u{fc}s"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
