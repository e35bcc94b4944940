//! What stations say to each other when they keep to the protocols: flows that open and are answered, ARP for every
//! address, fragments, and ICMP errors about packets that were heard. A few bytes of input say a whole packet, so
//! that a fuzzer gets to states that it would hardly find byte by byte.

use std::net::Ipv4Addr;

use vswitchd::addr::{Endpoint, MacAddr};
use vswitchd::sim::packet::{self, Macs, Tcp};
use vswitchd::sim::{EXTERNAL, Station, on_link};
use vswitchd::wire::checksum::{checksum, fold, pseudo_header, sum};
use vswitchd::wire::ethernet::{self, Ethernet};
use vswitchd::wire::ipv4::{self, Ipv4};
use vswitchd::wire::transport::{Kind, Ports};

use super::Input;

/// Frames that are remembered, to be answered and reported about.
const REMEMBERED: usize = 64;

/// The start of an IPv4 packet in an untagged frame.
const IP: usize = ethernet::HEADER_LEN;

/// What is said; the number is the input's.
pub struct Say;

#[allow(missing_docs)]
impl Say {
    /// To a remote, by the gateway: who, kind of transport, remote, port, and TCP's flags.
    pub const OUT: u8 = 0;
    /// From a remote to a port of the uplink's address.
    pub const IN: u8 = 1;
    /// The answer to a packet that was heard: which, flags.
    pub const ANSWER: u8 = 2;
    /// An ICMP error about a packet that was heard: which, kind, how much is quoted, who reports.
    pub const REPORT: u8 = 3;
    /// A fragment of a packet that was said: which, its place (two bytes).
    pub const FRAGMENT: u8 = 4;
    /// ARP: who, operation and MAC addresses, sender's and target's address.
    pub const ARP: u8 = 5;
    /// Once more, what was said: which, by whom.
    pub const AGAIN: u8 = 6;
    /// What was said, but for one byte: which, where, what. The checksums of IP and ICMP are right.
    pub const ALTERED: u8 = 7;
    /// With this bit, [`Say::OUT`] goes past the gateway, straight to who has the address or else to everybody, and
    /// who [answers](Say::ANSWER) ARP tells the truth.
    pub const STRAIGHT: u8 = 8;
}

/// Whom stations speak of.
pub struct Places {
    /// Whom they call.
    pub remotes: Vec<Endpoint>,
    /// Whose addresses they say and ask for in ARP packets; `None` is the sender's own.
    pub addresses: Vec<Option<Ipv4Addr>>,
    /// How many of the stations are routers at an uplink. They are the first.
    pub uplinks: u8,
}

/// What was said and heard lately, with the station's number.
pub struct Talk {
    places: Places,
    said: Vec<(usize, Vec<u8>)>,
    heard: Vec<(usize, Vec<u8>)>,
}

impl Talk {
    /// Nothing yet.
    pub fn about(places: Places) -> Talk {
        Talk { places, said: Vec::new(), heard: Vec::new() }
    }

    /// Remembers what a station received.
    pub fn hear(&mut self, station: usize, frame: &[u8]) {
        remember(&mut self.heard, station, frame);
    }

