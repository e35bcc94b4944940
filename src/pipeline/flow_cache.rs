//! The flow cache: what became of a flow's last packet, done again to the next one without a lookup.
//!
//! # Purpose
//! The story of a frame looks up two MAC addresses, a network, a route, a neighbor and a connection, under
//! several locks. For the next packet of the same flow the answers are the same. Each worker keeps them: the
//! exact headers that a flow is known by, and what the story made of them.
//!
//! # What an entry is
//! The cache learns by watching. [`Key::of`] notes the headers of a frame that comes in: port, MAC addresses,
//! IP addresses, protocol, ports. When the story has sent the frame to one port, [`FlowCache::learn`]
//! compares the headers now with the key: the difference is the entry's edit, with the checksums' share of it
//! precomputed ([`Delta`]), and that is right for every packet with this key for as long as nothing changes
//! that the story has looked at. So there is no second way to decide anything: an entry only repeats.
//!
//! # What is never repeated
//! Everything that is not the same for every packet of a flow is looked at for each one, and whatever is out
//! of the ordinary takes the story, which knows what to do about it: fragments, IP options, SYN, FIN and RST,
//! a TTL that ends here, a packet larger than the way's MTU, a wrong IP header checksum, lengths or promises
//! that contradict each other. Only flows that the story allows are kept at all ([`Repeats`]): ICMP, floods,
//! hairpins, connections that are opening, and packets that may be fragmented and need a new identification
//! are not.
//!
//! # How long an entry is right
//! - [`Epoch`](crate::shared::Epoch) and the snapshot's generation: stations that move, neighbors that
//!   change, every change of the configuration. A change empties the cache, by one comparison a frame.
//! - The connection's life ([`Tracked`]): a connection that ends, or begins anew.
//! - [`VALID`]: after that, one packet takes the story, which refreshes what ages with use: FDB entries,
//!   neighbors, timeouts.
//!
//! # Bounds
//! [`ENTRIES`] entries, each in the one place that its key's hash names: a newer flow takes the place of an
//! older one, and nothing is searched. The hash is keyed, so that nobody outside can aim at a place; who
//! could would only send another flow's packets the long way.

use std::time::Duration;

use ahash::RandomState;

use crate::addr::PortId;
use crate::clock::Time;
use crate::frame::{Checksum, Frame, Segment};
use crate::shared::{Conntrack, Tracked};
use crate::wire::checksum::{self, Delta};
use crate::wire::transport::{ACK, FIN, RST, SYN};
use crate::wire::{be16, be32, ethernet, ipv4, put16};

/// Entries of a worker's cache, a power of two. Of 128 bytes each, so that all of them stay in a second-level
/// cache.
const ENTRIES: usize = 8192;

/// How long an entry is used before a packet takes the story again.
const VALID: Duration = Duration::from_millis(100);

// Where things are in an untagged frame with an IP header without options.
const IP: usize = ethernet::HEADER_LEN;
const IP_LEN: usize = IP + 2;
const FRAGMENT: usize = IP + 6;
/// The bit of the byte at [`FRAGMENT`] that is neither TCP's nor UDP's number.
const DONT_FRAGMENT: u8 = 0x40;
const TTL: usize = IP + 8;
const PROTOCOL: usize = IP + 9;
const IP_CHECKSUM: usize = IP + 10;
const ADDRESSES: usize = IP + 12;
const TRANSPORT: usize = IP + ipv4::HEADER_LEN;
const UDP_LEN: usize = TRANSPORT + 4;
const UDP_END: usize = TRANSPORT + 8;
const TCP_END: usize = TRANSPORT + 20;

/// Whether what became of a packet becomes of every further one of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// It may not.
    Never,
    /// It does.
    Always,
    /// It does as long as this connection lives, which takes note of each packet.
    Tracked(Tracked),
}

/// The headers that a flow is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Key([u64; 4]);

