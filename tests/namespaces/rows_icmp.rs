//! Sections C and F of docs/conformance.md between real stacks: TTLs, errors, and echo through the translation.
//!
//! What a kernel that masquerades does with the same packets is the yardstick: the same steps run behind a router
//! with nft in its own rig, and what the sender is told must be the same.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use libtest_mimic::Failed;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{GATEWAY, Rig, UPLINK};
use vswitchd::lab::traffic;
use vswitchd::wire::checksum::checksum;
use vswitchd::wire::ipv4::Ipv4;

use crate::switch::{Switch, inside, nft};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("row_26_traceroute_is_as_through_the_kernel", row_26_traceroute_is_as_through_the_kernel),
    ("row_26_traceroute_from_outside_is_too", row_26_traceroute_from_outside_is_too),
    ("row_34_routes_into_a_network_lead_nowhere", row_34_routes_into_a_network_lead_nowhere),
    ("row_44_a_dead_neighbor_is_told_to_the_socket", row_44_a_dead_neighbor_is_told_to_the_socket),
    ("row_68_fifty_pings_with_one_identifier", row_68_fifty_pings_with_one_identifier),
    ("rows_71_and_72_refusals_reach_the_sockets", rows_71_and_72_refusals_reach_the_sockets),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] =
    &[("row_36_a_flood_of_errors_is_cut_off", row_36_a_flood_of_errors_is_cut_off)];

/// A host behind the internet's router, and the router's address on its side.
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const FAR_ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// A port of UDP that nobody listens on; published, it leads to one of the container's.
const CLOSED: u16 = 33_434;

/// The kernel's network behind its router.
const KERNEL_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const KERNEL_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);

/// Makes the internet a router to a further host.
fn far(rig: &Rig) -> Result<Netns, Failed> {
    let far = rig.container("far")?;
    wire([(&rig.internet, "far0", FAR_ROUTER), (&far, "eth0", FAR)])?;
    forward(&rig.internet)?;
    Ok(far)
}

/// Puts a wire between a router and a host behind it, which sends everything its way.
fn wire([router, host]: [(&Netns, &str, Ipv4Addr); 2]) -> Outcome {
    router.0.run(|| {
        netlink::create_veth(router.1, "wire")?;
        netlink::move_link("wire", host.0)?;
        netlink::add_address(router.1, Ipv4Net::new_assert(router.2, 24))?;
        netlink::set_up(router.1)
    })??;
    host.0.run(|| {
        netlink::rename("wire", host.1)?;
        netlink::add_address(host.1, Ipv4Net::new_assert(host.2, 24))?;
        netlink::set_up(host.1)?;
        netlink::add_route(Ipv4Net::default(), router.2)
    })??;
    Ok(())
}

fn forward(netns: &Netns) -> Outcome {
    Ok(netns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??)
}

/// A container behind a kernel that masquerades, and publishes [`CLOSED`].
fn behind_the_kernel(rig: &Rig) -> Result<Netns, Failed> {
    let container = rig.container("k")?;
    wire([(&rig.switch, "k-port", KERNEL_ROUTER), (&container, "eth0", KERNEL_INSIDE)])?;
    forward(&rig.switch)?;
    let rules = format!(
        "table ip nat {{
            chain out {{ type nat hook postrouting priority 100; oifname \"eth0\" masquerade; }}
            chain in {{ type nat hook prerouting priority -100;
                ip daddr {UPLINK} udp dport {CLOSED} dnat to {KERNEL_INSIDE}; }}
        }}"
    );
    let mut command = Command::new("nft");
    let output = rig.switch.spawn(command.arg(&rules).stdout(Stdio::null()))?.wait()?;
    ensure!(output.success(), "nft: {output}");
    ensure!(nft(&rig.switch, &["list", "tables"])?.contains("nat"), "the kernel does not translate");
    Ok(container)
}

/// A socket for everything of ICMP that its namespace receives.
fn icmp_socket(netns: &Netns) -> Result<OwnedFd, Failed> {
    let made = netns
        .run(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp))??;
    Ok(made)
}

/// Who reports what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    by: Ipv4Addr,
    kind: u8,
    code: u8,
}

/// The next packet on the socket within `patience`.
fn next_packet(socket: &OwnedFd, patience: Duration) -> Result<Option<Vec<u8>>, Failed> {
    let micros = i64::from(patience.subsec_micros()).max(1);
    setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::new(patience.as_secs().cast_signed(), micros))?;
    let mut packet = vec![0; 2048];
    match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
        Ok(length) => {
            packet.truncate(length);
            Ok(Some(packet))
        }
        Err(_) => Ok(None),
    }
}

