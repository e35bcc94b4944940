//! The relay: processes of the host reach what is published, on 127.0.0.1 and on the host's own addresses.
//!
//! Their packets never pass the uplink, so the pipeline does not see them. What they reach is a socket on the host, which
//! reserves the published port anyway ([`crate::host::bind`]) and hears nobody else. The relay accepts there and speaks
//! to the container from the gateway's address, which the container can answer on its own network.
//!
//! What a door leads to is read from the configuration of the moment whenever somebody comes: the publication that a
//! packet from outside would find. When the door is closed, everything that came through it ends.
//!
//! **TCP.** A connection on each side, and bytes between them in both directions; each end of a stream is passed on.
//! The client is accepted before the container has answered. If that refuses, the client's connection is reset.
//!
//! **UDP.** A flow is a client's address at a door, and has a port number of the gateway, by which the container's
//! answers find it. It ends when it was idle for [`IDLE`] (RFC 4787 REQ-5), when its target moves, or when it is the
//! one that was idle longest of too many. What is for a container that is still being looked for waits for it, and holds
//! up nothing that is for another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::sleep;

use super::gateway::Gateway;
use super::packet::Peer;
use super::tcp::{Connection, RELAY_BUFFERS};
use crate::addr::{Endpoint, NetworkId, Protocol};
use crate::clock::Time;
use crate::limits::{PUBLISH_TARGETS_MAX, RELAY_CONNECTIONS, RELAY_FLOWS, RELAY_WAITING};
use crate::shared::OpenPort;
use crate::snapshot::{Network, Target};
use crate::worker::now;

/// After which a flow that nobody uses has ended.
const IDLE: Duration = Duration::from_secs(120);

/// How long accepting rests when it cannot, for want of descriptors say.
const REST: Duration = Duration::from_millis(100);

/// [`RELAY_FLOWS`], for the table.
const FLOWS: NonZeroUsize = NonZeroUsize::new(RELAY_FLOWS).unwrap();

/// A published port on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Door {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that it is at; `None` for all of the host's.
    pub ip: Option<Ipv4Addr>,
    /// The port.
    pub port: u16,
}

/// What control asks of the relay.
#[derive(Debug)]
pub(super) enum Order {
    Open(Door, OwnedFd),
    Close(Door),
}

/// Control's hand on the doors.
#[derive(Debug, Clone)]
pub struct Doors(pub(super) mpsc::UnboundedSender<Order>);

impl Doors {
    /// Serves what comes to `socket`, which listens if it is of TCP.
    pub fn open(&self, door: Door, socket: OwnedFd) {
        // Nobody serves while the daemon stops.
        let _ = self.0.send(Order::Open(door, socket));
    }

    /// Ends that, and everything that came so.
    pub fn close(&self, door: Door) {
        let _ = self.0.send(Order::Close(door));
    }
}

/// The relay of one process.
#[derive(Debug)]
pub(super) struct Relay {
    doors: RefCell<HashMap<Door, AbortHandle>>,
    /// Places for connections.
    places: Arc<Semaphore>,
    flows: RefCell<Flows>,
}

impl Relay {
    pub(super) fn new() -> Self {
        let flows = Flows { by_client: LruCache::new(FLOWS), clients: HashMap::new() };
        let places = Arc::new(Semaphore::new(RELAY_CONNECTIONS));
        Relay { doors: RefCell::default(), places, flows: RefCell::new(flows) }
    }

    /// Hands an answer of a container to the client whose flow it is.
    pub(super) fn deliver(&self, network: NetworkId, from: Endpoint, number: u16, payload: &[u8]) {
        let mut flows = self.flows.borrow_mut();
        let Some(client) = flows.clients.get(&number).copied() else { return };
        let Some(flow) = flows.by_client.get_mut(&client) else { return };
        let now = now();
        if (flow.network, flow.target.endpoint) != (network, from) || now.since(flow.used) > IDLE {
            return;
        }
        flow.used = now;
        // A client that does not listen any more, or not fast enough, loses it.
        let _ = flow.socket.try_send_to(payload, client.1);
    }
}

