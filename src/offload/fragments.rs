//! Cutting a datagram into fragments (RFC 791 3.2), in the order of their offsets.
//!
//! The first fragment has the datagram's header, the later ones what of its options is to be copied. All have
//! its identification, and DF if its sender had set that on fragments of his own making. All but the last have
//! as many bytes as fit, a multiple of eight.

use crate::frame::{BadOffload, Frame};
use crate::wire::ethernet::Ethernet;
use crate::wire::ipv4::{self, HEADER_MAX, Ipv4};

/// The fragments of a datagram.
#[derive(Debug)]
pub struct Fragments<'a> {
    link: &'a [u8],
    /// The header of the fragment that is next.
    header: [u8; HEADER_MAX],
    header_len: usize,
    /// The header of those behind it.
    later: [u8; HEADER_MAX],
    later_len: usize,
    /// Payload that has not been cut off yet.
    rest: &'a [u8],
    /// Payload that has been.
    offset: usize,
    size: usize,
}

impl<'a> Fragments<'a> {
    /// Gets ready to cut the datagram in `frame`, whose checksums are in place, into packets of at most `size`
    /// bytes.
    ///
    /// # Errors
    /// [`BadOffload`] if it is not a whole IPv4 packet, or a packet of that size has no room for its header and
    /// eight bytes.
    pub fn of(frame: &'a Frame, size: usize) -> Result<Self, BadOffload> {
        let eth = Ethernet::parse(frame.bytes()).map_err(|_| BadOffload)?;
        let (link, packet) = frame.bytes().split_at_checked(eth.len).ok_or(BadOffload)?;
        let ip = Ipv4::parse(packet).map_err(|_| BadOffload)?;
        if ip.is_fragment || size < ip.header_len + 8 {
            return Err(BadOffload);
        }
        let (first, rest) = packet[..ip.total_len].split_at(ip.header_len);
        let (mut header, mut later) = ([0; HEADER_MAX], [0; HEADER_MAX]);
        header[..first.len()].copy_from_slice(first);
        let later_len = ipv4::later_header(first, &mut later);
        Ok(Fragments { link, header, header_len: ip.header_len, later, later_len, rest, offset: 0, size })
    }

    /// Puts the next fragment into `packet`. Says whether there was one; what fits is one packet and no
    /// fragment.
    pub fn next_into(&mut self, packet: &mut Frame) -> bool {
        if self.offset > 0 && self.rest.is_empty() {
            return false;
        }
        let room = self.size - self.header_len;
        let len = if self.rest.len() > room { room - room % 8 } else { self.rest.len() };
        let payload;
        (payload, self.rest) = self.rest.split_at(len);
        packet.clear();
        let appended = packet.append(self.link)
            && packet.append(&self.header[..self.header_len])
            && packet.append(payload);
        debug_assert!(appended, "a part of a frame fits a frame");
        let ip = &mut packet.bytes_mut()[self.link.len()..];
        ipv4::make_fragment(ip, self.header_len, self.offset, !self.rest.is_empty());
        self.offset += len.max(1);
        (self.header, self.header_len) = (self.later, self.later_len);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Offload;
    use crate::wire::{be16, ethernet};
    use proptest::prelude::*;

    /// A datagram of numbered bytes with these options.
    fn datagram(options: &[u8], payload: usize) -> Frame {
        let header_len = ipv4::HEADER_LEN + options.len();
        let mut bytes = vec![0; ethernet::HEADER_LEN + header_len + payload];
        bytes[12] = 0x08;
        let packet = &mut bytes[ethernet::HEADER_LEN..];
        let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        ipv4::write(packet, src, dst, ipv4::UDP, 64, options.len() + payload);
        packet[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
        packet[4..6].copy_from_slice(&[0x12, 0x34]);
        packet[ipv4::HEADER_LEN..header_len].copy_from_slice(options);
        ipv4::make_whole(packet, header_len, false, false);
        for (n, byte) in packet[header_len..].iter_mut().enumerate() {
            *byte = u8::try_from(n % 251).unwrap();
        }
        let mut frame = Frame::new();
        frame.fill(&bytes, Offload::NONE);
        frame
    }

    fn cut(frame: &Frame, size: usize) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::of(frame, size).unwrap();
        let mut piece = Frame::new();
        std::iter::from_fn(|| fragments.next_into(&mut piece).then(|| piece.bytes()[14..].to_vec())).collect()
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_datagram(payload in 0usize..9000, size in 68usize..3000) {
            let frame = datagram(&[], payload);
            let (mut bytes, mut last) = (Vec::<u8>::new(), false);
            for piece in cut(&frame, size) {
                prop_assert!(!last && piece.len() <= size);
                let ip = Ipv4::parse(&piece).unwrap();
                prop_assert_eq!((ip.fragment_offset, ip.id), (bytes.len(), 0x1234));
                prop_assert!(!ip.more_fragments || ip.payload_len().is_multiple_of(8));
                last = !ip.more_fragments;
                bytes.extend(&piece[ip.header_len..]);
            }
            prop_assert!(last);
            prop_assert_eq!(&bytes, &frame.bytes()[34..]);
        }
    }

    #[test]
    fn later_fragments_have_the_options_that_are_copied() {
        // Record route, which is not; no operation; the router alert option (RFC 2113), which is.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
        let pieces = cut(&datagram(&options, 100), 68);
        assert_eq!(pieces[0][20..32], options);
        for later in &pieces[1..] {
            assert_eq!((later[0], &later[20..24]), (0x46, &[148, 4, 0, 0][..]));
        }
        let lengths: Vec<_> = pieces.iter().map(Vec::len).collect();
        assert_eq!(lengths, [32 + 32, 24 + 40, 24 + 28]);
        assert_eq!(be16(&pieces[2], 6), 9);
    }

    #[test]
    fn every_piece_has_the_tag_of_the_whole() {
        let mut frame = datagram(&[], 3000);
        let untagged = cut(&frame, 1500);
        frame.insert_vlan_tag([0x81, 0x00, 0x00, 0x07]);
        let mut fragments = Fragments::of(&frame, 1500).unwrap();
        let mut piece = Frame::new();
        for packet in untagged {
            assert!(fragments.next_into(&mut piece));
            assert_eq!(piece.bytes()[12..16], [0x81, 0x00, 0x00, 0x07]);
            assert_eq!(piece.bytes()[18..], packet);
        }
        assert!(!fragments.next_into(&mut piece));
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let frame = datagram(&[1; 40], 100);
        assert!(Fragments::of(&frame, 67).is_err());
        assert_eq!(cut(&frame, 68).len(), 1 + 92usize.div_ceil(48));
        let mut short = datagram(&[], 100);
        short.truncate(60);
        assert!(Fragments::of(&short, 68).is_err());
    }
}
