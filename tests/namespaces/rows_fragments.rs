//! Fragments and path MTU discovery between real kernels, beside a kernel's own NAT.
//!
//! ```text
//!  container ── vswitchd ── 192.0.2.1 ─┐
//!                                      ├─ router ──(MTU 1280)── far router ── server 203.0.113.2
//!  client ─── nft masquerade ──────────┘
//! ```
//!
//! Whatever is tried from the container is tried from the client as well, and must come to the same.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use libtest_mimic::Failed;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::frame::{Frame, Offload};
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::frames::Tap;
use vswitchd::lab::rig::{GATEWAY, Rig, UPLINK};
use vswitchd::lab::traffic::{PATIENCE, SILENCE, Talk, connect};
use vswitchd::port::Device;
use vswitchd::port::packet::{Packet, PacketOptions};
use vswitchd::sim::packet::{self, Macs};
use vswitchd::wire::checksum::checksum;
use vswitchd::wire::ipv4::{self, Ipv4};
use vswitchd::wire::{edit, icmpv4};

use crate::switch::{Switch, inside, nft, wait_until};
use crate::transfer::send_file;
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    (
        "row_38_and_43_pings_of_every_size_are_as_through_the_kernel",
        row_38_and_43_pings_of_every_size_are_as_through_the_kernel,
    ),
    ("row_26_hops_are_as_through_the_kernel", row_26_hops_are_as_through_the_kernel),
    ("row_38_tcp_finds_the_mtu_of_its_path", row_38_tcp_finds_the_mtu_of_its_path),
    ("row_54_the_largest_datagram_goes_both_ways", row_54_the_largest_datagram_goes_both_ways),
    (
        "row_58_the_same_identification_from_two_containers",
        row_58_the_same_identification_from_two_containers,
    ),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[(
    "row_54_a_flood_of_fragments_harms_no_whole_packets",
    row_54_a_flood_of_fragments_harms_no_whole_packets,
)];

const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The far router, on the server's link, and on the narrow one.
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const FAR_NARROW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 130);
const NEAR_NARROW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 129);
/// The kernel's NAT on its link to the router, and the router there.
const KERNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);
const ROUTER_TO_KERNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 129);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const CONTAINER_GATEWAY: Ipv4Addr = inside(1);

/// MTU of the link between the routers.
const NARROW: u32 = 1280;

/// Data bytes of pings: around one, two and three fragments of 1500 and of 1280 bytes, and the ends.
const SIZES: [usize; 15] =
    [0, 1, 56, 1252, 1253, 1472, 1473, 1480, 2000, 2484, 2952, 2953, 8000, 32_768, 65_507];

struct World {
    rig: Rig,
    switch: Switch,
    container: Netns,
    client: Netns,
    server: Netns,
    _others: [Netns; 2],
}

impl World {
    fn new() -> Result<World, Failed> {
        let rig = Rig::new()?;
        let (far, server) = (rig.container("far")?, rig.container("server")?);
        let (kernel, client) = (rig.container("kernel")?, rig.container("client")?);
        wire(&rig.internet, "narrow", NEAR_NARROW, &far, "narrow", FAR_NARROW, 25)?;
        wire(&far, "wide", FAR, &server, "eth0", SERVER, 25)?;
        wire(&rig.internet, "kernel", ROUTER_TO_KERNEL, &kernel, "up", KERNEL, 25)?;
        wire(&kernel, "down", CLIENT_GATEWAY, &client, "eth0", CLIENT, 24)?;
        rig.internet.run(|| netlink::set_mtu("narrow", NARROW))??;
        far.run(|| netlink::set_mtu("narrow", NARROW))??;
        for (netns, gateway) in
            [(&far, NEAR_NARROW), (&server, FAR), (&kernel, ROUTER_TO_KERNEL), (&client, CLIENT_GATEWAY)]
        {
            netns.run(|| netlink::add_route(Ipv4Net::default(), gateway))??;
        }
        rig.internet.run(|| netlink::add_route(Ipv4Net::new_assert(FAR, 25).trunc(), FAR_NARROW))??;
        for netns in [&rig.internet, &far, &kernel] {
            sysctl(netns, "ip_forward", "1")?;
        }
        // What the server answers must not depend on what it was asked before.
        sysctl(&server, "ip_no_pmtu_disc", "1")?;
        for rule in [
            "add table ip nat",
            "add chain ip nat out { type nat hook postrouting priority 100; }",
            "add rule ip nat out oifname up masquerade",
        ] {
            nft(&kernel, &[rule])?;
        }
        let switch = Switch::start(&rig, &[])?;
        let container = switch.container(&rig, 11)?;
        Ok(World { rig, switch, container, client, server, _others: [far, kernel] })
    }

