//! `vswitch-bench`: our switch and its peers under the same load, in the same places, on this machine.
//!
//! It builds for every peer the same little world of namespaces ([`site`]), plays both ends of a workload
//! ([`load`]) through each of them in turn ([`compare`]), and says how they compare and whether what the
//! project promises holds ([`case`], [`report`]). It needs no other program but the peers themselves, and
//! `nft` for the kernel's NAT. Our own switch is this very program, started again as a process of its own
//! ([`process`]), so that what is measured is what was built.
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

mod case;
mod check;
mod compare;
mod load;
mod machine;
mod peer;
mod process;
mod progress;
mod report;
mod rules;
mod scale;
mod site;
mod stats;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vswitchd::control::cli;
use vswitchd::control::error::Error;
use vswitchd::daemon::{arguments, program};
use vswitchd::host::user;
use vswitchd::lab::interrupt::Interrupt;

use self::case::Window;
use self::compare::Plan;
use self::peer::{Kind, Peer};
use self::process::Inside;
use self::report::{Report, svg, table};
use self::rules::Lists;

/// Compare vswitchd with the kernel and with other switches, in namespaces of its own
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// One short run of each case: for a first look, not for figures to be quoted
    #[arg(long)]
    quick: bool,
    /// Only the cases whose names contain one of these words
    #[arg(long, value_name = "WORD,WORD")]
    only: Option<String>,
    /// Who is compared: kernel, vswitchd, ovs, vde, slirp4netns; vswitchd with options, like
    /// "vswitchd:--poll=busy" [default: everybody who is installed]
    #[arg(long, value_name = "PEER,PEER", value_delimiter = ',')]
    peers: Vec<Peer>,
    /// More options for every vswitchd
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    vswitchd_args: Option<String>,
    /// How often each case is run with each peer [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: Option<u16>,
    /// How long a run counts [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw a plot into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the table to this file as Markdown; into its place, if the file marks one
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Measure nothing; show what was measured before and written to this file with --json
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Check instead that nothing is reordered, doubled, or lost without being counted [peers: vswitchd]
    #[arg(long, conflicts_with_all = ["only", "runs", "seconds", "json", "svg", "markdown", "from", "list"])]
    check: bool,
    /// How many numbered datagrams --check sends in each of its steps [default: 10000000; with --quick 100000]
    #[arg(long, value_name = "N", requires = "check", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    datagrams: Option<u32>,
    /// Measure instead what so many ports cost: attaching, memory, idle CPU, floods
    #[arg(long, value_name = "N", conflicts_with_all = ["check", "only", "runs", "json", "svg", "markdown", "from", "list"],
          value_parser = clap::value_parser!(u16).range(4..=4000))]
    ports: Option<u16>,
    /// Measure instead what so many rules cost: established flows, adding one, applying files
    #[arg(long, value_name = "N", conflicts_with_all = ["ports", "check", "only", "json", "svg", "markdown", "from", "list"],
          value_parser = clap::value_parser!(u16).range(0..=10_000))]
    rules: Option<u16>,
    /// With --rules: and so many publications
    #[arg(long, value_name = "N", requires = "rules", default_value_t = 1000,
          value_parser = clap::value_parser!(u16).range(0..=4000))]
    publications: u16,
    /// Show what would be measured, and how long it would take
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    inside: Option<Hidden>,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// Become a program in a namespace
    #[command(hide = true, name = process::INSIDE)]
    Inside(Inside),
}

/// The command line of our own switch.
#[derive(Debug, Parser)]
struct Switch {
    #[command(flatten)]
    arguments: arguments::Arguments,
}

fn main() -> ExitCode {
    let outcome = match cli::parse::<Arguments>() {
        Ok(Arguments { inside: Some(Hidden::Inside(inside)), .. }) => be_inside(inside),
        Ok(arguments) => run(&arguments),
        Err(code) => return code,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => cli::fail(&error),
    }
}

/// What a child of ours does.
fn be_inside(inside: Inside) -> Result<bool, Error> {
    let line = process::become_program(inside)?;
    let (arguments, options) = arguments::options(&Switch::command(), line)?;
    program::run(&arguments, options).map(|()| true)
}

/// Does what is asked for, and tells whether it was as it should be. A missed figure is a result and not a
/// failure.
fn run(arguments: &Arguments) -> Result<bool, Error> {
    if let Some(file) = &arguments.from {
        return show(&read(file)?, arguments).map(|()| true);
    }
    let plan = plan(arguments)?;
    if arguments.list {
        say(&list(&plan));
        return Ok(true);
    }
    user::enter()?;
    raise_descriptor_limit();
    let interrupt = Interrupt::watch()?;
    if arguments.check {
        return check(arguments, &plan, &interrupt);
    }
    if arguments.ports.is_some() || arguments.rules.is_some() {
        let ours = plan.peers.iter().find(|peer| peer.kind == Kind::Vswitchd);
        let ours = ours
            .ok_or_else(|| Error::usage("--ports, --rules", "measure vswitchd only", "add it to --peers"))?;
        if let Some(ports) = arguments.ports {
            return scale::run(ours, &plan.vswitchd_options, ports, &plan.window, &interrupt);
        }
        let lists = Lists { rules: arguments.rules.unwrap_or(0), publications: arguments.publications };
        return rules::run((ours, &plan.vswitchd_options), lists, (plan.runs, plan.window), &interrupt);
    }
    eprintln!("{} runs, about {} s", plan.steps(), plan.duration().as_secs());
    show(&compare::run(&plan, &interrupt)?, arguments).map(|()| true)
}

