//! DHCP in both directions: messages of clients to a network's server, and of servers to the uplink's client.
//!
//! An input is a list of records: what, and who, and then a message, either byte by byte or made of a few bytes, so that
//! the fuzzer gets past the header. What must hold: nothing panics; whoever is answered is answered by the rules of RFC
//! 2131 4.3 and its table 3; nobody gets an address that is another's, or nobody's to have; no port holds more addresses
//! than it may; and the client believes in no address that no host can have.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::clock::Time;
use vswitchd::limits::DHCP_LEASES_PER_PORT;
use vswitchd::service::datagram::Datagram;
use vswitchd::service::dhcp::client::Client;
use vswitchd::service::dhcp::message::{Builder, HEADER_LEN, Kind, Message, code};
use vswitchd::service::dhcp::pool::{Pool, State};
use vswitchd::service::dhcp::server::{Change, Link, Seat, Server, Settings};
use vswitchd::wire::transport::{DHCP_CLIENT, DHCP_SERVER};

use super::Input;

/// Records, by the lowest bits of their first byte.
pub const ASK: u8 = 0;
/// Likewise: a client's message, byte by byte.
pub const ASK_RAW: u8 = 1;
/// Likewise: an answer to what the uplink's client has said.
pub const ANSWER: u8 = 2;
/// Likewise: a server's message, byte by byte.
pub const ANSWER_RAW: u8 = 3;
/// Likewise: seconds pass, as many as the square of the next byte.
pub const TIME: u8 = 4;

const LINK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 0, 0), 26);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);
const HEARD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Ports, and the addresses that they have in the books.
const SEATS: [(&str, Option<Ipv4Addr>); 4] =
    [("vm1", None), ("vm2", None), ("vm3", None), ("web", Some(OWN))];

/// Time that no lease outlives from one record to the next.
const STEP: Duration = Duration::from_millis(10);

/// Hears the messages of an input.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World::new();
    for _ in 0..256 {
        let Some(what) = input.byte() else { return };
        world.now += STEP;
        match what & 7 {
            ASK => {
                let Some(seat) = input.byte() else { return };
                let Some(message) = question(&mut input) else { return };
                world.ask(seat, &message);
            }
            ASK_RAW => {
                let (Some(seat), Some(len)) = (input.byte(), input.word()) else { return };
                world.ask(seat, input.bytes(usize::from(len)));
            }
            ANSWER => world.answer(&mut input),
            ANSWER_RAW => {
                let Some(len) = input.word() else { return };
                let message = input.bytes(usize::from(len)).to_vec();
                world.hear(&message);
            }
            _ => {
                let seconds = u64::from(input.byte().unwrap_or(0)).pow(2);
                world.now += Duration::from_secs(seconds);
                world.poll();
            }
        }
    }
}

/// A client's message: kind, who it is, and how it asks.
fn question(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let (kind, who, how) = (input.byte()?, input.byte()?, input.byte()?);
    let host = |byte: u8| Ipv4Addr::new(10, if byte == 0xff { 9 } else { 1 }, 0, byte & 0x3f);
    let mac = MacAddr([2, 0, 0, 0, 1, who & 0x1f]);
    let mut message = Builder::request(u32::from(how) << 8 | 7, mac, (kind % 9).into());
    if how & 1 != 0 {
        message.put_addresses(code::REQUESTED_ADDRESS, &[host(input.byte()?)]);
    }
    if how & 2 != 0 {
        let server = if input.byte()? & 1 == 0 { GATEWAY } else { HEARD };
        message.put_addresses(code::SERVER_IDENTIFIER, &[server]);
    }
    if how & 4 != 0 {
        message.ciaddr(host(input.byte()?));
    }
    if how & 8 != 0 {
        message.broadcast();
    }
    if how & 16 != 0 {
        message.put(code::CLIENT_IDENTIFIER, &[0, who >> 5]);
    }
    if how & 32 != 0 {
        let list = input.byte()?;
        message.put(code::PARAMETER_REQUEST_LIST, input.bytes(usize::from(list)));
    }
    if how & 64 != 0 {
        message.put(code::LEASE_TIME, &u32::from(input.byte()?).pow(3).to_be_bytes());
        message.put(code::RELAY_AGENT_INFORMATION, &[1, 1, who]);
    }
    let relay = if how & 128 != 0 { input.byte()? } else { 0 };
    let mut bytes = message.finish();
    if relay != 0 {
        bytes[24..28].copy_from_slice(&host(relay).octets());
    }
    Some(bytes)
}

struct World {
    settings: Settings,
    pool: Pool,
    taken: HashSet<Ipv4Addr>,
    heard: HashSet<Ipv4Addr>,
    client: Client,
    /// What the client has said last.
    said: Option<Vec<u8>>,
    now: Time,
}

