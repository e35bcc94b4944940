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
//! others, whose connections stay.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::apply::Control;
use super::error::{Error, Kind};
use super::host::{Attachment, Host};
use super::name::Name;
use super::publish_spec::{Listen, PublishSpec, PublishWish};
use super::records::PortRecord;
use super::request::{PublishAdd, PublishRm};
use super::response::{PublicationInfo, TargetInfo};
use crate::addr::{Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::limits::{PUBLICATIONS_MAX, PUBLISH_TARGETS_MAX};
use crate::snapshot::{NetworkMode, Publication, Scope, Target};
use crate::table::conntrack::{Info, Nat};

/// A container behind a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetRecord {
    pub(super) to: PortId,
    pub(super) name: Name,
    pub(super) ip: Ipv4Addr,
}

/// What control remembers of a publication.
#[derive(Debug, Clone)]
pub(super) struct PublicationRecord {
    pub(super) spec: PublishSpec,
    pub(super) scope: Scope,
    /// At least one.
    pub(super) targets: Vec<TargetRecord>,
}

impl PublicationRecord {
    /// Whether a connection came in by this publication.
    fn carries(&self, connection: &Info) -> bool {
        let is_with =
            |target: &TargetRecord| (connection.port, connection.inside.ip) == (target.to, target.ip);
        matches!(connection.nat, Nat::Dnat | Nat::Hairpin)
            && self.is_at(connection.protocol, connection.outside)
            && self.targets.iter().any(is_with)
    }

    /// Whether a connection leads a container to this publication.
    fn attracts(&self, connection: &Info) -> bool {
        connection.nat == Nat::Hairpin && self.is_at(connection.protocol, connection.remote)
    }

