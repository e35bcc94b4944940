//! The guard: hides the switch's ports on the uplinks from the host's own stack.
//!
//! In uplink mode `shared` the switch translates to the host's own address. The host's kernel sees the same
//! packets, knows no socket for them, and would answer with RST or port-unreachable. The switch reads the
//! uplink by AF_PACKET, which is served before the netdev ingress hook: so a chain on that hook may drop
//! exactly what is the switch's (address, protocol, port, or a whole network that is routed), and the switch still
//! gets its copy. ICMP to the host's own addresses stays.
//!
//! The table is called `netdev vswitchd`, and has a chain for each uplink of that mode, so that what one of them is
//! sent for the address of another is hidden as well. It is *owned* by a netlink socket (`flags owner`, Linux 5.12):
//! `nft flush ruleset` passes it by, nobody else can change it, and the kernel removes it when the socket
//! is closed, so that even a killed switch leaves nothing. The socket belongs to an `nft -i` that lives as
//! long as the guard ([`session`]). Where the flag is unknown, the table is a plain one, and [`Guard::ensure`] brings it
//! back when somebody flushed it.
//!
//! **Cost.** A change is told while a request waits for its answer. Single ports, of which there may be thousands, are
//! in sets that the kernel hashes: one more costs the same, however many there are. In a set of ranges both the kernel and
//! `nft` go through all that is there: with a thousand, that takes 10 ms. So only what is a range stands in one. And no
//! change of our own has the table listed: [`Guard::socket`] says by which netlink socket those come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use self::session::{Session, run};
use crate::addr::Protocol;
use crate::host::{ErrorKind, HostError};

mod session;

/// The table's family and name.
const TABLE: &str = "netdev vswitchd";

/// What on the uplink belongs to the switch, and not to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hidden {
    /// Ports of one address.
    Ports {
        /// TCP or UDP; ICMP is never hidden.
        protocol: Protocol,
        /// The destination address.
        address: Ipv4Addr,
        /// The destination ports.
        ports: RangeInclusive<u16>,
    },
    /// All that is for a network. A host that forwards would send it back to where it came from.
    Network(Ipv4Net),
}

impl Hidden {
    fn network(&self) -> Option<Ipv4Net> {
        match *self {
            Hidden::Network(network) => Some(network),
            Hidden::Ports { .. } => None,
        }
    }

    /// Address and ports, if they are of this protocol and there are any.
    fn ports_of(&self, wanted: Protocol) -> Option<(Ipv4Addr, &RangeInclusive<u16>)> {
        match self {
            Hidden::Ports { protocol, address, ports } if *protocol == wanted && !ports.is_empty() => {
                Some((*address, ports))
            }
            Hidden::Ports { .. } | Hidden::Network(_) => None,
        }
    }
}

/// The table in the kernel, while this value lives. It is used from threads of one namespace only.
#[derive(Debug)]
pub struct Guard {
    /// Those that are to be guarded when they exist.
    interfaces: Vec<String>,
    /// What the table holds, or shall again.
    contents: Contents,
    nft: Nft,
    /// What `nft` says of the table while all is well.
    listing: String,
}

impl Guard {
    /// Whether a guard can be set on this interface.
    ///
    /// # Errors
    /// The reason why not: no `nft`, no privilege, or a kernel without the netdev hook.
    pub fn available(ifname: &str) -> Result<(), HostError> {
        let contents = Contents::new(&[ifname.to_owned()], &[]);
        run(&["-c", "-f", "-"], &format!("add table {TABLE}; {}", contents.ruleset(""))).map(drop)
    }

    /// Sets the guard up: hides `hidden` on those of the interfaces that exist. A table that a killed switch left is
    /// removed first.
    ///
    /// # Errors
    /// As [`Guard::available`]; `Exists` if another process owns the table; if none of the interfaces exists.
    pub fn install(interfaces: &[String], hidden: &[Hidden]) -> Result<Guard, HostError> {
        let contents = Contents::new(interfaces, hidden);
        let nft = Nft::start(&contents)?;
        let listing = nft.listing(&contents)?;
        Ok(Guard { interfaces: interfaces.to_vec(), contents, nft, listing })
    }

    /// Hides `hidden` instead, on those of these interfaces that exist, in one transaction: no packet sees a state
    /// between.
    ///
    /// # Errors
    /// If `nft` refuses; the guard is then what it was, unless `nft` refuses everything.
    pub fn update(&mut self, interfaces: &[String], hidden: &[Hidden]) -> Result<(), HostError> {
        self.interfaces = interfaces.to_vec();
        self.change(Contents::new(interfaces, hidden))
    }

