//! What the laboratory shows. Each check tells what it does, and fails with what it saw instead.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::frames::Tap;
use super::rig::{GATEWAY, INTERNET, Rig, UPLINK_MTU};
use super::switch::Switch;
use super::traffic::{self, PATIENCE, SILENCE, Talk};
use crate::addr::MacAddr;
use crate::control::request::Security;
use crate::control::response::{
    Done, FdbEntry, NetworkInfo, PortInfo, PortStats, PublicationInfo, Stats, Status,
};
use crate::host::netns::Netns;

/// A station that nothing in the laboratory has, of those that RFC 7042 keeps for documentation.
const NOBODY: MacAddr = MacAddr([0x02, 0x00, 0x5e, 0x00, 0x53, 0x99]);

/// Bytes of a bulk transfer: seconds even without super-frames.
const BULK: u64 = 64 << 20;

/// The published port, and where it leads to.
const PUBLISHED: u16 = 8080;
const SERVED: u16 = 80;

/// Why a check failed.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// One thing that is shown.
pub(super) struct Check {
    /// The scenario it belongs to.
    pub(super) scenario: &'static str,
    /// What is claimed, as it stands in the table at the end.
    pub(super) claim: &'static str,
    /// Shows it.
    pub(super) run: fn(&Lab) -> Result<(), Failure>,
}

/// All of them, in order.
pub(super) const CHECKS: &[Check] = &[
    Check { scenario: "learning", claim: "the switch learns behind which port a station is", run: learning },
    Check {
        scenario: "flooding",
        claim: "an unknown station is looked for everywhere, a known one not; an impostor is not heard",
        run: flooding,
    },
    Check {
        scenario: "gateway",
        claim: "the gateway answers ARP for its own address only",
        run: gateway_arp,
    },
    Check { scenario: "ping", claim: "containers reach each other and the gateway", run: ping },
    Check {
        scenario: "masquerade",
        claim: "the internet sees the uplink's address: TCP",
        run: masquerade_tcp,
    },
    Check {
        scenario: "masquerade",
        claim: "the internet sees the uplink's address: UDP",
        run: masquerade_udp,
    },
    Check { scenario: "masquerade", claim: "the internet answers ping", run: masquerade_ping },
    Check {
        scenario: "offload",
        claim: "64 KiB super-frames cross from container to container",
        run: offload_inside,
    },
    Check { scenario: "offload", claim: "64 KiB super-frames cross to the uplink", run: offload_outside },
    Check {
        scenario: "publish",
        claim: "a published TCP port shows the client's own address",
        run: publish_tcp,
    },
    Check {
        scenario: "publish",
        claim: "a published UDP port shows the client's own address",
        run: publish_udp,
    },
    Check {
        scenario: "hairpin",
        claim: "containers reach a published port by the uplink's address",
        run: hairpin,
    },
    Check { scenario: "isolation", claim: "two networks do not reach each other", run: isolation },
    Check {
        scenario: "accounting",
        claim: "every frame that came in went out or was counted as dropped",
        run: accounting,
    },
];

/// A namespace on the switch.
pub(super) struct Container {
    pub(super) netns: Netns,
    pub(super) port: PortInfo,
    ip: Ipv4Addr,
    mac: MacAddr,
}

/// Everything that the checks act on.
pub(super) struct Lab {
    pub(super) rig: Rig,
    pub(super) switch: Switch,
    pub(super) default: NetworkInfo,
    pub(super) c1: Container,
    pub(super) c2: Container,
    pub(super) c3: Container,
    /// On another network.
    pub(super) blue: Container,
}

impl Lab {
    /// Makes namespaces, starts the switch and attaches the containers.
    pub(super) fn set_up() -> Result<Lab, Failure> {
        let rig = Rig::new()?;
        tell("$ vswitchd --uplink eth0");
        let switch = Switch::start(&rig)?;
        if let Some(reason) = &switch.no_guard {
            tell(format_args!("no guard on the uplink: {reason}"));
            tell(format_args!("so the switch uses an address of its own on it, {}", switch.uplink));
        }
        tell("$ vswitchctl network create blue --subnet 172.31.0.0/16");
        let blue = json!({ "name": "blue", "subnet": "172.31.0.0/16" });
        switch.ask::<NetworkInfo>("network", "create", &blue)?;
        let networks: Vec<NetworkInfo> = switch.ask("network", "ls", &json!({}))?;
        let default = networks.into_iter().find(|network| network.name == "default");
        let default = default.ok_or("there is no network \"default\"")?;
        let attach = |name, network| Container::attach(&rig, &switch, name, network);
        let (c1, c2, c3) = (attach("c1", "default")?, attach("c2", "default")?, attach("c3", "default")?);
        let blue = attach("b1", "blue")?;
        Ok(Lab { rig, switch, default, c1, c2, c3, blue })
    }

