//! The names that the switch itself knows, and what they mean to a client.
//!
//! | name | is |
//! |---|---|
//! | `web` | the port `web`, and every port with the alias `web`, on the client's own network |
//! | `web.blue` | likewise on the network `blue`, whatever the client's own is |
//! | `blue` | the gateway of the network `blue` |
//! | `2.0.30.172.in-addr.arpa` | the name of whoever has 172.30.0.2, as `web.default` |
//!
//! The first row that fits decides. Whatever fits none is not the switch's business, and goes to the host's resolvers,
//! so that no network can hide a part of the world by its name; but addresses of the switch's networks that nobody has
//! are asked of nobody else. Knowing a name is not reaching it: that is for isolation and policy to say.
//!
//! There is no index. Names are read from the configuration that is valid when the question is asked, so that they are
//! never older than it; only a question that can be about a port looks at the ports, and only at those of one network.

use std::net::Ipv4Addr;

use super::message::{A_TYPE, ANY_TYPE, PTR_TYPE, Question, Records};
use crate::addr::NetworkId;
use crate::snapshot::{Network, Port, Snapshot};

/// Where the names of IPv4 addresses are (RFC 1035 3.5).
const REVERSE: &str = ".in-addr.arpa";

/// What the switch knows about a question from a client on the network `from`; `None` if it is for others to answer.
pub fn look_up(snapshot: &Snapshot, from: NetworkId, question: &Question) -> Option<Records> {
    let name = question.name()?;
    if let Some(reversed) = name.strip_suffix(REVERSE) {
        return reverse(snapshot, address(reversed)?, question.kind);
    }
    let own = snapshot.network(from)?;
    let mut addresses = addresses(snapshot, own, &name);
    if addresses.is_empty() {
        addresses = networks(snapshot)
            .filter_map(|network| Some((network, before(&name, &network.name)?)))
            .flat_map(|(network, port)| addresses_of(snapshot, network, port))
            .collect();
    }
    if addresses.is_empty() {
        let named = networks(snapshot).find(|network| network.name.eq_ignore_ascii_case(&name))?;
        addresses.push(named.gateway?);
    }
    if !matches!(question.kind, A_TYPE | ANY_TYPE) {
        addresses.clear();
    }
    Some(Records::Addresses(addresses))
}

fn networks(snapshot: &Snapshot) -> impl Iterator<Item = &Network> {
    snapshot.networks.iter().flatten().map(|network| &**network)
}

/// The addresses of the ports of a network with this name or alias.
fn addresses(snapshot: &Snapshot, network: &Network, name: &str) -> Vec<Ipv4Addr> {
    addresses_of(snapshot, network, name).collect()
}

fn addresses_of<'a>(
    snapshot: &'a Snapshot,
    network: &'a Network,
    name: &'a str,
) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let ports = network.ports.iter().filter_map(|&id| snapshot.port(id));
    ports.filter(move |port| is_called(port, name)).filter_map(|port| port.ip)
}

fn is_called(port: &Port, name: &str) -> bool {
    port.name.eq_ignore_ascii_case(name) || port.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
}

/// What stands before the last dot of `name`, if behind it is `network`, which may have dots itself.
fn before<'a>(name: &'a str, network: &str) -> Option<&'a str> {
    let at = name.len().checked_sub(network.len() + 1)?;
    let (port, rest) = name.split_at_checked(at)?;
    (rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(network) && !port.is_empty()).then_some(port)
}

/// The names of an address, if it is of one of the networks.
fn reverse(snapshot: &Snapshot, ip: Ipv4Addr, kind: u16) -> Option<Records> {
    let network = snapshot.network_of(ip)?;
    let mut names = Vec::new();
    if network.gateway == Some(ip) {
        names.push(network.name.clone());
    }
    let ports = network.ports.iter().filter_map(|&id| snapshot.port(id));
    names.extend(
        ports.filter(|port| port.ip == Some(ip)).map(|port| format!("{}.{}", port.name, network.name)),
    );
    if names.is_empty() {
        return Some(Records::NoName);
    }
    if !matches!(kind, PTR_TYPE | ANY_TYPE) {
        names.clear();
    }
    Some(Records::Names(names))
}

/// The address whose four numbers stand here in reverse order.
fn address(reversed: &str) -> Option<Ipv4Addr> {
    let ip: Ipv4Addr = reversed.parse().ok()?;
    let mut octets = ip.octets();
    octets.reverse();
    Some(Ipv4Addr::from(octets))
}
