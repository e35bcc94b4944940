//! Several uplinks in the books.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::apply::Control;
use super::apply_tests::{NOW, Switch, ask, facts, network, port, publish, refused};
use super::error::Kind;
use super::host::UplinkFacts;
use super::memory::MemoryHost;
use super::response::{Applied, Configuration, Response, Status};
use super::uplink::UplinkSettings;
use crate::addr::{Endpoint, PortId, Protocol, UplinkId};
use crate::host::guard::Hidden;
use crate::host::state::StateDir;
use crate::shared::{Ask, Conntrack, Shared};
use crate::snapshot::{Snapshot, Uplink, UplinkMode};
use crate::table::conntrack::{Seen, Timeouts};
use crate::table::route_table::Via;

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);
const ROUTERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn settings(name: &str) -> UplinkSettings {
    UplinkSettings {
        name: name.into(),
        mode: UplinkMode::Shared,
        dhcp: false,
        address: None,
        gateway: None,
        nat_ports: 61_000..=61_999,
    }
}

fn own(name: &str, address: &str) -> UplinkSettings {
    UplinkSettings { mode: UplinkMode::Own, address: address.parse().ok(), ..settings(name) }
}

/// What the host knows of eth0 and eth1: a default route by each, and a VPN.
fn interfaces() -> [UplinkFacts; 2] {
    let first = facts();
    let route = |prefix: &str, gateway, ifindex, metric| super::host::HostRoute {
        prefix: prefix.parse().unwrap(),
        gateway,
        ifindex,
        metric,
    };
    let mut routes = first.routes.clone();
    routes.extend([
        route("0.0.0.0/0", Some(ROUTERS[1]), 3, 100),
        route("198.51.100.0/24", None, 3, 0),
        route("10.8.0.0/16", None, 9, 0),
    ]);
    let host_addresses = vec![Ipv4Addr::LOCALHOST, FIRST, SECOND];
    let second = UplinkFacts {
        index: 3,
        mac: "52:54:00:00:00:02".parse().unwrap(),
        mtu: 1400,
        addresses: vec!["198.51.100.5/24".parse().unwrap()],
        ..first.clone()
    };
    [first, second].map(|facts| UplinkFacts {
        host_addresses: host_addresses.clone(),
        routes: routes.clone(),
        ..facts
    })
}

fn with(uplinks: impl IntoIterator<Item = UplinkSettings>) -> Switch {
    let shared = Arc::new(Shared::new(1, Snapshot::new(), Conntrack::new(1000, 61_000..=61_999, 1)));
    let [eth0, eth1] = interfaces();
    let there = [("eth0".to_owned(), eth0), ("eth1".to_owned(), eth1)];
    let host = MemoryHost { uplinks: there.into(), is_obliging: true, ..MemoryHost::default() };
    let mut control = Control::new(shared, host, StateDir::none());
    uplinks.into_iter().for_each(|settings| control.open_uplink(settings, NOW).unwrap());
    control
}

