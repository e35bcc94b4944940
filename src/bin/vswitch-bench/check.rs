//! `--check`: speed must not cost correctness.
//!
//! Numbered datagrams ([`vswitchd::lab::flood`]) go through the switch, once as fast as they arrive, once as a flood in
//! which most of them are lost: none may be overtaken within its flow, none may come twice or changed, and what
//! was lost must be the sum of what counters say. Then TCP transfers, whose every byte is compared, while the packet
//! filter loses packets on one leg or the other.

use std::fs;

use vswitchd::control::error::Error;
use vswitchd::host::netns::Netns;
use vswitchd::lab::flood::{self, Delivery, Flood};
use vswitchd::lab::interrupt::Interrupt;
use vswitchd::lab::traffic::{self, Talk};

use crate::case::Plane;
use crate::peer::{Kind, Peer};
use crate::progress::Progress;
use crate::report::tell;
use crate::site::{self, Site};

/// Datagrams that are sent at a time.
const PART: u32 = 1_000_000;

/// Datagrams of one flow that follow each other.
const IN_A_ROW: u32 = 32;

/// Bytes in a datagram.
const PAYLOAD: usize = 18;

/// Datagrams on their way at most, if nothing is to be lost: fewer than any queue on the way holds.
const WINDOW: u64 = 512;

/// Bytes of a transfer under loss.
const TRANSFER: u64 = 64 << 20;

/// Packets that are lost of a hundred, super-frames as one.
const LOSS: u32 = 1;

/// Checks a peer, and tells whether all went well.
///
/// # Errors
/// If its place cannot be built, nothing gets through, or we are interrupted.
pub(crate) fn run(
    peer: &Peer,
    options: &[String],
    datagrams: u32,
    interrupt: &Interrupt,
) -> Result<bool, Error> {
    let site = Site::build(peer, options)?;
    println!("{}", peer.label());
    let mut passed = true;
    for (plane, name) in [(Plane::Switched, "l2"), (Plane::Outwards, "nat")] {
        let talk =
            site.talk(plane).ok_or_else(|| Error::failed("check", "the switch has no such plane", ""))?;
        for flows in [1, 64] {
            for (window, how) in [(Some(WINDOW), "as they arrive"), (None, "flooded")] {
                let what = format!("{name}: {datagrams} datagrams, {flows} flows, {how}");
                let flood = Flood { talk, flows, each: 0, in_a_row: IN_A_ROW, lengths: &[PAYLOAD], window };
                passed &= told(&what, numbers(&site, &flood, datagrams, interrupt)?);
            }
        }
        for (leg, whose) in [(talk.client, "the client"), (talk.server, "the server")] {
            if Kind::Kernel.missing().is_some() {
                println!("skip  {name}: TCP under loss: nft is not installed");
                continue;
            }
            if interrupt.came() {
                return Err(Error::failed("check", "interrupted", ""));
            }
            let what = format!("{name}: {} MiB of TCP, {LOSS} % lost on the way to {whose}", TRANSFER >> 20);
            passed &= told(&what, transfer(talk, leg)?);
        }
    }
    Ok(passed)
}

/// What was found, and whether it is right.
type Finding = (bool, String);

fn told(what: &str, (passed, found): Finding) -> bool {
    tell(passed, &format!("{what}: {found}"))
}

/// Sends so many datagrams as `flood` says, in parts: between them we can be interrupted.
fn numbers(site: &Site, flood: &Flood<'_>, total: u32, interrupt: &Interrupt) -> Result<Finding, Error> {
    let mut progress = Progress::new(total.div_ceil(PART) as usize);
    let mut sum = Delivery::default();
    let before = Losses::take(site)?;
    let mut left = total;
    while left > 0 {
        if interrupt.came() {
            return Err(Error::failed("check", "interrupted", ""));
        }
        progress.step("numbered datagrams", &format!("{left} left"));
        let part = left.min(PART);
        let flood = Flood { each: part.div_ceil(u32::from(flood.flows)), ..*flood };
        let delivery =
            flood::flood(&flood).map_err(|error| Error::failed("numbered datagrams", error, ""))?;
        sum.sent += delivery.sent;
        sum.arrived += delivery.arrived;
        sum.reordered += delivery.reordered;
        sum.duplicated += delivery.duplicated;
        sum.damaged += delivery.damaged;
        left -= part;
    }
    Ok(judge(sum, Losses::take(site)?.since(before)))
}

fn judge(delivery: Delivery, losses: Losses) -> Finding {
    let Delivery { sent, arrived, reordered, duplicated, damaged } = delivery;
    let lost = sent.saturating_sub(arrived);
    let passed = delivery.is_faithful() && lost == losses.sum() && arrived > 0;
    let Losses { devices, sockets, switch } = losses;
    let found = format!(
        "{arrived} arrived, {reordered} reordered, {duplicated} duplicated, {damaged} damaged, {lost} lost; \
         counted: {} ({devices} by devices, {switch} by the switch, {sockets} by sockets)",
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

/// A transfer while packets are lost on their way into one of its ends.
fn transfer(talk: Talk<'_>, leg: &Netns) -> Result<Finding, Error> {
    lose(leg, LOSS)?;
    let outcome = traffic::tcp_transfer(talk, TRANSFER);
    site::nft(leg, "delete table netdev loss")?;
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
        let delivery = Delivery { sent: 100, arrived: 90, ..Delivery::default() };
        let losses = Losses { devices: 7, sockets: 1, switch: 2 };
        assert!(judge(delivery, losses).0);
        assert!(!judge(delivery, Losses { switch: 1, ..losses }).0);
        assert!(!judge(Delivery { reordered: 1, ..delivery }, losses).0);
        assert!(!judge(Delivery { duplicated: 1, ..delivery }, losses).0);
        assert!(!judge(Delivery::default(), Losses::default()).0);
    }
}
