//! Address translation in the story of a frame: where a packet really goes, and what it becomes.
//!
//! `inbound_*` find out the destination and change nothing; [`outbound`] makes or refreshes the connection
//! once a route, the policy and a neighbor allow it. A packet between two containers by way of the uplink's address
//! (hairpin) is two translations of one packet: first outward, so that its source is shown as an external
//! endpoint (RFC 4787 REQ-9), then inward.
//!
//! # Several uplinks
//! A network has one of them, which new connections of its containers leave by, with its address. Who calls a published
//! port may do so at any uplink, and is answered by that one: a connection belongs to the uplink that has its outside
//! address ([`way_out`]), and what comes in by another one is none of it. External ports are dealt once for all uplinks
//! together, so that a mapping is one number wherever it is seen.
//!
//! # ICMP errors
//! An error belongs to the connection of the packet that it quotes, whoever sends it (RFC 5508 REQ-4 and 5): routers
//! on the way are no party to the connection. Its quote becomes what the receiver has once sent, and is told by
//! the address that the receiver knows. From inside, it must come from the port that the connection belongs to; its
//! own source address may be that of a router or host behind the container, since nobody outside sees it.
//! Errors make, refresh and end nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::flow_cache::Repeats;
use super::neighbor::Resolved;
use super::packet::{Flow, Packet, Quoted, View, is_icmp_error, is_martian_destination, is_martian_source};
use super::route::Link;
use super::{Context, icmp_error, reassembly};
use crate::addr::{Endpoint, MacAddr, NetworkId, Protocol};
use crate::drops::DropReason;
use crate::frame::{Frame, Segment};
use crate::shared::Ask;
use crate::snapshot::{Network, NetworkMode, Port, Publication, Scope, Target, Uplink, UplinkMode};
use crate::table::conntrack::Seen;
use crate::table::policy::Zone;
use crate::wire::edit::Endpoints;
use crate::wire::icmpv4::Error;
use crate::wire::ipv4::Ipv4;
use crate::wire::transport::{Kind, Transport};

