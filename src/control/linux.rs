//! The [`Host`] that is Linux: TAPs, packet sockets, namespaces, the guard, and the workers' threads.
//!
//! Nothing here keeps a namespace or a device open longer than the workers do: an open descriptor would
//! keep a dead container's namespace alive, and its end would never be noticed.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::error::{Error, Kind};
use super::host::{Attachment, Host, HostRoute, NetnsIdentity, PortPlan, UplinkFacts};
use super::lan::LanFacts;
use super::publish_spec::Listen;
use super::response::WorkerStats;
use super::uplink::UplinkSettings;
use crate::addr::{MacAddr, MacRange, PortId, Protocol, UplinkId};
use crate::host::attach::{LinkSettings, attach_tap};
use crate::host::bind::{Reserved, reserve};
use crate::host::guard::{Guard, Hidden};
use crate::host::netns::Netns;
use crate::host::resolv_conf::ResolvConf;
use crate::host::sockets::busy_ports;
use crate::host::{ErrorKind, HostError, netlink};
use crate::limits::ADDRESS_PROBE_WAIT;
use crate::port::Device;
use crate::port::carrier::tap_is_up;
use crate::port::exchange::{Exchange, Io};
use crate::port::packet::{Packet, PacketOptions};
use crate::port::plain::PlainTap;
use crate::port::tap::Tap;
use crate::service::relay::{Door, Doors};
use crate::snapshot::{Network, UplinkMode};
use crate::worker::{WorkerOptions, WorkerPool};

/// The name of a TAP until it is moved into its namespace; the kernel puts a free number.
const TAP_PATTERN: &str = "vsw%d";

/// How often the neighbor table is looked at while an answer is waited for.
const PROBE_LOOKS: u32 = 20;

/// How often, and after what, it is looked whether the relay has let go of ports that were given back: 50 ms in all.
const RELEASE_LOOKS: u32 = 250;
const RELEASE_PAUSE: Duration = Duration::from_micros(200);

impl From<HostError> for Error {
    fn from(error: HostError) -> Error {
        let kind = match error.kind {
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::Exists => Kind::Exists,
            ErrorKind::Permission | ErrorKind::Other => Kind::Failed,
        };
        Error::new(kind, error.what, error.why, error.hint.unwrap_or_default())
    }
}

/// A port's device.
#[derive(Debug)]
struct Opened {
    /// Until the workers have them: one, or one for each worker.
    devices: Vec<Arc<dyn Device>>,
    /// The first. Gone when the workers have let go of it.
    watched: Weak<dyn Device>,
    attachment: Attachment,
    netns: Option<NetnsIdentity>,
    /// Removed with the port.
    _resolv_conf: Option<ResolvConf>,
}

impl Opened {
    /// The namespace that the interface was put into, unless the name means another one by now.
    fn namespace(&self, name: &str) -> Result<Netns, Error> {
        let namespace = Netns::open(name)?;
        if Some(namespace.id()?) == self.netns {
            return Ok(namespace);
        }
        let why = "is another namespace than the one the port is in";
        Err(Error::not_found(name, why, "change it inside the namespace"))
    }
}

/// The real host.
#[derive(Debug)]
pub struct LinuxHost {
    workers: WorkerPool,
    /// How many sockets an uplink has.
    worker_count: usize,
    offload: bool,
    ports: HashMap<PortId, Opened>,
    reserved: Vec<(Listen, Vec<Reserved>)>,
    /// Where processes of the host reach what is published.
    doors: Doors,
    guard: Option<Guard>,
}

impl LinuxHost {
    /// Acts in the calling thread's namespace, with these workers. `offload` says whether devices pass
    /// super-frames and unfinished checksums on.
    pub fn new(workers: WorkerPool, worker_count: usize, offload: bool, doors: Doors) -> Self {
        LinuxHost {
            workers,
            worker_count,
            offload,
            ports: HashMap::new(),
            reserved: Vec::new(),
            doors,
            guard: None,
        }
    }