    fn change(&mut self, after: Contents) -> Result<(), HostError> {
        if after == self.contents && self.nft.is_alive() {
            return Ok(());
        }
        let has_other_chains = after.chains != self.contents.chains;
        let before = std::mem::replace(&mut self.contents, after);
        let done = match self.nft.transact(&before.change_to(&self.contents)) {
            // Its listing has no elements.
            Ok(()) if self.owner().is_some() && !has_other_chains => Ok(()),
            Ok(()) => self.nft.listing(&self.contents).map(|listing| self.listing = listing),
            Err(_) => self.reinstall(),
        };
        if done.is_err() {
            self.contents = before;
            if let Err(error) = self.reinstall() {
                log::warn!("nothing is hidden from the host until nft works again: {error}");
            }
        }
        done
    }

    /// Puts the table back if it is gone or was changed, and tells whether that was so. To be called when
    /// the ruleset changed ([`crate::host::watch`]). Where an interface has come or gone, only its chain does.
    ///
    /// # Errors
    /// If it cannot be put back.
    pub fn ensure(&mut self) -> Result<bool, HostError> {
        let chains = chains(&self.interfaces);
        if self.owner().is_some() && self.nft.is_alive() && chains != self.contents.chains {
            let is_back = chains.difference(&self.contents.chains).next().is_some();
            return self.change(Contents { chains, ..self.contents.clone() }).map(|()| is_back);
        }
        if self.nft.is_alive() && self.nft.listing(&self.contents).is_ok_and(|now| now == self.listing) {
            return Ok(false);
        }
        self.contents.chains = chains;
        self.reinstall()?;
        Ok(true)
    }

    /// The process that owns the table and makes it safe from `nft flush ruleset`, where tables can be owned.
    pub fn owner(&self) -> Option<u32> {
        self.session().map(Session::process)
    }

    /// The number of the netlink socket by which the owner changes the table, if it is known. What changes by another one,
    /// or by the kernel itself, is not ours.
    pub fn socket(&self) -> Option<u32> {
        self.session().and_then(Session::socket)
    }

    /// Whether somebody has ended the process that owns the table, and with it the table, of which the kernel does not tell.
    /// Then [`Guard::ensure`] is to be called.
    pub fn has_lost_owner(&mut self) -> bool {
        matches!(self.nft, Nft::Owner(_)) && !self.nft.is_alive()
    }

    fn session(&self) -> Option<&Session> {
        match &self.nft {
            Nft::Owner(session) => Some(session),
            Nft::Plain | Nft::None => None,
        }
    }

    fn reinstall(&mut self) -> Result<(), HostError> {
        self.nft.end();
        self.nft = Nft::start(&self.contents)?;
        self.listing = self.nft.listing(&self.contents)?;
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.nft.end();
    }
}

/// How transactions reach the kernel.
#[derive(Debug)]
enum Nft {
    /// By the process that owns the table.
    Owner(Session),
    /// By one process each; the table belongs to nobody.
    Plain,
    /// Not at all: there is no table.
    None,
}

impl Nft {
    /// Makes the table anew.
    fn start(contents: &Contents) -> Result<Nft, HostError> {
        let remove = format!("add table {TABLE}\ndelete table {TABLE}\n");
        run(&["-f", "-"], &remove).map_err(|error| match error.kind {
            // The netlink socket may do everything else (`list` works): somebody owns the table.
            ErrorKind::Permission if run(&["list", "tables"], "").is_ok() => {
                HostError::new(ErrorKind::Exists, format!("nft table {TABLE}"), "another process owns it")
                    .hint("stop the other vswitchd, see `ps -C vswitchd,nft`")
            }
            ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Permission | ErrorKind::Other => error,
        })?;
        let owned = Session::start().and_then(|mut session| {
            session.transact(&contents.ruleset("flags owner;"))?;
            Ok(session)
        });
        match owned {
            Ok(session) => Ok(Nft::Owner(session)),
            Err(error) => {
                log::info!("nft table {TABLE} cannot be owned, so a flush removes it for a moment: {error}");
                run(&["-f", "-"], &contents.ruleset(""))?;
                Ok(Nft::Plain)
            }
        }
    }

    fn transact(&mut self, commands: &str) -> Result<(), HostError> {
        match self {
            Nft::Owner(session) => session.transact(commands),
            Nft::Plain => run(&["-f", "-"], commands).map(drop),
            Nft::None => Err(no_table()),
        }
    }

