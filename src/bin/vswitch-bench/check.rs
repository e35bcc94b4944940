//! `--check`: speed must not cost correctness.
//!
//! Numbered datagrams ([`crate::load::numbered`]) go through the switch, once as fast as they arrive, once as a flood in
//! which most of them are lost: none may be overtaken within its flow, none may come twice, and what was lost
//! must be the sum of what counters say. Then TCP transfers, whose every byte is compared, while the packet
//! filter loses packets on one leg or the other.

use std::fs;

use vswitchd::control::error::Error;
use vswitchd::host::netns::Netns;
use vswitchd::lab::interrupt::Interrupt;
use vswitchd::lab::traffic;

use crate::case::Plane;
use crate::load::numbered::{Pace, Series, Tally};
use crate::peer::{Kind, Peer};
use crate::site::{self, Site};

/// Bytes of a transfer under loss.
const TRANSFER: u64 = 64 << 20;

/// Packets that are lost of a hundred, super-frames as one.
const LOSS: u32 = 1;

/// Checks a peer, and tells whether all went well.
///
/// # Errors
/// If its place cannot be built, or nothing gets through.
pub(crate) fn run(
    peer: &Peer,
    options: &[String],
    datagrams: u64,
    interrupt: &Interrupt,
) -> Result<bool, Error> {
    let site = Site::build(peer, options)?;
    println!("{}", peer.label());
    let mut passed = true;
    for (plane, name) in [(Plane::Switched, "l2"), (Plane::Outwards, "nat")] {
        for flows in [1, 64] {
            for (pace, how) in [(Pace::AsTheyArrive, "as they arrive"), (Pace::Flood, "flooded")] {
                let what = format!("{name}: {datagrams} datagrams, {flows} flows, {how}");
                let series = Series { total: datagrams, flows, pace };
                passed &= tell(&what, numbers(&site, plane, series, interrupt)?);
            }
        }
        for (leg, whose) in [(Leg::Client, "the client"), (Leg::Server, "the server")] {
            if Kind::Kernel.missing().is_some() {
                println!("skip  {name}: TCP under loss: nft is not installed");
                continue;
            }
            if interrupt.came() {
                return Err(Error::failed("check", "interrupted", ""));
            }
            let what = format!("{name}: {} MiB of TCP, {LOSS} % lost on the way to {whose}", TRANSFER >> 20);
            passed &= tell(&what, transfer(&site, plane, leg)?);
        }
    }
    Ok(passed)
}

/// What was found, and whether it is right.
type Finding = (bool, String);

fn tell(what: &str, (passed, found): Finding) -> bool {
    println!("{}  {what}: {found}", if passed { "PASS" } else { "FAIL" });
    passed
}

fn numbers(site: &Site, plane: Plane, series: Series, interrupt: &Interrupt) -> Result<Finding, Error> {
    let talk = site.talk(plane).ok_or_else(|| Error::failed("check", "the switch has no such plane", ""))?;
    let failed = |error: std::io::Error| Error::failed("numbered datagrams", error, "");
    // The neighbors get to know each other, whose queues are short.
    let first = Series { total: 1, flows: 1, pace: Pace::Flood };
    first.run(talk, interrupt).map_err(failed)?;
    let before = Losses::take(site)?;
    let tally = series.run(talk, interrupt).map_err(failed)?;
    let losses = Losses::take(site)?.since(before);
    Ok(judge(tally, losses))
}

fn judge(tally: Tally, losses: Losses) -> Finding {
    let Tally { sent, received, reordered, duplicated } = tally;
    let lost = sent.saturating_sub(received);
    let passed = reordered == 0 && duplicated == 0 && lost == losses.sum() && received > 0;
    let Losses { devices, sockets, switch } = losses;
    let found = format!(
        "{received} received, {reordered} reordered, {duplicated} duplicated, {lost} lost; counted: {} \
         ({devices} by devices, {switch} by the switch, {sockets} by sockets)",
        losses.sum()
    );
    (passed, found)
}

