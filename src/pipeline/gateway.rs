//! The gateway as a host: it answers ARP for its own addresses and echo requests, back the way the frame
//! came.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::flow_cache::Repeats;
use super::packet::{View, is_martian_source};
use super::switch::Admitted;
use super::{Context, Verdict, icmp_error, neighbor};
use crate::addr::MacAddr;
use crate::clock::Time;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::limits::ARP_DEFEND_INTERVAL;
use crate::snapshot::{Uplink, UplinkMode};
use crate::wire::transport::Transport;
use crate::wire::{checksum, edit, ethernet, icmpv4, put16};

/// Bytes of an ARP packet for IPv4 over Ethernet (RFC 826).
const ARP_LEN: usize = 28;

/// TTL of what the gateway sends (RFC 1700).
const TTL: u8 = 64;

/// A checked ARP packet.
#[derive(Debug, Clone, Copy)]
struct Arp {
    is_request: bool,
    sender: (MacAddr, Ipv4Addr),
    target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads the ARP packet in `frame`: IPv4 over Ethernet, request or reply, from a station (RFC 1812 3.3.2
    /// forbids to believe any other).
    fn parse(frame: &Frame) -> Result<Arp, DropReason> {
        let packet = ArpPacket::new_checked(&frame.bytes()[ethernet::HEADER_LEN..]);
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = packet.and_then(|packet| ArpRepr::parse(&packet)).map_err(|_| DropReason::BadArp)?
        else {
            return Err(DropReason::BadArp);
        };
        let is_request = match operation {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => return Err(DropReason::BadArp),
        };
        let mac = MacAddr(source_hardware_addr.0);
        if !mac.is_station() || source_protocol_addr.is_broadcast() || source_protocol_addr.is_multicast() {
            return Err(DropReason::BadArp);
        }
        Ok(Arp { is_request, sender: (mac, source_protocol_addr), target_ip: target_protocol_addr })
    }
}

/// An ARP packet from a port, for the gateway or overheard by it. The gateway answers for its own address
/// only; everything else is switched like any frame.
pub(super) fn arp(
    cx: &mut Context<'_>,
    frame: &mut Frame,
    admitted: &Admitted<'_>,
) -> Result<Verdict, DropReason> {
    let network = admitted.network;
    let arp = Arp::parse(frame)?;
    let (mac, ip) = arp.sender;
    if ip == network.gateway {
        defend(cx, admitted);
        return Err(DropReason::ArpConflict);
    }
    let for_us = arp.target_ip == network.gateway;
    // RFC 826: whoever we hear updates what we know; we remember somebody new only when we are asked.
    let released = if network.subnet.contains(&ip) {
        let mut neighbors = network.neighbors.lock();
        if for_us && arp.is_request {
            neighbors.answered(ip, mac, cx.now)
        } else {
            neighbors.heard(ip, mac, cx.now)
        }
    } else {
        Default::default()
    };
    cx.released.extend(released);
    match (for_us, arp.is_request) {
        (true, true) => {
            write_arp(frame, ArpOperation::Reply, (network.gateway_mac, network.gateway), (mac, ip), mac);
            Ok(Verdict::Forward(cx.ingress.id, Repeats::Never))
        }
        (true, false) => Ok(Verdict::Consumed),
        (false, _) if admitted.packet.eth.dst == network.gateway_mac => Err(DropReason::NotForGateway),
        (false, _) => super::switch::forward(cx, admitted),
    }
}

/// An ARP packet on the uplink. In shared mode the host answers for the address; we only listen.
pub(super) fn uplink_arp(
    cx: &mut Context<'_>,
    frame: &mut Frame,
    uplink: &Uplink,
) -> Result<Verdict, DropReason> {
    let Ok(arp) = Arp::parse(frame) else { return Ok(Verdict::LeaveToHost) };
    let (mac, ip) = arp.sender;
    let own = uplink.address.filter(|_| uplink.mode == UplinkMode::Own).map(|own| own.addr());
    let for_us = own == Some(arp.target_ip);
    let released = {
        let mut neighbors = uplink.neighbors.lock();
        if for_us && arp.is_request && !ip.is_unspecified() && own != Some(ip) {
            neighbors.answered(ip, mac, cx.now)
        } else {
            neighbors.heard(ip, mac, cx.now)
        }
    };
    cx.released.extend(released);
    match own {
        Some(own) if for_us && arp.is_request => {
            write_arp(frame, ArpOperation::Reply, (uplink.mac, own), (mac, ip), mac);
            Ok(Verdict::Forward(cx.ingress.id, Repeats::Never))
        }
        Some(_) if for_us => Ok(Verdict::Consumed),
        _ => Ok(Verdict::LeaveToHost),
    }
}

/// Tells the network once more whose the gateway's address is (RFC 5227 2.4), at most every
/// [`ARP_DEFEND_INTERVAL`].
fn defend(cx: &mut Context<'_>, admitted: &Admitted<'_>) {
    let network = admitted.network;
    if !claim_interval(&network.last_defence, cx.now) {
        return;
    }
    let mut frame = cx.out.fresh();
    let gateway = (network.gateway_mac, network.gateway);
    write_arp(
        &mut frame,
        ArpOperation::Request,
        gateway,
        (MacAddr::ZERO, network.gateway),
        MacAddr::BROADCAST,
    );
    cx.originate(frame, network.ports.iter().copied());
}

/// Whether the interval since the last defence is over; if so it begins anew.
fn claim_interval(last: &AtomicU64, now: Time) -> bool {
    let before = last.load(Relaxed);
    let over = before == 0 || now.since(Time::from_micros(before)) >= ARP_DEFEND_INTERVAL;
    over && last.compare_exchange(before, now.as_micros().max(1), Relaxed, Relaxed).is_ok()
}

/// Makes `frame` an ARP packet in an Ethernet frame to `dst`.
pub(super) fn write_arp(
    frame: &mut Frame,
    operation: ArpOperation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
    dst: MacAddr,
) {
    let mut bytes = [0; ethernet::HEADER_LEN + ARP_LEN];
    ethernet::write(&mut bytes, dst, sender.0, ethernet::ARP);
    ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0.0),
        source_protocol_addr: sender.1,
        target_hardware_addr: EthernetAddress(target.0.0),
        target_protocol_addr: target.1,
    }
    .emit(&mut ArpPacket::new_unchecked(&mut bytes[ethernet::HEADER_LEN..]));
    frame.fill(&bytes, Offload::NONE);
}

