//! Ports of the gateways that connections of their own use, so that the pipeline knows what is for them.
//!
//! A bit for each port and protocol, read without a lock for packets to a gateway's address and for no others. A port
//! number is used on one network at a time: on the others, what is sent to it is answered by a stack that has no such
//! connection.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use crate::addr::Protocol;

/// Ports for connections that the gateway makes (RFC 6335 6: dynamic ports).
const DYNAMIC: RangeInclusive<u16> = 49_152..=65_535;

/// Ports in one word.
const WORD: u16 = 64;

/// The ports of each protocol that are in use.
#[derive(Debug)]
pub struct OpenPorts {
    tcp: Box<[AtomicU64]>,
    udp: Box<[AtomicU64]>,
}

impl OpenPorts {
    /// Whether a port is in use.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.word(protocol, port).is_some_and(|word| word.load(Acquire) & bit(port) != 0)
    }

    /// Takes a port that is free: the first one from a place on that `random` says.
    pub fn open(self: &Arc<Self>, protocol: Protocol, random: u16) -> Option<OpenPort> {
        let count = DYNAMIC.end() - DYNAMIC.start() + 1;
        let first = random % count;
        let number = (first..count).chain(0..first).map(|offset| DYNAMIC.start() + offset).find(|&port| {
            let word = self.word(protocol, port);
            word.is_some_and(|word| word.fetch_or(bit(port), AcqRel) & bit(port) == 0)
        })?;
        Some(OpenPort { ports: self.clone(), protocol, number })
    }

    fn word(&self, protocol: Protocol, port: u16) -> Option<&AtomicU64> {
        let words = match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            Protocol::Icmp => return None,
        };
        words.get(usize::from(port / WORD))
    }
}

impl Default for OpenPorts {
    fn default() -> Self {
        let none = || (0..=u16::MAX / WORD).map(|_| AtomicU64::new(0)).collect();
        OpenPorts { tcp: none(), udp: none() }
    }
}

const fn bit(port: u16) -> u64 {
    1 << (port % WORD)
}

/// A port in use; free again when it is dropped.
#[derive(Debug)]
pub struct OpenPort {
    ports: Arc<OpenPorts>,
    protocol: Protocol,
    number: u16,
}

impl OpenPort {
    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        if let Some(word) = self.ports.word(self.protocol, self.number) {
            word.fetch_and(!bit(self.number), AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_dealt_once_until_it_is_given_back() {
        let ports = Arc::new(OpenPorts::default());
        let first = ports.open(Protocol::Tcp, 7).unwrap();
        let second = ports.open(Protocol::Tcp, 7).unwrap();
        assert_eq!((first.number(), second.number()), (49_159, 49_160));
        assert!(ports.contains(Protocol::Tcp, 49_159) && !ports.contains(Protocol::Udp, 49_159));
        drop(first);
        assert!(!ports.contains(Protocol::Tcp, 49_159));
        let all: Vec<_> = std::iter::from_fn(|| ports.open(Protocol::Tcp, u16::MAX)).collect();
        assert_eq!(all.len(), 16_383, "all but the one that is still held");
    }
}
