//! Fragments in the story of a frame: they wait until their datagram is whole, which then goes on in the frame
//! of the one that completed it.
//!
//! Behind this step there are only whole packets: one with ports, a full header and a length that is right, as
//! connection tracking, the gateway's echo and every rule need it. A datagram remembers the size of its
//! fragments ([`Segment::Fragments`](crate::frame::Segment)) and is cut again at the edge, in order. That is
//! what Linux does (`nf_defrag_ipv4`), and it is safer than to pass fragments on one by one: nothing is known of
//! a datagram before its last fragment, neither whether its fragments agree nor whether they ever come, and here
//! a fragment that comes to nothing has made no connection and reached nobody. What it costs is a copy.

use std::net::Ipv4Addr;

use super::Context;
use super::packet::{Packet, View};
use crate::counters::Row;
use crate::drops::DropReason;
use crate::frame::{Checksum, Frame};
use crate::shared::{DatagramKey, FragmentSource};
use crate::snapshot::{Port, UplinkMode};
use crate::table::fragment_table::Fragment;
use crate::wire::ethernet;
use crate::wire::ipv4::Ipv4;

/// The whole packet that is in `frame`, or the datagram that the fragment in it completes, which then is in
/// `frame`. `None` if it waits for others.
#[inline(always)]
pub(super) fn whole(
    cx: &Context<'_>,
    frame: &mut Frame,
    packet: &Packet,
    ip: Ipv4,
) -> Result<Option<View>, DropReason> {
    if ip.is_fragment { gather(cx, frame, &ip) } else { View::parse(frame, packet, ip).map(Some) }
}

#[cold]
fn gather(cx: &Context<'_>, frame: &mut Frame, ip: &Ipv4) -> Result<Option<View>, DropReason> {
    if frame.offload.is_super() || matches!(frame.offload.checksum, Checksum::Partial { .. }) {
        // Both are about a transport that is not all here.
        return Err(DropReason::BadOffload);
    }
    let (headers, payload) =
        frame.bytes()[..ethernet::HEADER_LEN + ip.total_len].split_at(ethernet::HEADER_LEN + ip.header_len);
    let source = source(cx.ingress, ip.src);
    let key = DatagramKey { src: ip.src, dst: ip.dst, protocol: ip.protocol, id: ip.id };
    let lost = |source: FragmentSource, count, reason| {
        // A port that is gone has taken its counters along; its frames count where we are.
        let port = cx.snapshot.port(source.port).map_or(cx.ingress, |port| port);
        count_lost(cx, port, count, reason);
    };
    let fragment = Fragment { ip, headers, payload };
    let Some(datagram) = cx.shared.fragments.add(source, key, &fragment, cx.now, lost)? else {
        return Ok(None);
    };
    row(cx, cx.ingress).reassembled.add(datagram.fragments() as u64 - 1);
    datagram.assemble(frame);
    let packet = Packet::parse(frame)?;
    View::parse(frame, &packet, View::header(frame)?).map(Some)
}

/// Who pays for a fragment. A container's sender addresses are its own choice, so its port pays for all of them.
fn source(ingress: &Port, sender: Ipv4Addr) -> FragmentSource {
    FragmentSource { port: ingress.id, sender: ingress.network.is_none().then_some(sender) }
}

/// Counts fragments that waited in vain.
pub(super) fn count_lost(cx: &Context<'_>, port: &Port, count: usize, reason: DropReason) {
    row(cx, port).dropped_many(reason, u32::try_from(count).unwrap_or(u32::MAX), cx.now);
}

fn row<'a>(cx: &Context<'_>, port: &'a Port) -> &'a Row {
    port.counters.row(cx.worker)
}

/// Whether the datagram is the switch's to reassemble, and not only to pass on: then its sender is told if that
/// fails (RFC 1122 3.3.2; a router is no destination, RFC 792).
pub(super) fn is_for_us(cx: &Context<'_>, ip: &Ipv4) -> bool {
    match cx.ingress.network.and_then(|id| cx.snapshot.network(id)) {
        Some(network) => network.gateway == Some(ip.dst) || cx.snapshot.is_hosts(ip.dst),
        None => cx
            .snapshot
            .uplink_at(cx.ingress)
            .is_some_and(|uplink| uplink.mode == UplinkMode::Own && uplink.host_addresses.contains(&ip.dst)),
    }
}