/// A packet for one of the gateway's own addresses.
pub(super) fn answer(cx: &mut Context<'_>, frame: &mut Frame, view: &View) -> Result<Verdict, DropReason> {
    match view.transport {
        Transport::Echo { request: true, .. } => echo(cx, frame, view),
        Transport::Echo { request: false, .. } | Transport::IcmpError | Transport::IcmpOther => {
            Ok(Verdict::Consumed)
        }
        Transport::Tcp { .. } | Transport::Udp { .. } => Err(icmp_error::refuse(
            cx,
            frame,
            &view.ip,
            icmpv4::Error::PortUnreachable,
            DropReason::NoSuchService,
        )),
        Transport::Other => Err(icmp_error::refuse(
            cx,
            frame,
            &view.ip,
            icmpv4::Error::ProtocolUnreachable,
            DropReason::NoSuchService,
        )),
    }
}

/// Turns an echo request into its reply (RFC 1122 3.2.2.6: the data comes back as it is).
pub(super) fn echo(cx: &Context<'_>, frame: &mut Frame, view: &View) -> Result<Verdict, DropReason> {
    if is_martian_source(view.ip.src) {
        return Err(DropReason::MartianSource);
    }
    frame.truncate(ethernet::HEADER_LEN + view.ip.total_len);
    let bytes = frame.bytes_mut();
    let (header, message) = bytes[ethernet::HEADER_LEN..].split_at_mut(view.ip.header_len);
    if checksum::checksum(message) != 0 {
        return Err(DropReason::BadIcmp);
    }
    message[0] = icmpv4::ECHO_REPLY;
    put16(message, 2, 0);
    let sum = checksum::checksum(message);
    put16(message, 2, sum);
    header[12..16].copy_from_slice(&view.ip.dst.octets());
    header[16..20].copy_from_slice(&view.ip.src.octets());
    edit::set_ttl(header, TTL);
    neighbor::turn_around(bytes);
    // In fragments of the size in which the request came, if it did.
    frame.offload = Offload { segment: frame.offload.segment, ..Offload::NONE };
    Ok(Verdict::Forward(cx.ingress.id, Repeats::Never))
}