    /// The next frame, as `what` and the bytes that follow say, and who sends it. `None` if there is none.
    pub fn next(
        &mut self,
        what: u8,
        input: &mut Input<'_>,
        stations: &[Station],
    ) -> Option<(usize, Vec<u8>)> {
        let (a, b) = (input.byte()?, input.byte()?);
        let (c, d) = (input.byte()?, input.byte()?);
        let is_straight = what & Say::STRAIGHT != 0;
        let remote = |which: u8| self.places.remotes[usize::from(which) % self.places.remotes.len()];
        let (who, frame) = match what & 7 {
            Say::OUT => {
                let who = usize::from(a) % stations.len();
                let (station, dst) = (&stations[who], remote(b));
                let src = station.at(61_000 + u16::from(c & 15));
                let macs = if is_straight { straight(station, dst.ip, stations) } else { via(station) };
                (who, flow(macs, src, dst, d, b"out")?)
            }
            Say::IN => {
                let port = match c {
                    0..=15 => 61_000 + u16::from(c),
                    16 => 8080,
                    17 => 5353,
                    _ => u16::from(c) << 8 | u16::from(a),
                };
                let router = (b >> 1) % self.places.uplinks;
                let dst = Endpoint::new(on_link(router, EXTERNAL), port);
                let router = usize::from(router);
                (router, flow(via(&stations[router]), remote(b & 1), dst, d, b"in")?)
            }
            Say::ANSWER => {
                let (who, heard) = pick(&self.heard, a)?;
                let own = if is_straight { stations[who].mac } else { MacAddr([2, 0, 0, 0, 0, b & 3]) };
                (who, answer(&heard, b, own)?)
            }
            Say::REPORT => {
                let (who, heard) = pick(&self.heard, a)?;
                (who, report(&stations[who], &heard, b, usize::from(c), d)?)
            }
            Say::FRAGMENT => {
                let (who, said) = pick(&self.said, a)?;
                (who, fragment(said, u16::from_be_bytes([b, c]), d)?)
            }
            Say::ARP => {
                let who = usize::from(a) % stations.len();
                (who, arp(&stations[who], &self.places.addresses, b, c, d))
            }
            Say::AGAIN => {
                let (_, said) = pick(&self.said, a)?;
                (usize::from(b) % stations.len(), said)
            }
            _ => {
                let (who, mut said) = pick(&self.said, a)?;
                let at = usize::from(b) % said.len();
                said[at] = c;
                super::switch::repair(&mut said);
                (who, said)
            }
        };
        remember(&mut self.said, who, &frame);
        Some((who, frame))
    }
}

fn remember(frames: &mut Vec<(usize, Vec<u8>)>, station: usize, frame: &[u8]) {
    if frames.len() == REMEMBERED {
        frames.remove(0);
    }
    frames.push((station, frame.to_vec()));
}

/// The `back`th of the last frames.
fn pick(frames: &[(usize, Vec<u8>)], back: u8) -> Option<(usize, Vec<u8>)> {
    let at = frames.len().checked_sub(1 + usize::from(back) % frames.len().max(1))?;
    frames.get(at).cloned()
}

fn via(station: &Station) -> Macs {
    Macs { src: station.mac, dst: station.gateway_mac }
}

/// From a station to who has the address, past all routers.
fn straight(station: &Station, ip: Ipv4Addr, stations: &[Station]) -> Macs {
    let dst = stations.iter().find(|other| other.ip == ip).map_or(MacAddr::BROADCAST, |other| other.mac);
    Macs { src: station.mac, dst }
}

/// A packet of TCP, UDP or echo; `how` is TCP's flags with the transport in the two highest bits.
fn flow(macs: Macs, src: Endpoint, dst: Endpoint, how: u8, payload: &[u8]) -> Option<Vec<u8>> {
    Some(match how >> 6 {
        0 | 1 => packet::tcp(macs, src, dst, Tcp { seq: 100, ack: 101, flags: how & 0x3f }, payload),
        2 => packet::udp(macs, src, dst, payload),
        _ => packet::echo(
            macs,
            src.ip,
            dst.ip,
            how & 1 == 0,
            if how & 1 == 0 { src.port } else { dst.port },
            payload,
        ),
    })
}

/// What goes back to the sender of `heard`, whoever that was; who was asked by ARP has the MAC address `own`.
fn answer(heard: &[u8], flags: u8, own: MacAddr) -> Option<Vec<u8>> {
    let eth = Ethernet::parse(heard).ok()?;
    let macs = Macs { src: eth.dst, dst: eth.src };
    if eth.ethertype == ethernet::ARP {
        let (sender, target) = (heard.get(28..32)?, heard.get(38..42)?);
        let ip = |bytes: &[u8]| Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]);
        return Some(packet::arp(Macs { src: own, ..macs }, 2, (own, ip(target)), (eth.src, ip(sender))));
    }
    let (ip, ports) = endpoints(heard)?;
    let (src, dst) = (Endpoint::new(ip.dst, ports.dst), Endpoint::new(ip.src, ports.src));
    Some(match ports.kind {
        Kind::Tcp => packet::tcp(macs, src, dst, Tcp { seq: 100, ack: 101, flags: flags & 0x3f }, b"answer"),
        Kind::Udp => packet::udp(macs, src, dst, b"answer"),
        Kind::EchoRequest => packet::echo(macs, src.ip, dst.ip, false, dst.port, b"answer"),
        Kind::EchoReply => packet::echo(macs, src.ip, dst.ip, true, src.port, b"answer"),
    })
}

