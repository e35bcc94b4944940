//! Networks: prefixes that do not meet, each with a gateway.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::apply::Control;
use super::error::Error;
use super::host::Host;
use super::name::Name;
use super::request::{NetworkCreate, Remove};
use super::response::{NetworkDetail, NetworkInfo, Usage};
use crate::addr::MacAddr;
use crate::clock::Time;
use crate::limits::{MTU_MAX, MTU_MIN, NETWORKS_MAX};
use crate::shared::{Fdb, Neighbors};
use crate::snapshot::{Network, NetworkMode};

/// The MTU of Ethernet (RFC 894), for a switch without an uplink.
const ETHERNET_MTU: u16 = 1500;

/// Prefix lengths of a network: at least a gateway and a host, at most one of the old class A networks.
const PREFIX_LENGTHS: std::ops::RangeInclusive<u8> = 8..=30;

impl<H: Host> Control<H> {
    pub(super) fn network_ls(&self) -> Vec<NetworkInfo> {
        self.snapshot().networks.iter().flatten().map(|network| info(network)).collect()
    }

    pub(super) fn network_inspect(&self, name: &Name, now: Time) -> Result<NetworkDetail, Error> {
        let network = self.network(name.as_str())?;
        let ports = self.ports.iter().filter(|(_, port)| port.network == network.id);
        let port_names: Vec<_> = ports.clone().map(|(name, _)| name.to_string()).collect();
        let addresses = ports.filter(|(_, port)| port.ip.is_some()).count() as u64;
        let hosts = (1u64 << (32 - network.subnet.prefix_len())) - 3; // network, broadcast, gateway
        let ageing = self.snapshot().mac_ageing;
        Ok(NetworkDetail {
            network: info(&network),
            port_names,
            addresses: Usage { used: addresses, limit: hosts },
            macs: Usage {
                used: network.fdb.entries(now, ageing).len() as u64,
                limit: network.fdb.limit() as u64,
            },
            neighbors: network.neighbors.lock().len(),
        })
    }

    /// Makes a network.
    ///
    /// # Errors
    /// `Usage` for a prefix, gateway or MTU that cannot be, `Exists` for a name or prefix that is taken.
    pub fn network_create(&mut self, create: &NetworkCreate, now: Time) -> Result<NetworkInfo, Error> {
        let network = self.planned(create)?;
        let snapshot = self.snapshot();
        let name = &network.name;
        if let Some(there) = snapshot.networks.iter().flatten().find(|there| there.name == *name) {
            let same = same_settings(there, &network, create.mtu.is_some());
            return if same { Ok(info(there)) } else { Err(differs(there)) };
        }
        let overlaps = |other: &Ipv4Net| {
            network.subnet.contains(&other.network()) || other.contains(&network.subnet.network())
        };
        if let Some(other) = snapshot.networks.iter().flatten().find(|other| overlaps(&other.subnet)) {
            let why = format_args!("overlaps network {} ({})", other.name, other.subnet);
            return Err(Error::exists(network.subnet, why, "choose another prefix"));
        }
        let links = self.uplink.iter().flat_map(|uplink| &uplink.facts.addresses);
        if let Some(link) = links.map(Ipv4Net::trunc).find(overlaps) {
            let why = format_args!("overlaps the uplink's own network {link}");
            return Err(Error::exists(network.subnet, why, "choose another prefix"));
        }
        let Some(id) = snapshot.free_network() else {
            let why = format_args!("there are {NETWORKS_MAX} networks already");
            return Err(Error::failed(name, why, "remove one: vswitchctl network rm"));
        };
        network.fdb.add_local(network.gateway_mac, now);
        let network = Network { id, ..network };
        let made = info(&network);
        self.dhcp.open(&network, now);
        self.shared.publish(|snapshot| snapshot.set_network(network));
        Ok(made)
    }

    /// The network that a request describes, if there can be such a one.
    fn planned(&self, create: &NetworkCreate) -> Result<Network, Error> {
        let subnet = checked_subnet(create.subnet)?;
        let first = subnet.hosts().next().unwrap_or(subnet.network());
        let gateway = create.gateway.unwrap_or(first);
        check_host_address(subnet, gateway, "gateway")?;
        let mtu = match create.mtu {
            Some(mtu) => checked_mtu(mtu)?,
            None => {
                self.uplink.as_ref().map_or(ETHERNET_MTU, |uplink| uplink.facts.mtu.clamp(MTU_MIN, MTU_MAX))
            }
        };
        Ok(Network {
            id: crate::addr::NetworkId(0),
            name: create.name.to_string(),
            subnet,
            gateway,
            gateway_mac: MacAddr::from_ipv4(gateway),
            mtu,
            mode: create.mode.unwrap_or(NetworkMode::Nat),
            dhcp: true,
            ports: Vec::new(),
            fdb: Arc::new(Fdb::new(self.shared.epoch())),
            neighbors: Arc::new(Neighbors::of_network(self.shared.epoch())),
        })
    }

    pub(super) fn network_rm(&mut self, rm: &Remove) -> Result<usize, Error> {
        let network = match self.network(rm.name.as_str()) {
            Err(_) if rm.if_exists => return Ok(0),
            found => found?,
        };
        if let Some(&port) = network.ports.first() {
            let name = self.port_name(port);
            let why = format_args!("has {} ports, {name} among them", network.ports.len());
            return Err(Error::exists(&rm.name, why, "remove them first: vswitchctl port rm"));
        }
        self.shared.publish(|snapshot| snapshot.remove_network(network.id));
        self.dhcp.close(network.id);
        // The uplink may have been in its way.
        self.publish_uplink();
        Ok(1)
    }
}

fn info(network: &Network) -> NetworkInfo {
    NetworkInfo {
        name: network.name.clone(),
        subnet: network.subnet,
        gateway: network.gateway,
        mode: network.mode,
        mtu: network.mtu,
        ports: network.ports.len(),
        gateway_mac: network.gateway_mac,
    }
}

/// Whether making `wanted` would change nothing. An MTU that was not asked for is not compared: the uplink's
/// may have changed since.
fn same_settings(there: &Network, wanted: &Network, mtu_matters: bool) -> bool {
    let mtu_agrees = !mtu_matters || there.mtu == wanted.mtu;
    (there.subnet, there.gateway, there.mode) == (wanted.subnet, wanted.gateway, wanted.mode) && mtu_agrees
}

fn differs(there: &Network) -> Error {
    let (subnet, gateway, mode) = (there.subnet, there.gateway, there.mode.as_str());
    let why = format_args!("exists with {subnet}, gateway {gateway}, mode {mode}, MTU {}", there.mtu);
    Error::exists(&there.name, why, "choose another name, or remove it first: vswitchctl network rm")
}

fn checked_subnet(subnet: Ipv4Net) -> Result<Ipv4Net, Error> {
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
