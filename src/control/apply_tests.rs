//! The books under every request, right and wrong, on a host in memory.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::apply::Control;
use super::error::{Error, Kind};
use super::host::{HostRoute, UplinkFacts};
use super::memory::MemoryHost;
use super::request::Request;
use super::response::{NetworkInfo, PortInfo, PublicationInfo, Response};
use super::uplink::UplinkSettings;
use crate::addr::{Endpoint, MacAddr, PortId, Protocol};
use crate::clock::Time;
use crate::host::guard::Hidden;
use crate::host::state::StateDir;
use crate::shared::{Ask, Conntrack, Shared};
use crate::snapshot::{Pins, Snapshot, UplinkMode};
use crate::table::conntrack::{Seen, Timeouts};
use crate::table::route_table::Via;

pub(super) const NOW: Time = Time::from_secs(10);
pub(super) const UPLINK_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);

pub(super) type Switch = Control<MemoryHost>;

pub(super) fn facts() -> UplinkFacts {
    let route = |prefix: &str, gateway: Option<Ipv4Addr>| HostRoute {
        prefix: prefix.parse().unwrap(),
        gateway,
        ifindex: 2,
        metric: 0,
    };
    UplinkFacts {
        index: 2,
        mac: "52:54:00:00:00:01".parse().unwrap(),
        mtu: 1500,
        up: true,
        addresses: vec!["192.0.2.5/24".parse().unwrap()],
        host_addresses: vec![Ipv4Addr::LOCALHOST, UPLINK_IP],
        routes: vec![route("0.0.0.0/0", Some(Ipv4Addr::new(192, 0, 2, 1))), route("192.0.2.0/24", None)],
    }
}

