//! Published ports, as packets find them.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ahash::RandomState;
use serde::{Deserialize, Serialize};

use super::health::{Condition, Watch};
use crate::addr::{Endpoint, PortId, Protocol};

/// Who may be a client of a publication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Whoever reaches the uplink's address.
    #[default]
    Any,
    /// The uplink's LAN only ([`Zone::Lan`](crate::table::policy::Zone::Lan)), and the containers.
    Lan,
}

impl Scope {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Any => "any",
            Scope::Lan => "lan",
        }
    }
}

/// A container that a publication leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Its address and port.
    pub endpoint: Endpoint,
    /// Its port of the switch.
    pub to: PortId,
}

/// Published ports: what arrives at one of them goes to the port with the same place in the range of a target.
#[derive(Debug, Clone)]
pub struct Publication {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address it listens on; `None` for every address of the uplink.
    pub ip: Option<Ipv4Addr>,
    /// The external ports.
    pub ports: RangeInclusive<u16>,
    /// Who may be a client.
    pub scope: Scope,
    /// Where connections go, each to one of them, with the port that belongs to the first external one. There is at
    /// least one.
    pub targets: Vec<Target>,
    /// Whether and how the targets are checked, and how each was found, in the same order.
    pub health: Option<(Watch, Vec<Arc<Condition>>)>,
}

impl Publication {
    /// Whether the target at this place is up, as far as is known.
    pub fn is_up(&self, place: usize) -> bool {
        let conditions = self.health.as_ref().map_or(&[][..], |(_, conditions)| conditions);
        conditions.get(place).is_none_or(|condition| condition.is_up())
    }

    /// The targets of what arrives at one of its ports.
    pub fn targets_at(&self, port: u16) -> impl Iterator<Item = Target> {
        let offset = port.saturating_sub(*self.ports.start());
        self.targets.iter().map(move |&Target { endpoint, to }| {
            let port = endpoint.port.saturating_add(offset);
            Target { endpoint: Endpoint { port, ..endpoint }, to }
        })
    }
}

/// By their first ports.
type Ranges = BTreeMap<u16, Arc<Publication>>;

/// The published ports. Those of one protocol and address have no port in common.
#[derive(Debug, Clone, Default)]
pub struct Publications {
    by_address: HashMap<(Protocol, Option<Ipv4Addr>), Ranges, RandomState>,
    /// Spreads connections over targets.
    hasher: RandomState,
}

impl Publications {
    /// The publication that a packet to `destination` is for: one with this address before one without.
    pub fn find(&self, protocol: Protocol, destination: Endpoint) -> Option<&Publication> {
        let at = |ip| {
            let (_, publication) =
                self.by_address.get(&(protocol, ip))?.range(..=destination.port).next_back()?;
            publication.ports.contains(&destination.port).then_some(&**publication)
        };
        if self.by_address.is_empty() {
            return None;
        }
        at(Some(destination.ip)).or_else(|| at(None))
    }

    /// Whether some packet to these ports of `ip`, or of any address, is for one of them.
    pub fn meets(&self, protocol: Protocol, ip: Option<Ipv4Addr>, ports: &RangeInclusive<u16>) -> bool {
        // None overlaps another, so of those that begin early enough the last one ends last.
        let in_ranges = |ranges: &Ranges| {
            let last = ranges.range(..=ports.end()).next_back();
            last.is_some_and(|(_, publication)| publication.ports.end() >= ports.start())
        };
        let mut at = self.by_address.iter().filter(|((of, _), _)| *of == protocol);
        at.any(|(&(_, at), ranges)| (at.is_none() || ip.is_none() || at == ip) && in_ranges(ranges))
    }

    /// The target that a new connection of `client` to one of its ports goes to: one that is up, if there is one.
    /// As long as a target is there, it is the same one for the same client, whichever others come and go (rendezvous
    /// hashing, Thaler and Ravishankar, 1998).
    pub fn choose(&self, publication: &Publication, port: u16, client: Endpoint) -> Option<Target> {
        let mut targets = publication.targets_at(port).enumerate();
        let weight = |(place, target): &(usize, Target)| {
            (publication.is_up(*place), self.hasher.hash_one((client, target.endpoint.ip)))
        };
        let chosen = match &publication.targets[..] {
            [_] => targets.next(),
            _ => targets.max_by_key(weight),
        };
        chosen.map(|(_, target)| target)
    }

    /// Adds one, in place of those with the same protocol, address and first port.
    pub fn insert(&mut self, publication: Publication) {
        let ranges = self.by_address.entry((publication.protocol, publication.ip)).or_default();
        ranges.insert(*publication.ports.start(), Arc::new(publication));
    }

