//! Networks that are part of a LAN (mode `bridge`): what `brctl addif br0 eth0` and pipework did.
//!
//! An interface of the host is one more port of such a network. Containers there are stations of the LAN, with their
//! own MAC addresses and with addresses of the LAN, by hand or from its DHCP server; its routers are theirs. The switch
//! has no address there: no gateway, no translation, no DHCP and no DNS, and no way from or to its other networks.
//!
//! The interface stays the host's, with its addresses. It is opened as it is, promiscuous, and neither switched on nor
//! changed. What the host itself sends by it goes to the wire alone, and what containers send to the host's MAC
//! address would, too: so the two do not meet there, as with macvlan.
//!
//! **No loop** can come of it, however many switches are on one LAN: an interface is the uplink of one network, a
//! network has one uplink, and nothing that came in by that leaves by it.
//!
//! **Followed live**: the interface's name is what is kept to. While there is none of that name, or it is down, the
//! containers have each other; when it is back, they have the LAN again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::apply::Control;
use super::error::Error;
use super::host::{Attachment, Host, PortPlan};
use super::name::Name;
use super::networks::{
    check_host_address, checked_mtu, checked_subnet, differs, info, no_room, same_settings,
};
use super::records::PortRecord;
use super::request::{NetworkCreate, NetworkSet, NetworkSetting};
use super::response::{NetworkInfo, UplinkInfo};
use crate::addr::{MacAddr, MacRange, NetworkId, PortId, UplinkId};
use crate::clock::Time;
use crate::limits::{MTU_MAX, MTU_MIN, PORTS_MAX};
use crate::shared::{Fdb, Neighbors};
use crate::snapshot::{Network, NetworkMode, Pins, Policing, Port};

/// An interface behind which a LAN is, as the host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanFacts {
    /// Its number; another one means another interface with the same name.
    pub index: u32,
    /// The host's MAC address on it.
    pub mac: MacAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Whether the link is up.
    pub up: bool,
    /// The host's address on it, with the LAN's prefix.
    pub address: Option<Ipv4Net>,
    /// The next hop of the host's default route by it.
    pub router: Option<Ipv4Addr>,
}

/// What control remembers of a bridged network's interface.
#[derive(Debug, Clone)]
pub(super) struct Lan {
    /// The port that it is.
    pub(super) port: PortId,
    ifname: String,
    facts: LanFacts,
    /// Whether there is one, and the switch has it open.
    is_open: bool,
}

impl<H: Host> Control<H> {
    /// Makes a network of mode `bridge`.
    ///
    /// # Errors
    /// `Usage` for a prefix, router or MTU that cannot be, or if they are not said and the interface does not tell;
    /// `NotFound` for an interface that is not there; `Exists` for a name, prefix or interface that is taken; `Failed` if
    /// the kernel refuses.
    pub(super) fn lan_create(&mut self, create: &NetworkCreate, now: Time) -> Result<NetworkInfo, Error> {
        let snapshot = self.snapshot();
        let there = snapshot.networks.iter().flatten().find(|there| there.name == create.name.as_str());
        let known = there.and_then(|there| self.lans.get(&there.id));
        let Some(ifname) =
            create.uplink.as_ref().map(ToString::to_string).or(known.map(|lan| lan.ifname.clone()))
        else {
            let why = "mode bridge needs the interface that the LAN is behind";
            return Err(Error::usage(&create.name, why, "name it: --uplink IFACE"));
        };
        let facts = match known.filter(|lan| lan.ifname == ifname) {
            Some(lan) => lan.facts.clone(),
            None => self.host.lan(&ifname)?.ok_or_else(|| {
                Error::not_found(&ifname, "no such interface for the uplink", "see ip link")
            })?,
        };
        let network = self.planned_lan(create, there.map(|there| &**there), &ifname, &facts)?;
        if let Some(there) = there {
            let same_uplink = known.is_some_and(|lan| lan.ifname == ifname);
            let same = same_uplink && same_settings(there, &network, create.mtu.is_some());
            return if same { Ok(self.network_info(there)) } else { Err(differs(&self.network_info(there))) };
        }
        self.check_apart_from_networks(network.subnet)?;
        let name = self.check_uplink(&ifname)?;
        let id = snapshot.free_network().ok_or_else(|| no_room(&create.name))?;
        let Some(port) = snapshot.free_port() else {
            let why = format_args!("there are {} ports already", PORTS_MAX - 1);
            return Err(Error::failed(&ifname, why, "remove one: vswitchctl port rm"));
        };
        let network = Network { id, ..network };
        network.fdb.add_local(network.gateway_mac, now);
        network.fdb.add_local(facts.mac, now);
        self.open_lan(port, &ifname, facts.mtu)?;
        let made = info(&network, Some(&ifname));
        let in_snapshot = self.lan_port(port, &ifname, id, facts.mtu);
        self.shared.publish(|snapshot| {
            snapshot.set_network(network);
            snapshot.set_port(in_snapshot);
        });
        self.host.start_port(port);
        log::info!("network {}: bridged to {ifname}", create.name);
        self.ports.insert(name, PortRecord::of_uplink(port, id, &ifname));
        self.lans.insert(id, Lan { port, ifname, facts, is_open: true });
        Ok(NetworkInfo { ports: 1, ..made })
    }