    /// What may change of the table without us: of one that is owned, only the chains, which go with their interfaces.
    fn listing(&self, contents: &Contents) -> Result<String, HostError> {
        match self {
            Nft::Owner(_) => contents
                .chains
                .iter()
                .map(|chain| run(&["list", "chain", "netdev", "vswitchd", &chain.name], ""))
                .collect(),
            Nft::Plain => run(&["list", "table", "netdev", "vswitchd"], ""),
            Nft::None => Err(no_table()),
        }
    }

    fn is_alive(&mut self) -> bool {
        match self {
            Nft::Owner(session) => session.is_alive(),
            Nft::Plain => true,
            Nft::None => false,
        }
    }

    /// Removes the table, as far as it is there.
    fn end(&mut self) {
        // An error means that it is gone already, or goes with its owner, who ends when it is dropped.
        let _ = self.transact(&format!("delete table {TABLE}"));
        *self = Nft::None;
    }
}

/// A chain of the table, on one interface. The kernel removes it with that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    name: String,
    ifname: String,
    /// Another one means another interface of the same name.
    ifindex: u32,
}

impl Chain {
    /// The chain with its rules. A rule names no address, so that a change of address changes elements only.
    fn commands(&self) -> String {
        let Chain { name, ifname, .. } = self;
        let hook = format!("type filter hook ingress device \"{ifname}\" priority -500;");
        let rule = |rule: &str| format!("add rule {TABLE} {name} {rule} drop; ");
        let ports = |(protocol, set)| rule(&format!("ip daddr . {protocol} dport @{set}"));
        let ports = [TCP, UDP].map(|sets| [sets.single, sets.ranges].map(|set| ports((sets.protocol, set))));
        let rules = ports.concat().concat() + &rule("ip daddr @routed");
        format!("add chain {TABLE} {name} {{ {hook} }}; {rules}")
    }

    /// Removes the chain, whether or not it is still there.
    fn removal(&self) -> String {
        let chain = format!("{TABLE} {}", self.name);
        format!("add chain {chain}; flush chain {chain}; delete chain {chain}; ")
    }
}

/// The chains for those of the interfaces that exist. Where none does, those of all, which the kernel then refuses.
fn chains(interfaces: &[String]) -> BTreeSet<Chain> {
    let chain = |(ifname, number): (&String, usize)| {
        let name = if number == 1 { "ingress".to_owned() } else { format!("ingress{number}") };
        let ifindex = nix::net::if_::if_nametoindex(ifname.as_str()).unwrap_or(0);
        Chain { name, ifname: ifname.clone(), ifindex }
    };
    let mut chains: BTreeSet<_> = interfaces.iter().zip(1..).map(chain).collect();
    if chains.iter().any(|chain| chain.ifindex > 0) {
        chains.retain(|chain| chain.ifindex > 0);
    }
    chains
}

/// What the table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    chains: BTreeSet<Chain>,
    elements: Elements,
}

impl Contents {
    fn new(interfaces: &[String], hidden: &[Hidden]) -> Contents {
        Contents { chains: chains(interfaces), elements: elements(hidden) }
    }

    /// The whole table in one line.
    fn ruleset(&self, flags: &str) -> String {
        let (single, ranges) =
            ("type ipv4_addr . inet_service;", "type ipv4_addr . inet_service; flags interval;");
        let sets = |sets: PortSets| {
            format!("set {} {{ {single} }}; set {} {{ {ranges} }}; ", sets.single, sets.ranges)
        };
        let sets = [TCP, UDP].map(sets).concat();
        let chains: String = self.chains.iter().map(Chain::commands).collect();
        format!(
            "add table {TABLE} {{ {flags} {sets}set routed {{ type ipv4_addr; flags interval; }}; }}; {chains}{}",
            commands("add", &self.elements)
        )
    }

    /// The commands that make this to `after`.
    fn change_to(&self, after: &Contents) -> String {
        let removed = self.chains.difference(&after.chains).map(Chain::removal);
        let added = after.chains.difference(&self.chains).map(Chain::commands);
        let chains: String = removed.chain(added).collect();
        chains
            + &commands("delete", self.elements.difference(&after.elements))
            + &commands("add", after.elements.difference(&self.elements))
    }
}

/// The sets with the ports of a protocol.
#[derive(Debug, Clone, Copy)]
struct PortSets {
    /// As `nft` calls it.
    protocol: &'static str,
    /// What is hidden as a single port. It may be in a range as well.
    single: &'static str,
    ranges: &'static str,
}

