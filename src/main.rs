//! `vswitchd`: the switch.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vswitchd::control::cli;
use vswitchd::control::error::Error;
use vswitchd::daemon::arguments;
use vswitchd::daemon::program;
use vswitchd::lab;

/// A userspace virtual switch and NAT router for Linux containers, namespaces and VMs
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct CommandLine {
    #[command(flatten)]
    run: Option<arguments::Arguments>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See the switch work: containers, an internet host and real traffic, in namespaces of its own
    Lab {
        /// Leave it up at the end, and say how to enter it
        #[arg(long)]
        keep: bool,
        /// Show only this
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(lab::scenarios()))]
        scenario: Option<String>,
    },
}

fn main() -> ExitCode {
    let line: CommandLine = match cli::parse() {
        Ok(line) => line,
        Err(code) => return code,
    };
    let outcome = match (line.command, line.run) {
        (Some(Command::Lab { keep, scenario }), _) => {
            program::log_to_stderr(None, "warn");
            lab::run(&lab::Options { keep, scenario })
        }
        (None, Some(run)) => program::run(run).map(|()| true),
        (None, None) => Err(Error::usage("vswitchd", "no way out", "give --uplink IFACE or --no-uplink")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            cli::fail(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