    /// The network that a request describes, with what it does not say as it is or as the interface has it.
    fn planned_lan(
        &self,
        create: &NetworkCreate,
        there: Option<&Network>,
        ifname: &str,
        facts: &LanFacts,
    ) -> Result<Network, Error> {
        let said = create.subnet.or(there.map(|there| there.subnet));
        let Some(subnet) = said.or(facts.address.as_ref().map(Ipv4Net::trunc)) else {
            let why = format_args!("{ifname} has no address that tells the LAN's prefix");
            return Err(Error::usage(&create.name, why, "give --subnet CIDR"));
        };
        let subnet = checked_subnet(subnet)?;
        if let Some(router) = create.gateway {
            check_host_address(subnet, router, "gateway")?;
        }
        let router = create.gateway.or(match there {
            Some(there) => there.router,
            None => facts.router.filter(|router| subnet.contains(router)),
        });
        let most = facts.mtu.clamp(MTU_MIN, MTU_MAX);
        let mtu = create.mtu.map_or(Ok(most), checked_mtu)?;
        if mtu > most && there.is_none() {
            let hint = format_args!("choose up to {most}, or set that of {ifname} first");
            return Err(Error::usage(
                format_args!("mtu {mtu}"),
                format_args!("{ifname} carries {most}"),
                hint,
            ));
        }
        Ok(Network {
            id: NetworkId(0),
            name: create.name.to_string(),
            subnet,
            gateway: None,
            gateway_mac: prober(facts.mac),
            router,
            mtu,
            mode: NetworkMode::Bridge,
            uplink: UplinkId::FIRST,
            dhcp: false,
            ports: Vec::new(),
            fdb: Arc::new(Fdb::new(self.shared.epoch())),
            neighbors: Arc::new(Neighbors::of_network(self.shared.epoch())),
        })
    }

    /// The name of the port that an interface will be. An interface can be one thing only.
    fn check_uplink(&self, ifname: &str) -> Result<Name, Error> {
        if self.uplink(ifname).is_ok() {
            let why = "is an uplink that is translated to";
            return Err(Error::exists(ifname, why, "bridge another interface, or use --uplink-mode bridge"));
        }
        let name: Name = ifname.parse()?;
        let taken = self.ports.iter().find(|(port, record)| **port == name || record.holds(ifname));
        match taken {
            Some((port, _)) => {
                Err(Error::exists(ifname, format_args!("is port {port} already"), "choose another interface"))
            }
            None => Ok(name),
        }
    }

