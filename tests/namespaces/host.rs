//! The `host` modules against the kernel.

use std::io::ErrorKind as Io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use libtest_mimic::Failed;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, recv, setsockopt, socket, sockopt};
use vswitchd::addr::{MacAddr, Protocol};
use vswitchd::host::attach::{LinkSettings, attach_tap};
use vswitchd::host::bind::reserve;
use vswitchd::host::guard::{Guard, Hidden};
use vswitchd::host::netns::Netns;
use vswitchd::host::watch::{Change, Watcher};
use vswitchd::host::{ErrorKind, HostError, netlink};
use vswitchd::lab::traffic::PATIENCE;

use crate::switch::{nft, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("code_and_programs_run_in_a_namespace", code_and_programs_run_in_a_namespace),
    ("attach_names_conflicts", attach_names_conflicts),
    ("interfaces_and_routes_are_read", interfaces_and_routes_are_read),
    ("guard_hides_ports_from_the_stack", guard_hides_ports_from_the_stack),
    (
        "guard_is_there_when_a_failed_change_is_tried_again",
        guard_is_there_when_a_failed_change_is_tried_again,
    ),
    ("guard_survives_flush_and_kill", guard_survives_flush_and_kill),
    ("guard_has_one_owner", guard_has_one_owner),
    ("watcher_tells_links_from_rules", watcher_tells_links_from_rules),
    ("foreign_addresses_are_not_reserved", foreign_addresses_are_not_reserved),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[("attach_configures_a_tap", attach_configures_a_tap)];

const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn net(ip: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(ip, 24)
}

/// The switch's side with `eth0`, and a peer on the other end of its wire.
fn wire() -> Result<(Netns, Netns), HostError> {
    let (here, peer) = (Netns::new_anonymous("here")?, Netns::new_anonymous("peer")?);
    here.run(|| netlink::set_up("lo"))??;
    plug(&here, &peer)?;
    Ok((here, peer))
}

/// Puts a wire between the two.
fn plug(here: &Netns, peer: &Netns) -> Result<(), HostError> {
    here.run(|| {
        netlink::create_veth("eth0", "peer0")?;
        netlink::move_link("peer0", peer)?;
        netlink::add_address("eth0", net(UPLINK))?;
        netlink::set_up("eth0")
    })??;
    peer.run(|| {
        netlink::add_address("peer0", net(PEER))?;
        netlink::set_up("peer0")
    })?
}

fn eth0() -> [String; 1] {
    ["eth0".to_owned()]
}

fn settings(name: &str) -> LinkSettings {
    LinkSettings {
        ifname: name.to_owned(),
        mac: MacAddr::from_ipv4(UPLINK),
        address: Some(net(UPLINK)),
        gateway: Some(PEER),
        mtu: 1400,
    }
}

fn tap(name: &str) -> std::io::Result<tun_tap::Iface> {
    tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap)
}

fn code_and_programs_run_in_a_namespace() -> Outcome {
    let (here, there) = (Netns::current()?, Netns::new_anonymous("there")?);
    let inside = there.run(Netns::current)??;
    ensure!(inside.same_as(&there) && !inside.same_as(&here), "{inside:?}");
    ensure!(Netns::current()?.same_as(&here), "the caller moved");
    let mut readlink = Command::new("readlink");
    readlink.arg("/proc/self/ns/net").stdout(Stdio::piped());
    let output = String::from_utf8(there.spawn(&mut readlink)?.wait_with_output()?.stdout)?;
    ensure!(output.trim() == format!("net:[{}]", there.id()?.1), "{output}");
    Ok(())
}

fn attach_configures_a_tap() -> Outcome {
    let (here, there) = (Netns::new_anonymous("here")?, Netns::new_anonymous("there")?);
    here.run(|| -> Outcome {
        let device = tap("vsw1")?;
        let begun = Instant::now();
        attach_tap("vsw1", &there, &settings("eth0"))?;
        let took = begun.elapsed();
        println!("attached in {took:?}");
        let (link, addresses, routes) =
            there.run(|| (netlink::link("eth0"), netlink::addresses(None), netlink::routes()))?;
        let link = link?.ok_or("no eth0")?;
        ensure!(link.up && link.mtu == 1400 && link.mac == MacAddr::from_ipv4(UPLINK), "{link:?}");
        ensure!(link.kind.as_deref() == Some("tun"), "{link:?}");
        let addresses = addresses?;
        ensure!(addresses == [net(UPLINK)], "{addresses:?}");
        let routes = routes?;
        let default = routes.iter().find(|route| route.prefix.prefix_len() == 0);
        ensure!(default.is_some_and(|route| route.gateway == Some(PEER)), "{routes:?}");
        ensure!(took < Duration::from_millis(100), "{took:?}");
        drop(device);
        let gone = there.run(|| netlink::link("eth0"))??;
        ensure!(gone.is_none(), "{gone:?}");
        Ok(())
    })?
}

