//! A network that the world knows: no translation, in either direction.

use std::net::SocketAddrV4;

use super::{Check, Scenario, Stage};
use crate::control::response::NetworkInfo;
use crate::host::netlink;
use crate::lab::rig::INTERNET;
use crate::lab::traffic::{self, PATIENCE, Talk};
use crate::lab::world::{Failure, Lab, ensure, reaches, tell};

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "routed",
        elsewhere: &[
            "docker network create -o com.docker.network.bridge.gateway_mode_ipv4=routed plain",
            "sysctl net.ipv4.ip_forward=1, and no MASQUERADE",
        ],
        checks: &[
            Check { claim: "the internet sees a container's own address", run: outwards },
            Check { claim: "the internet reaches a container where a route leads to it", run: inwards },
        ],
    }],
};

fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    let network: NetworkInfo = lab.ctl("network create plain --subnet 203.0.113.0/24 --mode routed")?;
    lab.attach("p1", "plain", "")?;
    tell(format_args!("the internet's router: $ ip route add {} via {}", network.subnet, lab.switch.uplink));
    lab.rig.internet.run(|| netlink::add_route(network.subnet, lab.switch.uplink))??;
    Ok(lab)
}

fn outwards(lab: &Lab) -> Result<(), Failure> {
    let p1 = lab.container("p1")?;
    reaches(p1, INTERNET)?;
    let at = SocketAddrV4::new(INTERNET, 80);
    let page = traffic::http_page(Talk { client: &p1.netns, to: at, server: &lab.rig.internet, at })?;
    tell(format_args!("p1 asks http://{INTERNET}/: \"{page}\""));
    ensure(page.contains(&format!("hello {},", p1.ip)), || format!("not its own address: {page}"))
}

fn inwards(lab: &Lab) -> Result<(), Failure> {
    let p1 = lab.container("p1")?;
    let time = traffic::ping(&lab.rig.internet, p1.ip, PATIENCE)?.ok_or("p1 does not answer the internet")?;
    tell(format_args!("the internet pings {}: {} us", p1.ip, time.as_micros()));
    let at = SocketAddrV4::new(p1.ip, 80);
    let page = traffic::http_page(Talk { client: &lab.rig.internet, to: at, server: &p1.netns, at })?;
    tell(format_args!("the internet asks http://{at}/: \"{page}\""));
    ensure(page.ends_with("I am p1"), || page)
}
