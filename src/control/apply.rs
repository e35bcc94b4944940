//! The books of the switch: what exists, under which name, and what a request changes.
//!
//! [`Control`] belongs to one task, so requests happen one after the other and nothing here is locked. A
//! change has three steps, in this order, so that a failure at any of them leaves no trace:
//!
//! 1. **validate** against the books; a wrong request touches nothing;
//! 2. **act** on the host through [`Host`], undoing the steps before the one that failed;
//! 3. **publish** a new [`Snapshot`], which cannot fail, and write the books.
//!
//! Removal runs the other way: first the snapshot without it, then the workers let go, and last what was
//! learned about it is forgotten, because until then a worker may still learn.
//!
//! The nouns have files of their own: `networks`, `lan`, `ports`, `connect`, `publications`, `policies`, `uplink`, and
//! `observe` for what only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::address_book::{self, AddressBook};
use super::dhcp::DhcpBooks;
use super::error::Error;
use super::host::Host;
use super::lan::Lan;
use super::name::Name;
use super::publications::PublicationRecord;
use super::records::{PortRecord, Ports};
use super::request::Request;
use super::response::{Done, Response};
use super::uplink::UplinkRecord;
use crate::addr::{NetworkId, PortId, Protocol};
use crate::clock::Time;
use crate::counters::Totals;
use crate::host::state::StateDir;
use crate::shared::Shared;
use crate::snapshot::{Network, Snapshot};

/// The network of a port that names none.
pub const DEFAULT_NETWORK: &str = "default";

/// The switch's books, and the hands that change it.
#[derive(Debug)]
pub struct Control<H> {
    pub(super) shared: Arc<Shared>,
    pub(super) host: H,
    /// What the next process finds out about this one.
    pub(super) state: StateDir,
    pub(super) ports: Ports,
    /// What names had, and have again when they come back.
    pub(super) book: AddressBook,
    pub(super) publications: Vec<PublicationRecord>,
    /// By their numbers.
    pub(super) uplinks: Vec<UplinkRecord>,
    /// Ports of the range for masquerading that processes of the host use: they stay the host's.
    pub(super) host_ports: BTreeSet<(Protocol, u16)>,
    /// The interfaces of bridged networks.
    pub(super) lans: BTreeMap<NetworkId, Lan>,
    pub(super) dhcp: DhcpBooks,
    /// What ports counted that do not exist any more: without it the totals would not add up.
    pub(super) retired: Totals,
    /// The options that the daemon was started with, as a configuration file has them.
    pub(super) options: Vec<(String, String)>,
}

impl<H: Host> Control<H> {
    /// Books for a switch without networks, ports and uplink, which remembers in `state`.
    pub fn new(shared: Arc<Shared>, host: H, mut state: StateDir) -> Self {
        let book = state.load(address_book::DOCUMENT);
        Control {
            dhcp: DhcpBooks::new(state.load(super::dhcp::DOCUMENT)),
            shared,
            host,
            state,
            ports: Ports::default(),
            book,
            publications: Vec::new(),
            uplinks: Vec::new(),
            host_ports: BTreeSet::new(),
            lans: BTreeMap::new(),
            retired: Totals::default(),
            options: Vec::new(),
        }
    }

