//! DHCP messages (RFC 2131, 2132): a fixed header, and options.
//!
//! A message is read once, into a form that cannot be wrong any more: whatever a client sends, nothing here panics or
//! grows beyond what was sent. Options that were cut into parts are joined (RFC 3396), and those that were put into
//! the `file` and `sname` fields are found (option overload). A reply is made of the very header of its request: what
//! must be echoed (`xid`, `flags`, `giaddr`, `chaddr`) is not touched.

use std::net::Ipv4Addr;

pub use smoltcp::wire::DhcpMessageType as Kind;
use smoltcp::wire::{DhcpOpCode, DhcpPacket};

use crate::addr::MacAddr;
use crate::wire::{be16, put16};

/// Codes of options (RFC 2132, and where another RFC is named).
#[allow(missing_docs, reason = "they are named as the RFC does")]
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DOMAIN_NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const NTP_SERVERS: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_IDENTIFIER: u8 = 61;
    /// RFC 3046.
    pub const RELAY_AGENT_INFORMATION: u8 = 82;
    /// RFC 3397.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// RFC 3442.
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// Bytes of the header with the magic cookie; the options follow.
pub const HEADER_LEN: usize = 240;

/// Where the header has the fields that the view of the library does not show as they are.
const FLAGS: usize = 10;
const CHADDR: std::ops::Range<usize> = 28..44;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// The magic cookie (RFC 2131 3).
const MAGIC: u32 = 0x6382_5363;

/// The broadcast bit of the flags (RFC 2131 2).
pub const BROADCAST: u16 = 0x8000;

/// The hardware type of Ethernet (RFC 1700).
const ETHERNET: u8 = 1;

/// What every client takes: an IP packet of 576 bytes, less the headers of IP and UDP (RFC 2131 2).
pub const SIZE_MIN: usize = 576 - 28;

/// Shorter ones are padded to what BOOTP had (RFC 951, RFC 1542 2.1): relays have dropped them.
const BOOTP_LEN: usize = 300;

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    header: [u8; HEADER_LEN],
    /// In the order in which they came.
    options: Vec<(u8, Vec<u8>)>,
}

impl Message {
    /// Reads a client's message; `None` if it is none.
    pub fn from_client(payload: &[u8]) -> Option<Message> {
        Message::parse(payload, DhcpOpCode::Request)
    }

    /// Reads a server's message; `None` if it is none.
    pub fn from_server(payload: &[u8]) -> Option<Message> {
        Message::parse(payload, DhcpOpCode::Reply)
    }

    fn parse(payload: &[u8], opcode: DhcpOpCode) -> Option<Message> {
        let (header, rest) = payload.split_first_chunk::<HEADER_LEN>()?;
        let packet = DhcpPacket::new_unchecked(&header[..]);
        let has_room = usize::from(packet.hardware_len()) <= CHADDR.len();
        if packet.opcode() != opcode || packet.magic_number() != MAGIC || !has_room {
            return None;
        }
        let mut message = Message { header: *header, options: Vec::new() };
        message.read_options(rest);
        let overload = message.option(code::OVERLOAD).and_then(<[u8]>::first).copied().unwrap_or(0);
        if overload & 1 != 0 {
            message.read_options(&header[FILE]);
        }
        if overload & 2 != 0 {
            message.read_options(&header[SNAME]);
        }
        message.option(code::MESSAGE_TYPE)?;
        Some(message)
    }

