//! What is answered about the switch as a whole: its uplinks, counters, workers and drops.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::addr::MacAddr;

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