    /// Does what a request asks for.
    ///
    /// # Errors
    /// Says what is wrong and what to do; nothing has changed then.
    pub fn apply(&mut self, request: Request, now: Time) -> Result<Response, Error> {
        match request {
            Request::Status(_) => Ok(Response::Status(Box::new(self.status(now)))),
            Request::UplinkLs(_) => Ok(Response::Uplinks(self.uplink_ls())),
            Request::UplinkSet(set) => self.uplink_set(&set, now).map(done),
            Request::NetworkLs(_) => Ok(Response::Networks(self.network_ls())),
            Request::NetworkCreate(create) => self.network_create(&create, now).map(Response::Network),
            Request::NetworkRm(rm) => self.network_rm(&rm, now).map(done),
            Request::NetworkInspect(named) => {
                self.network_inspect(&named.name, now).map(Box::new).map(Response::NetworkDetail)
            }
            Request::NetworkDhcp(dhcp) => self.network_dhcp(&dhcp).map(Response::Dhcp),
            Request::DhcpLeases(leases) => self.dhcp_leases(&leases, now).map(Response::Leases),
            Request::NetworkSet(set) => self.network_set(&set, now).map(done),
            Request::NetworkConnect(connect) => {
                self.network_connect(&connect, now).map(Box::new).map(Response::Port)
            }
            Request::NetworkDisconnect(disconnect) => self.network_disconnect(&disconnect, now).map(done),
            Request::NetworkHostPort(host_port) => match host_port.off {
                true => self.host_port_off(&host_port, now).map(done),
                false => self.host_port(&host_port, now).map(Box::new).map(Response::Port),
            },
            Request::PortLs(_) => Ok(Response::Ports(self.port_ls())),
            Request::PortAdd(add) => self.port_add(&add, now).map(Box::new).map(Response::Port),
            Request::PortRm(rm) => self.port_rm(&rm, now).map(done),
            Request::PortInspect(inspect) => {
                self.port_inspect(&inspect, now).map(Box::new).map(Response::PortDetail)
            }
            Request::PortSet(set) => self.port_set(&set).map(done),
            Request::FdbShow(show) => self.fdb_show(&show, now).map(Response::Fdb),
            Request::FdbAdd(add) => self.fdb_add(&add, now).map(done),
            Request::FdbDel(del) => self.fdb_del(&del).map(done),
            Request::FdbFlush(flush) => self.fdb_flush(&flush).map(done),
            Request::FdbAgeing(ageing) => self.fdb_ageing(ageing).map(Response::Timeouts),
            Request::NeighShow(_) => Ok(Response::Neighbors(self.neigh_show(now))),
            Request::CtLs(filter) => self.ct_ls(&filter, now).map(Response::Connections),
            Request::CtStats(_) => Ok(Response::ConnectionStats(self.ct_stats())),
            Request::CtFlush(filter) => self.ct_flush(&filter, now).map(done),
            Request::CtTimeouts(timeouts) => self.ct_timeouts(&timeouts).map(Response::Timeouts),
            Request::PublishAdd(add) => self.publish_add(&add, now).map(Response::Publication),
            Request::PublishLs(_) => Ok(Response::Publications(self.publish_ls(now))),
            Request::PublishRm(rm) => self.publish_rm(&rm, now).map(done),
            Request::PolicyAdd(add) => self.policy_add(&add, now).map(Response::Rule),
            Request::PolicyLs(_) => Ok(Response::Rules(self.policy_ls(now))),
            Request::PolicyRm(rm) => self.policy_rm(&rm, now).map(done),
            Request::PolicyDefault(change) => self.policy_default(&change, now).map(Response::Defaults),
            Request::PolicyCheck(check) => self.policy_check(&check).map(Response::Check),
            Request::Drops(drops) => self.drops(&drops, now).map(Response::Drops),
            Request::Stats(_) => Ok(Response::Stats(self.stats())),
            Request::Apply(apply) => self.apply_file(&apply, now).map(Response::Applied),
            Request::Dump(_) => self.dump().map(Response::Configuration),
        }
    }

    /// Remembers what the daemon was started with: it cannot change while the switch runs.
    pub fn set_options(&mut self, options: Vec<(String, String)>) {
        self.options = options;
    }

    /// What workers and control share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The host, for whoever knows which one it is.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// A consistent view of the configuration.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot_full()
    }

    pub(super) fn network(&self, name: &str) -> Result<Arc<Network>, Error> {
        let none = || Error::not_found(name, "no such network", "see vswitchctl network ls");
        self.find_network(name).ok_or_else(none)
    }

    /// As [`Control::network`], where it may well be that there is none.
    pub(super) fn find_network(&self, name: &str) -> Option<Arc<Network>> {
        self.snapshot().networks.iter().flatten().find(|network| network.name == name).cloned()
    }

    /// The first interface of a port.
    pub(super) fn port(&self, name: &Name) -> Result<&PortRecord, Error> {
        self.ports.get(name).ok_or_else(|| Error::not_found(name, "no such port", "see vswitchctl port ls"))
    }

    /// The numbers of the port's interfaces, or of the uplink with this name; the uplink counts too where frames do.
    pub(super) fn port_or_uplink(&self, name: &Name) -> Result<Vec<PortId>, Error> {
        match self.uplink(name.as_str()) {
            Ok(uplink) if !self.ports.contains_key(name) => Ok(vec![uplink.id.port()]),
            _ => self.port(name).map(|_| self.ids_of(name)),
        }
    }
}

fn done(changed: usize) -> Response {
    Response::Done(Done { changed })
}