impl World {
    fn new() -> World {
        let now = Time::from_secs(1);
        let settings = Settings {
            lease: Duration::from_secs(600),
            domain: Some("example.com".into()),
            search: vec!["a.example".into(), "b.example".into()],
            routes: vec![("10.9.0.0/16".parse().expect("a prefix"), HEARD)],
            ntp: vec![HEARD],
            ..Settings::default()
        };
        let client = Client::new(UPLINK_MAC, 1, now);
        let mut world = World {
            settings,
            pool: Pool::default(),
            taken: [GATEWAY, OWN].into(),
            heard: [HEARD].into(),
            client,
            said: None,
            now,
        };
        world.poll();
        world
    }

    fn ask(&mut self, seat: u8, message: &[u8]) {
        let (port, own) = SEATS[usize::from(seat) % SEATS.len()];
        let link = Link {
            subnet: LINK,
            gateway: GATEWAY,
            gateway_mac: GATEWAY_MAC,
            mtu: if seat & 0x80 == 0 { 1500 } else { 1400 },
            routes: seat & 0x40 == 0,
        };
        let before = self.pool.clone();
        let mut server = Server {
            settings: &self.settings,
            link,
            seat: Seat { port, own, taken: &self.taken, heard: &self.heard },
            pool: &mut self.pool,
            now: self.now,
        };
        let question = Datagram {
            src_mac: MacAddr([2, 0, 0, 0, 9, 9]),
            dst_mac: MacAddr::BROADCAST,
            src: Endpoint::new(Ipv4Addr::UNSPECIFIED, DHCP_CLIENT),
            dst: Endpoint::new(Ipv4Addr::BROADCAST, DHCP_SERVER),
            payload: message,
        };
        let outcome = server.answer(&question);
        if let Change::Bound(ip) = outcome.change {
            let lease = self.pool.at(ip).expect("what is bound is a lease");
            assert!(lease.client.port == port && lease.state(self.now) == State::Bound, "{lease:?}");
            let others = before.at(ip).filter(|lease| lease.state(self.now) != State::Free);
            assert!(own == Some(ip) || others.is_none_or(|held| held.client == lease.client), "{others:?}");
            self.may_be_given(ip, own);
        }
        for (port, _) in SEATS {
            let held = |state| matches!(state, State::Offered | State::Bound);
            let of_port = self.pool.iter().filter(|(_, lease)| lease.client.port == port);
            let count = of_port.filter(|(_, lease)| held(lease.state(self.now))).count();
            assert!(count <= DHCP_LEASES_PER_PORT, "{port} has {count}");
        }
        if let Some(reply) = outcome.reply {
            let request = Message::from_client(message).expect("only what is a message is answered");
            self.is_right(&request, &reply, own);
        }
    }

    /// Whether an address may be given at a port.
    fn may_be_given(&self, ip: Ipv4Addr, own: Option<Ipv4Addr>) {
        match own {
            Some(own) => assert_eq!(ip, own),
            None => {
                assert!(!self.taken.contains(&ip) && ip != HEARD, "{ip} is another's");
                let hosts = Ipv4Addr::new(10, 1, 0, 2)..=Ipv4Addr::new(10, 1, 0, 62);
                assert!(hosts.contains(&ip), "{ip} is no host's");
            }
        }
    }

    /// Whether a reply keeps to RFC 2131.
    fn is_right(&self, request: &Message, frame: &[u8], own: Option<Ipv4Addr>) {
        let datagram = Datagram::parse(frame).expect("a reply is a datagram");
        assert_eq!(datagram.src, Endpoint::new(GATEWAY, DHCP_SERVER));
        let payload = datagram.payload;
        options_are_whole(&payload[HEADER_LEN..]);
        let reply = Message::from_server(payload).expect("a reply is a message");
        assert_eq!((reply.xid(), reply.giaddr()), (request.xid(), request.giaddr()));
        assert_eq!((reply.mac(), reply.address(code::SERVER_IDENTIFIER)), (request.mac(), Some(GATEWAY)));
        assert_eq!(reply.option(code::CLIENT_IDENTIFIER), request.option(code::CLIENT_IDENTIFIER));
        let never = [code::REQUESTED_ADDRESS, code::PARAMETER_REQUEST_LIST, code::MAX_MESSAGE_SIZE];
        assert!(never.iter().all(|&code| reply.option(code).is_none()), "{reply:?}");
        assert!(payload.len() <= request.size_max().max(300), "{} bytes", payload.len());
        let asked_to_inform = request.kind() == Kind::Inform;
        match reply.kind() {
            Kind::Offer | Kind::Ack if !asked_to_inform => {
                assert!(reply.seconds(code::LEASE_TIME).is_some_and(|seconds| (10..=600).contains(&seconds)));
                self.may_be_given(reply.yiaddr(), own);
            }
            Kind::Ack => {
                assert!(reply.seconds(code::LEASE_TIME).is_none() && reply.yiaddr().is_unspecified());
            }
            Kind::Nak => {
                assert!(reply.yiaddr().is_unspecified() && reply.seconds(code::LEASE_TIME).is_none())
            }
            Kind::Offer
            | Kind::Discover
            | Kind::Request
            | Kind::Decline
            | Kind::Release
            | Kind::Inform
            | Kind::Unknown(_) => {
                panic!("a server says no such thing: {reply:?}")
            }
        }
        let relay = request.giaddr();
        assert!(relay.is_unspecified() || LINK.contains(&relay), "a relay of another network is answered");
        let to = if asked_to_inform {
            Endpoint::new(request.ciaddr(), DHCP_CLIENT)
        } else if !relay.is_unspecified() {
            Endpoint::new(relay, DHCP_SERVER)
        } else if reply.kind() == Kind::Nak {
            Endpoint::new(Ipv4Addr::BROADCAST, DHCP_CLIENT)
        } else if !request.ciaddr().is_unspecified() {
            Endpoint::new(request.ciaddr(), DHCP_CLIENT)
        } else if request.wants_broadcast() || request.mac().is_none() {
            Endpoint::new(Ipv4Addr::BROADCAST, DHCP_CLIENT)
        } else {
            Endpoint::new(reply.yiaddr(), DHCP_CLIENT)
        };
        assert_eq!(datagram.dst, to, "RFC 2131 4.1");
    }

