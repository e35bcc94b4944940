//! A machine with VLAN interfaces on its `eth0`, played by a thread.
//!
//! In a virtual machine, `ip link add link eth0 name eth0.10 type vlan id 10` makes them. A kernel need not know that
//! kind of interface, so here each is a TAP, and the thread carries frames between it and a packet socket on `eth0`:
//! it puts tags in and takes them out, as the kernel would. The stack above is the kernel's own, with its offloads: what
//! crosses are super-frames with unfinished checksums.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::addr::{MacAddr, Vid};
use crate::frame::Frame;
use crate::host::netlink;
use crate::host::netns::Netns;
use crate::offload;
use crate::port::packet::{Packet, PacketOptions};
use crate::port::tap::Tap;
use crate::port::{Device, Received};
use crate::wire::ethernet;

/// How long the thread waits for a frame before it asks whether it is to end, in milliseconds.
const WAIT: u8 = 50;

/// Frames that it carries from one interface before it looks at the next.
const BURST: usize = 64;

/// The VLAN interfaces of a machine. They end with it.
#[derive(Debug)]
pub struct Machine {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// Gives the machine in `netns` an interface `eth0.VID` for each VLAN, up and with `eth0`'s MAC address `mac`.
    ///
    /// # Errors
    /// If there is no `eth0`, or an interface of such a name.
    pub fn start(netns: &Netns, mac: MacAddr, vids: &[u16]) -> io::Result<Machine> {
        let open = || -> io::Result<(Packet, Vec<(Vid, Tap)>)> {
            let options = PacketOptions { offload: true, ..PacketOptions::default() };
            let card = Packet::open("eth0", options)?;
            let mut vlans = Vec::new();
            for &number in vids {
                let name = format!("eth0.{number}");
                let tap = Tap::create(&name)?;
                netlink::set_mac(&name, mac).map_err(io::Error::other)?;
                netlink::set_up(&name).map_err(io::Error::other)?;
                vlans.push((Vid::try_from(number).map_err(io::Error::other)?, tap));
            }
            Ok((card, vlans))
        };
        let (card, vlans) = netns.run(open).map_err(io::Error::other)??;
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = ends.clone();
        let carry = move || {
            while !is_over.load(Relaxed) && carry(&card, &vlans).is_ok() {}
        };
        let thread = thread::Builder::new().name("machine".to_owned()).spawn(carry)?;
        Ok(Machine { ends, thread: Some(thread) })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

/// Waits for frames, and carries those that have come.
fn carry(card: &Packet, vlans: &[(Vid, Tap)]) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> =
        [card.as_fd()].into_iter().chain(vlans.iter().map(|(_, tap)| tap.as_fd())).collect();
    let mut polled: Vec<_> = fds.iter().map(|&fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    poll(&mut polled, PollTimeout::from(WAIT))?;
    each_frame(card, |frame, scratch| {
        let vid = ethernet::outer_vid(frame.bytes()).and_then(|vid| Vid::try_from(vid).ok());
        let Some((_, tap)) = vlans.iter().find(|(known, _)| Some(*known) == vid) else { return };
        frame.remove_vlan_tag();
        // What an interface does not take is lost, as on any wire.
        let _ = offload::send(tap, frame, scratch);
    })?;
    for (vid, tap) in vlans {
        each_frame(tap, |frame, scratch| {
            frame.insert_vlan_tag(ethernet::vlan_tag(*vid));
            let _ = offload::send(card, frame, scratch);
        })?;
    }
    Ok(())
}

/// Does something with each of the next frames from a device.
fn each_frame(device: &dyn Device, mut with: impl FnMut(&mut Frame, &mut Frame)) -> io::Result<()> {
    let (mut frame, mut scratch) = (Frame::new(), Frame::new());
    for _ in 0..BURST {
        match device.receive(&mut frame) {
            Received::Frame => with(&mut frame, &mut scratch),
            Received::Skipped | Received::Dropped(_) => {}
            Received::Empty => break,
            Received::Gone => return Err(io::ErrorKind::NotConnected.into()),
        }
    }
    Ok(())
}
