//! Rows of docs/conformance.md about ports and ARP, between real stacks.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use vswitchd::addr::MacAddr;
use vswitchd::frame::{Frame, Offload};
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::flood::{Flood, flood};
use vswitchd::lab::frames::{EXPERIMENTAL, Tap};
use vswitchd::lab::rig::{GATEWAY, INTERNET, Rig, UPLINK};
use vswitchd::lab::traffic::{PATIENCE, SILENCE, ping, udp_echo};
use vswitchd::port::packet::{Packet, PacketOptions};
use vswitchd::port::{Device, NotSent};
use vswitchd::wire::ethernet;

use crate::switch::{Switch, across, inside, outwards, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("row_09_a_port_speaks_for_itself_only", row_09_a_port_speaks_for_itself_only),
    ("row_14_a_port_that_goes_takes_its_entries_along", row_14_a_port_that_goes_takes_its_entries_along),
    ("row_22_the_next_hop_moves_only_when_it_is_silent", row_22_the_next_hop_moves_only_when_it_is_silent),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[
    ("row_15_two_workers_keep_the_order", row_15_two_workers_keep_the_order),
    ("row_16_a_storm_leaves_others_alone", row_16_a_storm_leaves_others_alone),
    ("a_million_sources_hear_nothing_and_cost_nothing", a_million_sources_hear_nothing_and_cost_nothing),
];

/// The gateway of the tests' network.
const SWITCH: Ipv4Addr = inside(1);

const fn mac(host: u8) -> MacAddr {
    MacAddr::from_ipv4(inside(host))
}

/// Frames dropped for this reason at any port.
fn drops(switch: &Switch, reason: &str) -> Result<u64, Failed> {
    let drops = switch.list("drops")?;
    let rows = drops.as_array().ok_or("no list")?.iter().filter(|row| row["reason"] == reason);
    Ok(rows.filter_map(|row| row["count"].as_u64()).sum())
}

/// An ARP reply: `sender` tells `target` who it is.
fn arp_reply(sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 2];
    for (mac, ip) in [sender, target] {
        bytes.extend(mac.0.iter().chain(&ip.octets()));
    }
    bytes
}

/// A socket for very many frames.
fn wire(netns: &Netns) -> Result<Packet, Failed> {
    let options = PacketOptions { promiscuous: true, ..PacketOptions::default() };
    Ok(netns.run(|| Packet::open("eth0", options))??)
}

/// Sends `bytes`, waiting where the queue is full.
fn transmit(device: &Packet, frame: &mut Frame, bytes: &[u8]) -> Outcome {
    frame.fill(bytes, Offload::NONE);
    loop {
        match device.transmit(frame) {
            Ok(()) => return Ok(()),
            Err(NotSent::Full) => thread::yield_now(),
            Err(why) => return Err(format!("not sent: {why:?}").into()),
        }
    }
}

fn row_09_a_port_speaks_for_itself_only() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (attacker, victim) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
    let _other = switch.container(&rig, 4)?;
    let tap = Tap::open(&attacker)?;
    let seen = Tap::open(&victim)?;
    for security in ["on", "off"] {
        switch.done(&format!("port set c2 security={security}"))?;
        // The gateway, to everybody and to the victim alone; and its address with the attacker's own MAC.
        for _ in 0..50 {
            tap.says(mac(1), MacAddr::BROADCAST, "gateway")?;
            tap.says(mac(1), mac(3), "gateway")?;
            tap.send(mac(2), mac(3), ethernet::ARP, &arp_reply((mac(2), SWITCH), (mac(3), inside(3))))?;
            ensure!(ping(&victim, SWITCH, PATIENCE)?.is_some(), "the gateway does not answer the victim");
        }
        ensure!(!seen.hears("gateway", SILENCE), "the victim hears the gateway from a port");
    }
    ensure!(drops(&switch, "spoofed-gateway")? == 200, "{}", switch.done("drops")?);
    ensure!(drops(&switch, "arp-conflict")? == 100, "{}", switch.done("drops")?);
    // Its neighbor: only where security is off.
    for (security, heard) in [("on", false), ("off", true)] {
        switch.done(&format!("port set c2 security={security}"))?;
        tap.says(mac(4), mac(3), "neighbor")?;
        ensure!(seen.hears("neighbor", if heard { PATIENCE } else { SILENCE }) == heard, "{security}");
        let detail = switch.list("port inspect c2")?;
        ensure!(detail["security"] == security, "{detail}");
    }
    ensure!(drops(&switch, "spoofed-mac")? == 1, "{}", switch.done("drops")?);
    Ok(())
}

