//! Writing: from the books to wishes, and from wishes to TOML or to the commands that they are.

use serde_json::{Map, Value};

use crate::control::apply::Control;
use crate::control::dhcp::dhcp_info;
use crate::control::dhcp_setting::DhcpSetting;
use crate::control::error::Error;
use crate::control::host::{Attachment, Host};
use crate::control::name::Name;
use crate::control::records::PortRecord;
use crate::control::request::{
    Bound, CtTimeouts, FdbAgeing, NetworkConnect, NetworkCreate, NetworkDhcp, NetworkHostPort,
    NetworkSetting, PolicyAdd, PolicyDefault, PortAdd, PortSet, PortSetting, PublishAdd, Request, Security,
    TimeoutSetting,
};
use crate::control::response::{DhcpInfo, RuleInfo};
use crate::service::dhcp::server::Settings;
use crate::snapshot::{Policing, Port, Scope};
use crate::table::conntrack::Timeouts;

impl<H: Host> Control<H> {
    /// The requests that make, from nothing, what there is, in the order in which they can be done.
    pub(super) fn wishes(&self) -> Result<Vec<Request>, Error> {
        let mut wishes = self.wishes_but_policy()?;
        wishes.extend(self.policy_wishes()?);
        Ok(wishes)
    }

    /// As [`Control::wishes`], without rules and defaults.
    pub(super) fn wishes_but_policy(&self) -> Result<Vec<Request>, Error> {
        let snapshot = self.snapshot();
        let mut wishes = Vec::new();
        let mut networks: Vec<_> = snapshot.networks.iter().flatten().collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        for network in networks {
            wishes.push(Request::NetworkCreate(NetworkCreate {
                name: network.name.parse()?,
                subnet: Some(network.subnet),
                gateway: network.router,
                mode: Some(network.mode),
                mtu: Some(network.mtu),
                uplink: match self.bridged_to(network.id) {
                    Some(ifname) => Some(ifname.parse()?),
                    None => self.chosen_uplink(network)?,
                },
            }));
        }
        for network in snapshot.networks.iter().flatten().filter(|network| network.gateway.is_some()) {
            let name: Name = network.name.parse()?;
            let usual = usual_dhcp()?;
            let mut settings = self.dhcp_settings(&name)?;
            settings.retain(|setting| !usual.contains(setting));
            if !settings.is_empty() {
                wishes.push(Request::NetworkDhcp(NetworkDhcp { name, settings }));
            }
        }
        let (mut connected, mut changed) = (Vec::new(), Vec::new());
        for (name, record) in self.ports.iter() {
            let Some(network) = snapshot.network(record.network) else { continue };
            let on: Name = network.name.parse()?;
            let is_first = self.ports.get(name).is_some_and(|first| first.id == record.id);
            match &record.attachment {
                Attachment::Host { ifname } => connected.push(Request::NetworkHostPort(NetworkHostPort {
                    network: on.clone(),
                    ip: record.ip,
                    ifname: Some(ifname.parse()?),
                    off: false,
                })),
                // It comes with its network.
                Attachment::Uplink { .. } => {}
                _ if is_first => {
                    let aliases =
                        snapshot.port(record.id).map(|port| port.aliases.clone()).unwrap_or_default();
                    wishes.push(Request::PortAdd(port_add(name, &on, record, &aliases)?));
                }
                attachment => connected.push(Request::NetworkConnect(NetworkConnect {
                    network: on.clone(),
                    port: name.clone(),
                    ip: record.ip,
                    mac: record.mac,
                    ifname: match attachment.vid() {
                        None => Some(attachment.ifname().parse()?),
                        Some(_) => None,
                    },
                    vlan: attachment.vid(),
                })),
            }
            if let Some(port) = snapshot.port(record.id) {
                let settings = self.changed_settings(port);
                if !settings.is_empty() {
                    changed.push(Request::PortSet(PortSet {
                        name: name.clone(),
                        network: Some(on),
                        settings,
                    }));
                }
            }
        }
        wishes.extend(connected);
        wishes.extend(changed);
        for record in &self.publications {
            wishes.push(Request::PublishAdd(PublishAdd {
                spec: record.spec.clone().into(),
                to: record.targets.iter().map(|target| target.name.clone()).collect(),
                lan: record.scope == Scope::Lan,
                loopback: false,
                health: record.watch.map(|watch| watch.check),
                health_interval: record.watch.and_then(|watch| u32::try_from(watch.interval.as_secs()).ok()),
            }));
        }
        wishes.push(Request::CtTimeouts(CtTimeouts { settings: timeouts(&snapshot.timeouts) }));
        let seconds = u32::try_from(snapshot.mac_ageing.as_secs()).ok();
        wishes.push(Request::FdbAgeing(FdbAgeing { seconds }));
        Ok(wishes)
    }

