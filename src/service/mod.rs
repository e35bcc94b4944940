//! Services of the gateway that need a memory: pure state machines, which the control thread feeds and empties.
//!
//! A service takes what was punted to it ([`crate::shared::Punts`]), the time, and what control knows about the
//! network and the port, and answers with frames to send. It reads no clock and opens no socket, so a test drives it
//! as control does.

pub mod datagram;
pub mod dhcp;
