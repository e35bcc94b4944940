//! What is answered about publications and rules.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::addr::Protocol;
use crate::snapshot::Check;
use crate::table::policy::Action;

/// `publish ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PublicationInfo {
    pub proto: Protocol,
    /// An uplink's address; `null` for all of them.
    pub ip: Option<Ipv4Addr>,
    pub port_first: u16,
    pub port_last: u16,
    /// The port of the switch that it leads to; of several, their names with commas between.
    pub target_port: String,
    /// The container's port that belongs to `port_first`.
    pub target_first: u16,
    /// Connections through it now.
    pub connections: usize,
    /// The container's address; of several, the first one's.
    pub target_ip: Ipv4Addr,
    /// Who may be a client: `any`, `lan` or `loopback`.
    pub scope: String,
    /// The ports of the switch that connections are spread over.
    pub targets: Vec<TargetInfo>,
    /// How these are checked: `arp` or `tcp`; `null` if they are not.
    pub health: Option<Check>,
    /// Seconds between two checks of one.
    pub health_interval: Option<u64>,
}

/// A port of the switch behind a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TargetInfo {
    pub port: String,
    pub ip: Ipv4Addr,
    /// Whether it is up, as far as it is checked.
    pub up: bool,
}

/// `policy ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RuleInfo {
    /// Its place in the list, from 1.
    pub n: usize,
    pub action: Action,
    /// `any`, or places with commas between.
    pub from: String,
    pub to: String,
    /// `null` for every protocol.
    pub proto: Option<Protocol>,
    /// A port or a range; `null` for every port.
    pub dport: Option<String>,
    pub name: Option<String>,
    /// Connections that it allows now.
    pub connections: usize,
    /// Packets that it has refused.
    pub denied: u64,
}

/// In the words of the command line, without its name.
impl fmt::Display for RuleInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} to {}", self.action.as_str(), self.from, self.to)?;
        if let Some(protocol) = self.proto {
            write!(f, " {protocol}")?;
        }
        if let Some(ports) = &self.dport {
            write!(f, " port {ports}")?;
        }
        Ok(())
    }
}

/// `policy default`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DefaultInfo {
    pub from: String,
    pub to: String,
    pub action: Action,
}

/// `policy check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CheckInfo {
    pub action: Action,
    /// What decides: `rule`, `default` (of the two networks), `isolation` (of networks without a default),
    /// `internal` (a network without a way out), `unpublished` (nothing leads there from outside), `host-service` (nothing
    /// leads there from containers), or `open` (nothing speaks against it).
    pub by: String,
    /// The rule's place in the list.
    pub rule: Option<usize>,
    /// The rule's name.
    pub name: Option<String>,
    /// The same in a sentence.
    pub text: String,
}
