//! The benchmark as a user starts it, at its shortest.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::switch::wait_until;
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("the_benchmark_counts_what_ports_cost", the_benchmark_counts_what_ports_cost),
    ("an_interrupted_benchmark_leaves_nothing", || ended_by(Signal::SIGINT, Some(1))),
    ("a_killed_benchmark_leaves_no_process", || ended_by(Signal::SIGKILL, None)),
    ("the_benchmark_refuses_in_one_line", the_benchmark_refuses_in_one_line),
];

/// Those that need the machine for themselves.
pub(crate) const ALONE: &[Test] = &[
    ("the_benchmark_measures_and_reports", the_benchmark_measures_and_reports),
    ("the_benchmark_checks_correctness", the_benchmark_checks_correctness),
];

const BENCH: &str = env!("CARGO_BIN_EXE_vswitch-bench");

fn the_benchmark_measures_and_reports() -> Outcome {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let output = Command::new(BENCH)
        .args([
            "--quick",
            "--seconds",
            "0.1",
            "--only",
            "l2/udp18/1,nat/tcp-out/1,nat/flows,nat/rr-udp/2,idle",
        ])
        .args(["--peers", "vswitchd:--workers=1,kernel"])
        .args(["--json".as_ref(), at("json").as_os_str(), "--svg".as_ref(), at("svg").as_os_str()])
        .args(["--markdown".as_ref(), at("md").as_os_str()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&fs::read_to_string(at("json"))?)?;
    let cases = report["cases"].as_array().ok_or("no cases")?;
    ensure!(cases.len() == 5, "{report}");
    for case in cases {
        let peers = case["peers"].as_array().ok_or("no peers")?;
        ensure!(peers.len() == if case["name"] == "idle" { 1 } else { 2 }, "{case}");
        for peer in peers {
            let value = peer["samples"][0]["value"].as_f64();
            ensure!(peer["error"].is_null() && value.is_some_and(|value| value >= 0.0), "{case}");
        }
    }
    ensure!(said.contains("promises held"), "{said}");
    ensure!(fs::read_to_string(at("svg"))?.contains("</svg>"), "no plot");
    let markdown = fs::read_to_string(at("md"))?;
    ensure!(markdown.contains("| vswitchd --workers=1 |"), "{markdown}");

    let again = Command::new(BENCH).arg("--from").arg(at("json")).output()?;
    ensure!(String::from_utf8_lossy(&again.stdout) == said, "the report changes with its file");
    Ok(())
}

fn the_benchmark_checks_correctness() -> Outcome {
    let output = Command::new(BENCH).args(["--check", "--datagrams", "20000"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(said.lines().filter(|line| line.starts_with("PASS")).count() > 8, "{said}");
    Ok(())
}

fn the_benchmark_counts_what_ports_cost() -> Outcome {
    // Whether its figures are within bounds is not for a short run on a busy machine.
    let output = Command::new(BENCH).args(["--ports", "8", "--quick"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.stderr.is_empty() || said.contains("attaching a port"), "{said}");
    ensure!(said.lines().count() == 6 && said.contains("KiB a port"), "{said}");
    Ok(())
}

/// Ends a benchmark in the midst of it by a signal.
fn ended_by(signal: Signal, code: Option<i32>) -> Outcome {
    let mut bench = Command::new(BENCH)
        .args(["--peers", "vswitchd", "--only", "l2/udp18/1", "--runs", "100"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = end(&mut bench, signal, code);
    // It has ended already, unless the test fails.
    let _ = bench.kill();
    bench.wait()?;
    outcome
}

fn end(bench: &mut Child, signal: Signal, code: Option<i32>) -> Outcome {
    let pid = bench.id();
    let patience = Duration::from_secs(30);
    wait_until(patience, "the switch runs", || Ok(!children(pid).is_empty() && directory(pid)?.is_some()))?;
    std::thread::sleep(Duration::from_millis(300));
    let switches = children(pid);
    kill(Pid::from_raw(pid.cast_signed()), signal)?;
    wait_until(patience, "the benchmark ends", || Ok(bench.try_wait()?.is_some()))?;
    ensure!(bench.wait()?.code() == code, "{:?}", bench.wait()?);
    wait_until(Duration::from_secs(3), "the switch ends", || {
        Ok(!switches.iter().any(|switch| fs::exists(format!("/proc/{switch}")).unwrap_or(false)))
    })?;
    let left = directory(pid)?;
    match left {
        // Nobody can clean up after SIGKILL but the system, and we.
        Some(left) if signal == Signal::SIGKILL => fs::remove_dir_all(left)?,
        Some(left) => return Err(format!("left: {}", left.display()).into()),
        None => {}
    }
    Ok(())
}

/// Processes that any thread of the process has started.
fn children(pid: u32) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(read).flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The directory that the process has made for its sockets.
fn directory(pid: u32) -> Result<Option<std::path::PathBuf>, Failed> {
    let prefix = format!("vswitchd-lab-{pid}-");
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&prefix);
    let mut entries = fs::read_dir(std::env::temp_dir())?.flatten();
    Ok(entries.find(named).map(|entry| entry.path()))
}

fn the_benchmark_refuses_in_one_line() -> Outcome {
    for (line, code) in [
        ("--only nonsense", 2),
        ("--peers docker", 2),
        ("--runs none", 2),
        ("--frobnicate", 2),
        ("--ports 8 --check", 2),
        ("--from /nonexistent", 1),
        ("--peers vswitchd:--frobnicate --only idle --quick", 1),
    ] {
        let output = Command::new(BENCH).args(line.split(' ')).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or_default();
        ensure!(output.status.code() == Some(code), "{line}: {} {errors}", output.status);
        ensure!(last.starts_with("error: ") && output.stdout.is_empty(), "{line}: {errors}");
    }
    Ok(())
}