    /// Removes the one that begins with this port.
    pub fn remove(&mut self, protocol: Protocol, ip: Option<Ipv4Addr>, first: u16) {
        if let Some(ranges) = self.by_address.get_mut(&(protocol, ip)) {
            ranges.remove(&first);
            if ranges.is_empty() {
                self.by_address.remove(&(protocol, ip));
            }
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Publication> {
        self.by_address.values().flat_map(|ranges| ranges.values()).map(|publication| &**publication)
    }
}

impl FromIterator<Publication> for Publications {
    fn from_iter<I: IntoIterator<Item = Publication>>(list: I) -> Self {
        let mut publications = Publications::default();
        list.into_iter().for_each(|publication| publications.insert(publication));
        publications
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::{HEALTH_FALL, HEALTH_RISE};
    use crate::snapshot::Check;

    const ANY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn publication(ip: Option<Ipv4Addr>, ports: RangeInclusive<u16>, hosts: &[u8]) -> Publication {
        let target = |&host| Target {
            endpoint: Endpoint::new(Ipv4Addr::new(10, 0, 0, host), 80),
            to: PortId(u16::from(host)),
        };
        let targets = hosts.iter().map(target).collect();
        Publication { protocol: Protocol::Tcp, ip, ports, scope: Scope::Any, targets, health: None }
    }

    #[test]
    fn a_range_is_one_and_is_found_from_end_to_end() {
        let mut publications = Publications::default();
        publications.insert(publication(None, 8000..=8010, &[1]));
        publications.insert(publication(Some(OWN), 8005..=8006, &[2]));
        let found = |ip, port| {
            let publication = publications.find(Protocol::Tcp, Endpoint::new(ip, port))?;
            publications.choose(publication, port, Endpoint::new(ANY, 1)).map(|target| target.endpoint)
        };
        let one = |port| Some(Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), port));
        assert_eq!(found(ANY, 7999), None);
        assert_eq!(found(ANY, 8000), one(80));
        assert_eq!(found(ANY, 8005), one(85));
        assert_eq!(found(ANY, 8010), one(90));
        assert_eq!(found(ANY, 8011), None);
        assert_eq!(found(OWN, 8004), one(84));
        assert_eq!(found(OWN, 8006), Some(Endpoint::new(Ipv4Addr::new(10, 0, 0, 2), 81)));
        assert_eq!(publications.iter().count(), 2);
        let meets = |ip, ports| publications.meets(Protocol::Tcp, ip, &ports);
        for (ip, ports, expected) in [
            (None, 7000..=7999, false),
            (None, 7000..=8000, true),
            (Some(ANY), 8010..=9000, true),
            (Some(ANY), 8011..=9000, false),
            (Some(OWN), 1..=u16::MAX, true),
            (None, 8006..=8006, true),
        ] {
            assert_eq!(meets(ip, ports.clone()), expected, "{ip:?} {ports:?}");
        }
        assert!(!publications.meets(Protocol::Udp, None, &(1..=u16::MAX)));
        publications.remove(Protocol::Tcp, None, 8000);
        assert!(publications.find(Protocol::Tcp, Endpoint::new(ANY, 8001)).is_none());
        let meets = |ip, port| publications.meets(Protocol::Tcp, ip, &(port..=port));
        assert!(meets(None, 8005) && meets(Some(OWN), 8006), "what is at one address is at every");
        assert!(!meets(Some(ANY), 8005), "nor at another");
    }

    #[test]
    fn clients_are_spread_and_stay_where_they_are() {
        let publications = Publications::default();
        let (three, two) = (publication(None, 80..=80, &[1, 2, 3]), publication(None, 80..=80, &[1, 3]));
        let mut counts = [0; 4];
        for port in 1..=3000 {
            let client = Endpoint::new(OWN, port);
            let chosen = |of: &Publication| publications.choose(of, 80, client).unwrap().to;
            let before = chosen(&three);
            counts[before.index()] += 1;
            assert!(before == PortId(2) || chosen(&two) == before, "only those of the one that left move");
        }
        assert!(counts[1..].iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }

    #[test]
    fn new_connections_go_to_what_is_up_and_if_nothing_is_to_all() {
        let publications = Publications::default();
        let watch = Watch { check: Check::Tcp, interval: Duration::from_secs(1) };
        let conditions: Vec<Arc<Condition>> = (0..3).map(|_| Arc::default()).collect();
        let health = Some((watch, conditions.clone()));
        let three = Publication { health, ..publication(None, 80..=80, &[1, 2, 3]) };
        let found = |place: usize, passed| {
            let changed = (0..HEALTH_FALL.max(HEALTH_RISE)).any(|_| conditions[place].note(passed));
            assert!(changed, "{place}");
        };
        let spread = || {
            let clients = (1..=3000).map(|port| Endpoint::new(OWN, port));
            let chosen = clients.map(|client| publications.choose(&three, 80, client).unwrap().to.index());
            chosen.fold([0; 4], |mut counts, to| {
                counts[to] += 1;
                counts
            })
        };
        let all = spread();
        found(1, false);
        let two = spread();
        assert_eq!(two[2], 0);
        assert!(two[1] > all[1] && two[3] > all[3], "the others share what it had: {two:?}");
        found(0, false);
        assert_eq!(spread(), [0, 0, 0, 3000]);
        found(2, false);
        assert_eq!(spread(), all);
        found(1, true);
        assert_eq!(spread(), [0, 0, 3000, 0]);
    }
}
