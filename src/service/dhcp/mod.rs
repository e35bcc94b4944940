//! DHCP (RFC 2131): the server that every network has, and the client that the uplink may have.
//!
//! [`message`] is what goes over the wire, [`pool`] what is remembered, [`server`] what is answered; [`client`] gets
//! the uplink an address of its own.

pub mod client;
pub mod message;
pub mod pool;
pub mod server;
