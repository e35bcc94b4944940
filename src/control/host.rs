//! The host as control sees it: everything that a change needs from the kernel and from the workers.
//!
//! [`Control`](super::apply::Control) decides and keeps the books; a [`Host`] acts. The real one is
//! [`super::linux::LinuxHost`]; [`super::memory::MemoryHost`] only remembers, so that every decision can be
//! tested, and fuzzed, without root.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::error::Error;
use super::lan::LanFacts;
use super::publish_spec::Listen;
use super::response::WorkerStats;
use super::uplink::UplinkSettings;
use crate::addr::{MacAddr, PortId, Protocol, UplinkId, Vid};
use crate::host::guard::Hidden;
use crate::snapshot::{Network, Vlan};
use crate::worker::WorkerOptions;

/// What a port is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// A TAP moved into a namespace.
    Netns {
        /// The namespace: a name, a path or a process number.
        netns: String,
        /// The interface's name in it.
        ifname: String,
    },
    /// A TAP in the switch's own namespace.
    Tap {
        /// The interface's name.
        ifname: String,
    },
    /// An interface that exists.
    Device {
        /// The interface's name.
        ifname: String,
    },
    /// A TAP in the switch's own namespace, with an address for the host.
    Host {
        /// The interface's name.
        ifname: String,
    },
    /// An interface that exists, which a network is bridged to.
    Uplink {
        /// The interface's name.
        ifname: String,
    },
    /// A VLAN of another port's interface.
    Vlan {
        /// Which.
        vlan: Vlan,
        /// The namespace that the trunk's interface is in, if it is in another one.
        netns: Option<String>,
        /// The trunk's interface.
        ifname: String,
    },
}

impl Attachment {
    /// The interface's name.
    pub fn ifname(&self) -> &str {
        match self {
            Attachment::Netns { ifname, .. }
            | Attachment::Tap { ifname }
            | Attachment::Device { ifname }
            | Attachment::Host { ifname }
            | Attachment::Vlan { ifname, .. }
            | Attachment::Uplink { ifname } => ifname,
        }
    }

    /// The VLAN that it is.
    pub fn vlan(&self) -> Option<Vlan> {
        if let Attachment::Vlan { vlan, .. } = self { Some(*vlan) } else { None }
    }

    /// Its tag, if it is a VLAN.
    pub fn vid(&self) -> Option<Vid> {
        self.vlan().map(|vlan| vlan.vid)
    }

    /// The namespace, if the interface is in another one.
    pub fn netns(&self) -> Option<&str> {
        match self {
            Attachment::Netns { netns, .. } => Some(netns),
            Attachment::Vlan { netns, .. } => netns.as_deref(),
            Attachment::Tap { .. }
            | Attachment::Device { .. }
            | Attachment::Host { .. }
            | Attachment::Uplink { .. } => None,
        }
    }
}

/// A port's device as it is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPlan {
    /// Where.
    pub attachment: Attachment,
    /// The interface's MAC address. A device that exists keeps its own.
    pub mac: Option<MacAddr>,
    /// The address to configure, with the network's prefix length; only in a namespace and for the host.
    pub address: Option<Ipv4Net>,
    /// The default route's next hop; only in a namespace.
    pub gateway: Option<Ipv4Addr>,
    /// The server that the namespace's resolv.conf names, if it is to have one.
    pub resolver: Option<Ipv4Addr>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// Tells a namespace from another that has the same name later: device and inode number.
pub type NetnsIdentity = (u64, u64);

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// Destinations.
    pub prefix: Ipv4Net,
    /// The next hop, unless the destinations are on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The interface that it leads out by; zero for none.
    pub ifindex: u32,
    /// The lower one of two routes with the same prefix is used.
    pub metric: u32,
}

/// An uplink's interface as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkFacts {
    /// The interface's number; another one means another interface with the same name.
    pub index: u32,
    /// The MAC address that frames leave with.
    pub mac: MacAddr,
    /// Largest IP packet on the link, in bytes.
    pub mtu: u16,
    /// Whether the link is up.
    pub up: bool,
    /// Addresses on it that may be translated to, the preferred one first.
    pub addresses: Vec<Ipv4Net>,
    /// Every address for which a packet is the host's own, or ours.
    pub host_addresses: Vec<Ipv4Addr>,
    /// Routes, in a fixed order.
    pub routes: Vec<HostRoute>,
}

