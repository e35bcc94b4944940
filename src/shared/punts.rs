//! Frames for the gateway's services, on their way to the thread that gives them.
//!
//! What the gateway answers by itself (ARP, echo) never comes here. Everything that needs a memory or a socket is
//! *punted*: the pipeline puts the frame into this queue, with the port that it came by, and the thread takes it
//! out, gives it to its [`Service`], and has a worker send what comes of it. There are two such queues: one for control,
//! which knows the leases of DHCP, and one for the gateway's TCP and UDP ([`crate::service`]), which must not wait while
//! control makes a device.
//!
//! **Bounds.** The queue has [`PUNT_QUEUE`] places, and no port takes more than [`PUNT_QUEUE_PER_PORT`] of them, so
//! that one which floods a service leaves places to the others. A frame that finds none is dropped by the one who
//! brought it; the thread is never waited for.
//!
//! **Waking the thread.** A worker asks at the end of a turn whether to tell it ([`Punts::wants_notice`]). The
//! answer is yes once, until it has begun to take ([`Punts::notice_taken`]): there is at most one notice under
//! way, whatever the number of frames. It is told after what was put in before it, so when a port's device has been
//! taken from its worker, the notice of its last frame is already there.

use std::collections::VecDeque;
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
    queue: Mutex<VecDeque<Punt>>,
    /// Whether something was put in since the thread began to take.
    news: AtomicBool,
    /// Whether the thread has been told, and has not begun to take.
    told: AtomicBool,
}

impl Punts {
    /// Puts a frame in.
    ///
    /// # Errors
    /// [`DropReason::ServiceQueueFull`] if there is no place, or none that its port may take.
    pub fn put(&self, punt: Punt) -> Result<(), DropReason> {
        let mut queue = lock(&self.queue);
        let of_port = || queue.iter().filter(|other| other.ingress == punt.ingress).count();
        // As long as the queue is short, nobody has to be counted.
        let full = queue.len() >= PUNT_QUEUE
            || queue.len() >= PUNT_QUEUE_PER_PORT && of_port() >= PUNT_QUEUE_PER_PORT;
        if full {
            return Err(DropReason::ServiceQueueFull);
        }
        queue.push_back(punt);
        self.news.store(true, Release);
        Ok(())
    }

    /// Takes the frame out that has waited longest.
    pub fn take(&self) -> Option<Punt> {
        lock(&self.queue).pop_front()
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

    #[test]
    fn one_port_leaves_places_to_the_others_and_all_together_find_an_end() {
        let punts = Punts::default();
        let put = |port, tries: usize| (0..tries).filter(|_| punts.put(from(port)).is_ok()).count();
        assert_eq!(put(1, 2 * PUNT_QUEUE), PUNT_QUEUE_PER_PORT);
        assert_eq!(put(2, 1), 1);
        let others: usize = (3..100).map(|port| put(port, PUNT_QUEUE)).sum();
        assert_eq!(PUNT_QUEUE_PER_PORT + 1 + others, PUNT_QUEUE);
        assert_eq!(punts.put(from(100)).err(), Some(DropReason::ServiceQueueFull));
        assert_eq!(punts.take().map(|punt| punt.ingress), Some(PortId(1)));
        assert_eq!(put(100, 2), 1);
    }

    #[test]
    fn the_thread_is_told_once_until_it_takes() {
        let punts = Punts::default();
        assert!(!punts.wants_notice());
        assert!(punts.put(from(1)).is_ok() && punts.put(from(1)).is_ok());
        assert!(punts.wants_notice() && !punts.wants_notice());
        punts.notice_taken();
        assert!(!punts.wants_notice(), "nothing has come since");
        assert!(punts.put(from(1)).is_ok());
        assert!(punts.wants_notice());
    }
}
