//! Traffic between namespaces: ping, TCP, UDP, HTTP, by the kernel's own stacks.
//!
//! A socket belongs to the namespace in which it was made, whatever thread uses it. So each function makes
//! the sockets of both sides in their namespaces, and then plays both sides itself. Nothing waits longer
//! than it is told to.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::host::netns::Netns;
use crate::wire::checksum::checksum;
use crate::worker::now;

/// How long a step of an exchange may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long silence is listened to before it counts as silence.
pub const SILENCE: Duration = Duration::from_millis(400);

/// What a server says when it has everything.
const RECEIPT: &[u8] = b"got it\n";

/// Who talks to whom.
#[derive(Debug, Clone, Copy)]
pub struct Talk<'a> {
    /// Where the client runs.
    pub client: &'a Netns,
    /// The address and port that it turns to.
    pub to: SocketAddrV4,
    /// Where the server runs.
    pub server: &'a Netns,
    /// The address and port that it listens on.
    pub at: SocketAddrV4,
}

/// What became of a TCP transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The client as the server saw it.
    pub seen: SocketAddr,
    /// From the first byte to the server's receipt for the last one.
    pub took: Duration,
}

/// Sends `netns`'s ping to `to`; the time until the answer, or `None` if there is none in `patience`.
///
/// # Errors
/// If the socket cannot be made or `to` cannot be reached.
pub fn ping(netns: &Netns, to: Ipv4Addr, patience: Duration) -> io::Result<Option<Duration>> {
    static SEQUENCE: AtomicU16 = AtomicU16::new(1);
    let socket = inside(netns, || {
        Ok(socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?)
    })?;
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let identifier = std::process::id().to_be_bytes();
    let tag = [identifier[2], identifier[3], sequence[0], sequence[1]];
    // Echo request, RFC 792: type 8, code 0, checksum, identifier, sequence number, data.
    let mut echo = [0; 64];
    echo[0] = 8;
    echo[4..8].copy_from_slice(&tag);
    let sum = checksum(&echo).to_be_bytes();
    echo[2..4].copy_from_slice(&sum);

    let begun = now();
    sendto(socket.as_raw_fd(), &echo, &SockaddrIn::from(SocketAddrV4::new(to, 0)), MsgFlags::empty())?;
    while let Some(left) = patience.checked_sub(now().since(begun)).filter(|left| !left.is_zero()) {
        setsockopt(&socket, sockopt::ReceiveTimeout, &time_value(left))?;
        let mut packet = [0; 256];
        let Ok(length) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) else { continue };
        let header = usize::from(packet[0] & 0x0f) * 4;
        let from = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        let answer = packet[..length].get(header..).unwrap_or_default();
        // Echo reply: type 0.
        if from == to && answer.first() == Some(&0) && answer.get(4..8) == Some(tag.as_slice()) {
            return Ok(Some(now().since(begun)));
        }
    }
    Ok(None)
}

/// A TCP connection, and both of its ends.
#[derive(Debug)]
pub struct Connection {
    /// The client's end.
    pub client: TcpStream,
    /// The server's end.
    pub server: TcpStream,
    /// The client as the server sees it.
    pub seen: SocketAddr,
}

/// Connects client and server. No end waits longer than [`PATIENCE`] for the other.
///
/// # Errors
/// If the connection does not come about.
pub fn connect(talk: Talk<'_>) -> io::Result<Connection> {
    let listener = inside(talk.server, || TcpListener::bind(talk.at))?;
    // Linux applies the receive timeout to accept(2) as well, socket(7).
    setsockopt(&listener, sockopt::ReceiveTimeout, &time_value(PATIENCE))?;
    // The kernel shakes hands on the server's behalf, so one thread can play both sides.
    let client = inside(talk.client, || TcpStream::connect_timeout(&SocketAddr::V4(talk.to), PATIENCE))?;
    let (server, seen) = waited("the connection at the server", listener.accept())?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok(Connection { client, server, seen })
}

/// Sends `bytes` bytes over TCP; the server compares each one with what it must be.
///
/// # Errors
/// If they do not connect, do not get on, or a byte arrives wrong.
pub fn tcp_transfer(talk: Talk<'_>, bytes: u64) -> io::Result<Transfer> {
    let Connection { mut client, mut server, seen } = connect(talk)?;
    let begun = now();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            compare(Pattern::new(bytes), &mut server)?;
            server.write_all(RECEIPT)
        });
        let sent = send(Pattern::new(bytes), &mut client);
        let receipt = sent.and_then(|()| client.read_exact(&mut [0; RECEIPT.len()]));
        // The server's reason is the better one: the client only sees that the connection ends.
        server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        receipt
    })?;
    Ok(Transfer { seen, took: now().since(begun) })
}

