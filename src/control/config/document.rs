//! Reading: from TOML to wishes, with all that is wrong and where.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::control::apply::DEFAULT_NETWORK;
use crate::control::error::{Error, Kind};
use crate::control::name::Name;
use crate::control::request::{
    CtTimeouts, FdbAgeing, NetworkConnect, NetworkCreate, NetworkDhcp, NetworkHostPort, PolicyAdd,
    PolicyDefault, PortAdd, PortSet, PublishAdd, Request, TimeoutSetting,
};
use crate::control::response::Fault;
use crate::control::uplink_spec::UplinkSpec;

/// What a line of the file asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The line, counted from 1; 0 for a wish that stands in no file.
    pub line: usize,
    /// A request that makes or sets something.
    pub request: Request,
}

/// An option of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonOption {
    /// Its line.
    pub line: usize,
    /// Its name, as the command line has it without the dashes in front, and `_` for those in it.
    pub name: String,
    /// Its value; empty for a switch that takes none.
    pub value: String,
}

/// A file that was read.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// The options at its head.
    pub options: Vec<DaemonOption>,
    /// What it asks for, in the order in which it can be done.
    pub wishes: Vec<Wish>,
    /// Everything that is wrong with it.
    pub faults: Vec<Fault>,
    /// Whether there is nothing in it at all, not even something wrong.
    pub is_empty: bool,
}

impl Document {
    /// Why it cannot take the place of what there is, if it cannot: a file that was lost on its way, as an empty pipe,
    /// does not mean that all is to go.
    pub fn refuse_empty(&self) -> Option<Fault> {
        let why = "is empty, and would remove everything";
        let error = Error::usage("configuration", why, "name what is to stay, like a [[network]]");
        self.is_empty.then_some(Fault { line: 1, error })
    }
}

/// The sections of a file.
const SECTIONS: &str = "network, port, connect, host_port, publish, policy, policy_default, timeouts and fdb";

/// A table of the file, or a value.
type Item<'a> = Spanned<DeValue<'a>>;

/// Reads a file. What is wrong with it is in the document.
pub fn read(text: &str) -> Document {
    let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at).collect();
    let last = text.len().saturating_sub(1);
    let mut reader = Reader { ends, last, document: Document::default(), seen: BTreeMap::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = reader.line(&error.span().unwrap_or_default());
        reader.fault(line, Error::usage("TOML", error.message(), "see https://toml.io"));
    }
    reader.document.is_empty = errors.is_empty() && root.get_ref().is_empty();
    if errors.is_empty() {
        reader.root(root.into_inner());
    }
    let mut document = reader.document;
    document.wishes.sort_by_cached_key(|wish| turn(&wish.request));
    document.faults.sort_by_key(|fault| fault.line);
    document
}

/// When a wish can be fulfilled: after those that it builds on.
fn turn(wish: &Request) -> usize {
    const ORDER: &[(&str, &str)] = &[
        ("network", "create"),
        ("network", "dhcp"),
        ("port", "add"),
        ("network", "connect"),
        ("network", "host-port"),
        ("port", "set"),
        ("publish", "add"),
    ];
    ORDER.iter().position(|route| *route == wish.route()).unwrap_or(ORDER.len())
}

struct Reader {
    /// Where the lines end.
    ends: Vec<usize>,
    /// The last byte.
    last: usize,
    document: Document,
    /// Where each thing was named first.
    seen: BTreeMap<(&'static str, String), usize>,
}

impl Reader {
    fn root(&mut self, root: DeTable<'_>) {
        for (key, value) in root {
            let line = self.line(&key.span());
            match key.get_ref().as_ref() {
                "network" => self.each("network", value, Reader::network),
                "port" => self.each("port", value, Reader::port),
                "connect" => self.each("connect", value, Reader::connect),
                "host_port" => self.each("host_port", value, |reader, line, item| {
                    let host_port: NetworkHostPort = reader.arguments("network host-port", item)?;
                    reader.once("host_port", host_port.network.to_string(), line)?;
                    reader.wish(line, Request::NetworkHostPort(host_port));
                    Some(())
                }),
                "publish" => self.each("publish", value, |reader, line, item| {
                    let publication: PublishAdd = reader.arguments("publish add", item)?;
                    reader.once("publish", publication.spec.to_string(), line)?;
                    reader.wish(line, Request::PublishAdd(publication));
                    Some(())
                }),
                "policy" => self.each("policy", value, |reader, line, item| {
                    let rule: PolicyAdd = reader.arguments("policy add", item)?;
                    if rule.before.is_some() {
                        let error =
                            Error::usage("before", "rules stand in their order in a file", "leave it out");
                        reader.fault(line, error);
                    }
                    reader.wish(line, Request::PolicyAdd(rule));
                    Some(())
                }),
                "policy_default" => self.each("policy_default", value, |reader, line, item| {
                    let default: PolicyDefault = reader.arguments("policy default", item)?;
                    let pair =
                        [&default.from, &default.to].map(|name| name.as_ref().map_or("", Name::as_str));
                    reader.once("policy_default", pair.join(" "), line)?;
                    reader.wish(line, Request::PolicyDefault(default));
                    Some(())
                }),
                "timeouts" => self.timeouts(value),
                "fdb" => {
                    if let Some(ageing) = self.arguments::<Fdb>("fdb", value).map(|fdb| fdb.ageing) {
                        self.wish(line, Request::FdbAgeing(FdbAgeing { seconds: Some(ageing) }));
                    }
                }
                "uplink" => self.uplinks(line, value),
                name => self.option(line, name, value.get_ref()),
            }
        }
    }

