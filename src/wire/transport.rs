//! What the switch reads of TCP (RFC 9293 3.1), UDP (RFC 768) and ICMP (RFC 792) headers.

use super::{Malformed, be16, be32};
use crate::addr::Protocol;
use crate::wire::checksum::{fold, pseudo_header, sum};
use crate::wire::icmpv4;
use crate::wire::ipv4::{self, Ipv4};

/// The port of a DNS server (RFC 1035 4.2).
pub const DNS: u16 = 53;
/// The port of a DHCP server or relay (RFC 2131 4.1).
pub const DHCP_SERVER: u16 = 67;
/// The port of a DHCP client.
pub const DHCP_CLIENT: u16 = 68;

/// TCP flag FIN.
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag PSH.
pub const PSH: u8 = 0x08;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;
/// TCP flag ECE (RFC 3168 6.1).
pub const ECE: u8 = 0x40;

/// What connection tracking needs of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgment number; meaningless without [`ACK`].
    pub ack: u32,
    /// The flags in the header's 14th byte.
    pub flags: u8,
    /// Sequence space that the segment takes: payload, SYN and FIN.
    pub len: u32,
}

impl TcpSegment {
    /// Whether a flag is set.
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The kinds of transport headers that translation tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An ICMP echo request, whose identifier is the sender's.
    EchoRequest,
    /// An ICMP echo reply, whose identifier is the receiver's.
    EchoReply,
}

impl Kind {
    /// The protocol that connection tracking knows it by.
    pub const fn protocol(self) -> Protocol {
        match self {
            Kind::Tcp => Protocol::Tcp,
            Kind::Udp => Protocol::Udp,
            Kind::EchoRequest | Kind::EchoReply => Protocol::Icmp,
        }
    }
}

/// Kind, source and destination port of a transport. An ICMP query has its identifier on the side that
/// asked and zero on the other, whichever way the packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// What the header is.
    pub kind: Kind,
    /// The source's port.
    pub src: u16,
    /// The destination's port.
    pub dst: u16,
}

impl Ports {
    /// Reads the first eight bytes of a transport header, which is all that an ICMP error is sure to quote
    /// (RFC 792).
    pub fn parse_quoted(protocol: u8, payload: &[u8]) -> Option<Ports> {
        if payload.len() < 8 {
            return None;
        }
        let (src, dst) = (be16(payload, 0), be16(payload, 2));
        match (protocol, payload[0]) {
            (ipv4::TCP, _) => Some(Ports { kind: Kind::Tcp, src, dst }),
            (ipv4::UDP, _) => Some(Ports { kind: Kind::Udp, src, dst }),
            (ipv4::ICMP, icmpv4::ECHO_REQUEST) => {
                Some(Ports { kind: Kind::EchoRequest, src: be16(payload, 4), dst: 0 })
            }
            (ipv4::ICMP, icmpv4::ECHO_REPLY) => {
                Some(Ports { kind: Kind::EchoReply, src: 0, dst: be16(payload, 4) })
            }
            _ => None,
        }
    }
}

/// A transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
        /// The rest.
        segment: TcpSegment,
        /// Bytes of the header.
        header_len: usize,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// An ICMP echo request or reply.
    Echo {
        /// Whether it is a request.
        request: bool,
        /// The identifier.
        id: u16,
    },
    /// An ICMP error that may cross a router; it quotes the packet that it is about.
    IcmpError,
    /// Any other ICMP message: other queries, redirects.
    IcmpOther,
    /// Another protocol.
    Other,
}

impl Transport {
    /// Reads the header at the start of `payload`, which is all of an IP packet's payload.
    ///
    /// # Errors
    /// If the header is cut off, or its lengths contradict the payload's.
    #[inline(always)]
    pub fn parse(protocol: u8, payload: &[u8]) -> Result<Self, Malformed> {
        match protocol {
            ipv4::TCP => Self::parse_tcp(payload),
            ipv4::UDP => {
                let length = usize::from(be16(payload, 4));
                if payload.len() < 8 || length < 8 || length > payload.len() {
                    return Err(Malformed);
                }
                Ok(Transport::Udp { src: be16(payload, 0), dst: be16(payload, 2) })
            }
            ipv4::ICMP => {
                if payload.len() < icmpv4::HEADER_LEN {
                    return Err(Malformed);
                }
                Ok(match payload[0] {
                    icmpv4::ECHO_REPLY => Transport::Echo { request: false, id: be16(payload, 4) },
                    icmpv4::ECHO_REQUEST => Transport::Echo { request: true, id: be16(payload, 4) },
                    // Good on the link that it was sent on, and on no other.
                    icmpv4::REDIRECT => Transport::IcmpOther,
                    kind if icmpv4::is_error(kind) => Transport::IcmpError,
                    _ => Transport::IcmpOther,
                })
            }
            _ => Ok(Transport::Other),
        }
    }

