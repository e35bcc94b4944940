//! Ports: names, addresses, and the devices behind them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ipnet::Ipv4Net;

use super::apply::{Control, DEFAULT_NETWORK};
use super::error::Error;
use super::host::{Attachment, Host, NetnsIdentity, PortPlan};
use super::lan::{no_address_of_ours, no_gateway};
use super::name::Name;
use super::networks::checked_mtu;
use super::records::PortRecord;
use super::request::{Bound, PortAdd, PortInspect, PortSet, PortSetting, Remove, Security, VlanSpec};
use super::response::{NatPorts, PortDetail, PortInfo, Usage};
use crate::addr::{MacAddr, NetworkId, PortId, Protocol};
use crate::clock::Time;
use crate::counters::PortCounters;
use crate::limits::{CONNECTIONS_PER_PORT, PORTS_MAX};
use crate::snapshot::{Network, Pins, Policing, Port, Vlans};
use crate::wire::arp;

/// The interface's name in a namespace unless another was asked for.
const DEFAULT_IFNAME: &str = "eth0";

/// An interface that a port is to get.
#[derive(Debug)]
pub(super) struct NewInterface<'a> {
    /// The port's name.
    pub(super) name: &'a Name,
    pub(super) network: &'a Network,
    pub(super) attachment: Attachment,
    pub(super) netns: Option<NetnsIdentity>,
    /// The addresses that were asked for.
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) mac: Option<MacAddr>,
    /// Whether it gets no address.
    pub(super) no_address: bool,
    /// Whether a default route may lead out by it.
    pub(super) may_lead_out: bool,
    /// Names that it has besides the port's.
    pub(super) aliases: Arc<[String]>,
    /// Whether its namespace gets a resolv.conf that names the gateway.
    pub(super) dns: bool,
}

impl<H: Host> Control<H> {
    pub(super) fn port_ls(&self) -> Vec<PortInfo> {
        self.ports.iter().map(|(name, port)| self.port_info(name, port)).collect()
    }

    pub(super) fn port_inspect(&self, inspect: &PortInspect, now: Time) -> Result<PortDetail, Error> {
        let name = &inspect.name;
        let record = match &inspect.network {
            Some(network) => self.interface(name, network)?,
            None => self.port(name)?,
        };
        let snapshot = self.snapshot();
        let gone = || Error::not_found(name, "no such port", "see vswitchctl port ls");
        let port = snapshot.port(record.id).ok_or_else(gone)?;
        let totals = port.counters.totals();
        let published = self
            .publish_ls(now)
            .into_iter()
            .filter(|p| p.targets.iter().any(|target| target.port == name.as_str()))
            .collect();
        let interfaces = self.ports.all(name).iter().map(|record| self.port_info(name, record)).collect();
        Ok(PortDetail {
            port: self.port_info(name, record),
            interfaces,
            mtu: port.mtu,
            security: if port.pins.is_some() { Security::On } else { Security::Off },
            policing: port.policing.into(),
            connections: Usage {
                used: u64::from(self.shared.conntrack.connections_of(record.id)),
                limit: u64::from(port.quota),
            },
            nat_ports: NatPorts {
                tcp: self.nat_ports(port, Protocol::Tcp),
                udp: self.nat_ports(port, Protocol::Udp),
                icmp: self.nat_ports(port, Protocol::Icmp),
            },
            rx_super: totals.rx_super,
            tx_super: totals.tx_super,
            tx_coalesced: totals.tx_coalesced,
            missed: port.missed.load(Relaxed),
            drop_reasons: self.drops_of(port, now),
            published,
        })
    }

    fn nat_ports(&self, port: &Port, protocol: Protocol) -> Usage {
        let used = self.shared.conntrack.nat_ports_of(port.id, protocol);
        Usage { used: u64::from(used), limit: u64::from(port.nat_ports) }
    }

