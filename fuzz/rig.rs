//! A whole switch in memory, without threads, root or a clock, for the fuzz target `switch` and the
//! benchmarks.
//!
//! | port | network | passes on |
//! |---|---|---|
//! | 0 | the uplink, 192.0.2.10/24 with a router at 192.0.2.1 | everything |
//! | 1, 3 | `default`, 172.30.0.0/16, translated | everything |
//! | 2 | `default` | nothing |
//! | 4, 5 | `inner`, 172.31.0.0/16, internal | everything |
//!
//! TCP port 8080 of the uplink is published by 172.30.0.2:80, UDP port 5353 by 172.30.0.3:53.

// Each user needs some of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use vswitchd::addr::{Endpoint, MacAddr, NetworkId, PortId, Protocol};
use vswitchd::clock::Time;
use vswitchd::counters::{PortCounters, Totals};
use vswitchd::frame::Offload;
use vswitchd::port::Promises;
use vswitchd::port::memory::MemoryPort;
use vswitchd::shared::{Conntrack, Neighbors, Shared};
use vswitchd::snapshot::{
    Network, NetworkMode, Port, Publication, Publications, Snapshot, Uplink, UplinkMode,
};
use vswitchd::table::route_table::{RouteTable, Via};
use vswitchd::worker::{Worker, WorkerHandle};

use crate::packets::Way;

/// Ports of the rig.
pub const PORTS: u16 = 6;
/// The MTU of everything.
pub const MTU: u16 = 1500;
/// External ports for masquerading.
pub const NAT_PORTS: RangeInclusive<u16> = 61_000..=61_063;

/// The network of ports 1 to 3.
pub const DEFAULT: NetworkId = NetworkId(0);
/// The network of ports 4 and 5.
pub const INNER: NetworkId = NetworkId(1);
/// The gateway of `DEFAULT`.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The gateway of `INNER`.
pub const INNER_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// The uplink's address.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The uplink's MAC address.
pub const EXTERNAL_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0xee, 0x10]);
/// The router on the uplink.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Its MAC address.
pub const ROUTER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0xee, 0x01]);
/// A server beyond the router.
pub const SERVER: Endpoint = Endpoint::new(Ipv4Addr::new(203, 0, 113, 80), 443);

/// The address of the container at a port.
pub fn container(port: u16) -> Ipv4Addr {
    let network = if port < 4 { 30 } else { 31 };
    Ipv4Addr::from([172, network, 0, 1 + port.to_be_bytes()[1]])
}

/// From the container at `port` to the server, by the gateway. Its source port is in the external range, so
/// that it is kept.
pub fn outward(port: u16) -> Way {
    let src = Endpoint::new(container(port), 61_000 + port);
    Way { src_mac: MacAddr::from_ipv4(src.ip), dst_mac: MacAddr::from_ipv4(GATEWAY), src, dst: SERVER }
}

/// From one container to another one of its network.
pub fn across(from: u16, to: u16) -> Way {
    let (src, dst) = (container(from), container(to));
    Way {
        src_mac: MacAddr::from_ipv4(src),
        dst_mac: MacAddr::from_ipv4(dst),
        src: Endpoint::new(src, 40_000),
        dst: Endpoint::new(dst, 7),
    }
}

/// From the server to a port of the uplink.
pub fn inward(port: u16) -> Way {
    let dst = Endpoint::new(EXTERNAL, port);
    Way { src_mac: ROUTER_MAC, dst_mac: EXTERNAL_MAC, src: SERVER, dst }
}

/// The state of the rig's switch, for one worker and at most `connections`.
pub fn shared(connections: usize, nat_ports: RangeInclusive<u16>) -> Arc<Shared> {
    let mut snapshot = Snapshot::new();
    snapshot.uplink = Some(Arc::new(uplink(nat_ports.clone())));
    snapshot.publications = Arc::new(publications());
    snapshot.set_network(network(DEFAULT, "default", "172.30.0.0/16", GATEWAY, NetworkMode::Nat));
    snapshot.set_network(network(INNER, "inner", "172.31.0.0/16", INNER_GATEWAY, NetworkMode::Internal));
    for number in 0..PORTS {
        let network = match number {
            0 => None,
            1..=3 => Some(DEFAULT),
            _ => Some(INNER),
        };
        snapshot.set_port(port(PortId(number), network));
    }
    Arc::new(Shared::new(1, snapshot, Conntrack::new(connections, nat_ports, 1)))
}

