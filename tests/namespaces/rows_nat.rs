//! Rows of docs/conformance.md about translation, allocation and published ports, between real stacks.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect as connect_to,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{GATEWAY, INTERNET, Rig, UPLINK, on_uplink};
use vswitchd::lab::traffic::{Connection, PATIENCE, SILENCE, connect, ping};
use vswitchd::wire::checksum::{checksum, fold, pseudo_header, sum};

use crate::switch::{Switch, inside, outwards, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("rows_45_51_and_52_mapping_filtering_and_hairpin", rows_45_51_and_52_mapping_filtering_and_hairpin),
    ("rows_45_51_and_52_natdiscovery_agrees", rows_45_51_and_52_natdiscovery_agrees),
    ("row_57_an_uplink_in_a_networks_prefix_carries_nothing", row_57_an_uplink_in_a_networks_prefix),
    ("row_61_real_stacks_open_simultaneously", row_61_real_stacks_open_simultaneously),
    ("row_79_a_port_that_the_host_binds_later_is_the_hosts", row_79_the_host_binds_later),
    ("row_80_an_old_flow_follows_the_publication", row_80_an_old_flow_follows_the_publication),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[
    (
        "rows_53_and_63_a_transfer_does_not_notice_blind_resets_and_errors",
        rows_53_and_63_blind_resets_and_errors,
    ),
    ("row_81_a_container_with_70000_flows_does_not_harm_another", row_81_a_container_with_70000_flows),
];

/// A UDP socket of a namespace, that waits no longer than silence is listened to.
fn udp(netns: &Netns, ip: Ipv4Addr, port: u16) -> Result<UdpSocket, Failed> {
    let socket = netns.run(|| UdpSocket::bind((ip, port)))??;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// What arrived, and from whom; `None` for silence.
fn heard(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut bytes = [0; 2048];
    socket.recv_from(&mut bytes).ok().map(|(len, from)| (bytes[..len].to_vec(), from))
}

/// Sends from one socket to the other, and says whom the receiver sees.
fn shown(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> Result<SocketAddr, Failed> {
    from.send_to(b"who am I", to)?;
    Ok(heard(at).ok_or_else(|| format!("nothing arrives at {to}"))?.1)
}

fn rows_45_51_and_52_mapping_filtering_and_hairpin() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    let servers = [(INTERNET, 7001), (INTERNET, 7002), (GATEWAY, 7001)];
    let servers =
        servers.into_iter().map(|(ip, port)| udp(&rig.internet, ip, port)).collect::<Result<Vec<_>, _>>()?;
    let stranger = udp(&rig.internet, INTERNET, 7003)?;
    let sockets = [udp(&one, Ipv4Addr::UNSPECIFIED, 5000)?, udp(&two, Ipv4Addr::UNSPECIFIED, 5000)?];
    let mut seen = Vec::new();
    for socket in &sockets {
        let views = servers
            .iter()
            .map(|server| shown(socket, server.local_addr()?, server))
            .collect::<Result<Vec<_>, _>>()?;
        ensure!(
            views.iter().all(|view| *view == views[0]),
            "the mapping depends on the destination: {views:?}"
        );
        seen.push(views[0]);
    }
    ensure!(seen[0] != seen[1], "two containers share {}", seen[0]);
    for server in &servers {
        server.send_to(b"answer", seen[0])?;
        let answer = heard(&sockets[0]).ok_or("no answer arrives")?;
        ensure!(answer.1 == server.local_addr()?, "an answer from {}", answer.1);
    }
    stranger.send_to(b"unasked", seen[0])?;
    ensure!(heard(&sockets[0]).is_none(), "filtering is not by address and port");
    for (from, to) in [(0, 1), (1, 0)] {
        let view = shown(&sockets[from], seen[to], &sockets[to])?;
        ensure!(view == seen[from], "a hairpin shows {view} instead of {}", seen[from]);
    }
    Ok(())
}

/// Whether a program is there. Where it must be, its absence is a failure.
fn found(program: &str) -> Result<bool, Failed> {
    let there = Command::new(program).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let must_run = std::env::var("CI").is_ok_and(|ci| ci == "true");
    ensure!(there || !must_run, "needs {program}");
    if !there {
        println!("skipped: needs {program}");
    }
    Ok(there)
}

fn rows_45_51_and_52_natdiscovery_agrees() -> Outcome {
    if !found("turnutils_natdiscovery")? {
        return Ok(());
    }
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 11)?;
    let file = |name: &str| rig.directory().join(name).display().to_string();
    let (pid, users, log) = (file("turn.pid"), file("turn.db"), file("turn.log"));
    let mut server = Command::new("turnserver");
    server.args(["-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "--simple-log", "-p", "3478"]);
    server.args(["-L", &INTERNET.to_string(), "-L", &GATEWAY.to_string(), "--alt-listening-port", "3479"]);
    server.args(["--pidfile", &pid, "--db", &users, "--log-file", &log]);
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = rig.internet.spawn(&mut server)?;
    let discovered = discover(&one);
    server.kill()?;
    server.wait()?;
    let said = discovered?;
    for words in [
        "NAT with Endpoint Independent Mapping!",
        "NAT with Address and Port Dependent Filtering!",
        "Received a request (maybe a successful hairpinning)",
    ] {
        ensure!(said.contains(words), "it does not say {words:?}: {said}");
    }
    Ok(())
}

/// What `turnutils_natdiscovery` finds out, as soon as the server answers it.
fn discover(container: &Netns) -> Result<String, Failed> {
    let ask = |flag: &str| -> Result<String, Failed> {
        let mut client = Command::new("turnutils_natdiscovery");
        client.args([flag, &INTERNET.to_string()]).stdin(Stdio::null());
        client.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = container.spawn(&mut client)?.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let mut mapping = String::new();
    wait_until(Duration::from_secs(20), "an answer of turnserver", || {
        mapping = ask("-m")?;
        Ok(mapping.contains("Mapping!"))
    })?;
    Ok(mapping + &ask("-f")? + &ask("-H")?)
}

fn row_57_an_uplink_in_a_networks_prefix() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 11)?;
    ensure!(ping(&one, INTERNET, PATIENCE)?.is_some(), "no way out");
    let within = ipnet::Ipv4Net::new_assert(inside(77), 24);
    rig.switch.run(|| {
        netlink::del_address("eth0", on_uplink(UPLINK))?;
        netlink::add_address("eth0", within)
    })??;
    let address = |switch: &Switch| Ok::<_, Failed>(switch.list("status")?["uplink"]["address"].clone());
    wait_until(PATIENCE, "the uplink has moved", || Ok(ping(&one, INTERNET, SILENCE)?.is_none()))?;
    println!("status: {}", address(&switch)?);
    let server = udp(&rig.internet, INTERNET, 7001)?;
    udp(&one, Ipv4Addr::UNSPECIFIED, 5000)?.send_to(b"x", (INTERNET, 7001))?;
    ensure!(heard(&server).is_none(), "something went out by an uplink in the container's own prefix");
    rig.switch.run(|| {
        netlink::del_address("eth0", within)?;
        netlink::add_address("eth0", on_uplink(UPLINK))?;
        netlink::add_route(ipnet::Ipv4Net::default(), GATEWAY)
    })??;
    wait_until(PATIENCE, "the way out is back", || Ok(ping(&one, INTERNET, SILENCE)?.is_some()))?;
    Ok(())
}

/// A TCP socket that connects from a port of its own choice.
fn connected(netns: &Netns, port: u16, to: SocketAddrV4) -> Result<TcpStream, Failed> {
    let made = netns.run(|| -> nix::Result<OwnedFd> {
        let made = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(made.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
        connect_to(made.as_raw_fd(), &SockaddrIn::from(to))?;
        Ok(made)
    })??;
    let stream = TcpStream::from(made);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn row_61_real_stacks_open_simultaneously() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 11)?;
    // The server's SYN finds silence, and is repeated after a second; by then the container's is on its way.
    let _both = thread::scope(|scope| -> Result<_, Failed> {
        let server = scope.spawn(|| connected(&rig.internet, 7000, SocketAddrV4::new(UPLINK, 62_000)));
        thread::sleep(Duration::from_millis(500));
        let mut client = connected(&one, 62_000, SocketAddrV4::new(GATEWAY, 7000))?;
        let mut server = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut answer = [0; 5];
        client.write_all(b"hello")?;
        server.read_exact(&mut answer)?;
        server.write_all(&answer)?;
        client.read_exact(&mut answer)?;
        ensure!(&answer == b"hello", "{answer:?}");
        Ok((client, server))
    })?;
    let connections = switch.list("ct ls --proto tcp")?;
    ensure!(connections[0]["state"] == "ESTABLISHED", "{connections}");
    Ok(())
}

/// Sends a RST and an ICMP error to every port of the uplink, as if they were about connections of `server`.
fn attack(rig: &Rig, server: SocketAddrV4) -> Outcome {
    let raw = |protocol| {
        rig.internet.run(|| -> nix::Result<OwnedFd> {
            let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            bind(raw.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(*server.ip(), 0)))?;
            Ok(raw)
        })
    };
    let (tcp, icmp) = (raw(SockProtocol::Tcp)??, raw(SockProtocol::Icmp)??);
    let to = SockaddrIn::from(SocketAddrV4::new(UPLINK, 0));
    for port in 0..=u16::MAX {
        let seq = u32::from(port).wrapping_mul(0x9e37_79b1);
        let mut reset = [0; 20];
        reset[..2].copy_from_slice(&server.port().to_be_bytes());
        reset[2..4].copy_from_slice(&port.to_be_bytes());
        reset[4..8].copy_from_slice(&seq.to_be_bytes());
        (reset[12], reset[13]) = (5 << 4, 0x04);
        let value = !fold(pseudo_header(*server.ip(), UPLINK, 6, reset.len()) + sum(&reset));
        reset[16..18].copy_from_slice(&value.to_be_bytes());
        // A full queue loses a packet of the attack, no more.
        let _ = sendto(tcp.as_raw_fd(), &reset, &to, MsgFlags::empty());

        // Destination unreachable (protocol, port, administratively) or time exceeded, about a segment to the
        // server.
        let (kind, code) = [(3, 2), (3, 3), (3, 13), (11, 0)][usize::from(port % 4)];
        let mut error = [0; 8 + 28];
        (error[0], error[1]) = (kind, code);
        let quoted = &mut error[8..];
        (quoted[0], quoted[3], quoted[8], quoted[9]) = (0x45, 40, 63, 6);
        quoted[12..16].copy_from_slice(&UPLINK.octets());
        quoted[16..20].copy_from_slice(&server.ip().octets());
        let value = checksum(&quoted[..20]).to_be_bytes();
        quoted[10..12].copy_from_slice(&value);
        quoted[20..22].copy_from_slice(&port.to_be_bytes());
        quoted[22..24].copy_from_slice(&server.port().to_be_bytes());
        quoted[24..28].copy_from_slice(&seq.to_be_bytes());
        let value = checksum(&error).to_be_bytes();
        error[2..4].copy_from_slice(&value);
        let _ = sendto(icmp.as_raw_fd(), &error, &to, MsgFlags::empty());
    }
    Ok(())
}

fn rows_53_and_63_blind_resets_and_errors() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 11)?;
    let talk = outwards(&one, &rig);
    let Connection { mut client, mut server, .. } = connect(talk)?;
    let over = AtomicBool::new(false);
    let (sent, arrived) = thread::scope(|scope| -> Result<(u64, u64), Failed> {
        let attacker = scope.spawn(|| {
            let outcome = attack(&rig, talk.at);
            over.store(true, Relaxed);
            outcome
        });
        let reader = scope.spawn(move || -> std::io::Result<u64> {
            let (mut block, mut total) = (vec![0; 1 << 16], 0);
            loop {
                match server.read(&mut block)? {
                    0 => return Ok(total),
                    part => total += part as u64,
                }
            }
        });
        let (block, mut sent) = (vec![0x5a; 1 << 16], 0);
        while !over.load(Relaxed) {
            client.write_all(&block)?;
            sent += block.len() as u64;
        }
        // And once more after the last of it.
        client.write_all(&block)?;
        drop(client);
        attacker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let arrived = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((sent + block.len() as u64, arrived))
    })?;
    println!("{} MiB during the attack", sent >> 20);
    ensure!(sent == arrived, "{arrived} of {sent} bytes arrived");
    Ok(())
}