fn row_14_a_port_that_goes_takes_its_entries_along() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let [one, two, three] = [2, 3, 4].map(|host| switch.container(&rig, host));
    let (one, two, three) = (one?, two?, three?);
    ensure!(ping(&one, inside(3), PATIENCE)?.is_some(), "c3 does not answer");
    let (tap, other) = (Tap::open(&one)?, Tap::open(&three)?);
    // Down: it drops, and nobody else hears it.
    two.run(|| netlink::set_down("eth0"))??;
    tap.says(mac(2), mac(3), "down")?;
    ensure!(!other.hears("down", SILENCE), "c4 hears what is for c3");
    two.run(|| netlink::set_up("eth0"))??;
    ensure!(ping(&one, inside(3), PATIENCE)?.is_some(), "c3 does not answer any more");
    // Removed: it is forgotten at once, and looked for.
    switch.done("port rm c3")?;
    let fdb = switch.done("fdb show")?;
    ensure!(!fdb.contains(&mac(3).to_string()), "{fdb}");
    tap.says(mac(2), mac(3), "removed")?;
    ensure!(other.hears("removed", PATIENCE), "c4 does not hear what is for nobody");
    Ok(())
}

fn row_15_two_workers_keep_the_order() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &["--workers", "2"])?;
    let (one, two) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
    for (flows, each) in [(1, 40_000), (64, 600)] {
        let talk = across(&one, &two, 3);
        let lengths = &[18, 18, 18, 18, 700, 1400];
        let plan = Flood { talk, flows, each, in_a_row: 8, lengths, window: Some(256) };
        let delivery = flood(&plan)?;
        ensure!(
            delivery.is_faithful() && delivery.arrived > delivery.sent / 2,
            "{flows} flows: {delivery:?}"
        );
    }
    Ok(())
}

fn row_16_a_storm_leaves_others_alone() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let [storm, one, two] = [2, 3, 4].map(|host| switch.container(&rig, host));
    let (storm, one, two) = (storm?, one?, two?);
    let device = wire(&storm)?;
    let mut broadcast = [0; 60];
    ethernet::write(&mut broadcast, MacAddr::BROADCAST, mac(2), EXPERIMENTAL);
    let talk = across(&one, &two, 4);
    let plan = Flood { talk, flows: 1, each: 5_000, in_a_row: 1, lengths: &[100], window: Some(16) };
    let over = std::sync::atomic::AtomicBool::new(false);
    let delivery = thread::scope(|scope| {
        let storming = scope.spawn(|| -> Result<u32, String> {
            let (begun, mut frame, mut sent) = (Instant::now(), Frame::new(), 0);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                // A hundred thousand a second, or as many as there can be.
                if begun.elapsed().as_micros() / 10 < u128::from(sent) {
                    thread::yield_now();
                    continue;
                }
                transmit(&device, &mut frame, &broadcast).map_err(|error| format!("{error:?}"))?;
                sent += 1;
            }
            Ok(sent)
        });
        let delivery = flood(&plan);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let sent = storming.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!("{sent} broadcasts beside {delivery:?}");
        Ok::<_, Failed>(delivery?)
    })?;
    ensure!(delivery.arrived * 100 >= delivery.sent * 99 && delivery.is_faithful(), "{delivery:?}");
    switch.done("port set c2 storm=100")?;
    let before = drops(&switch, "storm-broadcast")?;
    for _ in 0..1000 {
        transmit(&device, &mut Frame::new(), &broadcast)?;
    }
    wait_until(Duration::from_secs(5), "the storm is cut down", || {
        Ok(drops(&switch, "storm-broadcast")? > before + 800)
    })?;
    Ok(())
}