    /// Finds out whether this process may do what a switch does, by making a TAP that vanishes at once, and
    /// how it should read and write: as `io` says, or else by io_uring where that works.
    ///
    /// # Errors
    /// Says which permission or device is missing.
    pub fn probe(offload: bool, io: Option<Io>) -> Result<Io, Error> {
        let (tap, _) = create_tap(TAP_PATTERN, offload)?;
        if io == Some(Io::Syscall) {
            return Ok(Io::Syscall);
        }
        match (Exchange::try_ring(&tap), io) {
            (Ok(()), _) => Ok(Io::Uring),
            (Err(error), None) => {
                log::info!("io_uring does not work here, using plain system calls: {error}");
                Ok(Io::Syscall)
            }
            (Err(error), Some(_)) => {
                let hint =
                    "use --io auto or --io syscall, or allow it: see /proc/sys/kernel/io_uring_disabled";
                Err(Error::failed("io_uring", error, hint))
            }
        }
    }

    fn open_device(&self, id: PortId, plan: &PortPlan) -> Result<Arc<dyn Device>, Error> {
        match &plan.attachment {
            Attachment::Netns { netns, ifname } => {
                let netns = Netns::open(netns)?;
                let (device, name) = create_tap(TAP_PATTERN, self.offload)?;
                let settings = LinkSettings {
                    ifname: ifname.clone(),
                    mac: plan.mac.unwrap_or(MacAddr::ZERO),
                    address: plan.address,
                    gateway: plan.gateway,
                    mtu: plan.mtu,
                };
                attach_tap(&name, &netns, &settings)?;
                Ok(device)
            }
            Attachment::Tap { ifname } | Attachment::Host { ifname } => {
                if netlink::link(ifname)?.is_some() {
                    return Err(Error::exists(ifname, "an interface has this name", "choose another name"));
                }
                let (device, name) = create_tap(ifname, self.offload)?;
                if let Some(mac) = plan.mac {
                    netlink::set_mac(&name, mac)?;
                }
                netlink::set_mtu(&name, u32::from(plan.mtu))?;
                if let Some(address) = plan.address {
                    netlink::disable_ipv6(&name);
                    netlink::add_address(&name, address)?;
                }
                netlink::set_up(&name)?;
                Ok(device)
            }
            Attachment::Device { ifname } => {
                netlink::expect_link(ifname)?;
                netlink::set_up(ifname)?;
                let options =
                    PacketOptions { promiscuous: true, offload: self.offload, ..PacketOptions::default() };
                let packet = Packet::open(ifname, options).map_err(|error| packet_error(ifname, &error))?;
                Ok(Arc::new(packet))
            }
            Attachment::Uplink { ifname } => {
                netlink::expect_link(ifname)?;
                let options = PacketOptions {
                    fanout: (self.worker_count > 1).then_some(fanout_group(id)),
                    promiscuous: true,
                    own_mac: None,
                    offload: self.offload,
                };
                let packet = Packet::open(ifname, options).map_err(|error| packet_error(ifname, &error))?;
                Ok(Arc::new(packet))
            }
            Attachment::Vlan { vlan, ifname, .. } => {
                let device = self.ports.get(&vlan.trunk).and_then(|opened| opened.watched.upgrade());
                device.ok_or_else(|| Error::not_found(ifname, "the interface is gone", "add the port again"))
            }
        }
    }

    fn shared_facts(&self, name: &str) -> Result<Option<UplinkFacts>, Error> {
        let Some(link) = netlink::link(name)? else { return Ok(None) };
        let mut host_addresses: Vec<_> = netlink::addresses(None)?.iter().map(|net| net.addr()).collect();
        host_addresses.sort_unstable();
        host_addresses.dedup();
        let mut routes: Vec<_> = netlink::routes()?
            .into_iter()
            .map(|route| HostRoute {
                prefix: route.prefix,
                gateway: route.gateway,
                ifindex: route.ifindex,
                metric: route.metric,
            })
            .collect();
        routes.sort_unstable();
        Ok(Some(UplinkFacts {
            index: link.index,
            mac: link.mac,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            up: link.up,
            addresses: netlink::addresses(Some(link.index))?,
            host_addresses,
            routes,
        }))
    }

