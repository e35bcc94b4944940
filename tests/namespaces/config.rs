//! Configuration files with the real programs: a start from one, changes of one that runs, and files that are wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use vswitchd::control::client::Client;
use vswitchd::control::request::{Apply, Request};
use vswitchd::control::response::Applied;
use vswitchd::host::netns::Netns;
use vswitchd::lab::flood::{Flood, flood};
use vswitchd::lab::rig::Rig;
use vswitchd::lab::traffic::ping;

use crate::switch::{Switch, VSWITCHD, across, inside, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("a_switch_starts_from_a_file_and_follows_it", a_switch_starts_from_a_file_and_follows_it),
    ("a_wrong_file_is_told_line_by_line_and_changes_nothing", a_wrong_file_changes_nothing),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] =
    &[("five_hundred_applies_harm_no_other_flow", five_hundred_applies_harm_no_other_flow)];

const SECOND: Duration = Duration::from_secs(1);

/// The network of the tests, as [`crate::switch::NETWORK`] has it.
const NETWORK: &str = "[[network]]\nname = \"default\"\nsubnet = \"10.99.0.0/24\"\n";

/// A port in this namespace.
fn port(name: &str, netns: &Netns, host: u8) -> String {
    let path = netns.path();
    format!("[[port]]\nname = \"{name}\"\nnetns = \"{}\"\nip = \"{}\"\n", path.display(), inside(host))
}

