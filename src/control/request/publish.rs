//! Requests about published ports.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::super::name::Name;
use super::super::publish_spec::{PublishWish, Unpublish};
use crate::snapshot::Check;

/// Publishes ports of a container on the uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PublishAdd {
    /// What to publish, as `docker run -p` writes it; without a host port, a free one is chosen
    #[arg(value_name = "[[IP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp]")]
    pub spec: PublishWish,
    /// The port of the switch that it leads to; of several, each connection goes to one
    #[arg(long, value_name = "PORTNAME", required = true, value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub to: Vec<Name>,
    /// Only for the uplink's LAN: its own prefix and private ranges
    #[arg(long, conflicts_with = "loopback")]
    #[serde(default)]
    pub lan: bool,
    /// Only for this host, by 127.0.0.1
    #[arg(long)]
    #[serde(default)]
    pub loopback: bool,
    /// Check the ports that it leads to, and send new connections only to those that are up: by ARP, or by opening a
    /// TCP connection
    #[arg(long, value_name = "arp|tcp", value_parser = parse_check)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Check>,
    /// Seconds between two checks
    #[arg(long, value_name = "SECONDS", requires = "health")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_interval: Option<u32>,
}

fn parse_check(text: &str) -> Result<Check, String> {
    match text {
        "arp" => Ok(Check::Arp),
        "tcp" => Ok(Check::Tcp),
        _ => Err("write arp or tcp".into()),
    }
}

/// A list, or its only element.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Name>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(Name),
        Many(Vec<Name>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(name) => vec![name],
        Either::Many(names) => names,
    })
}

/// Takes a publication back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PublishRm {
    /// As it was added, or only what it listens on
    #[arg(value_name = "[IP:]HOSTPORT[-END][:PORT[-END]][/tcp|udp]")]
    pub spec: Unpublish,
    /// Succeed if it does not exist
    #[arg(long)]
    #[serde(default)]
    pub if_exists: bool,
}
