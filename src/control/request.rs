//! What can be asked of a running switch: one typed model for the API, the command line and the tests.
//!
//! A request is a noun, a verb and arguments. Over HTTP it is `POST /v1/NOUN/VERB` with the arguments as a
//! JSON object (`/v1/NOUN` where there is no verb); requests that change nothing and need no argument may be
//! `GET`. `vswitchctl` derives its command line from the same types, so the two cannot drift apart.
//!
//! Everything a client sends passes [`Request::parse`], which yields only values that satisfy their own
//! types: names are names, MTUs and port numbers fit, unknown fields are refused. What depends on the state
//! of the switch (does it exist, is it free) is the business of [`super::apply`].

use clap::Args;
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::name::Name;
use crate::addr::Protocol;

mod networks;
mod policy;
mod ports;
mod publish;
mod tables;
mod uplinks;

pub use networks::{
    NetworkConnect, NetworkCreate, NetworkDhcp, NetworkDisconnect, NetworkHostPort, NetworkSet,
    NetworkSetting, VlanSpec,
};
pub use policy::{PolicyAdd, PolicyCheck, PolicyDefault, PolicyRm};
pub use ports::{Bound, PortAdd, PortInspect, PortSet, PortSetting, Security};
pub use publish::{PublishAdd, PublishRm};
pub use tables::{CtFilter, CtTimeouts, Drops, FdbAdd, FdbAgeing, FdbDel, FdbFlush, FdbShow, TimeoutSetting};
pub use uplinks::{UplinkSet, UplinkSetting};

