//! The uplinks: what the host knows about them, followed live.
//!
//! Every change of link, address or route of the host ends in [`Control::follow_uplinks`], which reads
//! everything again and publishes new [`Uplink`]s if anything differs. Reading all is cheaper to get right
//! than applying notifications, and notifications come in crowds that are waited out anyway.
//!
//! Several uplinks are worlds of their own. Each has the routes that lead out by it, and those of the host that lead out by
//! another uplink do not count: a network's packets go by its uplink or not at all. They have in common the range for
//! masquerading, with the ports in it that are the host's, and the guard.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::apply::Control;
use super::error::Error;
use super::host::{Host, UplinkFacts};
use super::publish_spec::Listen;
use super::request::{UplinkSet, UplinkSetting};
use super::subnets::overlap;
use super::uplink_lease::Lessee;
use super::uplink_spec::UplinkSpec;
use crate::addr::{NetworkId, PortId, Protocol, UplinkId};
use crate::clock::Time;
use crate::host::guard::Hidden;
use crate::limits::{MTU_MAX, MTU_MIN, UPLINKS_MAX};
use crate::shared::Neighbors;
use crate::snapshot::{Network, NetworkMode, Port, Uplink, UplinkMode};
use crate::table::conntrack::{Info, Nat};
use crate::table::route_table::{RouteTable, Via};

/// What is known about an uplink apart from what the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkSettings {
    /// The interface.
    pub name: String,
    /// How its address is used.
    pub mode: UplinkMode,
    /// Whether address and next hop of mode `own` are what the link's DHCP server says.
    pub dhcp: bool,
    /// The address of mode `own`.
    pub address: Option<Ipv4Net>,
    /// The next hop to everywhere, where the host has no default route by the interface. In mode `own` it has none.
    pub gateway: Option<Ipv4Addr>,
    /// External ports for masquerading, the same for all uplinks.
    pub nat_ports: RangeInclusive<u16>,
}

/// An uplink in the books.
#[derive(Debug)]
pub(super) struct UplinkRecord {
    pub(super) id: UplinkId,
    pub(super) settings: UplinkSettings,
    pub(super) facts: UplinkFacts,
    /// Resolved next hops; they outlive changes of the configuration.
    neighbors: Arc<Neighbors>,
    /// Who gets it its address, in mode `own` by DHCP.
    pub(super) lessee: Option<Lessee>,
}

