//! Frames for the gateway's services, on their way to the thread that gives them.
//!
//! What the gateway answers by itself (ARP, echo) never comes here. Everything that needs a memory or a socket is
//! *punted*: the pipeline puts the frame into this queue, with the port that it came by, and the thread takes it
//! out, gives it to its [`Service`], and has a worker send what comes of it. There are two such queues: one for control,
//! which knows the leases of DHCP, and one for the gateway's TCP and UDP ([`crate::service`]), which must not wait while
//! control makes a device.
//!
//! **Bounds.** The queue has [`PUNT_QUEUE`] places, a packet each, and no port takes more than [`PUNT_QUEUE_PER_PORT`] of
//! them, nor more than half of those that are free: the more ports flood a service at once, the less has each of them,
//! and places are left for those that do not (dynamic thresholds, Choudhury and Hahne 1998). A frame that finds none is
//! dropped by the one who brought it; the thread is never waited for.
//!
//! **Turns.** Ports are served in turn, a frame each, so that one that asks little waits for no more than one frame of
//! each of the others. The frames of one port stay in their order.
//!
//! **Waking the thread.** A worker asks at the end of a turn whether to tell it ([`Punts::wants_notice`]). The
//! answer is yes once, until it has begun to take ([`Punts::notice_taken`]): there is at most one notice under
//! way, whatever the number of frames.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use bytes::Bytes;

use super::lock;
use crate::addr::{NetworkId, PortId};
use crate::drops::DropReason;
use crate::frame::Offload;
use crate::limits::{PUNT_QUEUE, PUNT_QUEUE_PER_PORT};

/// A service of the gateway that a thread other than the workers gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The DHCP server of a network: UDP port 67.
    Dhcp,
    /// The uplink's DHCP client: UDP port 68.
    DhcpClient,
    /// What the gateway itself speaks with TCP and UDP: its DNS server, and connections that it has made.
    Stack,
}

/// A frame for a service: untagged IPv4, whole, with checked headers. Its transport checksum is not checked.
#[derive(Debug, Clone)]
pub struct Punt {
    /// The service.
    pub service: Service,
    /// The port that it came by.
    pub ingress: PortId,
    /// The network of that port; `None` for the uplink.
    pub network: Option<NetworkId>,
    /// The frame.
    pub bytes: Bytes,
    /// The promises that it carries: its checksum may be partial, and it may be a super-frame.
    pub offload: Offload,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Punts {
    queue: Mutex<Queue>,
    /// Whether something was put in since the thread began to take.
    news: AtomicBool,
    /// Whether the thread has been told, and has not begun to take.
    told: AtomicBool,
}

impl Punts {
    /// Puts what `punt` makes in, a frame that came by the port `from` and stands for `packets` packets. It is not
    /// called if there is no place.
    ///
    /// # Errors
    /// [`DropReason::ServiceQueueFull`] if there is no place, or none that the port may take.
    pub fn put(&self, from: PortId, packets: usize, punt: impl FnOnce() -> Punt) -> Result<(), DropReason> {
        let mut queue = lock(&self.queue);
        if packets > queue.places_for(from) {
            return Err(DropReason::ServiceQueueFull);
        }
        queue.put(from, packets, punt());
        self.news.store(true, Release);
        Ok(())
    }

    /// Takes the frame out that has waited longest of the port whose turn it is.
    pub fn take(&self) -> Option<Punt> {
        lock(&self.queue).take()
    }

    /// Drops what waits of a port that is gone, so that nothing is taken for what comes to have its number. No worker
    /// must have its device any more.
    pub fn forget(&self, port: PortId) {
        lock(&self.queue).forget(port);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.queue).packets == 0
    }

    /// Whether whoever asks has to tell the thread that there is something to take. A load and no more while nothing is
    /// punted.
    pub fn wants_notice(&self) -> bool {
        self.news.load(Acquire) && !self.told.swap(true, AcqRel)
    }

    /// The thread has been told and begins to take; for what is put in from now on it is told again.
    pub fn notice_taken(&self) {
        self.news.store(false, Release);
        self.told.store(false, Release);
    }
}

/// What waits, by port.
#[derive(Debug, Default)]
struct Queue {
    ports: HashMap<PortId, Waiting>,
    /// The ports of which something waits, the one first whose turn it is.
    turns: VecDeque<PortId>,
    /// Packets that wait.
    packets: usize,
}

/// Frames of one port, each with the number of its packets.
#[derive(Debug, Default)]
struct Waiting {
    punts: VecDeque<(usize, Punt)>,
    packets: usize,
}

impl Queue {
    /// Places that a port may take now.
    fn places_for(&self, port: PortId) -> usize {
        let free = PUNT_QUEUE.saturating_sub(self.packets);
        let taken = self.ports.get(&port).map_or(0, |waiting| waiting.packets);
        // Half of what is free, but for the last one.
        PUNT_QUEUE_PER_PORT.min(free.div_ceil(2)).saturating_sub(taken)
    }

