//! The settings of a network's DHCP server, as users write them: `lease=1800`, `dns=10.0.0.1,10.0.0.2`, `off`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::name::Domain;
use crate::limits::{DHCP_LEASE_RANGE, DHCP_LIST_MAX};

/// One setting of a network's DHCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpSetting {
    /// Serve.
    On,
    /// Do not.
    Off,
    /// Time of a lease in seconds.
    Lease(u32),
    /// The first and the last address to give; `None` for all.
    Range(Option<(Ipv4Addr, Ipv4Addr)>),
    /// Name servers; `None` for the gateway.
    Dns(Option<Vec<Ipv4Addr>>),
    /// Time servers.
    Ntp(Vec<Ipv4Addr>),
    /// The domain of the clients.
    Domain(Option<Domain>),
    /// Domains to look names up in.
    Search(Vec<Domain>),
    /// Routes besides the default one.
    Routes(Vec<Route>),
}

/// A route that clients are told of: `PREFIX:ROUTER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destinations.
    pub prefix: Ipv4Net,
    /// The router.
    pub via: Ipv4Addr,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.prefix, self.via)
    }
}

impl FromStr for Route {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text
            .split_once(':')
            .and_then(|(prefix, via)| Some(Route { prefix: prefix.parse().ok()?, via: via.parse().ok()? }));
        let route = parsed.ok_or_else(|| {
            Error::usage(text, "not a route", "write PREFIX:ROUTER, like 10.9.0.0/16:10.1.0.2")
        })?;
        let prefix = route.prefix.trunc();
        if prefix == route.prefix {
            Ok(route)
        } else {
            let hint = format_args!("write {}", Route { prefix, ..route });
            Err(Error::usage(text, "has bits behind the prefix", hint))
        }
    }
}

impl FromStr for DhcpSetting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const KEYS: &str = "on, off, or one of lease, range, dns, ntp, domain, search, routes with =VALUE";
        match text {
            "on" => return Ok(DhcpSetting::On),
            "off" => return Ok(DhcpSetting::Off),
            _ => {}
        }
        let (key, value) = text.split_once('=').ok_or_else(|| Error::usage(text, "no such setting", KEYS))?;
        match key {
            "lease" => {
                let wrong = || Error::usage(text, "not a number of seconds", "write lease=SECONDS");
                value.parse().map(DhcpSetting::Lease).map_err(|_| wrong())
            }
            "range" if value == "all" => Ok(DhcpSetting::Range(None)),
            "range" => {
                let ends = value.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                let hint = "write range=FIRST-LAST, or range=all";
                let ends = ends.ok_or_else(|| Error::usage(text, "not two addresses", hint))?;
                Ok(DhcpSetting::Range(Some(ends)))
            }
            "dns" if value == "gateway" => Ok(DhcpSetting::Dns(None)),
            "dns" => addresses(text, value).map(|list| DhcpSetting::Dns(Some(list))),
            "ntp" => addresses(text, value).map(DhcpSetting::Ntp),
            "domain" if value.is_empty() => Ok(DhcpSetting::Domain(None)),
            "domain" => Ok(DhcpSetting::Domain(Some(value.parse()?))),
            "search" => list(value).map(DhcpSetting::Search),
            "routes" => list(value).map(DhcpSetting::Routes),
            _ => Err(Error::usage(key, "no such setting", KEYS)),
        }
    }
}

impl fmt::Display for DhcpSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DhcpSetting::On => f.write_str("on"),
            DhcpSetting::Off => f.write_str("off"),
            DhcpSetting::Lease(seconds) => write!(f, "lease={seconds}"),
            DhcpSetting::Range(None) => f.write_str("range=all"),
            DhcpSetting::Range(Some((first, last))) => write!(f, "range={first}-{last}"),
            DhcpSetting::Dns(None) => f.write_str("dns=gateway"),
            DhcpSetting::Dns(Some(list)) => write!(f, "dns={}", joined(list)),
            DhcpSetting::Ntp(list) => write!(f, "ntp={}", joined(list)),
            DhcpSetting::Domain(None) => f.write_str("domain="),
            DhcpSetting::Domain(Some(domain)) => write!(f, "domain={domain}"),
            DhcpSetting::Search(list) => write!(f, "search={}", joined(list)),
            DhcpSetting::Routes(list) => write!(f, "routes={}", joined(list)),
        }
    }
}

