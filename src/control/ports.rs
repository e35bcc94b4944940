//! Ports: names, addresses, and the devices behind them.

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ipnet::Ipv4Net;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};

use super::apply::{Control, DEFAULT_NETWORK};
use super::error::Error;
use super::host::{Attachment, Host, NetnsIdentity, PortPlan};
use super::name::Name;
use super::networks::{check_host_address, checked_mtu};
use super::request::{Bound, PortAdd, PortSet, PortSetting, Remove, Security};
use super::response::{NatPorts, PortDetail, PortInfo, PortKind, Usage};
use crate::addr::{MacAddr, NetworkId, PortId, Protocol};
use crate::clock::Time;
use crate::counters::PortCounters;
use crate::limits::{CONNECTIONS_PER_PORT, PORTS_MAX};
use crate::snapshot::{Network, NetworkMode, Pins, Policing, Port};

/// The interface's name in a namespace unless another was asked for.
const DEFAULT_IFNAME: &str = "eth0";

/// What control remembers of a port.
#[derive(Debug, Clone)]
pub(super) struct PortRecord {
    pub(super) id: PortId,
    pub(super) network: NetworkId,
    pub(super) attachment: Attachment,
    pub(super) netns: Option<NetnsIdentity>,
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) mac: Option<MacAddr>,
    /// Whether the interface was configured without the address.
    pub(super) no_address: bool,
    /// Whether its namespace was given a resolv.conf.
    pub(super) dns: bool,
}

impl PortRecord {
    fn kind(&self) -> PortKind {
        match self.attachment {
            Attachment::Netns { .. } => PortKind::Netns,
            Attachment::Tap { .. } => PortKind::Tap,
            Attachment::Device { .. } => PortKind::Device,
        }
    }
}

impl<H: Host> Control<H> {
    pub(super) fn port_ls(&self) -> Vec<PortInfo> {
        self.ports.iter().map(|(name, port)| self.port_info(name, port)).collect()
    }

