//! Trunks with real stacks: a machine with VLAN interfaces on the one that it has at the switch.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use vswitchd::addr::MacAddr;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::flood::{Flood, flood};
use vswitchd::lab::machine::Machine;
use vswitchd::lab::rig::{INTERNET, Rig};
use vswitchd::lab::traffic::{PATIENCE, SILENCE, Talk, ping};

use crate::dhcp::found;
use crate::switch::{Switch, wait_until};
use crate::transfer::send_file;
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("vlan::clients_of_others_get_addresses", clients_of_others_get_addresses),
    ("vlan::with_the_machine_all_its_vlans_go", with_the_machine_all_its_vlans_go),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[
    ("vlan::a_file_crosses_by_io_uring", || files_cross(&[], true)),
    ("vlan::a_file_crosses_by_plain_calls", || files_cross(&["--io", "syscall", "--poll", "sleep"], true)),
    ("vlan::a_file_crosses_without_offload", || files_cross(&["--offload", "off"], false)),
    ("vlan::a_device_is_a_trunk_as_well", a_device_is_a_trunk_as_well),
];

const BACK: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
const DMZ: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 10);

/// Bytes of a file: so many super-frames that each kind of them occurs.
const FILE: u64 = 64 << 20;

/// What is listed of a port on a network.
fn row(switch: &Switch, name: &str, network: &str) -> Result<Value, Failed> {
    let detail = switch.list(&format!("port inspect {name} --network {network}"))?;
    ensure!(detail["network"] == network, "{detail}");
    Ok(detail)
}

fn networks(switch: &Switch) -> Outcome {
    switch.done("network create back --subnet 10.20.0.0/24")?;
    switch.done("network create dmz --subnet 10.30.0.0/24")?;
    Ok(())
}

/// A container on a network.
fn container(switch: &Switch, rig: &Rig, name: &str, more: &str) -> Result<Netns, Failed> {
    let netns = rig.container(name)?;
    switch.done(&format!("port add {name} --netns {} {more}", netns.path().display()))?;
    Ok(netns)
}

/// A container on each network that a VLAN leads to.
fn beside(switch: &Switch, rig: &Rig) -> Result<(Netns, Netns), Failed> {
    let db = container(switch, rig, "db", "--network back --ip 10.20.0.10")?;
    let front = container(switch, rig, "front", "--network dmz --ip 10.30.0.10")?;
    Ok((db, front))
}

/// The VLAN interfaces of the machine "vm", with the addresses that the switch has for them.
fn boot(switch: &Switch, vm: &Netns, mac: MacAddr) -> Result<Machine, Failed> {
    let machine = Machine::start(vm, mac, &[10, 20])?;
    for (network, ifname) in [("back", "eth0.10"), ("dmz", "eth0.20")] {
        let ip: Ipv4Addr = row(switch, "vm", network)?["ip"].as_str().unwrap_or_default().parse()?;
        vm.run(|| netlink::add_address(ifname, ipnet::Ipv4Net::new_assert(ip, 24)))??;
    }
    Ok(machine)
}

fn mac_of(switch: &Switch, name: &str) -> Result<MacAddr, Failed> {
    Ok(row(switch, name, "default")?["mac"].as_str().unwrap_or_default().parse()?)
}

/// From one namespace to another, to a server at this address.
fn to<'a>(client: &'a Netns, server: &'a Netns, ip: Ipv4Addr) -> Talk<'a> {
    let at = SocketAddrV4::new(ip, 5001);
    Talk { client, to: at, server, at }
}

/// Files and datagrams cross VLANs both ways, and the books balance.
fn cross(switch: &Switch, vm: &Netns, [db, front]: [&Netns; 2], has_super_frames: bool) -> Outcome {
    let own: Ipv4Addr = row(switch, "vm", "back")?["ip"].as_str().unwrap_or_default().parse()?;
    send_file("machine to container by VLAN", to(vm, db, BACK), FILE)?;
    send_file("container to machine by VLAN", to(db, vm, own), FILE)?;
    let detail = row(switch, "vm", "back")?;
    for counter in ["rx_super", "tx_super"] {
        let count = detail[counter].as_u64().unwrap_or(0);
        ensure!((count > 100) == has_super_frames, "{counter}: {detail}");
    }
    for (client, server, ip) in [(vm, front, DMZ), (db, vm, own)] {
        let datagrams = Flood {
            talk: to(client, server, ip),
            flows: 4,
            each: 2000,
            in_a_row: 8,
            lengths: &[100],
            window: Some(64),
        };
        let delivery = flood(&datagrams)?;
        ensure!(delivery.is_faithful() && delivery.arrived == delivery.sent, "{datagrams:?}: {delivery:?}");
    }
    let balanced = || Ok(switch.list("status")?["imbalance"] == 0);
    wait_until(Duration::from_secs(5), "the books balance", balanced)?;
    Ok(())
}

