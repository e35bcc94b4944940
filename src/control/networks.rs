//! Networks: prefixes that do not meet, each with a gateway.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::apply::Control;
use super::connect::can_have_default_route;
use super::error::Error;
use super::host::Host;
use super::name::{IfName, Name};
use super::publications::{PublicationRecord, TargetRecord};
use super::request::{NetworkCreate, NetworkSet, NetworkSetting, Remove};
use super::response::{NetworkDetail, NetworkInfo, Usage};
use super::subnets::{first_free, is_free, overlap};
use super::uplink::UplinkRecord;
use crate::addr::{Endpoint, MacAddr, UplinkId};
use crate::clock::Time;
use crate::limits::{MTU_MAX, MTU_MIN, NETWORKS_MAX};
use crate::shared::{Fdb, Neighbors};
use crate::snapshot::{Network, NetworkMode, Port};
use crate::table::conntrack::{Info, Nat};

/// The MTU of Ethernet (RFC 894), for a switch without an uplink.
const ETHERNET_MTU: u16 = 1500;

/// Prefix lengths of a network: at least a gateway and a host, at most one of the old class A networks.
const PREFIX_LENGTHS: std::ops::RangeInclusive<u8> = 8..=30;

impl<H: Host> Control<H> {
    pub(super) fn network_ls(&self) -> Vec<NetworkInfo> {
        self.snapshot().networks.iter().flatten().map(|network| self.network_info(network)).collect()
    }

    pub(super) fn network_info(&self, network: &Network) -> NetworkInfo {
        let uplink = self.uplinks.get(network.uplink.index()).map(|uplink| uplink.settings.name.as_str());
        let uplink = match network.mode {
            NetworkMode::Nat | NetworkMode::Routed => uplink,
            NetworkMode::Internal => None,
            NetworkMode::Bridge => self.bridged_to(network.id),
        };
        info(network, uplink)
    }

    /// The uplink of a network, as a request names it that would make the network; `None` if it is the usual one.
    pub(super) fn chosen_uplink(&self, network: &Network) -> Result<Option<IfName>, Error> {
        let chosen = Some(network.uplink).filter(|&uplink| uplink != UplinkId::FIRST);
        let uplink = chosen.and_then(|id| self.uplinks.get(id.index()));
        uplink.map(|uplink| uplink.settings.name.parse()).transpose()
    }

    pub(super) fn network_inspect(&self, name: &Name, now: Time) -> Result<NetworkDetail, Error> {
        let network = self.network(name.as_str())?;
        let ports = self.ports.on_network(network.id);
        let port_names: Vec<_> = ports.clone().map(|(name, _)| name.to_string()).collect();
        let vlans = ports.clone().filter_map(|(name, port)| Some((name.to_string(), port.attachment.vid()?)));
        let vlans = vlans.collect();
        let addresses = ports.filter(|(_, port)| port.ip.is_some()).count() as u64;
        let hosts = (1u64 << (32 - network.subnet.prefix_len())) - 3; // network, broadcast, gateway
        let ageing = self.snapshot().mac_ageing;
        Ok(NetworkDetail {
            network: self.network_info(&network),
            port_names,
            vlans,
            addresses: Usage { used: addresses, limit: hosts },
            macs: Usage {
                used: network.fdb.entries(now, ageing).len() as u64,
                limit: network.fdb.limit() as u64,
            },
            neighbors: network.neighbors.lock().len(),
            bridged_to: self.lan_info(&network),
        })
    }

    /// Makes a network.
    ///
    /// # Errors
    /// `Usage` for a prefix, gateway or MTU that cannot be, `Exists` for a name or prefix that is taken, `Failed` if
    /// no prefix is free or the guard cannot be set.
    pub fn network_create(&mut self, create: &NetworkCreate, now: Time) -> Result<NetworkInfo, Error> {
        let snapshot = self.snapshot();
        let there = snapshot.networks.iter().flatten().find(|there| there.name == create.name.as_str());
        let is_lan = there.is_some_and(|there| there.mode == NetworkMode::Bridge) && create.mode.is_none();
        if is_lan || create.mode == Some(NetworkMode::Bridge) {
            return self.lan_create(create, now);
        }
        let subnet = match (create.subnet, there) {
            (Some(subnet), _) => checked_subnet(subnet)?,
            (None, Some(there)) => there.subnet,
            (None, None) => self.free_subnet(&create.name)?,
        };
        let network = self.planned(create, subnet)?;
        if let Some(there) = there {
            let same = same_settings(there, &network, create.mtu.is_some());
            return if same { Ok(self.network_info(there)) } else { Err(differs(&self.network_info(there))) };
        }
        self.check_apart(subnet)?;
        let id = snapshot.free_network().ok_or_else(|| no_room(&create.name))?;
        network.fdb.add_local(network.gateway_mac, now);
        let network = Network { id, ..network };
        let made = self.network_info(&network);
        self.shared.publish(|snapshot| snapshot.set_network(network));
        if made.mode == NetworkMode::Routed
            && let Err(error) = self.renew_guard()
        {
            self.shared.publish(|snapshot| snapshot.remove_network(id));
            return Err(error);
        }
        if let Some(network) = self.snapshot().network(id) {
            self.dhcp.open(network, now);
        }
        if create.subnet.is_none() {
            self.book.keep_subnet(&create.name, subnet);
        }
        Ok(made)
    }

