//! Requests, right and wrong, to a switch on a host in memory.
//!
//! An input is lines of `NOUN VERB BODY`; noun and verb may be missing. What must hold: nothing panics, a
//! request reads back as what it was written as, a refusal is one line, and the configuration that results
//! hangs together.

use std::net::Ipv4Addr;
use std::sync::Arc;

use vswitchd::clock::Time;
use vswitchd::control::apply::Control;
use vswitchd::control::error::Error;
use vswitchd::control::host::{HostRoute, UplinkFacts};
use vswitchd::control::memory::MemoryHost;
use vswitchd::control::request::Request;
use vswitchd::control::uplink::UplinkSettings;
use vswitchd::host::state::StateDir;
use vswitchd::shared::{Conntrack, Shared};
use vswitchd::snapshot::{Snapshot, UplinkMode};

/// Runs the requests of an input.
pub fn run(input: &[u8]) {
    let mut control = control();
    let mut now = Time::from_secs(10);
    for line in input.split(|&byte| byte == b'\n').take(64) {
        let mut words = line.splitn(3, |&byte| byte == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (noun, verb, body) = (word(), word(), word());
        let (Ok(noun), Ok(verb)) = (str::from_utf8(noun), str::from_utf8(verb)) else { continue };
        now += std::time::Duration::from_secs(1);
        let request = match Request::parse(noun, verb, body) {
            Ok(request) => request,
            Err(error) => {
                one_line(&error);
                continue;
            }
        };
        let (noun, verb) = request.route();
        let written = request.body().expect("a request is JSON");
        assert_eq!(Request::parse(noun, verb, &written).as_ref(), Ok(&request), "it reads back");
        match control.apply(request, now) {
            Ok(response) => drop(serde_json::to_vec(&response).expect("an answer is JSON")),
            Err(error) => one_line(&error),
        }
        hangs_together(&control);
    }
}

pub(super) fn one_line(error: &Error) {
    assert!(!error.to_string().contains('\n'), "{error}");
}

pub(super) fn hangs_together(control: &Control<MemoryHost>) {
    let snapshot = control.shared().snapshot();
    for network in snapshot.networks.iter().flatten() {
        assert!(network.gateway.is_none_or(|gateway| network.subnet.contains(&gateway)));
        assert!(network.ports.iter().all(|&port| snapshot.port(port).is_some()), "{}", network.name);
    }
    for port in snapshot.ports.iter().flatten() {
        let network = port.network.map(|network| snapshot.network(network).expect("the port's network"));
        assert!(network.is_none_or(|network| network.ports.contains(&port.id)), "{}", port.name);
    }
    for publication in snapshot.publications.iter() {
        assert!(publication.targets.iter().all(|t| snapshot.port(t.to).is_some()), "{publication:?}");
        assert!(!publication.targets.is_empty(), "{publication:?} leads nowhere");
    }
    let ports = snapshot.ports.iter().flatten().filter(|port| port.network.is_some());
    assert_eq!(control.host().open.len(), ports.count(), "as many devices as ports");
}

/// A switch with an uplink and two namespaces.
pub(super) fn control() -> Control<MemoryHost> {
    let nat_ports = 61_000..=61_099;
    let conntrack = Conntrack::new(100, nat_ports.clone(), 1);
    let shared = Arc::new(Shared::new(1, Snapshot::new(), conntrack));
    let address = Ipv4Addr::new(192, 0, 2, 5);
    let everywhere = "0.0.0.0/0".parse().expect("a prefix");
    let route =
        HostRoute { prefix: everywhere, gateway: Some(Ipv4Addr::new(192, 0, 2, 1)), ifindex: 2, metric: 0 };
    let facts = UplinkFacts {
        index: 2,
        mac: "52:54:00:00:00:01".parse().expect("a MAC address"),
        mtu: 1500,
        up: true,
        addresses: vec!["192.0.2.5/24".parse().expect("a prefix")],
        host_addresses: vec![address],
        routes: vec![route],
    };
    let mut host = MemoryHost { uplinks: [("eth0".to_owned(), facts)].into(), ..MemoryHost::default() };
    host.namespaces.insert("red".into(), (4, 100));
    host.namespaces.insert("blue".into(), (4, 101));
    host.interfaces.extend(["eth0".to_owned(), "veth0".to_owned()]);
    let mut control = Control::new(shared, host, StateDir::none());
    let uplink = UplinkSettings {
        name: "eth0".into(),
        mode: UplinkMode::Shared,
        dhcp: false,
        address: None,
        gateway: None,
        nat_ports,
    };
    control.open_uplink(uplink, Time::from_secs(1)).expect("an uplink");
    control
}