/// What counters say was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Losses {
    /// By the kernel's devices: the ring of a TAP whose reader is too slow, above all.
    devices: u64,
    /// By UDP sockets whose reader is too slow.
    sockets: u64,
    /// By the switch itself.
    switch: u64,
}

impl Losses {
    fn take(site: &Site) -> Result<Losses, Error> {
        let mut losses = Losses { switch: site.lost()?, ..Losses::default() };
        for netns in site.namespaces() {
            let file = |name: &str| {
                let read = || fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                netns.run(read)?.map_err(|error| Error::failed(name, error, ""))
            };
            losses.devices += device_drops(&file("dev")?);
            losses.sockets += socket_drops(&file("snmp")?);
        }
        Ok(losses)
    }

    fn since(self, before: Losses) -> Losses {
        Losses {
            devices: self.devices - before.devices,
            sockets: self.sockets - before.sockets,
            switch: self.switch - before.switch,
        }
    }

    fn sum(self) -> u64 {
        self.devices + self.sockets + self.switch
    }
}

/// The sum of the `drop` columns of `/proc/net/dev`: the fourth of reception, and the fourth of transmission,
/// which begins with the ninth.
fn device_drops(dev: &str) -> u64 {
    let of_line = |line: &str| {
        let counters: Vec<u64> =
            line.split_once(':')?.1.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Some(counters.get(3)? + counters.get(11)?)
    };
    dev.lines().filter_map(of_line).sum()
}

/// `InErrors` of UDP in `/proc/net/snmp`: datagrams that arrived and did not get into their socket.
fn socket_drops(snmp: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let named = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "InErrors");
    named.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Where packets are lost: on their way into this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    Client,
    Server,
}

fn transfer(site: &Site, plane: Plane, leg: Leg) -> Result<Finding, Error> {
    let talk = site.talk(plane).ok_or_else(|| Error::failed("check", "the switch has no such plane", ""))?;
    let netns = if leg == Leg::Client { talk.client } else { talk.server };
    lose(netns, LOSS)?;
    let outcome = traffic::tcp_transfer(talk, TRANSFER);
    site::nft(netns, "delete table netdev loss")?;
    Ok(match outcome {
        Ok(transfer) => {
            let rate = TRANSFER as f64 * 8e-9 / transfer.took.as_secs_f64();
            (true, format!("every byte arrived, {rate:.2} Gbit/s"))
        }
        Err(error) => (false, error.to_string()),
    })
}

/// Loses so many of a hundred packets that come into a namespace.
fn lose(netns: &Netns, percent: u32) -> Result<(), Error> {
    let rules = format!(
        "table netdev loss {{
            chain in {{ type filter hook ingress device \"eth0\" priority 0;
                numgen random mod 100 < {percent} drop; }}
        }}"
    );
    site::nft(netns, &rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_devices_are_read() {
        let dev = "Inter-|   Receive                                                |  Transmit\n \
                   face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs drop\n    \
                   lo:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0: 0 0 0 20 0 0 0 0 0 0 0 30 0 0 0 0\n";
        assert_eq!(device_drops(dev), 4 + 12 + 20 + 30);
        assert_eq!(device_drops(""), 0);
    }

    #[test]
    fn drops_of_sockets_are_read() {
        let snmp =
            "Ip: A B\nIp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams\nUdp: 5 6 7 8\nUdpLite: X\n";
        assert_eq!(socket_drops(snmp), 7);
        assert_eq!(socket_drops("Ip: A\n"), 0);
    }

    #[test]
    fn losses_must_be_accounted_for() {
        let tally = Tally { sent: 100, received: 90, reordered: 0, duplicated: 0 };
        let losses = Losses { devices: 7, sockets: 1, switch: 2 };
        assert!(judge(tally, losses).0);
        assert!(!judge(tally, Losses { switch: 1, ..losses }).0);
        assert!(!judge(Tally { reordered: 1, ..tally }, losses).0);
        assert!(!judge(Tally { duplicated: 1, ..tally }, losses).0);
        assert!(!judge(Tally::default(), Losses::default()).0);
    }
}
