//! Reads the headers of dropped frames for people. The frames are cut off and may be anything, so whatever
//! cannot be read is left out.

use std::net::IpAddr;

use etherparse::{ArpHardwareId, EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::response::DroppedFrame;
use crate::addr::MacAddr;
use crate::clock::Time;
use crate::shared::DropSample;
use crate::wire::ethernet;

/// Describes a dropped frame.
pub(super) fn describe(sample: &DropSample, now: Time) -> DroppedFrame {
    let mut frame = DroppedFrame {
        age_seconds: now.since(sample.at).as_secs(),
        src_mac: None,
        dst_mac: None,
        vid: ethernet::outer_vid(&sample.bytes),
        ethertype: None,
        proto: None,
        src: None,
        sport: None,
        dst: None,
        dport: None,
        rule: None,
    };
    let bytes: &[u8] = &sample.bytes;
    if let Some((macs, _)) = bytes.split_first_chunk::<12>() {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *macs;
        frame.dst_mac = Some(MacAddr([d0, d1, d2, d3, d4, d5]));
        frame.src_mac = Some(MacAddr([s0, s1, s2, s3, s4, s5]));
    }
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else { return frame };
    frame.ethertype = ethertype(&packet);
    match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            frame.src = Some(IpAddr::V4(header.source_addr()));
            frame.dst = Some(IpAddr::V4(header.destination_addr()));
            frame.proto = Some(protocol_name(header.protocol().0));
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            frame.src = Some(IpAddr::V6(header.source_addr()));
            frame.dst = Some(IpAddr::V6(header.destination_addr()));
            frame.proto = Some(protocol_name(ip.payload().ip_number.0));
        }
        Some(LaxNetSlice::Arp(arp)) if arp.hw_addr_type() == ArpHardwareId::ETHERNET => {
            let ip = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
            frame.src = ip(arp.sender_protocol_addr());
            frame.dst = ip(arp.target_protocol_addr());
        }
        Some(LaxNetSlice::Arp(_)) | None => {}
    }
    (frame.sport, frame.dport) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (Some(tcp.source_port()), Some(tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => (Some(udp.source_port()), Some(udp.destination_port())),
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_)) | None => {
            (None, None)
        }
    };
    frame
}

fn ethertype(packet: &LaxSlicedPacket<'_>) -> Option<String> {
    let inner = packet.ether_payload().map(|payload| payload.ether_type);
    let ethertype = match &packet.net {
        Some(LaxNetSlice::Ipv4(_)) => EtherType::IPV4,
        Some(LaxNetSlice::Ipv6(_)) => EtherType::IPV6,
        Some(LaxNetSlice::Arp(_)) => EtherType::ARP,
        None => inner?,
    };
    Some(match ethertype {
        EtherType::IPV4 => "ipv4".to_owned(),
        EtherType::IPV6 => "ipv6".to_owned(),
        EtherType::ARP => "arp".to_owned(),
        EtherType(number) => format!("{number:#06x}"),
    })
}

fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use etherparse::PacketBuilder;

    use super::*;
    use crate::addr::PortId;
    use crate::drops::DropReason;

    fn described(bytes: &[u8]) -> DroppedFrame {
        let (port, reason) = (PortId(1), DropReason::NoRoute);
        let sample =
            DropSample { at: Time::from_secs(1), port, reason, bytes: Bytes::copy_from_slice(bytes) };
        describe(&sample, Time::from_secs(4))
    }

    #[test]
    fn a_frame_is_read_as_far_as_it_goes() {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, 53);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[7; 200]).unwrap();
        let whole = described(&bytes[..96]);
        assert_eq!(whole.age_seconds, 3);
        assert_eq!(whole.src_mac, Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!((whole.ethertype.as_deref(), whole.proto.as_deref()), (Some("ipv4"), Some("udp")));
        assert_eq!((whole.sport, whole.dport), (Some(1000), Some(53)));
        for len in 0..bytes.len() {
            let cut = described(&bytes[..len]);
            assert_eq!(cut.src_mac.is_some(), len >= 12);
        }
        let tag = [0x81, 0x00, 0x20, 0x1e];
        let tagged = described(&[&bytes[..12], &tag[..], &bytes[12..96]].concat());
        assert_eq!((whole.vid, tagged.vid), (None, Some(30)));
        assert_eq!(DroppedFrame { vid: None, ..tagged }, whole, "what is behind the tag is read as well");
        let other = described(&[&bytes[..12], &[0x88, 0xcc, 1, 2, 3][..]].concat());
        assert_eq!(other.ethertype.as_deref(), Some("0x88cc"));
    }
}
