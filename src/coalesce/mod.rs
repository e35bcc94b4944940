//! Coalescing: packets of one flow leave as one super-frame.
//!
//! # Purpose
//! A write to a device costs about the same for 60 bytes as for 60,000, because behind it the receiver's
//! kernel walks its stack once a frame. So after a burst is decided and before it is written, the packets of
//! a flow towards one port are put together: UDP datagrams into a `UDP_L4` super-frame, TCP segments into
//! one for TSO. It is what the kernel's GRO does on reception, by the same rules (Linux
//! `net/ipv4/{af_inet,tcp_offload,udp_offload}.c`), with one promise more: **cutting the super-frame again
//! ([`crate::offload::Segments`], or the kernel's segmentation) gives the packets that came**, bit for bit,
//! apart from what says nothing: the IPv4 identification of packets with DF (RFC 6864 4.1), and which of the two
//! zeros of ones' complement a checksum is.
//!
//! # Who may join
//! [`member`] reads a frame's headers and says what it may be part of. A packet continues a run if
//!
//! | layer | has to be |
//! |---|---|
//! | Ethernet | the same, VLAN tags included |
//! | IPv4 | without options, no fragment; the same addresses, TOS, TTL and flags; without DF, the next identification |
//! | IPv6 | without extension headers; the same addresses, traffic class, flow label and hop limit |
//! | UDP | the same ports; with a checksum; as long as the first one, or shorter and then the last |
//! | TCP | the same ports, acknowledgment, window and options; the next sequence number; payload, as long as the first one or shorter and then the last; ACK without SYN, RST, URG and CWR; PSH and FIN only on the last |
//!
//! A frame that already is a super-frame of the same size counts as the packets that it stands for.
//!
//! # Checksums
//! The result's checksum is partial: whoever needs it computes it anew, and it is right by construction. So
//! a packet joins only if its own was right, or damage would be made invisible: it was verified by whoever
//! had it before, or is partial itself, or is summed here. That sum is made only when two packets would
//! otherwise join, and costs less than the write that it saves.
//!
//! # Order
//! A run stays at the place of its first packet, and packets join in order, so a flow's packets never
//! overtake each other. What cannot join ends its flow's run and may begin the next one. What does not show
//! its flow, such as a fragment, ends all runs. What goes to several ports is not merged, and ends its
//! flow's run as well.
//!
//! # Bounds
//! Nothing is held: runs begin and end within a burst. They are found by a hash of the flow in a table of
//! [`SLOTS`] places; a flow that meets another one's place takes it, and then both are merged less. The hash
//! has no key, because that is all that an attacker can achieve, and only in bursts that he is part of. A frame
//! alone in its burst is not looked at.
//!
//! # Why payload is copied
//! Behind the first packet's, for one `write`. Giving the pieces to `writev` where they lie was measured against
//! it with a TAP and a kernel's UDP receiver: the kernel walks up to 64 pieces for as long as the copy takes, or
//! longer (1.07 to 1.11 times the whole for 18 bytes a datagram, 1.01 to 1.05 for 1400), because what was just
//! read is still in the cache.

use crate::addr::PortId;
use crate::frame::Frame;
use crate::pipeline::{Outbox, Send};
use crate::port::Promises;

mod member;

use member::{Member, Part};

/// Places for runs: four times the frames of a burst, so that flows rarely share one.
const SLOTS: usize = 256;

/// No run.
const VACANT: u16 = u16::MAX;

/// Merges the packets of bursts. It holds nothing between them but its memory.
#[derive(Debug)]
pub struct Coalescer {
    /// For each hash of a flow, the place in `runs` of the run that may go on.
    slots: [u16; SLOTS],
    runs: Vec<Run>,
}

/// Packets that become one super-frame.
#[derive(Debug)]
struct Run {
    port: PortId,
    /// The first packet's place in the list of what is sent.
    send: usize,
    /// The first packet's place among the frames.
    frame: usize,
    /// The first packet, into which the others go.
    head: Member,
    /// Frames so far.
    frames: u32,
    /// Bytes that they had as frames of their own.
    bytes: usize,
}

impl Coalescer {
    /// A coalescer.
    pub fn new() -> Self {
        Coalescer { slots: [VACANT; SLOTS], runs: Vec::new() }
    }

    /// Merges what may be merged of what `outbox` is about to send to ports whose devices pass super-frames
    /// on, as `promises` tells. A [`Send`] of the outbox then stands for several frames.
    pub fn coalesce(&mut self, outbox: &mut Outbox, promises: impl Fn(PortId) -> Promises) {
        let (frames, sends) = outbox.contents();
        if frames.len() < 2 {
            return;
        }
        self.slots.fill(VACANT);
        self.runs.clear();
        let mut at = 0;
        for copies in sends.chunk_by_mut(|a, b| a.frame == b.frame) {
            match copies {
                [send] => self.take(frames, send, at, promises(send.port)),
                [copy, ..] => self.end(Part::of(&frames[copy.frame])),
                [] => {}
            }
            at += copies.len();
        }
        let mut merged = false;
        for run in self.runs.iter().filter(|run| run.frames > 1) {
            run.close(frames, sends);
            merged = true;
        }
        if merged {
            sends.retain(|send| send.frames > 0);
        }
    }

    /// Lets a frame join its flow's run, or begin the next one.
    #[inline]
    fn take(&mut self, frames: &mut [Frame], send: &mut Send, at: usize, promises: Promises) {
        if !promises.checksum || !(promises.udp_segments || promises.tcp_segments) {
            return;
        }
        let part = Part::of(&frames[send.frame]);
        let Part::Member(member) = part else { return self.end(part) };
        let slot = &mut self.slots[usize::from(member.slot)];
        if let Some(run) = self.runs.get_mut(usize::from(*slot))
            && run.join(frames, send, &member)
        {
            if !run.head.is_open() {
                *slot = VACANT;
            }
            return;
        }
        let carried = if member.is_tcp { promises.tcp_segments } else { promises.udp_segments };
        *slot = match u16::try_from(self.runs.len()) {
            Ok(number) if carried && member.is_open() => number,
            _ => VACANT,
        };
        if *slot != VACANT {
            let (port, frame, bytes) = (send.port, send.frame, send.bytes);
            self.runs.push(Run { port, send: at, frame, head: member, frames: 1, bytes });
        }
    }

    /// Ends the runs that a frame which joins none must not be overtaken by.
    fn end(&mut self, part: Part) {
        match part {
            Part::Member(Member { slot, .. }) | Part::Alone { slot } => {
                self.slots[usize::from(slot)] = VACANT
            }
            Part::Hidden => self.slots.fill(VACANT),
            Part::Foreign => {}
        }
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        Coalescer::new()
    }
}

impl Run {
    /// Takes a frame in, if it continues the run: its send then stands for nothing.
    fn join(&mut self, frames: &mut [Frame], send: &mut Send, member: &Member) -> bool {
        if self.port != send.port {
            return false;
        }
        let Ok([head, frame]) = frames.get_disjoint_mut([self.frame, send.frame]) else { return false };
        if !self.head.join(head, member, frame) {
            return false;
        }
        self.frames += send.frames;
        self.bytes += send.bytes;
        send.frames = 0;
        true
    }

    /// Makes the first frame the super-frame, and its send stand for all.
    fn close(&self, frames: &mut [Frame], sends: &mut [Send]) {
        self.head.seal(&mut frames[self.frame]);
        let send = &mut sends[self.send];
        (send.frames, send.bytes) = (self.frames, self.bytes);
    }
}
