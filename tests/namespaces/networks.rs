//! Networks between real stacks: addresses that stay, addresses of others, routes of the host.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::frames::Tap;
use vswitchd::lab::rig::{GATEWAY, INTERNET, Rig, UPLINK, on_uplink};
use vswitchd::lab::traffic::{PATIENCE, SILENCE, ping};

use crate::switch::{Switch, inside, state_dir, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("addresses_outlive_the_switch_however_it_ends", addresses_outlive_the_switch_however_it_ends),
    ("a_torn_document_and_a_full_disk_are_said", a_torn_document_and_a_full_disk_are_said),
    ("a_state_directory_that_cannot_be_is_said", a_state_directory_that_cannot_be_is_said),
    ("an_address_that_is_answered_is_not_given", an_address_that_is_answered_is_not_given),
    ("a_new_network_avoids_the_routes_of_every_table", a_new_network_avoids_the_routes_of_every_table),
    (
        "a_host_that_forwards_keeps_out_of_a_routed_network",
        a_host_that_forwards_keeps_out_of_a_routed_network,
    ),
    ("the_default_route_follows_the_networks", the_default_route_follows_the_networks),
];

/// What is listed of a port.
fn row(switch: &Switch, name: &str) -> Result<Value, Failed> {
    let ports = switch.list("port ls")?;
    let mut rows = ports.as_array().ok_or("no list")?.iter();
    Ok(rows.find(|row| row["name"] == name).ok_or_else(|| format!("no {name} in {ports}"))?.clone())
}

/// Attaches a namespace under this name, with more options.
fn add(switch: &Switch, netns: &Netns, name: &str, more: &str) -> Outcome {
    switch.done(&format!("port add {name} --netns {} {more}", netns.path().display())).map(drop)
}

/// What is said of the state directory.
fn problem(switch: &Switch) -> Result<Option<String>, Failed> {
    Ok(switch.list("status")?["state"]["problem"].as_str().map(str::to_owned))
}

fn addresses_outlive_the_switch_however_it_ends() -> Outcome {
    let rig = Rig::new()?;
    let names = ["web", "db", "cache"];
    let namespaces = [rig.container("web")?, rig.container("db")?, rig.container("cache")?];
    let switch = Switch::start(&rig, &[])?;
    switch.done("network create back --subnet 10.20.0.0/24")?;
    for (name, netns) in names.iter().zip(&namespaces) {
        add(&switch, netns, name, "")?;
    }
    switch.done("network connect back db --mac 02:00:00:00:00:77")?;
    let addresses = |switch: &Switch| -> Result<Vec<(Value, Value)>, Failed> {
        let rows = names.map(|name| row(switch, name).map(|row| (row["ip"].clone(), row["mac"].clone())));
        rows.into_iter().collect()
    };
    let before = addresses(&switch)?;
    ensure!(before[0].0 == "10.99.0.2" && before[2].0 == "10.99.0.4", "{before:?}");
    // In good order, and then as if it had crashed.
    ensure!(switch.terminate()?.0.success(), "it does not end well");
    for after_crash in [false, true] {
        let switch = Switch::start(&rig, &[])?;
        switch.done("network create back --subnet 10.20.0.0/24")?;
        let new = rig.container("new")?;
        add(&switch, &new, "new", "")?;
        ensure!(row(&switch, "new")?["ip"] == "10.99.0.5", "{}", row(&switch, "new")?);
        for (name, netns) in names.iter().zip(&namespaces).rev() {
            add(&switch, netns, name, "")?;
        }
        ensure!(addresses(&switch)? == before, "{:?} was, {:?} is", before, addresses(&switch)?);
        let second: Value = serde_json::from_str(&switch.done("-o json network connect back db")?)?;
        ensure!(second["ip"] == "10.20.0.2" && second["mac"] == "02:00:00:00:00:77", "{second}");
        ensure!(ping(&namespaces[0], inside(3), PATIENCE)?.is_some(), "db does not answer web");
        if after_crash {
            return Ok(());
        }
        kill(switch.pid(), Signal::SIGKILL)?;
        let gone = || Ok(namespaces[0].run(netlink::links)??.len() == 1);
        wait_until(Duration::from_secs(5), "its interfaces are gone", gone)?;
    }
    Ok(())
}