impl Key {
    /// The key of a frame of TCP or UDP over IPv4, as it came in from `ingress`. `None` for frames of all
    /// other kinds.
    #[inline(always)]
    pub(super) fn of(ingress: PortId, frame: &Frame) -> Option<Key> {
        let header = frame.bytes().first_chunk::<UDP_END>()?;
        let protocol = header[PROTOCOL];
        let plain = header[12..15] == [0x08, 0x00, 0x45] && be16(header, FRAGMENT) & 0x3fff == 0;
        if !plain || (protocol != ipv4::TCP && protocol != ipv4::UDP) {
            return None;
        }
        // The MAC addresses, EtherType and version, with protocol and DF in the place of the type of service.
        let kind = protocol | header[FRAGMENT] & DONT_FRAGMENT;
        let link = [word(header, 0), word(header, 8) & (u64::MAX >> 8) | u64::from(kind) << 56];
        let ports = word(header, TRANSPORT) & u64::from(u32::MAX);
        Some(Key([link[0], link[1], word(header, ADDRESSES), ports | u64::from(ingress.0) << 32]))
    }

    const fn protocol(&self) -> u8 {
        self.0[1].to_le_bytes()[7] & !DONT_FRAGMENT
    }
}

/// Eight bytes of a header as a number; which number does not matter.
#[inline(always)]
fn word(header: &[u8; UDP_END], at: usize) -> u64 {
    header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What becomes of the packets of a flow.
#[derive(Debug, Clone, Copy)]
#[repr(align(128))]
struct Entry {
    key: Key,
    /// The cache's turn at which it was learned.
    turn: u64,
    until: Time,
    tracked: Option<Tracked>,
    macs: [u8; 12],
    addresses: [u8; 8],
    ports: [u8; 4],
    /// What the change of addresses and TTL does to the IP header's checksum.
    ip: Delta,
    /// What the change of addresses does to a partial transport checksum.
    partial: Delta,
    /// What the change of addresses and ports does to a transport checksum that is in place.
    transport: Delta,
    /// Largest IP packet that all of the way carries.
    mtu: u16,
    egress: PortId,
    /// Whether a router passes the packet on, and not a switch, which changes nothing.
    routed: bool,
    /// Whether it gives the packet another address or port.
    translated: bool,
}

/// A worker's flow cache.
#[derive(Debug)]
pub(super) struct FlowCache {
    entries: Box<[Entry]>,
    secrets: [u64; 4],
    generation: u64,
    epoch: u64,
    /// Grows whenever all entries become wrong.
    turn: u64,
}

impl FlowCache {
    /// An empty cache.
    pub(super) fn new() -> Self {
        let empty = Entry {
            key: Key::default(),
            turn: 0,
            until: Time::ZERO,
            tracked: None,
            macs: [0; 12],
            addresses: [0; 8],
            ports: [0; 4],
            ip: Delta::NONE,
            partial: Delta::NONE,
            transport: Delta::NONE,
            mtu: 0,
            egress: PortId(0),
            routed: false,
            translated: false,
        };
        let random = RandomState::new();
        FlowCache {
            entries: vec![empty; ENTRIES].into_boxed_slice(),
            secrets: std::array::from_fn(|n| random.hash_one(n)),
            generation: 0,
            epoch: 0,
            turn: 1,
        }
    }

    /// Forgets everything if the configuration or a table has changed. To be called before the lookups that
    /// are learned from.
    #[inline(always)]
    pub(super) fn keep_up(&mut self, generation: u64, epoch: u64) {
        if (self.generation, self.epoch) != (generation, epoch) {
            (self.generation, self.epoch) = (generation, epoch);
            self.turn += 1;
        }
    }

    /// Does to `frame` what was done to the last one of its flow, and says by which port it leaves. `None`
    /// if that is not known, or this packet is out of the ordinary; then it is as it was.
    #[inline(always)]
    pub(super) fn repeat(
        &self,
        key: &Key,
        frame: &mut Frame,
        conntrack: &Conntrack,
        now: Time,
    ) -> Option<PortId> {
        let entry = &self.entries[self.place(key)];
        if entry.key != *key || entry.turn != self.turn || now >= entry.until {
            return None;
        }
        let ordinary = Ordinary::check(key.protocol(), frame, entry)?;
        if let Some(tracked) = &entry.tracked {
            let activity = conntrack.activity(tracked)?;
            activity.count(tracked.track.direction, ordinary.total_len);
            if let Some(ack) = ordinary.ack {
                activity.acknowledge(tracked.track.direction, ack);
            }
            if tracked.track.refreshes {
                activity.refresh(now);
            }
        }
        entry.edit(frame, &ordinary);
        Some(entry.egress)
    }

    /// Learns what became of the frame that came in with `key`: it is now `frame` and leaves by `egress`, as
    /// will the next ones of its flow up to `mtu` bytes.
    pub(super) fn learn(
        &mut self,
        key: &Key,
        frame: &Frame,
        egress: PortId,
        mtu: u16,
        repeats: Repeats,
        now: Time,
    ) {
        let tracked = match repeats {
            Repeats::Never => return,
            Repeats::Always => None,
            Repeats::Tracked(tracked) => Some(tracked),
        };
        let Some(header) = frame.bytes().first_chunk::<UDP_END>() else { return };
        let (macs, addresses, ports) = (&header[..12], &header[ADDRESSES..][..8], &header[TRANSPORT..][..4]);
        let old = key.0.map(u64::to_le_bytes);
        let routed = macs[..8] != old[0] || macs[8..] != old[1][..4];
        let protocol = u16::from(key.protocol());
        let hop = if routed { Delta::NONE.word(0x0100 | protocol, protocol) } else { Delta::NONE };
        let readdressed = change(&old[2], addresses);
        let place = self.place(key);
        self.entries[place] = Entry {
            key: *key,
            turn: self.turn,
            until: now + VALID,
            tracked,
            macs: array(macs),
            addresses: array(addresses),
            ports: array(ports),
            ip: readdressed.and(hop),
            partial: readdressed,
            transport: readdressed.and(change(&old[3][..4], ports)),
            mtu,
            egress,
            routed,
            translated: addresses != old[2] || ports != &old[3][..4],
        };
    }

    /// The one place where a key's entry can be: two keyed multiplications, folded (as wyhash does).
    #[inline(always)]
    fn place(&self, Key([a, b, c, d]): &Key) -> usize {
        let [k, l, m, n] = self.secrets;
        let fold = |x: u64, y: u64| {
            let product = u128::from(x) * u128::from(y);
            #[allow(clippy::cast_possible_truncation)] // both halves are used
            let folded = product as u64 ^ (product >> 64) as u64;
            folded
        };
        #[allow(clippy::cast_possible_truncation)] // any bits will do
        let hash = fold(fold(a ^ k, b ^ l) ^ m, fold(c ^ n, d ^ k) ^ l) as usize;
        hash & (ENTRIES - 1)
    }
}

/// The change of header words from `old` to `new`.
fn change(old: &[u8], new: &[u8]) -> Delta {
    let words = old.chunks_exact(2).zip(new.chunks_exact(2));
    words.fold(Delta::NONE, |delta, (old, new)| delta.word(be16(old, 0), be16(new, 0)))
}

/// A copy of `bytes`, which are as many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

/// What was found out about a packet that an entry may be repeated for.
#[derive(Debug)]
struct Ordinary {
    /// Bytes of the IP packet.
    total_len: usize,
    /// The acknowledgment number of TCP.
    ack: Option<u32>,
    /// Where the transport has its checksum.
    checksum: usize,
    /// Whether that is partial.
    partial: bool,
    /// Bytes of all headers.
    header_len: u16,
}

impl Ordinary {
    /// Whether there is nothing about this packet that the story would see and the key does not tell.
    #[inline(always)]
    fn check(protocol: u8, frame: &Frame, entry: &Entry) -> Option<Ordinary> {
        let (bytes, offload) = (frame.bytes(), &frame.offload);
        let ip = bytes[IP..].first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let total_len = usize::from(be16(bytes, IP_LEN));
        let end = IP + total_len;
        let (checksum, header_len, ack) = if protocol == ipv4::TCP {
            let header = bytes.first_chunk::<TCP_END>()?;
            let (len, flags) = (usize::from(header[TRANSPORT + 12] >> 4) * 4, header[TRANSPORT + 13]);
            if len < 20 || flags & (SYN | FIN | RST | ACK) != ACK {
                return None;
            }
            (16, TRANSPORT + len, Some(be32(header, TRANSPORT + 8)))
        } else {
            let len = usize::from(be16(bytes, UDP_LEN));
            if len < 8 || TRANSPORT + len > end {
                return None;
            }
            (6, UDP_END, None)
        };
        let partial = match (offload.checksum, offload.segment) {
            (Checksum::Complete | Checksum::Valid, Segment::None) => false,
            (Checksum::Partial { start, offset }, segment) => {
                let kind = match segment {
                    Segment::None => true,
                    Segment::Tcp4 { size, .. } => checksum == 16 && size > 0,
                    Segment::Udp { size } => checksum == 6 && size > 0,
                    Segment::Tcp6 { .. } | Segment::Fragments { .. } => false,
                };
                if !kind || usize::from(start) != TRANSPORT || usize::from(offset) != checksum {
                    return None;
                }
                true
            }
            _ => return None,
        };
        // As long as one of its packets is, where it stands for several.
        let len = match offload.segment.size() {
            Some(size) => (header_len - IP + usize::from(size)).min(bytes.len() - IP),
            None => bytes.len() - IP,
        };
        let fits = header_len <= end && end <= bytes.len() && len <= usize::from(entry.mtu);
        let lives = !entry.routed || bytes[TTL] > 1;
        let sound = checksum::fold(checksum::sum(ip)) == 0xffff;
        #[allow(clippy::cast_possible_truncation)] // at most 94
        let header_len = header_len as u16;
        (fits && lives && sound).then_some(Ordinary {
            total_len,
            ack,
            checksum: TRANSPORT + checksum,
            partial,
            header_len,
        })
    }
}

impl Entry {
    /// Makes of `frame` what was made of the one that the entry was learned from.
    #[inline(always)]
    fn edit(&self, frame: &mut Frame, packet: &Ordinary) {
        if frame.offload.is_super() {
            frame.offload.header_len = packet.header_len;
        }
        if !self.routed {
            return;
        }
        // What stands behind the packet stays behind.
        frame.truncate(IP + packet.total_len);
        let bytes = frame.bytes_mut();
        if self.translated {
            self.edit_transport_checksum(bytes, packet);
        }
        let Some(header) = bytes.first_chunk_mut::<UDP_END>() else { return };
        header[..12].copy_from_slice(&self.macs);
        header[TTL] -= 1;
        let sum = self.ip.update(be16(header, IP_CHECKSUM));
        put16(header, IP_CHECKSUM, sum);
        header[ADDRESSES..ADDRESSES + 8].copy_from_slice(&self.addresses);
        header[TRANSPORT..TRANSPORT + 4].copy_from_slice(&self.ports);
    }

    #[inline(always)]
    fn edit_transport_checksum(&self, bytes: &mut [u8], packet: &Ordinary) {
        let old = be16(bytes, packet.checksum);
        let new = match (packet.partial, old) {
            (true, _) => self.partial.update_partial(old),
            // RFC 768: no checksum stays none, and a computed zero goes out as all ones.
            (false, 0) if packet.ack.is_none() => 0,
            (false, _) => match self.transport.update(old) {
                0 if packet.ack.is_none() => 0xffff,
                sum => sum,
            },
        };
        put16(bytes, packet.checksum, new);
    }
}