    /// A server answers what the uplink's client has said last.
    fn answer(&mut self, input: &mut Input<'_>) {
        let (Some(kind), Some(how), Some(host)) = (input.byte(), input.byte(), input.byte()) else { return };
        let said = self.said.clone();
        let Some(request) = said.and_then(|frame| Message::from_client(Datagram::parse(&frame)?.payload))
        else {
            return;
        };
        let mut reply = Builder::reply(&request, (kind % 9).into());
        reply.yiaddr(Ipv4Addr::new(if how & 1 == 0 { 192 } else { host }, 0, 2, host));
        reply.put_addresses(code::SERVER_IDENTIFIER, &[Ipv4Addr::new(192, 0, 2, 254 - (how >> 7))]);
        reply.put(code::SUBNET_MASK, &[255, 255, 255, if how & 2 == 0 { 0 } else { host }]);
        for (bit, code) in [(4, code::LEASE_TIME), (8, code::RENEWAL_TIME), (16, code::REBINDING_TIME)] {
            if how & bit != 0 {
                reply.put(code, &u32::from(input.byte().unwrap_or(0)).pow(4).to_be_bytes());
            }
        }
        if how & 32 != 0 {
            reply.put_addresses(code::ROUTER, &[Ipv4Addr::new(192, 0, 2, input.byte().unwrap_or(0))]);
        }
        if how & 64 != 0 {
            let len = input.byte().unwrap_or(0) & 0x1f;
            reply.put(code::CLASSLESS_ROUTES, input.bytes(usize::from(len)));
        }
        let message = reply.finish();
        self.hear(&message);
    }

    /// The uplink's client hears a message.
    fn hear(&mut self, payload: &[u8]) {
        let datagram = Datagram {
            src_mac: GATEWAY_MAC,
            dst_mac: UPLINK_MAC,
            src: Endpoint::new(GATEWAY, DHCP_SERVER),
            dst: Endpoint::new(Ipv4Addr::BROADCAST, DHCP_CLIENT),
            payload,
        };
        self.client.receive(&datagram, self.now);
        self.poll();
    }

    fn poll(&mut self) {
        if let Some(config) = self.client.config() {
            let (address, ip) = (config.address, config.address.addr());
            assert!(!ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast() && !ip.is_loopback());
            let is_of_link = address.prefix_len() < 31;
            assert!(
                !is_of_link || (ip != address.network() && ip != address.broadcast()),
                "{address} is no host"
            );
            assert!(config.gateway.is_none_or(|gateway| address.contains(&gateway) && gateway != ip));
        }
        if let Some(frame) = self.client.poll(self.now) {
            let said = Datagram::parse(&frame).expect("a datagram");
            assert!(Message::from_client(said.payload).is_some(), "a client's message");
            assert!(self.client.due() > self.now, "it says the same again at once");
            self.said = Some(frame);
        }
    }
}

/// Every option lies within the message, and nothing but padding follows the end.
fn options_are_whole(mut options: &[u8]) {
    loop {
        let (&kind, rest) = options.split_first().expect("an end");
        match kind {
            code::PAD => options = rest,
            code::END => {
                return assert!(rest.iter().all(|&byte| byte == code::PAD), "after the end: {rest:?}");
            }
            _ => {
                let (&len, rest) = rest.split_first().expect("a length");
                options = rest.get(usize::from(len)..).expect("an option's data");
            }
        }
    }
}