    /// One uplink or several, each as the command line has it or as a table.
    fn uplinks(&mut self, line: usize, value: Item<'_>) {
        let DeValue::Array(items) = value.get_ref() else { return self.uplink(line, value.get_ref()) };
        for item in items {
            let line = self.line(&item.span());
            self.uplink(line, item.get_ref());
        }
    }

    /// An uplink: `name`, and what there is of `mode`, `address` and `gateway`.
    fn uplink(&mut self, line: usize, value: &DeValue<'_>) {
        let spec = match value {
            DeValue::Table(table) => {
                let name = table.get("name").and_then(|name| word(name.get_ref())).unwrap_or_default();
                let others = table.iter().filter(|(key, _)| key.get_ref() != "name");
                let fields =
                    others.map(|(key, value)| Some(format!(",{}={}", key.get_ref(), word(value.get_ref())?)));
                fields.collect::<Option<String>>().map(|fields| name + &fields)
            }
            _ => word(value),
        };
        match spec.ok_or_else(not_a_word).and_then(|spec| spec.parse::<UplinkSpec>()) {
            Ok(uplink) => {
                let option = DaemonOption { line, name: "uplink".to_owned(), value: uplink.to_string() };
                self.document.options.push(option);
            }
            Err(error) => self.fault(line, error),
        }
    }

