//! A [`Host`] that only remembers, for tests and fuzzing, and to try a configuration file on: namespaces, interface names, host ports and the
//! uplink are plain sets that a test fills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::error::Error;
use super::host::{Attachment, Host, NetnsIdentity, PortPlan, UplinkFacts};
use super::lan::LanFacts;
use super::publish_spec::Listen;
use super::response::WorkerStats;
use super::uplink::UplinkSettings;
use crate::addr::{MacAddr, PortId, Protocol, UplinkId};
use crate::host::guard::Hidden;
use crate::port::exchange::Io;
use crate::snapshot::{Network, UplinkMode};
use crate::worker::{PollMode, WorkerOptions};

/// A host in memory.
#[derive(Debug, Default)]
pub struct MemoryHost {
    /// Namespaces by name, with what tells them apart.
    pub namespaces: BTreeMap<String, NetnsIdentity>,
    /// Interfaces of the switch's own namespace.
    pub interfaces: BTreeSet<String>,
    /// Ports that processes of the host use.
    pub host_ports: BTreeSet<(Protocol, u16)>,
    /// Interfaces that uplinks may be, by name.
    pub uplinks: BTreeMap<String, UplinkFacts>,
    /// Interfaces with a LAN behind them, by name.
    pub lans: BTreeMap<String, LanFacts>,
    /// What every other interface is, if there is any.
    pub any_lan: Option<LanFacts>,
    /// Devices that are open, and whether workers have them.
    pub open: BTreeMap<PortId, (PortPlan, bool)>,
    /// Frames that were injected.
    pub injected: Vec<(PortId, Vec<u8>)>,
    /// Whether every namespace and every interface exists that is asked for.
    pub is_obliging: bool,
    /// Frames that were sent.
    pub sent: Vec<(PortId, Vec<u8>)>,
    /// What is reserved on the host.
    pub reserved: Vec<Listen>,
    /// The guard.
    pub guard: Vec<Hidden>,
    /// The interfaces that it is on.
    pub guarded: Vec<String>,
    /// Stations that answer for addresses.
    pub stations: BTreeMap<Ipv4Addr, MacAddr>,
    /// Prefixes that the host has routes to.
    pub routed: Vec<Ipv4Net>,
    /// What a worker that still decides by what was before does in the meantime, whenever it is waited for.
    pub meanwhile: Meanwhile,
    /// Makes the next call of `open_port` or `guard` fail, as the kernel may at any time.
    pub fail_next: bool,
}

/// What happens while workers are waited for.
#[derive(Default)]
pub struct Meanwhile(pub Option<Box<dyn FnMut()>>);

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meanwhile").finish_non_exhaustive()
    }
}

impl MemoryHost {
    fn may_fail(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.fail_next) {
            return Err(Error::failed("kernel", "out of memory", "free some"));
        }
        Ok(())
    }
}

impl Host for MemoryHost {
    fn identify(&mut self, attachment: &Attachment) -> Result<Option<NetnsIdentity>, Error> {
        let Some(netns) = attachment.netns() else { return Ok(None) };
        if self.is_obliging {
            return Ok(Some((0, 0)));
        }
        let missing = || Error::not_found(netns, "no such namespace", "see ip netns");
        self.namespaces.get(netns).copied().map(Some).ok_or_else(missing)
    }

    fn open_port(&mut self, id: PortId, plan: &PortPlan) -> Result<(), Error> {
        let ifname = plan.attachment.ifname();
        let taken = match &plan.attachment {
            Attachment::Netns { netns, .. } => self.open.values().any(|(other, _)| {
                (other.attachment.netns(), other.attachment.ifname()) == (Some(netns.as_str()), ifname)
            }),
            Attachment::Tap { .. } | Attachment::Host { .. } => !self.interfaces.insert(ifname.to_owned()),
            Attachment::Device { .. } if !self.is_obliging && !self.interfaces.contains(ifname) => {
                return Err(Error::not_found(ifname, "no such interface", "see ip link"));
            }
            Attachment::Vlan { vlan, .. } if !self.open.contains_key(&vlan.trunk) => {
                return Err(Error::not_found(ifname, "the interface is gone", "add the port again"));
            }
            Attachment::Device { .. } | Attachment::Vlan { .. } | Attachment::Uplink { .. } => false,
        };
        if taken {
            return Err(Error::exists(ifname, "the interface name is taken", "choose another one"));
        }
        self.may_fail().inspect_err(|_| {
            if let Attachment::Tap { ifname } | Attachment::Host { ifname } = &plan.attachment {
                self.interfaces.remove(ifname);
            }
        })?;
        self.open.insert(id, (plan.clone(), false));
        Ok(())
    }

