//! The gateway as a host with services: what it hears, whom it gives that to, and what it sends.
//!
//! One task, [`Gateway::run`], takes punted frames, lets the stacks do what is due, and sends; the services and relayed
//! connections are tasks beside it on the same thread. Everything they share has one owner at a time, so there is no
//! lock here.
//!
//! **Floods.** A turn takes at most [`PUNTS_PER_TURN`] packets and then lets the other tasks run, so that nobody waits
//! for the end of a flood; what comes faster than it is taken finds its port's share of the queue full
//! ([`Punts`](crate::shared::Punts)), which is counted there. What the switch knows itself is answered in the turn; a
//! task is made for a query only when it has a place among those that wait for a resolver, so there are never more.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use super::dns::upstream::{self, Transport};
use super::dns::{Client, Dns, Reply};
use super::packet::{self, Carried, Peer};
use super::relay::Relay;
use super::tcp::{Connection, Stack};
use super::until;
use crate::addr::{Endpoint, MacAddr, NetworkId, Protocol};
use crate::clock::Time;
use crate::limits::PUNTS_PER_TURN;
use crate::shared::{OpenPort, Punt, Shared};
use crate::snapshot::{Network, Target};
use crate::table::neighbor_table::Answer;
use crate::wire::transport::DNS;
use crate::worker::{Outgoing, now};

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
    /// Frames to be sent, with the network that each is for.
    outgoing: RefCell<Vec<(NetworkId, Outgoing)>>,
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
            // The other tasks have their turn before the next frames are taken, however many wait.
            yield_now().await;
            tokio::select! {
                () = bell.notified() => {}
                () = self.work.notified() => {}
                () = until(due) => {}
            }
        }
    }

    /// Takes some of what was punted, does what is due, and sends. Says when there is more to do; if anything is left
    /// of what was punted, the next turn is at once.
    pub fn turn(self: &Rc<Self>) -> Option<Time> {
        self.shared.stack_punts.notice_taken();
        let mut taken = 0;
        while taken < PUNTS_PER_TURN
            && let Some(punt) = self.shared.stack_punts.take()
        {
            taken += self.receive(&punt);
        }
        if !self.shared.stack_punts.is_empty() {
            self.work.notify_one();
        }
        let due = self.poll();
        self.send_all();
        due
    }

    /// Sends what is to be sent, by ports that are still where they were.
    fn send_all(&self) {
        let outgoing = std::mem::take(&mut *self.outgoing.borrow_mut());
        if outgoing.is_empty() {
            return;
        }
        let snapshot = self.shared.snapshot();
        let is_there = |network, port| snapshot.port(port).is_some_and(|port| port.network == Some(network));
        let frames = outgoing.into_iter().filter(|(network, frame)| is_there(*network, frame.port));
        (self.send)(frames.map(|(_, frame)| frame).collect());
    }

    /// Takes in a frame, and says how many packets that was.
    fn receive(self: &Rc<Self>, punt: &Punt) -> usize {
        let Some(network) = punt.network.and_then(|id| self.network(id)) else { return 1 };
        let mut packets = 0;
        packet::unpack(punt, |peer, carried| {
            packets += 1;
            match carried {
                Carried::Datagram { src, dst, payload } if dst.port == DNS => {
                    self.answer(network.id, peer, src, payload);
                }
                Carried::Datagram { src, dst, payload } => {
                    self.relay.deliver(network.id, src, dst.port, payload);
                }
                Carried::Segment { src, dst, opens, packet } => {
                    let stack = self.stack(&network);
                    let opens = opens && dst.port == DNS;
                    let opened = stack.borrow_mut().receive(packet, (dst.port, src), peer, opens, now());
                    if let Some(handle) = opened {
                        let client = Client { port: peer.port, network: network.id };
                        let connection = Connection::accepted(&stack, handle);
                        spawn_local(self.clone().serve(client, connection));
                    }
                }
            }
        });
        packets.max(1)
    }

    /// Answers a question that came in a datagram.
    fn answer(self: &Rc<Self>, network: NetworkId, peer: Peer, from: Endpoint, query: &[u8]) {
        match self.dns.ask(Client { port: peer.port, network }, Transport::Udp, query) {
            None => {}
            Some(Reply::Known(said)) => self.send_datagram(network, peer, DNS, from, &said),
            Some(Reply::Pending(pending)) => {
                let gateway = self.clone();
                spawn_local(async move {
                    let said = pending.answer().await;
                    gateway.send_datagram(network, peer, DNS, from, &said);
                });
            }
        }
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
            self.outgoing.borrow_mut().push((network.id, frame));
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
        self.outgoing.borrow_mut().push((network.id, packet::arp_request(network, ip, at)));
        self.work.notify_one();
    }

    /// Answers the questions that come by a connection, one after the other (RFC 7766 6.2.1).
    async fn serve(self: Rc<Self>, client: Client, mut connection: Connection) {
        while let Ok(Ok(query)) = timeout(DNS_IDLE, upstream::read(&mut connection)).await {
            let Some(reply) = self.dns.ask(client, Transport::Tcp, &query) else { return };
            let answer = reply.said().await;
            let written = timeout(DNS_IDLE, upstream::write(&mut connection, &answer)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Lets every stack do what is due. Says when there is more to do.
    fn poll(&self) -> Option<Time> {
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
            stack.poll(now, |frame| outgoing.push((id, frame)));
            due = due.into_iter().chain(stack.poll_at(now)).min();
            !stack.is_idle()
        });
        due
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