fn joined<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn addresses(text: &str, value: &str) -> Result<Vec<Ipv4Addr>, Error> {
    let hint = "write addresses with commas between them";
    list(value).map_err(|_| Error::usage(text, "not a list of addresses", hint))
}

fn list<T: FromStr>(value: &str) -> Result<Vec<T>, T::Err> {
    value.split(',').filter(|item| !item.is_empty()).map(str::parse).collect()
}

impl DhcpSetting {
    /// Checks what can be checked without the network that it is for.
    ///
    /// # Errors
    /// `Usage` for a time out of range, a range that runs backwards, servers that none can be, and a list that is too
    /// long.
    pub fn check(&self) -> Result<(), Error> {
        let length = match self {
            DhcpSetting::Lease(seconds) if !DHCP_LEASE_RANGE.contains(seconds) => {
                let (least, most) = (DHCP_LEASE_RANGE.start(), DHCP_LEASE_RANGE.end());
                let hint = format_args!("choose {least} to {most} seconds");
                return Err(Error::usage(format_args!("lease {seconds}"), "out of range", hint));
            }
            DhcpSetting::Range(Some((first, last))) if first > last => {
                let what = format_args!("{first}-{last}");
                return Err(Error::usage(what, "the range runs backwards", "write the lower address first"));
            }
            DhcpSetting::Dns(Some(list)) | DhcpSetting::Ntp(list) => {
                let is_none = |ip: &&Ipv4Addr| ip.is_unspecified() || ip.is_broadcast() || ip.is_loopback();
                if let Some(ip) = list.iter().find(is_none) {
                    let why = "nobody reaches a server at this address";
                    return Err(Error::usage(ip, why, "give the server's own address, or an empty list"));
                }
                list.len()
            }
            DhcpSetting::Search(list) => list.len(),
            DhcpSetting::Routes(list) => list.len(),
            DhcpSetting::On
            | DhcpSetting::Off
            | DhcpSetting::Lease(_)
            | DhcpSetting::Range(_)
            | DhcpSetting::Dns(None)
            | DhcpSetting::Domain(_) => 0,
        };
        if length > DHCP_LIST_MAX {
            let why = format_args!("{length} are more than a message has room for");
            return Err(Error::usage("list", why, format_args!("give at most {DHCP_LIST_MAX}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_as_they_are_written() {
        for (text, json) in [
            ("on", r#""on""#),
            ("lease=600", r#"{"lease":600}"#),
            ("range=10.0.0.9-10.0.0.20", r#"{"range":["10.0.0.9","10.0.0.20"]}"#),
            ("range=all", r#"{"range":null}"#),
            ("dns=gateway", r#"{"dns":null}"#),
            ("dns=", r#"{"dns":[]}"#),
            ("ntp=10.0.0.1,10.0.0.2", r#"{"ntp":["10.0.0.1","10.0.0.2"]}"#),
            ("domain=example.com", r#"{"domain":"example.com"}"#),
            ("search=a.example,b.example", r#"{"search":["a.example","b.example"]}"#),
            ("routes=10.9.0.0/16:10.0.0.2", r#"{"routes":[{"prefix":"10.9.0.0/16","via":"10.0.0.2"}]}"#),
        ] {
            let setting: DhcpSetting = text.parse().unwrap();
            assert_eq!(setting.to_string(), text);
            assert_eq!(serde_json::to_string(&setting).unwrap(), json);
            assert_eq!(serde_json::from_str::<DhcpSetting>(json).unwrap(), setting);
            setting.check().unwrap();
        }
        for wrong in
            ["maybe", "lease=x", "range=10.0.0.1", "dns=a", "domain=..", "search=a,.b", "routes=10/8", "x=1"]
        {
            assert!(wrong.parse::<DhcpSetting>().is_err(), "{wrong}");
        }
        let cut = "routes=10.9.0.1/16:10.0.0.2".parse::<DhcpSetting>().unwrap_err();
        assert_eq!(cut.hint, "write 10.9.0.0/16:10.0.0.2");
        for wrong in ["lease=1", "range=10.0.0.9-10.0.0.8", "dns=0.0.0.0", "dns=10.0.0.1,127.0.0.53"] {
            assert!(wrong.parse::<DhcpSetting>().unwrap().check().is_err(), "{wrong}");
        }
        assert!(DhcpSetting::Ntp(vec![Ipv4Addr::new(10, 0, 0, 1); DHCP_LIST_MAX + 1]).check().is_err());
    }
}
