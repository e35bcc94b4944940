//! What is measured, and what each figure has to be.
//!
//! Every number here that a figure is held against is a promise of the project; a missed one is shown as
//! missed.

use std::time::Duration;

use crate::peer::Kind;

/// Which way the traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    /// From container to container, switched.
    Switched,
    /// From a container to a host behind the uplink, masqueraded.
    Outwards,
    /// From a host behind the uplink to a container's published port.
    Inwards,
}

/// How a flood's datagrams are spread over flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flows {
    /// All are of one flow.
    One,
    /// Of 16 flows, 32 of one after 32 of another.
    Bursts,
    /// Of 16 flows, each datagram of another flow than the one before.
    Mixed,
    /// Of 2,048 flows, in turn: no two in reach of each other are of one flow.
    Scattered,
}

/// Where the two ends of a ping-pong run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cores {
    /// Each on a core of its own.
    Two,
    /// Both on the first.
    One,
}

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// TCP, as much as goes through this many connections at a time.
    Bulk { streams: usize },
    /// UDP datagrams with this many bytes, sent by one thread as fast as it can.
    Flood { payload: usize, flows: Flows },
    /// TCP connections, opened and closed one after the other by four clients.
    Connections,
    /// UDP datagrams, each the first and only one of its flow.
    NewFlows,
    /// TCP connections, one after the other, while another container opens 70,000 UDP flows.
    Crowded,
    /// One datagram there and back, then the next.
    PingPong { cores: Cores },
    /// One byte there and back over TCP, then the next.
    RequestResponse { cores: Cores },
    /// Nothing.
    Idle,
}

/// Whether more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

impl Load {
    /// The unit of its figure.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Load::Bulk { .. } => "Gbit/s",
            Load::Flood { .. } => "k datagrams/s",
            Load::Connections => "k connections/s",
            Load::NewFlows => "k flows/s",
            Load::Crowded => "times the p99 without",
            Load::PingPong { .. } | Load::RequestResponse { .. } => "us p50",
            Load::Idle => "% of a core",
        }
    }

    /// What CPU-seconds are counted by.
    pub(crate) fn work(self) -> &'static str {
        match self {
            Load::Bulk { .. } => "GB",
            Load::Flood { .. } => "M datagrams",
            Load::Connections => "k connections",
            Load::NewFlows => "M flows",
            Load::Crowded => "k connections",
            Load::PingPong { .. } | Load::RequestResponse { .. } => "M round trips",
            Load::Idle => "s",
        }
    }

    /// Which way its figure should go.
    pub(crate) fn better(self) -> Better {
        match self {
            Load::Bulk { .. } | Load::Flood { .. } | Load::Connections | Load::NewFlows => Better::Higher,
            Load::Crowded | Load::PingPong { .. } | Load::RequestResponse { .. } | Load::Idle => {
                Better::Lower
            }
        }
    }

    /// Whether it leaves connections behind that the next run has to be rid of.
    pub(crate) fn fills_conntrack(self) -> bool {
        matches!(self, Load::Connections | Load::NewFlows | Load::Crowded)
    }

    /// Whether workers of the switch can get into each other's way: then one worker is measured as well.
    pub(crate) fn compares_workers(self) -> bool {
        matches!(self, Load::Flood { .. })
    }
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// The median of this peer.
    Peer(Kind),
    /// The median of our own switch with one worker.
    OneWorker,
    /// The p50 of the same runs, for their p99.
    P50,
    /// Nothing: the figure itself is bounded.
    Nothing,
}

/// A bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// Whether it holds.
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        }
    }
}

/// What our own switch has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    pub(crate) against: Against,
    pub(crate) bound: Bound,
}

/// A workload on a way through the switch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Case {
    /// Short, and unique; `--only` looks in it.
    pub(crate) name: &'static str,
    /// In words.
    pub(crate) what: &'static str,
    pub(crate) plane: Plane,
    pub(crate) load: Load,
    pub(crate) targets: &'static [Target],
}

