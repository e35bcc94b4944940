//! Several networks for one container, and the host on a network.
//!
//! A port has one name and an interface on each network that it is connected to; each interface is a port of the data
//! plane. At most one of them has the container's default route: that of the first network that leads out. When it
//! goes, the next one gets it.
//!
//! An interface has a device of its own, in the port's namespace, or it is a VLAN of the port's first interface, which
//! then is a trunk ([`crate::port::vlan`]), as of a VM with one card. At the other end somebody else makes the VLAN's
//! interface and configures it; the switch keeps an address for it, tells it by DHCP, and holds it to that. A trunk
//! stays as long as it carries VLANs, and when it vanishes, they go first.

use std::sync::Arc;

use super::apply::Control;
use super::error::Error;
use super::host::{Attachment, Host};
use super::lan::no_gateway;
use super::name::Name;
use super::ports::{NewInterface, not_connected};
use super::records::PortRecord;
use super::request::{NetworkConnect, NetworkDisconnect, NetworkHostPort};
use super::response::PortInfo;
use crate::addr::Vid;
use crate::clock::Time;
use crate::snapshot::{Network, NetworkMode, Vlan};

/// What the name of a host's interface begins with.
const HOST_PREFIX: &str = "vsw-";

/// Characters of the network's name in it: an interface's name has at most 15 (`IFNAMSIZ`).
const HOST_NAME_MAX: usize = 15 - HOST_PREFIX.len();

impl<H: Host> Control<H> {
    /// Gives a port an interface on one more network.
    ///
    /// # Errors
    /// `NotFound` for an unknown network or port, `Usage` for a port that is not attached to a namespace (unless it is
    /// to be a VLAN) or is the host, `Exists` if it is connected with other addresses or one of them is taken, or the
    /// VLAN is, and what the kernel refuses.
    pub(super) fn network_connect(&mut self, connect: &NetworkConnect, now: Time) -> Result<PortInfo, Error> {
        let network = self.network(connect.network.as_str())?;
        let first = self.port(&connect.port)?.clone();
        if let Some(there) = self.ports.on(&connect.port, network.id) {
            check_same(connect, there)?;
            return Ok(self.port_info(&connect.port, there));
        }
        let (attachment, mac) = match connect.vlan {
            Some(vid) => (self.vlan_of(&first, vid, connect)?, connect.mac.or(first.mac)),
            None => (self.another_interface(&first, connect)?, connect.mac),
        };
        let identity = self.host.identify(&attachment)?;
        if identity != first.netns {
            let why = "is attached to an older namespace of this name";
            let hint = format_args!("remove it, and add it again: vswitchctl port rm {}", connect.port);
            return Err(Error::exists(&connect.port, why, hint));
        }
        let has_default_route = self.ports.all(&connect.port).iter().any(|record| record.has_default_route);
        let new = NewInterface {
            name: &connect.port,
            network: &network,
            attachment,
            netns: identity,
            ip: connect.ip,
            mac,
            // Who is on a VLAN configures it, and can ask a LAN's server.
            no_address: connect.vlan.is_some() && connect.ip.is_none() && network.gateway.is_none(),
            may_lead_out: connect.vlan.is_none() && !has_default_route && !first.no_address,
            aliases: self.snapshot().port(first.id).map(|port| port.aliases.clone()).unwrap_or_default(),
            dns: false,
        };
        let made = self.plug(new, now)?;
        self.prefer_a_way_out(&connect.port);
        Ok(made)
    }

    /// Where another interface of a port is to be made.
    fn another_interface(&self, first: &PortRecord, connect: &NetworkConnect) -> Result<Attachment, Error> {
        let Attachment::Netns { netns, .. } = &first.attachment else {
            let why = "is not attached to a namespace, in which another interface could be made";
            let hint = "make it a VLAN of the one that there is: --vlan VID";
            return Err(Error::usage(&connect.port, why, hint));
        };
        let ifname =
            connect.ifname.as_ref().map_or_else(|| self.next_ifname(&connect.port), ToString::to_string);
        Ok(Attachment::Netns { netns: netns.clone(), ifname })
    }

