//! ICMP messages (RFC 792) as the gateway makes and reads them.

use std::net::Ipv4Addr;

use super::{ipv4, put16};
use crate::wire::checksum;

/// Bytes of an ICMP header.
pub const HEADER_LEN: usize = 8;

/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of a redirect.
pub const REDIRECT: u8 = 5;

/// Most bytes of an ICMP error with its IP header (RFC 1812 4.3.2.3).
pub const ERROR_MAX: usize = 576;

/// Whether messages of this type are errors, that is, quote another packet: destination unreachable,
/// source quench, redirect, time exceeded, parameter problem.
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// What an ICMP error quotes: all that follows its header, but for the extensions that its length field sets
/// apart (RFC 4884 section 4; only these types have one). `message` is at least a header.
pub fn quoted(message: &[u8]) -> &[u8] {
    let (header, rest) = message.split_at(HEADER_LEN.min(message.len()));
    match header {
        [3 | 11 | 12, _, _, _, _, words, ..] if *words > 0 => {
            &rest[..rest.len().min(usize::from(*words) * 4)]
        }
        _ => rest,
    }
}

/// The errors that the switch sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// 11/0: the TTL ran out.
    TimeExceeded,
    /// 11/1: fragments did not arrive in time (RFC 1122 3.3.2).
    ReassemblyTimeout,
    /// 3/0: no route.
    NetworkUnreachable,
    /// 3/1: the next hop does not answer.
    HostUnreachable,
    /// 3/2: nothing here speaks this protocol.
    ProtocolUnreachable,
    /// 3/3: nobody listens there.
    PortUnreachable,
    /// 3/4: larger than the next link takes, and DF is set (RFC 1191 section 4).
    FragmentationNeeded {
        /// The next link's MTU.
        mtu: u16,
    },
    /// 3/13: refused by policy or for lack of resources (RFC 5508 REQ-8).
    Prohibited,
}

impl Error {
    /// Type, code and the second half of the header's last four bytes.
    const fn header(self) -> (u8, u8, u16) {
        match self {
            Error::TimeExceeded => (11, 0, 0),
            Error::ReassemblyTimeout => (11, 1, 0),
            Error::NetworkUnreachable => (3, 0, 0),
            Error::HostUnreachable => (3, 1, 0),
            Error::ProtocolUnreachable => (3, 2, 0),
            Error::PortUnreachable => (3, 3, 0),
            Error::FragmentationNeeded { mtu } => (3, 4, mtu),
            Error::Prohibited => (3, 13, 0),
        }
    }

    /// Writes an IP packet with this error from `src` to `dst` about the packet `quoted`, as much of it as
    /// fits, into `packet`. Returns its length.
    pub fn write(self, packet: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, quoted: &[u8]) -> usize {
        let room = packet.len().min(ERROR_MAX).saturating_sub(ipv4::HEADER_LEN + HEADER_LEN);
        let quoted = &quoted[..quoted.len().min(room)];
        let length = HEADER_LEN + quoted.len();
        ipv4::write(packet, src, dst, ipv4::ICMP, 64, length);
        let Some(message) = packet.get_mut(ipv4::HEADER_LEN..ipv4::HEADER_LEN + length) else { return 0 };
        let (kind, code, extra) = self.header();
        message[..HEADER_LEN].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
        put16(message, 6, extra);
        message[HEADER_LEN..].copy_from_slice(quoted);
        let sum = checksum::checksum(message);
        put16(message, 2, sum);
        ipv4::HEADER_LEN + length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Ipv4Packet, Ipv4Repr};

    #[test]
    fn extensions_are_not_quoted() {
        let mut message = [7; 40];
        for (kind, words, len) in
            [(3, 0, 32), (3, 7, 28), (11, 7, 28), (12, 7, 28), (4, 7, 32), (11, 200, 32)]
        {
            (message[0], message[5]) = (kind, words);
            assert_eq!(quoted(&message).len(), len, "type {kind}, {words} words");
        }
        assert!(quoted(&message[..5]).is_empty());
    }

    #[test]
    fn an_error_is_what_an_independent_stack_reads() {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut bytes = [0; 1500];
        let len = Error::FragmentationNeeded { mtu: 1280 }.write(&mut bytes, src, dst, &[0x45; 2000]);
        assert_eq!(len, ERROR_MAX);
        let ip = Ipv4Packet::new_checked(&bytes[..len]).unwrap();
        let repr = Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).unwrap();
        assert_eq!((repr.src_addr, repr.dst_addr), (src, dst));
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum());
        assert_eq!((icmp.msg_type(), icmp.msg_code()), (Icmpv4Message::DstUnreachable, 4));
        assert_eq!(&ip.payload()[4..8], &[0, 0, 5, 0]);
    }
}
