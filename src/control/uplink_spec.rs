//! The uplinks that the switch is started with: `--uplink IFACE[,mode=MODE][,address=CIDR|dhcp][,gateway=IP]`, one after
//! the other. The first is the way out of networks that name none.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv4Net;

use super::error::Error;
use super::name::IfName;
use super::request::parse_subnet;
use super::uplink::UplinkSettings;
use crate::limits::UPLINKS_MAX;
use crate::snapshot::UplinkMode;

/// Where an uplink's address comes from in mode `own`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkAddress {
    /// It is this one.
    Fixed(Ipv4Net),
    /// The link's DHCP server gives one.
    Dhcp,
}

impl FromStr for UplinkAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "dhcp" { Ok(UplinkAddress::Dhcp) } else { parse_subnet(text).map(UplinkAddress::Fixed) }
    }
}

/// An uplink to start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkSpec {
    /// The interface.
    pub name: IfName,
    /// How its address is used; `shared` unless it is said.
    pub mode: Option<UplinkMode>,
    /// The address of mode `own`.
    pub address: Option<UplinkAddress>,
    /// The next hop to everywhere, where neither the host's routes nor DHCP tell it.
    pub gateway: Option<Ipv4Addr>,
}

impl UplinkSpec {
    /// An uplink about which nothing is said.
    pub fn new(name: IfName) -> Self {
        UplinkSpec { name, mode: None, address: None, gateway: None }
    }

    fn settings(&self, nat_ports: &RangeInclusive<u16>) -> Result<UplinkSettings, Error> {
        let UplinkSpec { name, mode, address, gateway } = self;
        let mode = mode.unwrap_or(UplinkMode::Shared);
        match (mode, *address, *gateway) {
            (UplinkMode::Shared, None, _) => {}
            (UplinkMode::Shared, Some(_), _) => {
                let what = format_args!("address of uplink {name}");
                let why = "mode shared uses the host's own address";
                return Err(Error::usage(what, why, "leave it out, or use mode own"));
            }
            (UplinkMode::Own, None, _) => {
                let what = format_args!("mode own of uplink {name}");
                let why = "the switch needs an address of its own";
                return Err(Error::usage(what, why, "give --uplink-address CIDR, or dhcp"));
            }
            (UplinkMode::Own, Some(UplinkAddress::Dhcp), Some(gateway)) => {
                let why = "the DHCP server names the next hop";
                return Err(Error::usage(gateway, why, "leave --uplink-gateway out"));
            }
            (UplinkMode::Own, Some(UplinkAddress::Fixed(address)), Some(gateway))
                if !address.contains(&gateway) =>
            {
                let why = format_args!("is not on the uplink's network {}", address.trunc());
                return Err(Error::usage(gateway, why, "give an address on it"));
            }
            (UplinkMode::Own, Some(_), _) => {}
        }
        let fixed = match *address {
            Some(UplinkAddress::Fixed(address)) => Some(address),
            Some(UplinkAddress::Dhcp) | None => None,
        };
        Ok(UplinkSettings {
            name: name.to_string(),
            mode,
            dhcp: *address == Some(UplinkAddress::Dhcp),
            address: fixed,
            gateway: *gateway,
            nat_ports: nat_ports.clone(),
        })
    }
}

/// What control is to open, in this order.
///
/// # Errors
/// `Usage` for what contradicts itself, for an interface that is named twice, and for too many.
pub fn all(uplinks: &[UplinkSpec], nat_ports: &RangeInclusive<u16>) -> Result<Vec<UplinkSettings>, Error> {
    if uplinks.len() > UPLINKS_MAX {
        let why = format_args!("{} are more than {UPLINKS_MAX}", uplinks.len());
        return Err(Error::usage("--uplink", why, "leave some out"));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = uplinks.iter().find(|uplink| !names.insert(&uplink.name)) {
        return Err(Error::usage(&twice.name, "is named twice", "name each uplink once"));
    }
    uplinks.iter().map(|uplink| uplink.settings(nat_ports)).collect()
}

impl FromStr for UplinkSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const GRAMMAR: &str = "write IFACE[,mode=shared|own][,address=CIDR|dhcp][,gateway=IP]";
        let mut fields = text.split(',');
        let mut uplink = UplinkSpec::new(fields.next().unwrap_or_default().parse()?);
        for field in fields {
            match field.split_once('=') {
                Some(("mode", mode)) => uplink.mode = Some(parse_mode(mode)?),
                Some(("address", address)) => uplink.address = Some(address.parse()?),
                Some(("gateway", ip)) => {
                    let wrong = |_| Error::usage(text, "the gateway is not an address", GRAMMAR);
                    uplink.gateway = Some(ip.parse().map_err(wrong)?);
                }
                _ => return Err(Error::usage(text, "unknown field", GRAMMAR)),
            }
        }
        Ok(uplink)
    }
}

impl fmt::Display for UplinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(mode) = self.mode {
            write!(f, ",mode={}", mode.as_str())?;
        }
        match self.address {
            Some(UplinkAddress::Fixed(address)) => write!(f, ",address={address}")?,
            Some(UplinkAddress::Dhcp) => f.write_str(",address=dhcp")?,
            None => {}
        }
        self.gateway.map_or(Ok(()), |gateway| write!(f, ",gateway={gateway}"))
    }
}

/// A mode of an uplink.
///
/// # Errors
/// `Usage` if there is none of this name.
pub fn parse_mode(text: &str) -> Result<UplinkMode, Error> {
    match text {
        "shared" => Ok(UplinkMode::Shared),
        "own" => Ok(UplinkMode::Own),
        _ => Err(Error::usage(text, "no such uplink mode", "shared or own")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<UplinkSettings, Error> {
        text.parse::<UplinkSpec>()?.settings(&(1..=2))
    }

    #[test]
    fn uplink_options_that_contradict_are_refused() {
        for right in [
            "eth0",
            "eth0,gateway=192.0.2.1",
            "eth0,mode=own,address=192.0.2.5/24",
            "eth0,mode=own,address=192.0.2.5/24,gateway=192.0.2.1",
            "eth0,mode=own,address=dhcp",
        ] {
            assert_eq!(right.parse::<UplinkSpec>().unwrap().to_string(), right);
            assert!(settings(right).is_ok(), "{right}");
        }
        assert!(settings("eth0,mode=own,address=dhcp").unwrap().dhcp);
        for wrong in [
            "",
            "eth0,",
            "eth0,mode=bridge2",
            "eth0,mode=shared,address=192.0.2.5/24",
            "eth0,mode=own",
            "eth0,mode=own,address=192.0.2.5/24,gateway=192.0.3.1",
            "eth0,mode=own,address=dhcp,gateway=192.0.2.1",
            "eth0,gateway=here",
            "eth0,mtu=1500",
        ] {
            assert!(settings(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_interface_is_one_uplink_and_there_are_not_too_many() {
        let many = |count| (0..count).map(|n| format!("eth{n}").parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(all(&many(UPLINKS_MAX), &(1..=2)).unwrap().len(), UPLINKS_MAX);
        assert!(all(&many(UPLINKS_MAX + 1), &(1..=2)).is_err());
        let twice = ["eth0", "eth1", "eth0,gateway=192.0.2.1"].map(|text| text.parse().unwrap());
        assert!(all(&twice, &(1..=2)).unwrap_err().to_string().contains("named twice"));
    }
}
