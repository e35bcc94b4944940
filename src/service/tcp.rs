//! TCP of a gateway: one smoltcp interface for each network, and its connections as tokio streams.
//!
//! The interface speaks IP and no Ethernet: who the stations are and where they are is known to the rest of the switch
//! already. A connection has its [`Peer`] from its first packet, and what comes by another port of the switch is not of
//! it; what is of no connection is answered back the way that it came. The interface has the gateway's address on one
//! network and hears nothing of the others, so that isolation does not depend on it.
//!
//! **Listening.** smoltcp listens with one socket a connection. There is always one that listens, and as packets are
//! taken in one by one, it has been replaced before the next one comes. Who opens more connections than the bounds
//! allow finds nobody listening, and is refused (RST).
//!
//! **Connections.** A [`Connection`] is the application's end: reading and writing move bytes between it and the
//! socket's buffers, and tell the loop that there is something to send. When it is dropped the socket closes in good
//! order, and stays until TCP is done with it. It is bounded in time: a peer that says nothing more is given up after
//! [`SILENCE`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::packet::{self, Peer};
use crate::addr::{Endpoint, PortId};
use crate::clock::Time;
use crate::frame::Offload;
use crate::limits::{DNS_CONNECTIONS, DNS_CONNECTIONS_PER_PORT};
use crate::shared::OpenPort;
use crate::snapshot::Network;
use crate::wire::ethernet;
use crate::worker::Outgoing;

/// After which silence a peer that owes us something is given up: an acknowledgment, or the end of its handshake.
const SILENCE: Duration = Duration::from_secs(20);

/// How often a peer that owes nothing is asked whether it is still there, so that one that is gone holds no socket.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Bytes of a receive and a send buffer of a connection to a service of the gateway.
const SERVICE_BUFFERS: Buffers = (4 * 1024, 16 * 1024);

/// Bytes of a receive and a send buffer.
pub type Buffers = (usize, usize);

/// Those of a connection that the gateway makes to carry something, which may be much.
pub const RELAY_BUFFERS: Buffers = (64 * 1024, 64 * 1024);

/// Those of one that it makes only to see whether it can.
pub const CHECK_BUFFERS: Buffers = (512, 512);

/// A connection as its packets tell it: the gateway's port, and the other end.
pub type Flow = (u16, Endpoint);

/// The TCP of one gateway.
pub struct Stack {
    network: Network,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    /// Sockets that listen, by port.
    listeners: HashMap<u16, SocketHandle>,
    connections: HashMap<SocketHandle, Held>,
    /// The connections that TCP is not done with.
    flows: HashMap<Flow, SocketHandle>,
    /// Answers to what is of no connection.
    answers: Vec<Outgoing>,
    /// Told when there is something to send.
    work: Rc<Notify>,
}

/// What is kept of a connection beside its socket.
#[derive(Debug)]
struct Held {
    flow: Flow,
    /// Where its other end is.
    peer: Peer,
    /// The port number that was taken for it, if the gateway has made it.
    number: Option<OpenPort>,
    /// What of the peer's last words was not read when TCP was done with the connection.
    rest: Option<Vec<u8>>,
    /// Whether the application has let go of it.
    released: bool,
}

