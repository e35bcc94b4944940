//! Switching within a network: admit, learn, forward (IEEE 802.1D-2004 7.5 to 7.9).
//!
//! A frame is admitted if its source can be a station's and the port may speak for it ([`guard`]), if its
//! destination is relayed, and if it fits. What would be flooded is metered for each port and kind, broadcast and
//! multicast on their way in, a frame to an unknown station when that has turned out: storm control. Floods are
//! never in the flow cache, so every one of them is counted.

use super::flow_cache::Repeats;
use super::host_port::Addressee;
use super::packet::Packet;
use super::{Context, Verdict, guard, host_port};
use crate::addr::{MacAddr, PortId};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::limits::MAC_MOVES_AT_ONCE;
use crate::snapshot::{Network, Snapshot};
use crate::table::mac_table::{Learned, Station};
use crate::table::rate_limit::{Rate, RateLimit};

/// A packet that the port may send on its network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted<'a> {
    pub(super) packet: Packet,
    pub(super) network: &'a Network,
    /// Frames that it stands for.
    frames: u32,
}

/// Reserved addresses, port security, and storm control as far as the destination tells.
pub(super) fn admit<'a>(
    cx: &mut Context<'_>,
    network: &'a Network,
    frame: &Frame,
    packet: Packet,
) -> Result<Admitted<'a>, DropReason> {
    if !packet.eth.src.is_station() {
        return Err(DropReason::BadSourceMac);
    }
    guard::inspect(cx, network, frame, &packet)?;
    if packet.eth.dst.is_reserved_group() {
        return Err(DropReason::ReservedGroup);
    }
    if packet.l3_len > usize::from(cx.ingress.mtu) {
        return Err(DropReason::OverMtu);
    }
    let (policing, meters, frames) = (&cx.ingress.policing, &cx.ingress.meters, frame.packets());
    if packet.eth.dst == MacAddr::BROADCAST {
        meter(cx, &meters.broadcast, policing.broadcast, frames, DropReason::StormBroadcast)?;
    } else if packet.eth.dst.is_group() {
        meter(cx, &meters.multicast, policing.multicast, frames, DropReason::StormMulticast)?;
    }
    Ok(Admitted { packet, network, frames })
}

/// Notes where the source is. Only what was admitted is learned.
///
/// A station that is known on another port has moved, unless both ports are secured and it is that other port's
/// own, or too many have moved to this one lately.
pub(super) fn learn(cx: &Context<'_>, admitted: &Admitted<'_>) -> Result<(), DropReason> {
    let (mac, port) = (admitted.packet.eth.src, cx.ingress);
    let mut refused = DropReason::MacFlap;
    let may_move = |from| {
        if port.pins.is_some_and(|pins| pins.mac == Some(mac)) {
            return true;
        }
        if port.pins.is_some() && is_pinned_to(cx.snapshot, from, mac) {
            refused = DropReason::SpoofedMac;
            return false;
        }
        let moves = Rate::per_second(port.policing.moves, MAC_MOVES_AT_ONCE);
        port.policing.moves == 0 || port.meters.moves.allows(moves, 1, cx.now)
    };
    let quota = if port.policing.macs == 0 { u32::MAX } else { port.policing.macs };
    match admitted.network.fdb.learn(mac, port.id, quota, cx.now, may_move) {
        Learned::New | Learned::Refreshed | Learned::Moved { .. } | Learned::Fixed => Ok(()),
        Learned::Refused => Err(refused),
    }
}

fn is_pinned_to(snapshot: &Snapshot, port: PortId, mac: MacAddr) -> bool {
    snapshot.port(port).and_then(|port| port.pins).is_some_and(|pins| pins.mac == Some(mac))
}

/// Sends a frame to where its destination is, or everywhere if that is not known.
pub(super) fn forward(
    cx: &Context<'_>,
    frame: &Frame,
    admitted: &Admitted<'_>,
    repeats: Repeats,
) -> Result<Verdict, DropReason> {
    let network = admitted.network;
    let flood = Verdict::Flood { network: network.id, except: Some(cx.ingress.id) };
    if admitted.packet.eth.dst.is_group() {
        return Ok(flood);
    }
    match network.fdb.lookup(admitted.packet.eth.dst, cx.now, cx.snapshot.mac_ageing) {
        Station::Port(port) if port == cx.ingress.id => Err(DropReason::SamePort),
        Station::Port(port) => {
            let egress = cx.snapshot.port(port).ok_or(DropReason::PortGone)?;
            let taken = egress.host.is_none() || host_port::takes(egress, Addressee::of(frame));
            if taken { Ok(Verdict::Forward(port, repeats)) } else { Err(DropReason::NotForHost) }
        }
        // The frame would leave by the host's own interface, and nobody sends it back from there.
        Station::Local if network.gateway.is_none() => Err(DropReason::HostBehindUplink),
        Station::Local => Err(DropReason::NotForGateway),
        Station::Unknown => {
            let (used, rate) = (&cx.ingress.meters.unknown, cx.ingress.policing.unknown);
            meter(cx, used, rate, admitted.frames, DropReason::StormUnknown)?;
            Ok(flood)
        }
    }
}

/// Whether a frame from a LAN is for somebody there: a promiscuous interface hears what its stations say to each other,
/// and what they say to the host.
pub(super) fn stays_behind(cx: &Context<'_>, admitted: &Admitted<'_>) -> bool {
    let (eth, network) = (&admitted.packet.eth, admitted.network);
    cx.ingress.lan
        && !eth.dst.is_group()
        && match network.fdb.lookup(eth.dst, cx.now, cx.snapshot.mac_ageing) {
            Station::Port(port) => port == cx.ingress.id,
            Station::Local => eth.dst != network.gateway_mac,
            Station::Unknown => false,
        }
}

/// Whether the ingress port may have the switch ask all stations of a network for a neighbor, which is a broadcast
/// on its behalf.
pub(super) fn may_ask_all(cx: &Context<'_>) -> bool {
    let (used, rate) = (&cx.ingress.meters.broadcast, cx.ingress.policing.broadcast);
    meter(cx, used, rate, 1, DropReason::StormBroadcast).is_ok()
}

/// Charges `frames` to a rate a second, of which as many may come at once.
fn meter(
    cx: &Context<'_>,
    used: &RateLimit,
    rate: u32,
    frames: u32,
    over: DropReason,
) -> Result<(), DropReason> {
    let allowed = rate == 0 || used.allows(Rate::per_second(rate, rate), frames, cx.now);
    if allowed { Ok(()) } else { Err(over) }
}
