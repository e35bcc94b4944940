//! Targets of a publication that go down and come back, between real stacks.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnet::Ipv4Net;
use libtest_mimic::Failed;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{Rig, UPLINK};
use vswitchd::lab::traffic::{PATIENCE, tcp_answers};
use vswitchd::limits::{HEALTH_FALL, HEALTH_RISE, HEALTH_WAIT};

use crate::switch::{Switch, inside, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("new_connections_avoid_targets_that_are_down", new_connections_avoid_targets_that_are_down),
    ("datagrams_leave_a_target_that_is_down", datagrams_leave_a_target_that_is_down),
];

/// What the tests ask for.
const INTERVAL: Duration = Duration::from_secs(1);

/// After which a target that does not answer gets no new connections: the checks that must fail, one after the other,
/// and the wait of the last one; and time for a busy machine.
fn stated() -> Duration {
    INTERVAL * u32::from(HEALTH_FALL) + HEALTH_WAIT + Duration::from_millis(500)
}

/// A server of a container, which tells whoever connects the container's number, and echoes.
struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Netns, host: u8) -> Result<Server, Failed> {
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)))??;
        listener.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => drop(thread::spawn(move || serve(client, host))),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Server { over, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

fn serve(mut client: TcpStream, host: u8) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.write_all(&[host])?;
    let mut byte = [0];
    while client.read(&mut byte)? > 0 {
        client.write_all(&byte)?;
    }
    Ok(())
}

/// Connects to what is published, and hears who is there.
fn call(netns: &Netns) -> Result<(TcpStream, u8), Failed> {
    let to = SocketAddr::V4(SocketAddrV4::new(UPLINK, 8080));
    let mut stream = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut host = [0];
    stream.read_exact(&mut host)?;
    Ok((stream, host[0]))
}

/// Who answers so many calls; none may fail.
fn answering(netns: &Netns, calls: usize) -> Result<BTreeSet<u8>, Failed> {
    (0..calls).map(|_| Ok(call(netns)?.1)).collect()
}

/// Waits until these targets of the only publication are up, and no others.
fn wait_for(switch: &Switch, limit: Duration, up: [bool; 3]) -> Result<Duration, Failed> {
    wait_until(limit, &format!("{up:?}"), || {
        let listed = switch.list("publish ls")?;
        Ok(up.iter().enumerate().all(|(place, up)| listed[0]["targets"][place]["up"] == *up))
    })
}

fn new_connections_avoid_targets_that_are_down() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let [one, two, three] = [11, 12, 13].map(|host| switch.container(&rig, host));
    let (one, two, three) = (one?, two?, three?);
    let first = Server::start(&one, 11)?;
    let second = Server::start(&two, 12)?;
    let third = Server::start(&three, 13)?;
    switch.done("publish add 8080:80 --to c11,c12,c13 --health tcp --health-interval 1")?;
    let all = BTreeSet::from([11, 12, 13]);
    let who = answering(&rig.internet, 60)?;
    ensure!(who == all, "{who:?}");
    let mut kept = loop {
        let (stream, host) = call(&rig.internet)?;
        if host == 13 {
            break stream;
        }
    };

    // One is stopped, and one has closed its port.
    two.run(|| netlink::set_down("eth0"))??;
    drop(third);
    let took = wait_for(&switch, stated(), [true, false, false])?;
    println!("down after {took:?}");
    let who = answering(&rig.internet, 100)?;
    ensure!(who == BTreeSet::from([11]), "{who:?}");
    kept.write_all(b"x")?;
    kept.read_exact(&mut [0])?;
    let table = switch.done("publish ls")?;
    ensure!(table.contains("tcp 1/3") && table.contains("c12 10.99.0.12:80 (down)"), "{table}");

    // They come back.
    two.run(|| {
        netlink::set_up("eth0")?;
        // It went with the link.
        netlink::add_route(Ipv4Net::default(), inside(1))
    })??;
    let third = Server::start(&three, 13)?;
    let back = INTERVAL * u32::from(HEALTH_RISE) + PATIENCE;
    println!("up after {:?}", wait_for(&switch, back, [true; 3])?);
    let who = answering(&rig.internet, 60)?;
    ensure!(who == all, "{who:?}");

    // If none is up, who calls is refused by one of them, and not by silence.
    drop((first, second, third));
    wait_for(&switch, stated(), [false; 3])?;
    let answers = tcp_answers(&rig.internet, SocketAddrV4::new(UPLINK, 8080))?;
    ensure!(answers, "nobody answers");

    // The file says the same.
    let file = switch.done("dump")?;
    ensure!(file.contains("health = \"tcp\"") && file.contains("health_interval = 1"), "{file}");
    Ok(())
}

fn datagrams_leave_a_target_that_is_down() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let [one, two, three] = [11, 12, 13].map(|host| switch.container(&rig, host));
    let containers = [(one?, 11), (two?, 12), (three?, 13)];
    for (netns, host) in &containers {
        let (socket, host) = (netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)))??, *host);
        // It ends with the test's process.
        thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
                // Whom the link does not carry, nobody hears.
                let _ = socket.send_to(&[host], client);
            }
        });
    }
    switch.done("publish add 5353:53/udp --to c11,c12,c13 --health arp --health-interval 1")?;
    let clients: Vec<UdpSocket> = (0..24)
        .map(|_| {
            let socket = rig.internet.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
            socket.connect((UPLINK, 5353))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })
        .collect::<Result<_, Failed>>()?;
    let ask = |client: &UdpSocket| -> Result<u8, Failed> {
        let mut host = [0];
        client.send(b"who")?;
        client.recv(&mut host)?;
        Ok(host[0])
    };
    let before: Vec<u8> = clients.iter().map(ask).collect::<Result<_, _>>()?;
    ensure!(BTreeSet::from_iter(before.clone()).len() == 3, "{before:?}");
    containers[1].0.run(|| netlink::set_down("eth0"))??;
    println!("down after {:?}", wait_for(&switch, stated(), [true, false, true])?);
    for (client, before) in clients.iter().zip(&before) {
        let now = ask(client)?;
        ensure!(if *before == 12 { now != 12 } else { now == *before }, "{before} is {now} now");
    }
    Ok(())
}
