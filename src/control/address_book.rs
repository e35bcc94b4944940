//! The address book: which address, MAC address and subnet a name had, so that it gets them again.
//!
//! It knows names that are here and names that are not, and outlives the process as the document `addresses`. An
//! address that is kept for one name is given to another one only if nothing else is free. A network that is removed
//! takes its page along.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::name::Name;
use crate::addr::MacAddr;
use crate::limits::REMEMBERED_PORTS;

/// The name of the document.
pub(super) const DOCUMENT: &str = "addresses";

/// What a port had on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Kept {
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) mac: Option<MacAddr>,
    /// Grows with every entry that is made or used.
    used: u64,
}

/// The address book.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Document", into = "Document")]
pub(super) struct AddressBook {
    /// Subnets that were chosen for networks.
    subnets: BTreeMap<Name, Ipv4Net>,
    /// By network and port.
    ports: BTreeMap<(Name, Name), Kept>,
    uses: u64,
    /// Whether something has changed that is to be stored.
    is_news: bool,
}

impl AddressBook {
    /// The subnet that was chosen for a network.
    pub(super) fn subnet(&self, network: &Name) -> Option<Ipv4Net> {
        self.subnets.get(network).copied()
    }

    /// Notes the subnet that was chosen for a network.
    pub(super) fn keep_subnet(&mut self, network: &Name, subnet: Ipv4Net) {
        self.subnets.insert(network.clone(), subnet);
        self.is_news = true;
    }

    /// What a port had on a network.
    pub(super) fn kept(&self, network: &Name, port: &Name) -> Kept {
        self.ports.get(&(network.clone(), port.clone())).copied().unwrap_or_default()
    }

    /// The addresses that are kept on a network for others than `port`, the longest unused first.
    pub(super) fn kept_for_others(&self, network: &Name, port: &Name) -> Vec<Ipv4Addr> {
        let others = self.ports.iter().filter(|((on, name), _)| on == network && name != port);
        let mut kept: Vec<_> = others.filter_map(|(_, kept)| Some((kept.used, kept.ip?))).collect();
        kept.sort_unstable();
        kept.into_iter().map(|(_, ip)| ip).collect()
    }

    /// Notes what a port has on a network. Whoever had the address before has it no longer. At the bound, the
    /// longest unused entry makes room.
    pub(super) fn keep(&mut self, network: &Name, port: &Name, ip: Option<Ipv4Addr>, mac: Option<MacAddr>) {
        (self.uses, self.is_news) = (self.uses + 1, true);
        self.ports.retain(|(on, name), kept| on != network || name == port || ip.is_none() || kept.ip != ip);
        self.ports.insert((network.clone(), port.clone()), Kept { ip, mac, used: self.uses });
        if self.ports.len() > REMEMBERED_PORTS {
            let oldest = self.ports.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            oldest.map(|key| self.ports.remove(&key));
        }
    }

    /// Forgets a network and all that was on it.
    pub(super) fn forget(&mut self, network: &Name) {
        self.subnets.remove(network);
        self.ports.retain(|(on, _), _| on != network);
        self.is_news = true;
    }

    /// Whether something has changed since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }
}

/// The book as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    networks: Vec<NetworkEntry>,
    /// The longest unused first.
    ports: Vec<PortEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NetworkEntry {
    name: Name,
    subnet: Ipv4Net,
}

#[derive(Debug, Serialize, Deserialize)]
struct PortEntry {
    network: Name,
    port: Name,
    ip: Option<Ipv4Addr>,
    mac: Option<MacAddr>,
}

impl From<AddressBook> for Document {
    fn from(book: AddressBook) -> Document {
        let mut ports: Vec<_> = book.ports.into_iter().collect();
        ports.sort_by_key(|(_, kept)| kept.used);
        let port = |((network, port), Kept { ip, mac, .. })| PortEntry { network, port, ip, mac };
        let network = |(name, subnet)| NetworkEntry { name, subnet };
        Document {
            networks: book.subnets.into_iter().map(network).collect(),
            ports: ports.into_iter().map(port).collect(),
        }
    }
}

impl From<Document> for AddressBook {
    fn from(document: Document) -> AddressBook {
        let subnets = document.networks.into_iter().map(|entry| (entry.name, entry.subnet)).collect();
        let mut book = AddressBook { subnets, ..AddressBook::default() };
        for PortEntry { network, port, ip, mac } in
            document.ports.into_iter().rev().take(REMEMBERED_PORTS).rev()
        {
            book.uses += 1;
            book.ports.insert((network, port), Kept { ip, mac, used: book.uses });
        }
        book
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn ip(host: u8) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(10, 1, 0, host))
    }

    #[test]
    fn a_name_keeps_what_it_had_until_somebody_else_gets_it() {
        let (lan, web, db) = (name("lan"), name("web"), name("db"));
        let mut book = AddressBook::default();
        book.keep(&lan, &web, ip(2), Some(MacAddr([2, 0, 0, 0, 0, 1])));
        book.keep(&lan, &db, ip(3), None);
        book.keep(&name("dmz"), &db, ip(2), None);
        assert_eq!(book.kept(&lan, &web).ip, ip(2));
        assert_eq!(book.kept_for_others(&lan, &db), [ip(2).unwrap()]);
        book.keep_subnet(&lan, "10.1.0.0/24".parse().unwrap());
        assert!(book.take_news() && !book.take_news());
        let json = serde_json::to_string(&book).unwrap();
        let read: AddressBook = serde_json::from_str(&json).unwrap();
        assert_eq!(read, book, "{json}");
        book.keep(&lan, &db, ip(2), None);
        assert_eq!((book.kept(&lan, &web), book.kept(&lan, &db).ip), (Kept::default(), ip(2)));
        book.forget(&lan);
        assert_eq!((book.subnet(&lan), book.kept(&lan, &db)), (None, Kept::default()));
        assert_eq!(book.kept(&name("dmz"), &db).ip, ip(2));
    }

    #[test]
    fn at_the_bound_the_longest_unused_entry_makes_room() {
        let lan = name("lan");
        let mut book = AddressBook::default();
        let port = |number: usize| name(&format!("p{number}"));
        for number in 0..REMEMBERED_PORTS {
            book.uses += 1;
            book.ports.insert((lan.clone(), port(number)), Kept { ip: None, mac: None, used: book.uses });
        }
        book.keep(&lan, &port(0), ip(2), None);
        book.keep(&lan, &name("new"), ip(3), None);
        assert_eq!(book.ports.len(), REMEMBERED_PORTS);
        assert_eq!(book.kept(&lan, &port(0)).ip, ip(2));
        assert!(!book.ports.contains_key(&(lan, port(1))));
    }
}
