//! The gateway's services under a flood, with containers that do not answer, and on a disk that cannot be written.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use vswitchd::addr::Protocol;
use vswitchd::host::bind::reserve;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{Rig, UPLINK};
use vswitchd::lab::traffic::{PATIENCE, SILENCE, ping};

use crate::switch::{Switch, inside, state_dir, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("one_silent_target_holds_up_no_other_client", one_silent_target_holds_up_no_other_client),
    ("a_relayed_client_hears_its_container_alone", a_relayed_client_hears_its_container_alone),
    ("a_reserved_port_hears_processes_of_its_host_alone", a_reserved_port_hears_its_host_alone),
    ("a_read_only_state_directory_is_said_and_stops_nothing", read_only_state),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] =
    &[("a_flood_of_queries_holds_up_nobody_else", a_flood_of_queries_holds_up_nobody_else)];

/// The gateway's DNS.
const DNS: SocketAddrV4 = SocketAddrV4::new(inside(1), 53);

/// A query with a number, for an address.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// A socket of a container to the gateway's DNS.
fn dns_socket(netns: &Netns) -> Result<UdpSocket, Failed> {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.connect(DNS)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Asks at a pace, one question at a time, and returns how long each answer took.
fn paced(socket: &UdpSocket, count: u16, pace: Duration) -> Result<Vec<Duration>, Failed> {
    let mut bytes = [0; 512];
    let mut times = Vec::new();
    for id in 0..count {
        let begun = Instant::now();
        socket.send(&query(id, "c3"))?;
        loop {
            let len = socket.recv(&mut bytes).map_err(|error| format!("question {id}: {error}"))?;
            if bytes[..2] == id.to_be_bytes() {
                ensure!(bytes[3] & 0x0f == 0 && bytes[..len].ends_with(&inside(3).octets()), "{bytes:?}");
                break;
            }
        }
        times.push(begun.elapsed());
        thread::sleep(pace.saturating_sub(begun.elapsed()));
    }
    times.sort_unstable();
    Ok(times)
}

fn a_flood_of_queries_holds_up_nobody_else() -> Outcome {
    let rig = Rig::new()?;
    // Nobody answers there: what is not the switch's own waits for as long as it may.
    std::fs::write(rig.directory().join("resolv.conf"), "nameserver 192.0.2.99\n")?;
    let switch = Switch::start(&rig, &[])?;
    let (loud, calm) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
    let (floods, asks) = ([dns_socket(&loud)?, dns_socket(&loud)?], dns_socket(&calm)?);
    paced(&asks, 20, Duration::from_millis(1))?;
    let before = switch.memory()?;
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let times = thread::scope(|scope| {
        for (socket, name) in floods.iter().zip(["c3", "www.example.com"]) {
            let (over, sent) = (&over, &sent);
            scope.spawn(move || {
                for n in 0..=u16::MAX {
                    if over.load(Relaxed) {
                        return;
                    }
                    let name = if name == "c3" { name.to_owned() } else { format!("n{n}.{name}") };
                    for _ in 0..16 {
                        // Refused is what does not fit the device's queue.
                        if socket.send(&query(n, &name)).is_ok() {
                            sent.fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
        let times = paced(&asks, 300, Duration::from_millis(10));
        over.store(true, Relaxed);
        times
    })?;
    let (grown, sent) = (switch.memory()?.saturating_sub(before), sent.into_inner());
    let p99 = times[times.len() * 99 / 100];
    let median = times[times.len() / 2];
    println!("beside {sent} queries: p50 {median:?}, p99 {p99:?}; {} KiB more memory", grown / 1024);
    ensure!(sent > 30_000, "that was no flood: {sent}");
    // A debug build on a busy machine; who is held up by the flood waits for seconds.
    ensure!(p99 < Duration::from_millis(250), "p99 is {p99:?}");
    ensure!(grown < 32 << 20, "{grown} bytes more");
    let drops = switch.list("drops --port c2")?;
    let counted =
        drops.as_array().is_some_and(|rows| rows.iter().any(|row| row["reason"] == "service-queue-full"));
    ensure!(counted, "what found no place is not counted: {drops}");
    Ok(())
}

fn one_silent_target_holds_up_no_other_client() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (web, silent) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
    switch.done("publish add 5353:5300/udp --to c2 --to c3")?;
    silent.run(|| netlink::set_down("eth0"))??;
    let echo = web.run(|| UdpSocket::bind((inside(2), 5300)))??;
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((len, from)) = echo.recv_from(&mut bytes) {
            let _ = echo.send_to(&bytes[..len], from);
        }
    });
    // Each is a client of its own, and goes to one of the two; all ask at once.
    let clients = rig.switch.run(|| {
        (0..40).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<Vec<_>>>()
    })??;
    let begun = Instant::now();
    for client in &clients {
        client.connect((Ipv4Addr::LOCALHOST, 5353))?;
        client.set_read_timeout(Some(Duration::from_millis(100)))?;
        client.send(b"hello")?;
    }
    let answered = clients.iter().filter(|client| client.recv(&mut [0; 8]).is_ok()).count();
    ensure!((5..=35).contains(&answered), "{answered} of {} answered", clients.len());
    let quick = begun.elapsed();
    println!("{answered} of {} answered, all after {quick:?}", clients.len());
    // Those of the other are served when it is there again.
    silent.run(|| netlink::set_up("eth0"))??;
    let echo = silent.run(|| UdpSocket::bind((inside(3), 5300)))??;
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((len, from)) = echo.recv_from(&mut bytes) {
            let _ = echo.send_to(&bytes[..len], from);
        }
    });
    wait_until(Duration::from_secs(10), "all are answered", || {
        let asked = clients.iter().map(|client| client.send(b"again").and_then(|_| client.recv(&mut [0; 8])));
        Ok(asked.filter(Result::is_ok).count() == clients.len())
    })?;
    Ok(())
}

fn a_relayed_client_hears_its_container_alone() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (web, stranger) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
    switch.done("publish add 5353:5300/udp --to c2")?;
    let server = web.run(|| UdpSocket::bind((inside(2), 5300)))??;
    server.set_read_timeout(Some(PATIENCE))?;
    let client = rig.switch.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
    client.connect((Ipv4Addr::LOCALHOST, 5353))?;
    client.set_read_timeout(Some(SILENCE))?;
    client.send(b"hello")?;
    let (_, at) = server.recv_from(&mut [0; 8])?;
    ensure!(at.ip() == inside(1), "it comes from {at}");
    // The right port of another container, and another port of the right one.
    for (netns, ip, port) in [(&stranger, inside(3), 5300), (&web, inside(2), 5301)] {
        netns.run(|| UdpSocket::bind((ip, port))?.send_to(b"forged", at))??;
        let heard = client.recv(&mut [0; 8]);
        ensure!(heard.is_err(), "the client hears {ip}:{port}");
    }
    server.send_to(b"answer", at)?;
    ensure!(client.recv(&mut [0; 8])? == 6, "the answer does not come");
    Ok(())
}

fn a_reserved_port_hears_its_host_alone() -> Outcome {
    let rig = Rig::new()?;
    let reserved = rig.switch.run(|| [Protocol::Tcp, Protocol::Udp].map(|p| reserve(p, None, 8080)))?;
    let [tcp, udp] = reserved;
    let (listener, udp) = (TcpListener::from(tcp?.socket()?), UdpSocket::from(udp?.socket()?));
    udp.set_read_timeout(Some(SILENCE))?;
    for (netns, is_host) in [(&rig.switch, true), (&rig.internet, false)] {
        let at = SocketAddrV4::new(UPLINK, 8080);
        let connected = netns.run(|| TcpStream::connect_timeout(&at.into(), SILENCE))?;
        ensure!(connected.is_ok() == is_host, "TCP from {netns}: {connected:?}");
        netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"hello", at))??;
        let heard = udp.recv(&mut [0; 8]);
        ensure!(heard.is_ok() == is_host, "UDP from {netns}: {heard:?}");
    }
    drop(listener);
    Ok(())
}