    /// The VLAN with this tag of a port's first interface.
    fn vlan_of(&self, first: &PortRecord, vid: Vid, connect: &NetworkConnect) -> Result<Attachment, Error> {
        let NetworkConnect { port, ifname, .. } = connect;
        if ifname.is_some() {
            let why = "a VLAN has no interface of its own that could be named";
            return Err(Error::usage(port, why, "leave out ifname or vlan"));
        }
        if matches!(first.attachment, Attachment::Host { .. }) {
            let why = "is the host, which is on each network by an interface of its own";
            return Err(Error::usage(port, why, "vswitchctl network host-port"));
        }
        if matches!(first.attachment, Attachment::Uplink { .. }) {
            let why = "is the uplink of a bridged network, and carries no VLANs of the switch";
            return Err(Error::usage(port, why, "bridge an interface that the host has for the VLAN"));
        }
        if let Some(there) = self.ports.all(port).iter().find(|there| there.attachment.vid() == Some(vid)) {
            let network = self.snapshot().network(there.network).map_or_else(String::new, |n| n.name.clone());
            let why = format_args!("is network {network} on port {port}");
            let hint = format_args!("choose another, or: vswitchctl network disconnect {network} {port}");
            return Err(Error::exists(format_args!("VLAN {vid}"), why, hint));
        }
        Ok(Attachment::Vlan {
            vlan: Vlan { trunk: first.id, vid },
            netns: first.attachment.netns().map(str::to_owned),
            ifname: first.attachment.ifname().to_owned(),
        })
    }

    /// The first of eth1, eth2 and so on that no interface of the port has.
    fn next_ifname(&self, name: &Name) -> String {
        let all = self.ports.all(name);
        let is_free = |ifname: &String| all.iter().all(|record| record.attachment.ifname() != ifname);
        (1..=all.len() + 1).map(|number| format!("eth{number}")).find(is_free).unwrap_or_default()
    }

    /// Takes a port's interface on a network away.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Exists` if it is the port's only one or carries VLANs.
    pub(super) fn network_disconnect(
        &mut self,
        disconnect: &NetworkDisconnect,
        now: Time,
    ) -> Result<usize, Error> {
        let NetworkDisconnect { network, port, if_exists } = disconnect;
        let network = self.network(network.as_str())?;
        self.port(port)?;
        let Some(record) = self.ports.on(port, network.id) else {
            return if *if_exists { Ok(0) } else { Err(not_connected(port, &network.name)) };
        };
        if self.ports.all(port).len() == 1 {
            let why = format_args!("is connected to nothing but network {}", network.name);
            return Err(Error::exists(port, why, format_args!("remove it: vswitchctl port rm {port}")));
        }
        let id = record.id;
        if let Some(vlan) = self.ports.all(port).iter().find(|other| other.is_vlan_of(id)) {
            let on = self.snapshot().network(vlan.network).map_or_else(String::new, |n| n.name.clone());
            let why = format_args!("network {on} is a VLAN of its interface on network {}", network.name);
            let hint = format_args!("disconnect that first: vswitchctl network disconnect {on} {port}");
            return Err(Error::exists(port, why, hint));
        }
        if self.detach(id, now).is_some_and(|record| record.has_default_route) {
            self.pass_default_route_on(port);
        }
        Ok(1)
    }

    /// Gives the default route to the first interface of a port that can have it: one that leads out, if there is one.
    pub(super) fn pass_default_route_on(&mut self, name: &Name) {
        let snapshot = self.snapshot();
        let candidates = self.ports.all(name).iter().filter_map(|record| {
            let network = snapshot.network(record.network)?;
            can_have_default_route(record, network).then_some((record, network))
        });
        let first = candidates.min_by_key(|(_, network)| network.mode == NetworkMode::Internal);
        if let Some((record, network)) = first {
            self.set_default_route(&record.clone(), Some(network));
        }
    }

    /// Moves a port's default route from an internal network, which it leads nowhere but to what rules allow, to one
    /// that leads out, if the port is on one.
    pub(super) fn prefer_a_way_out(&mut self, name: &Name) {
        let snapshot = self.snapshot();
        let leads_out = |record: &PortRecord| {
            snapshot.network(record.network).is_some_and(|network| network.mode != NetworkMode::Internal)
        };
        let all = self.ports.all(name);
        let Some(holder) = all.iter().find(|record| record.has_default_route && !leads_out(record)) else {
            return;
        };
        let could_have = |record: &&PortRecord| {
            let network = snapshot.network(record.network);
            leads_out(record) && network.is_some_and(|network| can_have_default_route(record, network))
        };
        if all.iter().any(|record| could_have(&record)) {
            self.set_default_route(&holder.clone(), None);
            self.pass_default_route_on(name);
        }
    }

