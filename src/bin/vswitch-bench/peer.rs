//! Who is compared.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;

use vswitchd::control::error::Error;

use crate::case::{Case, Load, Plane};

/// A kind of switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel's own: bridge and veth for L2, routing with an nft masquerade for NAT.
    Kernel,
    /// Ours.
    Vswitchd,
    /// Open vSwitch with its userspace datapath, on TAPs, with userspace TSO.
    OpenVswitch,
    /// The switch of Virtual Distributed Ethernet, on TAPs.
    Vde,
    /// NAT in userspace for one namespace, by sockets of the host.
    Slirp4netns,
}

impl Kind {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Kernel, Kind::Vswitchd, Kind::OpenVswitch, Kind::Vde, Kind::Slirp4netns];

    /// Its name in tables and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Kernel => "kernel",
            Kind::Vswitchd => "vswitchd",
            Kind::OpenVswitch => "ovs",
            Kind::Vde => "vde",
            Kind::Slirp4netns => "slirp4netns",
        }
    }

    /// Programs that it needs.
    pub(crate) const fn programs(self) -> &'static [&'static str] {
        match self {
            Kind::Kernel => &["nft"],
            Kind::Vswitchd => &[],
            Kind::OpenVswitch => &["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl"],
            Kind::Vde => &["vde_switch", "vde_plug2tap"],
            Kind::Slirp4netns => &["slirp4netns"],
        }
    }

    /// The first of its programs that is not here.
    pub(crate) fn missing(self) -> Option<&'static str> {
        self.programs().iter().copied().find(|program| find(program).is_none())
    }

    /// Whether it can do that at all.
    pub(crate) fn can(self, case: &Case) -> bool {
        match self {
            Kind::Kernel => {
                case.load != Load::Idle && (case.plane == Plane::Switched || self.missing().is_none())
            }
            Kind::Vswitchd => true,
            // Their NAT is a matter of controllers and flow tables, and not the switch's own.
            Kind::OpenVswitch | Kind::Vde => case.plane == Plane::Switched,
            // It serves a single container.
            Kind::Slirp4netns if case.load == Load::Crowded => false,
            Kind::Slirp4netns => case.plane != Plane::Switched || case.load == Load::Idle,
        }
    }
}

/// Where a program is. System programs are not always on the path of ordinary users.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// A switch to be measured: a kind, and for ours, options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// More arguments for `vswitchd`.
    pub(crate) arguments: Vec<String>,
}

impl Peer {
    /// A kind as it is.
    pub(crate) fn plain(kind: Kind) -> Peer {
        Peer { kind, arguments: Vec::new() }
    }

    /// Our switch with one worker.
    pub(crate) fn one_worker() -> Peer {
        Peer { kind: Kind::Vswitchd, arguments: vec!["--workers=1".to_owned()] }
    }

    /// Its name in tables: the kind and its options.
    pub(crate) fn label(&self) -> String {
        let words = std::iter::once(self.kind.name()).chain(self.arguments.iter().map(String::as_str));
        words.collect::<Vec<_>>().join(" ")
    }
}

impl FromStr for Peer {
    type Err = Error;

    /// Reads `KIND` or `vswitchd:OPTION OPTION`.
    fn from_str(text: &str) -> Result<Peer, Error> {
        let (name, arguments) = text.split_once(':').unwrap_or((text, ""));
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
            let known = Kind::ALL.map(Kind::name).join(" ");
            return Err(Error::usage(name, "no such peer", format_args!("one of {known}")));
        };
        if kind != Kind::Vswitchd && !arguments.is_empty() {
            return Err(Error::usage(text, "only vswitchd takes options", "leave them out"));
        }
        Ok(Peer { kind, arguments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_with_their_options() {
        let peer: Peer = "vswitchd:--poll=busy --workers 1".parse().unwrap();
        assert_eq!(peer.kind, Kind::Vswitchd);
        assert_eq!(peer.arguments, ["--poll=busy", "--workers", "1"]);
        assert_eq!(peer.label(), "vswitchd --poll=busy --workers 1");
        assert_eq!("kernel".parse::<Peer>().unwrap(), Peer::plain(Kind::Kernel));
        for wrong in ["", "docker", "kernel:--workers=1"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }
}
