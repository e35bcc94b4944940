//! Bridged networks on a host in memory.

use std::net::Ipv4Addr;

use super::apply_tests::{NOW, Switch, ask, network, port, refused, switch};
use super::error::Kind;
use super::host::Attachment;
use super::lan::LanFacts;
use super::request::Request;
use super::response::{Configuration, Response};
use crate::addr::{MacAddr, NetworkId, PortId};
use crate::snapshot::{NetworkMode, Policing};
use crate::table::mac_table::Station;

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 254);
const HOST_MAC: MacAddr = MacAddr([0, 1, 2, 3, 4, 5]);

fn facts() -> LanFacts {
    LanFacts {
        index: 7,
        mac: HOST_MAC,
        mtu: 1500,
        up: true,
        address: "192.168.1.5/24".parse().ok(),
        router: Some(ROUTER),
    }
}

/// A switch with an interface `eth1` that has a LAN behind it, and a bridged network `lan` beside others.
fn bridged() -> (Switch, PortId) {
    let mut control = switch();
    control.host_mut().lans.insert("eth1".into(), facts());
    network(&mut control, r#"{"name":"lan","mode":"bridge","uplink":"eth1"}"#);
    let uplink = control.lans.values().map(|lan| lan.port).next().unwrap();
    (control, uplink)
}

fn lan_of(control: &Switch) -> std::sync::Arc<crate::snapshot::Network> {
    control.network("lan").unwrap()
}

#[test]
fn a_lan_is_what_its_interface_says_and_no_gateway_is_there() {
    let (mut control, uplink) = bridged();
    let lan = lan_of(&control);
    assert_eq!(
        (lan.subnet.to_string().as_str(), lan.router, lan.mtu),
        ("192.168.1.0/24", Some(ROUTER), 1500)
    );
    assert_eq!((lan.gateway, lan.mode, lan.dhcp), (None, NetworkMode::Bridge, false));
    assert_eq!(lan.ports, [uplink]);
    let there = |mac| lan.fdb.lookup(mac, NOW, crate::limits::MAC_AGEING);
    assert_eq!((there(HOST_MAC), there(lan.gateway_mac)), (Station::Local, Station::Local));
    let snapshot = control.shared().snapshot_full();
    assert!(snapshot.network_of(Ipv4Addr::new(192, 168, 1, 9)).is_none(), "nothing is routed there");
    let there = snapshot.port(uplink).unwrap();
    assert!(there.lan && there.policing == Policing::NONE && there.pins.is_some(), "{there:?}");
    let (plan, started) = &control.host().open[&uplink];
    assert_eq!((&plan.attachment, *started), (&Attachment::Uplink { ifname: "eth1".into() }, true));
    // The same again, and something else of that name.
    network(&mut control, r#"{"name":"lan","mode":"bridge","uplink":"eth1"}"#);
    network(&mut control, r#"{"name":"lan"}"#);
    let other = r#"{"name":"lan","mode":"bridge","uplink":"eth1","subnet":"192.168.0.0/16"}"#;
    assert_eq!(refused(&mut control, "network create", other).kind, Kind::Exists);
    ask(&mut control, "network rm", r#"{"name":"lan"}"#).unwrap();
    assert!(!control.host().open.contains_key(&uplink));
    assert!(control.ports.on_network(lan.id).next().is_none());
}

#[test]
fn addresses_there_are_given_by_hand_or_by_others() {
    let (mut control, _) = bridged();
    let web = port(&mut control, r#"{"name":"web","netns":"red","network":"lan","ip":"192.168.1.50"}"#);
    assert_eq!(web.ip, Some(Ipv4Addr::new(192, 168, 1, 50)));
    let id = control.ports.get(&"web".parse().unwrap()).unwrap().id;
    let plan = &control.host().open[&id].0;
    assert_eq!((plan.address, plan.gateway), ("192.168.1.50/24".parse().ok(), Some(ROUTER)));
    let bare = r#"{"name":"vm","tap":"vm0","network":"lan","no_address":true}"#;
    let vm = port(&mut control, bare);
    assert_eq!(vm.ip, None);
    let mac = vm.mac.unwrap();
    // Another interface, another switch: another MAC address.
    assert!(mac != control.mac_on_lan(NetworkId(99), &"vm".parse().unwrap(), 0), "{mac}");
    for (body, kind) in [
        (r#"{"name":"x","tap":"x","network":"lan"}"#, Kind::Usage),
        (r#"{"name":"x","tap":"x","network":"lan","ip":"192.168.1.5"}"#, Kind::Exists),
        (r#"{"name":"x","tap":"x","network":"lan","ip":"192.168.1.254"}"#, Kind::Exists),
        (r#"{"name":"x","tap":"x","network":"lan","ip":"192.168.2.1"}"#, Kind::Usage),
        (r#"{"name":"x","netns":"blue","network":"lan","ip":"192.168.1.60","dns":true}"#, Kind::Usage),
        (r#"{"name":"x","device":"eth1","network":"lan","ip":"192.168.1.60"}"#, Kind::Exists),
    ] {
        assert_eq!(refused(&mut control, "port add", body).kind, kind, "{body}");
    }
}

#[test]
fn only_what_has_an_interface_of_its_own_is_bridged() {
    let (mut control, _) = bridged();
    control.host_mut().lans.insert("eth2".into(), LanFacts { address: None, router: None, ..facts() });
    for (body, kind) in [
        (r#"{"name":"b","mode":"bridge"}"#, Kind::Usage),
        (r#"{"name":"b","mode":"nat","uplink":"eth2"}"#, Kind::NotFound),
        (r#"{"name":"b","mode":"bridge","uplink":"eth9"}"#, Kind::NotFound),
        (r#"{"name":"b","mode":"bridge","uplink":"eth2"}"#, Kind::Usage),
        (r#"{"name":"b","mode":"bridge","uplink":"eth2","subnet":"192.168.1.0/25"}"#, Kind::Exists),
        (r#"{"name":"b","mode":"bridge","uplink":"eth1","subnet":"192.168.7.0/24"}"#, Kind::Exists),
        (r#"{"name":"b","mode":"bridge","uplink":"eth2","subnet":"192.168.7.0/24","mtu":9000}"#, Kind::Usage),
        (
            r#"{"name":"b","mode":"bridge","uplink":"eth2","subnet":"192.168.7.0/24","gateway":"10.0.0.1"}"#,
            Kind::Usage,
        ),
    ] {
        assert_eq!(refused(&mut control, "network create", body).kind, kind, "{body}");
    }
    // The uplink that is translated to.
    control.host_mut().lans.insert("eth0".into(), facts());
    let body = r#"{"name":"b","mode":"bridge","uplink":"eth0","subnet":"192.168.7.0/24"}"#;
    assert_eq!(refused(&mut control, "network create", body).kind, Kind::Exists);
    // A LAN may be what the host routes: it is the host's.
    control.host_mut().routed.push("192.168.7.0/24".parse().unwrap());
    network(
        &mut control,
        r#"{"name":"b","mode":"bridge","uplink":"eth2","subnet":"192.168.7.0/24","mtu":1400}"#,
    );
    let there = control.network("b").unwrap();
    assert_eq!((there.mtu, there.router), (1400, None));
}

#[test]
fn the_interface_goes_and_comes_back() {
    let (mut control, uplink) = bridged();
    port(&mut control, r#"{"name":"web","netns":"red","network":"lan","ip":"192.168.1.50"}"#);
    let station = MacAddr([0, 9, 9, 9, 9, 9]);
    lan_of(&control).fdb.learn(station, uplink, 10, NOW, |_| true);
    control.host_mut().lans.clear();
    control.port_gone(uplink, NOW);
    assert!(!control.host().open.contains_key(&uplink), "let go of");
    assert_eq!(lan_of(&control).fdb.lookup(station, NOW, crate::limits::MAC_AGEING), Station::Unknown);
    assert_eq!(lan_of(&control).ports.len(), 2, "the network waits");
    assert!(control.lan_info(&lan_of(&control)).is_some_and(|uplink| !uplink.up));

    let newer = LanFacts { index: 8, mac: MacAddr([0, 1, 2, 3, 4, 6]), mtu: 1400, ..facts() };
    control.host_mut().lans.insert("eth1".into(), newer.clone());
    control.follow_lans(NOW);
    assert!(control.host().open.get(&uplink).is_some_and(|(_, started)| *started));
    let lan = lan_of(&control);
    assert_eq!(lan.mtu, 1400, "it had the interface's");
    assert_eq!(lan.fdb.lookup(newer.mac, NOW, crate::limits::MAC_AGEING), Station::Local);
    assert_eq!(lan.fdb.lookup(HOST_MAC, NOW, crate::limits::MAC_AGEING), Station::Unknown);
    let snapshot = control.shared().snapshot_full();
    assert!(lan.ports.iter().all(|&id| snapshot.port(id).unwrap().mtu == 1400));
    let generation = snapshot.generation;
    control.follow_lans(NOW);
    assert_eq!(control.shared().generation(), generation, "nothing has changed");
}

#[test]
fn rules_between_a_lan_and_another_network_are_refused_and_others_are_not() {
    let (mut control, _) = bridged();
    port(&mut control, r#"{"name":"web","netns":"red","network":"lan","ip":"192.168.1.50"}"#);
    port(&mut control, r#"{"name":"db","tap":"db0"}"#);
    for (from, to, is_possible) in [
        ("web", "db", false),
        ("db", "network:lan", false),
        ("web", "network:lan", true),
        ("web", "lan", true),
        ("network:lan", "internet", true),
        ("db", "192.168.1.50", true),
        ("web,db", "default", true),
        ("eth1", "web", true),
    ] {
        let body = format!(r#"{{"action":"deny","from":"{from}","to":"{to}"}}"#);
        let answer = ask(&mut control, "policy add", &body);
        assert_eq!(answer.is_ok(), is_possible, "from {from} to {to}: {answer:?}");
    }
    let between = r#"{"from":"default","to":"lan","action":"allow"}"#;
    assert_eq!(refused(&mut control, "policy default", between).kind, Kind::Usage);
}

#[test]
fn what_is_dumped_changes_nothing() {
    let (mut control, _) = bridged();
    port(&mut control, r#"{"name":"web","netns":"red","network":"lan","ip":"192.168.1.50"}"#);
    ask(&mut control, "port set", r#"{"name":"eth1","settings":[{"broadcast":500}]}"#).unwrap();
    let Response::Configuration(Configuration { text }) =
        control.apply(Request::from_line("dump").unwrap(), NOW).unwrap()
    else {
        panic!("no configuration")
    };
    assert!(text.contains("uplink = \"eth1\"") && text.contains("broadcast = 500"), "{text}");
    let apply = |control: &mut Switch, text: &str| {
        let body = serde_json::json!({ "text": text }).to_string();
        let Response::Applied(applied) = ask(control, "apply", &body).unwrap() else { panic!("{text}") };
        (applied.changes, applied.faults)
    };
    assert_eq!(apply(&mut control, &text), (vec![], vec![]));
    let (changes, faults) = apply(&mut control, "[[network]]\nname = \"default\"\n");
    assert_eq!(faults, []);
    assert!(changes.contains(&"network rm lan --if-exists".to_owned()), "{changes:?}");
    assert!(control.lans.is_empty());
    assert_eq!(apply(&mut control, &text).1, []);
    let uplink = control.ports.get(&"eth1".parse().unwrap()).unwrap().id;
    let snapshot = control.shared().snapshot_full();
    assert_eq!(snapshot.port(uplink).unwrap().policing.broadcast, 500);
}