    /// Makes the container's default route lead out by an interface, to a network's gateway, or not at all.
    pub(super) fn set_default_route(&mut self, record: &PortRecord, to: Option<&Network>) {
        if let Err(error) = self.host.set_default_route(record.id, to.and_then(|network| network.router)) {
            log::warn!("default route by {}: {error}", record.attachment.ifname());
        }
        if let Some(record) = self.ports.get_mut(record.id) {
            record.has_default_route = to.is_some_and(|network| network.router.is_some());
        }
    }

    /// Gives the host an address on a network.
    ///
    /// # Errors
    /// As [`Control::port_add`].
    pub(super) fn host_port(&mut self, wanted: &NetworkHostPort, now: Time) -> Result<PortInfo, Error> {
        let network = self.network(wanted.network.as_str())?;
        if let Some((name, there)) = self.host_port_of(&network) {
            let same_ip = wanted.ip.is_none_or(|ip| there.ip == Some(ip));
            let same_name =
                wanted.ifname.as_ref().is_none_or(|ifname| there.attachment.ifname() == ifname.as_str());
            if same_ip && same_name {
                return Ok(self.port_info(name, there));
            }
            let hint = format!("take it away first: vswitchctl network host-port {} --off", network.name);
            return Err(Error::exists(name, "exists with another address or name", hint));
        }
        if network.gateway.is_none() {
            let hint = "let the host and the port meet on a network of the switch: vswitchctl network connect, and \
                        host-port there";
            return Err(no_gateway("host-port", &network, hint));
        }
        let cut = network.name.get(..HOST_NAME_MAX).unwrap_or(&network.name);
        let ifname =
            wanted.ifname.as_ref().map_or_else(|| format!("{HOST_PREFIX}{cut}"), ToString::to_string);
        let name: Name = ifname.parse()?;
        if self.ports.contains_key(&name) {
            return Err(Error::exists(name, "is the name of a port", "choose another --ifname"));
        }
        let new = NewInterface {
            name: &name,
            network: &network,
            attachment: Attachment::Host { ifname },
            netns: None,
            ip: wanted.ip,
            mac: None,
            no_address: false,
            may_lead_out: false,
            aliases: Arc::default(),
            dns: false,
        };
        self.plug(new, now)
    }

    /// Takes the host's address on a network away.
    ///
    /// # Errors
    /// `NotFound` for an unknown network.
    pub(super) fn host_port_off(&mut self, wanted: &NetworkHostPort, now: Time) -> Result<usize, Error> {
        let network = self.network(wanted.network.as_str())?;
        let Some(id) = self.host_port_of(&network).map(|(_, record)| record.id) else { return Ok(0) };
        self.detach(id, now);
        Ok(1)
    }

    /// The port by which the host is on a network.
    pub(super) fn host_port_of(&self, network: &Network) -> Option<(&Name, &PortRecord)> {
        let is_host = |record: &PortRecord| matches!(record.attachment, Attachment::Host { .. });
        self.ports.on_network(network.id).find(|(_, record)| is_host(record))
    }
}

/// Whether the default route can be by this interface.
pub(super) fn can_have_default_route(record: &PortRecord, network: &Network) -> bool {
    let is_ours = matches!(record.attachment, Attachment::Netns { .. }) && !record.no_address;
    is_ours && record.ip.is_some() && network.router.is_some()
}

/// Whether a `connect` of a port that is connected asks for that very interface.
fn check_same(connect: &NetworkConnect, there: &PortRecord) -> Result<(), Error> {
    let same = connect.ip.is_none_or(|ip| there.ip == Some(ip))
        && connect.mac.is_none_or(|mac| there.mac == Some(mac))
        && connect.ifname.as_ref().is_none_or(|ifname| there.attachment.ifname() == ifname.as_str())
        && connect.vlan == there.attachment.vid();
    if same {
        return Ok(());
    }
    let NetworkConnect { network, port, .. } = connect;
    let why = format_args!("is connected to network {network} with another address, name or VLAN");
    let hint = format_args!("disconnect it first: vswitchctl network disconnect {network} {port}");
    Err(Error::exists(port, why, hint))
}
