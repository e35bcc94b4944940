//! The command line of the daemon, and what it says.
//!
//! It is here, and not in the program, because others start the daemon as a user would: the benchmark runs it
//! with whatever options are to be compared.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgGroup, ArgMatches, Args, FromArgMatches};

use super::{NetworkSpec, Options, RESOLV_CONF};
use crate::control::cli;
use crate::control::config::{DaemonOption, Document};
use crate::control::error::Error;
use crate::control::response::{Applied, Fault};
use crate::control::socket;
use crate::control::uplink_spec::{UplinkAddress, UplinkSpec, parse_mode};
use crate::port::exchange::Io;
use crate::snapshot::UplinkMode;
use crate::worker::PollMode;

/// How to run the switch, as it stands on the command line.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("way out")))]
pub struct Arguments {
    /// A file with these options, networks, ports and publications; the command line wins over it. It is read again
    /// on SIGHUP
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The interface that leads out; its address is shared with the host unless its mode says otherwise. Repeatable: the
    /// first is the way out of networks that name none
    #[arg(long, value_name = "IFACE[,mode=MODE][,address=CIDR|dhcp][,gateway=IP]", group = "way out")]
    uplink: Vec<UplinkSpec>,
    /// Networks only
    #[arg(long, group = "way out")]
    no_uplink: bool,
    /// Of the first uplink, unless that says it itself. shared: the host's address; own: an address of the switch's own;
    /// bridge: the network "default" is part of the LAN behind it
    #[arg(long, value_name = "MODE", default_value = "shared", value_parser = uplink_use)]
    uplink_mode: UplinkUse,
    /// Of the first uplink: the address of mode own, or dhcp: what the uplink's DHCP server gives
    #[arg(long, value_name = "CIDR|dhcp")]
    uplink_address: Option<UplinkAddress>,
    /// Of the first uplink: the next hop to everywhere, unless the host's routes or DHCP tell it
    #[arg(long, value_name = "IP")]
    uplink_gateway: Option<Ipv4Addr>,
    /// A network, like lan=10.1.0.0/24,mtu=1400; repeatable [default: default=172.30.0.0/16, or the next /16
    /// that no host route overlaps]
    #[arg(
        long,
        value_name = "NAME=CIDR[,gateway=IP][,mtu=N][,mode=nat|routed|internal|bridge][,uplink=IFACE]"
    )]
    network: Vec<NetworkSpec>,
    /// External ports for masquerading
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = port_range)]
    nat_ports: RangeInclusive<u16>,
    /// Number of worker threads [default: one per core, of which as many read as there is work for]
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

impl TryFrom<Arguments> for Options {
    type Error = Error;

    fn try_from(arguments: Arguments) -> Result<Options, Error> {
        if arguments.uplink.is_empty() && !arguments.no_uplink {
            return Err(Error::usage("vswitchd", "no way out", "give --uplink IFACE or --no-uplink"));
        }
        let mut uplinks = arguments.uplink;
        let mut bridged = None;
        match arguments.uplink_mode {
            UplinkUse::Translated(mode) => {
                if let Some(first) = uplinks.first_mut() {
                    first.mode.get_or_insert(mode);
                    first.address = first.address.or(arguments.uplink_address);
                    first.gateway = first.gateway.or(arguments.uplink_gateway);
                }
            }
            UplinkUse::Bridged if uplinks.is_empty() => {
                let why = "there is no interface to bridge";
                return Err(Error::usage("--uplink-mode bridge", why, "give --uplink IFACE"));
            }
            UplinkUse::Bridged => {
                let first = uplinks.remove(0);
                let has_own = first != UplinkSpec::new(first.name.clone());
                if has_own || arguments.uplink_address.is_some() || arguments.uplink_gateway.is_some() {
                    let why = "the switch has no address on a LAN that it is bridged to";
                    let hint = "say nothing else of the first uplink, or use --uplink-mode own";
                    return Err(Error::usage("--uplink-mode bridge", why, hint));
                }
                bridged = Some(first.name);
            }
        }
        Ok(Options {
            uplinks,
            bridged,
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
            ..Options::default()
        })
    }
}

/// The options of a command line and of the configuration file that it names. `command` is the whole program's.
///
/// # Errors
/// `Usage` for what is wrong with the line or the file; the file's faults but the last are printed.
pub fn options(command: &clap::Command, line: Vec<OsString>) -> Result<(Arguments, Options), Error> {
    let parse =
        |line: &[OsString]| command.clone().try_get_matches_from(line).map_err(|error| cli::usage(&error));
    let mut matches = parse(&line)?;
    let mut config = None;
    if let Some(path) = matches.get_one::<PathBuf>("config").cloned() {
        let mut document = super::setup::read_config(&path)?;
        let words = words(command, &matches, &mut document);
        let faults = std::mem::take(&mut document.faults);
        let read = Applied { changes: Vec::new(), faults };
        read.check(&path.display().to_string(), |error| eprintln!("error: {error}"))?;
        let (program, given) = line.split_at(1.min(line.len()));
        matches = parse(&[program, &words, given].concat())?;
        config = Some((path, document));
    }
    let arguments = Arguments::from_arg_matches(&matches).map_err(|error| cli::usage(&error))?;
    let options = Options { config, settings: settings(command, &matches), ..arguments.clone().try_into()? };
    Ok((arguments, options))
}