    /// Each table of an array of them.
    fn each(
        &mut self,
        section: &str,
        value: Item<'_>,
        mut read: impl FnMut(&mut Self, usize, Item<'_>) -> Option<()>,
    ) {
        let line = self.line(&value.span());
        let DeValue::Array(items) = value.into_inner() else {
            let hint = format!("write [[{section}]]");
            return self.fault(line, Error::usage(section, "there may be several", hint));
        };
        for item in items {
            let line = self.line(&item.span());
            read(self, line, item);
        }
    }

    fn network(&mut self, line: usize, item: Item<'_>) -> Option<()> {
        let (item, dhcp) = without(item, "dhcp");
        let (item, settings) = without(item, "set");
        let network: NetworkCreate = self.arguments("network create", item)?;
        self.once("network", network.name.to_string(), line)?;
        self.uplink_settings(line, &network, settings);
        if let Some(dhcp) = dhcp {
            let line = self.line(&dhcp.span());
            let settings = self.pairs("dhcp", dhcp, |key, value| match key {
                "server" => value.parse(),
                _ => format!("{key}={value}").parse(),
            });
            if let Some(settings) = settings {
                let name = network.name.clone();
                self.wish(line, Request::NetworkDhcp(NetworkDhcp { name, settings }));
            }
        }
        self.wish(line, Request::NetworkCreate(network));
        Some(())
    }

    /// The settings of the interface that a network is bridged to.
    fn uplink_settings(&mut self, line: usize, network: &NetworkCreate, settings: Option<Item<'_>>) {
        let Some(settings) = settings else { return };
        match network.uplink.as_ref().map(|ifname| ifname.as_str().parse()) {
            Some(Ok(name)) => self.settings(&name, Some(network.name.clone()), Some(settings)),
            Some(Err(error)) => self.fault(line, error),
            None => {
                let why = "are those of the interface that a network is bridged to";
                self.fault(line, Error::usage("set", why, "name it: uplink = \"IFACE\""));
            }
        }
    }

    fn port(&mut self, line: usize, item: Item<'_>) -> Option<()> {
        let (item, settings) = without(item, "set");
        let mut add: PortAdd = self.arguments("port add", item)?;
        self.once("port", add.name.to_string(), line)?;
        for connect in add.vlans().collect::<Vec<_>>() {
            if self.once("connect", format!("{} {}", connect.network, connect.port), line).is_some() {
                self.wish(line, Request::NetworkConnect(connect));
            }
        }
        add.vlans.clear();
        let network = add.network.clone().map_or_else(|| DEFAULT_NETWORK.parse().ok(), Some);
        self.settings(&add.name, network, settings);
        self.wish(line, Request::PortAdd(add));
        Some(())
    }

    fn connect(&mut self, line: usize, item: Item<'_>) -> Option<()> {
        let (item, settings) = without(item, "set");
        let connect: NetworkConnect = self.arguments("network connect", item)?;
        self.once("connect", format!("{} {}", connect.network, connect.port), line)?;
        self.settings(&connect.port, Some(connect.network.clone()), settings);
        self.wish(line, Request::NetworkConnect(connect));
        Some(())
    }

    /// The settings of a port's interface on a network.
    fn settings(&mut self, name: &Name, network: Option<Name>, settings: Option<Item<'_>>) {
        let Some(settings) = settings else { return };
        let line = self.line(&settings.span());
        let settings = self.pairs("set", settings, |key, value| format!("{key}={value}").parse());
        if let Some(settings) = settings {
            self.wish(line, Request::PortSet(PortSet { name: name.clone(), network, settings }));
        }
    }

    fn timeouts(&mut self, value: Item<'_>) {
        let line = self.line(&value.span());
        let settings =
            self.pairs("timeouts", value, |key, value| format!("{key}={value}").parse::<TimeoutSetting>());
        if let Some(settings) = settings {
            self.wish(line, Request::CtTimeouts(CtTimeouts { settings }));
        }
    }

    /// The entries of a table, which are written as `KEY=VALUE` on the command line.
    fn pairs<T>(
        &mut self,
        section: &str,
        value: Item<'_>,
        parse: impl Fn(&str, &str) -> Result<T, Error>,
    ) -> Option<Vec<T>> {
        let line = self.line(&value.span());
        let DeValue::Table(table) = value.into_inner() else {
            self.fault(line, Error::usage(section, "not a table", "write KEY = VALUE in it"));
            return None;
        };
        let mut parsed = Vec::new();
        for (key, value) in table {
            match word(value.get_ref()).ok_or_else(not_a_word).and_then(|value| parse(key.get_ref(), &value))
            {
                Ok(pair) => parsed.push(pair),
                Err(error) => {
                    let line = self.line(&key.span());
                    self.fault(line, error);
                }
            }
        }
        Some(parsed)
    }

    fn option(&mut self, line: usize, name: &str, value: &DeValue<'_>) {
        let is_section = value.is_table() || value.as_array().is_some();
        match word(value) {
            _ if is_section => {
                self.fault(line, Error::usage(name, "no such section", format_args!("there are {SECTIONS}")));
            }
            None => self.fault(line, Error::usage(name, "not a value for an option", "write a string")),
            // A switch that is not thrown.
            Some(value) if name.starts_with("no_") && value == "off" => {}
            Some(value) => {
                let value = if name.starts_with("no_") { String::new() } else { value };
                self.document.options.push(DaemonOption { line, name: name.to_owned(), value });
            }
        }
    }

    /// The arguments of a request.
    fn arguments<T: DeserializeOwned>(&mut self, section: &str, item: Item<'_>) -> Option<T> {
        let span = item.span();
        match T::deserialize(ValueDeserializer::from(item)) {
            Ok(arguments) => Some(arguments),
            Err(error) => {
                let line = self.line(&error.span().unwrap_or(span));
                // Our own types say themselves what to do.
                let says_it = error.message().ends_with(')');
                let hint = if says_it { String::new() } else { format!("see vswitchctl {section} --help") };
                self.fault(line, Error::usage(section, error.message(), hint));
                None
            }
        }
    }

    /// Whether nothing else of this name stands in the file.
    fn once(&mut self, noun: &'static str, name: String, line: usize) -> Option<()> {
        if let Some(first) = self.seen.get(&(noun, name.clone())) {
            let why = format!("stands in line {first} already");
            self.fault(line, Error::new(Kind::Exists, format_args!("{noun} {name}"), why, "leave one out"));
            return None;
        }
        self.seen.insert((noun, name), line);
        Some(())
    }

    fn wish(&mut self, line: usize, request: Request) {
        self.document.wishes.push(Wish { line, request });
    }

    fn fault(&mut self, line: usize, error: Error) {
        self.document.faults.push(Fault { line, error });
    }

    /// The line of what begins there. What is missing at the end is missing in the last one.
    fn line(&self, span: &Range<usize>) -> usize {
        let at = span.start.min(self.last);
        1 + self.ends.partition_point(|&end| end < at)
    }
}

/// A table without an entry, and the entry.
fn without<'a>(item: Item<'a>, entry: &str) -> (Item<'a>, Option<Item<'a>>) {
    let span = item.span();
    let (value, settings) = match item.into_inner() {
        DeValue::Table(mut table) => {
            let settings = table.remove(entry);
            (DeValue::Table(table), settings)
        }
        other => (other, None),
    };
    (Spanned::new(span, value), settings)
}

/// The section `fdb`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Fdb {
    ageing: u32,
}

/// A value as the command line has it.
fn word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => (number.radix() == 10).then(|| number.as_str().replace('_', "")),
        DeValue::Boolean(true) => Some("on".into()),
        DeValue::Boolean(false) => Some("off".into()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn not_a_word() -> Error {
    Error::usage("value", "neither a string nor a whole number", "write it as on the command line")
}
