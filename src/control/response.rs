//! What the switch answers. Field names are part of the command line's contract: scripts read them.
//!
//! Every field is present in every object; what does not apply is `null`. Numbers are plain numbers in
//! the unit that the name says (bytes, seconds); names stand for networks and ports, never their numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::dhcp_setting::Route;
use super::error::Error;
use super::request::Security;
use crate::addr::{Endpoint, MacAddr, Protocol, Vid};
use crate::snapshot::{Check, NetworkMode, Policing};
use crate::table::policy::Action;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)] // one variant for each type below
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

/// How many things a request changed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many.
    pub changed: usize,
}

/// `apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What was changed, or would be, as commands of vswitchctl.
    pub changes: Vec<String>,
    /// What is wrong with the file. If anything is, nothing was changed.
    pub faults: Vec<Fault>,
}

/// Something that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub error: Error,
}

impl Applied {
    /// What is wrong with the file, as one error; the others are written to `also`, a line each.
    ///
    /// # Errors
    /// The last fault.
    pub fn check(&self, file: &str, mut also: impl FnMut(&Error)) -> Result<(), Error> {
        let mut errors = self.faults.iter().map(|Fault { line, error }| {
            let what = format_args!("{file}:{line}: {}", error.what);
            Error::new(error.kind, what, &error.why, &error.hint)
        });
        let last = errors.next_back();
        errors.for_each(|error| also(&error));
        last.map_or(Ok(()), Err)
    }
}

/// `dump`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// A configuration file.
    pub text: String,
}

/// External ports that a port of the switch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct NatPorts {
    pub tcp: Usage,
    pub udp: Usage,
    /// Identifiers of echo requests.
    pub icmp: Usage,
}

/// How much of a bounded table is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Usage {
    pub used: u64,
    pub limit: u64,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    /// The first uplink; `null` without one.
    pub uplink: Option<UplinkInfo>,
    /// All of them.
    #[serde(default)]
    pub uplinks: Vec<UplinkInfo>,
    pub workers: usize,
    /// How they read and write: `uring` or `syscall`.
    pub io: String,
    /// What they do while they have nothing to do: `adaptive`, `busy` or `sleep`.
    pub poll: String,
    pub ports: usize,
    pub networks: usize,
    pub connections: Usage,
    pub state: StateInfo,
    pub limits: Limits,
    pub totals: Counts,
    /// Frames that came from somewhere less those that went somewhere and those that wait: zero when no
    /// frame is on its way.
    pub imbalance: i64,
}

/// An uplink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct UplinkInfo {
    pub name: String,
    /// `shared` or `own`, and `bridge` where a network is bridged to it and there is no other.
    pub mode: String,
    /// With the prefix length of the link; `null` while it has none.
    pub address: Option<Ipv4Net>,
    /// The default route's next hop.
    pub gateway: Option<Ipv4Addr>,
    pub mtu: u16,
    pub mac: MacAddr,
    pub up: bool,
    /// First and last external port for masquerading; `null` where nothing is translated.
    pub nat_ports: Option<[u16; 2]>,
}

/// The state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StateInfo {
    /// `null` if nothing is to be remembered.
    pub directory: Option<String>,
    /// What is wrong with it; `null` if nothing is.
    pub problem: Option<String>,
}

/// Bounds of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Limits {
    pub ports: usize,
    pub networks: usize,
    pub publications: usize,
    pub rules: usize,
    pub connections_per_port: u32,
    pub macs_per_network: usize,
}

/// Counters of a port or of several. A super-frame (TSO, USO) counts as one, unless the switch made it by
/// coalescing: then each frame in it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Counts {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Of the frames read, those that carry several segments.
    pub rx_super: u64,
    /// Super-frames written, those made by coalescing included.
    pub tx_super: u64,
    /// Of the frames read, those whose flow a worker's flow cache knew.
    pub rx_cached: u64,
    /// Of the frames written, those that left within another one's super-frame.
    pub tx_coalesced: u64,
    pub drops: u64,
    /// Frames that the kernel dropped because they were not read in time.
    pub missed: u64,
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

