//! The rules, arranged so that the first one that matches is found without trying them all.
//!
//! What a rule says of its two ends is a pair of exact keys: this network, that port of the switch, these first 24
//! bits. An end has one key of each *shape* (there is one of networks, one of ports, one of each length of a
//! prefix), so for each pair of shapes that occurs among the rules there is one pair of keys to look for, in one
//! hash table: tuple space search (Srinivasan, Suri and Varghese, 1999). Few shapes occur in a list of rules, however
//! long it is, and the pairs are tried in the order of their first rules, so that the search ends as soon as
//! no later pair can have an earlier rule.
//!
//! A change of one rule arranges anew what has its keys, and shares the rest with the index before.
//!
//! Rules with the same keys differ by transport and ports. These are laid out as ranges that do not overlap, each of
//! the first rule that claims it, so that one binary search finds it among thousands.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ahash::RandomState;

use super::list::{List, RuleId};
use super::{End, Place, Question, Rule, Zone};
use crate::addr::{Address, Protocol};

/// What a key is about, and of a prefix its length.
type Shape = u8;

const ANY: Shape = 0;
const ZONE: Shape = 1;
const NETWORK: Shape = 2;
const PORT: Shape = 3;
const PREFIX: Shape = 4;

/// What a rule says of an end, in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    shape: Shape,
    value: u32,
}

/// A pair of shapes that occurs.
#[derive(Debug, Clone, Copy)]
struct Tuple {
    from: Shape,
    to: Shape,
    /// The place of its first rule.
    first: u32,
}

/// Ports of a transport that are one rule's.
#[derive(Debug, Clone, Copy)]
struct Span {
    transport: u8,
    first: u16,
    last: u16,
    rule: RuleId,
}

/// The rules with the same keys.
#[derive(Debug, Clone, Default)]
struct Bucket {
    /// In their order.
    rules: Vec<RuleId>,
    /// In the order of transports and ports.
    spans: Box<[Span]>,
}

const TCP: u8 = 0;
const UDP: u8 = 1;
const ICMP: u8 = 2;
const OTHER: u8 = 3;

const fn transport(protocol: Option<Protocol>) -> u8 {
    match protocol {
        Some(Protocol::Tcp) => TCP,
        Some(Protocol::Udp) => UDP,
        Some(Protocol::Icmp) => ICMP,
        None => OTHER,
    }
}

const fn has_ports(transport: u8) -> bool {
    transport <= UDP
}

/// Names that may be remembered for each pair of keys that occurs, of which each holds two at most; and some more, so
/// that a short list is not arranged anew with every change.
const NAMES_PER_BUCKET: usize = 4;
const SPARE_NAMES: usize = 64;

/// Numbers for names. Those that no rule says any more stay until there are too many of them.
#[derive(Debug, Clone, Default)]
struct Names(HashMap<Arc<str>, u32, RandomState>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(name.into()).or_insert(next)
    }

    fn find(&self, name: Option<&str>) -> Option<u32> {
        self.0.get(name?).copied()
    }
}

/// The rules, arranged. A copy shares what it does not change.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    networks: Names,
    ports: Names,
    /// In the order of their first rules.
    tuples: Vec<Tuple>,
    buckets: HashMap<(Key, Key), Arc<Bucket>, RandomState>,
}

impl Index {
    /// Arranges all rules.
    pub(super) fn new(list: &List) -> Self {
        let mut index = Index::default();
        for &id in &list.ids {
            for keys in index.pairs(list.rule(id)) {
                Arc::make_mut(index.buckets.entry(keys).or_default()).rules.push(id);
            }
        }
        for bucket in index.buckets.values_mut() {
            Arc::make_mut(bucket).arrange(list);
        }
        index.order(list);
        index
    }

    /// Adds a rule that is in the list now.
    pub(super) fn insert(&mut self, id: RuleId, list: &List) {
        for keys in self.pairs(list.rule(id)) {
            let bucket = Arc::make_mut(self.buckets.entry(keys).or_default());
            let before = bucket.rules.partition_point(|&other| list.place(other) < list.place(id));
            bucket.rules.insert(before, id);
            bucket.arrange(list);
        }
        self.order(list);
    }

    /// Removes a rule that was in the list.
    pub(super) fn remove(&mut self, id: RuleId, rule: &Rule, list: &List) {
        for keys in self.pairs(rule) {
            let Some(bucket) = self.buckets.get_mut(&keys).map(Arc::make_mut) else { continue };
            bucket.rules.retain(|&other| other != id);
            bucket.arrange(list);
            if bucket.rules.is_empty() {
                self.buckets.remove(&keys);
            }
        }
        if self.names() > NAMES_PER_BUCKET * self.buckets.len() + SPARE_NAMES {
            *self = Index::new(list);
            return;
        }
        self.order(list);
    }

    /// Names that have a number.
    pub(super) fn names(&self) -> usize {
        self.networks.0.len() + self.ports.0.len()
    }

    /// Puts the tuples in the order of their first rules.
    fn order(&mut self, list: &List) {
        let mut first = BTreeMap::new();
        for (place, rule) in (0..).zip(list.rules()) {
            for (from, to) in shapes(&rule.from).flat_map(|from| shapes(&rule.to).map(move |to| (from, to))) {
                first.entry((from, to)).or_insert(place);
            }
        }
        self.tuples = first.into_iter().map(|((from, to), first)| Tuple { from, to, first }).collect();
        self.tuples.sort_unstable_by_key(|tuple| tuple.first);
    }

