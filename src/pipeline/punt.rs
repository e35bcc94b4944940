//! Punting: what is for a service of the gateway goes to the thread that gives it ([`crate::shared::Punts`]).
//!
//! Who speaks to a service speaks to the gateway's address, or, before it has one itself, to everybody. What is
//! punted goes no further: a station that asks for an address does not ask its neighbors.
//!
//! Control gives a service to all ports with one thread, so each port has a rate for each of its services. What the
//! gateway speaks with TCP and UDP needs none: a port that asks too fast finds its own share of the queue full.

use bytes::Bytes;

use super::packet::{Packet, View};
use super::{Context, Verdict};
use crate::addr::MacAddr;
use crate::drops::DropReason;
use crate::frame::{Frame, Segment};
use crate::limits::DHCP_MESSAGES;
use crate::shared::{Punt, Service};
use crate::snapshot::{Network, Uplink};
use crate::table::rate_limit::Rate;
use crate::wire::transport::{DHCP_CLIENT, DHCP_SERVER, DNS, Kind, Ports, Transport};

/// The service of `network` that a packet to the gateway's address is for, if it has it.
pub(super) fn service(cx: &Context<'_>, network: &Network, transport: &Transport) -> Option<Service> {
    match transport.ports()? {
        Ports { kind: Kind::Udp, dst: DHCP_SERVER, .. } => network.dhcp.then_some(Service::Dhcp),
        Ports { kind: Kind::Udp | Kind::Tcp, dst: DNS, .. } => Some(Service::Stack),
        Ports { kind, dst, .. } => {
            cx.shared.open_ports.contains(kind.protocol(), dst).then_some(Service::Stack)
        }
    }
}

/// The service of `network` that a broadcast frame asks for, if it has it: DHCP (RFC 2131 4.1). Whatever cannot be
/// read here is a frame like any other.
pub(super) fn broadcast_service(
    cx: &Context<'_>,
    network: &Network,
    frame: &Frame,
    packet: &Packet,
) -> Option<Service> {
    if !network.dhcp || packet.eth.dst != MacAddr::BROADCAST {
        return None;
    }
    let ip = View::header(frame).ok().filter(|ip| !ip.is_fragment)?;
    if !ip.dst.is_broadcast() && !network.is_broadcast(ip.dst) {
        return None;
    }
    let view = View::parse(frame, packet, ip).ok()?;
    service(cx, network, &view.transport).filter(|&service| service == Service::Dhcp)
}

/// Whether an IPv4 frame from the uplink is for its DHCP client: to its MAC address or to everybody, whatever the IP
/// address, which it does not have yet.
pub(super) fn is_for_dhcp_client(uplink: &Uplink, frame: &Frame, packet: &Packet) -> bool {
    let is_here = packet.eth.dst == uplink.mac || packet.eth.dst == MacAddr::BROADCAST;
    if !uplink.dhcp || !is_here {
        return false;
    }
    let ip = View::header(frame).ok().filter(|ip| !ip.is_fragment);
    let view = ip.and_then(|ip| View::parse(frame, packet, ip).ok());
    let ports = view.and_then(|view| view.transport.ports());
    ports.is_some_and(|ports| (ports.kind, ports.dst) == (Kind::Udp, DHCP_CLIENT))
}

/// Hands a frame to a service.
pub(super) fn punt(cx: &Context<'_>, frame: &Frame, service: Service) -> Result<Verdict, DropReason> {
    let meters = &cx.ingress.meters;
    let queue = match service {
        Service::Dhcp | Service::DhcpClient => {
            let rate = Rate::per_second(DHCP_MESSAGES, DHCP_MESSAGES);
            if !meters.dhcp.allows(rate, frame.packets(), cx.now) {
                return Err(DropReason::ServiceRate);
            }
            &cx.shared.punts
        }
        Service::Stack => &cx.shared.stack_punts,
    };
    // Datagrams are taken one by one; a segment is taken as it is, however long.
    let packets = match frame.offload.segment {
        Segment::Udp { .. } => frame.packets() as usize,
        Segment::None | Segment::Tcp4 { .. } | Segment::Tcp6 { .. } | Segment::Fragments { .. } => 1,
    };
    queue.put(cx.ingress.id, packets, || Punt {
        service,
        ingress: cx.ingress.id,
        network: cx.ingress.network,
        bytes: Bytes::copy_from_slice(frame.bytes()),
        offload: frame.offload,
    })?;
    Ok(Verdict::Consumed)
}
