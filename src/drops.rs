//! Every reason for which the switch discards a frame.
//!
//! The enum is closed: a frame that does not go on is a `DropReason`, is counted once per port, and shows
//! up under its name in `vswitchctl drops`. Add a reason rather than share one between two causes.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was discarded.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name that users see and scripts match.
            pub const fn as_str(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for a person.
            pub const fn explain(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    // Parse and admit
    /// The frame is shorter than an Ethernet header.
    Runt = "runt",
    /// The frame is longer than the MTU of the port it came in by or would leave by allows.
    OverMtu = "over-mtu",
    /// The device's offload promises contradict the frame (a segment size without headers, a checksum beyond the end).
    BadOffload = "bad-offload",
    /// The frame has the tag of a VLAN that its trunk does not carry.
    UnknownVlan = "unknown-vlan",
    /// The source MAC is a group address or zero (IEEE 802.1D 7.8: no station has it).
    BadSourceMac = "bad-source-mac",
    /// A port sent with the gateway's own MAC or IP address as its source.
    SpoofedGateway = "spoofed-gateway",
    /// Port security: the source MAC is not the port's own, or it is the one of another port.
    SpoofedMac = "spoofed-mac",
    /// Port security: the source IP address is not the port's own.
    SpoofedIp = "spoofed-ip",
    /// Port security: the sender that an ARP packet names does not have the port's own addresses.
    SpoofedArp = "spoofed-arp",
    /// Port security: a DHCP server's message to a client, from a port.
    DhcpServer = "dhcp-server",
    /// Port security: an IPv6 router advertisement or redirect, from a port (RFC 6105).
    RouterAdvertisement = "router-advertisement",
    /// More priority tags or IPv6 extension headers than are looked through, or a first fragment that lacks some (RFC 7113).
    UnreadableHeaders = "unreadable-headers",
    /// More broadcast frames a second than the port may send.
    StormBroadcast = "storm-broadcast",
    /// More multicast frames a second than the port may send.
    StormMulticast = "storm-multicast",
    /// More frames a second to unknown stations than the port may send.
    StormUnknown = "storm-unknown",
    /// The source is a station of another port, and too many have moved to this one lately.
    MacFlap = "mac-flap",
    /// The destination is 01:80:C2:00:00:00-0F, which no bridge relays.
    ReservedGroup = "reserved-group",
    // Switch
    /// The destination lives on the port that the frame came from.
    SamePort = "same-port",
    /// There is no other port on the network to send it to.
    NoOtherPort = "no-other-port",
    /// The port it came from or should leave by has been removed.
    PortGone = "port-gone",
    /// The frame has a VLAN tag of its own, by which whoever is behind the trunk would take it for one of another network.
    VlanHopping = "vlan-hopping",
    /// The device it should leave by is down.
    EgressDown = "egress-down",
    /// The device it should leave by did not take it: its queue is full.
    EgressFull = "egress-full",
    /// Writing to the device failed for another reason; the log names it.
    EgressError = "egress-error",
    /// For the host's MAC address, but not for the address that the host has on the network: it is no router there.
    NotForHost = "not-for-host",
    /// For the host's MAC address on a LAN that is bridged to the host's own interface: the two do not meet there.
    HostBehindUplink = "host-behind-uplink",
    // Gateway and ARP
    /// An ARP packet of the wrong form, or with a sender that cannot be a station.
    BadArp = "bad-arp",
    /// Somebody claims an IP address of the switch.
    ArpConflict = "arp-conflict",
    /// ARP on the uplink names a new MAC for a known neighbor; it is believed once the old one does not answer any more.
    ArpDoubtful = "arp-doubtful",
    /// Addressed to the gateway's MAC, but neither IPv4 nor ARP.
    NotForGateway = "not-for-gateway",
    /// A service that the gateway does not offer.
    NoSuchService = "no-such-service",
    /// More messages a second to a service of the gateway than the port may send.
    ServiceRate = "service-rate",
    /// Too many frames already wait for the gateway's services.
    ServiceQueueFull = "service-queue-full",
    // IPv4
    /// Wrong version, header length, total length or header checksum (RFC 1812 5.2.2).
    BadIpv4 = "bad-ipv4",
    /// The TCP, UDP or ICMP header is cut off or contradicts the packet's length.
    BadTransport = "bad-transport",
    /// The ICMP checksum, or the checksum of the IP header quoted in an ICMP error, is wrong (RFC 5508 REQ-3).
    BadIcmp = "bad-icmp",
    /// The source address cannot be a sender here (RFC 1812 5.3.7).
    MartianSource = "martian-source",
    /// The destination address is never forwarded (RFC 1812 5.3.5, RFC 3927).
    MartianDestination = "martian-destination",
    /// The source is not of the network that the port is in (RFC 2827).
    ForeignSource = "foreign-source",
    /// A unicast IP packet in a broadcast or multicast frame (RFC 1812 5.3.4).
    LinkBroadcast = "link-broadcast",
    /// Strict or loose source routing, which is refused (RFC 7126 4.3).
    SourceRoute = "source-route",
    /// The TTL ran out; time-exceeded was sent if the rate allowed.
    TtlExceeded = "ttl-exceeded",
    /// Larger than the next link's MTU; fragmentation-needed was sent if it had DF set.
    TooBig = "too-big",
    /// A fragment that nobody may send: empty, of a length that is no multiple of eight, beyond 65,535 bytes, or with ECN that contradicts itself.
    BadFragment = "bad-fragment",
    /// A first fragment without TCP's flags, or TCP at offset 8 (RFC 1858, RFC 3128); the datagram is dropped.
    TinyFragment = "tiny-fragment",
    /// Fragments overlap or contradict each other about the end (RFC 1858, RFC 5722); the datagram is dropped.
    FragmentOverlap = "fragment-overlap",
    /// The same fragment once more; the datagram is not harmed.
    DuplicateFragment = "duplicate-fragment",
    /// The rest of the datagram did not arrive in time (RFC 1122 3.3.2).
    FragmentTimeout = "fragment-timeout",
    /// Fragments had to make room for others.
    FragmentsFull = "fragments-full",
    /// No route to the destination.
    NoRoute = "no-route",
    /// The network has no way out (mode internal).
    Internal = "internal-network",
    /// The destination is on another network, and networks are isolated.
    Isolated = "isolated",
    /// A rule forbids the connection, or the default of the two networks does; vswitchctl policy check names it.
    PolicyDenied = "policy-denied",
    /// The next hop does not answer ARP.
    NeighborUnreachable = "neighbor-unreachable",
    /// Too many frames already wait for ARP answers.
    NeighborQueueFull = "neighbor-queue-full",
    // NAT
    /// A protocol that cannot be translated (only TCP, UDP and ICMP can).
    NotTranslatable = "not-translatable",
    /// From outside, for no connection and no published port.
    Unsolicited = "unsolicited",
    /// From the internet, at a port that is published for the LAN only.
    PublicationScope = "publication-scope",
    /// From a container for the host itself, at a port that is not published.
    HostService = "host-service",
    /// An ICMP error about no connection that we know.
    IcmpErrorUnmatched = "icmp-error-unmatched",
    /// A TCP segment that neither opens a connection nor belongs to one.
    TcpOutOfState = "tcp-out-of-state",
    /// The connection table is full.
    ConntrackFull = "conntrack-full",
    /// The port has as many connections as it may have.
    ConntrackQuota = "conntrack-quota",
    /// The port has as many external ports as it may have.
    NatPortQuota = "nat-port-quota",
    /// No external port is free.
    NatPortsExhausted = "nat-ports-exhausted",
    /// The uplink has no address or is down.
    UplinkDown = "uplink-down",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_reasons_are_explained() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(reason.explain().ends_with('.'), "{reason}");
        }
    }
}
