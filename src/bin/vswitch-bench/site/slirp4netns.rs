//! slirp4netns: a TCP/IP stack in userspace that turns a namespace's connections into sockets of the host.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use vswitchd::control::error::Error;
use vswitchd::host::netlink;
use vswitchd::lab::rig::{Rig, UPLINK, UPLINK_MTU};

use super::{End, Memory, PORT, Site};
use crate::process::Process;

/// The address that it gives to the namespace.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

pub(super) fn build(rig: Rig) -> Result<Site, Error> {
    let netns = rig.container("c1")?;
    let socket = rig.directory().join("slirp.sock");
    let mtu = format!("--mtu={UPLINK_MTU}");
    let mut line: Vec<OsString> =
        ["slirp4netns", "--configure", "--disable-host-loopback", "--netns-type=path", &mtu, "--api-socket"]
            .map(OsString::from)
            .into();
    line.extend([socket.clone().into(), netns.path().into(), "eth0".into()]);
    let mut process = Process::start(&rig.switch, rig.directory(), &line)?;
    let routed =
        || netns.run(netlink::routes).is_ok_and(|routes| routes.is_ok_and(|routes| !routes.is_empty()));
    process.until("its TAP", || socket.exists() && routed())?;
    for protocol in ["tcp", "udp"] {
        publish(&socket, protocol)?;
    }
    let inside = Some(End { netns, ip: INSIDE });
    Ok(Site {
        processes: vec![process],
        memory: Memory::Nothing,
        switched: None,
        inside,
        neighbor: None,
        public: UPLINK,
        rig,
    })
}

fn publish(socket: &Path, protocol: &str) -> Result<(), Error> {
    let request = json!({
        "execute": "add_hostfwd",
        "arguments": { "proto": protocol, "host_addr": UPLINK, "host_port": PORT, "guest_addr": INSIDE, "guest_port": PORT },
    });
    let exchange = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(request.to_string().as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let failed = |why: &dyn std::fmt::Display| Error::failed("slirp4netns", why, "");
    let answer = exchange().map_err(|error| failed(&error))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| failed(&error))?;
    if answer.get("error").is_none() { Ok(()) } else { Err(failed(&answer["error"])) }
}
