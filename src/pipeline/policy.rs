//! Policy in the story of a frame: may the packet open what it opens, or is it of a connection that was allowed?
//!
//! What a [`Policy`] allows goes on without another look: if it is of a connection, that will be found; if not, one
//! is made. Only what it forbids is looked up, for it may be an answer, or belong to a connection that the other
//! side has opened. A TCP segment that opens a connection is never an answer, whatever the table still remembers.
//! So connections need no mark of who allowed them, and when rules change, control ends those that are not allowed
//! any more.
//!
//! This comes before the neighbor is looked for, so that nobody hears of what is refused, not even by ARP. Whoever
//! is refused on a network is told (ICMP 3/13); the world outside is not.
//!
//! # What is switched
//! Stations of one network talk to each other without a router. Only where a rule may be about two of them
//! ([`Policy::is_about_neighbors`]), or about the host where that is one of them, is that looked at: then IPv4 between
//! single stations is tracked as it is between networks, in whole datagrams. What has no connections there, as IPv6, is
//! judged frame by frame, by what can be known of it ([`Unrouted`]). ARP, broadcast and multicast pass, which a link
//! does not work without; a packet for one station in a frame for all does not. A LAN has the world on it, and rules
//! about that are asked there as well.
//!
//! **The flow cache** repeats what was allowed for as long as the configuration and the connection stay as they
//! are.
//!
//! [`Policy`]: crate::table::policy::Policy
//! [`Policy::is_about_neighbors`]: crate::table::policy::Policy::is_about_neighbors

use std::net::Ipv4Addr;

use super::flow_cache::Repeats;
use super::host_port::Addressee;
use super::nat::{self, Arrived, Subject, Way};
use super::packet::{Flow, View, untagged_type};
use super::route::Routed;
use super::switch::Admitted;
use super::unrouted::Unrouted;
use super::{Context, icmp_error, neighbor, reassembly};
use crate::addr::{Endpoint, Protocol};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::table::conntrack::tcp::Tcp;
use crate::table::policy::{Action, End, Question, Ruling, Zone};
use crate::wire::icmpv4::Error;
use crate::wire::transport::Kind;
use crate::wire::{ethernet, ipv4};

/// A packet that may go where it is routed to.
#[derive(Debug)]
pub(super) struct Permitted<'a> {
    pub(super) routed: &'a Routed<'a>,
}

/// Sees that a routed packet may go on.
#[inline(always)]
pub(super) fn permit<'a>(
    cx: &mut Context<'_>,
    frame: &Frame,
    routed: &'a Routed<'a>,
) -> Result<Permitted<'a>, DropReason> {
    if !cx.snapshot.policy.is_plain() || routed.arrived.way.is_across(cx.ingress.network) {
        examine(cx, frame, routed.arrived)?;
    }
    Ok(Permitted { routed })
}

fn examine(cx: &mut Context<'_>, frame: &Frame, arrived: &Arrived<'_>) -> Result<(), DropReason> {
    let view = &arrived.view;
    let flow_to = || Endpoint::new(view.ip.dst, view.flow().map_or(0, |flow| flow.dst.port));
    let to = match (arrived.way, &arrived.subject) {
        // Errors are of a connection, as was seen when their way was found.
        (Way::Along(_), _) | (_, Subject::Error(_)) => return Ok(()),
        (Way::In { inside, .. } | Way::Around { inside, .. }, _) => inside,
        (Way::Between(_) | Way::Out { .. }, _) => flow_to(),
    };
    let by = if let Way::Out { uplink, .. } = arrived.way { Some(uplink) } else { None };
    let question = question(cx, view, cx.snapshot.end(to.ip, by), to.port);
    let ruling = cx.snapshot.policy.judge(&question);
    if ruling.action() == Action::Allow || is_established(cx, arrived) {
        return Ok(());
    }
    Err(refuse(cx, frame, view, ruling))
}

/// Sees that a packet may speak to the gateway, or to the host behind it.
pub(super) fn permit_to_host(cx: &mut Context<'_>, frame: &Frame, view: &View) -> Result<(), DropReason> {
    if cx.snapshot.policy.has_no_rules() {
        return Ok(());
    }
    let to = End { ip: view.ip.dst, zone: Zone::Host, port: None, network: None };
    let question = question(cx, view, to, view.flow().map_or(0, |flow| flow.dst.port));
    let ruling = cx.snapshot.policy.judge(&question);
    if ruling.action() == Action::Allow { Ok(()) } else { Err(refuse(cx, frame, view, ruling)) }
}

