//! What a network's DHCP server answers (RFC 2131 4.3).
//!
//! | message | answer |
//! |---|---|
//! | DISCOVER | OFFER of the client's address, or silence if there is none |
//! | REQUEST that names us | ACK, or NAK if the address is not the client's to have |
//! | REQUEST that names another server | silence, and our offer is void |
//! | REQUEST after a restart of the client | ACK or NAK if we know it, NAK if it is on the wrong network, else silence |
//! | REQUEST of the address that it has | the same |
//! | DECLINE, RELEASE | silence |
//! | INFORM | ACK with options only |
//!
//! **Whose address.** A port that has an address of its own in the books gives it to whoever asks there, whatever it
//! calls itself: to a machine that is known by its place, a new operating system is the same machine. Other ports have
//! a [`Pool`] of addresses, by what the client calls itself.
//!
//! **Where to** (4.1): to the relay if there is one; a NAK to all; to the client's address if it has one; to all if it
//! cannot take anything else; and otherwise to the address that it gets. In any case to its own port only.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::message::{Builder, Kind, Message, code};
use super::pool::{Client, Pool, Scope};
use crate::addr::{Endpoint, MacAddr};
use crate::clock::Time;
use crate::service::datagram::Datagram;
use crate::wire::transport::{DHCP_CLIENT, DHCP_SERVER};

/// Time of a lease unless another is set: what libvirt and dnsmasq give.
pub const LEASE: Duration = Duration::from_secs(3600);

/// The MTU that a client assumes (RFC 894).
const ETHERNET_MTU: u16 = 1500;

/// Longest name of a machine that is remembered (RFC 1035 2.3.4: of a label).
const HOSTNAME_MAX: usize = 63;

/// What the server says, as its user has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time of a lease, unless a client wants a shorter one.
    pub lease: Duration,
    /// The addresses to give, first and last; all of the network unless set.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Name servers; the gateway unless set.
    pub dns: Option<Vec<Ipv4Addr>>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// The domain of the clients.
    pub domain: Option<String>,
    /// Domains to look names up in.
    pub search: Vec<String>,
    /// Routes besides the default one.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lease: LEASE,
            range: None,
            dns: None,
            ntp: Vec::new(),
            domain: None,
            search: Vec::new(),
            routes: Vec::new(),
        }
    }
}

/// The network that is served.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Its prefix.
    pub subnet: Ipv4Net,
    /// The gateway's address, which is the server's.
    pub gateway: Ipv4Addr,
    /// The gateway's MAC address.
    pub gateway_mac: MacAddr,
    /// Largest IP packet on it, in bytes.
    pub mtu: u16,
    /// Whether the gateway leads anywhere.
    pub routes: bool,
}

/// The port that a message came by.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// Its name.
    pub port: &'a str,
    /// The address that it has in the books, if it has one.
    pub own: Option<Ipv4Addr>,
    /// Addresses that are not for clients: the gateway's, and those that ports have in the books.
    pub taken: &'a HashSet<Ipv4Addr>,
    /// Addresses at which others than the client have been heard.
    pub heard: &'a HashSet<Ipv4Addr>,
}

/// What a message has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that outlives the moment.
    None,
    /// A client of the port has this address now.
    Bound(Ipv4Addr),
    /// It has it no more.
    Ended(Ipv4Addr),
}

/// What comes of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A frame for the port that the message came by.
    pub reply: Option<Vec<u8>>,
    /// What has changed.
    pub change: Change,
}

impl Outcome {
    const SILENCE: Outcome = Outcome { reply: None, change: Change::None };
}

/// A network's server for the time of one message.
#[derive(Debug)]
pub struct Server<'a> {
    /// What it says.
    pub settings: &'a Settings,
    /// The network.
    pub link: Link,
    /// The port that the message came by.
    pub seat: Seat<'a>,
    /// What it remembers.
    pub pool: &'a mut Pool,
    /// The time.
    pub now: Time,
}

