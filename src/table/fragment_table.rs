//! The fragment table: IPv4 datagrams of which not every fragment is here yet (RFC 791 3.2, RFC 815).
//!
//! **Purpose.** Only a datagram's first fragment has ports, and fragments may arrive in any order. So they are
//! kept until the datagram is whole, and it is the whole datagram that is judged and translated: nothing of
//! one that is incomplete or contradicts itself goes on, no fragment can hide what another one shows, and no
//! connection is made for a fragment alone. What leaves is cut again, into pieces no larger than the sender's.
//!
//! **Key and value.** A source (who pays for the memory) and a key (who talks to whom, and the datagram's
//! identification) lead to the pieces that are here, ordered by their place. Keys of different sources never
//! meet. Hashes are keyed.
//!
//! **What is refused.** An overlap (RFC 1858, RFC 5722), two ends, data behind the end, a length that is no
//! multiple of eight, more than 65,535 bytes, a first fragment without TCP's flags and a TCP fragment at
//! offset eight (RFC 1858 3.1, 3.2, RFC 3128): then the whole datagram is dropped, and what still comes of it
//! is dropped as well. An exact duplicate is dropped alone. Congestion that one fragment has experienced the
//! datagram has experienced (RFC 3168 5.3).
//!
//! **Time.** A datagram has [`FRAGMENT_TIMEOUT`] from its first fragment to be seen, whatever comes later and
//! whatever its TTL says (RFC 1122 3.3.2).
//!
//! **Bounds.** Datagrams and bytes, for each source and in total ([`Room`]). A source beyond its own room
//! loses its oldest datagram. Beyond the total, the source with most datagrams loses its oldest, and among
//! equals it is the oldest of all: a flood pushes out itself, and a datagram that arrives within the time that
//! a flood takes to fill the table is not hurt by it, whatever sources the flood invents. A fragment costs one
//! search among at most [`FRAGMENTS_MAX`] pieces, and one look at each source when the table is full.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

use ahash::RandomState;
use lru::LruCache;

use crate::clock::Time;
use crate::drops::DropReason;
use crate::frame::{Frame, Offload, Segment};
use crate::limits::{FRAGMENT_TIMEOUT, FRAGMENTS_MAX};
use crate::wire::ipv4::{self, Ipv4};

/// What a datagram costs without its pieces: its place in two tables, and the first fragment's headers.
pub const DATAGRAM_COST: usize = 384;

/// What a piece costs beside its bytes.
pub const PIECE_COST: usize = 64;

/// Bytes of a TCP header up to its flags, which the first fragment must have (RFC 1858 3.1).
const TCP_MIN: usize = 16;

/// The ECN field of a packet that has experienced congestion, and of one whose sender does not know of it
/// (RFC 3168 section 5).
const CONGESTION: u8 = 0b11;
const NO_ECN: u8 = 0b00;

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Datagrams that are not whole, and those that were refused and are not forgotten yet.
    pub datagrams: usize,
    /// Bytes of memory that they take.
    pub bytes: usize,
}

/// A fragment.
#[derive(Debug, Clone, Copy)]
pub struct Fragment<'a> {
    /// Its IP header.
    pub ip: &'a Ipv4,
    /// The bytes up to the end of its IP header, with what stands before that.
    pub headers: &'a [u8],
    /// The bytes behind.
    pub payload: &'a [u8],
}

impl Fragment<'_> {
    fn end(&self) -> usize {
        self.ip.fragment_offset + self.payload.len()
    }

    /// Whether a sender may send such a fragment at all.
    fn check(&self) -> Result<(), DropReason> {
        let Ipv4 { fragment_offset: offset, more_fragments: more, protocol, header_len, .. } = *self.ip;
        let len = self.payload.len();
        if len == 0 || (more && !len.is_multiple_of(8)) || self.end() + header_len > ipv4::TOTAL_MAX {
            return Err(DropReason::BadFragment);
        }
        let hides_tcp = (offset == 0 && len < TCP_MIN) || offset == 8;
        if protocol == ipv4::TCP && hides_tcp {
            return Err(DropReason::TinyFragment);
        }
        Ok(())
    }
}

/// A part of a datagram's payload.
#[derive(Debug)]
struct Piece {
    offset: usize,
    bytes: Box<[u8]>,
}

impl Piece {
    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }
}

/// The fragments of one datagram.
#[derive(Debug)]
pub struct Datagram {
    since: Time,
    /// The first fragment's headers, and how much of them is its IP header.
    head: Option<(Box<[u8]>, usize)>,
    /// In the order of their offsets; they do not overlap.
    pieces: Vec<Piece>,
    /// Payload bytes that are here.
    have: usize,
    /// Payload bytes that there are, known from the last fragment.
    end: Option<usize>,
    /// Bytes of the largest fragment with its IP header.
    largest: usize,
    dont_fragment: bool,
    /// The ECN fields that were seen, as bits.
    ecn: u8,
    refused: Option<DropReason>,
    cost: usize,
}