/// How long a run is, before and while it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

const fn kernel(least: f64) -> Target {
    Target { against: Against::Peer(Kind::Kernel), bound: Bound::AtLeast(least) }
}

const fn kernel_at_most(most: f64) -> Target {
    Target { against: Against::Peer(Kind::Kernel), bound: Bound::AtMost(most) }
}

/// A second worker must not cost anything; what two runs of the same differ by is let pass.
const WORKERS: Target = Target { against: Against::OneWorker, bound: Bound::AtLeast(0.97) };
const TAIL: Target = Target { against: Against::P50, bound: Bound::AtMost(2.0) };
const OVS: Target = Target { against: Against::Peer(Kind::OpenVswitch), bound: Bound::AtLeast(1.15) };
const VDE: Target = Target { against: Against::Peer(Kind::Vde), bound: Bound::AtLeast(10.0) };
const NEIGHBOR: Target = Target { against: Against::Nothing, bound: Bound::AtMost(2.0) };
const IDLE: Target = Target { against: Against::Nothing, bound: Bound::AtMost(1.0) };

/// All of them, in the order of the table.
pub(crate) const CASES: &[Case] = {
    use Cores::{One as SameCore, Two as TwoCores};
    use Flows::{Bursts, Mixed, One, Scattered};
    use Load::{Bulk, Connections, Crowded, Flood, Idle, NewFlows, PingPong, RequestResponse};
    use Plane::{Inwards, Outwards, Switched};
    const fn case(
        name: &'static str,
        what: &'static str,
        plane: Plane,
        load: Load,
        targets: &'static [Target],
    ) -> Case {
        Case { name, what, plane, load, targets }
    }
    &[
        case("l2/tcp/1", "TCP, 1 stream", Switched, Bulk { streams: 1 }, &[kernel(0.9), OVS, VDE]),
        case("l2/tcp/4", "TCP, 4 streams", Switched, Bulk { streams: 4 }, &[kernel(0.8)]),
        case(
            "l2/udp18/1",
            "UDP 18 B, 1 flow",
            Switched,
            Flood { payload: 18, flows: One },
            &[kernel(2.2), WORKERS],
        ),
        case(
            "l2/udp18/bursts",
            "UDP 18 B, 16 flows in bursts of 32",
            Switched,
            Flood { payload: 18, flows: Bursts },
            &[kernel(2.0), WORKERS],
        ),
        case(
            "l2/udp18/mixed",
            "UDP 18 B, 16 flows datagram by datagram",
            Switched,
            Flood { payload: 18, flows: Mixed },
            &[kernel(1.4), WORKERS],
        ),
        case(
            "l2/udp18/scattered",
            "UDP 18 B, every one of another flow",
            Switched,
            Flood { payload: 18, flows: Scattered },
            &[kernel(1.4), WORKERS],
        ),
        case(
            "l2/udp1400/1",
            "UDP 1400 B, 1 flow",
            Switched,
            Flood { payload: 1400, flows: One },
            &[kernel(1.8), WORKERS],
        ),
        case(
            "l2/udp1400/bursts",
            "UDP 1400 B, 16 flows in bursts of 32",
            Switched,
            Flood { payload: 1400, flows: Bursts },
            &[WORKERS],
        ),
        case(
            "l2/rr-udp/2-cores",
            "UDP ping-pong, ends on two cores",
            Switched,
            PingPong { cores: TwoCores },
            &[kernel_at_most(0.8), TAIL],
        ),
        case(
            "l2/rr-udp/1-core",
            "UDP ping-pong, both ends on one core",
            Switched,
            PingPong { cores: SameCore },
            &[kernel_at_most(2.2), TAIL],
        ),
        case(
            "l2/rr-tcp/2-cores",
            "TCP request and response, ends on two cores",
            Switched,
            RequestResponse { cores: TwoCores },
            &[],
        ),
        case(
            "l2/rr-tcp/1-core",
            "TCP request and response, both ends on one core",
            Switched,
            RequestResponse { cores: SameCore },
            &[],
        ),
        case("nat/tcp-out/1", "TCP outwards, 1 stream", Outwards, Bulk { streams: 1 }, &[kernel(0.9)]),
        case("nat/tcp-out/4", "TCP outwards, 4 streams", Outwards, Bulk { streams: 4 }, &[]),
        case(
            "nat/tcp-in/1",
            "TCP to a published port, 1 stream",
            Inwards,
            Bulk { streams: 1 },
            &[kernel(0.8)],
        ),
        case("nat/tcp-in/4", "TCP to a published port, 4 streams", Inwards, Bulk { streams: 4 }, &[]),
        case(
            "nat/udp18/1",
            "UDP 18 B outwards, 1 flow",
            Outwards,
            Flood { payload: 18, flows: One },
            &[kernel(2.5), WORKERS],
        ),
        case(
            "nat/udp18/bursts",
            "UDP 18 B outwards, 16 flows in bursts of 32",
            Outwards,
            Flood { payload: 18, flows: Bursts },
            &[kernel(2.0), WORKERS],
        ),
        case(
            "nat/udp18/mixed",
            "UDP 18 B outwards, 16 flows datagram by datagram",
            Outwards,
            Flood { payload: 18, flows: Mixed },
            &[kernel(1.4), WORKERS],
        ),
        case(
            "nat/udp18/scattered",
            "UDP 18 B outwards, every one of another flow",
            Outwards,
            Flood { payload: 18, flows: Scattered },
            &[kernel(1.4), WORKERS],
        ),
        case(
            "nat/udp1400/1",
            "UDP 1400 B outwards, 1 flow",
            Outwards,
            Flood { payload: 1400, flows: One },
            &[kernel(1.8), WORKERS],
        ),
        case(
            "nat/udp18-in/1",
            "UDP 18 B to a published port, 1 flow",
            Inwards,
            Flood { payload: 18, flows: One },
            &[WORKERS],
        ),
        case("nat/connections", "new TCP connections outwards", Outwards, Connections, &[kernel(0.95)]),
        case(
            "nat/crowded",
            "new TCP connections outwards beside 70,000 flows of a neighbor",
            Outwards,
            Crowded,
            &[NEIGHBOR],
        ),
        case("nat/flows", "UDP flows of one datagram outwards", Outwards, NewFlows, &[kernel(1.5)]),
        case(
            "nat/rr-udp/2-cores",
            "UDP ping-pong outwards, ends on two cores",
            Outwards,
            PingPong { cores: TwoCores },
            &[kernel_at_most(0.8), TAIL],
        ),
        case(
            "nat/rr-udp/1-core",
            "UDP ping-pong outwards, both ends on one core",
            Outwards,
            PingPong { cores: SameCore },
            &[TAIL],
        ),
        case("idle", "CPU time of the switch while nothing happens", Switched, Idle, &[IDLE]),
    ]
};

/// The cases whose names contain one of the comma-separated words of `filter`.
pub(crate) fn chosen(filter: Option<&str>) -> Vec<&'static Case> {
    let wanted =
        |case: &&Case| filter.is_none_or(|words| words.split(',').any(|word| case.name.contains(word)));
    CASES.iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        assert_eq!(chosen(None).len(), CASES.len());
        let found: Vec<_> = chosen(Some("l2/tcp/1,idle")).iter().map(|case| case.name).collect();
        assert_eq!(found, ["l2/tcp/1", "idle"]);
        assert!(chosen(Some("nonsense")).is_empty());
    }

    #[test]
    fn bounds_include_their_value() {
        assert!(Bound::AtLeast(0.9).holds(0.9) && !Bound::AtLeast(0.9).holds(0.89));
        assert!(Bound::AtMost(2.0).holds(2.0) && !Bound::AtMost(2.0).holds(2.01));
    }
}