fn row_79_the_host_binds_later() -> Outcome {
    let rig = Rig::new()?;
    // Bound before the start.
    let before = udp(&rig.switch, UPLINK, 62_001)?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 11)?;
    let server = udp(&rig.internet, INTERNET, 7001)?;
    let to = server.local_addr()?;
    let attacker = udp(&one, Ipv4Addr::UNSPECIFIED, 62_000)?;
    let view = shown(&attacker, to, &server)?;
    ensure!(view.port() == 62_000, "shown as {view}");
    let second = udp(&one, Ipv4Addr::UNSPECIFIED, 62_001)?;
    let view = shown(&second, to, &server)?;
    ensure!(view.port() != 62_001, "the host's port was taken");
    server.send_to(b"for the host", (UPLINK, 62_001))?;
    ensure!(heard(&before).is_some() && heard(&second).is_none(), "the host's service was captured");
    // Bound while a connection has it.
    let service = udp(&rig.switch, UPLINK, 62_000)?;
    wait_until(Duration::from_secs(3), "the host has its port", || {
        server.send_to(b"for the host", (UPLINK, 62_000))?;
        Ok(heard(&service).is_some())
    })?;
    while heard(&attacker).is_some() {}
    server.send_to(b"for the host", (UPLINK, 62_000))?;
    ensure!(heard(&service).is_some() && heard(&attacker).is_none(), "the host's service was captured");
    let view = shown(&attacker, to, &server)?;
    ensure!(view.port() != 62_000, "the host's port was taken");
    // Published while a connection has it.
    let third = udp(&one, Ipv4Addr::UNSPECIFIED, 62_002)?;
    ensure!(shown(&third, to, &server)?.port() == 62_002, "the port was not kept");
    let two = switch.container(&rig, 12)?;
    let published = udp(&two, Ipv4Addr::UNSPECIFIED, 53)?;
    switch.done("publish add 62002:53/udp --to c12")?;
    server.send_to(b"for the publication", (UPLINK, 62_002))?;
    ensure!(heard(&published).is_some() && heard(&third).is_none(), "the publication was captured");
    ensure!(shown(&third, to, &server)?.port() != 62_002, "the published port was taken");
    Ok(())
}