    fn own_facts(&self, settings: &UplinkSettings) -> Result<Option<UplinkFacts>, Error> {
        let Some(link) = netlink::link(&settings.name)? else { return Ok(None) };
        let on_link = settings.address.map(|address| HostRoute {
            prefix: address.trunc(),
            gateway: None,
            ifindex: link.index,
            metric: 0,
        });
        Ok(Some(UplinkFacts {
            index: link.index,
            mac: own_mac(settings, link.mac).unwrap_or(link.mac),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            up: link.up,
            addresses: settings.address.into_iter().collect(),
            host_addresses: settings.address.iter().map(ipnet::Ipv4Net::addr).collect(),
            routes: on_link.into_iter().collect(),
        }))
    }
}

/// The doors that a publication has.
fn doors(listen: &Listen) -> impl Iterator<Item = Door> {
    let &Listen { protocol, ip, .. } = listen;
    listen.ports.clone().map(move |port| Door { protocol, ip, port })
}

impl Host for LinuxHost {
    fn identify(&mut self, attachment: &Attachment) -> Result<Option<NetnsIdentity>, Error> {
        attachment.netns().map(|netns| Ok(Netns::open(netns)?.id()?)).transpose()
    }

    fn open_port(&mut self, id: PortId, plan: &PortPlan) -> Result<(), Error> {
        let netns = self.identify(&plan.attachment)?;
        let resolv_conf = match (plan.attachment.netns(), plan.resolver) {
            (Some(netns), Some(resolver)) => Some(ResolvConf::write(netns, resolver)?),
            _ => None,
        };
        let first = self.open_device(id, plan)?;
        let watched = Arc::downgrade(&first);
        let mut devices = vec![first];
        if matches!(plan.attachment, Attachment::Uplink { .. }) {
            for _ in 1..self.worker_count {
                devices.push(self.open_device(id, plan)?);
            }
        }
        let attachment = plan.attachment.clone();
        self.ports.insert(id, Opened { devices, watched, attachment, netns, _resolv_conf: resolv_conf });
        Ok(())
    }

    fn start_port(&mut self, id: PortId) {
        let Some(opened) = self.ports.get_mut(&id) else { return };
        let devices = std::mem::take(&mut opened.devices);
        match (opened.attachment.vid(), devices.first()) {
            (_, None) => {}
            (Some(vid), Some(device)) => self.workers.attach_vlan(id, device, vid),
            (None, Some(_)) => self.workers.attach(id, &devices),
        }
    }

    fn close_port(&mut self, id: PortId) {
        if self.ports.remove(&id).is_some() {
            self.workers.detach(id);
        }
    }

    fn inject(&mut self, id: PortId, frame: Vec<u8>) {
        self.workers.inject(id, frame);
    }

    fn send(&mut self, id: PortId, frame: Vec<u8>) {
        self.workers.send(id, frame);
    }

    fn port_is_up(&self, id: PortId) -> bool {
        let Some(opened) = self.ports.get(&id) else { return false };
        match &opened.attachment {
            Attachment::Device { ifname } | Attachment::Uplink { ifname } => {
                netlink::link(ifname).is_ok_and(|link| link.is_some_and(|l| l.up))
            }
            Attachment::Vlan { vlan, .. } => self.port_is_up(vlan.trunk),
            Attachment::Netns { .. } | Attachment::Tap { .. } | Attachment::Host { .. } => {
                opened.watched.upgrade().is_some_and(|device| tap_is_up(&*device))
            }
        }
    }

    fn set_port_mtu(&mut self, id: PortId, mtu: u16) -> Result<(), Error> {
        let Some(opened) = self.ports.get(&id) else { return Ok(()) };
        let set = |ifname: &str| netlink::set_mtu(ifname, u32::from(mtu));
        match &opened.attachment {
            Attachment::Netns { netns, ifname } => Ok(opened.namespace(netns)?.run(|| set(ifname))??),
            Attachment::Tap { ifname } | Attachment::Host { ifname } => Ok(set(ifname)?),
            // Its owner sets it; the switch only stops sending more.
            Attachment::Device { .. } | Attachment::Uplink { .. } | Attachment::Vlan { .. } => Ok(()),
        }
    }

