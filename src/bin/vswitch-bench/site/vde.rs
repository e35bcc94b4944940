//! The switch of Virtual Distributed Ethernet, with a plug for each TAP.

use std::ffi::OsString;

use vswitchd::control::error::Error;
use vswitchd::host::netlink;
use vswitchd::lab::rig::{Rig, UPLINK};

use super::{Memory, Site, give, on_network};
use crate::process::Process;

pub(super) fn build(rig: Rig) -> Result<Site, Error> {
    let directory = rig.directory();
    let socket = directory.join("vde").into_os_string();
    let start = |line: &[OsString]| Process::start(&rig.switch, directory, line);
    // Without a terminal it would end at once, as there is nobody to manage it.
    let management = directory.join("vde.mgmt").into_os_string();
    let mut switch = start(&["vde_switch".into(), "-s".into(), socket.clone(), "-M".into(), management])?;
    switch.until("its socket", || directory.join("vde/ctl").exists())?;
    let exists =
        |name: &str| rig.switch.run(|| netlink::link(name)).is_ok_and(|link| matches!(link, Ok(Some(_))));
    let mut processes = vec![switch];
    for name in ["c1", "c2"] {
        let mut plug = start(&["vde_plug2tap".into(), "-s".into(), socket.clone(), name.into()])?;
        plug.until("its TAP", || exists(name))?;
        processes.push(plug);
    }
    let one = give(&rig, "c1", on_network(11))?;
    let two = give(&rig, "c2", on_network(12))?;
    Ok(Site {
        processes,
        memory: Memory::Nothing,
        switched: Some((one, two)),
        inside: None,
        neighbor: None,
        public: UPLINK,
        rig,
    })
}
