//! Policy: the rules that users write, and what becomes of connections when they change.
//!
//! The rules are in the snapshot, compiled ([`Policy`]), and nowhere else. A change makes a new policy of the old
//! list; where it may forbid what was allowed, the workers are waited for, so that none of them still decides by the
//! old rules, and then all connections are judged again, by the same [`Policy::judge`] as their first packets were.
//! Those that could not be made now are ended. So a rule holds at once, for old connections and for new ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::apply::Control;
use super::error::Error;
use super::host::Host;
use super::policy_spec::{NameOf, PlaceSpec, Places, PortRange, WhichRule};
use super::request::{PolicyAdd, PolicyDefault, PolicyRm, Request};
use super::response::{DefaultInfo, RuleInfo};
use super::rules::{is_named, is_there, too_many};
use crate::addr::{Endpoint, NetworkId, Protocol};
use crate::clock::Time;
use crate::limits::RULES_MAX;
use crate::snapshot::Snapshot;
use crate::table::conntrack::{Info, Nat};
use crate::table::policy::{Action, Listed, Place, Policy, Question, Rule, Ruling};

/// What happens between two networks where nothing is said about them.
pub(super) fn usual_default(from: &str, to: &str) -> Action {
    if from == to { Action::Allow } else { Action::Deny }
}

