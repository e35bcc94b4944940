//! The basics: one network with three containers, another one with one, and the internet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use super::{Check, Scenario, Stage};
use crate::addr::MacAddr;
use crate::control::response::{Done, FdbEntry, NetworkInfo, PublicationInfo, Status};
use crate::host::netns::Netns;
use crate::lab::frames::Tap;
use crate::lab::rig::{GATEWAY, INTERNET, UPLINK_MTU};
use crate::lab::traffic::{self, PATIENCE, SILENCE, Talk};
use crate::lab::world::{Container, Failure, Lab, ensure, reaches, tell};

/// A station that nothing in the laboratory has, of those that RFC 7042 keeps for documentation.
const NOBODY: MacAddr = MacAddr([0x02, 0x00, 0x5e, 0x00, 0x53, 0x99]);

/// Bytes of a bulk transfer: seconds even without super-frames.
const BULK: u64 = 64 << 20;

/// The published port, and where it leads to.
const PUBLISHED: u16 = 8080;
const SERVED: u16 = 80;

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[
        Scenario {
            name: "learning",
            elsewhere: &["bridge fdb show br docker0"],
            checks: &[Check { claim: "the switch learns behind which port a station is", run: learning }],
        },
        Scenario {
            name: "flooding",
            elsewhere: &["brctl showmacs docker0; a Linux bridge believes the impostor"],
            checks: &[Check {
                claim: "an unknown station is looked for everywhere, a known one not; an impostor is not heard",
                run: flooding,
            }],
        },
        Scenario {
            name: "gateway",
            elsewhere: &["ip addr add 172.17.0.1/16 dev docker0"],
            checks: &[Check { claim: "the gateway answers ARP for its own address only", run: gateway_arp }],
        },
        Scenario {
            name: "ping",
            elsewhere: &["docker run --network bridge ...; docker exec c1 ping 172.17.0.3"],
            checks: &[Check { claim: "containers reach each other and the gateway", run: ping }],
        },
        Scenario {
            name: "masquerade",
            elsewhere: &["iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"],
            checks: &[
                Check { claim: "the internet sees the uplink's address: TCP", run: masquerade_tcp },
                Check { claim: "the internet sees the uplink's address: UDP", run: masquerade_udp },
                Check { claim: "the internet answers ping", run: masquerade_ping },
            ],
        },
        Scenario {
            name: "offload",
            elsewhere: &["ethtool -K veth0 tso on gso on"],
            checks: &[
                Check { claim: "64 KiB super-frames cross from container to container", run: offload_inside },
                Check { claim: "64 KiB super-frames cross to the uplink", run: offload_outside },
            ],
        },
        Scenario {
            name: "publish",
            elsewhere: &[
                "docker run -p 8080:80 ...",
                "iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to 172.17.0.2:80",
            ],
            checks: &[
                Check { claim: "a published TCP port shows the client's own address", run: publish_tcp },
                Check { claim: "a published UDP port shows the client's own address", run: publish_udp },
            ],
        },
        Scenario {
            name: "hairpin",
            elsewhere: &["ip link set veth0 type bridge_slave hairpin on; or docker-proxy"],
            checks: &[Check {
                claim: "containers reach a published port by the uplink's address",
                run: hairpin,
            }],
        },
        Scenario {
            name: "apart",
            elsewhere: &[
                "docker network create blue; iptables -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
            ],
            checks: &[Check { claim: "two networks do not reach each other", run: apart }],
        },
        Scenario {
            name: "accounting",
            elsewhere: &["nothing counts every frame there"],
            checks: &[Check {
                claim: "every frame that came in went out or was counted as dropped",
                run: accounting,
            }],
        },
    ],
};

/// Containers c1, c2 and c3 on the network "default", and b1 on "blue".
fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    lab.ctl::<NetworkInfo>("network create blue --subnet 172.31.0.0/16")?;
    for (name, network) in [("c1", "default"), ("c2", "default"), ("c3", "default"), ("b1", "blue")] {
        lab.attach(name, network, "")?;
    }
    Ok(lab)
}

/// The first three containers.
fn three(lab: &Lab) -> Result<[&Container; 3], Failure> {
    Ok([lab.container("c1")?, lab.container("c2")?, lab.container("c3")?])
}

/// A conversation of `client` with the internet's host.
fn outwards<'a>(lab: &'a Lab, client: &'a Container, port: u16) -> Talk<'a> {
    let server = SocketAddrV4::new(INTERNET, port);
    Talk { client: &client.netns, to: server, server: &lab.rig.internet, at: server }
}

