//! A host with two ways out: `eth0` and `eth1`, towards an internet each. The same server is in both, and tells by whom it
//! was reached.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipnet::Ipv4Net;
use libtest_mimic::Failed;
use vswitchd::addr::MacAddr;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{GATEWAY, INTERNET, Rig, UPLINK, on_uplink};
use vswitchd::lab::traffic::{Connection, PATIENCE, SILENCE, Talk, connect, ping, tcp_transfer, udp_echo};

use crate::switch::{Switch, inside, nft, wait_until};
use crate::{Outcome, Test, ensure};

pub(crate) const TESTS: &[Test] = &[
    ("each_network_has_its_own_uplink", each_network_has_its_own_uplink),
    (
        "an_uplink_that_goes_leaves_the_other_ones_flows_alone",
        an_uplink_that_goes_leaves_the_other_ones_flows_alone,
    ),
    ("a_network_moves_to_another_uplink", a_network_moves_to_another_uplink),
    ("an_uplinks_next_hop_is_changed_live", an_uplinks_next_hop_is_changed_live),
    ("wrong_uplinks_are_refused_at_the_start", wrong_uplinks_are_refused_at_the_start),
];

/// The host's address on `eth1`.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// An address there that the host does not have.
const SECOND_OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// The next hop there.
const SECOND_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// The network that is led out by it.
const OFFICE: &str = "office=10.98.0.0/24,uplink=eth1";

/// Where the server listens.
const SERVER: SocketAddrV4 = SocketAddrV4::new(INTERNET, 7000);

/// Plugs the wire of `eth1` in. The host's default route stays by `eth0`.
fn plug(rig: &Rig, internet: &Netns) -> Outcome {
    rig.switch.run(|| {
        netlink::create_veth("eth1", "wire")?;
        netlink::move_link("wire", internet)?;
        netlink::add_address("eth1", on_uplink(SECOND))?;
        netlink::set_up("eth1")
    })??;
    internet.run(|| {
        netlink::rename("wire", "eth0")?;
        // It is always the same router.
        netlink::set_mac("eth0", MacAddr::from_ipv4(SECOND_GATEWAY))?;
        netlink::add_address("eth0", on_uplink(SECOND_GATEWAY))?;
        netlink::set_up("eth0")
    })??;
    Ok(())
}

/// The second internet, with the same server as the first.
fn second_internet(rig: &Rig) -> Result<Netns, Failed> {
    let internet = rig.container("internet2")?;
    internet.run(|| netlink::add_address("lo", Ipv4Net::from(INTERNET)))??;
    plug(rig, &internet)?;
    Ok(internet)
}

/// A container with an address of the network "office".
fn office(switch: &Switch, rig: &Rig, name: &str, host: u8) -> Result<Netns, Failed> {
    let netns = rig.container(name)?;
    let ip = Ipv4Addr::new(10, 98, 0, host);
    switch.done(&format!("port add {name} --network office --netns {} --ip {ip}", netns.path().display()))?;
    Ok(netns)
}

fn out<'a>(client: &'a Netns, internet: &'a Netns) -> Talk<'a> {
    Talk { client, to: SERVER, server: internet, at: SERVER }
}

fn each_network_has_its_own_uplink() -> Outcome {
    for (how, address) in [
        (format!("eth1,gateway={SECOND_GATEWAY}"), SECOND),
        (format!("eth1,mode=own,address={SECOND_OWN}/24,gateway={SECOND_GATEWAY}"), SECOND_OWN),
    ] {
        let rig = Rig::new()?;
        let internet = second_internet(&rig)?;
        let switch = Switch::start(&rig, &["--uplink", &how, "--network", OFFICE])?;
        let (one, desk) = (switch.container(&rig, 11)?, office(&switch, &rig, "desk", 11)?);
        for (client, world, shown) in [(&one, &rig.internet, UPLINK), (&desk, &internet, address)] {
            ensure!(ping(client, INTERNET, PATIENCE)?.is_some(), "{how}: no way out to {shown}'s internet");
            let seen = tcp_transfer(out(client, world), 4 << 20)?.seen;
            ensure!(seen.ip() == shown, "{how}: the server sees {seen}, not {shown}");
            let seen = udp_echo(out(client, world))?;
            ensure!(seen.ip() == shown, "{how}: the server sees {seen}, not {shown}");
        }
        // Published at both, to a container of either.
        switch.done("publish add 8080:80 --to c11")?;
        switch.done(&format!("publish add {address}:8081:80 --to desk"))?;
        let client_of = |world: &'_ Netns| if world.same_as(&internet) { SECOND_GATEWAY } else { GATEWAY };
        for (world, at, port, server, host) in [
            (&rig.internet, UPLINK, 8080, &one, inside(11)),
            (&internet, address, 8080, &one, inside(11)),
            (&internet, address, 8081, &desk, Ipv4Addr::new(10, 98, 0, 11)),
        ] {
            let (to, at) = (SocketAddrV4::new(at, port), SocketAddrV4::new(host, 80));
            let seen = tcp_transfer(Talk { client: world, to, server, at }, 4 << 20)?.seen;
            ensure!(seen.ip() == client_of(world), "{how}: the container sees {seen} call {to}");
        }
        let status = switch.list("status")?;
        let names = [&status["uplink"]["name"], &status["uplinks"][0]["name"], &status["uplinks"][1]["name"]];
        ensure!(names == ["eth0", "eth0", "eth1"], "{status}");
        ensure!(status["uplinks"][1]["address"] == format!("{address}/24"), "{status}");
        let ports = switch.list("stats")?["ports"].clone();
        ensure!(ports[0]["name"] == "eth0" && ports[1]["name"] == "eth1", "{ports}");
        ensure!(status["imbalance"] == 0, "{status}");
        let table = nft(&rig.switch, &["list", "table", "netdev", "vswitchd"])?;
        ensure!(table.contains("\"eth0\""), "{table}");
        ensure!(table.contains("\"eth1\"") == (address == SECOND), "{table}");
        ensure!(switch.terminate()?.0.success(), "it does not end well");
        let tables = nft(&rig.switch, &["list", "tables"])?;
        ensure!(!tables.contains("vswitchd"), "{tables}");
    }
    Ok(())
}

