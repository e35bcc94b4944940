//! The address that an uplink has by DHCP, in mode `own`.
//!
//! The [`Client`] says what the uplink is to have; when that is something new, it becomes the uplink's setting, and the
//! change takes the way of every other change of an uplink: [`Control::renew_uplinks`]. So connections from an
//! address that is not ours any more end, and a link that overlaps a network is noticed.

use super::apply::Control;
use super::host::{Host, UplinkFacts};
use super::uplink::UplinkRecord;
use crate::addr::{MacAddr, PortId};
use crate::clock::Time;
use crate::service::datagram::Datagram;
use crate::service::dhcp::client::{Client, Config};

/// Who gets the uplink its address.
#[derive(Debug)]
pub(super) struct Lessee {
    client: Client,
    /// What the uplink has now.
    config: Option<Config>,
}

impl Lessee {
    pub(super) fn new(mac: MacAddr, now: Time) -> Lessee {
        Lessee { client: Client::new(mac, rand::random(), now), config: None }
    }

    /// When it is to be served.
    pub(super) fn due(&self) -> Time {
        self.client.due()
    }

    /// The uplink's interface has changed.
    pub(super) fn follow(&mut self, before: &UplinkFacts, facts: &UplinkFacts, now: Time) {
        if facts.mac != before.mac {
            self.client = Lessee::new(facts.mac, now).client;
        } else if facts.up && (!before.up || facts.index != before.index) {
            self.client.link_is_up(now);
        }
    }
}

impl<H: Host> Control<H> {
    /// Takes in what a DHCP server on an uplink said.
    pub(super) fn hear_dhcp_server(&mut self, port: PortId, datagram: &Datagram<'_>, now: Time) {
        if let Some(lessee) = self.uplink_at(port).and_then(|uplink| uplink.lessee.as_mut()) {
            lessee.client.receive(datagram, now);
        }
    }

    /// Sends what the uplinks' DHCP clients have to say, and gives the uplinks what they have got.
    pub(super) fn keep_uplink_leases(&mut self, now: Time) {
        let mut is_news = false;
        for UplinkRecord { id, settings, lessee, .. } in &mut self.uplinks {
            let Some(lessee) = lessee else { continue };
            let message = lessee.client.poll(now);
            let config = lessee.client.config();
            if std::mem::replace(&mut lessee.config, config) != config {
                settings.address = config.map(|config| config.address);
                settings.gateway = config.and_then(|config| config.gateway);
                is_news = true;
            }
            if let Some(message) = message {
                self.host.send(id.port(), message);
            }
        }
        if is_news {
            self.renew_uplinks(now);
        }
    }
}
