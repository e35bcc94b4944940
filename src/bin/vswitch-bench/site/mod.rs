//! The places where a switch is measured: the same namespaces and addresses around each of them.
//!
//! ```text
//!  one, two ── switch ── eth0 192.0.2.1 ─── 192.0.2.254 eth0, lo 198.51.100.7, 198.51.100.128/25
//! ```
//!
//! `one` and `two` are on a network together; `inside` is what reaches the internet's host and is reached
//! through a published port. With our switch and with slirp4netns that is `one`; next to the kernel's bridge
//! it is a container with a wire of its own to the router, so that its packets do not have to pass the bridge
//! as well. All MTUs are 1500.

mod kernel;
mod openvswitch;
mod slirp4netns;
mod vde;
mod vswitchd;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::time::Duration;

use ::vswitchd::control::client::Client;
use ::vswitchd::control::error::Error;
use ::vswitchd::host::netlink;
use ::vswitchd::host::netns::Netns;
use ::vswitchd::lab::rig::{INTERNET, Rig, UPLINK_MTU};
use ::vswitchd::lab::traffic::Talk;
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::case::Plane;
use crate::peer::{Kind, Peer};
use crate::process::Process;

/// The port that servers listen on, and that is published.
pub(crate) const PORT: u16 = 5001;

/// More addresses of the internet's host, for flows that differ by their destination.
pub(crate) const REMOTES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 128), 25);

/// A container.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) netns: Netns,
    pub(crate) ip: Ipv4Addr,
}

/// Where the connections that a switch remembers are, to be forgotten.
#[derive(Debug)]
enum Memory {
    /// It remembers none.
    Nothing,
    /// The kernel's table in this namespace.
    Kernel,
    /// By the API of our daemon.
    Daemon(Client),
}

/// A switch with everything around it. It ends with the value.
#[derive(Debug)]
pub(crate) struct Site {
    /// Before the namespaces: they are in them.
    processes: Vec<Process>,
    memory: Memory,
    /// Two containers on one network.
    switched: Option<(End, End)>,
    /// A container behind NAT; `None` if it is the first of the two.
    inside: Option<End>,
    /// A second container behind NAT.
    neighbor: Option<End>,
    /// The address that published ports are on.
    public: Ipv4Addr,
    pub(crate) rig: Rig,
}

impl Site {
    /// Builds the place of a peer and starts it, our own with these options besides the peer's. To be called on the main thread, see [`Process`].
    ///
    /// # Errors
    /// What could not be made or started.
    pub(crate) fn build(peer: &Peer, options: &[String]) -> Result<Site, Error> {
        let rig = Rig::new()?;
        rig.internet.run(|| netlink::add_address("lo", REMOTES))??;
        match peer.kind {
            Kind::Kernel => kernel::build(rig),
            Kind::Vswitchd => vswitchd::build(rig, &[options, &peer.arguments].concat()),
            Kind::OpenVswitch => openvswitch::build(rig),
            Kind::Vde => vde::build(rig),
            Kind::Slirp4netns => slirp4netns::build(rig),
        }
    }

