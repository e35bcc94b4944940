//! Containers on the LAN of the host, with addresses of their own there.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Check, Scenario, Stage};
use crate::addr::{Endpoint, MacAddr};
use crate::control::response::NetworkDetail;
use crate::host::netlink;
use crate::lab::frames::Tap;
use crate::lab::rig::{GATEWAY, INTERNET};
use crate::lab::traffic::{self, PATIENCE, SILENCE, Talk};
use crate::lab::world::{Container, Failure, Lab, ensure, reaches, tell};
use crate::service::datagram::Datagram;
use crate::service::dhcp::client::Client;
use crate::sim::packet::{self, Macs};
use crate::wire::transport::{DHCP_CLIENT, DHCP_SERVER};
use crate::worker::now;

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "bridge-uplink",
        elsewhere: &[
            "brctl addbr br0; ip addr flush dev eth0; brctl addif br0 eth0; ip addr add 192.0.2.1/24 dev br0",
            "pipework br0 web 192.0.2.50/24@192.0.2.254, for each container and each of its starts",
            "or docker network create -d macvlan --subnet 192.0.2.0/24 -o parent=eth0 lan",
            "brctl moves the host's own address to the bridge, and cuts the host off if it goes wrong",
        ],
        checks: &[
            Check { claim: "a container is a station of the LAN, by its own MAC address", run: own_station },
            Check { claim: "the LAN's router is its router, and nothing is translated", run: not_translated },
            Check { claim: "containers on the same LAN reach each other", run: neighbors },
            Check { claim: "a container without an address asks the LAN's DHCP server", run: lans_server },
            Check { claim: "no container is a DHCP server or somebody else there", run: no_lies },
            Check { claim: "the host keeps its interface, and goes on as before", run: host_goes_on },
            Check { claim: "a network of the switch and the LAN have nothing in common", run: apart },
        ],
    }],
};

fn set_up() -> Result<Lab, Failure> {
    let mut lab =
        Lab::start_as("--uplink eth0 --uplink-mode bridge --network inner=10.9.0.0/24", |options| {
            options.bridged = options.uplinks.pop().map(|uplink| uplink.name);
            options.networks = "inner=10.9.0.0/24".parse().into_iter().collect();
        })?;
    lab.attach("web", "default", "--ip 192.0.2.50")?;
    lab.attach("db", "default", "--ip 192.0.2.51")?;
    lab.attach("vm", "default", "--no-address")?;
    lab.attach("c1", "inner", "")?;
    Ok(lab)
}

/// The MAC address of the LAN's other end.
fn station(lab: &Lab) -> Result<MacAddr, Failure> {
    Ok(lab.rig.internet.run(|| netlink::expect_link("eth0"))??.mac)
}

fn own_station(lab: &Lab) -> Result<(), Failure> {
    let web = lab.container("web")?;
    let detail: NetworkDetail = lab.ctl("network inspect default")?;
    let network = detail.network;
    let router = network.gateway.ok_or("the network has no router")?;
    tell(format_args!("prefix {} and router {router} are those of the host's eth0", network.subnet));
    ensure(router == GATEWAY && network.subnet.contains(&web.ip), || format!("{network:?}"))?;
    reaches(web, GATEWAY)?;
    let found = Tap::open(&lab.rig.internet)?.who_has((station(lab)?, GATEWAY), web.ip, PATIENCE)?;
    tell(format_args!(
        "the LAN asks who has {}: {}",
        web.ip,
        found.map_or("nobody".into(), |mac| mac.to_string())
    ));
    ensure(found == Some(web.mac), || format!("and not {}", web.mac))
}

fn not_translated(lab: &Lab) -> Result<(), Failure> {
    let (web, at) = (lab.container("web")?, SocketAddrV4::new(INTERNET, 8080));
    let page = traffic::http_page(Talk { client: &web.netns, to: at, server: &lab.rig.internet, at })?;
    tell(format_args!("web asks http://{at}/: \"{page}\""));
    ensure(page.contains(&format!("hello {},", web.ip)), || "the world sees another address".to_owned())?;
    let at = SocketAddrV4::new(web.ip, 80);
    let page = traffic::http_page(Talk { client: &lab.rig.internet, to: at, server: &web.netns, at })?;
    tell(format_args!("the LAN asks http://{at}/: \"{page}\""));
    ensure(page.contains(&format!("hello {GATEWAY},")), || "web sees another address".to_owned())
}

fn neighbors(lab: &Lab) -> Result<(), Failure> {
    reaches(lab.container("web")?, lab.container("db")?.ip)
}

