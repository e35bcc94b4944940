//! A host for a rehearsal: it looks like the real one and does nothing.
//!
//! What can be asked without changing anything is asked of the real host: which namespace an attachment means, which
//! ports are taken. What would change something succeeds.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::addr::{MacAddr, PortId, Protocol, UplinkId};
use crate::control::error::Error;
use crate::control::host::{Attachment, Host, NetnsIdentity, PortPlan, UplinkFacts};
use crate::control::lan::LanFacts;
use crate::control::publish_spec::Listen;
use crate::control::response::WorkerStats;
use crate::control::uplink::UplinkSettings;
use crate::host::guard::Hidden;
use crate::snapshot::Network;
use crate::worker::WorkerOptions;

/// Plays a host.
#[derive(Debug)]
pub(super) struct Rehearsal<'a> {
    real: &'a mut dyn Host,
    /// What is reserved on the real host.
    reserved: Vec<Listen>,
}

impl<'a> Rehearsal<'a> {
    /// Plays `real`, which has reserved these for publications.
    pub(super) fn of(real: &'a mut dyn Host, reserved: Vec<Listen>) -> Self {
        Rehearsal { real, reserved }
    }
}

impl Host for Rehearsal<'_> {
    fn identify(&mut self, attachment: &Attachment) -> Result<Option<NetnsIdentity>, Error> {
        self.real.identify(attachment)
    }

    fn open_port(&mut self, _: PortId, _: &PortPlan) -> Result<(), Error> {
        Ok(())
    }

    fn start_port(&mut self, _: PortId) {}

    fn close_port(&mut self, _: PortId) {}

    fn inject(&mut self, _: PortId, _: Vec<u8>) {}

    fn send(&mut self, _: PortId, _: Vec<u8>) {}

    fn settle(&mut self) {}

    fn port_is_up(&self, id: PortId) -> bool {
        self.real.port_is_up(id)
    }

    fn set_port_mtu(&mut self, _: PortId, _: u16) -> Result<(), Error> {
        Ok(())
    }

    fn set_default_route(&mut self, _: PortId, _: Option<Ipv4Addr>) -> Result<(), Error> {
        Ok(())
    }

    fn who_has(&mut self, _: &Network, _: Ipv4Addr) -> Option<MacAddr> {
        None
    }

    fn routed_prefixes(&mut self) -> Result<Vec<Ipv4Net>, Error> {
        self.real.routed_prefixes()
    }

    fn lan(&mut self, ifname: &str) -> Result<Option<LanFacts>, Error> {
        self.real.lan(ifname)
    }

    fn uplink(&mut self, settings: &UplinkSettings) -> Result<Option<UplinkFacts>, Error> {
        self.real.uplink(settings)
    }

    fn open_uplink(&mut self, _: UplinkId, _: &UplinkSettings) -> Result<(), Error> {
        Ok(())
    }

    fn guard(&mut self, _: &[String], _: Vec<Hidden>) -> Result<(), Error> {
        Ok(())
    }

    fn repair_guard(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    fn busy_ports(&mut self, range: &RangeInclusive<u16>) -> BTreeSet<(Protocol, u16)> {
        self.real.busy_ports(range)
    }

    /// Tries it, unless the switch has one of the ports itself: it will have given that back by then.
    fn try_reserve(&mut self, listen: &Listen) -> Result<(), Error> {
        let is_ours = self.reserved.iter().any(|other| other.overlaps(listen));
        if is_ours { Ok(()) } else { self.real.try_reserve(listen) }
    }

    fn reserve(&mut self, listen: &Listen) -> Result<(), Error> {
        self.try_reserve(listen)
    }

    fn release(&mut self, _: &Listen) {}

    fn worker_options(&self) -> WorkerOptions {
        self.real.worker_options()
    }

    fn worker_stats(&self) -> Vec<WorkerStats> {
        self.real.worker_stats()
    }
}
