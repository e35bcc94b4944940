//! `policy check`: what would become of a connection, without one.
//!
//! The same [`Policy::judge`] that decides about packets is asked, with ends that are made up from names; and where it
//! would allow a connection for which there is no way at all, that is said instead.
//!
//! [`Policy::judge`]: crate::table::policy::Policy::judge

use std::net::Ipv4Addr;

use super::apply::Control;
use super::error::Error;
use super::host::Host;
use super::policy_spec::PlaceSpec;
use super::request::PolicyCheck;
use super::response::CheckInfo;
use crate::addr::{Endpoint, Protocol};
use crate::snapshot::{NetworkMode, Snapshot, Uplink};
use crate::table::policy::{Action, End, Place, Question, Ruling, Zone};

impl<H: Host> Control<H> {
    /// What decides about a connection, as the data plane would.
    ///
    /// # Errors
    /// `NotFound` for a place that is not there, `Usage` if the protocol and the port do not go together.
    pub(super) fn policy_check(&self, check: &PolicyCheck) -> Result<CheckInfo, Error> {
        let port = match (check.proto, check.port) {
            (Protocol::Icmp, None) => 0,
            (Protocol::Icmp, Some(port)) => {
                return Err(Error::usage(port, "ICMP has no ports", "leave it out"));
            }
            (Protocol::Tcp | Protocol::Udp, Some(port)) => port,
            (protocol @ (Protocol::Tcp | Protocol::Udp), None) => {
                return Err(Error::usage(protocol, "needs a port", format_args!("write {protocol} PORT")));
            }
        };
        let snapshot = self.snapshot();
        let inside = |spec| self.end(&snapshot, spec, None).ok()?.network;
        let network = inside(&check.from).or_else(|| inside(&check.to));
        let network = network.and_then(|name| self.network(name).ok());
        let by =
            network.as_ref().and_then(|network| snapshot.uplink_of(network)).or(snapshot.uplinks.first());
        let by = by.map(|uplink| &**uplink);
        let (from, mut to) = (self.end(&snapshot, &check.from, by)?, self.end(&snapshot, &check.to, by)?);
        let mut port = port;
        let host_port = network.as_ref().and_then(|network| self.host_port_of(network));
        if let (PlaceSpec::Host, Some((_, record))) = (&check.to, host_port)
            && let (Some(at), Some(ip)) = (snapshot.port(record.id), record.ip)
        {
            to = snapshot.end_at(at, ip);
        }
        let is_host_outside = snapshot.is_hosts(to.ip) && snapshot.network_of(to.ip).is_none();
        // Who calls what is published is judged by the container that answers.
        let published = snapshot.publications.find(check.proto, Endpoint::new(to.ip, port));
        if let Some(target) = published.filter(|_| is_host_outside).and_then(|p| p.targets_at(port).next()) {
            (to, port) = (snapshot.end(target.endpoint.ip, by), target.endpoint.port);
        }
        let question = Question { from, to, protocol: Some(check.proto), port };
        let verdict = verdict(&snapshot, &question, is_host_outside);
        let listed = verdict.rule().and_then(|number| Some((number, snapshot.policy.rules().get(number)?)));
        let why = match (verdict, listed) {
            (_, Some((number, listed))) => {
                let info = self.rule_info(number, listed, 0);
                let name = info.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
                format!("rule {}{name}: {info}", info.n)
            }
            (Verdict::NoWayOut, _) => "the network is internal and has no way out".to_owned(),
            (Verdict::Unpublished, _) => "nothing is published that leads there".to_owned(),
            (Verdict::HostService, _) => {
                "nothing is published there, and the host's own services are not at this address for containers (vswitchctl network host-port gives the host one on a network)".to_owned()
            }
            (Verdict::Ruled(Ruling::Default(_)), _) => "the default of the two networks".to_owned(),
            (Verdict::Ruled(Ruling::Isolated), _) => {
                "networks do not reach each other unless a rule allows it".to_owned()
            }
            (Verdict::Ruled(Ruling::Open | Ruling::Rule(..)), _) => "no rule speaks against it".to_owned(),
        };
        let action = verdict.action();
        Ok(CheckInfo {
            action,
            by: verdict.as_str().to_owned(),
            rule: listed.map(|(number, _)| number + 1),
            name: listed.and_then(|(_, listed)| listed.name.clone()),
            text: format!("{}: {why}", action.as_str()),
        })
    }