macro_rules! requests {
    ($($(#[doc = $doc:literal])+ $variant:ident($arguments:ty) = $noun:literal $verb:literal $access:ident,)+) => {
        /// A request.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            $($(#[doc = $doc])+ $variant($arguments),)+
        }

        impl Request {
            /// Noun and verb of every request; the verb is empty where the noun says it all.
            pub const ALL: &'static [(&'static str, &'static str)] = &[$(($noun, $verb),)+];

            /// Reads a request from its noun, its verb and the JSON object of its arguments.
            ///
            /// # Errors
            /// `Usage` for an unknown noun or verb, and for arguments that are not what the verb takes.
            pub fn parse(noun: &str, verb: &str, body: &[u8]) -> Result<Request, Error> {
                match (noun, verb) {
                    $(($noun, $verb) => arguments($noun, $verb, body).map(Request::$variant),)+
                    _ => Err(unknown(noun, verb)),
                }
            }

            /// Reads a request from the words of `vswitchctl NOUN VERB ARGUMENTS...`.
            ///
            /// # Errors
            /// As [`Request::parse`].
            pub fn from_line(line: &str) -> Result<Request, Error> {
                let mut words = line.split_whitespace();
                let noun = words.next().unwrap_or_default();
                let takes_verb = !Request::ALL.contains(&(noun, ""));
                let verb = if takes_verb { words.next().unwrap_or_default() } else { "" };
                match (noun, verb) {
                    $(($noun, $verb) => super::cli::arguments(words).map(Request::$variant),)+
                    _ => Err(unknown(noun, verb)),
                }
            }

            /// Noun and verb.
            pub const fn route(&self) -> (&'static str, &'static str) {
                match self { $(Request::$variant(_) => ($noun, $verb),)+ }
            }

            /// The arguments as a JSON object.
            ///
            /// # Errors
            /// `Failed` if they cannot be written as JSON, which no request of this type is known to cause.
            pub fn body(&self) -> Result<Vec<u8>, Error> {
                let json = match self { $(Request::$variant(arguments) => serde_json::to_vec(arguments),)+ };
                json.map_err(|error| Error::failed("request", error, "report this"))
            }

            /// Whether it leaves everything as it is.
            pub const fn is_read_only(&self) -> bool {
                match self { $(Request::$variant(_) => requests!(@ $access),)+ }
            }
        }
    };
    (@ reads) => { true };
    (@ changes) => { false };
}

requests! {
    /// The switch as a whole.
    Status(NoArguments) = "status" "" reads,
    /// All networks.
    NetworkLs(NoArguments) = "network" "ls" reads,
    /// Make a network.
    NetworkCreate(NetworkCreate) = "network" "create" changes,
    /// Remove a network that has no ports.
    NetworkRm(Remove) = "network" "rm" changes,
    /// Change a network.
    NetworkSet(NetworkSet) = "network" "set" changes,
    /// Give a port an interface on one more network.
    NetworkConnect(NetworkConnect) = "network" "connect" changes,
    /// Take a port's interface on a network away.
    NetworkDisconnect(NetworkDisconnect) = "network" "disconnect" changes,
    /// Give the host an address on a network, or take it away.
    NetworkHostPort(NetworkHostPort) = "network" "host-port" changes,
    /// Everything about one network.
    NetworkInspect(Named) = "network" "inspect" reads,
    /// Show a network's DHCP server, after changing settings of it.
    NetworkDhcp(NetworkDhcp) = "network" "dhcp" changes,
    /// All uplinks.
    UplinkLs(NoArguments) = "uplink" "ls" reads,
    /// Change an uplink.
    UplinkSet(UplinkSet) = "uplink" "set" changes,
    /// All ports.
    PortLs(NoArguments) = "port" "ls" reads,
    /// Attach a namespace, a TAP or a device.
    PortAdd(PortAdd) = "port" "add" changes,
    /// Detach a port.
    PortRm(Remove) = "port" "rm" changes,
    /// Everything about one port.
    PortInspect(PortInspect) = "port" "inspect" reads,
    /// Change settings of a port.
    PortSet(PortSet) = "port" "set" changes,
    /// The forwarding database.
    FdbShow(FdbShow) = "fdb" "show" reads,
    /// Add a static entry.
    FdbAdd(FdbAdd) = "fdb" "add" changes,
    /// Remove an entry.
    FdbDel(FdbDel) = "fdb" "del" changes,
    /// Forget what was learned.
    FdbFlush(FdbFlush) = "fdb" "flush" changes,
    /// Show the ageing time of learned entries, after changing it if one is given.
    FdbAgeing(FdbAgeing) = "fdb" "ageing" changes,
    /// The neighbors (ARP) of all networks and of the uplink.
    NeighShow(NoArguments) = "neigh" "show" reads,
    /// The tracked connections.
    CtLs(CtFilter) = "ct" "ls" reads,
    /// Counts and limits of connection tracking.
    CtStats(NoArguments) = "ct" "stats" reads,
    /// Forget connections.
    CtFlush(CtFilter) = "ct" "flush" changes,
    /// Show timeouts, after changing those that are given.
    CtTimeouts(CtTimeouts) = "ct" "timeouts" changes,
    /// Publish ports of a container on the uplink.
    PublishAdd(PublishAdd) = "publish" "add" changes,
    /// All publications.
    PublishLs(NoArguments) = "publish" "ls" reads,
    /// Take a publication back.
    PublishRm(PublishRm) = "publish" "rm" changes,
    /// Add a rule.
    PolicyAdd(PolicyAdd) = "policy" "add" changes,
    /// All rules, in their order.
    PolicyLs(NoArguments) = "policy" "ls" reads,
    /// Remove a rule.
    PolicyRm(PolicyRm) = "policy" "rm" changes,
    /// Show the defaults of networks, after changing one if it is given.
    PolicyDefault(PolicyDefault) = "policy" "default" changes,
    /// What decides about a connection.
    PolicyCheck(PolicyCheck) = "policy" "check" reads,
    /// The addresses that DHCP clients have.
    DhcpLeases(DhcpLeases) = "dhcp" "leases" reads,
    /// Dropped frames by reason and port.
    Drops(Drops) = "drops" "" reads,
    /// Counters per port and per worker.
    Stats(NoArguments) = "stats" "" reads,
    /// Make the switch what a file says.
    Apply(Apply) = "apply" "" changes,
    /// The file that would make this switch.
    Dump(NoArguments) = "dump" "" reads,
}

fn arguments<T: DeserializeOwned>(noun: &str, verb: &str, body: &[u8]) -> Result<T, Error> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let what = [noun, verb].join(" ");
        let hint =
            format!("send a JSON object of the arguments that vswitchctl {} --help lists", what.trim());
        Error::usage(what.trim(), error, hint)
    })
}

