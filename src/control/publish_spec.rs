//! What is published where: the grammar of Docker's `-p`.
//!
//! ```text
//! publication = [ [ ip ":" ] [ ports ] ":" ] ports [ "/" protocol ]
//! ports       = port [ "-" port ]
//! protocol    = "tcp" | "udp"                          tcp unless said
//! ```
//!
//! | | |
//! |---|---|
//! | `8080:80` | port 8080 of every address of the uplink leads to the container's port 80 |
//! | `10.0.0.1:5000-5009:6000-6009/udp` | ten ports, one to one; the ranges have the same length |
//! | `8000-8099:80` | the first free one of a hundred |
//! | `80`, `10.0.0.1::80` | any free one ([`PUBLISH_PORTS`]) |
//!
//! The address `0.0.0.0` is the same as none: every address of the uplink.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::error::Error;
use super::name::as_text;
use crate::addr::Protocol;
use crate::limits::PUBLISH_PORTS;

/// How a publication is written.
pub(super) const GRAMMAR: &str = "write [[IP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp]";

/// Where a publication listens: protocol, address and ports on the uplink.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// What is to be published: a [`PublishSpec`], or several of which one is to be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishWish {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address of the uplink; `None` for every one.
    pub ip: Option<Ipv4Addr>,
    /// The external ports; `None` for any.
    pub ports: Option<RangeInclusive<u16>>,
    /// The container's ports.
    pub target: RangeInclusive<u16>,
}

impl From<PublishSpec> for PublishWish {
    /// The wish that only this meets.
    fn from(PublishSpec { listen: Listen { protocol, ip, ports }, target_first }: PublishSpec) -> Self {
        let more = ports.end() - ports.start();
        PublishWish {
            protocol,
            ip,
            ports: Some(ports),
            target: target_first..=target_first.saturating_add(more),
        }
    }
}

impl PublishWish {
    /// The only choice, if there is no other.
    pub fn only_choice(&self) -> Option<PublishSpec> {
        let &PublishWish { protocol, ip, ref ports, ref target } = self;
        let ports = ports.clone().filter(|ports| ports.len() == target.len())?;
        Some(PublishSpec { listen: Listen { protocol, ip, ports }, target_first: *target.start() })
    }

    /// What may be chosen, best first. There is at least one.
    pub fn choices(&self) -> impl Iterator<Item = PublishSpec> {
        let ports = self.ports.clone().unwrap_or(PUBLISH_PORTS);
        let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
        let extra = u32::from(self.target.end() - self.target.start());
        (first..=last.saturating_sub(extra)).filter_map(move |first| {
            let ports = u16::try_from(first).ok()?..=u16::try_from(first + extra).ok()?;
            Some(PublishSpec {
                listen: Listen { protocol: self.protocol, ip: self.ip, ports },
                target_first: *self.target.start(),
            })
        })
    }

    /// Whether a publication is one of the choices.
    pub fn is_met_by(&self, spec: &PublishSpec) -> bool {
        let PublishSpec { listen, target_first } = spec;
        let within = |ports: &RangeInclusive<u16>| {
            ports.contains(listen.ports.start()) && ports.contains(listen.ports.end())
        };
        (listen.protocol, listen.ip, *target_first) == (self.protocol, self.ip, *self.target.start())
            && listen.ports.len() == self.target.len()
            && within(&self.ports.clone().unwrap_or(PUBLISH_PORTS))
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
        let Fields { protocol, ip, ports } = Fields::parse(text)?;
        let (host, target) = match ports[..] {
            [host] => (host, None),
            [host, target] => (host, Some(target)),
            _ => return Err(wrong(text, "too many fields")),
        };
        let ports = parse_range(text, host)?;
        let target = target.map(|target| parse_range(text, target)).transpose()?;
        if target.as_ref().is_some_and(|target| target.len() != ports.len()) {
            return Err(differ(text));
        }
        let target_first = target.map(|target| *target.start());
        Ok(Unpublish { listen: Listen { protocol, ip, ports }, target_first })
    }
}

impl FromStr for PublishWish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let Fields { protocol, ip, ports } = Fields::parse(text)?;
        let (host, target) = match ports[..] {
            [target] if ip.is_none() => ("", target),
            [host, target] if ip.is_some() || !host.is_empty() => (host, target),
            [_] | [_, _] => return Err(wrong(text, "'' is not a port number")),
            _ => return Err(wrong(text, "too many fields")),
        };
        let ports = if host.is_empty() { None } else { Some(parse_range(text, host)?) };
        let target = parse_range(text, target)?;
        let fits = |ports: &RangeInclusive<u16>| ports.len() == target.len() || target.len() == 1;
        if ports.as_ref().is_some_and(|ports| !fits(ports)) {
            return Err(differ(text));
        }
        Ok(PublishWish { protocol, ip, ports, target })
    }
}

/// The parts of a publication's text.
struct Fields<'a> {
    protocol: Protocol,
    ip: Option<Ipv4Addr>,
    ports: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        let (ports, protocol) = split_protocol(text)?;
        if ports.starts_with('[') {
            return Err(Error::usage(text, "IPv6 is switched, not published", "publish on an IPv4 address"));
        }
        let mut ports: Vec<&str> = ports.split(':').collect();
        let ip = match ports.first() {
            Some(first) if first.contains('.') => Some(parse_ip(text, ports.remove(0))?),
            _ => None,
        };
        Ok(Fields { protocol, ip: ip.filter(|ip| !ip.is_unspecified()), ports })
    }
}