    /// Does the same in the container and in the kernel's client; the outcomes must be equal.
    fn both<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        mut act: impl FnMut(&Netns, Ipv4Addr) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let ours = act(&self.container, CONTAINER_GATEWAY)?;
        let kernels = act(&self.client, CLIENT_GATEWAY)?;
        ensure!(ours == kernels, "{what}: {ours:?}, and through the kernel {kernels:?}");
        Ok(ours)
    }
}

/// A veth pair between two namespaces.
fn wire(
    a: &Netns,
    a_name: &str,
    a_ip: Ipv4Addr,
    b: &Netns,
    b_name: &str,
    b_ip: Ipv4Addr,
    prefix: u8,
) -> Outcome {
    a.run(|| {
        netlink::create_veth(a_name, "peer0")?;
        netlink::move_link("peer0", b)?;
        netlink::add_address(a_name, Ipv4Net::new_assert(a_ip, prefix))?;
        netlink::set_up(a_name)
    })??;
    b.run(|| {
        netlink::rename("peer0", b_name)?;
        netlink::add_address(b_name, Ipv4Net::new_assert(b_ip, prefix))?;
        netlink::set_up(b_name)
    })??;
    Ok(())
}

fn sysctl(netns: &Netns, name: &str, value: &str) -> Outcome {
    netns.run(|| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value))??;
    Ok(())
}

/// What comes of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The same data.
    Echo { ttl: u8 },
    /// An ICMP error about it.
    Error { kind: u8, code: u8, mtu: u16 },
    /// Nothing.
    Silence,
}

/// Sends an echo request with `size` bytes of data. The kernel sets DF on it if it fits the path MTU that it
/// knows, and cuts it otherwise.
fn ping(netns: &Netns, to: Ipv4Addr, size: usize, ttl: u32) -> Result<Answer, Failed> {
    static SEQUENCE: AtomicU16 = AtomicU16::new(1);
    let socket = netns
        .run(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp))??;
    setsockopt(&socket, sockopt::Ipv4Ttl, &i32::try_from(ttl)?)?;
    setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
    setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 10_000))?;
    let id = SEQUENCE.fetch_add(1, Relaxed).to_be_bytes();
    let mut echo = vec![0; 8 + size];
    echo[0] = icmpv4::ECHO_REQUEST;
    echo[4..6].copy_from_slice(&id);
    for (n, byte) in echo[8..].iter_mut().enumerate() {
        *byte = u8::try_from(n % 251)?;
    }
    let sum = checksum(&echo).to_be_bytes();
    echo[2..4].copy_from_slice(&sum);
    sendto(socket.as_raw_fd(), &echo, &SockaddrIn::from(SocketAddrV4::new(to, 0)), MsgFlags::empty())?;
    let begun = Instant::now();
    let mut packet = vec![0; 65_536];
    while begun.elapsed() < PATIENCE {
        let Ok(length) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) else { continue };
        let ip = Ipv4::parse_quoted(&packet[..length])?;
        let message = &packet[ip.header_len..length];
        if message[0] == icmpv4::ECHO_REPLY && message[4..6] == id {
            ensure!(ip.src == to, "{} answers for {to}", ip.src);
            ensure!(message[4..] == echo[4..], "the echo of {size} bytes is not what was sent");
            return Ok(Answer::Echo { ttl: ip.ttl });
        }
        if icmpv4::is_error(message[0]) {
            let quoted = Ipv4::parse_quoted(&message[8..])?;
            let about = message.get(8 + quoted.header_len + 4..8 + quoted.header_len + 6);
            if about == Some(&id[..]) {
                let own = netns.run(|| netlink::addresses(None))??.iter().any(|net| net.addr() == quoted.src);
                ensure!(own && quoted.dst == to, "the error is about another packet: {quoted:?}");
                let mtu = u16::from_be_bytes([message[6], message[7]]);
                return Ok(Answer::Error { kind: message[0], code: message[1], mtu });
            }
        }
    }
    Ok(Answer::Silence)
}

