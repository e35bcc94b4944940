//! Giving a TAP device to a container: into its namespace, under its name, configured and up.
//!
//! One netlink message moves the device and sets name, MAC address, MTU and queue length, so that nobody in
//! the namespace sees it half made; address, link state and default route follow from within. Whatever
//! fails, the caller closes the TAP's file descriptor, and the device with all that hangs on it is gone.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::{Handle, LinkUnspec};

use crate::addr::MacAddr;
use crate::host::netlink;
use crate::host::netns::Netns;
use crate::host::{ErrorKind, HostError};

/// Frames that the kernel holds for the switch before it drops: the ring of a TAP has this many places.
const TX_QUEUE_LEN: u32 = 1000;

/// What a device is to be in its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// Its name.
    pub ifname: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its address with the network's prefix; `None` leaves addressing to the container.
    pub address: Option<Ipv4Net>,
    /// The next hop of a default route; `None` sets none.
    pub gateway: Option<Ipv4Addr>,
    /// Largest packet, in bytes.
    pub mtu: u16,
}

/// Moves the TAP device `device` from the calling thread's namespace to `target` and sets it up there.
///
/// The move itself is most of the time that this takes: in it the kernel waits for an RCU grace period.
///
/// # Errors
/// `Exists` if the interface's name, the address or the default route is taken there. The device is then in
/// either namespace, and useless: close it.
pub fn attach_tap(device: &str, target: &Netns, settings: &LinkSettings) -> Result<(), HostError> {
    let name = settings.ifname.as_str();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', ':', ' ']) {
        let why = "not a name for an interface";
        return Err(HostError::new(ErrorKind::Other, format!("interface {name:?}"), why)
            .hint("take 1 to 15 characters without space, colon and slash"));
    }
    netlink::runtime(async || {
        let here = netlink::connect()?;
        target.enter()?;
        let there = netlink::connect()?;
        check_free(&there, target, settings).await?;
        move_link(&here, device, target, settings).await?;
        configure(&there, settings)
            .await
            .map_err(|(what, errno)| HostError::os(format!("{what} of {name} in namespace {target}"), errno))
    })
}

/// Finds conflicts before anything moves, to name them better than an error number can.
async fn check_free(there: &Handle, target: &Netns, settings: &LinkSettings) -> Result<(), HostError> {
    let taken =
        |what: String, why: String, hint: &str| Err(HostError::new(ErrorKind::Exists, what, why).hint(hint));
    let unread = |errno| HostError::os(format!("reading namespace {target}"), errno);

    let name = settings.ifname.as_str();
    if netlink::find_link(there, name).await.map_err(unread)?.is_some() {
        let why = format!("namespace {target} has an interface of this name");
        return taken(format!("interface {name}"), why, "take another --ifname, or remove it there");
    }
    if let Some(address) = settings.address {
        let has = netlink::list_addresses(there, None).await.map_err(unread)?;
        if has.iter().any(|other| other.addr() == address.addr()) {
            let why = format!("namespace {target} has this address already");
            return taken(format!("address {}", address.addr()), why, "take another --ip");
        }
    }
    if settings.gateway.is_some() {
        let routes = netlink::list_routes(there).await.map_err(unread)?;
        let default = routes.iter().find(|route| route.prefix.prefix_len() == 0 && route.metric == 0);
        if let Some(route) = default {
            let by = route.gateway.map_or_else(|| "a link".to_owned(), |gateway| gateway.to_string());
            let why = format!("namespace {target} has one by {by}");
            return taken("default route".to_owned(), why, "remove it there: ip route del default");
        }
    }
    Ok(())
}

async fn move_link(
    here: &Handle,
    device: &str,
    target: &Netns,
    settings: &LinkSettings,
) -> Result<(), HostError> {
    let found = netlink::find_link(here, device).await;
    let link =
        found.and_then(|link| link.ok_or(Errno::ENODEV)).map_err(|errno| HostError::os(device, errno))?;
    let moved = LinkUnspec::new_with_index(link.index)
        .setns_by_fd(target.as_fd().as_raw_fd())
        .name(&settings.ifname)
        .address(settings.mac.0.to_vec())
        .mtu(u32::from(settings.mtu))
        .txqueuelen(TX_QUEUE_LEN)
        .build();
    netlink::change_link(here, moved)
        .await
        .map_err(|errno| HostError::os(format!("interface {} in namespace {target}", settings.ifname), errno))
}

/// Addresses the device and brings it up; on error, tells at what.
async fn configure(there: &Handle, settings: &LinkSettings) -> Result<(), (&'static str, Errno)> {
    let found = netlink::find_link(there, &settings.ifname).await;
    let index =
        found.and_then(|link| link.ok_or(Errno::ENODEV)).map_err(|errno| ("the interface", errno))?.index;
    if let Some(address) = settings.address {
        netlink::add_address_to(there, index, address).await.map_err(|errno| ("the address", errno))?;
    }
    let up = LinkUnspec::new_with_index(index).up().build();
    netlink::change_link(there, up).await.map_err(|errno| ("the state", errno))?;
    if let Some(gateway) = settings.gateway {
        let all = Ipv4Net::default();
        netlink::add_route_by(there, all, gateway).await.map_err(|errno| ("the default route", errno))?;
    }
    Ok(())
}
