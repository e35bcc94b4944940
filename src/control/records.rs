//! What control remembers of ports: a name, and the interfaces that it has, each on a network of its own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::host::{Attachment, NetnsIdentity};
use super::name::Name;
use super::response::PortKind;
use crate::addr::{MacAddr, NetworkId, PortId};

/// What control remembers of a port's interface, which is a port of the data plane.
#[derive(Debug, Clone)]
pub(super) struct PortRecord {
    pub(super) id: PortId,
    pub(super) network: NetworkId,
    pub(super) attachment: Attachment,
    pub(super) netns: Option<NetnsIdentity>,
    /// Its own address, which nobody else gets.
    pub(super) ip: Option<Ipv4Addr>,
    /// The address that it has by DHCP, if it has none of its own.
    pub(super) lease: Option<Ipv4Addr>,
    pub(super) mac: Option<MacAddr>,
    /// Whether the interface was configured without the address.
    pub(super) no_address: bool,
    /// Whether the container's default route leads out by it.
    pub(super) has_default_route: bool,
    /// Whether its namespace was given a resolv.conf.
    pub(super) dns: bool,
}

impl PortRecord {
    /// That of the interface which a network is bridged to.
    pub(super) fn of_uplink(id: PortId, network: NetworkId, ifname: &str) -> Self {
        PortRecord {
            id,
            network,
            attachment: Attachment::Uplink { ifname: ifname.to_owned() },
            netns: None,
            ip: None,
            lease: None,
            mac: None,
            no_address: true,
            has_default_route: false,
            dns: false,
        }
    }

    /// Whether an interface with this name beside the switch is this one, or was made for it by the switch.
    pub(super) fn holds(&self, name: &str) -> bool {
        match &self.attachment {
            Attachment::Device { ifname }
            | Attachment::Uplink { ifname }
            | Attachment::Tap { ifname }
            | Attachment::Host { ifname } => ifname == name,
            Attachment::Netns { .. } | Attachment::Vlan { .. } => false,
        }
    }

    /// The address that it has now.
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.ip.or(self.lease)
    }

    pub(super) fn kind(&self) -> PortKind {
        match self.attachment {
            Attachment::Netns { .. } => PortKind::Netns,
            Attachment::Tap { .. } => PortKind::Tap,
            Attachment::Device { .. } => PortKind::Device,
            Attachment::Host { .. } => PortKind::Host,
            Attachment::Uplink { .. } => PortKind::Uplink,
            Attachment::Vlan { .. } => PortKind::Vlan,
        }
    }

    /// Whether it is a VLAN that this port's device carries.
    pub(super) fn is_vlan_of(&self, port: PortId) -> bool {
        self.attachment.vlan().is_some_and(|vlan| vlan.trunk == port)
    }
}

/// The ports by name. A name has at least one interface, and at most one on each network; the first is the one that
/// the port was added with, as long as that is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports {
    by_name: BTreeMap<Name, Vec<PortRecord>>,
}

impl Ports {
    /// Every interface of every port, in the order of names and of connecting.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &PortRecord)> + Clone {
        self.by_name.iter().flat_map(|(name, all)| all.iter().map(move |record| (name, record)))
    }

    /// The interfaces on a network.
    pub(super) fn on_network(&self, id: NetworkId) -> impl Iterator<Item = (&Name, &PortRecord)> + Clone {
        self.iter().filter(move |(_, record)| record.network == id)
    }

    /// The first interface of a port.
    pub(super) fn get(&self, name: &Name) -> Option<&PortRecord> {
        self.all(name).first()
    }

    /// All interfaces of a port; none if there is no such port.
    pub(super) fn all(&self, name: &Name) -> &[PortRecord] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The interface of a port on a network.
    pub(super) fn on(&self, name: &Name, network: NetworkId) -> Option<&PortRecord> {
        self.all(name).iter().find(|record| record.network == network)
    }

    /// The interface that is this port of the data plane, to change it.
    pub(super) fn get_mut(&mut self, id: PortId) -> Option<&mut PortRecord> {
        self.by_name.values_mut().flatten().find(|record| record.id == id)
    }

    /// Whether there is such a port.
    pub(super) fn contains_key(&self, name: &Name) -> bool {
        self.by_name.contains_key(name)
    }

    /// Adds an interface to a port, which begins to exist with the first.
    pub(super) fn insert(&mut self, name: Name, record: PortRecord) {
        self.by_name.entry(name).or_default().push(record);
    }

    /// Removes an interface, and with the last one the port.
    pub(super) fn remove(&mut self, id: PortId) -> Option<(Name, PortRecord)> {
        let (name, all) =
            self.by_name.iter_mut().find(|(_, all)| all.iter().any(|record| record.id == id))?;
        let (name, place) = (name.clone(), all.iter().position(|record| record.id == id)?);
        let record = all.remove(place);
        if all.is_empty() {
            self.by_name.remove(&name);
        }
        Some((name, record))
    }

    /// How many interfaces there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.values().map(Vec::len).sum()
    }
}