fn lans_server(lab: &Lab) -> Result<(), Failure> {
    let vm = lab.container("vm")?;
    let (at_vm, at_lan) = (Tap::open(&vm.netns)?, Tap::open(&lab.rig.internet)?);
    let request = Client::new(vm.mac, std::process::id(), now()).poll(now()).ok_or("the client is silent")?;
    at_vm.send_frame(&request)?;
    let is_for =
        |frame: &[u8], port| Datagram::parse(frame).is_some_and(|datagram| datagram.dst.port == port);
    ensure(at_lan.sees(PATIENCE, |frame| is_for(frame, DHCP_SERVER)), || {
        "the LAN hears no DISCOVER".to_owned()
    })?;
    tell("the LAN's server hears its DISCOVER; the switch itself does not answer");
    at_lan.send_frame(&offer(Macs { src: station(lab)?, dst: vm.mac }, GATEWAY))?;
    ensure(at_vm.sees(PATIENCE, |frame| is_for(frame, DHCP_CLIENT)), || "vm hears no OFFER".to_owned())?;
    tell("and vm hears its OFFER");
    Ok(())
}

/// What a DHCP server says, as far as a port of the switch is looked at.
fn offer(macs: Macs, from: Ipv4Addr) -> Vec<u8> {
    let (server, client) =
        (Endpoint::new(from, DHCP_SERVER), Endpoint::new(Ipv4Addr::BROADCAST, DHCP_CLIENT));
    packet::udp(macs, server, client, &[2; 300])
}

fn no_lies(lab: &Lab) -> Result<(), Failure> {
    let (web, station) = (lab.container("web")?, station(lab)?);
    let (at_web, at_lan) = (Tap::open(&web.netns)?, Tap::open(&lab.rig.internet)?);
    let all = Macs { src: web.mac, dst: MacAddr::BROADCAST };
    let claim = packet::arp(all, 1, (web.mac, GATEWAY), (MacAddr::ZERO, GATEWAY));
    let disguised = packet::frame(Macs { src: station, ..all }, 0x88b5, b"I am the router");
    for (what, frame, reason) in [
        ("offers addresses", offer(all, web.ip), "dhcp-server"),
        ("claims the router's address by ARP", claim, "spoofed-arp"),
        ("sends with the router's MAC address", disguised, "spoofed-mac"),
    ] {
        at_web.send_frame(&frame)?;
        let seen = at_lan.sees(SILENCE, |seen| seen.starts_with(&frame));
        ensure(!seen, || format!("web {what}, and the LAN sees it"))?;
        tell(format_args!("web {what}"));
        lab.dropped("web", reason, 1)?;
    }
    Ok(())
}

fn host_goes_on(lab: &Lab) -> Result<(), Failure> {
    let host = &lab.rig.switch;
    let time = traffic::ping(host, GATEWAY, PATIENCE)?.ok_or("the LAN does not answer the host")?;
    tell(format_args!("the host pings {GATEWAY}: {} us", time.as_micros()));
    let at = SocketAddrV4::new(GATEWAY, 8080);
    traffic::tcp_transfer(Talk { client: host, to: at, server: &lab.rig.internet, at }, 10_000_000)?;
    tell("the host sends 10 MB by TCP");
    let web = lab.container("web")?;
    let met = traffic::ping(host, web.ip, SILENCE)?;
    tell(format_args!(
        "the host pings {}: nobody, as with macvlan; they may meet on a network of the switch",
        web.ip
    ));
    ensure(met.is_none(), || "web answers the host".to_owned())
}

fn apart(lab: &Lab) -> Result<(), Failure> {
    let (web, c1) = (lab.container("web")?, lab.container("c1")?);
    let (gateway_mac, gateway) = lab.gateway("inner")?;
    let (at_web, at_c1) = (Tap::open(&web.netns)?, Tap::open(&c1.netns)?);
    let mut sent = 0;
    for (from, to, at_from, at_to) in [(web, c1, &at_web, &at_c1), (c1, web, &at_c1, &at_web)] {
        for dst in [to.mac, gateway_mac, MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1])] {
            sent += knock(at_from, from, to, dst)?;
        }
        let heard = at_to.sees(SILENCE, |frame| frame.windows(MARK.len()).any(|part| part == MARK));
        ensure(!heard, || format!("{} hears {}", to.port.name, from.port.name))?;
    }
    let answer = at_web.who_has((web.mac, web.ip), gateway, SILENCE)?;
    ensure(answer.is_none(), || format!("the gateway of inner answers web: {answer:?}"))?;
    tell(format_args!("{sent} frames sent, none crosses; the gateway of inner does not answer the LAN"));
    Ok(())
}

/// What is in every frame of [`knock`].
const MARK: &[u8] = b"is there anybody?";

/// Sends frames of several kinds to a MAC address. Returns how many.
fn knock(tap: &Tap<'_>, from: &Container, to: &Container, dst: MacAddr) -> Result<usize, Failure> {
    let macs = Macs { src: from.mac, dst };
    let mut tagged = packet::frame(macs, 0x88b5, MARK);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let frames = [
        packet::udp(macs, Endpoint::new(from.ip, 1), Endpoint::new(to.ip, 2), MARK),
        packet::frame(macs, 0x86dd, MARK),
        packet::frame(macs, 0x88b5, MARK),
        tagged,
    ];
    for frame in &frames {
        tap.send_frame(frame)?;
    }
    Ok(frames.len())
}
