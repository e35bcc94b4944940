//! The next hop's MAC address: from the table, or asked for while the packet waits as it came in.
//!
//! A packet waits before anything about it has changed, and begins its way anew when the answer is there.
//! So a next hop that never answers leaves no connection behind, and its sender can be told about its own
//! packet.

use super::policy::Permitted;
use super::route::{Link, Routed};
use super::{Context, icmp_error, switch};
use crate::addr::{MacAddr, PortId};
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::shared::Waiting;
use crate::snapshot::Network;
use crate::table::mac_table::Station;
use crate::table::neighbor_table::Answer;
use crate::wire::arp;
use crate::wire::icmpv4::Error;

/// A packet whose next hop's MAC address is known.
#[derive(Debug)]
pub(super) struct Resolved<'a> {
    pub(super) routed: &'a Routed<'a>,
    pub(super) mac: MacAddr,
}

/// Resolves the next hop. `None` if the packet now waits for it.
#[inline(always)]
pub(super) fn resolve<'a>(
    cx: &mut Context<'_>,
    frame: &Frame,
    permitted: &Permitted<'a>,
) -> Result<Option<Resolved<'a>>, DropReason> {
    let routed = permitted.routed;
    let mut table = routed.link.neighbors().lock();
    let answer = table.resolve(routed.next_hop, cx.now);
    let made_room = match answer {
        Answer::Solicit | Answer::Pending => {
            table.wait(routed.next_hop, Waiting::new(cx.ingress.id, frame)).err()
        }
        Answer::Found(_) | Answer::Refresh(_) | Answer::Unreachable => None,
    };
    drop(table);
    if let Some(waiting) = made_room {
        cx.drop_waiting(&waiting, DropReason::NeighborQueueFull);
    }
    match answer {
        Answer::Found(mac) => Ok(Some(Resolved { routed, mac })),
        Answer::Refresh(mac) => {
            solicit(cx, routed.link, routed.next_hop, Some(mac));
            Ok(Some(Resolved { routed, mac }))
        }
        Answer::Solicit => {
            // Whom a port may not ask for now is asked for with the table's next request, in a second.
            if switch::may_ask_all(cx) {
                solicit(cx, routed.link, routed.next_hop, None);
            }
            Ok(None)
        }
        Answer::Pending => Ok(None),
        Answer::Unreachable => {
            let (ip, reason) = (&routed.arrived.view.ip, DropReason::NeighborUnreachable);
            Err(icmp_error::refuse(cx, frame, ip, Error::HostUnreachable, reason))
        }
    }
}

/// Asks for the MAC address of `ip`: whoever has it, or the station that had it.
pub(super) fn solicit(cx: &mut Context<'_>, link: Link<'_>, ip: std::net::Ipv4Addr, known: Option<MacAddr>) {
    let mut frame = cx.out.fresh();
    let dst = known.unwrap_or(MacAddr::BROADCAST);
    frame.fill(&arp::request(link.own(), ip, dst), Offload::NONE);
    match link {
        Link::Uplink(uplink, _) => cx.originate(frame, [uplink.id.port()]),
        Link::Network(network) => match known.and_then(|mac| port_of(cx, network, mac)) {
            Some(port) => cx.originate(frame, [port]),
            None => cx.originate(frame, network.ports.iter().copied()),
        },
    }
}

/// The port behind which a station of the network is.
pub(super) fn port_of(cx: &Context<'_>, network: &Network, mac: MacAddr) -> Option<PortId> {
    match network.fdb.lookup(mac, cx.now, cx.snapshot.mac_ageing) {
        Station::Port(port) => Some(port),
        Station::Local | Station::Unknown => None,
    }
}

/// Swaps source and destination MAC address of a frame.
pub(super) fn turn_around(frame: &mut [u8]) {
    if let Some((dst, rest)) = frame.split_at_mut_checked(6)
        && let Some(src) = rest.get_mut(..6)
    {
        dst.swap_with_slice(src);
    }
}