/// What of a packet is translated.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject {
    /// Its endpoints.
    Flow(Flow),
    /// The endpoints of the packet that it quotes, and its own addresses.
    Error(Quoted),
    /// Nothing: it stays on its network, or is routed with the addresses that it has.
    Nothing,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way<'a> {
    /// To a station of this network, untranslated: from another one on it, or from the world.
    Along(&'a Network),
    /// To a station of another network, untranslated but tracked; of this one, or from the world, where a rule may
    /// be about that.
    Between(&'a Network),
    /// To the world: masqueraded to `external`, or with the addresses that it has.
    Out { uplink: &'a Uplink, external: Ipv4Addr, masked: bool },
    /// From the world to the container at `inside`, by a connection or a publication.
    In { network: &'a Network, inside: Endpoint, target: Option<Target> },
    /// From a container to the one at `inside`, by way of the uplink's address.
    Around { network: &'a Network, external: Ipv4Addr, inside: Endpoint, target: Option<Target> },
}

impl Way<'_> {
    /// Whether it leads to another network than the one that the packet came `from`.
    pub(super) fn is_across(&self, from: Option<NetworkId>) -> bool {
        match self {
            Way::Between(to) | Way::Around { network: to, .. } => from.is_some_and(|from| from != to.id),
            Way::Along(_) | Way::Out { .. } | Way::In { .. } => false,
        }
    }
}

/// A packet whose destination is known.
#[derive(Debug)]
pub(super) struct Arrived<'a> {
    pub(super) view: View,
    pub(super) subject: Subject,
    pub(super) way: Way<'a>,
}

/// A packet from a container that is not for the gateway itself.
#[inline(always)]
pub(super) fn inbound_from_network<'a>(
    cx: &mut Context<'a>,
    frame: &Frame,
    network: &'a Network,
    view: View,
) -> Result<Arrived<'a>, DropReason> {
    let ip = view.ip;
    if is_martian_destination(ip.dst) {
        return Err(DropReason::MartianDestination);
    }
    if let Some(other) = cx.snapshot.network_of(ip.dst) {
        if other.is_broadcast(ip.dst) {
            return Err(DropReason::MartianDestination);
        }
        if other.gateway == Some(ip.dst) {
            // Each network has a gateway of its own.
            return Err(icmp_error::refuse(cx, frame, &ip, Error::Prohibited, DropReason::Isolated));
        }
        let policy = &cx.snapshot.policy;
        if other.id == network.id && !policy.is_about_neighbors() && !policy.is_about_host() {
            return Ok(Arrived { view, subject: Subject::Nothing, way: Way::Along(network) });
        }
        let subject = untranslated(cx, frame, &view)?;
        // There is no other router on the way that could speak about it.
        if let Subject::Error(quoted) = subject
            && quoted.flow.dst.ip != ip.src
        {
            return Err(DropReason::IcmpErrorUnmatched);
        }
        return Ok(Arrived { view, subject, way: Way::Between(other) });
    }
    if network.mode == NetworkMode::Internal {
        return Err(icmp_error::refuse(cx, frame, &ip, Error::NetworkUnreachable, DropReason::Internal));
    }
    let Some(uplink) = way_out(cx, frame, network, &view) else {
        return Err(icmp_error::refuse(cx, frame, &ip, Error::NetworkUnreachable, DropReason::NoRoute));
    };
    let Some(external) = uplink.address.filter(|_| uplink.up).map(|net| net.addr()) else {
        return Err(icmp_error::refuse(cx, frame, &ip, Error::NetworkUnreachable, DropReason::UplinkDown));
    };
    if uplink.is_broadcast(ip.dst) {
        // Directed broadcasts are not for routers to pass on (RFC 2644).
        return Err(DropReason::MartianDestination);
    }
    if network.mode == NetworkMode::Routed && !cx.snapshot.is_hosts(ip.dst) {
        let subject = routed_subject(cx, frame, &view)?;
        return Ok(Arrived { view, subject, way: Way::Out { uplink, external, masked: false } });
    }
    let subject = subject(cx, frame, &view)?;
    if cx.snapshot.is_hosts(ip.dst) {
        return around(cx, frame, external, view, subject);
    }
    if let Subject::Error(quoted) = subject {
        shown_in_quote(cx, &quoted)?;
    }
    Ok(Arrived { view, subject, way: Way::Out { uplink, external, masked: true } })
}

/// The uplink that a packet from a container leaves by: the one that its connection is seen at from outside, and for a new
/// one the network's. So who is called by another uplink than the network's answers by that one.
fn way_out<'a>(cx: &Context<'a>, frame: &Frame, network: &Network, view: &View) -> Option<&'a Arc<Uplink>> {
    let usual = cx.snapshot.uplink_of(network);
    // Where there is one only, nothing has to be looked for.
    let known = if cx.snapshot.uplinks.len() > 1 { seen_at(cx, frame, view) } else { None };
    known.or(usual)
}

/// The uplink that the connection of a packet from a container is seen at from outside, or that of the packet which it
/// quotes.
fn seen_at<'a>(cx: &Context<'a>, frame: &Frame, view: &View) -> Option<&'a Arc<Uplink>> {
    let (kind, inside, remote) = match (view.flow(), view.transport) {
        (Some(Flow { kind, src, dst }), _) => (kind, src, dst),
        (None, Transport::IcmpError) => {
            let Flow { kind, src, dst } = Quoted::parse(frame, view).ok()?.flow;
            (kind, dst, src)
        }
        (None, _) => return None,
    };
    let shown = cx.shared.conntrack.peek_outward(kind.protocol(), inside, remote)?;
    cx.snapshot.uplink_with(shown.ip)
}

