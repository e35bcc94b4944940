//! What the laboratory shows: stages, each with a world of its own, and the scenarios that play on them.
//!
//! One more scenario is one more file here with a [`Stage`], and a line in [`STAGES`]. Its set-up starts a switch
//! ([`Lab::start`]) and attaches what it needs; its checks tell what they do, and fail with what they saw instead.

use super::world::{Failure, Lab};

mod basics;
mod bridge_uplink;
mod connect;
mod dhcp;
mod dns;
mod host_port;
mod internal;
mod isolation;
mod policy;
mod routed;
mod vlan;

/// All stages, in the order in which they are shown.
pub(super) const STAGES: &[Stage] = &[
    basics::STAGE,
    isolation::STAGE,
    connect::STAGE,
    internal::STAGE,
    routed::STAGE,
    host_port::STAGE,
    bridge_uplink::STAGE,
    policy::STAGE,
    dhcp::STAGE,
    dns::STAGE,
    vlan::STAGE,
];

/// A world, and what is shown in it.
pub(super) struct Stage {
    /// Builds it.
    pub(super) set_up: fn() -> Result<Lab, Failure>,
    /// What is shown, in order.
    pub(super) scenarios: &'static [Scenario],
}

/// Something that a user may want to see.
pub(super) struct Scenario {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// The commands that do the same with docker, brctl or iptables, one a line.
    pub(super) elsewhere: &'static [&'static str],
    /// What is shown, in order.
    pub(super) checks: &'static [Check],
}

/// One thing that is shown.
pub(super) struct Check {
    /// What is claimed, as it stands in the table at the end.
    pub(super) claim: &'static str,
    /// Shows it.
    pub(super) run: fn(&Lab) -> Result<(), Failure>,
}
