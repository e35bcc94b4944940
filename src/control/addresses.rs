//! Which addresses a port gets on a network.
//!
//! In this order: those that were asked for; those that it had when it was there last ([`AddressBook`]); the lowest
//! free address that is kept for nobody; and when there is none, the one that was kept longest. An address that some
//! station on the network answers for is nobody's to give, whoever that is: it is asked for by ARP, as far as there are
//! ports that could answer. Port security keeps all others from it.
//!
//! [`AddressBook`]: super::address_book::AddressBook

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::address_book;
use super::apply::Control;
use super::error::Error;
use super::host::{Attachment, Host};
use super::name::Name;
use super::networks::check_host_address;
use crate::addr::{MacAddr, MacRange, PortId};
use crate::clock::Time;
use crate::limits::ADDRESSES_PROBED;
use crate::snapshot::Network;
use crate::table::mac_table::Station;

impl<H: Host> Control<H> {
    /// An address for the port `name` on a network: the one that it wants, or one that is free.
    ///
    /// # Errors
    /// `Usage` for an address that no host on the network can have, `Exists` if somebody has it, `Failed` if none is
    /// free.
    pub(super) fn choose_ip(
        &mut self,
        name: &Name,
        wanted: Option<Ipv4Addr>,
        network: &Network,
        now: Time,
    ) -> Result<Ipv4Addr, Error> {
        if let Some(ip) = wanted {
            self.check_wanted(name, ip, network, now)?;
            return Ok(ip);
        }
        let on: Name = network.name.parse()?;
        let others = self.book.kept_for_others(&on, name);
        let mut taken: HashSet<Ipv4Addr> = self.addresses_on(network).chain(network.router).collect();
        taken.extend(self.dhcp.held_by_others(network.id, name, now));
        let is_host = |ip: &Ipv4Addr| check_host_address(network.subnet, *ip, "port").is_ok();
        let kept = self.book.kept(&on, name).ip.filter(|ip| is_host(ip) && !taken.contains(ip));
        let reserved: HashSet<Ipv4Addr> = others.iter().copied().collect();
        for _ in 0..ADDRESSES_PROBED {
            let own = || kept.filter(|ip| !taken.contains(ip));
            let lowest = || network.subnet.hosts().find(|ip| !taken.contains(ip) && !reserved.contains(ip));
            let oldest = || others.iter().copied().find(|ip| is_host(ip) && !taken.contains(ip));
            let Some(ip) = own().or_else(lowest).or_else(oldest) else {
                return Err(Error::failed(&network.name, "no address is free", "make a larger network"));
            };
            let Some(mac) = self.squatter(network, ip, now) else { return Ok(ip) };
            log::warn!("network {}: {mac} answers for {ip}, so no port gets it", network.name);
            taken.insert(ip);
        }
        let why = format_args!("{ADDRESSES_PROBED} addresses that should be free are in use");
        Err(Error::failed(&network.name, why, "choose an --ip, or see vswitchctl neigh show"))
    }

    fn check_wanted(&mut self, port: &Name, ip: Ipv4Addr, network: &Network, now: Time) -> Result<(), Error> {
        check_host_address(network.subnet, ip, "port")?;
        let hint = "choose another --ip, or leave it out for a free one";
        if network.router == Some(ip) {
            return Err(Error::exists(ip, format_args!("is the gateway of network {}", network.name), hint));
        }
        // The host does not hear the switch ask on its own interface.
        if self.own_address_on(network.id) == Some(ip) {
            return Err(Error::exists(ip, "is this host's own address on the LAN", hint));
        }
        if let Some((name, _)) = self.ports.on_network(network.id).find(|(_, port)| port.ip == Some(ip)) {
            return Err(Error::exists(ip, format_args!("is the address of port {name}"), hint));
        }
        if let Some(holder) = self.dhcp.holder(network.id, ip, now).filter(|holder| *holder != port.as_str())
        {
            let why = format_args!("is leased to a DHCP client at port {holder}");
            return Err(Error::exists(ip, why, hint));
        }
        match self.squatter(network, ip, now) {
            Some(mac) => Err(Error::exists(ip, format_args!("is in use on the network, by {mac}"), hint)),
            None => Ok(()),
        }
    }

