//! Rules: two networks, three containers, and what may be opened between them and the world.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use super::{Check, Scenario, Stage};
use crate::control::response::{CheckInfo, Done, NetworkInfo, PublicationInfo, RuleInfo};
use crate::lab::rig::{GATEWAY, INTERNET};
use crate::lab::traffic::{self, PATIENCE, SILENCE, Talk};
use crate::lab::world::{Container, Failure, Lab, ensure, reaches, tell};

/// Where containers serve.
const SERVED: u16 = 80;

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "policy",
        elsewhere: &[
            "iptables -I DOCKER-USER -s 172.30.0.2 -d 172.31.0.2 -p tcp --dport 80 -j ACCEPT",
            "iptables -I DOCKER-USER -d 172.30.0.2 -s 172.31.0.2 -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "... and again in DOCKER-ISOLATION-STAGE-2, which the next docker restart writes anew",
            "iptables -I DOCKER-USER -s 172.30.0.3 -d 192.168.0.0/16 -j REJECT; iptables -I INPUT -s 172.30.0.3 -j REJECT",
        ],
        checks: &[
            Check { claim: "one rule lets exactly that traffic cross between networks", run: crossing },
            Check { claim: "\"internet yes, LAN no, host no\" is one rule", run: internet_only },
            Check { claim: "a check names the rule that decides", run: check },
            Check { claim: "a connection ends with the rule that allowed it", run: revocation },
            Check { claim: "a rule holds between two containers of one network", run: neighbors },
            Check { claim: "a published port spreads its clients over several containers", run: spread },
        ],
    }],
};

/// Containers web and db on the network "default", and app on "blue".
fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    lab.ctl::<NetworkInfo>("network create blue --subnet 172.31.0.0/16")?;
    for (name, network) in [("web", "default"), ("db", "default"), ("app", "blue")] {
        lab.attach(name, network, "")?;
    }
    Ok(lab)
}

fn talk<'a>(client: &'a Container, server: &'a Container) -> Talk<'a> {
    let at = SocketAddrV4::new(server.ip, SERVED);
    Talk { client: &client.netns, to: at, server: &server.netns, at }
}

/// `from` gets no answer from `to`, neither to a ping nor to a SYN.
fn does_not_reach(from: &Container, to: Ipv4Addr) -> Result<(), Failure> {
    let name = &from.port.name;
    let answer = traffic::ping(&from.netns, to, SILENCE)?;
    let connects = traffic::tcp_answers(&from.netns, SocketAddrV4::new(to, SERVED))?;
    ensure(answer.is_none() && !connects, || format!("{to} answers {name}"))?;
    tell(format_args!("{name} pings {to} and connects to its port {SERVED}: refused"));
    Ok(())
}

fn crossing(lab: &Lab) -> Result<(), Failure> {
    let (web, app) = (lab.container("web")?, lab.container("app")?);
    does_not_reach(web, app.ip)?;
    lab.ctl::<RuleInfo>("policy add allow --from web --to app --proto tcp --dport 80 --name front")?;
    let page = traffic::http_page(talk(web, app))?;
    tell(format_args!("web asks http://{}/: \"{page}\"", app.ip));
    ensure(page.contains(&format!("hello {},", web.ip)), || format!("not its own address: {page}"))?;
    let other = SocketAddrV4::new(app.ip, SERVED + 1);
    ensure(!traffic::tcp_answers(&web.netns, other)?, || format!("{other} answers"))?;
    ensure(traffic::ping(&web.netns, app.ip, SILENCE)?.is_none(), || "app answers a ping".to_owned())?;
    tell("web connects to another port and pings: refused");
    does_not_reach(app, web.ip)
}

fn internet_only(lab: &Lab) -> Result<(), Failure> {
    let (web, db) = (lab.container("web")?, lab.container("db")?);
    lab.ctl::<RuleInfo>("policy add deny --from db --to lan,host")?;
    reaches(db, INTERNET)?;
    does_not_reach(db, GATEWAY)?;
    does_not_reach(db, lab.gateway("default")?.1)?;
    reaches(web, GATEWAY)?;
    reaches(db, web.ip)
}

fn check(lab: &Lab) -> Result<(), Failure> {
    for (ends, rule) in [
        ("--from web --to app tcp 80", Some(1)),
        ("--from web --to app tcp 81", None),
        ("--from db --to lan tcp 631", Some(2)),
        ("--from db --to internet tcp 443", None),
    ] {
        let found: CheckInfo = lab.ctl(&format!("policy check {ends}"))?;
        tell(&found.text);
        ensure(found.rule == rule, || format!("not rule {rule:?}: {found:?}"))?;
    }
    Ok(())
}

fn revocation(lab: &Lab) -> Result<(), Failure> {
    let mut connection = traffic::connect(talk(lab.container("web")?, lab.container("app")?))?;
    connection.client.write_all(b"question")?;
    tell("web is connected to app");
    lab.ctl::<Done>("policy rm front")?;
    // The gateway tells web's stack that it is prohibited, which it keeps to itself until it gives up.
    let heard = |connection: &mut traffic::Connection| -> Result<bool, Failure> {
        connection.client.write_all(b"more")?;
        connection.server.set_read_timeout(Some(SILENCE))?;
        let mut bytes = [0; 64];
        let length = std::io::Read::read(&mut connection.server, &mut bytes).unwrap_or(0);
        Ok(bytes[..length].windows(4).any(|window| window == b"more"))
    };
    ensure(!heard(&mut connection)?, || "app hears web without the rule".to_owned())?;
    tell("app hears nothing of it any more");
    Ok(())
}

fn neighbors(lab: &Lab) -> Result<(), Failure> {
    let (web, db) = (lab.container("web")?, lab.container("db")?);
    lab.ctl::<RuleInfo>("policy add deny --from web --to db --name apart")?;
    does_not_reach(web, db.ip)?;
    reaches(db, web.ip)?;
    lab.ctl::<Done>("policy rm apart")?;
    reaches(web, db.ip)
}

fn spread(lab: &Lab) -> Result<(), Failure> {
    let servers = [lab.container("web")?, lab.container("db")?];
    lab.ctl::<PublicationInfo>("publish add 8080:80/udp --to web --to db")?;
    let sockets = servers.map(|server| {
        let socket = traffic::inside(&server.netns, || UdpSocket::bind((server.ip, SERVED)))?;
        socket.set_read_timeout(Some(SILENCE))?;
        Ok::<_, Failure>(socket)
    });
    let mut clients = Vec::new();
    for _ in 0..32 {
        let client = traffic::inside(&lab.rig.internet, || UdpSocket::bind((GATEWAY, 0)))?;
        client.send_to(b"hello", (lab.switch.uplink, 8080))?;
        clients.push(client);
    }
    let mut counts = Vec::new();
    for (server, socket) in servers.iter().zip(sockets) {
        let socket = socket?;
        let mut count = 0;
        while socket.recv_from(&mut [0; 64]).is_ok() {
            count += 1;
        }
        tell(format_args!("{} has {count} of {} clients", server.port.name, clients.len()));
        counts.push(count);
    }
    ensure(counts.iter().sum::<usize>() == clients.len() && !counts.contains(&0), || {
        format!("not spread: {counts:?} within {PATIENCE:?}")
    })
}
