//! What the command line and the configuration file ask for: at the start, again on SIGHUP, and to be checked only.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::{NetworkSpec, Options};
use crate::addr::MacAddr;
use crate::control::apply::{Control, DEFAULT_NETWORK};
use crate::control::config::{self, Document, Wish};
use crate::control::error::Error;
use crate::control::host::{Host, UplinkFacts};
use crate::control::lan::LanFacts;
use crate::control::linux::LinuxHost;
use crate::control::memory::MemoryHost;
use crate::control::name::Name;
use crate::control::request::Request;
use crate::control::uplink_spec;
use crate::host::state::StateDir;
use crate::limits::MTU_MAX;
use crate::shared::{Conntrack, Shared};
use crate::snapshot::{NetworkMode, Snapshot};
use crate::worker::now;

/// Makes what the command line and the configuration file ask for. Where they name one network, the command line
/// counts.
pub(super) fn set_up<H: Host>(control: &mut Control<H>, options: &Options) -> Result<(), Error> {
    let networks = given_networks(options)?;
    for network in &networks {
        control.network_create(network, now())?;
    }
    let Some((path, document)) = &options.config else {
        return if networks.is_empty() { make_default_network(control) } else { Ok(()) };
    };
    let document = with_networks(document.clone(), &networks);
    if !document.wishes.iter().any(|wish| matches!(wish.request, Request::NetworkCreate(_))) {
        make_default_network(control)?;
    }
    let applied = control.fulfil(document, false, now())?;
    applied.check(&path.display().to_string(), |error| eprintln!("error: {error}"))
}

/// Tries the options on a switch in memory, whose host has every namespace and interface that they name.
///
/// # Errors
/// Why the switch would not start.
pub fn check(options: &Options) -> Result<(), Error> {
    let conntrack = Conntrack::new(1, options.nat_ports.clone(), 1);
    let shared = Arc::new(Shared::new(1, Snapshot::new(), conntrack));
    let wishes = options.config.iter().flat_map(|(_, document)| &document.wishes);
    let listens = wishes
        .filter_map(|wish| if let Request::PublishAdd(add) = &wish.request { add.spec.ip } else { None });
    let addresses: Vec<_> = listens.map(Ipv4Net::from).collect();
    let facts = |index| UplinkFacts {
        index,
        mac: MacAddr::ZERO,
        mtu: MTU_MAX,
        up: true,
        host_addresses: addresses.iter().map(Ipv4Net::addr).collect(),
        // What is published on an address is on the first one.
        addresses: if index == 1 { addresses.clone() } else { Vec::new() },
        routes: Vec::new(),
    };
    let any_lan = Some(any_lan(options));
    let uplinks = uplink_spec::all(&options.uplinks, &options.nat_ports)?;
    let interfaces = uplinks.iter().zip(1..).map(|(uplink, index)| (uplink.name.clone(), facts(index)));
    let host =
        MemoryHost { is_obliging: true, uplinks: interfaces.collect(), any_lan, ..MemoryHost::default() };
    let mut control = Control::new(shared, host, StateDir::none());
    for uplink in uplinks {
        control.open_uplink(uplink, now())?;
    }
    set_up(&mut control, options)
}

/// An interface with a LAN on which the ports can be that have an address by hand.
fn any_lan(options: &Options) -> LanFacts {
    let wishes =
        || options.config.iter().flat_map(|(_, document)| &document.wishes).map(|wish| &wish.request);
    let is_lan = |name: &str| {
        let is_it = |request: &Request| matches!(request, Request::NetworkCreate(it) if it.name.as_str() == name && it.mode == Some(NetworkMode::Bridge));
        (name == DEFAULT_NETWORK && options.bridged.is_some()) || wishes().any(is_it)
    };
    let mut addresses = wishes().filter_map(|request| {
        let Request::PortAdd(add) = request else { return None };
        add.ip.filter(|_| is_lan(add.network.as_ref().map_or(DEFAULT_NETWORK, Name::as_str)))
    });
    // Else one that no network should have (RFC 2544).
    let ip = addresses.next().unwrap_or(Ipv4Addr::new(198, 18, 0, 1));
    // The host itself has none of the addresses that a port could have.
    let address = Ipv4Net::new(ip, 16).ok().map(|net| net.trunc());
    LanFacts { index: 1, mac: MacAddr::ZERO, mtu: MTU_MAX, up: true, address, router: None }
}

