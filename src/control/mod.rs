//! Control: what users ask for, and how it becomes the switch's configuration.
//!
//! ```text
//! vswitchctl ── client ──▶ server ──▶ apply::Control ──▶ Host (devices, guard, workers)
//!   request::Request          │            │
//!   response::Response ◀──────┘            └──▶ Shared::publish (a new Snapshot for the workers)
//! ```
//!
//! [`request`] and [`response`] are the one model of what can be asked and answered; [`server`] and
//! [`client`] carry it over the [`socket`]. [`apply`] owns the names and decides; it reaches the kernel
//! only through the trait [`host::Host`], which is [`linux::LinuxHost`], or [`memory::MemoryHost`] in tests. [`config`]
//! does the same with a whole file.

mod address_book;
mod addresses;
pub mod apply;
#[cfg(test)]
mod apply_tests;
pub mod cli;
pub mod client;
pub mod config;
mod connect;
mod dhcp;
pub mod dhcp_setting;
#[cfg(test)]
mod dhcp_tests;
pub mod error;
pub mod host;
pub mod lan;
#[cfg(test)]
mod lan_tests;
pub mod linux;
pub mod memory;
pub mod name;
#[cfg(test)]
mod network_tests;
mod networks;
mod observe;
mod policies;
mod policy_check;
pub mod policy_spec;
#[cfg(test)]
mod policy_tests;
mod ports;
mod publications;
pub mod publish_spec;
mod records;
pub mod request;
pub mod response;
mod rules;
mod samples;
pub mod server;
mod services;
pub mod socket;
mod subnets;
pub mod table;
pub mod uplink;
mod uplink_lease;
pub mod uplink_spec;
#[cfg(test)]
mod uplink_tests;
#[cfg(test)]
mod vlan_tests;
