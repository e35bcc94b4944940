//! The configuration of the data plane at one moment: immutable, numbered, swapped as a whole.
//!
//! The control thread changes a copy and publishes it ([`crate::shared::Shared::publish`]); workers pick
//! it up at their next turn. What changes with traffic (FDB, neighbors, counters) hangs on it by `Arc`, so
//! that a new snapshot forgets nothing.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::addr::{MacAddr, NetworkId, PortId, UplinkId};
use crate::counters::PortCounters;
use crate::limits::{MAC_AGEING, MAC_MOVES_PER_SECOND, MACS_PER_PORT, STORM_FRAMES};
use crate::shared::{Fdb, Neighbors};
use crate::table::conntrack::Timeouts;
use crate::table::policy::Policy;
use crate::table::rate_limit::RateLimit;
use crate::table::route_table::RouteTable;

mod ends;
mod health;
mod publications;
mod vlans;

pub use health::{Check, Condition, Watch};
pub use publications::{Publication, Publications, Scope, Target};
pub use vlans::{Vlan, Vlans};

/// What a network is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// To the uplink, masqueraded.
    Nat,
    /// To the uplink and back as a router does, with its own addresses.
    Routed,
    /// To nothing else.
    Internal,
    /// To a LAN, whose stations and routers are on it.
    Bridge,
}

impl NetworkMode {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            NetworkMode::Nat => "nat",
            NetworkMode::Routed => "routed",
            NetworkMode::Internal => "internal",
            NetworkMode::Bridge => "bridge",
        }
    }
}

/// A network: one broadcast domain, with a gateway unless it is part of a LAN.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its number.
    pub id: NetworkId,
    /// Its name, unique.
    pub name: String,
    /// Its prefix.
    pub subnet: Ipv4Net,
    /// The gateway's address, within the prefix. `None` on a LAN ([`NetworkMode::Bridge`]): there the switch is no
    /// station, answers nobody and routes nothing.
    pub gateway: Option<Ipv4Addr>,
    /// The MAC address that the switch speaks with on it: the gateway's, or where there is none, the sender of its
    /// ARP probes.
    pub gateway_mac: MacAddr,
    /// Where default routes on it lead: the gateway, or the LAN's own router.
    pub router: Option<Ipv4Addr>,
    /// Largest IP packet on it, in bytes.
    pub mtu: u16,
    /// What it is connected to.
    pub mode: NetworkMode,
    /// The uplink that leads out of it, unless its mode is `internal`.
    pub uplink: UplinkId,
    /// Whether the gateway is its DHCP server.
    pub dhcp: bool,
    /// The ports on it, in the order of their numbers.
    pub ports: Vec<PortId>,
    /// Learned addresses.
    pub fdb: Arc<Fdb>,
    /// Resolved addresses.
    pub neighbors: Arc<Neighbors>,
}

/// Port security: the addresses that a port must keep to in what it sends. One that is not known is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pins {
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// Its IP address.
    pub ip: Option<Ipv4Addr>,
}

/// How much a port may do to the others. Zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policing {
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

impl Policing {
    /// No limit.
    pub const NONE: Policing = Policing { broadcast: 0, multicast: 0, unknown: 0, moves: 0, macs: 0 };
}

impl Default for Policing {
    fn default() -> Self {
        Policing {
            broadcast: STORM_FRAMES,
            multicast: STORM_FRAMES,
            unknown: STORM_FRAMES,
            moves: MAC_MOVES_PER_SECOND,
            macs: MACS_PER_PORT,
        }
    }
}

/// What a port has used of the rates of its [`Policing`], and of those of the gateway's services.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "they are named as the rates are")]
pub struct Meters {
    pub broadcast: RateLimit,
    pub multicast: RateLimit,
    pub unknown: RateLimit,
    pub moves: RateLimit,
    pub dhcp: RateLimit,
}

impl Network {
    /// Whether this is the network's own address or its broadcast address, which no single host has.
    pub fn is_broadcast(&self, ip: Ipv4Addr) -> bool {
        is_broadcast(self.subnet, ip)
    }

