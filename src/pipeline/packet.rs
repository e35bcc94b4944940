//! Parsed frames: what each step has proved, for the next one to rely on.

use std::net::Ipv4Addr;

use crate::addr::Endpoint;
use crate::drops::DropReason;
use crate::frame::{Checksum, Frame, Segment};
use crate::wire::checksum;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmpv4;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::transport::{Kind, Ports, Transport};

/// A frame with an Ethernet header and promises that fit it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) eth: Ethernet,
    /// Bytes behind the Ethernet header of each packet that the frame stands for: what an MTU limits.
    pub(crate) l3_len: usize,
}

impl Packet {
    /// Parses the Ethernet header and checks the promises, making `header_len` of a super-frame exact: what
    /// a kernel writes there is only a hint.
    #[inline(always)]
    pub(crate) fn parse(frame: &mut Frame) -> Result<Packet, DropReason> {
        let eth = Ethernet::parse(frame.bytes()).map_err(|_| DropReason::Runt)?;
        Self::check_promises(frame, &eth)?;
        Ok(Packet { eth, l3_len: l3_len(frame) })
    }

    /// Whether the promises can be about this frame.
    #[inline(always)]
    fn check_promises(frame: &mut Frame, eth: &Ethernet) -> Result<(), DropReason> {
        let len = frame.len();
        let Checksum::Partial { start, offset } = frame.offload.checksum else {
            // Nobody cuts a packet whose checksum is already there.
            let is_whole = matches!(frame.offload.segment, Segment::None | Segment::Fragments { .. });
            return if is_whole { Ok(()) } else { Err(DropReason::BadOffload) };
        };
        let start = usize::from(start);
        if start < eth.len || start + usize::from(offset) + 2 > len {
            return Err(DropReason::BadOffload);
        }
        if let Some(size) = frame.offload.segment.size() {
            let transport = match frame.offload.segment {
                Segment::Udp { .. } => 8,
                Segment::None | Segment::Fragments { .. } | Segment::Tcp4 { .. } | Segment::Tcp6 { .. } => {
                    usize::from(frame.bytes().get(start + 12).ok_or(DropReason::BadOffload)? >> 4) * 4
                }
            };
            let headers = start + transport;
            if size == 0 || transport < 8 || headers > len {
                return Err(DropReason::BadOffload);
            }
            frame.offload.header_len = u16::try_from(headers).map_err(|_| DropReason::BadOffload)?;
        }
        Ok(())
    }
}

/// Bytes behind the Ethernet header of each packet that a frame with honest promises stands for.
#[inline(always)]
pub(crate) fn l3_len(frame: &Frame) -> usize {
    let eth_len = Ethernet::parse(frame.bytes()).map_or(ethernet::HEADER_LEN, |eth| eth.len);
    let whole = frame.len().saturating_sub(eth_len);
    match frame.offload.segment {
        Segment::None => whole,
        Segment::Fragments { size } => whole.min(usize::from(size)),
        Segment::Tcp4 { size, .. } | Segment::Tcp6 { size, .. } | Segment::Udp { size } => {
            let headers = usize::from(frame.offload.header_len).saturating_sub(eth_len);
            whole.min(headers + usize::from(size))
        }
    }
}

/// A checked IPv4 packet in an untagged frame, with its transport header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) ip: Ipv4,
    pub(crate) transport: Transport,
    /// Bytes of each packet that the frame stands for.
    pub(crate) len: usize,
    /// Whether the transport checksum is still to be finished.
    pub(crate) partial: bool,
}

impl View {
    /// Parses the IPv4 packet behind the Ethernet header, without its transport.
    #[inline(always)]
    pub(crate) fn header(frame: &Frame) -> Result<Ipv4, DropReason> {
        let ip = Ipv4::parse(&frame.bytes()[ethernet::HEADER_LEN..]).map_err(|_| DropReason::BadIpv4)?;
        if ip.source_route { Err(DropReason::SourceRoute) } else { Ok(ip) }
    }

    /// Parses the transport behind `ip`, which is no fragment: that has none to rely on.
    #[inline(always)]
    pub(crate) fn parse(frame: &Frame, packet: &Packet, ip: Ipv4) -> Result<View, DropReason> {
        debug_assert!(!ip.is_fragment);
        let payload = &frame.bytes()[ethernet::HEADER_LEN..][ip.header_len..ip.total_len];
        let transport = Transport::parse(ip.protocol, payload).map_err(|_| DropReason::BadTransport)?;
        let padding = frame.len() - ethernet::HEADER_LEN - ip.total_len;
        let partial = matches!(frame.offload.checksum, Checksum::Partial { .. });
        if partial {
            check_partial(frame, &ip, &transport)?;
        }
        let len = if frame.offload.is_super() { packet.l3_len } else { packet.l3_len - padding };
        Ok(View { ip, transport, len, partial })
    }

