//! Names of things on the wire and in the switch: MAC addresses, endpoints, VLAN, port and network numbers.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::VIDS;

/// A 48-bit IEEE 802 MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff, every station.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// 00:00:00:00:00:00, no station.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// Whether the group bit is set: multicast or broadcast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this can be the address of one station: not a group and not zero.
    pub const fn is_station(self) -> bool {
        !self.is_group() && !self.is_zero()
    }

    /// Whether all bits are zero.
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Whether this is one of 01:80:C2:00:00:00 to 0F, which no bridge relays
    /// (IEEE 802.1D-2004 table 7-10).
    pub const fn is_reserved_group(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }

    /// The address as a number.
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The locally administered address (IEEE 802-2014 8.4) that is number `n` of a range.
    pub const fn local(range: MacRange, n: [u8; 4]) -> MacAddr {
        let [a, b, c, d] = n;
        MacAddr([0x02, range as u8, a, b, c, d])
    }

    /// The address made from an IPv4 address, for who has that. Stable, unique per address, and easy to read in a
    /// capture.
    pub const fn from_ipv4(ip: Ipv4Addr) -> MacAddr {
        MacAddr::local(MacRange::Ipv4, ip.octets())
    }
}

/// Whom the switch makes up MAC addresses for. Each has a range of its own, 02, the byte here and four more, so that
/// none of them ever has another's, and a capture shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MacRange {
    /// An uplink of mode `own`: its IPv4 address, or the end of its interface's own address.
    OwnUplink = 0x75,
    /// A gateway or a port with an IPv4 address: that address.
    Ipv4 = 0x76,
    /// A port without an IP address: 0, how many other ports have kept those before, and the port's number.
    Port = 0x77,
    /// A port of a LAN that has no IP address yet: a hash of who it is.
    LanPort = 0x78,
    /// The sender of ARP probes on a LAN: the end of the address of the interface there.
    LanProbe = 0x79,
}

// Tables are looked up for every packet: a hasher takes one number much faster than six bytes.
impl Hash for MacAddr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.to_bits());
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address (write six hexadecimal bytes like 02:00:00:00:00:01)")]
pub struct ParseMacError;

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(MacAddr(bytes)) }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The number of a VLAN (IEEE 802.1Q 9.6), one of [`VIDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Vid(u16);

/// Why a number is no VLAN's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the number of a VLAN (write one from 1 to 4094)")]
pub struct ParseVidError;

impl TryFrom<u16> for Vid {
    type Error = ParseVidError;

    fn try_from(number: u16) -> Result<Self, ParseVidError> {
        if VIDS.contains(&number) { Ok(Vid(number)) } else { Err(ParseVidError) }
    }
}

impl From<Vid> for u16 {
    fn from(Vid(number): Vid) -> u16 {
        number
    }
}

impl FromStr for Vid {
    type Err = ParseVidError;

    fn from_str(text: &str) -> Result<Self, ParseVidError> {
        text.parse::<u16>().map_err(|_| ParseVidError)?.try_into()
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of a port of the switch. Numbers are dealt again after a port was removed; names are what
/// users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl PortId {
    /// The first uplink's number, which nothing else has, whether or not there is an uplink.
    pub const UPLINK: PortId = UplinkId::FIRST.port();

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of an uplink, in the order in which they were named when the switch was started. Its port of the switch has
/// the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkId(pub u16);

impl UplinkId {
    /// The one that was named first: the way out of networks that name none.
    pub const FIRST: UplinkId = UplinkId(0);

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The number of its port.
    pub const fn port(self) -> PortId {
        PortId(self.0)
    }
}

/// The number of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u16);

impl NetworkId {
    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An IP address of one family: what the tables are generic over, so that IPv6 is a second case of the
/// same table and not a second table.
pub trait Address: Copy + Eq + Ord + Hash + fmt::Debug + Into<IpAddr> + Send + 'static {
    /// Bits in an address.
    const BITS: u8;
    /// The address with all bits after the first `length` cleared.
    #[must_use]
    fn masked(self, length: u8) -> Self;
    /// Hashes the address and a port, in as few writes as they fit in.
    fn hash_with_port<H: Hasher>(self, port: u16, state: &mut H);
}

impl Address for Ipv4Addr {
    const BITS: u8 = 32;
    fn masked(self, length: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
        Ipv4Addr::from_bits(self.to_bits() & mask)
    }
    fn hash_with_port<H: Hasher>(self, port: u16, state: &mut H) {
        state.write_u64(u64::from(self.to_bits()) << 16 | u64::from(port));
    }
}

impl Address for Ipv6Addr {
    const BITS: u8 = 128;
    fn masked(self, length: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
        Ipv6Addr::from_bits(self.to_bits() & mask)
    }
    fn hash_with_port<H: Hasher>(self, port: u16, state: &mut H) {
        state.write_u128(self.to_bits());
        state.write_u16(port);
    }
}

/// An address and a transport port; for ICMP queries the port is the identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint<A = Ipv4Addr> {
    /// The address.
    pub ip: A,
    /// The TCP or UDP port, or the ICMP query identifier.
    pub port: u16,
}

impl<A> Endpoint<A> {
    /// An endpoint.
    pub const fn new(ip: A, port: u16) -> Self {
        Endpoint { ip, port }
    }
}

impl<A: Address> Hash for Endpoint<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ip.hash_with_port(self.port, state);
    }
}

impl<A: fmt::Display> fmt::Display for Endpoint<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ip, self.port)
    }
}

impl<A: fmt::Debug> fmt::Debug for Endpoint<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.ip, self.port)
    }
}

/// The transports that are tracked and translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// ICMP queries (echo), IP protocol 1.
    Icmp,
}

impl Protocol {
    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_read_back_what_they_print() {
        let mac: MacAddr = "02:00:5e:10:00:FF".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!("02-00-5e-10-00-ff".parse(), Ok(mac));
        for wrong in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "02:00:5e:10:00:fg", "+2:00:5e:10:00:ff"]
        {
            assert_eq!(wrong.parse::<MacAddr>(), Err(ParseMacError), "{wrong}");
        }
    }

    #[test]
    fn group_and_reserved_addresses_are_told_apart() {
        let stp = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]);
        let garp = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x10]);
        assert!(stp.is_group() && stp.is_reserved_group());
        assert!(garp.is_group() && !garp.is_reserved_group());
        assert!(!MacAddr::ZERO.is_station() && !MacAddr::BROADCAST.is_station());
    }

    #[test]
    fn masks_reach_both_ends() {
        let ip = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(ip.masked(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(ip.masked(24), Ipv4Addr::new(10, 1, 2, 0));
        assert_eq!(ip.masked(32), ip);
        assert_eq!(Ipv6Addr::LOCALHOST.masked(0), Ipv6Addr::UNSPECIFIED);
        assert_eq!(Ipv6Addr::LOCALHOST.masked(128), Ipv6Addr::LOCALHOST);
    }
}
