//! The pipeline: what becomes of a frame.
//!
//! ```text
//!  port ─▶ parse ─▶ admit ─▶ learn ─▶ classify ─┬─▶ switch ───────────────────────────────▶ port(s)
//!                                               ├─▶ gateway (ARP, echo, punt) ──▶ back to the ingress port
//!                                               └─▶ inbound ▶ route ▶ policy ▶ neighbor ▶ outbound ▶ rewrite ▶ port
//! ```
//!
//! [`story`] tells it, one line a step. Each step takes what the one before it proved, so that a skipped
//! one does not compile: a [`packet::Packet`] has an Ethernet header and honest promises, an admitted one
//! may speak on its network, a [`packet::View`] is a checked IPv4 packet and whole, an [`nat::Arrived`] one has a
//! destination, a [`route::Routed`] one a next hop, a [`policy::Permitted`] one may go there, a
//! [`neighbor::Resolved`] one has its MAC address, and a [`nat::Leaving`] one a connection.
//!
//! Nothing changes in a packet before the last step; until then it can wait, be refused, and be quoted to
//! its sender as it was. The core is pure: time is an argument, frames come from and go to an [`Outbox`],
//! and the tables are in [`Shared`]. A drop is a [`DropReason`], returned by `?` and counted in one place.
//!
//! A frame whose flow has just been told the story of does not hear it again: the [`flow_cache`] repeats how
//! it ended. It decides nothing itself, so whoever wants to know what becomes of a frame reads only this.
//!
//! The steps that a translated packet takes are always inlined into the story: what one proves for the next
//! then needs no copy, which saves a tenth of all instructions.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::addr::{NetworkId, PortId};
use crate::clock::Time;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload};
use crate::shared::{Service, Shared, Waiting};
use crate::snapshot::{Network, NetworkMode, Port, Snapshot, Uplink};
use crate::table::neighbor_table::{Answer, Event};
use crate::wire::ethernet;
use crate::wire::icmpv4::Error;

mod arp;
mod flow_cache;
mod gateway;
mod guard;
mod host_port;
mod icmp_error;
mod nat;
mod neighbor;
mod outbox;
mod packet;
mod policy;
mod punt;
mod reassembly;
mod rewrite;
mod route;
mod switch;
mod unrouted;

use flow_cache::{FlowCache, Key, Repeats};
use host_port::Addressee;
use nat::FromUplink;
pub use outbox::{Outbox, Send};
use packet::{Packet, View, untagged_type};
use route::Link;
use switch::Admitted;

/// How often the tables are looked through for what is due.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Connections that a poll looks at, per shard.
const EXPIRE_BUDGET: usize = 1024;

/// Neighbors that a poll looks at, per network.
const NEIGHBOR_BUDGET: usize = 256;

/// Polls between two searches for aged MAC addresses.
const FDB_EXPIRE_POLLS: u32 = 64;

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// To one port, as may the next ones of its flow.
    Forward(PortId, Repeats),
    /// To every port of a network but one.
    Flood { network: NetworkId, except: Option<PortId> },
    /// Nowhere: the gateway was its destination.
    Consumed,
    /// Nowhere: it is the host's business, or that of a LAN, and those have their own copy.
    LeaveToHost,
    /// Nowhere yet: a copy waits for its next hop to answer, or for the rest of its datagram.
    Waits,
}

/// What a frame's steps share. It holds no results of steps; those are passed on.
#[derive(Debug)]
struct Context<'a> {
    snapshot: &'a Snapshot,
    shared: &'a Shared,
    worker: usize,
    ingress: &'a Port,
    now: Time,
    out: &'a mut Outbox,
    /// Frames whose next hop has answered meanwhile.
    released: &'a mut Vec<Waiting>,
}

