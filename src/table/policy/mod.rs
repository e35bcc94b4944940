//! Policy: which connections may be made.
//!
//! # Purpose
//! A list of rules in the user's order; the first one that matches decides. What no rule decides, the default of
//! the two networks does, and where there is none: networks do not reach each other, and everything else may be
//! opened.
//!
//! # When it is asked
//! Only about who opens a connection towards whom. What belongs to a connection that was allowed passes, in both
//! directions; so a rule is about the first packet, and its ports are the ports of who is called.
//! The ends are the real ones, before and after any translation: a client of a published port by its own address,
//! and the container that it reaches, with the port that it has there.
//!
//! # Ends
//! Each end of a connection ([`End`]) is a port on a network, or the host (and the gateways, for which it answers),
//! or outside: on the LAN or on the internet. Rules name ports and networks by their names, whether or not there
//! are such ones at the moment: a rule outlives the container that it was written for, and holds again when that is
//! back. So nothing has to be compiled anew when ports come and go.
//!
//! # Cost
//! The rules are compiled ([`index`]) so that the answer costs a few lookups by hash, however many they are.
//!
//! # Locks and clocks
//! None. A policy is immutable, but for what its rules count.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::addr::Protocol;

mod defaults;
mod index;
mod list;
#[cfg(test)]
mod tests;

pub use defaults::Defaults;
use index::Index;
use list::List;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It may be made.
    Allow,
    /// It may not.
    Deny,
}

impl Action {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }
}

/// Where an end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Zone {
    /// On a network of the switch.
    Inside,
    /// It is the host, by whatever address, or a gateway.
    Host,
    /// Behind the uplink: on its own link, or at an address that the internet does not route.
    Lan,
    /// Behind the uplink, anywhere else.
    Internet,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End<'a> {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Where it is.
    pub zone: Zone,
    /// The port of the switch that it is at, if one is known to have the address.
    pub port: Option<&'a str>,
    /// The network that it is on, if it is inside.
    pub network: Option<&'a str>,
}

/// May this connection be made?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Who opens it.
    pub from: End<'a>,
    /// Whom it opens it to.
    pub to: End<'a>,
    /// The transport; `None` for one that is neither TCP nor UDP nor ICMP.
    pub protocol: Option<Protocol>,
    /// The port that is called, where the transport has ports.
    pub port: u16,
}

/// What a rule says of an end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// It is on the network with this name.
    Network(String),
    /// It is at the port of the switch with this name.
    Port(String),
    /// Its address is one of these.
    Prefix(Ipv4Net),
    /// It is on the internet.
    Internet,
    /// It is on the uplink's LAN.
    Lan,
    /// It is the host.
    Host,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What becomes of connections that match.
    pub action: Action,
    /// Who opens it: one of these; anybody, if there are none.
    pub from: Vec<Place>,
    /// Whom to: one of these; anybody, if there are none.
    pub to: Vec<Place>,
    /// The transport; any, if there is none.
    pub protocol: Option<Protocol>,
    /// Ports that are called, of TCP or UDP; any, if there are none.
    pub ports: Option<RangeInclusive<u16>>,
}

/// A rule in its place in the list.
#[derive(Debug)]
pub struct Listed {
    /// The rule.
    pub rule: Rule,
    /// What the user calls it.
    pub name: Option<String>,
    /// Packets that it has refused.
    denied: AtomicU64,
}

impl Listed {
    /// A rule that has refused nothing yet.
    pub fn new(rule: Rule, name: Option<String>) -> Self {
        Listed { rule, name, denied: AtomicU64::new(0) }
    }

    /// Packets that it has refused.
    pub fn denied(&self) -> u64 {
        self.denied.load(Relaxed)
    }
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The rule at this place in the list, from 0.
    Rule(usize, Action),
    /// The default of the two networks.
    Default(Action),
    /// No default either: networks are isolated from each other.
    Isolated,
    /// Nothing speaks against it.
    Open,
}

impl Ruling {
    /// What becomes of the connection.
    pub const fn action(self) -> Action {
        match self {
            Ruling::Rule(_, action) | Ruling::Default(action) => action,
            Ruling::Isolated => Action::Deny,
            Ruling::Open => Action::Allow,
        }
    }
}

