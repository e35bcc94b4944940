//! The gateway as a host: it answers echo requests, back the way the frame came.

use super::flow_cache::Repeats;
use super::packet::{View, is_martian_source};
use super::{Context, Verdict, icmp_error, neighbor};
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::wire::transport::Transport;
use crate::wire::{checksum, edit, ethernet, icmpv4, put16};

/// TTL of what the gateway sends (RFC 1700).
const TTL: u8 = 64;

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
