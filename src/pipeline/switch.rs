//! Switching within a network: admit, learn, forward (IEEE 802.1D-2004 7.5 to 7.9).

use super::flow_cache::Repeats;
use super::packet::Packet;
use super::{Context, Verdict};
use crate::drops::DropReason;
use crate::snapshot::Network;
use crate::table::mac_table::Station;

/// A packet that the port may send on its network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted<'a> {
    pub(super) packet: Packet,
    pub(super) network: &'a Network,
}

/// Port security and reserved addresses.
pub(super) fn admit<'a>(
    cx: &Context<'_>,
    network: &'a Network,
    packet: Packet,
) -> Result<Admitted<'a>, DropReason> {
    if !packet.eth.src.is_station() {
        return Err(DropReason::BadSourceMac);
    }
    if packet.eth.src == network.gateway_mac {
        return Err(DropReason::SpoofedGateway);
    }
    if packet.eth.dst.is_reserved_group() {
        return Err(DropReason::ReservedGroup);
    }
    if packet.l3_len > usize::from(cx.ingress.mtu) {
        return Err(DropReason::OverMtu);
    }
    Ok(Admitted { packet, network })
}

/// Notes where the source is. Only what was admitted is learned.
pub(super) fn learn(cx: &Context<'_>, admitted: &Admitted<'_>) {
    admitted.network.fdb.learn(admitted.packet.eth.src, cx.ingress.id, cx.now);
}

/// Sends a frame to where its destination is, or everywhere if that is not known.
pub(super) fn forward(cx: &Context<'_>, admitted: &Admitted<'_>) -> Result<Verdict, DropReason> {
    let network = admitted.network;
    if admitted.packet.eth.dst.is_group() {
        return Ok(Verdict::Flood { network: network.id, except: Some(cx.ingress.id) });
    }
    match network.fdb.lookup(admitted.packet.eth.dst, cx.now, cx.snapshot.mac_ageing) {
        Station::Port(port) if port == cx.ingress.id => Err(DropReason::SamePort),
        Station::Port(port) => Ok(Verdict::Forward(port, Repeats::Always)),
        Station::Local => Err(DropReason::NotForGateway),
        Station::Unknown => Ok(Verdict::Flood { network: network.id, except: Some(cx.ingress.id) }),
    }
}
