//! What is published where: the grammar of Docker's `-p`.
//!
//! ```text
//! publication = listen ":" ports [ "/" protocol ]      8080:80   10.0.0.1:5000-5009:5000-5009/udp
//! listen      = [ ip ":" ] ports
//! ports       = port [ "-" port ]
//! protocol    = "tcp" | "udp"                          tcp unless said
//! ```
//!
//! Both ranges have the same length, and their ports correspond one to one. The address `0.0.0.0` is the
//! same as none: every address of the uplink.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::Error;
use crate::addr::Protocol;

const GRAMMAR: &str = "write [IP:]HOSTPORT[-END]:PORT[-END][/tcp|udp]";

/// Where a publication listens: protocol, address and ports on the uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address of the uplink; `None` for every one.
    pub ip: Option<Ipv4Addr>,
    /// The external ports; never empty, never 0.
    pub ports: RangeInclusive<u16>,
}

impl Listen {
    /// Whether a packet could be for both.
    pub fn overlaps(&self, other: &Listen) -> bool {
        let same_ip = self.ip.is_none() || other.ip.is_none() || self.ip == other.ip;
        let ports_meet = self.ports.start() <= other.ports.end() && other.ports.start() <= self.ports.end();
        self.protocol == other.protocol && same_ip && ports_meet
    }
}

/// A publication: where it listens, and at which ports of the container it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishSpec {
    /// Where it listens.
    pub listen: Listen,
    /// The container's port for the first external port; the others follow.
    pub target_first: u16,
}

impl PublishSpec {
    /// The external ports, each with the container's port it leads to.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> {
        self.listen.ports.clone().zip(self.target_first..=u16::MAX)
    }
}

/// What `publish rm` takes: a publication as it was added, or only where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpublish {
    /// Where it listens.
    pub listen: Listen,
    /// The container's first port, if it was said.
    pub target_first: Option<u16>,
}

impl FromStr for Unpublish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (ports, protocol) = split_protocol(text)?;
        let mut fields: Vec<&str> = ports.split(':').collect();
        let ip = match fields.first() {
            Some(first) if first.contains('.') => Some(parse_ip(text, fields.remove(0))?),
            _ => None,
        };
        let (host, target) = match fields[..] {
            [host] => (host, None),
            [host, target] => (host, Some(target)),
            _ => return Err(wrong(text, "too many fields")),
        };
        let ports = parse_range(text, host)?;
        let target = target.map(|target| parse_range(text, target)).transpose()?;
        if target.as_ref().is_some_and(|target| target.len() != ports.len()) {
            return Err(Error::usage(
                text,
                "the two port ranges differ in length",
                "give as many container ports as host ports",
            ));
        }
        let ip = ip.filter(|ip| !ip.is_unspecified());
        let target_first = target.map(|target| *target.start());
        Ok(Unpublish { listen: Listen { protocol, ip, ports }, target_first })
    }
}

impl FromStr for PublishSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let Unpublish { listen, target_first } = text.parse()?;
        let Some(target_first) = target_first else {
            return Err(wrong(text, "only one port given, but a host's and a container's are needed"));
        };
        Ok(PublishSpec { listen, target_first })
    }
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), Error> {
    let Some((ports, protocol)) = text.split_once('/') else { return Ok((text, Protocol::Tcp)) };
    match protocol {
        "tcp" => Ok((ports, Protocol::Tcp)),
        "udp" => Ok((ports, Protocol::Udp)),
        _ => Err(Error::usage(text, format_args!("unknown protocol {protocol}"), "write /tcp or /udp")),
    }
}

fn parse_ip(text: &str, ip: &str) -> Result<Ipv4Addr, Error> {
    ip.parse().map_err(|_| wrong(text, format_args!("{ip} is not an IPv4 address")))
}

fn parse_range(text: &str, range: &str) -> Result<RangeInclusive<u16>, Error> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (parse_port(text, first)?, parse_port(text, last)?);
    if first > last {
        return Err(Error::usage(
            text,
            format_args!("the port range {range} runs backwards"),
            format_args!("write {last}-{first}"),
        ));
    }
    Ok(first..=last)
}

fn parse_port(text: &str, port: &str) -> Result<u16, Error> {
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong(text, format_args!("'{port}' is not a port number")));
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(Error::usage(
            text,
            format_args!("there is no port {port}"),
            "ports are numbers from 1 to 65535",
        )),
        Ok(number) => Ok(number),
    }
}

