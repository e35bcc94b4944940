//! Reserving ports of the host for publications.
//!
//! A published port is bound on the host: nobody else can take it while it is published, and one that is taken is
//! refused. The sockets hear processes of the host only: a filter lets in what comes by `lo`, as such packets do whatever
//! address of the host they are for. The [relay](crate::service::relay) serves them. What comes by any other interface is
//! dropped by the filter, if the guard of the uplink has not done so before.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};

use crate::addr::Protocol;
use crate::host::{ErrorKind, HostError};
use crate::port::packet::attach_filter;

/// The number of `lo` in every namespace (Linux `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// A classic BPF program (bpf(4), Linux `filter.h`) that passes whole packets that came by `lo`, and no others. Binding to
/// the device would not do: the kernel counts a packet for an address of its own as the address's interface's.
#[allow(clippy::cast_sign_loss, reason = "offsets of the kernel's are negative, and are given as they are")]
#[allow(clippy::cast_possible_truncation, reason = "codes have eight bits")]
const LOCAL_ONLY: [libc::sock_filter; 4] = {
    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let interface = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, interface),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, LOOPBACK),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
};

/// A port of the host that is ours while this value lives.
#[derive(Debug)]
pub struct Reserved {
    socket: OwnedFd,
}

impl Reserved {
    /// Another handle to its socket: one that listens, or that datagrams come to.
    ///
    /// # Errors
    /// If the process has no more descriptors.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}

/// Reserves a TCP or UDP port on `ip`, or on every address.
///
/// The kernel refuses when any socket of the host is bound to the port on an address that overlaps: on a wildcard, or an
/// IPv6 one that takes IPv4 too; with TCP, when it listens or has not set SO_REUSEADDR. A TCP socket of ours has set it,
/// and listens from the start: its own connections in TIME_WAIT must not keep it from being reserved again.
///
/// # Errors
/// `Exists` if the port is taken, `NotFound` if the host does not have the address, `Permission` for ports
/// below 1024 without CAP_NET_BIND_SERVICE.
pub fn reserve(protocol: Protocol, ip: Option<Ipv4Addr>, port: u16) -> Result<Reserved, HostError> {
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
        Protocol::Icmp => {
            return Err(
                HostError::new(ErrorKind::Other, "icmp", "it has no ports").hint("publish tcp or udp")
            );
        }
    };
    let address = SocketAddrV4::new(ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port);
    let refuse = |errno| refuse(protocol, address, errno);
    let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None).map_err(refuse)?;
    attach_filter(&socket, LOCAL_ONLY).map_err(refuse)?;
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(refuse)?;
    }
    bind(socket.as_raw_fd(), &SockaddrIn::from(address)).map_err(refuse)?;
    if kind == SockType::Stream {
        listen(&socket, Backlog::MAXALLOWABLE).map_err(refuse)?;
    }
    Ok(Reserved { socket })
}

fn refuse(protocol: Protocol, address: SocketAddrV4, errno: Errno) -> HostError {
    let port = address.port();
    let mut error = HostError::os(format!("{protocol} {address}"), errno);
    if errno == Errno::EADDRINUSE {
        "a process of this host uses the port".clone_into(&mut error.why);
        return error.hint(format!("take another port, or find it with: ss -lnp sport = :{port}"));
    }
    if errno == Errno::EADDRNOTAVAIL {
        "not an address of this host".clone_into(&mut error.why);
        error.kind = ErrorKind::NotFound;
        return error.hint("take an address of the uplink, or none");
    }
    if errno == Errno::EACCES {
        return error.hint("ports below 1024 need root or CAP_NET_BIND_SERVICE");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, TcpListener, UdpSocket};

    fn free_port() -> u16 {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
    }

    fn refused(protocol: Protocol, ip: Option<Ipv4Addr>, port: u16) -> HostError {
        reserve(protocol, ip, port).map(drop).unwrap_err()
    }

    #[test]
    fn a_reserved_port_is_ours_until_dropped() {
        let port = free_port();
        let reserved = reserve(Protocol::Tcp, None, port).unwrap();
        assert_eq!(refused(Protocol::Tcp, None, port).kind, ErrorKind::Exists);
        assert_eq!(refused(Protocol::Tcp, Some(Ipv4Addr::LOCALHOST), port).kind, ErrorKind::Exists);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err());
        let _other_protocol = reserve(Protocol::Udp, None, port).unwrap();
        drop(reserved);
        drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
    }

    #[test]
    fn a_port_that_any_socket_listens_on_is_refused() {
        let on_one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let error = refused(Protocol::Tcp, None, on_one.local_addr().unwrap().port());
        assert!(error.kind == ErrorKind::Exists && error.to_string().contains("ss -lnp"), "{error}");
        let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = datagrams.local_addr().unwrap().port();
        assert_eq!(refused(Protocol::Udp, Some(Ipv4Addr::LOCALHOST), port).kind, ErrorKind::Exists);
        // Where there is no IPv6, nobody can listen on it.
        if let Ok(dual_stack) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
            let port = dual_stack.local_addr().unwrap().port();
            assert_eq!(refused(Protocol::Tcp, None, port).kind, ErrorKind::Exists);
            assert_eq!(refused(Protocol::Tcp, Some(Ipv4Addr::LOCALHOST), port).kind, ErrorKind::Exists);
        }
    }

    #[test]
    fn a_foreign_address_is_refused() {
        let error = refused(Protocol::Tcp, Some(Ipv4Addr::new(192, 0, 2, 77)), 8080);
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    }
}
