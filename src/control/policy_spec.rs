//! How rules are written: places, ports, and which rule is meant.
//!
//! ```text
//! places = "any" | place { "," place }
//! place  = "internet" | "lan" | "host" | prefix | address | [ "network:" | "port:" ] name
//! ```
//!
//! A name is a network's or a port's; which, has to be said only where there is one of each, or neither: a rule may be
//! there before its container is, and stays when that is gone. The three words are what they say, also where a network
//! has such a name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::name::{Name, as_text};
use super::publish_spec::{GRAMMAR, parse_range, write_range};
use crate::limits::{NAME_MAX, RULE_PLACES_MAX};

/// What a name in a rule may be the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOf {
    /// A network, or a port of the switch.
    Either,
    /// A network.
    Network,
    /// A port of the switch.
    Port,
}

/// Where an end of a connection may be, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceSpec {
    /// On the internet.
    Internet,
    /// On the uplink's LAN.
    Lan,
    /// It is the host.
    Host,
    /// It has one of these addresses.
    Prefix(Ipv4Net),
    /// It is where this name says.
    Named(NameOf, Name),
}

impl FromStr for PlaceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "internet" => return Ok(PlaceSpec::Internet),
            "lan" => return Ok(PlaceSpec::Lan),
            "host" => return Ok(PlaceSpec::Host),
            _ => {}
        }
        if is_ipv6(text) {
            let why = "IPv6 is switched, not routed, and rules have no addresses of it";
            return Err(Error::usage(text, why, "name the ports or the networks that are meant"));
        }
        if let Some(name) = text.strip_prefix("network:") {
            return name.parse().map(|name| PlaceSpec::Named(NameOf::Network, name));
        }
        if let Some(name) = text.strip_prefix("port:") {
            return name.parse().map(|name| PlaceSpec::Named(NameOf::Port, name));
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Ok(PlaceSpec::Prefix(ip.into()));
        }
        if text.contains('/') {
            let prefix: Ipv4Net = text.parse().map_err(|_| {
                Error::usage(text, "not an IPv4 prefix", "write ADDRESS/LENGTH, like 10.1.0.0/24")
            })?;
            if prefix.trunc() != prefix {
                let hint = format_args!("write {}", prefix.trunc());
                return Err(Error::usage(text, "has bits behind the prefix", hint));
            }
            return Ok(PlaceSpec::Prefix(prefix));
        }
        if text.contains(':') {
            let hint = "write internet, lan, host, an IPv4 prefix, or the name of a network or port";
            return Err(Error::usage(text, "not a place", hint));
        }
        text.parse().map(|name| PlaceSpec::Named(NameOf::Either, name))
    }
}

impl fmt::Display for PlaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceSpec::Internet => f.write_str("internet"),
            PlaceSpec::Lan => f.write_str("lan"),
            PlaceSpec::Host => f.write_str("host"),
            PlaceSpec::Prefix(prefix) if prefix.prefix_len() == 32 => write!(f, "{}", prefix.addr()),
            PlaceSpec::Prefix(prefix) => write!(f, "{prefix}"),
            PlaceSpec::Named(NameOf::Either, name) => write!(f, "{name}"),
            PlaceSpec::Named(NameOf::Network, name) => write!(f, "network:{name}"),
            PlaceSpec::Named(NameOf::Port, name) => write!(f, "port:{name}"),
        }
    }
}

/// Whether it is an IPv6 address or prefix.
fn is_ipv6(text: &str) -> bool {
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    address.parse::<Ipv6Addr>().is_ok()
}

/// Where an end of a connection may be: at one of some places, or anywhere, which is none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(pub Vec<PlaceSpec>);

impl FromStr for Places {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "any" {
            return Ok(Places::default());
        }
        let places: Vec<PlaceSpec> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        if places.len() > RULE_PLACES_MAX {
            let why = format_args!("more than {RULE_PLACES_MAX} places");
            return Err(Error::usage(text, why, "write several rules"));
        }
        Ok(Places(places))
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("any");
        }
        for (n, place) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{place}")?;
        }
        Ok(())
    }
}