/// Sends a datagram of 1000 bytes and has it sent back; the client as the server saw it.
///
/// # Errors
/// If either does not arrive as it was sent.
pub fn udp_echo(talk: Talk<'_>) -> io::Result<SocketAddr> {
    let server = inside(talk.server, || UdpSocket::bind(talk.at))?;
    let client = inside(talk.client, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    client.connect(talk.to)?;
    server.set_read_timeout(Some(PATIENCE))?;
    client.set_read_timeout(Some(PATIENCE))?;

    let mut pattern = Pattern::new(1000);
    let sent = pattern.next_block().unwrap_or_default();
    let mut datagram = [0; 2048];
    client.send(sent)?;
    let (length, seen) = waited("the datagram at the server", server.recv_from(&mut datagram))?;
    server.send_to(&datagram[..length], seen)?;
    let length = waited("the echo at the client", client.recv(&mut datagram))?;
    if &datagram[..length] != sent {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the echo is not what was sent"));
    }
    Ok(seen)
}

/// Asks for a page by HTTP. The page greets the client by the address that the server sees.
///
/// # Errors
/// If they do not connect, or the answer is no page.
pub fn http_page(talk: Talk<'_>) -> io::Result<String> {
    let Connection { mut client, mut server, seen } = connect(talk)?;
    write!(client, "GET / HTTP/1.1\r\nHost: {}\r\n\r\n", talk.to)?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        server.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let page = format!("hello {}, I am {}", seen.ip(), talk.server);
    write!(server, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}", page.len())?;
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1.1 200 ") => Ok(page.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("no page: {answer:?}"))),
    }
}

/// Whether a TCP connection to `to` comes about within [`SILENCE`]; an active refusal is an answer as well.
///
/// # Errors
/// If the namespace cannot be entered.
pub fn tcp_answers(netns: &Netns, to: SocketAddrV4) -> io::Result<bool> {
    let tried = inside(netns, || Ok(TcpStream::connect_timeout(&SocketAddr::V4(to), SILENCE)))?;
    Ok(match tried {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    })
}

/// Runs `f` in the namespace.
pub(super) fn inside<T: Send>(netns: &Netns, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    netns.run(f).map_err(io::Error::other)?
}

/// Says what did not come in time.
fn waited<T>(for_what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.kind() == io::ErrorKind::WouldBlock {
        true => io::Error::new(io::ErrorKind::TimedOut, format!("{for_what} did not arrive")),
        false => error,
    })
}

fn time_value(time: Duration) -> TimeVal {
    // Zero would mean for ever.
    TimeVal::new(time.as_secs().cast_signed(), i64::from(time.subsec_micros()).max(1))
}

/// Sends all of the pattern, and that it ends.
fn send(mut pattern: Pattern, stream: &mut TcpStream) -> io::Result<()> {
    while let Some(block) = pattern.next_block() {
        stream.write_all(block)?;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads until the end, which must be the pattern's.
fn compare(mut pattern: Pattern, stream: &mut TcpStream) -> io::Result<()> {
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let mut block = vec![0; Pattern::BLOCK];
    while let Some(expected) = pattern.next_block() {
        let block = &mut block[..expected.len()];
        stream.read_exact(block)?;
        if block != expected {
            return wrong("the bytes arrived changed");
        }
    }
    if stream.read(&mut [0])? == 0 { Ok(()) } else { wrong("more bytes arrived than were sent") }
}

/// Bytes that never repeat within a transfer, so that a block lost, doubled or displaced is noticed:
/// Marsaglia's xorshift64.
#[derive(Debug)]
pub struct Pattern {
    state: u64,
    left: u64,
    block: Vec<u8>,
}

impl Pattern {
    const BLOCK: usize = 1 << 16;

    /// The pattern, `bytes` bytes long.
    pub fn new(bytes: u64) -> Pattern {
        Pattern { state: 0x9e37_79b9_7f4a_7c15, left: bytes, block: vec![0; Self::BLOCK] }
    }

    /// The next up to 64 KiB of it; `None` at the end.
    pub fn next_block(&mut self) -> Option<&[u8]> {
        if self.left == 0 {
            return None;
        }
        for word in self.block.chunks_exact_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes());
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(Self::BLOCK);
        self.left -= length as u64;
        Some(&self.block[..length])
    }
}
