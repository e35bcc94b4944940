//! The command line of the daemon, and what it says.
//!
//! It is here, and not in the program, because others start the daemon as a user would: the benchmark runs it
//! with whatever options are to be compared.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{NetworkSpec, Options, RESOLV_CONF, UplinkAddress};
use crate::control::error::Error;
use crate::control::request::parse_subnet;
use crate::control::socket;
use crate::port::exchange::Io;
use crate::snapshot::UplinkMode;
use crate::worker::PollMode;

/// How to run the switch, as it stands on the command line.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("way out").required(true)))]
pub struct Arguments {
    /// The interface that leads out; its address is shared with the host unless --uplink-mode says otherwise
    #[arg(long, value_name = "IFACE", group = "way out")]
    uplink: Option<String>,
    /// Networks only
    #[arg(long, group = "way out")]
    no_uplink: bool,
    /// shared: the host's address; own: an address of the switch's own
    #[arg(long, value_name = "MODE", default_value = "shared", value_parser = uplink_mode)]
    uplink_mode: UplinkMode,
    /// The address of mode own, or dhcp: what the uplink's DHCP server gives
    #[arg(long, value_name = "CIDR|dhcp", value_parser = uplink_address)]
    uplink_address: Option<UplinkAddress>,
    /// The next hop of mode own, unless DHCP tells it
    #[arg(long, value_name = "IP")]
    uplink_gateway: Option<Ipv4Addr>,
    /// A network, like lan=10.1.0.0/24,mtu=1400; repeatable [default: default=172.30.0.0/16, or the next /16
    /// that no host route overlaps]
    #[arg(long, value_name = "NAME=CIDR[,gateway=IP][,mtu=N][,mode=nat|routed|internal]")]
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
    /// Where addresses and leases are remembered [default: /var/lib/vswitchd, or a user's $XDG_STATE_HOME/vswitchd;
    /// with another --socket than usual, a directory of its own in there]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The file that names the resolvers for what is not the switch's own; followed when it changes
    #[arg(long, value_name = "FILE", default_value = RESOLV_CONF)]
    resolv_conf: PathBuf,
    /// What to log on stderr, as RUST_LOG has it [default: $RUST_LOG, or info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

impl From<Arguments> for Options {
    fn from(arguments: Arguments) -> Options {
        Options {
            uplink: arguments.uplink,
            uplink_mode: arguments.uplink_mode,
            uplink_address: arguments.uplink_address,
            uplink_gateway: arguments.uplink_gateway,
            networks: arguments.network,
            nat_ports: arguments.nat_ports,
            workers: arguments.workers,
            io: arguments.io.0,
            poll: arguments.poll,
            offload: arguments.offload,
            socket: arguments.socket.unwrap_or_else(socket::default_path),
            group: arguments.group,
            state_dir: arguments.state_dir,
            resolv_conf: arguments.resolv_conf,
        }
    }
}

fn uplink_mode(text: &str) -> Result<UplinkMode, Error> {
    match text {
        "shared" => Ok(UplinkMode::Shared),
        "own" => Ok(UplinkMode::Own),
        _ => Err(Error::usage(text, "no such uplink mode", "shared or own")),
    }
}

fn uplink_address(text: &str) -> Result<UplinkAddress, Error> {
    if text == "dhcp" { Ok(UplinkAddress::Dhcp) } else { parse_subnet(text).map(UplinkAddress::Fixed) }
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
    let most = crate::limits::WORKERS_MAX;
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
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &str) -> Result<Options, clap::Error> {
        Program::try_parse_from(line.split(' ')).map(|program| program.arguments.into())
    }

    #[test]
    fn the_options_are_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn options_are_read() {
        let line =
            "vswitchd --uplink eth0 --network a=10.1.0.0/24,mode=internal --nat-ports 1-2 --offload off";
        let options = parsed(line).unwrap();
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
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
