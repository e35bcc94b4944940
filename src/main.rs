//! `vswitchd`: the switch.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use vswitchd::control::cli;
use vswitchd::control::error::Error;
use vswitchd::daemon::{self, arguments, program};
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
    /// Validate a configuration file: say everything that is wrong with it, and do nothing
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
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
        (Some(Command::Check { config }), _) => check(&config),
        (None, _) => arguments::options(&CommandLine::command(), std::env::args_os().collect())
            .and_then(|(arguments, options)| program::run(&arguments, options))
            .map(|()| true),
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

/// Reads a configuration file and tries it on a switch in memory.
fn check(path: &Path) -> Result<bool, Error> {
    let line = ["vswitchd".into(), "--config".into(), path.into()];
    let (_, options) = arguments::options(&CommandLine::command(), line.into())?;
    daemon::check(&options).map(|()| true)
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