    /// Attaches a port.
    ///
    /// # Errors
    /// `Usage` for what cannot be, `NotFound` for a network, namespace or device that is not there, `Exists`
    /// for a name or address that is taken, `Failed` if the kernel refuses or a limit is reached.
    pub(super) fn port_add(&mut self, add: &PortAdd, now: Time) -> Result<PortInfo, Error> {
        let attachment = attachment(add)?;
        let netns = self.host.identify(&attachment)?;
        let network = self.network(first_network(add))?;
        if let Some(first) = self.ports.get(&add.name) {
            let there = self.ports.on(&add.name, network.id).unwrap_or(first);
            check_same(add, &attachment, netns, &network, there)?;
            self.check_same_names(add, there)?;
            self.check_same_vlans(add)?;
            return Ok(self.port_info(&add.name, there));
        }
        self.check_device(&attachment)?;
        self.check_vlans(add, &network)?;
        let new = NewInterface {
            name: &add.name,
            network: &network,
            attachment,
            netns,
            ip: add.ip,
            mac: add.mac,
            no_address: add.no_address,
            may_lead_out: true,
            aliases: aliases(add),
            dns: add.dns,
        };
        let added = self.plug(new, now)?;
        for connect in add.vlans() {
            if let Err(error) = self.network_connect(&connect, now) {
                self.port_rm(&Remove { name: add.name.clone(), if_exists: true }, now)?;
                return Err(error);
            }
        }
        Ok(added)
    }

    /// Makes an interface of a port, and puts it on its network.
    ///
    /// # Errors
    /// As [`Control::port_add`].
    pub(super) fn plug(&mut self, new: NewInterface<'_>, now: Time) -> Result<PortInfo, Error> {
        let NewInterface { name, network, attachment, netns, no_address, .. } = new;
        let Some(id) = self.snapshot().free_port() else {
            let why = format_args!("there are {} ports already", PORTS_MAX - 1);
            return Err(Error::failed(name, why, "remove one: vswitchctl port rm"));
        };
        if let (true, None) = (new.dns, network.gateway) {
            return Err(no_gateway("dns", network, "leave it out: the LAN's DHCP server names resolvers"));
        }
        let ip = match new.ip {
            None if no_address => None,
            None if network.gateway.is_none() => return Err(no_address_of_ours(network)),
            wanted => Some(self.choose_ip(name, wanted, network, now)?),
        };
        let mac = self.choose_mac((name, new.mac), (id, ip), network, &attachment)?;
        let configures = matches!(attachment, Attachment::Netns { .. } | Attachment::Host { .. });
        let address = ip.filter(|_| configures && !no_address);
        let with_prefix = address.and_then(|ip| Ipv4Net::new(ip, network.subnet.prefix_len()).ok());
        // By an internal network, too: its gateway leads to the other networks, where rules allow that.
        let gateway = network.router.filter(|_| new.may_lead_out && address.is_some());
        let plan = PortPlan {
            mac,
            address: with_prefix,
            gateway,
            resolver: network.gateway.filter(|_| new.dns),
            mtu: network.mtu,
            attachment: attachment.clone(),
        };
        self.host.open_port(id, &plan)?;

        let is_host = matches!(attachment, Attachment::Host { .. });
        let port = Port {
            ip,
            vlan: attachment.vlan(),
            aliases: new.aliases,
            pins: Some(Pins { mac, ip }),
            host: with_prefix.filter(|_| is_host),
            ..self.new_port(id, name, network.id, network.mtu)
        };
        self.shared.publish(|snapshot| snapshot.set_port(port));
        self.host.start_port(id);
        if let (Some(ip), Some(mac)) = (address, mac) {
            self.host.inject(id, arp::announcement((mac, ip)).to_vec());
        }
        self.keep_addresses(&network.name, name, ip, mac);
        let record = PortRecord {
            id,
            network: network.id,
            attachment,
            netns,
            ip,
            lease: None,
            mac,
            no_address,
            has_default_route: gateway.is_some(),
            dns: new.dns,
        };
        let made = self.port_info(name, &record);
        log::info!("port {name}: attached to network {}", network.name);
        self.ports.insert(name.clone(), record);
        Ok(made)
    }

    pub(super) fn port_rm(&mut self, rm: &Remove, now: Time) -> Result<usize, Error> {
        match self.port(&rm.name) {
            Err(_) if rm.if_exists => return Ok(0),
            Err(error) => return Err(error),
            Ok(record) => self.check_no_uplink(record)?,
        }
        for id in self.ids_of(&rm.name) {
            self.detach(id, now);
        }
        Ok(1)
    }

    /// A bridged network's uplink goes with the network.
    fn check_no_uplink(&self, record: &PortRecord) -> Result<(), Error> {
        let Some(network) = self.bridged_by(record.id) else { return Ok(()) };
        let why = format_args!("is the uplink of network {}", network.name);
        let hint = format_args!("remove the network: vswitchctl network rm {}", network.name);
        Err(Error::exists(record.attachment.ifname(), why, hint))
    }