/// The networks of the command line, the one among them that `--uplink-mode bridge` means.
fn given_networks(options: &Options) -> Result<Vec<NetworkSpec>, Error> {
    let mut networks = options.networks.clone();
    let Some(ifname) = &options.bridged else { return Ok(networks) };
    let is_default = |network: &NetworkSpec| network.name.as_str() == DEFAULT_NETWORK;
    if !networks.iter().any(is_default) {
        let wishes = options.config.iter().flat_map(|(_, document)| &document.wishes);
        let mut in_file = wishes.filter_map(|wish| {
            let Request::NetworkCreate(network) = &wish.request else { return None };
            is_default(network).then(|| network.clone())
        });
        networks.push(in_file.next().map_or_else(default_network, Ok)?);
    }
    for network in networks.iter_mut().filter(|network| is_default(network)) {
        if let Some(mode) = network.mode.filter(|&mode| mode != NetworkMode::Bridge) {
            let why = format_args!(
                "--uplink-mode bridge makes it part of a LAN, and it is to be of mode {}",
                mode.as_str()
            );
            return Err(Error::usage(DEFAULT_NETWORK, why, "leave one of them out"));
        }
        network.mode = Some(NetworkMode::Bridge);
        network.uplink.get_or_insert_with(|| ifname.clone());
    }
    Ok(networks)
}

/// The file with the networks of the command line, which wins over the file's of the same name.
fn with_networks(mut document: Document, networks: &[NetworkSpec]) -> Document {
    let is_given = |name: &Name| networks.iter().any(|network| network.name == *name);
    document.wishes.retain(|wish| !matches!(&wish.request, Request::NetworkCreate(it) if is_given(&it.name)));
    let given = networks.iter().cloned().map(Request::NetworkCreate);
    document.wishes.splice(0..0, given.map(|request| Wish { line: 0, request }));
    document
}

/// Reads the configuration file again.
pub(super) fn reload(control: &mut Control<LinuxHost>, options: &Options) {
    let Some((path, before)) = &options.config else {
        return log::warn!(
            "SIGHUP: there is no configuration file to read again (start vswitchd with --config)"
        );
    };
    let applied = read_config(path).and_then(|mut document| {
        document.faults.extend(document.refuse_empty());
        let words = |document: &Document| {
            document.options.iter().map(|o| (o.name.clone(), o.value.clone())).collect::<Vec<_>>()
        };
        if words(before) != words(&document) && document.faults.is_empty() {
            log::warn!(
                "{}: its options have changed, which counts when vswitchd is restarted",
                path.display()
            );
        }
        let networks =
            given_networks(&Options { config: Some((path.clone(), document.clone())), ..options.clone() })?;
        let applied = control.fulfil(with_networks(document, &networks), false, now())?;
        applied.check(&path.display().to_string(), |error| log::error!("{error}"))?;
        Ok(applied)
    });
    match applied {
        Ok(applied) => {
            applied.changes.iter().for_each(|change| log::info!("{}: {change}", path.display()));
        }
        Err(error) => log::error!("{error}; everything stays as it was"),
    }
}

/// Reads a configuration file. What is wrong in it is in the document.
///
/// # Errors
/// `Failed` if it cannot be read.
pub(super) fn read_config(path: &Path) -> Result<Document, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::failed(path.display(), error, "give a readable file with --config"))?;
    Ok(config::read(&text))
}

fn make_default_network<H: Host>(control: &mut Control<H>) -> Result<(), Error> {
    control.network_create(&default_network()?, now()).map(drop)
}

/// The network that there is if none is asked for.
fn default_network() -> Result<NetworkSpec, Error> {
    let name = DEFAULT_NETWORK.parse()?;
    Ok(NetworkSpec { name, subnet: None, gateway: None, mode: None, mtu: None, uplink: None })
}
