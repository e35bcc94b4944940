//! How a frame lies in one `read` or `write` of a descriptor: bare, or behind a virtio-net header.
//!
//! A device whose reads and writes need nothing else says so ([`super::Device::read_framing`]), so that
//! [`super::exchange`] can make many of them at once.

use crate::drops::DropReason;
use crate::frame::Frame;
use crate::limits::FRAME_MAX;
use crate::port::virtio_net::{self, HEADER_LEN};
use crate::port::{NotSent, Received};

/// What a read or write carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The frame.
    Bare,
    /// A virtio-net header and the frame.
    VirtioNet,
}

impl Framing {
    /// Bytes in front of the frame.
    const fn header_len(self) -> usize {
        match self {
            Framing::Bare => 0,
            Framing::VirtioNet => HEADER_LEN,
        }
    }

    /// Empties `frame` and returns the room to read into.
    pub fn space(self, frame: &mut Frame) -> &mut [u8] {
        frame.space(self.header_len())
    }

    /// Makes a frame of the `got` bytes that a read put into its space.
    pub fn received(self, frame: &mut Frame, got: usize) -> Received {
        let space = self.space(frame);
        // A TAP may cut what does not fit without a word, and a packet socket returns the uncut length.
        let (too_long, got) = (got > space.len(), got.min(space.len()));
        let offload = match self {
            Framing::Bare => Ok(frame.offload),
            Framing::VirtioNet => {
                let Some((header, bytes)) = space[..got].split_first_chunk() else {
                    return Received::Dropped(DropReason::Runt);
                };
                virtio_net::decode(header, bytes)
            }
        };
        debug_assert!(got - self.header_len() <= FRAME_MAX);
        frame.set_len(got - self.header_len());
        if too_long {
            return Received::Dropped(DropReason::OverMtu);
        }
        let Ok(offload) = offload else {
            return Received::Dropped(DropReason::BadOffload);
        };
        frame.offload = offload;
        Received::Frame
    }

    /// Makes `frame` ready to be written: puts its header into the headroom.
    ///
    /// # Errors
    /// [`NotSent::BadOffload`] if its promises contradict it.
    pub fn seal(self, frame: &mut Frame) -> Result<(), NotSent> {
        match self {
            Framing::Bare => Ok(()),
            Framing::VirtioNet => {
                let header = virtio_net::encode(&frame.offload, frame.bytes())?;
                // The headroom holds this header and every tag that a device may have put in before: see
                // `HEADROOM`.
                if frame.put_prefix(&header) { Ok(()) } else { Err(NotSent::BadOffload) }
            }
        }
    }

    /// What to write of a sealed frame.
    pub fn sealed(self, frame: &Frame) -> &[u8] {
        frame.with_prefix(self.header_len())
    }
}