    /// The IP address that the switch speaks with on it. Where it has none it may still ask for others, as whoever
    /// looks for an address that is free (RFC 5227 2.1.1).
    pub fn speaks_as(&self) -> Ipv4Addr {
        self.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}

/// Whether no single host on a link with this prefix has the address: all bits behind the prefix are set, or
/// none is (RFC 1812 4.2.2.11). Prefixes of 31 bits have hosts only (RFC 3021).
fn is_broadcast(link: Ipv4Net, ip: Ipv4Addr) -> bool {
    link.prefix_len() < 31 && (ip == link.network() || ip == link.broadcast())
}

/// What the data plane knows of a port.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Its name, which it has in common with the other interfaces of the same container. For an uplink, the
    /// interface's name.
    pub name: String,
    /// The network it is on; `None` for an uplink.
    pub network: Option<NetworkId>,
    /// The address that it is known by, if there is one: what its names resolve to, and what rules that name it mean.
    pub ip: Option<Ipv4Addr>,
    /// The VLAN that it is, if its frames travel with a tag over another port's device.
    pub vlan: Option<Vlan>,
    /// The VLANs that travel over its device, each a port of its own: if there are any, it is a trunk, and what has no
    /// tag is its own. The snapshot keeps it.
    pub vlans: Vlans,
    /// Names that it has besides its own.
    pub aliases: Arc<[String]>,
    /// Largest IP packet that it carries, in bytes.
    pub mtu: u16,
    /// Most connections that it may have at once.
    pub quota: u32,
    /// Port security, unless it is off.
    pub pins: Option<Pins>,
    /// The host's address and its network's prefix, if it is the host that is behind it.
    pub host: Option<Ipv4Net>,
    /// Whether a LAN is behind it, with routers and servers of its own: it is the uplink of a bridged network.
    pub lan: bool,
    /// What it may do to the others.
    pub policing: Policing,
    /// What it has done of it.
    pub meters: Arc<Meters>,
    /// Most external ports of each protocol that masquerading may take for it at once.
    pub nat_ports: u32,
    /// Its counters.
    pub counters: Arc<PortCounters>,
    /// Frames that the kernel dropped because the switch was too slow to read them.
    pub missed: Arc<AtomicU64>,
}

/// How an uplink's address is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkMode {
    /// The host's own address, shared with the host.
    Shared,
    /// An address and a MAC that the host does not have.
    Own,
}

impl UplinkMode {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            UplinkMode::Shared => "shared",
            UplinkMode::Own => "own",
        }
    }
}

/// An uplink as it is now; followed live.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// Its number.
    pub id: UplinkId,
    /// The interface's name.
    pub name: String,
    /// How its address is used.
    pub mode: UplinkMode,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Whether it gets its address by DHCP.
    pub dhcp: bool,
    /// The address that connections are translated to, with the prefix of the link; `None` while it has none.
    pub address: Option<Ipv4Net>,
    /// All addresses of the uplink itself (the translated-to one included).
    pub addresses: Vec<Ipv4Addr>,
    /// Addresses for which a packet that comes by this uplink is the host's own, or ours: in mode `shared` all that the
    /// host has, in mode `own` only ours.
    pub host_addresses: Vec<Ipv4Addr>,
    /// Largest IP packet on the link, in bytes.
    pub mtu: u16,
    /// Whether the link is up.
    pub up: bool,
    /// Where the host sends which destination.
    pub routes: Arc<RouteTable<Ipv4Addr>>,
    /// External ports for masquerading.
    pub nat_ports: RangeInclusive<u16>,
    /// Resolved next hops.
    pub neighbors: Arc<Neighbors>,
}

impl Uplink {
    /// Whether this is the link's own address or its broadcast address, which no single host has.
    pub fn is_broadcast(&self, ip: Ipv4Addr) -> bool {
        self.address.is_some_and(|link| is_broadcast(link, ip))
    }
}

/// The addresses of a network, both ends included.
#[derive(Debug, Clone, Copy)]
struct Subnet {
    first: Ipv4Addr,
    last: Ipv4Addr,
    network: NetworkId,
}

impl Subnet {
    fn of(network: &Network) -> Self {
        Subnet { first: network.subnet.network(), last: network.subnet.broadcast(), network: network.id }
    }
}