/// Rules and defaults, compiled.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    list: List,
    defaults: Defaults,
    index: Index,
    within: bool,
    host: bool,
    outside: bool,
}

impl Policy {
    /// Compiles rules in their order, and defaults of networks.
    pub fn new(rules: Vec<Arc<Listed>>, defaults: Defaults) -> Self {
        let list = List::new(rules);
        let index = Index::new(&list);
        Policy { list, index, ..Policy::default() }.with_defaults(defaults)
    }

    /// The same with one more rule, before the one at `place` or at the end.
    #[must_use]
    pub fn with(&self, place: usize, listed: Arc<Listed>) -> Self {
        let mut policy = self.clone();
        let id = policy.list.insert(place.min(policy.list.listed.len()), listed);
        policy.index.insert(id, &policy.list);
        policy.summarized()
    }

    /// The same without the rule at `place`.
    #[must_use]
    pub fn without(&self, place: usize) -> Self {
        let mut policy = self.clone();
        if place < policy.list.listed.len() {
            let (id, removed) = policy.list.remove(place);
            policy.index.remove(id, &removed.rule, &policy.list);
        }
        policy.summarized()
    }

    /// The same with other defaults of networks.
    #[must_use]
    pub fn with_defaults(&self, defaults: Defaults) -> Self {
        Policy { defaults, ..self.clone() }.summarized()
    }

    /// Notes what can be said of it as a whole.
    fn summarized(mut self) -> Self {
        self.within = self.list.rules().any(may_be_within)
            || self.defaults.iter().any(|(from, to, action)| from == to && action == Action::Deny);
        let names = |place: &Place| {
            self.list.rules().any(|rule| rule.from.iter().chain(&rule.to).any(|there| there == place))
        };
        self.host = names(&Place::Host);
        self.outside = names(&Place::Lan) || names(&Place::Internet);
        self
    }

    /// The rules in their order.
    pub fn rules(&self) -> &[Arc<Listed>] {
        &self.list.listed
    }

    /// The defaults of networks.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Whether there is no rule.
    #[inline(always)]
    pub fn has_no_rules(&self) -> bool {
        self.list.listed.is_empty()
    }

    /// Whether it only says which networks reach each other.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.list.listed.is_empty() && !self.within
    }

    /// Whether something in it can be about two ends on the same network, so that what is switched there has to be
    /// looked at.
    #[inline(always)]
    pub fn is_about_neighbors(&self) -> bool {
        self.within
    }

    /// Whether a rule names the host, which may be on a network, too.
    #[inline(always)]
    pub fn is_about_host(&self) -> bool {
        self.host
    }

    /// Whether a rule names the world outside, which is on a network, too, if that is bridged to a LAN.
    #[inline(always)]
    pub fn is_about_outside(&self) -> bool {
        self.outside
    }

    /// What decides about a connection.
    pub fn judge(&self, question: &Question<'_>) -> Ruling {
        if let Some(place) = self.index.first(question, &self.list) {
            return Ruling::Rule(place, self.list.listed[place].rule.action);
        }
        let (Some(from), Some(to)) = (question.from.network, question.to.network) else {
            return Ruling::Open;
        };
        match self.defaults.get(from, to) {
            Some(action) => Ruling::Default(action),
            None if from == to => Ruling::Open,
            None => Ruling::Isolated,
        }
    }

    /// Counts a packet that was refused.
    pub fn count_denied(&self, ruling: Ruling) {
        if let Ruling::Rule(number, _) = ruling
            && let Some(listed) = self.list.listed.get(number)
        {
            listed.denied.fetch_add(1, Relaxed);
        }
    }
}

/// Whether a rule can be about two ends on the same network.
fn may_be_within(rule: &Rule) -> bool {
    let is_inside = |place: &Place| !matches!(place, Place::Internet | Place::Lan | Place::Host);
    let may_meet = |from: &Place, to: &Place| match (from, to) {
        (Place::Network(from), Place::Network(to)) => from == to,
        _ => is_inside(from) && is_inside(to),
    };
    match (&rule.from[..], &rule.to[..]) {
        ([], []) => true,
        ([], places) | (places, []) => places.iter().any(is_inside),
        (from, to) => from.iter().any(|from| to.iter().any(|to| may_meet(from, to))),
    }
}
