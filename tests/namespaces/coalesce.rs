//! Coalescing between real kernels: every datagram arrives in order, once and unchanged, and fewer writes than
//! datagrams bring them. TCP keeps its bytes when super-frames are lost.

use libtest_mimic::Failed;
use vswitchd::host::netns::Netns;
use vswitchd::lab::flood::{Flood, flood};
use vswitchd::lab::rig::Rig;
use vswitchd::lab::traffic::Talk;

use crate::switch::{Switch, across, inwards, nft, outwards};
use crate::transfer::send_file;
use crate::{Outcome, Test, ensure};

/// The tests of this file. They need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[
    ("coalesced_datagrams_arrive_in_order_once_and_unchanged", in_order_once_and_unchanged),
    ("what_a_flood_loses_is_counted", what_a_flood_loses_is_counted),
    ("tcp_survives_the_loss_of_super_frames", tcp_survives_loss),
];

/// Bytes of a TCP transfer that loses packets.
const FILE: u64 = 64 << 20;

/// Payload lengths: smallest frames, full frames, and runs with a shorter and a longer one among them.
const LENGTHS: [&[usize]; 3] = [&[18], &[1400], &[1000, 1000, 1000, 300, 18, 18, 19, 1472]];

fn in_order_once_and_unchanged() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    switch.done("publish add 8080:5003/udp --to c12")?;
    let ways: [(&str, &str, Talk<'_>); 3] = [
        ("container to container", "c12", across(&one, &two, 12)),
        ("container to internet", "eth0", outwards(&one, &rig)),
        ("internet to published port", "c12", inwards(&rig, &two, 12)),
    ];
    for (what, egress, talk) in ways {
        // 64 flows that take turns datagram by datagram fill a burst with one of each.
        for (flows, each, in_a_row) in [(1, 12_000, 1), (16, 800, 1), (64, 200, 4)] {
            for lengths in LENGTHS {
                let what = format!("{what}, {flows} flows of {lengths:?} bytes");
                let before = Counts::of(&switch, egress)?;
                let delivery = flood(&Flood { talk, flows, each, in_a_row, lengths, window: Some(512) })?;
                let counts = Counts::of(&switch, egress)?.since(&before);
                println!("{what}: {} of {} coalesced", counts.coalesced, counts.packets);
                ensure!(delivery.is_faithful(), "{what}: {delivery:?}");
                ensure!(delivery.arrived == delivery.sent, "{what}: {delivery:?}");
                // Each flow has sent a greeting, and neighbors may have been asked.
                let others = counts.packets - delivery.sent;
                ensure!(others < u64::from(flows) + 10, "{what}: {} sent", counts.packets);
                ensure!(counts.drops == 0, "{what}: {} drops", counts.drops);
                ensure!(counts.coalesced > 0, "{what}: nothing was coalesced");
            }
        }
    }
    Ok(())
}

/// Datagrams that are sent as fast as one can; the books of both kernels and of the switch say where they are.
fn what_a_flood_loses_is_counted() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    let talk = across(&one, &two, 12);
    for (flows, each) in [(1, 100_000), (64, 2_000)] {
        let lost = || -> Result<u64, Failed> {
            let counts = Counts::of(&switch, "c12")?;
            Ok(transmit_drops(&one)? + counts.drops + receive_errors(&two)?)
        };
        let before = lost()?;
        let delivery = flood(&Flood { talk, flows, each, in_a_row: 1, lengths: &[18], window: None })?;
        let lost = lost()? - before;
        println!("{flows} flows: {delivery:?}, {lost} lost");
        ensure!(delivery.is_faithful(), "{flows} flows: {delivery:?}");
        ensure!(delivery.sent == delivery.arrived + lost, "{flows} flows: {delivery:?}, {lost} lost");
    }
    Ok(())
}

fn tcp_survives_loss() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    switch.done("publish add 8080:5003/tcp --to c12")?;
    lose(&rig.internet)?;
    send_file("loss behind the uplink", outwards(&one, &rig), FILE)?;
    nft(&rig.internet, &["delete table netdev loss"])?;
    lose(&two)?;
    send_file("loss at the container", inwards(&rig, &two, 12), FILE)?;
    send_file("loss between containers", across(&one, &two, 12), FILE)?;
    Ok(())
}

/// Drops one of a hundred frames that arrive in the namespace.
fn lose(netns: &Netns) -> Outcome {
    let rule = "type filter hook ingress device eth0 priority 0; numgen random mod 100 0 counter drop;";
    nft(netns, &[&format!("table netdev loss {{ chain arriving {{ {rule} }}; }}")])?;
    let listed = nft(netns, &["list table netdev loss"])?;
    ensure!(listed.contains("drop"), "no loss was set up: {listed:?}");
    Ok(())
}

/// What was written to a port.
struct Counts {
    packets: u64,
    coalesced: u64,
    drops: u64,
}

impl Counts {
    fn of(switch: &Switch, port: &str) -> Result<Counts, Failed> {
        let stats = switch.list("stats")?;
        let ports = stats["ports"].as_array().ok_or("no ports")?;
        let port = ports.iter().find(|row| row["name"] == port).ok_or("no such port")?;
        let count = |name: &str| port[name].as_u64().ok_or_else(|| format!("no {name}"));
        Ok(Counts {
            packets: count("tx_packets")?,
            coalesced: count("tx_coalesced")?,
            drops: count("drops")?,
        })
    }

    fn since(&self, before: &Counts) -> Counts {
        Counts {
            packets: self.packets - before.packets,
            coalesced: self.coalesced - before.coalesced,
            drops: self.drops - before.drops,
        }
    }
}

/// Frames that the namespace's `eth0` could not give to the switch, as its kernel counts them (proc_net(5),
/// `/proc/net/dev`).
fn transmit_drops(netns: &Netns) -> Result<u64, Failed> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).ok_or("no eth0")?;
    // Eight columns of what was received, then bytes, packets, errors and drops of what was sent.
    Ok(line.split_whitespace().nth(11).ok_or("no such column")?.parse()?)
}

/// Datagrams that the namespace's kernel had and did not give to a socket, whatever the reason.
fn receive_errors(netns: &Netns) -> Result<u64, Failed> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return Err("no UDP".into()) };
    let named = names.split_whitespace().zip(values.split_whitespace());
    let errors = named.filter(|(name, _)| ["NoPorts", "InErrors"].contains(name));
    Ok(errors.map(|(_, value)| value.parse::<u64>()).sum::<Result<u64, _>>()?)
}
