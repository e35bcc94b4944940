//! Requests about who may open a connection to whom.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::name::Name;
use super::super::policy_spec::{PlaceSpec, Places, PortRange, RuleName, WhichRule};
use super::parse_protocol;
use crate::addr::Protocol;
use crate::table::policy::Action;

/// Adds a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyAdd {
    /// allow or deny
    #[arg(value_parser = parse_action)]
    pub action: Action,
    /// Put it before the rule with this number [default: behind the last one]
    #[arg(long, value_name = "N")]
    pub before: Option<usize>,
    /// Who opens the connection: networks, ports, prefixes, internet, lan, host, with commas between
    /// [default: anybody]
    #[arg(long, value_name = "NETWORK|PORT|CIDR|internet|lan|host,...")]
    #[serde(default)]
    pub from: Option<Places>,
    /// Whom it is opened to, as --from
    #[arg(long, value_name = "NETWORK|PORT|CIDR|internet|lan|host,...")]
    #[serde(default)]
    pub to: Option<Places>,
    /// Only tcp, udp or icmp
    #[arg(long, value_parser = parse_protocol)]
    pub proto: Option<Protocol>,
    /// Only this port or these ports of who is called, of TCP or UDP; for what is published, the container's
    #[arg(long, value_name = "PORT[-END]")]
    pub dport: Option<PortRange>,
    /// What to call it
    #[arg(long, value_name = "TEXT")]
    pub name: Option<RuleName>,
}

/// Removes a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyRm {
    /// Its number or its name
    #[arg(value_name = "N|NAME")]
    pub rule: WhichRule,
    /// Succeed if it does not exist
    #[arg(long)]
    #[serde(default)]
    pub if_exists: bool,
}

/// Changes what happens between two networks where no rule decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyDefault {
    /// The network of who opens a connection; without it, all defaults are shown
    #[arg(requires = "to")]
    pub from: Option<Name>,
    /// The network of whom it is opened to
    #[arg(requires = "action")]
    pub to: Option<Name>,
    /// allow or deny
    #[arg(value_parser = parse_action)]
    pub action: Option<Action>,
}

/// Asks what decides about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct PolicyCheck {
    /// Who opens it: a port, a network, an address, internet, lan or host
    #[arg(long)]
    pub from: PlaceSpec,
    /// Whom it is opened to
    #[arg(long)]
    pub to: PlaceSpec,
    /// tcp, udp or icmp
    #[arg(value_parser = parse_protocol)]
    pub proto: Protocol,
    /// The port, of TCP or UDP
    pub port: Option<u16>,
}

fn parse_action(text: &str) -> Result<Action, Error> {
    match text {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        _ => Err(Error::usage(text, "no such action", "allow or deny")),
    }
}