/// Options that a file cannot have.
const NOT_IN_A_FILE: &[&str] = &["config", "network", "help", "version"];

/// The options of a file that the command line does not give itself, as words of a command line.
fn words(command: &clap::Command, given: &ArgMatches, document: &mut Document) -> Vec<OsString> {
    let is_given = |name: &str| given.value_source(name) == Some(ValueSource::CommandLine);
    let ways_out = ["uplink", "no_uplink"];
    let mut words = Vec::new();
    for DaemonOption { line, name, value } in &document.options {
        let known = command.get_arguments().find(|known| known.get_id() == name.as_str());
        let Some(known) = known.filter(|_| !NOT_IN_A_FILE.contains(&name.as_str())) else {
            let error = Error::usage(name, "no such option or section", "see vswitchd --help");
            document.faults.push(Fault { line: *line, error });
            continue;
        };
        let is_given = is_given(name) || (ways_out.contains(&&**name) && ways_out.into_iter().any(is_given));
        if is_given {
            continue;
        }
        let flag = format!("--{}", known.get_long().unwrap_or(name));
        let word = if value.is_empty() { flag } else { format!("{flag}={value}") };
        match command.clone().try_get_matches_from(["vswitchd", &word]) {
            Ok(_) => words.push(word.into()),
            Err(error) => document.faults.push(Fault { line: *line, error: cli::usage(&error) }),
        }
    }
    words
}

/// All options that have a value, as a file has them.
fn settings(command: &clap::Command, matches: &ArgMatches) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    for name in command.get_arguments().map(|argument| argument.get_id().as_str()) {
        let Some(values) = matches.get_raw(name).filter(|_| !NOT_IN_A_FILE.contains(&name)) else { continue };
        for value in values.map(|value| value.to_string_lossy().into_owned()) {
            // In one form, as from a file, whatever the order of its fields.
            let uplink = || value.parse::<UplinkSpec>().ok().filter(|_| name == "uplink");
            let value = uplink().map_or_else(|| value.clone(), |uplink| uplink.to_string());
            match value.as_str() {
                "false" => {}
                "true" => settings.push((name.to_owned(), String::new())),
                _ => settings.push((name.to_owned(), value)),
            }
        }
    }
    settings
}

/// What `--uplink-mode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UplinkUse {
    /// Networks are translated to an address on it.
    Translated(UplinkMode),
    /// The default network is bridged to it.
    Bridged,
}

fn uplink_use(text: &str) -> Result<UplinkUse, Error> {
    match text {
        "bridge" => Ok(UplinkUse::Bridged),
        _ => parse_mode(text).map(UplinkUse::Translated),
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

    fn parsed(line: &str) -> Result<Options, Error> {
        options(&Program::command(), line.split(' ').map(OsString::from).collect())
            .map(|(_, options)| options)
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
        assert_eq!((options.uplinks[0].name.as_str(), options.nat_ports), ("eth0", 1..=2));
        assert_eq!((options.networks.len(), options.offload), (1, false));
        let options = parsed("vswitchd --uplink eth0 --uplink eth1 --uplink-mode bridge").unwrap();
        let rest: Vec<_> = options.uplinks.iter().map(ToString::to_string).collect();
        assert_eq!((rest, options.bridged), (vec!["eth1".to_owned()], "eth0".parse().ok()));
        let line = "vswitchd --uplink eth0 --uplink eth1,mode=own,address=dhcp --uplink-gateway 192.0.2.1";
        let uplinks: Vec<_> = parsed(line).unwrap().uplinks.iter().map(ToString::to_string).collect();
        assert_eq!(uplinks, ["eth0,mode=shared,gateway=192.0.2.1", "eth1,mode=own,address=dhcp"]);
        for wrong in [
            "vswitchd",
            "vswitchd --uplink eth0 --uplink eth1,mode=bridged",
            "vswitchd --uplink eth0 --no-uplink",
            "vswitchd --no-uplink --nat-ports 2-1",
            "vswitchd --no-uplink --nat-ports 0-9",
            "vswitchd --no-uplink --workers 0",
            "vswitchd --no-uplink --offload maybe",
            "vswitchd --no-uplink --poll always",
            "vswitchd --no-uplink --io dpdk",
            "vswitchd --no-uplink --uplink-mode bridge",
            "vswitchd --uplink eth0 --uplink-mode bridge --uplink-address dhcp",
            "vswitchd --uplink eth0 --uplink-mode macvlan",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
