//! Wrong uses: each is refused with its exit code and one line that says what to do.

use std::net::TcpListener;
use std::process::{Command, Output};

use libtest_mimic::Failed;
use vswitchd::lab::rig::{Rig, UPLINK};

use crate::switch::{NETWORK, Switch, VSWITCHD, ctl, state_dir};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("the_daemon_refuses_in_one_line", the_daemon_refuses_in_one_line),
    ("a_user_without_privilege_is_told", a_user_without_privilege_is_told),
    ("vswitchctl_refuses_in_one_line", vswitchctl_refuses_in_one_line),
    ("published_ports_find_conflicts", published_ports_find_conflicts),
];

/// Checks the exit code, and that the error is one line `error: WHAT: WHY (WHAT TO DO)` with these words.
fn refused(what: &str, output: &Output, code: i32, words: &str) -> Outcome {
    let said = String::from_utf8_lossy(&output.stderr);
    let one_line = said.lines().count() == 1 && said.ends_with('\n');
    ensure!(output.status.code() == Some(code), "{what}: {} instead of {code}: {said}", output.status);
    ensure!(one_line && said.starts_with("error: ") && said.contains('('), "{what}: not a line: {said:?}");
    ensure!(said.contains(words), "{what}: {said:?} has no {words:?}");
    Ok(())
}

fn vswitchd(rig: &Rig, words: &str) -> Result<Output, Failed> {
    let mut command = Command::new(VSWITCHD);
    command.args(words.split_whitespace());
    Ok(rig.switch.run(|| command.output())??)
}

fn the_daemon_refuses_in_one_line() -> Outcome {
    let rig = Rig::new()?;
    let socket = rig.socket();
    let state_dir = state_dir(&rig);
    let with_socket = format!("--socket {} --state-dir {}", socket.display(), state_dir.display());
    for (words, code, says) in [
        ("--uplink nope0", 1, "no such interface"),
        ("--uplink eth0 --network a=10.0.0.0/8 --network b=10.1.0.0/16", 1, "overlap"),
        ("--uplink eth0 --network a=192.0.2.0/24", 1, "192.0.2"),
        ("--uplink eth0 --nat-ports 65535-61000", 2, "backwards"),
        ("--uplink eth0 --uplink-mode sideways", 2, "sideways"),
    ] {
        refused(words, &vswitchd(&rig, &format!("{words} {with_socket}"))?, code, says)?;
        ensure!(!socket.exists(), "{words}: the socket is left");
    }
    let first = Switch::start(&rig, &[])?;
    let second = format!("--uplink eth0 --network {NETWORK} {with_socket}");
    refused(&second, &vswitchd(&rig, &second)?, 1, "socket")?;
    first.done("status")?;
    // A stale socket is taken over.
    drop(first);
    ensure!(socket.exists(), "a killed daemon removed its socket");
    Switch::start(&rig, &[])?.done("status").map(drop)
}

fn a_user_without_privilege_is_told() -> Outcome {
    let rig = Rig::new()?;
    let socket = std::env::temp_dir().join(format!("vswitchd-test-{}.sock", std::process::id()));
    // In a user namespace of its own, a process has no privilege over this network namespace.
    let mut command = Command::new("unshare");
    command.args(["--user", VSWITCHD, "--uplink", "eth0", "--network", NETWORK, "--socket"]).arg(&socket);
    let output = rig.switch.run(|| command.output())??;
    refused("no privilege", &output, 1, "root")?;
    ensure!(!socket.exists(), "the socket is left");
    Ok(())
}

fn vswitchctl_refuses_in_one_line() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let (one, two) = (switch.container(&rig, 11)?, rig.container("two")?);
    let netns = format!("--netns {}", two.path().display());
    let netns = netns.as_str();
    for (words, more, code, says) in [
        ("frob ls", "", 2, "frob"),
        ("port add a --netns no-such-namespace", "", 4, "no-such-namespace"),
        ("port add c11", netns, 5, "c11"),
        ("port add a --ip 10.99.0.11", netns, 5, "10.99.0.11"),
        ("port add a --ip 10.99.0.1", netns, 5, "10.99.0.1"),
        ("port add a --ip 10.98.0.5", netns, 2, "10.98.0.5"),
        ("port add a --mac 02:00", netns, 2, "MAC"),
        ("port add a --mac 01:00:5e:00:00:01", netns, 2, "multicast"),
        ("port add a --network nope", netns, 4, "nope"),
        ("port add a --device nope0", "", 4, "nope0"),
        ("port rm nope", "", 4, "nope"),
        ("publish add 8090-8080:90-80 --to c11", "", 2, "backwards"),
        ("publish add 8080:80 --to nope", "", 4, "nope"),
        ("publish rm 8080", "", 4, "8080"),
        ("network create default --subnet 10.1.0.0/24", "", 5, "default"),
        ("network create other --subnet 10.99.0.0/25", "", 5, "overlap"),
        ("network rm default", "", 5, "default"),
    ] {
        refused(words, &switch.ctl(&format!("{words} {more}"))?, code, says)?;
    }
    let path = one.path();
    refused(
        "an interface name that is taken",
        &switch.ctl(&format!("port add a --netns {} --ifname eth0", path.display()))?,
        5,
        "eth0",
    )?;
    switch.done("port rm nope --if-exists")?;
    ensure!(switch.ports()? == ["c11"], "a refused port is left: {:?}", switch.ports()?);
    drop(switch);
    refused("no daemon", &ctl(&rig.socket(), "status")?, 3, "vswitchd")
}

fn published_ports_find_conflicts() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let _one = switch.container(&rig, 11)?;
    let listener = rig.switch.run(|| TcpListener::bind((UPLINK, 8081)))??;
    refused("a taken port", &switch.ctl("publish add 8081:80 --to c11")?, 5, "8081")?;
    drop(listener);
    switch.done("publish add 8081:80 --to c11")?;
    let taken = rig.switch.run(|| TcpListener::bind((UPLINK, 8081)))?;
    ensure!(taken.is_err(), "a published port can be taken");
    refused("published twice", &switch.ctl("publish add 8081:81 --to c11")?, 5, "8081")?;
    // The same again is done already; and what is taken back is free.
    switch.done("publish add 8081:80 --to c11")?;
    switch.done("publish rm 8081:80")?;
    rig.switch.run(|| TcpListener::bind((UPLINK, 8081)))??;
    Ok(())
}
