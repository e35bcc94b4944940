//! Published ports: what outsiders reach of a container through the uplink's address.
//!
//! A publication takes its ports on the host (in mode `shared`, where host and switch have one address),
//! out of the range for masquerading, and off the host's stack by the guard; only then do packets find it. A
//! connection that was masqueraded with one of the ports ends then: whoever publishes wins, and no container can
//! keep a service from being published, or get its clients (CVE-2021-3773).
//!
//! A publication on a loopback address (Docker's way to say "only for this host") is reached by the host's own
//! processes, through the relay ([`crate::service::relay`]), and by nobody else: no packet for such an address comes
//! from outside, or is let in if it does.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::apply::Control;
use super::error::Error;
use super::host::{Attachment, Host};
use super::name::Name;
use super::publish_spec::{Listen, PublishSpec};
use super::records::PortRecord;
use super::request::{PublishAdd, PublishRm};
use super::response::PublicationInfo;
use crate::addr::{Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::limits::PUBLICATIONS_MAX;
use crate::snapshot::{NetworkMode, Publication, UplinkMode};
use crate::table::conntrack::{Info, Nat};

/// What control remembers of a publication.
#[derive(Debug, Clone)]
pub(super) struct PublicationRecord {
    pub(super) spec: PublishSpec,
    pub(super) to: PortId,
    pub(super) to_name: Name,
    pub(super) target_ip: Ipv4Addr,
}

impl PublicationRecord {
    /// Whether a connection came in by this publication.
    fn carries(&self, connection: &Info) -> bool {
        connection.port == self.to
            && matches!(connection.nat, Nat::Dnat | Nat::Hairpin)
            && connection.inside.ip == self.target_ip
            && self.is_at(connection.protocol, connection.outside)
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

    fn info(&self, connections: usize) -> PublicationInfo {
        PublicationInfo {
            proto: self.spec.listen.protocol,
            ip: self.spec.listen.ip,
            port_first: *self.spec.listen.ports.start(),
            port_last: *self.spec.listen.ports.end(),
            target_port: self.to_name.to_string(),
            target_first: self.spec.target_first,
            connections,
            target_ip: self.target_ip,
        }
    }
}

impl<H: Host> Control<H> {
    pub(super) fn publish_ls(&self, now: Time) -> Vec<PublicationInfo> {
        if self.publications.is_empty() {
            return Vec::new();
        }
        let mut counts = vec![0; self.publications.len()];
        for connection in self.shared.conntrack.entries(now) {
            if let Some(index) = self.publications.iter().position(|record| record.carries(&connection)) {
                counts[index] += 1;
            }
        }
        self.publications.iter().zip(counts).map(|(record, count)| record.info(count)).collect()
    }

    /// Publishes ports.
    ///
    /// # Errors
    /// `NotFound` for an unknown port or an address that the uplink does not have, `Exists` if another
    /// publication or a process of the host has one of the ports, `Usage` if the container cannot be reached.
    pub(super) fn publish_add(&mut self, add: &PublishAdd, now: Time) -> Result<PublicationInfo, Error> {
        let record = self.planned_publication(add)?;
        let listen = &add.spec.listen;
        if let Some(there) = self.publications.iter().find(|there| there.spec.listen.overlaps(listen)) {
            if there.spec == add.spec && there.to == record.to {
                let connections =
                    self.shared.conntrack.entries(now).iter().filter(|c| there.carries(c)).count();
                return Ok(there.info(connections));
            }
            let why = format_args!("is published already, as {} to {}", there.spec, there.to_name);
            let hint = "choose another port, or vswitchctl publish rm that one";
            return Err(Error::exists(format_args!("{listen}/{}", listen.protocol), why, hint));
        }
        let published: usize = self.publications.iter().map(|there| there.spec.listen.ports.len()).sum();
        if published + listen.ports.len() > PUBLICATIONS_MAX {
            let why = format_args!("more than {PUBLICATIONS_MAX} published ports");
            return Err(Error::failed(&add.spec, why, "publish fewer, or remove some"));
        }

        let on_host = self.shares_the_hosts_address();
        if on_host {
            self.host.reserve(listen)?;
        }
        self.publications.push(record.clone());
        if let Err(error) = self.renew_guard() {
            self.publications.pop();
            if on_host {
                self.host.release(listen);
            }
            return Err(error);
        }
        listen.ports.clone().for_each(|port| self.shared.conntrack.reserve(listen.protocol, port));
        self.shared.publish(|snapshot| {
            let publications = Arc::make_mut(&mut snapshot.publications);
            add.spec.pairs().for_each(|(port, target)| {
                publications.insert(Publication {
                    protocol: listen.protocol,
                    ip: listen.ip,
                    port,
                    target: Endpoint::new(record.target_ip, target),
                    to: record.to,
                });
            });
        });
        // Nobody gets one of the ports any more; who had one before has it no longer.
        let had = |connection: &Info| record.is_at(connection.protocol, connection.outside);
        let ended = self.shared.conntrack.flush(now, |connection| {
            had(connection) && connection.nat != Nat::Dnat && !record.carries(connection)
        });
        if ended > 0 {
            log::warn!("{}: ended {ended} connections that were masqueraded with it", add.spec);
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

    /// Removes publications, and the connections through them.
    pub(super) fn unpublish_where(
        &mut self,
        mut which: impl FnMut(&PublicationRecord) -> bool,
        now: Time,
    ) -> usize {
        let (removed, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.publications).into_iter().partition(|record| which(record));
        self.publications = kept;
        if removed.is_empty() {
            return 0;
        }
        self.shared.publish(|snapshot| {
            let publications = Arc::make_mut(&mut snapshot.publications);
            for Listen { protocol, ip, ports } in removed.iter().map(|record| &record.spec.listen) {
                ports.clone().for_each(|port| publications.remove(*protocol, *ip, port));
            }
        });
        self.shared
            .conntrack
            .flush(now, |connection| removed.iter().any(|r| r.carries(connection) || r.attracts(connection)));
        if let Err(error) = self.renew_guard() {
            log::warn!("guard: {error}");
        }
        let on_host = self.shares_the_hosts_address();
        for Listen { protocol, ports, .. } in removed.iter().map(|record| &record.spec.listen) {
            ports.clone().for_each(|port| self.shared.conntrack.release(*protocol, port, now));
        }
        removed.iter().filter(|_| on_host).for_each(|record| self.host.release(&record.spec.listen));
        removed.len()
    }

    fn planned_publication(&self, add: &PublishAdd) -> Result<PublicationRecord, Error> {
        let port = self.published_interface(&add.to)?;
        let Some(uplink) = &self.uplink else {
            let hint = "start vswitchd with --uplink";
            return Err(Error::failed(&add.spec, "there is no uplink to publish on", hint));
        };
        let Some(target_ip) = port.address() else {
            let hint = "add it again with --ip";
            return Err(Error::usage(&add.to, "the port has no address to publish", hint));
        };
        let snapshot = self.snapshot();
        let mode = snapshot.network(port.network).map(|network| network.mode);
        if mode == Some(NetworkMode::Internal) {
            let why = "the port is on an internal network, which nothing outside reaches";
            return Err(Error::usage(&add.to, why, "use a network of mode nat"));
        }
        if mode == Some(NetworkMode::Routed) {
            let why = "the port is on a routed network, where the world reaches it by its own address";
            return Err(Error::usage(&add.to, why, "use a network of mode nat"));
        }
        let addresses = &uplink.facts.addresses;
        if let Some(ip) = add.spec.listen.ip
            && !ip.is_loopback()
            && !addresses.iter().any(|address| address.addr() == ip)
        {
            let list: Vec<_> = addresses.iter().map(|address| address.addr().to_string()).collect();
            let hint = format!("leave it out, or use one of {}", list.join(", "));
            let why = format_args!("not an address of the uplink {}", uplink.settings.name);
            return Err(Error::not_found(ip, why, hint));
        }
        Ok(PublicationRecord { spec: add.spec.clone(), to: port.id, to_name: add.to.clone(), target_ip })
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

    fn shares_the_hosts_address(&self) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| uplink.settings.mode == UplinkMode::Shared)
    }
}
