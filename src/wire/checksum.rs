//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A sum is kept unfolded in 64 bits, so that adding never needs care; [`fold`] brings it to 16 bits.
//! A [`Delta`] is the sum of `~old + new` over all words that change. The same delta updates a finished
//! checksum (RFC 1624 equation 3, `HC' = ~(~HC + ~m + m')`) and the not inverted pseudo-header sum of a
//! partial one.

use std::net::Ipv4Addr;

/// The ones'-complement sum of `bytes` as 16-bit words in network order, not folded. An odd last byte is
/// padded with zero.
pub fn sum(bytes: &[u8]) -> u64 {
    // Words are added in native order four bytes at a time and swapped once at the end: the sum is
    // independent of byte order (RFC 1071 section 2 B).
    let mut total: u64 = 0;
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for word in chunk.as_chunks::<4>().0 {
            total += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, rest) = chunks.remainder().as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u64::from(u16::from_be(fold(total)))
}

/// Folds a sum to 16 bits.
#[allow(clippy::cast_possible_truncation)] // the loop leaves 16 bits
pub const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of `bytes`: the inverted, folded sum. Over bytes that contain their own right checksum it
/// is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The sum of the IPv4 pseudo-header (RFC 793 3.1, RFC 768).
pub fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: usize) -> u64 {
    sum(&src.octets()) + sum(&dst.octets()) + u64::from(protocol) + length as u64
}

/// What a change of header words does to a checksum over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    pub const NONE: Delta = Delta(0);

    /// A 16-bit word changes from `old` to `new`.
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Delta {
        Delta(self.0 + !old as u64 + new as u64)
    }

    /// An address changes from `old` to `new`.
    #[must_use]
    pub fn address(self, old: Ipv4Addr, new: Ipv4Addr) -> Delta {
        let [a, b, c, d] = old.octets();
        let [e, f, g, h] = new.octets();
        self.word(u16::from_be_bytes([a, b]), u16::from_be_bytes([e, f]))
            .word(u16::from_be_bytes([c, d]), u16::from_be_bytes([g, h]))
    }

    /// Both changes.
    #[must_use]
    pub const fn and(self, other: Delta) -> Delta {
        Delta(self.0 + other.0)
    }

    /// The finished checksum after the change (RFC 1624 equation 3).
    pub const fn update(self, checksum: u16) -> u16 {
        !fold(!checksum as u64 + self.0)
    }

    /// The pseudo-header sum of a partial checksum after the change.
    pub const fn update_partial(self, sum: u16) -> u16 {
        fold(sum as u64 + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 as written: 16 bits at a time.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives HC' = 0x0000, where RFC 1141 gave 0xFFFF.
        assert_eq!(Delta::NONE.word(0x5555, 0x3285).update(0xdd2f), 0x0000);
    }

    #[test]
    fn every_value_of_one_word_updates_right() {
        let mut packet = [0x45, 0, 0, 20, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let before = checksum(&packet);
        for new in 0..=u16::MAX {
            packet[12..14].copy_from_slice(&new.to_be_bytes());
            assert_eq!(Delta::NONE.word(0x0a00, new).update(before), checksum(&packet), "{new:#x}");
        }
    }

    proptest! {
        #[test]
        fn sums_agree_with_the_reference(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(checksum(&bytes), reference(&bytes));
        }

        #[test]
        fn a_partial_sum_stays_the_pseudo_headers(old: u32, new: u32, dst: u32, length in 0usize..65536) {
            let (old, new, dst) = (Ipv4Addr::from_bits(old), Ipv4Addr::from_bits(new), Ipv4Addr::from_bits(dst));
            let before = fold(pseudo_header(old, dst, 6, length));
            let after = fold(pseudo_header(new, dst, 6, length));
            prop_assert_eq!(Delta::NONE.address(old, new).update_partial(before), after);
        }
    }
}
