//! What a stage of the laboratory acts on: the rig, the switch in it, and containers by name.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::rig::Rig;
use super::switch::Switch;
use super::traffic::{self, PATIENCE};
use crate::addr::MacAddr;
use crate::control::request::Request;
use crate::control::response::{DropInfo, NetworkInfo, PortInfo, PortStats, Stats};
use crate::daemon;
use crate::host::netns::Netns;
use crate::worker::now;

/// Why a check failed.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// A namespace that is or was attached to the switch.
pub(super) struct Container {
    pub(super) netns: Netns,
    pub(super) port: PortInfo,
    pub(super) ip: Ipv4Addr,
    pub(super) mac: MacAddr,
}

/// The world of a stage.
pub(super) struct Lab {
    pub(super) rig: Rig,
    pub(super) switch: Switch,
    containers: BTreeMap<&'static str, Container>,
}

impl Lab {
    /// Makes the rig and starts the switch, on the network "default" alone.
    pub(super) fn start() -> Result<Lab, Failure> {
        let lab = Lab::start_as("--uplink eth0", |_| {})?;
        if let Some(reason) = &lab.switch.no_guard {
            tell(format_args!("no guard on the uplink: {reason}"));
            tell(format_args!("so the switch uses an address of its own on it, {}", lab.switch.uplink));
        }
        Ok(lab)
    }

    /// Makes the rig and starts the switch as it is with these `words` on the command line.
    pub(super) fn start_as(words: &str, change: impl FnOnce(&mut daemon::Options)) -> Result<Lab, Failure> {
        let rig = Rig::new()?;
        tell(format_args!("$ vswitchd {words}"));
        let switch = Switch::start(&rig, change)?;
        Ok(Lab { rig, switch, containers: BTreeMap::new() })
    }

    /// Tells and does what `vswitchctl` does with these words.
    pub(super) fn ctl<T: DeserializeOwned>(&self, line: &str) -> Result<T, Failure> {
        tell(format_args!("$ vswitchctl {line}"));
        self.ask(line)
    }

    /// Does what `vswitchctl` does with these words, and says nothing.
    pub(super) fn ask<T: DeserializeOwned>(&self, line: &str) -> Result<T, Failure> {
        Ok(self.switch.ask(&Request::from_line(line)?)?)
    }

    /// Tells how often a port's frames were dropped for a reason, which is to be so often at least. What was sent
    /// just now may still be on its way.
    pub(super) fn dropped(&self, port: &str, reason: &str, least: u64) -> Result<(), Failure> {
        let begun = now();
        loop {
            let drops: Vec<DropInfo> = self.ask(&format!("drops --port {port}"))?;
            let seen = drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.count).sum::<u64>();
            if seen >= least {
                tell(format_args!("$ vswitchctl drops --port {port}: {reason} {seen}"));
                return Ok(());
            }
            if now().since(begun) > PATIENCE {
                return Err(format!("{seen} {reason} and not {least}: {drops:?}").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Makes a namespace and attaches it to a network; `more` are further options of `port add`.
    pub(super) fn attach(&mut self, name: &'static str, network: &str, more: &str) -> Result<(), Failure> {
        let netns = self.rig.container(name)?;
        let path = netns.path();
        let line = format!("port add {name} --network {network} --netns {} {more}", path.display());
        let port: PortInfo = self.ctl(line.trim())?;
        let ip = port.ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mac = port.mac.ok_or_else(|| format!("{name} has no MAC address"))?;
        self.containers.insert(name, Container { netns, port, ip, mac });
        Ok(())
    }

    /// A container that was attached.
    pub(super) fn container(&self, name: &str) -> Result<&Container, Failure> {
        Ok(self.containers.get(name).ok_or_else(|| format!("there is no container {name}"))?)
    }

    /// Namespaces of all containers.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        self.containers.values().map(|container| &container.netns)
    }

    /// A network of the switch.
    pub(super) fn network(&self, name: &str) -> Result<NetworkInfo, Failure> {
        let networks: Vec<NetworkInfo> = self.ask("network ls")?;
        let found = networks.into_iter().find(|network| network.name == name);
        Ok(found.ok_or_else(|| format!("there is no network {name}"))?)
    }

    /// The addresses of a network's gateway.
    pub(super) fn gateway(&self, network: &str) -> Result<(MacAddr, Ipv4Addr), Failure> {
        let NetworkInfo { gateway, gateway_mac, .. } = self.network(network)?;
        Ok(gateway_mac.zip(gateway).ok_or_else(|| format!("{network} has no gateway"))?)
    }

    /// Counters of a port.
    pub(super) fn counters(&self, port: &str) -> Result<PortStats, Failure> {
        let stats: Stats = self.ask("stats")?;
        let found = stats.ports.into_iter().find(|stats| stats.name == port);
        Ok(found.ok_or_else(|| format!("no counters of {port}"))?)
    }

    /// The parts of the world, for cleaning up and looking at what is left.
    pub(super) fn take_apart(self) -> (Rig, Switch, Vec<Container>) {
        (self.rig, self.switch, self.containers.into_values().collect())
    }
}

/// Prints a line of the story.
pub(super) fn tell(what: impl std::fmt::Display) {
    println!("  {what}");
}

/// Fails unless the condition holds.
pub(super) fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}

/// `from` pings `to`, and must get an answer.
pub(super) fn reaches(from: &Container, to: Ipv4Addr) -> Result<(), Failure> {
    let name = &from.port.name;
    let time = traffic::ping(&from.netns, to, PATIENCE)?;
    let time = time.ok_or_else(|| format!("{to} does not answer {name}"))?;
    tell(format_args!("{name} pings {to}: {} us", time.as_micros()));
    Ok(())
}
