//! The addresses that a network's DHCP server has given to clients.
//!
//! **Key.** A client is what it calls itself, at the port that it calls from ([`Client`]): nobody gets another port's
//! address by using another's identifier.
//!
//! **States** of a lease:
//!
//! ```text
//!            DISCOVER            REQUEST             end, RELEASE
//!   (none) ───────────▶ Offered ─────────▶ Bound ──────────────────▶ Free
//!                          │    ◀─────────────────────────────────────┘ the same client again
//!                          └──────────────── DECLINE ──▶ Declined
//! ```
//!
//! A free lease is a memory: the same client gets the same address, and another client only when no address is left
//! that nobody has had. A declined address is somebody's whom we do not know, and is nobody's until its time is over.
//! States end by the clock, when they are looked at; there is no timer.
//!
//! **Bounds.** A port has at most [`DHCP_LEASES_PER_PORT`] addresses that others cannot have; the next takes the place
//! of its own oldest. So no port can use up a network. Of memories, [`DHCP_LEASES_MAX`] are kept for a network.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::addr::MacAddr;
use crate::clock::Time;
use crate::limits::{DHCP_DECLINE_HOLD, DHCP_LEASES_MAX, DHCP_LEASES_PER_PORT, DHCP_OFFER_HOLD};

/// Who has a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Client {
    /// The name of the port that it is at.
    pub port: String,
    /// What it calls itself there ([`super::message::Message::client`]).
    pub id: Vec<u8>,
}

/// What a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Offered, and not requested yet.
    Offered,
    /// The client's.
    Bound,
    /// Nobody's, but the client had it.
    Free,
    /// Somebody else's, as the client found out.
    Declined,
}

impl State {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Offered => "offered",
            State::Bound => "bound",
            State::Free => "free",
            State::Declined => "declined",
        }
    }
}

/// An address that was given to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is or was.
    pub client: Client,
    /// The client's MAC address, if it has told one.
    pub mac: Option<MacAddr>,
    /// What the client calls its machine.
    pub hostname: Option<String>,
    state: State,
    /// When the state ends; for a free one, when it became so.
    until: Time,
}

impl Lease {
    /// A lease that was bound until `until`, as it was remembered.
    pub fn remembered(client: Client, mac: Option<MacAddr>, hostname: Option<String>, until: Time) -> Lease {
        Lease { client, mac, hostname, state: State::Bound, until }
    }

    /// What it is now.
    pub fn state(&self, now: Time) -> State {
        if self.until <= now { State::Free } else { self.state }
    }

    /// When the state ends; for a free one, when it became so.
    pub fn until(&self) -> Time {
        self.until
    }
}

/// Which addresses may be given, and what is known of them besides leases.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The first and the last address that clients get unless they have one that is their port's own.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// Addresses that are not for clients: the gateway's, and those that ports have in the books.
    pub taken: &'a HashSet<Ipv4Addr>,
    /// Addresses at which others than the client have been heard. Of no consequence for one that has been given:
    /// there it was the client before.
    pub heard: &'a HashSet<Ipv4Addr>,
}

/// The leases of a network.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    leases: BTreeMap<Ipv4Addr, Lease>,
    by_client: HashMap<Client, Ipv4Addr>,
}

impl Pool {
    /// The lease that a client has, or had.
    pub fn of(&self, client: &Client) -> Option<(Ipv4Addr, &Lease)> {
        let &ip = self.by_client.get(client)?;
        self.leases.get(&ip).map(|lease| (ip, lease))
    }

    /// The lease of an address.
    pub fn at(&self, ip: Ipv4Addr) -> Option<&Lease> {
        self.leases.get(&ip)
    }