impl<H: Host> Control<H> {
    pub(super) fn policy_ls(&self, now: Time) -> Vec<RuleInfo> {
        let snapshot = self.snapshot();
        let policy = &snapshot.policy;
        let mut connections = vec![0; policy.rules().len()];
        if !policy.has_no_rules() {
            let pairs = self.hairpins(now);
            self.shared.conntrack.for_each(now, |connection| {
                // The two halves of a hairpin are one connection.
                let is_half = connection.nat == Nat::Hairpin && connection.inside_answers();
                if let Some(question) = question(&snapshot, connection, &pairs).filter(|_| !is_half)
                    && let Ruling::Rule(number, Action::Allow) = policy.judge(&question)
                {
                    connections[number] += 1;
                }
            });
        }
        let listed = policy.rules().iter().zip(connections).enumerate();
        listed.map(|(number, (rule, connections))| self.rule_info(number, rule, connections)).collect()
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// `NotFound` for a place or a rule that is not there, `Usage` for a rule that could never match, `Exists` for a
    /// name that is taken, `Failed` if there are too many.
    pub(super) fn policy_add(&mut self, add: &PolicyAdd, now: Time) -> Result<RuleInfo, Error> {
        let listed = self.planned_rule(add)?;
        let policy = self.snapshot().policy.clone();
        let rules = policy.rules();
        let number = match add.before {
            None => rules.len(),
            Some(before @ 1..) if before <= rules.len() => before - 1,
            Some(before) => {
                let hint = format!("give a number from 1 to {}, see vswitchctl policy ls", rules.len());
                return Err(Error::not_found(format_args!("rule {before}"), "no such rule", hint));
            }
        };
        let is_same = |there: &Arc<Listed>| there.rule == listed.rule && there.name == listed.name;
        if let Some(there) = rules.iter().position(is_same) {
            let is_in_place = add.before.is_none() || there == number || there + 1 == number;
            return if is_in_place {
                Ok(self.policy_ls(now).swap_remove(there))
            } else {
                Err(is_there(there))
            };
        }
        if let Some(name) = &listed.name
            && let Some(there) = rules.iter().position(|there| there.name.as_ref() == Some(name))
        {
            return Err(is_named(name, there));
        }
        if rules.len() >= RULES_MAX {
            return Err(too_many());
        }
        let may_forbid = listed.rule.action == Action::Deny;
        self.set_policy(policy.with(number, listed.clone()), may_forbid, now);
        Ok(self.rule_info(number, &listed, 0))
    }

    /// Does several `policy add` and `policy rm` as one change, which were rehearsed: no connection meets a list that
    /// is half of both.
    ///
    /// # Errors
    /// `NotFound` for a place that is not there.
    pub(super) fn change_rules(&mut self, changes: &[Request], now: Time) -> Result<(), Error> {
        let policy = self.snapshot().policy.clone();
        let (mut rules, mut may_forbid) = (policy.rules().to_vec(), false);
        for change in changes {
            #[allow(clippy::wildcard_enum_match_arm, reason = "nothing else changes rules")]
            match change {
                Request::PolicyRm(PolicyRm { rule: WhichRule::At(n), .. })
                    if (1..=rules.len()).contains(n) =>
                {
                    may_forbid |= rules.remove(n - 1).rule.action == Action::Allow;
                }
                Request::PolicyAdd(add) => {
                    let listed = self.planned_rule(add)?;
                    may_forbid |= listed.rule.action == Action::Deny;
                    let end = rules.len();
                    rules.insert(add.before.map_or(end, |before| before.saturating_sub(1).min(end)), listed);
                }
                _ => {}
            }
        }
        self.set_policy(Policy::new(rules, policy.defaults().clone()), may_forbid, now);
        Ok(())
    }

    pub(super) fn policy_rm(&mut self, rm: &PolicyRm, now: Time) -> Result<usize, Error> {
        let policy = self.snapshot().policy.clone();
        let found = match &rm.rule {
            WhichRule::At(n) => n.checked_sub(1).filter(|&number| number < policy.rules().len()),
            WhichRule::Called(name) => {
                policy.rules().iter().position(|listed| listed.name.as_ref() == Some(&name.0))
            }
        };
        let Some(number) = found else {
            if rm.if_exists {
                return Ok(0);
            }
            return Err(Error::not_found(&rm.rule, "no such rule", "see vswitchctl policy ls"));
        };
        let may_forbid = policy.rules()[number].rule.action == Action::Allow;
        self.set_policy(policy.without(number), may_forbid, now);
        Ok(1)
    }

    pub(super) fn policy_default(
        &mut self,
        change: &PolicyDefault,
        now: Time,
    ) -> Result<Vec<DefaultInfo>, Error> {
        let policy = self.snapshot().policy.clone();
        let mut defaults = policy.defaults().clone();
        match (&change.from, &change.to, change.action) {
            (None, None, None) => {}
            (Some(from), Some(to), Some(action)) => {
                let (from, to) = (self.network(from.as_str())?, self.network(to.as_str())?);
                self.check_way(&BTreeSet::from([from.id]), &BTreeSet::from([to.id]))?;
                // What happens anyway needs not be remembered.
                let said = (action != usual_default(&from.name, &to.name)).then_some(action);
                defaults.set(&from.name, &to.name, said);
                if defaults != *policy.defaults() {
                    let may_forbid = action == Action::Deny;
                    self.set_policy(policy.with_defaults(defaults.clone()), may_forbid, now);
                }
            }
            _ => {
                let hint = "give two networks and allow or deny, or nothing";
                return Err(Error::usage("policy default", "incomplete", hint));
            }
        }
        let info = |(from, to, action): (&str, &str, Action)| DefaultInfo {
            from: from.to_owned(),
            to: to.to_owned(),
            action,
        };
        Ok(defaults.iter().map(info).collect())
    }

    /// The number of the rule that refuses a connection, from 1.
    pub(super) fn refusing_rule(&self, question: &Question<'_>) -> Option<usize> {
        match self.snapshot().policy.judge(question) {
            Ruling::Rule(number, Action::Deny) => Some(number + 1),
            Ruling::Rule(..) | Ruling::Default(_) | Ruling::Isolated | Ruling::Open => None,
        }
    }

    /// Ends the connections that could not be made now.
    pub(super) fn end_forbidden(&mut self, now: Time) {
        // Whoever decides by what was before has done so when this returns.
        self.host.settle();
        let snapshot = self.snapshot();
        let pairs = self.hairpins(now);
        let ended = self.shared.conntrack.flush(now, |connection| {
            match question(&snapshot, connection, &pairs) {
                Some(question) => snapshot.policy.judge(&question).action() == Action::Deny,
                // Half a hairpin leads nowhere.
                None => true,
            }
        });
        if ended > 0 {
            log::info!("policy: ended {ended} connections that are not allowed any more");
        }
    }

    /// Decides by another policy from now on. `may_forbid` says whether it may forbid what was allowed.
    pub(super) fn set_policy(&mut self, policy: Policy, may_forbid: bool, now: Time) {
        let policy = Arc::new(policy);
        self.shared.publish(|snapshot| snapshot.policy = policy);
        if may_forbid {
            self.end_forbidden(now);
        }
    }

    /// The rule that is asked for.
    ///
    /// # Errors
    /// `NotFound` for a place that is not there, `Usage` for a rule that could never match.
    pub(super) fn planned_rule(&self, add: &PolicyAdd) -> Result<Arc<Listed>, Error> {
        let places = |places: &Option<Places>| -> Result<Vec<Place>, Error> {
            let places = places.iter().flat_map(|places| &places.0);
            places.map(|place| self.place(place)).collect()
        };
        let (from, to) = (places(&add.from)?, places(&add.to)?);
        let is_outside = |places: &[Place]| {
            !places.is_empty() && places.iter().all(|place| matches!(place, Place::Internet | Place::Lan))
        };
        if is_outside(&from) && is_outside(&to) {
            let why = "both ends are outside, and nothing goes from there to there";
            return Err(Error::usage("rule", why, "give a network, a port or host for one of them"));
        }
        if add.proto == Some(Protocol::Icmp) && add.dport.is_some() {
            return Err(Error::usage(
                "--dport",
                "ICMP has no ports",
                "leave it out, or give --proto tcp or udp",
            ));
        }
        if let (Some(from), Some(to)) = (self.named_networks(&from), self.named_networks(&to)) {
            self.check_way(&from, &to)?;
        }
        let ports = add.dport.as_ref().map(|ports| ports.0.clone());
        let rule = Rule { action: add.action, from, to, protocol: add.proto, ports };
        Ok(Arc::new(Listed::new(rule, add.name.as_ref().map(|name| name.0.clone()))))
    }

    /// The networks of places, if they are nothing but networks and ports.
    fn named_networks(&self, places: &[Place]) -> Option<BTreeSet<NetworkId>> {
        let mut networks = BTreeSet::new();
        for place in places {
            match place {
                Place::Network(name) => networks.extend(self.find_network(name).map(|network| network.id)),
                Place::Port(name) => {
                    let name = name.parse().ok();
                    let records = name.iter().flat_map(|name| self.ports.all(name));
                    networks.extend(records.map(|record| record.network));
                }
                Place::Prefix(_) | Place::Internet | Place::Lan | Place::Host => return None,
            }
        }
        (!networks.is_empty()).then_some(networks)
    }

    /// Checks that some network of one side is one of the other's, or can have a way there, which a bridged one cannot.
    fn check_way(&self, from: &BTreeSet<NetworkId>, to: &BTreeSet<NetworkId>) -> Result<(), Error> {
        let routes = |id: &NetworkId| self.bridged_to(*id).is_none();
        if !from.is_disjoint(to) || (from.iter().any(routes) && to.iter().any(routes)) {
            return Ok(());
        }
        let snapshot = self.snapshot();
        let bridged = from.iter().chain(to).copied().find(|id| !routes(id));
        let Some(network) = bridged.and_then(|id| snapshot.network(id)) else { return Ok(()) };
        let why = "is bridged, and the switch routes nothing between it and its other networks";
        let hint = "its stations are lan, or a prefix, to those";
        Err(Error::usage(format_args!("network {}", network.name), why, hint))
    }

    pub(super) fn place(&self, spec: &PlaceSpec) -> Result<Place, Error> {
        let (of, name) = match spec {
            PlaceSpec::Internet => return Ok(Place::Internet),
            PlaceSpec::Lan => return Ok(Place::Lan),
            PlaceSpec::Host => return Ok(Place::Host),
            PlaceSpec::Prefix(prefix) => return Ok(Place::Prefix(*prefix)),
            PlaceSpec::Named(of, name) => (*of, name),
        };
        let network = (of != NameOf::Port).then(|| self.find_network(name.as_str())).flatten();
        let port = (of != NameOf::Network).then(|| self.ports.get(name)).flatten();
        match (network, port) {
            (Some(_), Some(_)) => {
                let hint = format_args!("write network:{name} or port:{name}");
                Err(Error::usage(name, "is the name of a network and of a port", hint))
            }
            (Some(_), None) => Ok(Place::Network(name.to_string())),
            (None, Some(_)) => Ok(Place::Port(name.to_string())),
            // One that is yet to come, or will come back.
            (None, None) if of == NameOf::Network => Ok(Place::Network(name.to_string())),
            (None, None) if of == NameOf::Port => Ok(Place::Port(name.to_string())),
            (None, None) => {
                let hint = format_args!(
                    "see vswitchctl network ls and vswitchctl port ls; for one to come, write port:{name} or network:{name}"
                );
                Err(Error::not_found(name, "no such network or port", hint))
            }
        }
    }

    pub(super) fn rule_info(&self, number: usize, listed: &Listed, connections: usize) -> RuleInfo {
        let Rule { action, from, to, protocol, ports } = &listed.rule;
        RuleInfo {
            n: number + 1,
            action: *action,
            from: self.places_text(from),
            to: self.places_text(to),
            proto: *protocol,
            dport: ports.as_ref().map(|ports| PortRange(ports.clone()).to_string()),
            name: listed.name.clone(),
            connections,
            denied: listed.denied(),
        }
    }

    /// Places as they can be written again.
    fn places_text(&self, places: &[Place]) -> String {
        // With the kind, where the name alone would mean something else, or nothing because what has it is gone.
        let named = |kind: NameOf, name: &str| {
            let is_word = matches!(name.parse(), Ok(spec) if !matches!(spec, PlaceSpec::Named(..)));
            let is_network = self.network(name).is_ok();
            let is_port = name.parse().is_ok_and(|name| self.ports.contains_key(&name));
            let (is_it, is_other) = match kind {
                NameOf::Port => (is_port, is_network),
                NameOf::Network | NameOf::Either => (is_network, is_port),
            };
            let is_clear = is_it && !is_other && !is_word && name != "any";
            let kind = if is_clear { NameOf::Either } else { kind };
            name.parse().map_or_else(|_| name.to_owned(), |name| PlaceSpec::Named(kind, name).to_string())
        };
        let text = |place: &Place| match place {
            Place::Network(name) => named(NameOf::Network, name),
            Place::Port(name) => named(NameOf::Port, name),
            Place::Prefix(prefix) => PlaceSpec::Prefix(*prefix).to_string(),
            Place::Internet => PlaceSpec::Internet.to_string(),
            Place::Lan => PlaceSpec::Lan.to_string(),
            Place::Host => PlaceSpec::Host.to_string(),
        };
        if places.is_empty() {
            return "any".to_owned();
        }
        places.iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// Which container is behind each half of a hairpin.
    fn hairpins(&self, now: Time) -> Hairpins {
        let mut pairs = Hairpins::new();
        self.shared.conntrack.for_each(now, |half| {
            if half.nat == Nat::Hairpin {
                pairs.insert((half.protocol, half.outside, half.remote), half.inside);
            }
        });
        pairs
    }
}

/// The containers behind the halves of hairpins, by protocol, outside endpoint and remote.
type Hairpins = HashMap<(Protocol, Endpoint, Endpoint), Endpoint>;

/// What was asked when a connection was made. `None` for a hairpin without its other half.
fn question<'a>(snapshot: &'a Snapshot, connection: &Info, pairs: &Hairpins) -> Option<Question<'a>> {
    let &Info { nat, protocol, inside, outside, remote, .. } = connection;
    let peer = match nat {
        Nat::Hairpin => *pairs.get(&(protocol, remote, outside))?,
        Nat::None | Nat::Snat | Nat::Dnat => remote,
    };
    let (from, to) = if connection.inside_answers() { (peer, inside) } else { (inside, peer) };
    // Who spoke first answers for the connection, unless that was the world.
    let opener = snapshot.port(connection.port).filter(|_| nat != Nat::Dnat);
    let on = opener.and_then(|port| snapshot.network(port.network?)).filter(|on| on.gateway.is_none());
    if let (Some(opener), Some(lan)) = (opener, on) {
        // What comes from a LAN counts for who is called.
        let is_called = opener.ip == Some(to.ip);
        let from = if is_called { snapshot.end_on(lan, from.ip) } else { snapshot.end_at(opener, from.ip) };
        let called = snapshot.end_on(lan, to.ip);
        return Some(Question { from, to: called, protocol: Some(protocol), port: to.port });
    }
    let network = snapshot.network_of(from.ip).map(|network| network.id);
    let by = snapshot.uplink_with(outside.ip).or_else(|| {
        let port = snapshot.port(connection.port)?;
        snapshot.uplink_of(snapshot.network(port.network?)?)
    });
    let by = by.map(|uplink| &**uplink);
    let from = match opener {
        Some(port) if nat != Nat::Hairpin && port.network == network => snapshot.end_at(port, from.ip),
        _ => snapshot.end(from.ip, by),
    };
    Some(Question { from, to: snapshot.end(to.ip, by), protocol: Some(protocol), port: to.port })
}
