//! One frame through every parser and edit.

use std::net::Ipv4Addr;

use vswitchd::addr::Endpoint;
use vswitchd::wire::edit::{self, Endpoints};
use vswitchd::wire::ethernet::{self, Ethernet};
use vswitchd::wire::icmpv4;
use vswitchd::wire::ipv4::Ipv4;
use vswitchd::wire::transport::{Kind, Ports, Transport};

/// The input is an Ethernet frame.
pub fn run(frame: &[u8]) {
    let Ok(header) = Ethernet::parse(frame) else { return };
    assert!(header.len <= frame.len());
    assert_eq!(header.is_tagged(), header.len > ethernet::HEADER_LEN);
    if header.inner_ethertype == ethernet::IPV4 {
        packet(&frame[header.len..]);
    }
}

fn packet(bytes: &[u8]) {
    if let Ok(quoted) = Ipv4::parse_quoted(bytes) {
        let payload = &bytes[quoted.header_len..];
        let _ = Ports::parse_quoted(quoted.protocol, payload);
    }
    let Ok(ip) = Ipv4::parse(bytes) else { return };
    agrees_with_etherparse(bytes, &ip);
    assert!(ip.header_len + ip.payload_len() == ip.total_len && ip.total_len <= bytes.len());
    an_error_about_it_is_well_formed(bytes);

    let mut packet = bytes[..ip.total_len].to_vec();
    if ip.ttl > 0 {
        edit::decrement_ttl(&mut packet);
        assert_eq!(Ipv4::parse(&packet), Ok(Ipv4 { ttl: ip.ttl - 1, ..ip }));
    }
    let Ok(transport) = Transport::parse(ip.protocol, &bytes[ip.header_len..ip.total_len]) else { return };
    assert!(transport.header_len() <= ip.payload_len());
    if let Some(ports) = transport.ports()
        && !ip.is_fragment
    {
        there_and_back_is_the_identity(&bytes[..ip.total_len], &ip, ports);
    }
}

/// An independent parser reads the same header.
fn agrees_with_etherparse(bytes: &[u8], ip: &Ipv4) {
    let Ok(other) = etherparse::Ipv4HeaderSlice::from_slice(bytes) else {
        panic!("etherparse refuses a header that was accepted");
    };
    assert_eq!((ip.src, ip.dst), (other.source_addr(), other.destination_addr()));
    assert_eq!((ip.protocol, ip.ttl), (other.protocol().0, other.ttl()));
    assert_eq!(ip.total_len, usize::from(other.total_len()));
    assert_eq!(ip.header_len, other.slice().len());
    assert_eq!(ip.is_fragment, other.is_fragmenting_payload());
    assert_eq!(ip.fragment_offset, usize::from(other.fragments_offset().value()) * 8);
    assert_eq!(ip.dont_fragment, other.dont_fragment());
}

fn an_error_about_it_is_well_formed(quoted: &[u8]) {
    let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let mut error = [0; icmpv4::ERROR_MAX];
    let len = icmpv4::Error::TimeExceeded.write(&mut error, from, to, quoted);
    let Ok(ip) = Ipv4::parse(&error[..len]) else { panic!("an error that does not parse") };
    assert_eq!((ip.src, ip.dst, ip.total_len), (from, to, len));
    assert_eq!(Transport::parse(ip.protocol, &error[ip.header_len..len]), Ok(Transport::IcmpError));
}

fn there_and_back_is_the_identity(packet: &[u8], ip: &Ipv4, ports: Ports) {
    let ends = |src, dst| Endpoints { src: Some(src), dst: Some(dst) };
    let old = ends(Endpoint::new(ip.src, ports.src), Endpoint::new(ip.dst, ports.dst));
    let (src, dst) = (Ipv4Addr::new(192, 0, 2, 77), Ipv4Addr::new(203, 0, 113, 9));
    let new = ends(Endpoint::new(src, 61_234), Endpoint::new(dst, 443));
    for partial in [false, true] {
        let mut edited = packet.to_vec();
        edit::translate(&mut edited, ip.header_len, ports.kind, partial, new);
        let Ok(translated) = Ipv4::parse(&edited) else { panic!("translation broke the header") };
        assert_eq!((translated.src, translated.dst), (src, dst));
        edit::translate(&mut edited, ip.header_len, ports.kind, partial, old);
        assert_eq!(
            without_negative_zeros(&edited, ip.header_len, ports.kind, partial),
            without_negative_zeros(packet, ip.header_len, ports.kind, partial),
        );
    }
}

/// In ones' complement, 0x0000 and 0xFFFF are the same sum: an edit may turn one into the other, but for a
/// finished UDP checksum, where zero means that there is none.
fn without_negative_zeros(packet: &[u8], header_len: usize, kind: Kind, partial: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let transport = match kind {
        Kind::Tcp => Some(header_len + 16),
        Kind::EchoRequest | Kind::EchoReply => Some(header_len + 2),
        Kind::Udp => partial.then_some(header_len + 6),
    };
    for at in [Some(10), transport].into_iter().flatten() {
        if let Some(sum) = packet.get_mut(at..at + 2)
            && sum == [0xff, 0xff]
        {
            sum.fill(0);
        }
    }
    packet
}
