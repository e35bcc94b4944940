//! Rules and publications between real stacks.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use vswitchd::control::client::Client;
use vswitchd::control::request::Request;
use vswitchd::control::response::{PublicationInfo, RuleInfo};
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{GATEWAY, INTERNET, Rig, UPLINK};
use vswitchd::lab::traffic::{PATIENCE, SILENCE, Talk, ping, tcp_answers, tcp_transfer, udp_echo};

use crate::switch::{Switch, inside, outwards};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("a_rule_holds_at_once_and_drops_name_it", a_rule_holds_at_once_and_drops_name_it),
    ("a_publication_for_the_lan_is_for_the_lan", a_publication_for_the_lan_is_for_the_lan),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[(
    "thousands_of_rules_and_hundreds_of_publications_are_usable",
    thousands_of_rules_and_hundreds_of_publications_are_usable,
)];

fn a_rule_holds_at_once_and_drops_name_it() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
    switch.done("network create blue --subnet 10.98.0.0/24")?;
    let blue = rig.container("blue")?;
    switch.done(&format!("port add b2 --network blue --netns {}", blue.path().display()))?;
    let there = Ipv4Addr::new(10, 98, 0, 2);
    let at = SocketAddrV4::new(there, 5001);
    let talk = Talk { client: &one, to: at, server: &blue, at };
    ensure!(!tcp_answers(&one, at)?, "networks reach each other without a rule");
    switch.done("policy add allow --from c2 --to blue --proto tcp --dport 5001 --name front")?;
    let seen = tcp_transfer(talk, 8 << 20)?.seen;
    ensure!(seen.ip() == inside(2), "it is translated to {seen}");
    ensure!(ping(&one, there, SILENCE)?.is_none() && !tcp_answers(&two, at)?, "more than the rule says");
    ensure!(!tcp_answers(&blue, SocketAddrV4::new(inside(2), 5001))?, "the other way round");
    // An internal network answers who may call it, and is let out no more than before.
    switch.done("network set blue mode=internal")?;
    let talk = Talk { client: &one, to: at, server: &blue, at };
    ensure!(tcp_transfer(talk, 1 << 20)?.seen.ip() == inside(2), "an internal network does not answer");
    ensure!(ping(&blue, INTERNET, SILENCE).unwrap_or(None).is_none(), "an internal network has a way out");
    let rules = switch.list("policy ls")?;
    ensure!(rules[0]["from"] == "c2" && rules[0]["dport"] == "5001", "{rules}");
    // Internet yes, LAN no, host no.
    switch.done("policy add deny --from c3 --to lan,host --before 1")?;
    ensure!(ping(&two, INTERNET, PATIENCE)?.is_some(), "the internet is refused");
    for to in [GATEWAY, UPLINK, inside(1)] {
        ensure!(ping(&two, to, SILENCE)?.is_none(), "{to} answers");
        ensure!(ping(&one, to, PATIENCE)?.is_some(), "{to} does not answer the others");
    }
    let said = switch.done("policy check --from c3 --to lan icmp")?;
    ensure!(said == "deny: rule 1: deny from c3 to lan,host\n", "{said}");
    let drops = switch.list("drops --port c3")?;
    let mut rows = drops.as_array().ok_or("no list")?.iter();
    let row = rows.find(|row| row["reason"] == "policy-denied").ok_or("no row")?;
    ensure!(row["frames"][0]["rule"] == 1 && row["count"] == 3, "{row}");
    ensure!(switch.list("policy ls")?[0]["denied"] == 3, "{}", switch.done("policy ls")?);
    // A flow ends with what allowed it.
    udp_echo(outwards(&one, &rig))?;
    ensure!(!switch.list("ct ls --proto udp")?.as_array().is_none_or(Vec::is_empty), "no connection");
    switch.done("policy add deny --from c2 --to internet")?;
    ensure!(switch.list("ct ls --proto udp")?.as_array().is_some_and(Vec::is_empty), "it is still there");
    ensure!(udp_echo(outwards(&one, &rig)).is_err(), "it goes on");
    switch.done("policy rm 3")?;
    udp_echo(outwards(&one, &rig))?;
    let errors = String::from_utf8(switch.ctl("policy add deny --from nobody")?.stderr)?;
    let expected = "error: nobody: no such network or port (see vswitchctl network ls and vswitchctl port ls; for one to come, write port:nobody or network:nobody)\n";
    ensure!(errors == expected, "{errors}");
    Ok(())
}

