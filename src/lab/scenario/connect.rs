//! One container on two networks: the web server in front of a database that nobody else reaches.

use std::net::SocketAddrV4;

use super::{Check, Scenario, Stage};
use crate::control::response::{Done, NetworkInfo, PortInfo};
use crate::host::netlink;
use crate::lab::rig::INTERNET;
use crate::lab::traffic::{self, SILENCE, Talk};
use crate::lab::world::{Failure, Lab, ensure, reaches, tell};

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "connect",
        elsewhere: &[
            "docker network create --internal back; docker network connect back web",
            "brctl addif br-back veth7; nsenter ... ip link set veth8 name eth1; ip addr add ... dev eth1",
            "docker network disconnect back web",
        ],
        checks: &[
            Check { claim: "a container reaches another network once it is connected to it", run: connected },
            Check {
                claim: "it has one default route, by its first network that leads out",
                run: default_route,
            },
            Check { claim: "disconnected and connected again, it has the addresses that it had", run: again },
            Check { claim: "removing the port takes all of its interfaces along", run: removed },
        ],
    }],
};

fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    lab.ctl::<NetworkInfo>("network create back --subnet 10.20.0.0/24 --mode internal")?;
    lab.attach("web", "default", "")?;
    lab.attach("db", "back", "")?;
    Ok(lab)
}

fn connected(lab: &Lab) -> Result<(), Failure> {
    let (web, db) = (lab.container("web")?, lab.container("db")?);
    let answer = traffic::ping(&web.netns, db.ip, SILENCE)?;
    ensure(answer.is_none(), || "db answers web, which is on another network".to_owned())?;
    tell(format_args!("web pings db at {}: nothing", db.ip));
    let eth1: PortInfo = lab.ctl("network connect back web")?;
    let ip = eth1.ip.ok_or("eth1 has no address")?;
    tell(format_args!("web has {} with {ip} now", eth1.ifname));
    reaches(web, db.ip)?;
    reaches(db, ip)?;
    let at = SocketAddrV4::new(db.ip, 5432);
    let page = traffic::http_page(Talk { client: &web.netns, to: at, server: &db.netns, at })?;
    tell(format_args!("web asks http://{at}/: \"{page}\""));
    ensure(page.contains(&format!("hello {ip},")), || format!("db does not see {ip}: {page}"))?;
    let ports: Vec<PortInfo> = lab.ctl("port ls")?;
    let rows: Vec<_> = ports.iter().filter(|port| port.name == "web").map(|port| &port.network).collect();
    ensure(rows == ["default", "back"], || format!("{ports:?}"))
}

fn default_route(lab: &Lab) -> Result<(), Failure> {
    let (web, db) = (lab.container("web")?, lab.container("db")?);
    let routes = web.netns.run(netlink::routes)??;
    let default: Vec<_> = routes.iter().filter(|route| route.prefix.prefix_len() == 0).collect();
    let gateway = lab.gateway("default")?.1;
    ensure(default.len() == 1 && default[0].gateway == Some(gateway), || format!("{routes:?}"))?;
    reaches(web, INTERNET)?;
    let answer = traffic::ping(&db.netns, INTERNET, SILENCE).unwrap_or(None);
    ensure(answer.is_none(), || "the internet answers db, which is on an internal network".to_owned())?;
    tell("db, on a network without a way out, does not reach it");
    Ok(())
}

fn again(lab: &Lab) -> Result<(), Failure> {
    let (web, db) = (lab.container("web")?, lab.container("db")?);
    let of_web =
        |ports: Vec<PortInfo>| ports.into_iter().find(|port| port.name == "web" && port.network == "back");
    let before = of_web(lab.ask("port ls")?).ok_or("web is not on back")?;
    lab.ctl::<Done>("network disconnect back web")?;
    let answer = traffic::ping(&web.netns, db.ip, SILENCE)?;
    ensure(answer.is_none(), || "db still answers".to_owned())?;
    let links = web.netns.run(netlink::links)??;
    ensure(links.len() == 2, || format!("{links:?}"))?;
    let after: PortInfo = lab.ctl("network connect back web")?;
    ensure((after.ip, after.mac) == (before.ip, before.mac), || format!("{before:?} was, {after:?} is"))?;
    reaches(web, db.ip)
}

fn removed(lab: &Lab) -> Result<(), Failure> {
    lab.ctl::<Done>("port rm web")?;
    let ports: Vec<PortInfo> = lab.ctl("port ls")?;
    let links = lab.container("web")?.netns.run(netlink::links)??;
    ensure(ports.len() == 1 && links.len() == 1, || format!("{ports:?} {links:?}"))
}
