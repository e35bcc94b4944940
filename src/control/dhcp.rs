//! DHCP in the books: which network serves it and how, who has which address, and what follows from that.
//!
//! Every network serves DHCP unless it is told not to. A port that has an address in the books gets that one. The
//! others get one from the network's pool, and it is then what [port security](crate::snapshot::Pins) holds the port
//! to; it is not when its client has given it back, or another client of the port has got another one.
//!
//! Leases outlive the process ([`crate::host::state`]). The monotonic clock does not, so they are stored with the time
//! of day at which they end.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::apply::Control;
use super::dhcp_setting::{DhcpSetting, Route};
use super::error::Error;
use super::host::Host;
use super::lan::no_gateway;
use super::name::Name;
use super::networks::check_host_address;
use super::records::PortRecord;
use super::request::{DhcpLeases, NetworkDhcp};
use super::response::{DhcpInfo, DhcpRange, LeaseInfo};
use crate::addr::{MacAddr, NetworkId, PortId};
use crate::clock::Time;
use crate::service::datagram::Datagram;
use crate::service::dhcp::pool::{Client, Lease, Pool, State};
use crate::service::dhcp::server::{Change, Link, Seat, Server, Settings};
use crate::shared::Punt;
use crate::snapshot::{Network, NetworkMode, Pins, Port};

/// The document of leases in the state directory.
pub(super) const DOCUMENT: &str = "leases";

/// The DHCP servers of all networks.
#[derive(Debug, Clone, Default)]
pub(super) struct DhcpBooks {
    networks: BTreeMap<NetworkId, Served>,
    /// Leases of networks that are not there (yet).
    remembered: Vec<Remembered>,
    /// Whether something has changed that is to be remembered.
    is_news: bool,
    /// When the next lease may end.
    next_end: Option<Time>,
}

#[derive(Debug, Clone, Default)]
struct Served {
    settings: Settings,
    pool: Pool,
}

/// A lease as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Remembered {
    network: String,
    ip: Ipv4Addr,
    port: String,
    client: Vec<u8>,
    mac: Option<MacAddr>,
    hostname: Option<String>,
    /// Seconds since 1970.
    ends: u64,
}

impl DhcpBooks {
    pub(super) fn new(remembered: Vec<Remembered>) -> Self {
        DhcpBooks { remembered, ..DhcpBooks::default() }
    }

    /// A network has been made: what is remembered of it is valid again.
    pub(super) fn open(&mut self, network: &Network, now: Time) {
        let mut pool = Pool::default();
        let (mine, others) = std::mem::take(&mut self.remembered)
            .into_iter()
            .partition(|lease: &Remembered| lease.network == network.name);
        self.remembered = others;
        let today = day_seconds();
        for Remembered { ip, port, client, mac, hostname, ends, .. } in mine {
            if network.subnet.contains(&ip) {
                let until = now + Duration::from_secs(ends.saturating_sub(today));
                pool.remember(ip, Lease::remembered(Client { port, id: client }, mac, hostname, until));
            }
        }
        self.networks.insert(network.id, Served { settings: Settings::default(), pool });
    }

    /// A network is gone, and its leases with it.
    pub(super) fn close(&mut self, network: NetworkId) {
        self.networks.remove(&network);
        self.is_news = true;
    }

    /// A port is gone: its clients have no address any more.
    pub(super) fn leave(&mut self, network: NetworkId, port: &Name, now: Time) {
        if let Some(served) = self.networks.get_mut(&network) {
            served.pool.release_port(port.as_str(), now);
            self.is_news = true;
        }
    }

    /// When [`Control::end_leases`] is due.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.next_end
    }

    /// Whether an address is bound to a client of a port.
    fn is_bound(&self, network: NetworkId, ip: Ipv4Addr, port: &Name, now: Time) -> bool {
        let lease = self.networks.get(&network).and_then(|served| served.pool.at(ip));
        lease.is_some_and(|lease| lease.client.port == port.as_str() && lease.state(now) == State::Bound)
    }

    /// The port whose client an address is given to.
    pub(super) fn holder(&self, network: NetworkId, ip: Ipv4Addr, now: Time) -> Option<&str> {
        let lease = self.networks.get(&network)?.pool.at(ip)?;
        (lease.state(now) != State::Free).then_some(&lease.client.port)
    }

    /// Addresses that are given to clients of other ports than `port`, or must not be given to anybody.
    pub(super) fn held_by_others(
        &self,
        network: NetworkId,
        port: &Name,
        now: Time,
    ) -> impl Iterator<Item = Ipv4Addr> {
        let leases = self.networks.get(&network).into_iter().flat_map(|served| served.pool.iter());
        let held = leases.filter(move |(_, lease)| match lease.state(now) {
            State::Offered | State::Bound => lease.client.port != port.as_str(),
            State::Declined => true,
            State::Free => false,
        });
        held.map(|(ip, _)| ip)
    }
}

