//! The uplink: what the host knows about it, followed live.
//!
//! Every change of link, address or route of the host ends in [`Control::follow_uplink`], which reads
//! everything again and publishes a new [`Uplink`] if anything differs. Reading all is cheaper to get right
//! than applying notifications, and notifications come in crowds that are waited out anyway.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::apply::Control;
use super::error::Error;
use super::host::{Host, UplinkFacts};
use super::publish_spec::Listen;
use super::subnets::overlap;
use super::uplink_lease::Lessee;
use crate::addr::{NetworkId, PortId, Protocol, UplinkId};
use crate::clock::Time;
use crate::host::guard::Hidden;
use crate::limits::{MTU_MAX, MTU_MIN};
use crate::shared::Neighbors;
use crate::snapshot::{Network, NetworkMode, Port, Uplink, UplinkMode};
use crate::table::conntrack::{Info, Nat};
use crate::table::route_table::{RouteTable, Via};

/// What the user said about the uplink.
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
    /// The next hop of mode `own`.
    pub gateway: Option<Ipv4Addr>,
    /// External ports for masquerading.
    pub nat_ports: RangeInclusive<u16>,
}

/// The uplink in the books.
#[derive(Debug)]
pub(super) struct UplinkRecord {
    pub(super) settings: UplinkSettings,
    pub(super) facts: UplinkFacts,
    /// Resolved next hops; they outlive changes of the configuration.
    neighbors: Arc<Neighbors>,
    /// Ports of the range for masquerading that processes of the host use: they stay the host's.
    busy: BTreeSet<(Protocol, u16)>,
    /// Who gets it its address, in mode `own` by DHCP.
    pub(super) lessee: Option<Lessee>,
}

impl UplinkRecord {
    /// The same uplink in other books, which do not ask for its address.
    pub(super) fn copy(&self) -> UplinkRecord {
        UplinkRecord {
            settings: self.settings.clone(),
            facts: self.facts.clone(),
            neighbors: self.neighbors.clone(),
            busy: self.busy.clone(),
            lessee: None,
        }
    }
}

