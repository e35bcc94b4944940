//! Which ports the host's own processes use.
//!
//! TCP's listening sockets are asked for by sock_diag(7), which looks at them alone. `/proc/net/tcp` would go
//! through the buckets of all connections as well, a quarter of a million on a machine of 16 GiB, whether there
//! are any or not: 10 ms at a time. It is read where the kernel has no sock_diag, and for UDP, whose table is small.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::RangeInclusive;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

use crate::addr::Protocol;

/// TCP state LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Those of `range` that a process in the calling thread's namespace uses: for TCP, listens on.
pub fn busy_ports(range: &RangeInclusive<u16>) -> BTreeSet<(Protocol, u16)> {
    let tcp = tcp_listeners().unwrap_or_else(|error| {
        log::debug!("sock_diag: {error}; /proc/net/tcp is read instead");
        listed(Protocol::Tcp, ["tcp", "tcp6"])
    });
    let mut busy = listed(Protocol::Udp, ["udp", "udp6"]);
    busy.extend(tcp);
    busy.retain(|(_, port)| range.contains(port));
    busy
}

/// The ports of TCP's listening sockets.
fn tcp_listeners() -> io::Result<BTreeSet<(Protocol, u16)>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut ports = BTreeSet::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        socket.send(&request(family, socket_id), 0)?;
        while take_answers(&socket.recv_from_full()?.0, &mut ports)? {}
    }
    Ok(ports)
}

fn request(family: u8, socket_id: SocketId) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let inet = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(inet).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Takes the ports out of a datagram of answers. Says whether more will come.
fn take_answers(mut datagram: &[u8], ports: &mut BTreeSet<(Protocol, u16)>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram).map_err(io::Error::other)?;
        #[allow(clippy::wildcard_enum_match_arm)] // NetlinkPayload is open
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => {
                ports.insert((Protocol::Tcp, answer.header.socket_id.source_port));
            }
            NetlinkPayload::Done(_) => return Ok(false),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
        // Messages are padded to four bytes.
        let len = (message.header.length as usize).next_multiple_of(4).max(4);
        datagram = datagram.get(len..).unwrap_or_default();
    }
    Ok(true)
}

fn listed(protocol: Protocol, tables: [&str; 2]) -> BTreeSet<(Protocol, u16)> {
    let read = |name| {
        let table = File::open(format!("/proc/thread-self/net/{name}")).into_iter();
        let lines = table.flat_map(|table| BufReader::new(table).lines().map_while(Result::ok).skip(1));
        // The kernel lists TCP's listening sockets first: the many that follow need not be read.
        lines.map_while(|line| used_port(protocol, &line)).collect::<Vec<_>>()
    };
    tables.into_iter().flat_map(read).collect()
}

/// The local port of a line of `/proc/net/{tcp,udp}`, if it is in use: for TCP, listened on.
fn used_port(protocol: Protocol, line: &str) -> Option<(Protocol, u16)> {
    let mut fields = line.split_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (protocol == Protocol::Udp || state == LISTEN).then_some((protocol, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn listening_sockets_are_read_from_proc() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
        let listens = "   0: 0100007F:EE48 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        let connected = "   1: 0100007F:EE49 0100007F:1F90 01 00000000:00000000 00:00000000 00000000";
        assert_eq!(used_port(Protocol::Tcp, head), None);
        assert_eq!(used_port(Protocol::Tcp, listens), Some((Protocol::Tcp, 61_000)));
        assert_eq!(used_port(Protocol::Tcp, connected), None);
        assert_eq!(used_port(Protocol::Udp, connected), Some((Protocol::Udp, 61_001)));
        assert_eq!(used_port(Protocol::Tcp, ""), None);
    }

    #[test]
    fn sock_diag_and_proc_find_what_listens_and_not_what_is_connected() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let listens = (Protocol::Tcp, listener.local_addr().unwrap().port());
        let is_connected = (Protocol::Tcp, client.local_addr().unwrap().port());
        let receives = (Protocol::Udp, datagrams.local_addr().unwrap().port());
        for found in [tcp_listeners().unwrap(), listed(Protocol::Tcp, ["tcp", "tcp6"])] {
            assert!(found.contains(&listens) && !found.contains(&is_connected), "{listens:?} in {found:?}");
        }
        let busy = busy_ports(&(1..=u16::MAX));
        assert!(busy.contains(&listens) && busy.contains(&receives), "{busy:?}");
        assert_eq!(busy_ports(&(listens.1..=listens.1)).len(), 1);
    }

    #[test]
    fn an_ipv6_listener_is_found() {
        // Where there is no IPv6, nobody can listen on it.
        let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
        let listens = (Protocol::Tcp, listener.local_addr().unwrap().port());
        assert!(tcp_listeners().unwrap().contains(&listens));
    }
}