    fn addresses_on(&self, network: &Network) -> impl Iterator<Item = Ipv4Addr> {
        self.ports.on_network(network.id).filter_map(|(_, port)| port.ip)
    }

    /// The station that answers for an address that no port was given.
    fn squatter(&mut self, network: &Network, ip: Ipv4Addr, now: Time) -> Option<MacAddr> {
        let snapshot = self.snapshot();
        let may_answer = |id: &PortId| {
            let port = snapshot.port(*id);
            port.is_some_and(|port| port.pins.is_none_or(|pins| pins.ip.is_none()))
        };
        if !network.ports.iter().any(may_answer) {
            return None;
        }
        let is_here =
            |mac: &MacAddr| matches!(network.fdb.lookup(*mac, now, snapshot.mac_ageing), Station::Port(_));
        let mut neighbors = network.neighbors.lock();
        if let Some(mac) = neighbors.mac_of(ip).filter(is_here) {
            return Some(mac);
        }
        // What is remembered of a station that is gone is no answer.
        neighbors.remove(ip);
        drop(neighbors);
        self.host.who_has(network, ip)
    }

    /// A MAC address for a port on a network. None for a device that has one of its own.
    ///
    /// # Errors
    /// `Usage` for one that no station can have, `Exists` if somebody has it.
    pub(super) fn choose_mac(
        &self,
        (name, wanted): (&Name, Option<MacAddr>),
        (id, ip): (PortId, Option<Ipv4Addr>),
        network: &Network,
        attachment: &Attachment,
    ) -> Result<Option<MacAddr>, Error> {
        let kept = self.book.kept(&network.name.parse()?, name);
        let is_taken = |mac| self.ports.on_network(network.id).find(|(_, port)| port.mac == Some(mac));
        let usable =
            |mac: &MacAddr| is_taken(*mac).is_none() && *mac != network.gateway_mac && mac.is_station();
        let mac = match (wanted, ip) {
            (Some(mac), _) => mac,
            // Whoever is behind an existing device has an address of its own, on its VLANs too.
            (None, _) if matches!(attachment, Attachment::Device { .. } | Attachment::Vlan { .. }) => {
                return Ok(None);
            }
            // With the address that it had, or without any, as it was there last.
            (None, ip) if ip == kept.ip && kept.mac.is_some_and(|mac| usable(&mac)) => return Ok(kept.mac),
            (None, Some(ip)) => MacAddr::from_ipv4(ip),
            (None, None) => {
                let candidate = |round| match network.gateway {
                    Some(_) => mac_without_ip(id, round),
                    None => self.mac_on_lan(network.id, name, round),
                };
                (0..=u8::MAX).map(candidate).find(usable).unwrap_or(MacAddr::ZERO)
            }
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
        match is_taken(mac) {
            Some((name, _)) => Err(Error::exists(mac, format_args!("is the address of port {name}"), hint)),
            None => Ok(Some(mac)),
        }
    }

    /// Notes what a port has got, for when it comes again.
    pub(super) fn keep_addresses(
        &mut self,
        network: &str,
        name: &Name,
        ip: Option<Ipv4Addr>,
        mac: Option<MacAddr>,
    ) {
        // The name of a network was checked when it was made.
        let Ok(network) = network.parse() else { return };
        self.book.keep(&network, name, ip, mac);
    }

    /// Stores the address book if it has changed.
    pub(super) fn remember_addresses(&mut self) {
        if self.book.take_news() {
            self.state.store(address_book::DOCUMENT, &self.book);
        }
    }
}

/// An address for a port without an IP address, of its number and one for when another port has kept the first.
const fn mac_without_ip(id: PortId, round: u8) -> MacAddr {
    let [high, low] = id.0.to_be_bytes();
    MacAddr::local(MacRange::Port, [0, round, high, low])
}
