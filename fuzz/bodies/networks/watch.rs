//! What must hold of every frame that comes out: it was sent on this network, or a rule lets it in.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use vswitchd::addr::{Endpoint, MacAddr, Protocol};
use vswitchd::frame::{Checksum, Offload};
use vswitchd::sim::UPLINK_MAC;
use vswitchd::snapshot::NetworkMode;
use vswitchd::wire::arp::Arp;
use vswitchd::wire::ethernet::{self, Ethernet};

use super::judge::{End, Judge, external, gateway, network_of};
use super::said::{Ends, Said, sorted};
use super::site::{FIRST, HOST, INTERNAL, LAN, NEAR_SERVICE, ROUTED, SECOND, SERVICE, Site, UPLINKS, id};
use crate::bodies::speech::{is_fragment, is_sound};

/// What a station has sent, without the tag of its VLAN.
pub struct Sent {
    pub station: usize,
    pub frame: Vec<u8>,
    pub offload: Offload,
}

/// A frame that came out at a station, without the tag of its VLAN.
pub struct Seen {
    pub station: usize,
    pub frame: Vec<u8>,
    pub offload: Offload,
    /// Whether others came out with it, so that its connection may have ended again meanwhile.
    pub is_one_of_many: bool,
}

/// What was allowed, and so may be answered.
#[derive(Default)]
pub struct Watch {
    pub judge: Judge,
    open: HashSet<Ends>,
    pairs: HashSet<(Ipv4Addr, Ipv4Addr)>,
    /// Whether all checksums of all packets so far were right; then those of all that leave are, too.
    is_unsound: bool,
}

impl Watch {
    /// Connections have ended: nothing is an answer any more.
    pub fn forget(&mut self) {
        self.open.clear();
        self.pairs.clear();
    }

    /// Notes what is sent.
    pub fn hear(&mut self, sent: &Sent) {
        let Sent { frame, offload, .. } = sent;
        self.is_unsound |= *offload != Offload::NONE || !is_sound(frame) || is_fragment(frame);
    }

    /// Sees that a frame may have come out where it did.
    pub fn see(&mut self, site: &Site, seen: &Seen, sent: Option<&Sent>) {
        let Ok(eth) = Ethernet::parse(&seen.frame) else { panic!("a frame without a header left") };
        let is_finished = !matches!(seen.offload.checksum, Checksum::Partial { .. });
        assert!(self.is_unsound || !is_finished || is_sound(&seen.frame), "a wrong checksum left");
        let Some(network) = site.spots[seen.station].network else {
            return self.outside(site, seen, &eth);
        };
        if seen.station == HOST {
            only_for_the_host(site, &seen.frame);
        }
        if eth.src == gateway_mac(network) {
            let mtu = if network == ROUTED { 1400 } else { 1500 };
            assert!(seen.offload.is_super() || seen.frame.len() - eth.len <= mtu, "over the MTU");
            self.by_the_gateway(site, seen, &eth, network);
        } else {
            assert!(seen.offload.is_super() || seen.frame.len() - eth.len <= 1500, "over the MTU");
            let Some(sent) = sent else { panic!("nobody sent {:02x?}", seen.frame) };
            self.switched(site, seen, sent, network);
        }
    }

