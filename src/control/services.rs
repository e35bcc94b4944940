//! The gateway's services on the control thread: what the pipeline punts, and what is due by itself.
//!
//! ```text
//! worker ── Punts::put, Event::Punted ──▶ Control::serve ──▶ a service ──▶ Host::send ──▶ worker ──▶ port
//! ```
//!
//! The daemon calls [`Control::serve`] after whatever it has been woken by, and wakes when [`Control::due`] has come.
//! A service is a pure state machine of its own: frames, the time and what control knows go in, frames to send come
//! out. Punts are served before requests, so the port number of a punt still means the port that it came from.

use super::apply::Control;
use super::host::Host;
use super::uplink_lease::Lessee;
use crate::clock::Time;
use crate::frame::Frame;
use crate::offload;
use crate::shared::{Punt, Service};

impl<H: Host> Control<H> {
    /// Serves everything that was punted, and what is due.
    pub fn serve(&mut self, now: Time) {
        self.shared.punts.notice_taken();
        while let Some(punt) = self.shared.punts.take() {
            self.serve_punt(&punt, now);
        }
        self.end_leases(now);
        self.remember_leases(now);
        self.keep_uplink_leases(now);
    }

    /// When [`Control::serve`] is to be called although nothing was punted.
    pub fn due(&self) -> Option<Time> {
        let lessees = self.uplinks.iter().filter_map(|uplink| uplink.lessee.as_ref());
        lessees.map(Lessee::due).chain(self.dhcp.next_end()).min()
    }

    fn serve_punt(&mut self, punt: &Punt, now: Time) {
        let Some(frame) = finished(punt) else { return };
        match punt.service {
            Service::Dhcp => self.serve_dhcp(punt, frame.bytes(), now),
            Service::DhcpClient => self.hear_dhcp_server(punt.ingress, frame.bytes(), now),
            // It has a queue and a thread of its own.
            Service::Stack => {}
        }
    }
}

/// The frame with its checksum in place; `None` for one that is no single packet.
fn finished(punt: &Punt) -> Option<Frame> {
    let mut frame = Frame::new();
    frame.fill(&punt.bytes, punt.offload);
    offload::finish(&mut frame).ok()?;
    Some(frame)
}