    fn read_options(&mut self, mut field: &[u8]) {
        while let Some((&kind, rest)) = field.split_first() {
            if kind == code::PAD {
                field = rest;
                continue;
            }
            let Some((&len, rest)) = rest.split_first().filter(|_| kind != code::END) else { return };
            let Some((data, rest)) = rest.split_at_checked(usize::from(len)) else { return };
            match self.options.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, start)) => start.extend_from_slice(data),
                None => self.options.push((kind, data.to_vec())),
            }
            field = rest;
        }
    }

    fn packet(&self) -> DhcpPacket<&[u8]> {
        DhcpPacket::new_unchecked(&self.header)
    }

    /// What it says.
    pub fn kind(&self) -> Kind {
        self.option(code::MESSAGE_TYPE).and_then(<[u8]>::first).map_or(Kind::Unknown(0), |&kind| kind.into())
    }

    /// The number of the exchange.
    pub fn xid(&self) -> u32 {
        self.packet().transaction_id()
    }

    /// Whether the client cannot take a unicast packet yet.
    pub fn wants_broadcast(&self) -> bool {
        be16(&self.header, FLAGS) & BROADCAST != 0
    }

    /// The address that the client has.
    pub fn ciaddr(&self) -> Ipv4Addr {
        self.packet().client_ip()
    }

    /// The address that the server gives.
    pub fn yiaddr(&self) -> Ipv4Addr {
        self.packet().your_ip()
    }

    /// The relay's address.
    pub fn giaddr(&self) -> Ipv4Addr {
        self.packet().relay_agent_ip()
    }

    /// The client's MAC address, if its hardware is Ethernet.
    pub fn mac(&self) -> Option<MacAddr> {
        let ethernet = (self.header[1], self.header[2]) == (ETHERNET, 6);
        ethernet.then(|| MacAddr(self.packet().client_hardware_address().0))
    }

    /// What the client is known by: its identifier if it sends one, and otherwise its hardware's type and address
    /// (RFC 2131 4.2).
    pub fn client(&self) -> Vec<u8> {
        let identifier = self.option(code::CLIENT_IDENTIFIER).filter(|id| !id.is_empty());
        identifier.map_or_else(
            || {
                let hardware = &self.header[CHADDR][..usize::from(self.header[2])];
                [&self.header[1..2], hardware].concat()
            },
            <[u8]>::to_vec,
        )
    }

    /// The contents of an option.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(known, _)| *known == code).map(|(_, data)| &data[..])
    }

    /// An option that is an address, or begins with one.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.option(code)?.first_chunk().map(|&octets: &[u8; 4]| octets.into())
    }

    /// An option that is a time in seconds.
    pub fn seconds(&self, code: u8) -> Option<u32> {
        self.option(code)?.first_chunk().map(|&octets| u32::from_be_bytes(octets))
    }

    /// The largest message that the client takes, in bytes without the headers of IP and UDP.
    pub fn size_max(&self) -> usize {
        let said = self.option(code::MAX_MESSAGE_SIZE).and_then(|data| data.first_chunk());
        said.map_or(SIZE_MIN, |&size| usize::from(u16::from_be_bytes(size)).saturating_sub(28).max(SIZE_MIN))
    }
}

/// A message that is being made.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    /// Bytes that it may have.
    size_max: usize,
}

impl Builder {
    /// A server's reply, with the header's fields that are not the request's all zero.
    pub fn reply(request: &Message, kind: Kind) -> Builder {
        let mut bytes = request.header.to_vec();
        bytes[SNAME].fill(0);
        bytes[FILE].fill(0);
        let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
        packet.set_opcode(DhcpOpCode::Reply);
        packet.set_hops(0);
        packet.set_secs(0);
        for set in [DhcpPacket::set_client_ip, DhcpPacket::set_your_ip, DhcpPacket::set_server_ip] {
            set(&mut packet, Ipv4Addr::UNSPECIFIED);
        }
        let mut builder = Builder { bytes, size_max: request.size_max() };
        builder.put(code::MESSAGE_TYPE, &[kind.into()]);
        builder
    }

    /// A client's message, on Ethernet.
    pub fn request(xid: u32, mac: MacAddr, kind: Kind) -> Builder {
        let mut bytes = vec![0; HEADER_LEN];
        let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
        packet.set_opcode(DhcpOpCode::Request);
        packet.set_transaction_id(xid);
        packet.set_magic_number(MAGIC);
        (bytes[1], bytes[2]) = (ETHERNET, 6);
        bytes[CHADDR][..6].copy_from_slice(&mac.0);
        let mut builder = Builder { bytes, size_max: SIZE_MIN };
        builder.put(code::MESSAGE_TYPE, &[kind.into()]);
        builder
    }

    /// Says which address the client has.
    pub fn ciaddr(&mut self, ip: Ipv4Addr) -> &mut Self {
        DhcpPacket::new_unchecked(&mut self.bytes[..]).set_client_ip(ip);
        self
    }

    /// Says which address the client gets.
    pub fn yiaddr(&mut self, ip: Ipv4Addr) -> &mut Self {
        DhcpPacket::new_unchecked(&mut self.bytes[..]).set_your_ip(ip);
        self
    }