impl Server<'_> {
    /// Answers a datagram for the server's port.
    pub fn answer(&mut self, datagram: &Datagram<'_>) -> Outcome {
        let Some(request) = Message::from_client(datagram.payload) else { return Outcome::SILENCE };
        // A relay asks for another network than its own, which we do not serve.
        let relay = request.giaddr();
        if !relay.is_unspecified() && !self.link.subnet.contains(&relay) {
            return Outcome::SILENCE;
        }
        let client = Client { port: self.seat.port.to_owned(), id: request.client() };
        let exchange = Exchange { request: &request, client, src_mac: datagram.src_mac };
        match request.kind() {
            Kind::Discover => self.discover(exchange),
            Kind::Request => self.request(exchange),
            Kind::Decline => self.decline(&exchange),
            Kind::Release => self.release(&exchange),
            Kind::Inform => self.inform(&exchange),
            Kind::Offer | Kind::Ack | Kind::Nak | Kind::Unknown(_) => Outcome::SILENCE,
        }
    }

    fn discover(&mut self, exchange: Exchange<'_>) -> Outcome {
        let wish = exchange.request.address(code::REQUESTED_ADDRESS);
        let chosen = match self.seat.own {
            Some(own) => Some(own),
            None => self.pool.choose(&exchange.client, wish, &self.scope(), self.now),
        };
        let Some(ip) = chosen else { return Outcome::SILENCE };
        let reply = self.grant(&exchange, Kind::Offer, ip);
        self.pool.offer(exchange.client, ip, self.now);
        Outcome { reply, change: Change::None }
    }

    /// RFC 2131 4.3.2: which of a client's states a REQUEST comes from is told by what is filled in.
    fn request(&mut self, exchange: Exchange<'_>) -> Outcome {
        let request = exchange.request;
        let wish = request.address(code::REQUESTED_ADDRESS);
        let had = Some(request.ciaddr()).filter(|ip| !ip.is_unspecified());
        match (request.address(code::SERVER_IDENTIFIER), wish.or(had)) {
            // SELECTING, and another one was.
            (Some(server), _) if server != self.link.gateway => {
                self.void_offer(&exchange.client);
                Outcome::SILENCE
            }
            // SELECTING.
            (Some(_), Some(ip)) if self.may_have(&exchange.client, ip) => self.bind(exchange, ip),
            (Some(_), Some(_)) => self.refuse(&exchange, "that address is not to be had"),
            // INIT-REBOOT, RENEWING and REBINDING.
            (None, Some(ip)) => self.confirm(exchange, had.unwrap_or(ip)),
            (_, None) => Outcome::SILENCE,
        }
    }

    /// A client believes that `ip` is its.
    fn confirm(&mut self, exchange: Exchange<'_>, ip: Ipv4Addr) -> Outcome {
        if !self.link.subnet.contains(&ip) {
            return self.refuse(&exchange, "that address is of another network");
        }
        let known = self.seat.own.or_else(|| self.pool.of(&exchange.client).map(|(known, _)| known));
        match known {
            Some(known) if known == ip && self.may_have(&exchange.client, ip) => self.bind(exchange, ip),
            Some(_) => self.refuse(&exchange, "that address is not yours"),
            // Another server may know it. But two cannot have one address.
            None if self.pool.is_held(ip, self.now) || self.seat.taken.contains(&ip) => {
                self.refuse(&exchange, "that address is another's")
            }
            None => Outcome::SILENCE,
        }
    }

    fn bind(&mut self, exchange: Exchange<'_>, ip: Ipv4Addr) -> Outcome {
        let reply = self.grant(&exchange, Kind::Ack, ip);
        let time = self.lease_time(exchange.request);
        let lease = self.pool.bind(exchange.client, ip, time, self.now);
        lease.mac = exchange.request.mac();
        lease.hostname = exchange.request.option(code::HOST_NAME).and_then(hostname);
        Outcome { reply, change: Change::Bound(ip) }
    }

    fn decline(&mut self, exchange: &Exchange<'_>) -> Outcome {
        let (Some(ip), true) = (exchange.request.address(code::REQUESTED_ADDRESS), self.is_meant(exchange))
        else {
            return Outcome::SILENCE;
        };
        if self.seat.own == Some(ip) {
            // There is no other for it.
            log::warn!(
                "port {}: DHCP client declines {ip}, which somebody else seems to use",
                self.seat.port
            );
            return self.ended(exchange, ip, Pool::release);
        }
        let outcome = self.ended(exchange, ip, Pool::decline);
        if outcome.change == Change::Ended(ip) {
            log::warn!(
                "port {}: DHCP client declines {ip}; it is not given to anybody for a time",
                self.seat.port
            );
        }
        outcome
    }

    fn release(&mut self, exchange: &Exchange<'_>) -> Outcome {
        if !self.is_meant(exchange) {
            return Outcome::SILENCE;
        }
        self.ended(exchange, exchange.request.ciaddr(), Pool::release)
    }

    fn ended(
        &mut self,
        exchange: &Exchange<'_>,
        ip: Ipv4Addr,
        end: impl FnOnce(&mut Pool, &Client, Ipv4Addr, Time) -> bool,
    ) -> Outcome {
        let ended = end(self.pool, &exchange.client, ip, self.now);
        Outcome { reply: None, change: if ended { Change::Ended(ip) } else { Change::None } }
    }

    /// A client that has its address from elsewhere asks for the rest (RFC 2131 4.3.5).
    fn inform(&self, exchange: &Exchange<'_>) -> Outcome {
        let ip = exchange.request.ciaddr();
        if !self.link.subnet.contains(&ip) {
            return Outcome::SILENCE;
        }
        let mut reply = exchange.reply(Kind::Ack, self.link.gateway);
        reply.ciaddr(ip);
        self.put_options(exchange.request, &mut reply);
        let to = (exchange.mac(), Endpoint::new(ip, DHCP_CLIENT));
        Outcome { reply: self.frame(to, exchange.finish(reply)), change: Change::None }
    }

    fn refuse(&self, exchange: &Exchange<'_>, why: &str) -> Outcome {
        let mut reply = exchange.reply(Kind::Nak, self.link.gateway);
        reply.put(code::MESSAGE, why.as_bytes());
        let to = if exchange.request.giaddr().is_unspecified() {
            (MacAddr::BROADCAST, Endpoint::new(Ipv4Addr::BROADCAST, DHCP_CLIENT))
        } else {
            // The client may not have the address that it says it has (RFC 2131 4.3.2).
            reply.broadcast();
            self.relay(exchange)
        };
        Outcome { reply: self.frame(to, exchange.finish(reply)), change: Change::None }
    }

    /// An OFFER or ACK of `ip`.
    fn grant(&self, exchange: &Exchange<'_>, kind: Kind, ip: Ipv4Addr) -> Option<Vec<u8>> {
        let request = exchange.request;
        let mut reply = exchange.reply(kind, self.link.gateway);
        reply.yiaddr(ip);
        if kind == Kind::Ack {
            reply.ciaddr(request.ciaddr());
        }
        let seconds = u32::try_from(self.lease_time(request).as_secs()).unwrap_or(u32::MAX);
        let times = [
            (code::LEASE_TIME, seconds),
            (code::RENEWAL_TIME, seconds / 2),
            (code::REBINDING_TIME, seconds - seconds / 8),
        ];
        for (code, seconds) in times {
            reply.put(code, &seconds.to_be_bytes());
        }
        self.put_options(request, &mut reply);
        let to = if !request.giaddr().is_unspecified() {
            self.relay(exchange)
        } else if !request.ciaddr().is_unspecified() {
            (exchange.mac(), Endpoint::new(request.ciaddr(), DHCP_CLIENT))
        } else if request.wants_broadcast() || request.mac().is_none() {
            (MacAddr::BROADCAST, Endpoint::new(Ipv4Addr::BROADCAST, DHCP_CLIENT))
        } else {
            (exchange.mac(), Endpoint::new(ip, DHCP_CLIENT))
        };
        self.frame(to, exchange.finish(reply))
    }

    fn relay(&self, exchange: &Exchange<'_>) -> (MacAddr, Endpoint) {
        (exchange.src_mac, Endpoint::new(exchange.request.giaddr(), DHCP_SERVER))
    }

    fn frame(&self, (dst_mac, dst): (MacAddr, Endpoint), payload: Vec<u8>) -> Option<Vec<u8>> {
        let (src_mac, src) = (self.link.gateway_mac, Endpoint::new(self.link.gateway, DHCP_SERVER));
        Datagram { src_mac, dst_mac, src, dst, payload: &payload }.frame()
    }

    /// What the client has asked for, in its order (RFC 2132 9.8), or all that there is. The mask comes before the
    /// routers (RFC 2132 3.3), and is told in any case; so is an MTU that the client would not guess.
    fn put_options(&self, request: &Message, reply: &mut Builder) {
        const ALL: &[u8] = &[
            code::ROUTER,
            code::DOMAIN_NAME_SERVER,
            code::BROADCAST_ADDRESS,
            code::CLASSLESS_ROUTES,
            code::INTERFACE_MTU,
            code::NTP_SERVERS,
            code::DOMAIN_NAME,
            code::DOMAIN_SEARCH,
        ];
        let (link, settings) = (&self.link, self.settings);
        let wanted = request.option(code::PARAMETER_REQUEST_LIST).unwrap_or(ALL);
        reply.put(code::SUBNET_MASK, &link.subnet.netmask().octets());
        if link.mtu != ETHERNET_MTU && !wanted.contains(&code::INTERFACE_MTU) {
            reply.put(code::INTERFACE_MTU, &link.mtu.to_be_bytes());
        }
        for (number, &option) in wanted.iter().enumerate() {
            if wanted[..number].contains(&option) {
                continue;
            }
            match option {
                code::ROUTER if link.routes => reply.put_addresses(option, &[link.gateway]),
                code::DOMAIN_NAME_SERVER => {
                    reply.put_addresses(option, settings.dns.as_deref().unwrap_or(&[link.gateway]))
                }
                code::BROADCAST_ADDRESS => reply.put_addresses(option, &[link.subnet.broadcast()]),
                code::INTERFACE_MTU => reply.put(option, &link.mtu.to_be_bytes()),
                code::NTP_SERVERS => reply.put_addresses(option, &settings.ntp),
                code::DOMAIN_NAME => match &settings.domain {
                    Some(domain) => reply.put(option, domain.as_bytes()),
                    None => continue,
                },
                code::DOMAIN_SEARCH if !settings.search.is_empty() => reply
                    .put(option, &settings.search.iter().flat_map(|name| labels(name)).collect::<Vec<_>>()),
                code::CLASSLESS_ROUTES if !settings.routes.is_empty() => {
                    // Who understands this one does not look at the routers (RFC 3442).
                    let default = link.routes.then_some((Ipv4Net::default(), link.gateway));
                    let routes = settings.routes.iter().copied().chain(default);
                    reply
                        .put(option, &routes.flat_map(|(prefix, via)| route(prefix, via)).collect::<Vec<_>>())
                }
                _ => continue,
            };
        }
    }

    /// What the client asks for, but no more than what is given.
    fn lease_time(&self, request: &Message) -> Duration {
        let least = u64::from(*crate::limits::DHCP_LEASE_RANGE.start());
        let wish =
            request.seconds(code::LEASE_TIME).map(|seconds| Duration::from_secs(least.max(seconds.into())));
        wish.unwrap_or(self.settings.lease).min(self.settings.lease)
    }

    /// Whether a message that is for one server only is for us.
    fn is_meant(&self, exchange: &Exchange<'_>) -> bool {
        exchange.request.address(code::SERVER_IDENTIFIER).is_none_or(|server| server == self.link.gateway)
    }

    fn may_have(&self, client: &Client, ip: Ipv4Addr) -> bool {
        match self.seat.own {
            Some(own) => own == ip,
            None => self.pool.may_have(client, ip, &self.scope(), self.now),
        }
    }

    fn void_offer(&mut self, client: &Client) {
        if let Some((ip, lease)) = self.pool.of(client)
            && lease.state(self.now) == super::pool::State::Offered
        {
            self.pool.release(client, ip, self.now);
        }
    }

    fn scope(&self) -> Scope<'_> {
        let subnet = self.link.subnet;
        let hosts = (subnet.network().to_bits() + 1, subnet.broadcast().to_bits() - 1);
        let all = (Ipv4Addr::from_bits(hosts.0), Ipv4Addr::from_bits(hosts.1));
        Scope { range: self.settings.range.unwrap_or(all), taken: self.seat.taken, heard: self.seat.heard }
    }
}