    /// A frame that another station of the network has sent.
    fn switched(&mut self, site: &Site, seen: &Seen, sent: &Sent, network: usize) {
        assert_eq!(site.spots[sent.station].network, Some(network), "a frame crossed: {:02x?}", seen.frame);
        assert_ne!(sent.station, seen.station, "a frame came back");
        assert_eq!(seen.frame[..12], sent.frame[..12], "a frame has other addresses than it was sent with");
        let is_as_sent = sent.offload == Offload::NONE && !is_fragment(&sent.frame);
        assert!(!is_as_sent || seen.frame == sent.frame, "a frame was changed");
        let (dst, src) = (mac(&seen.frame[..6]), mac(&seen.frame[6..12]));
        let ethertype = u16::from_be_bytes([seen.frame[12], seen.frame[13]]);
        let packet = &seen.frame[ethernet::HEADER_LEN..];
        let said = Said::read(packet).filter(|_| ethertype == ethernet::IPV4);
        let snapshot = site.switch.shared.snapshot();
        let port = snapshot.port(site.stations[sent.station].id).expect("the port");
        if let Some(pins) = port.pins {
            assert!(pins.mac.is_none_or(|own| own == src), "a spoofed MAC address");
            let is_own = |said: &Said| {
                pins.ip.is_none_or(|own| own == said.src) || said.src.is_unspecified() && dst.is_group()
            };
            assert!(said.as_ref().is_none_or(is_own), "a spoofed IP address");
        }
        if dst.is_group() || self.judge.lines.is_empty() && self.judge.defaults.is_empty() {
            return;
        }
        let nothing = Ipv4Addr::UNSPECIFIED;
        match said {
            Some(said) => {
                let from = [site.behind(sent.station, said.src)];
                let to = [
                    site.behind(seen.station, said.dst),
                    site.near(network, said.dst),
                    site.outside(said.dst, 1),
                ];
                let ends = said.flow;
                assert!(self.may(&said, &from, &to, ends), "{said:?} is forbidden on network {network}");
            }
            // What is no packet is only a frame, and behind tags there is another rule.
            None if matches!(ethertype, ethernet::IPV4 | ethernet::ARP) => {}
            None if ethertype == ethernet::VLAN || ethertype == ethernet::SERVICE_VLAN => {}
            None => {
                let from = site.behind(sent.station, nothing);
                let known = site.behind(seen.station, nothing);
                let unknown = match network {
                    LAN => site.near(LAN, nothing),
                    _ => End { zone: vswitchd::table::policy::Zone::Inside, station: None, ..known },
                };
                let allows = |to| self.judge.allows(&from, to, None, 0);
                assert!([known, unknown].iter().any(allows), "a forbidden frame: {:02x?}", seen.frame);
            }
        }
    }

    /// A frame that the switch has sent on a network, or passed on from elsewhere.
    fn by_the_gateway(&mut self, site: &Site, seen: &Seen, eth: &Ethernet, network: usize) {
        if eth.ethertype == ethernet::ARP {
            let own = gateway(network).unwrap_or(Ipv4Addr::UNSPECIFIED);
            return tells_the_truth(&seen.frame, gateway_mac(network), own);
        }
        let Some(said) = Said::read(&seen.frame[eth.len..]).filter(|_| eth.ethertype == ethernet::IPV4)
        else {
            panic!("the gateway said {:02x?}", seen.frame);
        };
        assert!(gateway(network).is_some(), "there is no gateway on a LAN: {said:?}");
        if gateway(network) == Some(said.src) {
            let from = site.behind(seen.station, said.dst);
            let host = site.at(said.src);
            let may_ask = self.judge.allows(&from, &host, Some(Protocol::Icmp), 0);
            let others = || {
                site.on(network).any(|other| {
                    self.judge.allows(&site.behind(other, said.dst), &host, Some(Protocol::Icmp), 0)
                })
            };
            assert!(!said.is_echo_reply || may_ask || others(), "a ping was answered: {said:?}");
            return;
        }
        assert_eq!(network_of(said.dst), Some(network), "routed astray: {said:?}");
        let to = [site.at(said.dst)];
        if let Some(home) = network_of(said.src) {
            let from: Vec<End> = site.on(home).map(|station| site.behind(station, said.src)).collect();
            assert!(self.may(&said, &from, &to, said.flow), "{said:?} crossed from network {home}");
            return;
        }
        if (0..UPLINKS).any(|uplink| external(uplink) == said.src) {
            return self.around(site, seen, &said, to[0]);
        }
        assert_ne!(network, INTERNAL, "the world reached an internal network: {said:?}");
        self.called_from_outside(site, &said);
        let from = [0, 1].map(|uplink| site.outside(said.src, uplink));
        assert!(self.may(&said, &from, &to, said.flow), "{said:?} came in");
    }