    fn policy_wishes(&self) -> Result<Vec<Request>, Error> {
        let (snapshot, mut wishes) = (self.snapshot(), Vec::new());
        for (number, listed) in snapshot.policy.rules().iter().enumerate() {
            let RuleInfo { action, from, to, proto, dport, name, .. } = self.rule_info(number, listed, 0);
            wishes.push(Request::PolicyAdd(PolicyAdd {
                action,
                before: None,
                from: Some(from.parse()?),
                to: Some(to.parse()?),
                proto,
                dport: dport.map(|ports| ports.parse()).transpose()?,
                name: name.map(|name| name.parse()).transpose()?,
            }));
        }
        for (from, to, action) in snapshot.policy.defaults().iter() {
            let (from, to) = (Some(from.parse()?), Some(to.parse()?));
            wishes.push(Request::PolicyDefault(PolicyDefault { from, to, action: Some(action) }));
        }
        Ok(wishes)
    }

    /// All settings of a network's DHCP server.
    pub(super) fn dhcp_settings(&self, network: &Name) -> Result<Vec<DhcpSetting>, Error> {
        dhcp_settings(&self.dhcp_info(network)?)
    }

    /// The settings of a port that are not as they are when a port is added.
    fn changed_settings(&self, port: &Port) -> Vec<PortSetting> {
        let mut settings = settings(port);
        let usual = self.usual_settings(port);
        settings.retain(|setting| !usual.contains(setting));
        settings
    }

    /// The settings that a port has when it is added.
    pub(super) fn usual_settings(&self, port: &Port) -> Vec<PortSetting> {
        let Some(network) = port.network else { return settings(port) };
        if port.lan {
            return settings(&self.lan_port(port.id, &port.name, network, port.mtu));
        }
        let mtu = self.snapshot().network(network).map_or(port.mtu, |network| network.mtu);
        let mut usual = settings(&self.new_port(port.id, &port.name, network, mtu));
        usual.retain(|setting| !matches!(setting, PortSetting::Security(_)));
        usual.push(PortSetting::Security(Security::On));
        usual
    }
}

/// What a DHCP server says at the start.
pub(super) fn usual_dhcp() -> Result<Vec<DhcpSetting>, Error> {
    dhcp_settings(&dhcp_info("", true, &Settings::default()))
}

/// All settings of a DHCP server.
fn dhcp_settings(info: &DhcpInfo) -> Result<Vec<DhcpSetting>, Error> {
    let names = |names: &[String]| names.iter().map(|name| name.parse()).collect::<Result<Vec<_>, Error>>();
    Ok(vec![
        if info.enabled { DhcpSetting::On } else { DhcpSetting::Off },
        DhcpSetting::Lease(u32::try_from(info.lease_seconds).unwrap_or(u32::MAX)),
        DhcpSetting::Range(info.range.map(|range| (range.first, range.last))),
        DhcpSetting::Dns(info.dns.clone()),
        DhcpSetting::Ntp(info.ntp.clone()),
        DhcpSetting::Domain(info.domain.as_ref().map(|domain| domain.parse()).transpose()?),
        DhcpSetting::Search(names(&info.search)?),
        DhcpSetting::Routes(info.routes.clone()),
    ])
}