impl Stack {
    /// That of `network`'s gateway, with no connection.
    pub fn new(network: &Network, work: Rc<Notify>, now: Time) -> Self {
        let mut wire = Wire { mtu: usize::from(network.mtu), ..Wire::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = rand::random();
        let mut interface = Interface::new(config, &mut wire, instant(now));
        let address = IpCidr::new(IpAddress::Ipv4(network.speaks_as()), network.subnet.prefix_len());
        interface.update_ip_addrs(|addresses| {
            // There is room for more than one.
            let _ = addresses.push(address);
        });
        Stack {
            network: network.clone(),
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            listeners: HashMap::new(),
            connections: HashMap::new(),
            flows: HashMap::new(),
            answers: Vec::new(),
            work,
        }
    }

    /// Whether the gateway is still what it was made for.
    pub fn fits(&self, network: &Network) -> bool {
        let of = |network: &Network| (network.subnet, network.gateway, network.gateway_mac, network.mtu);
        of(&self.network) == of(network)
    }

    /// Takes in a packet of `flow` from `peer`. If it `opens` a connection to a service, tells which.
    pub fn receive(
        &mut self,
        packet: &[u8],
        flow: Flow,
        peer: Peer,
        opens: bool,
        now: Time,
    ) -> Option<SocketHandle> {
        let known =
            self.flows.get(&flow).and_then(|handle| self.connections.get(handle)).map(|held| held.peer);
        if known.is_some_and(|known| known.port != peer.port) {
            return None; // Somebody else says that the other end is there.
        }
        let listener = if opens { self.listener(flow.0, peer.port) } else { None };
        self.wire.arrived = Some(packet.to_vec());
        while self.interface.poll_ingress_single(instant(now), &mut self.wire, &mut self.sockets)
            != PollIngressSingleResult::None
        {}
        let (network, peer) = (&self.network, known.unwrap_or(peer));
        let answers =
            self.wire.left.drain(..).map(|bytes| packet::framed(network, peer, bytes, Offload::NONE));
        self.answers.extend(answers);
        let opened = listener.filter(|&socket| !self.socket(socket).is_listening())?;
        self.listeners.retain(|_, listener| *listener != opened);
        self.hold(opened, flow, peer, None);
        Some(opened)
    }

    fn hold(&mut self, handle: SocketHandle, flow: Flow, peer: Peer, number: Option<OpenPort>) {
        self.flows.insert(flow, handle);
        self.connections.insert(handle, Held { flow, peer, number, rest: None, released: false });
    }

    /// The socket that listens on `port`, for one more connection from the port `from` of the switch.
    fn listener(&mut self, port: u16, from: PortId) -> Option<SocketHandle> {
        let accepted = || self.connections.values().filter(|held| held.number.is_none());
        let many = accepted().count() >= DNS_CONNECTIONS
            || accepted().filter(|held| held.peer.port == from).count() >= DNS_CONNECTIONS_PER_PORT;
        if many {
            if let Some(listener) = self.listeners.remove(&port) {
                self.sockets.remove(listener);
            }
            return None;
        }
        if let Some(&listener) = self.listeners.get(&port) {
            return Some(listener);
        }
        let mut socket = socket(SERVICE_BUFFERS);
        socket.listen((IpAddress::Ipv4(self.network.speaks_as()), port)).ok()?;
        let listener = self.sockets.add(socket);
        self.listeners.insert(port, listener);
        Some(listener)
    }

    /// Begins a connection from the port `number` to `target`, which is behind `peer`.
    fn begin(
        &mut self,
        number: OpenPort,
        target: Endpoint,
        peer: Peer,
        buffers: Buffers,
    ) -> Option<SocketHandle> {
        let flow = (number.number(), target);
        let local = IpEndpoint::new(IpAddress::Ipv4(self.network.speaks_as()), number.number());
        let remote = IpEndpoint::new(IpAddress::Ipv4(target.ip), target.port);
        let mut socket = socket(buffers);
        socket.connect(self.interface.context(), remote, local).ok()?;
        let handle = self.sockets.add(socket);
        self.hold(handle, flow, peer, Some(number));
        Some(handle)
    }

    /// Does what is due, and hands what is to be sent to `send`.
    pub fn poll(&mut self, now: Time, mut send: impl FnMut(Outgoing)) {
        self.keep_last_words();
        self.answers.drain(..).for_each(&mut send);
        self.interface.poll(instant(now), &mut self.wire, &mut self.sockets);
        for bytes in self.wire.left.drain(..) {
            let flow = packet::flow(&bytes[ethernet::HEADER_LEN..]);
            let handle = flow.and_then(|flow| self.flows.get(&flow));
            if let Some(held) = handle.and_then(|handle| self.connections.get(handle)) {
                send(packet::framed(&self.network, held.peer, bytes, Offload::NONE));
            }
        }
        let (sockets, flows) = (&mut self.sockets, &mut self.flows);
        self.connections.retain(|&handle, held| {
            let is_closed = sockets.get::<Socket<'_>>(handle).state() == State::Closed;
            // Meanwhile the other end may have begun another one.
            if is_closed && flows.get(&held.flow) == Some(&handle) {
                flows.remove(&held.flow);
            }
            let over = is_closed && held.released;
            if over {
                sockets.remove(handle);
            }
            !over
        });
    }

    /// TIME-WAIT ends by itself, and what was not read by then would end with it.
    fn keep_last_words(&mut self) {
        for (&handle, held) in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket<'_>>(handle);
            if socket.state() == State::TimeWait && held.rest.is_none() {
                let mut rest = vec![0; socket.recv_queue()];
                let len = socket.recv_slice(&mut rest).unwrap_or(0);
                rest.truncate(len);
                held.rest = Some(rest);
            }
        }
    }

    /// When [`Stack::poll`] is due although nothing came.
    pub fn poll_at(&mut self, now: Time) -> Option<Time> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Time::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
    }

    /// Ends every connection: the gateway is not what it was.
    pub fn abort(&mut self) {
        for &handle in self.connections.keys() {
            self.sockets.get_mut::<Socket<'_>>(handle).abort();
        }
    }

    /// Whether nothing would be lost with it.
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.answers.is_empty()
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").field("connections", &self.connections).finish_non_exhaustive()
    }
}

fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

fn socket((receive, send): Buffers) -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; receive]), SocketBuffer::new(vec![0; send]));
    socket.set_timeout(Some(SILENCE.into()));
    socket.set_keep_alive(Some(KEEP_ALIVE.into()));
    socket.set_hop_limit(Some(packet::TTL));
    // What the application writes is whole; and who waits for one answer does not wait for another's acknowledgment.
    socket.set_nagle_enabled(false);
    socket
}

