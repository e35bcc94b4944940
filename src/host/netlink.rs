//! Interfaces, addresses and routes of the calling thread's namespace, by rtnetlink.
//!
//! The calls block, for some hundred microseconds. Each makes its own netlink socket on a short thread of
//! its own (a new thread is in its parent's namespace), so that they can be called from anywhere: from
//! plain threads, from within a tokio runtime, and in any namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo as LinkInfoAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use nix::errno::Errno;
use rtnetlink::{Error, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::addr::MacAddr;
use crate::host::netns::{Netns, in_thread};
use crate::host::{ErrorKind, HostError};

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; zero if it has none of six bytes.
    pub mac: MacAddr,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// The driver, for virtual interfaces: `veth`, `bridge`, `tun`...
    pub kind: Option<String>,
}

/// A unicast IPv4 route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRoute {
    /// Its destinations.
    pub prefix: Ipv4Net,
    /// The next hop; `None` if the destinations are on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The interface.
    pub ifindex: u32,
    /// Its priority: of two routes to one prefix, the lower one counts.
    pub metric: u32,
}

/// The interface of this name.
///
/// # Errors
/// Only when netlink itself fails: a missing interface is `None`.
pub fn link(name: &str) -> Result<Option<LinkInfo>, HostError> {
    block(async |handle| find_link(&handle, name).await)?.map_err(|errno| HostError::os(name, errno))
}

/// The interface of this name, which is expected to be there.
///
/// # Errors
/// `NotFound` if it is not.
pub fn expect_link(name: &str) -> Result<LinkInfo, HostError> {
    link(name)?.ok_or_else(|| {
        HostError::new(ErrorKind::NotFound, format!("interface {name}"), "no such interface")
            .hint("see `ip link`")
    })
}

/// All interfaces.
///
/// # Errors
/// When netlink fails.
pub fn links() -> Result<Vec<LinkInfo>, HostError> {
    block(async |handle| {
        let messages: Vec<_> = handle.link().get().execute().try_collect().await.map_err(errno)?;
        Ok(messages.into_iter().map(read_link).collect())
    })?
    .map_err(|error: Errno| HostError::os("reading the interfaces", error))
}

/// The IPv4 addresses of an interface with their prefixes, the primary one first; of all interfaces if
/// `index` is `None`.
///
/// # Errors
/// When netlink fails.
pub fn addresses(index: Option<u32>) -> Result<Vec<Ipv4Net>, HostError> {
    block(async |handle| list_addresses(&handle, index).await)?
        .map_err(|error| HostError::os("reading the addresses", error))
}

/// The unicast IPv4 routes of the main table, as far as their links are alive. Of a multipath route, the
/// first next hop.
///
/// # Errors
/// When netlink fails.
pub fn routes() -> Result<Vec<HostRoute>, HostError> {
    block(async |handle| list_routes(&handle).await)?
        .map_err(|error| HostError::os("reading the routes", error))
}

/// Prefixes that this namespace has addresses in or a route for: of any kind, in any table, whatever rule leads to
/// it. VPNs like to use tables of their own.
///
/// # Errors
/// When netlink fails.
pub fn routed_prefixes() -> Result<Vec<Ipv4Net>, HostError> {
    block(async |handle| {
        let mut prefixes: Vec<_> = list_addresses(&handle, None).await?.iter().map(Ipv4Net::trunc).collect();
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<_> = handle.route().get(all).execute().try_collect().await.map_err(errno)?;
        prefixes.extend(messages.iter().filter_map(read_destination));
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(prefixes)
    })?
    .map_err(|error: Errno| HostError::os("reading the routes", error))
}