    fn settle(&mut self) {
        self.workers.settle();
    }

    fn set_default_route(&mut self, id: PortId, gateway: Option<Ipv4Addr>) -> Result<(), Error> {
        let Some(opened) = self.ports.get(&id) else { return Ok(()) };
        let Attachment::Netns { netns, ifname } = &opened.attachment else { return Ok(()) };
        let change = || match gateway {
            Some(gateway) => netlink::add_route(Ipv4Net::default(), gateway),
            None => netlink::del_default_route(ifname),
        };
        Ok(opened.namespace(netns)?.run(change)??)
    }

    fn who_has(&mut self, network: &Network, ip: Ipv4Addr) -> Option<MacAddr> {
        self.workers.probe(network.id, ip);
        for _ in 0..PROBE_LOOKS {
            std::thread::sleep(ADDRESS_PROBE_WAIT / PROBE_LOOKS);
            let answered = network.neighbors.lock().mac_of(ip);
            if answered.is_some() {
                return answered;
            }
        }
        // Nobody shall be told for the next seconds that the new station does not answer.
        network.neighbors.lock().remove(ip);
        None
    }

    fn routed_prefixes(&mut self) -> Result<Vec<Ipv4Net>, Error> {
        Ok(netlink::routed_prefixes()?)
    }

    fn lan(&mut self, ifname: &str) -> Result<Option<LanFacts>, Error> {
        let Some(link) = netlink::link(ifname)? else { return Ok(None) };
        let routes = netlink::routes()?.into_iter();
        let default = routes.filter(|route| route.ifindex == link.index && route.prefix.prefix_len() == 0);
        Ok(Some(LanFacts {
            index: link.index,
            mac: link.mac,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            up: link.up,
            address: netlink::addresses(Some(link.index))?.first().copied(),
            router: default.min_by_key(|route| route.metric).and_then(|route| route.gateway),
        }))
    }

    fn uplink(&mut self, settings: &UplinkSettings) -> Result<Option<UplinkFacts>, Error> {
        match settings.mode {
            UplinkMode::Shared => self.shared_facts(&settings.name),
            UplinkMode::Own => self.own_facts(settings),
        }
    }

    fn open_uplink(&mut self, id: UplinkId, settings: &UplinkSettings) -> Result<(), Error> {
        self.workers.detach(id.port());
        let link = netlink::expect_link(&settings.name)?;
        let options = PacketOptions {
            fanout: (self.worker_count > 1).then_some(fanout_group(id.port())),
            promiscuous: false,
            own_mac: own_mac(settings, link.mac),
            offload: self.offload,
        };
        let mut devices: Vec<Arc<dyn Device>> = Vec::new();
        for _ in 0..self.worker_count {
            let packet = Packet::open(&settings.name, options);
            devices.push(Arc::new(packet.map_err(|error| packet_error(&settings.name, &error))?));
        }
        self.workers.attach(id.port(), &devices);
        Ok(())
    }

    fn guard(&mut self, interfaces: &[String], hidden: Vec<Hidden>) -> Result<(), Error> {
        match &mut self.guard {
            Some(guard) => guard.update(interfaces, &hidden)?,
            None => self.guard = Some(Guard::install(interfaces, &hidden)?),
        }
        Ok(())
    }

    fn repair_guard(&mut self) -> Result<bool, Error> {
        Ok(self.guard.as_mut().map_or(Ok(false), Guard::ensure)?)
    }

    fn busy_ports(&mut self, range: &RangeInclusive<u16>) -> BTreeSet<(Protocol, u16)> {
        busy_ports(range)
    }