/// Whether a packet from a source that is not of its network may be an ICMP error from a router or host behind a
/// container, about one of that container's connections with the world (RFC 5508 REQ-5). Whether it is, the
/// connection decides.
pub(super) fn comes_from_behind(cx: &Context<'_>, frame: &Frame, ip: &Ipv4) -> bool {
    let is_ours = |address| {
        cx.snapshot.network_of(address).is_some()
            || cx.snapshot.is_hosts(address)
            || cx.snapshot.uplinks.iter().any(|uplink| uplink.is_broadcast(address))
    };
    let ingress = cx.ingress.network.and_then(|id| cx.snapshot.network(id));
    let is_translated = ingress.is_some_and(|network| network.mode == NetworkMode::Nat);
    is_translated && is_icmp_error(ip, frame) && !ip.is_fragment && !is_ours(ip.src) && !is_ours(ip.dst)
}

/// What the world sees in the place of the container that sends an error: the packet that it quotes came in, to the
/// container. Nobody speaks about the connections of another port.
fn shown_in_quote(cx: &Context<'_>, quoted: &Quoted) -> Result<Endpoint, DropReason> {
    let Flow { kind, src: remote, dst: inside } = quoted.flow;
    let (conntrack, protocol) = (&cx.shared.conntrack, kind.protocol());
    let owner = conntrack.owner(protocol, inside, remote);
    let shown = conntrack.peek_outward(protocol, inside, remote).filter(|_| owner == Some(cx.ingress.id));
    shown.ok_or(DropReason::IcmpErrorUnmatched)
}

/// What of a packet that is not translated belongs to a connection. An error belongs to the one that it quotes.
pub(super) fn untranslated(cx: &Context<'_>, frame: &Frame, view: &View) -> Result<Subject, DropReason> {
    if let Some(flow) = view.flow() {
        return Ok(Subject::Flow(flow));
    }
    if view.transport != Transport::IcmpError {
        return Ok(Subject::Nothing);
    }
    let quoted = Quoted::parse(frame, view)?;
    let Flow { kind, src, dst } = quoted.flow;
    let is_known = cx.shared.conntrack.has_direct(kind.protocol(), src, dst, kind == Kind::EchoReply);
    if is_known { Ok(Subject::Error(quoted)) } else { Err(DropReason::IcmpErrorUnmatched) }
}

/// As [`untranslated`], between the world and a network that is only routed. There is nothing to remember about
/// it as long as no rule is about who speaks first.
fn routed_subject(cx: &Context<'_>, frame: &Frame, view: &View) -> Result<Subject, DropReason> {
    if cx.snapshot.policy.has_no_rules() { Ok(Subject::Nothing) } else { untranslated(cx, frame, view) }
}

/// What of the packet can be translated.
#[inline(always)]
fn subject(cx: &mut Context<'_>, frame: &Frame, view: &View) -> Result<Subject, DropReason> {
    match (view.flow(), view.transport) {
        (Some(flow), _) => Ok(Subject::Flow(flow)),
        (None, Transport::IcmpError) => Ok(Subject::Error(Quoted::parse(frame, view)?)),
        (None, Transport::IcmpOther) => Err(DropReason::NotTranslatable),
        (None, _) => {
            let reason = DropReason::NotTranslatable;
            Err(icmp_error::refuse(cx, frame, &view.ip, Error::ProtocolUnreachable, reason))
        }
    }
}

