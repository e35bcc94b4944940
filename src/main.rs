//! `vswitchd`: the switch.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};
use ipnet::Ipv4Net;
use tokio::signal::unix::{SignalKind, signal};
use vswitchd::control::cli;
use vswitchd::control::error::Error;
use vswitchd::control::request::parse_subnet;
use vswitchd::control::socket;
use vswitchd::daemon::{self, NetworkSpec, Options};
use vswitchd::lab;
use vswitchd::port::exchange::Io;
use vswitchd::snapshot::UplinkMode;
use vswitchd::worker::PollMode;

/// A userspace virtual switch and NAT router for Linux containers, namespaces and VMs
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(flatten)]
    run: Option<Run>,
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

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("way out").required(true)))]
struct Run {
    /// The interface that leads out; its address is shared with the host unless --uplink-mode says otherwise
    #[arg(long, value_name = "IFACE", group = "way out")]
    uplink: Option<String>,
    /// Networks only
    #[arg(long, group = "way out")]
    no_uplink: bool,
    /// shared: the host's address; own: an address of the switch's own
    #[arg(long, value_name = "MODE", default_value = "shared", value_parser = uplink_mode)]
    uplink_mode: UplinkMode,
    /// The address of mode own
    #[arg(long, value_name = "CIDR", value_parser = parse_subnet)]
    uplink_address: Option<Ipv4Net>,
    /// The next hop of mode own
    #[arg(long, value_name = "IP")]
    uplink_gateway: Option<Ipv4Addr>,
    /// A network, like lan=10.1.0.0/24,mtu=1400; repeatable [default: default=172.30.0.0/16, or the next /16
    /// that no host route overlaps]
    #[arg(long, value_name = "NAME=CIDR[,gateway=IP][,mtu=N][,mode=nat|internal]")]
    network: Vec<NetworkSpec>,
    /// External ports for masquerading
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = port_range)]
    nat_ports: RangeInclusive<u16>,
    /// Number of worker threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<usize>,
    /// uring: io_uring, many frames a call; syscall: a call a frame; auto: io_uring where it works
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = io)]
    io: IoChoice,
    /// adaptive: look for frames for a while, then sleep; busy: never sleep; sleep: at once
    #[arg(long, value_name = "MODE", default_value = "adaptive", value_parser = poll_mode)]
    poll: PollMode,
    /// Whether super-frames and unfinished checksums cross the switch
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off,
          action = clap::ArgAction::Set)]
    offload: bool,
    /// Where the API listens [default: /run/vswitchd.sock, $VSWITCHD_SOCKET, or the user's runtime directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The group that may use the socket [default: vswitchd, if there is one]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// What to log on stderr, as RUST_LOG has it [default: $RUST_LOG, or info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let outcome = match (arguments.command, arguments.run) {
        (Some(Command::Lab { keep, scenario }), _) => {
            log_to_stderr(None, "warn");
            lab::run(&lab::Options { keep, scenario })
        }
        (None, Some(run)) => {
            log_to_stderr(run.log.as_deref(), "info");
            daemon::run(options(run), ready, signalled()).map(|()| true)
        }
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

fn log_to_stderr(filter: Option<&str>, default: &str) {
    let environment = env_logger::Env::default().default_filter_or(default);
    let mut logger = env_logger::Builder::from_env(environment);
    if let Some(filter) = filter {
        logger.parse_filters(filter);
    }
    logger.init();
}

fn options(run: Run) -> Options {
    Options {
        uplink: run.uplink,
        uplink_mode: run.uplink_mode,
        uplink_address: run.uplink_address,
        uplink_gateway: run.uplink_gateway,
        networks: run.network,
        nat_ports: run.nat_ports,
        workers: run.workers,
        io: run.io.0,
        poll: run.poll,
        offload: run.offload,
        socket: run.socket.unwrap_or_else(socket::default_path),
        group: run.group,
    }
}

/// Tells whoever started us, and systemd, that ports can be added.
fn ready() {
    use std::io::Write;
    // Nobody may be reading.
    let _ = writeln!(std::io::stdout(), "ready").and_then(|()| std::io::stdout().flush());
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = notify(&socket, b"READY=1")
    {
        log::warn!("cannot notify {}: {error}", socket.display());
    }
}

/// Sends a state to the service manager (sd_notify(3)).
fn notify(socket: &std::ffi::OsStr, state: &[u8]) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(drop)
}

/// Resolves at the first SIGTERM or SIGINT.
async fn signalled() {
    let streams = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = streams else {
        log::warn!("cannot watch for signals: SIGTERM ends the switch at once");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn uplink_mode(text: &str) -> Result<UplinkMode, Error> {
    match text {
        "shared" => Ok(UplinkMode::Shared),
        "own" => Ok(UplinkMode::Own),
        _ => Err(Error::usage(text, "no such uplink mode", "shared or own")),
    }
}

/// What `--io` says; `None` leaves the choice to the switch.
#[derive(Debug, Clone, Copy)]
struct IoChoice(Option<Io>);

fn io(text: &str) -> Result<IoChoice, Error> {
    match text {
        "auto" => Ok(IoChoice(None)),
        "uring" => Ok(IoChoice(Some(Io::Uring))),
        "syscall" => Ok(IoChoice(Some(Io::Syscall))),
        _ => Err(Error::usage(text, "no such way to read and write", "auto, uring or syscall")),
    }
}

fn poll_mode(text: &str) -> Result<PollMode, Error> {
    text.parse().map_err(|()| Error::usage(text, "no such way to poll", "adaptive, busy or sleep"))
}

fn on_off(text: &str) -> Result<bool, Error> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::usage(text, "neither on nor off", "write on or off")),
    }
}

fn workers(text: &str) -> Result<usize, Error> {
    let most = vswitchd::limits::WORKERS_MAX;
    let wrong = || Error::usage(text, "not a number of workers", format_args!("choose 1 to {most}"));
    text.parse().ok().filter(|count| (1..=most).contains(count)).ok_or_else(wrong)
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, Error> {
    let wrong = |why: &str| Error::usage(text, why, "write FIRST-LAST, like 61000-65535");
    let (first, last) = text.split_once('-').ok_or_else(|| wrong("not a port range"))?;
    let parse = |port: &str| port.parse::<u16>().ok().filter(|&port| port > 0);
    match (parse(first), parse(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(_), Some(_)) => Err(wrong("the port range runs backwards")),
        _ => Err(wrong("not a port range")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_are_read() {
        let line =
            "vswitchd --uplink eth0 --network a=10.1.0.0/24,mode=internal --nat-ports 1-2 --offload off";
        let options = options(
            Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{e}")).run.unwrap(),
        );
        assert_eq!((options.uplink.as_deref(), options.nat_ports), (Some("eth0"), 1..=2));
        assert_eq!((options.networks.len(), options.offload), (1, false));
        for wrong in [
            "vswitchd",
            "vswitchd --uplink eth0 --no-uplink",
            "vswitchd --no-uplink --nat-ports 2-1",
            "vswitchd --no-uplink --nat-ports 0-9",
            "vswitchd --no-uplink --workers 0",
            "vswitchd --no-uplink --offload maybe",
            "vswitchd --no-uplink --poll always",
            "vswitchd --no-uplink --io dpdk",
            "vswitchd --no-uplink --uplink-mode bridge",
        ] {
            assert!(Arguments::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