fn attach_names_conflicts() -> Outcome {
    let (here, there) = wire()?;
    let cases = [
        (LinkSettings { address: None, gateway: None, ..settings("peer0") }, "has an interface of this name"),
        (
            LinkSettings { address: Some(net(PEER)), gateway: None, ..settings("eth1") },
            "has this address already",
        ),
    ];
    for (settings, words) in cases {
        let error = here
            .run(|| {
                let _device = tap("vsw2").map_err(|error| HostError::os("tap", error))?;
                attach_tap("vsw2", &there, &settings)
            })?
            .expect_err("a conflict");
        ensure!(error.kind == ErrorKind::Exists && error.to_string().contains(words), "{error}");
    }
    there.run(|| netlink::add_route(Ipv4Net::default(), UPLINK))??;
    let error = here
        .run(|| {
            let _device = tap("vsw3").map_err(|error| HostError::os("tap", error))?;
            attach_tap("vsw3", &there, &LinkSettings { address: None, ..settings("eth1") })
        })?
        .expect_err("a second default route");
    ensure!(error.to_string().contains("has one by 192.0.2.1"), "{error}");
    for name in ["", "sixteencharacter", "a/b"] {
        let error = here.run(|| attach_tap("vsw4", &there, &settings(name)))?.expect_err("no name");
        ensure!(error.kind == ErrorKind::Other, "{error}");
    }
    let left = here.run(netlink::links)??;
    ensure!(!left.iter().any(|link| link.name.starts_with("vsw")), "{left:?}");
    Ok(())
}

fn interfaces_and_routes_are_read() -> Outcome {
    let (here, _peer) = wire()?;
    let far: Ipv4Net = "198.51.100.0/24".parse()?;
    let (link, routes, addresses) = here.run(|| -> Result<_, Failed> {
        netlink::set_mtu("eth0", 1280)?;
        netlink::set_mac("eth0", MacAddr([2, 0, 0, 0, 0, 9]))?;
        netlink::add_address("eth0", net(Ipv4Addr::new(192, 0, 2, 99)))?;
        netlink::add_route(far, PEER)?;
        let link = netlink::expect_link("eth0")?;
        let addresses = netlink::addresses(Some(link.index))?;
        netlink::del_address("eth0", net(Ipv4Addr::new(192, 0, 2, 99)))?;
        let left = netlink::addresses(Some(link.index))?;
        ensure!(left == [net(UPLINK)], "{left:?}");
        Ok((link, netlink::routes()?, addresses))
    })??;
    ensure!(link.mtu == 1280 && link.mac == MacAddr([2, 0, 0, 0, 0, 9]) && link.up, "{link:?}");
    ensure!(link.kind.as_deref() == Some("veth"), "{link:?}");
    ensure!(addresses == [net(UPLINK), net(Ipv4Addr::new(192, 0, 2, 99))], "{addresses:?}");
    let route = routes.iter().find(|route| route.prefix == far);
    ensure!(route.is_some_and(|r| r.gateway == Some(PEER) && r.ifindex == link.index), "{routes:?}");
    let on_link = routes.iter().find(|route| route.prefix == net(UPLINK).trunc());
    ensure!(on_link.is_some_and(|route| route.gateway.is_none()), "{routes:?}");
    let gone = here.run(|| {
        netlink::delete_link("eth0")?;
        netlink::delete_link("eth0")?;
        netlink::link("eth0")
    })??;
    ensure!(gone.is_none(), "{gone:?}");
    Ok(())
}