/// Ports: one, or a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_range(text, text).map(PortRange).map_err(|mut error| {
            if error.hint == GRAMMAR {
                error.hint = "write PORT or FIRST-LAST; several take several rules".into();
            }
            error
        })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_range(f, *self.0.start(), *self.0.end())
    }
}

/// What a user calls a rule: 1 to 64 characters on one line, not a number alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName(pub String);

impl FromStr for RuleName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let hint = format!("write 1 to {NAME_MAX} characters on one line, not a number");
        let is_number = text.bytes().all(|b| b.is_ascii_digit());
        if text.is_empty()
            || is_number
            || text.chars().count() > NAME_MAX
            || text.chars().any(char::is_control)
        {
            return Err(Error::usage(format_args!("'{text}'"), "not a name for a rule", hint));
        }
        Ok(RuleName(text.to_owned()))
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which rule is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhichRule {
    /// The one at this place in the list, from 1.
    At(usize),
    /// The one with this name.
    Called(RuleName),
}

impl FromStr for WhichRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.parse() {
            Ok(n) => Ok(WhichRule::At(n)),
            Err(_) => text.parse().map(WhichRule::Called),
        }
    }
}

impl fmt::Display for WhichRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhichRule::At(n) => write!(f, "rule {n}"),
            WhichRule::Called(name) => write!(f, "rule {name}"),
        }
    }
}

as_text!(PlaceSpec Places PortRange RuleName);

// A rule's number is a number.
impl Serialize for WhichRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WhichRule::At(n) => serializer.collect_str(n),
            WhichRule::Called(name) => serializer.collect_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for WhichRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(usize),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(n) => Ok(WhichRule::At(n)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_what_they_print() {
        for text in [
            "any",
            "internet",
            "lan,host",
            "10.0.0.0/8",
            "10.1.2.3",
            "0.0.0.0/0",
            "web",
            "network:lan,port:web,192.168.0.0/16",
        ] {
            assert_eq!(text.parse::<Places>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3/32".parse::<Places>().unwrap().to_string(), "10.1.2.3");
        for (text, why) in [
            ("", "not a name"),
            ("web,,db", "not a name"),
            ("any,web", ""),
            ("10.0.0.1/8", "has bits behind the prefix"),
            ("10.0.0/8", "not an IPv4 prefix"),
            ("2001:db8::1", "IPv6 is switched, not routed, and rules have no addresses of it"),
            ("fd00::/8,web", "IPv6 is switched, not routed, and rules have no addresses of it"),
            ("ip:web", "not a place"),
            ("port:", "not a name"),
            ("a b", "not a name"),
        ] {
            let parsed = text.parse::<Places>();
            // A port may be called any, though nobody should.
            assert_eq!(
                parsed.as_ref().err().map_or("", |error| error.why.as_str()),
                why,
                "{text}: {parsed:?}"
            );
        }
        let many = vec!["web"; RULE_PLACES_MAX + 1].join(",");
        assert!(many.parse::<Places>().unwrap_err().why.contains("more than"));
    }

    #[test]
    fn a_rule_is_meant_by_its_number_or_its_name() {
        assert_eq!("3".parse::<WhichRule>().unwrap(), WhichRule::At(3));
        assert_eq!("no lan".parse::<WhichRule>().unwrap().to_string(), "rule no lan");
        assert_eq!(serde_json::from_str::<WhichRule>("3").unwrap(), WhichRule::At(3));
        assert_eq!(serde_json::from_str::<WhichRule>("\"3\"").unwrap(), WhichRule::At(3));
        for wrong in ["", "a\nb", &"x".repeat(NAME_MAX + 1)] {
            assert!(wrong.parse::<WhichRule>().is_err(), "{wrong}");
        }
        for wrong in ["7", "99999999999999999999999"] {
            assert!(wrong.parse::<RuleName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_are_one_or_a_range() {
        for text in ["80", "8000-8099"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for (wrong, hint) in [
            ("", "write PORT"),
            ("http", "write PORT"),
            ("80-", "write PORT"),
            ("80,443", "several rules"),
            ("90-80", "write 80-90"),
            ("0", "from 1 to 65535"),
            ("65536", "from 1 to 65535"),
        ] {
            let error = wrong.parse::<PortRange>().unwrap_err();
            assert!(error.hint.contains(hint), "{wrong}: {error}");
        }
    }
}