/// The request that adds a port's first interface.
fn port_add(name: &Name, network: &Name, record: &PortRecord, aliases: &[String]) -> Result<PortAdd, Error> {
    let mut add = PortAdd {
        name: name.clone(),
        netns: None,
        tap: None,
        device: None,
        network: Some(network.clone()),
        ip: record.ip,
        mac: record.mac,
        ifname: None,
        no_address: record.no_address,
        aliases: aliases.iter().map(|alias| alias.parse()).collect::<Result<_, _>>()?,
        dns: record.dns,
        vlans: Vec::new(),
    };
    match &record.attachment {
        Attachment::Netns { netns, ifname } => {
            (add.netns, add.ifname) = (Some(netns.parse()?), Some(ifname.parse()?));
        }
        Attachment::Tap { ifname } | Attachment::Host { ifname } => add.tap = Some(ifname.parse()?),
        // An uplink comes with its network, and a VLAN is never the first.
        Attachment::Device { ifname } | Attachment::Vlan { ifname, .. } | Attachment::Uplink { ifname } => {
            add.device = Some(ifname.parse()?);
        }
    }
    Ok(add)
}

/// All settings of a port.
pub(super) fn settings(port: &Port) -> Vec<PortSetting> {
    let Policing { broadcast, multicast, unknown, moves, macs } = port.policing;
    vec![
        PortSetting::Connections(port.quota),
        PortSetting::NatPorts(port.nat_ports),
        PortSetting::Mtu(port.mtu),
        PortSetting::Broadcast(Bound(broadcast)),
        PortSetting::Multicast(Bound(multicast)),
        PortSetting::Unknown(Bound(unknown)),
        PortSetting::Moves(Bound(moves)),
        PortSetting::Macs(Bound(macs)),
        PortSetting::Security(if port.pins.is_some() { Security::On } else { Security::Off }),
    ]
}

/// All timeouts.
pub(super) fn timeouts(timeouts: &Timeouts) -> Vec<TimeoutSetting> {
    let seconds = |key| timeouts.value(key).and_then(|value| u32::try_from(value.as_secs()).ok());
    let setting = |&key| Some(TimeoutSetting { key: String::from(key), seconds: seconds(key)? });
    Timeouts::KEYS.iter().filter_map(setting).collect()
}