    /// A conversation of `client` with the internet's host.
    fn outwards<'a>(&'a self, client: &'a Container, port: u16) -> Talk<'a> {
        let server = SocketAddrV4::new(INTERNET, port);
        Talk { client: &client.netns, to: server, server: &self.rig.internet, at: server }
    }

    /// A conversation with `server` by the published port.
    fn published<'a>(&'a self, client: &'a Netns, server: &'a Container) -> Talk<'a> {
        let to = SocketAddrV4::new(self.switch.uplink, PUBLISHED);
        Talk { client, to, server: &server.netns, at: SocketAddrV4::new(server.ip, SERVED) }
    }

    fn publish(&self, protocol: &str, to: &Container) -> Result<(), Failure> {
        let spec = format!("{PUBLISHED}:{SERVED}/{protocol}");
        tell(format_args!("$ vswitchctl publish add {spec} --to {}", to.port.name));
        let publication = json!({ "spec": spec, "to": to.port.name });
        self.switch.ask::<PublicationInfo>("publish", "add", &publication)?;
        Ok(())
    }

    fn set_security(&self, port: &str, security: Security) -> Result<(), Failure> {
        let set = json!({ "name": port, "settings": [{ "security": security }] });
        self.switch.ask::<Done>("port", "set", &set)?;
        Ok(())
    }

    fn counters(&self, port: &str) -> Result<PortStats, Failure> {
        let stats: Stats = self.switch.ask("stats", "", &json!({}))?;
        let found = stats.ports.into_iter().find(|stats| stats.name == port);
        Ok(found.ok_or_else(|| format!("no counters of {port}"))?)
    }
}

impl Container {
    fn attach(rig: &Rig, switch: &Switch, name: &str, network: &str) -> Result<Container, Failure> {
        let netns = rig.container(name)?;
        let path = netns.path();
        tell(format_args!("$ vswitchctl port add {name} --network {network} --netns {}", path.display()));
        let port = json!({ "name": name, "network": network, "netns": path });
        let port: PortInfo = switch.ask("port", "add", &port)?;
        let (Some(ip), Some(mac)) = (port.ip, port.mac) else {
            return Err(format!("{name} has no address").into());
        };
        Ok(Container { netns, port, ip, mac })
    }
}

/// Prints a line of the story.
pub(super) fn tell(what: impl std::fmt::Display) {
    println!("  {what}");
}

fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}