/// A packet from a container to an address of the host.
fn around<'a>(
    cx: &mut Context<'a>,
    frame: &Frame,
    external: Ipv4Addr,
    view: View,
    subject: Subject,
) -> Result<Arrived<'a>, DropReason> {
    let conntrack = &cx.shared.conntrack;
    let (inside, target) = match subject {
        Subject::Flow(Flow { kind, src, dst }) => {
            let protocol = kind.protocol();
            let publication = cx.snapshot.publications.find(protocol, dst);
            let own = conntrack
                .peek_outward(protocol, src, dst)
                .or_else(|| conntrack.mapping(protocol, src).map(|port| Endpoint::new(external, port)));
            let known = own.and_then(|own| known_inside(cx, protocol, dst, own, publication));
            let new =
                || publication.and_then(|p| cx.snapshot.publications.choose(p, dst.port, src)).map(chosen);
            let holder = || {
                let holder = conntrack.holder(protocol, dst.port);
                holder.filter(|holder| is_masqueraded_to(cx, *holder, dst.ip)).map(|inside| (inside, None))
            };
            known.or_else(new).or_else(holder).ok_or_else(|| {
                let reason = DropReason::HostService;
                icmp_error::refuse(cx, frame, &view.ip, Error::PortUnreachable, reason)
            })?
        }
        Subject::Error(quoted) => {
            let Flow { kind, src: peer, .. } = quoted.flow;
            let protocol = kind.protocol();
            let shown = shown_in_quote(cx, &quoted)?;
            let publication = cx.snapshot.publications.find(protocol, peer);
            let (inside, _) =
                known_inside(cx, protocol, peer, shown, publication).ok_or(DropReason::IcmpErrorUnmatched)?;
            (inside, None)
        }
        Subject::Nothing => return Err(DropReason::NotTranslatable),
    };
    let network = cx.snapshot.network_of(inside.ip).ok_or(DropReason::PortGone)?;
    Ok(Arrived { view, subject, way: Way::Around { network, external, inside, target } })
}

/// Whether new connections of a container are seen at this address of an uplink.
fn is_masqueraded_to(cx: &Context<'_>, inside: Endpoint, ip: Ipv4Addr) -> bool {
    let network = cx.snapshot.network_of(inside.ip);
    let uplink = network.and_then(|network| cx.snapshot.uplink_of(network));
    uplink.and_then(|uplink| uplink.address).is_some_and(|address| address.addr() == ip)
}

/// The container that a packet from `remote` to `outside` has a connection with, and if that is by a publication,
/// which target it is.
fn known_inside(
    cx: &Context<'_>,
    protocol: Protocol,
    outside: Endpoint,
    remote: Endpoint,
    publication: Option<&Publication>,
) -> Option<(Endpoint, Option<Target>)> {
    let peek = |target| cx.shared.conntrack.peek_inward(protocol, outside, remote, target);
    let Some(publication) = publication else { return peek(None).map(|inside| (inside, None)) };
    // Connections stay where they are, whichever targets new ones would go to.
    publication
        .targets_at(outside.port)
        .find_map(|target| peek(Some(target.endpoint)).map(|inside| (inside, Some(target))))
}

const fn chosen(target: Target) -> (Endpoint, Option<Target>) {
    (target.endpoint, Some(target))
}

/// What a packet on the uplink is to us.
#[derive(Debug)]
pub(super) enum FromUplink<'a> {
    /// A fragment of a datagram; others are still to come.
    Incomplete,
    /// It goes to a container.
    Arrived(Arrived<'a>),
    /// It asks an address that is ours alone for an echo.
    Echo(View),
    /// It is the host's, or nobody's.
    NotOurs,
}