fn a_torn_document_and_a_full_disk_are_said() -> Outcome {
    let rig = Rig::new()?;
    let (one, two) = (rig.container("one")?, rig.container("two")?);
    let switch = Switch::start(&rig, &[])?;
    add(&switch, &one, "one", "--ip 10.99.0.77")?;
    ensure!(switch.terminate()?.0.success(), "it does not end well");
    let document = state_dir(&rig).join("addresses.json");
    let whole = fs::read(&document)?;
    fs::write(&document, &whole[..whole.len() / 2])?;

    let switch = Switch::start(&rig, &[])?;
    let said = problem(&switch)?.ok_or("nothing is said of the torn document")?;
    ensure!(said.contains("addresses.json.damaged"), "{said}");
    ensure!(fs::read(document.with_extension("json.damaged"))? == whole[..whole.len() / 2], "not kept");
    // Whatever is written to it fails as on a full disk.
    symlink("/dev/full", document.with_extension("json.new"))?;
    add(&switch, &one, "one", "")?;
    let says_full = || Ok(problem(&switch)?.is_some_and(|said| said.contains("no space left")));
    wait_until(Duration::from_secs(2), "it is said that the disk is full", says_full)?;
    ensure!(switch.done("status")?.contains("no space left"), "{}", switch.done("status")?);
    add(&switch, &two, "two", "")?;
    ensure!(ping(&one, inside(3), PATIENCE)?.is_some(), "it does not forward any more");
    let works_again = || Ok(!problem(&switch)?.is_some_and(|said| said.contains("no space left")));
    wait_until(Duration::from_secs(8), "it is written when there is room again", works_again)?;
    ensure!(fs::read_to_string(&document)?.contains("10.99.0.3"), "{}", fs::read_to_string(&document)?);
    Ok(())
}

fn a_state_directory_that_cannot_be_is_said() -> Outcome {
    let rig = Rig::new()?;
    let one = rig.container("one")?;
    let switch = Switch::start(&rig, &["--state-dir", "/proc/vswitchd"])?;
    add(&switch, &one, "one", "")?;
    ensure!(problem(&switch)?.is_some_and(|said| said.contains("not remembered")), "{:?}", problem(&switch)?);
    ensure!(ping(&one, inside(1), PATIENCE)?.is_some(), "the gateway does not answer");
    ensure!(switch.terminate()?.0.success(), "it does not end well");
    Ok(())
}

fn an_address_that_is_answered_is_not_given() -> Outcome {
    let rig = Rig::new()?;
    let (one, two, vm) = (rig.container("one")?, rig.container("two")?, rig.container("vm")?);
    let switch = Switch::start(&rig, &[])?;
    // Somebody behind a device of the host has chosen an address, and says nothing.
    rig.switch.run(|| {
        netlink::create_veth("vm0", "eth0-vm")?;
        netlink::move_link("eth0-vm", &vm)?;
        netlink::set_up("vm0")
    })??;
    vm.run(|| {
        netlink::add_address("eth0-vm", on_uplink(inside(2)))?;
        netlink::set_up("eth0-vm")
    })??;
    switch.done("port add vm --device vm0 --no-address")?;
    add(&switch, &one, "one", "")?;
    ensure!(row(&switch, "one")?["ip"] == "10.99.0.3", "{}", row(&switch, "one")?);
    let refused = switch.ctl(&format!("port add two --netns {} --ip 10.99.0.2", two.path().display()))?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(5) && said.contains("is in use on the network"), "{said}");
    // It is gone, and so is its claim.
    vm.run(|| netlink::set_down("eth0-vm"))??;
    switch.done("port rm vm")?;
    add(&switch, &two, "two", "")?;
    ensure!(row(&switch, "two")?["ip"] == "10.99.0.2", "{}", row(&switch, "two")?);
    ensure!(ping(&one, inside(2), PATIENCE)?.is_some(), "two does not answer one");
    Ok(())
}