    /// Source and destination, where the transport has ports.
    #[inline(always)]
    pub(crate) fn flow(&self) -> Option<Flow> {
        let ports = self.transport.ports()?;
        Some(Flow {
            kind: ports.kind,
            src: Endpoint::new(self.ip.src, ports.src),
            dst: Endpoint::new(self.ip.dst, ports.dst),
        })
    }
}

/// The promise must be about this very transport header, or translation would edit the wrong words.
fn check_partial(frame: &Frame, ip: &Ipv4, transport: &Transport) -> Result<(), DropReason> {
    let Checksum::Partial { start, offset } = frame.offload.checksum else { return Ok(()) };
    let expected = match transport {
        Transport::Tcp { .. } => 16,
        Transport::Udp { .. } => 6,
        Transport::Echo { .. } | Transport::IcmpError | Transport::IcmpOther | Transport::Other => {
            return Err(DropReason::BadOffload);
        }
    };
    let segment_fits = match frame.offload.segment {
        Segment::None => true,
        Segment::Tcp4 { .. } => expected == 16,
        Segment::Udp { .. } => expected == 6,
        Segment::Fragments { .. } => true,
        Segment::Tcp6 { .. } => false,
    };
    let at = ethernet::HEADER_LEN + ip.header_len;
    if usize::from(start) != at || offset != expected || !segment_fits {
        return Err(DropReason::BadOffload);
    }
    Ok(())
}

/// Who talks to whom. An ICMP query has its identifier on the asking side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) kind: Kind,
    pub(crate) src: Endpoint,
    pub(crate) dst: Endpoint,
}

/// The packet that an ICMP error quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted {
    /// Bytes from the frame's first byte to the quoted packet.
    pub(crate) start: usize,
    /// How much of it there is, without padding and extensions.
    pub(crate) len: usize,
    pub(crate) header_len: usize,
    pub(crate) flow: Flow,
}

impl Quoted {
    /// Reads the quoted packet of the ICMP error in `frame`, after checking both checksums that RFC 5508
    /// REQ-3 asks for: the message's and the quoted IP header's. The quoted transport's is not looked at.
    ///
    /// An error goes to the sender of what it quotes (RFC 1122 3.2.2); one that does not is about nothing that we
    /// know. So is one about a later fragment, which does not tell the ports.
    pub(crate) fn parse(frame: &Frame, view: &View) -> Result<Quoted, DropReason> {
        let start = ethernet::HEADER_LEN + view.ip.header_len;
        let message = &frame.bytes()[start..ethernet::HEADER_LEN + view.ip.total_len];
        if checksum::checksum(message) != 0 {
            return Err(DropReason::BadIcmp);
        }
        let quoted = icmpv4::quoted(message);
        let ip = Ipv4::parse_quoted(quoted).map_err(|_| DropReason::BadIcmp)?;
        let quoted = &quoted[..quoted.len().min(ip.total_len)];
        let ports = (ip.fragment_offset == 0 && ip.src == view.ip.dst)
            .then(|| Ports::parse_quoted(ip.protocol, &quoted[ip.header_len..]))
            .flatten()
            .ok_or(DropReason::IcmpErrorUnmatched)?;
        // No TCP header is as short as that: its rest was not quoted, and padding stands in its place.
        let is_padding =
            ports.kind == Kind::Tcp && quoted.get(ip.header_len + 12).is_some_and(|&n| n >> 4 < 5);
        let len = if is_padding { ip.header_len + 8 } else { quoted.len() };
        let flow = Flow {
            kind: ports.kind,
            src: Endpoint::new(ip.src, ports.src),
            dst: Endpoint::new(ip.dst, ports.dst),
        };
        Ok(Quoted { start: start + icmpv4::HEADER_LEN, len, header_len: ip.header_len, flow })
    }
}

/// Whether a router may never forward a packet from this address (RFC 1812 5.3.7, RFC 3927 7).
pub(crate) fn is_martian_source(ip: Ipv4Addr) -> bool {
    is_martian_destination(ip) || ip.is_multicast()
}

/// Whether a router may never forward a packet to this address: "this network", loopback, link-local,
/// multicast (which we do not route), reserved, limited broadcast (RFC 1812 5.3.5, RFC 3927 7).
pub(crate) fn is_martian_destination(ip: Ipv4Addr) -> bool {
    let first = ip.octets()[0];
    first == 0 || first >= 224 || ip.is_loopback() || ip.is_link_local()
}

/// Whether this is an ICMP message that may not cause an ICMP error (RFC 1812 4.3.2.7).
pub(crate) fn is_icmp_error(ip: &Ipv4, frame: &Frame) -> bool {
    let kind = frame.bytes().get(ethernet::HEADER_LEN + ip.header_len);
    ip.protocol == ipv4::ICMP && kind.is_none_or(|&kind| icmpv4::is_error(kind))
}

/// The EtherType of an untagged frame.
pub(crate) fn untagged_type(eth: &Ethernet) -> Option<u16> {
    (!eth.is_tagged()).then_some(eth.ethertype)
}