    /// The prefix that a network of this name had before, or the first that is free.
    fn free_subnet(&mut self, name: &Name) -> Result<Ipv4Net, Error> {
        let mut taken = self.host.routed_prefixes()?;
        taken.extend(self.snapshot().networks.iter().flatten().map(|network| network.subnet));
        taken.extend(self.uplinks.iter().flat_map(|uplink| &uplink.facts.addresses));
        let before = self.book.subnet(name).filter(|subnet| is_free(subnet, &taken));
        let none = || {
            let hint = "choose one: --subnet CIDR";
            Error::failed(name, "the host has routes for every private prefix", hint)
        };
        before.or_else(|| first_free(&taken)).ok_or_else(none)
    }

    /// Checks that a prefix meets no other network. One that the host has another route for is the user's choice.
    fn check_apart(&mut self, subnet: Ipv4Net) -> Result<(), Error> {
        self.check_apart_from_networks(subnet)?;
        let links = self.uplinks.iter().flat_map(|uplink| &uplink.facts.addresses);
        if let Some(link) = links.map(Ipv4Net::trunc).find(|link| overlap(&subnet, link)) {
            let why = format_args!("overlaps the uplink's own network {link}");
            return Err(Error::exists(subnet, why, "choose another prefix"));
        }
        match self.host.routed_prefixes() {
            Ok(routed) if !is_free(&subnet, &routed) => {
                log::warn!("{subnet}: the host has a route into it, which the network hides from its ports");
            }
            Ok(_) => {}
            Err(error) => log::warn!("{error}"),
        }
        Ok(())
    }

    /// Checks that a prefix meets no other network of the switch. A LAN's may well be the host's.
    pub(super) fn check_apart_from_networks(&self, subnet: Ipv4Net) -> Result<(), Error> {
        let snapshot = self.snapshot();
        match snapshot.networks.iter().flatten().find(|other| overlap(&subnet, &other.subnet)) {
            Some(other) => {
                let why = format_args!("overlaps network {} ({})", other.name, other.subnet);
                Err(Error::exists(subnet, why, "choose another prefix"))
            }
            None => Ok(()),
        }
    }

    /// Changes a network: all settings or none.
    ///
    /// # Errors
    /// `NotFound`, `Usage` for an MTU out of range, `Exists` if what is published on it would be out of reach, and
    /// what the kernel refuses.
    pub(super) fn network_set(&mut self, set: &NetworkSet, now: Time) -> Result<usize, Error> {
        let before = self.network(set.name.as_str())?;
        let mut after = Network::clone(&before);
        for setting in &set.settings {
            match setting {
                NetworkSetting::Mode(mode) => after.mode = *mode,
                NetworkSetting::Mtu(mtu) => after.mtu = checked_mtu(*mtu)?,
                NetworkSetting::Uplink(ifname) => after.uplink = self.uplink(ifname.as_str())?.id,
            }
        }
        let is_uplink = |setting: &NetworkSetting| matches!(setting, NetworkSetting::Uplink(_));
        if let (Some(ifname), true) = (self.bridged_to(before.id), set.settings.iter().any(is_uplink)) {
            let why = format_args!("is bridged to {ifname}");
            return Err(Error::exists(&set.name, why, "make another network, and connect the ports there"));
        }
        if (before.mode == NetworkMode::Bridge) != (after.mode == NetworkMode::Bridge) {
            let why = format_args!(
                "is of mode {}, and a LAN is no network of the switch's own",
                before.mode.as_str()
            );
            return Err(Error::exists(&set.name, why, "make another network, and connect the ports there"));
        }
        if after.mode != NetworkMode::Nat
            && let Some(record) = self.published_on(&before)
        {
            let why = format_args!("{} is published to {}", record.spec, record.target_names());
            return Err(Error::exists(&set.name, why, "take it back first: vswitchctl publish rm"));
        }
        let snapshot = self.snapshot();
        let ports = before.ports.iter().filter_map(|&id| snapshot.port(id));
        let ports: Vec<_> = ports.filter(|port| port.mtu == before.mtu && port.mtu != after.mtu).collect();
        let (mode, mtu, uplink) = (after.mode, after.mtu, after.uplink);
        let sizes: Vec<_> = ports.iter().map(|port| (port.id, port.mtu, mtu)).collect();
        self.resize(&sizes)?;
        self.shared.publish(|snapshot| {
            snapshot.set_network(after);
            ports.iter().for_each(|port| snapshot.set_port(Port { mtu, ..Port::clone(port) }));
        });
        if mode != before.mode
            && let Err(error) = self.change_mode(&before, now)
        {
            let back: Vec<_> = sizes.iter().map(|&(id, before, now)| (id, now, before)).collect();
            self.resize(&back).unwrap_or_else(|error| log::warn!("{error}"));
            self.shared.publish(|snapshot| {
                snapshot.set_network(Network::clone(&before));
                ports.iter().for_each(|port| snapshot.set_port(Port::clone(port)));
            });
            return Err(error);
        }
        if uplink != before.uplink {
            self.end_of_uplink(&before, now);
        }
        Ok(set.settings.len())
    }