/// The configuration of the data plane.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every change.
    pub generation: u64,
    /// Networks by number. Their subnets do not overlap.
    pub networks: Vec<Option<Arc<Network>>>,
    /// The subnets that have a gateway, in order of their addresses.
    subnets: Vec<Subnet>,
    /// Ports by number; those of the uplinks are the first.
    pub ports: Vec<Option<Arc<Port>>>,
    /// Ports by the addresses that they are known by.
    by_address: HashMap<Ipv4Addr, PortId, ahash::RandomState>,
    /// Uplinks by number.
    pub uplinks: Vec<Arc<Uplink>>,
    /// Published ports.
    pub publications: Arc<Publications>,
    /// Which connections may be made.
    pub policy: Arc<Policy>,
    /// Timeouts of connections.
    pub timeouts: Timeouts,
    /// Time after which an idle MAC address is forgotten.
    pub mac_ageing: std::time::Duration,
}

impl Snapshot {
    /// No network, no port, no uplink.
    pub fn new() -> Self {
        Snapshot {
            generation: 0,
            networks: Vec::new(),
            subnets: Vec::new(),
            ports: vec![None],
            by_address: HashMap::default(),
            uplinks: Vec::new(),
            publications: Arc::default(),
            policy: Arc::default(),
            timeouts: Timeouts::default(),
            mac_ageing: MAC_AGEING,
        }
    }

    /// The network with this number.
    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(id.index())?.as_ref()
    }

    /// The port with this number.
    pub fn port(&self, id: PortId) -> Option<&Arc<Port>> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The uplink with this number.
    pub fn uplink(&self, id: UplinkId) -> Option<&Arc<Uplink>> {
        self.uplinks.get(id.index())
    }

    /// The uplink that leads out of a network.
    pub fn uplink_of(&self, network: &Network) -> Option<&Arc<Uplink>> {
        self.uplink(network.uplink)
    }

    /// The uplink that a port is; `None` for one that is on a network.
    pub fn uplink_at(&self, port: &Port) -> Option<&Arc<Uplink>> {
        self.uplinks.get(port.id.index()).filter(|_| port.network.is_none())
    }

    /// The uplink that has an address.
    pub fn uplink_with(&self, ip: Ipv4Addr) -> Option<&Arc<Uplink>> {
        self.uplinks.iter().find(|uplink| uplink.addresses.contains(&ip))
    }

    /// Whether an address is the host's, or the switch's own on an uplink.
    pub fn is_hosts(&self, ip: Ipv4Addr) -> bool {
        self.uplinks.iter().any(|uplink| uplink.host_addresses.contains(&ip))
    }

    /// The network that an address belongs to, of those that the switch routes to.
    pub fn network_of(&self, ip: Ipv4Addr) -> Option<&Arc<Network>> {
        let before = self.subnets.partition_point(|subnet| subnet.first <= ip);
        let subnet = self.subnets[..before].last().filter(|subnet| ip <= subnet.last)?;
        self.network(subnet.network)
    }

    /// The first free network number below `limits::NETWORKS_MAX`.
    pub fn free_network(&self) -> Option<NetworkId> {
        free_slot(&self.networks, 0, crate::limits::NETWORKS_MAX).map(NetworkId)
    }

    /// The first free port number below `limits::PORTS_MAX`.
    pub fn free_port(&self) -> Option<PortId> {
        free_slot(&self.ports, self.uplinks.len().max(1), crate::limits::PORTS_MAX).map(PortId)
    }

    /// Puts a network in its place.
    pub fn set_network(&mut self, network: Network) {
        let index = network.id.index();
        set_slot(&mut self.networks, index, Some(Arc::new(network)));
        self.order_subnets();
    }

    /// Removes a network.
    pub fn remove_network(&mut self, id: NetworkId) {
        set_slot(&mut self.networks, id.index(), None);
        self.order_subnets();
    }

    fn order_subnets(&mut self) {
        let routed = self.networks.iter().flatten().filter(|network| network.gateway.is_some());
        self.subnets = routed.map(|network| Subnet::of(network)).collect();
        self.subnets.sort_unstable_by_key(|subnet| subnet.first);
    }

    /// Puts a port in its place, into its network's list, and if it is a VLAN into its trunk's.
    pub fn set_port(&mut self, port: Port) {
        let (id, network, address) = (port.id, port.network, port.address());
        if let Some(Vlan { trunk, vid }) = port.vlan
            && let Some(Some(slot)) = self.ports.get_mut(trunk.index())
            && slot.vlans.port(vid) != Some(id)
        {
            Arc::make_mut(slot).vlans.insert(vid, id);
        }
        self.forget_address(id);
        self.by_address.extend(address.map(|ip| (ip, id)));
        set_slot(&mut self.ports, id.index(), Some(Arc::new(port)));
        if let Some(Some(slot)) = network.and_then(|network| self.networks.get_mut(network.index()))
            && let Err(place) = slot.ports.binary_search(&id)
        {
            Arc::make_mut(slot).ports.insert(place, id);
        }
    }

    /// Removes a port, and from its network's and its trunk's list. What was learned from it is the caller's to forget.
    pub fn remove_port(&mut self, id: PortId) {
        self.forget_address(id);
        let (network, vlan) = self.port(id).map_or((None, None), |port| (port.network, port.vlan));
        if let Some(Some(slot)) = vlan.and_then(|vlan| self.ports.get_mut(vlan.trunk.index())) {
            Arc::make_mut(slot).vlans.remove(id);
        }
        set_slot(&mut self.ports, id.index(), None);
        if let Some(Some(slot)) = network.and_then(|network| self.networks.get_mut(network.index()))
            && let Ok(place) = slot.ports.binary_search(&id)
        {
            Arc::make_mut(slot).ports.remove(place);
        }
    }

    /// Forgets by which address a port is known, unless another one is by now.
    fn forget_address(&mut self, id: PortId) {
        if let Some(ip) = self.port(id).and_then(|port| port.address())
            && self.by_address.get(&ip) == Some(&id)
        {
            self.by_address.remove(&ip);
        }
    }
}