/// A conversation with `server` by the published port.
fn published<'a>(lab: &'a Lab, client: &'a Netns, server: &'a Container) -> Talk<'a> {
    let to = SocketAddrV4::new(lab.switch.uplink, PUBLISHED);
    Talk { client, to, server: &server.netns, at: SocketAddrV4::new(server.ip, SERVED) }
}

fn publish(lab: &Lab, protocol: &str, to: &Container) -> Result<(), Failure> {
    let name = &to.port.name;
    lab.ctl::<PublicationInfo>(&format!("publish add {PUBLISHED}:{SERVED}/{protocol} --to {name}")).map(drop)
}

fn learning(lab: &Lab) -> Result<(), Failure> {
    let [c1, c2, _] = three(lab)?;
    tell("c1 pings c2, so both have spoken");
    reaches(c1, c2.ip)?;
    let learned: Vec<FdbEntry> = lab.ctl("fdb show --network default")?;
    for container in [c1, c2] {
        let (name, mac) = (&container.port.name, container.mac);
        let entry = learned.iter().find(|entry| entry.mac == mac);
        let entry = entry.ok_or_else(|| format!("{mac} of {name} is not in the table"))?;
        tell(format_args!("{mac} is on {}, {}", entry.port.as_deref().unwrap_or("-"), entry.r#type));
        ensure(entry.port.as_ref() == Some(name) && entry.r#type == "dynamic", || format!("{entry:?}"))?;
    }
    Ok(())
}

fn flooding(lab: &Lab) -> Result<(), Failure> {
    let [c1, c2, c3] = three(lab)?;
    let (one, two, three) = (Tap::open(&c1.netns)?, Tap::open(&c2.netns)?, Tap::open(&c3.netns)?);
    tell(format_args!("c1 sends to {NOBODY}, which nobody has heard of"));
    one.says(c1.mac, NOBODY, "anybody?")?;
    let heard = [two.hears("anybody?", PATIENCE), three.hears("anybody?", PATIENCE)];
    ensure(heard == [true, true], || format!("heard by c2, c3: {heard:?}"))?;
    tell(format_args!("c2 and c3 hear it; now c2 says that it is {NOBODY}, and is not believed"));
    two.says(NOBODY, c1.mac, "liar!")?;
    ensure(!one.hears("liar!", SILENCE), || "c1 hears c2 under a wrong address".to_owned())?;
    lab.ctl::<Done>("port set c2 security=off")?;
    two.says(NOBODY, c1.mac, "here!")?;
    ensure(one.hears("here!", PATIENCE), || "c1 does not hear c2".to_owned())?;
    lab.ctl::<Done>("port set c2 security=on")?;
    one.says(c1.mac, NOBODY, "for you")?;
    let heard = [two.hears("for you", PATIENCE), three.hears("for you", SILENCE)];
    ensure(heard == [true, false], || format!("heard by c2, c3: {heard:?}"))?;
    tell("c1 sends again: only c2 hears it");
    Ok(())
}

fn gateway_arp(lab: &Lab) -> Result<(), Failure> {
    let c1 = lab.container("c1")?;
    let (default, tap) = (lab.network("default")?, Tap::open(&c1.netns)?);
    let (gateway_mac, gateway) = lab.gateway("default")?;
    let own = (c1.mac, c1.ip);
    let answer = tap.who_has(own, gateway, PATIENCE)?;
    let mac = answer.ok_or_else(|| format!("no answer for {gateway}"))?;
    tell(format_args!("c1 asks who has {gateway}: {mac}"));
    ensure(mac == gateway_mac, || format!("the gateway is {gateway_mac}"))?;
    // The last address of the network, which no container has.
    let absent = Ipv4Addr::from_bits(default.subnet.broadcast().to_bits() - 1);
    let answer = tap.who_has(own, absent, SILENCE)?;
    ensure(answer.is_none(), || format!("somebody answers for {absent}: {answer:?}"))?;
    tell(format_args!("c1 asks who has {absent}: nobody answers"));
    Ok(())
}

fn ping(lab: &Lab) -> Result<(), Failure> {
    let [c1, c2, c3] = three(lab)?;
    reaches(c1, c3.ip)?;
    reaches(c2, c1.ip)?;
    reaches(c1, lab.gateway("default")?.1)
}

fn masquerade_tcp(lab: &Lab) -> Result<(), Failure> {
    let page = traffic::http_page(outwards(lab, lab.container("c1")?, 80))?;
    tell(format_args!("c1 asks http://{INTERNET}/: \"{page}\""));
    ensure(page.contains(&format!("hello {},", lab.switch.uplink)), || {
        format!("not the uplink's address: {page}")
    })
}

fn masquerade_udp(lab: &Lab) -> Result<(), Failure> {
    let seen = traffic::udp_echo(outwards(lab, lab.container("c1")?, 53))?;
    tell(format_args!("c1 sends a datagram to {INTERNET}:53, which sees {seen} and answers"));
    is_from(seen, lab.switch.uplink)
}

fn is_from(seen: SocketAddr, expected: Ipv4Addr) -> Result<(), Failure> {
    ensure(seen.ip() == IpAddr::V4(expected), || format!("the server sees {seen}, not {expected}"))
}

fn masquerade_ping(lab: &Lab) -> Result<(), Failure> {
    reaches(lab.container("c1")?, INTERNET)?;
    reaches(lab.container("b1")?, INTERNET)
}

fn offload_inside(lab: &Lab) -> Result<(), Failure> {
    let [c1, c2, _] = three(lab)?;
    let server = SocketAddrV4::new(c2.ip, 5001);
    let talk = Talk { client: &c1.netns, to: server, server: &c2.netns, at: server };
    bulk(lab, "c2", talk)
}

fn offload_outside(lab: &Lab) -> Result<(), Failure> {
    bulk(lab, "eth0", outwards(lab, lab.container("c1")?, 5001))
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
    let c1 = lab.container("c1")?;
    publish(lab, "tcp", c1)?;
    let page = traffic::http_page(published(lab, &lab.rig.internet, c1))?;
    tell(format_args!("{GATEWAY} asks http://{}:{PUBLISHED}/: \"{page}\"", lab.switch.uplink));
    ensure(page == format!("hello {GATEWAY}, I am c1"), || format!("not the client's address: {page}"))
}

fn publish_udp(lab: &Lab) -> Result<(), Failure> {
    let c1 = lab.container("c1")?;
    publish(lab, "udp", c1)?;
    let seen = traffic::udp_echo(published(lab, &lab.rig.internet, c1))?;
    tell(format_args!("{GATEWAY} sends a datagram to {}:{PUBLISHED}; c1 sees {seen}", lab.switch.uplink));
    is_from(seen, GATEWAY)
}

fn hairpin(lab: &Lab) -> Result<(), Failure> {
    let c1 = lab.container("c1")?;
    publish(lab, "tcp", c1)?;
    for client in [lab.container("c2")?, c1] {
        let page = traffic::http_page(published(lab, &client.netns, c1))?;
        let name = &client.port.name;
        tell(format_args!("{name} asks http://{}:{PUBLISHED}/: \"{page}\"", lab.switch.uplink));
        // RFC 4787 REQ-9: a hairpinned packet comes from the external address.
        ensure(page == format!("hello {}, I am c1", lab.switch.uplink), || {
            format!("not the uplink's address: {page}")
        })?;
    }
    Ok(())
}

fn apart(lab: &Lab) -> Result<(), Failure> {
    let ([c1, c2, _], b1) = (three(lab)?, lab.container("b1")?);
    for (from, to) in [(c1, b1), (b1, c1)] {
        let (client, server) = (&from.port.name, &to.port.name);
        let answer = traffic::ping(&from.netns, to.ip, SILENCE)?;
        ensure(answer.is_none(), || format!("{server} answers {client}"))?;
        let connects = traffic::tcp_answers(&from.netns, SocketAddrV4::new(to.ip, SERVED))?;
        ensure(!connects, || format!("the stack of {server} answers a SYN of {client}"))?;
        tell(format_args!("{client} pings {server} at {} and connects to it: nothing", to.ip));
    }
    let (one, two, other) = (Tap::open(&c1.netns)?, Tap::open(&c2.netns)?, Tap::open(&b1.netns)?);
    one.says(c1.mac, MacAddr::BROADCAST, "to all")?;
    let heard = [two.hears("to all", PATIENCE), other.hears("to all", SILENCE)];
    ensure(heard == [true, false], || format!("a broadcast is heard by c2, b1: {heard:?}"))?;
    tell("c1 broadcasts: c2 hears it, b1 does not");
    Ok(())
}

fn accounting(lab: &Lab) -> Result<(), Failure> {
    // Frames on their way, or waiting for an answer by ARP, are neither in nor out yet.
    let mut imbalance = 0;
    for _ in 0..50 {
        let status: Status = lab.ask("status")?;
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