fn endpoints(frame: &[u8]) -> Option<(Ipv4, Ports)> {
    let eth =
        Ethernet::parse(frame).ok().filter(|eth| eth.ethertype == ethernet::IPV4 && !eth.is_tagged())?;
    let ip = Ipv4::parse(&frame[eth.len..]).ok()?;
    let ports = Ports::parse_quoted(ip.protocol, &frame[eth.len + ip.header_len..eth.len + ip.total_len])?;
    Some((ip, ports))
}

/// An ICMP error about `heard`: `how` is its type and code, `quoted` how much of the packet it quotes. The lowest bit
/// of `by` says whether a third router sends it, the others how many words RFC 4884 counts.
fn report(station: &Station, heard: &[u8], how: u8, quoted: usize, by: u8) -> Option<Vec<u8>> {
    let eth =
        Ethernet::parse(heard).ok().filter(|eth| eth.ethertype == ethernet::IPV4 && !eth.is_tagged())?;
    let ip = Ipv4::parse(&heard[eth.len..]).ok()?;
    let kind = [3, 3, 3, 3, 4, 5, 11, 12][usize::from(how & 7)];
    let mut message = vec![kind, how >> 3 & 15, 0, 0, 0, by >> 1 & 63, 5, 0];
    message.extend(&heard[eth.len..eth.len + ip.total_len.min(quoted)]);
    let value = checksum(&message);
    message[2..4].copy_from_slice(&value.to_be_bytes());
    let src = if by & 1 == 0 { ip.dst } else { [203, 0, 113, 77].into() };
    Some(packet::ip(via(station), src, ip.src, ipv4::ICMP, &message))
}

/// The packet with the flags and offset of a fragment, cut behind `len` bytes of payload.
fn fragment(mut said: Vec<u8>, place: u16, len: u8) -> Option<Vec<u8>> {
    let ip = Ipv4::parse(said.get(IP..)?).ok()?;
    let total = ip.total_len.min(ip.header_len + usize::from(len & !7));
    said[IP + 2..IP + 4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
    said[IP + 6..IP + 8].copy_from_slice(&(place & 0x3fff).to_be_bytes());
    said.truncate(IP + total);
    super::switch::repair(&mut said);
    Some(said)
}

fn arp(station: &Station, addresses: &[Option<Ipv4Addr>], how: u8, sender: u8, target: u8) -> Vec<u8> {
    let address = |which: u8| addresses[usize::from(which) % addresses.len()].unwrap_or(station.ip);
    let mac = |bits: u8| {
        [station.mac, MacAddr::BROADCAST, MacAddr::ZERO, station.gateway_mac][usize::from(bits & 3)]
    };
    let macs = Macs { src: station.mac, dst: mac(how >> 1) };
    packet::arp(macs, 1 + (how & 1), (mac(how >> 3), address(sender)), (mac(how >> 5), address(target)))
}

/// Whether all checksums of an IPv4 packet in this frame are right, as far as it has any; other frames have none.
pub fn is_sound(frame: &[u8]) -> bool {
    let Ok(eth) = Ethernet::parse(frame) else { return true };
    if eth.ethertype != ethernet::IPV4 || eth.is_tagged() {
        return true;
    }
    let Ok(ip) = Ipv4::parse(&frame[eth.len..]) else { return false };
    let payload = &frame[eth.len + ip.header_len..eth.len + ip.total_len];
    if ip.is_fragment {
        return true;
    }
    match ip.protocol {
        ipv4::ICMP => checksum(payload) == 0,
        ipv4::UDP if payload.get(6..8) == Some(&[0, 0]) => true,
        ipv4::UDP | ipv4::TCP => {
            let pseudo = pseudo_header(ip.src, ip.dst, ip.protocol, payload.len());
            fold(pseudo + sum(payload)) == 0xffff
        }
        _ => true,
    }
}

/// Whether this frame has a fragment. Pieces of two datagrams with one identification make a third one, whose
/// checksum may be wrong though theirs are right.
pub fn is_fragment(frame: &[u8]) -> bool {
    let packet = Ethernet::parse(frame).ok().and_then(|eth| Ipv4::parse(frame.get(eth.len..)?).ok());
    packet.is_some_and(|ip| ip.is_fragment)
}

/// A record that says `what`, as [`Talk::next`] reads it.
pub fn say(what: u8, [a, b, c, d]: [u8; 4]) -> Vec<u8> {
    vec![super::switch::SPEAK | what, 0, a, b, c, d]
}
