//! The route table: longest prefix match over one hash map per prefix length.
//!
//! A host's table has a handful of lengths (0, 16, 24, 32), and a lookup probes only those that occur,
//! longest first: at most 33 probes for IPv4 and 129 for IPv6, whoever chose the address. The table is
//! part of a snapshot: built once from what the host says, then only read. Its size is the host's.

use std::collections::HashMap;

use ahash::RandomState;

use crate::addr::Address;

/// Where packets for a prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via<A> {
    /// The destination is on the link.
    Link,
    /// To this router on the link.
    Gateway(A),
    /// Not out of this link: through another interface, or nowhere (blackhole, unreachable).
    Elsewhere,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<A> {
    /// The destination's prefix, with no bits set after `length`.
    pub prefix: A,
    /// Bits in the prefix.
    pub length: u8,
    /// Where packets go.
    pub via: Via<A>,
    /// Of two routes for one prefix, the one with the lower metric is used.
    pub metric: u32,
}

/// A route table.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTable<A: Address> {
    /// The lengths that occur, longest first, with the best route of every prefix.
    lengths: Vec<(u8, Prefixes<A>)>,
}

/// The routes to all prefixes of one length.
type Prefixes<A> = HashMap<A, Route<A>, RandomState>;

impl<A: Address> RouteTable<A> {
    /// An empty table.
    pub fn new() -> Self {
        RouteTable { lengths: Vec::new() }
    }

    /// Adds a route to `prefix`/`length`. Bits after the length are ignored, and lengths beyond the
    /// address mean all of it. Where the table has a route of the same or a lower metric to the same
    /// prefix, that one stays.
    pub fn insert(&mut self, prefix: A, length: u8, via: Via<A>, metric: u32) {
        let length = length.min(A::BITS);
        let place = match self.lengths.binary_search_by(|(other, _)| length.cmp(other)) {
            Ok(place) => place,
            Err(place) => {
                self.lengths.insert(place, (length, HashMap::default()));
                place
            }
        };
        let new = Route { prefix: prefix.masked(length), length, via, metric };
        let route = self.lengths[place].1.entry(new.prefix).or_insert(new);
        if metric < route.metric {
            *route = new;
        }
    }

    /// Where packets for `destination` go: by the longest prefix, then the lowest metric. `None` if there
    /// is no route.
    pub fn lookup(&self, destination: A) -> Option<Via<A>> {
        self.lengths.iter().find_map(|(length, routes)| Some(routes.get(&destination.masked(*length))?.via))
    }

    /// The routes in use, longest prefixes first, in no order within a length.
    pub fn iter(&self) -> impl Iterator<Item = &Route<A>> {
        self.lengths.iter().flat_map(|(_, routes)| routes.values())
    }
}

impl<A: Address> Default for RouteTable<A> {
    fn default() -> Self {
        RouteTable::new()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order_and_metric() {
        let mut table = RouteTable::new();
        table.insert(ip("0.0.0.0"), 0, Via::Gateway(ip("192.0.2.1")), 0);
        table.insert(ip("10.1.2.3"), 32, Via::Elsewhere, 900);
        table.insert(ip("10.0.0.0"), 8, Via::Gateway(ip("192.0.2.9")), 5);
        table.insert(ip("192.0.2.0"), 24, Via::Link, 100);
        assert_eq!(table.lookup(ip("192.0.2.77")), Some(Via::Link));
        assert_eq!(table.lookup(ip("10.1.2.3")), Some(Via::Elsewhere));
        assert_eq!(table.lookup(ip("10.1.2.4")), Some(Via::Gateway(ip("192.0.2.9"))));
        assert_eq!(table.lookup(ip("203.0.113.5")), Some(Via::Gateway(ip("192.0.2.1"))));
        let lengths: Vec<u8> = table.iter().map(|route| route.length).collect();
        assert_eq!(lengths, [32, 24, 8, 0]);
    }

    #[test]
    fn the_lowest_metric_wins_and_the_first_of_equals_stays() {
        let mut table = RouteTable::new();
        for (router, metric) in [("192.0.2.1", 100), ("192.0.2.2", 50), ("192.0.2.3", 50), ("192.0.2.4", 70)]
        {
            table.insert(ip("0.0.0.0"), 0, Via::Gateway(ip(router)), metric);
        }
        assert_eq!(table.lookup(ip("8.8.8.8")), Some(Via::Gateway(ip("192.0.2.2"))));
        assert_eq!(table.iter().count(), 1);
    }

    #[test]
    fn without_a_route_there_is_no_answer() {
        let mut table = RouteTable::new();
        assert_eq!(table.lookup(ip("8.8.8.8")), None);
        table.insert(ip("10.0.0.1"), 8, Via::Link, 0);
        assert_eq!(table.lookup(ip("11.0.0.1")), None);
        assert_eq!(table.lookup(ip("10.255.0.1")), Some(Via::Link), "host bits in a prefix do not matter");
    }

    #[test]
    fn equal_contents_are_equal() {
        let build = |order: [u8; 2]| {
            let mut table = RouteTable::new();
            order.iter().for_each(|&length| table.insert(ip("10.0.0.0"), length, Via::Link, 0));
            table
        };
        assert_eq!(build([8, 16]), build([16, 8]));
        assert_ne!(build([8, 16]), build([8, 24]));
    }

    #[test]
    fn ipv6_is_the_same_table() {
        let mut table: RouteTable<Ipv6Addr> = RouteTable::new();
        let router = "fe80::1".parse().unwrap();
        table.insert(Ipv6Addr::UNSPECIFIED, 0, Via::Gateway(router), 0);
        table.insert("2001:db8::".parse().unwrap(), 64, Via::Link, 0);
        assert_eq!(table.lookup("2001:db8::7".parse().unwrap()), Some(Via::Link));
        assert_eq!(table.lookup("2001:db8:1::7".parse().unwrap()), Some(Via::Gateway(router)));
    }
}