/// The file that holds these options and wishes.
///
/// # Errors
/// `Failed` if they cannot be written, which is not known to happen.
pub(super) fn file(options: &[(String, String)], wishes: &[Request]) -> Result<String, Error> {
    let mut root = Map::new();
    for (name, value) in options {
        let value = if name.starts_with("no_") { Value::Bool(true) } else { scalar(value) };
        match root.get_mut(name) {
            None => drop(root.insert(name.clone(), value)),
            // One that is repeated.
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    for wish in wishes {
        let arguments = arguments(wish)?;
        match wish {
            Request::PortSet(set) => {
                let network = set.network.as_ref().map(Name::as_str);
                let places = [
                    ("port", "name", "network"),
                    ("connect", "port", "network"),
                    ("network", "uplink", "name"),
                ];
                for (section, key, on) in places {
                    let items = root.get_mut(section).and_then(Value::as_array_mut).into_iter().flatten();
                    for item in
                        items.filter(|item| item[key] == set.name.as_str() && item[on].as_str() == network)
                    {
                        item["set"] = set.settings.iter().map(pair).collect::<Map<_, _>>().into();
                    }
                }
            }
            Request::NetworkDhcp(dhcp) => {
                let networks = root.get_mut("network").and_then(Value::as_array_mut).into_iter().flatten();
                for network in networks.filter(|network| network["name"] == dhcp.name.as_str()) {
                    network["dhcp"] = dhcp.settings.iter().map(dhcp_pair).collect::<Map<_, _>>().into();
                }
            }
            Request::CtTimeouts(CtTimeouts { settings }) => {
                let timeouts = settings.iter().map(|timeout| (timeout.key.clone(), timeout.seconds.into()));
                root.insert("timeouts".into(), timeouts.collect::<Map<_, _>>().into());
            }
            Request::FdbAgeing(FdbAgeing { seconds: Some(seconds) }) => {
                root.insert("fdb".into(), serde_json::json!({ "ageing": seconds }));
            }
            _ => {
                let section = root.entry(section(wish)).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(section) = section.as_array_mut() {
                    section.push(arguments.into());
                }
            }
        }
    }
    toml::to_string(&root).map_err(|error| Error::failed("configuration", error, "report this"))
}

/// The section of a file that a request stands in.
fn section(request: &Request) -> &'static str {
    match request.route() {
        ("network", "connect") => "connect",
        ("network", "host-port") => "host_port",
        ("policy", "default") => "policy_default",
        (noun, _) => noun,
    }
}

/// A request as the command that makes it.
pub(super) fn command(request: &Request) -> String {
    let (noun, verb) = request.route();
    let mut words = vec![noun.to_owned(), verb.to_owned()];
    match request {
        Request::PortSet(set) => {
            words.push(set.name.to_string());
            words.extend(set.network.iter().flat_map(|network| ["--network".into(), network.to_string()]));
            words.extend(set.settings.iter().map(ToString::to_string));
        }
        Request::NetworkDhcp(dhcp) => {
            words.push(dhcp.name.to_string());
            words.extend(dhcp.settings.iter().map(ToString::to_string));
        }
        Request::NetworkSet(set) => {
            words.push(set.name.to_string());
            words.extend(set.settings.iter().map(|setting| match setting {
                NetworkSetting::Mode(mode) => format!("mode={}", mode.as_str()),
                NetworkSetting::Mtu(mtu) => format!("mtu={mtu}"),
                NetworkSetting::Uplink(ifname) => format!("uplink={ifname}"),
            }));
        }
        Request::CtTimeouts(CtTimeouts { settings }) => {
            words.extend(settings.iter().map(|timeout| format!("{}={}", timeout.key, timeout.seconds)));
        }
        _ => {
            let mut arguments = arguments(request).unwrap_or_default();
            let positional: &[&str] = match request.route() {
                ("network", "connect" | "disconnect") => &["network", "port"],
                ("network", "host-port") => &["network"],
                ("policy", "default") => &["from", "to", "action"],
                ("policy", _) => &["action", "rule"],
                _ => &["name", "spec", "seconds"],
            };
            let positional = positional.iter().filter_map(|name| arguments.remove(*name));
            words.extend(positional.map(|value| text(&value)));
            for (name, value) in arguments {
                // The only list among the flags, which is given one by one.
                let flag = if name == "aliases" { "alias".into() } else { name.replace('_', "-") };
                words.push(format!("--{flag}"));
                words.extend((value != Value::Bool(true)).then(|| text(&value)));
            }
        }
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it as one.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The arguments of a request that say something.
fn arguments(request: &Request) -> Result<Map<String, Value>, Error> {
    let failed = |error| Error::failed("configuration", error, "report this");
    let mut arguments: Map<String, Value> = serde_json::from_slice(&request.body()?).map_err(failed)?;
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    arguments.retain(|_, value| !says_nothing(value));
    Ok(arguments)
}

/// `on` and `off` are what `server` is; the others are as on the command line.
fn dhcp_pair(setting: &DhcpSetting) -> (String, Value) {
    let text = setting.to_string();
    text.split_once('=')
        .map_or_else(|| ("server".into(), text.as_str().into()), |(key, value)| (key.into(), scalar(value)))
}

fn pair(setting: &PortSetting) -> (String, Value) {
    let text = setting.to_string();
    let (key, value) = text.split_once('=').unwrap_or((&text, ""));
    (key.to_owned(), scalar(value))
}

/// A word of the command line as a value: a number where it is one.
fn scalar(word: &str) -> Value {
    word.parse::<u32>().map_or_else(|_| word.into(), Value::from)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
