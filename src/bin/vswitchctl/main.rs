//! `vswitchctl`: asks a running vswitchd. A thin client: the command line is the API's own types.

mod render;
mod watch;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use vswitchd::control::cli;
use vswitchd::control::client::Client;
use vswitchd::control::error::Error;
use vswitchd::control::request::{
    Apply, CtFilter, CtTimeouts, DhcpLeases, Drops, FdbAdd, FdbAgeing, FdbDel, FdbFlush, FdbShow, Named,
    NetworkConnect, NetworkCreate, NetworkDhcp, NetworkDisconnect, NetworkHostPort, NetworkSet, NoArguments,
    PolicyAdd, PolicyCheck, PolicyDefault, PolicyRm, PortAdd, PortInspect, PortSet, PublishAdd, PublishRm,
    Remove, Request, UplinkSet,
};
use vswitchd::control::response::Applied;
use vswitchd::control::socket;

/// Asks a running vswitchd
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    /// The daemon's socket [default: $VSWITCHD_SOCKET, the user's own, or /run/vswitchd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for people, with units
    Table,
    /// The daemon's answer
    Json,
    /// More columns, exact numbers
    Wide,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// The switch as a whole
    Status(NoArguments),
    /// Networks
    #[command(subcommand)]
    Network(Network),
    /// Addresses that DHCP clients have
    #[command(subcommand)]
    Dhcp(Dhcp),
    /// Ports
    #[command(subcommand)]
    Port(Port),
    /// Uplinks: the interfaces that lead out
    #[command(subcommand)]
    Uplink(Uplink),
    /// The forwarding database: which MAC address is where
    #[command(subcommand)]
    Fdb(Fdb),
    /// Neighbors: which IP address has which MAC address
    #[command(subcommand)]
    Neigh(Neigh),
    /// Tracked connections
    #[command(subcommand)]
    Ct(Ct),
    /// Published ports
    #[command(subcommand)]
    Publish(Publish),
    /// Rules: which connections may be made
    #[command(subcommand)]
    Policy(Policy),
    /// Dropped frames, with the reason
    Drops(Drops),
    /// Counters per port and per worker
    Stats(NoArguments),
    /// Make the switch what a configuration file says, all of it or nothing
    Apply(ApplyFile),
    /// Print a configuration file that says what the switch is
    Dump(NoArguments),
}