/// A packet from the uplink to its MAC address.
pub(super) fn inbound_from_uplink<'a>(
    cx: &mut Context<'a>,
    frame: &mut Frame,
    uplink: &'a Uplink,
    packet: &Packet,
) -> Result<FromUplink<'a>, DropReason> {
    let ip = View::header(frame)?;
    let network = cx.snapshot.network_of(ip.dst);
    if network.is_some_and(|network| network.mode != NetworkMode::Routed || network.uplink != uplink.id) {
        // Networks behind the translation are reached by published ports, never by a route, and the others by their
        // own uplink.
        return Err(DropReason::Unsolicited);
    }
    if ip.dst.is_loopback() || network.is_some_and(|network| network.is_broadcast(ip.dst)) {
        return Err(DropReason::MartianDestination);
    }
    if network.is_none() && !uplink.host_addresses.contains(&ip.dst) {
        return Ok(FromUplink::NotOurs);
    }
    if is_martian_source(ip.src)
        || uplink.host_addresses.contains(&ip.src)
        || is_ours_alone(cx, ip.src)
        || uplink.is_broadcast(ip.src)
        || cx.snapshot.network_of(ip.src).is_some()
    {
        return Err(DropReason::MartianSource);
    }
    if let Some(network) = network {
        return routed_from_uplink(cx, frame, network, packet, ip);
    }
    let Some(view) = reassembly::whole(cx, frame, packet, ip)? else { return Ok(FromUplink::Incomplete) };
    let (subject, protocol, outside, remote) = match (view.flow(), view.transport) {
        (Some(Flow { kind: Kind::EchoRequest, .. }), _) if uplink.mode == UplinkMode::Own => {
            return Ok(FromUplink::Echo(view));
        }
        (Some(flow), _) => (Subject::Flow(flow), flow.kind.protocol(), flow.dst, flow.src),
        (None, Transport::IcmpError) => match Quoted::parse(frame, &view) {
            // The error is about a packet that went out, so its quote goes from us to the remote.
            Ok(quoted) => {
                let Flow { kind, src: outside, dst: remote } = quoted.flow;
                (Subject::Error(quoted), kind.protocol(), outside, remote)
            }
            // Wrong checksums are nobody's.
            Err(DropReason::BadIcmp) => return Err(DropReason::BadIcmp),
            Err(reason) => return left(uplink, reason),
        },
        (None, _) => return left(uplink, DropReason::NotTranslatable),
    };
    // What is for the address of another uplink is the host's or nobody's, but never ours.
    let is_here = uplink.addresses.contains(&ip.dst) || cx.snapshot.uplink_with(ip.dst).is_none();
    let published = cx.snapshot.publications.find(protocol, outside);
    let publication = published.filter(|_| is_here);
    let known = if is_here { known_inside(cx, protocol, outside, remote, publication) } else { None };
    let (new, reason) = match (subject, publication) {
        (Subject::Flow(_), Some(publication)) if known.is_none() => {
            if publication.scope == Scope::Lan && cx.snapshot.end(remote.ip, Some(uplink)).zone != Zone::Lan {
                return Err(DropReason::PublicationScope);
            }
            let target = cx.snapshot.publications.choose(publication, outside.port, remote);
            (target.map(chosen), DropReason::Unsolicited)
        }
        (Subject::Flow(_), _) => (None, DropReason::Unsolicited),
        (Subject::Error(_) | Subject::Nothing, _) => (None, DropReason::IcmpErrorUnmatched),
    };
    let Some((inside, target)) = known.or(new) else {
        // The host does not see these ports, so what is about them is not for it either.
        let is_hidden = cx.shared.conntrack.masquerades_with(outside.port) && protocol != Protocol::Icmp
            || published.is_some() && !is_here;
        return if is_hidden { Err(reason) } else { left(uplink, reason) };
    };
    let network = cx.snapshot.network_of(inside.ip).ok_or(DropReason::PortGone)?;
    Ok(FromUplink::Arrived(Arrived { view, subject, way: Way::In { network, inside, target } }))
}

/// Whether an address is that of an uplink which has one of its own: nobody outside speaks with it.
fn is_ours_alone(cx: &Context<'_>, ip: Ipv4Addr) -> bool {
    let own = |uplink: &&Arc<Uplink>| uplink.mode == UplinkMode::Own;
    cx.snapshot.uplinks.iter().filter(own).any(|uplink| uplink.addresses.contains(&ip))
}

/// What we cannot use is the host's, where the address is shared, and nobody's where it is ours alone.
fn left<'a>(uplink: &Uplink, reason: DropReason) -> Result<FromUplink<'a>, DropReason> {
    match uplink.mode {
        UplinkMode::Shared => Ok(FromUplink::NotOurs),
        UplinkMode::Own => Err(reason),
    }
}

