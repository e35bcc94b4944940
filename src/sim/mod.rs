//! A whole switch in memory, with a clock that only moves when it is told to.
//!
//! Tests, benchmarks and fuzz targets drive the real worker and the real pipeline with it, without root
//! and without a thread. The world behind the uplink and the containers are [`Station`]s: they have an
//! address, a MAC and a [`MemoryPort`], and say what [`packet`] makes for them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::addr::{Endpoint, MacAddr, NetworkId, PortId, Protocol, UplinkId, Vid};
use crate::clock::Time;
use crate::counters::{PortCounters, Totals};
use crate::drops::DropReason;
use crate::frame::Offload;
use crate::limits::{CONNECTIONS_PER_PORT, MACS_PER_PORT};
use crate::port::Promises;
use crate::port::exchange::Io;
use crate::port::memory::MemoryPort;
use crate::shared::{Conntrack, Fdb, Neighbors, Shared};
use crate::snapshot::{
    Network, NetworkMode, Pins, Policing, Port, Publication, Scope, Snapshot, Target, Uplink, UplinkMode,
    Vlan, Vlans,
};
use crate::table::policy::Policy;
use crate::table::route_table::{RouteTable, Via};
use crate::worker::{PollMode, Worker, WorkerHandle, WorkerOptions};

pub mod packet;

/// The first uplink's address in every simulated switch.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The next hop to everywhere.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// A host on the Internet.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The first uplink's MAC address.
pub const UPLINK_MAC: MacAddr = MacAddr([0x02, 0xee, 0, 0, 0, 1]);
/// The router's MAC address.
pub const ROUTER_MAC: MacAddr = MacAddr([0x02, 0xee, 0, 0, 0, 0xfe]);
/// External ports for masquerading.
pub const NAT_PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;

/// Something at the other end of a port.
#[derive(Debug, Clone)]
pub struct Station {
    /// The port of the switch.
    pub id: PortId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its IP address.
    pub ip: Ipv4Addr,
    /// Its gateway's MAC address; for the uplink, the switch's.
    pub gateway_mac: MacAddr,
    /// Its device.
    pub device: Arc<MemoryPort>,
}

impl Station {
    /// The station's endpoint with this port.
    pub fn at(&self, port: u16) -> Endpoint {
        Endpoint::new(self.ip, port)
    }
}

/// A simulated switch with one worker. Port security is off unless it is turned on ([`Switch::secure`]).
#[derive(Debug)]
pub struct Switch {
    /// What its worker shares.
    pub shared: Arc<Shared>,
    /// The time.
    pub now: Time,
    worker: Worker,
    handle: WorkerHandle,
}

impl Switch {
    /// A switch without networks and uplink, with a connection table for `connections`.
    ///
    /// # Panics
    /// If the kernel gives no epoll instance.
    pub fn new(connections: usize) -> Self {
        Switch::for_workers(1, connections)
    }

    /// The same with tables for so many workers, of which the switch has the first one.
    ///
    /// # Panics
    /// If the kernel gives no epoll instance.
    pub fn for_workers(workers: usize, connections: usize) -> Self {
        let conntrack = Conntrack::new(connections, NAT_PORTS, workers);
        let shared = Arc::new(Shared::new(workers, Snapshot::new(), conntrack));
        let options = WorkerOptions { io: Io::Syscall, poll: PollMode::Sleep, all_read: true };
        let (worker, handle) = Worker::new(shared.clone(), 0, options, Arc::new(|_| ()))
            .expect("an epoll instance for the worker");
        Switch { shared, now: Time::from_secs(1), worker, handle }
    }

    /// A switch with a network 172.30.0.0/16, an uplink, and a container.
    pub fn with_uplink() -> (Switch, Station, Station) {
        let mut switch = Switch::new(10_000);
        let network = switch.add_network("172.30.0.0/16".parse().expect("a prefix"), NetworkMode::Nat);
        let uplink = switch.add_uplink(UplinkMode::Shared);
        let container = switch.add_port(network);
        switch.resolve(&container);
        switch.resolve(&uplink);
        (switch, container, uplink)
    }