    /// Removes an interface whose device has vanished by itself, and its port with the last one. A bridged network
    /// waits for its interface to come back.
    pub fn port_gone(&mut self, id: PortId, now: Time) {
        if self.uplink_at(id).is_some() {
            return self.follow_uplinks(now);
        }
        if self.bridged_by(id).is_some() {
            return self.lan_lost(id, now);
        }
        let Some((name, record)) = self.ports.iter().find(|(_, port)| port.id == id) else { return };
        let ifname = record.attachment.ifname();
        log::info!("port {name}: {ifname} is gone (the namespace ended or the interface was deleted)");
        self.detach(id, now);
    }

    /// Removes an interface and everything that hangs on it, the VLANs that it carries first.
    pub(super) fn detach(&mut self, id: PortId, now: Time) -> Option<PortRecord> {
        for vlan in self.vlans_of(id) {
            self.detach(vlan, now);
        }
        let (name, record) = self.ports.remove(id)?;
        let snapshot = self.snapshot();
        self.unpublish_port(record.id, now);
        self.shared.publish(|snapshot| snapshot.remove_port(record.id));
        self.host.close_port(record.id);
        self.dhcp.leave(record.network, &name, now);
        // Only now is no worker left that could punt, learn or connect for it.
        self.shared.punts.forget(record.id);
        self.shared.stack_punts.forget(record.id);
        if let Some(network) = snapshot.network(record.network) {
            network.fdb.remove_port(record.id);
        }
        self.shared.conntrack.flush(now, |connection| connection.port == record.id);
        if let Some(port) = snapshot.port(record.id) {
            self.retired += port.counters.totals();
        }
        Some(record)
    }

    /// The numbers of all interfaces of a port.
    pub(super) fn ids_of(&self, name: &Name) -> Vec<PortId> {
        self.ports.all(name).iter().map(|record| record.id).collect()
    }

    /// The numbers of the VLANs that an interface carries.
    fn vlans_of(&self, trunk: PortId) -> Vec<PortId> {
        self.ports
            .iter()
            .filter(|(_, record)| record.is_vlan_of(trunk))
            .map(|(_, record)| record.id)
            .collect()
    }

    pub(super) fn port_set(&mut self, set: &PortSet) -> Result<usize, Error> {
        self.port(&set.name)?;
        let only = set.network.as_ref().map(|name| self.network(name.as_str())).transpose()?;
        let all = self.ports.all(&set.name).iter();
        let chosen = all.filter(|record| only.as_ref().is_none_or(|network| network.id == record.network));
        let (before, snapshot) = (chosen.cloned().collect::<Vec<_>>(), self.snapshot());
        if let (Some(network), true) = (&only, before.is_empty()) {
            return Err(not_connected(&set.name, &network.name));
        }
        let mut changed = Vec::new();
        let mut sizes = Vec::new();
        for record in &before {
            let Some(port) = snapshot.port(record.id) else { continue };
            let (mut port, mtu) = (Port::clone(port), port.mtu);
            set.settings.iter().try_for_each(|setting| change(&mut port, *setting, record))?;
            sizes.extend((port.mtu != mtu).then_some((port.id, mtu, port.mtu)));
            changed.push(port);
        }
        self.resize(&sizes)?;
        self.shared.publish(|snapshot| changed.into_iter().for_each(|port| snapshot.set_port(port)));
        Ok(set.settings.len())
    }