#[derive(Debug, clap::Args)]
struct ApplyFile {
    /// The file; - for standard input
    file: PathBuf,
    /// Only print what would change
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum Network {
    /// All networks
    Ls(NoArguments),
    /// Make a network
    Create(NetworkCreate),
    /// Remove a network that has no ports
    Rm(Remove),
    /// Change a network
    Set(NetworkSet),
    /// Give a port an interface on one more network
    Connect(NetworkConnect),
    /// Take a port's interface on a network away
    Disconnect(NetworkDisconnect),
    /// Give the host an address on a network, or take it away
    HostPort(NetworkHostPort),
    /// Everything about one network
    Inspect(Named),
    /// Show the network's DHCP server, or change it
    Dhcp(NetworkDhcp),
}

#[derive(Debug, Subcommand)]
enum Uplink {
    /// All uplinks
    Ls(NoArguments),
    /// Change the next hop
    Set(UplinkSet),
}

#[derive(Debug, Subcommand)]
enum Dhcp {
    /// All leases
    Leases(DhcpLeases),
}

#[derive(Debug, Subcommand)]
enum Port {
    /// All ports
    Ls(NoArguments),
    /// Attach a namespace, a TAP or a device
    Add(PortAdd),
    /// Detach a port
    Rm(Remove),
    /// Everything about one port
    Inspect(PortInspect),
    /// Change settings
    Set(PortSet),
}

#[derive(Debug, Subcommand)]
enum Fdb {
    /// All entries
    Show(FdbShow),
    /// Add a static entry
    Add(FdbAdd),
    /// Remove an entry
    Del(FdbDel),
    /// Forget what was learned
    Flush(FdbFlush),
    /// Show the time after which an idle entry is forgotten, or change it
    Ageing(FdbAgeing),
}

#[derive(Debug, Subcommand)]
enum Neigh {
    /// All neighbors
    Show(NoArguments),
}

#[derive(Debug, Subcommand)]
enum Ct {
    /// All connections
    Ls(CtFilter),
    /// Print connections as they come, change and go
    Watch(CtFilter),
    /// Counts and limits
    Stats(NoArguments),
    /// Forget connections
    Flush(CtFilter),
    /// Show timeouts, or change some
    Timeouts(CtTimeouts),
}

#[derive(Debug, Subcommand)]
enum Publish {
    /// Publish ports of a container on the uplink
    Add(PublishAdd),
    /// All publications
    Ls(NoArguments),
    /// Take a publication back
    Rm(PublishRm),
}

#[derive(Debug, Subcommand)]
enum Policy {
    /// Add a rule: the first one that matches decides
    Add(PolicyAdd),
    /// All rules, in their order
    Ls(NoArguments),
    /// Remove a rule
    Rm(PolicyRm),
    /// Show what happens between networks where no rule decides, or change it
    Default(PolicyDefault),
    /// Which rule decides about a connection
    Check(PolicyCheck),
}

/// What to do: ask once, or go on asking.
enum Action {
    Ask(Request),
    WatchConnections(CtFilter),
    Apply(ApplyFile),
}

impl From<Noun> for Action {
    fn from(noun: Noun) -> Action {
        Action::Ask(match noun {
            Noun::Status(none) => Request::Status(none),
            Noun::Network(Network::Ls(none)) => Request::NetworkLs(none),
            Noun::Network(Network::Create(create)) => Request::NetworkCreate(create),
            Noun::Network(Network::Rm(rm)) => Request::NetworkRm(rm),
            Noun::Network(Network::Set(set)) => Request::NetworkSet(set),
            Noun::Network(Network::Connect(connect)) => Request::NetworkConnect(connect),
            Noun::Network(Network::Disconnect(disconnect)) => Request::NetworkDisconnect(disconnect),
            Noun::Network(Network::HostPort(host_port)) => Request::NetworkHostPort(host_port),
            Noun::Network(Network::Inspect(named)) => Request::NetworkInspect(named),
            Noun::Network(Network::Dhcp(dhcp)) => Request::NetworkDhcp(dhcp),
            Noun::Uplink(Uplink::Ls(none)) => Request::UplinkLs(none),
            Noun::Uplink(Uplink::Set(set)) => Request::UplinkSet(set),
            Noun::Dhcp(Dhcp::Leases(leases)) => Request::DhcpLeases(leases),
            Noun::Port(Port::Ls(none)) => Request::PortLs(none),
            Noun::Port(Port::Add(add)) => Request::PortAdd(add),
            Noun::Port(Port::Rm(rm)) => Request::PortRm(rm),
            Noun::Port(Port::Inspect(inspect)) => Request::PortInspect(inspect),
            Noun::Port(Port::Set(set)) => Request::PortSet(set),
            Noun::Fdb(Fdb::Show(show)) => Request::FdbShow(show),
            Noun::Fdb(Fdb::Add(add)) => Request::FdbAdd(add),
            Noun::Fdb(Fdb::Del(del)) => Request::FdbDel(del),
            Noun::Fdb(Fdb::Flush(flush)) => Request::FdbFlush(flush),
            Noun::Fdb(Fdb::Ageing(ageing)) => Request::FdbAgeing(ageing),
            Noun::Neigh(Neigh::Show(none)) => Request::NeighShow(none),
            Noun::Ct(Ct::Watch(filter)) => return Action::WatchConnections(filter),
            Noun::Ct(Ct::Ls(filter)) => Request::CtLs(filter),
            Noun::Ct(Ct::Stats(none)) => Request::CtStats(none),
            Noun::Ct(Ct::Flush(filter)) => Request::CtFlush(filter),
            Noun::Ct(Ct::Timeouts(timeouts)) => Request::CtTimeouts(timeouts),
            Noun::Publish(Publish::Add(add)) => Request::PublishAdd(add),
            Noun::Publish(Publish::Ls(none)) => Request::PublishLs(none),
            Noun::Publish(Publish::Rm(rm)) => Request::PublishRm(rm),
            Noun::Policy(Policy::Add(add)) => Request::PolicyAdd(add),
            Noun::Policy(Policy::Ls(none)) => Request::PolicyLs(none),
            Noun::Policy(Policy::Rm(rm)) => Request::PolicyRm(rm),
            Noun::Policy(Policy::Default(default)) => Request::PolicyDefault(default),
            Noun::Policy(Policy::Check(check)) => Request::PolicyCheck(check),
            Noun::Drops(drops) => Request::Drops(drops),
            Noun::Stats(none) => Request::Stats(none),
            Noun::Apply(file) => return Action::Apply(file),
            Noun::Dump(none) => Request::Dump(none),
        })
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&error),
    }
}