    /// Adds a network, whose gateway has the first address.
    pub fn add_network(&mut self, subnet: Ipv4Net, mode: NetworkMode) -> NetworkId {
        let id = self.shared.snapshot().free_network().expect("a free network number");
        let gateway = subnet.hosts().next().expect("a host address");
        let gateway_mac = MacAddr::from_ipv4(gateway);
        let fdb = Fdb::new(self.shared.epoch());
        fdb.add_local(gateway_mac, self.now);
        let network = Network {
            id,
            name: format!("net{}", id.0),
            subnet,
            gateway: Some(gateway),
            gateway_mac,
            router: Some(gateway),
            mtu: 1500,
            mode,
            uplink: UplinkId::FIRST,
            dhcp: false,
            ports: Vec::new(),
            fdb: Arc::new(fdb),
            neighbors: Arc::new(Neighbors::of_network(self.shared.epoch())),
        };
        self.shared.publish(|snapshot| snapshot.set_network(network));
        id
    }

    /// Adds a port with the next address of its network, and gives it a device that takes all promises.
    pub fn add_port(&mut self, network: NetworkId) -> Station {
        self.add_port_with(network, Arc::new(MemoryPort::new(Promises::ALL)))
    }

    /// Adds a port with this device.
    pub fn add_port_with(&mut self, network: NetworkId, device: Arc<MemoryPort>) -> Station {
        let snapshot = self.shared.snapshot_full();
        let id = snapshot.free_port().expect("a free port number");
        let network = snapshot.network(network).expect("the network").clone();
        let ip = network.subnet.hosts().nth(1 + usize::from(id.0)).expect("a free address");
        self.plug(id, Some((network.id, ip)), None);
        self.handle.attach(id, device.clone(), true);
        self.run();
        Station { id, mac: MacAddr::from_ipv4(ip), ip, gateway_mac: network.gateway_mac, device }
    }

    /// Makes a VLAN of a station's port, with the next address of its network and the station's MAC address. What it
    /// sends and receives passes the station's device, with the tag.
    pub fn add_vlan(&mut self, trunk: &Station, network: NetworkId, vid: Vid) -> Station {
        let snapshot = self.shared.snapshot_full();
        let id = snapshot.free_port().expect("a free port number");
        let network = snapshot.network(network).expect("the network").clone();
        let ip = network.subnet.hosts().nth(1 + usize::from(id.0)).expect("a free address");
        self.plug(id, Some((network.id, ip)), Some(Vlan { trunk: trunk.id, vid }));
        self.handle.attach_vlan(id, trunk.device.clone(), vid);
        self.run();
        Station { id, ip, gateway_mac: network.gateway_mac, ..trunk.clone() }
    }

    /// Adds an uplink with a default route to a router, and returns the router. The first one has the address [`EXTERNAL`]
    /// and the router [`ROUTER`], one more those that are as much further on as there are uplinks before it; each has a
    /// link of its own. It comes before all ports.
    pub fn add_uplink(&mut self, mode: UplinkMode) -> Station {
        let number = u8::try_from(self.shared.snapshot().uplinks.len()).expect("not so many uplinks");
        let id = UplinkId(number.into());
        let [address, router] = [EXTERNAL, ROUTER].map(|first| on_link(number, first));
        let [mac, router_mac] = [UPLINK_MAC, ROUTER_MAC]
            .map(|MacAddr(first)| MacAddr([first[0], first[1], first[2], first[3], number, first[5]]));
        let link = Ipv4Net::new(address, 24).expect("a prefix length");
        let mut routes = RouteTable::new();
        routes.insert(Ipv4Addr::UNSPECIFIED, 0, Via::Gateway(router), 0);
        routes.insert(link.network(), 24, Via::Link, 0);
        let uplink = Uplink {
            id,
            name: format!("eth{number}"),
            mode,
            mac,
            dhcp: false,
            address: Some(link),
            addresses: vec![address],
            host_addresses: vec![address],
            mtu: 1500,
            up: true,
            routes: Arc::new(routes),
            nat_ports: NAT_PORTS,
            neighbors: Arc::new(Neighbors::of_uplink(self.shared.epoch())),
        };
        self.shared.publish(|snapshot| {
            snapshot.uplinks.push(Arc::new(uplink));
            share_addresses(&mut snapshot.uplinks);
        });
        let device = Arc::new(MemoryPort::new(Promises::ALL));
        self.plug(id.port(), None, None);
        self.handle.attach(id.port(), device.clone(), true);
        self.run();
        Station { id: id.port(), mac: router_mac, ip: router, gateway_mac: mac, device }
    }