/// Seconds since 1970.
fn day_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl<H: Host> Control<H> {
    /// Answers a DHCP message from a port.
    pub(super) fn serve_dhcp(&mut self, punt: &Punt, datagram: &Datagram<'_>, now: Time) {
        let snapshot = self.snapshot();
        let Some(network) = punt.network.and_then(|id| snapshot.network(id)) else { return };
        let at = self.ports.on_network(network.id).find(|(_, port)| port.id == punt.ingress);
        let Some((name, record)) = at.map(|(name, record)| (name.clone(), record.clone())) else { return };
        let (mut taken, mut heard) = (HashSet::new(), HashSet::new());
        // Only an address from the pool can be somebody else's.
        if record.ip.is_none() {
            taken = self.taken_addresses(network);
            heard = heard_addresses(network, datagram.src_mac, now);
            // What other ports had and may come back to is not given to anybody new either.
            if let Ok(on) = network.name.parse() {
                heard.extend(self.book.kept_for_others(&on, &name));
            }
        }
        let Some(served) = self.dhcp.networks.get_mut(&network.id) else { return };
        let mut server = Server {
            settings: &served.settings,
            link: link(network),
            seat: Seat { port: name.as_str(), own: record.ip, taken: &taken, heard: &heard },
            pool: &mut served.pool,
            now,
        };
        let outcome = server.answer(datagram);
        match outcome.change {
            Change::None => {}
            Change::Bound(ip) => {
                let end = served.pool.at(ip).map(Lease::until);
                self.dhcp.next_end = self.dhcp.next_end.into_iter().chain(end).min();
                self.follow_lease(&name, record.id, Some(ip));
            }
            Change::Ended(ip) if record.lease == Some(ip) => self.follow_lease(&name, record.id, None),
            Change::Ended(_) => {}
        }
        self.dhcp.is_news |= outcome.change != Change::None;
        if let Some(reply) = outcome.reply {
            self.host.send(record.id, reply);
        }
    }

    /// Stores the leases if they have changed.
    pub(super) fn remember_leases(&mut self, now: Time) {
        if !std::mem::take(&mut self.dhcp.is_news) {
            return;
        }
        let snapshot = self.snapshot();
        let today = day_seconds();
        let mut all = self.dhcp.remembered.clone();
        for (id, served) in &self.dhcp.networks {
            let Some(network) = snapshot.network(*id) else { continue };
            let kept = served
                .pool
                .iter()
                .filter(|(_, lease)| matches!(lease.state(now), State::Bound | State::Free));
            all.extend(kept.map(|(ip, lease)| Remembered {
                network: network.name.clone(),
                ip,
                port: lease.client.port.clone(),
                client: lease.client.id.clone(),
                mac: lease.mac,
                hostname: lease.hostname.clone(),
                ends: today + lease.until().since(now).as_secs(),
            }));
        }
        self.state.store(DOCUMENT, &all);
    }

    /// Lets ports go whose leases have ended.
    pub(super) fn end_leases(&mut self, now: Time) {
        if self.dhcp.next_end.is_none_or(|end| now < end) {
            return;
        }
        let is_over = |name: &Name, record: &PortRecord| {
            record.lease.is_some_and(|ip| !self.dhcp.is_bound(record.network, ip, name, now))
        };
        let over = self.ports.iter().filter(|(name, record)| is_over(name, record));
        let over: Vec<_> = over.map(|(name, record)| (name.clone(), record.id)).collect();
        over.into_iter().for_each(|(name, id)| self.follow_lease(&name, id, None));
        let leases = self.dhcp.networks.values().flat_map(|served| served.pool.iter());
        let bound = leases.filter(|(_, lease)| lease.state(now) == State::Bound);
        self.dhcp.next_end = bound.map(|(_, lease)| lease.until()).min();
    }

    /// Holds a port to the address that its client has got, and lets its names mean it.
    fn follow_lease(&mut self, name: &Name, id: PortId, ip: Option<Ipv4Addr>) {
        let record = self.ports.get_mut(id).filter(|record| record.ip.is_none() && record.lease != ip);
        let Some(record) = record else { return };
        record.lease = ip;
        let mac = record.mac;
        match ip {
            Some(ip) => log::info!("port {name}: has {ip} by DHCP"),
            None => log::info!("port {name}: has no address by DHCP any more"),
        }
        let snapshot = self.snapshot();
        let Some(port) = snapshot.port(id) else { return };
        let port = Port { ip, pins: port.pins.map(|_| Pins { mac, ip }), ..Port::clone(port) };
        self.shared.publish(|snapshot| snapshot.set_port(port));
    }

    fn taken_addresses(&self, network: &Network) -> HashSet<Ipv4Addr> {
        let ports = self.ports.on_network(network.id);
        ports.filter_map(|(_, port)| port.ip).chain(network.router).collect()
    }

    /// Changes a network's DHCP server, and tells what it is then.
    ///
    /// # Errors
    /// `NotFound` for an unknown network, `Usage` for what cannot be; nothing has changed then.
    pub(super) fn network_dhcp(&mut self, asked: &NetworkDhcp) -> Result<DhcpInfo, Error> {
        let network = self.network(asked.name.as_str())?;
        if network.gateway.is_none() {
            return Err(no_gateway("dhcp", &network, "addresses are given by the LAN's own server"));
        }
        let Some(served) = self.dhcp.networks.get_mut(&network.id) else {
            return Err(Error::not_found(&asked.name, "no such network", "see vswitchctl network ls"));
        };
        let (mut settings, mut enabled) = (served.settings.clone(), network.dhcp);
        for setting in &asked.settings {
            setting.check()?;
            match setting.clone() {
                DhcpSetting::On => enabled = true,
                DhcpSetting::Off => enabled = false,
                DhcpSetting::Lease(seconds) => settings.lease = Duration::from_secs(seconds.into()),
                DhcpSetting::Range(range) => {
                    for end in range.iter().flat_map(|&(first, last)| [first, last]) {
                        check_host_address(network.subnet, end, "range")?;
                    }
                    settings.range = range;
                }
                DhcpSetting::Dns(list) => settings.dns = list,
                DhcpSetting::Ntp(list) => settings.ntp = list,
                DhcpSetting::Domain(domain) => settings.domain = domain.map(String::from),
                DhcpSetting::Search(list) => settings.search = list.into_iter().map(String::from).collect(),
                DhcpSetting::Routes(list) => {
                    // The router 0.0.0.0 stands for the link itself (RFC 3442).
                    for Route { via, .. } in list.iter().filter(|route| !route.via.is_unspecified()) {
                        check_host_address(network.subnet, *via, "router")?;
                    }
                    settings.routes = list.into_iter().map(|Route { prefix, via }| (prefix, via)).collect();
                }
            }
        }
        served.settings = settings;
        let info = dhcp_info(&network.name, enabled, &served.settings);
        if enabled != network.dhcp {
            let changed = Network { dhcp: enabled, ..Network::clone(&network) };
            self.shared.publish(|snapshot| snapshot.set_network(changed));
        }
        Ok(info)
    }

    /// What the DHCP server of a network says.
    pub(super) fn dhcp_info(&self, name: &Name) -> Result<DhcpInfo, Error> {
        let network = self.network(name.as_str())?;
        let settings = self.dhcp.networks.get(&network.id).map(|served| served.settings.clone());
        Ok(dhcp_info(&network.name, network.dhcp, &settings.unwrap_or_default()))
    }

    pub(super) fn dhcp_leases(&self, asked: &DhcpLeases, now: Time) -> Result<Vec<LeaseInfo>, Error> {
        let only = asked.network.as_ref().map(|name| self.network(name.as_str())).transpose()?;
        let snapshot = self.snapshot();
        let mut listed = Vec::new();
        for (id, served) in &self.dhcp.networks {
            let Some(network) = snapshot.network(*id) else { continue };
            if only.as_ref().is_some_and(|only| only.id != *id) {
                continue;
            }
            let of_port =
                |lease: &Lease| asked.port.as_ref().is_none_or(|port| port.as_str() == lease.client.port);
            let leases = served.pool.iter().filter(|(_, lease)| of_port(lease));
            listed.extend(leases.map(|(ip, lease)| lease_info(&network.name, ip, lease, now)));
        }
        Ok(listed)
    }
}