fn network(id: NetworkId, name: &str, subnet: &str, gateway: Ipv4Addr, mode: NetworkMode) -> Network {
    let gateway_mac = MacAddr::from_ipv4(gateway);
    let network = Network {
        id,
        name: name.into(),
        subnet: subnet.parse().unwrap(),
        gateway,
        gateway_mac,
        mtu: MTU,
        mode,
        ports: Vec::new(),
        fdb: Arc::default(),
        neighbors: Arc::default(),
        last_defence: Arc::default(),
    };
    network.fdb.add_local(gateway_mac, Time::ZERO);
    network
}

fn port(id: PortId, network: Option<NetworkId>) -> Port {
    Port {
        id,
        name: format!("p{}", id.0),
        network,
        mtu: MTU,
        quota: u32::MAX,
        counters: Arc::new(PortCounters::new(1)),
        missed: Arc::default(),
    }
}

fn uplink(nat_ports: RangeInclusive<u16>) -> Uplink {
    let mut routes = RouteTable::new();
    routes.insert(EXTERNAL, 24, Via::Link, 0);
    routes.insert(Ipv4Addr::UNSPECIFIED, 0, Via::Gateway(ROUTER), 0);
    Uplink {
        name: "eth0".into(),
        mode: UplinkMode::Shared,
        mac: EXTERNAL_MAC,
        address: Some("192.0.2.10/24".parse().unwrap()),
        host_addresses: vec![EXTERNAL],
        mtu: MTU,
        up: true,
        routes: Arc::new(routes),
        nat_ports,
        neighbors: Arc::default(),
    }
}

fn publications() -> Publications {
    let mut publications = Publications::default();
    for (protocol, port, to, target) in [(Protocol::Tcp, 8080, 1, 80), (Protocol::Udp, 5353, 2, 53)] {
        let target = Endpoint::new(container(to), target);
        publications.insert(Publication { protocol, ip: None, port, target, to: PortId(to) });
    }
    publications
}

/// The switch with a memory port at every port, and its clock.
pub struct Rig {
    pub shared: Arc<Shared>,
    pub now: Time,
    worker: Worker,
    ports: Vec<Arc<MemoryPort>>,
    _handle: WorkerHandle,
}

impl Rig {
    /// The switch, a second after its start.
    pub fn new() -> Rig {
        let shared = shared(64, NAT_PORTS);
        let (mut worker, handle) = Worker::new(shared.clone(), 0, Arc::new(|_| {})).unwrap();
        let mut ports = Vec::new();
        for number in 0..PORTS {
            let promises = if number == 2 { Promises::NONE } else { Promises::ALL };
            let device = Arc::new(MemoryPort::new(promises));
            handle.attach(PortId(number), device.clone(), true);
            ports.push(device);
        }
        let now = Time::from_secs(1);
        worker.turn(now);
        Rig { shared, now, worker, ports, _handle: handle }
    }

    /// Lets a frame come in by `port`, and the switch do all that it does about it.
    pub fn receive(&mut self, port: u16, frame: &[u8], offload: Offload) {
        self.ports[usize::from(port)].push(frame, offload);
        self.turn();
    }

    /// Lets the switch do what is to be done now.
    pub fn turn(&mut self) {
        self.worker.turn(self.now);
    }

    /// The next frame that left by `port`.
    pub fn sent(&self, port: u16) -> Option<(Vec<u8>, Offload)> {
        self.ports[usize::from(port)].pop()
    }

    /// By how many frames the books do not balance.
    pub fn imbalance(&self) -> i128 {
        let snapshot = self.shared.snapshot();
        let mut totals = Totals::default();
        snapshot.ports.iter().flatten().for_each(|port| totals += port.counters.totals());
        let of_networks = snapshot.networks.iter().flatten().map(|network| &network.neighbors);
        let of_uplink = snapshot.uplink.iter().map(|uplink| &uplink.neighbors);
        let waiting = |neighbors: &Arc<Neighbors>| neighbors.lock().waiting() as u64;
        totals.imbalance(of_networks.chain(of_uplink).map(waiting).sum())
    }
}