    /// A bridged network's uplink, for the snapshot. It is trusted with what a LAN is full of, but not with the addresses
    /// of the switch's own ports.
    pub(super) fn lan_port(&self, id: PortId, ifname: &str, network: NetworkId, mtu: u16) -> Port {
        Port {
            lan: true,
            pins: Some(Pins { mac: None, ip: None }),
            policing: Policing::NONE,
            ..self.new_port(id, ifname, network, mtu.clamp(MTU_MIN, MTU_MAX))
        }
    }

    fn open_lan(&mut self, port: PortId, ifname: &str, mtu: u16) -> Result<(), Error> {
        let plan = PortPlan {
            attachment: Attachment::Uplink { ifname: ifname.to_owned() },
            mac: None,
            address: None,
            gateway: None,
            resolver: None,
            mtu,
        };
        self.host.open_port(port, &plan)
    }

    /// Lets go of a bridged network's interface, which the network is about to end without.
    pub(super) fn lan_close(&mut self, network: NetworkId, now: Time) {
        if let Some(lan) = self.lans.remove(&network) {
            self.detach(lan.port, now);
        }
    }

    /// The interface behind a port has vanished, whatever has its name now.
    pub(super) fn lan_lost(&mut self, port: PortId, now: Time) {
        self.lans.values_mut().filter(|lan| lan.port == port).for_each(|lan| lan.is_open = false);
        self.follow_lans(now);
    }

    /// Reads what the interfaces of bridged networks are now, and applies what changed.
    pub fn follow_lans(&mut self, now: Time) {
        let networks: Vec<_> = self.lans.keys().copied().collect();
        networks.into_iter().for_each(|network| self.follow_lan(network, now));
    }

    fn follow_lan(&mut self, id: NetworkId, now: Time) {
        let (Some(lan), Some(network)) = (self.lans.get(&id).cloned(), self.snapshot().network(id).cloned())
        else {
            return;
        };
        let Lan { port, ifname, facts: before, is_open } = lan;
        let found = match self.host.lan(&ifname) {
            Ok(found) => found,
            Err(error) => return log::warn!("network {}: {error}", network.name),
        };
        let is_there = found.is_some();
        let facts = found.unwrap_or_else(|| LanFacts { up: false, ..before.clone() });
        let link = |facts: &LanFacts| (facts.index, facts.mac, facts.mtu, facts.up);
        if link(&facts) == link(&before) && is_there == is_open {
            // The host's own address and route there matter to nobody but who asks for them.
            self.lans.insert(id, Lan { port, ifname, facts, is_open });
            return;
        }
        let state = match (is_there, facts.up) {
            (true, true) => "up",
            (true, false) => "down",
            (false, _) => "gone, and will be used again when it is back",
        };
        log::info!("network {}: {ifname} is {state}, MTU {}", network.name, facts.mtu);
        let is_same = is_there && facts.index == before.index && is_open;
        let mut is_open = is_same;
        if !is_same {
            self.host.close_port(port);
            // Who is behind it now will say so.
            network.fdb.remove_port(port);
            network.neighbors.lock().remove_where(|_, _| true);
        }
        if is_there && !is_same {
            match self.open_lan(port, &ifname, facts.mtu) {
                Ok(()) => is_open = true,
                Err(error) => log::warn!("network {}: {error}", network.name),
            }
        }
        self.apply_lan_facts(&network, port, (&before, &facts), now);
        if is_open && !is_same {
            self.host.start_port(port);
        }
        self.lans.insert(id, Lan { port, ifname, facts, is_open });
    }