fn files_cross(arguments: &[&str], has_super_frames: bool) -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, arguments)?;
    networks(&switch)?;
    let (db, front) = beside(&switch, &rig)?;
    let vm = container(&switch, &rig, "vm", "--vlan back=10 --vlan dmz=20")?;
    let _machine = boot(&switch, &vm, mac_of(&switch, "vm")?)?;
    cross(&switch, &vm, [&db, &front], has_super_frames)?;
    // What it has on the networks' other sides: its own default route, and nothing of another network's.
    ensure!(ping(&vm, INTERNET, PATIENCE)?.is_some(), "the internet does not answer the machine");
    ensure!(ping(&vm, BACK, PATIENCE)?.is_some(), "db does not answer");
    let before = switch.done("dump")?;
    fs::write(rig.directory().join("file"), &before)?;
    let applied = switch.done(&format!("apply {}", rig.directory().join("file").display()))?;
    ensure!(applied.trim().is_empty(), "applying the dump changes: {applied}");
    ensure!(before.contains("vlan = 10") && before == switch.done("dump")?, "{before}");
    Ok(())
}

/// A virtual machine's card, as it looks from the host: an interface of the host's.
fn a_device_is_a_trunk_as_well() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    networks(&switch)?;
    let (db, front) = beside(&switch, &rig)?;
    let vm = rig.container("vm")?;
    rig.switch.run(|| {
        netlink::create_veth("vm0", "card")?;
        netlink::move_link("card", &vm)
    })??;
    vm.run(|| {
        netlink::rename("card", "eth0")?;
        netlink::set_mac("eth0", MacAddr([2, 0, 0, 0, 0, 0x99]))?;
        netlink::set_up("eth0")
    })??;
    switch.done("port add vm --device vm0 --vlan back=10 --vlan dmz=20")?;
    let _machine = boot(&switch, &vm, MacAddr([2, 0, 0, 0, 0, 0x99]))?;
    cross(&switch, &vm, [&db, &front], true)
}

fn clients_of_others_get_addresses() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    networks(&switch)?;
    let db = container(&switch, &rig, "db", "--network back")?;
    let vm = container(&switch, &rig, "vm", "--vlan back=10 --vlan dmz=20")?;
    let _machine = Machine::start(&vm, mac_of(&switch, "vm")?, &[10, 20])?;
    let script = rig.directory().join("script");
    let set = "#!/bin/sh\n[ \"$1\" = bound ] && ip addr add \"$ip/$mask\" dev \"$interface\"\n\
               [ \"$reason\" = BOUND ] && ip addr add \"$new_ip_address/24\" dev \"$interface\"\nexit 0\n";
    fs::write(&script, set)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let at = rig.directory().display();
    for (program, words, network) in [
        ("udhcpc", format!("-f -i eth0.10 -s {at}/script"), "back"),
        (
            "dhclient",
            format!("-d -4 -cf /dev/null -sf {at}/script -lf {at}/leases -pf {at}/pid eth0.20"),
            "dmz",
        ),
    ] {
        if !found(program)? {
            continue;
        }
        let mut command = Command::new(program);
        command.args(words.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = vm.spawn(&mut command)?;
        let expected = row(&switch, "vm", network)?["ip"].as_str().unwrap_or_default().parse::<Ipv4Addr>()?;
        let has_it = || Ok(vm.run(|| netlink::addresses(None))??.iter().any(|a| a.addr() == expected));
        let got = wait_until(Duration::from_secs(20), "an address", has_it);
        kill(Pid::from_raw(client.id().cast_signed()), Signal::SIGTERM)?;
        client.wait()?;
        got.map_err(|error| format!("{program}: {expected}: {error:?}"))?;
    }
    let own: Ipv4Addr = row(&switch, "vm", "back")?["ip"].as_str().unwrap_or_default().parse()?;
    ensure!(ping(&db, own, PATIENCE)?.is_some(), "the machine does not answer by its VLAN");
    Ok(())
}

fn with_the_machine_all_its_vlans_go() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    networks(&switch)?;
    let vm = container(&switch, &rig, "vm", "--vlan back=10 --vlan dmz=20")?;
    let db = container(&switch, &rig, "db", "--network back")?;
    {
        let _machine = boot(&switch, &vm, mac_of(&switch, "vm")?)?;
        let answers =
            ping(&vm, row(&switch, "db", "back")?["ip"].as_str().unwrap_or_default().parse()?, PATIENCE)?;
        ensure!(answers.is_some(), "db does not answer");
    }
    let ports = switch.ports()?;
    ensure!(ports == ["db", "vm", "vm", "vm"], "{ports:?}");
    drop(vm);
    wait_until(PATIENCE, "all of the machine is gone", || Ok(switch.ports()? == ["db"]))?;
    // Its device with it: the place is free for another, as are VIDs and addresses.
    let other = container(&switch, &rig, "vm", "--vlan back=10 --vlan dmz=20")?;
    let _machine = boot(&switch, &other, mac_of(&switch, "vm")?)?;
    let own: Ipv4Addr = row(&switch, "vm", "back")?["ip"].as_str().unwrap_or_default().parse()?;
    ensure!(ping(&db, own, PATIENCE)?.is_some(), "the other machine does not answer");
    switch.done("port rm vm")?;
    let links = other.run(netlink::links)??;
    ensure!(links.iter().all(|link| link.name != "eth0"), "its interface is left: {links:?}");
    ensure!(ping(&db, own, SILENCE)?.is_none(), "something still answers");
    ensure!(switch.terminate()?.0.success(), "it does not end well");
    Ok(())
}
