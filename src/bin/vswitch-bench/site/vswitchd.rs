//! Our own switch, as users start it.
//!
//! It may masquerade with as many ports as the kernel does, which takes 1024 to 65535: with the default range
//! it would compete with a fifteenth of them for new flows.

use std::ffi::OsString;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vswitchd::control::client::Client;
use vswitchd::control::error::Error;
use vswitchd::control::request::Request;
use vswitchd::control::response::{Done, PortInfo, PublicationInfo, Stats};
use vswitchd::host::guard::Guard;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{GATEWAY, Rig, UPLINK, UPLINK_OWN, on_uplink};

use super::{End, Memory, NETWORK, PORT, Site, inside};
use crate::process::{Process, VSWITCHD};

pub(super) fn build(rig: Rig, more: &[String]) -> Result<Site, Error> {
    let shared = rig.switch.run(|| Guard::available("eth0"))?.is_ok();
    let mut process = start(&rig, shared, more)?;
    process.says("ready")?;
    let client = Client::new(&rig.socket())?;
    let container = |host: u16| -> Result<End, Error> {
        let netns = rig.container("container")?;
        add(&client, &netns, host)?;
        Ok(End { netns, ip: inside(host) })
    };
    let (one, two, neighbor) = (container(11)?, container(12)?, container(13)?);
    [11, 12].into_iter().try_for_each(|host| let_have_all_ports(&client, host))?;
    for protocol in ["tcp", "udp"] {
        let publication = json!({ "spec": format!("{PORT}:{PORT}/{protocol}"), "to": "c11" });
        ask::<PublicationInfo>(&client, "publish", "add", &publication)?;
    }
    Ok(Site {
        processes: vec![process],
        memory: Memory::Daemon(client),
        switched: Some((one, two)),
        inside: None,
        neighbor: Some(neighbor),
        public: if shared { UPLINK } else { UPLINK_OWN },
        rig,
    })
}

/// Starts the daemon on the uplink's own address where a guard can be set, else on an address beside it.
fn start(rig: &Rig, shared: bool, more: &[String]) -> Result<Process, Error> {
    let mut program = vec![OsString::from(VSWITCHD)];
    let network = format!("default={NETWORK}");
    program.extend(["--uplink", "eth0", "--log", "error", "--network", &network].map(OsString::from));
    program.extend([OsString::from("--socket"), rig.socket().into()]);
    program.extend([OsString::from("--state-dir"), rig.directory().join("state").into()]);
    program.extend(["--nat-ports", "1024-65535"].map(OsString::from));
    if !shared {
        let (address, gateway) = (on_uplink(UPLINK_OWN).to_string(), GATEWAY.to_string());
        let own = ["--uplink-mode", "own", "--uplink-address", &address, "--uplink-gateway", &gateway];
        program.extend(own.map(OsString::from));
    }
    program.extend(more.iter().map(OsString::from));
    Process::start(&rig.switch, rig.directory(), &program)
}

/// Attaches a namespace as container number `host`, with that address, as one that is all of the load.
pub(super) fn attach(client: &Client, netns: &Netns, host: u16) -> Result<(), Error> {
    add(client, netns, host)?;
    let_have_all_ports(client, host)
}

fn add(client: &Client, netns: &Netns, host: u16) -> Result<(), Error> {
    let port = json!({ "name": format!("c{host}"), "netns": netns.path(), "ip": inside(host) });
    ask::<PortInfo>(client, "port", "add", &port).map(drop)
}

/// A container may have half of the ports to masquerade with, unless told otherwise.
fn let_have_all_ports(client: &Client, host: u16) -> Result<(), Error> {
    let whole_range = json!({ "name": format!("c{host}"), "settings": [{ "nat_ports": 65_535 }] });
    ask::<Done>(client, "port", "set", &whole_range).map(drop)
}

/// Asks the daemon as `vswitchctl NOUN VERB` does.
pub(super) fn ask<T: DeserializeOwned>(
    client: &Client,
    noun: &str,
    verb: &str,
    arguments: &Value,
) -> Result<T, Error> {
    client.call(&Request::parse(noun, verb, arguments.to_string().as_bytes())?)
}

pub(super) fn forget_connections(client: &Client) -> Result<(), Error> {
    ask::<Done>(client, "ct", "flush", &json!({})).map(drop)
}

/// Frames that it dropped, and that it did not read in time.
pub(super) fn lost(client: &Client) -> Result<u64, Error> {
    let stats: Stats = ask(client, "stats", "", &json!({}))?;
    Ok(stats.ports.iter().map(|port| port.counts.drops + port.counts.missed).sum())
}