/// Whether a datagram from this address of the internet's host to the published port arrives at `server`.
fn arrives(rig: &Rig, from: Ipv4Addr, server: &UdpSocket) -> Result<bool, Failed> {
    let client = rig.internet.run(|| UdpSocket::bind((from, 0)))??;
    client.send_to(b"hello", (UPLINK, 8080))?;
    Ok(server.recv_from(&mut [0; 64]).is_ok_and(|(_, client)| client.ip() == from))
}

fn a_publication_for_the_lan_is_for_the_lan() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 2)?;
    let server = one.run(|| UdpSocket::bind((inside(2), 80)))??;
    server.set_read_timeout(Some(SILENCE))?;
    for (scope, lan, internet) in [("", true, true), ("--lan", true, false), ("--loopback", false, false)] {
        switch.done(&format!("publish add 8080:80/udp --to c2 {scope}"))?;
        ensure!(arrives(&rig, GATEWAY, &server)? == lan, "{scope}: LAN");
        ensure!(arrives(&rig, INTERNET, &server)? == internet, "{scope}: internet");
        let listen = if scope == "--loopback" { "127.0.0.1:8080/udp" } else { "8080/udp" };
        switch.done(&format!("publish rm {listen}"))?;
    }
    // Without a host port, one is chosen.
    let made = switch.list("publish add 80/udp --to c2")?;
    ensure!(made["port_first"].as_u64().is_some_and(|port| (32_768..61_000).contains(&port)), "{made}");
    Ok(())
}

/// Seconds for a transfer from a container to the internet: the best of some, for others use this machine, too.
fn transfer(one: &Netns, rig: &Rig) -> Result<Duration, Failed> {
    const BYTES: u64 = 256 << 20;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        best = best.min(tcp_transfer(outwards(one, rig), BYTES)?.took);
    }
    Ok(best)
}

fn thousands_of_rules_and_hundreds_of_publications_are_usable() -> Outcome {
    const RULES: u32 = 2000;
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, _two) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
    let client = Client::new(&rig.socket())?;
    let before = transfer(&one, &rig)?;
    let mut last = [Duration::ZERO; 2];
    for n in 0..RULES {
        let [.., a, b] = u32::to_be_bytes(n);
        let begun = Instant::now();
        let line = format!("policy add deny --from default --to 203.{a}.{b}.0/24 --proto tcp --dport 1-1024");
        client.call::<RuleInfo>(&Request::from_line(&line)?)?;
        last[0] = begun.elapsed();
    }
    for n in 0..200 {
        let begun = Instant::now();
        let line = format!("publish add {}:80 --to c3", 20_000 + n);
        client.call::<PublicationInfo>(&Request::from_line(&line)?)?;
        last[1] = begun.elapsed();
    }
    let after = transfer(&one, &rig)?;
    println!("one more rule {:?}, one more publication {:?}; {before:?}, then {after:?}", last[0], last[1]);
    let rules = switch.list("policy ls")?.as_array().map_or(0, Vec::len);
    ensure!(u32::try_from(rules)? == RULES, "{rules} rules");
    let [.., a, b] = u32::to_be_bytes(RULES - 1);
    let refused = SocketAddrV4::new(Ipv4Addr::new(203, a, b, 1), 80);
    ensure!(!tcp_answers(&one, refused)?, "the last one does not hold");
    let said = switch.done(&format!("policy check --from c2 --to {} tcp 80", refused.ip()))?;
    ensure!(said.starts_with(&format!("deny: rule {RULES}: ")), "{said}");
    // A machine that others use as well is no measure of three in a hundred.
    ensure!(after < before * 2, "{before:?}, then {after:?}");
    Ok(())
}