fn wrong(text: &str, why: impl fmt::Display) -> Error {
    Error::usage(text, why, GRAMMAR)
}

fn write_range(f: &mut fmt::Formatter<'_>, first: u16, last: u16) -> fmt::Result {
    if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
}

impl fmt::Display for Listen {
    /// Address and ports, without the protocol.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.ip {
            write!(f, "{ip}:")?;
        }
        write_range(f, *self.ports.start(), *self.ports.end())
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listen { protocol, ports, .. } = &self.listen;
        write!(f, "{}:", self.listen)?;
        write_range(f, self.target_first, self.target_first.saturating_add(ports.end() - ports.start()))?;
        write!(f, "/{protocol}")
    }
}

impl fmt::Display for Unpublish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target_first {
            Some(target_first) => {
                fmt::Display::fmt(&PublishSpec { listen: self.listen.clone(), target_first }, f)
            }
            None => write!(f, "{}/{}", self.listen, self.listen.protocol),
        }
    }
}

impl Serialize for PublishSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublishSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Unpublish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Unpublish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> PublishSpec {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_of_the_grammar_is_understood() {
        let plain = parsed("8080:80");
        assert_eq!(plain.listen, Listen { protocol: Protocol::Tcp, ip: None, ports: 8080..=8080 });
        assert_eq!(plain.target_first, 80);
        let full = parsed("10.0.0.1:5000-5009:6000-6009/udp");
        assert_eq!(full.listen.ip, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!((full.listen.protocol, full.listen.ports.clone()), (Protocol::Udp, 5000..=5009));
        assert_eq!(full.pairs().last(), Some((5009, 6009)));
        assert_eq!(parsed("0.0.0.0:8080:80"), plain);
        let rm: Unpublish = "10.0.0.1:53/udp".parse().unwrap();
        assert_eq!((rm.listen.ports, rm.target_first), (53..=53, None));
    }

    #[test]
    fn every_wrong_form_says_what_to_do() {
        for (text, why) in [
            ("80", "only one port given"),
            ("", "is not a port number"),
            ("8080:", "is not a port number"),
            (":80", "is not a port number"),
            ("+80:80", "is not a port number"),
            ("0:80", "there is no port 0"),
            ("80:0", "there is no port 0"),
            ("65536:80", "there is no port 65536"),
            ("90-80:90-80", "runs backwards"),
            ("80-90:80", "differ in length"),
            ("1:2:3", "too many fields"),
            ("10.0.0.1:1:2:3", "too many fields"),
            ("10.0.0:80:80", "is not an IPv4 address"),
            ("[::1]:80:80", "too many fields"),
            ("80:80/sctp", "unknown protocol sctp"),
            ("80:80/tcp/udp", "unknown protocol"),
        ] {
            let error = text.parse::<PublishSpec>().unwrap_err();
            assert!(error.why.contains(why), "{text}: {error}");
            assert!(!error.hint.is_empty(), "{text}");
        }
    }

    #[test]
    fn overlap_needs_protocol_address_and_port_to_meet() {
        let listen = |text: &str| text.parse::<Unpublish>().unwrap().listen;
        assert!(listen("80-90").overlaps(&listen("90-95")));
        assert!(listen("80").overlaps(&listen("10.0.0.1:80")));
        assert!(!listen("80").overlaps(&listen("80/udp")));
        assert!(!listen("80-90").overlaps(&listen("91")));
        assert!(!listen("10.0.0.1:80").overlaps(&listen("10.0.0.2:80")));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            ip in proptest::option::of(1u32..), first: u16, extra in 0u16..100, target: u16, udp: bool,
        ) {
            let (first, target) = (first.clamp(1, u16::MAX - extra), target.clamp(1, u16::MAX - extra));
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let listen = Listen { protocol, ip: ip.map(Ipv4Addr::from), ports: first..=first + extra };
            let spec = PublishSpec { listen, target_first: target };
            prop_assert_eq!(&spec.to_string().parse::<PublishSpec>().unwrap(), &spec);
            let rm: Unpublish = spec.to_string().parse().unwrap();
            prop_assert_eq!(&rm.to_string().parse::<Unpublish>().unwrap(), &rm);
            prop_assert_eq!(rm.listen, spec.listen);
        }

        #[test]
        fn no_text_panics(text in "[0-9:./a-z\\-]{0,40}") {
            let _ = text.parse::<PublishSpec>();
        }
    }
}
