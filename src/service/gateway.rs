//! The gateway as a host with services: what it hears, whom it gives that to, and what it sends.
//!
//! One task, [`Gateway::run`], takes punted frames, lets the stacks do what is due, and sends; the services and relayed
//! connections are tasks beside it on the same thread. Everything they share has one owner at a time, so there is no
//! lock here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::dns::upstream::{self, Transport};
use super::dns::{Client, Dns};
use super::packet::{self, Carried, Peer};
use super::tcp::{Connection, Stack};
use crate::addr::{Endpoint, NetworkId};
use crate::shared::{Punt, Shared};
use crate::snapshot::Network;
use crate::worker::{Outgoing, now};

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// How long a client may keep a connection to the DNS server open without a question (RFC 7766 6.2.3).
const DNS_IDLE: Duration = Duration::from_secs(10);

/// Where frames go that are to be sent.
pub type Send = Box<dyn Fn(Vec<Outgoing>)>;

/// The gateways of all networks.
pub struct Gateway {
    shared: Arc<Shared>,
    dns: Dns,
    stacks: RefCell<HashMap<NetworkId, Rc<RefCell<Stack>>>>,
    outgoing: RefCell<Vec<Outgoing>>,
    send: Send,
    /// Told when there is something to do for [`Gateway::run`] that no frame has brought.
    work: Rc<Notify>,
}

impl Gateway {
    /// Serves the networks of `shared`, by the resolvers of `resolv_conf`.
    pub fn new(shared: Arc<Shared>, resolv_conf: PathBuf, send: Send) -> Rc<Self> {
        Rc::new(Gateway {
            dns: Dns::new(shared.clone(), resolv_conf),
            shared,
            stacks: RefCell::default(),
            outgoing: RefCell::default(),
            send,
            work: Rc::default(),
        })
    }

    /// Does what there is to do whenever `bell` rings, for ever. To be called within a `LocalSet`.
    pub async fn run(self: Rc<Self>, bell: Arc<Notify>) {
        loop {
            let due = self.turn();
            let due = async {
                match due {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = bell.notified() => {}
                () = self.work.notified() => {}
                () = due => {}
            }
        }
    }

    /// Takes what was punted, does what is due, and sends. Says how long there is nothing more to do.
    pub fn turn(self: &Rc<Self>) -> Option<Duration> {
        self.shared.stack_punts.notice_taken();
        while let Some(punt) = self.shared.stack_punts.take() {
            self.receive(&punt);
        }
        let due = self.poll();
        let outgoing = std::mem::take(&mut *self.outgoing.borrow_mut());
        if !outgoing.is_empty() {
            (self.send)(outgoing);
        }
        due
    }

    fn receive(self: &Rc<Self>, punt: &Punt) {
        let Some(network) = punt.network.and_then(|id| self.network(id)) else { return };
        packet::unpack(punt, |peer, carried| match carried {
            Carried::Datagram { src, dst, payload } if dst.port == DNS_PORT => {
                spawn_local(self.clone().answer(network.clone(), peer, src, payload.to_vec()));
            }
            Carried::Datagram { .. } => {}
            Carried::Segment { src, dst, opens, packet } => {
                let stack = self.stack(&network);
                let listen = (opens && dst.port == DNS_PORT).then_some(DNS_PORT);
                let opened = stack.borrow_mut().receive(packet, (src, peer), listen, now());
                if let Some(handle) = opened {
                    let client = Client { port: peer.port, network: network.id };
                    let connection = Connection::accepted(&stack, handle);
                    spawn_local(self.clone().serve(client, connection));
                }
            }
        });
    }

    /// Answers a question that came in a datagram.
    async fn answer(self: Rc<Self>, network: Arc<Network>, peer: Peer, from: Endpoint, query: Vec<u8>) {
        let client = Client { port: peer.port, network: network.id };
        let Some(answer) = self.dns.answer(client, Transport::Udp, &query).await else { return };
        let ids = &self.shared.datagram_ids;
        if let Some(frame) = packet::datagram(&network, ids, peer, DNS_PORT, from, &answer) {
            self.outgoing.borrow_mut().push(frame);
            self.work.notify_one();
        }
    }

    /// Answers the questions that come by a connection, one after the other (RFC 7766 6.2.1).
    async fn serve(self: Rc<Self>, client: Client, mut connection: Connection) {
        while let Ok(Ok(query)) = timeout(DNS_IDLE, upstream::read(&mut connection)).await {
            let Some(answer) = self.dns.answer(client, Transport::Tcp, &query).await else { return };
            let written = timeout(DNS_IDLE, upstream::write(&mut connection, &answer)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Lets every stack do what is due. Says how long there is nothing more to do.
    fn poll(&self) -> Option<Duration> {
        let now = now();
        let mut outgoing = self.outgoing.borrow_mut();
        let mut due = None;
        let snapshot = self.shared.snapshot();
        self.stacks.borrow_mut().retain(|&id, stack| {
            let mut stack = stack.borrow_mut();
            if !snapshot.network(id).is_some_and(|network| stack.fits(network)) {
                stack.abort();
                return false;
            }
            stack.poll(now, &mut outgoing);
            due = due.into_iter().chain(stack.poll_at(now)).min();
            !stack.is_idle()
        });
        due.map(|due| due.since(now))
    }

    fn network(&self, id: NetworkId) -> Option<Arc<Network>> {
        self.shared.snapshot().network(id).cloned()
    }

    /// The TCP of a network's gateway.
    fn stack(&self, network: &Network) -> Rc<RefCell<Stack>> {
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks
            .entry(network.id)
            .or_insert_with(|| Rc::new(RefCell::new(Stack::new(network, self.work.clone(), now()))));
        stack.clone()
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("dns", &self.dns).finish_non_exhaustive()
    }
}