/// Checks our switch, or whoever is named, and says at the end whether all went well.
fn check(arguments: &Arguments, plan: &Plan, interrupt: &Interrupt) -> Result<bool, Error> {
    let datagrams = arguments.datagrams.unwrap_or(if arguments.quick { 100_000 } else { 10_000_000 });
    let wanted =
        |peer: &&Peer| plan.explicit || (peer.kind == Kind::Vswitchd && **peer != Peer::one_worker());
    let mut passed = true;
    for peer in plan.peers.iter().filter(wanted) {
        passed &= check::run(peer, &plan.vswitchd_options, datagrams, interrupt)?;
    }
    println!("{}", if passed { "PASS" } else { "FAIL" });
    Ok(passed)
}

/// What is to be measured.
fn plan(arguments: &Arguments) -> Result<Plan, Error> {
    let cases = case::chosen(arguments.only.as_deref());
    if cases.is_empty() {
        return Err(Error::usage("--only", "no case has such a name", "see --list"));
    }
    let explicit = !arguments.peers.is_empty();
    let (peers, not_installed) =
        if explicit { (arguments.peers.clone(), Vec::new()) } else { compare::everybody() };
    for peer in &peers {
        if let Some(program) = peer.kind.missing().filter(|_| explicit && peer.kind != Kind::Kernel) {
            return Err(Error::not_found(
                peer.label(),
                format_args!("{program} is not installed"),
                "leave it out",
            ));
        }
    }
    let more = arguments.vswitchd_args.iter().flat_map(|more| more.split_whitespace());
    let vswitchd_options = more.map(str::to_owned).collect();
    let (runs, warm_up, length) = if arguments.quick { (1, 100, 300) } else { (5, 200, 1000) };
    let length = arguments.seconds.unwrap_or(Duration::from_millis(length));
    let window = Window { warm_up: Duration::from_millis(warm_up), length };
    let runs = arguments.runs.map_or(runs, usize::from);
    Ok(Plan { cases, peers, vswitchd_options, not_installed, runs, window, explicit })
}

/// What would be measured, by whom, and for how long.
fn list(plan: &Plan) -> String {
    let mut text = String::new();
    for case in &plan.cases {
        let peers: Vec<_> = plan.peers_of(case).into_iter().map(|at| plan.peers[at].label()).collect();
        text += &format!("{:<20} {:<52} {}\n", case.name, case.what, peers.join(", "));
    }
    for (peer, program) in &plan.not_installed {
        text += &format!("{peer}: {program} is not installed\n");
    }
    text + &format!("{} runs, about {} s\n", plan.steps(), plan.duration().as_secs())
}

/// Prints the report, and writes it wherever it is wanted.
fn show(report: &Report, arguments: &Arguments) -> Result<(), Error> {
    say(&table::text(report));
    if let Some(file) = &arguments.json {
        let json =
            serde_json::to_string_pretty(report).map_err(|error| Error::failed("report", error, ""))?;
        write(file, &format!("{json}\n"))?;
    }
    if let Some(file) = &arguments.svg {
        write(file, &svg::draw(report))?;
    }
    if let Some(file) = &arguments.markdown {
        let document = fs::read_to_string(file).unwrap_or_default();
        write(file, &table::placed(&document, &table::markdown(report)))?;
    }
    Ok(())
}

/// Prints it. A closed pipe is a way to stop reading.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn read(file: &Path) -> Result<Report, Error> {
    let failed =
        |why: &dyn std::fmt::Display| Error::failed(file.display(), why, "give a file that --json wrote");
    let text = fs::read_to_string(file).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write(file, text).map_err(|error| Error::failed(file.display(), error, ""))
}

/// Takes as many descriptors as allowed: a flow is a socket.
fn raise_descriptor_limit() {
    // If it fails, the case with most flows will say so.
    let _ = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
}

fn seconds(text: &str) -> Result<Duration, Error> {
    let parsed = text.parse().ok().filter(|seconds| (0.05..=60.0).contains(seconds));
    let wrong = || Error::usage(text, "not a number of seconds", "choose 0.05 to 60");
    parsed.map(Duration::from_secs_f64).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn planned(line: &str) -> Result<Plan, Error> {
        let line = ["vswitch-bench"].into_iter().chain(line.split_terminator('|'));
        plan(&Arguments::try_parse_from(line).map_err(|error| Error::usage("", error, ""))?)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        Switch::command().debug_assert();
    }

    #[test]
    fn options_are_read() {
        let plan =
            planned("--quick|--only|l2/tcp|--peers|kernel,vswitchd:--poll=busy|--vswitchd-args|--workers 1")
                .unwrap();
        assert_eq!((plan.cases.len(), plan.runs, plan.explicit), (2, 1, true));
        assert_eq!(plan.window.length, Duration::from_millis(300));
        let labels: Vec<_> = plan.peers.iter().map(Peer::label).collect();
        assert_eq!(labels, ["kernel", "vswitchd --poll=busy"]);
        assert_eq!(plan.vswitchd_options, ["--workers", "1"]);
        let plan = planned("--runs|7|--seconds|0.5").unwrap();
        assert_eq!((plan.runs, plan.window.length), (7, Duration::from_millis(500)));
        for wrong in [
            "--only|nonsense",
            "--peers|docker",
            "--runs|0",
            "--seconds|0",
            "--seconds|nan",
            "--frobnicate",
            "x",
        ] {
            assert!(planned(wrong).is_err(), "{wrong}");
        }
    }
}
