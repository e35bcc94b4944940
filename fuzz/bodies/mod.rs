//! What the fuzz targets do with an input.
//!
//! Each body is used twice: by its fuzz target, which makes inputs up, and by `tests/fuzz_seeds.rs`, which
//! replays the committed seeds and every input that once found a fault. A body states what must hold for
//! all inputs and panics where it does not.

// Each target uses one of them.
#![allow(dead_code, unreachable_pub)]

pub mod coalesce;
pub mod config;
pub mod conntrack;
pub mod control;
pub mod dhcp;
pub mod dns;
pub mod flows;
pub mod networks;
pub mod speech;
pub mod switch;
pub mod wire;

/// An input, read from its beginning to its end.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// The next two bytes, in network order.
    pub fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// The next `len` bytes, or what is left of them.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}