/// Sends a datagram with this TTL, and waits for the ICMP error about exactly that datagram: from `own` to `to`.
fn probe(netns: &Netns, own: Ipv4Addr, to: SocketAddrV4, ttl: u32) -> Result<Option<Told>, Failed> {
    let errors = icmp_socket(netns)?;
    let socket = netns.run(|| UdpSocket::bind((own, 0)))??;
    let SocketAddr::V4(from) = socket.local_addr()? else { return Err("no IPv4".into()) };
    socket.set_ttl(ttl)?;
    socket.send_to(b"where are you?", to)?;
    let begun = Instant::now();
    while let Some(left) = traffic::PATIENCE.checked_sub(begun.elapsed()) {
        let Some(packet) = next_packet(&errors, left)? else { continue };
        let Ok(ip) = Ipv4::parse(&packet) else { return Err("a broken packet arrived".into()) };
        let message = &packet[ip.header_len..];
        ensure!(checksum(message) == 0, "a wrong ICMP checksum");
        let Ok(quoted) = Ipv4::parse_quoted(&message[8..]) else { return Err("a broken quote".into()) };
        let ports = &message[8 + quoted.header_len..][..4];
        let expected = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let is_ours = quoted.src == *from.ip() && quoted.dst == *to.ip() && ports == expected;
        ensure!(is_ours, "quoted {} to {} {ports:02x?}, sent {from} to {to}", quoted.src, quoted.dst);
        return Ok(Some(Told { by: ip.src, kind: message[0], code: message[1] }));
    }
    Ok(None)
}

/// Who says what about datagrams with growing TTLs, until the destination does.
fn traceroute(netns: &Netns, own: Ipv4Addr, to: SocketAddrV4) -> Result<Vec<Told>, Failed> {
    let mut hops = Vec::new();
    for ttl in 1..=5 {
        let told = probe(netns, own, to, ttl)?;
        let told = told.ok_or_else(|| format!("silence at TTL {ttl}, after {hops:?}"))?;
        hops.push(told);
        if told.kind == 3 {
            break;
        }
    }
    Ok(hops)
}

const fn exceeded(by: Ipv4Addr) -> Told {
    Told { by, kind: 11, code: 0 }
}

const fn unreachable(by: Ipv4Addr) -> Told {
    Told { by, kind: 3, code: 3 }
}

fn row_26_traceroute_is_as_through_the_kernel() -> Outcome {
    let (rig, kernel_rig) = (Rig::new()?, Rig::new()?);
    let (_far, _kernel_far) = (far(&rig)?, far(&kernel_rig)?);
    let switch = Switch::start(&rig, &[])?;
    let container = switch.container(&rig, 11)?;
    let kernel = behind_the_kernel(&kernel_rig)?;
    let to = SocketAddrV4::new(FAR, CLOSED);
    let ours = traceroute(&container, inside(11), to)?;
    let theirs = traceroute(&kernel, KERNEL_INSIDE, to)?;
    let beyond = [exceeded(GATEWAY), unreachable(FAR)];
    ensure!(ours == [&[exceeded(inside(1))], &beyond[..]].concat(), "{ours:?}");
    ensure!(theirs == [&[exceeded(KERNEL_ROUTER)], &beyond[..]].concat(), "through the kernel: {theirs:?}");
    // To the host whose address is shared, it is one hop.
    let to = SocketAddrV4::new(UPLINK, CLOSED + 1);
    let ours = traceroute(&container, inside(11), to)?;
    let theirs = traceroute(&kernel, KERNEL_INSIDE, to)?;
    ensure!(ours == theirs && ours == [unreachable(UPLINK)], "{ours:?}, through the kernel {theirs:?}");
    Ok(())
}

fn row_26_traceroute_from_outside_is_too() -> Outcome {
    let (rig, kernel_rig) = (Rig::new()?, Rig::new()?);
    let (far, kernel_far) = (far(&rig)?, far(&kernel_rig)?);
    let switch = Switch::start(&rig, &[])?;
    let _container = switch.container(&rig, 11)?;
    switch.done(&format!("publish add {CLOSED}:{CLOSED}/udp --to c11"))?;
    let _kernel = behind_the_kernel(&kernel_rig)?;
    let to = SocketAddrV4::new(UPLINK, CLOSED);
    let ours = traceroute(&far, FAR, to)?;
    let theirs = traceroute(&kernel_far, FAR, to)?;
    ensure!(ours == [exceeded(FAR_ROUTER), exceeded(UPLINK), unreachable(UPLINK)], "{ours:?}");
    ensure!(ours == theirs, "{ours:?}, through the kernel {theirs:?}");
    Ok(())
}

fn row_34_routes_into_a_network_lead_nowhere() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let container = switch.container(&rig, 11)?;
    ensure!(traffic::ping(&container, GATEWAY, traffic::PATIENCE)?.is_some(), "no way out");
    rig.internet.run(|| netlink::add_route(Ipv4Net::new_assert(inside(0), 24), UPLINK))??;
    let before = switch.list("port inspect c11")?["tx_packets"].clone();
    ensure!(traffic::ping(&rig.internet, inside(11), traffic::SILENCE)?.is_none(), "a ping came through");
    ensure!(!traffic::tcp_answers(&rig.internet, SocketAddrV4::new(inside(11), 80))?, "a SYN came through");
    let after = switch.list("port inspect c11")?["tx_packets"].clone();
    ensure!(before == after, "packets went in: {before}, {after}");
    Ok(())
}