fn learning(lab: &Lab) -> Result<(), Failure> {
    tell("c1 pings c2, so both have spoken");
    reaches(&lab.c1, lab.c2.ip)?;
    let learned: Vec<FdbEntry> = lab.switch.ask("fdb", "show", &json!({ "network": "default" }))?;
    for container in [&lab.c1, &lab.c2] {
        let (name, mac) = (&container.port.name, container.mac);
        let entry = learned.iter().find(|entry| entry.mac == mac);
        let entry = entry.ok_or_else(|| format!("{mac} of {name} is not in the table"))?;
        tell(format_args!(
            "$ vswitchctl fdb show: {mac} is on {}, {}",
            entry.port.as_deref().unwrap_or("-"),
            entry.r#type
        ));
        ensure(entry.port.as_ref() == Some(name) && entry.r#type == "dynamic", || format!("{entry:?}"))?;
    }
    Ok(())
}

fn flooding(lab: &Lab) -> Result<(), Failure> {
    let (one, two, three) = (Tap::open(&lab.c1.netns)?, Tap::open(&lab.c2.netns)?, Tap::open(&lab.c3.netns)?);
    tell(format_args!("c1 sends to {NOBODY}, which nobody has heard of"));
    one.says(lab.c1.mac, NOBODY, "anybody?")?;
    let heard = [two.hears("anybody?", PATIENCE), three.hears("anybody?", PATIENCE)];
    ensure(heard == [true, true], || format!("heard by c2, c3: {heard:?}"))?;
    tell(format_args!("c2 and c3 hear it; now c2 says that it is {NOBODY}, and is not believed"));
    two.says(NOBODY, lab.c1.mac, "liar!")?;
    ensure(!one.hears("liar!", SILENCE), || "c1 hears c2 under a wrong address".to_owned())?;
    tell("$ vswitchctl port set c2 security=off");
    lab.set_security("c2", Security::Off)?;
    two.says(NOBODY, lab.c1.mac, "here!")?;
    ensure(one.hears("here!", PATIENCE), || "c1 does not hear c2".to_owned())?;
    lab.set_security("c2", Security::On)?;
    one.says(lab.c1.mac, NOBODY, "for you")?;
    let heard = [two.hears("for you", PATIENCE), three.hears("for you", SILENCE)];
    ensure(heard == [true, false], || format!("heard by c2, c3: {heard:?}"))?;
    tell("c1 sends again: only c2 hears it");
    Ok(())
}

fn gateway_arp(lab: &Lab) -> Result<(), Failure> {
    let tap = Tap::open(&lab.c1.netns)?;
    let own = (lab.c1.mac, lab.c1.ip);
    let gateway = lab.default.gateway;
    let answer = tap.who_has(own, gateway, PATIENCE)?;
    let mac = answer.ok_or_else(|| format!("no answer for {gateway}"))?;
    tell(format_args!("c1 asks who has {gateway}: {mac}"));
    ensure(mac == lab.default.gateway_mac, || format!("the gateway is {}", lab.default.gateway_mac))?;
    // The last address of the network, which no container has.
    let absent = Ipv4Addr::from_bits(lab.default.subnet.broadcast().to_bits() - 1);
    let answer = tap.who_has(own, absent, SILENCE)?;
    ensure(answer.is_none(), || format!("somebody answers for {absent}: {answer:?}"))?;
    tell(format_args!("c1 asks who has {absent}: nobody answers"));
    Ok(())
}

fn ping(lab: &Lab) -> Result<(), Failure> {
    reaches(&lab.c1, lab.c3.ip)?;
    reaches(&lab.c2, lab.c1.ip)?;
    reaches(&lab.c1, lab.default.gateway)
}

fn reaches(from: &Container, to: Ipv4Addr) -> Result<(), Failure> {
    let name = &from.port.name;
    let time = traffic::ping(&from.netns, to, PATIENCE)?;
    let time = time.ok_or_else(|| format!("{to} does not answer {name}"))?;
    tell(format_args!("{name} pings {to}: {} us", time.as_micros()));
    Ok(())
}

fn masquerade_tcp(lab: &Lab) -> Result<(), Failure> {
    let page = traffic::http_page(lab.outwards(&lab.c1, 80))?;
    tell(format_args!("c1 asks http://{INTERNET}/: \"{page}\""));
    ensure(page.contains(&format!("hello {},", lab.switch.uplink)), || {
        format!("not the uplink's address: {page}")
    })
}

fn masquerade_udp(lab: &Lab) -> Result<(), Failure> {
    let seen = traffic::udp_echo(lab.outwards(&lab.c1, 53))?;
    tell(format_args!("c1 sends a datagram to {INTERNET}:53, which sees {seen} and answers"));
    is_from(seen, lab.switch.uplink)
}

fn is_from(seen: SocketAddr, expected: Ipv4Addr) -> Result<(), Failure> {
    ensure(seen.ip() == IpAddr::V4(expected), || format!("the server sees {seen}, not {expected}"))
}

fn masquerade_ping(lab: &Lab) -> Result<(), Failure> {
    reaches(&lab.c1, INTERNET)?;
    reaches(&lab.blue, INTERNET)
}

fn offload_inside(lab: &Lab) -> Result<(), Failure> {
    let server = SocketAddrV4::new(lab.c2.ip, 5001);
    let talk = Talk { client: &lab.c1.netns, to: server, server: &lab.c2.netns, at: server };
    bulk(lab, &lab.c2.port.name, talk)
}

fn offload_outside(lab: &Lab) -> Result<(), Failure> {
    bulk(lab, "eth0", lab.outwards(&lab.c1, 5001))
}

/// A transfer that must cross in super-frames, counted where it comes in and at `egress`.
fn bulk(lab: &Lab, egress: &str, talk: Talk<'_>) -> Result<(), Failure> {
    let before = (lab.counters("c1")?.counts, lab.counters(egress)?.counts);
    let transfer = traffic::tcp_transfer(talk, BULK)?;
    let after = (lab.counters("c1")?.counts, lab.counters(egress)?.counts);
    let supers = (after.0.rx_super - before.0.rx_super, after.1.tx_super - before.1.tx_super);
    let frames = (after.0.rx_packets - before.0.rx_packets).max(1);
    let average = (after.0.rx_bytes - before.0.rx_bytes) / frames;
    let rate = BULK as f64 * 8e-9 / transfer.took.as_secs_f64();
    tell(format_args!(
        "c1 sends {} MiB at {rate:.1} Gbit/s in {frames} frames of {average} bytes on average",
        BULK >> 20
    ));
    tell(format_args!("$ vswitchctl stats: c1 rx_super +{}, {egress} tx_super +{}", supers.0, supers.1));
    // An average, acknowledgments included, far over the MTU is super-frames all the way.
    ensure(supers.0 > 0 && supers.1 > 0 && average > 10 * u64::from(UPLINK_MTU), || {
        "no super-frames".to_owned()
    })
}

fn publish_tcp(lab: &Lab) -> Result<(), Failure> {
    lab.publish("tcp", &lab.c1)?;
    let page = traffic::http_page(lab.published(&lab.rig.internet, &lab.c1))?;
    tell(format_args!("{GATEWAY} asks http://{}:{PUBLISHED}/: \"{page}\"", lab.switch.uplink));
    ensure(page == format!("hello {GATEWAY}, I am c1"), || format!("not the client's address: {page}"))
}

fn publish_udp(lab: &Lab) -> Result<(), Failure> {
    lab.publish("udp", &lab.c1)?;
    let seen = traffic::udp_echo(lab.published(&lab.rig.internet, &lab.c1))?;
    tell(format_args!("{GATEWAY} sends a datagram to {}:{PUBLISHED}; c1 sees {seen}", lab.switch.uplink));
    is_from(seen, GATEWAY)
}

fn hairpin(lab: &Lab) -> Result<(), Failure> {
    lab.publish("tcp", &lab.c1)?;
    for client in [&lab.c2, &lab.c1] {
        let page = traffic::http_page(lab.published(&client.netns, &lab.c1))?;
        let name = &client.port.name;
        tell(format_args!("{name} asks http://{}:{PUBLISHED}/: \"{page}\"", lab.switch.uplink));
        // RFC 4787 REQ-9: a hairpinned packet comes from the external address.
        ensure(page == format!("hello {}, I am c1", lab.switch.uplink), || {
            format!("not the uplink's address: {page}")
        })?;
    }
    Ok(())
}

fn isolation(lab: &Lab) -> Result<(), Failure> {
    for (from, to) in [(&lab.c1, &lab.blue), (&lab.blue, &lab.c1)] {
        let (client, server) = (&from.port.name, &to.port.name);
        let answer = traffic::ping(&from.netns, to.ip, SILENCE)?;
        ensure(answer.is_none(), || format!("{server} answers {client}"))?;
        let connects = traffic::tcp_answers(&from.netns, SocketAddrV4::new(to.ip, SERVED))?;
        ensure(!connects, || format!("the stack of {server} answers a SYN of {client}"))?;
        tell(format_args!("{client} pings {server} at {} and connects to it: nothing", to.ip));
    }
    let (one, two, other) =
        (Tap::open(&lab.c1.netns)?, Tap::open(&lab.c2.netns)?, Tap::open(&lab.blue.netns)?);
    one.says(lab.c1.mac, MacAddr::BROADCAST, "to all")?;
    let heard = [two.hears("to all", PATIENCE), other.hears("to all", SILENCE)];
    ensure(heard == [true, false], || format!("a broadcast is heard by c2, b1: {heard:?}"))?;
    tell("c1 broadcasts: c2 hears it, b1 does not");
    Ok(())
}

fn accounting(lab: &Lab) -> Result<(), Failure> {
    // Frames on their way, or waiting for an answer by ARP, are neither in nor out yet.
    let mut imbalance = 0;
    for _ in 0..50 {
        let status: Status = lab.switch.ask("status", "", &json!({}))?;
        imbalance = status.imbalance;
        if imbalance == 0 {
            let totals = status.totals;
            tell(format_args!(
                "$ vswitchctl status: {} frames in, {} out, {} dropped, none unaccounted for",
                totals.rx_packets, totals.tx_packets, totals.drops
            ));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Err(io::Error::other(format!("{imbalance} frames are unaccounted for")).into())
}
