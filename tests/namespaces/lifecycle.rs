//! How things end: the daemon, and containers, while traffic flows.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use vswitchd::host::netlink;
use vswitchd::lab::rig::Rig;
use vswitchd::lab::traffic::{self, Connection, PATIENCE, connect};

use crate::switch::{Switch, across, expect_nothing_left, inside, outwards, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] =
    &[("a_killed_daemon_leaves_nothing_that_matters", a_killed_daemon_leaves_nothing_that_matters)];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[
    ("sigterm_under_load_leaves_nothing", sigterm_under_load_leaves_nothing),
    ("a_dead_namespace_is_noticed", a_dead_namespace_is_noticed),
    ("a_port_comes_and_goes_under_load", a_port_comes_and_goes_under_load),
];

fn sigterm_under_load_leaves_nothing() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    switch.done("publish add 8080:5003/tcp --to c12")?;
    let load = Load::start(connect(across(&one, &two, 12))?)?;
    load.flows()?;
    let (status, took) = switch.terminate()?;
    println!("ended in {took:?}");
    ensure!(status.code() == Some(0), "{status}");
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    expect_nothing_left(&rig, &[&one, &two])
}

fn a_killed_daemon_leaves_nothing_that_matters() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 11)?;
    // SIGKILL, by its drop.
    drop(switch);
    wait_until(Duration::from_secs(1), "the TAP goes", || Ok(one.run(|| netlink::link("eth0"))??.is_none()))?;
    let switch = Switch::start(&rig, &[])?;
    let two = switch.container(&rig, 11)?;
    ensure!(traffic::ping(&two, inside(1), PATIENCE)?.is_some(), "the next daemon does not work");
    let (status, _) = switch.terminate()?;
    ensure!(status.success(), "{status}");
    expect_nothing_left(&rig, &[&one, &two])
}

fn a_dead_namespace_is_noticed() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two, three) =
        (switch.container(&rig, 11)?, switch.container(&rig, 12)?, switch.container(&rig, 13)?);
    let doomed = Load::start(connect(across(&one, &two, 12))?)?;
    let other = Load::start(connect(outwards(&three, &rig))?)?;
    doomed.flows()?;
    other.flows()?;

    // Sockets and descriptor are what holds the namespace, as its processes would.
    doomed.stop()?;
    drop(two);
    let took = wait_until(Duration::from_secs(1), "the port is gone", || {
        Ok(!switch.ports()?.contains(&"c12".to_owned()))
    })?;
    println!("gone in {took:?}");
    other.flows()?;
    ensure!(switch.ports()? == ["c11", "c13"], "{:?}", switch.ports()?);
    ensure!(traffic::ping(&one, inside(13), PATIENCE)?.is_some(), "c13 is lost to c11");

    other.stop()?;
    thread::sleep(Duration::from_millis(300));
    let before = switch.cpu_time()?;
    thread::sleep(Duration::from_secs(1));
    let used = switch.cpu_time()? - before;
    ensure!(used < Duration::from_millis(100), "{used:?} of CPU time in an idle second");
    Ok(())
}

fn a_port_comes_and_goes_under_load() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, switch.container(&rig, 12)?);
    let load = Load::start(connect(across(&one, &two, 12))?)?;
    for _ in 0..5 {
        let begun = Instant::now();
        let three = switch.container(&rig, 13)?;
        println!("attached under load in {:?}, vswitchctl included", begun.elapsed());
        ensure!(traffic::ping(&three, inside(11), PATIENCE)?.is_some(), "c11 does not answer c13");
        switch.done("port rm c13")?;
        ensure!(three.run(|| netlink::link("eth0"))??.is_none(), "the TAP of a removed port is still there");
        load.flows()?;
    }
    Ok(())
}

/// An endless transfer over a connection, on threads of its own.
struct Load {
    ends: [TcpStream; 2],
    received: Arc<AtomicU64>,
    threads: [thread::JoinHandle<()>; 2],
}

impl Load {
    fn start(Connection { client, server, .. }: Connection) -> Result<Load, Failed> {
        let ends = [client.try_clone()?, server.try_clone()?];
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let (mut source, mut sink) = (client, server);
        // Both end when their sockets are shut down, or the other side is lost.
        let send = move || while source.write_all(&[0; 1 << 16]).is_ok() {};
        let receive = move || {
            let mut block = vec![0; 1 << 16];
            while let Ok(length @ 1..) = sink.read(&mut block) {
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
        };
        Ok(Load { ends, received, threads: [thread::spawn(send), thread::spawn(receive)] })
    }

    /// Waits until some more megabytes have arrived.
    fn flows(&self) -> Outcome {
        let goal = self.received.load(Ordering::Relaxed) + (16 << 20);
        let arrived = || Ok(self.received.load(Ordering::Relaxed) >= goal);
        wait_until(Duration::from_secs(5), "traffic flows", arrived).map(drop)
    }

    /// Ends it and closes both sockets, as if their processes were killed.
    fn stop(self) -> Outcome {
        for end in &self.ends {
            // It may be down already.
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            thread.join().map_err(|_| "a load thread panicked")?;
        }
        Ok(())
    }
}