    pub(super) fn port_inspect(&self, name: &Name, now: Time) -> Result<PortDetail, Error> {
        let record = self.port(name)?;
        let snapshot = self.snapshot();
        let gone = || Error::not_found(name, "no such port", "see vswitchctl port ls");
        let port = snapshot.port(record.id).ok_or_else(gone)?;
        let totals = port.counters.totals();
        let published = self.publish_ls(now).into_iter().filter(|p| p.target_port == name.as_str()).collect();
        Ok(PortDetail {
            port: self.port_info(name, record),
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
    pub(super) fn port_add(&mut self, add: &PortAdd) -> Result<PortInfo, Error> {
        let attachment = attachment(add)?;
        let netns = self.host.identify(&attachment)?;
        let network = self.network(add.network.as_ref().map_or(DEFAULT_NETWORK, Name::as_str))?;
        if let Some(there) = self.ports.get(&add.name) {
            check_same(add, &attachment, netns, &network, there)?;
            self.check_same_names(add, there)?;
            return Ok(self.port_info(&add.name, there));
        }
        self.check_device(&attachment)?;
        let Some(id) = self.snapshot().free_port() else {
            let why = format_args!("there are {} ports already", PORTS_MAX - 1);
            return Err(Error::failed(&add.name, why, "remove one: vswitchctl port rm"));
        };
        let ip = self.choose_ip(add, &network)?;
        let mac = self.choose_mac(add, id, ip, &network, &attachment)?;
        let in_netns = attachment.netns().is_some() && !add.no_address;
        let address = ip.filter(|_| in_netns);
        let plan = PortPlan {
            mac,
            address: address.and_then(|ip| Ipv4Net::new(ip, network.subnet.prefix_len()).ok()),
            gateway: address.and((network.mode != NetworkMode::Internal).then_some(network.gateway)),
            resolver: add.dns.then_some(network.gateway),
            mtu: network.mtu,
            attachment: attachment.clone(),
        };
        self.host.open_port(id, &plan)?;

        let port = Port {
            ip,
            aliases: aliases(add),
            pins: Some(Pins { mac, ip }),
            ..self.new_port(id, &add.name, network.id, network.mtu)
        };
        self.shared.publish(|snapshot| snapshot.set_port(port));
        self.host.start_port(id);
        if let (Some(ip), Some(mac)) = (address, mac) {
            self.host.inject(id, announcement(mac, ip));
        }
        let record = PortRecord {
            id,
            network: network.id,
            attachment,
            netns,
            ip,
            mac,
            no_address: add.no_address,
            dns: add.dns,
        };
        let made = self.port_info(&add.name, &record);
        log::info!("port {}: attached to network {}", add.name, network.name);
        self.ports.insert(add.name.clone(), record);
        Ok(made)
    }

    pub(super) fn port_rm(&mut self, rm: &Remove, now: Time) -> Result<usize, Error> {
        match self.port(&rm.name) {
            Err(_) if rm.if_exists => return Ok(0),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        self.detach(&rm.name, now);
        Ok(1)
    }

    /// Removes a port whose device has vanished by itself.
    pub fn port_gone(&mut self, id: PortId, now: Time) {
        let Some(name) = self.ports.iter().find(|(_, port)| port.id == id).map(|(name, _)| name.clone())
        else {
            return;
        };
        log::info!("port {name}: its device is gone (the namespace ended or the interface was deleted)");
        self.detach(&name, now);
    }

    /// Removes a port and everything that hangs on it.
    fn detach(&mut self, name: &Name, now: Time) {
        let Some(record) = self.ports.remove(name) else { return };
        let snapshot = self.snapshot();
        self.unpublish_where(|publication| publication.to == record.id, now);
        self.shared.publish(|snapshot| snapshot.remove_port(record.id));
        self.host.close_port(record.id);
        // Only now is no worker left that could learn or connect for it.
        if let Some(network) = snapshot.network(record.network) {
            network.fdb.remove_port(record.id);
        }
        self.shared.conntrack.flush(now, |connection| connection.port == record.id);
        if let Some(port) = snapshot.port(record.id) {
            self.retired += port.counters.totals();
        }
    }

    pub(super) fn port_set(&mut self, set: &PortSet) -> Result<usize, Error> {
        let &PortRecord { id, mac, ip, .. } = self.port(&set.name)?;
        let snapshot = self.snapshot();
        let Some(port) = snapshot.port(id) else {
            return Err(Error::not_found(&set.name, "no such port", "see vswitchctl port ls"));
        };
        let mut port = Port::clone(port);
        for setting in &set.settings {
            match *setting {
                PortSetting::Connections(quota) => port.quota = quota,
                PortSetting::NatPorts(quota) => port.nat_ports = quota,
                PortSetting::Mtu(mtu) => port.mtu = checked_mtu(mtu)?,
                PortSetting::Security(security) => {
                    port.pins = (security == Security::On).then_some(Pins { mac, ip });
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
        }
        if snapshot.port(id).is_some_and(|before| before.mtu != port.mtu) {
            self.host.set_port_mtu(id, port.mtu)?;
        }
        self.shared.publish(|snapshot| snapshot.set_port(port));
        Ok(set.settings.len())
    }

    /// A fresh port for the snapshot.
    pub(super) fn new_port(&self, id: PortId, name: impl ToString, network: NetworkId, mtu: u16) -> Port {
        Port {
            id,
            name: name.to_string(),
            network: (id != PortId::UPLINK).then_some(network),
            ip: None,
            aliases: Arc::default(),
            mtu,
            quota: CONNECTIONS_PER_PORT,
            pins: None,
            policing: Policing::default(),
            meters: Arc::default(),
            nat_ports: self.shared.conntrack.fair_ports(),
            counters: Arc::new(PortCounters::new(self.shared.workers())),
            missed: Arc::default(),
        }
    }

    /// The name of a port, or of the uplink; a number if it is gone.
    pub(super) fn port_name(&self, id: PortId) -> String {
        self.snapshot().port(id).map_or_else(|| format!("#{}", id.0), |port| port.name.clone())
    }

    fn port_info(&self, name: &Name, record: &PortRecord) -> PortInfo {
        let snapshot = self.snapshot();
        let totals = snapshot.port(record.id).map(|port| port.counters.totals()).unwrap_or_default();
        let network = snapshot.network(record.network).map_or_else(String::new, |n| n.name.clone());
        let state = if self.host.port_is_up(record.id) { "up" } else { "down" };
        PortInfo {
            name: name.to_string(),
            network,
            kind: record.kind(),
            ip: record.ip,
            mac: record.mac,
            netns: record.attachment.netns().map(str::to_owned),
            ifname: record.attachment.ifname().to_owned(),
            state: state.to_owned(),
            rx_packets: totals.rx_packets,
            rx_bytes: totals.rx_bytes,
            tx_packets: totals.tx_packets,
            tx_bytes: totals.tx_bytes,
            drops: totals.drops,
        }
    }

    /// An interface can be one port only, and never the uplink.
    fn check_device(&self, attachment: &Attachment) -> Result<(), Error> {
        let Attachment::Device { ifname } = attachment else { return Ok(()) };
        if self.uplink.as_ref().is_some_and(|uplink| uplink.settings.name == *ifname) {
            return Err(Error::exists(ifname, "is the uplink", "choose another interface"));
        }
        match self.ports.iter().find(|(_, port)| port.attachment == *attachment) {
            Some((name, _)) => {
                Err(Error::exists(ifname, format_args!("is port {name} already"), "choose another interface"))
            }
            None => Ok(()),
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

    fn choose_ip(&self, add: &PortAdd, network: &Network) -> Result<Option<Ipv4Addr>, Error> {
        let mut neighbors = self.ports.iter().filter(|(_, port)| port.network == network.id);
        if let Some(ip) = add.ip {
            check_host_address(network.subnet, ip, "port")?;
            let hint = "choose another --ip, or leave it out for a free one";
            if ip == network.gateway {
                return Err(Error::exists(
                    ip,
                    format_args!("is the gateway of network {}", network.name),
                    hint,
                ));
            }
            if let Some((name, _)) = neighbors.find(|(_, port)| port.ip == Some(ip)) {
                return Err(Error::exists(ip, format_args!("is the address of port {name}"), hint));
            }
            return Ok(Some(ip));
        }
        if add.no_address {
            return Ok(None);
        }
        let taken: HashSet<Ipv4Addr> =
            neighbors.filter_map(|(_, port)| port.ip).chain([network.gateway]).collect();
        let free = network.subnet.hosts().find(|ip| !taken.contains(ip));
        let full = || Error::failed(&network.name, "no address is free", "make a larger network");
        free.map(Some).ok_or_else(full)
    }

    fn choose_mac(
        &self,
        add: &PortAdd,
        id: PortId,
        ip: Option<Ipv4Addr>,
        network: &Network,
        attachment: &Attachment,
    ) -> Result<Option<MacAddr>, Error> {
        let mac = match (add.mac, ip, attachment) {
            (Some(mac), _, _) => mac,
            // Whoever is behind an existing device has an address of its own.
            (None, _, Attachment::Device { .. }) => return Ok(None),
            (None, Some(ip), _) => MacAddr::from_ipv4(ip),
            (None, None, _) => mac_without_ip(id),
        };
        let hint = "choose another --mac, or leave it out";
        if mac.is_group() {
            return Err(Error::usage(mac, "is a multicast address, which no station has", hint));
        }
        if mac.is_zero() {
            return Err(Error::usage(mac, "is no station's address", hint));
        }
        if mac == network.gateway_mac {
            return Err(Error::exists(mac, format_args!("is the gateway of network {}", network.name), hint));
        }
        let mut neighbors = self.ports.iter().filter(|(_, port)| port.network == network.id);
        match neighbors.find(|(_, port)| port.mac == Some(mac)) {
            Some((name, _)) => Err(Error::exists(mac, format_args!("is the address of port {name}"), hint)),
            None => Ok(Some(mac)),
        }
    }
}

/// The locally administered address of a port without an IP address: 02:77 and its number.
const fn mac_without_ip(id: PortId) -> MacAddr {
    let [high, low] = id.0.to_be_bytes();
    MacAddr([0x02, 0x77, 0, 0, high, low])
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

/// An ARP announcement (RFC 5227 section 2.3): tells the network who has `ip` now.
fn announcement(mac: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    let source = EthernetAddress(mac.0);
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: source,
        source_protocol_addr: ip,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ip,
    };
    let ethernet = EthernetRepr {
        src_addr: source,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}
