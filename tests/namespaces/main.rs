//! Tests in network namespaces of their own: real TAPs, real kernel stacks, the real programs.
//!
//! They run as root, and as an ordinary user in a user namespace, which must be entered before the first
//! thread is started: hence a `main` of our own. Where neither is possible, they say what is missing and
//! are skipped; with `CI=true` they fail instead.
#![allow(clippy::disallowed_methods, reason = "these tests wait for a real kernel, in real time")]

use std::process::ExitCode;

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
    // Several tests measure how long something takes under a load of their own.
    arguments.test_threads.get_or_insert(1);
    let missing = if arguments.list { None } else { vswitchd::host::user::enter().err() };
    let missing = missing.map(|error| format!("needs namespaces and TAP devices: {error}"));
    let must_run = std::env::var("CI").is_ok_and(|ci| ci == "true");
    if let Some(missing) = &missing {
        eprintln!("{}: {missing}", if must_run { "failing" } else { "skipping" });
    }
    let tests = [
        dns::TESTS,
        host::TESTS,
        lab::TESTS,
        refusals::TESTS,
        guard::TESTS,
        health::TESTS,
        lifecycle::TESTS,
        config::TESTS,
        networks::TESTS,
        lan::TESTS,
        policy::TESTS,
        coalesce::TESTS,
        dhcp::TESTS,
        transfer::TESTS,
        uplinks::TESTS,
        vlan::TESTS,
        rows_fragments::TESTS,
        rows_ports::TESTS,
        bench::TESTS,
        rows_icmp::TESTS,
        rows_nat::TESTS,
        services::TESTS,
    ];
    let trials = tests.into_iter().flatten().map(|&(name, test)| {
        let missing = missing.clone();
        let skip = missing.is_some() && !must_run;
        let trial = Trial::test(name, move || missing.map_or_else(test, |missing| Err(missing.into())));
        trial.with_ignored_flag(skip)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