impl UplinkRecord {
    /// The same uplink in other books, which do not ask for its address.
    pub(super) fn copy(&self) -> UplinkRecord {
        UplinkRecord {
            id: self.id,
            settings: self.settings.clone(),
            facts: self.facts.clone(),
            neighbors: self.neighbors.clone(),
            lessee: None,
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.settings.mode == UplinkMode::Shared
    }

    /// Largest IP packet on the link, as far as the switch carries it.
    pub(super) fn mtu(&self) -> u16 {
        self.facts.mtu.clamp(MTU_MIN, MTU_MAX)
    }

    /// The next hop to everywhere.
    pub(super) fn gateway(&self) -> Option<Ipv4Addr> {
        let defaults = self.facts.routes.iter().filter(|route| self.is_default(route));
        defaults.min_by_key(|route| route.metric).map_or(self.settings.gateway, |route| route.gateway)
    }

    fn is_default(&self, route: &super::host::HostRoute) -> bool {
        route.ifindex == self.facts.index && route.prefix.prefix_len() == 0
    }

    pub(super) fn has_address(&self, ip: Ipv4Addr) -> bool {
        self.facts.addresses.iter().any(|address| address.addr() == ip)
    }

    /// Where the packets go that leave by it.
    fn routes(&self, all: &[UplinkRecord]) -> RouteTable<Ipv4Addr> {
        let UplinkRecord { settings, facts, .. } = self;
        let mut table = RouteTable::new();
        if let Some(gateway) = settings.gateway.filter(|_| !facts.routes.iter().any(|r| self.is_default(r))) {
            table.insert(Ipv4Addr::UNSPECIFIED, 0, Via::Gateway(gateway), 0);
        }
        let leads_out_elsewhere = |index| all.iter().any(|other| other.facts.index == index);
        for route in &facts.routes {
            let via = match route.gateway {
                _ if route.ifindex != facts.index && leads_out_elsewhere(route.ifindex) => continue,
                _ if route.ifindex != facts.index => Via::Elsewhere,
                Some(gateway) => Via::Gateway(gateway),
                None => Via::Link,
            };
            table.insert(route.prefix.network(), route.prefix.prefix_len(), via, route.metric);
        }
        table
    }

    /// How it changed, for the log; nothing where only another interface of the host did.
    fn news(&self, before: &UplinkFacts) -> Option<String> {
        let facts = &self.facts;
        let described = |facts: &UplinkFacts| {
            let address = facts.addresses.first();
            let address = address.map_or_else(|| "no address".to_owned(), Ipv4Net::to_string);
            let state = if facts.up { "up" } else { "down" };
            let routes = facts.routes.iter().filter(|route| route.ifindex == facts.index).count();
            format!("{state}, {address}, MTU {}, {routes} routes", facts.mtu)
        };
        let now = described(facts);
        (now != described(before)).then(|| format!("uplink {}: {now}", self.settings.name))
    }
}

impl<H: Host> Control<H> {
    /// Opens an uplink, the first one or one more. In mode `shared` the guard comes after the sockets: those must be
    /// bound first to see what the guard hides from the host.
    ///
    /// # Errors
    /// `NotFound` if there is no such interface, `Exists` if it is an uplink already, `Failed` if there are too many, or the
    /// kernel or nft refuses.
    pub fn open_uplink(&mut self, settings: UplinkSettings, now: Time) -> Result<(), Error> {
        let name = &settings.name;
        if self.uplinks.iter().any(|there| there.settings.name == *name) {
            return Err(Error::exists(name, "is an uplink already", "name each interface once"));
        }
        if self.uplinks.len() >= UPLINKS_MAX {
            let why = format_args!("there are {UPLINKS_MAX} uplinks already");
            return Err(Error::failed(name, why, "leave one out"));
        }
        let id = UplinkId(u16::try_from(self.uplinks.len()).unwrap_or(u16::MAX));
        if self.snapshot().port(id.port()).is_some() {
            return Err(Error::failed(name, "there are ports already", "name it when the switch is started"));
        }
        let Some(facts) = self.host.uplink(&settings)? else {
            return Err(Error::not_found(name, "no such interface for the uplink", "see ip link"));
        };
        let links = &facts.addresses;
        if let Some(gateway) = settings.gateway
            && !links.is_empty()
            && !links.iter().any(|link| link.contains(&gateway))
        {
            log::warn!(
                "uplink {name}: its next hop {gateway} is not on its link, and is not likely to answer"
            );
        }
        let neighbors = Arc::new(Neighbors::of_uplink(self.shared.epoch()));
        let lessee = settings.dhcp.then(|| Lessee::new(facts.mac, now));
        self.uplinks.push(UplinkRecord { id, settings: settings.clone(), facts, neighbors, lessee });
        self.yield_ports(now);
        self.publish_uplinks();
        let opened = self.host.open_uplink(id, &settings).and_then(|()| self.renew_guard());
        if opened.is_err() {
            self.uplinks.pop();
            self.publish_uplinks();
            self.shared.publish(|snapshot| snapshot.remove_port(id.port()));
        }
        opened
    }

    /// Changes an uplink: its next hop, at once and for all connections.
    ///
    /// # Errors
    /// `NotFound` if there is no such uplink, `Usage` if the next hop is not on its link, `Failed` if DHCP tells it.
    pub(super) fn uplink_set(&mut self, set: &UplinkSet, now: Time) -> Result<usize, Error> {
        let UplinkRecord { id, settings, facts, .. } = self.uplink(set.name.as_str())?;
        let (id, mut after) = (*id, settings.clone());
        for &UplinkSetting::Gateway(gateway) in &set.settings {
            if settings.dhcp {
                let hint = "leave it to the server, or start vswitchd with a fixed address";
                return Err(Error::failed(&set.name, "the DHCP server names the next hop", hint));
            }
            let links = &facts.addresses;
            if let Some(gateway) = gateway.filter(|gateway| !links.iter().any(|link| link.contains(gateway)))
            {
                let why = format_args!("is on no link of uplink {}", set.name);
                return Err(Error::usage(gateway, why, "give a next hop that it reaches without another"));
            }
            after.gateway = gateway;
        }
        let gateway = after.gateway;
        self.uplinks[id.index()].settings = after;
        self.renew_uplinks(now);
        self.note_gateway(set.name.as_str(), gateway);
        Ok(set.settings.len())
    }

