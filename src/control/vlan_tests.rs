//! Trunks in the books: VLANs of a port's interface, each on a network of its own, on a host in memory.

use super::apply_tests::{NOW, Switch, ask, network, port, refused, state, switch};
use super::error::Kind;
use super::response::{Done, PortInfo, PortKind, Response};
use crate::addr::{PortId, Vid};
use crate::snapshot::Vlan;

/// A switch with the networks "default", "back" and "dmz", and the VM "vm" on the first, behind a device.
fn world() -> Switch {
    let mut control = switch();
    network(&mut control, r#"{"name":"back","subnet":"10.2.0.0/24"}"#);
    network(&mut control, r#"{"name":"dmz","subnet":"10.3.0.0/24"}"#);
    port(&mut control, r#"{"name":"vm","device":"veth0"}"#);
    control
}

fn connect(control: &mut Switch, body: &str) -> PortInfo {
    let Response::Port(port) = ask(control, "network connect", body).unwrap() else { panic!("{body}") };
    *port
}

fn removed(control: &mut Switch, what: &str, body: &str) -> usize {
    let Response::Done(Done { changed }) = ask(control, what, body).unwrap() else { panic!("{what} {body}") };
    changed
}

fn vid(number: u16) -> Vid {
    number.try_into().unwrap()
}

/// The number of the port's interface on a network, and its trunk.
fn place(control: &Switch, network: &str) -> (PortId, Option<PortId>) {
    let snapshot = control.shared().snapshot_full();
    let on = |id| snapshot.network(id).is_some_and(|there| there.name == network);
    let found = snapshot.ports.iter().flatten().find(|port| port.network.is_some_and(on)).unwrap().clone();
    (found.id, found.vlan.map(|vlan| vlan.trunk))
}

#[test]
fn a_vlan_is_an_interface_with_an_address_and_without_a_device() {
    let mut control = world();
    let trunk = place(&control, "default").0;
    for (body, number) in [
        (r#"{"network":"back","port":"vm","vlan":10}"#, 10),
        (r#"{"network":"dmz","port":"vm","vlan":4094,"ip":"10.3.0.77"}"#, 4094),
    ] {
        let made = connect(&mut control, body);
        assert_eq!(
            (made.kind, made.vlan, made.ifname.as_str()),
            (PortKind::Vlan, Some(vid(number)), "veth0")
        );
        // Asked again, nothing changes.
        let (before, generation) = (state(&control), control.shared().generation());
        assert_eq!(connect(&mut control, body), made);
        assert_eq!((state(&control), control.shared().generation()), (before, generation));
    }
    let Response::NetworkDetail(detail) = ask(&mut control, "network inspect", r#"{"name":"back"}"#).unwrap()
    else {
        panic!()
    };
    assert_eq!(detail.vlans.into_iter().collect::<Vec<_>>(), [("vm".to_owned(), vid(10))]);
    let (back, of) = place(&control, "back");
    assert_eq!(of, Some(trunk));
    let snapshot = control.shared().snapshot_full();
    let vlans = &snapshot.port(trunk).unwrap().vlans;
    assert_eq!((vlans.port(vid(10)), vlans.port(vid(11))), (Some(back), None));
    assert_eq!(snapshot.port(back).unwrap().vlan, Some(Vlan { trunk, vid: vid(10) }));
    // Held to its address; nothing is configured, and nothing announced, in its name.
    let pins = snapshot.port(back).unwrap().pins.unwrap();
    assert_eq!((pins.ip, pins.mac), (Some("10.2.0.2".parse().unwrap()), None));
    assert_eq!(control.host().open[&back].0.address, None);
    assert_eq!(control.host().injected, []);
    // Other changes of either port leave the VLANs alone.
    ask(&mut control, "port set", r#"{"name":"vm","settings":[{"mtu":1400}]}"#).unwrap();
    ask(&mut control, "network set", r#"{"name":"default","settings":[{"mtu":1300}]}"#).unwrap();
    let snapshot = control.shared().snapshot_full();
    assert_eq!(snapshot.port(trunk).unwrap().vlans.port(vid(10)), Some(back));

    assert_eq!(removed(&mut control, "network disconnect", r#"{"network":"back","port":"vm"}"#), 1);
    let snapshot = control.shared().snapshot_full();
    let vlans = &snapshot.port(trunk).unwrap().vlans;
    assert!(vlans.port(vid(10)).is_none() && vlans.port(vid(4094)).is_some());
    assert!(!control.host().open.contains_key(&back));
}

#[test]
fn a_vlan_has_the_mac_address_of_its_interface_and_no_default_route() {
    let mut control = world();
    let web = port(&mut control, r#"{"name":"web","netns":"red","vlan":["back=10","dmz=20"]}"#);
    for (network, number) in [("back", 10), ("dmz", 20)] {
        let body = format!(r#"{{"network":"{network}","port":"web","vlan":{number}}}"#);
        let there = connect(&mut control, &body);
        assert_eq!((there.mac, there.netns.as_deref()), (web.mac, Some("red")));
    }
    // The default route stays where it is configured, and goes to an interface that is.
    ask(&mut control, "network connect", r#"{"network":"dmz","port":"vm","vlan":1}"#).unwrap();
    let first = control.host().open.values().find(|(plan, _)| plan.attachment.netns() == Some("red"));
    assert!(first.is_some_and(|(plan, _)| plan.gateway.is_some()));
    ask(&mut control, "network set", r#"{"name":"default","settings":[{"mode":"internal"}]}"#).unwrap();
    let routes = control.host().open.values().filter(|(plan, _)| plan.gateway.is_some()).count();
    assert_eq!(routes, 1);
    // With its interface, all of its VLANs go.
    assert_eq!(removed(&mut control, "port rm", r#"{"name":"web"}"#), 1);
    assert!(control.host().open.values().all(|(plan, _)| plan.attachment.netns().is_none()));
    let trunk = place(&control, "default").0;
    control.port_gone(trunk, NOW);
    assert!(control.host().open.is_empty() && control.port_ls().is_empty());
}

#[test]
fn a_port_is_added_with_its_vlans_or_not_at_all() {
    let mut control = world();
    let add = |vlans: &str| format!(r#"{{"name":"web","netns":"red","vlan":[{vlans}]}}"#);
    for (vlans, kind, why) in [
        (r#""back=10","nowhere=20""#, Kind::NotFound, "no such network"),
        (r#""back=10","dmz=10""#, Kind::Usage, "two networks, back and dmz"),
        (r#""back=10","back=20""#, Kind::Usage, "network back twice"),
        (r#""default=10""#, Kind::Usage, "network default twice"),
        (r#""back=0""#, Kind::Usage, "1 to 4094"),
        (r#""back""#, Kind::Usage, "NETWORK=VID"),
    ] {
        let error = refused(&mut control, "port add", &add(vlans));
        assert!(error.kind == kind && error.to_string().contains(why), "{vlans}: {error}");
    }
    // The last address of a network is taken: what was done before is undone.
    network(&mut control, r#"{"name":"tiny","subnet":"10.4.0.0/30"}"#);
    connect(&mut control, r#"{"network":"tiny","port":"vm","vlan":7}"#);
    let error = refused(&mut control, "port add", &add(r#""back=10","tiny=20""#));
    assert!(error.why.contains("no address is free"), "{error}");

    port(&mut control, &add(r#""back=10""#));
    let before = state(&control);
    port(&mut control, &add(r#""back=10""#));
    port(&mut control, &add(""));
    assert_eq!(state(&control), before);
    for other in [r#""back=11""#, r#""back=10","dmz=20""#] {
        let error = refused(&mut control, "port add", &add(other));
        assert!(error.kind == Kind::Exists && error.hint.contains("--vlan"), "{error}");
    }
}

#[test]
fn wrong_vlans_are_named() {
    let mut control = world();
    connect(&mut control, r#"{"network":"back","port":"vm","vlan":10}"#);
    ask(&mut control, "network host-port", r#"{"network":"default"}"#).unwrap();
    for (what, body, kind, why) in [
        (
            "network connect",
            r#"{"network":"dmz","port":"vm","vlan":10}"#,
            Kind::Exists,
            "is network back on port vm",
        ),
        ("network connect", r#"{"network":"back","port":"vm","vlan":11}"#, Kind::Exists, "name or VLAN"),
        ("network connect", r#"{"network":"back","port":"vm"}"#, Kind::Exists, "name or VLAN"),
        ("network connect", r#"{"network":"default","port":"vm","vlan":11}"#, Kind::Exists, "name or VLAN"),
        ("network connect", r#"{"network":"dmz","port":"vm"}"#, Kind::Usage, "--vlan VID"),
        ("network connect", r#"{"network":"dmz","port":"vm","vlan":0}"#, Kind::Usage, "1 to 4094"),
        ("network connect", r#"{"network":"dmz","port":"vm","vlan":4095}"#, Kind::Usage, "1 to 4094"),
        (
            "network connect",
            r#"{"network":"dmz","port":"vm","vlan":5,"ifname":"x"}"#,
            Kind::Usage,
            "no interface",
        ),
        ("network connect", r#"{"network":"dmz","port":"vsw-default","vlan":5}"#, Kind::Usage, "is the host"),
        ("network disconnect", r#"{"network":"default","port":"vm"}"#, Kind::Exists, "back is a VLAN of"),
    ] {
        let error = refused(&mut control, what, body);
        assert!(error.kind == kind && error.to_string().contains(why), "{what} {body}: {error}");
    }
    // The kernel refuses: nothing is left.
    control.host_mut().fail_next = true;
    let error = refused(&mut control, "network connect", r#"{"network":"dmz","port":"vm","vlan":5}"#);
    assert!(error.why.contains("out of memory"), "{error}");
}