impl Datagram {
    fn new(now: Time) -> Self {
        Datagram {
            since: now,
            head: None,
            pieces: Vec::new(),
            have: 0,
            end: None,
            largest: 0,
            dont_fragment: false,
            ecn: 0,
            refused: None,
            cost: DATAGRAM_COST,
        }
    }

    /// Fragments that are kept.
    pub fn fragments(&self) -> usize {
        self.pieces.len()
    }

    /// Puts the datagram into `frame`, as one packet that is to leave in fragments no larger than those that
    /// it came in. The caller has it from [`FragmentTable::add`], so it is whole.
    pub fn assemble(self, frame: &mut Frame) {
        let Some((head, header_len)) = self.head else { return };
        let room = frame.space(0);
        let mut at = 0;
        for bytes in std::iter::once(&*head).chain(self.pieces.iter().map(|piece| &*piece.bytes)) {
            let Some(place) = room.get_mut(at..at + bytes.len()) else { return };
            place.copy_from_slice(bytes);
            at += bytes.len();
        }
        frame.set_len(at);
        let packet = &mut frame.bytes_mut()[head.len() - header_len..];
        let congested = self.ecn & 1 << CONGESTION != 0;
        ipv4::make_whole(packet, header_len, self.dont_fragment, congested);
        let size = u16::try_from(self.largest).unwrap_or(u16::MAX);
        frame.offload = Offload { segment: Segment::Fragments { size }, ..Offload::NONE };
    }

    /// The first fragment as it came, if it is here.
    pub fn first(&self) -> Option<Vec<u8>> {
        let (head, _) = self.head.as_ref()?;
        Some([head, &*self.pieces.first()?.bytes].concat())
    }

    /// Adds a fragment, and says whether the datagram is whole now. One that is refused leaves no trace.
    fn add(&mut self, fragment: &Fragment<'_>) -> Result<bool, DropReason> {
        fragment.check()?;
        let (ip, end) = (fragment.ip, fragment.end());
        let place = self.pieces.partition_point(|piece| piece.offset < ip.fragment_offset);
        if let Some(same) = self.pieces.get(place)
            && same.offset == ip.fragment_offset
            && *same.bytes == *fragment.payload
            && ip.more_fragments != (self.end == Some(end))
        {
            return Err(DropReason::DuplicateFragment);
        }
        let before = place.checked_sub(1).and_then(|before| self.pieces.get(before));
        let overlaps = before.is_some_and(|before| before.end() > ip.fragment_offset)
            || self.pieces.get(place).is_some_and(|after| after.offset < end);
        let farthest = self.pieces.last().map_or(0, Piece::end);
        let contradicts = match self.end {
            Some(known) => end > known || (!ip.more_fragments && end != known),
            None => !ip.more_fragments && farthest > end,
        };
        if overlaps || contradicts {
            return Err(DropReason::FragmentOverlap);
        }
        if self.pieces.len() == FRAGMENTS_MAX {
            return Err(DropReason::FragmentsFull);
        }
        let ecn = self.ecn | 1 << (ip.tos & CONGESTION);
        let confused = 1 << CONGESTION | 1 << NO_ECN;
        let header_len = if ip.fragment_offset == 0 { ip.header_len } else { self.header_len() };
        if ecn & confused == confused || header_len + farthest.max(end) > ipv4::TOTAL_MAX {
            return Err(DropReason::BadFragment);
        }
        self.pieces.insert(place, Piece { offset: ip.fragment_offset, bytes: fragment.payload.into() });
        self.cost += PIECE_COST + fragment.payload.len();
        self.have += fragment.payload.len();
        self.largest = self.largest.max(ip.total_len);
        self.dont_fragment |= ip.dont_fragment;
        self.ecn = ecn;
        if ip.fragment_offset == 0 {
            self.head = Some((fragment.headers.into(), ip.header_len));
        }
        if !ip.more_fragments {
            self.end = Some(end);
        }
        // Pieces do not overlap, so there are as many bytes as there should be only when none is missing.
        Ok(self.head.is_some() && self.end == Some(self.have))
    }

    /// Bytes of the first fragment's IP header; zero while it is not here.
    fn header_len(&self) -> usize {
        self.head.as_ref().map_or(0, |&(_, header_len)| header_len)
    }

    /// Forgets what is here, but not that the datagram was refused. Returns how many fragments that were.
    fn refuse(&mut self, reason: DropReason) -> usize {
        self.refused = Some(reason);
        self.head = None;
        self.cost = DATAGRAM_COST;
        std::mem::take(&mut self.pieces).len()
    }
}

/// The datagrams of one source, oldest last.
#[derive(Debug)]
struct Share<K: Hash + Eq> {
    datagrams: LruCache<K, Datagram, RandomState>,
    bytes: usize,
}

/// A fragment table. See the module's text for what it promises.
#[derive(Debug)]
pub struct FragmentTable<S, K: Hash + Eq> {
    total: Room,
    per_source: Room,
    shares: HashMap<S, Share<K>, RandomState>,
    datagrams: usize,
    bytes: usize,
    fragments: usize,
}