    /// Brings the options that the daemon was started with in line: a dump is to say what is.
    fn note_gateway(&mut self, name: &str, gateway: Option<Ipv4Addr>) {
        for (_, value) in self.options.iter_mut().filter(|(option, _)| option == "uplink") {
            if let Ok(mut uplink) = value.parse::<UplinkSpec>()
                && uplink.name.as_str() == name
            {
                uplink.gateway = gateway;
                *value = uplink.to_string();
            }
        }
        if self.uplinks.first().is_some_and(|first| first.settings.name == name) {
            self.options.retain(|(option, _)| option != "uplink_gateway");
        }
    }

    /// The uplink that an interface is.
    ///
    /// # Errors
    /// `NotFound` if it is none.
    pub(super) fn uplink(&self, name: &str) -> Result<&UplinkRecord, Error> {
        let found = self.uplinks.iter().find(|uplink| uplink.settings.name == name);
        found.ok_or_else(|| {
            let names: Vec<_> = self.uplinks.iter().map(|uplink| uplink.settings.name.as_str()).collect();
            let hint = match names.is_empty() {
                true => "there is none: start vswitchd with --uplink".to_owned(),
                false => format!("choose one of {}", names.join(", ")),
            };
            Error::not_found(name, "no such uplink", hint)
        })
    }

    /// Leaves those ports of the range for masquerading to the host that its processes use now. Called every
    /// [`crate::limits::HOST_PORTS_INTERVAL`].
    ///
    /// The kernel asks nobody when it gives a port to a process, so for that long both may have it. Then the
    /// host has it alone: the connection that was masqueraded with it ends, and the guard shows the host its
    /// packets. No connection gets it as long as the process has it.
    pub fn follow_host_ports(&mut self, now: Time) {
        if self.yield_ports(now)
            && let Err(error) = self.renew_guard()
        {
            log::warn!("guard: {error}");
        }
    }

    /// Says whether other ports than before are the host's.
    fn yield_ports(&mut self, now: Time) -> bool {
        let Some(uplink) = self.uplinks.iter().find(|uplink| uplink.is_shared()) else { return false };
        let mut busy = self.host.busy_ports(&uplink.settings.nat_ports);
        // What is published is bound by us.
        let published = self.publications.iter().map(|record| &record.spec.listen);
        for Listen { protocol, ports, .. } in published {
            for port in ports.clone() {
                busy.remove(&(*protocol, port));
            }
        }
        if busy == self.host_ports {
            return false;
        }
        let before = std::mem::replace(&mut self.host_ports, busy.clone());
        let conntrack = &self.shared.conntrack;
        for &(protocol, port) in busy.difference(&before) {
            log::warn!(
                "{port}/{protocol}: a process of this host uses it, so it is not used for masquerading"
            );
            conntrack.reserve(protocol, port);
        }
        conntrack.flush(now, |connection| busy.contains(&(connection.protocol, connection.outside.port)));
        for &(protocol, port) in before.difference(&busy) {
            let is_published = |listen: &Listen| listen.protocol == protocol && listen.ports.contains(&port);
            if !self.publications.iter().any(|record| is_published(&record.spec.listen)) {
                conntrack.release(protocol, port, now);
            }
        }
        true
    }

    /// Puts the guard back if somebody flushed it.
    pub fn repair_guard(&mut self) {
        match self.host.repair_guard() {
            Ok(false) => {}
            Ok(true) => log::info!("guard: its table was gone or changed, and is back"),
            Err(error) => log::warn!("guard: {error}"),
        }
    }

    /// Reads what the uplinks are now, and applies what changed.
    pub fn follow_uplinks(&mut self, now: Time) {
        let before = self.read_uplinks();
        if before.iter().zip(&self.uplinks).any(|(before, uplink)| *before != uplink.facts) {
            self.apply_facts(&before, now);
        }
    }

    /// As [`Control::follow_uplinks`], after settings of an uplink have changed.
    pub(super) fn renew_uplinks(&mut self, now: Time) {
        let before = self.read_uplinks();
        self.apply_facts(&before, now);
    }