/// Sends there and back until `stop`, and says how often.
fn chat(Connection { mut client, mut server, .. }: Connection, stop: &AtomicBool) -> std::io::Result<u32> {
    let mut said = [0; 64];
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        client.write_all(&[7; 64])?;
        server.read_exact(&mut said)?;
        server.write_all(&said)?;
        client.read_exact(&mut said)?;
        rounds += 1;
    }
    Ok(rounds)
}

fn an_uplink_that_goes_leaves_the_other_ones_flows_alone() -> Outcome {
    let rig = Rig::new()?;
    let internet = second_internet(&rig)?;
    let second = format!("eth1,gateway={SECOND_GATEWAY}");
    let switch = Switch::start(&rig, &["--uplink", &second, "--network", OFFICE])?;
    let (one, desk) = (switch.container(&rig, 11)?, office(&switch, &rig, "desk", 11)?);
    switch.done("publish add 8080:80 --to c11")?;
    let (to, at) = (SocketAddrV4::new(UPLINK, 8080), SocketAddrV4::new(inside(11), 80));
    let outward = connect(out(&one, &rig.internet))?;
    let inward = connect(Talk { client: &rig.internet, to, server: &one, at })?;
    let mut theirs = connect(out(&desk, &internet))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Outcome {
        let chats = [outward, inward].map(|connection| scope.spawn(|| chat(connection, &stop)));
        let mut trouble = || -> Outcome {
            let is_up = || Ok(switch.list("status")?["uplinks"][1]["up"] == true);
            // Down and up again: what it carried goes on.
            rig.switch.run(|| netlink::set_down("eth1"))??;
            wait_until(PATIENCE, "eth1 is seen to be down", || Ok(!is_up()?))?;
            ensure!(
                ping(&desk, INTERNET, SILENCE).unwrap_or(None).is_none(),
                "a way out by a link that is down"
            );
            rig.switch.run(|| netlink::set_up("eth1"))??;
            wait_until(PATIENCE, "eth1 is seen to be up", is_up)?;
            theirs.client.write_all(b"still there?")?;
            theirs.server.read_exact(&mut [0; 12])?;
            // Gone, and another one in its place.
            for _ in 0..3 {
                rig.switch.run(|| netlink::delete_link("eth1"))??;
                wait_until(PATIENCE, "eth1 is seen to be gone", || Ok(!is_up()?))?;
                plug(&rig, &internet)?;
                wait_until(PATIENCE, "eth1 is back", || Ok(ping(&desk, INTERNET, SILENCE)?.is_some()))?;
            }
            let seen = tcp_transfer(out(&desk, &internet), 1 << 20)?.seen;
            ensure!(seen.ip() == SECOND, "{seen}");
            Ok(())
        };
        let outcome = trouble();
        stop.store(true, Ordering::Relaxed);
        for chat in chats {
            let rounds = chat.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(rounds > 100, "only {rounds} rounds");
        }
        outcome
    })?;
    // The one that came back is guarded, too: the host says nothing about a port of ours.
    let table = nft(&rig.switch, &["list", "table", "netdev", "vswitchd"])?;
    ensure!(table.contains("\"eth0\"") && table.contains("\"eth1\""), "{table}");
    ensure!(switch.list("status")?["imbalance"] == 0, "{}", switch.list("status")?);
    Ok(())
}