    /// Puts another MAC address and MTU of the interface in force. A network whose MTU was the interface's follows it.
    fn apply_lan_facts(
        &mut self,
        network: &Network,
        port: PortId,
        (before, facts): (&LanFacts, &LanFacts),
        now: Time,
    ) {
        if facts.mac != before.mac {
            let fdb = Fdb::new(self.shared.epoch());
            let gateway_mac = prober(facts.mac);
            [gateway_mac, facts.mac].into_iter().for_each(|mac| fdb.add_local(mac, now));
            let changed = Network { gateway_mac, fdb: Arc::new(fdb), ..network.clone() };
            self.shared.publish(|snapshot| snapshot.set_network(changed));
        }
        let [old, new] = [before.mtu, facts.mtu].map(|mtu| mtu.clamp(MTU_MIN, MTU_MAX));
        if old == new {
            return;
        }
        if let Some(uplink) = self.snapshot().port(port).cloned() {
            self.shared.publish(|snapshot| snapshot.set_port(Port { mtu: new, ..Port::clone(&uplink) }));
        }
        let follows = network.mtu == old || network.mtu > new;
        let Some(name) = network.name.parse().ok().filter(|_| follows) else { return };
        let set = NetworkSet { name, settings: vec![NetworkSetting::Mtu(new)] };
        if let Err(error) = self.network_set(&set, now) {
            log::warn!("network {}: {error}", network.name);
        }
    }

    /// The interface that a network is bridged to.
    pub(super) fn bridged_to(&self, network: NetworkId) -> Option<&str> {
        self.lans.get(&network).map(|lan| lan.ifname.as_str())
    }

    /// The host's own address on a bridged network's LAN.
    pub(super) fn own_address_on(&self, network: NetworkId) -> Option<Ipv4Addr> {
        self.lans.get(&network)?.facts.address.map(|address| address.addr())
    }

    /// The network whose uplink a port is.
    pub(super) fn bridged_by(&self, port: PortId) -> Option<Arc<Network>> {
        let (&network, _) = self.lans.iter().find(|(_, lan)| lan.port == port)?;
        self.snapshot().network(network).cloned()
    }

    /// A bridged network's uplink, as it is now.
    pub(super) fn lan_info(&self, network: &Network) -> Option<UplinkInfo> {
        let Lan { ifname, facts, is_open, .. } = self.lans.get(&network.id)?;
        Some(UplinkInfo {
            name: ifname.clone(),
            mode: NetworkMode::Bridge.as_str().to_owned(),
            address: facts.address,
            gateway: network.router,
            mtu: facts.mtu,
            mac: facts.mac,
            up: facts.up && *is_open,
            nat_ports: None,
        })
    }

    /// A MAC address for a port of a LAN that has no address yet: for the same port always the same, and another one at
    /// every switch on the LAN.
    pub(super) fn mac_on_lan(&self, network: NetworkId, name: &Name, round: u8) -> MacAddr {
        let mut hasher = DefaultHasher::new();
        let own = self.lans.get(&network).map(|lan| lan.facts.mac.0);
        (own, name.as_str(), round).hash(&mut hasher);
        let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
        MacAddr::local(MacRange::LanPort, [a, b, c, d])
    }
}

/// Says that the switch itself does not give out what is the LAN's to give.
pub(super) fn no_address_of_ours(network: &Network) -> Error {
    let why =
        format_args!("the addresses of network {} are the LAN's, and not the switch's to give", network.name);
    let hint =
        "give one by hand that is free there, with --ip, or --no-address, and ask the LAN's DHCP server";
    Error::usage("no address", why, hint)
}

/// Says that a network has no gateway that could do something for it.
pub(super) fn no_gateway(what: impl std::fmt::Display, network: &Network, hint: &str) -> Error {
    let why = format_args!("network {} is bridged, and the switch has no gateway there", network.name);
    Error::usage(what, why, hint)
}

/// The sender of the switch's ARP probes on a LAN, made of the interface's own address, so that no other switch there
/// has the same.
fn prober(MacAddr([_, _, a, b, c, d]): MacAddr) -> MacAddr {
    MacAddr::local(MacRange::LanProbe, [a, b, c, d])
}