    /// Ends the connections of a network that has another uplink now, as far as they left by the one before. Those that
    /// came in go on: they are answered by the uplink that they came in by, whichever the network has.
    fn end_of_uplink(&mut self, before: &Network, now: Time) {
        // Whoever decides by what was before has done so when this returns.
        self.host.settle();
        let snapshot = self.snapshot();
        let is_outside = |end: Endpoint| snapshot.network_of(end.ip).is_none();
        let leaves = |connection: &Info| match connection.nat {
            Nat::Snat | Nat::Hairpin => true,
            Nat::Dnat => false,
            Nat::None => is_outside(connection.inside) || is_outside(connection.remote),
        };
        self.shared
            .conntrack
            .flush(now, |connection| before.ports.contains(&connection.port) && leaves(connection));
    }

    /// A publication that leads to a port on a network.
    fn published_on(&self, network: &Network) -> Option<&PublicationRecord> {
        let is_on = |target: &TargetRecord| network.ports.binary_search(&target.to).is_ok();
        self.publications.iter().find(|record| record.targets.iter().any(is_on))
    }

    /// What follows from another mode: the guard, connections that were translated otherwise, default routes.
    fn change_mode(&mut self, before: &Network, now: Time) -> Result<(), Error> {
        self.renew_guard()?;
        // Whoever translates as before has done so when this returns.
        self.host.settle();
        self.shared.conntrack.flush(now, |connection| before.ports.binary_search(&connection.port).is_ok());
        let Some(network) = self.snapshot().network(before.id).cloned() else { return Ok(()) };
        let records: Vec<_> =
            self.ports.on_network(before.id).map(|(name, r)| (name.clone(), r.clone())).collect();
        for (name, record) in records {
            let has_one = self.ports.all(&name).iter().any(|record| record.has_default_route);
            if can_have_default_route(&record, &network) && !has_one {
                self.set_default_route(&record, Some(&network));
            }
            self.prefer_a_way_out(&name);
        }
        Ok(())
    }

    /// The network that a request describes, if there can be such a one.
    fn planned(&self, create: &NetworkCreate, subnet: Ipv4Net) -> Result<Network, Error> {
        let first = subnet.hosts().next().unwrap_or(subnet.network());
        let gateway = create.gateway.unwrap_or(first);
        check_host_address(subnet, gateway, "gateway")?;
        let uplink = match &create.uplink {
            Some(ifname) => Some(self.uplink(ifname.as_str())?),
            None => self.uplinks.first(),
        };
        let mtu = match create.mtu {
            Some(mtu) => checked_mtu(mtu)?,
            None => uplink.map_or(ETHERNET_MTU, UplinkRecord::mtu),
        };
        Ok(Network {
            id: crate::addr::NetworkId(0),
            name: create.name.to_string(),
            subnet,
            gateway: Some(gateway),
            gateway_mac: MacAddr::from_ipv4(gateway),
            router: Some(gateway),
            mtu,
            mode: create.mode.unwrap_or(NetworkMode::Nat),
            uplink: uplink.map_or(UplinkId::FIRST, |uplink| uplink.id),
            dhcp: true,
            ports: Vec::new(),
            fdb: Arc::new(Fdb::new(self.shared.epoch())),
            neighbors: Arc::new(Neighbors::of_network(self.shared.epoch())),
        })
    }