impl<S: Copy + Hash + Eq, K: Copy + Hash + Eq> FragmentTable<S, K> {
    /// An empty table with room for so much in total, and for each source.
    pub fn new(total: Room, per_source: Room) -> Self {
        FragmentTable { total, per_source, shares: HashMap::default(), datagrams: 0, bytes: 0, fragments: 0 }
    }

    /// Fragments that are kept.
    pub fn fragments(&self) -> usize {
        self.fragments
    }

    /// Bytes that are taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a fragment, or returns the datagram that is whole by it. `lost` is told of the fragments that
    /// were kept until now and are no more: whose, how many, and why.
    ///
    /// # Errors
    /// Why this fragment is dropped.
    pub fn add(
        &mut self,
        source: S,
        key: K,
        fragment: &Fragment<'_>,
        now: Time,
        mut lost: impl FnMut(S, usize, DropReason),
    ) -> Result<Option<Datagram>, DropReason> {
        let share = self.shares.entry(source).or_insert_with(|| Share {
            datagrams: LruCache::unbounded_with_hasher(RandomState::new()),
            bytes: 0,
        });
        if !share.datagrams.contains(&key) {
            // A new key becomes the first, and a known one stays where it is: the last one is the oldest.
            share.datagrams.put(key, Datagram::new(now));
            share.bytes += DATAGRAM_COST;
            self.bytes += DATAGRAM_COST;
            self.datagrams += 1;
        }
        let Some(datagram) = share.datagrams.peek_mut(&key) else { return Ok(None) };
        if let Some(reason) = datagram.refused {
            return Err(reason);
        }
        let before = datagram.cost;
        let added = datagram.add(fragment);
        if let Err(reason) = added
            && reason != DropReason::DuplicateFragment
        {
            let count = datagram.refuse(reason);
            self.fragments -= count;
            lost(source, count, reason);
        }
        let after = datagram.cost;
        share.bytes = share.bytes - before + after;
        self.bytes = self.bytes - before + after;
        self.fragments += usize::from(added.is_ok());
        let whole = if added == Ok(true) { share.datagrams.pop(&key) } else { None };
        if let Some(datagram) = whole {
            self.forget(source, &datagram);
            return Ok(Some(datagram));
        }
        self.make_room(source, &mut lost);
        added.map(|_| None)
    }

    /// Takes the datagrams out whose time is over, and hands them to `expired`.
    pub fn expire(&mut self, now: Time, mut expired: impl FnMut(S, &Datagram)) {
        if self.datagrams == 0 {
            return;
        }
        let over = |share: &Share<K>| {
            let oldest = share.datagrams.peek_lru();
            oldest.is_some_and(|(_, datagram)| now.since(datagram.since) >= FRAGMENT_TIMEOUT)
        };
        let due: Vec<S> =
            self.shares.iter().filter(|(_, share)| over(share)).map(|(&source, _)| source).collect();
        for source in due {
            while self.shares.get(&source).is_some_and(over) {
                if let Some(datagram) = self.pop_oldest(source) {
                    expired(source, &datagram);
                }
            }
        }
    }

    /// Sees that the table, and this source's share of it, are within their bounds.
    fn make_room(&mut self, source: S, lost: &mut impl FnMut(S, usize, DropReason)) {
        let Room { datagrams, bytes } = self.per_source;
        while self
            .shares
            .get(&source)
            .is_some_and(|share| share.datagrams.len() > datagrams || share.bytes > bytes)
        {
            self.evict(source, lost);
        }
        while self.datagrams > self.total.datagrams || self.bytes > self.total.bytes {
            let greed = |share: &Share<K>| {
                let oldest = share.datagrams.peek_lru().map(|(_, datagram)| datagram.since);
                (share.datagrams.len(), Reverse(oldest))
            };
            let greediest = self.shares.iter().max_by_key(|(_, share)| greed(share));
            let Some((&greediest, _)) = greediest else { return };
            self.evict(greediest, lost);
        }
    }

    fn evict(&mut self, source: S, lost: &mut impl FnMut(S, usize, DropReason)) {
        if let Some(datagram) = self.pop_oldest(source) {
            lost(source, datagram.fragments(), DropReason::FragmentsFull);
        }
    }

    fn pop_oldest(&mut self, source: S) -> Option<Datagram> {
        let (_, datagram) = self.shares.get_mut(&source)?.datagrams.pop_lru()?;
        self.forget(source, &datagram);
        Some(datagram)
    }

    /// Corrects the sums for a datagram that was taken out.
    fn forget(&mut self, source: S, datagram: &Datagram) {
        self.datagrams -= 1;
        self.bytes -= datagram.cost;
        self.fragments -= datagram.fragments();
        if let Some(share) = self.shares.get_mut(&source) {
            share.bytes -= datagram.cost;
            if share.datagrams.is_empty() {
                self.shares.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests;
