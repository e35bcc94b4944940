//! ARP (RFC 826): the gateway answers for its own address and overhears the others.
//!
//! Whoever claims an address of ours is contradicted, by an announcement at most every
//! [`ARP_DEFEND_INTERVAL`](crate::limits::ARP_DEFEND_INTERVAL) on a link (RFC 5227 2.4), and not believed. What
//! ports may say about others is the business of [`guard`](super::guard) before it comes here; on the uplink
//! there is no such guard, and its neighbor table is cautious instead.

use std::net::Ipv4Addr;

use super::flow_cache::Repeats;
use super::switch::Admitted;
use super::{Context, Verdict};
use crate::addr::PortId;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::snapshot::{Network, Uplink, UplinkMode};
use crate::table::neighbor_table::Heard;
use crate::wire::arp::{self, Arp, Binding};
use crate::wire::ethernet;

/// An ARP packet from a port, for the gateway or overheard by it. The gateway answers for its own address
/// only; everything else is switched like any frame. On a LAN there is none, and only answers to the switch's own
/// probes are for it.
pub(super) fn on_network(
    cx: &mut Context<'_>,
    frame: &mut Frame,
    admitted: &Admitted<'_>,
) -> Result<Verdict, DropReason> {
    let network = admitted.network;
    let arp = read(frame)?;
    let (mac, ip) = (arp.sender_mac, arp.sender_ip);
    let for_us = network.gateway == Some(arp.target_ip);
    // RFC 826: whoever we hear updates what we know; we remember somebody new only when we are asked.
    if network.subnet.contains(&ip) {
        let mut neighbors = network.neighbors.lock();
        let heard = if for_us && arp.is_request {
            neighbors.answered(ip, mac, cx.now)
        } else {
            neighbors.heard(ip, mac, cx.now)
        };
        if let Heard::Noted(released) = heard {
            cx.released.extend(released);
        }
    }
    let to_us = admitted.packet.eth.dst == network.gateway_mac;
    match network.gateway {
        Some(gateway) if for_us && arp.is_request => {
            frame.fill(&arp::reply((network.gateway_mac, gateway), (mac, ip)), Offload::NONE);
            Ok(Verdict::Forward(cx.ingress.id, Repeats::Never))
        }
        Some(_) if for_us => Ok(Verdict::Consumed),
        // The answer to a probe.
        None if to_us && !arp.is_request => Ok(Verdict::Consumed),
        _ if to_us => Err(DropReason::NotForGateway),
        _ => super::switch::forward(cx, frame, admitted, Repeats::Never),
    }
}

/// Whether a frame asks or tells about `own`, as a station that looks through priority tags reads it.
pub(super) fn is_about(frame: &Frame, own: Option<Ipv4Addr>) -> bool {
    let Ok((ethernet::ARP, contents)) = ethernet::carried(frame.bytes()) else { return false };
    own.is_some() && Arp::parse(contents).ok().map(|arp| arp.target_ip) == own
}

/// An ARP packet on the uplink. In shared mode the host answers for the address; we only listen.
pub(super) fn on_uplink(
    cx: &mut Context<'_>,
    frame: &mut Frame,
    uplink: &Uplink,
) -> Result<Verdict, DropReason> {
    let Ok(arp) = read(frame) else { return Ok(Verdict::LeaveToHost) };
    let (mac, ip) = (arp.sender_mac, arp.sender_ip);
    let own = uplink.address.map(|own| own.addr());
    let answers = uplink.mode == UplinkMode::Own;
    if own == Some(ip) && mac != uplink.mac {
        if answers && uplink.neighbors.may_defend(cx.now) {
            announce(cx, (uplink.mac, ip), &[uplink.id.port()]);
        }
        return Err(DropReason::ArpConflict);
    }
    let for_us = answers && own == Some(arp.target_ip);
    let heard = {
        let mut neighbors = uplink.neighbors.lock();
        if for_us && arp.is_request && !ip.is_unspecified() && own != Some(ip) {
            neighbors.answered(ip, mac, cx.now)
        } else {
            neighbors.heard(ip, mac, cx.now)
        }
    };
    match heard {
        Heard::Noted(released) => cx.released.extend(released),
        Heard::Doubted(known) => {
            if uplink.neighbors.may_warn(cx.now) {
                let name = &uplink.name;
                log::warn!(
                    "uplink {name}: {mac} claims {ip}, which is {known}; asking there before it moves"
                );
            }
            return Err(DropReason::ArpDoubtful);
        }
    }
    match own {
        Some(own) if for_us && arp.is_request => {
            frame.fill(&arp::reply((uplink.mac, own), (mac, ip)), Offload::NONE);
            Ok(Verdict::Forward(cx.ingress.id, Repeats::Never))
        }
        Some(_) if for_us => Ok(Verdict::Consumed),
        _ => Ok(Verdict::LeaveToHost),
    }
}

fn read(frame: &Frame) -> Result<Arp, DropReason> {
    Arp::parse(&frame.bytes()[ethernet::HEADER_LEN..]).map_err(|_| DropReason::BadArp)
}

/// Contradicts a port that claims the gateway's address.
pub(super) fn defend_gateway(cx: &mut Context<'_>, network: &Network) {
    if let Some(gateway) = network.gateway
        && network.neighbors.may_defend(cx.now)
    {
        announce(cx, (network.gateway_mac, gateway), &network.ports);
    }
}

/// Tells everybody whose an address is (RFC 5227 2.3).
fn announce(cx: &mut Context<'_>, own: Binding, ports: &[PortId]) {
    let mut frame = cx.out.fresh();
    frame.fill(&arp::announcement(own), Offload::NONE);
    cx.originate(frame, ports.iter().copied());
}
