//! Running without root: a user namespace in which we are.
//!
//! Whoever makes a user namespace has all capabilities over the network namespaces made in it, which is all
//! that the laboratory and the tests need. TAP devices want `/dev/net/tun` to be open to everybody, as it
//! is on most systems.

use std::fs::{self, File};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::host::{ErrorKind, HostError};

/// The device that TAPs are made by.
const TUN: &str = "/dev/net/tun";

/// Makes this process able to create namespaces and TAP devices: as root it already is, otherwise it moves
/// into a new user namespace, as root there, and a new network namespace. Call it before the first thread
/// is started.
///
/// # Errors
/// If the system forbids user namespaces, or `/dev/net/tun` cannot be opened.
pub fn enter() -> Result<(), HostError> {
    let (uid, gid) = (geteuid(), getegid());
    if !uid.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|error| {
            HostError::os("user namespace", error)
                .hint("run as root, or allow user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns")
        })?;
        // A gid may only be mapped after setgroups(2) was given up, user_namespaces(7).
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ] {
            fs::write(format!("/proc/self/{file}"), text)
                .map_err(|error| HostError::os(format!("user namespace: {file}"), error))?;
        }
    }
    match File::options().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = HostError::os(TUN, error);
            Err(match error.kind {
                ErrorKind::NotFound => {
                    error.hint("load the module: modprobe tun; in a container add --device /dev/net/tun")
                }
                ErrorKind::Permission => error.hint("run as root, or allow it: chmod 666 /dev/net/tun"),
                ErrorKind::Exists | ErrorKind::Other => error,
            })
        }
    }
}