fn link(network: &Network) -> Link {
    Link {
        subnet: network.subnet,
        gateway: network.speaks_as(),
        gateway_mac: network.gateway_mac,
        mtu: network.mtu,
        routes: network.mode != NetworkMode::Internal,
    }
}

/// Addresses of a network at which another station than `client` has been heard.
fn heard_addresses(network: &Network, client: MacAddr, now: Time) -> HashSet<Ipv4Addr> {
    let entries = network.neighbors.lock().entries(now);
    let others = entries.into_iter().filter(|entry| entry.mac.is_some_and(|mac| mac != client));
    others.map(|entry| entry.ip).collect()
}

pub(super) fn dhcp_info(network: &str, enabled: bool, settings: &Settings) -> DhcpInfo {
    DhcpInfo {
        network: network.to_owned(),
        enabled,
        lease_seconds: settings.lease.as_secs(),
        range: settings.range.map(|(first, last)| DhcpRange { first, last }),
        dns: settings.dns.clone(),
        ntp: settings.ntp.clone(),
        domain: settings.domain.clone(),
        search: settings.search.clone(),
        routes: settings.routes.iter().map(|&(prefix, via)| Route { prefix, via }).collect(),
    }
}

fn lease_info(network: &str, ip: Ipv4Addr, lease: &Lease, now: Time) -> LeaseInfo {
    let state = lease.state(now);
    let ends = (state != State::Free).then(|| lease.until().since(now).as_secs());
    LeaseInfo {
        network: network.to_owned(),
        ip,
        port: lease.client.port.clone(),
        mac: lease.mac,
        client: lease.client.id.iter().map(|byte| format!("{byte:02x}")).collect(),
        hostname: lease.hostname.clone(),
        state: state.as_str().to_owned(),
        expires_seconds: ends,
    }
}
