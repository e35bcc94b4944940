//! Requests that change an uplink.

use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::name::IfName;

/// Changes an uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct UplinkSet {
    /// Its interface
    pub name: IfName,
    /// gateway=IP|none: the next hop to everywhere, where the host has no default route by the interface
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub settings: Vec<UplinkSetting>,
}

/// One setting of an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkSetting {
    /// The next hop to everywhere, where the host has no default route by the interface.
    Gateway(Option<Ipv4Addr>),
}

impl FromStr for UplinkSetting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why| Error::usage(text, why, "write gateway=IP or gateway=none");
        match text.split_once('=') {
            Some(("gateway", "none")) => Ok(UplinkSetting::Gateway(None)),
            Some(("gateway", ip)) => {
                let ip = ip.parse().map_err(|_| wrong("the gateway is not an address"))?;
                Ok(UplinkSetting::Gateway(Some(ip)))
            }
            _ => Err(wrong("no such setting of an uplink")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::error::Kind;
    use super::*;

    #[test]
    fn settings_of_an_uplink_read_as_they_are_written() {
        for (text, json) in
            [("gateway=192.0.2.1", r#"{"gateway":"192.0.2.1"}"#), ("gateway=none", r#"{"gateway":null}"#)]
        {
            let setting: UplinkSetting = text.parse().unwrap();
            assert_eq!(serde_json::to_string(&setting).unwrap(), json);
            assert_eq!(serde_json::from_str::<UplinkSetting>(json).unwrap(), setting);
        }
        for wrong in ["gateway", "gateway=", "gateway=here", "mode=own"] {
            assert_eq!(wrong.parse::<UplinkSetting>().unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }
}
