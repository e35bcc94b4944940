//! What DHCP clients get, from the frame that was punted to the frame that is sent, and what is kept of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::apply::Control;
use super::apply_tests::{NOW, Switch, ask, switch};
use super::memory::MemoryHost;
use super::response::Response;
use super::uplink::UplinkSettings;
use crate::addr::{Endpoint, MacAddr, NetworkId, PortId};
use crate::clock::Time;
use crate::frame::Offload;
use crate::host::state::StateDir;
use crate::limits::{DHCP_DECLINE_HOLD, PUNTS_PER_TURN};
use crate::service::datagram::Datagram;
use crate::service::dhcp::message::{Builder, Kind, Message, code};
use crate::shared::{Conntrack, Punt, Service, Shared};
use crate::snapshot::{Pins, Snapshot, UplinkMode};
use crate::wire::transport::{DHCP_CLIENT, DHCP_SERVER};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const ZERO: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, last)
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// The default network with the ports vm1 and vm2, which have no address of their own.
fn network() -> Switch {
    let mut control = switch();
    add(&mut control, r#"{"name":"vm1","tap":"t1","no_address":true}"#);
    add(&mut control, r#"{"name":"vm2","tap":"t2","no_address":true}"#);
    control
}

fn add(control: &mut Switch, body: &str) {
    ask(control, "port add", body).unwrap();
}

/// Puts what a client says at a port where control takes it from.
fn punt(control: &Switch, port: &str, payload: &[u8]) {
    let frame = Datagram {
        src_mac: mac(0xee),
        dst_mac: MacAddr::BROADCAST,
        src: Endpoint::new(ZERO, DHCP_CLIENT),
        dst: Endpoint::new(Ipv4Addr::BROADCAST, DHCP_SERVER),
        payload,
    };
    let punt = Punt {
        service: Service::Dhcp,
        ingress: control.port(&port.parse().unwrap()).unwrap().id,
        network: Some(NetworkId(0)),
        bytes: Bytes::from(frame.frame().unwrap()),
        offload: Offload::NONE,
    };
    control.shared().punts.put(punt.ingress, 1, || punt).unwrap();
}

/// Sends what a client says at a port, and returns what that port gets.
fn say(control: &mut Switch, port: &str, now: Time, payload: &[u8]) -> Option<Vec<u8>> {
    let id = control.port(&port.parse().unwrap()).unwrap().id;
    punt(control, port, payload);
    control.serve(now);
    let mut sent = std::mem::take(&mut control.host_mut().sent);
    assert!(sent.len() <= 1 && sent.iter().all(|(to, _)| *to == id), "one answer, and only there");
    sent.pop().map(|(_, frame)| frame)
}

fn read(frame: &[u8]) -> (Datagram<'_>, Message) {
    let datagram = Datagram::parse(frame).expect("a datagram");
    assert_eq!((datagram.src, datagram.dst_mac.is_zero()), (Endpoint::new(GATEWAY, DHCP_SERVER), false));
    (datagram, Message::from_server(datagram.payload).expect("a server's message"))
}

/// The codes of the options in the order in which they stand, read by hand up to the end.
fn codes(payload: &[u8]) -> Vec<u8> {
    let (mut codes, mut at) = (Vec::new(), 240);
    while payload[at] != 255 {
        codes.push(payload[at]);
        at += 2 + usize::from(payload[at + 1]);
    }
    assert!(payload[at + 1..].iter().all(|&byte| byte == 0), "the end is last");
    codes
}

/// What a client with this MAC address says.
fn message(kind: Kind, who: u8) -> Builder {
    Builder::request(7, mac(who), kind)
}

fn discover(control: &mut Switch, port: &str, who: u8, now: Time) -> Option<Ipv4Addr> {
    let offer = say(control, port, now, &message(Kind::Discover, who).finish())?;
    let (_, offer) = read(&offer);
    assert_eq!(offer.kind(), Kind::Offer);
    Some(offer.yiaddr())
}

fn select(control: &mut Switch, port: &str, who: u8, ip: Ipv4Addr, now: Time) -> Option<Kind> {
    let mut request = message(Kind::Request, who);
    request.put_addresses(code::REQUESTED_ADDRESS, &[ip]).put_addresses(code::SERVER_IDENTIFIER, &[GATEWAY]);
    say(control, port, now, &request.finish()).map(|frame| read(&frame).1.kind())
}

/// Gets a client an address.
fn get(control: &mut Switch, port: &str, who: u8, now: Time) -> Ipv4Addr {
    let ip = discover(control, port, who, now).unwrap();
    assert_eq!(select(control, port, who, ip, now), Some(Kind::Ack));
    ip
}

/// What comes of a REQUEST without a server: after a restart of the client, or to keep its address.
fn reboot(control: &mut Switch, port: &str, who: u8, ip: Ipv4Addr, now: Time) -> Option<Kind> {
    let request = message(Kind::Request, who).put_addresses(code::REQUESTED_ADDRESS, &[ip]).finish();
    say(control, port, now, &request).map(|frame| read(&frame).1.kind())
}

fn renew(control: &mut Switch, port: &str, who: u8, ip: Ipv4Addr, now: Time) -> Option<Kind> {
    let request = message(Kind::Request, who).ciaddr(ip).finish();
    say(control, port, now, &request).map(|frame| read(&frame).1.kind())
}

fn pins(control: &Switch, port: &str) -> Option<Pins> {
    let id = control.port(&port.parse().unwrap()).unwrap().id;
    control.shared().snapshot().port(id).unwrap().pins
}

fn dhcp(control: &mut Switch, settings: &str) {
    ask(control, "network dhcp", &format!(r#"{{"name":"default","settings":[{settings}]}}"#)).unwrap();
}

#[test]
fn row_84_replies_have_what_they_must_and_nothing_that_they_must_not() {
    let mut control = network();
    let identifier = [9, 8, 7];
    let ask = |kind, server: bool| {
        let mut message = message(kind, 5);
        message
            .put(code::CLIENT_IDENTIFIER, &identifier)
            .put(code::PARAMETER_REQUEST_LIST, &[3, 50, 55, 57, 1, 6]);
        message.put(code::MAX_MESSAGE_SIZE, &[4, 0]).put(code::RELAY_AGENT_INFORMATION, &[1, 1, 9]);
        message.put(code::HOST_NAME, b"box");
        if server {
            message.put_addresses(code::SERVER_IDENTIFIER, &[GATEWAY]);
        }
        message
    };
    let offer = say(&mut control, "vm1", NOW, &ask(Kind::Discover, false).broadcast().finish()).unwrap();
    let wish = |last| {
        ask(Kind::Request, true).broadcast().put_addresses(code::REQUESTED_ADDRESS, &[ip(last)]).finish()
    };
    let ack = say(&mut control, "vm1", NOW, &wish(2)).unwrap();
    let nak = say(&mut control, "vm1", NOW, &wish(1)).unwrap();
    for (frame, kind) in [(&offer, Kind::Offer), (&ack, Kind::Ack), (&nak, Kind::Nak)] {
        let (datagram, reply) = read(frame);
        let payload = datagram.payload;
        assert_eq!((reply.kind(), reply.xid(), reply.mac()), (kind, 7, Some(mac(5))));
        assert_eq!(payload[..4], [2, 1, 6, 0]);
        assert!(reply.wants_broadcast(), "flags come back");
        assert_eq!(reply.address(code::SERVER_IDENTIFIER), Some(GATEWAY));
        assert_eq!(reply.option(code::CLIENT_IDENTIFIER), Some(&identifier[..]), "RFC 6842");
        let codes = codes(payload);
        assert_eq!(codes.last(), Some(&code::RELAY_AGENT_INFORMATION), "RFC 3046 2.2");
        for never in [code::REQUESTED_ADDRESS, code::PARAMETER_REQUEST_LIST, code::MAX_MESSAGE_SIZE] {
            assert!(!codes.contains(&never), "{kind:?}: {codes:?}");
        }
        if kind == Kind::Nak {
            assert_eq!((reply.yiaddr(), reply.seconds(code::LEASE_TIME)), (ZERO, None));
            assert!(codes.contains(&code::MESSAGE) && !codes.contains(&code::SUBNET_MASK));
            continue;
        }
        assert_eq!((reply.yiaddr(), reply.ciaddr()), (ip(2), ZERO));
        let times =
            [code::LEASE_TIME, code::RENEWAL_TIME, code::REBINDING_TIME].map(|code| reply.seconds(code));
        assert_eq!(times, [Some(3600), Some(1800), Some(3150)]);
        assert_eq!(
            codes[6..9],
            [code::SUBNET_MASK, code::ROUTER, code::DOMAIN_NAME_SERVER],
            "the mask is first"
        );
        assert_eq!(reply.address(code::ROUTER), Some(GATEWAY));
    }
    // Without an identifier, none.
    let offer = say(&mut control, "vm2", NOW, &message(Kind::Discover, 6).finish()).unwrap();
    assert_eq!(read(&offer).1.option(code::CLIENT_IDENTIFIER), None);
}

#[test]
fn row_85_a_reply_goes_to_where_the_client_can_take_it() {
    let mut control = network();
    get(&mut control, "vm1", 5, NOW);
    let all = (MacAddr::BROADCAST, Endpoint::new(Ipv4Addr::BROADCAST, DHCP_CLIENT));
    let relay = (mac(0xee), Endpoint::new(ip(99), DHCP_SERVER));
    let client = (mac(5), Endpoint::new(ip(2), DHCP_CLIENT));
    for combination in 0..8 {
        let [relayed, has_address, broadcast] = [1, 2, 4].map(|bit| combination & bit != 0);
        let send = |control: &mut Switch, wish: Ipv4Addr| {
            let mut request = message(Kind::Request, 5);
            if has_address {
                request.ciaddr(wish);
            } else {
                request.put_addresses(code::REQUESTED_ADDRESS, &[wish]);
            }
            if broadcast {
                request.broadcast();
            }
            let mut payload = request.finish();
            if relayed {
                payload[24..28].copy_from_slice(&ip(99).octets());
            }
            let frame = say(control, "vm1", NOW, &payload).unwrap();
            let (datagram, reply) = read(&frame);
            assert_eq!(reply.giaddr(), if relayed { ip(99) } else { ZERO });
            (reply.kind(), reply.wants_broadcast(), (datagram.dst_mac, datagram.dst))
        };
        let expected = match (relayed, has_address, broadcast) {
            (true, ..) => relay,
            (false, true, _) | (false, false, false) => client,
            (false, false, true) => all,
        };
        assert_eq!(send(&mut control, ip(2)), (Kind::Ack, broadcast, expected), "{combination}");
        let (nak, asked_to_broadcast, to) = send(&mut control, Ipv4Addr::new(192, 168, 0, 9));
        assert_eq!((nak, to), (Kind::Nak, if relayed { relay } else { all }), "{combination}");
        assert!(!relayed || asked_to_broadcast, "the relay is to broadcast it");
    }
    // A relay of a network that we do not serve.
    let mut foreign = message(Kind::Discover, 5).finish();
    foreign[24..28].copy_from_slice(&[192, 168, 0, 1]);
    assert_eq!(say(&mut control, "vm1", NOW, &foreign), None);
}

#[test]
fn row_85_the_client_identifier_is_the_key_where_there_is_one() {
    let mut control = network();
    let mut lease = |hardware: u8, identifier: Option<u8>| {
        let mut discover = message(Kind::Discover, hardware);
        if let Some(identifier) = identifier {
            discover.put(code::CLIENT_IDENTIFIER, &[0, identifier]);
        }
        read(&say(&mut control, "vm1", NOW, &discover.finish()).unwrap()).1.yiaddr()
    };
    assert_eq!((lease(5, Some(1)), lease(6, Some(1))), (ip(2), ip(2)), "other hardware, the same client");
    assert_eq!((lease(5, Some(2)), lease(5, None)), (ip(3), ip(4)), "the same hardware, other clients");
    assert_eq!(lease(5, None), ip(4));
}

#[test]
fn row_86_a_client_that_restarts_is_told_only_what_we_know() {
    let mut control = network();
    assert_eq!(reboot(&mut control, "vm1", 5, ip(9), NOW), None, "we do not know it");
    assert_eq!(
        reboot(&mut control, "vm1", 5, Ipv4Addr::new(192, 168, 0, 9), NOW),
        Some(Kind::Nak),
        "wrong net"
    );
    assert_eq!(get(&mut control, "vm1", 5, NOW), ip(2));
    assert_eq!(reboot(&mut control, "vm1", 5, ip(2), NOW), Some(Kind::Ack));
    assert_eq!(reboot(&mut control, "vm1", 5, ip(3), NOW), Some(Kind::Nak));
    assert_eq!(reboot(&mut control, "vm2", 5, ip(2), NOW), Some(Kind::Nak), "it is another port's");
    assert_eq!(renew(&mut control, "vm1", 5, ip(2), NOW), Some(Kind::Ack));
    assert_eq!(renew(&mut control, "vm1", 5, ip(3), NOW), Some(Kind::Nak));
    assert_eq!(renew(&mut control, "vm2", 6, ip(9), NOW), None);
    // Its time is over, and nobody else has got the address.
    let later = NOW + Duration::from_secs(3601);
    assert_eq!(reboot(&mut control, "vm1", 5, ip(2), later), Some(Kind::Ack));
}

#[test]
fn row_86_declined_addresses_are_bad_released_ones_free_and_another_servers_offer_voids_ours() {
    let mut control = network();
    assert_eq!(get(&mut control, "vm1", 5, NOW), ip(2));
    let mut decline = message(Kind::Decline, 5);
    decline
        .put_addresses(code::REQUESTED_ADDRESS, &[ip(2)])
        .put_addresses(code::SERVER_IDENTIFIER, &[GATEWAY]);
    let decline = decline.finish();
    assert_eq!(say(&mut control, "vm2", NOW, &decline), None);
    assert_eq!(discover(&mut control, "vm1", 5, NOW), Some(ip(2)), "nobody declines for others");
    assert_eq!(say(&mut control, "vm1", NOW, &decline), None);
    assert_eq!(get(&mut control, "vm1", 5, NOW), ip(3));
    assert_eq!(select(&mut control, "vm2", 6, ip(2), NOW), Some(Kind::Nak));
    let later = NOW + DHCP_DECLINE_HOLD;
    assert_eq!(select(&mut control, "vm2", 6, ip(2), later), Some(Kind::Ack));

    let release = message(Kind::Release, 5).ciaddr(ip(3)).finish();
    assert_eq!(pins(&control, "vm1").and_then(|pins| pins.ip), Some(ip(3)));
    assert_eq!(say(&mut control, "vm1", later, &release), None);
    assert_eq!(pins(&control, "vm1").and_then(|pins| pins.ip), None);
    assert_eq!(discover(&mut control, "vm1", 5, later), Some(ip(3)), "the same client, the same address");
    let mut other = message(Kind::Request, 5);
    other.put_addresses(code::REQUESTED_ADDRESS, &[ip(3)]).put_addresses(code::SERVER_IDENTIFIER, &[ip(77)]);
    assert_eq!(say(&mut control, "vm1", later, &other.finish()), None);
    assert_eq!(select(&mut control, "vm2", 7, ip(3), later), Some(Kind::Ack), "it is free for others");
}

#[test]
fn row_86_inform_is_answered_without_a_lease() {
    let mut control = network();
    let ack = say(&mut control, "vm1", NOW, &message(Kind::Inform, 5).ciaddr(ip(77)).finish()).unwrap();
    let (datagram, reply) = read(&ack);
    assert_eq!((reply.kind(), reply.yiaddr(), reply.ciaddr()), (Kind::Ack, ZERO, ip(77)));
    assert_eq!((datagram.dst, datagram.dst_mac), (Endpoint::new(ip(77), DHCP_CLIENT), mac(5)));
    let codes = codes(datagram.payload);
    for time in [code::LEASE_TIME, code::RENEWAL_TIME, code::REBINDING_TIME] {
        assert!(!codes.contains(&time));
    }
    assert!(codes.contains(&code::ROUTER));
    let Response::Leases(leases) = ask(&mut control, "dhcp leases", "{}").unwrap() else { panic!() };
    assert_eq!(leases, []);
}

#[test]
fn row_86_bindings_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let remembering = || {
        let mut control = network();
        control.state = crate::host::state::StateDir::open(directory.path());
        control.dhcp = super::dhcp::DhcpBooks::new(control.state.load(super::dhcp::DOCUMENT));
        let network = control.network("default").unwrap();
        control.dhcp.open(&network, NOW);
        control
    };
    let mut control = remembering();
    assert_eq!((get(&mut control, "vm1", 5, NOW), get(&mut control, "vm2", 6, NOW)), (ip(2), ip(3)));
    drop(control);
    let mut control = remembering();
    assert_eq!(reboot(&mut control, "vm2", 6, ip(3), NOW), Some(Kind::Ack));
    assert_eq!(get(&mut control, "vm1", 7, NOW), ip(4), "nobody else gets them");
    assert_eq!(get(&mut control, "vm1", 5, NOW), ip(2));
    drop(control);
    // Cut in half, it is put aside, and all begins anew.
    let path = directory.path().join("leases.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let mut control = remembering();
    assert!(control.state.problem().is_some_and(|problem| problem.contains("leases.json")));
    assert_eq!(get(&mut control, "vm2", 6, NOW), ip(2));
}

#[test]
fn a_port_with_an_address_gives_it_to_whoever_asks_and_the_book_and_the_pool_do_not_meet() {
    let mut control = network();
    add(&mut control, r#"{"name":"fixed","tap":"t3","ip":"10.1.0.50","no_address":true}"#);
    add(&mut control, r#"{"name":"book","tap":"t4"}"#);
    assert_eq!((get(&mut control, "fixed", 5, NOW), get(&mut control, "fixed", 6, NOW)), (ip(50), ip(50)));
    assert_eq!(get(&mut control, "book", 7, NOW), ip(2));
    assert_eq!(select(&mut control, "fixed", 5, ip(2), NOW), Some(Kind::Nak));
    assert_eq!(select(&mut control, "vm1", 8, ip(50), NOW), Some(Kind::Nak));
    assert_eq!(get(&mut control, "vm1", 8, NOW), ip(3));
    add(&mut control, r#"{"name":"next","tap":"t5"}"#);
    assert_eq!(get(&mut control, "next", 9, NOW), ip(4));
    let error = ask(&mut control, "port add", r#"{"name":"late","tap":"t6","ip":"10.1.0.3"}"#).unwrap_err();
    assert!(error.to_string().contains("leased to a DHCP client at port vm1"), "{error}");
    ask(&mut control, "port rm", r#"{"name":"vm1"}"#).unwrap();
    add(&mut control, r#"{"name":"late","tap":"t6","ip":"10.1.0.3"}"#);
}

#[test]
fn port_security_follows_the_lease() {
    let mut control = network();
    let before = pins(&control, "vm1").unwrap();
    assert_eq!(before.ip, None);
    discover(&mut control, "vm1", 5, NOW);
    assert_eq!(pins(&control, "vm1"), Some(before), "an offer is not a lease");
    get(&mut control, "vm1", 5, NOW);
    assert_eq!(pins(&control, "vm1"), Some(Pins { ip: Some(ip(2)), ..before }));
    let generation = control.shared().generation();
    renew(&mut control, "vm1", 5, ip(2), NOW);
    assert_eq!(control.shared().generation(), generation, "nothing new: flow caches stay");
    let Response::Ports(ports) = ask(&mut control, "port ls", "{}").unwrap() else { panic!() };
    assert_eq!(ports.iter().find(|port| port.name == "vm1").and_then(|port| port.ip), Some(ip(2)));
    for (security, expected) in [("off", None), ("on", Some(Pins { ip: Some(ip(2)), ..before }))] {
        let body = format!(r#"{{"name":"vm1","settings":[{{"security":"{security}"}}]}}"#);
        ask(&mut control, "port set", &body).unwrap();
        assert_eq!(pins(&control, "vm1"), expected);
    }
    // The client has gone without a word, and its time is over.
    let end = NOW + Duration::from_secs(3600);
    assert_eq!(control.due(), Some(end));
    control.serve(end);
    assert_eq!((pins(&control, "vm1"), control.due()), (Some(before), None));
    // A port without security has many guests.
    ask(&mut control, "port set", r#"{"name":"vm2","settings":[{"security":"off"}]}"#).unwrap();
    get(&mut control, "vm2", 6, NOW);
    assert_eq!(pins(&control, "vm2"), None);
}

#[test]
fn settings_are_told_to_clients_at_once() {
    let mut control = network();
    dhcp(&mut control, r#"{"lease":600},{"range":["10.1.0.20","10.1.0.30"]},{"ntp":["10.1.0.9"]}"#);
    dhcp(
        &mut control,
        r#"{"domain":"example.com"},{"search":["a.example"]},{"dns":["10.1.0.8","10.1.0.7"]}"#,
    );
    dhcp(&mut control, r#"{"routes":[{"prefix":"10.9.0.0/16","via":"10.1.0.2"}]}"#);
    let offer = say(&mut control, "vm1", NOW, &message(Kind::Discover, 5).finish()).unwrap();
    let (_, offer) = read(&offer);
    assert_eq!((offer.yiaddr(), offer.seconds(code::LEASE_TIME)), (ip(20), Some(600)));
    assert_eq!(offer.option(code::NTP_SERVERS), Some(&[10, 1, 0, 9][..]));
    assert_eq!(offer.option(code::DOMAIN_NAME_SERVER), Some(&[10, 1, 0, 8, 10, 1, 0, 7][..]));
    assert_eq!(offer.option(code::DOMAIN_NAME), Some(&b"example.com"[..]));
    assert_eq!(offer.option(code::DOMAIN_SEARCH), Some(&b"\x01a\x07example\x00"[..]));
    let routes = [&[16, 10, 9, 10, 1, 0, 2][..], &[0, 10, 1, 0, 1]].concat();
    assert_eq!(offer.option(code::CLASSLESS_ROUTES), Some(&routes[..]), "the default route with the others");
    let short = message(Kind::Discover, 5).put(code::LEASE_TIME, &60_u32.to_be_bytes()).finish();
    let offer = say(&mut control, "vm1", NOW, &short).unwrap();
    assert_eq!(read(&offer).1.seconds(code::LEASE_TIME), Some(60), "a client may want less");

    for wrong in [
        r#"{"lease":1}"#,
        r#"{"range":["10.2.0.1","10.2.0.9"]}"#,
        r#"{"range":["10.1.0.9","10.1.0.8"]}"#,
        r#"{"routes":[{"prefix":"10.9.0.0/16","via":"10.2.0.2"}]}"#,
        r#"{"dns":["0.0.0.0"]}"#,
    ] {
        let body = format!(r#"{{"name":"default","settings":["off",{wrong}]}}"#);
        ask(&mut control, "network dhcp", &body).unwrap_err();
        let Response::Dhcp(info) = ask(&mut control, "network dhcp", r#"{"name":"default"}"#).unwrap() else {
            panic!()
        };
        assert!(info.enabled && info.lease_seconds == 600, "nothing of a wrong request is done");
    }
    dhcp(&mut control, r#""off""#);
    assert!(control.shared().snapshot().networks[0].as_ref().is_some_and(|network| !network.dhcp));
}

/// A server on the uplink answers the last message that the switch has sent there.
fn answer_uplink(control: &mut Switch, kind: Kind, ip: Ipv4Addr, now: Time) {
    let (port, sent) = control.host_mut().sent.pop().expect("a message");
    assert_eq!(port, PortId::UPLINK);
    let datagram = Datagram::parse(&sent).expect("a datagram");
    let request = Message::from_client(datagram.payload).expect("a client's message");
    let server = Ipv4Addr::new(192, 0, 2, 254);
    let mut reply = Builder::reply(&request, kind);
    reply.yiaddr(ip).put_addresses(code::SERVER_IDENTIFIER, &[server]).put_addresses(code::ROUTER, &[server]);
    reply.put(code::SUBNET_MASK, &[255, 255, 255, 0]).put(code::LEASE_TIME, &80_u32.to_be_bytes());
    let (src, dst) = (Endpoint::new(server, DHCP_SERVER), Endpoint::new(ip, DHCP_CLIENT));
    let frame = Datagram { src_mac: mac(9), dst_mac: datagram.src_mac, src, dst, payload: &reply.finish() };
    let punt = Punt {
        service: Service::DhcpClient,
        ingress: PortId::UPLINK,
        network: None,
        bytes: Bytes::from(frame.frame().unwrap()),
        offload: Offload::NONE,
    };
    control.shared().punts.put(punt.ingress, 1, || punt).unwrap();
    control.serve(now);
}

#[test]
fn a_flood_is_served_in_parts_and_ends_with_its_port() {
    let mut control = network();
    let discover = Builder::request(7, mac(5), Kind::Discover).finish();
    for _ in 0..PUNTS_PER_TURN + 8 {
        punt(&control, "vm1", &discover);
    }
    punt(&control, "vm2", &discover);
    control.serve(NOW);
    assert_eq!(control.due(), Some(Time::ZERO), "there is more");
    ask(&mut control, "port rm", r#"{"name":"vm1"}"#).unwrap();
    assert!(control.shared().punts.is_empty(), "another port may have its number next");
    control.serve(NOW);
    assert_ne!(control.due(), Some(Time::ZERO));
}

#[test]
fn the_uplinks_lease_is_followed_and_its_end_as_well() {
    let shared = Shared::new(1, Snapshot::new(), Conntrack::new(1000, 61_000..=61_999, 1));
    let mut facts = super::apply_tests::facts();
    facts.addresses.clear();
    let host = MemoryHost { uplinks: [("eth0".to_owned(), facts)].into(), ..MemoryHost::default() };
    let mut control = Control::new(Arc::new(shared), host, StateDir::none());
    let settings = UplinkSettings {
        name: "eth0".into(),
        mode: UplinkMode::Own,
        dhcp: true,
        address: None,
        gateway: None,
        nat_ports: 61_000..=61_999,
    };
    control.open_uplink(settings, NOW).unwrap();
    let address = |control: &Switch| control.shared().snapshot().uplinks[0].address;
    assert_eq!((address(&control), control.due()), (None, Some(NOW)));
    control.serve(NOW);
    let ip = Ipv4Addr::new(192, 0, 2, 77);
    answer_uplink(&mut control, Kind::Offer, ip, NOW);
    assert_eq!(address(&control), None, "an offer is no lease");
    answer_uplink(&mut control, Kind::Ack, ip, NOW);
    assert_eq!(address(&control).map(|net| net.to_string()), Some("192.0.2.77/24".to_owned()));

    let renewal = NOW + Duration::from_secs(40);
    assert_eq!(control.due(), Some(renewal));
    control.serve(renewal);
    let other = Ipv4Addr::new(192, 0, 2, 78);
    answer_uplink(&mut control, Kind::Ack, other, renewal);
    assert_eq!(address(&control).map(|net| net.addr()), Some(other));

    let end = renewal + Duration::from_secs(80);
    while let Some(due) = control.due().filter(|due| *due < end) {
        control.serve(due);
        assert!(address(&control).is_some());
    }
    control.serve(end);
    assert_eq!(address(&control), None, "nobody has prolonged it");
}
