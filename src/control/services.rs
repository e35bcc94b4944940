//! The gateway's services on the control thread: what the pipeline punts, and what is due by itself.
//!
//! ```text
//! worker ── Punts::put, Event::Punted ──▶ Control::serve ──▶ a service ──▶ Host::send ──▶ worker ──▶ port
//! ```
//!
//! The daemon calls [`Control::serve`] after whatever it has been woken by, and wakes when [`Control::due`] has come.
//! A service is a pure state machine of its own: frames, the time and what control knows go in, frames to send come
//! out. What was punted by a port goes with it ([`Punts::forget`]), so the port number of a punt still means the port that
//! it came from.
//!
//! [`Punts::forget`]: crate::shared::Punts::forget

use super::apply::Control;
use super::host::Host;
use super::uplink_lease::Lessee;
use crate::clock::Time;
use crate::limits::PUNTS_PER_TURN;
use crate::service::datagram::Datagram;
use crate::shared::{Punt, Service};

impl<H: Host> Control<H> {
    /// Serves what was punted, at most [`PUNTS_PER_TURN`] frames, and what is due.
    pub fn serve(&mut self, now: Time) {
        self.shared.punts.notice_taken();
        for _ in 0..PUNTS_PER_TURN {
            let Some(punt) = self.shared.punts.take() else { break };
            self.serve_punt(&punt, now);
        }
        self.end_leases(now);
        self.remember_leases(now);
        self.remember_addresses();
        self.keep_uplink_leases(now);
    }

    /// When [`Control::serve`] is to be called although nothing more was punted.
    pub fn due(&self) -> Option<Time> {
        if !self.shared.punts.is_empty() {
            return Some(Time::ZERO);
        }
        let lessees = self.uplinks.iter().filter_map(|uplink| uplink.lessee.as_ref());
        lessees.map(Lessee::due).chain(self.dhcp.next_end()).min()
    }

    fn serve_punt(&mut self, punt: &Punt, now: Time) {
        let Some(datagram) = Datagram::of(punt) else { return };
        match punt.service {
            Service::Dhcp => self.serve_dhcp(punt, &datagram, now),
            Service::DhcpClient => self.hear_dhcp_server(punt.ingress, &datagram, now),
            // It has a queue and a thread of its own.
            Service::Stack => {}
        }
    }
}
