//! The host on a network: an address for it there, and nothing more of it.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Check, Scenario, Stage};
use crate::addr::Endpoint;
use crate::control::response::{Done, DropInfo, PortInfo};
use crate::host::netlink;
use crate::lab::frames::Tap;
use crate::lab::rig::UPLINK;
use crate::lab::traffic::{self, PATIENCE, SILENCE, Talk};
use crate::lab::world::{Failure, Lab, ensure, reaches, tell};
use crate::sim::packet::{self, Macs};

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "host-port",
        elsewhere: &[
            "the address of docker0 itself: ip addr add 172.17.0.1/16 dev docker0",
            "there it cannot be taken away, and the host answers on all of its addresses",
        ],
        checks: &[
            Check { claim: "the host and containers reach each other", run: both_ways },
            Check { claim: "the host is a station there and no router", run: no_router },
            Check { claim: "taken away, nothing of it is left", run: taken_away },
        ],
    }],
};

fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    lab.attach("c1", "default", "")?;
    lab.ctl::<PortInfo>("network host-port default --ip 172.30.0.100")?;
    Ok(lab)
}

fn host(lab: &Lab) -> Result<(Ipv4Addr, PortInfo), Failure> {
    let ports: Vec<PortInfo> = lab.ask("port ls")?;
    let port = ports.into_iter().find(|port| port.kind.as_str() == "host").ok_or("there is no host port")?;
    Ok((port.ip.ok_or("it has no address")?, port))
}

fn both_ways(lab: &Lab) -> Result<(), Failure> {
    let (c1, (ip, port)) = (lab.container("c1")?, host(lab)?);
    tell(format_args!("the host has {} with {ip}", port.ifname));
    let time = traffic::ping(&lab.rig.switch, c1.ip, PATIENCE)?.ok_or("c1 does not answer the host")?;
    tell(format_args!("the host pings c1: {} us", time.as_micros()));
    reaches(c1, ip)?;
    let at = SocketAddrV4::new(ip, 3128);
    let page = traffic::http_page(Talk { client: &c1.netns, to: at, server: &lab.rig.switch, at })?;
    tell(format_args!("c1 asks http://{at}/: \"{page}\""));
    ensure(page.contains(&format!("hello {},", c1.ip)), || page)
}

fn no_router(lab: &Lab) -> Result<(), Failure> {
    let (c1, (_, port)) = (lab.container("c1")?, host(lab)?);
    let macs = Macs { src: c1.mac, dst: port.mac.ok_or("it has no MAC address")? };
    tell(format_args!("c1 asks for the host's other address {UPLINK} by the MAC address of {}", port.ifname));
    let tap = Tap::open(&c1.netns)?;
    tap.send_frame(&packet::echo(macs, c1.ip, UPLINK, true, 99, b"are you the host?"))?;
    let datagram = packet::udp(macs, Endpoint::new(c1.ip, 1), Endpoint::new(UPLINK, 1), b"are you the host?");
    tap.send_frame(&datagram)?;
    let from_uplink = |frame: &[u8]| frame.get(26..30) == Some(&UPLINK.octets()[..]);
    ensure(!tap.sees(SILENCE, from_uplink), || "the host answers".to_owned())?;
    let drops: Vec<DropInfo> = lab.ctl("drops --port c1")?;
    let dropped = drops.iter().find(|drop| drop.reason == "not-for-host").map_or(0, |drop| drop.count);
    tell(format_args!("nothing; {dropped} frames dropped: not-for-host"));
    ensure(dropped == 2, || format!("{drops:?}"))
}

fn taken_away(lab: &Lab) -> Result<(), Failure> {
    lab.ctl::<Done>("network host-port default --off")?;
    let links = lab.rig.switch.run(netlink::links)??;
    ensure(links.iter().all(|link| !link.name.starts_with("vsw")), || format!("{links:?}"))?;
    let ports: Vec<PortInfo> = lab.ctl("port ls")?;
    ensure(ports.len() == 1, || format!("{ports:?}"))
}
