//! DNS at the gateway of every network.
//!
//! ```text
//! query ─▶ read ─┬─▶ names ────────────────────────▶ answer
//!                └─▶ forward ─▶ upstream (the host's resolvers) ─▶ the same bytes back
//! ```
//!
//! The switch knows the names of its ports, aliases and networks ([`names`]); everything else goes verbatim to the
//! host's resolvers, which are followed as they change ([`resolvers`]), and their answers come back verbatim
//! ([`forward`], [`upstream`]; RFC 5625). Nothing is cached: the host's resolver does that, and an answer of ours is
//! never older than the question.
//!
//! A network without a way out, of mode internal or without an uplink, has only the switch's names: through a resolver
//! that passes on everything a container could tell the world whatever it likes (CVE-2024-29018).
//!
//! The queries come from ports of the network only. There is no socket on port 53 anywhere, so nothing outside reaches
//! the service.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;

use crate::addr::{NetworkId, PortId};
use crate::shared::Shared;
use crate::snapshot::{NetworkMode, Snapshot};

pub mod forward;
pub mod message;
pub mod names;
pub mod resolvers;
pub mod upstream;

use forward::{Forwarder, Pending};
use message::Received;
use resolvers::Resolvers;
use upstream::Transport;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its port.
    pub port: PortId,
    /// The network of that port.
    pub network: NetworkId,
}

/// What is said to a query. Only one that has a place among those that wait takes time, so whoever makes a task of it
/// makes no more of them than there are places.
#[derive(Debug)]
pub enum Reply {
    /// At once.
    Known(Vec<u8>),
    /// When a resolver has answered.
    Pending(Pending),
}

impl Reply {
    /// Waits for it.
    pub async fn said(self) -> Vec<u8> {
        match self {
            Reply::Known(said) => said,
            Reply::Pending(pending) => pending.answer().await,
        }
    }
}

/// The service.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
    forwarder: Rc<Forwarder>,
}

impl Dns {
    /// Knows the names of the configuration in `shared`, and asks the resolvers of `resolv_conf` about others.
    pub fn new(shared: Arc<Shared>, resolv_conf: PathBuf) -> Self {
        Dns { shared, forwarder: Forwarder::new(Resolvers::new(resolv_conf)) }
    }

    /// What is said to `message`; `None` if nothing is. To be called within a `LocalSet`.
    pub fn ask(&self, client: Client, transport: Transport, message: &[u8]) -> Option<Reply> {
        let question = match message::read(message) {
            Received::Query(question) => question,
            Received::Refused(said) => return Some(Reply::Known(said)),
            Received::Ignored => return None,
        };
        let (known, goes_out) = {
            let snapshot = self.shared.snapshot();
            (names::look_up(&snapshot, client.network, &question), goes_out(&snapshot, client.network))
        };
        if let Some(records) = known {
            return Some(Reply::Known(message::answer(message, &records, transport == Transport::Udp)));
        }
        let forward = || self.forwarder.forward(client.port, transport, message, question);
        Some(match goes_out.then(forward).flatten() {
            Some(pending) => Reply::Pending(pending),
            None => Reply::Known(message::failure(message, ResponseCode::Refused)),
        })
    }
}

/// Whether containers on a network may ask the world.
fn goes_out(snapshot: &Snapshot, network: NetworkId) -> bool {
    let network = snapshot.network(network).filter(|network| network.mode != NetworkMode::Internal);
    network.is_some_and(|network| snapshot.uplink_of(network).is_some())
}
