//! Frames: bytes in a buffer, and the promises they carry.
//!
//! A TAP in offload mode hands over packets that nobody has finished: a 64 KiB TCP segment that the
//! kernel expects somebody to cut, a checksum that somebody shall compute. [`Offload`] says what is
//! missing, in the terms of the virtio-net header (virtio 1.2, 5.1.6). It goes with the frame through the
//! pipeline untouched by switching and adjusted by translation. A port that cannot pass a promise on has
//! it redeemed at its edge ([`crate::offload`]).
//!
//! Buffers come from a [`FramePool`] of the worker and go back to it, so that moving a frame allocates
//! nothing.

use crate::limits::{BUFFER_SIZE, FRAME_MAX, HEADROOM, POOL_FRAMES_MAX};

/// What is known of, or still owed to, the transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Every checksum is in place, and nobody has verified it.
    #[default]
    Complete,
    /// Every checksum is in place and was verified (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Valid,
    /// The transport checksum field holds the folded, not inverted sum of the pseudo-header; the sum from
    /// `start` to the end of the packet is still to be added and put at `start + offset`
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Bytes from the frame's first byte to the transport header.
        start: u16,
        /// Bytes from the transport header to its checksum field: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// Whether the frame stands for several packets, and how to cut it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segment {
    /// One packet.
    #[default]
    None,
    /// TCP over IPv4, to be cut into `size` bytes of payload each.
    Tcp4 {
        /// Payload bytes of every packet but the last.
        size: u16,
        /// Whether the first packet alone keeps CWR (`VIRTIO_NET_HDR_GSO_ECN`).
        ecn: bool,
    },
    /// TCP over IPv6, likewise.
    Tcp6 {
        /// Payload bytes of every packet but the last.
        size: u16,
        /// Whether the first packet alone keeps CWR.
        ecn: bool,
    },
    /// UDP over IPv4 or IPv6, to be cut into datagrams of `size` bytes of payload (`UDP_L4`).
    Udp {
        /// Payload bytes of every datagram but the last.
        size: u16,
    },
    /// One IPv4 datagram, to be cut into fragments (RFC 791 3.2). No device has or takes such a frame: the
    /// pipeline makes it, without a VLAN tag, and every edge cuts it.
    Fragments {
        /// Most bytes of a fragment with its IP header.
        size: u16,
    },
}

impl Segment {
    /// Payload bytes of each packet, where the frame stands for several. Fragments are parts of one.
    pub const fn size(self) -> Option<u16> {
        match self {
            Segment::None | Segment::Fragments { .. } => None,
            Segment::Tcp4 { size, .. } | Segment::Tcp6 { size, .. } | Segment::Udp { size } => Some(size),
        }
    }
}

/// The promises that a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// Segmentation.
    pub segment: Segment,
    /// Bytes of the headers from Ethernet to transport, where `segment` is not `None`.
    pub header_len: u16,
}

impl Offload {
    /// A finished frame.
    pub const NONE: Offload = Offload { checksum: Checksum::Complete, segment: Segment::None, header_len: 0 };

    /// Whether the frame stands for several packets.
    pub const fn is_super(&self) -> bool {
        !matches!(self.segment, Segment::None)
    }
}

/// The promises of a frame contradict the frame: a checksum beyond its end, segments without headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the offload promises contradict the frame")]
pub struct BadOffload;

/// A buffer in whole pages, so that a frame touches as few of them as its length allows.
#[repr(C, align(4096))]
struct Buffer([u8; BUFFER_SIZE]);

/// A frame in its buffer.
pub struct Frame {
    buffer: Box<Buffer>,
    start: usize,
    len: usize,
    /// What the frame still promises.
    pub offload: Offload,
}

impl Frame {
    /// An empty frame with a buffer of its own that can hold the largest frame.
    pub fn new() -> Self {
        Frame {
            // Writing the zeros has the kernel back every page now, and not when a frame arrives.
            buffer: Box::new(Buffer([0; BUFFER_SIZE])),
            start: HEADROOM,
            len: 0,
            offload: Offload::NONE,
        }
    }

    /// Makes the frame empty again.
    pub fn clear(&mut self) {
        self.start = HEADROOM;
        self.len = 0;
        self.offload = Offload::NONE;
    }

