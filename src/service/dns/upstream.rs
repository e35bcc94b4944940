//! Asking the host's resolvers: one question, until one of them has answered it or all have had their time.
//!
//! The query goes out as it came, but for its number, which is drawn at random for each server and each question, as is
//! the port that it is sent from (RFC 5452 9.2): the kernel binds a fresh socket to a random one. The socket is
//! connected, so the kernel lets in only what comes from the address and port that were asked, and tells when nobody
//! listens there; the number and the question are held against each datagram here. Anything else is as if it had not
//! come, and the wait goes on: whoever guesses wrong must not end it (RFC 5452 9.1).
//!
//! The servers are asked in their order, the next one when one fails or is late; the earlier ones may still answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

use super::message::{self, Question};
use crate::limits::DNS_MESSAGE_MAX;

/// After which time without an answer the next server is asked as well, and a datagram is sent again.
const LATE: Duration = Duration::from_millis(1_200);

/// Time that all servers have together: less than the five seconds after which stub resolvers ask again.
const GIVE_UP: Duration = Duration::from_millis(4_500);

/// How a query came, and goes on: TCP by TCP (RFC 5625 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream, behind its length (RFC 1035 4.2.2).
    Tcp,
}

/// Asks `servers` for the answer to `query`, which asks `question`. The answer's number is a random one. `None` if
/// there is none in time.
pub async fn ask(
    servers: &[SocketAddr],
    transport: Transport,
    query: &[u8],
    question: &Question,
) -> Option<Vec<u8>> {
    timeout(GIVE_UP, ask_in_turn(servers, transport, query, question)).await.ok().flatten()
}

async fn ask_in_turn(
    servers: &[SocketAddr],
    transport: Transport,
    query: &[u8],
    question: &Question,
) -> Option<Vec<u8>> {
    let mut servers = servers.iter().copied();
    let mut asked = FuturesUnordered::new();
    let mut refusal = None;
    let mut late = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(outcome) = asked.next() => {
                match outcome {
                    Ok::<Vec<u8>, io::Error>(reply) if is_refusal(&reply) => refusal = Some(reply),
                    Ok(reply) => return Some(reply),
                    Err(error) => log::debug!("DNS: {error}"),
                }
                late = Instant::now();
                if servers.len() == 0 && asked.is_empty() {
                    return refusal;
                }
            }
            () = sleep_until(late), if servers.len() > 0 => {
                late += LATE;
                asked.extend(servers.next().map(|server| ask_one(server, transport, query, question)));
            }
            else => return refusal,
        }
    }
}

/// Whether another server may know better, as the host's own stub resolver thinks (glibc `res_send.c`).
fn is_refusal(reply: &[u8]) -> bool {
    matches!(
        message::response_code(reply),
        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
    )
}

async fn ask_one(
    server: SocketAddr,
    transport: Transport,
    query: &[u8],
    question: &Question,
) -> io::Result<Vec<u8>> {
    let mut query = query.to_vec();
    let id = rand::random();
    message::set_id(&mut query, id);
    let is_answer = |reply: &[u8]| message::answers(reply, id, question);
    let outcome = match transport {
        Transport::Udp => ask_udp(server, &query, is_answer).await,
        Transport::Tcp => ask_tcp(server, &query, is_answer).await,
    };
    outcome.map_err(|error| io::Error::new(error.kind(), format!("resolver {server}: {error}")))
}

async fn ask_udp(server: SocketAddr, query: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    loop {
        socket.send(query).await?;
        if let Ok(reply) = timeout(LATE, receive(&socket, &is_answer)).await {
            return reply;
        }
    }
}

async fn receive(socket: &UdpSocket, is_answer: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    loop {
        socket.readable().await?;
        let mut reply = Vec::with_capacity(DNS_MESSAGE_MAX);
        match socket.try_recv_buf(&mut reply) {
            Ok(_) if is_answer(&reply) => return Ok(reply),
            Ok(_) => log::debug!("DNS: dropped what answers no question of ours"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write(&mut stream, query).await?;
    loop {
        let reply = read(&mut stream).await?;
        if is_answer(&reply) {
            return Ok(reply);
        }
    }
}

/// Writes a message to a stream, in one piece with its length (RFC 7766 8).
///
/// # Errors
/// As writing.
pub async fn write(stream: &mut (impl AsyncWriteExt + Unpin), message: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long for TCP");
    let len = u16::try_from(message.len()).map_err(too_long)?;
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend(len.to_be_bytes());
    bytes.extend(message);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads a message from a stream.
///
/// # Errors
/// As reading; `UnexpectedEof` if it ends before or within the message.
pub async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