/// Sees that a frame may be switched, and says whether what becomes of it becomes of the next ones of its flow.
/// `None` if it is a fragment that waits for the rest of its datagram.
pub(super) fn permit_on_network(
    cx: &mut Context<'_>,
    frame: &mut Frame,
    admitted: &Admitted<'_>,
) -> Result<Option<Repeats>, DropReason> {
    let (eth, network, policy) = (&admitted.packet.eth, admitted.network, &cx.snapshot.policy);
    // The world is on a LAN, too.
    let is_about_others =
        policy.is_about_neighbors() || (network.gateway.is_none() && policy.is_about_outside());
    if !is_about_others && !policy.is_about_host() {
        return Ok(Some(Repeats::Always));
    }
    let addressee = Addressee::of(frame);
    if eth.dst.is_group() {
        // There are stations that take a packet to their own address out of such a frame.
        let is_for_one = |ip: Ipv4Addr| !(ip.is_multicast() || ip.is_broadcast() || network.is_broadcast(ip));
        return match addressee {
            Addressee::Ip(ip) if is_for_one(ip) => Err(DropReason::LinkBroadcast),
            Addressee::Ipv6(ip) if !ip.is_multicast() => Err(DropReason::LinkBroadcast),
            Addressee::Ip(_) | Addressee::Ipv6(_) | Addressee::All | Addressee::Other => {
                Ok(Some(Repeats::Always))
            }
        };
    }
    let receiver = neighbor::port_of(cx, network, eth.dst).and_then(|port| cx.snapshot.port(port));
    let is_hosts = cx.ingress.host.is_some() || receiver.is_some_and(|port| port.host.is_some());
    if !is_about_others && !is_hosts {
        return Ok(Some(Repeats::Always));
    }
    let to = |ip| match receiver {
        Some(port) => cx.snapshot.end_at(port, ip),
        None => cx.snapshot.end_on(network, ip),
    };
    match untagged_type(eth) {
        Some(ethernet::ARP) => return Ok(Some(Repeats::Always)),
        Some(ethernet::IPV4) => {}
        // Behind priority tags, where the rules would not find its ports.
        _ if matches!(addressee, Addressee::Ip(_)) => return Err(DropReason::PolicyDenied),
        _ => {
            let from = cx.snapshot.end_at(cx.ingress, Ipv4Addr::UNSPECIFIED);
            let name = Some(network.name.as_str());
            let to = match (receiver, network.gateway) {
                (Some(_), _) | (None, None) => to(Ipv4Addr::UNSPECIFIED),
                (None, Some(_)) => {
                    End { ip: Ipv4Addr::UNSPECIFIED, zone: Zone::Inside, port: None, network: name }
                }
            };
            let ruling = Unrouted::read(frame)?.judge(policy, from, to);
            if ruling.action() == Action::Allow {
                return Ok(Some(Repeats::Always));
            }
            cx.snapshot.policy.count_denied(ruling);
            return Err(DropReason::PolicyDenied);
        }
    }
    let ip = View::header(frame)?;
    let Some(view) = reassembly::whole(cx, frame, &admitted.packet, ip)? else { return Ok(None) };
    let called = view.flow().map_or(0, |flow| flow.dst.port);
    let ruling = cx.snapshot.policy.judge(&question(cx, &view, to(ip.dst), called));
    let allowed = ruling.action() == Action::Allow;
    let Some(flow) = view.flow() else {
        let is_related = || matches!(nat::untranslated(cx, frame, &view), Ok(Subject::Error(_)));
        return if allowed || is_related() {
            Ok(Some(Repeats::Never))
        } else {
            Err(refuse(cx, frame, &view, ruling))
        };
    };
    if !allowed && !is_answer(cx, &view, &flow) {
        return Err(refuse(cx, frame, &view, ruling));
    }
    nat::direct(cx, &view, &flow, false).map(Some)
}

fn question<'a>(cx: &Context<'a>, view: &View, to: End<'a>, port: u16) -> Question<'a> {
    let src = view.ip.src;
    let from = match cx.ingress.network {
        Some(_) => cx.snapshot.end_at(cx.ingress, src),
        None => cx.snapshot.end(src, cx.snapshot.uplink_at(cx.ingress).map(|uplink| &**uplink)),
    };
    let protocol = match view.ip.protocol {
        ipv4::TCP => Some(Protocol::Tcp),
        ipv4::UDP => Some(Protocol::Udp),
        ipv4::ICMP => Some(Protocol::Icmp),
        _ => None,
    };
    Question { from, to, protocol, port }
}

/// Whether a packet is of a connection that was allowed.
fn is_established(cx: &Context<'_>, arrived: &Arrived<'_>) -> bool {
    let Subject::Flow(flow) = &arrived.subject else { return false };
    let &Flow { kind, src, dst } = flow;
    let (conntrack, protocol) = (&cx.shared.conntrack, kind.protocol());
    match arrived.way {
        _ if opens(&arrived.view) => false,
        Way::Along(_) => false,
        Way::Between(_) | Way::Out { masked: false, .. } => is_answer(cx, &arrived.view, flow),
        Way::Out { .. } | Way::Around { .. } => conntrack.peek_outward(protocol, src, dst).is_some(),
        Way::In { inside, .. } => conntrack.peek_inward(protocol, dst, src, Some(inside)).is_some(),
    }
}

/// Whether a packet is of an untranslated connection that was allowed.
fn is_answer(cx: &Context<'_>, view: &View, &Flow { kind, src, dst }: &Flow) -> bool {
    let is_echo_reply = kind == Kind::EchoReply;
    !opens(view) && cx.shared.conntrack.has_direct(kind.protocol(), src, dst, is_echo_reply)
}

fn opens(view: &View) -> bool {
    view.transport.segment().is_some_and(|segment| Tcp::opens(&segment))
}

#[cold]
fn refuse(cx: &mut Context<'_>, frame: &Frame, view: &View, ruling: Ruling) -> DropReason {
    cx.snapshot.policy.count_denied(ruling);
    let reason = match ruling {
        Ruling::Isolated => DropReason::Isolated,
        Ruling::Rule(..) | Ruling::Default(_) | Ruling::Open => DropReason::PolicyDenied,
    };
    match cx.ingress.network {
        Some(_) => icmp_error::refuse(cx, frame, &view.ip, Error::Prohibited, reason),
        None => reason,
    }
}