fn differ(text: &str) -> Error {
    let hint = "give as many container ports as host ports";
    Error::usage(text, "the two port ranges differ in length", hint)
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

/// Reads a port, or a range of them.
pub(super) fn parse_range(text: &str, range: &str) -> Result<RangeInclusive<u16>, Error> {
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

/// Writes a port, or a range of them.
pub(super) fn write_range(f: &mut fmt::Formatter<'_>, first: u16, last: u16) -> fmt::Result {
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

impl fmt::Display for PublishWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.ip {
            write!(f, "{ip}:")?;
        }
        if let Some(ports) = &self.ports {
            write_range(f, *ports.start(), *ports.end())?;
        }
        if self.ip.is_some() || self.ports.is_some() {
            f.write_str(":")?;
        }
        write_range(f, *self.target.start(), *self.target.end())?;
        write!(f, "/{}", self.protocol)
    }
}

as_text!(PublishWish Unpublish);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> PublishWish {
        text.parse().unwrap()
    }

    fn choices(text: &str) -> Vec<String> {
        parsed(text).choices().map(|spec| spec.to_string()).collect()
    }

    #[test]
    fn every_form_of_the_grammar_is_understood() {
        for (text, choice) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("0.0.0.0:8080:80", "8080:80/tcp"),
            ("10.0.0.1:5000-5009:6000-6009/udp", "10.0.0.1:5000-5009:6000-6009/udp"),
            ("7000-7009:7000-7009", "7000-7009:7000-7009/tcp"),
        ] {
            assert_eq!(choices(text), [choice], "{text}");
        }
        let full = parsed("10.0.0.1:5000-5009:6000-6009/udp").choices().next().unwrap();
        assert_eq!(full.pairs().last(), Some((5009, 6009)));
        let rm: Unpublish = "10.0.0.1:53/udp".parse().unwrap();
        assert_eq!((rm.listen.ports, rm.target_first), (53..=53, None));
    }

    #[test]
    fn where_docker_chooses_there_is_a_choice() {
        assert_eq!(choices("8000-8002:80"), ["8000:80/tcp", "8001:80/tcp", "8002:80/tcp"]);
        let (first, last) = (PUBLISH_PORTS.start(), PUBLISH_PORTS.end());
        for (text, ip) in [("80", ""), ("10.0.0.1::80/udp", "10.0.0.1:")] {
            let all = choices(text);
            assert_eq!(all.len(), PUBLISH_PORTS.len());
            assert!(all[0].starts_with(&format!("{ip}{first}:80/")), "{}", all[0]);
        }
        assert_eq!(choices("80-89").last(), Some(&format!("{}-{last}:80-89/tcp", last - 9)));
        let chosen = |text: &str| parsed(text).choices().next().unwrap();
        assert!(parsed("80").is_met_by(&chosen("40000:80")));
        assert!(!parsed("80").is_met_by(&chosen("8080:80")));
        assert!(parsed("8000-8002:80").is_met_by(&chosen("8001:80")));
        assert!(!parsed("8000-8002:80").is_met_by(&chosen("8001:81")));
    }

    #[test]
    fn every_wrong_form_says_what_to_do() {
        for (text, why) in [
            ("", "is not a port number"),
            ("8080:", "is not a port number"),
            (":80", "is not a port number"),
            ("10.0.0.1:80", "is not a port number"),
            ("+80:80", "is not a port number"),
            ("0:80", "there is no port 0"),
            ("80:0", "there is no port 0"),
            ("65536:80", "there is no port 65536"),
            ("90-80:90-80", "runs backwards"),
            ("80-90:80-81", "differ in length"),
            ("80:80-81", "differ in length"),
            ("1:2:3", "too many fields"),
            ("10.0.0.1:1:2:3", "too many fields"),
            ("10.0.0:80:80", "is not an IPv4 address"),
            ("[::1]:80:80", "IPv6 is switched"),
            ("80:80/sctp", "unknown protocol sctp"),
            ("80:80/tcp/udp", "unknown protocol"),
        ] {
            let error = text.parse::<PublishWish>().unwrap_err();
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
            let wish: PublishWish = spec.to_string().parse().unwrap();
            prop_assert_eq!(&wish.to_string().parse::<PublishWish>().unwrap(), &wish);
            prop_assert_eq!(wish.choices().collect::<Vec<_>>(), [spec.clone()]);
            prop_assert_eq!(wish.only_choice(), Some(spec.clone()));
            prop_assert_eq!(PublishWish::from(spec.clone()), wish);
            let rm: Unpublish = spec.to_string().parse().unwrap();
            prop_assert_eq!(&rm.to_string().parse::<Unpublish>().unwrap(), &rm);
            prop_assert_eq!(rm.listen, spec.listen);
        }

        #[test]
        fn no_text_panics(text in "[0-9:./a-z\\-]{0,40}") {
            let _ = text.parse::<PublishWish>();
            let _ = text.parse::<Unpublish>();
        }
    }
}
