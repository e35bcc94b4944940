//! The uplink's DHCP client (RFC 2131 4.4): an address of our own, and all that keeps it.
//!
//! ```text
//!            OFFER               ACK           T1             T2
//!  Selecting ─────▶ Requesting ─────▶ Bound ──────▶ Renewing ─────▶ Rebinding
//!      ▲                │ NAK, no answer  ▲            │ ACK           │ ACK
//!      │                │                 └────────────┴───────────────┤
//!      └────────────────┴──────────────────────────────────────────────┘ NAK, end of the lease
//! ```
//!
//! The client reads no clock and waits for nothing: [`Client::due`] says when it wants to be asked again. To renew, it
//! writes to the MAC address that the lease came from; if the server is not there any more, it asks all in time.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::message::{Builder, Kind, Message, code};
use crate::addr::{Endpoint, MacAddr};
use crate::clock::Time;
use crate::service::datagram::Datagram;
use crate::wire::transport::{DHCP_CLIENT, DHCP_SERVER};

/// Wait for the first answer; every further one is twice as long (RFC 2131 4.1).
const FIRST_WAIT: Duration = Duration::from_secs(4);

/// Longest wait for an answer (RFC 2131 4.1).
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// Least time between two requests for an address that we have (RFC 2131 4.4.5).
const RENEWAL_WAIT: Duration = Duration::from_secs(60);

/// Requests for an offered address, before another one is looked for.
const REQUESTS: u32 = 4;

/// What we want to know besides.
const WANTED: &[u8] = &[code::SUBNET_MASK, code::ROUTER, code::CLASSLESS_ROUTES, code::INTERFACE_MTU];

/// What the uplink is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The address, with the prefix of the link.
    pub address: Ipv4Net,
    /// The next hop to everywhere.
    pub gateway: Option<Ipv4Addr>,
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    config: Config,
    server: Ipv4Addr,
    server_mac: MacAddr,
    renew: Time,
    rebind: Time,
    end: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Selecting,
    Requesting { ip: Ipv4Addr, server: Ipv4Addr },
    Bound(Lease),
    Renewing(Lease),
    Rebinding(Lease),
}

impl State {
    fn lease(&self) -> Option<&Lease> {
        match self {
            State::Selecting | State::Requesting { .. } => None,
            State::Bound(lease) | State::Renewing(lease) | State::Rebinding(lease) => Some(lease),
        }
    }
}

/// A DHCP client.
#[derive(Debug)]
pub struct Client {
    mac: MacAddr,
    state: State,
    /// The number of the exchange under way.
    xid: u32,
    /// The address that we had last, which we ask for again.
    last: Option<Ipv4Addr>,
    /// Messages sent in this state.
    tries: u32,
    due: Time,
}

impl Client {
    /// A client with this MAC address that begins at once. `xid` should be hard to guess.
    pub fn new(mac: MacAddr, xid: u32, now: Time) -> Client {
        Client { mac, state: State::Selecting, xid, last: None, tries: 0, due: now }
    }

    /// When it wants to be asked what to send.
    pub fn due(&self) -> Time {
        self.due
    }

    /// What the uplink is to have now.
    pub fn config(&self) -> Option<Config> {
        self.state.lease().map(|lease| lease.config)
    }

    /// The link was down, and may be another one: sees at once whether the address is still good (RFC 2131 3.7).
    pub fn link_is_up(&mut self, now: Time) {
        match self.state {
            State::Bound(lease) | State::Renewing(lease) | State::Rebinding(lease) => {
                self.enter(State::Rebinding(lease), now);
            }
            State::Selecting | State::Requesting { .. } => self.enter(State::Selecting, now),
        }
    }

