//! What a packet says, as far as the rules ask.

use std::net::Ipv4Addr;

use vswitchd::addr::{Endpoint, Protocol};
use vswitchd::wire::icmpv4;
use vswitchd::wire::ipv4::{self, Ipv4};
use vswitchd::wire::transport::{ACK, FIN, Kind, Ports, RST, SYN};

/// A connection, whoever speaks.
pub type Ends = (Protocol, Endpoint, Endpoint);

/// An IPv4 packet.
#[derive(Debug, Clone)]
pub struct Said {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    /// The transport that rules know.
    pub protocol: Option<Protocol>,
    /// Its endpoints, if it has ports and shows them.
    pub flow: Option<(Endpoint, Endpoint)>,
    /// Whether it opens a TCP connection.
    pub opens: bool,
    /// Whether it is a fragment that does not show its ports.
    pub is_later: bool,
    pub is_echo_reply: bool,
    /// Whether it is an ICMP error, and the packet that it is about.
    pub is_error: bool,
    pub quoted: Option<Ends>,
}

impl Said {
    /// Reads an IPv4 packet. `None` if it is none.
    pub fn read(packet: &[u8]) -> Option<Said> {
        let ip = Ipv4::parse(packet).ok()?;
        let payload = &packet[ip.header_len..ip.total_len];
        let is_later = ip.fragment_offset > 0;
        let ports = Ports::parse_quoted(ip.protocol, payload).filter(|_| !is_later);
        let protocol = match ip.protocol {
            ipv4::TCP => Some(Protocol::Tcp),
            ipv4::UDP => Some(Protocol::Udp),
            ipv4::ICMP => Some(Protocol::Icmp),
            _ => None,
        };
        let is_icmp = protocol == Some(Protocol::Icmp) && !is_later;
        let is_error = is_icmp && payload.first().is_some_and(|&kind| icmpv4::is_error(kind));
        let flags = payload.get(13).copied().unwrap_or_default();
        Some(Said {
            src: ip.src,
            dst: ip.dst,
            protocol,
            flow: ports.map(|ports| (Endpoint::new(ip.src, ports.src), Endpoint::new(ip.dst, ports.dst))),
            opens: protocol == Some(Protocol::Tcp) && !is_later && flags & (SYN | ACK | RST | FIN) == SYN,
            is_later,
            is_echo_reply: ports.is_some_and(|ports| ports.kind == Kind::EchoReply),
            is_error,
            quoted: if is_error { quoted(payload) } else { None },
        })
    }

    /// Its connection, as both sides write it, with its ends as they really are.
    pub fn ends(&self, src: Endpoint, dst: Endpoint) -> Option<Ends> {
        Some(sorted(self.protocol?, src, dst))
    }

    /// The port that is called, if it opens something.
    pub fn called(&self) -> u16 {
        let has_ports = matches!(self.protocol, Some(Protocol::Tcp | Protocol::Udp));
        self.flow.filter(|_| has_ports).map_or(0, |(_, dst)| dst.port)
    }
}

fn quoted(message: &[u8]) -> Option<Ends> {
    let packet = icmpv4::quoted(message);
    let ip = Ipv4::parse_quoted(packet).ok()?;
    let ports = Ports::parse_quoted(ip.protocol, &packet[ip.header_len..packet.len().min(ip.total_len)])?;
    let (src, dst) = (Endpoint::new(ip.src, ports.src), Endpoint::new(ip.dst, ports.dst));
    Some(sorted(ports.kind.protocol(), src, dst))
}

/// A connection, the same whoever speaks.
pub fn sorted(protocol: Protocol, one: Endpoint, other: Endpoint) -> Ends {
    let key = |end: &Endpoint| (end.ip, end.port);
    if key(&one) <= key(&other) { (protocol, one, other) } else { (protocol, other, one) }
}