impl Context<'_> {
    /// Sends a frame that the switch itself made, and counts it at each port that it goes to.
    fn originate(&mut self, frame: Frame, ports: impl IntoIterator<Item = PortId>) {
        let (snapshot, worker) = (self.snapshot, self.worker);
        let known = ports.into_iter().filter(|&port| {
            let Some(port) = snapshot.port(port) else { return false };
            port.counters.row(worker).originated.add(1);
            true
        });
        self.out.send(frame, known, self.ingress.id);
    }

    /// Counts a frame that waited in vain.
    fn drop_waiting(&self, waiting: &Waiting, reason: DropReason) {
        self.count_drop(waiting.ingress, reason, &waiting.bytes);
    }

    fn count_drop(&self, port: PortId, reason: DropReason, bytes: &[u8]) {
        // A port that is gone has taken its counters along; its frames count where we are.
        let port = self.snapshot.port(port).map_or(self.ingress, |port| port);
        port.counters.row(self.worker).dropped(reason, self.now);
        self.shared.sample_drop(self.worker, reason, port.id, bytes, self.now);
    }
}

/// The way of a frame through the switch.
fn story(cx: &mut Context<'_>, frame: &mut Frame) -> Result<Verdict, DropReason> {
    let packet = Packet::parse(frame)?;
    let link = link_of(cx)?;
    let packet = without_priority(frame, packet, &link)?;
    let arrived = match link {
        Ingress::Network(network) => {
            let admitted = switch::admit(cx, network, frame, packet)?;
            switch::learn(cx, &admitted)?;
            match classify(cx, frame, &admitted)? {
                Class::Switch => {
                    let permitted = policy::permit_on_network(cx, frame, &admitted)?;
                    let Some(repeats) = permitted else { return Ok(Verdict::Waits) };
                    return switch::forward(cx, frame, &admitted, repeats);
                }
                Class::Arp => return arp::on_network(cx, frame, &admitted),
                Class::Elsewhere => return Ok(Verdict::LeaveToHost),
                Class::Incomplete => return Ok(Verdict::Waits),
                Class::Service(service) => return punt::punt(cx, frame, service),
                Class::Gateway(view) => {
                    policy::permit_to_host(cx, frame, &view)?;
                    return gateway::answer(cx, frame, &view);
                }
                Class::Route(view) => nat::inbound_from_network(cx, frame, network, view)?,
            }
        }
        Ingress::Uplink(uplink) => match untagged_type(&packet.eth) {
            Some(ethernet::ARP) => return arp::on_uplink(cx, frame, uplink),
            Some(ethernet::IPV4) if punt::is_for_dhcp_client(uplink, frame, &packet) => {
                return punt::punt(cx, frame, Service::DhcpClient);
            }
            Some(ethernet::IPV4) if packet.eth.dst == uplink.mac => {
                match nat::inbound_from_uplink(cx, frame, uplink, &packet)? {
                    FromUplink::Arrived(arrived) => arrived,
                    FromUplink::Incomplete => return Ok(Verdict::Waits),
                    FromUplink::Echo(view) => {
                        policy::permit_to_host(cx, frame, &view)?;
                        return gateway::echo(cx, frame, &view);
                    }
                    FromUplink::NotOurs => return Ok(Verdict::LeaveToHost),
                }
            }
            _ => return Ok(Verdict::LeaveToHost),
        },
    };
    let routed = route::route(cx, frame, &arrived)?;
    let permitted = policy::permit(cx, frame, &routed)?;
    let Some(resolved) = neighbor::resolve(cx, frame, &permitted)? else { return Ok(Verdict::Waits) };
    let leaving = nat::outbound(cx, frame, &resolved)?;
    rewrite::rewrite(cx, frame, &leaving)
}

/// The link that a frame came in by.
enum Ingress<'a> {
    Network(&'a Network),
    Uplink(&'a Uplink),
}

fn link_of<'a>(cx: &Context<'a>) -> Result<Ingress<'a>, DropReason> {
    let snapshot = cx.snapshot;
    match cx.ingress.network {
        Some(id) => snapshot.network(id).map(|network| Ingress::Network(network)),
        None => snapshot.uplink_at(cx.ingress).map(|uplink| Ingress::Uplink(uplink)),
    }
    .ok_or(DropReason::PortGone)
}

