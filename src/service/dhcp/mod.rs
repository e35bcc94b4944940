//! DHCP (RFC 2131): the server that every network has.
//!
//! [`message`] is what goes over the wire, [`pool`] what is remembered, [`server`] what is answered.

pub mod message;
pub mod pool;
pub mod server;