    fn start_port(&mut self, id: PortId) {
        if let Some((_, started)) = self.open.get_mut(&id) {
            *started = true;
        }
    }

    fn close_port(&mut self, id: PortId) {
        let plan = self.open.remove(&id).map(|(plan, _)| plan);
        if let Some(Attachment::Tap { ifname } | Attachment::Host { ifname }) =
            plan.map(|plan| plan.attachment)
        {
            self.interfaces.remove(&ifname);
        }
    }

    fn inject(&mut self, id: PortId, frame: Vec<u8>) {
        self.injected.push((id, frame));
    }

    fn send(&mut self, id: PortId, frame: Vec<u8>) {
        self.sent.push((id, frame));
    }

    fn port_is_up(&self, id: PortId) -> bool {
        self.open.contains_key(&id)
    }

    fn set_port_mtu(&mut self, id: PortId, mtu: u16) -> Result<(), Error> {
        self.may_fail()?;
        if let Some((plan, _)) = self.open.get_mut(&id) {
            plan.mtu = mtu;
        }
        Ok(())
    }

    fn settle(&mut self) {
        if let Some(happens) = &mut self.meanwhile.0 {
            happens();
        }
    }

    fn set_default_route(&mut self, id: PortId, gateway: Option<Ipv4Addr>) -> Result<(), Error> {
        self.may_fail()?;
        if let Some((plan, _)) = self.open.get_mut(&id) {
            plan.gateway = gateway;
        }
        Ok(())
    }

    fn who_has(&mut self, _: &Network, ip: Ipv4Addr) -> Option<MacAddr> {
        self.stations.get(&ip).copied()
    }

    fn routed_prefixes(&mut self) -> Result<Vec<Ipv4Net>, Error> {
        Ok(self.routed.clone())
    }

    fn lan(&mut self, ifname: &str) -> Result<Option<LanFacts>, Error> {
        Ok(self.lans.get(ifname).or(self.any_lan.as_ref()).cloned())
    }

    fn uplink(&mut self, settings: &UplinkSettings) -> Result<Option<UplinkFacts>, Error> {
        let mut facts = self.uplinks.get(&settings.name).cloned();
        if let Some(facts) = facts.as_mut().filter(|_| settings.mode == UplinkMode::Own) {
            facts.addresses = settings.address.into_iter().collect();
            facts.host_addresses = facts.addresses.iter().map(Ipv4Net::addr).collect();
            facts.routes.clear();
        }
        Ok(facts)
    }

    fn open_uplink(&mut self, _: UplinkId, _: &UplinkSettings) -> Result<(), Error> {
        Ok(())
    }

    fn guard(&mut self, interfaces: &[String], hidden: Vec<Hidden>) -> Result<(), Error> {
        self.may_fail()?;
        self.guarded = interfaces.to_vec();
        self.guard = hidden;
        Ok(())
    }

    fn repair_guard(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    fn busy_ports(&mut self, range: &RangeInclusive<u16>) -> BTreeSet<(Protocol, u16)> {
        self.host_ports.iter().copied().filter(|(_, port)| range.contains(port)).collect()
    }

    fn try_reserve(&mut self, listen: &Listen) -> Result<(), Error> {
        if let Some(port) =
            listen.ports.clone().find(|port| self.host_ports.contains(&(listen.protocol, *port)))
        {
            let what = format_args!("{port}/{}", listen.protocol);
            return Err(Error::exists(what, "a process of this host uses the port", "choose another one"));
        }
        Ok(())
    }

    fn reserve(&mut self, listen: &Listen) -> Result<(), Error> {
        self.try_reserve(listen)?;
        self.reserved.push(listen.clone());
        Ok(())
    }

    fn release(&mut self, listen: &Listen) {
        self.reserved.retain(|other| other != listen);
    }

    fn worker_options(&self) -> WorkerOptions {
        WorkerOptions { io: Io::Syscall, poll: PollMode::Sleep, all_read: true }
    }

    fn worker_stats(&self) -> Vec<WorkerStats> {
        Vec::new()
    }
}