/// What the host's stack answers to a datagram and to a SYN from the peer.
fn answers(peer: &Netns, port: u16) -> Result<(Option<Io>, Option<Io>), HostError> {
    peer.run(|| {
        let udp = UdpSocket::bind((PEER, 0)).and_then(|udp| {
            udp.connect((UPLINK, port))?;
            udp.set_read_timeout(Some(Duration::from_millis(300)))?;
            udp.send(b"hello")?;
            udp.recv(&mut [0; 16])
        });
        let to = SocketAddr::new(IpAddr::V4(UPLINK), port);
        let tcp = TcpStream::connect_timeout(&to, Duration::from_millis(300));
        (udp.err().map(|error| error.kind()), tcp.err().map(|error| error.kind()))
    })
}

/// The answer to a port that nobody guards, and to one that is hidden.
const REFUSED: (Option<Io>, Option<Io>) = (Some(Io::ConnectionRefused), Some(Io::ConnectionRefused));
const SILENT: (Option<Io>, Option<Io>) = (Some(Io::WouldBlock), Some(Io::TimedOut));

/// Expects that the stack answers a port like this.
fn expect(peer: &Netns, port: u16, expected: (Option<Io>, Option<Io>), what: &str) -> Outcome {
    let begun = Instant::now();
    let mut seen = answers(peer, port)?;
    // A packet may be lost, as on a wire that was plugged in just now, and the next SYN takes a second.
    while seen != expected && expected == REFUSED && begun.elapsed() < PATIENCE {
        seen = answers(peer, port)?;
    }
    ensure!(seen == expected, "{what}, port {port}: {seen:?}");
    Ok(())
}

fn hide(address: Ipv4Addr, first: u16, last: u16) -> Vec<Hidden> {
    [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| Hidden::Ports { protocol, address, ports: first..=last })
        .to_vec()
}

fn guard_hides_ports_from_the_stack() -> Outcome {
    let (here, peer) = wire()?;
    expect(&peer, 61000, REFUSED, "without a guard")?;
    let mut guard = here.run(|| {
        Guard::available("eth0")?;
        Guard::install(&eth0(), &hide(UPLINK, 61000, 65535))
    })??;
    for (port, expected) in [(61000, SILENT), (65535, SILENT), (60999, REFUSED)] {
        expect(&peer, port, expected, "with a guard")?;
    }
    // AF_PACKET sees what the guard hides.
    let packet = here.run(|| {
        let all = nix::sys::socket::SockProtocol::EthAll;
        let packet = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
        let wait = nix::sys::time::TimeVal::new(2, 0);
        setsockopt(&packet, sockopt::ReceiveTimeout, &wait)?;
        nix::Result::Ok(packet)
    })??;
    expect(&peer, 61001, SILENT, "before AF_PACKET")?;
    let mut seen = false;
    let mut frame = [0; 2048];
    while let Ok(length) = recv(packet.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty()) {
        if length > 38 && frame[36..38] == 61001_u16.to_be_bytes() {
            seen = true;
            break;
        }
    }
    ensure!(seen, "AF_PACKET did not see the hidden packet");
    // One transaction moves it: another address, published ports beside.
    let mut next = hide(UPLINK, 61000, 61999);
    next.extend(hide(UPLINK, 8080, 8080));
    next.extend(hide(UPLINK, 61500, 61500));
    next.extend(hide(Ipv4Addr::new(192, 0, 2, 99), 1, 65535));
    here.run(|| guard.update(&eth0(), &next))??;
    for (port, expected) in [(61000, SILENT), (8080, SILENT), (62000, REFUSED)] {
        expect(&peer, port, expected, "with a guard")?;
    }
    // A thousand separate ranges are one transaction, too.
    let odd = (1..=1000).map(|port| Hidden::Ports {
        protocol: Protocol::Udp,
        address: UPLINK,
        ports: port * 2..=port * 2,
    });
    let odd: Vec<_> = odd.collect();
    here.run(|| guard.update(&eth0(), &odd))??;
    here.run(|| guard.update(&eth0(), &hide(UPLINK, 61000, 65535)))??;
    ensure!(!here.run(|| guard.ensure())??, "an intact guard was restored");
    here.run(|| drop(guard))?;
    expect(&peer, 61000, REFUSED, "the guard outlived its value")?;
    ensure!(tables(&here)?.is_empty(), "{}", tables(&here)?);
    Ok(())
}

fn tables(netns: &Netns) -> Result<String, Failed> {
    nft(netns, &["list", "tables"])
}