/// A message, and who sent it.
struct Exchange<'a> {
    request: &'a Message,
    client: Client,
    src_mac: MacAddr,
}

impl Exchange<'_> {
    fn mac(&self) -> MacAddr {
        self.request.mac().unwrap_or(self.src_mac)
    }

    fn reply(&self, kind: Kind, server: Ipv4Addr) -> Builder {
        let mut reply = Builder::reply(self.request, kind);
        reply.put_addresses(code::SERVER_IDENTIFIER, &[server]);
        if let Some(id) = self.request.option(code::CLIENT_IDENTIFIER) {
            // RFC 6842 3.
            reply.put(code::CLIENT_IDENTIFIER, id);
        }
        reply
    }

    fn finish(&self, mut reply: Builder) -> Vec<u8> {
        if let Some(relay) = self.request.option(code::RELAY_AGENT_INFORMATION) {
            // As it came, and last (RFC 3046 2.2).
            reply.put(code::RELAY_AGENT_INFORMATION, relay);
        }
        reply.finish()
    }
}

/// A host name as a client sent it, if it is one that can be shown.
fn hostname(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    let is_shown = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ((1..=HOSTNAME_MAX).contains(&text.len()) && text.chars().all(is_shown)).then(|| text.to_owned())
}

/// A domain's labels, each with its length before it, and the root (RFC 1035 3.1).
fn labels(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| u8::try_from(label.len()).into_iter().chain(label.bytes())).collect();
    bytes.push(0);
    bytes
}

/// A route: the prefix's length, as many of its bytes as count, and the router (RFC 3442).
fn route(prefix: Ipv4Net, via: Ipv4Addr) -> Vec<u8> {
    let significant = usize::from(prefix.prefix_len().div_ceil(8));
    let mut bytes = vec![prefix.prefix_len()];
    bytes.extend_from_slice(&prefix.network().octets()[..significant]);
    bytes.extend(via.octets());
    bytes
}
