//! Four networks of all modes, two containers on each: no frame of any kind crosses.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Check, Scenario, Stage};
use crate::addr::{Endpoint, MacAddr};
use crate::control::response::{NetworkInfo, PublicationInfo};
use crate::lab::frames::{EXPERIMENTAL, Tap};
use crate::lab::traffic::{self, PATIENCE, SILENCE};
use crate::lab::world::{Container, Failure, Lab, ensure, tell};
use crate::sim::packet::{self, Macs};
use crate::wire::ethernet;

/// The networks, their modes, and their containers.
const NETWORKS: [(&str, &str, [&str; 2]); 4] = [
    ("red", "nat", ["red1", "red2"]),
    ("green", "nat", ["green1", "green2"]),
    ("amber", "routed", ["amber1", "amber2"]),
    ("blue", "internal", ["blue1", "blue2"]),
];

/// A group that nobody is in (RFC 5771 MCAST-TEST-NET), and its MAC address (RFC 1112 6.4).
const GROUP: Ipv4Addr = Ipv4Addr::new(233, 252, 0, 1);
const GROUP_MAC: MacAddr = MacAddr([0x01, 0x00, 0x5e, 0x7c, 0x00, 0x01]);

/// The published port of a container on "red".
const PUBLISHED: u16 = 8080;

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "isolation",
        elsewhere: &[
            "docker network create red; docker network create --internal blue; ...",
            "iptables -A DOCKER-ISOLATION-STAGE-1 -i br-red ! -o br-red -j DOCKER-ISOLATION-STAGE-2",
            "iptables -A DOCKER-ISOLATION-STAGE-2 -o br-blue -j DROP",
        ],
        checks: &[
            Check { claim: "no frame of seven kinds crosses between any two of four networks", run: frames },
            Check {
                claim: "no network's stack, gateway or published port answers another network",
                run: stacks,
            },
        ],
    }],
};

fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    for (network, mode, containers) in NETWORKS {
        let made: NetworkInfo = lab.ctl(&format!("network create {network} --mode {mode}"))?;
        tell(format_args!("{network} is {}", made.subnet));
        for name in containers {
            lab.attach(name, network, "")?;
        }
    }
    Ok(lab)
}

/// What marks the frames of a container.
fn mark(from: &Container) -> String {
    format!("<from {}>", from.port.name)
}

/// A frame of each kind from one container for another network: to a container's own address, to all and to groups.
fn seven_kinds(from: &Container, to: &Container, gateway_mac: MacAddr) -> Vec<Vec<u8>> {
    let text = mark(from);
    let payload = text.as_bytes();
    let macs = |dst| Macs { src: from.mac, dst };
    let own = Endpoint::new(from.ip, 7000);
    let udp = |dst_mac, dst| packet::udp(macs(dst_mac), own, Endpoint::new(dst, 7000), payload);
    // The sender's MAC address marks what cannot carry a text.
    let arp = packet::arp(macs(MacAddr::BROADCAST), 1, (from.mac, from.ip), (MacAddr::ZERO, to.ip));
    let mut ipv6 = vec![0x60, 0, 0, 0, 0, 40, 59, 64];
    ipv6.resize(40, 0xfe);
    ipv6.extend(payload);
    let mut tagged = udp(to.mac, to.ip);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    vec![
        udp(to.mac, to.ip),
        udp(gateway_mac, to.ip),
        udp(MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
        udp(GROUP_MAC, GROUP),
        arp,
        packet::frame(macs(to.mac), ethernet::IPV6, &ipv6),
        packet::frame(macs(MacAddr::BROADCAST), EXPERIMENTAL, payload),
        tagged,
    ]
}

fn frames(lab: &Lab) -> Result<(), Failure> {
    for (network, _, [first, second]) in NETWORKS {
        let (from, peer) = (lab.container(first)?, lab.container(second)?);
        let gateway_mac = lab.gateway(network)?.0;
        let (text, mac) = (mark(from), from.mac);
        let is_marked = |frame: &[u8]| {
            let has = |mark: &[u8]| frame.windows(mark.len()).any(|window| window == mark);
            has(text.as_bytes()) || has(&mac.0)
        };
        let others = NETWORKS.iter().filter(|(other, ..)| *other != network);
        let others: Vec<&str> = others.flat_map(|(_, _, containers)| *containers).collect();
        let mut taps = Vec::new();
        for name in &others {
            taps.push((name, Tap::open(&lab.container(name)?.netns)?));
        }
        let (tap, beside) = (Tap::open(&from.netns)?, Tap::open(&peer.netns)?);
        let mut sent = 0;
        for name in &others {
            for frame in seven_kinds(from, lab.container(name)?, gateway_mac) {
                tap.send_frame(&frame)?;
                sent += 1;
            }
        }
        ensure(beside.sees(PATIENCE, is_marked), || format!("{second} does not even hear {first}"))?;
        for (number, (name, tap)) in taps.iter().enumerate() {
            // What crosses does so while the first one is listened to.
            let patience = if number == 0 { SILENCE } else { std::time::Duration::ZERO };
            ensure(!tap.sees(patience, is_marked), || format!("{name} hears {first}"))?;
        }
        tell(format_args!("{first} sends {sent} frames: {second} hears it, {} do not", others.join(", ")));
    }
    Ok(())
}

fn stacks(lab: &Lab) -> Result<(), Failure> {
    lab.ctl::<PublicationInfo>(&format!("publish add {PUBLISHED}:80 --to red1"))?;
    let published = SocketAddrV4::new(lab.switch.uplink, PUBLISHED);
    for (network, mode, [name, _]) in NETWORKS {
        let from = lab.container(name)?;
        for (other, _, [to, _]) in NETWORKS.iter().filter(|(other, ..)| *other != network) {
            let gateway = lab.gateway(other)?.1;
            let to = lab.container(to)?;
            for ip in [to.ip, gateway] {
                // A network without a way out has no route for the question.
                let answer = traffic::ping(&from.netns, ip, SILENCE / 4).unwrap_or(None);
                ensure(answer.is_none(), || format!("{ip} on {other} answers {name}"))?;
            }
            let at = SocketAddrV4::new(to.ip, 80);
            let answers = mode != "internal" && traffic::tcp_answers(&from.netns, at)?;
            ensure(!answers, || format!("the stack of {} answers {name}", to.port.name))?;
        }
        if network != "red" && mode != "internal" {
            let answers = traffic::tcp_answers(&from.netns, published)?;
            ensure(!answers, || format!("{published}, which leads to red, answers {name}"))?;
        }
        tell(format_args!("{name} pings and connects to all others, and their gateways: nothing"));
    }
    Ok(())
}