    /// Reads what the uplinks are now, and returns what they were.
    fn read_uplinks(&mut self) -> Vec<UplinkFacts> {
        let host = &mut self.host;
        let read = |uplink: &mut UplinkRecord| {
            let facts = match host.uplink(&uplink.settings) {
                Ok(Some(facts)) => facts,
                // Gone: all is kept as it was but down, for the interface may come back.
                Ok(None) => UplinkFacts { up: false, addresses: Vec::new(), ..uplink.facts.clone() },
                Err(error) => {
                    log::warn!("uplink {}: {error}", uplink.settings.name);
                    uplink.facts.clone()
                }
            };
            std::mem::replace(&mut uplink.facts, facts)
        };
        self.uplinks.iter_mut().map(read).collect()
    }

    /// Does what follows from other facts than those before, which are in the order of the uplinks.
    fn apply_facts(&mut self, before: &[UplinkFacts], now: Time) {
        let mut reopened = Vec::new();
        for (uplink, before) in self.uplinks.iter_mut().zip(before) {
            uplink.news(before).into_iter().for_each(|news| log::info!("{news}"));
            if let Some(lessee) = &mut uplink.lessee {
                lessee.follow(before, &uplink.facts, now);
            }
            if uplink.facts.index != before.index {
                reopened.push((uplink.id, uplink.settings.clone()));
            }
        }
        self.publish_uplinks();
        for (id, settings) in &reopened {
            if let Err(error) = self.host.open_uplink(*id, settings) {
                log::warn!("uplink {}: {error}", settings.name);
            }
        }
        if let Err(error) = self.renew_guard() {
            log::warn!("guard: {error}");
        }
        if !reopened.is_empty() {
            self.repair_guard();
        }
        self.end_stranded(before, now);
        // Somebody may be on the LAN who was not.
        let moved =
            |(uplink, before): (&UplinkRecord, &UplinkFacts)| uplink.facts.addresses != before.addresses;
        if self.uplinks.iter().zip(before).any(moved) && !self.snapshot().policy.has_no_rules() {
            self.end_forbidden(now);
        }
    }

    /// Ends connections from an address that is no longer ours at any uplink: they can never be answered (as netfilter's
    /// masquerade does on a change of address).
    fn end_stranded(&self, before: &[UplinkFacts], now: Time) {
        let is_ours = |ip| self.uplinks.iter().any(|uplink| uplink.facts.host_addresses.contains(ip));
        let up = self.uplinks.iter().zip(before).filter(|(uplink, _)| uplink.facts.up);
        let lost = up.flat_map(|(_, before)| &before.host_addresses).filter(|ip| !is_ours(ip));
        let lost: BTreeSet<Ipv4Addr> = lost.copied().collect();
        if !lost.is_empty() {
            self.shared.conntrack.flush(now, |connection: &Info| {
                connection.nat != Nat::None && lost.contains(&connection.outside.ip)
            });
        }
    }

    /// Brings the guard in line with the uplinks' addresses and the publications.
    pub(super) fn renew_guard(&mut self) -> Result<(), Error> {
        let shared: Vec<_> = self.uplinks.iter().filter(|uplink| uplink.is_shared()).collect();
        if shared.is_empty() {
            return Ok(());
        }
        let mut hidden = Vec::new();
        for uplink in &shared {
            let Some(address) = uplink.facts.addresses.first().map(Ipv4Net::addr) else { continue };
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let free = without(&uplink.settings.nat_ports, protocol, &self.host_ports);
                hidden.extend(free.into_iter().map(|ports| Hidden::Ports { protocol, address, ports }));
            }
        }
        let addresses = shared.iter().flat_map(|uplink| &uplink.facts.addresses).map(Ipv4Net::addr);
        for listen in self.publications.iter().map(|record| &record.spec.listen) {
            let here = addresses.clone().filter(|address| listen.ip.is_none_or(|ip| ip == *address));
            let (protocol, ports) = (listen.protocol, &listen.ports);
            hidden.extend(here.map(|address| Hidden::Ports { protocol, address, ports: ports.clone() }));
        }
        let routed = |network: &&Arc<Network>| network.mode == NetworkMode::Routed;
        let snapshot = self.snapshot();
        let routed = snapshot.networks.iter().flatten().filter(routed);
        hidden.extend(routed.map(|network| Hidden::Network(network.subnet)));
        let names: Vec<_> = shared.iter().map(|uplink| uplink.settings.name.clone()).collect();
        self.host.guard(&names, hidden)
    }