    /// Leads a network out by another uplink: the one that this router is at.
    pub fn lead_out(&mut self, network: NetworkId, router: &Station) {
        let mut changed = Network::clone(self.shared.snapshot().network(network).expect("the network"));
        changed.uplink = UplinkId(router.id.0);
        self.shared.publish(|snapshot| snapshot.set_network(changed));
    }

    fn plug(&mut self, id: PortId, place: Option<(NetworkId, Ipv4Addr)>, vlan: Option<Vlan>) {
        let port = Port {
            id,
            name: format!("p{}", id.0),
            network: place.map(|(network, _)| network),
            ip: place.map(|(_, ip)| ip),
            vlan,
            vlans: Vlans::default(),
            aliases: Arc::default(),
            mtu: 1500,
            quota: CONNECTIONS_PER_PORT,
            pins: None,
            host: None,
            lan: false,
            policing: Policing::default(),
            meters: Arc::default(),
            nat_ports: self.shared.conntrack.fair_ports(),
            counters: Arc::new(PortCounters::new(1)),
            missed: Arc::new(AtomicU64::new(0)),
        };
        self.shared.publish(|snapshot| snapshot.set_port(port));
    }

    /// Adds a network that is bridged to a LAN, and the interface that the LAN is behind; the host's own MAC address there
    /// is [`UPLINK_MAC`]. The station is one on the LAN.
    pub fn add_lan(&mut self, subnet: Ipv4Net) -> (NetworkId, Station) {
        let id = self.add_network(subnet, NetworkMode::Bridge);
        let network = Network::clone(self.shared.snapshot().network(id).expect("the network"));
        network.fdb.add_local(UPLINK_MAC, self.now);
        let network = Network { router: network.gateway, gateway: None, ..network };
        self.shared.publish(|snapshot| snapshot.set_network(network));
        let station = self.add_port(id);
        self.change_port(&station, |port| {
            (port.ip, port.lan) = (None, true);
            port.pins = Some(Pins { mac: None, ip: None });
            port.policing = Policing::NONE;
        });
        (id, station)
    }

    /// Turns port security on at a station's port: it keeps to the station's addresses.
    pub fn secure(&mut self, station: &Station) {
        let pins = Pins { mac: Some(station.mac), ip: Some(station.ip) };
        self.change_port(station, |port| port.pins = Some(pins));
    }

    /// Changes a station's port.
    pub fn change_port(&mut self, station: &Station, change: impl FnOnce(&mut Port)) {
        let mut port = Port::clone(self.shared.snapshot().port(station.id).expect("the port"));
        change(&mut port);
        self.shared.publish(|snapshot| snapshot.set_port(port));
    }

    /// Makes the gateway the DHCP server of a network.
    pub fn serve_dhcp(&mut self, network: NetworkId) {
        let mut changed = Network::clone(self.shared.snapshot().network(network).expect("the network"));
        changed.dhcp = true;
        self.shared.publish(|snapshot| snapshot.set_network(changed));
    }

    /// Sends a frame that control made out by a port.
    pub fn send_out(&mut self, port: PortId, frame: Vec<u8>) {
        self.handle.send_frame(port, frame);
        self.run();
    }

    /// Publishes a container's port at the uplink's address.
    pub fn publish(&mut self, protocol: Protocol, port: u16, to: &Station, target: u16) {
        self.publish_to_all(protocol, port, &[to], target);
    }

