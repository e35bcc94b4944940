//! The address that the uplink has by DHCP, in mode `own`.
//!
//! The [`Client`] says what the uplink is to have; when that is something new, the host is told, and the change takes
//! the way of every other change of the uplink: [`Control::follow_uplink`]. So connections from an address that is not
//! ours any more end, and a link that overlaps a network is noticed.

use super::apply::Control;
use super::host::{Host, UplinkFacts};
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
    /// Takes in what a DHCP server on the uplink said.
    pub(super) fn hear_dhcp_server(&mut self, datagram: &Datagram<'_>, now: Time) {
        if let Some(lessee) = self.uplink.as_mut().and_then(|uplink| uplink.lessee.as_mut()) {
            lessee.client.receive(datagram, now);
        }
    }

    /// Sends what the uplink's DHCP client has to say, and gives the uplink what it has got.
    pub(super) fn keep_uplink_lease(&mut self, now: Time) {
        let Some(lessee) = self.uplink.as_mut().and_then(|uplink| uplink.lessee.as_mut()) else { return };
        let message = lessee.client.poll(now);
        let config = lessee.client.config();
        let is_news = std::mem::replace(&mut lessee.config, config) != config;
        if let Some(message) = message {
            self.host.send(PortId::UPLINK, message);
        }
        if is_news {
            self.host.set_uplink_address(config);
            self.follow_uplink(now);
        }
    }
}
