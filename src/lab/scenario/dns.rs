//! DNS and the relay: containers find each other by name, and the host finds what is published.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::{Check, Scenario, Stage};
use crate::control::response::PublicationInfo;
use crate::host::netns::Netns;
use crate::lab::rig::{GATEWAY, UPLINK};
use crate::lab::traffic::{PATIENCE, SILENCE};
use crate::lab::world::{Failure, Lab, ensure, tell};

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "dns",
        elsewhere: &[
            "docker network create ...; docker run --name web --network-alias www ... (its resolver at 127.0.0.11)",
            "docker run -p 8080:80 ... (its docker-proxy on the host)",
        ],
        checks: &[
            Check { claim: "containers find each other by name and alias", run: names },
            Check { claim: "the world's names are asked of the host's resolvers", run: world },
            Check { claim: "nobody outside reaches the DNS", run: outside },
            Check { claim: "a process of the host reaches what is published on 127.0.0.1", run: relay },
        ],
    }],
};

/// A name outside.
const WORLD: &str = "www.example.com.";

/// What it is.
const WORLD_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// Two that know each other by name.
fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    fs::write(lab.rig.directory().join("resolv.conf"), format!("nameserver {GATEWAY}\n"))?;
    lab.attach("web", "default", "--alias www")?;
    lab.attach("c1", "default", "")?;
    Ok(lab)
}

/// Asks for records of a name; `None` if nobody answers.
fn ask(
    netns: &Netns,
    server: Ipv4Addr,
    name: &str,
    kind: RecordType,
    patience: Duration,
) -> Result<Option<Message>, Failure> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name)?, kind));
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.connect((server, 53))?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(&query.to_vec()?)?;
    let mut bytes = vec![0; 4096];
    let Ok(len) = socket.recv(&mut bytes) else { return Ok(None) };
    Ok(Some(Message::from_vec(&bytes[..len])?))
}

/// Tells what c1 asks and what it hears.
fn look_up(lab: &Lab, name: &str, kind: RecordType) -> Result<String, Failure> {
    let gateway = lab.gateway("default")?.1;
    let answer = ask(&lab.container("c1")?.netns, gateway, name, kind, PATIENCE)?;
    let answer = answer.ok_or("the gateway does not answer")?;
    let found: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    let found = if found.is_empty() { answer.metadata.response_code.to_string() } else { found.join(", ") };
    tell(format_args!("c1 asks {gateway} for {name} {kind}: {found}"));
    Ok(found)
}

fn names(lab: &Lab) -> Result<(), Failure> {
    let ip = lab.container("web")?.ip;
    for name in ["web.", "www.", "web.default."] {
        let found = look_up(lab, name, RecordType::A)?;
        ensure(found == ip.to_string(), || format!("{name} is {found} instead of {ip}"))?;
    }
    let [a, b, c, d] = ip.octets();
    let found = look_up(lab, &format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR)?;
    ensure(found == "web.default.", || format!("{ip} is {found}"))
}

fn world(lab: &Lab) -> Result<(), Failure> {
    tell(format_args!("the host's resolv.conf names {GATEWAY}, where a resolver waits for one question"));
    let resolver = lab.rig.internet.run(|| UdpSocket::bind((GATEWAY, 53)))??;
    resolver.set_read_timeout(Some(PATIENCE))?;
    let found = thread::scope(|scope| {
        let answers = scope.spawn(|| answer_once(&resolver));
        let found = look_up(lab, WORLD, RecordType::A);
        answers.join().map_err(|_| "the resolver panicked")??;
        found
    })?;
    ensure(found == WORLD_IP.to_string(), || format!("{WORLD} is {found}"))
}

/// A resolver that knows one name.
fn answer_once(socket: &UdpSocket) -> Result<(), Failure> {
    let mut bytes = vec![0; 4096];
    let (len, from) = socket.recv_from(&mut bytes)?;
    tell(format_args!("the resolver is asked by {from}"));
    let query = Message::from_vec(&bytes[..len])?;
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.add_queries(query.queries.iter().cloned());
    answer.metadata.response_code = ResponseCode::NoError;
    answer.add_answer(Record::from_rdata(Name::from_ascii(WORLD)?, 60, RData::A(A(WORLD_IP))));
    socket.send_to(&answer.to_vec()?, from)?;
    Ok(())
}

fn outside(lab: &Lab) -> Result<(), Failure> {
    let answer = ask(&lab.rig.internet, lab.switch.uplink, "web.", RecordType::A, SILENCE)?;
    tell(format_args!(
        "the internet asks {} for web: {}",
        lab.switch.uplink,
        if answer.is_some() { "an answer" } else { "nothing" }
    ));
    ensure(answer.is_none(), || "the DNS answers to the internet".to_owned())
}

fn relay(lab: &Lab) -> Result<(), Failure> {
    if lab.switch.uplink != UPLINK {
        tell("the switch has an address of its own here, which the host reaches by its LAN");
        return Ok(());
    }
    let _: PublicationInfo = lab.ctl("publish add 8080:80 --to web")?;
    let web = lab.container("web")?;
    let listener = web.netns.run(|| TcpListener::bind((web.ip, 80)))??;
    for host in [Ipv4Addr::LOCALHOST, UPLINK] {
        let at = SocketAddrV4::new(host, 8080);
        let mut client = lab.rig.switch.run(|| TcpStream::connect_timeout(&at.into(), PATIENCE))??;
        client.set_read_timeout(Some(PATIENCE))?;
        let (mut server, seen) = listener.accept()?;
        server.write_all(b"hello")?;
        drop(server);
        let mut said = String::new();
        client.read_to_string(&mut said)?;
        tell(format_args!("the host connects to {at}: web sees {}, and says {said}", seen.ip()));
        ensure(said == "hello", || format!("{at} says {said:?}"))?;
    }
    Ok(())
}