    /// An end of a connection that is asked about, which if it is outside is reached by this uplink. A whole network has no
    /// single address: what a rule says of a part of its prefix is not about it.
    fn end<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        spec: &PlaceSpec,
        by: Option<&Uplink>,
    ) -> Result<End<'a>, Error> {
        let outside = |ip, zone| End { ip, zone, port: None, network: None };
        let address = by.and_then(|uplink| uplink.address);
        Ok(match self.place(spec)? {
            Place::Internet => outside(Ipv4Addr::UNSPECIFIED, Zone::Internet),
            Place::Lan => {
                let ip = address.map_or(Ipv4Addr::UNSPECIFIED, |link| link.network());
                outside(ip, Zone::Lan)
            }
            Place::Host => {
                let ip = address.map_or(Ipv4Addr::UNSPECIFIED, |link| link.addr());
                outside(ip, Zone::Host)
            }
            Place::Prefix(prefix) if prefix.prefix_len() == 32 => snapshot.end(prefix.addr(), by),
            Place::Prefix(prefix) => {
                return Err(Error::usage(prefix, "not one end of a connection", "give an address"));
            }
            Place::Network(name) => {
                let network = snapshot.networks.iter().flatten().find(|network| network.name == name);
                let gone = || Error::not_found(&name, "no such network", "see vswitchctl network ls");
                let network = network.ok_or_else(gone)?;
                let ip = network.subnet.network();
                End { ip, zone: Zone::Inside, port: None, network: Some(&network.name) }
            }
            Place::Port(name) => {
                let gone = || Error::not_found(&name, "no such port", "see vswitchctl port ls");
                let record = self.port(&name.parse()?)?;
                let port = snapshot.port(record.id).ok_or_else(gone)?;
                snapshot.end_at(port, port.ip.unwrap_or(Ipv4Addr::UNSPECIFIED))
            }
        })
    }
}

/// What decides about a connection.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// The policy.
    Ruled(Ruling),
    /// It would be allowed, but the network is internal.
    NoWayOut,
    /// It would be allowed, but nothing that is published leads there.
    Unpublished,
    /// It would be allowed, but containers do not reach the host by this address.
    HostService,
}

impl Verdict {
    fn action(self) -> Action {
        match self {
            Verdict::Ruled(ruling) => ruling.action(),
            Verdict::NoWayOut | Verdict::Unpublished | Verdict::HostService => Action::Deny,
        }
    }

    /// The place of the rule that it is, if it is one.
    fn rule(self) -> Option<usize> {
        match self {
            Verdict::Ruled(Ruling::Rule(number, _)) => Some(number),
            Verdict::Ruled(_) | Verdict::NoWayOut | Verdict::Unpublished | Verdict::HostService => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Verdict::Ruled(Ruling::Rule(..)) => "rule",
            Verdict::Ruled(Ruling::Default(_)) => "default",
            Verdict::Ruled(Ruling::Isolated) => "isolation",
            Verdict::Ruled(Ruling::Open) => "open",
            Verdict::NoWayOut => "internal",
            Verdict::Unpublished => "unpublished",
            Verdict::HostService => "host-service",
        }
    }
}

/// What decides about a connection: the policy, or that there is no way anyhow. It may be opened to an address of the
/// host that is on no network.
fn verdict(snapshot: &Snapshot, question: &Question<'_>, to_host_outside: bool) -> Verdict {
    let &Question { from, to, protocol, port } = question;
    let mode = |end: End<'_>| {
        let mut networks = snapshot.networks.iter().flatten();
        networks.find(|network| Some(network.name.as_str()) == end.network).map(|network| network.mode)
    };
    let is_outside = |end: End<'_>| matches!(end.zone, Zone::Lan | Zone::Internet);
    let is_published = || {
        let called = Endpoint::new(to.ip, port);
        let mut publications = snapshot.publications.iter().filter(|p| Some(p.protocol) == protocol);
        publications.any(|p| p.ports.clone().any(|port| p.targets_at(port).any(|t| t.endpoint == called)))
    };
    let ruling = snapshot.policy.judge(question);
    if ruling.action() == Action::Allow {
        if (is_outside(to) || to_host_outside) && mode(from) == Some(NetworkMode::Internal) {
            return Verdict::NoWayOut;
        }
        let is_routed = !matches!(mode(from), None | Some(NetworkMode::Bridge));
        if to_host_outside && to.zone == Zone::Host && is_routed && protocol != Some(Protocol::Icmp) {
            return Verdict::HostService;
        }
        let called = is_outside(from) && to.zone == Zone::Inside;
        let is_reached = matches!(mode(to), Some(NetworkMode::Routed | NetworkMode::Bridge));
        if called && !is_reached && !is_published() {
            return Verdict::Unpublished;
        }
    }
    Verdict::Ruled(ruling)
}