/// Takes the priority tag off a frame that is for the switch itself, which has no use for it: a station takes such a
/// frame as if it had none (IEEE 802.1Q 6.9). What is for others keeps it.
fn without_priority(frame: &mut Frame, packet: Packet, link: &Ingress<'_>) -> Result<Packet, DropReason> {
    if !packet.eth.is_tagged() || ethernet::outer_vid(frame.bytes()) != Some(0) {
        return Ok(packet);
    }
    let dst = packet.eth.dst;
    let is_for_us = match link {
        Ingress::Network(network) => dst == network.gateway_mac || arp::is_about(frame, network.gateway),
        Ingress::Uplink(uplink) => dst == uplink.mac || dst.is_group(),
    };
    if !is_for_us {
        return Ok(packet);
    }
    frame.remove_vlan_tag();
    Packet::parse(frame)
}

/// What a frame from a port is to the switch.
enum Class {
    /// For another station.
    Switch,
    /// ARP that the gateway answers or overhears.
    Arp,
    /// From one station of a LAN to another.
    Elsewhere,
    /// A fragment of a datagram for the gateway; others are still to come.
    Incomplete,
    /// For a service of the gateway, which control gives.
    Service(Service),
    /// For the gateway itself, or an echo request to the host, for which the gateway answers: the host would
    /// not see it.
    Gateway(View),
    /// For the gateway to pass on.
    Route(View),
}

fn classify(cx: &Context<'_>, frame: &mut Frame, admitted: &Admitted<'_>) -> Result<Class, DropReason> {
    let (eth, network) = (&admitted.packet.eth, admitted.network);
    let to_gateway = eth.dst == network.gateway_mac;
    let Some(gateway) = network.gateway else {
        return Ok(match untagged_type(eth) {
            _ if switch::stays_behind(cx, admitted) => Class::Elsewhere,
            Some(ethernet::ARP) if to_gateway || eth.dst.is_group() => Class::Arp,
            _ => Class::Switch,
        });
    };
    match untagged_type(eth) {
        Some(ethernet::ARP) if to_gateway || eth.dst.is_group() => return Ok(Class::Arp),
        Some(ethernet::IPV4) if eth.dst.is_group() => {
            let service = punt::broadcast_service(cx, network, frame, &admitted.packet);
            return Ok(service.map_or(Class::Switch, Class::Service));
        }
        _ if !to_gateway => return Ok(Class::Switch),
        Some(ethernet::IPV4) => {}
        _ => return Err(DropReason::NotForGateway),
    }
    let ip = View::header(frame)?;
    if packet::is_martian_source(ip.src) {
        return Err(DropReason::MartianSource);
    }
    let is_host = network.subnet.contains(&ip.src) && !network.is_broadcast(ip.src);
    if (!is_host || ip.src == gateway) && !nat::comes_from_behind(cx, frame, &ip) {
        return Err(DropReason::ForeignSource);
    }
    let Some(view) = reassembly::whole(cx, frame, &admitted.packet, ip)? else {
        return Ok(Class::Incomplete);
    };
    if ip.dst == gateway
        && let Some(service) = punt::service(cx, network, &view.transport)
    {
        return Ok(Class::Service(service));
    }
    let asks_host = || {
        // The host may have an address on a network, too: that is a station there.
        network.mode != NetworkMode::Internal
            && cx.snapshot.is_hosts(ip.dst)
            && cx.snapshot.network_of(ip.dst).is_none()
    };
    let for_gateway = ip.dst == gateway || (view.transport.is_echo_request() && asks_host());
    Ok(if for_gateway { Class::Gateway(view) } else { Class::Route(view) })
}

/// A worker's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    shared: Arc<Shared>,
    worker: usize,
    flows: FlowCache,
    released: Vec<Waiting>,
    next_poll: Time,
    polls: u32,
}

