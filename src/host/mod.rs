//! The host around the switch: its namespaces, interfaces, routes, packet filter and ports.
//!
//! Everything here acts on the network namespace of the calling thread, unless it is given a
//! [`netns::Netns`]; the calls block for at most some milliseconds each. Nothing changes what it was not
//! told to: the switch touches the devices that it made itself, and one nftables table that bears its name.

pub mod attach;
pub mod bind;
pub mod cores;
mod error;
pub mod guard;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod resolv_conf;
pub mod sockets;
pub mod state;
pub mod user;
pub mod watch;

pub use error::{ErrorKind, HostError};