    /// A packet from one container to another by way of an uplink's address.
    fn around(&mut self, site: &Site, seen: &Seen, said: &Said, to: End) {
        // Errors and the gateway's own answers have no ports to find their sender by.
        let Some((shown, dst)) = said.flow.filter(|_| !said.is_echo_reply) else { return };
        let sources = inside(site, said, |outside, _| outside == shown);
        assert!(seen.is_one_of_many || !sources.is_empty(), "nobody is {shown}");
        let allowed = sources.iter().any(|&source| {
            let homes = network_of(source.ip).into_iter().flat_map(|home| site.on(home));
            let from: Vec<End> = homes.map(|station| site.behind(station, source.ip)).collect();
            self.may(said, &from, &[to], Some((source, dst)))
        });
        assert!(allowed || sources.is_empty(), "{said:?} went around, from {sources:?}");
    }

    /// A frame at an uplink.
    fn outside(&mut self, site: &Site, seen: &Seen, eth: &Ethernet) {
        let uplink = seen.station;
        let mut own_mac = UPLINK_MAC;
        own_mac.0[4] = u8::from(uplink == 1);
        assert_eq!(eth.src, own_mac);
        if eth.ethertype == ethernet::ARP {
            return tells_the_truth(&seen.frame, own_mac, external(uplink));
        }
        let Some(said) = Said::read(&seen.frame[eth.len..]).filter(|_| eth.ethertype == ethernet::IPV4)
        else {
            panic!("out of an uplink came {:02x?}", seen.frame);
        };
        let mtu = if uplink == 1 { 1280 } else { 1500 };
        assert!(seen.offload.is_super() || seen.frame.len() - eth.len <= mtu, "over the MTU");
        assert_eq!(network_of(said.dst), None, "a container's packet left: {said:?}");
        let to = [site.outside(said.dst, uplink)];
        if let Some(home) = network_of(said.src) {
            let snapshot = site.switch.shared.snapshot();
            let network = snapshot.network(id(home)).expect("the network");
            assert_eq!(network.mode, NetworkMode::Routed, "an inner address is seen: {said:?}");
            if gateway(home) != Some(said.src) {
                assert_eq!(network.uplink.index(), uplink, "by another uplink: {said:?}");
                let from: Vec<End> = site.on(home).map(|station| site.behind(station, said.src)).collect();
                assert!(self.may(&said, &from, &to, said.flow), "{said:?} went out");
            }
            return;
        }
        assert_eq!(said.src, external(uplink), "an address that is not the uplink's");
        // Errors and the switch's own answers have no ports to find their sender by.
        let Some((shown, remote)) = said.flow.filter(|_| !(said.is_echo_reply && uplink == 1)) else {
            return;
        };
        let sources = inside(site, &said, |outside, peer| outside == shown && peer.ip == remote.ip);
        assert!(seen.is_one_of_many || !sources.is_empty(), "nobody is {shown}");
        let allowed = sources.iter().any(|&source| {
            let Some(home) = network_of(source.ip).filter(|&home| home != INTERNAL) else { return false };
            let from: Vec<End> = site.on(home).map(|station| site.behind(station, source.ip)).collect();
            self.may(&said, &from, &to, Some((source, remote)))
        });
        assert!(allowed || sources.is_empty(), "{said:?} went out, from {sources:?}");
    }