    fn parse_tcp(payload: &[u8]) -> Result<Self, Malformed> {
        let header_len = usize::from(payload.get(12).ok_or(Malformed)? >> 4) * 4;
        if header_len < 20 || header_len > payload.len() {
            return Err(Malformed);
        }
        let flags = payload[13];
        let data = u32::try_from(payload.len() - header_len).map_err(|_| Malformed)?;
        let len = data + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let segment = TcpSegment { seq: be32(payload, 4), ack: be32(payload, 8), flags, len };
        Ok(Transport::Tcp { src: be16(payload, 0), dst: be16(payload, 2), segment, header_len })
    }

    /// Its ports, where it can be tracked.
    pub const fn ports(&self) -> Option<Ports> {
        match *self {
            Transport::Tcp { src, dst, .. } => Some(Ports { kind: Kind::Tcp, src, dst }),
            Transport::Udp { src, dst } => Some(Ports { kind: Kind::Udp, src, dst }),
            Transport::Echo { request: true, id } => Some(Ports { kind: Kind::EchoRequest, src: id, dst: 0 }),
            Transport::Echo { request: false, id } => Some(Ports { kind: Kind::EchoReply, src: 0, dst: id }),
            Transport::IcmpError | Transport::IcmpOther | Transport::Other => None,
        }
    }

    /// The TCP header, where it is TCP.
    pub const fn segment(&self) -> Option<TcpSegment> {
        if let Transport::Tcp { segment, .. } = *self { Some(segment) } else { None }
    }

    /// Whether it is an ICMP echo request.
    pub const fn is_echo_request(&self) -> bool {
        matches!(self, Transport::Echo { request: true, .. })
    }

    /// Bytes of a TCP or UDP header; zero for all others.
    pub const fn header_len(&self) -> usize {
        match *self {
            Transport::Tcp { header_len, .. } => header_len,
            Transport::Udp { .. } => 8,
            Transport::Echo { .. } | Transport::IcmpError | Transport::IcmpOther | Transport::Other => 0,
        }
    }
}

/// Whether the checksum of the TCP segment or UDP datagram in `payload`, all of the payload of a packet with the header
/// `ip`, is right. It is where a datagram says that none was computed (RFC 768).
pub fn is_intact(ip: &Ipv4, payload: &[u8]) -> bool {
    let covered = match ip.protocol {
        ipv4::UDP if be16(payload, 6) == 0 => return true,
        // A packet may be longer than its datagram.
        ipv4::UDP => payload.get(..usize::from(be16(payload, 4))),
        _ => Some(payload),
    };
    covered.is_some_and(|bytes| {
        fold(pseudo_header(ip.src, ip.dst, ip.protocol, bytes.len()) + sum(bytes)) == 0xffff
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_covers_the_datagram_and_not_what_is_behind_it() {
        let mut header = [0; ipv4::HEADER_LEN];
        ipv4::write(&mut header, [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), ipv4::UDP, 64, 13);
        let ip = Ipv4::parse_quoted(&header).unwrap();
        let mut payload = [0, 53, 0, 53, 0, 10, 0, 0, 1, 2, 0xaa, 0xaa, 0xaa];
        let sum = !fold(pseudo_header(ip.src, ip.dst, ipv4::UDP, 10) + sum(&payload[..10]));
        payload[6..8].copy_from_slice(&sum.to_be_bytes());
        assert!(is_intact(&ip, &payload));
        payload[9] ^= 1;
        assert!(!is_intact(&ip, &payload));
        payload[5] = 14;
        assert!(!is_intact(&ip, &payload), "longer than the packet");
        payload[6..8].fill(0);
        assert!(is_intact(&ip, &payload), "nobody has computed it");
    }

    #[test]
    fn a_tcp_segment_counts_syn_and_fin() {
        let mut bytes = [0; 25];
        bytes[..4].copy_from_slice(&[0x1f, 0x90, 0, 80]);
        bytes[12] = 5 << 4;
        bytes[13] = SYN | FIN;
        let Ok(Transport::Tcp { src, dst, segment, header_len }) = Transport::parse(ipv4::TCP, &bytes) else {
            panic!("not TCP")
        };
        assert_eq!((src, dst, segment.len, header_len), (8080, 80, 7, 20));
        bytes[12] = 7 << 4;
        assert_eq!(Transport::parse(ipv4::TCP, &bytes), Err(Malformed));
        assert_eq!(Transport::parse(ipv4::TCP, &bytes[..12]), Err(Malformed));
    }

    #[test]
    fn a_udp_length_must_fit() {
        let mut bytes = [0, 1, 0, 2, 0, 8, 0, 0, 0xaa];
        assert_eq!(Transport::parse(ipv4::UDP, &bytes), Ok(Transport::Udp { src: 1, dst: 2 }));
        for wrong in [7, 10] {
            bytes[5] = wrong;
            assert_eq!(Transport::parse(ipv4::UDP, &bytes), Err(Malformed));
        }
    }
}