    /// The whole frame, from the destination MAC on.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.0[self.start..self.start + self.len]
    }

    /// The whole frame, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.0[self.start..self.start + self.len]
    }

    /// Bytes in the frame.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room for a device to read a frame into: a little headroom's end of `prefix` bytes (for a virtio-net
    /// header), then all that a frame may have. Call [`Frame::set_len`] with what was read after the prefix.
    ///
    /// # Panics
    /// If `prefix` is larger than the headroom, which is the caller's constant.
    pub fn space(&mut self, prefix: usize) -> &mut [u8] {
        self.clear();
        &mut self.buffer.0[HEADROOM - prefix..HEADROOM + FRAME_MAX]
    }

    /// Sets the length after bytes were put into [`Frame::space`]. More than the buffer holds is cut.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(BUFFER_SIZE - self.start);
    }

    /// Replaces the contents with `bytes`, cut at the largest frame.
    pub fn fill(&mut self, bytes: &[u8], offload: Offload) {
        self.clear();
        let len = bytes.len().min(FRAME_MAX);
        self.set_len(len);
        self.bytes_mut().copy_from_slice(&bytes[..len]);
        self.offload = offload;
    }

    /// Puts `bytes` behind the frame's. Says whether there was room; if not, nothing happens.
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let end = self.start + self.len;
        let Some(room) = self.buffer.0.get_mut(end..end + bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    /// Cuts the frame at `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Puts `prefix` right before the frame, for a write of both in one piece. `false` if the headroom is
    /// used up.
    pub fn put_prefix(&mut self, prefix: &[u8]) -> bool {
        let Some(from) = self.start.checked_sub(prefix.len()) else { return false };
        self.buffer.0[from..self.start].copy_from_slice(prefix);
        true
    }

    /// The frame and the `len` bytes before it.
    pub fn with_prefix(&self, len: usize) -> &[u8] {
        &self.buffer.0[self.start.saturating_sub(len)..self.start + self.len]
    }

    /// Puts a VLAN tag (four bytes: TPID and TCI) behind the MAC addresses, as a device asks for that took
    /// the tag out of the frame. Offsets in the offload move along. Frames under 14 bytes stay as they are.
    pub fn insert_vlan_tag(&mut self, tag: [u8; 4]) {
        if self.len < 14 || self.start < 4 {
            return;
        }
        self.buffer.0.copy_within(self.start..self.start + 12, self.start - 4);
        self.start -= 4;
        self.len += 4;
        self.bytes_mut()[12..16].copy_from_slice(&tag);
        if let Checksum::Partial { start, .. } = &mut self.offload.checksum {
            *start = start.saturating_add(4);
        }
        if self.offload.is_super() {
            self.offload.header_len = self.offload.header_len.saturating_add(4);
        }
    }

    /// Takes the outermost VLAN tag out again, which must be there: the reverse of [`Frame::insert_vlan_tag`].
    pub fn remove_vlan_tag(&mut self) {
        if self.len < 18 {
            return;
        }
        self.buffer.0.copy_within(self.start..self.start + 12, self.start + 4);
        self.start += 4;
        self.len -= 4;
        // What pointed into the tag points into the header now, and is found to be wrong there.
        if let Checksum::Partial { start, .. } = &mut self.offload.checksum {
            *start = start.saturating_sub(4);
        }
        if self.offload.is_super() {
            self.offload.header_len = self.offload.header_len.saturating_sub(4);
        }
    }

    /// How many packets it stands for.
    pub fn packets(&self) -> u32 {
        let Some(size) = self.offload.segment.size() else { return 1 };
        let payload = self.len.saturating_sub(usize::from(self.offload.header_len));
        u32::try_from(payload.div_ceil(usize::from(size.max(1)))).unwrap_or(u32::MAX).max(1)
    }
}

impl Default for Frame {
    fn default() -> Self {
        Frame::new()
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("len", &self.len).field("offload", &self.offload).finish()
    }
}

/// Frames that are not in use, at most [`POOL_FRAMES_MAX`]: more than a burst needs are not kept.
#[derive(Debug, Default)]
pub struct FramePool {
    free: Vec<Frame>,
}

impl FramePool {
    /// An empty pool.
    pub fn new() -> Self {
        FramePool::default()
    }

    /// Holds at least `count` frames from now on, so that taking so many allocates nothing.
    pub fn reserve(&mut self, count: usize) {
        self.free.resize_with(count.min(POOL_FRAMES_MAX).max(self.free.len()), Frame::new);
    }