/// Does what control orders, for ever.
pub(super) async fn obey(gateway: Rc<Gateway>, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        let relay = &gateway.relay;
        match order {
            Order::Open(door, socket) => match serve(&gateway, door, socket) {
                Ok(task) => {
                    if let Some(before) = relay.doors.borrow_mut().insert(door, task) {
                        before.abort();
                    }
                }
                Err(error) => log::warn!("port {} of this host: {error}", door.port),
            },
            Order::Close(door) => {
                if let Some(task) = relay.doors.borrow_mut().remove(&door) {
                    task.abort();
                }
                relay.flows.borrow_mut().close(door);
            }
        }
    }
    // Nobody is left to order; what is open stays so.
    std::future::pending().await
}

fn serve(gateway: &Rc<Gateway>, door: Door, socket: OwnedFd) -> io::Result<AbortHandle> {
    let gateway = gateway.clone();
    let task = if door.protocol == Protocol::Tcp {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        spawn_local(accept(gateway, TcpListener::from_std(listener)?))
    } else {
        let socket = StdUdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        spawn_local(take_datagrams(gateway, door, Rc::new(UdpSocket::from_std(socket)?)))
    };
    Ok(task.abort_handle())
}

/// Accepts and relays connections. They end with this task.
async fn accept(gateway: Rc<Gateway>, listener: TcpListener) {
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = gateway.relay.places.clone().try_acquire_owned() else {
                        reset(&stream);
                        continue;
                    };
                    let gateway = gateway.clone();
                    carried.spawn_local(async move {
                        let _place = place;
                        carry(&gateway, stream).await;
                    });
                }
                Err(error) => {
                    log::warn!("cannot accept a connection of this host: {error}");
                    sleep(REST).await;
                }
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

/// Relays a connection until both sides have ended it.
async fn carry(gateway: &Rc<Gateway>, mut client: TcpStream) {
    let (Ok(SocketAddr::V4(at)), Ok(peer)) = (client.local_addr(), client.peer_addr()) else { return };
    match connect(gateway, Endpoint::new(*at.ip(), at.port()), peer).await {
        Ok(mut server) => {
            // It is answered as the container answers, not when there is more to say.
            let _ = client.set_nodelay(true);
            if copy_bidirectional(&mut client, &mut server).await.is_err() {
                reset(&client);
            }
        }
        Err(error) => {
            log::debug!("relay at {at}: {error}");
            reset(&client);
        }
    }
}

async fn connect(gateway: &Rc<Gateway>, at: Endpoint, client: SocketAddr) -> io::Result<Connection> {
    let target = gateway.target(Protocol::Tcp, at, client).ok_or(io::ErrorKind::ConnectionRefused)?;
    let (network, peer) = gateway.reach(target).await.ok_or(io::ErrorKind::HostUnreachable)?;
    let number = gateway.open_port(Protocol::Tcp).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Connection::connect(&gateway.stack(&network), number, target.endpoint, peer, RELAY_BUFFERS).await
}

/// Has the connection end with a reset, as soon as it is dropped.
fn reset(stream: &TcpStream) {
    // Otherwise it ends in good order.
    let _ = stream.set_zero_linger();
}

/// Relays the datagrams of all clients at a door to what is behind it.
async fn take_datagrams(gateway: Rc<Gateway>, door: Door, socket: Rc<UdpSocket>) {
    let mut bytes = vec![0; usize::from(u16::MAX)];
    let mut waiting = Waiting::default();
    let at = Endpoint::new(door.ip.unwrap_or(Ipv4Addr::LOCALHOST), door.port);
    loop {
        tokio::select! {
            received = socket.recv_from(&mut bytes) => match received {
                Ok((len, client)) => {
                    let Some(target) = gateway.target(Protocol::Udp, at, client) else { continue };
                    let known = gateway.relay.flows.borrow_mut().find((door, client), target);
                    match known {
                        Some((network, peer, number)) => {
                            gateway.send_datagram(network, peer, number, target.endpoint, &bytes[..len]);
                        }
                        None => waiting.put(&gateway, target, client, &bytes[..len]),
                    }
                }
                // An answer that found nobody comes back as an error here.
                Err(error) => log::debug!("relay at {}/udp: {error}", door.port),
            },
            Some((target, found, datagrams)) = waiting.next() => {
                let Some((network, peer)) = found else { continue };
                for (client, bytes) in datagrams {
                    let client = (door, client);
                    if let Some(number) = number(&gateway, client, &socket, target, (network.id, peer)) {
                        gateway.send_datagram(network.id, peer, number, target.endpoint, &bytes);
                    }
                }
            }
        }
    }
}