    /// Changes the MTU of interfaces, each from what it was to what it shall be: of all or of none.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn resize(&mut self, sizes: &[(PortId, u16, u16)]) -> Result<(), Error> {
        for (done, &(id, _, mtu)) in sizes.iter().enumerate() {
            if let Err(error) = self.host.set_port_mtu(id, mtu) {
                let back: Vec<_> = sizes[..done].iter().map(|&(id, before, now)| (id, now, before)).collect();
                self.resize(&back).unwrap_or_else(|error| log::warn!("{error}"));
                return Err(error);
            }
        }
        Ok(())
    }

    /// A fresh port for the snapshot.
    pub(super) fn new_port(&self, id: PortId, name: impl ToString, network: NetworkId, mtu: u16) -> Port {
        Port {
            id,
            name: name.to_string(),
            network: Some(network),
            ip: None,
            vlan: None,
            vlans: Vlans::default(),
            aliases: Arc::default(),
            mtu,
            quota: CONNECTIONS_PER_PORT,
            pins: None,
            host: None,
            lan: false,
            policing: Policing::default(),
            meters: Arc::default(),
            nat_ports: self.shared.conntrack.fair_ports(),
            counters: Arc::new(PortCounters::new(self.shared.workers())),
            missed: Arc::default(),
        }
    }

    /// The name of a port, or of an uplink; a number if it is gone.
    pub(super) fn port_name(&self, id: PortId) -> String {
        self.snapshot().port(id).map_or_else(|| format!("#{}", id.0), |port| port.name.clone())
    }

    /// The interface of a port on a network.
    ///
    /// # Errors
    /// `NotFound` if there is no such port or network, or the one is not on the other.
    pub(super) fn interface(&self, name: &Name, network: &Name) -> Result<&PortRecord, Error> {
        self.port(name)?;
        let network = self.network(network.as_str())?;
        self.ports.on(name, network.id).ok_or_else(|| not_connected(name, &network.name))
    }

    pub(super) fn port_info(&self, name: &Name, record: &PortRecord) -> PortInfo {
        let snapshot = self.snapshot();
        let totals = snapshot.port(record.id).map(|port| port.counters.totals()).unwrap_or_default();
        let network = snapshot.network(record.network).map_or_else(String::new, |n| n.name.clone());
        let state = if self.host.port_is_up(record.id) { "up" } else { "down" };
        PortInfo {
            name: name.to_string(),
            network,
            kind: record.kind(),
            ip: record.address(),
            mac: record.mac,
            netns: record.attachment.netns().map(str::to_owned),
            ifname: record.attachment.ifname().to_owned(),
            vlan: record.attachment.vid(),
            state: state.to_owned(),
            rx_packets: totals.rx_packets,
            rx_bytes: totals.rx_bytes,
            tx_packets: totals.tx_packets,
            tx_bytes: totals.tx_bytes,
            drops: totals.drops,
        }
    }

    /// Whether a port that exists has the names that an `add` of it asks for.
    fn check_same_names(&self, add: &PortAdd, there: &PortRecord) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let same = snapshot.port(there.id).is_some_and(|port| port.aliases == aliases(add));
        if same && add.dns == there.dns {
            return Ok(());
        }
        let hint = format!("choose another name, or remove it first: vswitchctl port rm {}", add.name);
        Err(Error::exists(&add.name, "exists with other aliases, or another resolv.conf", hint))
    }

    /// Whether the VLANs that an `add` asks for can be: each on a network of its own, with a tag of its own.
    fn check_vlans(&self, add: &PortAdd, native: &Network) -> Result<(), Error> {
        for (place, VlanSpec { network, vid }) in add.vlans.iter().enumerate() {
            let on = self.network(network.as_str())?;
            let others = &add.vlans[..place];
            if on.id == native.id || others.iter().any(|other| other.network == *network) {
                let why = format_args!("would be on network {network} twice");
                return Err(Error::usage(&add.name, why, "give each network one VLAN"));
            }
            if let Some(other) = others.iter().find(|other| other.vid == *vid) {
                let why = format_args!("would be two networks, {} and {network}", other.network);
                return Err(Error::usage(format_args!("VLAN {vid}"), why, "give each VLAN one network"));
            }
        }
        Ok(())
    }

    /// Whether a port that exists has the VLANs that an `add` of it asks for.
    fn check_same_vlans(&self, add: &PortAdd) -> Result<(), Error> {
        for VlanSpec { network, vid } in &add.vlans {
            let on = self.network(network.as_str())?.id;
            if self.ports.on(&add.name, on).and_then(|there| there.attachment.vid()) != Some(*vid) {
                let why = format_args!("exists, and network {network} is not its VLAN {vid}");
                let hint = format_args!("vswitchctl network connect {network} {} --vlan {vid}", add.name);
                return Err(Error::exists(&add.name, why, hint));
            }
        }
        Ok(())
    }

    /// An interface can be one port only, and never an uplink. One that the switch itself has made is the other side of
    /// a port: what leaves there would come back.
    fn check_device(&self, attachment: &Attachment) -> Result<(), Error> {
        let Attachment::Device { ifname } = attachment else { return Ok(()) };
        if self.uplink(ifname).is_ok() {
            return Err(Error::exists(ifname, "is an uplink", "choose another interface"));
        }
        match self.ports.iter().find(|(_, port)| port.holds(ifname)) {
            Some((name, _)) => {
                Err(Error::exists(ifname, format_args!("is port {name} already"), "choose another interface"))
            }
            None => Ok(()),
        }
    }
}