    /// What a packet from the world may open: a published port, at a target that is up, for whom it is published.
    fn called_from_outside(&self, site: &Site, said: &Said) {
        let Some((src, dst)) = said.flow.filter(|_| said.opens) else { return };
        if said.ends(src, dst).is_some_and(|ends| self.open.contains(&ends))
            || network_of(dst.ip) == Some(ROUTED)
        {
            return;
        }
        let targets = [FIRST, SECOND].map(|place| site.stations[place].at(SERVICE));
        if let Some(place) = targets.iter().position(|&target| target == dst) {
            let is_up = |place: usize| site.conditions[place].is_up();
            assert!(is_up(place) || !is_up(1 - place), "a target that is down was chosen");
            return;
        }
        assert_eq!(dst, site.stations[FIRST].at(NEAR_SERVICE), "it is not published: {said:?}");
        let is_near = |uplink| site.outside(src.ip, uplink).zone == vswitchd::table::policy::Zone::Lan;
        assert!((0..UPLINKS).any(is_near), "it is published for the LAN: {said:?}");
    }

    /// Whether a packet may pass: it may be opened by one of these ends to one of those, or is of a connection that
    /// might. `flow` is between the ends as they really are.
    fn may(&mut self, said: &Said, from: &[End], to: &[End], flow: Option<(Endpoint, Endpoint)>) -> bool {
        let port = said.called();
        let is_allowed =
            from.iter().any(|from| to.iter().any(|to| self.judge.allows(from, to, said.protocol, port)));
        if said.is_later {
            return is_allowed || self.pairs.contains(&pair(said.src, said.dst));
        }
        if said.is_error {
            return is_allowed || said.quoted.is_some_and(|quoted| self.open.contains(&quoted));
        }
        let Some((src, dst)) = flow else { return is_allowed };
        let Some((protocol, ..)) = said.ends(src, dst) else { return is_allowed };
        let ends = sorted(protocol, src, dst);
        if is_allowed {
            self.open.insert(ends);
        }
        let passes = is_allowed || !said.opens && self.open.contains(&ends);
        if passes {
            self.pairs.insert(pair(said.src, said.dst));
        }
        passes
    }
}

/// The containers that may have said something that is shown so, to this remote.
fn inside(site: &Site, said: &Said, is: impl Fn(Endpoint, Endpoint) -> bool) -> Vec<Endpoint> {
    let entries = site.switch.shared.conntrack.entries(site.switch.now);
    let of = entries.iter().filter(|info| Some(info.protocol) == said.protocol);
    of.filter(|info| is(info.outside, info.remote)).map(|info| info.inside).collect()
}

fn pair(one: Ipv4Addr, other: Ipv4Addr) -> (Ipv4Addr, Ipv4Addr) {
    (one.min(other), one.max(other))
}

fn mac(bytes: &[u8]) -> MacAddr {
    MacAddr(bytes.try_into().expect("six bytes"))
}

/// The MAC address that the switch speaks with on a network.
pub fn gateway_mac(network: usize) -> MacAddr {
    MacAddr::from_ipv4(gateway(network).unwrap_or(Ipv4Addr::new(192, 168, 1, 1)))
}

/// The switch says by ARP who it is, and about nobody else.
fn tells_the_truth(frame: &[u8], mac: MacAddr, ip: Ipv4Addr) {
    let Ok(arp) = Arp::parse(&frame[ethernet::HEADER_LEN..]) else { panic!("broken ARP: {frame:02x?}") };
    assert_eq!((arp.sender_mac, arp.sender_ip), (mac, ip));
}

/// The host on a network hears what is for it and for all.
fn only_for_the_host(site: &Site, frame: &[u8]) {
    match ethernet::carried(frame) {
        Ok((ethernet::ARP, _)) => {}
        Ok((ethernet::IPV4, packet)) if packet.len() >= 20 => {
            let [src, dst] =
                [12, 16].map(|at| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]));
            let own = site.stations[HOST].ip;
            let all = [own, Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 1, 0, 255)];
            // Who is refused is told so at the address that it has used, which without security may be any.
            let is_told = gateway(1) == Some(src);
            assert!(
                is_told || all.contains(&dst) || dst.is_multicast(),
                "the host is no router: {src} to {dst}"
            );
        }
        _ => panic!("not for the host: {frame:02x?}"),
    }
}