/// Keeps IPv6 from an interface, as far as the kernel has it.
pub fn disable_ipv6(name: &str) {
    // Without IPv6 there is no such file, and nothing to keep away.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

/// Switches an interface on.
///
/// # Errors
/// `NotFound`, `Permission`.
pub fn set_up(name: &str) -> Result<(), HostError> {
    change(name, LinkMessageBuilder::up)
}

/// Switches an interface off.
///
/// # Errors
/// `NotFound`, `Permission`.
pub fn set_down(name: &str) -> Result<(), HostError> {
    change(name, LinkMessageBuilder::down)
}

/// Sets the largest packet of an interface, in bytes.
///
/// # Errors
/// `NotFound`, `Permission`, `Other` if the driver does not carry that size.
pub fn set_mtu(name: &str, mtu: u32) -> Result<(), HostError> {
    change(name, |link| link.mtu(mtu))
}

/// Sets the MAC address of an interface.
///
/// # Errors
/// `NotFound`, `Permission`, `Other` if the driver does not take it.
pub fn set_mac(name: &str, mac: MacAddr) -> Result<(), HostError> {
    change(name, |link| link.address(mac.0.to_vec()))
}

/// Gives an interface another name. It must be down on older kernels.
///
/// # Errors
/// `NotFound`, `Permission`, `Exists` if there is one of that name.
pub fn rename(name: &str, to: &str) -> Result<(), HostError> {
    change(name, |link| link.name(to))
}

/// Moves an interface into another namespace.
///
/// # Errors
/// `NotFound`, `Permission`, `Exists` if an interface there has its name.
pub fn move_link(name: &str, target: &Netns) -> Result<(), HostError> {
    change(name, |link| link.setns_by_fd(target.as_fd().as_raw_fd()))
}

/// Makes a pair of virtual Ethernet interfaces, joined by a wire.
///
/// # Errors
/// `Exists`, `Permission`.
pub fn create_veth(name: &str, peer: &str) -> Result<(), HostError> {
    create(name, LinkVeth::new(name, peer).build())
}

/// Makes a bridge.
///
/// # Errors
/// `Exists`, `Permission`.
pub fn create_bridge(name: &str) -> Result<(), HostError> {
    create(name, LinkBridge::new(name).build())
}

/// Makes an interface a port of a bridge.
///
/// # Errors
/// `NotFound`, `Permission`.
pub fn set_bridge(name: &str, bridge: &str) -> Result<(), HostError> {
    let bridge = expect_link(bridge)?.index;
    change(name, |link| link.controller(bridge))
}

/// Removes an interface; one that is not there is removed already.
///
/// # Errors
/// `Permission`.
pub fn delete_link(name: &str) -> Result<(), HostError> {
    let Some(link) = link(name)? else { return Ok(()) };
    block(async |handle| handle.link().del(link.index).execute().await.map_err(errno))?
        .map_err(|error| HostError::os(format!("removing interface {name}"), error))
}

/// Adds an address to an interface.
///
/// # Errors
/// `NotFound`, `Permission`, `Exists`.
pub fn add_address(name: &str, address: Ipv4Net) -> Result<(), HostError> {
    let index = expect_link(name)?.index;
    block(async |handle| add_address_to(&handle, index, address).await)?
        .map_err(|error| HostError::os(format!("address {address} on {name}"), error))
}

/// Removes an address from an interface.
///
/// # Errors
/// `NotFound`, `Permission`.
pub fn del_address(name: &str, address: Ipv4Net) -> Result<(), HostError> {
    let index = expect_link(name)?.index;
    block(async |handle| {
        let mut list = handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) = list.try_next().await.map_err(errno)? {
            if read_address(&message) == Some(address) {
                return handle.address().del(message).execute().await.map_err(errno);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    })?
    .map_err(|error| HostError::os(format!("address {address} on {name}"), error))
}

/// Adds a route: to `prefix`, by `gateway`.
///
/// # Errors
/// `Exists` if there is one to this prefix, `Permission`, `Other` if the gateway is not on a link.
pub fn add_route(prefix: Ipv4Net, gateway: Ipv4Addr) -> Result<(), HostError> {
    block(async |handle| add_route_by(&handle, prefix, gateway).await)?
        .map_err(|error| HostError::os(format!("route to {prefix} by {gateway}"), error))
}

/// Removes the default route by an interface; if there is none, it is removed already.
///
/// # Errors
/// `NotFound`, `Permission`.
pub fn del_default_route(name: &str) -> Result<(), HostError> {
    let index = expect_link(name)?.index;
    block(async |handle| {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut list = handle.route().get(all).execute();
        while let Some(message) = list.try_next().await.map_err(errno)? {
            let is_it = |route: HostRoute| route.ifindex == index && route.prefix.prefix_len() == 0;
            if read_route(&message).is_some_and(is_it) {
                return handle.route().del(message).execute().await.map_err(errno);
            }
        }
        Ok(())
    })?
    .map_err(|error| HostError::os(format!("default route by {name}"), error))
}

fn create(name: &str, link: LinkMessage) -> Result<(), HostError> {
    block(async |handle| handle.link().add(link).execute().await.map_err(errno))?
        .map_err(|error| HostError::os(format!("making interface {name}"), error))
}

fn change(
    name: &str,
    edit: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> + Send,
) -> Result<(), HostError> {
    let index = expect_link(name)?.index;
    let message = edit(LinkUnspec::new_with_index(index)).build();
    block(async |handle| change_link(&handle, message).await)?
        .map_err(|error| HostError::os(format!("interface {name}"), error))
}

/// Runs netlink requests to their end, and hands back what they come to.
fn block<T: Send>(requests: impl AsyncFnOnce(Handle) -> T + Send) -> Result<T, HostError> {
    runtime(async || Ok(requests(connect()?).await))
}

/// Runs `f` on a thread and in a runtime of its own.
pub(super) fn runtime<T: Send>(f: impl AsyncFnOnce() -> Result<T, HostError> + Send) -> Result<T, HostError> {
    in_thread(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.map_err(|error| HostError::os("netlink", error))?.block_on(f())
    })?
}

/// A netlink socket in the thread's namespace of the moment, served by the runtime.
pub(super) fn connect() -> Result<Handle, HostError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| HostError::os("netlink", error))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The kernel's answer as an error number.
pub(super) fn errno(error: Error) -> Errno {
    match error {
        Error::NetlinkError(message) => Errno::from_raw(message.raw_code().saturating_neg()),
        Error::UnexpectedMessage(_)
        | Error::RequestFailed
        | Error::NamespaceError(_)
        | Error::InvalidHardwareAddress(_)
        | Error::InvalidIp(_)
        | Error::InvalidAddress(..)
        | Error::InvalidNla(_) => Errno::EIO,
    }
}

