//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::{Malformed, ethernet};
use crate::addr::MacAddr;

/// Bytes of a packet.
pub const LEN: usize = 28;

/// Bytes of a frame with one.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + LEN;

/// A checked packet: a request or a reply, from a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Whether it asks; otherwise it answers.
    pub is_request: bool,
    /// The hardware address that the sender says it has.
    pub sender_mac: MacAddr,
    /// The protocol address that the sender says it has; unspecified in a probe (RFC 5227 1.1).
    pub sender_ip: Ipv4Addr,
    /// Whom it is about.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads the packet behind an Ethernet header.
    ///
    /// # Errors
    /// If it is cut off, not for IPv4 over Ethernet, neither request nor reply, or from a group address, which
    /// RFC 1812 3.3.2 forbids to believe.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let packet = ArpPacket::new_checked(packet).map_err(|_| Malformed)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr: sender_ip,
            target_protocol_addr: target_ip,
            ..
        } = ArpRepr::parse(&packet).map_err(|_| Malformed)?
        else {
            return Err(Malformed);
        };
        let is_request = match operation {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => return Err(Malformed),
        };
        let sender_mac = MacAddr(source_hardware_addr.0);
        if !sender_mac.is_station() || sender_ip.is_broadcast() || sender_ip.is_multicast() {
            return Err(Malformed);
        }
        Ok(Arp { is_request, sender_mac, sender_ip, target_ip })
    }
}

/// A MAC address, and the address of the network that is there.
pub type Binding = (MacAddr, Ipv4Addr);

/// A frame to `dst` in which `sender` asks who has the target's address.
pub fn request(sender: Binding, target_ip: Ipv4Addr, dst: MacAddr) -> [u8; FRAME_LEN] {
    frame(ArpOperation::Request, sender, (MacAddr::ZERO, target_ip), dst)
}

/// A frame in which `sender` answers `target`.
pub fn reply(sender: Binding, target: Binding) -> [u8; FRAME_LEN] {
    frame(ArpOperation::Reply, sender, target, target.0)
}

/// A frame in which `sender` tells everybody that its address is its own (RFC 5227 2.3).
pub fn announcement(sender: Binding) -> [u8; FRAME_LEN] {
    request(sender, sender.1, MacAddr::BROADCAST)
}

fn frame(operation: ArpOperation, sender: Binding, target: Binding, dst: MacAddr) -> [u8; FRAME_LEN] {
    let mut bytes = [0; FRAME_LEN];
    ethernet::write(&mut bytes, dst, sender.0, ethernet::ARP);
    ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0.0),
        source_protocol_addr: sender.1,
        target_hardware_addr: EthernetAddress(target.0.0),
        target_protocol_addr: target.1,
    }
    .emit(&mut ArpPacket::new_unchecked(&mut bytes[ethernet::HEADER_LEN..]));
    bytes
}