    /// Moves on if it is time, and returns a frame to send.
    pub fn poll(&mut self, now: Time) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        if let Some(&lease) = self.state.lease() {
            if now >= lease.end {
                log::warn!(
                    "uplink: the lease of {} is over, and nobody has prolonged it",
                    lease.config.address
                );
                self.enter(State::Selecting, now);
            } else if now >= lease.rebind && !matches!(self.state, State::Rebinding(_)) {
                self.enter(State::Rebinding(lease), now);
            } else if now >= lease.renew && matches!(self.state, State::Bound(_)) {
                self.enter(State::Renewing(lease), now);
            }
        }
        if matches!(self.state, State::Requesting { .. }) && self.tries >= REQUESTS {
            self.enter(State::Selecting, now);
        }
        self.due = self.next(now);
        self.tries = self.tries.saturating_add(1);
        self.message()
    }

    /// Takes in what a server said, if it is for us. What is to be sent then is due at once.
    pub fn receive(&mut self, datagram: &Datagram<'_>, now: Time) {
        let Some(message) = Message::from_server(datagram.payload) else { return };
        let Some(server) = message.address(code::SERVER_IDENTIFIER) else { return };
        if datagram.dst.port != DHCP_CLIENT || message.xid() != self.xid || message.mac() != Some(self.mac) {
            return;
        }
        match (message.kind(), self.state) {
            (Kind::Offer, State::Selecting) if config(&message).is_some() => {
                self.enter(State::Requesting { ip: message.yiaddr(), server }, now);
            }
            (Kind::Ack, State::Requesting { server: chosen, .. }) if server != chosen => {}
            (Kind::Ack, State::Requesting { .. } | State::Renewing(_) | State::Rebinding(_)) => {
                let Some(lease) = lease(&message, server, datagram.src_mac, now) else { return };
                self.last = Some(lease.config.address.addr());
                self.enter(State::Bound(lease), now);
                self.due = lease.renew;
            }
            (Kind::Nak, State::Requesting { server: chosen, .. }) if server != chosen => {}
            (Kind::Nak, State::Requesting { .. } | State::Renewing(_) | State::Rebinding(_)) => {
                log::warn!("uplink: DHCP server {server} refuses the address");
                self.last = None;
                self.enter(State::Selecting, now);
            }
            _ => {}
        }
    }

    fn enter(&mut self, state: State, now: Time) {
        let is_new_exchange = !matches!(state, State::Requesting { .. } | State::Bound(_));
        if is_new_exchange {
            // Another exchange, whose number does not follow from the last one's for who does not know it.
            self.xid = self.xid.wrapping_mul(0x9e37_79b1).rotate_left(13) ^ 0x5bd1_e995;
        }
        (self.state, self.tries, self.due) = (state, 0, now);
    }

    /// When to send again if nothing comes.
    fn next(&self, now: Time) -> Time {
        // Up to a second more, so that those who were started together part (RFC 2131 4.1).
        let spread = Duration::from_millis(u64::from(self.xid.rotate_left(self.tries) % 1000));
        let backoff = FIRST_WAIT.saturating_mul(1 << self.tries.min(4)).min(LONGEST_WAIT) + spread;
        let half = |until: Time| (now + (until.since(now) / 2).max(RENEWAL_WAIT)).min(until);
        match self.state {
            State::Selecting | State::Requesting { .. } => now + backoff,
            State::Bound(lease) => lease.renew,
            State::Renewing(lease) => half(lease.rebind),
            // Those who ask because their link has changed do not wait for half a lease.
            State::Rebinding(lease) => half(lease.end).min(now + backoff),
        }
    }

    /// What is to be said in this state (RFC 2131 table 5).
    fn message(&self) -> Option<Vec<u8>> {
        let kind = if self.state == State::Selecting { Kind::Discover } else { Kind::Request };
        let mut message = Builder::request(self.xid, self.mac, kind);
        match self.state {
            State::Selecting => message.put_addresses(code::REQUESTED_ADDRESS, self.last.as_slice()),
            State::Requesting { ip, server } => message
                .put_addresses(code::REQUESTED_ADDRESS, &[ip])
                .put_addresses(code::SERVER_IDENTIFIER, &[server]),
            State::Renewing(lease) | State::Rebinding(lease) => message.ciaddr(lease.config.address.addr()),
            State::Bound(_) => return None,
        };
        message.put(code::PARAMETER_REQUEST_LIST, WANTED);
        let own = self.config().map_or(Ipv4Addr::UNSPECIFIED, |config| config.address.addr());
        let (dst_mac, dst) = if let State::Renewing(lease) = self.state {
            (lease.server_mac, lease.server)
        } else {
            (MacAddr::BROADCAST, Ipv4Addr::BROADCAST)
        };
        let (src, dst) = (Endpoint::new(own, DHCP_CLIENT), Endpoint::new(dst, DHCP_SERVER));
        Datagram { src_mac: self.mac, dst_mac, src, dst, payload: &message.finish() }.frame()
    }
}