const TCP: PortSets = PortSets { protocol: "tcp", single: "tcp_ports", ranges: "nat_tcp" };
const UDP: PortSets = PortSets { protocol: "udp", single: "udp_ports", ranges: "nat_udp" };

/// The elements of the sets, each with its set's name.
type Elements = BTreeSet<(&'static str, String)>;

fn elements(hidden: &[Hidden]) -> Elements {
    let networks = hidden.iter().filter_map(Hidden::network).map(|network| ("routed", network.to_string()));
    let mut elements: Elements = networks.collect();
    for (protocol, sets) in [(Protocol::Tcp, TCP), (Protocol::Udp, UDP)] {
        let (single, ranges): (Vec<_>, Vec<_>) = hidden
            .iter()
            .filter_map(|hidden| hidden.ports_of(protocol))
            .partition(|(_, ports)| ports.len() == 1);
        let single = single.into_iter().map(|(address, ports)| format!("{address} . {}", ports.start()));
        elements.extend(single.map(|element| (sets.single, element)));
        let ranges = merged(ranges).into_iter();
        elements.extend(
            ranges.map(|(address, first, last)| (sets.ranges, format!("{address} . {first}-{last}"))),
        );
    }
    elements
}

/// The commands that add or delete elements.
fn commands<'a>(verb: &str, elements: impl IntoIterator<Item = &'a (&'static str, String)>) -> String {
    let mut by_set: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (set, element) in elements {
        by_set.entry(set).or_default().push(element);
    }
    let command = |(set, elements): (&str, Vec<&str>)| {
        format!("{verb} element {TABLE} {set} {{ {} }}; ", elements.join(", "))
    };
    by_set.into_iter().map(command).collect()
}

/// Ranges of ports in order, none touching another: `nft` refuses overlapping elements.
fn merged(ranges: Vec<(Ipv4Addr, &RangeInclusive<u16>)>) -> Vec<(Ipv4Addr, u16, u16)> {
    let mut sorted: BTreeMap<(Ipv4Addr, u16), u16> = BTreeMap::new();
    for (address, ports) in ranges {
        let last = sorted.entry((address, *ports.start())).or_default();
        *last = (*last).max(*ports.end());
    }
    let mut merged: Vec<(Ipv4Addr, u16, u16)> = Vec::new();
    for ((address, first), last) in sorted {
        match merged.last_mut() {
            Some(before) if before.0 == address && first <= before.2.saturating_add(1) => {
                before.2 = before.2.max(last);
            }
            _ => merged.push((address, first, last)),
        }
    }
    merged
}

fn no_table() -> HostError {
    HostError::new(ErrorKind::Other, format!("nft table {TABLE}"), "is not there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(protocol: Protocol, last_byte: u8, ports: RangeInclusive<u16>) -> Hidden {
        Hidden::Ports { protocol, address: Ipv4Addr::new(192, 0, 2, last_byte), ports }
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let all = [
            hidden(Protocol::Tcp, 1, 61000..=65535),
            hidden(Protocol::Tcp, 1, 62000..=62001),
            hidden(Protocol::Tcp, 1, 80..=81),
            hidden(Protocol::Tcp, 1, 82..=90),
            hidden(Protocol::Tcp, 2, 85..=86),
        ];
        let added = "add element netdev vswitchd nat_tcp { 192.0.2.1 . 61000-65535, 192.0.2.1 . 80-90, \
                     192.0.2.2 . 85-86 }; ";
        assert_eq!(commands("add", &elements(&all)), added);
    }

    #[test]
    fn a_single_port_is_in_no_range() {
        let added = |hidden: &[Hidden]| commands("add", &elements(hidden));
        let two = [hidden(Protocol::Udp, 1, 53..=53), hidden(Protocol::Udp, 1, 54..=54)];
        let both = "add element netdev vswitchd udp_ports { 192.0.2.1 . 53, 192.0.2.1 . 54 }; ";
        assert_eq!(added(&two), both);
        let [one, other] =
            [&two[..1], &two].map(|hidden| Contents { chains: BTreeSet::new(), elements: elements(hidden) });
        assert_eq!(other.change_to(&one), "delete element netdev vswitchd udp_ports { 192.0.2.1 . 54 }; ");
        assert_eq!(added(&[]), "");
        let network = Hidden::Network("10.8.0.0/24".parse().unwrap());
        assert_eq!(added(&[network]), "add element netdev vswitchd routed { 10.8.0.0/24 }; ");
    }
}