impl<H: Host> Control<H> {
    /// Opens the uplink. In mode `shared` the guard comes after the sockets: those must be bound first to
    /// see what the guard hides from the host.
    ///
    /// # Errors
    /// `NotFound` if there is no such interface, `Failed` if the kernel or nft refuses.
    pub fn open_uplink(&mut self, settings: UplinkSettings, now: Time) -> Result<(), Error> {
        let Some(facts) = self.host.uplink()? else {
            return Err(Error::not_found(&settings.name, "no such interface for the uplink", "see ip link"));
        };
        let neighbors = Arc::new(Neighbors::of_uplink(self.shared.epoch()));
        let lessee = settings.dhcp.then(|| Lessee::new(facts.mac, now));
        self.uplink = Some(UplinkRecord { settings, facts, neighbors, busy: BTreeSet::new(), lessee });
        self.yield_ports(now);
        self.publish_uplink();
        let opened = self.host.open_uplink().and_then(|()| self.renew_guard());
        if opened.is_err() {
            self.uplink = None;
            self.shared.publish(|snapshot| {
                snapshot.uplinks.clear();
                snapshot.remove_port(PortId::UPLINK);
            });
        }
        opened
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
        let Some(uplink) = self.uplink.as_mut().filter(|uplink| uplink.settings.mode == UplinkMode::Shared)
        else {
            return false;
        };
        let mut busy = self.host.busy_ports(&uplink.settings.nat_ports);
        // What is published is bound by us.
        let published = self.publications.iter().map(|record| &record.spec.listen);
        published.for_each(|listen| {
            busy.retain(|(p, port)| *p != listen.protocol || !listen.ports.contains(port))
        });
        if busy == uplink.busy {
            return false;
        }
        let before = std::mem::replace(&mut uplink.busy, busy.clone());
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

    /// Reads what the uplink is now, and applies what changed.
    pub fn follow_uplink(&mut self, now: Time) {
        let Some(before) = self.uplink.as_ref().map(|uplink| uplink.facts.clone()) else { return };
        let facts = match self.host.uplink() {
            Ok(Some(facts)) => facts,
            // Gone: all is kept as it was but down, for the interface may come back.
            Ok(None) => UplinkFacts { up: false, addresses: Vec::new(), ..before.clone() },
            Err(error) => return log::warn!("uplink: {error}"),
        };
        if facts != before {
            self.apply_facts(&before, facts, now);
        }
    }

    fn apply_facts(&mut self, before: &UplinkFacts, facts: UplinkFacts, now: Time) {
        let Some(uplink) = &mut self.uplink else { return };
        let (name, address) = (&uplink.settings.name, facts.addresses.first());
        let described = address.map_or_else(|| "no address".to_owned(), Ipv4Net::to_string);
        let state = if facts.up { "up" } else { "down" };
        log::info!("uplink {name}: {state}, {described}, MTU {}, {} routes", facts.mtu, facts.routes.len());
        uplink.facts = facts.clone();
        if let Some(lessee) = &mut uplink.lessee {
            lessee.follow(before, &facts, now);
        }
        self.publish_uplink();
        let reopen = facts.index != before.index;
        let opened = if reopen { self.host.open_uplink() } else { Ok(()) };
        if let Err(error) = opened.and_then(|()| self.renew_guard()) {
            log::warn!("uplink: {error}");
        }
        if reopen {
            self.repair_guard();
        }
        // Connections from an address that is no longer ours can never be answered (as netfilter's
        // masquerade does on a change of address).
        let is_masked = |connection: &Info| connection.nat != Nat::None;
        let lost = |ip: Ipv4Addr| !facts.host_addresses.contains(&ip);
        if before.host_addresses.iter().any(|&ip| lost(ip)) && facts.up {
            self.shared
                .conntrack
                .flush(now, |connection| is_masked(connection) && lost(connection.outside.ip));
        }
        // Somebody may be on the LAN who was not.
        if facts.addresses != before.addresses && !self.snapshot().policy.has_no_rules() {
            self.end_forbidden(now);
        }
    }

    /// Brings the guard in line with the uplink's address and the publications.
    pub(super) fn renew_guard(&mut self) -> Result<(), Error> {
        let Some(uplink) = &self.uplink else { return Ok(()) };
        if uplink.settings.mode == UplinkMode::Own {
            return Ok(());
        }
        let addresses = uplink.facts.addresses.iter().map(Ipv4Net::addr);
        let mut hidden = Vec::new();
        if let Some(address) = addresses.clone().next() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let free = without(&uplink.settings.nat_ports, protocol, &uplink.busy);
                hidden.extend(free.into_iter().map(|ports| Hidden::Ports { protocol, address, ports }));
            }
        }
        for listen in self.publications.iter().map(|record| &record.spec.listen) {
            let here = addresses.clone().filter(|address| listen.ip.is_none_or(|ip| ip == *address));
            let (protocol, ports) = (listen.protocol, &listen.ports);
            hidden.extend(here.map(|address| Hidden::Ports { protocol, address, ports: ports.clone() }));
        }
        let routed = |network: &&Arc<Network>| network.mode == NetworkMode::Routed;
        let snapshot = self.snapshot();
        let routed = snapshot.networks.iter().flatten().filter(routed);
        hidden.extend(routed.map(|network| Hidden::Network(network.subnet)));
        self.host.guard(hidden)
    }

    /// Whether no network of the switch has addresses of the uplink's link (RFC 4787 REQ-7). Otherwise nobody could
    /// say whose they are, and nothing may be translated until one of both has moved.
    fn is_apart(&self, settings: &UplinkSettings, facts: &UplinkFacts) -> bool {
        let snapshot = self.snapshot();
        let overlap = facts.addresses.iter().find_map(|link| {
            let mut networks = snapshot.networks.iter().flatten();
            networks
                .find(|network| overlap(&network.subnet, link))
                .map(|network| (link.trunc(), network.clone()))
        });
        if let Some((link, network)) = &overlap {
            log::error!(
                "uplink {}: its link {link} overlaps network {} ({}), so nothing goes out or in \
                 (move one of them)",
                settings.name,
                network.name,
                network.subnet
            );
        }
        overlap.is_none()
    }

    pub(super) fn publish_uplink(&self) {
        let Some(UplinkRecord { settings, facts, neighbors, .. }) = &self.uplink else { return };
        let mtu = facts.mtu.clamp(MTU_MIN, MTU_MAX);
        let address = facts.addresses.first().copied().filter(|_| self.is_apart(settings, facts));
        let mut routes = RouteTable::new();
        for route in &facts.routes {
            let via = match (route.by_uplink, route.gateway) {
                (false, _) => Via::Elsewhere,
                (true, Some(gateway)) => Via::Gateway(gateway),
                (true, None) => Via::Link,
            };
            routes.insert(route.prefix.network(), route.prefix.prefix_len(), via, route.metric);
        }
        let uplink = Uplink {
            id: UplinkId::FIRST,
            name: settings.name.clone(),
            mode: settings.mode,
            mac: facts.mac,
            dhcp: settings.dhcp,
            address,
            host_addresses: facts.host_addresses.clone(),
            mtu,
            up: facts.up,
            routes: Arc::new(routes),
            nat_ports: settings.nat_ports.clone(),
            neighbors: Arc::clone(neighbors),
        };
        let port = match self.snapshot().port(PortId::UPLINK) {
            Some(port) => Port { mtu, ..Port::clone(port) },
            None => self.new_port(PortId::UPLINK, &settings.name, NetworkId(0), mtu),
        };
        self.shared.publish(|snapshot| {
            snapshot.uplinks = vec![Arc::new(uplink)];
            snapshot.set_port(port);
        });
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
