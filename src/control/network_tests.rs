//! Networks, who is on them and with which address, on a host in memory.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use super::apply::Control;
use super::apply_tests::{NOW, Switch, ask, network, port, publish, refused, state, switch};
use super::error::Kind;
use super::memory::MemoryHost;
use super::response::{Done, NetworkInfo, PortInfo, Response};
use crate::addr::{MacAddr, PortId};
use crate::host::guard::Hidden;
use crate::host::state::StateDir;
use crate::shared::{Conntrack, Shared};
use crate::snapshot::Snapshot;

const fn ip(network: u8, host: u8) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::new(10, network, 0, host))
}

fn interface(control: &mut Switch, what: &str, body: &str) -> PortInfo {
    let Response::Port(port) = ask(control, what, body).unwrap() else { panic!("{what} {body}") };
    *port
}

fn changed(control: &mut Switch, what: &str, body: &str) -> usize {
    let Response::Done(Done { changed }) = ask(control, what, body).unwrap() else { panic!("{what} {body}") };
    changed
}

/// The next hop of the default route by a port's interface.
fn gateway(control: &Switch, id: u16) -> Option<Ipv4Addr> {
    control.host().open[&PortId(id)].0.gateway
}

/// A switch without an uplink that remembers in `directory`.
fn remembering(directory: &Path) -> Switch {
    let conntrack = Conntrack::new(10, 61_000..=61_009, 1);
    let shared = Arc::new(Shared::new(1, Snapshot::new(), conntrack));
    let mut control = Control::new(shared, MemoryHost::default(), StateDir::open(directory));
    control.host_mut().namespaces.insert("red".into(), (4, 100));
    ask(&mut control, "network create", r#"{"name":"default"}"#).unwrap();
    control
}

#[test]
fn names_keep_their_addresses_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut control = remembering(directory.path());
    let names = ["a", "b", "c", "d"];
    let add = |name: &&str| format!(r#"{{"name":"{name}","tap":"tap-{name}"}}"#);
    let first: Vec<_> = names.iter().map(|name| port(&mut control, &add(name))).collect();
    let bare = port(&mut control, r#"{"name":"bare","tap":"tap-bare","no_address":true}"#);
    let odd = r#"{"name":"odd","netns":"red","ip":"172.30.7.7","mac":"02:00:00:00:00:07"}"#;
    port(&mut control, odd);
    control.serve(NOW);
    drop(control);

    let mut control = remembering(directory.path());
    // A new name comes first, the others in another order.
    let new = port(&mut control, r#"{"name":"new","tap":"tap-new"}"#);
    assert_eq!(new.ip, Some(Ipv4Addr::new(172, 30, 0, 6)));
    let again = port(&mut control, r#"{"name":"bare","tap":"tap-bare","no_address":true}"#);
    assert_eq!((again.mac, again.ip), (bare.mac, None));
    for (name, before) in names.iter().zip(&first).rev() {
        let after = port(&mut control, &add(name));
        assert_eq!((after.ip, after.mac), (before.ip, before.mac), "{name}");
    }
    let odd = port(&mut control, r#"{"name":"odd","netns":"red"}"#);
    assert_eq!((odd.ip, odd.mac), (Some(Ipv4Addr::new(172, 30, 7, 7)), Some(MacAddr([2, 0, 0, 0, 0, 7]))));
    // Ports without an address that come later find a MAC address of their own.
    for number in 0..8 {
        port(&mut control, &format!(r#"{{"name":"n{number}","tap":"n{number}","no_address":true}}"#));
    }
}

#[test]
fn a_kept_address_is_given_away_only_when_nothing_else_is_free() {
    let mut control = switch();
    network(&mut control, r#"{"name":"tiny","subnet":"10.5.0.0/29"}"#);
    let add = |name: &str| format!(r#"{{"name":"{name}","tap":"{name}","network":"tiny"}}"#);
    for host in 2..=6 {
        assert_eq!(port(&mut control, &add(&format!("p{host}"))).ip, ip(5, host));
    }
    refused(&mut control, "port add", &add("more"));
    for gone in ["p5", "p3"] {
        changed(&mut control, "port rm", &format!(r#"{{"name":"{gone}"}}"#));
    }
    // Which was added first is forgotten first.
    assert_eq!(port(&mut control, &add("new")).ip, ip(5, 3));
    assert_eq!(port(&mut control, &add("p5")).ip, ip(5, 5));
    let error = refused(&mut control, "port add", &add("p3"));
    assert!(error.why.contains("no address is free"), "{error}");
    // With its network, all that was on it is forgotten.
    for name in ["p2", "p4", "p5", "p6", "new"] {
        changed(&mut control, "port rm", &format!(r#"{{"name":"{name}"}}"#));
    }
    changed(&mut control, "network rm", r#"{"name":"tiny"}"#);
    network(&mut control, r#"{"name":"tiny","subnet":"10.5.0.0/29"}"#);
    assert_eq!(port(&mut control, &add("p6")).ip, ip(5, 2));
}

#[test]
fn an_address_that_somebody_answers_for_is_nobodys_to_give() {
    let mut control = switch();
    let squatter = MacAddr([2, 0, 0, 0, 0, 0x66]);
    for host in [2, 4] {
        control.host_mut().stations.insert(ip(1, host).unwrap(), squatter);
    }
    // Nobody is there who could answer: nobody is asked.
    assert_eq!(port(&mut control, r#"{"name":"a","tap":"a"}"#).ip, ip(1, 2));
    changed(&mut control, "port rm", r#"{"name":"a"}"#);
    port(&mut control, r#"{"name":"vm","device":"veth0","no_address":true}"#);
    assert_eq!(port(&mut control, r#"{"name":"a","tap":"a"}"#).ip, ip(1, 3));
    assert_eq!(port(&mut control, r#"{"name":"b","tap":"b"}"#).ip, ip(1, 5));
    let error = refused(&mut control, "port add", r#"{"name":"c","tap":"c","ip":"10.1.0.4"}"#);
    assert!(error.kind == Kind::Exists && error.why.contains("02:00:00:00:00:66"), "{error}");
    (5..100).for_each(|host| {
        control.host_mut().stations.insert(ip(1, host).unwrap(), squatter);
    });
    let error = refused(&mut control, "port add", r#"{"name":"c","tap":"c"}"#);
    assert!(error.why.contains("are in use"), "{error}");
}

#[test]
fn a_network_without_a_prefix_avoids_what_the_host_and_its_vpns_route() {
    let mut control = switch();
    let prefixes = ["0.0.0.0/0", "172.30.4.0/24", "172.31.255.255/32", "10.0.0.0/9"];
    control.host_mut().routed = prefixes.map(|prefix| prefix.parse().unwrap()).to_vec();
    let one = network(&mut control, r#"{"name":"one"}"#);
    assert_eq!(one.subnet.to_string(), "10.128.0.0/16");
    assert_eq!(network(&mut control, r#"{"name":"two"}"#).subnet.to_string(), "10.129.0.0/16");
    assert_eq!(network(&mut control, r#"{"name":"one"}"#), one);
    control.host_mut().routed.push("10.0.0.0/8".parse().unwrap());
    control.host_mut().routed.push("172.16.0.0/12".parse().unwrap());
    control.host_mut().routed.push("192.168.0.0/16".parse().unwrap());
    let error = refused(&mut control, "network create", r#"{"name":"three"}"#);
    assert!(error.to_string().contains("every private prefix (choose one: --subnet"), "{error}");
    // Whoever names a prefix has chosen.
    network(&mut control, r#"{"name":"three","subnet":"10.7.0.0/16"}"#);
}

#[test]
fn a_port_may_be_on_several_networks_with_one_default_route() {
    let mut control = switch();
    network(&mut control, r#"{"name":"dmz","subnet":"10.2.0.0/24"}"#);
    network(&mut control, r#"{"name":"deep","subnet":"10.3.0.0/24","mode":"internal"}"#);
    let first = port(&mut control, r#"{"name":"web","netns":"red"}"#);
    let connect = r#"{"network":"dmz","port":"web"}"#;
    let second = interface(&mut control, "network connect", connect);
    assert_eq!(
        (second.name.as_str(), second.network.as_str(), second.ifname.as_str()),
        ("web", "dmz", "eth1")
    );
    assert_eq!((second.ip, second.netns.as_deref()), (ip(2, 2), Some("red")));
    let third =
        r#"{"network":"deep","port":"web","ip":"10.3.0.9","mac":"02:00:00:00:00:09","ifname":"deep0"}"#;
    assert_eq!(interface(&mut control, "network connect", third).ip, ip(3, 9));
    assert_eq!((gateway(&control, 1), gateway(&control, 2), gateway(&control, 3)), (ip(1, 1), None, None));
    assert_eq!(control.port_ls().len(), 3);
    for body in [connect, third] {
        let before = state(&control);
        interface(&mut control, "network connect", body);
        assert_eq!(state(&control), before);
    }
    // What was published goes by the interface of the default route.
    assert_eq!(publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#).target_ip, first.ip.unwrap());
    assert_eq!(changed(&mut control, "network disconnect", r#"{"network":"default","port":"web"}"#), 1);
    assert!(control.publish_ls(NOW).is_empty());
    assert_eq!((gateway(&control, 2), gateway(&control, 3)), (ip(2, 1), None));
    assert_eq!(publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#).target_ip, second.ip.unwrap());
    // Connected again, it has what it had, but the default route is where it is.
    let again = interface(&mut control, "network connect", r#"{"network":"default","port":"web"}"#);
    assert_eq!((again.ip, again.mac, gateway(&control, 1)), (first.ip, first.mac, None));
    // A vanished interface takes nothing else along, a removed port all of it.
    control.port_gone(PortId(3), NOW);
    assert_eq!(control.port_ls().len(), 2);
    assert_eq!(changed(&mut control, "port rm", r#"{"name":"web"}"#), 1);
    assert!(control.port_ls().is_empty() && control.host().open.is_empty());
    for name in ["default", "dmz", "deep"] {
        changed(&mut control, "network rm", &format!(r#"{{"name":"{name}"}}"#));
    }
}

#[test]
fn wrong_connections_are_named() {
    let mut control = switch();
    network(&mut control, r#"{"name":"dmz","subnet":"10.2.0.0/24"}"#);
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    port(&mut control, r#"{"name":"vm","tap":"tap0"}"#);
    port(&mut control, r#"{"name":"db","netns":"blue","network":"dmz"}"#);
    for (what, body, kind, says) in [
        ("network connect", r#"{"network":"x","port":"web"}"#, Kind::NotFound, "no such network"),
        ("network connect", r#"{"network":"dmz","port":"x"}"#, Kind::NotFound, "no such port"),
        ("network connect", r#"{"network":"dmz","port":"vm"}"#, Kind::Usage, "not attached to a namespace"),
        ("network connect", r#"{"network":"dmz","port":"web","ip":"10.2.0.2"}"#, Kind::Exists, "of port db"),
        ("network connect", r#"{"network":"dmz","port":"web","ip":"10.1.0.9"}"#, Kind::Usage, "outside"),
        ("network connect", r#"{"network":"dmz","port":"web","ifname":"eth0"}"#, Kind::Exists, "taken"),
        ("network connect", r#"{"network":"default","port":"web","ip":"10.1.0.9"}"#, Kind::Exists, "another"),
        ("network disconnect", r#"{"network":"dmz","port":"web"}"#, Kind::NotFound, "is not connected"),
        ("network disconnect", r#"{"network":"default","port":"web"}"#, Kind::Exists, "nothing but"),
        ("port set", r#"{"name":"web","network":"dmz","settings":[]}"#, Kind::NotFound, "is not connected"),
        ("port inspect", r#"{"name":"web","network":"dmz"}"#, Kind::NotFound, "is not connected"),
    ] {
        let error = refused(&mut control, what, body);
        assert!(error.kind == kind && error.to_string().contains(says), "{what} {body}: {error}");
    }
    assert_eq!(
        changed(&mut control, "network disconnect", r#"{"network":"dmz","port":"web","if_exists":true}"#),
        0
    );
    control.host_mut().namespaces.insert("red".into(), (4, 200));
    let error = refused(&mut control, "network connect", r#"{"network":"dmz","port":"web"}"#);
    assert!(error.why.contains("older namespace"), "{error}");
}

#[test]
fn the_host_has_an_address_on_a_network_when_asked() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    let host = interface(&mut control, "network host-port", r#"{"network":"default"}"#);
    assert_eq!((host.name.as_str(), host.ifname.as_str(), host.ip), ("vsw-default", "vsw-default", ip(1, 3)));
    assert_eq!(host.kind.as_str(), "host");
    let plan = &control.host().open[&PortId(2)].0;
    assert_eq!((plan.address, plan.gateway), ("10.1.0.3/24".parse().ok(), None));
    assert_eq!(control.shared().snapshot().port(PortId(2)).unwrap().host, "10.1.0.3/24".parse().ok());
    let before = state(&control);
    interface(&mut control, "network host-port", r#"{"network":"default","ip":"10.1.0.3"}"#);
    assert_eq!(state(&control), before);
    for (what, body, kind, says) in [
        ("network host-port", r#"{"network":"x"}"#, Kind::NotFound, "no such network"),
        ("network host-port", r#"{"network":"default","ip":"10.1.0.4"}"#, Kind::Exists, "another address"),
        ("publish add", r#"{"spec":"8080:80","to":"vsw-default"}"#, Kind::Usage, "is the host itself"),
        ("network rm", r#"{"name":"default"}"#, Kind::Exists, "has 2 ports"),
    ] {
        let error = refused(&mut control, what, body);
        assert!(error.kind == kind && error.to_string().contains(says), "{what} {body}: {error}");
    }
    let off = r#"{"network":"default","off":true}"#;
    assert_eq!(
        (changed(&mut control, "network host-port", off), changed(&mut control, "network host-port", off)),
        (1, 0)
    );
    assert!(!control.host().interfaces.contains("vsw-default"));
    // The name of an interface is cut where the kernel's ends.
    network(&mut control, r#"{"name":"a-very-long-name","subnet":"10.2.0.0/24"}"#);
    network(&mut control, r#"{"name":"a-very-long-other","subnet":"10.3.0.0/24"}"#);
    let host = interface(&mut control, "network host-port", r#"{"network":"a-very-long-name"}"#);
    assert_eq!(host.ifname, "vsw-a-very-long");
    let error = refused(&mut control, "network host-port", r#"{"network":"a-very-long-other"}"#);
    assert!(error.hint.contains("--ifname"), "{error}");
    interface(&mut control, "network host-port", r#"{"network":"a-very-long-other","ifname":"vsw-other"}"#);
}

#[test]
fn a_network_is_changed_live_and_wholly() {
    let mut control = switch();
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    port(&mut control, r#"{"name":"jumbo","netns":"blue"}"#);
    changed(&mut control, "port set", r#"{"name":"jumbo","settings":[{"mtu":9000}]}"#);
    let set = |control: &mut Switch, settings: &str| {
        changed(control, "network set", &format!(r#"{{"name":"default","settings":[{settings}]}}"#))
    };
    set(&mut control, r#"{"mtu":1400}"#);
    let mtus: Vec<_> = control.host().open.values().map(|(plan, _)| plan.mtu).collect();
    assert_eq!(mtus, [1400, 9000]);
    let is_routed = |control: &Switch| control.host().guard.iter().any(|h| matches!(h, Hidden::Network(_)));
    assert!(!is_routed(&control));
    set(&mut control, r#"{"mode":"routed"}"#);
    assert!(is_routed(&control));
    let error = refused(&mut control, "publish add", r#"{"spec":"8080:80","to":"web"}"#);
    assert!(error.why.contains("by its own address"), "{error}");
    set(&mut control, r#"{"mode":"internal"}"#);
    assert_eq!((gateway(&control, 1), is_routed(&control)), (ip(1, 1), false), "for other networks");
    set(&mut control, r#"{"mode":"nat"}"#);
    assert_eq!((gateway(&control, 1), gateway(&control, 2)), (ip(1, 1), ip(1, 1)));
    publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#);
    for (settings, says) in [
        (r#"{"mode":"routed"}"#, "is published to web"),
        (r#"{"mtu":1300},{"mode":"internal"}"#, "is published to web"),
        (r#"{"mtu":12}"#, "choose 68 to"),
        (r#"{"colour":"red"}"#, "unknown variant"),
    ] {
        let body = format!(r#"{{"name":"default","settings":[{settings}]}}"#);
        let error = refused(&mut control, "network set", &body);
        assert!(error.to_string().contains(says), "{settings}: {error}");
    }
    control.host_mut().fail_next = true;
    refused(&mut control, "network set", r#"{"name":"default","settings":[{"mtu":1300}]}"#);
    control.host_mut().fail_next = true;
    refused(&mut control, "network create", r#"{"name":"lab","subnet":"10.7.0.0/24","mode":"routed"}"#);
    changed(&mut control, "publish rm", r#"{"spec":"8080"}"#);
    control.host_mut().fail_next = true;
    refused(&mut control, "network set", r#"{"name":"default","settings":[{"mode":"routed"}]}"#);
    let Response::Networks(all) = ask(&mut control, "network ls", "").unwrap() else { panic!() };
    let names: Vec<_> = all.iter().map(|NetworkInfo { name, mtu, .. }| (name.as_str(), *mtu)).collect();
    assert_eq!(names, [("default", 1400)]);
}