impl Pipeline {
    /// The pipeline of worker number `worker`.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let flows = FlowCache::new();
        Pipeline { shared, worker, flows, released: Vec::new(), next_poll: Time::ZERO, polls: 0 }
    }

    /// Takes in a frame that was read from `ingress`, and puts what comes of it into `out`.
    pub fn process(
        &mut self,
        snapshot: &Snapshot,
        ingress: PortId,
        mut frame: Frame,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(port) = snapshot.port(ingress) else { return out.discard(frame) };
        let row = port.counters.row(self.worker);
        row.received(frame.len(), frame.offload.is_super());
        let key = Key::of(ingress, &frame);
        if let Some(key) = &key {
            self.flows.keep_up(snapshot.generation, self.shared.epoch().now());
            if let Some(egress) = self.flows.repeat(key, &mut frame, &self.shared.conntrack, now) {
                row.rx_cached.add(1);
                return out.send(frame, [egress], ingress);
            }
        }
        self.run(snapshot, port, key, frame, now, out);
        self.resume(snapshot, now, out);
    }

    /// Counts a frame that was read from `ingress` and cannot go on, as its device says.
    pub fn refuse(
        &mut self,
        snapshot: &Snapshot,
        ingress: PortId,
        frame: &Frame,
        reason: DropReason,
        now: Time,
    ) {
        let Some(port) = snapshot.port(ingress) else { return };
        let row = port.counters.row(self.worker);
        row.received(frame.len(), frame.offload.is_super());
        row.dropped(reason, now);
        self.shared.sample_drop(self.worker, reason, ingress, frame.bytes(), now);
    }

    /// Takes in a frame that the switch made on behalf of a port, as if it had come from there.
    pub fn inject(
        &mut self,
        snapshot: &Snapshot,
        ingress: PortId,
        frame: Frame,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(port) = snapshot.port(ingress) else { return out.discard(frame) };
        port.counters.row(self.worker).originated.add(1);
        self.run(snapshot, port, None, frame, now, out);
        self.resume(snapshot, now, out);
    }

    /// Sends a frame that control made out by a port.
    pub fn originate(
        &mut self,
        snapshot: &Snapshot,
        egress: PortId,
        frame: Frame,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(port) = snapshot.port(egress) else { return out.discard(frame) };
        self.context(snapshot, port, now, out).originate(frame, [egress]);
    }

    /// Begins the way of frames anew whose next hop has answered.
    fn resume(&mut self, snapshot: &Snapshot, now: Time, out: &mut Outbox) {
        if self.released.is_empty() {
            return;
        }
        // One that is released again by what it causes would be a loop; there is none, since an answer is
        // never made of a frame that waited.
        for waiting in std::mem::take(&mut self.released) {
            let Some(port) = snapshot.port(waiting.ingress) else { continue };
            let mut frame = out.fresh();
            frame.fill(&waiting.bytes, waiting.offload);
            self.run(snapshot, port, None, frame, now, out);
        }
    }

    /// Tells the story of a frame, and does as it ends. If the frame has a `key`, the flow cache learns.
    fn run(
        &mut self,
        snapshot: &Snapshot,
        ingress: &Port,
        key: Option<Key>,
        mut frame: Frame,
        now: Time,
        out: &mut Outbox,
    ) {
        let row = ingress.counters.row(self.worker);
        let verdict = story(&mut self.context(snapshot, ingress, now, out), &mut frame);
        if let (Some(key), Ok(Verdict::Forward(egress, repeats))) = (key, verdict)
            && let Some(mtu) = way_mtu(snapshot, ingress, egress)
        {
            self.flows.learn(&key, &frame, egress, mtu, repeats, now);
        }
        let mut cx = self.context(snapshot, ingress, now, out);
        match verdict {
            Ok(Verdict::Forward(port, _)) => emit(&mut cx, frame, [port]),
            Ok(Verdict::Flood { network, except }) => match snapshot.network(network) {
                Some(network) => {
                    emit(&mut cx, frame, network.ports.iter().copied().filter(|&port| Some(port) != except));
                }
                None => discard(&mut cx, frame, DropReason::PortGone),
            },
            Ok(Verdict::Consumed) => {
                row.consumed.add(1);
                cx.out.discard(frame);
            }
            Ok(Verdict::LeaveToHost) => {
                row.left_to_host.add(1);
                cx.out.discard(frame);
            }
            Ok(Verdict::Waits) => cx.out.discard(frame),
            Err(reason) => discard(&mut cx, frame, reason),
        }
    }

    /// Does what time asks for: ARP retries, connections and MAC addresses that end. Does nothing before
    /// [`POLL_INTERVAL`] is over. Networks and shards are dealt over the workers.
    pub fn poll(&mut self, snapshot: &Snapshot, now: Time, out: &mut Outbox) {
        if now < self.next_poll {
            return;
        }
        self.next_poll = now + POLL_INTERVAL;
        self.polls = self.polls.wrapping_add(1);
        let workers = self.shared.workers();
        self.shared.conntrack.expire(self.worker, workers, now, EXPIRE_BUDGET);
        self.poll_fragments(snapshot, now, out);
        for network in snapshot.networks.iter().flatten().skip(self.worker).step_by(workers) {
            self.poll_neighbors(snapshot, Link::Network(network), now, out);
            if self.polls.is_multiple_of(FDB_EXPIRE_POLLS) {
                network.fdb.expire(now, snapshot.mac_ageing);
            }
        }
        for uplink in snapshot.uplinks.iter().skip(self.worker).step_by(workers) {
            if let Some(address) = uplink.address {
                self.poll_neighbors(snapshot, Link::Uplink(uplink, address.addr()), now, out);
            }
        }
    }

    /// Drops fragments that waited too long for the rest, and tells their senders where that is ours to do.
    fn poll_fragments(&mut self, snapshot: &Snapshot, now: Time, out: &mut Outbox) {
        let mut expired = Vec::new();
        let shared = self.shared.clone();
        shared.fragments.expire(self.worker, shared.workers(), now, |source, datagram| {
            expired.push((source.port, datagram.fragments(), datagram.first()));
        });
        let reason = DropReason::FragmentTimeout;
        for (port, fragments, first) in expired {
            let Some(ingress) = snapshot.port(port) else { continue };
            let mut frame = out.fresh();
            let mut cx = self.context(snapshot, ingress, now, out);
            reassembly::count_lost(&cx, ingress, fragments, reason);
            frame.fill(&first.unwrap_or_default(), Offload::NONE);
            if !frame.is_empty()
                && let Ok(ip) = View::header(&frame)
                && reassembly::is_for_us(&cx, &ip)
            {
                icmp_error::refuse(&mut cx, &frame, &ip, Error::ReassemblyTimeout, reason);
            }
            out.discard(frame);
        }
    }

    /// Asks everybody on a network who has an address, unless that is known or being asked. The answer is in the
    /// network's neighbor table once it is there.
    pub fn probe(
        &mut self,
        snapshot: &Snapshot,
        network: NetworkId,
        ip: Ipv4Addr,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(network) = snapshot.network(network) else { return };
        let link = Link::Network(network);
        let Some(on) = port_on(snapshot, &link) else { return };
        if link.neighbors().lock().resolve(ip, now) == Answer::Solicit {
            neighbor::solicit(&mut self.context(snapshot, on, now, out), link, ip, None);
        }
    }

    fn poll_neighbors(&mut self, snapshot: &Snapshot, link: Link<'_>, now: Time, out: &mut Outbox) {
        let mut events = Vec::new();
        link.neighbors().lock().poll(now, NEIGHBOR_BUDGET, |event| events.push(event));
        for event in events {
            match event {
                Event::Solicit(ip, known) => {
                    let Some(on) = port_on(snapshot, &link) else { continue };
                    let mut cx = self.context(snapshot, on, now, out);
                    neighbor::solicit(&mut cx, link, ip, known);
                }
                Event::Failed(_, waiting) => {
                    for waiting in waiting {
                        self.fail(snapshot, &waiting, now, out);
                    }
                }
            }
        }
    }

    /// Drops a frame that waited in vain, and tells its sender.
    fn fail(&mut self, snapshot: &Snapshot, waiting: &Waiting, now: Time, out: &mut Outbox) {
        let Some(ingress) = snapshot.port(waiting.ingress) else { return };
        let mut frame = out.fresh();
        frame.fill(&waiting.bytes, waiting.offload);
        let mut cx = self.context(snapshot, ingress, now, out);
        let reason = DropReason::NeighborUnreachable;
        if let Ok(ip) = View::header(&frame) {
            icmp_error::refuse(&mut cx, &frame, &ip, Error::HostUnreachable, reason);
        }
        discard(&mut cx, frame, reason);
    }

    fn context<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
        ingress: &'a Port,
        now: Time,
        out: &'a mut Outbox,
    ) -> Context<'a> {
        Context {
            snapshot,
            shared: &self.shared,
            worker: self.worker,
            ingress,
            now,
            out,
            released: &mut self.released,
        }
    }

    /// Counts a frame that a port did not take, for all that it stands for: at the port, or if that is gone at
    /// the one on whose account it was sent.
    pub fn not_sent(&self, snapshot: &Snapshot, send: Send, reason: DropReason, frame: &Frame, now: Time) {
        let Some(port) = snapshot.port(send.port).or_else(|| snapshot.port(send.account)) else { return };
        port.counters.row(self.worker).dropped_many(reason, send.frames, now);
        self.shared.sample_drop(self.worker, reason, port.id, frame.bytes(), now);
    }

    /// Counts a frame that a port took, for all that it stands for.
    pub fn sent(&self, snapshot: &Snapshot, send: Send, frame: &Frame) {
        let Some(port) = snapshot.port(send.port) else { return };
        port.counters.row(self.worker).transmitted(send.frames, send.bytes, frame.offload.is_super());
    }

    /// Adds frames that the kernel threw away because nobody read them in time.
    pub fn missed(&self, snapshot: &Snapshot, port: PortId, count: u64) {
        if let Some(port) = snapshot.port(port) {
            port.missed.fetch_add(count, Relaxed);
        }
    }
}