    fn put(&mut self, from: PortId, packets: usize, punt: Punt) {
        let waiting = self.ports.entry(from).or_default();
        if waiting.punts.is_empty() {
            self.turns.push_back(from);
        }
        waiting.punts.push_back((packets, punt));
        waiting.packets += packets;
        self.packets += packets;
    }

    fn take(&mut self) -> Option<Punt> {
        let port = self.turns.pop_front()?;
        let waiting = self.ports.get_mut(&port)?;
        let (packets, punt) = waiting.punts.pop_front()?;
        waiting.packets -= packets;
        self.packets -= packets;
        if waiting.punts.is_empty() {
            self.ports.remove(&port);
        } else {
            self.turns.push_back(port);
        }
        Some(punt)
    }

    fn forget(&mut self, port: PortId) {
        let Some(waiting) = self.ports.remove(&port) else { return };
        self.turns.retain(|&other| other != port);
        self.packets -= waiting.packets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> Punt {
        Punt {
            service: Service::Dhcp,
            ingress: PortId(port),
            network: Some(NetworkId(0)),
            bytes: Bytes::new(),
            offload: Offload::NONE,
        }
    }

    fn put(punts: &Punts, port: u16, packets: usize) -> Result<(), DropReason> {
        punts.put(PortId(port), packets, || from(port))
    }

    /// Puts single packets in, and says how many had a place.
    fn fill(punts: &Punts, port: u16, tries: usize) -> usize {
        (0..tries).filter(|_| put(punts, port, 1).is_ok()).count()
    }

    #[test]
    fn one_port_leaves_places_to_the_others_and_all_together_find_an_end() {
        let punts = Punts::default();
        assert_eq!(fill(&punts, 1, 2 * PUNT_QUEUE), PUNT_QUEUE_PER_PORT);
        assert_eq!(fill(&punts, 2, 1), 1);
        let others: usize = (3..10).map(|port| fill(&punts, port, PUNT_QUEUE)).sum();
        assert!(PUNT_QUEUE_PER_PORT + 1 + others < PUNT_QUEUE, "{others}");
        assert_eq!(fill(&punts, 10, 1), 1, "one that does not flood finds a place beside all that do");
        let more: usize = (11..5000).map(|port| fill(&punts, port, 1)).sum();
        assert_eq!(PUNT_QUEUE_PER_PORT + 2 + others + more, PUNT_QUEUE);
        assert_eq!(put(&punts, 5000, 1).err(), Some(DropReason::ServiceQueueFull));
        assert_eq!(punts.take().map(|punt| punt.ingress), Some(PortId(1)));
        assert_eq!(fill(&punts, 5000, 2), 1);
    }

    #[test]
    fn ports_have_their_turns() {
        let punts = Punts::default();
        fill(&punts, 1, 100);
        fill(&punts, 2, 2);
        fill(&punts, 3, 1);
        let order: Vec<_> = (0..6).filter_map(|_| punts.take()).map(|punt| punt.ingress.0).collect();
        assert_eq!(order, [1, 2, 3, 1, 2, 1]);
        assert_eq!(std::iter::from_fn(|| punts.take()).count(), 97);
        assert!(punts.is_empty() && lock(&punts.queue).ports.is_empty());
    }

    #[test]
    fn a_frame_of_many_packets_takes_as_many_places_and_is_not_made_if_it_has_none() {
        let punts = Punts::default();
        assert!(put(&punts, 1, PUNT_QUEUE_PER_PORT - 1).is_ok());
        let refused = punts.put(PortId(1), 2, || unreachable!("there is no place"));
        assert_eq!(refused, Err(DropReason::ServiceQueueFull));
        assert!(put(&punts, 1, 1).is_ok());
        assert!(punts.take().is_some());
        assert!(put(&punts, 1, 2).is_ok());
    }

    #[test]
    fn what_a_port_has_left_behind_is_forgotten() {
        let punts = Punts::default();
        fill(&punts, 1, 3);
        fill(&punts, 2, 2);
        punts.forget(PortId(1));
        punts.forget(PortId(7));
        assert_eq!(fill(&punts, 1, 1), 1, "another port of this number");
        let order: Vec<_> = std::iter::from_fn(|| punts.take()).map(|punt| punt.ingress.0).collect();
        assert_eq!(order, [2, 1, 2]);
        assert!(punts.is_empty());
    }

    #[test]
    fn the_thread_is_told_once_until_it_takes() {
        let punts = Punts::default();
        assert!(!punts.wants_notice());
        assert_eq!(fill(&punts, 1, 2), 2);
        assert!(punts.wants_notice() && !punts.wants_notice());
        punts.notice_taken();
        assert!(!punts.wants_notice(), "nothing has come since");
        assert_eq!(fill(&punts, 1, 1), 1);
        assert!(punts.wants_notice());
    }
}
