//! Watching the namespace: tells when interfaces, addresses, routes or the nftables ruleset changed.
//!
//! Netlink multicast says *that* something changed; what there is now, the listener reads anew. So messages
//! are hardly decoded, a lost one (a full socket) is a change like any other, and a burst of them is
//! reported once. Of a change of the ruleset it matters who made it: the guard's own ones need not be looked at.
#![allow(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::time::Duration;

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};

use crate::host::HostError;

/// Groups of NETLINK_ROUTE, linux/rtnetlink.h: RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE.
const ROUTE_GROUPS: [u32; 3] = [1, 5, 7];

/// Group of NETLINK_NETFILTER, linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES.
const NFTABLES_GROUP: u32 = 7;

/// Where the header of a netlink message says whose request it answers, and where the header ends (linux/netlink.h,
/// `nlmsg_pid` of `struct nlmsghdr`).
const SENDER: std::ops::Range<usize> = 12..16;

/// Changes come in bursts (a reloaded firewall, an interface with its addresses): this long after the
/// first one, they are reported as one.
const SETTLE: Duration = Duration::from_millis(50);

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Interfaces, IPv4 addresses or IPv4 routes.
    pub links: bool,
    /// The nftables ruleset, by somebody else.
    pub nft: bool,
}

/// Watches the namespace of the thread that made it.
#[derive(Debug)]
pub struct Watcher {
    route: Listener,
    /// `None` where the kernel has no nftables.
    nft: Option<Listener>,
    pending: Change,
    /// Ends when what is pending is to be reported. It outlives a call that is given up: whoever is busy with other
    /// things meanwhile must not put the report off.
    settle: Option<Pin<Box<Sleep>>>,
}

impl Watcher {
    /// Starts watching. Must be called in a tokio runtime with I/O.
    ///
    /// # Errors
    /// If the kernel refuses the netlink socket.
    pub fn new() -> Result<Watcher, HostError> {
        let route = Listener::new(NETLINK_ROUTE, &ROUTE_GROUPS)
            .map_err(|error| HostError::os("watching interfaces and routes", error))?;
        let nft = Listener::new(NETLINK_NETFILTER, &[NFTABLES_GROUP])
            .inspect_err(|error| log::debug!("nftables cannot be watched: {error}"))
            .ok();
        Ok(Watcher { route, nft, pending: Change::default(), settle: None })
    }

    /// Waits for a change since the last call, but for those of the ruleset by the netlink socket with the number `own`.
    /// Safe to cancel: nothing is lost.
    pub async fn changed(&mut self, own: Option<u32>) -> Change {
        if self.pending == Change::default() {
            self.hear(own).await;
        }
        self.settle.get_or_insert_with(|| Box::pin(sleep(SETTLE))).await;
        self.settle = None;
        self.pending.links |= self.route.drain(None);
        self.pending.nft |= self.nft.as_ref().is_some_and(|nft| nft.drain(own));
        std::mem::take(&mut self.pending)
    }

    async fn hear(&mut self, own: Option<u32>) {
        let nft = async {
            match &self.nft {
                Some(nft) => nft.heard(own).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.route.heard(None) => self.pending.links = true,
            () = nft => self.pending.nft = true,
        }
    }
}

/// A netlink socket in some multicast groups.
#[derive(Debug)]
struct Listener(AsyncFd<Socket>);

impl Listener {
    fn new(protocol: isize, groups: &[u32]) -> io::Result<Listener> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for &group in groups {
            socket.add_membership(group)?;
        }
        // SAFETY: the socket owns its descriptor, and names the same one for as long as it lives.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Listener(socket))
    }

    /// Waits for at least one message that is not about what the socket `own` did.
    async fn heard(&self, own: Option<u32>) {
        loop {
            // The socket outlives the runtime's driver only when everything ends.
            let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
            if self.drain(own) {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Throws away what has come, and tells whether there was anything that is not about what the socket `own` did.
    fn drain(&self, own: Option<u32>) -> bool {
        let mut any = false;
        loop {
            // The first header is enough, and the rest of a datagram goes with it: it is all about one transaction.
            let mut header = [0_u8; SENDER.end];
            match self.0.get_ref().recv(&mut header.as_mut_slice(), 0) {
                Ok(length) => {
                    let sender = header[SENDER].try_into().map(u32::from_ne_bytes).ok();
                    any |= own.is_none() || sender.filter(|_| length >= SENDER.end) != own;
                }
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => any = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return any,
            }
        }
    }
}