fn a_new_network_avoids_the_routes_of_every_table() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    // What a VPN does: a route in the main table, one in a table of its own, and one to nowhere.
    for route in
        ["172.30.9.0/24 via 192.0.2.254", "172.31.0.0/16 via 192.0.2.254 table 51820", "blackhole 10.0.0.0/9"]
    {
        let mut ip = Command::new("ip");
        ip.args(["route", "add"]).args(route.split(' '));
        ensure!(rig.switch.spawn(&mut ip)?.wait()?.success(), "ip route add {route}");
    }
    switch.done("network create one")?;
    let networks = switch.list("network ls")?;
    let one = networks.as_array().ok_or("no list")?.iter().find(|network| network["name"] == "one");
    ensure!(one.is_some_and(|one| one["subnet"] == "10.128.0.0/16"), "{networks}");
    Ok(())
}

fn a_host_that_forwards_keeps_out_of_a_routed_network() -> Outcome {
    let rig = Rig::new()?;
    let one = rig.container("one")?;
    let switch = Switch::start(&rig, &[])?;
    rig.switch.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    switch.done("network create plain --subnet 203.0.113.0/24 --mode routed")?;
    add(&switch, &one, "one", "--network plain")?;
    let address = "203.0.113.2".parse()?;
    rig.internet.run(|| netlink::add_route(on_uplink(address).trunc(), UPLINK))??;
    let wire = Tap::open(&rig.internet)?;
    for _ in 0..3 {
        ensure!(ping(&rig.internet, address, PATIENCE)?.is_some(), "it does not answer");
        ensure!(ping(&one, INTERNET, PATIENCE)?.is_some(), "the internet does not answer");
    }
    // What the host passes on comes back with one hop less.
    let source = GATEWAY.octets();
    let comes_back = |frame: &[u8]| frame.get(26..30) == Some(&source[..]) && frame.get(22) == Some(&63);
    ensure!(!wire.sees(SILENCE, comes_back), "the host sends packets for the network back");
    Ok(())
}

fn the_default_route_follows_the_networks() -> Outcome {
    let rig = Rig::new()?;
    let one = rig.container("one")?;
    let switch = Switch::start(&rig, &[])?;
    switch.done("network create deep --subnet 10.21.0.0/24 --mode internal")?;
    switch.done("network create out --subnet 10.22.0.0/24")?;
    let by = || -> Result<Option<String>, Failed> {
        let routes = one.run(netlink::routes)??;
        let default = routes.iter().find(|route| route.prefix.prefix_len() == 0);
        Ok(default.and_then(|route| route.gateway).map(|gateway| gateway.to_string()))
    };
    add(&switch, &one, "one", "--network deep")?;
    // An internal network's gateway leads to other networks, if a rule allows that, and gives way to one that leads out.
    for (words, expected, leads_out) in [
        ("status", "10.21.0.1", false),
        ("network connect out one", "10.22.0.1", true),
        ("network connect default one --ifname lan0", "10.22.0.1", true),
        ("network disconnect out one", "10.99.0.1", true),
        ("network set default mode=internal", "10.99.0.1", false),
        ("network set deep mode=nat", "10.21.0.1", true),
        ("network set deep mode=internal", "10.21.0.1", false),
        ("network set default mode=nat mtu=1400", "10.99.0.1", true),
        ("network connect out one", "10.99.0.1", true),
    ] {
        switch.done(words)?;
        ensure!(by()?.as_deref() == Some(expected), "after {words}: {:?}", by()?);
        let answers = ping(&one, INTERNET, SILENCE).unwrap_or(None).is_some();
        ensure!(answers == leads_out, "after {words}");
    }
    let links = one.run(netlink::links)??;
    let lan = links.iter().find(|link| link.name == "lan0").ok_or("no lan0")?;
    ensure!(lan.mtu == 1400, "{lan:?}");
    Ok(())
}
