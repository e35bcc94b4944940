//! The configuration file: the whole of what can be said to the switch, in one place and in the same words.
//!
//! ```toml
//! uplink = "eth0"                      # the daemon's options, named as on its command line
//!
//! [[network]]                          # vswitchctl network create
//! name = "backend"
//! subnet = "10.1.0.0/24"
//!
//! [[port]]                             # vswitchctl port add
//! name = "web"
//! netns = "web"
//! network = "backend"
//! set = { security = "off" }           # vswitchctl port set
//!
//! [[publish]]                          # vswitchctl publish add
//! spec = "8080:80/tcp"
//! to = "web"
//!
//! [timeouts]                           # vswitchctl ct timeouts
//! udp = 120
//! ```
//!
//! # A file is a list of wishes
//! [`document`] reads a file into [`Wish`]es: requests that would make what the file describes, each with its line.
//! [`dump`] writes the wishes that would make the switch as it is. So there is one model of what can be asked, and
//! what a command understands, a file does.
//!
//! # Applying is a transaction
//! [`transaction`] first performs the wishes on a copy of the books, with a host that agrees to everything it can
//! ([`rehearsal`]). That finds every fault before anything has happened, and writes down the steps that really
//! change something: what is as the file says is not touched, and no frame of it is lost. Only then are these steps
//! done. If the kernel refuses one, the way back is found in the same manner.
//!
//! What the file does not mention is removed. The options at its head cannot change while the switch runs.

#![allow(clippy::wildcard_enum_match_arm, reason = "most requests are no wishes")]

mod document;
mod dump;
mod rehearsal;
#[cfg(test)]
mod tests;
mod transaction;
mod wished;

pub use document::{DaemonOption, Document, Wish, read};