/// `publish ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PublicationInfo {
    pub proto: Protocol,
    /// An uplink's address; `null` for all of them.
    pub ip: Option<Ipv4Addr>,
    pub port_first: u16,
    pub port_last: u16,
    /// The port of the switch that it leads to; of several, their names with commas between.
    pub target_port: String,
    /// The container's port that belongs to `port_first`.
    pub target_first: u16,
    /// Connections through it now.
    pub connections: usize,
    /// The container's address; of several, the first one's.
    pub target_ip: Ipv4Addr,
    /// Who may be a client: `any`, `lan` or `loopback`.
    pub scope: String,
    /// The ports of the switch that connections are spread over.
    pub targets: Vec<TargetInfo>,
    /// How these are checked: `arp` or `tcp`; `null` if they are not.
    pub health: Option<Check>,
    /// Seconds between two checks of one.
    pub health_interval: Option<u64>,
}

/// A port of the switch behind a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TargetInfo {
    pub port: String,
    pub ip: Ipv4Addr,
    /// Whether it is up, as far as it is checked.
    pub up: bool,
}

/// `policy ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RuleInfo {
    /// Its place in the list, from 1.
    pub n: usize,
    pub action: Action,
    /// `any`, or places with commas between.
    pub from: String,
    pub to: String,
    /// `null` for every protocol.
    pub proto: Option<Protocol>,
    /// A port or a range; `null` for every port.
    pub dport: Option<String>,
    pub name: Option<String>,
    /// Connections that it allows now.
    pub connections: usize,
    /// Packets that it has refused.
    pub denied: u64,
}

/// In the words of the command line, without its name.
impl fmt::Display for RuleInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} to {}", self.action.as_str(), self.from, self.to)?;
        if let Some(protocol) = self.proto {
            write!(f, " {protocol}")?;
        }
        if let Some(ports) = &self.dport {
            write!(f, " port {ports}")?;
        }
        Ok(())
    }
}

/// `policy default`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DefaultInfo {
    pub from: String,
    pub to: String,
    pub action: Action,
}

/// `policy check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CheckInfo {
    pub action: Action,
    /// What decides: `rule`, `default` (of the two networks), `isolation` (of networks without a default),
    /// `internal` (a network without a way out), `unpublished` (nothing leads there from outside), `host-service` (nothing
    /// leads there from containers), or `open` (nothing speaks against it).
    pub by: String,
    /// The rule's place in the list.
    pub rule: Option<usize>,
    /// The rule's name.
    pub name: Option<String>,
    /// The same in a sentence.
    pub text: String,
}

/// `drops`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DropInfo {
    pub reason: String,
    pub port: String,
    pub count: u64,
    /// How long ago the last one was.
    pub last_seconds: u64,
    /// One sentence about the reason.
    pub meaning: String,
    /// The last dropped frames, newest first; only a sample is kept.
    pub frames: Vec<DroppedFrame>,
}

/// The headers of a dropped frame, as far as they could be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DroppedFrame {
    pub age_seconds: u64,
    pub src_mac: Option<MacAddr>,
    pub dst_mac: Option<MacAddr>,
    /// Of the customer VLAN tag that it has, 0 being a priority tag's; the tags of a trunk's VLANs were taken out before.
    pub vid: Option<u16>,
    /// `ipv4`, `ipv6`, `arp`, or the EtherType in hexadecimal.
    pub ethertype: Option<String>,
    pub proto: Option<String>,
    pub src: Option<std::net::IpAddr>,
    pub sport: Option<u16>,
    pub dst: Option<std::net::IpAddr>,
    pub dport: Option<u16>,
    /// Of what the policy refuses: the rule that does so now, from 1.
    pub rule: Option<usize>,
}

/// `stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Stats {
    /// The uplinks first, under their interfaces' names.
    pub ports: Vec<PortStats>,
    pub workers: Vec<WorkerStats>,
}

/// Counters of one port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PortStats {
    pub name: String,
    /// `null` for an uplink.
    pub network: Option<String>,
    #[serde(flatten)]
    pub counts: Counts,
    /// Frames that the switch made because of this port: ARP, ICMP, announcements.
    pub originated: u64,
    /// Extra copies made by flooding.
    pub copies: u64,
    /// Frames that ended at the gateway itself.
    pub consumed: u64,
    /// Frames from the uplink that are the host's business.
    pub left_to_host: u64,
    /// Fragments that went on as a part of their datagram, which is one frame.
    pub reassembled: u64,
}

/// The work of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct WorkerStats {
    pub worker: usize,
    pub turns: u64,
    pub frames: u64,
    pub busy_micros: u64,
}