fn row_22_the_next_hop_moves_only_when_it_is_silent() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 2)?;
    ensure!(ping(&one, INTERNET, PATIENCE)?.is_some(), "the internet does not answer");
    let uplink = rig.switch.run(|| netlink::expect_link("eth0"))??.mac;
    let impostor = MacAddr([0x02, 0, 0, 0, 0, 0x66]);
    let tap = Tap::open(&rig.internet)?;
    let claim = arp_reply((impostor, GATEWAY), (uplink, UPLINK));
    for dst in [uplink, MacAddr::BROADCAST] {
        for _ in 0..20 {
            tap.send(impostor, dst, ethernet::ARP, &claim)?;
            ensure!(ping(&one, INTERNET, PATIENCE)?.is_some(), "the internet does not answer after a claim");
        }
    }
    ensure!(drops(&switch, "arp-doubtful")? == 40, "{}", switch.done("drops")?);
    // The router has another interface card, and says so.
    rig.internet.run(|| netlink::set_mac("eth0", impostor))??;
    let begun = Instant::now();
    tap.send(impostor, MacAddr::BROADCAST, ethernet::ARP, &claim)?;
    // The old address is still ours to hear, but it is nobody's: pings to it are not answered.
    let limit = Duration::from_secs(10);
    wait_until(limit, "the new address is found", || Ok(ping(&one, INTERNET, SILENCE)?.is_some()))?;
    println!("found again after {:?}", begun.elapsed());
    udp_echo(outwards(&one, &rig))?;
    let neighbors = switch.done("neigh show")?;
    ensure!(neighbors.contains(&impostor.to_string()), "{neighbors}");
    Ok(())
}

fn a_million_sources_hear_nothing_and_cost_nothing() -> Outcome {
    const SOURCES: u32 = 1_000_000;
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let [attacker, one, two] = [2, 3, 4].map(|host| switch.container(&rig, host));
    let (attacker, one, two) = (attacker?, one?, two?);
    // On, all of them are refused; off, they are learned as far as the quota goes.
    switch.done("port set c2 security=off")?;
    let talk = across(&one, &two, 4);
    let plan = |each| Flood { talk, flows: 1, each, in_a_row: 1, lengths: &[100], window: Some(16) };
    let warm = flood(&plan(1000))?;
    ensure!(warm.arrived > 0, "{warm:?}");
    let device = wire(&attacker)?;
    let ear = wire(&attacker)?;
    let mut noise = [0; 60];
    ethernet::write(&mut noise, mac(1), mac(2), EXPERIMENTAL);
    // What any traffic of this size makes it keep is there before.
    let mut frame = Frame::new();
    for _ in 0..20_000 {
        transmit(&device, &mut frame, &noise)?;
    }
    thread::sleep(Duration::from_millis(200));
    let before = switch.memory()?;
    let delivery = thread::scope(|scope| {
        let flooding = scope.spawn(|| -> Result<(), String> {
            let mut frame = Frame::new();
            for n in 0..SOURCES {
                // To a stranger, to everybody, and to one of the two.
                let dst = [MacAddr([0x02, 0xbb, 0, 0, 0, 1]), MacAddr::BROADCAST, mac(3)];
                let [a, b, c, d] = n.to_be_bytes();
                let [.., pick] = (n % 3).to_be_bytes();
                let src = MacAddr([0x02, 0xaa, a, b, c, d]);
                ethernet::write(&mut noise, dst[usize::from(pick)], src, EXPERIMENTAL);
                transmit(&device, &mut frame, &noise).map_err(|error| format!("{error:?}"))?;
            }
            Ok(())
        });
        let mut delivery = flood(&plan(10_000))?;
        // The flood is the longer one.
        while !flooding.is_finished() {
            let more = flood(&plan(1_000))?;
            (delivery.sent, delivery.arrived) = (delivery.sent + more.sent, delivery.arrived + more.arrived);
        }
        flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<_, Failed>(delivery)
    })?;
    let grown = switch.memory()?.saturating_sub(before) / 1024;
    println!("{delivery:?}, {grown} KiB more memory, {} drops", drops(&switch, "storm-unknown")?);
    ensure!(delivery.arrived >= 10_000, "{delivery:?}");
    ensure!(grown < 1024, "{grown} KiB more memory");
    let mut frame = Frame::new();
    let mut overheard = 0;
    while ear.receive(&mut frame) == vswitchd::port::Received::Frame {
        // Frames of its own that the socket sees as they leave are not what it hears.
        let bytes = frame.bytes();
        overheard += u32::from(bytes[..6] == mac(4).0 && bytes[6..12] == mac(3).0);
    }
    ensure!(overheard == 0, "the attacker hears {overheard} frames");
    let learned = switch.list("fdb show --port c2")?.as_array().map_or(0, Vec::len);
    ensure!(learned <= 1024, "{learned} addresses of the attacker");
    let others = switch.done("fdb show")?;
    ensure!(
        others.contains(&mac(3).to_string()) && others.contains(&mac(4).to_string()),
        "they are forgotten"
    );
    Ok(())
}
