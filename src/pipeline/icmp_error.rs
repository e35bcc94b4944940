//! ICMP errors: whether one may be sent (RFC 1812 4.3.2.7), how often (4.3.2.8), and where to.
//!
//! An error is made of the frame as it came in, so that its sender recognizes what is quoted, and goes back the
//! way it came. How many there may be is counted for all workers together, and each port has a share of it.

use std::net::Ipv4Addr;

use super::Context;
use super::packet::{is_icmp_error, is_martian_source};
use crate::addr::MacAddr;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmpv4::{self, Error};
use crate::wire::ipv4::Ipv4;

/// Refuses the packet in `frame` with `reason`, and tells its sender by `error` if that is allowed.
#[cold]
pub(super) fn refuse(
    cx: &mut Context<'_>,
    frame: &Frame,
    ip: &Ipv4,
    error: Error,
    reason: DropReason,
) -> DropReason {
    let Ok(eth) = Ethernet::parse(frame.bytes()) else { return reason };
    let Some((mac, source)) = speaker(cx, ip, error) else { return reason };
    let unanswerable = is_icmp_error(ip, frame)
        || ip.fragment_offset > 0
        || eth.dst.is_group()
        || is_martian_source(ip.src)
        || ip.dst.is_multicast()
        || ip.dst.is_broadcast();
    if unanswerable || !cx.shared.icmp_errors.allows(cx.ingress.id.index(), cx.now) {
        return reason;
    }
    let quoted = &frame.bytes()[ethernet::HEADER_LEN..ethernet::HEADER_LEN + ip.total_len];
    let mut bytes = [0; ethernet::HEADER_LEN + icmpv4::ERROR_MAX];
    ethernet::write(&mut bytes, eth.src, mac, ethernet::IPV4);
    let len = error.write(&mut bytes[ethernet::HEADER_LEN..], source, ip.src, quoted);
    let mut answer = cx.out.fresh();
    answer.fill(&bytes[..ethernet::HEADER_LEN + len], Offload::NONE);
    let port = cx.ingress.id;
    cx.originate(answer, [port]);
    reason
}

/// The addresses that the switch speaks with on the link that the packet came from: on the uplink, the one that the
/// packet was for, or if that is not the switch's, its address there. What a destination itself says,
/// that nothing there listens, comes from the destination where that is the host whose address we share. On a LAN the
/// switch says nothing.
fn speaker(cx: &Context<'_>, ip: &Ipv4, error: Error) -> Option<(MacAddr, Ipv4Addr)> {
    let Some(network) = cx.ingress.network else {
        let uplink = cx.snapshot.uplink_at(cx.ingress)?;
        let own = uplink.address.map(|link| link.addr());
        let source = if uplink.host_addresses.contains(&ip.dst) { ip.dst } else { own? };
        return Some((uplink.mac, source));
    };
    let network = cx.snapshot.network(network)?;
    let by_destination =
        matches!(error, Error::PortUnreachable | Error::ProtocolUnreachable) && cx.snapshot.is_hosts(ip.dst);
    let gateway = network.gateway?;
    Some((network.gateway_mac, if by_destination { ip.dst } else { gateway }))
}