fn row_38_and_43_pings_of_every_size_are_as_through_the_kernel() -> Outcome {
    let world = World::new()?;
    // A router of the kernel tells hosts of their mistakes at a limited rate, and so do we.
    for size in SIZES {
        let answer = world.both("the gateway", |netns, gateway| ping(netns, gateway, size, 64))?;
        ensure!(answer == Answer::Echo { ttl: 64 }, "{size} bytes to the gateway: {answer:?}");
    }
    for size in SIZES {
        let answer = world.both("the router", |netns, _| ping(netns, GATEWAY, size, 64))?;
        ensure!(answer == Answer::Echo { ttl: 63 }, "{size} bytes to the router: {answer:?}");
    }
    // The first packet with DF that is too big is refused; then the sender knows, and cuts what it sends.
    let refused = Answer::Error { kind: 3, code: 4, mtu: u16::try_from(NARROW)? };
    let answer = world.both("DF", |netns, _| ping(netns, SERVER, 1300, 64))?;
    ensure!(answer == refused, "1300 bytes across a link of {NARROW}: {answer:?}");
    for size in SIZES {
        let answer = world.both("the server", |netns, _| ping(netns, SERVER, size, 64))?;
        ensure!(answer == Answer::Echo { ttl: 61 }, "{size} bytes to the server: {answer:?}");
    }
    // Without DF, routers cut further what the sender has cut.
    for netns in [&world.container, &world.client] {
        sysctl(netns, "ip_no_pmtu_disc", "1")?;
        sysctl(netns, "route/flush", "1").unwrap_or_default();
    }
    for size in SIZES {
        let answer = world.both("without DF", |netns, _| ping(netns, SERVER, size, 64))?;
        ensure!(answer == Answer::Echo { ttl: 61 }, "{size} bytes without DF: {answer:?}");
    }
    Ok(())
}

fn row_26_hops_are_as_through_the_kernel() -> Outcome {
    let world = World::new()?;
    for size in [56, 3000] {
        let mut way = Vec::new();
        for ttl in 1..=4 {
            way.push(world.both(&format!("hop {ttl}"), |netns, _| ping(netns, SERVER, size, ttl))?);
        }
        let exceeded = Answer::Error { kind: 11, code: 0, mtu: 0 };
        let expected = [exceeded, exceeded, exceeded, Answer::Echo { ttl: 61 }];
        ensure!(way == expected, "{size} bytes: {way:?}");
    }
    Ok(())
}

