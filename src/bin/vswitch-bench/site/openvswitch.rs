//! Open vSwitch with its userspace datapath and TAPs, super-frames on (`userspace-tso-enable`).

use std::ffi::OsString;
use std::process::{Command, Stdio};

use vswitchd::control::error::Error;
use vswitchd::host::netlink;
use vswitchd::lab::rig::{Rig, UPLINK};

use super::{Memory, Site, give, on_network};
use crate::peer::find;
use crate::process::Process;

/// Where Debian, Fedora and a build from source put the schema.
const SCHEMAS: [&str; 2] =
    ["/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema"];

pub(super) fn build(rig: Rig) -> Result<Site, Error> {
    let directory = rig.directory();
    let at = |name: &str| directory.join(name).display().to_string();
    let (database, socket) = (at("conf.db"), format!("unix:{}", at("db.sock")));
    let schema = SCHEMAS.iter().find(|schema| std::path::Path::new(schema).exists());
    let schema = schema.ok_or_else(|| Error::failed("vswitch.ovsschema", "not found", ""))?;
    run("ovsdb-tool", &["create", &database, schema])?;

    let remote = format!("--remote=p{socket}");
    let control = format!("--unixctl={}", at("db.ctl"));
    let mut server = daemon(&rig, "ovsdb-server", &[&database, &remote, &control])?;
    server.until("its socket", || directory.join("db.sock").exists())?;

    let database = format!("--db={socket}");
    let ctl = |words: &[&str]| run("ovs-vsctl", &[&[database.as_str(), "--no-wait"], words].concat());
    ctl(&["init"])?;
    ctl(&["set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true"])?;
    ctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
    for port in ["c1", "c2"] {
        ctl(&["add-port", "br0", port, "--", "set", "interface", port, "type=tap"])?;
    }
    let control = format!("--unixctl={}", at("ovs.ctl"));
    let mut switch = daemon(&rig, "ovs-vswitchd", &[&socket, &control])?;
    let exists =
        |name: &str| rig.switch.run(|| netlink::link(name)).is_ok_and(|link| matches!(link, Ok(Some(_))));
    switch.until("its TAPs", || exists("c1") && exists("c2"))?;

    let one = give(&rig, "c1", on_network(11))?;
    let two = give(&rig, "c2", on_network(12))?;
    Ok(Site {
        processes: vec![switch, server],
        memory: Memory::Nothing,
        switched: Some((one, two)),
        inside: None,
        neighbor: None,
        public: UPLINK,
        rig,
    })
}

fn program(name: &str) -> OsString {
    find(name).map_or_else(|| name.into(), Into::into)
}

/// Starts a part of it that stays. Where the system has the kernel's datapath it is not to touch it.
fn daemon(rig: &Rig, name: &str, arguments: &[&str]) -> Result<Process, Error> {
    let mut line = vec![program(name)];
    line.extend(arguments.iter().map(OsString::from));
    line.extend(["--no-chdir", "-vconsole:err", "-vsyslog:off", "-vfile:off"].map(OsString::from));
    Process::start(&rig.switch, rig.directory(), &line)
}

/// Runs a part of it that ends.
fn run(name: &str, arguments: &[&str]) -> Result<(), Error> {
    let failed = |why: &dyn std::fmt::Display| Error::failed(name, why, "");
    let output = Command::new(program(name))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(failed(&said.lines().next().unwrap_or_default())) }
}
