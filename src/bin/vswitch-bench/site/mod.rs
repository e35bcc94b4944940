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

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use ::vswitchd::control::client::Client;
use ::vswitchd::control::error::Error;
use ::vswitchd::host::netlink;
use ::vswitchd::host::netns::Netns;
use ::vswitchd::lab::rig::{INTERNET, Rig, UPLINK_MTU};
use ::vswitchd::lab::traffic::Talk;
use ipnet::Ipv4Net;

use crate::case::Plane;
use crate::peer::{Kind, Peer};
use crate::process::Process;

/// The port that servers listen on, and that is published.
pub(crate) const PORT: u16 = 5001;

/// More addresses of the internet's host, so that many flows differ by their destination.
pub(crate) const REMOTES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 128), 25);

/// A container.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) netns: Netns,
    pub(crate) ip: Ipv4Addr,
}

/// How the connections that a switch remembers are made to be forgotten.
#[derive(Debug)]
enum Forget {
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
    forget: Forget,
    /// Two containers on one network.
    switched: Option<(End, End)>,
    /// A container behind NAT; `None` if it is the first of the two.
    inside: Option<End>,
    /// The address that published ports are on.
    public: Ipv4Addr,
    pub(crate) rig: Rig,
}

impl Site {
    /// Builds the place of a peer and starts it. To be called on the main thread, see [`Process`].
    ///
    /// # Errors
    /// What could not be made or started.
    pub(crate) fn build(peer: &Peer) -> Result<Site, Error> {
        let rig = Rig::new()?;
        rig.internet.run(|| netlink::add_address("lo", REMOTES))??;
        match peer.kind {
            Kind::Kernel => kernel::build(rig),
            Kind::Vswitchd => vswitchd::build(rig, &peer.arguments),
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
                // On every address: flows may differ by it.
                let server = at(Ipv4Addr::UNSPECIFIED);
                Some(Talk { client, to: at(INTERNET), server: &self.rig.internet, at: server })
            }
            Plane::Inwards => {
                let (client, server) = (&self.rig.internet, inside?);
                Some(Talk { client, to: at(self.public), server: &server.netns, at: at(server.ip) })
            }
        }
    }

    /// Forgets every tracked connection.
    ///
    /// # Errors
    /// If the switch does not.
    pub(crate) fn forget_connections(&self) -> Result<(), Error> {
        match &self.forget {
            Forget::Nothing => Ok(()),
            Forget::Kernel => kernel::forget_connections(&self.rig),
            Forget::Daemon(client) => vswitchd::forget_connections(client),
        }
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

/// The network of the two switched containers.
const NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 99, 0, 0), 24);

/// Address number `host` of it.
const fn inside(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, host)
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
fn on_network(host: u8) -> Ipv4Net {
    Ipv4Net::new_assert(inside(host), NETWORK.prefix_len())
}