    /// Who talks to whom on this plane; `None` if the switch does not have it.
    pub(crate) fn talk(&self, plane: Plane) -> Option<Talk<'_>> {
        let inside = self.inside.as_ref().or(self.switched.as_ref().map(|(one, _)| one));
        let at = |ip| SocketAddrV4::new(ip, PORT);
        match plane {
            Plane::Switched => {
                let (one, two) = self.switched.as_ref()?;
                Some(Talk { client: &one.netns, to: at(two.ip), server: &two.netns, at: at(two.ip) })
            }
            Plane::Outwards => {
                let client = &inside?.netns;
                Some(Talk { client, to: at(INTERNET), server: &self.rig.internet, at: at(INTERNET) })
            }
            Plane::Inwards => {
                let (client, server) = (&self.rig.internet, inside?);
                Some(Talk { client, to: at(self.public), server: &server.netns, at: at(server.ip) })
            }
        }
    }

    /// Another container beside the one that talks on [`Plane::Outwards`].
    pub(crate) fn neighbor(&self) -> Option<&Netns> {
        self.neighbor.as_ref().map(|end| &end.netns)
    }

    /// Attaches a namespace as one more container of our switch, with this number.
    ///
    /// # Errors
    /// If it is not our switch, or that refuses.
    pub(crate) fn attach(&self, netns: &Netns, host: u16) -> Result<(), Error> {
        match &self.memory {
            Memory::Daemon(client) => vswitchd::attach(client, netns, host),
            Memory::Nothing | Memory::Kernel => Err(Error::failed("attach", "not our switch", "")),
        }
    }

    /// Asks our switch as `vswitchctl NOUN VERB` does.
    ///
    /// # Errors
    /// If it is not our switch, or that refuses.
    pub(crate) fn ask(&self, noun: &str, verb: &str, arguments: &Value) -> Result<Value, Error> {
        match &self.memory {
            Memory::Daemon(client) => vswitchd::ask(client, noun, verb, arguments),
            Memory::Nothing | Memory::Kernel => Err(Error::failed(noun, "not our switch", "")),
        }
    }

    /// Resident memory of the switch's own processes, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.processes.iter().map(Process::memory).sum()
    }

    /// Forgets every tracked connection.
    ///
    /// # Errors
    /// If the switch does not.
    pub(crate) fn forget_connections(&self) -> Result<(), Error> {
        match &self.memory {
            Memory::Nothing => Ok(()),
            Memory::Kernel => kernel::forget_connections(&self.rig),
            Memory::Daemon(client) => vswitchd::forget_connections(client),
        }
    }

    /// Frames that the switch itself says it lost; none if it does not count.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn lost(&self) -> Result<u64, Error> {
        match &self.memory {
            Memory::Daemon(client) => vswitchd::lost(client),
            Memory::Nothing | Memory::Kernel => Ok(0),
        }
    }

    /// The namespaces in which frames are on their way.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        let switched = self.switched.iter().flat_map(|(one, two)| [one, two]);
        let ends = switched.chain(&self.inside).chain(&self.neighbor).map(|end| &end.netns);
        ends.chain([&self.rig.switch, &self.rig.internet])
    }

    /// The CPU time of the switch's own processes; `None` if it has none.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        if self.processes.is_empty() {
            None
        } else {
            Some(self.processes.iter().map(Process::cpu_time).sum())
        }
    }

    /// Stops the switch while others are measured.
    pub(crate) fn pause(&self) {
        self.processes.iter().for_each(Process::pause);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.processes.iter().for_each(Process::resume);
    }
}

/// Feeds rules to the packet filter of a namespace.
///
/// # Errors
/// If there is no `nft`, or it refuses.
pub(crate) fn nft(netns: &Netns, rules: &str) -> Result<(), Error> {
    let failed = |why: &dyn std::fmt::Display| Error::failed("nft", why, "");
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = netns.spawn(&mut command)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(|error| failed(&error))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(failed(&said.lines().next().unwrap_or_default())) }
}

/// The network of the two switched containers, with room for thousands.
pub(crate) const NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 99, 0, 0), 16);

/// Address number `host` of it.
const fn inside(host: u16) -> Ipv4Addr {
    let [high, low] = host.to_be_bytes();
    Ipv4Addr::new(10, 99, high, low)
}

/// Moves the interface `name` from the switch's namespace into a new container as its `eth0`, with this
/// address.
fn give(rig: &Rig, name: &str, address: Ipv4Net) -> Result<End, Error> {
    let netns = rig.container(name)?;
    rig.switch.run(|| netlink::move_link(name, &netns))??;
    netns.run(|| {
        netlink::rename(name, "eth0")?;
        netlink::set_mtu("eth0", UPLINK_MTU)?;
        netlink::add_address("eth0", address)?;
        netlink::set_up("eth0")
    })??;
    Ok(End { netns, ip: address.addr() })
}

/// The address number `host` of the switched network, with its prefix.
fn on_network(host: u16) -> Ipv4Net {
    Ipv4Net::new_assert(inside(host), NETWORK.prefix_len())
}