    fn is_at(&self, protocol: Protocol, endpoint: Endpoint) -> bool {
        let listen = &self.spec.listen;
        protocol == listen.protocol
            && listen.ports.contains(&endpoint.port)
            && listen.ip.is_none_or(|ip| ip == endpoint.ip)
    }

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
        Publication { protocol, ip, ports, scope: self.scope, targets }
    }

    /// The names of the ports that it leads to, with commas between.
    pub(super) fn target_names(&self) -> String {
        self.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(",")
    }

    fn info(&self, connections: usize) -> PublicationInfo {
        let target = |target: &TargetRecord| TargetInfo { port: target.name.to_string(), ip: target.ip };
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
            let found = snapshot.publications.find(connection.protocol, connection.outside);
            let number: Option<&usize> =
                found.and_then(|p| numbers.get(&key(p.protocol, p.ip, *p.ports.start())));
            if let Some(&number) = number.filter(|&&number| self.publications[number].carries(connection)) {
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
        let (wish, scope) = scoped(add)?;
        let targets = self.planned_targets(add)?;
        self.check_address(&wish)?;
        let same = |there: &PublicationRecord| {
            wish.is_met_by(&there.spec) && there.targets == targets && there.scope == scope
        };
        if let Some(there) = self.publications.iter().position(same) {
            return Ok(self.publish_ls(now).swap_remove(there));
        }
        let published: usize = self.publications.iter().map(|there| there.spec.listen.ports.len()).sum();
        if published + wish.target.len() > PUBLICATIONS_MAX {
            let why = format_args!("more than {PUBLICATIONS_MAX} published ports");
            return Err(Error::failed(&wish, why, "publish fewer, or remove some"));
        }
        let mut refused = None;
        for spec in wish.choices() {
            match self.reserve(&spec) {
                Ok(()) => return self.publish(PublicationRecord { spec, scope, targets }, now),
                Err(error) if error.kind == Kind::Exists => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        let none = || Error::usage(&wish, "no port to choose from", "give more host ports");
        Err(refused.unwrap_or_else(none))
    }

    /// Takes ports for a publication, where no other and no process of the host has them.
    fn reserve(&mut self, PublishSpec { listen, .. }: &PublishSpec) -> Result<(), Error> {
        if let Some(there) = self.publications.iter().find(|there| there.spec.listen.overlaps(listen)) {
            let why = format_args!("is published already, as {} to {}", there.spec, there.target_names());
            let hint = "choose another port, or vswitchctl publish rm that one";
            return Err(Error::exists(format_args!("{listen}/{}", listen.protocol), why, hint));
        }
        if self.is_on_host(listen) { self.host.reserve(listen) } else { Ok(()) }
    }

    /// Lets packets find a publication whose ports are reserved.
    fn publish(&mut self, record: PublicationRecord, now: Time) -> Result<PublicationInfo, Error> {
        let listen = &record.spec.listen;
        self.publications.push(record.clone());
        if let Err(error) = self.renew_guard() {
            self.publications.pop();
            self.host.release(listen);
            return Err(error);
        }
        listen.ports.clone().for_each(|port| self.shared.conntrack.reserve(listen.protocol, port));
        let publication = record.publication();
        self.shared.publish(|snapshot| Arc::make_mut(&mut snapshot.publications).insert(publication));
        // Nobody gets one of the ports any more; who had one before has it no longer.
        let had = |connection: &Info| record.is_at(connection.protocol, connection.outside);
        let ended = self.shared.conntrack.flush(now, |connection| {
            had(connection) && connection.nat != Nat::Dnat && !record.carries(connection)
        });
        if ended > 0 {
            log::warn!("{}: ended {ended} connections that were masqueraded with it", record.spec);
        }
        Ok(record.info(0))
    }

    pub(super) fn publish_rm(&mut self, rm: &PublishRm, now: Time) -> Result<usize, Error> {
        let asked = |record: &PublicationRecord| {
            let target_first = rm.spec.target_first;
            record.spec.listen == rm.spec.listen
                && target_first.is_none_or(|target| target == record.spec.target_first)
        };
        let removed = self.unpublish_where(asked, now);
        if removed == 0 && !rm.if_exists {
            return Err(Error::not_found(&rm.spec, "is not published", "see vswitchctl publish ls"));
        }
        Ok(removed)
    }

    /// Takes a port of the switch off its publications, and those that lead nowhere then back.
    pub(super) fn unpublish_port(&mut self, id: PortId, now: Time) {
        self.unpublish_where(|record| record.targets.iter().all(|target| target.to == id), now);
        for record in &mut self.publications {
            let before = record.targets.len();
            record.targets.retain(|target| target.to != id);
            if record.targets.len() < before {
                let publication = record.publication();
                self.shared.publish(|snapshot| Arc::make_mut(&mut snapshot.publications).insert(publication));
            }
        }
    }

    /// Removes publications, and the connections through them.
    fn unpublish_where(&mut self, mut which: impl FnMut(&PublicationRecord) -> bool, now: Time) -> usize {
        let (removed, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.publications).into_iter().partition(|record| which(record));
        self.publications = kept;
        if removed.is_empty() {
            return 0;
        }
        self.shared.publish(|snapshot| {
            let publications = Arc::make_mut(&mut snapshot.publications);
            for Listen { protocol, ip, ports } in removed.iter().map(|record| &record.spec.listen) {
                publications.remove(*protocol, *ip, *ports.start());
            }
        });
        self.shared
            .conntrack
            .flush(now, |connection| removed.iter().any(|r| r.carries(connection) || r.attracts(connection)));
        if let Err(error) = self.renew_guard() {
            log::warn!("guard: {error}");
        }
        for Listen { protocol, ports, .. } in removed.iter().map(|record| &record.spec.listen) {
            ports.clone().for_each(|port| self.shared.conntrack.release(*protocol, port, now));
        }
        removed.iter().for_each(|record| self.host.release(&record.spec.listen));
        removed.len()
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
            if mode == Some(NetworkMode::Routed) {
                let why = "the port is on a routed network, where the world reaches it by its own address";
                return Err(Error::usage(name, why, "use a network of mode nat"));
            }
            if targets.iter().any(|there| there.to == port.id) {
                return Err(Error::usage(name, "is named twice", "name it once"));
            }
            targets.push(TargetRecord { to: port.id, name: name.clone(), ip });
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