fn row_80_an_old_flow_follows_the_publication() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let client = udp(&rig.internet, INTERNET, 7001)?;
    for host in [11, 12] {
        let container = switch.container(&rig, host)?;
        let server = udp(&container, Ipv4Addr::UNSPECIFIED, 53)?;
        switch.done(&format!("publish add 8053:53/udp --to c{host}"))?;
        for _ in 0..3 {
            let view = shown(&client, SocketAddr::from((UPLINK, 8053)), &server)?;
            ensure!(view == client.local_addr()?, "the client is shown as {view}");
        }
        switch.done(&format!("port rm c{host}"))?;
        let left = switch.list("ct ls")?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "left behind: {left}");
        ensure!(switch.list("publish ls")?.as_array().is_some_and(Vec::is_empty), "a publication is left");
        rig.switch.run(|| UdpSocket::bind((UPLINK, 8053)))??;
    }
    Ok(())
}

/// Connects so many times, and says how long the slowest of a hundred took.
fn connections(container: &Netns, count: usize) -> Result<Duration, Failed> {
    let mut times = container.run(|| {
        let connect = |_| {
            let begun = Instant::now();
            let to = SocketAddr::from((INTERNET, 5002));
            TcpStream::connect_timeout(&to, PATIENCE).map(|_| begun.elapsed())
        };
        (0..count).map(connect).collect::<Result<Vec<_>, _>>()
    })??;
    times.sort_unstable();
    Ok(times[times.len() * 99 / 100])
}