    /// All leases by address.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &Lease)> {
        self.leases.iter().map(|(&ip, lease)| (ip, lease))
    }

    /// Whether an address is a client's, or must not be given to any.
    pub fn is_held(&self, ip: Ipv4Addr, now: Time) -> bool {
        self.leases.get(&ip).is_some_and(|lease| lease.state(now) != State::Free)
    }

    /// Whether `client` may have `ip`, out of the scope.
    pub fn may_have(&self, client: &Client, ip: Ipv4Addr, scope: &Scope<'_>, now: Time) -> bool {
        let (first, last) = scope.range;
        let lease = self.leases.get(&ip);
        let held = lease.is_some_and(|lease| match lease.state(now) {
            State::Offered | State::Bound => lease.client != *client,
            State::Declined => true,
            State::Free => false,
        });
        let is_strangers = lease.is_none() && scope.heard.contains(&ip);
        (first..=last).contains(&ip) && !held && !is_strangers && !scope.taken.contains(&ip)
    }

    /// The address for `client` (RFC 2131 4.3.1): the one it has or had, or the one it wishes, or the lowest that nobody
    /// has had, or the one that has been free for longest. `None` if there is none.
    pub fn choose(
        &self,
        client: &Client,
        wish: Option<Ipv4Addr>,
        scope: &Scope<'_>,
        now: Time,
    ) -> Option<Ipv4Addr> {
        let had = self.by_client.get(client).copied();
        let known = [had, wish].into_iter().flatten().find(|&ip| self.may_have(client, ip, scope, now));
        known.or_else(|| self.unused(scope)).or_else(|| {
            let free = self.leases.iter().filter(|&(&ip, _)| self.may_have(client, ip, scope, now));
            free.min_by_key(|(_, lease)| lease.until).map(|(&ip, _)| ip)
        })
    }

    fn unused(&self, scope: &Scope<'_>) -> Option<Ipv4Addr> {
        let (first, last) = (scope.range.0.to_bits(), scope.range.1.to_bits());
        let mut known = self.leases.range(scope.range.0..).map(|(ip, _)| ip.to_bits()).peekable();
        let unknown = (first..=last).filter(move |&ip| known.next_if_eq(&ip).is_none());
        unknown.map(Ipv4Addr::from_bits).find(|ip| !scope.taken.contains(ip) && !scope.heard.contains(ip))
    }

    /// Keeps `ip` for `client` until it asks for it.
    pub fn offer(&mut self, client: Client, ip: Ipv4Addr, now: Time) {
        // What is bound stays so while the client thinks about it.
        let is_bound = |lease: &Lease| lease.client == client && lease.state(now) == State::Bound;
        if !self.leases.get(&ip).is_some_and(is_bound) {
            self.set(client, ip, State::Offered, now + DHCP_OFFER_HOLD, now);
        }
    }

    /// Gives `ip` to `client` for so long.
    pub fn bind(&mut self, client: Client, ip: Ipv4Addr, time: Duration, now: Time) -> &mut Lease {
        self.set(client, ip, State::Bound, now + time, now)
    }

    /// A client has no need of its address any more. Says whether it was its.
    pub fn release(&mut self, client: &Client, ip: Ipv4Addr, now: Time) -> bool {
        self.end(client, ip, State::Free, now, now)
    }

    /// A client has found somebody else at the address it got. Says whether it had got it.
    pub fn decline(&mut self, client: &Client, ip: Ipv4Addr, now: Time) -> bool {
        self.end(client, ip, State::Declined, now + DHCP_DECLINE_HOLD, now)
    }

    /// All leases of a port end: its device is gone.
    pub fn release_port(&mut self, port: &str, now: Time) {
        for lease in self.leases.values_mut().filter(|lease| lease.client.port == port) {
            if matches!(lease.state(now), State::Offered | State::Bound) {
                (lease.state, lease.until) = (State::Free, now);
            }
        }
    }

    /// Puts a lease that was remembered in its place, unless its address is given already.
    pub fn remember(&mut self, ip: Ipv4Addr, lease: Lease) {
        if self.leases.len() < DHCP_LEASES_MAX && !self.leases.contains_key(&ip) {
            self.by_client.insert(lease.client.clone(), ip);
            self.leases.insert(ip, lease);
        }
    }

    fn set(&mut self, client: Client, ip: Ipv4Addr, state: State, until: Time, now: Time) -> &mut Lease {
        let before = self.by_client.insert(client.clone(), ip);
        if let Some(before) = before.filter(|&before| before != ip) {
            self.forget(before);
        }
        self.make_room(&client, ip, now);
        let fresh = || Lease { client: client.clone(), mac: None, hostname: None, state, until };
        let lease = self.leases.entry(ip).or_insert_with(fresh);
        if lease.client != client {
            if self.by_client.get(&lease.client) == Some(&ip) {
                self.by_client.remove(&lease.client);
            }
            *lease = fresh();
        }
        (lease.state, lease.until) = (state, until);
        lease
    }

    fn end(&mut self, client: &Client, ip: Ipv4Addr, state: State, until: Time, now: Time) -> bool {
        let Some(lease) = self.leases.get_mut(&ip).filter(|lease| lease.client == *client) else {
            return false;
        };
        if !matches!(lease.state(now), State::Offered | State::Bound) {
            return false;
        }
        (lease.state, lease.until) = (state, until);
        if state == State::Declined {
            // It gets another one.
            self.by_client.remove(client);
        }
        true
    }

    fn forget(&mut self, ip: Ipv4Addr) {
        if let Some(lease) = self.leases.remove(&ip)
            && self.by_client.get(&lease.client) == Some(&ip)
        {
            self.by_client.remove(&lease.client);
        }
    }

    /// Sees that one more lease, of `ip` for `client`, stays within the bounds.
    fn make_room(&mut self, client: &Client, ip: Ipv4Addr, now: Time) {
        let others = || self.leases.iter().filter(|&(&other, _)| other != ip);
        let held =
            others().filter(|(_, lease)| lease.client.port == client.port && lease.state(now) != State::Free);
        let oldest = |(ip, lease): (&Ipv4Addr, &Lease)| (lease.until, *ip);
        let held: Vec<_> = held.map(oldest).collect();
        let mut victims = Vec::new();
        if held.len() >= DHCP_LEASES_PER_PORT {
            victims.extend(held.into_iter().min());
        }
        if self.leases.len() >= DHCP_LEASES_MAX {
            victims.extend(others().map(oldest).min());
        }
        victims.into_iter().for_each(|(_, ip)| self.forget(ip));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const NOW: Time = Time::from_secs(1000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn client(port: &str, id: u8) -> Client {
        Client { port: port.to_owned(), id: vec![id] }
    }

    /// Addresses 1 to `last`, of which the first is the gateway's.
    fn scope(last: u8) -> Scope<'static> {
        static SETS: LazyLock<[HashSet<Ipv4Addr>; 2]> =
            LazyLock::new(|| [HashSet::from([ip(1)]), HashSet::new()]);
        Scope { range: (ip(1), ip(last)), taken: &SETS[0], heard: &SETS[1] }
    }

    fn give(pool: &mut Pool, who: &Client, last: u8, now: Time) -> Option<Ipv4Addr> {
        let chosen = pool.choose(who, None, &scope(last), now)?;
        pool.offer(who.clone(), chosen, now);
        pool.bind(who.clone(), chosen, HOUR, now);
        Some(chosen)
    }

    #[test]
    fn addresses_are_given_in_order_and_the_same_client_gets_the_same_one() {
        let mut pool = Pool::default();
        let clients: Vec<_> = (0..4).map(|n| client("vm", n)).collect();
        let first: Vec<_> = clients.iter().map(|who| give(&mut pool, who, 9, NOW)).collect();
        assert_eq!(first, [2, 3, 4, 5].map(|last| Some(ip(last))));
        assert!(pool.release(&clients[1], ip(3), NOW) && !pool.release(&clients[1], ip(3), NOW));
        assert!(!pool.release(&clients[0], ip(4), NOW), "it is another one's");
        assert_eq!(give(&mut pool, &client("vm", 9), 9, NOW), Some(ip(6)), "one that nobody has had");
        assert_eq!(give(&mut pool, &clients[1], 9, NOW), Some(ip(3)));
        let later = NOW + 2 * HOUR;
        assert_eq!(pool.of(&clients[0]).map(|(_, lease)| lease.state(later)), Some(State::Free));
        assert_eq!(give(&mut pool, &clients[0], 9, later), Some(ip(2)));
        assert_eq!(
            give(&mut pool, &client("other", 0), 9, later),
            Some(ip(7)),
            "a client is one at its port"
        );
    }

    #[test]
    fn without_an_unused_address_the_one_free_for_longest_is_given() {
        let mut pool = Pool::default();
        let clients: Vec<_> = (0..3).map(|n| client("vm", n)).collect();
        assert!(clients.iter().all(|who| give(&mut pool, who, 4, NOW).is_some()));
        assert_eq!(give(&mut pool, &client("vm", 9), 4, NOW), None);
        pool.release(&clients[2], ip(4), NOW);
        pool.release(&clients[0], ip(2), NOW + HOUR / 2);
        assert_eq!(give(&mut pool, &client("vm", 9), 4, NOW + HOUR / 2), Some(ip(4)));
        assert_eq!(pool.of(&clients[2]), None, "that was its last memory");
    }

    #[test]
    fn where_a_stranger_has_been_heard_no_client_begins() {
        let mut pool = Pool::default();
        let heard = HashSet::from([ip(2), ip(3)]);
        let scope = Scope { heard: &heard, ..scope(9) };
        let who = client("vm", 1);
        assert_eq!(pool.choose(&who, Some(ip(3)), &scope, NOW), Some(ip(4)));
        pool.bind(who.clone(), ip(3), HOUR, NOW);
        assert_eq!(pool.choose(&who, None, &scope, NOW), Some(ip(3)), "the stranger was the client itself");
    }

    #[test]
    fn a_declined_address_is_nobodys_for_a_time() {
        let mut pool = Pool::default();
        let who = client("vm", 1);
        assert_eq!(give(&mut pool, &who, 4, NOW), Some(ip(2)));
        assert!(!pool.decline(&client("vm", 2), ip(2), NOW) && pool.decline(&who, ip(2), NOW));
        assert_eq!(give(&mut pool, &who, 4, NOW), Some(ip(3)));
        assert!(pool.is_held(ip(2), NOW));
        let later = NOW + DHCP_DECLINE_HOLD;
        assert!(!pool.is_held(ip(2), later));
        assert!(pool.may_have(&client("vm", 3), ip(2), &scope(4), later));
    }

    #[test]
    fn an_offer_that_nobody_takes_ends_and_one_port_cannot_take_all() {
        let mut pool = Pool::default();
        let many = u8::try_from(DHCP_LEASES_PER_PORT).unwrap();
        for id in 0..200 {
            let who = client("greedy", id);
            let chosen = pool.choose(&who, None, &scope(254), NOW).unwrap();
            pool.offer(who, chosen, NOW + Duration::from_secs(u64::from(id) / 100));
        }
        let held = pool.iter().filter(|(_, lease)| lease.state(NOW) == State::Offered).count();
        assert_eq!(held, usize::from(many));
        assert!(give(&mut pool, &client("modest", 0), 254, NOW).is_some());
        let later = NOW + DHCP_OFFER_HOLD + Duration::from_secs(2);
        assert!(
            pool.iter().all(|(_, lease)| lease.client.port == "modest" || lease.state(later) == State::Free)
        );
    }
}