/// Acts for control.
pub trait Host: std::fmt::Debug {
    /// Tells which namespace an attachment means now; `None` for the switch's own.
    ///
    /// # Errors
    /// `NotFound` if there is no such namespace.
    fn identify(&mut self, attachment: &Attachment) -> Result<Option<NetnsIdentity>, Error>;

    /// Makes and configures a port's device. No frame is read from it yet.
    ///
    /// # Errors
    /// What the kernel refuses; nothing is left behind then.
    fn open_port(&mut self, id: PortId, plan: &PortPlan) -> Result<(), Error>;

    /// Hands an opened port to the workers.
    fn start_port(&mut self, id: PortId);

    /// Takes a port back from the workers and closes its device. Does nothing for a port that is not open.
    fn close_port(&mut self, id: PortId);

    /// Processes `frame` as if it had come in by a started port.
    fn inject(&mut self, id: PortId, frame: Vec<u8>);

    /// Sends `frame`, whose checksums are finished, out by a started port or an uplink.
    fn send(&mut self, id: PortId, frame: Vec<u8>);

    /// Whether the port's interface is up.
    fn port_is_up(&self, id: PortId) -> bool;

    /// Changes the MTU of a port's interface.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn set_port_mtu(&mut self, id: PortId, mtu: u16) -> Result<(), Error>;

    /// Returns when no worker decides by an older snapshot than the one that is published.
    fn settle(&mut self);

    /// Sets the default route of the namespace that a port's interface is in, by that interface: to a next hop, or to
    /// none.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn set_default_route(&mut self, id: PortId, gateway: Option<Ipv4Addr>) -> Result<(), Error>;

    /// Asks the stations of a network who has an address, and waits a moment for the answer.
    fn who_has(&mut self, network: &Network, ip: Ipv4Addr) -> Option<MacAddr>;

    /// Prefixes that the host has addresses in or routes to, in whatever table, its VPNs' included.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn routed_prefixes(&mut self) -> Result<Vec<Ipv4Net>, Error>;

    /// What an interface is now behind which there is a LAN; `None` if it does not exist.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn lan(&mut self, ifname: &str) -> Result<Option<LanFacts>, Error>;

    /// What an uplink with these settings is now; `None` if its interface does not exist.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn uplink(&mut self, settings: &UplinkSettings) -> Result<Option<UplinkFacts>, Error>;

    /// Opens an uplink's devices and hands them to the workers, in place of those before.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn open_uplink(&mut self, id: UplinkId, settings: &UplinkSettings) -> Result<(), Error>;

    /// Hides these ports on these interfaces, as far as they exist, from the host's stack, and no others.
    ///
    /// # Errors
    /// What nft refuses.
    fn guard(&mut self, interfaces: &[String], hidden: Vec<Hidden>) -> Result<(), Error>;

    /// Puts the guard back if somebody removed or changed it, and tells whether that was so.
    ///
    /// # Errors
    /// What nft refuses.
    fn repair_guard(&mut self) -> Result<bool, Error>;

    /// TCP and UDP ports of `range` that processes of the host use.
    fn busy_ports(&mut self, range: &RangeInclusive<u16>) -> BTreeSet<(Protocol, u16)>;

    /// Whether [`Host::reserve`] would succeed now.
    ///
    /// # Errors
    /// As [`Host::reserve`].
    fn try_reserve(&mut self, listen: &Listen) -> Result<(), Error>;

    /// Takes published ports on the host, so that no process of the host gets them.
    ///
    /// # Errors
    /// `Exists` if a process has one.
    fn reserve(&mut self, listen: &Listen) -> Result<(), Error>;

    /// Gives published ports back.
    fn release(&mut self, listen: &Listen);

    /// How the workers go about their work.
    fn worker_options(&self) -> WorkerOptions;

    /// What the workers have done.
    fn worker_stats(&self) -> Vec<WorkerStats>;
}