    /// Whether nobody else has addresses of the uplink's link: no network of the switch (RFC 4787 REQ-7), and no uplink
    /// before it this very address. Otherwise nobody could say whose they are, and nothing may be translated until one
    /// of both has moved.
    fn is_apart(&self, UplinkRecord { id, settings, facts, .. }: &UplinkRecord) -> bool {
        let name = &settings.name;
        let mut earlier = self.uplinks[..id.index()].iter();
        let twin = earlier.find(|other| facts.addresses.iter().any(|net| other.has_address(net.addr())));
        if let Some(twin) = twin {
            let twin = &twin.settings.name;
            log::error!(
                "uplink {name}: uplink {twin} has its address too, so nothing goes out or in by {name} \
                 (change one of them)"
            );
            return false;
        }
        let snapshot = self.snapshot();
        let overlap = facts.addresses.iter().find_map(|link| {
            let mut routed = snapshot.networks.iter().flatten().filter(|network| network.gateway.is_some());
            routed
                .find(|network| overlap(&network.subnet, link))
                .map(|network| (link.trunc(), network.clone()))
        });
        if let Some((link, network)) = &overlap {
            log::error!(
                "uplink {name}: its link {link} overlaps network {} ({}), so nothing goes out or in \
                 (move one of them)",
                network.name,
                network.subnet
            );
        }
        overlap.is_none()
    }

    /// The uplink as packets find it.
    fn uplink_now(&self, record: &UplinkRecord) -> Uplink {
        let UplinkRecord { id, settings, facts, neighbors, .. } = record;
        Uplink {
            id: *id,
            name: settings.name.clone(),
            mode: settings.mode,
            mac: facts.mac,
            dhcp: settings.dhcp,
            address: facts.addresses.first().copied().filter(|_| self.is_apart(record)),
            addresses: facts.addresses.iter().map(Ipv4Net::addr).collect(),
            host_addresses: facts.host_addresses.clone(),
            mtu: record.mtu(),
            up: facts.up,
            routes: Arc::new(record.routes(&self.uplinks)),
            nat_ports: settings.nat_ports.clone(),
            neighbors: Arc::clone(neighbors),
        }
    }

    pub(super) fn publish_uplinks(&self) {
        let uplinks: Vec<_> = self.uplinks.iter().map(|record| Arc::new(self.uplink_now(record))).collect();
        let snapshot = self.snapshot();
        let port = |uplink: &Arc<Uplink>| match snapshot.port(uplink.id.port()) {
            Some(port) => Port { mtu: uplink.mtu, ..Port::clone(port) },
            None => Port {
                network: None,
                ..self.new_port(uplink.id.port(), &uplink.name, NetworkId(0), uplink.mtu)
            },
        };
        let ports: Vec<_> = uplinks.iter().map(port).collect();
        self.shared.publish(|snapshot| {
            snapshot.uplinks = uplinks;
            ports.into_iter().for_each(|port| snapshot.set_port(port));
        });
    }

    /// The uplink whose port this is.
    pub(super) fn uplink_at(&mut self, port: PortId) -> Option<&mut UplinkRecord> {
        self.uplinks.iter_mut().find(|uplink| uplink.id.port() == port)
    }
}

/// The runs of `range` between the busy ports.
fn without(
    range: &RangeInclusive<u16>,
    protocol: Protocol,
    busy: &BTreeSet<(Protocol, u16)>,
) -> Vec<RangeInclusive<u16>> {
    let mut runs = Vec::new();
    let mut first = u32::from(*range.start());
    let ends = busy.range((protocol, *range.start())..=(protocol, *range.end()));
    for end in ends.map(|&(_, port)| u32::from(port)).chain([u32::from(*range.end()) + 1]) {
        if let (Ok(start), Ok(last)) = (u16::try_from(first), u16::try_from(end.saturating_sub(1)))
            && first < end
        {
            runs.push(start..=last);
        }
        first = end + 1;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_ports_are_cut_out() {
        let busy = BTreeSet::from([
            (Protocol::Tcp, 10),
            (Protocol::Tcp, 12),
            (Protocol::Tcp, 13),
            (Protocol::Tcp, 20),
            (Protocol::Udp, 11),
        ]);
        assert_eq!(without(&(10..=20), Protocol::Tcp, &busy), [11..=11, 14..=19]);
        assert_eq!(without(&(10..=20), Protocol::Udp, &busy), [10..=10, 12..=20]);
        assert_eq!(without(&(65_535..=65_535), Protocol::Udp, &busy), [65_535..=65_535]);
    }
}