/// Writes a file of the rig.
fn write(rig: &Rig, name: &str, text: &str) -> Result<PathBuf, Failed> {
    let path = rig.directory().join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// What `vswitchd check` says.
fn check(path: &Path) -> Result<Output, Failed> {
    Ok(Command::new(VSWITCHD).args(["check", "--config"]).arg(path).output()?)
}

fn a_switch_starts_from_a_file_and_follows_it() -> Outcome {
    let rig = Rig::new()?;
    let (a, b) = (rig.container("a")?, rig.container("b")?);
    let one = [NETWORK, &port("a", &a, 2), "set = { mtu = 1300 }\n[timeouts]\nudp = 40\n"].concat();
    let two = [NETWORK, &port("a", &a, 2), &port("b", &b, 3)].concat();
    let file = write(&rig, "vswitchd.toml", &format!("uplink = \"eth0\"\n{one}"))?;
    ensure!(check(&file)?.status.success(), "a right file does not pass the check");
    let switch = Switch::start(&rig, &["--config", &file.display().to_string()])?;
    ensure!(switch.ports()? == ["a"], "the file's port is not there");
    ensure!(ping(&a, inside(1), SECOND)?.is_some(), "the gateway does not answer");

    // What was dumped changes nothing; whatever differs is named by the command that would do it.
    let dumped = write(&rig, "dump.toml", &switch.done("dump")?)?.display().to_string();
    ensure!(switch.done(&format!("apply {dumped}"))?.is_empty(), "a dump changes something");
    let second = write(&rig, "two.toml", &two)?.display().to_string();
    let would = switch.done(&format!("apply --dry-run {second}"))?;
    ensure!(would.contains("port add b") && would.contains("ct timeouts udp=300"), "would do: {would}");
    ensure!(switch.ports()? == ["a"], "a dry run does something");
    ensure!(switch.done(&format!("apply {second}"))? == would, "it did something else than it said");
    ensure!(ping(&a, inside(3), SECOND)?.is_some(), "the new port is not reached");

    // SIGHUP reads the daemon's own file again, which has only the first port.
    kill(switch.pid(), Signal::SIGHUP)?;
    wait_until(5 * SECOND, "the file to be read again", || Ok(switch.ports()? == ["a"]))?;
    fs::write(&file, "[[port]]\nname = 7\n")?;
    kill(switch.pid(), Signal::SIGHUP)?;
    thread::sleep(SECOND / 2);
    ensure!(switch.ports()? == ["a"], "a wrong file was applied");
    fs::write(&file, &two)?;
    kill(switch.pid(), Signal::SIGHUP)?;
    wait_until(5 * SECOND, "the mended file to be read", || Ok(switch.ports()? == ["a", "b"]))?;
    let (status, _) = switch.terminate()?;
    ensure!(status.success(), "it ends with {status}");
    Ok(())
}

fn a_wrong_file_changes_nothing() -> Outcome {
    let rig = Rig::new()?;
    let c = rig.container("c")?;
    let switch = Switch::start(&rig, &[])?;
    switch.done(&format!("port add c --netns {} --ip {}", c.path().display(), inside(9)))?;
    let before = switch.done("dump")?;
    let text = format!(
        "{NETWORK}mtu = 9\n\n[[port]]\nname = \"d\"\nnetns = \"{}/nope\"\n\n[[publish]]\nspec = \"90-80:1-2\"\nto = \"c\"\n",
        rig.directory().display()
    );
    let path = write(&rig, "wrong.toml", &text)?;
    let output = switch.ctl(&format!("apply {}", path.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "apply ends with {}: {said}", output.status);
    let lines: Vec<_> = said.lines().collect();
    ensure!(
        lines.len() == 3 && lines.iter().all(|line| line.starts_with("error: ") && line.ends_with(')')),
        "not one line a fault: {said}"
    );
    for (line, number) in lines.iter().zip([1, 6, 11]) {
        ensure!(line.contains(&format!("wrong.toml:{number}: ")), "no line {number}: {said}");
    }
    ensure!(switch.done("dump")? == before, "something has changed");

    let output = check(&path)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("wrong.toml:11: "), "check says {said}");
    let mut vswitchd = Command::new(VSWITCHD);
    vswitchd.arg("--no-uplink").arg("--config").arg(&path).stdout(Stdio::null());
    let output = rig.internet.run(|| vswitchd.output())??;
    ensure!(!output.status.success(), "a switch starts from a wrong file");
    let missing = switch.ctl("apply /nope/nothing.toml")?;
    ensure!(missing.status.code() == Some(1), "a file that is not there: {}", missing.status);
    Ok(())
}

/// Fifty a second for ten seconds, every second one with another port and another publication.
fn five_hundred_applies_harm_no_other_flow() -> Outcome {
    const APPLIES: u32 = 500;
    let rig = Rig::new()?;
    let _switch = Switch::start(&rig, &[])?;
    let (a, b, c) = (rig.container("a")?, rig.container("b")?, rig.container("c")?);
    let steady = [NETWORK, &port("a", &a, 2), &port("b", &b, 3)].concat();
    let publish = "[[publish]]\nspec = \"8080:80\"\nto = \"c\"\n";
    let files = [[&steady, &*port("c", &c, 4), publish].concat(), steady];
    let client = Client::new(&rig.socket())?;
    let apply = |text: &String| -> Result<Applied, Failed> {
        Ok(client.call(&Request::Apply(Apply { text: text.clone(), dry_run: false }))?)
    };
    apply(&files[1])?;
    let over = AtomicBool::new(false);
    let (delivered, changed, took) = thread::scope(|scope| -> Result<_, Failed> {
        let talk = across(&a, &b, 3);
        let over = &over;
        let steady = scope.spawn(move || {
            let mut sum = (0, 0);
            while !over.load(Relaxed) {
                let part = Flood { talk, flows: 4, each: 500, in_a_row: 1, lengths: &[64], window: Some(16) };
                let delivery = flood(&part)?;
                sum = (sum.0 + delivery.sent, sum.1 + delivery.arrived);
            }
            Ok::<_, std::io::Error>(sum)
        });
        let begun = Instant::now();
        let mut changed = 0;
        let outcome = (0..APPLIES).try_for_each(|number| -> Outcome {
            let applied = apply(&files[number as usize % 2])?;
            ensure!(applied.faults.is_empty(), "{:?}", applied.faults);
            changed += applied.changes.len();
            thread::sleep((SECOND / 50 * (number + 1)).saturating_sub(begun.elapsed()));
            Ok(())
        });
        over.store(true, Relaxed);
        let delivered = steady.join().map_err(|_| "the flood panicked")?;
        outcome?;
        Ok((delivered?, changed, begun.elapsed()))
    })?;
    let (sent, arrived) = delivered;
    println!("{APPLIES} applies in {took:.1?}, {changed} changes, {arrived} of {sent} datagrams arrived");
    ensure!(changed == 2 * APPLIES as usize, "{changed} changes in {APPLIES} applies");
    ensure!(sent > 2_000 && arrived == sent, "{} of {sent} datagrams were lost", sent - arrived);
    Ok(())
}