/// A switch with an uplink, the network "default" on 10.1.0.0/24, and the namespaces red and blue.
pub(super) fn switch() -> Switch {
    let nat_ports = 61_000..=61_999;
    let conntrack = Conntrack::new(1000, nat_ports.clone(), 1);
    let shared = Arc::new(Shared::new(1, Snapshot::new(), conntrack));
    let mut host = MemoryHost { uplinks: [("eth0".to_owned(), facts())].into(), ..MemoryHost::default() };
    host.namespaces.insert("red".into(), (4, 100));
    host.namespaces.insert("blue".into(), (4, 101));
    host.interfaces.extend(["eth0".to_owned(), "veth0".to_owned()]);
    host.host_ports.extend([(Protocol::Tcp, 22), (Protocol::Tcp, 61_500)]);
    let mut control = Control::new(shared, host, StateDir::none());
    let settings = UplinkSettings {
        name: "eth0".into(),
        mode: UplinkMode::Shared,
        dhcp: false,
        address: None,
        gateway: None,
        nat_ports,
    };
    control.open_uplink(settings, NOW).unwrap();
    ask(&mut control, "network create", r#"{"name":"default","subnet":"10.1.0.0/24"}"#).unwrap();
    control
}

pub(super) fn ask(control: &mut Switch, what: &str, body: &str) -> Result<Response, Error> {
    let (noun, verb) = what.split_once(' ').unwrap_or((what, ""));
    control.apply(Request::parse(noun, verb, body.as_bytes())?, NOW)
}

/// Asks, expects a refusal, and checks that nothing whatsoever changed.
pub(super) fn refused(control: &mut Switch, what: &str, body: &str) -> Error {
    let before = state(control);
    let error = ask(control, what, body).unwrap_err();
    assert_eq!(state(control), before, "{what} {body}: {error}");
    assert!(!error.hint.is_empty(), "{error}");
    error
}

/// Everything that a request could have changed.
pub(super) fn state(control: &Switch) -> String {
    let snapshot = control.shared().snapshot_full();
    let host = control.host();
    let publications: BTreeSet<_> = snapshot.publications.iter().map(|p| format!("{p:?}")).collect();
    format!(
        "{:?} {:?} {publications:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        control.network_ls(),
        control.port_ls(),
        snapshot.policy.rules(),
        snapshot.policy.defaults(),
        snapshot.timeouts,
        host.open,
        host.reserved,
        host.guard,
        host.interfaces
    )
}

pub(super) fn port(control: &mut Switch, body: &str) -> PortInfo {
    let Response::Port(port) = ask(control, "port add", body).unwrap() else { panic!("{body}") };
    *port
}

pub(super) fn publish(control: &mut Switch, body: &str) -> PublicationInfo {
    let Response::Publication(publication) = ask(control, "publish add", body).unwrap() else {
        panic!("{body}")
    };
    publication
}

pub(super) fn network(control: &mut Switch, body: &str) -> NetworkInfo {
    let Response::Network(network) = ask(control, "network create", body).unwrap() else { panic!("{body}") };
    network
}

/// What the guard hides of a protocol.
fn hidden(control: &Switch, wanted: Protocol) -> Vec<(Ipv4Addr, RangeInclusive<u16>)> {
    let ports = |hidden: &Hidden| match hidden {
        Hidden::Ports { protocol, address, ports } if *protocol == wanted => Some((*address, ports.clone())),
        Hidden::Ports { .. } | Hidden::Network(_) => None,
    };
    control.host().guard.iter().filter_map(ports).collect()
}

#[test]
fn a_port_gets_the_lowest_free_address_and_is_announced() {
    let mut control = switch();
    let web = port(&mut control, r#"{"name":"web","netns":"red"}"#);
    assert_eq!((web.ip, web.ifname.as_str()), (Some(Ipv4Addr::new(10, 1, 0, 2)), "eth0"));
    assert_eq!(web.mac, Some(MacAddr::from_ipv4(Ipv4Addr::new(10, 1, 0, 2))));
    port(&mut control, r#"{"name":"db","netns":"blue","ip":"10.1.0.3"}"#);
    let third = port(&mut control, r#"{"name":"vm","tap":"tap0"}"#);
    assert_eq!(third.ip, Some(Ipv4Addr::new(10, 1, 0, 4)));
    ask(&mut control, "port rm", r#"{"name":"web"}"#).unwrap();
    // What it had is kept for it while others come.
    let new = port(&mut control, r#"{"name":"new","netns":"red","ifname":"eth9"}"#);
    assert_eq!(new.ip, Some(Ipv4Addr::new(10, 1, 0, 5)));
    assert_eq!(port(&mut control, r#"{"name":"web","netns":"red"}"#), web);

    let host = control.host();
    let (plan, started) = &host.open[&PortId(4)];
    assert!(*started);
    assert_eq!(plan.address, Some("10.1.0.2/24".parse().unwrap()));
    assert_eq!(plan.gateway, Some(Ipv4Addr::new(10, 1, 0, 1)));
    let (announced, frame) = &host.injected[0];
    assert_eq!((*announced, frame.len()), (PortId(1), 42));
    assert_eq!(frame[..6], [0xff; 6]);
    assert_eq!(frame[6..12], web.mac.unwrap().0);
    assert_eq!(frame[28..32], [10, 1, 0, 2]);
    // A TAP for a VM is configured by the VM: nothing announces it.
    assert!(host.injected.iter().all(|(id, _)| *id != PortId(3)));
}

#[test]
fn adding_the_same_again_succeeds_and_changes_nothing() {
    let mut control = switch();
    for (what, body) in [
        ("network create", r#"{"name":"lan","subnet":"10.2.0.0/24","mode":"internal"}"#),
        ("port add", r#"{"name":"web","netns":"red","ip":"10.1.0.9","mac":"02:00:00:00:00:09"}"#),
        ("port add", r#"{"name":"vm","tap":"tap0"}"#),
        ("publish add", r#"{"spec":"8080-8081:80-81","to":"web"}"#),
    ] {
        let first = ask(&mut control, what, body).unwrap();
        let before = state(&control);
        assert_eq!(ask(&mut control, what, body).unwrap(), first, "{what} {body}");
        assert_eq!(state(&control), before);
    }
    for (what, body) in [
        ("network create", r#"{"name":"lan","subnet":"10.3.0.0/24","mode":"internal"}"#),
        ("network create", r#"{"name":"lan","subnet":"10.2.0.0/24"}"#),
        ("network create", r#"{"name":"lan","subnet":"10.2.0.0/24","mode":"internal","mtu":1400}"#),
        ("port add", r#"{"name":"web","netns":"blue"}"#),
        ("port add", r#"{"name":"web","netns":"red","ip":"10.1.0.10"}"#),
        ("port add", r#"{"name":"web","netns":"red","mac":"02:00:00:00:00:0a"}"#),
        ("port add", r#"{"name":"web","netns":"red","ifname":"eth1"}"#),
        ("port add", r#"{"name":"web","netns":"red","network":"lan"}"#),
        ("publish add", r#"{"spec":"8080-8081:90-91","to":"web"}"#),
        ("publish add", r#"{"spec":"8080-8081:80-81","to":"vm"}"#),
    ] {
        assert_eq!(refused(&mut control, what, body).kind, Kind::Exists, "{what} {body}");
    }
    // The same name, but the namespace behind it is another one by now.
    control.host_mut().namespaces.insert("red".into(), (4, 200));
    let error = refused(&mut control, "port add", r#"{"name":"web","netns":"red","ip":"10.1.0.9"}"#);
    assert!(error.kind == Kind::Exists && error.why.contains("older namespace"), "{error}");
}

#[test]
fn every_wrong_use_is_named_and_leaves_no_trace() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red","ip":"10.1.0.9"}"#);
    port(&mut control, r#"{"name":"bare","netns":"blue","no_address":true}"#);
    network(&mut control, r#"{"name":"inner","subnet":"10.9.0.0/24","mode":"internal"}"#);
    port(&mut control, r#"{"name":"hidden","tap":"tap9","network":"inner"}"#);
    publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#);
    for (what, body, kind, says) in [
        ("network create", r#"{"name":"n","subnet":"10.1.0.5/24"}"#, Kind::Usage, "write 10.1.0.0/24"),
        ("network create", r#"{"name":"n","subnet":"10.2.0.0/31"}"#, Kind::Usage, "/8 to /30"),
        ("network create", r#"{"name":"n","subnet":"0.0.0.0/0"}"#, Kind::Usage, "/8 to /30"),
        ("network create", r#"{"name":"n","subnet":"224.1.0.0/16"}"#, Kind::Usage, "never forwarded"),
        (
            "network create",
            r#"{"name":"n","subnet":"10.1.0.0/16"}"#,
            Kind::Exists,
            "overlaps network default",
        ),
        ("network create", r#"{"name":"n","subnet":"10.1.0.128/25"}"#, Kind::Exists, "overlaps network"),
        ("network create", r#"{"name":"n","subnet":"192.0.0.0/16"}"#, Kind::Exists, "the uplink's own"),
        (
            "network create",
            r#"{"name":"n","subnet":"10.2.0.0/24","gateway":"10.3.0.1"}"#,
            Kind::Usage,
            "outside the network",
        ),
        (
            "network create",
            r#"{"name":"n","subnet":"10.2.0.0/24","gateway":"10.2.0.255"}"#,
            Kind::Usage,
            "broadcast",
        ),
        ("network create", r#"{"name":"n","subnet":"10.2.0.0/24","mtu":67}"#, Kind::Usage, "choose 68 to"),
        ("network create", r#"{"name":"n","subnet":"10.2.0.0/24","mtu":65535}"#, Kind::Usage, "choose 68 to"),
        ("network rm", r#"{"name":"nope"}"#, Kind::NotFound, "no such network"),
        ("network rm", r#"{"name":"default"}"#, Kind::Exists, "has 2 ports"),
        ("network inspect", r#"{"name":"nope"}"#, Kind::NotFound, "no such network"),
        ("port add", r#"{"name":"a","netns":"green"}"#, Kind::NotFound, "no such namespace"),
        ("port add", r#"{"name":"a"}"#, Kind::Usage, "nothing to attach to"),
        ("port add", r#"{"name":"a","netns":"red","tap":"b"}"#, Kind::Usage, "several things"),
        ("port add", r#"{"name":"a","tap":"b","ifname":"c"}"#, Kind::Usage, "inside a namespace"),
        ("port add", r#"{"name":"a","netns":"red","network":"x"}"#, Kind::NotFound, "no such network"),
        ("port add", r#"{"name":"a","netns":"red"}"#, Kind::Exists, "interface name is taken"),
        ("port add", r#"{"name":"a","tap":"veth0"}"#, Kind::Exists, "interface name is taken"),
        ("port add", r#"{"name":"a","device":"eth7"}"#, Kind::NotFound, "no such interface"),
        ("port add", r#"{"name":"a","device":"eth0"}"#, Kind::Exists, "is an uplink"),
        ("port add", r#"{"name":"a","device":"tap9"}"#, Kind::Exists, "is port hidden already"),
        ("port add", r#"{"name":"a","tap":"t","ip":"10.1.0.9"}"#, Kind::Exists, "of port web"),
        ("port add", r#"{"name":"a","tap":"t","ip":"10.1.0.1"}"#, Kind::Exists, "the gateway"),
        ("port add", r#"{"name":"a","tap":"t","ip":"10.1.0.0"}"#, Kind::Usage, "itself"),
        ("port add", r#"{"name":"a","tap":"t","ip":"10.1.0.255"}"#, Kind::Usage, "broadcast"),
        ("port add", r#"{"name":"a","tap":"t","ip":"10.2.0.9"}"#, Kind::Usage, "10.1.0.1 to 10.1.0.254"),
        ("port add", r#"{"name":"a","tap":"t","mac":"03:00:00:00:00:01"}"#, Kind::Usage, "multicast"),
        ("port add", r#"{"name":"a","tap":"t","mac":"00:00:00:00:00:00"}"#, Kind::Usage, "no station"),
        ("port add", r#"{"name":"a","tap":"t","mac":"02:76:0a:01:00:01"}"#, Kind::Exists, "the gateway"),
        ("port add", r#"{"name":"a","tap":"t","mac":"02:76:0a:01:00:09"}"#, Kind::Exists, "of port web"),
        ("port rm", r#"{"name":"nope"}"#, Kind::NotFound, "no such port"),
        ("port set", r#"{"name":"nope","settings":[]}"#, Kind::NotFound, "no such port"),
        ("port set", r#"{"name":"web","settings":[{"mtu":1}]}"#, Kind::Usage, "choose 68 to"),
        ("fdb ageing", r#"{"seconds":9}"#, Kind::Usage, "choose 10 to 1000000"),
        ("fdb add", r#"{"mac":"01:00:00:00:00:01","port":"web"}"#, Kind::Usage, "no station"),
        ("fdb add", r#"{"mac":"02:76:0a:01:00:01","port":"web"}"#, Kind::Exists, "the gateway"),
        ("fdb add", r#"{"mac":"02:76:0a:01:00:09","port":"bare"}"#, Kind::Exists, "of port web"),
        ("fdb del", r#"{"mac":"02:76:0a:01:00:09"}"#, Kind::Exists, "of port web"),
        ("fdb del", r#"{"mac":"02:00:00:00:00:01"}"#, Kind::NotFound, "no such entry"),
        ("fdb show", r#"{"port":"nope"}"#, Kind::NotFound, "no such port"),
        ("ct ls", r#"{"port":"nope"}"#, Kind::NotFound, "no such port"),
        ("ct timeouts", r#"{"settings":[{"key":"x","seconds":1}]}"#, Kind::Usage, "one of tcp_established"),
        ("ct timeouts", r#"{"settings":[{"key":"udp","seconds":0}]}"#, Kind::Usage, "choose 1 to"),
        ("publish add", r#"{"spec":"9090:80","to":"nope"}"#, Kind::NotFound, "no such port"),
        ("publish add", r#"{"spec":"22:80","to":"web"}"#, Kind::Exists, "process of this host"),
        ("publish add", r#"{"spec":"20-30:20-30","to":"web"}"#, Kind::Exists, "process of this host"),
        ("publish add", r#"{"spec":"8080:81","to":"web"}"#, Kind::Exists, "published already"),
        (
            "publish add",
            r#"{"spec":"192.0.2.5:8070-8080:1-11","to":"web"}"#,
            Kind::Exists,
            "published already",
        ),
        ("publish add", r#"{"spec":"192.0.2.9:9090:80","to":"web"}"#, Kind::NotFound, "one of 192.0.2.5"),
        ("publish add", r#"{"spec":"9090:80","to":"bare"}"#, Kind::Usage, "no address to publish"),
        ("publish add", r#"{"spec":"9090:80","to":"hidden"}"#, Kind::Usage, "internal network"),
        ("publish rm", r#"{"spec":"9090"}"#, Kind::NotFound, "is not published"),
        ("publish rm", r#"{"spec":"8080:81"}"#, Kind::NotFound, "is not published"),
        ("drops", r#"{"port":"nope"}"#, Kind::NotFound, "no such port"),
    ] {
        let error = refused(&mut control, what, body);
        assert_eq!(error.kind, kind, "{what} {body}: {error}");
        assert!(error.to_string().contains(says), "{what} {body}: {error}");
    }
}

#[test]
fn a_port_is_secured_with_the_addresses_that_it_is_listed_with() {
    let mut control = switch();
    let web = port(&mut control, r#"{"name":"web","netns":"red"}"#);
    let bare = port(&mut control, r#"{"name":"bare","netns":"blue","no_address":true}"#);
    let vm = port(&mut control, r#"{"name":"vm","device":"veth0","ip":"10.1.0.77"}"#);
    let pins = |control: &Switch| -> Vec<Option<Pins>> {
        let snapshot = control.shared().snapshot_full();
        snapshot.ports.iter().flatten().skip(1).map(|port| port.pins).collect()
    };
    let expected = [&web, &bare, &vm].map(|port| Some(Pins { mac: port.mac, ip: port.ip }));
    assert_eq!(pins(&control), expected);
    assert!(web.mac.is_some() && bare.mac.is_some() && vm.mac.is_none() && bare.ip.is_none());
    assert_eq!(control.shared().snapshot().port(PortId::UPLINK).unwrap().pins, None);
    let inspect = |control: &mut Switch| {
        let Response::PortDetail(detail) = ask(control, "port inspect", r#"{"name":"web"}"#).unwrap() else {
            panic!()
        };
        serde_json::to_value(detail).unwrap()
    };
    assert_eq!(inspect(&mut control)["security"], "on");
    ask(&mut control, "port set", r#"{"name":"web","settings":[{"security":"off"},{"storm":7},{"macs":9}]}"#)
        .unwrap();
    assert_eq!(pins(&control)[0], None);
    let detail = inspect(&mut control);
    assert_eq!(detail["security"], "off");
    let policing = serde_json::json!({"broadcast":7,"multicast":7,"unknown":7,"moves":10,"macs":9});
    assert_eq!(detail["policing"], policing);
    ask(&mut control, "port set", r#"{"name":"web","settings":[{"security":"on"},{"unknown":0}]}"#).unwrap();
    assert_eq!(pins(&control), expected);
    assert_eq!(inspect(&mut control)["policing"]["unknown"], 0);
}

#[test]
fn a_port_is_found_by_the_address_that_it_has_now() {
    let mut control = switch();
    let at = |control: &Switch, ip: &str| {
        let snapshot = control.shared().snapshot_full();
        snapshot.port_with(ip.parse().unwrap()).map(|port| port.name.clone())
    };
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    port(&mut control, r#"{"name":"db","netns":"blue"}"#);
    assert_eq!(at(&control, "10.1.0.2").as_deref(), Some("web"));
    ask(&mut control, "port set", r#"{"name":"web","settings":[{"security":"off"}]}"#).unwrap();
    assert_eq!(at(&control, "10.1.0.2").as_deref(), Some("web"));
    ask(&mut control, "port rm", r#"{"name":"web"}"#).unwrap();
    assert_eq!((at(&control, "10.1.0.2"), at(&control, "10.1.0.3").as_deref()), (None, Some("db")));
    let snapshot = control.shared().snapshot_full();
    let ports: Vec<_> =
        snapshot.networks.iter().flatten().flat_map(|network| network.ports.clone()).collect();
    assert_eq!(ports, [PortId(2)]);
}

#[test]
fn row_06_the_ageing_time_can_be_set() {
    let mut control = switch();
    let seconds = |control: &mut Switch, body: &str| {
        let Response::Timeouts(timeouts) = ask(control, "fdb ageing", body).unwrap() else { panic!() };
        timeouts[0].seconds
    };
    assert_eq!(seconds(&mut control, "{}"), 300);
    for value in [10, 1_000_000] {
        assert_eq!(seconds(&mut control, &format!(r#"{{"seconds":{value}}}"#)), value);
    }
    assert_eq!(control.shared().snapshot().mac_ageing.as_secs(), 1_000_000);
}

#[test]
fn what_the_kernel_refuses_is_rolled_back() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    for (what, body) in [
        ("port add", r#"{"name":"a","netns":"blue"}"#),
        ("port add", r#"{"name":"b","tap":"t"}"#),
        ("port set", r#"{"name":"web","settings":[{"connections":5},{"mtu":1400}]}"#),
        ("publish add", r#"{"spec":"8080:80","to":"web"}"#),
    ] {
        control.host_mut().fail_next = true;
        assert_eq!(refused(&mut control, what, body).kind, Kind::Failed, "{what} {body}");
        assert!(ask(&mut control, what, body).is_ok(), "{what} {body}");
    }
}

#[test]
fn a_publication_is_hidden_from_the_host_and_goes_with_its_port() {
    let mut control = switch();
    let hidden = |control: &Switch| hidden(control, Protocol::Tcp);
    // The port that a process of the host listens on stays the host's.
    let masquerade = [(UPLINK_IP, 61_000..=61_499), (UPLINK_IP, 61_501..=61_999)];
    assert_eq!(hidden(&control), masquerade);

    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    let made = publish(&mut control, r#"{"spec":"8080-8082:80-82","to":"web"}"#);
    assert_eq!((made.port_first, made.port_last, made.target_first), (8080, 8082, 80));
    assert_eq!(made.target_port, "web");
    assert_eq!(hidden(&control).last(), Some(&(UPLINK_IP, 8080..=8082)));
    assert_eq!(control.host().reserved.len(), 1);
    let found = |control: &Switch, port| {
        let snapshot = control.shared().snapshot_full();
        let listen = crate::addr::Endpoint::new(UPLINK_IP, port);
        snapshot
            .publications
            .find(Protocol::Tcp, listen)
            .and_then(|p| p.targets_at(listen.port).next())
            .map(|target| target.endpoint.port)
    };
    assert_eq!((found(&control, 8081), found(&control, 8083)), (Some(81), None));

    ask(&mut control, "port rm", r#"{"name":"web"}"#).unwrap();
    assert_eq!(found(&control, 8081), None);
    assert_eq!(hidden(&control), masquerade);
    assert!(control.host().reserved.is_empty() && control.host().open.is_empty());

    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#);
    ask(&mut control, "publish rm", r#"{"spec":"8080"}"#).unwrap();
    assert!(control.host().reserved.is_empty());
    assert_eq!(ask(&mut control, "publish rm", r#"{"spec":"8080","if_exists":true}"#).unwrap(), {
        Response::Done(super::response::Done { changed: 0 })
    });
}

/// Has masquerading take `port` for the first port of the switch.
fn masquerade(control: &Switch, port: u16) -> Option<u16> {
    let seen = Seen { protocol: Protocol::Udp, segment: None, is_answer: false, bytes: 60, now: NOW };
    let (owner, timeouts) = (PortId(1), &Timeouts::default());
    let ask = Ask { seen, timeouts, owner, quota: 100, nat_ports: 100, hairpin: false, called: false };
    let inside = Endpoint::new(Ipv4Addr::new(10, 1, 0, 9), port);
    let remote = Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), 53);
    let made = control.shared().conntrack.outward(inside, remote, UPLINK_IP, &ask);
    made.ok().map(|made| made.endpoint.port)
}

fn holds(control: &Switch, port: u16) -> bool {
    control.shared().conntrack.holder(Protocol::Udp, port).is_some()
}

#[test]
fn row_79_a_port_belongs_to_one_of_masquerading_publications_and_the_host_in_any_order() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red","ip":"10.1.0.9"}"#);
    // Published after a connection has it, and before.
    assert_eq!(masquerade(&control, 61_100), Some(61_100));
    publish(&mut control, r#"{"spec":"61100:53/udp","to":"web"}"#);
    assert!(!holds(&control, 61_100), "the connection keeps what is published");
    assert_ne!(masquerade(&control, 61_100), Some(61_100));
    // What the publication itself binds is no process of the host.
    control.host_mut().host_ports.insert((Protocol::Udp, 61_100));
    control.follow_host_ports(NOW);
    let hidden = |control: &Switch, port: u16| {
        hidden(control, Protocol::Udp).iter().filter(|(_, ports)| ports.contains(&port)).count()
    };
    assert!(hidden(&control, 61_100) > 0);
    // Bound by the host after a connection has it, and before.
    assert_eq!(masquerade(&control, 61_200), Some(61_200));
    assert_eq!((hidden(&control, 61_200), hidden(&control, 61_300)), (1, 1));
    control.host_mut().host_ports.extend([(Protocol::Udp, 61_200), (Protocol::Udp, 61_300)]);
    control.follow_host_ports(NOW);
    assert!(!holds(&control, 61_200), "the connection keeps what the host has");
    assert_eq!((hidden(&control, 61_200), hidden(&control, 61_300)), (0, 0), "the host sees its packets");
    for port in [61_200, 61_300] {
        assert_ne!(masquerade(&control, port), Some(port));
    }
    // Given back, it rests.
    control.host_mut().host_ports.remove(&(Protocol::Udp, 61_300));
    control.follow_host_ports(NOW);
    assert_eq!(hidden(&control, 61_300), 1);
}

#[test]
fn row_78_a_loopback_publication_is_reserved_and_not_at_the_uplink() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    publish(&mut control, r#"{"spec":"127.0.0.1:8080:80","to":"web"}"#);
    assert_eq!(control.host().reserved.len(), 1);
    let at =
        |ip| control.shared().snapshot().publications.find(Protocol::Tcp, Endpoint::new(ip, 8080)).cloned();
    assert!(at(UPLINK_IP).is_none());
    assert!(at(Ipv4Addr::LOCALHOST).is_some(), "for the relay; packets for it are martians");
    let both = [Protocol::Tcp, Protocol::Udp].map(|protocol| hidden(&control, protocol));
    assert!(!both.iter().flatten().any(|(_, ports)| ports.contains(&8080)));
    ask(&mut control, "publish rm", r#"{"spec":"127.0.0.1:8080"}"#).unwrap();
    assert!(control.host().reserved.is_empty());
}

#[test]
fn row_57_an_uplink_that_moves_into_a_network_carries_nothing_until_they_are_apart() {
    let mut control = switch();
    let address = |control: &Switch| control.shared().snapshot().uplinks[0].address;
    let before = address(&control);
    assert!(before.is_some());
    let mut moved = facts();
    moved.addresses = vec!["10.1.0.77/24".parse().unwrap()];
    moved.host_addresses = vec![Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 1, 0, 77)];
    control.host_mut().uplinks.insert("eth0".to_owned(), moved);
    control.follow_uplinks(NOW);
    assert_eq!(address(&control), None);
    ask(&mut control, "network rm", r#"{"name":"default"}"#).unwrap();
    assert!(address(&control).is_some(), "the network was in its way");
}

#[test]
fn a_device_that_vanishes_takes_its_port_with_it() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    ask(&mut control, "fdb add", r#"{"mac":"02:00:00:00:00:01","port":"web"}"#).unwrap();
    control.port_gone(PortId(1), NOW);
    control.port_gone(PortId(1), NOW);
    control.port_gone(PortId(77), NOW);
    assert!(control.port_ls().is_empty() && control.host().open.is_empty());
    let Response::Fdb(entries) = ask(&mut control, "fdb show", "").unwrap() else { panic!() };
    assert!(entries.iter().all(|entry| entry.r#type == "local"), "{entries:?}");
}

#[test]
fn the_uplink_is_followed() {
    let mut control = switch();
    let uplink = |control: &Switch| control.shared().snapshot_full().uplinks[0].clone();
    let generation = |control: &Switch| control.shared().generation();
    let remote = Ipv4Addr::new(203, 0, 113, 1);
    assert_eq!(uplink(&control).routes.lookup(remote), Some(Via::Gateway(Ipv4Addr::new(192, 0, 2, 1))));

    let before = generation(&control);
    control.follow_uplinks(NOW);
    assert_eq!(generation(&control), before, "nothing changed, nothing is published");

    let moved = UplinkFacts {
        addresses: vec!["198.51.100.7/24".parse().unwrap()],
        host_addresses: vec![Ipv4Addr::new(198, 51, 100, 7)],
        routes: Vec::new(),
        mtu: 1400,
        ..facts()
    };
    let neighbors = uplink(&control).neighbors.clone();
    control.host_mut().uplinks.insert("eth0".to_owned(), moved);
    control.follow_uplinks(NOW);
    let now = uplink(&control);
    assert_eq!(now.address, Some("198.51.100.7/24".parse().unwrap()));
    assert_eq!((now.mtu, now.routes.lookup(remote)), (1400, None));
    assert!(Arc::ptr_eq(&now.neighbors, &neighbors));
    let all = hidden(&control, Protocol::Tcp);
    assert!(all.iter().all(|(address, _)| *address == Ipv4Addr::new(198, 51, 100, 7)));

    control.host_mut().uplinks.clear();
    control.follow_uplinks(NOW);
    assert!(!uplink(&control).up && uplink(&control).address.is_none());
    assert!(control.host().guard.is_empty());
}

#[test]
fn an_uplink_that_cannot_be_opened_leaves_none() {
    let shared = Arc::new(Shared::new(1, Snapshot::new(), Conntrack::new(10, 61_000..=61_009, 1)));
    let host = MemoryHost {
        fail_next: true,
        uplinks: [("eth0".to_owned(), facts())].into(),
        ..MemoryHost::default()
    };
    let mut control = Control::new(shared, host, StateDir::none());
    let settings = UplinkSettings {
        name: "eth0".into(),
        mode: UplinkMode::Shared,
        dhcp: false,
        address: None,
        gateway: None,
        nat_ports: 61_000..=61_009,
    };
    assert!(control.open_uplink(settings.clone(), NOW).is_err());
    let snapshot = control.shared().snapshot_full();
    assert!(snapshot.uplinks.is_empty() && snapshot.port(PortId::UPLINK).is_none());
    control.host_mut().uplinks.clear();
    assert_eq!(control.open_uplink(settings, NOW).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn every_answer_has_the_fields_of_the_contract() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#);
    control
        .shared()
        .snapshot_full()
        .port(PortId(1))
        .unwrap()
        .counters
        .row(0)
        .dropped(crate::drops::DropReason::NoRoute, Time::from_secs(4));
    for (what, fields) in [
        ("network ls", "name subnet gateway mode mtu ports"),
        (
            "port ls",
            "name network kind ip mac netns ifname state rx_packets rx_bytes tx_packets tx_bytes drops",
        ),
        ("fdb show", "network mac port type age_seconds"),
        ("publish ls", "proto ip port_first port_last target_port target_first connections"),
        ("drops", "reason port count last_seconds"),
        ("status", "version uptime_seconds uplink workers io poll ports networks connections"),
    ] {
        let answer = ask(&mut control, what, "").unwrap();
        let json = serde_json::to_value(&answer).unwrap();
        let object = json.get(0).unwrap_or(&json);
        for field in fields.split(' ') {
            assert!(object.get(field).is_some(), "{what}: no {field} in {object}");
        }
    }
    let Response::Drops(drops) = ask(&mut control, "drops", r#"{"port":"web"}"#).unwrap() else { panic!() };
    assert_eq!((drops[0].reason.as_str(), drops[0].last_seconds), ("no-route", 6));
    let Response::Drops(drops) = ask(&mut control, "drops", r#"{"since":5}"#).unwrap() else { panic!() };
    assert!(drops.is_empty());
    let status = serde_json::to_value(ask(&mut control, "status", "").unwrap()).unwrap();
    assert_eq!(status["uplink"]["gateway"], "192.0.2.1");
    assert_eq!(status["uplink"]["address"], "192.0.2.5/24");
}