/// A packet from the uplink to a network of mode `routed`, whose addresses the world knows.
fn routed_from_uplink<'a>(
    cx: &mut Context<'a>,
    frame: &mut Frame,
    network: &'a Network,
    packet: &Packet,
    ip: Ipv4,
) -> Result<FromUplink<'a>, DropReason> {
    let Some(view) = reassembly::whole(cx, frame, packet, ip)? else { return Ok(FromUplink::Incomplete) };
    if network.gateway != Some(ip.dst) {
        let subject = routed_subject(cx, frame, &view)?;
        let plain = cx.snapshot.policy.has_no_rules();
        let way = if plain { Way::Along(network) } else { Way::Between(network) };
        return Ok(FromUplink::Arrived(Arrived { view, subject, way }));
    }
    // The gateway's services are for the network.
    if view.transport.is_echo_request() { Ok(FromUplink::Echo(view)) } else { Err(DropReason::Unsolicited) }
}

/// What becomes of a packet's headers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Addresses and ports stay.
    Nothing,
    /// It has new endpoints.
    Flow(Kind, Endpoints),
    /// It and the packet that it quotes have new endpoints; its own have no ports.
    Error { quoted: Quoted, inner: Endpoints, outer: Endpoints },
}

impl Change {
    /// Whether the packet gets another source address.
    pub(super) fn hides_source(&self) -> bool {
        match self {
            Change::Nothing => false,
            Change::Flow(_, outer) | Change::Error { outer, .. } => outer.src.is_some(),
        }
    }
}

/// A packet ready to be rewritten.
#[derive(Debug)]
pub(super) struct Leaving<'a> {
    pub(super) view: &'a View,
    pub(super) segment: Segment,
    pub(super) link: &'a Link<'a>,
    pub(super) mac: MacAddr,
    pub(super) change: Change,
    pub(super) repeats: Repeats,
}

/// Makes or refreshes the packet's connection, and says what it becomes.
#[inline(always)]
pub(super) fn outbound<'a>(
    cx: &mut Context<'_>,
    frame: &Frame,
    resolved: &'a Resolved<'a>,
) -> Result<Leaving<'a>, DropReason> {
    let &Resolved { routed, mac } = resolved;
    let arrived = routed.arrived;
    let change = match &arrived.subject {
        Subject::Nothing => Ok((Change::Nothing, Repeats::Always)),
        Subject::Flow(flow) => flow_change(cx, arrived, flow),
        Subject::Error(quoted) => Ok((error_change(cx, arrived, *quoted)?, Repeats::Never)),
    };
    let (change, repeats) = change.inspect_err(|&reason| {
        let out_of_resources = matches!(
            reason,
            DropReason::ConntrackFull
                | DropReason::ConntrackQuota
                | DropReason::NatPortQuota
                | DropReason::NatPortsExhausted
        );
        if out_of_resources {
            icmp_error::refuse(cx, frame, &arrived.view.ip, Error::Prohibited, reason);
        }
    })?;
    Ok(Leaving { view: &arrived.view, segment: routed.segment, link: &routed.link, mac, change, repeats })
}

