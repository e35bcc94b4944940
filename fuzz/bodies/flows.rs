//! Senders whose packets are regular, apart from one oddity at a time.

#![allow(clippy::cast_possible_truncation)] // lengths below 64 KiB, and numbers that wrap

use vswitchd::frame::{Checksum, Offload, Segment};
use vswitchd::wire::checksum::{self, checksum, fold};

/// What can be odd about a packet.
pub struct Odd;

#[allow(missing_docs)]
impl Odd {
    pub const PSH: u8 = 0;
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 3;
    pub const URG: u8 = 4;
    pub const CWR: u8 = 5;
    pub const ECE: u8 = 6;
    pub const NO_ACK: u8 = 7;
    pub const ACK_NUMBER: u8 = 8;
    pub const WINDOW: u8 = 9;
    pub const OPTIONS: u8 = 10;
    pub const GAP: u8 = 11;
    pub const ID: u8 = 12;
    /// From here on, the flow's packets may be fragmented; or no longer.
    pub const MAY_FRAGMENT: u8 = 13;
    pub const TTL: u8 = 14;
    pub const TOS: u8 = 15;
    /// Payload that was damaged on its way.
    pub const DAMAGED: u8 = 16;
    pub const DAMAGED_HEADER: u8 = 17;
    pub const NO_CHECKSUM: u8 = 18;
    pub const FRAGMENT: u8 = 19;
    /// IPv4 options, or an IPv6 extension header.
    pub const EXTENDED: u8 = 20;
    pub const PADDED: u8 = 21;
    pub const TAGGED: u8 = 22;
    pub const FLOOD: u8 = 23;
    pub const MAC: u8 = 24;
    /// Super-frames of so many packets.
    pub const THREE: u8 = 25;
    pub const TWO_AND_A_HALF: u8 = 26;
    pub const FORTY: u8 = 27;
    /// A partial checksum whose pseudo-header is another one's.
    pub const WRONG_PROMISE: u8 = 28;
    pub const UDP_LENGTH: u8 = 29;
    pub const RESERVED: u8 = 30;
    pub const URGENT_POINTER: u8 = 31;
}

/// A sender of packets: its number's bits say whether it is TCP, IPv6, from which port, and to which.
pub struct Flow {
    number: u8,
    seq: u32,
    id: u16,
    sent: u16,
    size: usize,
    may_fragment: bool,
}

/// Payload lengths.
const SIZES: [usize; 7] = [18, 1400, 1, 1448, 100, 2, 9000];

impl Flow {
    /// Flow number `number`, below 16.
    pub fn new(number: u8) -> Flow {
        // Numbers are about to wrap.
        Flow { number, seq: u32::MAX - 5000, id: u16::MAX - 10, sent: 0, size: SIZES[0], may_fragment: false }
    }

    /// Whether its number says so.
    fn is_tcp(&self) -> bool {
        self.number & 1 != 0
    }

    fn is_ipv6(&self) -> bool {
        self.number & 2 != 0
    }

    /// Whether its packets go to the second port.
    pub fn goes_elsewhere(&self) -> bool {
        self.number & 8 != 0
    }