    /// Publishes a port of several containers at the uplink's address.
    pub fn publish_to_all(&mut self, protocol: Protocol, port: u16, to: &[&Station], target: u16) {
        let targets = to.iter().map(|to| Target { endpoint: to.at(target), to: to.id }).collect();
        let publication =
            Publication { protocol, ip: None, ports: port..=port, scope: Scope::Any, targets, health: None };
        self.shared.conntrack.reserve(protocol, port);
        self.shared.publish(|snapshot| Arc::make_mut(&mut snapshot.publications).insert(publication));
    }

    /// Puts these rules in force. What they forbid of what is there already is not ended.
    pub fn set_policy(&mut self, policy: Policy) {
        self.shared.publish(|snapshot| snapshot.policy = Arc::new(policy));
    }

    /// Lets the switch know a station's MAC address, as if it had answered ARP.
    pub fn resolve(&mut self, station: &Station) {
        let snapshot = self.shared.snapshot_full();
        let network = snapshot.port(station.id).and_then(|port| port.network);
        let neighbors = match network.and_then(|id| snapshot.network(id)) {
            Some(network) => {
                network.fdb.learn(station.mac, station.id, MACS_PER_PORT, self.now, |_| true);
                &network.neighbors
            }
            None => &snapshot.uplinks.get(station.id.index()).expect("an uplink").neighbors,
        };
        neighbors.lock().answered(station.ip, station.mac, self.now);
    }

    /// A station sends a frame; the switch runs until it is quiet.
    pub fn send(&mut self, from: &Station, frame: &[u8]) {
        self.send_promising(from, frame, Offload::NONE);
    }

    /// As [`Switch::send`], with promises.
    pub fn send_promising(&mut self, from: &Station, frame: &[u8], offload: Offload) {
        from.device.push(frame, offload);
        self.run();
    }

    /// Has the switch ask who has an address.
    pub fn probe(&mut self, network: NetworkId, ip: Ipv4Addr) {
        self.handle.probe(network, ip);
        self.worker.turn(self.now);
        self.run();
    }

    /// Runs until every port is empty.
    pub fn run(&mut self) {
        // One more turn after the last, since memory ports are always asked.
        while self.turn() {}
    }

    /// One turn. Says whether a frame was moved.
    pub fn turn(&mut self) -> bool {
        let before = self.totals();
        self.worker.turn(self.now);
        before != self.totals()
    }

    /// Lets time pass, with a turn for every `step`.
    pub fn pass(&mut self, time: Duration, step: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += step;
            self.run();
        }
    }

    /// Sums over all ports.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for port in self.shared.snapshot().ports.iter().flatten() {
            sum += port.counters.totals();
        }
        sum
    }

    /// How often `reason` was counted at any port.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.shared.snapshot().ports.iter().flatten().map(|port| port.counters.drop_count(reason)).sum()
    }

    /// Frames that wait for a neighbor, or for the rest of their datagram.
    pub fn waiting(&self) -> u64 {
        let snapshot = self.shared.snapshot();
        let networks = snapshot.networks.iter().flatten().map(|network| network.neighbors.lock().waiting());
        let uplink = snapshot.uplinks.iter().map(|uplink| uplink.neighbors.lock().waiting());
        (networks.chain(uplink).sum::<usize>() + self.shared.fragments.waiting()) as u64
    }

    /// Frames in minus frames out: zero, or the books do not balance.
    pub fn imbalance(&self) -> i128 {
        self.totals().imbalance(self.waiting())
    }
}

/// The address on an uplink's link that stands in the place of one on the first uplink's.
pub fn on_link(uplink: u8, first: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, d] = first.octets();
    Ipv4Addr::new(a, b, c + uplink, d)
}

/// A host takes a packet for any of its addresses by whatever interface it comes.
fn share_addresses(uplinks: &mut [Arc<Uplink>]) {
    let is_shared = |uplink: &Arc<Uplink>| uplink.mode == UplinkMode::Shared;
    let all: Vec<_> = uplinks.iter().filter(|u| is_shared(u)).flat_map(|u| u.addresses.clone()).collect();
    for uplink in uplinks.iter_mut().filter(|uplink| is_shared(uplink)) {
        Arc::make_mut(uplink).host_addresses.clone_from(&all);
    }
}
