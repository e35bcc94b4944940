//! The last step: the packet's bytes become what was decided.

use super::flow_cache::Repeats;
use super::nat::{Change, Leaving};
use super::route::Link;
use super::{Context, Verdict, neighbor};
use crate::drops::DropReason;
use crate::frame::{Checksum, Frame, Segment};
use crate::wire::ipv4::Ipv4;
use crate::wire::{checksum, edit, ethernet, icmpv4, put16};

/// Rewrites addresses, ports, checksums, TTL and MAC addresses, and says where the frame goes. What stood
/// behind the IP packet stays behind.
#[inline(always)]
pub(super) fn rewrite(
    cx: &Context<'_>,
    frame: &mut Frame,
    leaving: &Leaving<'_>,
) -> Result<Verdict, DropReason> {
    let &Leaving { view, segment, link, mac, ref change, mut repeats } = leaving;
    frame.truncate(ethernet::HEADER_LEN + view.ip.total_len);
    frame.offload.segment = segment;
    let partial = view.partial;
    let bytes = frame.bytes_mut();
    ethernet::write(bytes, mac, link.own().0, ethernet::IPV4);
    let packet = &mut bytes[ethernet::HEADER_LEN..];
    edit::decrement_ttl(packet);
    match *change {
        Change::Nothing => {}
        Change::Flow(kind, endpoints) => {
            edit::translate(packet, view.ip.header_len, kind, partial, endpoints);
        }
        Change::Error { quoted, inner, outer } => {
            edit::readdress(packet, outer);
            let start = quoted.start - ethernet::HEADER_LEN;
            let part = &mut packet[start..start + quoted.len];
            edit::translate(part, quoted.header_len, quoted.flow.kind, false, inner);
            let message = &mut packet[start - icmpv4::HEADER_LEN..];
            put16(message, 2, 0);
            let sum = checksum::checksum(message);
            put16(message, 2, sum);
            frame.offload.checksum = Checksum::Complete;
        }
    }
    let is_atomic = view.ip.dont_fragment && !matches!(segment, Segment::Fragments { .. });
    if !is_atomic && change.hides_source() {
        renumber(cx, frame);
        repeats = Repeats::Never;
    }
    match link {
        Link::Uplink(uplink, _) => Ok(Verdict::Forward(uplink.id.port(), repeats)),
        Link::Network(network) => Ok(match neighbor::port_of(cx, network, mac) {
            Some(port) => Verdict::Forward(port, repeats),
            None => Verdict::Flood { network: network.id, except: None },
        }),
    }
}

/// Gives a packet that may be fragmented an identification of its own among all that leave with its addresses,
/// whichever container they are of (RFC 6864 4.3); a super-frame as many as it has packets.
#[cold]
fn renumber(cx: &Context<'_>, frame: &mut Frame) {
    let count = u16::try_from(frame.packets()).unwrap_or(u16::MAX);
    let packet = &mut frame.bytes_mut()[ethernet::HEADER_LEN..];
    let Ok(ip) = Ipv4::parse(packet) else { return };
    let flow = (ip.src, ip.dst, ip.protocol);
    let id = cx.shared.datagram_ids.take(flow, count);
    edit::set_id(packet, id);
}