impl Port {
    /// The address that it is found by.
    fn address(&self) -> Option<Ipv4Addr> {
        self.ip.or_else(|| self.pins.and_then(|pins| pins.ip))
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot::new()
    }
}

fn free_slot<T>(slots: &[Option<T>], from: usize, limit: usize) -> Option<u16> {
    let free = slots.iter().enumerate().skip(from).find(|(_, slot)| slot.is_none()).map(|(index, _)| index);
    let index = free.unwrap_or(slots.len().max(from));
    if index < limit { u16::try_from(index).ok() } else { None }
}

fn set_slot<T>(slots: &mut Vec<Option<T>>, index: usize, value: Option<T>) {
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    slots[index] = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Epoch;

    fn network(id: u16, subnet: &str) -> Network {
        let subnet: Ipv4Net = subnet.parse().unwrap();
        Network {
            id: NetworkId(id),
            name: format!("net{id}"),
            subnet,
            gateway: Some(subnet.network()),
            gateway_mac: MacAddr::ZERO,
            router: None,
            mtu: 1500,
            mode: NetworkMode::Nat,
            uplink: UplinkId::FIRST,
            dhcp: false,
            ports: Vec::new(),
            fdb: Arc::new(Fdb::new(&Epoch::default())),
            neighbors: Arc::new(Neighbors::of_network(&Epoch::default())),
        }
    }

    #[test]
    fn an_address_finds_its_network_to_both_ends() {
        let mut snapshot = Snapshot::new();
        for (id, subnet) in
            [(0, "172.30.0.0/16"), (1, "10.1.0.0/24"), (2, "10.1.2.0/24"), (3, "172.31.0.8/30")]
        {
            snapshot.set_network(network(id, subnet));
        }
        let found = |snapshot: &Snapshot, ip: &str| {
            snapshot.network_of(ip.parse().unwrap()).map(|network| network.id.0)
        };
        for (ip, expected) in [
            ("172.30.0.0", Some(0)),
            ("172.30.255.255", Some(0)),
            ("172.29.255.255", None),
            ("172.31.0.0", None),
            ("10.1.0.255", Some(1)),
            ("10.1.1.0", None),
            ("10.1.2.7", Some(2)),
            ("172.31.0.11", Some(3)),
            ("172.31.0.12", None),
            ("0.0.0.0", None),
            ("255.255.255.255", None),
        ] {
            assert_eq!(found(&snapshot, ip), expected, "{ip}");
        }
        snapshot.remove_network(NetworkId(2));
        snapshot.set_network(network(1, "10.9.0.0/24"));
        assert_eq!(found(&snapshot, "10.1.2.7"), None);
        assert_eq!(found(&snapshot, "10.1.0.255"), None);
        assert_eq!(found(&snapshot, "10.9.0.1"), Some(1));
    }
}
