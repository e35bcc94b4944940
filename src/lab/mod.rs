//! `vswitchd lab`: a laboratory in namespaces of its own.
//!
//! It builds a small world ([`rig`]), starts the real daemon in it, and shows with the traffic of real
//! kernel stacks ([`traffic`], [`frames`]) what the switch does, telling each step as the `vswitchctl`
//! command that does it, and what does the same with Docker's tools. It ends with a table of what was checked. It
//! touches nothing outside: no named namespace, no interface, no rule and no file but a temporary directory; when
//! the process ends, in whatever way, the kernel takes the namespaces away with all that is in them.
//!
//! What is shown is grouped in [`scenario`]s.
//!
//! [`rig`], [`traffic`], [`flood`], [`frames`], [`machine`] and [`interrupt`] serve the integration tests and the benchmark as
//! well.

pub mod flood;
pub mod frames;
pub mod interrupt;
pub mod machine;
pub mod rig;
mod scenario;
mod switch;
pub mod traffic;
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use self::interrupt::Interrupt;
use self::rig::Rig;
use self::scenario::{STAGES, Scenario, Stage};
use self::world::{Failure, Lab, tell};
use crate::control::client::Client;
use crate::control::error::Error;
use crate::host::netns::Netns;
use crate::host::{netlink, user};

/// What to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Leave it up at the end, until Ctrl-C: that of the scenario, or the first one.
    pub keep: bool,
    /// Only this scenario.
    pub scenario: Option<String>,
}

/// Names of the scenarios.
pub fn scenarios() -> impl Iterator<Item = &'static str> {
    STAGES.iter().flat_map(|stage| stage.scenarios).map(|scenario| scenario.name)
}

/// Runs the laboratory, and tells whether everything was as claimed. To be called before the process
/// starts its first thread.
///
/// # Errors
/// `Usage` for an unknown scenario; `Failed` if the laboratory cannot be built.
pub fn run(options: &Options) -> Result<bool, Error> {
    let is_chosen =
        |scenario: &&Scenario| options.scenario.as_deref().is_none_or(|name| name == scenario.name);
    let chosen = |stage: &Stage| stage.scenarios.iter().filter(is_chosen).collect::<Vec<_>>();
    let plan: Vec<_> = STAGES.iter().map(|stage| (stage, chosen(stage))).collect();
    let mut plan: Vec<_> = plan.into_iter().filter(|(_, scenarios)| !scenarios.is_empty()).collect();
    if plan.is_empty() {
        let known: Vec<_> = scenarios().collect();
        let name = options.scenario.as_deref().unwrap_or_default();
        return Err(Error::usage(name, "no such scenario", format_args!("one of {}", known.join(" "))));
    }
    if options.keep {
        plan.truncate(1);
    }
    user::enter()?;
    let interrupted = Interrupt::watch()?;
    // A process that was in a tokio runtime once keeps its pair of sockets for signals.
    drop(Client::new(Path::new(""))?);
    let before = Footprint::take();

    let mut results = Vec::new();
    let mut is_clean = true;
    for (stage, scenarios) in plan {
        if interrupted.came() {
            break;
        }
        println!("the laboratory");
        let lab = (stage.set_up)().map_err(|error| Error::failed("lab", error, ""))?;
        scenarios.iter().for_each(|scenario| perform(scenario, &lab, &interrupted, &mut results));
        if options.keep && !interrupted.came() {
            tell_how_to_enter(&lab);
            interrupted.wait();
        }
        println!("cleanup");
        is_clean &= report(clean_up(lab, &before));
    }
    results.push(("cleanup", "nothing is left behind", is_clean));
    Ok(conclude(&results))
}

/// A scenario's name, a claim, and whether it held.
type Finding = (&'static str, &'static str, bool);

/// Shows a scenario, check by check.
fn perform(scenario: &Scenario, lab: &Lab, interrupted: &Interrupt, results: &mut Vec<Finding>) {
    for (number, check) in scenario.checks.iter().enumerate().take_while(|_| !interrupted.came()) {
        println!("{}: {}", scenario.name, check.claim);
        if number == 0 {
            scenario.elsewhere.iter().for_each(|line| tell(format_args!("elsewhere: {line}")));
        }
        results.push((scenario.name, check.claim, report((check.run)(lab))));
    }
}

