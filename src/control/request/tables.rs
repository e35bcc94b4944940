//! Requests about what the switch has learned and counted: FDB, connections, drops.

use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::name::Name;
use super::parse_protocol;
use crate::addr::{MacAddr, Protocol};

/// Chooses entries of the forwarding database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbShow {
    /// Only this network
    #[arg(long)]
    pub network: Option<Name>,
    /// Only this port
    #[arg(long)]
    pub port: Option<Name>,
}

/// Adds a static entry to the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbAdd {
    /// The station's address
    pub mac: MacAddr,
    /// The port it is on
    #[arg(long)]
    pub port: Name,
    /// The network [default: the first of the port's]
    #[arg(long)]
    #[serde(default)]
    pub network: Option<Name>,
}

/// Removes an entry from the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbDel {
    /// The station's address
    pub mac: MacAddr,
    /// Only on this network [default: on all]
    #[arg(long)]
    pub network: Option<Name>,
}

/// Forgets learned entries of the forwarding database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbFlush {
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
}

/// Changes the ageing time of learned entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct FdbAgeing {
    /// Time after which an idle entry is forgotten, in seconds; without it, it is shown
    #[serde(default)]
    pub seconds: Option<u32>,
}

/// Chooses connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct CtFilter {
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
    /// Only tcp, udp or icmp
    #[arg(long, value_parser = parse_protocol)]
    pub proto: Option<Protocol>,
}

/// Changes timeouts of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct CtTimeouts {
    /// Timeouts to change; without any, all are shown
    #[arg(value_name = "KEY=SECONDS")]
    #[serde(default)]
    pub settings: Vec<TimeoutSetting>,
}

/// One timeout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutSetting {
    /// Its name.
    pub key: String,
    /// How long.
    pub seconds: u32,
}

impl FromStr for TimeoutSetting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::usage(text, "not a timeout", "write KEY=SECONDS");
        let (key, seconds) = text.split_once('=').ok_or_else(wrong)?;
        Ok(TimeoutSetting { key: key.into(), seconds: seconds.parse().map_err(|_| wrong())? })
    }
}

/// Chooses dropped frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Drops {
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
    /// Only what happened within this time, like 10s, 5m or 2h
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub since: Option<u64>,
}

fn parse_seconds(text: &str) -> Result<u64, Error> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.ok_or_else(|| Error::usage(text, "not a time", "write a number and s, m or h, like 10s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_seconds("10s"), Ok(10));
        assert_eq!(parse_seconds("2m"), Ok(120));
        assert_eq!(parse_seconds("1h"), Ok(3600));
        assert_eq!(parse_seconds("7"), Ok(7));
        for wrong in ["", "s", "-1s", "1d", "18446744073709551615h", "1.5s", "\u{fc}s"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