/// The largest IP packet that can go all the way from `ingress` to `egress`.
fn way_mtu(snapshot: &Snapshot, ingress: &Port, egress: PortId) -> Option<u16> {
    let egress = snapshot.port(egress)?;
    let link = match egress.network {
        Some(id) => snapshot.network(id)?.mtu,
        None => snapshot.uplink_at(egress)?.mtu,
    };
    Some(link.min(ingress.mtu).min(egress.mtu))
}

/// A port that is on the link, to count what is sent there without a frame as its cause.
fn port_on<'a>(snapshot: &'a Snapshot, link: &Link<'_>) -> Option<&'a Port> {
    let id = match link {
        Link::Network(network) => *network.ports.first()?,
        Link::Uplink(uplink, _) => uplink.id.port(),
    };
    snapshot.port(id).map(|port| &**port)
}

/// Sends a frame to those of `ports` whose MTU it fits, and which are no trunk where its tag would mean another network.
fn emit(cx: &mut Context<'_>, frame: Frame, ports: impl IntoIterator<Item = PortId>) {
    let (l3_len, names_vlan) = (packet::l3_len(&frame), ethernet::names_vlan(frame.bytes()));
    let (snapshot, row) = (cx.snapshot, cx.ingress.counters.row(cx.worker));
    let (mut fits, mut too_small, mut hopping) = (0, 0, 0);
    let account = cx.ingress.id;
    let addressee = Addressee::of(&frame);
    let takers = ports.into_iter().filter(|&port| {
        let Some(port) = snapshot.port(port).filter(|port| host_port::takes(port, addressee)) else {
            return false;
        };
        let hops = names_vlan && !port.vlans.is_empty();
        let fit = l3_len <= usize::from(port.mtu);
        let count = match (hops, fit) {
            (true, _) => &mut hopping,
            (false, true) => &mut fits,
            (false, false) => &mut too_small,
        };
        *count += 1;
        fit && !hops
    });
    cx.out.send(frame, takers, account);
    for (count, reason) in [(too_small, DropReason::OverMtu), (hopping, DropReason::VlanHopping)] {
        (0..count).for_each(|_| row.dropped(reason, cx.now));
    }
    match fits + too_small + hopping {
        // What a LAN says to all, it has heard.
        0 if cx.ingress.lan => row.left_to_host.add(1),
        0 => row.dropped(DropReason::NoOtherPort, cx.now),
        targets => row.copies.add(targets - 1),
    }
}

fn discard(cx: &mut Context<'_>, frame: Frame, reason: DropReason) {
    cx.count_drop(cx.ingress.id, reason, frame.bytes());
    cx.out.discard(frame);
}