fn report(outcome: Result<(), Failure>) -> bool {
    if let Err(error) = &outcome {
        tell(format_args!("FAILED: {error}"));
    }
    outcome.is_ok()
}

/// The table at the end.
fn conclude(results: &[Finding]) -> bool {
    println!();
    for (scenario, claim, held) in results {
        println!("{}  {scenario:<13}  {claim}", if *held { "PASS" } else { "FAIL" });
    }
    let held = results.iter().filter(|(.., held)| *held).count();
    println!("{held} of {} passed", results.len());
    held == results.len()
}

fn tell_how_to_enter(lab: &Lab) {
    let user = if Path::new("/proc/self/uid_map").exists() && is_user_namespace() {
        format!("--user=/proc/{}/ns/user --preserve-credentials ", std::process::id())
    } else {
        String::new()
    };
    println!("it stays up until Ctrl-C; enter it with");
    for netns in [&lab.rig.switch, &lab.rig.internet].into_iter().chain(lab.namespaces()) {
        tell(format_args!("nsenter {user}--net={} sh    # {netns}", netns.path().display()));
    }
    println!("and look at it with");
    tell(format_args!("export VSWITCHD_SOCKET={}", lab.rig.socket().display()));
    tell("vswitchctl status; vswitchctl port ls; vswitchctl fdb show; vswitchctl ct ls; vswitchctl drops");
}

/// Whether the users here are not those of the system: then not all four billion of them are mapped.
fn is_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
}

/// Stops the switch and looks for what it may have left.
fn clean_up(lab: Lab, before: &Footprint) -> Result<(), Failure> {
    let (rig, switch, containers) = lab.take_apart();
    let took = switch.stop()?;
    tell(format_args!("the switch stopped in {} ms", took.as_millis()));
    for container in &containers {
        expect_interfaces(&container.netns, &["lo"])?;
    }
    expect_interfaces(&rig.switch, &["eth0", "lo"])?;
    tell("no interface is left in any namespace");
    expect_no_table(&rig)?;
    if rig.socket().exists() {
        return Err(format!("{} is left", rig.socket().display()).into());
    }
    drop((rig, containers));
    let left = Footprint::grown(before);
    if !left.is_empty() {
        return Err(format!("left behind: {}", left.join(", ")).into());
    }
    tell("no table, no socket, no process, no thread and no open file is left");
    Ok(())
}

fn expect_interfaces(netns: &Netns, expected: &[&str]) -> Result<(), Failure> {
    let mut names: Vec<String> = netns.run(netlink::links)??.into_iter().map(|link| link.name).collect();
    names.sort();
    if names == expected { Ok(()) } else { Err(format!("{netns} still has {names:?}").into()) }
}

fn expect_no_table(rig: &Rig) -> Result<(), Failure> {
    let mut nft = std::process::Command::new("nft");
    nft.args(["list", "tables"]).stdout(std::process::Stdio::piped());
    // Without nft, there was no table.
    let Ok(child) = rig.switch.spawn(&mut nft) else { return Ok(()) };
    let listed = child.wait_with_output()?.stdout;
    if listed.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&listed).into_owned().into()) }
}

/// What this process holds: threads, children, open files.
#[derive(Debug)]
struct Footprint {
    threads: usize,
    held: BTreeSet<String>,
}

impl Footprint {
    fn take() -> Footprint {
        let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
        let mut footprint = Footprint { threads: 0, held: BTreeSet::new() };
        for task in entries("/proc/self/task") {
            footprint.threads += 1;
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            footprint.held.extend(children.split_whitespace().map(|pid| format!("process {pid}")));
        }
        for file in entries("/proc/self/fd") {
            // The listing's own descriptor is closed by now, and has no target.
            if let Ok(target) = fs::read_link(file.path()) {
                footprint.held.insert(format!("file {}", target.display()));
            }
        }
        footprint
    }

    /// What is there now and was not there then.
    fn grown(before: &Footprint) -> Vec<String> {
        let now = Footprint::take();
        let mut grown: Vec<String> = now.held.difference(&before.held).cloned().collect();
        if now.threads > before.threads {
            grown.push(format!("{} threads", now.threads - before.threads));
        }
        grown
    }
}