fn unknown(noun: &str, verb: &str) -> Error {
    let cut = |text: &str| text.chars().take(64).collect::<String>();
    let verbs: Vec<_> = Request::ALL.iter().filter(|(n, _)| *n == noun).map(|(_, verb)| *verb).collect();
    if verbs.is_empty() {
        let mut nouns: Vec<_> = Request::ALL.iter().map(|(noun, _)| *noun).collect();
        nouns.dedup();
        return Error::usage(cut(noun), "no such noun", format_args!("one of {}", nouns.join(", ")));
    }
    let hint = if verbs == [""] { "it takes no verb".into() } else { format!("one of {}", verbs.join(", ")) };
    Error::usage(cut(verb), format_args!("no such verb of {noun}"), hint)
}

/// For requests without arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NoArguments {}

/// Names one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name
    pub name: Name,
}

/// Removes one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Its name
    pub name: Name,
    /// Succeed if it does not exist
    #[arg(long)]
    #[serde(default)]
    pub if_exists: bool,
}

/// Chooses leases of DHCP clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct DhcpLeases {
    /// Only this network's
    #[arg(long)]
    pub network: Option<Name>,
    /// Only this port's
    #[arg(long)]
    pub port: Option<Name>,
}

/// Makes the switch what a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The file's text
    pub text: String,
    /// Only say what would change
    #[arg(long)]
    #[serde(default)]
    pub dry_run: bool,
}

/// Reads a prefix in CIDR form.
///
/// # Errors
/// `Usage`.
pub fn parse_subnet(text: &str) -> Result<Ipv4Net, Error> {
    text.parse()
        .map_err(|_| Error::usage(text, "not an IPv4 prefix", "write ADDRESS/LENGTH, like 10.1.0.0/24"))
}