#[inline(always)]
fn flow_change(
    cx: &Context<'_>,
    arrived: &Arrived<'_>,
    flow: &Flow,
) -> Result<(Change, Repeats), DropReason> {
    let &Flow { kind, src, dst } = flow;
    let conntrack = &cx.shared.conntrack;
    let seen = seen(cx, &arrived.view, kind);
    let ask = |owner: &Port, hairpin| ask(cx, seen, owner, hairpin);
    let outward = |hairpin| ask(cx.ingress, hairpin);
    let inward = |target: Option<Target>, hairpin| {
        let owner = target.map_or(Some(cx.ingress), |t| cx.snapshot.port(t.to).map(|port| &**port));
        owner.map(|owner| ask(owner, hairpin)).ok_or(DropReason::PortGone)
    };
    let (endpoints, tracked) = match arrived.way {
        Way::Along(_) => return Ok((Change::Nothing, Repeats::Always)),
        Way::Between(_) | Way::Out { masked: false, .. } => {
            let strict = arrived.way.is_across(cx.ingress.network);
            return Ok((Change::Nothing, direct(cx, &arrived.view, flow, strict)?));
        }
        Way::Out { external, .. } => {
            let shown = conntrack.outward(src, dst, external, &outward(false))?;
            (Endpoints { src: Some(shown.endpoint), dst: None }, shown.tracked)
        }
        Way::In { target, .. } => {
            let endpoint = target.map(|target| target.endpoint);
            let inside = conntrack.inward(dst, src, endpoint, &inward(target, false)?)?;
            (Endpoints { src: None, dst: Some(inside.endpoint) }, inside.tracked)
        }
        Way::Around { external, target, .. } => {
            let endpoint = target.map(|target| target.endpoint);
            let shown = conntrack.outward(src, dst, external, &outward(true))?.endpoint;
            let inside = conntrack.inward(dst, shown, endpoint, &inward(target, true)?)?.endpoint;
            (Endpoints { src: Some(shown), dst: Some(inside) }, None)
        }
    };
    Ok((Change::Flow(kind, endpoints), tracked.map_or(Repeats::Never, Repeats::Tracked)))
}

/// Makes or refreshes the connection of a packet that is not translated, and says whether what becomes of it becomes
/// of the next ones.
///
/// Unless it is `strict`, a packet that is of no connection passes: it was there before the rule for which it is
/// tracked now, and both sides may go on as far as they may speak first.
pub(super) fn direct(
    cx: &Context<'_>,
    view: &View,
    flow: &Flow,
    strict: bool,
) -> Result<Repeats, DropReason> {
    // What comes from the world counts for who is called.
    let called = || cx.snapshot.port_with(flow.dst.ip);
    let owner = if cx.ingress.network.is_none() || cx.ingress.lan { called() } else { None };
    let ask = ask(cx, seen(cx, view, flow.kind), owner.unwrap_or(cx.ingress), false);
    match cx.shared.conntrack.direct(flow.src, flow.dst, &ask) {
        Ok(tracked) => Ok(tracked.map_or(Repeats::Never, Repeats::Tracked)),
        Err(DropReason::TcpOutOfState | DropReason::Unsolicited) if !strict => Ok(Repeats::Always),
        Err(reason) => Err(reason),
    }
}

/// What a packet means to its connection.
#[inline(always)]
fn seen(cx: &Context<'_>, view: &View, kind: Kind) -> Seen {
    Seen {
        protocol: kind.protocol(),
        segment: view.transport.segment(),
        is_answer: kind == Kind::EchoReply,
        bytes: view.ip.total_len,
        now: cx.now,
    }
}

/// What it asks of the connection table on the account of `owner`.
#[inline(always)]
fn ask<'a>(cx: &Context<'a>, seen: Seen, owner: &Port, hairpin: bool) -> Ask<'a> {
    let &Port { id, quota, nat_ports, .. } = owner;
    let called = id != cx.ingress.id;
    Ask { seen, timeouts: &cx.snapshot.timeouts, owner: id, quota, nat_ports, hairpin, called }
}

/// Errors use connections as they are: they make none, refresh none and end none (RFC 5508 REQ-6).
fn error_change(cx: &Context<'_>, arrived: &Arrived<'_>, quoted: Quoted) -> Result<Change, DropReason> {
    let (shown, inside) = match arrived.way {
        Way::Along(_) | Way::Between(_) | Way::Out { masked: false, .. } => return Ok(Change::Nothing),
        Way::Out { .. } => (Some(shown_in_quote(cx, &quoted)?), None),
        Way::In { inside, .. } => (None, Some(inside)),
        Way::Around { inside, .. } => (Some(shown_in_quote(cx, &quoted)?), Some(inside)),
    };
    // What the quoted packet was sent to is where the error comes from, and the other way round.
    let outer = Endpoints { src: shown, dst: inside };
    let inner = Endpoints { src: inside, dst: shown };
    Ok(Change::Error { quoted, inner, outer })
}