pub(super) async fn find_link(handle: &Handle, name: &str) -> Result<Option<LinkInfo>, Errno> {
    let mut found = handle.link().get().match_name(name).execute();
    match found.try_next().await.map_err(errno) {
        Ok(message) => Ok(message.map(read_link)),
        // Of the two last, no interface can have such a name: it is too long, or empty.
        Err(Errno::ENODEV | Errno::ERANGE | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) async fn list_addresses(handle: &Handle, index: Option<u32>) -> Result<Vec<Ipv4Net>, Errno> {
    let mut request = handle.address().get();
    request.message_mut().header.family = AddressFamily::Inet;
    if let Some(index) = index {
        request = request.set_link_index_filter(index);
    }
    let messages: Vec<_> = request.execute().try_collect().await.map_err(errno)?;
    Ok(messages.iter().filter_map(read_address).collect())
}

pub(super) async fn list_routes(handle: &Handle) -> Result<Vec<HostRoute>, Errno> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let messages: Vec<_> = handle.route().get(all).execute().try_collect().await.map_err(errno)?;
    Ok(messages.iter().filter_map(read_route).collect())
}

pub(super) async fn change_link(handle: &Handle, message: LinkMessage) -> Result<(), Errno> {
    handle.link().change(message).execute().await.map_err(errno)
}

pub(super) async fn add_address_to(handle: &Handle, index: u32, address: Ipv4Net) -> Result<(), Errno> {
    let request = handle.address().add(index, IpAddr::V4(address.addr()), address.prefix_len());
    request.execute().await.map_err(errno)
}

pub(super) async fn add_route_by(handle: &Handle, prefix: Ipv4Net, gateway: Ipv4Addr) -> Result<(), Errno> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .gateway(gateway)
        .build();
    handle.route().add(route).execute().await.map_err(errno)
}

fn read_link(message: LinkMessage) -> LinkInfo {
    let mut link = LinkInfo {
        index: message.header.index,
        name: String::new(),
        mac: MacAddr::ZERO,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        kind: None,
    };
    for attribute in message.attributes {
        #[allow(clippy::wildcard_enum_match_arm, reason = "of some hundred attributes we read four")]
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().map_or(MacAddr::ZERO, MacAddr),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| {
                    let LinkInfoAttribute::Kind(kind) = info else { return None };
                    Some(kind.to_string())
                });
            }
            _ => {}
        }
    }
    link
}

/// `IFA_LOCAL` is ours; `IFA_ADDRESS` is the peer's on point-to-point links.
fn read_address(message: &AddressMessage) -> Option<Ipv4Net> {
    message.attributes.iter().find_map(|attribute| {
        let AddressAttribute::Local(IpAddr::V4(ip)) = attribute else { return None };
        Ipv4Net::new(*ip, message.header.prefix_len).ok()
    })
}

/// The prefix that a route is for; `None` for a default route.
fn read_destination(message: &RouteMessage) -> Option<Ipv4Net> {
    message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute else { return None };
        Ipv4Net::new(*ip, message.header.destination_prefix_length).ok()
    })
}

fn read_route(message: &RouteMessage) -> Option<HostRoute> {
    let header = &message.header;
    let dead = RouteFlags::Dead | RouteFlags::Linkdown;
    if header.kind != RouteType::Unicast || header.flags.intersects(dead) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut to = Ipv4Addr::UNSPECIFIED;
    let (mut gateway, mut ifindex, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        #[allow(clippy::wildcard_enum_match_arm, reason = "of some dozen attributes we read six")]
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = *ip,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.first()?;
                ifindex = Some(hop.interface_index);
                gateway = hop.attributes.iter().find_map(|attribute| {
                    let RouteAttribute::Gateway(RouteAddress::Inet(ip)) = attribute else { return None };
                    Some(*ip)
                });
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let prefix = Ipv4Net::new(to, header.destination_prefix_length).ok()?;
    Some(HostRoute { prefix, gateway, ifindex: ifindex?, metric })
}