fn row_38_tcp_finds_the_mtu_of_its_path() -> Outcome {
    const BYTES: u64 = 16 << 20;
    let world = World::new()?;
    let at = SocketAddrV4::new(SERVER, 5002);
    let mtu = world.both("path MTU of TCP", |netns, _| {
        let talk = Talk { client: netns, to: at, server: &world.server, at };
        send_file("across the narrow link", talk, BYTES)?;
        let connection = connect(talk)?;
        Ok(nix::sys::socket::getsockopt(&connection.client, sockopt::IpMtu)?)
    })?;
    ensure!(mtu == i32::try_from(NARROW)?, "TCP believes in {mtu}");
    // And as a server behind a published port, which sends more than it receives.
    world.switch.done("publish add 8080:5003/tcp --to c11")?;
    let fresh = world.switch.container(&world.rig, 12)?;
    world.switch.done("publish add 8081:5003/tcp --to c12")?;
    let talk = Talk {
        client: &world.server,
        to: SocketAddrV4::new(UPLINK, 8081),
        server: &fresh,
        at: SocketAddrV4::new(inside(12), 5003),
    };
    let mut connection = connect(talk)?;
    let sent = thread::scope(|scope| {
        let reader = scope.spawn(|| std::io::copy(&mut connection.client, &mut std::io::sink()));
        let block = vec![7; 1 << 20];
        for _ in 0..16 {
            std::io::Write::write_all(&mut connection.server, &block)?;
        }
        connection.server.shutdown(std::net::Shutdown::Both)?;
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    ensure!(sent == BYTES, "{sent} bytes arrived");
    Ok(())
}

/// A socket in a namespace that waits as long as a test may.
fn bound(netns: &Netns, at: SocketAddrV4) -> Result<UdpSocket, Failed> {
    let socket = netns.run(|| UdpSocket::bind(at))??;
    setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
    setsockopt(&socket, sockopt::SndBuf, &(4 << 20))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends datagrams of all sizes to `to` and has them sent back by `server`.
fn echo(client: &UdpSocket, to: SocketAddrV4, server: &UdpSocket) -> Outcome {
    let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
    for size in SIZES {
        let data: Vec<u8> = (0..size).map(|n| u8::try_from(n * 7 % 253).unwrap_or(0)).collect();
        // The first one that is too big for the narrow link is lost, if the sender sets DF.
        let mut arrived = None;
        for _ in 0..3 {
            server.set_read_timeout(Some(2 * SILENCE))?;
            client.send_to(&data, to)?;
            if let Ok(got) = server.recv_from(&mut there) {
                arrived = Some(got);
                break;
            }
        }
        let (length, seen) = arrived.ok_or_else(|| format!("{size} bytes do not arrive at the server"))?;
        ensure!(there[..length] == data, "{size} bytes arrive changed at the server");
        server.send_to(&data, seen)?;
        let length = client.recv(&mut back).map_err(|why| format!("{size} bytes do not come back: {why}"))?;
        ensure!(back[..length] == data, "{size} bytes come back changed");
    }
    Ok(())
}

fn row_54_the_largest_datagram_goes_both_ways() -> Outcome {
    let world = World::new()?;
    let to = SocketAddrV4::new(SERVER, 5005);
    let server = bound(&world.server, to)?;
    let client = bound(&world.container, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    echo(&client, to, &server)?;
    // In at a published port.
    world.switch.done("publish add 8080:5003/udp --to c11")?;
    let container = bound(&world.container, SocketAddrV4::new(inside(11), 5003))?;
    let published = SocketAddrV4::new(UPLINK, 8080);
    echo(&server, published, &container)?;
    // Around, by the external address, from another container; and straight across.
    let other = world.switch.container(&world.rig, 12)?;
    let other = bound(&other, SocketAddrV4::new(inside(12), 0))?;
    echo(&other, published, &container)?;
    echo(&other, SocketAddrV4::new(inside(11), 5003), &container)?;
    Ok(())
}

/// A packet socket in a container, with its address and the gateway's.
struct Raw {
    device: Packet,
    macs: Macs,
}

impl Raw {
    fn open(netns: &Netns, ip: Ipv4Addr) -> Result<Raw, Failed> {
        let mac = netns.run(|| netlink::expect_link("eth0"))??.mac;
        let gateway = Tap::open(netns)?.who_has((mac, ip), CONTAINER_GATEWAY, PATIENCE)?;
        let dst: MacAddr = gateway.ok_or("the gateway has no address")?;
        let device = netns.run(|| Packet::open("eth0", PacketOptions::default()))??;
        Ok(Raw { device, macs: Macs { src: mac, dst } })
    }

    fn send(&self, bytes: &[u8], frame: &mut Frame) -> bool {
        frame.fill(bytes, Offload::NONE);
        self.device.transmit(frame).is_ok()
    }
}

/// A datagram in fragments with this identification.
fn fragments(datagram: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let (headers, payload) = datagram.split_at(34);
    let pieces = payload.chunks(size).enumerate().map(|(n, piece)| {
        let mut bytes = [headers, piece].concat();
        bytes[20] = 0;
        edit::set_id(&mut bytes[14..], id);
        ipv4::make_fragment(&mut bytes[14..], 20, n * size, (n + 1) * size < payload.len());
        bytes
    });
    pieces.collect()
}

fn row_58_the_same_identification_from_two_containers() -> Outcome {
    let world = World::new()?;
    let server = bound(&world.server, SocketAddrV4::new(SERVER, 5006))?;
    let other = world.switch.container(&world.rig, 12)?;
    let one = Raw::open(&world.container, inside(11))?;
    let two = Raw::open(&other, inside(12))?;
    let to = Endpoint::new(SERVER, 5006);
    let mut frame = Frame::new();
    for id in 0..50 {
        let from = |raw: &Raw, host, byte| {
            let datagram = packet::udp(raw.macs, Endpoint::new(inside(host), 4000), to, &[byte; 3000]);
            fragments(&datagram, id, 1200)
        };
        for (a, b) in from(&one, 11, 1).iter().zip(&from(&two, 12, 2)) {
            ensure!(one.send(a, &mut frame) && two.send(b, &mut frame), "not sent");
        }
        let mut arrived = Vec::new();
        for _ in 0..2 {
            let mut datagram = vec![0; 65_536];
            let length = server.recv(&mut datagram)?;
            ensure!(length == 3000, "{length} bytes");
            ensure!(datagram[..3000].iter().all(|&byte| byte == datagram[0]), "a mixture arrives");
            arrived.push(datagram[0]);
        }
        arrived.sort_unstable();
        ensure!(arrived == [1, 2], "{arrived:?}");
    }
    Ok(())
}

/// 50,000 first fragments a second from one container while another one sends whole datagrams. For three seconds,
/// or as many as `VSWITCHD_FLOOD_SECONDS` says.
fn row_54_a_flood_of_fragments_harms_no_whole_packets() -> Outcome {
    const FLOOD_PER_MILLISECOND: u64 = 50;
    let seconds =
        std::env::var("VSWITCHD_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let world = World::new()?;
    let victim = world.switch.container(&world.rig, 12)?;
    let to = SocketAddrV4::new(SERVER, 5007);
    let server = bound(&world.server, to)?;
    let sender = bound(&victim, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    let raw = Raw::open(&world.container, inside(11))?;
    let datagram =
        packet::udp(raw.macs, Endpoint::new(inside(11), 4000), Endpoint::new(SERVER, 5007), &[7; 3000]);
    let first = fragments(&datagram, 0, 1480).remove(0);
    // So that what is allocated once is allocated.
    sender.send_to(b"whole", to)?;
    server.recv(&mut [0; 16])?;
    let memory = world.switch.memory()?;
    let (over, flooded, arrived) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut sent = 0;
    thread::scope(|scope| -> Outcome {
        scope.spawn(|| {
            let (mut frame, mut bytes, begun) = (Frame::new(), first.clone(), Instant::now());
            while !over.load(Relaxed) {
                let due = u64::try_from(begun.elapsed().as_millis()).unwrap_or(0) * FLOOD_PER_MILLISECOND;
                while flooded.load(Relaxed) < due {
                    let id = flooded.fetch_add(1, Relaxed);
                    edit::set_id(&mut bytes[14..], u16::try_from(id % 65_536).unwrap_or(0));
                    raw.send(&bytes, &mut frame);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        scope.spawn(|| {
            while server.recv(&mut [0; 16]).is_ok() {
                if arrived.fetch_add(1, Relaxed) == u64::MAX {
                    return;
                }
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            sender.send_to(b"whole", to)?;
            sent += 1;
            thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Relaxed);
        server.set_read_timeout(Some(SILENCE))?;
        Ok(())
    })?;
    let (arrived, flooded) = (arrived.into_inner(), flooded.into_inner());
    let grown = world.switch.memory()?.saturating_sub(memory);
    println!(
        "{flooded} fragments in {seconds} s; {arrived} of {sent} whole datagrams; {} KiB more",
        grown >> 10
    );
    ensure!(arrived * 100 >= sent * 99, "{arrived} of {sent} whole datagrams arrived");
    ensure!(grown < 8 << 20, "{grown} bytes more");
    let reasons = world.switch.done("drops")?;
    ensure!(reasons.contains("fragments-full"), "{reasons}");
    wait_until(Duration::from_secs(2), "the switch rests", || {
        Ok(ping(&victim, CONTAINER_GATEWAY, 3000, 64)? == Answer::Echo { ttl: 64 })
    })?;
    Ok(())
}