/// Runs `test` on a thread with mounts of its own.
fn with_own_mounts(test: fn() -> Outcome) -> Outcome {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        test()
    };
    thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Lays a directory over this one that nobody can write to.
fn lay_over(path: &Path) -> Outcome {
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?)
}

fn read_only_state() -> Outcome {
    with_own_mounts(|| {
        let rig = Rig::new()?;
        let directory = state_dir(&rig);
        let problem = |switch: &Switch| -> Result<String, Failed> {
            Ok(switch.list("status")?["state"]["problem"].as_str().unwrap_or_default().to_owned())
        };
        let forwards = |one: &Netns| -> Outcome {
            ensure!(ping(one, inside(3), PATIENCE)?.is_some(), "it does not forward");
            Ok(())
        };

        // From the start.
        std::fs::create_dir_all(&directory)?;
        lay_over(&directory)?;
        let log = rig.directory().join("log");
        let switch = Switch::start_logging(&rig, &[], Stdio::from(std::fs::File::create(&log)?))?;
        let (one, _two) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
        forwards(&one)?;
        let said = problem(&switch)?;
        ensure!(said.contains("read-only") && said.contains("not remembered"), "status says {said:?}");
        ensure!(switch.done("status")?.contains("read-only"), "{}", switch.done("status")?);
        let logged = std::fs::read_to_string(&log)?;
        ensure!(logged.contains("read-only"), "the log says {logged:?}");
        ensure!(switch.terminate()?.0.success(), "it does not end well");
        umount(&directory)?;

        // While it runs.
        let switch = Switch::start_logging(&rig, &[], Stdio::from(std::fs::File::create(&log)?))?;
        let (one, two) = (switch.container(&rig, 2)?, switch.container(&rig, 3)?);
        ensure!(problem(&switch)?.is_empty(), "{}", problem(&switch)?);
        lay_over(&directory)?;
        let _three = switch.container(&rig, 4)?;
        let says = || Ok(problem(&switch)?.contains("read-only"));
        wait_until(Duration::from_secs(2), "it is said", says)?;
        ensure!(std::fs::read_to_string(&log)?.contains("read-only"), "the log does not say so");
        forwards(&one)?;
        ensure!(ping(&two, inside(4), PATIENCE)?.is_some(), "a port that came since is not reached");
        umount(&directory)?;
        wait_until(Duration::from_secs(8), "it is written", || Ok(problem(&switch)?.is_empty()))?;
        let written = std::fs::read_to_string(directory.join("addresses.json"))?;
        ensure!(written.contains("10.99.0.4"), "{written}");
        Ok(())
    })
}
