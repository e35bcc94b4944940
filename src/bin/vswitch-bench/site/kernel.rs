//! The kernel: a bridge for L2; a router that masquerades and publishes by nft for NAT.
//!
//! Both get their best case. `bridge-nf-call-iptables`, where the system has it, is off: with it every
//! bridged frame goes through the IP hooks. And the container behind NAT hangs on the router itself, not on
//! the bridge.

use std::fs;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use vswitchd::control::error::Error;
use vswitchd::host::netlink;
use vswitchd::lab::rig::{Rig, UPLINK};

use super::{End, Memory, PORT, Site, give, nft, on_network};
use crate::peer::Kind;

/// The router's end of the wire to container number `wire`, and the container's.
const fn wire(wire: u8) -> [Ipv4Net; 2] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 98, wire, 1), 24),
        Ipv4Net::new_assert(Ipv4Addr::new(10, 98, wire, 2), 24),
    ]
}

/// Deletes all of the kernel's tracked connections: an `nlmsghdr` (length, type, flags, sequence number,
/// port) and an `nfgenmsg` (family, version, resource), linux/netfilter/nfnetlink_conntrack.h.
const DELETE_ALL: [u8; 20] = {
    let mut message = [0; 20];
    message[0] = 20;
    message[4] = 2; // IPCTNL_MSG_CT_DELETE
    message[5] = 1; // NFNL_SUBSYS_CTNETLINK
    message[6] = 1 | 4; // NLM_F_REQUEST | NLM_F_ACK
    message
};

pub(super) fn build(rig: Rig) -> Result<Site, Error> {
    rig.switch.run(|| netlink::create_bridge("br0"))??;
    let one = bridged(&rig, "c1", 11)?;
    let two = bridged(&rig, "c2", 12)?;
    rig.switch.run(|| netlink::set_up("br0"))??;
    rig.switch.run(|| {
        for file in ["iptables", "ip6tables", "arptables"] {
            // Only there while br_netfilter is loaded.
            let _ = fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{file}"), "0");
        }
    })?;
    let (mut inside, mut neighbor) = (None, None);
    if Kind::Kernel.missing().is_none() {
        let end = routed(&rig, 3)?;
        translate(&rig, end.ip)?;
        (inside, neighbor) = (Some(end), Some(routed(&rig, 4)?));
    }
    let switched = Some((one, two));
    Ok(Site {
        processes: Vec::new(),
        memory: Memory::Kernel,
        switched,
        inside,
        neighbor,
        public: UPLINK,
        rig,
    })
}

/// A container on the bridge.
fn bridged(rig: &Rig, name: &str, host: u16) -> Result<End, Error> {
    let port = format!("{name}-port");
    rig.switch.run(|| {
        netlink::create_veth(&port, name)?;
        netlink::set_bridge(&port, "br0")?;
        netlink::set_up(&port)
    })??;
    give(rig, name, on_network(host))
}

/// A container on the router.
fn routed(rig: &Rig, number: u8) -> Result<End, Error> {
    let ([router, routed], name) = (wire(number), format!("c{number}"));
    let port = format!("{name}-port");
    rig.switch.run(|| {
        netlink::create_veth(&port, &name)?;
        netlink::add_address(&port, router)?;
        netlink::set_up(&port)
    })??;
    let end = give(rig, &name, routed)?;
    end.netns.run(|| netlink::add_route(Ipv4Net::default(), router.addr()))??;
    Ok(end)
}

/// The router's rules: it forwards, masquerades, and publishes the port of this container.
fn translate(rig: &Rig, ip: Ipv4Addr) -> Result<(), Error> {
    rig.switch
        .run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?
        .map_err(|error| Error::failed("ip_forward", error, ""))?;
    nft(
        &rig.switch,
        &format!(
            "table ip nat {{
                chain out {{ type nat hook postrouting priority 100; oifname \"eth0\" masquerade; }}
                chain in {{ type nat hook prerouting priority -100;
                    ip daddr {UPLINK} tcp dport {PORT} dnat to {ip};
                    ip daddr {UPLINK} udp dport {PORT} dnat to {ip}; }}
            }}"
        ),
    )
}

pub(super) fn forget_connections(rig: &Rig) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::failed("conntrack", error, "");
    let answer = rig.switch.run(|| {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.send_to(&DELETE_ALL, &SocketAddr::new(0, 0), 0)?;
        socket.recv_from_full().map(|(answer, _)| answer)
    })?;
    // After the nlmsghdr of an acknowledgment comes the negative error number.
    match answer.map_err(failed)?.get(16..20) {
        Some([0, 0, 0, 0]) => Ok(()),
        Some(&[a, b, c, d]) => {
            let errno = i32::from_ne_bytes([a, b, c, d]).saturating_neg();
            Err(failed(std::io::Error::from_raw_os_error(errno)))
        }
        _ => Err(Error::failed("conntrack", "an answer without a result", "")),
    }
}
