//! Published ports: what outsiders reach of a container through an uplink's address.
//!
//! A publication takes its ports on the host (in mode `shared`, where host and switch have one address),
//! out of the range for masquerading, and off the host's stack by the guard; only then do packets find it. A
//! connection that was masqueraded with one of the ports ends then: whoever publishes wins, and no container can
//! keep a service from being published, or get its clients (CVE-2021-3773).
//!
//! A publication on a loopback address (Docker's way to say "only for this host") is reached by the host's own
//! processes, through the relay ([`crate::service::relay`]), and by nobody else: no packet for such an address comes
//! from outside, or is let in if it does.
//!
//! A publication with several containers gives each new connection to one of them. A container that goes leaves the
//! others, whose connections stay. Where it is asked for, they are checked, and one that is down gets no new
//! connections (`service::health`).

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::apply::Control;
use super::error::{Error, Kind};
use super::host::{Attachment, Host};
use super::name::Name;
use super::publish_spec::{Listen, PublishSpec, PublishWish};
use super::records::PortRecord;
use super::request::{PublishAdd, PublishRm, Request};
use super::response::{PublicationInfo, TargetInfo};
use crate::addr::{Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::limits::{HEALTH_INTERVAL, HEALTH_INTERVALS, PUBLICATIONS_MAX, PUBLISH_TARGETS_MAX};
use crate::snapshot::{Check, Condition, NetworkMode, Publication, Publications, Scope, Target, Watch};
use crate::table::conntrack::{Info, Nat};

/// A container behind a publication.
#[derive(Debug, Clone)]
pub(super) struct TargetRecord {
    pub(super) to: PortId,
    pub(super) name: Name,
    pub(super) ip: Ipv4Addr,
    /// How it is, if it is checked.
    condition: Arc<Condition>,
}

impl TargetRecord {
    /// Whether both are the same container.
    fn is(&self, other: &TargetRecord) -> bool {
        (self.to, &self.name, self.ip) == (other.to, &other.name, other.ip)
    }
}

/// What control remembers of a publication.
#[derive(Debug, Clone)]
pub(super) struct PublicationRecord {
    pub(super) spec: PublishSpec,
    pub(super) scope: Scope,
    /// At least one.
    pub(super) targets: Vec<TargetRecord>,
    /// Whether and how they are checked.
    pub(super) watch: Option<Watch>,
}

/// A publication that is asked for.
#[derive(Debug)]
struct Planned {
    wish: PublishWish,
    scope: Scope,
    targets: Vec<TargetRecord>,
    watch: Option<Watch>,
}

impl Planned {
    /// Whether a publication is what is asked for.
    fn is_met_by(&self, there: &PublicationRecord) -> bool {
        self.wish.is_met_by(&there.spec)
            && (self.scope, self.watch) == (there.scope, there.watch)
            && self.targets.len() == there.targets.len()
            && self.targets.iter().zip(&there.targets).all(|(target, there)| target.is(there))
    }
}

impl PublicationRecord {
    /// Whether only the host itself could be a client.
    fn is_loopback(&self) -> bool {
        self.spec.listen.ip.is_some_and(|ip| ip.is_loopback())
    }

    /// As packets find it.
    fn publication(&self) -> Publication {
        let Listen { protocol, ip, ports } = self.spec.listen.clone();
        let target = |target: &TargetRecord| Target {
            endpoint: Endpoint::new(target.ip, self.spec.target_first),
            to: target.to,
        };
        let targets = self.targets.iter().map(target).collect();
        let conditions = || self.targets.iter().map(|target| target.condition.clone()).collect();
        let health = self.watch.map(|watch| (watch, conditions()));
        Publication { protocol, ip, ports, scope: self.scope, targets, health }
    }

    /// The names of the ports that it leads to, with commas between.
    pub(super) fn target_names(&self) -> String {
        self.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(",")
    }

    fn info(&self, connections: usize) -> PublicationInfo {
        let target = |target: &TargetRecord| TargetInfo {
            port: target.name.to_string(),
            ip: target.ip,
            up: target.condition.is_up(),
        };
        PublicationInfo {
            proto: self.spec.listen.protocol,
            ip: self.spec.listen.ip,
            port_first: *self.spec.listen.ports.start(),
            port_last: *self.spec.listen.ports.end(),
            target_port: self.target_names(),
            target_first: self.spec.target_first,
            connections,
            target_ip: self.targets.first().map_or(Ipv4Addr::UNSPECIFIED, |target| target.ip),
            scope: if self.is_loopback() { "loopback" } else { self.scope.as_str() }.to_owned(),
            targets: self.targets.iter().map(target).collect(),
            health: self.watch.map(|watch| watch.check),
            health_interval: self.watch.map(|watch| watch.interval.as_secs()),
        }
    }
}

impl<H: Host> Control<H> {
    pub(super) fn publish_ls(&self, now: Time) -> Vec<PublicationInfo> {
        if self.publications.is_empty() {
            return Vec::new();
        }
        // By the publications that packets find, for there may be thousands of both.
        let key = |protocol, ip, first| (protocol, ip, first);
        let keys = self.publications.iter().map(|record| &record.spec.listen);
        let numbers: HashMap<_, _> =
            keys.map(|listen| key(listen.protocol, listen.ip, *listen.ports.start())).zip(0..).collect();
        let mut counts: Vec<usize> = vec![0; self.publications.len()];
        let snapshot = self.snapshot();
        self.shared.conntrack.for_each(now, |connection| {
            let way_in = way_in(&snapshot.publications, connection);
            if let Some(&number) = way_in.and_then(|p| numbers.get(&key(p.protocol, p.ip, *p.ports.start())))
            {
                counts[number] += 1;
            }
        });
        self.publications.iter().zip(counts).map(|(record, count)| record.info(count)).collect()
    }

    /// Publishes ports.
    ///
    /// # Errors
    /// `NotFound` for an unknown port or an address that the uplink does not have, `Exists` if another
    /// publication or a process of the host has one of the ports, `Usage` if the container cannot be reached.
    pub(super) fn publish_add(&mut self, add: &PublishAdd, now: Time) -> Result<PublicationInfo, Error> {
        let planned = self.planned_publication(add)?;
        if let Some(there) = self.publications.iter().find(|there| planned.is_met_by(there)) {
            let (only, mut connections) = (Publications::from_iter([there.publication()]), 0);
            self.shared.conntrack.for_each(now, |connection| {
                connections += usize::from(way_in(&only, connection).is_some());
            });
            return Ok(there.info(connections));
        }
        let taken = self.snapshot().publications.clone();
        let record = self.claim(planned, &taken)?;
        let info = record.info(0);
        self.publish(vec![record], now)?;
        Ok(info)
    }

    /// Does several `publish add` as one change, which were rehearsed.
    ///
    /// # Errors
    /// As [`Control::publish_add`]; nothing has changed then.
    pub(super) fn publish_all(&mut self, adds: &[Request], now: Time) -> Result<(), Error> {
        let mut taken = Publications::clone(&self.snapshot().publications);
        let mut records = Vec::new();
        for add in adds {
            let Request::PublishAdd(add) = add else { continue };
            match self.planned_publication(add).and_then(|planned| self.claim(planned, &taken)) {
                Ok(record) => {
                    taken.insert(record.publication());
                    records.push(record);
                }
                Err(error) => {
                    self.release_on_host(&records);
                    return Err(error);
                }
            }
        }
        self.publish(records, now)
    }

    /// Takes ports for a publication, where no other one and no process of the host has them.
    fn claim(&mut self, planned: Planned, taken: &Publications) -> Result<PublicationRecord, Error> {
        let Planned { wish, scope, targets, watch } = planned;
        let published: usize = taken.iter().map(|there| there.ports.len()).sum();
        if published + wish.target.len() > PUBLICATIONS_MAX {
            let why = format_args!("more than {PUBLICATIONS_MAX} published ports");
            return Err(Error::failed(&wish, why, "publish fewer, or remove some"));
        }
        let is_free = |Listen { protocol, ip, ports }: &Listen| !taken.meets(*protocol, *ip, ports);
        let mut refused = None;
        for spec in wish.choices().filter(|spec| is_free(&spec.listen)) {
            match if self.is_on_host(&spec.listen) { self.host.reserve(&spec.listen) } else { Ok(()) } {
                Ok(()) => return Ok(PublicationRecord { spec, scope, targets, watch }),
                Err(error) if error.kind == Kind::Exists => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        let taken = || wish.choices().find_map(|spec| self.already_published(&spec.listen));
        let none = || Error::usage(&wish, "no port to choose from", "give more host ports");
        Err(refused.or_else(taken).unwrap_or_else(none))
    }

    /// Why ports cannot be published that another publication has.
    fn already_published(&self, listen: &Listen) -> Option<Error> {
        let there = self.publications.iter().find(|there| there.spec.listen.overlaps(listen))?;
        let why = format_args!("is published already, as {} to {}", there.spec, there.target_names());
        let hint = "choose another port, or vswitchctl publish rm that one";
        Some(Error::exists(format_args!("{listen}/{}", listen.protocol), why, hint))
    }

    /// Gives the host its ports back.
    fn release_on_host(&mut self, records: &[PublicationRecord]) {
        records.iter().for_each(|record| self.host.release(&record.spec.listen));
    }

    /// Lets packets find publications whose ports are reserved.
    fn publish(&mut self, records: Vec<PublicationRecord>, now: Time) -> Result<(), Error> {
        let before = self.publications.len();
        self.publications.extend(records.iter().cloned());
        if let Err(error) = self.renew_guard() {
            self.publications.truncate(before);
            self.release_on_host(&records);
            return Err(error);
        }
        let conntrack = &self.shared.conntrack;
        let mut are_masqueraded_with = false;
        for Listen { protocol, ports, .. } in records.iter().map(|record| &record.spec.listen) {
            ports.clone().for_each(|port| conntrack.reserve(*protocol, port));
            are_masqueraded_with |= ports.clone().any(|port| conntrack.masquerades_with(port));
        }
        let new: Publications = records.iter().map(PublicationRecord::publication).collect();
        self.shared.publish(|snapshot| {
            let there = Arc::make_mut(&mut snapshot.publications);
            new.iter().for_each(|publication| there.insert(publication.clone()));
        });
        if !are_masqueraded_with {
            return Ok(());
        }
        // Nobody gets one of the ports any more; who had one before has it no longer.
        let had = |connection: &Info| new.find(connection.protocol, connection.outside).is_some();
        let ended = conntrack.flush(now, |connection| {
            had(connection) && connection.nat != Nat::Dnat && way_in(&new, connection).is_none()
        });
        if ended > 0 {
            log::warn!("ended {ended} connections that were masqueraded with what is published now");
        }
        Ok(())
    }

    pub(super) fn publish_rm(&mut self, rm: &PublishRm, now: Time) -> Result<usize, Error> {
        let asked = |record: &PublicationRecord| {
            let target_first = rm.spec.target_first;
            record.spec.listen == rm.spec.listen
                && target_first.is_none_or(|target| target == record.spec.target_first)
        };
        let removed: Vec<_> = self.publications.extract_if(.., |record| asked(record)).collect();
        if removed.is_empty() && !rm.if_exists {
            return Err(Error::not_found(&rm.spec, "is not published", "see vswitchctl publish ls"));
        }
        self.take_back(&removed, Vec::new(), now);
        Ok(removed.len())
    }

    /// Does several `publish rm` as one change.
    pub(super) fn unpublish_all(&mut self, removals: &[Request], now: Time) {
        let mut unwanted = HashSet::new();
        for removal in removals {
            if let Request::PublishRm(rm) = removal {
                unwanted.insert(&rm.spec.listen);
            }
        }
        let is_unwanted = |record: &mut PublicationRecord| unwanted.contains(&record.spec.listen);
        let removed: Vec<_> = self.publications.extract_if(.., is_unwanted).collect();
        self.take_back(&removed, Vec::new(), now);
    }

    /// Takes a port of the switch off its publications, and those that lead nowhere then back.
    pub(super) fn unpublish_port(&mut self, id: PortId, now: Time) {
        let is_this = |target: &TargetRecord| target.to == id;
        let only_there = |record: &mut PublicationRecord| record.targets.iter().all(is_this);
        let removed: Vec<_> = self.publications.extract_if(.., only_there).collect();
        let others = self.publications.iter_mut().filter(|record| record.targets.iter().any(is_this));
        let changed = others.map(|record| {
            record.targets.retain(|target| !is_this(target));
            record.publication()
        });
        let changed = changed.collect();
        self.take_back(&removed, changed, now);
    }

    /// Gives back what publications had that are no longer in the books, ends the connections through them, and
    /// lets packets find others as they are now.
    fn take_back(&mut self, removed: &[PublicationRecord], changed: Vec<Publication>, now: Time) {
        if removed.is_empty() && changed.is_empty() {
            return;
        }
        self.shared.publish(|snapshot| {
            let publications = Arc::make_mut(&mut snapshot.publications);
            for Listen { protocol, ip, ports } in removed.iter().map(|record| &record.spec.listen) {
                publications.remove(*protocol, *ip, *ports.start());
            }
            changed.into_iter().for_each(|publication| publications.insert(publication));
        });
        if removed.is_empty() {
            return;
        }
        // Before the rest, so that the relay has let go of them when that is done.
        self.release_on_host(removed);
        // Whoever still finds them has done so when this returns.
        self.host.settle();
        let gone: Publications = removed.iter().map(PublicationRecord::publication).collect();
        self.shared.conntrack.flush(now, |connection| went_by(&gone, connection));
        if let Err(error) = self.renew_guard() {
            log::warn!("guard: {error}");
        }
        for Listen { protocol, ports, .. } in removed.iter().map(|record| &record.spec.listen) {
            ports.clone().for_each(|port| self.shared.conntrack.release(*protocol, port, now));
        }
    }

    /// What is asked for, as far as it can be.
    fn planned_publication(&self, add: &PublishAdd) -> Result<Planned, Error> {
        let (wish, scope) = scoped(add)?;
        let targets = self.planned_targets(add)?;
        self.check_address(&wish)?;
        Ok(Planned { wish, scope, targets, watch: watched(add)? })
    }

    /// The containers that a publication shall lead to.
    fn planned_targets(&self, add: &PublishAdd) -> Result<Vec<TargetRecord>, Error> {
        if add.to.is_empty() || add.to.len() > PUBLISH_TARGETS_MAX {
            let why = format_args!("it leads to {} ports", add.to.len());
            let hint = format_args!("give one to {PUBLISH_TARGETS_MAX} ports with --to");
            return Err(Error::usage(&add.spec, why, hint));
        }
        let mut targets: Vec<TargetRecord> = Vec::new();
        for name in &add.to {
            let port = self.published_interface(name)?;
            let Some(ip) = port.address() else {
                let hint = "add it again with --ip";
                return Err(Error::usage(name, "the port has no address to publish", hint));
            };
            let snapshot = self.snapshot();
            let mode = snapshot.network(port.network).map(|network| network.mode);
            if mode == Some(NetworkMode::Internal) {
                let why = "the port is on an internal network, which nothing outside reaches";
                return Err(Error::usage(name, why, "use a network of mode nat"));
            }
            if mode == Some(NetworkMode::Bridge) {
                let why = "the port is on a bridged network, where the LAN reaches it by its own address";
                return Err(Error::usage(name, why, "use that, or a network of mode nat"));
            }
            if mode == Some(NetworkMode::Routed) {
                let why = "the port is on a routed network, where the world reaches it by its own address";
                return Err(Error::usage(name, why, "use a network of mode nat"));
            }
            if targets.iter().any(|there| there.to == port.id) {
                return Err(Error::usage(name, "is named twice", "name it once"));
            }
            targets.push(TargetRecord { to: port.id, name: name.clone(), ip, condition: Arc::default() });
        }
        Ok(targets)
    }

    /// Whether something can be published on the address.
    fn check_address(&self, wish: &PublishWish) -> Result<(), Error> {
        if self.uplinks.is_empty() {
            let hint = "start vswitchd with --uplink";
            return Err(Error::failed(wish, "there is no uplink to publish on", hint));
        }
        if let Some(ip) = wish.ip
            && !ip.is_loopback()
            && !self.uplinks.iter().any(|uplink| uplink.has_address(ip))
        {
            let addresses = self.uplinks.iter().flat_map(|uplink| &uplink.facts.addresses);
            let list: Vec<_> = addresses.map(|address| address.addr().to_string()).collect();
            let hint = format!("leave it out, or use one of {}", list.join(", "));
            let names: Vec<_> = self.uplinks.iter().map(|uplink| uplink.settings.name.as_str()).collect();
            let why = format_args!("not an address of the uplink {}", names.join(" or "));
            return Err(Error::not_found(ip, why, hint));
        }
        Ok(())
    }

    /// The interface of a port that answers can come back by: the one of its default route, or else the first on a
    /// network that leads out.
    fn published_interface(&self, name: &Name) -> Result<&PortRecord, Error> {
        let first = self.port(name)?;
        if matches!(first.attachment, Attachment::Host { .. }) {
            return Err(Error::usage(name, "is the host itself", "publish a container's port"));
        }
        let snapshot = self.snapshot();
        let is_translated = |record: &&PortRecord| {
            let network = snapshot.network(record.network);
            record.address().is_some() && network.is_some_and(|network| network.mode == NetworkMode::Nat)
        };
        let all = self.ports.all(name);
        let out = all.iter().find(|record| record.has_default_route && is_translated(record));
        Ok(out.or_else(|| all.iter().find(is_translated)).unwrap_or(first))
    }

    /// Whether the ports of a publication are the host's, too: at an address that it shares with the switch. What an uplink
    /// has of its own is not on the host.
    fn is_on_host(&self, listen: &Listen) -> bool {
        let is_own = |ip| self.uplinks.iter().any(|uplink| !uplink.is_shared() && uplink.has_address(ip));
        self.uplinks.iter().any(|uplink| uplink.is_shared()) && !listen.ip.is_some_and(is_own)
    }
}

/// The publication of these that a connection came in by.
fn way_in<'a>(publications: &'a Publications, connection: &Info) -> Option<&'a Publication> {
    let &Info { nat, protocol, port, inside, outside, .. } = connection;
    if !matches!(nat, Nat::Dnat | Nat::Hairpin) {
        return None;
    }
    let is_with = |target: &Target| (target.to, target.endpoint.ip) == (port, inside.ip);
    publications.find(protocol, outside).filter(|publication| publication.targets.iter().any(is_with))
}

/// Whether a connection came in by one of these publications, or leads a container to one.
fn went_by(publications: &Publications, connection: &Info) -> bool {
    let &Info { nat, protocol, remote, .. } = connection;
    way_in(publications, connection).is_some()
        || (nat == Nat::Hairpin && publications.find(protocol, remote).is_some())
}

/// What is asked for, and for whom.
pub(super) fn scoped(add: &PublishAdd) -> Result<(PublishWish, Scope), Error> {
    let mut wish = add.spec.clone();
    if add.lan && add.loopback {
        return Err(Error::usage(
            &wish,
            "for the LAN and for this host only",
            "give one of --lan, --loopback",
        ));
    }
    if add.loopback {
        match wish.ip {
            Some(ip) if !ip.is_loopback() => {
                return Err(Error::usage(
                    ip,
                    "not a loopback address",
                    "leave it out, or leave out --loopback",
                ));
            }
            Some(_) => {}
            None => wish.ip = Some(Ipv4Addr::LOCALHOST),
        }
    }
    Ok((wish, if add.lan { Scope::Lan } else { Scope::Any }))
}

/// Whether and how the targets are to be checked.
fn watched(add: &PublishAdd) -> Result<Option<Watch>, Error> {
    let Some(check) = add.health else {
        return match add.health_interval {
            Some(_) => Err(Error::usage(&add.spec, "an interval without a check", "say --health arp or tcp")),
            None => Ok(None),
        };
    };
    if check == Check::Tcp && add.spec.protocol == Protocol::Udp {
        let why = "a TCP connection says nothing about a port of UDP";
        return Err(Error::usage(&add.spec, why, "use --health arp"));
    }
    let seconds = add.health_interval.unwrap_or(HEALTH_INTERVAL);
    if !HEALTH_INTERVALS.contains(&seconds) {
        let (first, last) = (HEALTH_INTERVALS.start(), HEALTH_INTERVALS.end());
        let what = format_args!("health-interval {seconds}");
        return Err(Error::usage(what, "out of range", format_args!("choose {first} to {last} seconds")));
    }
    Ok(Some(Watch { check, interval: Duration::from_secs(seconds.into()) }))
}