/// Changes one setting of an interface.
pub(super) fn change(port: &mut Port, setting: PortSetting, record: &PortRecord) -> Result<(), Error> {
    match setting {
        PortSetting::Connections(quota) => port.quota = quota,
        PortSetting::NatPorts(quota) => port.nat_ports = quota,
        PortSetting::Mtu(mtu) => port.mtu = checked_mtu(mtu)?,
        PortSetting::Security(security) => {
            let pins = Pins { mac: record.mac, ip: record.address() };
            port.pins = (security == Security::On).then_some(pins);
        }
        PortSetting::Storm(Bound(rate)) => {
            let Policing { moves, macs, .. } = port.policing;
            port.policing = Policing { broadcast: rate, multicast: rate, unknown: rate, moves, macs };
        }
        PortSetting::Broadcast(Bound(rate)) => port.policing.broadcast = rate,
        PortSetting::Multicast(Bound(rate)) => port.policing.multicast = rate,
        PortSetting::Unknown(Bound(rate)) => port.policing.unknown = rate,
        PortSetting::Moves(Bound(rate)) => port.policing.moves = rate,
        PortSetting::Macs(Bound(count)) => port.policing.macs = count,
    }
    Ok(())
}

/// Says that a port has no interface on a network.
pub(super) fn not_connected(port: &Name, network: &str) -> Error {
    let why = format_args!("is not connected to network {network}");
    Error::not_found(port, why, format_args!("vswitchctl network connect {network} {port}"))
}

/// The name of the network that a port's first interface is on.
pub(super) fn first_network(add: &PortAdd) -> &str {
    add.network.as_ref().map_or(DEFAULT_NETWORK, Name::as_str)
}

fn attachment(add: &PortAdd) -> Result<Attachment, Error> {
    let one = "give one of netns, tap and device";
    if add.dns && add.netns.is_none() {
        let why = "a resolv.conf is for a namespace, and the interface stays in this one";
        return Err(Error::usage(&add.name, why, "leave dns out"));
    }
    match (&add.netns, &add.tap, &add.device) {
        (Some(netns), None, None) => {
            let ifname = add.ifname.as_ref().map_or(DEFAULT_IFNAME, |ifname| ifname.as_str());
            Ok(Attachment::Netns { netns: netns.to_string(), ifname: ifname.to_owned() })
        }
        (None, ..) if add.ifname.is_some() => {
            Err(Error::usage(&add.name, "ifname names an interface inside a namespace", "leave it out"))
        }
        (None, Some(ifname), None) => Ok(Attachment::Tap { ifname: ifname.to_string() }),
        (None, None, Some(ifname)) => Ok(Attachment::Device { ifname: ifname.to_string() }),
        (None, None, None) => Err(Error::usage(&add.name, "nothing to attach to", one)),
        _ => Err(Error::usage(&add.name, "several things to attach to", one)),
    }
}

/// The names that a port is to have besides its own, each once.
fn aliases(add: &PortAdd) -> Arc<[String]> {
    let names: BTreeSet<_> = add.aliases.iter().map(ToString::to_string).collect();
    names.into_iter().collect()
}

/// Whether an `add` of a port that exists asks for that very port.
fn check_same(
    add: &PortAdd,
    attachment: &Attachment,
    netns: Option<NetnsIdentity>,
    network: &Network,
    there: &PortRecord,
) -> Result<(), Error> {
    let differs = |why: &str| {
        let hint = format!("choose another name, or remove it first: vswitchctl port rm {}", add.name);
        Err(Error::exists(&add.name, why, hint))
    };
    if there.attachment != *attachment {
        return differs("exists, attached to something else");
    }
    if there.netns != netns {
        return differs("exists, attached to an older namespace of this name");
    }
    if there.network != network.id {
        return differs("exists on another network");
    }
    if add.ip.is_some_and(|ip| there.ip != Some(ip)) || add.no_address != there.no_address {
        return differs("exists with another address");
    }
    if add.mac.is_some_and(|mac| there.mac != Some(mac)) {
        return differs("exists with another MAC address");
    }
    Ok(())
}
