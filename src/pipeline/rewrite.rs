//! The last step: the packet's bytes become what was decided.

use super::nat::{Change, Leaving};
use super::route::Link;
use super::{Context, Verdict, neighbor};
use crate::addr::PortId;
use crate::drops::DropReason;
use crate::frame::{Checksum, Frame};
use crate::wire::{checksum, edit, ethernet, icmpv4, put16};

/// Rewrites addresses, ports, checksums, TTL and MAC addresses, and says where the frame goes. What stood
/// behind the IP packet stays behind.
#[inline(always)]
pub(super) fn rewrite(
    cx: &Context<'_>,
    frame: &mut Frame,
    leaving: &Leaving<'_>,
) -> Result<Verdict, DropReason> {
    let &Leaving { view, link, mac, ref change, repeats } = leaving;
    frame.truncate(ethernet::HEADER_LEN + view.ip.total_len);
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
    match link {
        Link::Uplink(..) => Ok(Verdict::Forward(PortId::UPLINK, repeats)),
        Link::Network(network) => Ok(match neighbor::port_of(cx, network, mac) {
            Some(port) => Verdict::Forward(port, repeats),
            None => Verdict::Flood { network: network.id, except: None },
        }),
    }
}