/// The gateway's port number for a client's flow, which begins if there is none.
fn number(
    gateway: &Gateway,
    client: (Door, SocketAddr),
    socket: &Rc<UdpSocket>,
    target: Target,
    (network, peer): (NetworkId, Peer),
) -> Option<u16> {
    let mut flows = gateway.relay.flows.borrow_mut();
    if let Some((_, _, number)) = flows.find(client, target) {
        return Some(number);
    }
    flows.make_room();
    let open = gateway.open_port(Protocol::Udp)?;
    let number = open.number();
    flows.clients.insert(number, client);
    let flow = Flow { number: open, network, target, peer, socket: socket.clone(), used: now() };
    flows.by_client.put(client, flow);
    Some(number)
}

/// Where a target was found, if it was.
type Found = Option<(Arc<Network>, Peer)>;

/// A client's datagram.
type Datagram = (SocketAddr, Vec<u8>);

/// What waits at a door until its target is found: at most [`RELAY_WAITING`] datagrams for each of
/// [`PUBLISH_TARGETS_MAX`]. One more is dropped, as one that finds a socket's buffer full.
#[derive(Debug, Default)]
struct Waiting {
    datagrams: Vec<(Target, Vec<Datagram>)>,
    /// Finds them, and ends with this.
    searches: JoinSet<(Target, Found)>,
}

impl Waiting {
    /// Puts a datagram in, and has its target searched for if it is not yet.
    fn put(&mut self, gateway: &Rc<Gateway>, target: Target, client: SocketAddr, bytes: &[u8]) {
        let datagram = (client, bytes.to_vec());
        if let Some((_, queue)) = self.datagrams.iter_mut().find(|(other, _)| *other == target) {
            if queue.len() < RELAY_WAITING {
                queue.push(datagram);
            }
        } else if self.datagrams.len() < PUBLISH_TARGETS_MAX {
            self.datagrams.push((target, vec![datagram]));
            let gateway = gateway.clone();
            self.searches.spawn_local(async move { (target, gateway.reach(target).await) });
        }
    }

    /// The next target of which it is known whether it was found, with what has waited for it; `None` while none is
    /// searched for.
    async fn next(&mut self) -> Option<(Target, Found, Vec<Datagram>)> {
        let (target, found) = self.searches.join_next().await?.ok()?;
        let at = self.datagrams.iter().position(|(other, _)| *other == target)?;
        Some((target, found, self.datagrams.swap_remove(at).1))
    }
}

/// A client that speaks UDP, and whom to.
#[derive(Debug)]
struct Flow {
    number: OpenPort,
    network: NetworkId,
    target: Target,
    peer: Peer,
    /// Where the client is answered from.
    socket: Rc<UdpSocket>,
    used: Time,
}

/// The flows.
#[derive(Debug)]
struct Flows {
    by_client: LruCache<(Door, SocketAddr), Flow>,
    /// By the number that a flow has at the gateway.
    clients: HashMap<u16, (Door, SocketAddr)>,
}

impl Flows {
    /// The flow of a client, if it is fresh and leads to `target`.
    fn find(&mut self, client: (Door, SocketAddr), target: Target) -> Option<(NetworkId, Peer, u16)> {
        let flow = self.by_client.get_mut(&client)?;
        if flow.target != target || now().since(flow.used) > IDLE {
            self.drop_flow(client);
            return None;
        }
        flow.used = now();
        Some((flow.network, flow.peer, flow.number.number()))
    }

    /// Ends those that are idle, and one more if there are still too many.
    fn make_room(&mut self) {
        let now = now();
        while let Some((&client, flow)) = self.by_client.peek_lru()
            && (self.by_client.len() >= RELAY_FLOWS || now.since(flow.used) > IDLE)
        {
            self.drop_flow(client);
        }
    }

    /// Ends the flows of a door.
    fn close(&mut self, door: Door) {
        let ended: Vec<_> =
            self.by_client.iter().map(|(&client, _)| client).filter(|client| client.0 == door).collect();
        ended.into_iter().for_each(|client| self.drop_flow(client));
    }

    fn drop_flow(&mut self, client: (Door, SocketAddr)) {
        if let Some(flow) = self.by_client.pop(&client) {
            self.clients.remove(&flow.number.number());
        }
    }
}