/// Two shared uplinks, and a network with a port for each.
fn two() -> Switch {
    let mut control = with([settings("eth0"), settings("eth1")]);
    ask(&mut control, "network create", r#"{"name":"default","subnet":"10.1.0.0/24"}"#).unwrap();
    ask(&mut control, "network create", r#"{"name":"office","subnet":"10.2.0.0/24","uplink":"eth1"}"#)
        .unwrap();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    port(&mut control, r#"{"name":"desk","netns":"blue","network":"office"}"#);
    control
}

fn uplink(control: &Switch, number: u16) -> Arc<Uplink> {
    control.shared().snapshot().uplink(UplinkId(number)).unwrap().clone()
}

/// Makes a connection of a port of the switch to the world, as the data plane does.
fn connect(control: &Switch, name: &str, external: Ipv4Addr) {
    let snapshot = control.shared().snapshot_full();
    let owner = snapshot.ports.iter().flatten().find(|port| port.name == name).unwrap();
    let seen = Seen { protocol: Protocol::Udp, segment: None, is_answer: false, bytes: 100, now: NOW };
    let timeouts = Timeouts::default();
    let ask = Ask {
        seen,
        timeouts: &timeouts,
        owner: owner.id,
        quota: 10,
        nat_ports: 10,
        hairpin: false,
        called: false,
    };
    let inside = Endpoint::new(owner.ip.unwrap(), 1);
    control.shared().conntrack.outward(inside, Endpoint::new(WORLD, 53), external, &ask).unwrap();
}

/// The external addresses of the connections.
fn connections(control: &Switch) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<_> =
        control.shared().conntrack.entries(NOW).iter().map(|connection| connection.outside.ip).collect();
    addresses.sort();
    addresses
}

fn status(control: &mut Switch) -> Status {
    let Response::Status(status) = ask(control, "status", "").unwrap() else { panic!() };
    *status
}

#[test]
fn each_uplink_has_the_routes_that_lead_out_by_it() {
    let mut control = two();
    for (number, other) in [(0, SECOND), (1, FIRST)] {
        let router = ROUTERS[usize::from(number)];
        let via = |ip| uplink(&control, number).routes.lookup(ip);
        assert_eq!(via(WORLD), Some(Via::Gateway(router)));
        assert_eq!(via(router), Some(Via::Link));
        assert_eq!(via(other), Some(Via::Gateway(router)), "not by the other uplink");
        assert_eq!(via(Ipv4Addr::new(10, 8, 1, 1)), Some(Via::Elsewhere), "what is a VPN's stays there");
    }
    let gateways = |control: &mut Switch| -> Vec<_> {
        status(control).uplinks.iter().map(|uplink| (uplink.name.clone(), uplink.gateway)).collect()
    };
    let [eth0, eth1] = ["eth0", "eth1"].map(str::to_owned);
    let both = [(eth0.clone(), Some(ROUTERS[0])), (eth1.clone(), Some(ROUTERS[1]))];
    assert_eq!(gateways(&mut control), both);
    // A host that has one default route has none for the other uplink.
    for facts in control.host_mut().uplinks.values_mut() {
        facts.routes.retain(|route| route.gateway != Some(ROUTERS[1]));
    }
    control.follow_uplinks(NOW);
    assert_eq!(uplink(&control, 1).routes.lookup(WORLD), None);
    assert_eq!(gateways(&mut control), [(eth0, Some(ROUTERS[0])), (eth1, None)]);

    // Then the user says it.
    let mut control =
        with([settings("eth0"), UplinkSettings { gateway: Some(ROUTERS[1]), ..settings("eth1") }]);
    assert_eq!(uplink(&control, 1).routes.lookup(WORLD), Some(Via::Gateway(ROUTERS[1])));
    for facts in control.host_mut().uplinks.values_mut() {
        facts.routes.retain(|route| route.ifindex != 3 || route.gateway.is_none());
    }
    control.follow_uplinks(NOW);
    assert_eq!(uplink(&control, 1).routes.lookup(WORLD), Some(Via::Gateway(ROUTERS[1])));
    assert_eq!(gateways(&mut control), both);
}

#[test]
fn a_network_chooses_its_uplink_and_may_choose_another() {
    let mut control = two();
    let of = |control: &mut Switch, name: &str| {
        let Response::Networks(all) = ask(control, "network ls", "").unwrap() else { panic!() };
        let found = all.into_iter().find(|network| network.name == name).unwrap();
        (found.uplink, found.mtu)
    };
    assert_eq!(of(&mut control, "default"), (Some("eth0".into()), 1500));
    assert_eq!(of(&mut control, "office"), (Some("eth1".into()), 1400), "the MTU of its own uplink");
    let inner = network(&mut control, r#"{"name":"in","subnet":"10.3.0.0/24","mode":"internal"}"#);
    assert_eq!(inner.uplink, None);

    let again = r#"{"name":"office","subnet":"10.2.0.0/24","uplink":"eth1"}"#;
    assert_eq!(network(&mut control, again).mtu, 1400);
    let other = r#"{"name":"office","subnet":"10.2.0.0/24","uplink":"eth0"}"#;
    assert_eq!(refused(&mut control, "network create", other).kind, Kind::Exists);
    for (what, body) in [
        ("network create", r#"{"name":"n","subnet":"10.4.0.0/24","uplink":"eth7"}"#),
        ("network set", r#"{"name":"office","settings":[{"uplink":"eth7"}]}"#),
    ] {
        let error = refused(&mut control, what, body);
        assert_eq!(error.to_string(), "eth7: no such uplink (choose one of eth0, eth1)");
    }

    connect(&control, "web", FIRST);
    connect(&control, "desk", SECOND);
    ask(&mut control, "network set", r#"{"name":"office","settings":[{"uplink":"eth0"}]}"#).unwrap();
    assert_eq!(of(&mut control, "office").0.as_deref(), Some("eth0"));
    assert_eq!(connections(&control), [FIRST], "that of the other network is not concerned");
}

#[test]
fn who_is_called_by_the_uplink_before_goes_on() {
    let mut control = two();
    let snapshot = control.shared().snapshot_full();
    let desk = snapshot.ports.iter().flatten().find(|port| port.name == "desk").unwrap();
    let seen = Seen { protocol: Protocol::Udp, segment: None, is_answer: false, bytes: 100, now: NOW };
    let timeouts = Timeouts::default();
    let ask_for = Ask {
        seen,
        timeouts: &timeouts,
        owner: desk.id,
        quota: 10,
        nat_ports: 10,
        hairpin: false,
        called: false,
    };
    let (outside, inside) = (Endpoint::new(SECOND, 53), Endpoint::new(desk.ip.unwrap(), 53));
    let conntrack = &control.shared().conntrack;
    conntrack.inward(outside, Endpoint::new(WORLD, 9), Some(inside), &ask_for).unwrap();
    connect(&control, "desk", SECOND);
    ask(&mut control, "network set", r#"{"name":"office","settings":[{"uplink":"eth0"}]}"#).unwrap();
    let left = control.shared().conntrack.entries(NOW);
    assert_eq!(left.iter().map(|connection| connection.outside).collect::<Vec<_>>(), [outside]);
}

#[test]
fn the_guard_covers_every_shared_uplink() {
    let mut control = two();
    publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#);
    publish(&mut control, r#"{"spec":"198.51.100.5:8081:80","to":"web"}"#);
    assert_eq!(control.host().guarded, ["eth0", "eth1"]);
    let is_hidden = |control: &Switch, ip: Ipv4Addr, wanted: u16| {
        control.host().guard.iter().any(|hidden| match hidden {
            Hidden::Ports { protocol: Protocol::Tcp, address, ports } => {
                *address == ip && ports.contains(&wanted)
            }
            Hidden::Ports { .. } | Hidden::Network(_) => false,
        })
    };
    for (port, at) in [(61_000, [true, true]), (8080, [true, true]), (8081, [false, true]), (80, [false; 2])]
    {
        assert_eq!([FIRST, SECOND].map(|ip| is_hidden(&control, ip, port)), at, "{port}");
    }
    let error = refused(&mut control, "publish add", r#"{"spec":"192.0.2.99:1:1","to":"web"}"#);
    assert_eq!(
        (error.kind, error.hint.contains("192.0.2.5, 198.51.100.5")),
        (Kind::NotFound, true),
        "{error}"
    );

    // What an uplink has of its own is not the host's: neither hidden from it nor reserved there.
    let mut control = with([settings("eth0"), own("eth1", "198.51.100.77/24")]);
    ask(&mut control, "network create", r#"{"name":"default","subnet":"10.1.0.0/24"}"#).unwrap();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    publish(&mut control, r#"{"spec":"198.51.100.77:8081:80","to":"web"}"#);
    assert_eq!((control.host().guarded.len(), control.host().reserved.len()), (1, 0));
    publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#);
    assert_eq!(control.host().reserved.len(), 1);
    assert!(!is_hidden(&control, Ipv4Addr::new(198, 51, 100, 77), 8081) && is_hidden(&control, FIRST, 8080));
}

#[test]
fn what_happens_to_one_uplink_leaves_the_others_alone() {
    let mut control = two();
    connect(&control, "web", FIRST);
    connect(&control, "desk", SECOND);
    // Unplugged: everything is kept, for it may come back.
    let eth1 = control.host_mut().uplinks.remove("eth1").unwrap();
    let without = |facts: &mut UplinkFacts| facts.host_addresses.retain(|ip| *ip != SECOND);
    control.host_mut().uplinks.get_mut("eth0").map(without);
    control.port_gone(PortId(1), NOW);
    assert!(uplink(&control, 0).up && !uplink(&control, 1).up);
    assert_eq!(connections(&control), [FIRST, SECOND]);
    // It is back with another address: nobody answers to the one before.
    let address = Ipv4Addr::new(198, 51, 100, 6);
    let moved = UplinkFacts {
        index: 17,
        addresses: vec!["198.51.100.6/24".parse().unwrap()],
        host_addresses: vec![FIRST, address],
        ..eth1
    };
    control.host_mut().uplinks.insert("eth1".into(), moved);
    control.follow_uplinks(NOW);
    assert_eq!(connections(&control), [FIRST]);
    let now = uplink(&control, 1);
    assert_eq!((now.up, now.addresses.clone()), (true, vec![address]));

    // With addresses of their own, they have none in common that one could mistake for the other's.
    let mut control = with([own("eth0", "192.0.2.77/24"), own("eth1", "198.51.100.77/24")]);
    ask(&mut control, "network create", r#"{"name":"default","subnet":"10.1.0.0/24","uplink":"eth1"}"#)
        .unwrap();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    let second = Ipv4Addr::new(198, 51, 100, 77);
    connect(&control, "web", second);
    control.host_mut().uplinks.get_mut("eth0").unwrap().mtu = 1300;
    control.follow_uplinks(NOW);
    assert_eq!((connections(&control), uplink(&control, 0).mtu), (vec![second], 1300));
}

#[test]
fn wrong_uplinks_are_refused_and_leave_none() {
    let mut control = with([settings("eth0")]);
    let twice = control.open_uplink(settings("eth0"), NOW).unwrap_err();
    assert_eq!(twice.to_string(), "eth0: is an uplink already (name each interface once)");
    assert_eq!(control.open_uplink(settings("eth9"), NOW).unwrap_err().kind, Kind::NotFound);
    control.host_mut().fail_next = true;
    assert!(control.open_uplink(settings("eth1"), NOW).is_err());
    let snapshot = control.shared().snapshot_full();
    assert!(snapshot.uplinks.len() == 1 && snapshot.port(PortId(1)).is_none());
    // Its number is a port's by now.
    ask(&mut control, "network create", r#"{"name":"default","subnet":"10.1.0.0/24"}"#).unwrap();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    assert_eq!(control.open_uplink(settings("eth1"), NOW).unwrap_err().kind, Kind::Failed);
    let error = refused(&mut control, "port add", r#"{"name":"p","device":"eth0"}"#);
    assert_eq!(error.why, "is an uplink");
}

#[test]
fn two_uplinks_with_one_address_are_not_both_used() {
    let mut control = two();
    let same = vec!["192.0.2.5/24".parse().unwrap()];
    control.host_mut().uplinks.get_mut("eth1").unwrap().addresses = same;
    control.follow_uplinks(NOW);
    assert_eq!([0, 1].map(|number| uplink(&control, number).address.is_some()), [true, false]);
}

#[test]
fn every_uplink_asks_for_its_own_lease() {
    let dhcp = UplinkSettings { mode: UplinkMode::Own, dhcp: true, ..settings("eth1") };
    let mut control = with([settings("eth0"), dhcp]);
    assert_eq!(control.due(), Some(NOW));
    control.serve(NOW);
    let ports: Vec<_> = control.host().sent.iter().map(|(port, _)| *port).collect();
    assert_eq!(ports, [PortId(1)]);
    assert!(uplink(&control, 0).address.is_some() && uplink(&control, 1).address.is_none());
}

#[test]
fn a_file_names_several_uplinks() {
    let mut control = two();
    let options = [("uplink", "eth0"), ("uplink_mode", "shared"), ("uplink", "eth1,mode=own,address=dhcp")];
    control.set_options(options.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    let Response::Configuration(Configuration { text }) = ask(&mut control, "dump", "").unwrap() else {
        panic!()
    };
    assert!(text.contains(r#"uplink = ["eth0", "eth1,mode=own,address=dhcp"]"#), "{text}");
    assert!(text.contains("name = \"office\"") && text.contains("uplink = \"eth1\""), "{text}");
    let apply = |control: &mut Switch, text: &str| -> Applied {
        let body = serde_json::json!({ "text": text }).to_string();
        let Response::Applied(applied) = ask(control, "apply", &body).unwrap() else { panic!() };
        applied
    };
    assert_eq!(apply(&mut control, &text), Applied { changes: vec![], faults: vec![] });
    // The same in tables.
    let networks = text.split_once("[[network]]").map(|(_, rest)| format!("[[network]]{rest}")).unwrap();
    let tables =
        "[[uplink]]\nname = \"eth0\"\n[[uplink]]\nname = \"eth1\"\nmode = \"own\"\naddress = \"dhcp\"\n";
    assert_eq!(
        apply(&mut control, &format!("{tables}{networks}")),
        Applied { changes: vec![], faults: vec![] }
    );
    for (head, line, what) in [
        ("uplink = \"eth0\"\n", 1, "uplink: is eth0 and eth1,mode=own,address=dhcp while the switch runs"),
        ("uplink = [\"eth1\"]\n", 1, "uplink: is eth0 and"),
        ("[[uplink]]\nmode = \"own\"\n", 1, "not an interface name"),
        ("[uplink]\nname = \"eth0\"\nmtu = 1500\n", 1, "unknown field"),
    ] {
        let faults = apply(&mut control, &format!("{head}{networks}")).faults;
        let found = faults.iter().find(|fault| fault.error.to_string().contains(what));
        assert_eq!(found.map(|fault| fault.line), Some(line), "{head}: {faults:?}");
    }
    let moved = networks.replace("uplink = \"eth1\"\n", "");
    assert_eq!(apply(&mut control, &moved).changes, ["network set office mode=nat mtu=1400 uplink=eth0"]);
}

#[test]
fn a_next_hop_is_changed_at_once_and_a_dump_says_so() {
    let mut control = with([UplinkSettings { gateway: Some(ROUTERS[0]), ..own("eth0", "192.0.2.77/24") }]);
    ask(&mut control, "network create", r#"{"name":"default","subnet":"10.1.0.0/24"}"#).unwrap();
    let options = [("uplink", "eth0"), ("uplink_gateway", "192.0.2.1"), ("uplink_mode", "own")];
    control.set_options(options.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    assert_eq!(uplink(&control, 0).routes.lookup(WORLD), Some(Via::Gateway(ROUTERS[0])));
    let other = Ipv4Addr::new(192, 0, 2, 254);
    ask(&mut control, "uplink set", r#"{"name":"eth0","settings":[{"gateway":"192.0.2.254"}]}"#).unwrap();
    assert_eq!(uplink(&control, 0).routes.lookup(WORLD), Some(Via::Gateway(other)));
    assert_eq!(status(&mut control).uplink.and_then(|uplink| uplink.gateway), Some(other));
    let Response::Configuration(Configuration { text }) = ask(&mut control, "dump", "").unwrap() else {
        panic!()
    };
    assert!(
        text.contains(r#"uplink = "eth0,gateway=192.0.2.254""#) && !text.contains("uplink_gateway"),
        "{text}"
    );
    for (body, kind) in [
        (r#"{"name":"eth0","settings":[{"gateway":"198.51.100.1"}]}"#, Kind::Usage),
        (r#"{"name":"eth1","settings":[{"gateway":null}]}"#, Kind::NotFound),
    ] {
        assert_eq!(refused(&mut control, "uplink set", body).kind, kind);
    }
    ask(&mut control, "uplink set", r#"{"name":"eth0","settings":[{"gateway":null}]}"#).unwrap();
    assert_eq!(uplink(&control, 0).routes.lookup(WORLD), None);
    let Response::Uplinks(all) = ask(&mut control, "uplink ls", "").unwrap() else { panic!() };
    assert_eq!(all.iter().map(|uplink| uplink.gateway).collect::<Vec<_>>(), [None]);

    let dhcp = UplinkSettings { mode: UplinkMode::Own, dhcp: true, ..settings("eth1") };
    let mut control = with([dhcp]);
    let error = refused(&mut control, "uplink set", r#"{"name":"eth1","settings":[{"gateway":null}]}"#);
    assert_eq!(error.why, "the DHCP server names the next hop");
}
