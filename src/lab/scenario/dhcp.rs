//! DHCP: machines that nobody has configured. Their client is the one of the switch's own uplink, on a packet socket.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Check, Scenario, Stage};
use crate::control::response::{DhcpInfo, DropInfo, LeaseInfo, PortInfo};
use crate::host::netlink;
use crate::lab::frames::Tap;
use crate::lab::traffic::{self, PATIENCE, SILENCE};
use crate::lab::world::{Container, Failure, Lab, ensure, reaches, tell};
use crate::service::datagram::Datagram;
use crate::service::dhcp::client::{Client, Config};
use crate::wire::transport::DHCP_CLIENT;
use crate::worker::now;

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "dhcp",
        elsewhere: &[
            "dnsmasq --interface=br0 --dhcp-range=172.17.0.2,172.17.255.254,1h",
            "ebtables and arptables rules for each port, to hold it to the address that it got",
        ],
        checks: &[
            Check { claim: "a machine without an address gets one, and is known by it", run: lease },
            Check { claim: "its port is held to the address that it got", run: security },
            Check {
                claim: "a port with an address of its own gives that one, whoever asks",
                run: own_address,
            },
            Check { claim: "settings of the server are told to the next who asks", run: settings },
        ],
    }],
};

/// Machines that find their own addresses: vm1 and vm2 any, db one that is kept for it.
fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    lab.attach("vm1", "default", "--no-address")?;
    lab.attach("vm2", "default", "--no-address")?;
    lab.attach("db", "default", "--no-address --ip 172.30.0.50")?;
    Ok(lab)
}

/// What a machine gets when it asks for an address by an interface.
pub(super) fn ask(machine: &Container, ifname: &str) -> Result<Config, Failure> {
    let tap = Tap::open_on(&machine.netns, ifname)?;
    let mut client = Client::new(machine.mac, std::process::id(), now());
    let begun = now();
    while now().since(begun) < PATIENCE {
        if let Some(message) = client.poll(now()) {
            tap.send_frame(&message)?;
        }
        let is_for_client =
            |frame: &[u8]| Datagram::parse(frame).is_some_and(|at| at.dst.port == DHCP_CLIENT);
        if let Some(answer) = tap.wait(SILENCE, is_for_client)
            && let Some(datagram) = Datagram::parse(&answer)
        {
            client.receive(&datagram, now());
        }
        if let Some(config) = client.config() {
            tell(format_args!("{} gets {} by DHCP on {ifname}", machine.port.name, config.address));
            return Ok(config);
        }
    }
    Err(format!("{} gets no address", machine.port.name).into())
}

/// Configures a machine with what it gets.
fn configure(machine: &Container) -> Result<Config, Failure> {
    let config = ask(machine, "eth0")?;
    machine.netns.run(|| {
        netlink::add_address("eth0", config.address)?;
        config.gateway.map_or(Ok(()), |gateway| netlink::add_route(Ipv4Net::default(), gateway))
    })??;
    Ok(config)
}

fn lease(lab: &Lab) -> Result<(), Failure> {
    for (name, last) in [("vm1", 2), ("vm2", 3)] {
        let machine = lab.container(name)?;
        let config = configure(machine)?;
        let expected = Ipv4Addr::new(172, 30, 0, last);
        ensure(config.address.addr() == expected, || format!("{} instead of {expected}", config.address))?;
        let gateway = config.gateway.ok_or("no gateway")?;
        reaches(machine, gateway)?;
    }
    let leases: Vec<LeaseInfo> = lab.ctl("dhcp leases")?;
    ensure(leases.iter().all(|lease| lease.state == "bound") && leases.len() == 2, || format!("{leases:?}"))?;
    let ports: Vec<PortInfo> = lab.ctl("port ls")?;
    let ip = ports.iter().find(|port| port.name == "vm1").and_then(|port| port.ip);
    ensure(ip == Some(Ipv4Addr::new(172, 30, 0, 2)), || format!("port ls says {ip:?}"))
}

fn security(lab: &Lab) -> Result<(), Failure> {
    let machine = lab.container("vm2")?;
    let (own, other) = (Ipv4Addr::new(172, 30, 0, 3), Ipv4Addr::new(172, 30, 0, 99));
    let move_to = |from: Ipv4Addr, to: Ipv4Addr| {
        machine.netns.run(|| {
            netlink::del_address("eth0", Ipv4Net::new_assert(from, 16))?;
            netlink::add_address("eth0", Ipv4Net::new_assert(to, 16))
        })
    };
    let gateway = lab.gateway("default")?.1;
    move_to(own, other)??;
    tell(format_args!("vm2 takes {other} instead"));
    let answer = traffic::ping(&machine.netns, gateway, SILENCE)?;
    ensure(answer.is_none(), || format!("the gateway answers {other}"))?;
    let drops: Vec<DropInfo> = lab.ctl("drops --port vm2")?;
    ensure(drops.iter().any(|drop| drop.reason.starts_with("spoofed-")), || format!("{drops:?}"))?;
    move_to(other, own)??;
    reaches(machine, gateway)
}

fn own_address(lab: &Lab) -> Result<(), Failure> {
    let config = ask(lab.container("db")?, "eth0")?;
    let expected = Ipv4Addr::new(172, 30, 0, 50);
    ensure(config.address.addr() == expected, || format!("{} instead of {expected}", config.address))
}

fn settings(lab: &Lab) -> Result<(), Failure> {
    let info: DhcpInfo = lab.ctl("network dhcp default lease=600 domain=lab.example")?;
    ensure(info.lease_seconds == 600, || format!("{info:?}"))?;
    ask(lab.container("db")?, "eth0")?;
    let leases: Vec<LeaseInfo> = lab.ctl("dhcp leases --port db")?;
    let left = leases.first().and_then(|lease| lease.expires_seconds).unwrap_or(0);
    ensure((590..=600).contains(&left), || format!("{left} seconds are left of it"))
}