    fn reserve(&mut self, listen: &Listen) -> Result<(), Error> {
        let ports = listen.ports.clone().map(|port| reserve(listen.protocol, listen.ip, port));
        let reserved = ports.collect::<Result<Vec<_>, _>>()?;
        for (door, reserved) in doors(listen).zip(&reserved) {
            match reserved.socket() {
                Ok(socket) => self.doors.open(door, socket),
                Err(error) => log::warn!("{listen}: not served for this host's own processes: {error}"),
            }
        }
        self.reserved.push((listen.clone(), reserved));
        Ok(())
    }

    fn release(&mut self, listen: &Listen) {
        doors(listen).for_each(|door| self.doors.close(door));
        self.reserved.retain(|(other, _)| other != listen);
        // The relay closes doors in their order, on its own thread, and whoever asks next may want the last one.
        let is_free = || reserve(listen.protocol, listen.ip, *listen.ports.end()).is_ok();
        for _ in 0..RELEASE_LOOKS {
            if is_free() {
                return;
            }
            std::thread::sleep(RELEASE_PAUSE);
        }
    }

    fn worker_options(&self) -> WorkerOptions {
        self.workers.options()
    }

    fn worker_stats(&self) -> Vec<WorkerStats> {
        let loads = self.workers.loads().into_iter().enumerate();
        let row = |(worker, load): (usize, crate::worker::WorkerLoad)| WorkerStats {
            worker,
            turns: load.turns,
            frames: load.frames,
            busy_micros: load.busy_micros,
        };
        loads.map(row).collect()
    }
}

/// The fanout group of a port's sockets: a number of its own, that other processes do not use, most likely.
fn fanout_group(id: PortId) -> u16 {
    // Odd, so that no two ports have the same; and not small, so that they are far from the next process.
    const STEP: u16 = 0x9e37;
    #[allow(clippy::cast_possible_truncation)] // the lowest digits differ most
    let process = std::process::id() as u16;
    process.wrapping_add(id.0.wrapping_mul(STEP))
}

/// The MAC address of mode `own`: made of its IP address, or, for one that is still to be got, of the end of the
/// interface's own; so that it is neither the host's nor one that a switch gives to its ports, and always the same.
fn own_mac(settings: &UplinkSettings, link: MacAddr) -> Option<MacAddr> {
    let MacAddr([_, _, a, b, c, d]) = link;
    let n = match (settings.mode, settings.address) {
        (UplinkMode::Shared, _) => return None,
        (UplinkMode::Own, _) if settings.dhcp => [a, b, c, d],
        (UplinkMode::Own, address) => address?.addr().octets(),
    };
    Some(MacAddr::local(MacRange::OwnUplink, n))
}

/// A TAP and the name that it got.
fn create_tap(name: &str, offload: bool) -> Result<(Arc<dyn Device>, String), Error> {
    let made: io::Result<(Arc<dyn Device>, String)> = if offload {
        Tap::create(name).and_then(|tap| Ok((tap.name()?, tap))).map(|(name, tap)| (Arc::new(tap) as _, name))
    } else {
        PlainTap::create(name).map(|tap| {
            let name = tap.name().to_owned();
            (Arc::new(tap) as _, name)
        })
    };
    #[allow(clippy::wildcard_enum_match_arm)] // io::ErrorKind is open
    made.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let hint = "run as root, or with CAP_NET_ADMIN and access to /dev/net/tun";
            Error::failed("TAP device", "not permitted", hint)
        }
        io::ErrorKind::NotFound => {
            Error::failed("/dev/net/tun", "does not exist", "load the module: modprobe tun")
        }
        io::ErrorKind::ResourceBusy => Error::exists(name, "the interface is in use", "choose another name"),
        _ => Error::failed("TAP device", error, "see dmesg"),
    })
}

fn packet_error(ifname: &str, error: &io::Error) -> Error {
    #[allow(clippy::wildcard_enum_match_arm)] // io::ErrorKind is open
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::failed(ifname, "not permitted to open it", "run as root, or with CAP_NET_RAW")
        }
        io::ErrorKind::InvalidInput => Error::usage(ifname, error, "use an Ethernet interface"),
        _ => Error::failed(ifname, error, "see ip link"),
    }
}