fn row_81_a_container_with_70000_flows() -> Outcome {
    const FLOWS: u32 = 70_000;
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    let listener = rig.internet.run(|| TcpListener::bind((INTERNET, 5002)))??;
    setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    let over = AtomicBool::new(false);
    let attack = || -> Outcome {
        one.run(|| {
            for flow in 0..FLOWS {
                // Each from a port of its own as long as there are any.
                let (own, there) = (1024 + flow % 64_000, 1 + flow / 64_000);
                let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, own.try_into()?)) else { continue };
                // A refusal by ICMP is what shall come.
                let _ = socket.send_to(b"x", (INTERNET, there.try_into()?));
            }
            Ok::<(), Failed>(())
        })?
    };
    let [idle, loaded, after] = thread::scope(|scope| -> Result<_, Failed> {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let _ = listener.accept();
            }
        });
        let measured = (|| {
            let idle = connections(&two, 200)?;
            let attacker = scope.spawn(attack);
            let loaded = connections(&two, 200);
            attacker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok([idle, loaded?, connections(&two, 200)?])
        })();
        over.store(true, Relaxed);
        measured
    })?;
    // Figures, and the kernel's beside them, are `vswitch-bench --only nat/crowded`.
    println!("p99 of connecting: idle {idle:?}, under the flood {loaded:?}, after it {after:?}");
    ensure!(loaded <= 2 * idle + Duration::from_millis(50), "{loaded:?} under the flood, {idle:?} before");
    ensure!(after <= 2 * idle + Duration::from_millis(5), "{after:?} after it, {idle:?} before");
    let ports = switch.list("port inspect c11")?["nat_ports"]["udp"].clone();
    ensure!(ports["used"] == 2268 && ports["limit"] == 2268, "the quota is half of the range: {ports}");
    let drops = switch.done("drops --port c11")?;
    ensure!(drops.contains("nat-port-quota"), "{drops}");
    // The other one has as many to itself, of UDP too.
    let server = udp(&rig.internet, INTERNET, 7001)?;
    for port in 1..=1000 {
        let socket = udp(&two, Ipv4Addr::UNSPECIFIED, 2000 + port)?;
        shown(&socket, server.local_addr()?, &server)?;
    }
    Ok(())
}
