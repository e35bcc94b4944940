//! Policy once more, as its documentation has it and without any thought of speed: the fuzz target's own opinion of
//! who may open a connection to whom.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vswitchd::addr::Protocol;
use vswitchd::sim::{EXTERNAL, Station, on_link};
use vswitchd::table::policy::{Action, Defaults, Place, Rule, Zone};

use super::site::{HOST, LAN, NEIGHBOR, PREFIXES, Site};

/// Whom a rule means.
#[derive(Debug, Clone, Copy)]
pub enum Whom {
    Network(usize),
    Station(usize),
    Prefix(Ipv4Net),
    Zone(Zone),
}

/// A rule.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub allow: bool,
    pub from: Option<Whom>,
    pub to: Option<Whom>,
    pub protocol: Option<Protocol>,
    pub port: Option<u16>,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub ip: Ipv4Addr,
    pub zone: Zone,
    pub station: Option<usize>,
    pub network: Option<usize>,
}

/// The rules in their order, and what happens between networks where none decides.
#[derive(Debug, Default)]
pub struct Judge {
    pub lines: Vec<Line>,
    pub defaults: HashMap<(usize, usize), bool>,
}

impl Judge {
    /// Whether a connection may be opened.
    pub fn allows(&self, from: &End, to: &End, protocol: Option<Protocol>, port: u16) -> bool {
        let decides = |line: &&Line| {
            line.from.is_none_or(|whom| whom.is(from))
                && line.to.is_none_or(|whom| whom.is(to))
                && line.protocol.is_none_or(|one| Some(one) == protocol)
                && line.port.is_none_or(|one| one == port)
        };
        if let Some(line) = self.lines.iter().find(decides) {
            return line.allow;
        }
        match (from.network, to.network) {
            (Some(from), Some(to)) => self.defaults.get(&(from, to)).copied().unwrap_or(from == to),
            _ => true,
        }
    }

    /// The defaults as the switch has them.
    pub fn defaults(&self) -> Defaults {
        let mut defaults = Defaults::new();
        for (&(from, to), &allow) in &self.defaults {
            defaults.set(&format!("net{from}"), &format!("net{to}"), Some(action(allow)));
        }
        defaults
    }
}

impl Line {
    /// The rule as the switch has it.
    pub fn rule(&self, stations: &[Station]) -> Rule {
        let list = |whom: Option<Whom>| whom.map(|whom| whom.place(stations)).into_iter().collect();
        let ports = self.port.map(|port| port..=port);
        Rule {
            action: action(self.allow),
            from: list(self.from),
            to: list(self.to),
            protocol: self.protocol,
            ports,
        }
    }
}

fn action(allow: bool) -> Action {
    if allow { Action::Allow } else { Action::Deny }
}

impl Whom {
    fn is(&self, end: &End) -> bool {
        match *self {
            Whom::Network(network) => end.network == Some(network),
            Whom::Station(station) => end.station == Some(station),
            Whom::Prefix(prefix) => prefix.contains(&end.ip),
            Whom::Zone(zone) => end.zone == zone,
        }
    }

    fn place(&self, stations: &[Station]) -> Place {
        match *self {
            Whom::Network(network) => Place::Network(format!("net{network}")),
            Whom::Station(station) => Place::Port(format!("p{}", stations[station].id.0)),
            Whom::Prefix(prefix) => Place::Prefix(prefix),
            Whom::Zone(Zone::Internet) => Place::Internet,
            Whom::Zone(Zone::Lan) => Place::Lan,
            Whom::Zone(Zone::Host | Zone::Inside) => Place::Host,
        }
    }
}

/// The network whose gateway routes to an address.
pub fn network_of(ip: Ipv4Addr) -> Option<usize> {
    PREFIXES[..LAN].iter().position(|prefix| prefix.parse().is_ok_and(|net: Ipv4Net| net.contains(&ip)))
}

/// The address of a network's gateway.
pub fn gateway(network: usize) -> Option<Ipv4Addr> {
    let prefix: Option<Ipv4Net> = PREFIXES[..LAN].get(network)?.parse().ok();
    prefix?.hosts().next()
}

/// The uplinks' addresses.
pub fn external(uplink: usize) -> Ipv4Addr {
    on_link(u8::from(uplink == 1), EXTERNAL)
}

impl Site {
    /// The end behind a station's port, which says that it has this address.
    pub fn behind(&self, station: usize, ip: Ipv4Addr) -> End {
        let zone = match station {
            HOST => Zone::Host,
            NEIGHBOR => zone_on_lan(ip),
            _ => Zone::Inside,
        };
        End { ip, zone, station: Some(station), network: self.spots[station].network }
    }

    /// The end at an address that is routed to.
    pub fn at(&self, ip: Ipv4Addr) -> End {
        let Some(network) = network_of(ip) else { return self.outside(ip, 0) };
        if gateway(network) == Some(ip) {
            return End { ip, zone: Zone::Host, station: None, network: None };
        }
        match self.stations.iter().position(|station| station.ip == ip) {
            Some(station) => self.behind(station, ip),
            None => End { ip, zone: Zone::Inside, station: None, network: Some(network) },
        }
    }

    /// The end at an address on a network that a frame is switched on.
    pub fn near(&self, network: usize, ip: Ipv4Addr) -> End {
        if network != LAN {
            return self.at(ip);
        }
        match self.on(LAN).find(|&station| station != NEIGHBOR && self.stations[station].ip == ip) {
            Some(station) => self.behind(station, ip),
            None => End { ip, zone: zone_on_lan(ip), station: None, network: Some(LAN) },
        }
    }

    /// The end outside, behind an uplink.
    pub fn outside(&self, ip: Ipv4Addr, uplink: usize) -> End {
        let link = Ipv4Net::new_assert(external(uplink), 24);
        let zone = match ip {
            ip if [0, 1].map(external).contains(&ip) => Zone::Host,
            ip if link.contains(&ip) || is_not_global(ip) => Zone::Lan,
            _ => Zone::Internet,
        };
        End { ip, zone, station: None, network: None }
    }
}

fn zone_on_lan(ip: Ipv4Addr) -> Zone {
    if is_not_global(ip) || ip.is_unspecified() { Zone::Lan } else { Zone::Internet }
}

fn is_not_global(ip: Ipv4Addr) -> bool {
    let shared = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
    ip.is_private() || ip.is_link_local() || shared.contains(&ip)
}