fn run(arguments: Arguments) -> Result<(), Error> {
    let client = Client::new(&arguments.socket.unwrap_or_else(socket::client_path))?;
    let mut out = io::stdout().lock();
    let printed = match arguments.noun.into() {
        Action::Ask(request) => out.write_all(answer(&client, &request, arguments.output)?.as_bytes()),
        Action::WatchConnections(filter) => {
            return watch::connections(&client, filter, arguments.output, &mut out);
        }
        Action::Apply(file) => out.write_all(apply(&client, &file, arguments.output)?.as_bytes()),
    };
    printed.and_then(|()| out.flush()).or_else(|error| unless_closed(&error))
}

fn answer(client: &Client, request: &Request, output: Output) -> Result<String, Error> {
    if output != Output::Json {
        return render::table(client, request, output == Output::Wide);
    }
    let answer: serde_json::Value = client.call(request)?;
    Ok(format!("{answer:#}\n"))
}

/// Applies a file. Everything that is wrong with it is an error on a line of its own.
fn apply(client: &Client, file: &ApplyFile, output: Output) -> Result<String, Error> {
    let is_stdin = file.file.as_os_str() == "-";
    let text = if is_stdin { io::read_to_string(io::stdin()) } else { fs::read_to_string(&file.file) };
    let name = if is_stdin { "standard input".into() } else { file.file.display().to_string() };
    let text = text.map_err(|error| Error::failed(&name, error, "give a readable file"))?;
    let applied: Applied = client.call(&Request::Apply(Apply { text, dry_run: file.dry_run }))?;
    applied.check(&name, |error| eprintln!("error: {error}"))?;
    if output == Output::Json {
        return serde_json::to_string_pretty(&applied)
            .map(|json| json + "\n")
            .map_err(|error| Error::failed("answer", error, "report this"));
    }
    Ok(applied.changes.iter().map(|change| format!("{change}\n")).collect())
}

/// Whoever reads us may stop reading (`| head`): that is no error.
fn unless_closed(error: &io::Error) -> Result<(), Error> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(Error::failed("standard output", error, "is the disk full?"))
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
    fn every_request_can_be_asked_for() {
        for (noun, verb) in Request::ALL {
            let root = Arguments::command();
            let found = root.find_subcommand(noun).unwrap_or_else(|| panic!("{noun}"));
            assert!(verb.is_empty() || found.find_subcommand(verb).is_some(), "{noun} {verb}");
        }
    }

    #[test]
    fn lines_become_requests() {
        let line = "vswitchctl port add web --netns red --ip 172.30.0.9 -o json --socket /tmp/s";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(arguments.output, Output::Json);
        let Action::Ask(Request::PortAdd(add)) = arguments.noun.into() else { panic!() };
        assert_eq!((add.name.as_str(), add.netns.unwrap().as_str()), ("web", "red"));
        for wrong in [
            "vswitchctl port add web",
            "vswitchctl port add web --netns a --tap b",
            "vswitchctl port add web --tap b --ifname eth1",
            "vswitchctl port set web",
            "vswitchctl fdb add 02:00:00:00:00:01",
            "vswitchctl drops --since x",
        ] {
            assert!(Arguments::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