fn parse_protocol(text: &str) -> Result<Protocol, Error> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        _ => Err(Error::usage(text, "no such protocol", "tcp, udp or icmp")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::error::Kind;
    use super::*;
    use crate::snapshot::NetworkMode;

    #[test]
    fn a_request_is_what_its_path_and_body_say() {
        let body = br#"{"name":"web","netns":"red","ip":"172.30.0.9","mac":"02:00:00:00:00:01"}"#;
        let Ok(Request::PortAdd(add)) = Request::parse("port", "add", body) else { panic!() };
        assert_eq!((add.name.as_str(), add.ip), ("web", Some(Ipv4Addr::new(172, 30, 0, 9))));
        assert_eq!((add.network, add.no_address), (None, false));
        let Ok(Request::PortSet(set)) =
            Request::parse("port", "set", br#"{"name":"web","settings":[{"mtu":1400}]}"#)
        else {
            panic!()
        };
        assert_eq!(set.settings, ["mtu=1400".parse().unwrap()]);
        assert_eq!(Request::parse("status", "", b" ").unwrap(), Request::Status(NoArguments {}));
    }

    #[test]
    fn requests_survive_the_way_to_the_server() {
        for (noun, verb, body) in [
            ("network", "create", r#"{"name":"n","subnet":"10.0.0.0/24","mode":"internal","mtu":1400}"#),
            ("port", "rm", r#"{"name":"web","if_exists":true}"#),
            ("ct", "timeouts", r#"{"settings":[{"key":"udp","seconds":30}]}"#),
            ("publish", "add", r#"{"spec":"10.0.0.1:80-81:80-81/udp","to":"web"}"#),
            ("publish", "add", r#"{"spec":"80","to":["web","db"],"lan":true}"#),
            ("publish", "rm", r#"{"spec":"80"}"#),
            (
                "policy",
                "add",
                r#"{"action":"deny","from":"web","to":"lan,host","proto":"tcp","dport":"1-80"}"#,
            ),
            ("policy", "rm", r#"{"rule":3}"#),
            ("policy", "default", r#"{"from":"a","to":"b","action":"allow"}"#),
            ("policy", "check", r#"{"from":"web","to":"internet","proto":"tcp","port":80}"#),
            ("drops", "", r#"{"since":10}"#),
        ] {
            let request = Request::parse(noun, verb, body.as_bytes()).unwrap();
            assert_eq!(request.route(), (noun, verb));
            assert_eq!(Request::parse(noun, verb, &request.body().unwrap()).unwrap(), request);
        }
    }

    #[test]
    fn a_line_and_a_body_are_the_same_request() {
        for (line, noun, verb, body) in [
            (
                "port add web --netns red --no-address",
                "port",
                "add",
                r#"{"name":"web","netns":"red","no_address":true}"#,
            ),
            ("drops --since 10s", "drops", "", r#"{"since":10}"#),
            ("status", "status", "", ""),
            (
                "policy add --before 2 deny --from web --to lan,host --proto tcp --dport 80-90 --name x",
                "policy",
                "add",
                r#"{"action":"deny","before":2,"from":"web","to":"lan,host","proto":"tcp","dport":"80-90","name":"x"}"#,
            ),
            (
                "publish add 8080:80 --to web --to db --lan",
                "publish",
                "add",
                r#"{"spec":"8080:80","to":["web","db"],"lan":true}"#,
            ),
            (
                "policy check --from web --to 10.0.0.1 tcp 80",
                "policy",
                "check",
                r#"{"from":"web","to":"10.0.0.1","proto":"tcp","port":80}"#,
            ),
        ] {
            assert_eq!(Request::from_line(line), Request::parse(noun, verb, body.as_bytes()));
        }
        for wrong in ["policy add frob", "policy default a", "policy default a b", "policy check tcp 80"] {
            assert_eq!(Request::from_line(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
        for wrong in ["", "port", "port frob", "port add", "port rm web web", "status --frob"] {
            assert_eq!(Request::from_line(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn wrong_requests_are_refused_with_something_to_do() {
        for (noun, verb, body, says) in [
            ("frob", "ls", "", "no such noun (one of status, network, uplink, port"),
            ("port", "frob", "", "no such verb of port (one of ls, add, rm"),
            ("status", "ls", "", "it takes no verb"),
            ("port", "add", "{}", "missing field `name`"),
            ("port", "add", r#"{"name":"web","colour":"red"}"#, "unknown field `colour`"),
            ("port", "add", r#"{"name":"web/1"}"#, "not a name"),
            ("port", "add", r#"{"name":"web","mac":"02:00"}"#, "not a MAC address"),
            ("port", "add", r#"{"name":"web","ip":"10.0.0.256"}"#, "port add"),
            ("port", "add", "[", "EOF"),
            ("port", "ls", r#"{"x":1}"#, "unknown field"),
            ("network", "create", r#"{"name":"n","subnet":"10.0.0.0/24","mtu":70000}"#, "70000"),
            ("publish", "add", r#"{"spec":"90-80:1-2","to":"web"}"#, "runs backwards"),
        ] {
            let error = Request::parse(noun, verb, body.as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            assert!(error.to_string().contains(says), "{noun} {verb} {body}: {error}");
        }
    }

    #[test]
    fn the_daemons_network_option_is_a_network() {
        let network: NetworkCreate =
            "lan=10.1.0.0/24,gateway=10.1.0.254,mtu=1400,mode=internal".parse().unwrap();
        assert_eq!(network.gateway, Some(Ipv4Addr::new(10, 1, 0, 254)));
        assert_eq!((network.mtu, network.mode), (Some(1400), Some(NetworkMode::Internal)));
        let bridged: NetworkCreate = "lan=192.168.1.0/24,mode=bridge,uplink=eth1".parse().unwrap();
        assert_eq!((bridged.mode, bridged.uplink), (Some(NetworkMode::Bridge), "eth1".parse().ok()));
        for wrong in
            ["lan", "lan=", "=10.0.0.0/8", "lan=10.1.0.0/24,mtu=x", "lan=10.1.0.0/24,a=b", "lan=10.1.0.0/33"]
        {
            assert!(wrong.parse::<NetworkCreate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_of_a_port_read_as_they_are_written() {
        for (text, json) in [
            ("security=off", r#"{"security":"off"}"#),
            ("storm=2000", r#"{"storm":2000}"#),
            ("broadcast=off", r#"{"broadcast":0}"#),
            ("macs=64", r#"{"macs":64}"#),
            ("moves=off", r#"{"moves":0}"#),
            ("connections=5", r#"{"connections":5}"#),
        ] {
            let setting: PortSetting = text.parse().unwrap();
            assert_eq!(setting.to_string(), text);
            assert_eq!(serde_json::to_string(&setting).unwrap(), json);
            assert_eq!(serde_json::from_str::<PortSetting>(json).unwrap(), setting);
        }
        for wrong in ["security", "security=maybe", "storm=-1", "storm=", "colour=red", "connections=off"] {
            assert_eq!(wrong.parse::<PortSetting>().unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }
}