    /// Its next packet. `length`: below 12 as before, 12 to 15 the next of the lengths, half, one more, nothing.
    /// `sum`: what is known of its checksum, nothing (0), that it is right (1), that it is partial.
    pub fn packet(&mut self, length: u8, odd: Option<u8>, sum: u8) -> (Vec<u8>, Offload) {
        let is = |what| odd == Some(what);
        self.may_fragment ^= is(Odd::MAY_FRAGMENT);
        self.seq = self.seq.wrapping_add(u32::from(is(Odd::GAP)) * 7);
        self.id = self.id.wrapping_add(u16::from(is(Odd::ID)) * 3);
        let (len, is_super) = self.payload_len(length, odd);
        let sum = match odd {
            Some(Odd::DAMAGED | Odd::NO_CHECKSUM) => 0,
            Some(Odd::WRONG_PROMISE) => 2,
            _ if is_super => 2,
            _ => sum,
        };

        let mut transport = if self.is_tcp() { self.tcp_header(odd) } else { self.udp_header(odd, len) };
        let header_len = transport.len();
        self.sent += 1;
        transport.extend(self.sent.to_be_bytes().into_iter().chain(std::iter::repeat(0)).take(len));
        let network_len = transport.len();
        let network = if self.is_ipv6() { self.ipv6(odd, network_len) } else { self.ipv4(odd, network_len) };
        self.put_checksum(&network, &mut transport, odd, sum >= 2);
        self.id = self.id.wrapping_add(len.div_ceil(self.size).max(1) as u16);
        self.seq = self.seq.wrapping_add(len as u32);

        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1 + u8::from(is(Odd::MAC)) * 8];
        if is(Odd::TAGGED) {
            bytes.extend([0x81, 0, 0, 7]);
        }
        bytes.extend(if self.is_ipv6() { [0x86, 0xdd] } else { [8, 0] });
        bytes.extend(network);
        let start = bytes.len() as u16;
        bytes.extend(transport);
        if is(Odd::PADDED) {
            bytes.extend([0; 3]);
        }
        let checksum = match sum {
            0 => Checksum::Complete,
            1 => Checksum::Valid,
            _ => Checksum::Partial { start, offset: if self.is_tcp() { 16 } else { 6 } },
        };
        if !is_super {
            return (bytes, Offload { checksum, ..Offload::NONE });
        }
        let size = self.size as u16;
        let segment = match (self.is_tcp(), self.is_ipv6()) {
            (true, false) => Segment::Tcp4 { size, ecn: false },
            (true, true) => Segment::Tcp6 { size, ecn: false },
            (false, _) => Segment::Udp { size },
        };
        (bytes, Offload { checksum, segment, header_len: start + header_len as u16 })
    }

    /// Payload bytes of the next frame, and whether it is a super-frame.
    fn payload_len(&mut self, length: u8, odd: Option<u8>) -> (usize, bool) {
        if length == 12 {
            let at = SIZES.iter().position(|&size| size == self.size).unwrap_or(0);
            self.size = SIZES[(at + 1) % SIZES.len()];
        }
        let (len, is_super) = match (odd, length) {
            (Some(Odd::THREE), _) => (self.size * 3, true),
            (Some(Odd::TWO_AND_A_HALF), _) => (self.size * 5 / 2, true),
            (Some(Odd::FORTY), _) => (self.size * 40, true),
            (_, 13) => (self.size / 2, false),
            (_, 14) => (self.size + 1, false),
            (_, 15) => (0, false),
            _ => (self.size, false),
        };
        (len.min(60_000), is_super)
    }

    fn put_checksum(&self, network: &[u8], transport: &mut [u8], odd: Option<u8>, partial: bool) {
        let addresses = if self.is_ipv6() { 8..40 } else { 12..20 };
        let protocol = if self.is_tcp() { 6 } else { 17 };
        let pseudo_header = checksum::sum(&network[addresses]) + protocol + transport.len() as u64;
        let value = match odd {
            Some(Odd::NO_CHECKSUM) => 0,
            Some(Odd::WRONG_PROMISE) => fold(pseudo_header + 1),
            _ if partial => fold(pseudo_header),
            _ => match !fold(pseudo_header + checksum::sum(transport)) {
                0 if !self.is_tcp() => 0xffff,
                value => value,
            },
        };
        put(transport, if self.is_tcp() { 16 } else { 6 }, value);
        if let Some(last) = transport.last_mut().filter(|_| odd == Some(Odd::DAMAGED)) {
            *last ^= 0x10;
        }
    }

    fn tcp_header(&self, odd: Option<u8>) -> Vec<u8> {
        let is = |what| u8::from(odd == Some(what));
        let mut header = vec![0; 20];
        put(&mut header, 0, 5000 + u16::from(self.number));
        put(&mut header, 2, 80);
        header[4..8].copy_from_slice(&self.seq.to_be_bytes());
        header[11] = is(Odd::ACK_NUMBER);
        header[12] = (5 << 4) | (is(Odd::RESERVED) * 2);
        let flags = [(Odd::FIN, 1), (Odd::SYN, 2), (Odd::RST, 4), (Odd::PSH, 8), (Odd::URG, 0x20)];
        let flags = flags.iter().chain(&[(Odd::ECE, 0x40), (Odd::CWR, 0x80)]);
        header[13] = flags.map(|&(what, flag)| is(what) * flag).sum::<u8>();
        header[13] |= 0x10 * (1 - is(Odd::NO_ACK));
        header[14] = 1 + is(Odd::WINDOW);
        header[19] = is(Odd::URGENT_POINTER);
        if odd == Some(Odd::OPTIONS) {
            header[12] += 3 << 4;
            header.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        header
    }

    fn udp_header(&self, odd: Option<u8>, len: usize) -> Vec<u8> {
        let mut header = vec![0; 8];
        put(&mut header, 0, 5000 + u16::from(self.number));
        put(&mut header, 2, 53);
        put(&mut header, 4, 8 + len as u16 - u16::from(odd == Some(Odd::UDP_LENGTH) && len > 0));
        header
    }

    fn ipv4(&self, odd: Option<u8>, len: usize) -> Vec<u8> {
        let is = |what| u8::from(odd == Some(what));
        let mut header = vec![0; 20 + 4 * usize::from(is(Odd::EXTENDED))];
        let total = header.len() + len;
        header[0] = 0x45 + is(Odd::EXTENDED);
        header[1] = is(Odd::TOS);
        put(&mut header, 2, total as u16);
        put(&mut header, 4, self.id);
        header[6] = u8::from(!self.may_fragment) * 0x40 + is(Odd::FRAGMENT) * 0x20;
        header[8] = 64 - is(Odd::TTL);
        header[9] = if self.is_tcp() { 6 } else { 17 };
        header[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum(&header);
        put(&mut header, 10, sum ^ u16::from(is(Odd::DAMAGED_HEADER)) << 8);
        header
    }

    fn ipv6(&self, odd: Option<u8>, len: usize) -> Vec<u8> {
        let is = |what| u8::from(odd == Some(what));
        let next = if self.is_tcp() { 6 } else { 17 };
        let mut header = vec![0; 40];
        header[0] = 0x60 | is(Odd::TOS);
        put(&mut header, 4, len as u16 + 8 * u16::from(is(Odd::EXTENDED) | is(Odd::FRAGMENT)));
        header[6] = next;
        header[7] = 64 - is(Odd::TTL);
        header[8..40].copy_from_slice(&[0xfd; 32]);
        header[39] = 1;
        if odd == Some(Odd::EXTENDED) || odd == Some(Odd::FRAGMENT) {
            header[6] = if odd == Some(Odd::FRAGMENT) { 44 } else { 60 };
            header.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        header
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
