//! Control: what users ask for, and how it becomes the switch's configuration.
//!
//! [`request`] and [`response`] are the one model of what can be asked and answered; [`server`] and
//! [`client`] carry it over the [`socket`].

pub mod client;
pub mod error;
pub mod name;
pub mod publish_spec;
pub mod request;
pub mod response;
pub mod server;
pub mod socket;
pub mod table;
