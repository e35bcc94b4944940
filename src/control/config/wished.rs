//! What a file wishes for, by name: so that what nobody wishes for is found without comparing everything with
//! everything.

use std::collections::{HashMap, HashSet};

use super::document::Wish;
use crate::control::name::Name;
use crate::control::ports::first_network;
use crate::control::publications::scoped;
use crate::control::publish_spec::{PublishSpec, PublishWish};
use crate::control::request::Request;
use crate::control::response::PortKind;

/// The names in the wishes.
#[derive(Debug, Default)]
pub(super) struct Wished<'a> {
    /// Networks.
    pub(super) networks: HashSet<&'a str>,
    /// Ports, and the networks of their first interfaces.
    ports: HashMap<&'a Name, &'a str>,
    /// More interfaces: port and network.
    connections: HashSet<(&'a Name, &'a Name)>,
    /// Networks that the host has an address on.
    host_ports: HashSet<&'a Name>,
    /// Interfaces with settings: port and network.
    pub(super) settings: HashSet<(&'a Name, Option<&'a Name>)>,
    /// Networks whose DHCP server has settings.
    pub(super) dhcp: HashSet<&'a Name>,
    /// Defaults: who opens, and whom to.
    pub(super) defaults: HashSet<(&'a str, &'a str)>,
    /// Publications that have no choice of ports.
    publications: HashSet<PublishSpec>,
    /// Those that have.
    choices: Vec<PublishWish>,
    /// Whether timeouts are set.
    pub(super) timeouts: bool,
    /// Whether the ageing of addresses is.
    pub(super) ageing: bool,
}

impl<'a> Wished<'a> {
    /// What these wishes say.
    pub(super) fn of(wishes: &'a [Wish]) -> Self {
        let mut wished = Wished::default();
        for Wish { request, .. } in wishes {
            wished.note(request);
        }
        wished
    }

    fn note(&mut self, request: &'a Request) {
        match request {
            Request::NetworkCreate(create) => drop(self.networks.insert(create.name.as_str())),
            Request::NetworkDhcp(dhcp) => drop(self.dhcp.insert(&dhcp.name)),
            Request::NetworkConnect(connect) => {
                self.connections.insert((&connect.port, &connect.network));
            }
            Request::NetworkHostPort(host_port) => drop(self.host_ports.insert(&host_port.network)),
            Request::PortAdd(add) => drop(self.ports.insert(&add.name, first_network(add))),
            Request::PortSet(set) => drop(self.settings.insert((&set.name, set.network.as_ref()))),
            Request::PublishAdd(add) => {
                let Ok((wish, _)) = scoped(add) else { return };
                match wish.only_choice() {
                    Some(spec) => drop(self.publications.insert(spec)),
                    None => self.choices.push(wish),
                }
            }
            Request::PolicyDefault(change) => {
                if let (Some(from), Some(to)) = (&change.from, &change.to) {
                    self.defaults.insert((from.as_str(), to.as_str()));
                }
            }
            Request::CtTimeouts(_) => self.timeouts = true,
            Request::FdbAgeing(_) => self.ageing = true,
            _ => {}
        }
    }

    /// Whether an interface is wished for: what kind it is, its port, whether it is the first of that, and its network.
    pub(super) fn has_interface(&self, kind: PortKind, name: &Name, is_first: bool, network: &Name) -> bool {
        if kind == PortKind::Host {
            return self.host_ports.contains(network);
        }
        // It goes with its network.
        if kind == PortKind::Uplink {
            return true;
        }
        // A first interface that is not on this network now will be in its place.
        let added = self.ports.get(name).is_some_and(|first| *first == network.as_str() || is_first);
        added || self.connections.contains(&(name, network))
    }

    /// Whether a publication is wished for.
    pub(super) fn has_publication(&self, spec: &PublishSpec) -> bool {
        self.publications.contains(spec) || self.choices.iter().any(|wish| wish.is_met_by(spec))
    }
}
