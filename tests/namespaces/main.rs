//! Tests in network namespaces of their own: real TAPs, real kernel stacks, the real programs.
//!
//! They run as root, and as an ordinary user in a user namespace, which must be entered before the first
//! thread is started: hence a `main` of our own. Where neither is possible, they say what is missing and
//! are skipped; with `CI=true` they fail instead.
//!
//! Most of them wait: for leases and timers, for programs to start, for what must not come. Those run beside each
//! other (`TESTS` of each file). Whoever measures time or memory, or has the switch work as hard as it can, comes after
//! them and runs by itself (`ALONE`). Nothing is shared but the processors: namespaces have no names, and directories
//! are each rig's own.
#![allow(clippy::disallowed_methods, reason = "these tests wait for a real kernel, in real time")]

use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};
use std::thread::available_parallelism;

use libtest_mimic::{Arguments, Failed, Trial};

mod bench;
mod coalesce;
mod config;
mod dhcp;
mod dns;
mod guard;
mod health;
mod host;
mod lab;
mod lan;
mod lifecycle;
mod networks;
mod policy;
mod refusals;
mod rows_fragments;
mod rows_icmp;
mod rows_nat;
mod rows_ports;
mod services;
mod switch;
mod transfer;
mod uplinks;
mod vlan;

/// What a test comes to; the error is printed.
pub(crate) type Outcome = Result<(), Failed>;

/// A name and what to run.
pub(crate) type Test = (&'static str, fn() -> Outcome);

/// Fails the test with this message.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(BESIDE * available_parallelism().map_or(1, usize::from));
    let missing = if arguments.list { None } else { vswitchd::host::user::enter().err() };
    let missing = missing.map(|error| format!("needs namespaces and TAP devices: {error}"));
    let must_run = std::env::var("CI").is_ok_and(|ci| ci == "true");
    if let Some(missing) = &missing {
        eprintln!("{}: {missing}", if must_run { "failing" } else { "skipping" });
    }
    let beside = [
        // The longest first.
        dhcp::TESTS,
        lab::TESTS,
        bench::TESTS,
        config::TESTS,
        dns::TESTS,
        health::TESTS,
        host::TESTS,
        lan::TESTS,
        lifecycle::TESTS,
        networks::TESTS,
        policy::TESTS,
        refusals::TESTS,
        rows_fragments::TESTS,
        rows_icmp::TESTS,
        rows_nat::TESTS,
        rows_ports::TESTS,
        services::TESTS,
        uplinks::TESTS,
        vlan::TESTS,
    ];
    let alone = [
        bench::ALONE,
        coalesce::ALONE,
        config::ALONE,
        dns::ALONE,
        guard::ALONE,
        host::ALONE,
        lifecycle::ALONE,
        policy::ALONE,
        rows_fragments::ALONE,
        rows_icmp::ALONE,
        rows_nat::ALONE,
        rows_ports::ALONE,
        services::ALONE,
        transfer::ALONE,
        vlan::ALONE,
    ];
    let trial = |&(name, test): &Test, run: fn(fn() -> Outcome) -> Outcome| {
        let missing = missing.clone();
        let skip = missing.is_some() && !must_run;
        let trial =
            Trial::test(name, move || missing.map_or_else(|| run(test), |missing| Err(missing.into())));
        trial.with_ignored_flag(skip)
    };
    let beside = beside.into_iter().flatten().map(|test| trial(test, run_beside));
    let alone = alone.into_iter().flatten().map(|test| trial(test, run_alone));
    let trials = beside.chain(alone).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Tests beside each other on each processor: they use a sixth of one or so.
const BESIDE: usize = 3;

/// Held by those that run beside each other, or by one that runs alone.
static MACHINE: RwLock<()> = RwLock::new(());

fn run_beside(test: fn() -> Outcome) -> Outcome {
    // A test that panicked has let go of the machine like any other.
    let _held = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    test()
}

fn run_alone(test: fn() -> Outcome) -> Outcome {
    let _held = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    test()
}