fn a_network_moves_to_another_uplink() -> Outcome {
    let rig = Rig::new()?;
    let internet = second_internet(&rig)?;
    let second = format!("eth1,gateway={SECOND_GATEWAY}");
    let switch = Switch::start(&rig, &["--uplink", &second, "--network", OFFICE])?;
    let (one, desk) = (switch.container(&rig, 11)?, office(&switch, &rig, "desk", 11)?);
    let listed = switch.list("network ls")?;
    let uplinks: Vec<_> =
        listed.as_array().ok_or("no list")?.iter().map(|network| &network["uplink"]).collect();
    ensure!(uplinks == ["eth0", "eth1"], "{listed}");
    let (mut theirs, mut others) = (connect(out(&desk, &internet))?, connect(out(&one, &rig.internet))?);
    switch.done("network set office uplink=eth0")?;
    ensure!(tcp_transfer(out(&desk, &rig.internet), 1 << 20)?.seen.ip() == UPLINK, "still by eth1");
    // What left by the other one has ended; nobody answers for it any more.
    theirs.client.set_read_timeout(Some(SILENCE))?;
    theirs.client.write_all(b"hello?")?;
    theirs.server.set_read_timeout(Some(SILENCE))?;
    ensure!(theirs.server.read(&mut [0; 6]).is_err(), "it still leaves by eth1");
    others.client.write_all(b"hello?")?;
    others.server.read_exact(&mut [0; 6])?;
    let refused = switch.ctl("network set office uplink=eth7")?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(4) && said.contains("choose one of eth0, eth1"), "{said}");
    switch.done("network create third --subnet 10.97.0.0/24 --uplink eth1")?;
    // A dump has all of it, and applies to nothing.
    let text = switch.done("dump")?;
    ensure!(text.contains(&format!("uplink = [\"eth0\", \"{second}\"]")), "{text}");
    let file = rig.directory().join("dump.toml");
    std::fs::write(&file, text)?;
    let said = switch.done(&format!("apply --dry-run {}", file.display()))?;
    ensure!(!said.contains("network"), "{said}");
    Ok(())
}

fn an_uplinks_next_hop_is_changed_live() -> Outcome {
    let rig = Rig::new()?;
    let internet = second_internet(&rig)?;
    let second = format!("eth1,mode=own,address={SECOND_OWN}/24,gateway={SECOND_GATEWAY}");
    let switch = Switch::start(&rig, &["--uplink", &second, "--network", OFFICE])?;
    let desk = office(&switch, &rig, "desk", 11)?;
    let mut theirs = connect(out(&desk, &internet))?;
    // The router has another address now, and what it had is nobody's.
    let other = Ipv4Addr::new(203, 0, 113, 253);
    internet.run(|| {
        netlink::del_address("eth0", on_uplink(SECOND_GATEWAY))?;
        netlink::add_address("eth0", on_uplink(other))
    })??;
    switch.done(&format!("uplink set eth1 gateway={other}"))?;
    ensure!(ping(&desk, INTERNET, PATIENCE)?.is_some(), "no way out by {other}");
    theirs.client.write_all(b"hello?")?;
    theirs.server.read_exact(&mut [0; 6])?;
    let neighbors = switch.done("neigh show")?;
    ensure!(neighbors.contains(&other.to_string()), "{neighbors}");
    let listed = switch.list("uplink ls")?;
    ensure!(listed[1]["name"] == "eth1" && listed[1]["gateway"] == other.to_string(), "{listed}");
    let refused = switch.ctl("uplink set eth1 gateway=192.0.2.254")?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(2) && said.contains("is on no link of uplink eth1"), "{said}");
    Ok(())
}

fn wrong_uplinks_are_refused_at_the_start() -> Outcome {
    let rig = Rig::new()?;
    for (words, why) in [
        (&["--uplink", "eth0"][..], "eth0: is named twice"),
        (&["--uplink", "eth9"], "eth9: no such interface"),
        (&["--uplink", "eth1,mode=own"], "needs an address of its own"),
        (&["--network", "office=10.98.0.0/24,uplink=eth1"], "eth1: no such uplink (choose one of eth0)"),
    ] {
        let mut vswitchd = std::process::Command::new(crate::switch::VSWITCHD);
        vswitchd.args(["--uplink", "eth0", "--socket"]).arg(rig.socket()).args(words);
        vswitchd.arg("--state-dir").arg(crate::switch::state_dir(&rig));
        let child = rig
            .switch
            .spawn(vswitchd.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()))?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(!output.status.success() && said.contains(why), "{words:?}: {said}");
        ensure!(said.lines().count() == 1 && said.starts_with("error: "), "{words:?}: {said}");
    }
    Ok(())
}