fn row_36_a_flood_of_errors_is_cut_off() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let container = switch.container(&rig, 11)?;
    let errors = icmp_socket(&container)?;
    let socket = container.run(|| UdpSocket::bind((inside(11), 0)))??;
    socket.set_ttl(1)?;
    let begun = Instant::now();
    let mut sent = 0_u32;
    while begun.elapsed() < Duration::from_secs(1) {
        // Errors are reported to the socket, too.
        let _ = socket.send_to(b"x", (FAR, CLOSED));
        sent += 1;
    }
    let took = begun.elapsed();
    let mut told = 0;
    while next_packet(&errors, Duration::from_millis(100))?.is_some() {
        told += 1;
    }
    ensure!(sent > 2_000, "no flood: {sent}");
    ensure!(told > 0 && told <= 1_000, "{told} errors about {sent} packets in {took:?}");
    ensure!(traffic::ping(&container, inside(1), traffic::PATIENCE)?.is_some(), "the gateway is silent");
    Ok(())
}

/// What a socket that sends to `to` is told.
fn refusal(netns: &Netns, to: SocketAddrV4) -> Result<Option<i32>, Failed> {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.connect(to)?;
    // Otherwise the socket is told about hard errors only, udp(7).
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    socket.set_read_timeout(Some(Duration::from_secs(8)))?;
    socket.send(b"is anybody there?")?;
    let told: io::Result<usize> = socket.recv(&mut [0; 64]);
    Ok(told.err().and_then(|error| error.raw_os_error()))
}

fn row_44_a_dead_neighbor_is_told_to_the_socket() -> Outcome {
    let rig = Rig::new()?;
    let _far = far(&rig)?;
    let switch = Switch::start(&rig, &[])?;
    let container = switch.container(&rig, 11)?;
    // On the uplink's link, by the switch; behind the internet's router, by that.
    for dead in [Ipv4Addr::new(192, 0, 2, 77), Ipv4Addr::new(203, 0, 113, 77)] {
        let told = refusal(&container, SocketAddrV4::new(dead, 9))?;
        ensure!(told == Some(nix::libc::EHOSTUNREACH), "{dead}: {told:?}");
    }
    Ok(())
}

fn rows_71_and_72_refusals_reach_the_sockets() -> Outcome {
    let rig = Rig::new()?;
    let far = far(&rig)?;
    let switch = Switch::start(&rig, &[])?;
    let container = switch.container(&rig, 11)?;
    switch.done(&format!("publish add {CLOSED}:{CLOSED}/udp --to c11"))?;
    let refused = Some(nix::libc::ECONNREFUSED);
    let told = refusal(&container, SocketAddrV4::new(FAR, CLOSED))?;
    ensure!(told == refused, "the container is told {told:?}");
    let told = refusal(&far, SocketAddrV4::new(UPLINK, CLOSED))?;
    ensure!(told == refused, "the world is told {told:?}");
    // And the container about its own publication, twice translated.
    let told = refusal(&container, SocketAddrV4::new(UPLINK, CLOSED))?;
    ensure!(told == refused, "the container is told {told:?} about itself");
    Ok(())
}

fn row_68_fifty_pings_with_one_identifier() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let mut pings = Vec::new();
    for host in 11..61 {
        let netns = switch.container(&rig, host)?;
        // Neighbors are resolved one by one, since only a few packets wait for each.
        ensure!(traffic::ping(&netns, GATEWAY, traffic::PATIENCE)?.is_some(), "{host} has no way out");
        pings.push((host, icmp_socket(&netns)?, netns));
    }
    // Type 8, the identifier 500, and who asks.
    let to = SockaddrIn::from(SocketAddrV4::new(GATEWAY, 0));
    for (host, socket, _) in &pings {
        let mut echo = [8, 0, 0, 0, 1, 244, 0, 1, *host, *host];
        let sum = checksum(&echo).to_be_bytes();
        echo[2..4].copy_from_slice(&sum);
        sendto(socket.as_raw_fd(), &echo, &to, MsgFlags::empty())?;
    }
    // All answers are there before the first one is read.
    thread::sleep(Duration::from_millis(500));
    for (host, socket, _) in &pings {
        let answer =
            next_packet(socket, traffic::PATIENCE)?.ok_or_else(|| format!("no answer for {host}"))?;
        let message = &answer[20..];
        let expected = [500_u16.to_be_bytes(), 1_u16.to_be_bytes(), [*host, *host]].concat();
        ensure!(message[0] == 0 && message[4..] == expected, "{host} got {message:02x?}");
        ensure!(next_packet(socket, Duration::from_millis(1))?.is_none(), "{host} got a second answer");
    }
    Ok(())
}
