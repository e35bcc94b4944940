//! What the configuration knows of an address: which end of a connection it is, as [`Policy`] has it.
//!
//! [`Policy`]: crate::table::policy::Policy

use std::net::Ipv4Addr;

use super::{Network, Port, Snapshot, Uplink};
use crate::table::policy::{End, Zone};

impl Snapshot {
    /// The end at an address, which if it is outside is reached by this uplink. Without one, what is on the link of any of
    /// them is near.
    pub fn end(&self, ip: Ipv4Addr, by: Option<&Uplink>) -> End<'_> {
        let Some(network) = self.network_of(ip) else {
            return End { ip, zone: self.zone_outside(ip, by), port: None, network: None };
        };
        if network.gateway == Some(ip) {
            return End { ip, zone: Zone::Host, port: None, network: None };
        }
        match self.port_with(ip) {
            Some(port) => self.end_at(port, ip),
            None => End { ip, zone: Zone::Inside, port: None, network: Some(&network.name) },
        }
    }

    /// The end behind a port of a network that sends from an address, whoever is known to have that.
    pub fn end_at<'a>(&'a self, port: &'a Port, ip: Ipv4Addr) -> End<'a> {
        let network = port.network.and_then(|id| self.network(id));
        let zone = match network {
            // The host on a network is both.
            _ if port.host.is_some() => Zone::Host,
            Some(network) if port.lan => zone_behind(network, ip),
            _ => Zone::Inside,
        };
        End { ip, zone, port: Some(&port.name), network: network.map(|network| network.name.as_str()) }
    }

    /// The end at an address that is spoken to on a network. A LAN's addresses mean nothing elsewhere.
    pub fn end_on<'a>(&'a self, network: &'a Network, ip: Ipv4Addr) -> End<'a> {
        if network.gateway.is_some() {
            return self.end(ip, None);
        }
        match self.port_with(ip).filter(|port| port.network == Some(network.id)) {
            Some(port) => self.end_at(port, ip),
            None => End { ip, zone: zone_behind(network, ip), port: None, network: Some(&network.name) },
        }
    }

    /// The port that is known to have an address.
    pub fn port_with(&self, ip: Ipv4Addr) -> Option<&Port> {
        self.port(*self.by_address.get(&ip)?).map(|port| &**port)
    }

    /// Which zone an address that is on no network is in.
    fn zone_outside(&self, ip: Ipv4Addr, by: Option<&Uplink>) -> Zone {
        if self.is_hosts(ip) {
            return Zone::Host;
        }
        let has_on_link = |uplink: &Uplink| uplink.address.is_some_and(|link| link.contains(&ip));
        let on_link = match by {
            Some(uplink) => has_on_link(uplink),
            None => self.uplinks.iter().any(|uplink| has_on_link(uplink)),
        };
        if on_link || is_not_global(ip) { Zone::Lan } else { Zone::Internet }
    }
}

/// Which zone an address behind the uplink of a bridged network is in. What has none, as far as one can tell, is there.
fn zone_behind(network: &Network, ip: Ipv4Addr) -> Zone {
    let is_near = network.subnet.contains(&ip) || is_not_global(ip) || ip.is_unspecified();
    if is_near { Zone::Lan } else { Zone::Internet }
}

/// Whether the internet does not route an address: it is private (RFC 1918), a provider's own (RFC 6598), or of a
/// link (RFC 3927).
fn is_not_global(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_the_internet_does_not_route_are_the_lans() {
        let snapshot = Snapshot::new();
        for (ip, zone) in [
            ("10.0.0.1", Zone::Lan),
            ("172.15.255.255", Zone::Internet),
            ("172.31.255.255", Zone::Lan),
            ("192.168.0.1", Zone::Lan),
            ("192.169.0.1", Zone::Internet),
            ("100.63.255.255", Zone::Internet),
            ("100.64.0.0", Zone::Lan),
            ("100.127.255.255", Zone::Lan),
            ("100.128.0.0", Zone::Internet),
            ("169.254.1.1", Zone::Lan),
            ("203.0.113.9", Zone::Internet),
        ] {
            assert_eq!(snapshot.end(ip.parse().unwrap(), None).zone, zone, "{ip}");
        }
    }
}