    pub(super) fn network_rm(&mut self, rm: &Remove, now: Time) -> Result<usize, Error> {
        let network = match self.network(rm.name.as_str()) {
            Err(_) if rm.if_exists => return Ok(0),
            found => found?,
        };
        let on_it: Vec<_> =
            network.ports.iter().filter(|port| self.bridged_by(**port).is_none()).copied().collect();
        if let Some(&port) = on_it.first() {
            let name = self.port_name(port);
            let why = match on_it.len() {
                1 => format!("port {name} is on it"),
                count => format!("has {count} ports, {name} among them"),
            };
            let hint = "remove them first: vswitchctl port rm, or vswitchctl network disconnect";
            return Err(Error::exists(&rm.name, why, hint));
        }
        self.lan_close(network.id, now);
        self.shared.publish(|snapshot| {
            snapshot.remove_network(network.id);
            // There is no such pair any more; rules stay, for what has the name next.
            let mut defaults = snapshot.policy.defaults().clone();
            defaults.forget(&network.name);
            if defaults != *snapshot.policy.defaults() {
                snapshot.policy = Arc::new(snapshot.policy.with_defaults(defaults));
            }
        });
        self.dhcp.close(network.id);
        self.book.forget(&rm.name);
        // The uplink may have been in its way.
        self.publish_uplinks();
        if let Err(error) = self.renew_guard() {
            log::warn!("guard: {error}");
        }
        Ok(1)
    }
}

/// A network as it is listed, with the uplink that leads out of it, or that it is bridged to.
pub(super) fn info(network: &Network, uplink: Option<&str>) -> NetworkInfo {
    NetworkInfo {
        name: network.name.clone(),
        subnet: network.subnet,
        gateway: network.router,
        mode: network.mode,
        mtu: network.mtu,
        ports: network.ports.len(),
        gateway_mac: network.gateway.map(|_| network.gateway_mac),
        uplink: uplink.map(str::to_owned),
    }
}

pub(super) fn no_room(name: &Name) -> Error {
    let why = format_args!("there are {NETWORKS_MAX} networks already");
    Error::failed(name, why, "remove one: vswitchctl network rm")
}

/// Whether making `wanted` would change nothing. An MTU that was not asked for is not compared: the uplink's
/// may have changed since.
pub(super) fn same_settings(there: &Network, wanted: &Network, mtu_matters: bool) -> bool {
    let mtu_agrees = !mtu_matters || there.mtu == wanted.mtu;
    let settings = |network: &Network| (network.subnet, network.router, network.mode, network.uplink);
    settings(there) == settings(wanted) && mtu_agrees
}

pub(super) fn differs(there: &NetworkInfo) -> Error {
    let NetworkInfo { subnet, mtu, .. } = there;
    let gateway = there.gateway.map_or_else(|| "none".to_owned(), |gateway| gateway.to_string());
    let uplink = there.uplink.as_ref().map_or_else(String::new, |uplink| format!(", uplink {uplink}"));
    let why = format_args!(
        "exists with {subnet}, gateway {gateway}, mode {}, MTU {mtu}{uplink}",
        there.mode.as_str()
    );
    Error::exists(&there.name, why, "choose another name, or remove it first: vswitchctl network rm")
}

pub(super) fn checked_subnet(subnet: Ipv4Net) -> Result<Ipv4Net, Error> {
    if subnet.trunc() != subnet {
        let why = "has bits behind the prefix";
        return Err(Error::usage(subnet, why, format_args!("write {}", subnet.trunc())));
    }
    if !PREFIX_LENGTHS.contains(&subnet.prefix_len()) {
        let (short, long) = (PREFIX_LENGTHS.start(), PREFIX_LENGTHS.end());
        return Err(Error::usage(
            subnet,
            "not a size for a network",
            format_args!("use /{short} to /{long}"),
        ));
    }
    let ip = subnet.network();
    // RFC 6890: "this network", loopback, link-local, multicast, reserved.
    if ip.octets()[0] == 0 || ip.is_loopback() || ip.is_link_local() || ip.octets()[0] >= 224 {
        return Err(Error::usage(
            subnet,
            "never forwarded (RFC 6890)",
            "use a private prefix, like one in 10.0.0.0/8",
        ));
    }
    Ok(subnet)
}

/// Checks that `ip` can be a host's on `subnet`.
pub(super) fn check_host_address(subnet: Ipv4Net, ip: Ipv4Addr, whose: &str) -> Result<(), Error> {
    let between = || {
        let last = Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1);
        format!("choose one from {} to {last}", Ipv4Addr::from_bits(subnet.network().to_bits() + 1))
    };
    let wrong = |why: String| Err(Error::usage(ip, why, between()));
    if !subnet.contains(&ip) {
        return wrong(format!("the {whose}'s address is outside the network {subnet}"));
    }
    if ip == subnet.network() {
        return wrong(format!("is the address of the network {subnet} itself"));
    }
    if ip == subnet.broadcast() {
        return wrong(format!("is the broadcast address of {subnet}"));
    }
    Ok(())
}

/// Checks the range of an MTU.
pub(super) fn checked_mtu(mtu: u16) -> Result<u16, Error> {
    if (MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Ok(mtu);
    }
    Err(Error::usage(
        format_args!("mtu {mtu}"),
        "out of range",
        format_args!("choose {MTU_MIN} to {MTU_MAX} bytes"),
    ))
}
