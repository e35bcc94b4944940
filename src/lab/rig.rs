//! The place: namespaces for the switch, its containers and an internet, joined by one wire.
//!
//! ```text
//!  containers        the switch's namespace                      the internet
//!   eth0 ──(TAP)── vswitchd ── eth0 192.0.2.1 ─── 192.0.2.254 eth0, lo 198.51.100.7
//! ```
//!
//! The internet's host is the next hop of the switch's default route, and has no route back to any
//! container: what was not translated to the uplink's address gets no answer. All addresses outside are
//! those of RFC 5737. Namespaces have no name and no file; they end with their value.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::Ipv4Net;

use crate::host::netns::Netns;
use crate::host::{HostError, netlink};

/// The address of the switch's `eth0`.
pub const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// An address on the uplink's link that nobody has: for the uplink mode `own`.
pub const UPLINK_OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// The other end of the uplink's wire: next hop, and a client of published ports.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// A host behind the gateway.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Largest packet on the uplink's wire, in bytes.
pub const UPLINK_MTU: u32 = 1500;

/// An address on the uplink's link, with its prefix.
pub const fn on_uplink(ip: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(ip, 24)
}

/// The switch's namespace, and the internet.
#[derive(Debug)]
pub struct Rig {
    /// Where the switch runs.
    pub switch: Netns,
    /// The internet's one host.
    pub internet: Netns,
    directory: PathBuf,
}

impl Rig {
    /// Makes the namespaces and the wire between them, and a directory for the switch's socket.
    ///
    /// # Errors
    /// `Permission` outside a user namespace ([`crate::host::user::enter`]) without root.
    pub fn new() -> Result<Rig, HostError> {
        let (switch, internet) = (quiet("switch")?, quiet("internet")?);
        switch.run(|| {
            netlink::create_veth("eth0", "wire")?;
            netlink::move_link("wire", &internet)?;
            netlink::set_mtu("eth0", UPLINK_MTU)?;
            netlink::add_address("eth0", on_uplink(UPLINK))?;
            netlink::set_up("eth0")
        })??;
        internet.run(|| {
            netlink::rename("wire", "eth0")?;
            netlink::add_address("eth0", on_uplink(GATEWAY))?;
            netlink::set_up("eth0")?;
            netlink::add_address("lo", Ipv4Net::from(INTERNET))
        })??;
        switch.run(|| netlink::add_route(Ipv4Net::default(), GATEWAY))??;
        let directory = private_directory().map_err(|error| HostError::os("temporary directory", error))?;
        Ok(Rig { switch, internet, directory })
    }

    /// A namespace for a container, with nothing in it but `lo`.
    ///
    /// # Errors
    /// As [`Rig::new`].
    pub fn container(&self, name: &str) -> Result<Netns, HostError> {
        quiet(name)
    }

    /// Where the switch's socket is to be.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("vswitchd.sock")
    }

    /// A directory that nobody else can enter; removed with the rig.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What cannot be removed is in the temporary directory, where the system clears up.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A namespace that says nothing on its own: without IPv6, no host solicits routers or joins groups, so that
/// every frame in a counter or a capture was meant.
fn quiet(name: &str) -> Result<Netns, HostError> {
    let netns = Netns::new_anonymous(name)?;
    netns.run(|| {
        for scope in ["all", "default"] {
            // A kernel without IPv6, or a read-only /proc: then it is a little louder.
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        netlink::set_up("lo")
    })??;
    Ok(netns)
}

fn private_directory() -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("vswitchd-lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(name);
    fs::DirBuilder::new().mode(0o700).create(&directory)?;
    Ok(directory)
}