    /// An empty frame: the one that was given back last, because its buffer is likely in the cache.
    pub fn take(&mut self) -> Frame {
        let mut frame = self.free.pop().unwrap_or_default();
        frame.clear();
        frame
    }

    /// Gives a frame's buffer back.
    pub fn give(&mut self, frame: Frame) {
        if self.free.len() < POOL_FRAMES_MAX {
            self.free.push(frame);
        }
    }

    /// Gives the buffers of all of `frames` back, and leaves it empty.
    pub fn give_all(&mut self, frames: &mut Vec<Frame>) {
        self.free.append(frames);
        self.free.truncate(POOL_FRAMES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_tag_goes_behind_the_addresses_and_moves_the_offsets() {
        let mut frame = Frame::new();
        let mut bytes = [0u8; 60];
        bytes[..12].copy_from_slice(b"ddddddssssss");
        bytes[12] = 0x08;
        let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, ..Offload::NONE };
        frame.fill(&bytes, offload);
        frame.insert_vlan_tag([0x81, 0x00, 0x00, 0x07]);
        assert_eq!(frame.len(), 64);
        assert_eq!(&frame.bytes()[..12], &bytes[..12]);
        assert_eq!(&frame.bytes()[12..18], &[0x81, 0, 0, 7, 8, 0]);
        assert_eq!(frame.offload.checksum, Checksum::Partial { start: 38, offset: 16 });
        // Prefixes go before it, and it comes out again.
        assert!(frame.put_prefix(&[9; 10]));
        assert_eq!(frame.with_prefix(10)[10..], *frame.bytes());
        frame.remove_vlan_tag();
        assert_eq!((frame.bytes(), frame.offload), (&bytes[..], offload));
        frame.truncate(17);
        frame.remove_vlan_tag();
        assert_eq!(frame.len(), 17, "there is no room for a tag in it");
    }

    #[test]
    fn the_largest_frame_has_room_for_one_more_tag() {
        let mut frame = Frame::new();
        let bytes: Vec<u8> = (0..=250u8).cycle().take(FRAME_MAX).collect();
        let segment = Segment::Tcp4 { size: 1448, ecn: false };
        let checksum = Checksum::Partial { start: 34, offset: 16 };
        let offload = Offload { checksum, segment, header_len: 66 };
        frame.fill(&bytes, offload);
        frame.insert_vlan_tag([0x81, 0x00, 0x00, 0x07]);
        assert!(frame.put_prefix(&[9; 10]));
        assert_eq!((frame.len(), frame.offload.header_len), (FRAME_MAX + 4, 70));
        assert_eq!(frame.bytes()[16..], bytes[12..]);
        frame.remove_vlan_tag();
        assert_eq!((frame.bytes(), frame.offload), (&bytes[..], offload));
    }

    #[test]
    fn a_prefix_uses_the_headroom_and_leaves_the_frame() {
        let mut frame = Frame::new();
        frame.fill(&[1, 2, 3], Offload::NONE);
        assert!(frame.put_prefix(&[9; 10]));
        assert_eq!(frame.with_prefix(10), [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 2, 3]);
        assert!(!frame.put_prefix(&[0; HEADROOM + 1]));
        assert_eq!(frame.bytes(), [1, 2, 3]);
    }

    #[test]
    fn oversized_contents_are_cut_and_a_pool_returns_clean_frames() {
        let mut pool = FramePool::new();
        let mut frame = pool.take();
        frame.fill(&vec![7; FRAME_MAX + 100], Offload::NONE);
        assert_eq!(frame.len(), FRAME_MAX);
        pool.give(frame);
        assert!(pool.take().is_empty());
    }

    #[test]
    fn a_pool_keeps_no_more_than_its_bound_and_gives_back_what_was_used_last() {
        let mut pool = FramePool::new();
        pool.reserve(3);
        assert_eq!(pool.free.len(), 3);
        let last = pool.take();
        let address = last.bytes().as_ptr();
        assert_eq!((address as usize - HEADROOM) % 4096, 0);
        pool.give(last);
        assert_eq!(pool.take().bytes().as_ptr(), address);
        let mut many: Vec<_> = (0..POOL_FRAMES_MAX + 5).map(|_| Frame::new()).collect();
        pool.give(many.remove(0));
        pool.give_all(&mut many);
        pool.give(Frame::new());
        assert_eq!((pool.free.len(), many.len()), (POOL_FRAMES_MAX, 0));
    }
}
