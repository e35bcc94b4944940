//! The gateway as a host with services: what it hears, whom it gives that to, and what it sends.
//!
//! One task, [`Gateway::run`], takes punted frames, lets the stacks do what is due, and sends; the services and relayed
//! connections are tasks beside it on the same thread. Everything they share has one owner at a time, so there is no
//! lock here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::dns::upstream::{self, Transport};
use super::dns::{Client, Dns};
use super::packet::{self, Carried, Peer};
use super::relay::Relay;
use super::tcp::{Connection, Stack};
use crate::addr::{Endpoint, MacAddr, NetworkId, Protocol};
use crate::shared::{OpenPort, Punt, Shared};
use crate::snapshot::{Network, Target};
use crate::table::neighbor_table::Answer;
use crate::worker::{Outgoing, now};

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// How long a client may keep a connection to the DNS server open without a question (RFC 7766 6.2.3).
const DNS_IDLE: Duration = Duration::from_secs(10);

/// How long to wait before looking again whether a neighbor has answered.
const ARP_LOOK: Duration = Duration::from_millis(5);

/// How often to look: longer than the table needs to say that a neighbor does not answer.
const ARP_LOOKS: u32 = 1000;

/// Where frames go that are to be sent.
pub type Send = Box<dyn Fn(Vec<Outgoing>)>;

/// The gateways of all networks.
pub struct Gateway {
    shared: Arc<Shared>,
    dns: Dns,
    stacks: RefCell<HashMap<NetworkId, Rc<RefCell<Stack>>>>,
    pub(super) relay: Relay,
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
            relay: Relay::new(),
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
            Carried::Datagram { src, dst, payload } => {
                self.relay.deliver(network.id, src, dst.port, payload);
            }
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
        self.send_datagram(network.id, peer, DNS_PORT, from, &answer);
    }

    /// Sends a datagram from port `from` of a network's gateway.
    pub(super) fn send_datagram(
        &self,
        network: NetworkId,
        peer: Peer,
        from: u16,
        to: Endpoint,
        payload: &[u8],
    ) {
        let Some(network) = self.network(network) else { return };
        let ids = &self.shared.datagram_ids;
        if let Some(frame) = packet::datagram(&network, ids, peer, from, to, payload) {
            self.outgoing.borrow_mut().push(frame);
            self.work.notify_one();
        }
    }

    /// Where a client of the host's own goes that comes to what is published at an address and port of the host.
    pub(super) fn target(&self, protocol: Protocol, at: Endpoint, client: SocketAddr) -> Option<Target> {
        let publications = &self.shared.snapshot().publications;
        let client = match client {
            SocketAddr::V4(client) => Endpoint::new(*client.ip(), client.port()),
            SocketAddr::V6(client) => Endpoint::new(Ipv4Addr::LOCALHOST, client.port()),
        };
        publications.choose(publications.find(protocol, at)?, at.port, client)
    }

    /// A port number for a connection of the gateway's own.
    pub(super) fn open_port(&self, protocol: Protocol) -> Option<OpenPort> {
        self.shared.open_ports.open(protocol, rand::random())
    }

    /// Finds out where a publication's target is: its network, and its station. `None` if it does not answer ARP.
    pub(super) async fn reach(&self, target: Target) -> Option<(Arc<Network>, Peer)> {
        let (port, ip) = (target.to, target.endpoint.ip);
        let network = self.shared.snapshot().port(port)?.network.and_then(|id| self.network(id))?;
        // The table asks again, and says when there is no hope; this only sees what it has found out.
        for _ in 0..ARP_LOOKS {
            let answer = network.neighbors.lock().resolve(ip, now());
            match answer {
                Answer::Found(mac) => return Some((network, Peer { mac, port })),
                Answer::Refresh(mac) => {
                    self.ask_for(&network, ip, Peer { mac, port });
                    return Some((network, Peer { mac, port }));
                }
                Answer::Solicit => self.ask_for(&network, ip, Peer { mac: MacAddr::BROADCAST, port }),
                Answer::Pending => {}
                Answer::Unreachable => return None,
            }
            sleep(ARP_LOOK).await;
        }
        None
    }

    /// Asks a publication's target whether it is still there, and waits until it says so. `None` if it cannot be asked.
    pub(super) async fn hear(&self, target: Target) -> Option<()> {
        let (port, ip) = (target.to, target.endpoint.ip);
        let network = self.shared.snapshot().port(port)?.network.and_then(|id| self.network(id))?;
        let heard = || network.neighbors.lock().confirmed(ip);
        let before = heard();
        self.ask_for(&network, ip, Peer { mac: MacAddr::BROADCAST, port });
        while heard() == before {
            sleep(ARP_LOOK).await;
        }
        Some(())
    }

    /// What workers and control share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn ask_for(&self, network: &Network, ip: Ipv4Addr, at: Peer) {
        self.outgoing.borrow_mut().push(packet::arp_request(network, ip, at));
        self.work.notify_one();
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
    pub(super) fn stack(&self, network: &Network) -> Rc<RefCell<Stack>> {
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