    /// Asks whoever passes it on to broadcast it.
    pub fn broadcast(&mut self) -> &mut Self {
        let flags = be16(&self.bytes, FLAGS) | BROADCAST;
        put16(&mut self.bytes, FLAGS, flags);
        self
    }

    /// Adds an option, in parts if it is long. It is left out if there is no room for it and the end.
    pub fn put(&mut self, code: u8, data: &[u8]) -> &mut Self {
        let parts = data.len().div_ceil(255).max(1);
        if self.bytes.len() + data.len() + 2 * parts + 1 > self.size_max {
            return self;
        }
        for part in 0..parts {
            let part = &data[part * 255..data.len().min((part + 1) * 255)];
            // At most 255, as cut.
            self.bytes.extend([code, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
            self.bytes.extend_from_slice(part);
        }
        self
    }

    /// Adds an option that is a list of addresses, unless that is empty.
    pub fn put_addresses(&mut self, code: u8, addresses: &[Ipv4Addr]) -> &mut Self {
        let data: Vec<u8> = addresses.iter().flat_map(|ip| ip.octets()).collect();
        if data.is_empty() { self } else { self.put(code, &data) }
    }

    /// The finished message.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.push(code::END);
        bytes.resize(bytes.len().max(BOOTP_LEN), code::PAD);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    fn discover() -> Builder {
        Builder::request(7, MAC, Kind::Discover)
    }

    #[test]
    fn a_message_survives_and_a_torn_one_is_none() {
        let bytes = discover().put(code::HOST_NAME, b"web").finish();
        assert_eq!(bytes.len(), BOOTP_LEN);
        let message = Message::from_client(&bytes).unwrap();
        assert_eq!((message.kind(), message.xid(), message.mac()), (Kind::Discover, 7, Some(MAC)));
        assert_eq!(message.option(code::HOST_NAME), Some(&b"web"[..]));
        assert_eq!(message.client(), [1, 2, 0, 0, 0, 0, 7]);
        assert_eq!(Message::from_server(&bytes), None);
        for len in 0..=HEADER_LEN + 2 {
            assert_eq!(Message::from_client(&bytes[..len]), None, "{len} bytes");
        }
        let wrong = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            Message::from_client(&bytes)
        };
        assert_eq!(wrong(2, 17), None, "no hardware address is so long");
        assert_eq!(wrong(236, 0), None, "BOOTP has no cookie");
        // An option that says it is longer than what there is.
        assert_eq!(wrong(HEADER_LEN + 4, 200).and_then(|m| m.option(code::HOST_NAME).map(<[u8]>::len)), None);
    }

    #[test]
    fn options_in_parts_are_joined_and_those_in_other_fields_found() {
        let long: Vec<u8> = (0..=255).chain(0..20).collect();
        let bytes = discover().put(code::CLIENT_IDENTIFIER, &long).finish();
        assert_eq!(Message::from_client(&bytes).unwrap().client(), long);
        let mut bytes = discover().put(code::OVERLOAD, &[3]).finish();
        bytes[FILE][..5].copy_from_slice(&[code::HOST_NAME, 3, b'w', b'e', b'b']);
        bytes[SNAME][..6].copy_from_slice(&[code::REQUESTED_ADDRESS, 4, 10, 0, 0, 9]);
        let message = Message::from_client(&bytes).unwrap();
        assert_eq!(message.option(code::HOST_NAME), Some(&b"web"[..]));
        assert_eq!(message.address(code::REQUESTED_ADDRESS), Some(Ipv4Addr::new(10, 0, 0, 9)));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_end_is_last() {
        let request = Message::from_client(&discover().finish()).unwrap();
        let mut reply = Builder::reply(&request, Kind::Offer);
        for code in 1..=20 {
            reply.put(code, &[code; 100]);
        }
        let bytes = reply.finish();
        assert!(bytes.len() <= SIZE_MIN && bytes.last() == Some(&code::END), "{} bytes", bytes.len());
        let reply = Message::from_server(&bytes).unwrap();
        assert_eq!(reply.options.len(), 1 + 2, "the message type, and two of a hundred bytes");
        let large = Message::from_client(&discover().put(code::MAX_MESSAGE_SIZE, &[4, 0]).finish()).unwrap();
        assert_eq!((request.size_max(), large.size_max()), (548, 1024 - 28));
    }
}