/// What a server offers, if it can be used.
fn config(message: &Message) -> Option<Config> {
    let ip = message.yiaddr();
    let mask = message.address(code::SUBNET_MASK)?;
    let address = Ipv4Net::with_netmask(ip, mask).ok()?;
    // A link of two, or a host alone, has no addresses for the link and for all (RFC 3021).
    let is_links = address.prefix_len() < 31 && [address.network(), address.broadcast()].contains(&ip);
    let is_host =
        !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && !ip.is_broadcast() && !is_links;
    let router = default_route(message).or_else(|| message.address(code::ROUTER));
    let gateway = router.filter(|router| address.contains(router) && *router != ip);
    is_host.then_some(Config { address, gateway })
}

/// The router to everywhere, of a list of routes (RFC 3442).
fn default_route(message: &Message) -> Option<Ipv4Addr> {
    let mut list = message.option(code::CLASSLESS_ROUTES)?;
    loop {
        let (&length, rest) = list.split_first()?;
        let (_, rest) = rest.split_at_checked(usize::from(length).div_ceil(8))?;
        let (router, rest) = rest.split_first_chunk::<4>()?;
        if length == 0 {
            return Some((*router).into());
        }
        list = rest;
    }
}

fn lease(message: &Message, server: Ipv4Addr, server_mac: MacAddr, now: Time) -> Option<Lease> {
    let config = config(message)?;
    let seconds = message.seconds(code::LEASE_TIME).filter(|&seconds| seconds > 0)?;
    // RFC 2131 4.4.5; T1 is before T2, and both before the end.
    let rebind = message.seconds(code::REBINDING_TIME).unwrap_or(seconds - seconds / 8).min(seconds);
    let renew = message.seconds(code::RENEWAL_TIME).unwrap_or(seconds / 2).min(rebind);
    let after = |seconds: u32| now + Duration::from_secs(seconds.into());
    let (renew, rebind, end) = (after(renew), after(rebind), after(seconds));
    Some(Lease { config, server, server_mac, renew, rebind, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0x75, 0, 0, 0, 1]);
    const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
    const START: Time = Time::from_secs(100);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// What the client sends, if it sends anything now: where to, and the message.
    fn sent(client: &mut Client, now: Time) -> Option<(MacAddr, Endpoint, Message)> {
        let frame = client.poll(now)?;
        let datagram = Datagram::parse(&frame).unwrap();
        assert_eq!((datagram.src_mac, datagram.src.port, datagram.dst.port), (MAC, DHCP_CLIENT, DHCP_SERVER));
        Some((datagram.dst_mac, datagram.dst, Message::from_client(datagram.payload).unwrap()))
    }

    /// A server's answer, as `change` makes it.
    fn answer(client: &mut Client, to: &Message, kind: Kind, now: Time, change: impl Fn(&mut Builder)) {
        let mut reply = Builder::reply(to, kind);
        if kind != Kind::Nak {
            reply.yiaddr(OWN).put(code::LEASE_TIME, &800_u32.to_be_bytes());
            reply.put(code::SUBNET_MASK, &[255, 255, 255, 0]).put_addresses(code::ROUTER, &[SERVER]);
        }
        change(&mut reply);
        reply.put_addresses(code::SERVER_IDENTIFIER, &[SERVER]);
        let datagram = Datagram {
            src_mac: SERVER_MAC,
            dst_mac: MAC,
            src: Endpoint::new(SERVER, DHCP_SERVER),
            dst: Endpoint::new(OWN, DHCP_CLIENT),
            payload: &reply.finish(),
        };
        client.receive(&datagram, now);
    }

    fn bound() -> Client {
        let mut client = Client::new(MAC, 1, START);
        let (_, _, discover) = sent(&mut client, START).unwrap();
        answer(&mut client, &discover, Kind::Offer, START, |_| ());
        let (_, _, request) = sent(&mut client, START).unwrap();
        answer(&mut client, &request, Kind::Ack, START, |_| ());
        client
    }

    #[test]
    fn it_gets_an_address_in_four_messages() {
        let mut client = Client::new(MAC, 1, START);
        let (mac, to, discover) = sent(&mut client, START).unwrap();
        assert_eq!((mac, to.ip, discover.kind()), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST, Kind::Discover));
        answer(&mut client, &discover, Kind::Offer, START, |_| ());
        let (mac, _, request) = sent(&mut client, START).unwrap();
        assert_eq!((mac, request.kind(), request.xid()), (MacAddr::BROADCAST, Kind::Request, discover.xid()));
        assert_eq!(request.address(code::REQUESTED_ADDRESS), Some(OWN));
        assert_eq!(request.address(code::SERVER_IDENTIFIER), Some(SERVER));
        assert_eq!((request.ciaddr(), client.config()), (Ipv4Addr::UNSPECIFIED, None));
        answer(&mut client, &request, Kind::Ack, START, |_| ());
        let config = Config { address: "192.0.2.50/24".parse().unwrap(), gateway: Some(SERVER) };
        assert_eq!((client.config(), client.due()), (Some(config), START + seconds(400)));
    }

    #[test]
    fn it_renews_there_then_asks_all_and_then_begins_anew() {
        let mut client = bound();
        assert!(sent(&mut client, START + seconds(399)).is_none());
        let (mac, to, request) = sent(&mut client, START + seconds(400)).unwrap();
        assert_eq!((mac, to.ip, request.ciaddr()), (SERVER_MAC, SERVER, OWN));
        assert_eq!(
            (request.address(code::REQUESTED_ADDRESS), request.address(code::SERVER_IDENTIFIER)),
            (None, None)
        );
        answer(&mut client, &request, Kind::Ack, START + seconds(401), |_| ());
        assert_eq!(client.due(), START + seconds(801));

        let mut times = Vec::new();
        while client.due() < START + seconds(1201) {
            let now = client.due();
            let (mac, _, request) = sent(&mut client, now).unwrap();
            assert_eq!(
                (request.kind(), request.ciaddr(), client.config().is_some()),
                (Kind::Request, OWN, true)
            );
            times.push((now.since(START).as_secs(), mac));
        }
        let there = times.iter().filter(|(_, mac)| *mac == SERVER_MAC).map(|(at, _)| *at);
        assert_eq!(
            there.collect::<Vec<_>>(),
            [801, 951, 1026, 1086],
            "half of what is left, but a minute at least"
        );
        assert!(times.iter().any(|&(at, mac)| at == 1101 && mac == MacAddr::BROADCAST), "{times:?}");
        let (_, _, discover) = sent(&mut client, START + seconds(1201)).unwrap();
        assert_eq!((discover.kind(), client.config()), (Kind::Discover, None));
        assert_eq!(discover.address(code::REQUESTED_ADDRESS), Some(OWN), "the same one, if it can be");
    }

    #[test]
    fn what_is_not_for_it_or_cannot_be_is_not_believed() {
        let mut client = Client::new(MAC, 1, START);
        let (_, _, discover) = sent(&mut client, START).unwrap();
        let foreign = Message::from_client(&Builder::request(99, MAC, Kind::Discover).finish()).unwrap();
        answer(&mut client, &foreign, Kind::Offer, START, |_| ());
        let other = Builder::request(discover.xid(), SERVER_MAC, Kind::Discover).finish();
        answer(&mut client, &Message::from_client(&other).unwrap(), Kind::Offer, START, |_| ());
        let links = [0, 255].map(|last| Ipv4Addr::new(192, 0, 2, last));
        let nobodys =
            [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(224, 0, 0, 1)];
        for ip in nobodys.into_iter().chain(links) {
            answer(&mut client, &discover, Kind::Offer, START, |reply| {
                reply.yiaddr(ip);
            });
        }
        answer(&mut client, &discover, Kind::Ack, START, |_| ());
        assert!(sent(&mut client, START).is_none() && client.config().is_none());
    }

    #[test]
    fn a_refusal_and_another_address_are_followed() {
        let mut client = bound();
        let (_, _, request) = sent(&mut client, START + seconds(400)).unwrap();
        let other = Ipv4Addr::new(192, 0, 2, 60);
        answer(&mut client, &request, Kind::Ack, START + seconds(400), |reply| {
            reply.yiaddr(other);
        });
        assert_eq!(client.config().map(|config| config.address.addr()), Some(other));
        client.link_is_up(START + seconds(410));
        let (mac, _, request) = sent(&mut client, START + seconds(410)).unwrap();
        assert_eq!((mac, request.ciaddr()), (MacAddr::BROADCAST, other));
        answer(&mut client, &request, Kind::Nak, START + seconds(410), |_| ());
        assert_eq!(client.config(), None);
        assert_eq!(sent(&mut client, START + seconds(410)).unwrap().2.kind(), Kind::Discover);
    }

    #[test]
    fn without_an_answer_it_waits_longer_and_longer() {
        let mut client = Client::new(MAC, 1, START);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let now = client.due();
            sent(&mut client, now).unwrap();
            waits.push(client.due().since(now).as_secs());
        }
        assert_eq!(waits, [4, 8, 16, 32, 64, 64, 64]);
    }
}