/// The application's end of a connection.
#[derive(Debug)]
pub struct Connection {
    stack: Rc<RefCell<Stack>>,
    handle: SocketHandle,
}

impl Connection {
    /// One that was opened by a packet ([`Stack::receive`]).
    pub fn accepted(stack: &Rc<RefCell<Stack>>, handle: SocketHandle) -> Self {
        Connection { stack: stack.clone(), handle }
    }

    /// Connects from the gateway to `target`.
    ///
    /// # Errors
    /// `ConnectionRefused` if the target refuses, or does not answer in time.
    pub async fn connect(
        stack: &Rc<RefCell<Stack>>,
        number: OpenPort,
        target: Endpoint,
        peer: Peer,
        buffers: Buffers,
    ) -> io::Result<Self> {
        let handle = stack.borrow_mut().begin(number, target, peer, buffers);
        let handle = handle.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let connection = Connection { stack: stack.clone(), handle };
        connection.stack.borrow().work.notify_one();
        poll_fn(|cx| -> Poll<io::Result<()>> {
            #[allow(clippy::wildcard_enum_match_arm)] // all others come after it is open
            connection.with(|socket| match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => Poll::Ready(Ok(())),
            })
        })
        .await?;
        Ok(connection)
    }

    /// Ends it with a reset, so that nothing of it is left to wait for.
    pub fn reset(self) {
        self.with(Socket::abort);
    }

    fn with<T>(&self, f: impl FnOnce(&mut Socket<'static>) -> T) -> T {
        f(self.stack.borrow_mut().socket(self.handle))
    }

    /// Has the loop send what has become possible.
    fn work(&self) {
        self.stack.borrow().work.notify_one();
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut stack = self.stack.borrow_mut();
        if let Some(rest) = stack.connections.get_mut(&self.handle).and_then(|held| held.rest.as_mut()) {
            let len = rest.len().min(into.remaining());
            into.put_slice(&rest[..len]);
            rest.drain(..len);
            return Poll::Ready(Ok(()));
        }
        drop(stack);
        let read = self.with(|socket| {
            if socket.can_recv() {
                let read = socket.recv(|bytes| {
                    let len = bytes.len().min(into.remaining());
                    into.put_slice(&bytes[..len]);
                    (len, ())
                });
                return Poll::Ready(read.map_err(|_| io::ErrorKind::ConnectionReset.into()));
            }
            if socket.may_recv() || matches!(socket.state(), State::SynReceived) {
                socket.register_recv_waker(cx.waker());
                return Poll::Pending;
            }
            // The other side has closed in good order, or the connection broke.
            let in_order = matches!(
                socket.state(),
                State::CloseWait | State::LastAck | State::Closing | State::TimeWait
            );
            Poll::Ready(if in_order { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) })
        });
        if read.is_ready() {
            // The window may have opened.
            self.work();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with(|socket| {
            if !socket.may_send() && !matches!(socket.state(), State::SynReceived) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !socket.can_send() {
                socket.register_send_waker(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(socket.send_slice(bytes).map_err(|_| io::ErrorKind::BrokenPipe.into()))
        });
        if written.is_ready() {
            self.work();
        }
        written
    }

    /// What is written is sent without being asked for.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(Socket::close);
        self.work();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut stack = self.stack.borrow_mut();
        let socket = stack.socket(self.handle);
        // Who is not heard to the end is told so (RFC 1122 4.2.2.13).
        if socket.can_recv() {
            socket.abort()
        } else {
            socket.close()
        }
        if let Some(held) = stack.connections.get_mut(&self.handle) {
            held.released = true;
        }
        stack.work.notify_one();
    }
}

/// Where the interface's packets come from and go to: at most one comes in at a time.
#[derive(Debug, Default)]
struct Wire {
    mtu: usize,
    arrived: Option<Vec<u8>>,
    /// What goes out, with room for an Ethernet header in front.
    left: Vec<Vec<u8>>,
}

impl phy::Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaves<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Leaves<'_>)> {
        Some((Arrived(self.arrived.take()?), Leaves(&mut self.left)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaves<'_>> {
        Some(Leaves(&mut self.left))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // They were checked where they are not mere promises.
        capabilities.checksum.tcp = phy::Checksum::Tx;
        capabilities.checksum.ipv4 = phy::Checksum::Tx;
        capabilities
    }
}

struct Arrived(Vec<u8>);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Leaves<'a>(&'a mut Vec<Vec<u8>>);

impl phy::TxToken for Leaves<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; ethernet::HEADER_LEN + len];
        let result = f(&mut bytes[ethernet::HEADER_LEN..]);
        self.0.push(bytes);
        result
    }
}