    /// The place of the first rule that matches.
    pub(super) fn first(&self, question: &Question<'_>, list: &List) -> Option<usize> {
        let (from, to) = (self.view(&question.from), self.view(&question.to));
        let transport = transport(question.protocol);
        let at = (transport, if has_ports(transport) { question.port } else { 0 });
        let mut best = u32::MAX;
        for tuple in &self.tuples {
            if tuple.first >= best {
                break;
            }
            let (Some(from), Some(to)) = (from.key(tuple.from), to.key(tuple.to)) else { continue };
            let Some(bucket) = self.buckets.get(&(from, to)) else { continue };
            let spans = &bucket.spans;
            let before = spans.partition_point(|span| (span.transport, span.first) <= at);
            let Some(span) = before.checked_sub(1).and_then(|last| spans.get(last)) else { continue };
            if span.transport == at.0 && span.last >= at.1 {
                best = best.min(list.place(span.rule));
            }
        }
        (best != u32::MAX).then_some(best as usize)
    }

    /// The pairs of keys of a rule, each once.
    fn pairs(&mut self, rule: &Rule) -> BTreeSet<(Key, Key)> {
        let (from, to) = (self.keys(&rule.from), self.keys(&rule.to));
        from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))).collect()
    }

    fn keys(&mut self, places: &[Place]) -> Vec<Key> {
        if places.is_empty() {
            return vec![Key { shape: ANY, value: 0 }];
        }
        let value = |place: &Place| match place {
            Place::Network(name) => self.networks.number(name),
            Place::Port(name) => self.ports.number(name),
            Place::Prefix(prefix) => prefix.network().to_bits(),
            Place::Internet => Zone::Internet as u32,
            Place::Lan => Zone::Lan as u32,
            Place::Host => Zone::Host as u32,
        };
        let values: Vec<u32> = places.iter().map(value).collect();
        shapes(places).zip(values).map(|(shape, value)| Key { shape, value }).collect()
    }

    fn view<'a>(&self, end: &'a End<'a>) -> View<'a> {
        View { end, network: self.networks.find(end.network), port: self.ports.find(end.port) }
    }
}

/// An end, as the index names it.
struct View<'a> {
    end: &'a End<'a>,
    network: Option<u32>,
    port: Option<u32>,
}

impl View<'_> {
    /// The end's key of a shape.
    fn key(&self, shape: Shape) -> Option<Key> {
        let value = match shape {
            ANY => 0,
            ZONE => self.end.zone as u32,
            NETWORK => self.network?,
            PORT => self.port?,
            prefix => self.end.ip.masked(prefix - PREFIX).to_bits(),
        };
        Some(Key { shape, value })
    }
}

/// The shapes of places; of none, that of anywhere.
fn shapes(places: &[Place]) -> impl Iterator<Item = Shape> + Clone {
    let shape = |place: &Place| match place {
        Place::Network(_) => NETWORK,
        Place::Port(_) => PORT,
        Place::Prefix(prefix) => PREFIX + prefix.prefix_len(),
        Place::Internet | Place::Lan | Place::Host => ZONE,
    };
    places.is_empty().then_some(ANY).into_iter().chain(places.iter().map(shape))
}

impl Bucket {
    fn arrange(&mut self, list: &List) {
        self.spans = match self.rules[..] {
            [id] => {
                let rule = list.rule(id);
                let span = |transport| {
                    let (first, last) = claim(rule, transport)?.into_inner();
                    Some(Span { transport, first, last, rule: id })
                };
                [TCP, UDP, ICMP, OTHER].into_iter().filter_map(span).collect()
            }
            _ => spans(&self.rules, list),
        };
    }
}

/// Which rule has which ports, of rules with the same keys in their order.
fn spans(rules: &[RuleId], list: &List) -> Box<[Span]> {
    let mut spans = Vec::new();
    for transport in [TCP, UDP, ICMP, OTHER] {
        // By their first ports, the ranges that are nobody's yet.
        let mut free = BTreeMap::from([(0, u16::MAX)]);
        for &id in rules {
            let Some(ports) = claim(list.rule(id), transport) else { continue };
            let (start, end) = ports.into_inner();
            let met = free.range(..=end).rev().take_while(|&(_, &last)| last >= start);
            let met: Vec<(u16, u16)> = met.map(|(&first, &last)| (first, last)).collect();
            for (first, last) in met {
                free.remove(&first);
                let (from, to) = (first.max(start), last.min(end));
                if first < from {
                    free.insert(first, from - 1);
                }
                if last > to {
                    free.insert(to + 1, last);
                }
                spans.push(Span { transport, first: from, last: to, rule: id });
            }
            if free.is_empty() {
                break;
            }
        }
    }
    spans.sort_unstable_by_key(|span| (span.transport, span.first));
    spans.into()
}

/// The ports of a transport that a rule is about.
fn claim(rule: &Rule, of: u8) -> Option<RangeInclusive<u16>> {
    if rule.protocol.is_some() && transport(rule.protocol) != of {
        return None;
    }
    match &rule.ports {
        Some(_) if !has_ports(of) => None,
        Some(ports) => Some(ports.clone()),
        None => Some(0..=u16::MAX),
    }
}