fn guard_survives_flush_and_kill() -> Outcome {
    let (here, peer) = wire()?;
    nft(&here, &["add", "table", "netdev", "vswitchd"])?;
    let mut guard = here.run(|| Guard::install(&eth0(), &hide(UPLINK, 61000, 65535)))??;
    nft(&here, &["flush", "ruleset"])?;
    if guard.owner().is_some() {
        expect(&peer, 61000, SILENT, "a flush removed an owned table")?;
    }
    here.run(|| guard.ensure())??;
    expect(&peer, 61000, SILENT, "the guard did not come back after a flush")?;
    if let Some(owner) = guard.owner() {
        Command::new("kill").args(["-9", &owner.to_string()]).status()?;
        let begun = Instant::now();
        while !here.run(|| guard.ensure())?? {
            ensure!(begun.elapsed() < PATIENCE, "the dead owner was not noticed");
            std::thread::sleep(Duration::from_millis(10));
        }
        ensure!(guard.owner() != Some(owner), "still {owner}");
        expect(&peer, 61000, SILENT, "the guard did not come back after its owner died")?;
    }
    // The interface comes and goes.
    here.run(|| netlink::delete_link("eth0"))??;
    plug(&here, &peer)?;
    here.run(|| guard.ensure())??;
    expect(&peer, 61000, SILENT, "the guard did not follow its interface")?;
    Ok(())
}

fn guard_is_there_when_a_failed_change_is_tried_again() -> Outcome {
    let (here, peer) = wire()?;
    let mut guard = here.run(|| Guard::install(&eth0(), &hide(UPLINK, 61000, 65535)))??;
    // What is asked for again: what failed, or what was there before.
    for (asked, again) in [(8080, 8080), (8081, 8080)] {
        let Some(owner) = guard.owner() else { return Ok(()) };
        Command::new("kill").args(["-9", &owner.to_string()]).status()?;
        wait_until(PATIENCE, "the table is gone", || Ok(tables(&here)?.is_empty()))?;
        let other = here.run(|| Guard::install(&eth0(), &[]))??;
        for port in [asked, asked, 9999] {
            let refused = here.run(|| guard.update(&eth0(), &hide(UPLINK, port, port)))?;
            ensure!(refused.is_err(), "the table has two owners");
        }
        drop(other);
        here.run(|| guard.update(&eth0(), &hide(UPLINK, again, again)))??;
        for (port, expected) in [(again, SILENT), (61000, REFUSED)] {
            expect(&peer, port, expected, "tried again")?;
        }
    }
    Ok(())
}

fn guard_has_one_owner() -> Outcome {
    let (here, _peer) = wire()?;
    let first = here.run(|| Guard::install(&eth0(), &hide(UPLINK, 61000, 65535)))??;
    if first.owner().is_some() {
        let error = here.run(|| Guard::install(&eth0(), &[]))?.expect_err("a second owner");
        ensure!(error.kind == ErrorKind::Exists && error.to_string().contains("owns"), "{error}");
    }
    drop(first);
    here.run(|| Guard::install(&eth0(), &[]))??;
    Ok(())
}

fn watcher_tells_links_from_rules() -> Outcome {
    let (here, _peer) = wire()?;
    let seen = here.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut watcher = Watcher::new()?;
            // The kernel tells of a new wire's carrier up to a second late (Linux `link_watch.c`).
            let settling = Duration::from_millis(1200);
            while tokio::time::timeout(settling, watcher.changed()).await.is_ok() {}
            netlink::set_mtu("eth0", 1280)?;
            let mtu = watcher.changed().await;
            netlink::add_address("eth0", net(PEER))?;
            let address = watcher.changed().await;
            nft(&here, &["add", "table", "netdev", "other"])?;
            let rules = watcher.changed().await;
            let quiet = tokio::time::timeout(Duration::from_millis(200), watcher.changed()).await.is_err();
            Ok::<_, Failed>((quiet, mtu, address, rules))
        })
    })??;
    let (links, nft) = (Change { links: true, nft: false }, Change { links: false, nft: true });
    ensure!(seen == (true, links, links, nft), "{seen:?}");
    Ok(())
}

fn foreign_addresses_are_not_reserved() -> Outcome {
    let (here, _peer) = wire()?;
    let error = here.run(|| reserve(Protocol::Udp, Some(PEER), 53))?.map(drop).expect_err("foreign");
    ensure!(error.kind == ErrorKind::NotFound, "{error}");
    here.run(|| reserve(Protocol::Udp, Some(UPLINK), 53))??;
    Ok(())
}
