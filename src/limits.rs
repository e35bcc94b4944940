//! Every bound of the switch in one place, with what happens at it.

use std::time::Duration;

/// Bytes in front of a frame in its buffer, so that a VLAN tag or a longer header can be put before it
/// without a move. The frame then starts at an address that leaves the IP header aligned.
pub const HEADROOM: usize = 62;

/// The largest frame: a 65,535-byte IP packet, an Ethernet header and two VLAN tags, one of which may be a trunk's.
/// Longer ones cannot be read whole and are dropped.
pub const FRAME_MAX: usize = 65_535 + 14 + 2 * 4;

/// Size of a frame buffer: headroom and the largest frame, in whole pages.
pub const BUFFER_SIZE: usize = (HEADROOM + FRAME_MAX).next_multiple_of(4096);

/// Packets that one super-frame may be cut into. At the smallest MTU, 68, the largest frame is 2,340 packets
/// of TCP; more is a guest that wants to keep a worker busy with one write, and is dropped.
pub const SEGMENTS_MAX: usize = 2400;

/// Frames that a worker takes from one port before it looks at the next.
pub const BURST_FRAMES: usize = 64;

/// Bytes that a worker takes from one port before it looks at the next.
pub const BURST_BYTES: usize = 128 * 1024;

/// Copies that a burst should become: about a millisecond of writing. One frame may become as many as there are
/// ports, but then it is read alone.
pub const BURST_COPIES: usize = 512;

/// Datagrams that are put into one super-frame: what every kernel takes (`UDP_MAX_SEGMENTS`, 128 since Linux
/// 6.9, and what its own GRO makes, `UDP_GRO_CNT_MAX`). One more begins the next.
pub const COALESCED_DATAGRAMS_MAX: usize = 64;

/// Frame buffers that a worker keeps: those of a burst, and as many for what the switch itself answers to it.
/// It starts with the burst's, [`BURST_FRAMES`] of [`BUFFER_SIZE`], which is 4.25 MiB.
pub const POOL_FRAMES_MAX: usize = 2 * BURST_FRAMES;

/// Ports of a switch, the uplinks included. One more is refused.
pub const PORTS_MAX: usize = 4096;

/// Uplinks of a switch. One more is refused.
pub const UPLINKS_MAX: usize = 8;

/// Networks of a switch. One more is refused.
pub const NETWORKS_MAX: usize = 4094;

/// VLANs of a trunk, by their VIDs (IEEE 802.1Q 9.6: 0 is no VLAN, and 4095 is reserved). Others are refused.
pub const VIDS: std::ops::RangeInclusive<u16> = 1..=4094;

/// Workers of a switch.
pub const WORKERS_MAX: usize = 64;

/// Smallest MTU of a network (RFC 791: every host accepts 576; we allow IPv4's smallest link, 68).
pub const MTU_MIN: u16 = 68;

/// Largest MTU of a network: what a TAP takes (65,535 bytes less the Ethernet header).
pub const MTU_MAX: u16 = 65_521;

/// MAC addresses that a network learns before the port with most entries loses its oldest.
pub const MAC_TABLE_SIZE: usize = 8192;

/// MAC addresses that a network learns from one port before the port's own oldest makes room. The table is in
/// eight parts, and each has its share of this.
pub const MACS_PER_PORT: u32 = 1024;

/// Broadcast frames, multicast frames, and frames to unknown stations that a port may send a second, of each kind
/// and of each as many at once. That is far more than ARP, DHCP and name services need, and less than what keeps
/// a core busy when it is flooded to a dozen ports. More are dropped.
pub const STORM_FRAMES: u32 = 5_000;

/// Stations a second that a port may take over from other ports. Each costs every worker its flow cache, and a
/// loop or an impostor moves one with every frame. More are dropped, and the station stays where it was.
pub const MAC_MOVES_PER_SECOND: u32 = 10;

/// Stations that a port may take over at once, after a time without: a machine with all of its guests.
pub const MAC_MOVES_AT_ONCE: u32 = 100;

/// Priority tags and SNAP headers in a row that port security looks through. More are dropped.
pub const PRIORITY_TAGS_MAX: usize = 4;

/// IPv6 extension headers in a row that port security looks through (RFC 7113 asks for all of a chain; each of the
/// eight kinds appears once, RFC 8200 4.1). More are dropped.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// Seconds after which an idle MAC address is forgotten (BRIDGE-MIB dot1dTpAgingTime).
pub const MAC_AGEING: Duration = Duration::from_secs(300);

/// Seconds that the ageing time can be set to (BRIDGE-MIB dot1dTpAgingTime).
pub const MAC_AGEING_RANGE: std::ops::RangeInclusive<u32> = 10..=1_000_000;

/// Neighbors that are remembered per network; beyond it the longest unused one is forgotten.
pub const NEIGHBORS_MAX: usize = 4096;

/// Frames that wait for one neighbor's answer: one each of many containers that start at once and talk to the world
/// by one router. RFC 1122 2.3.2.2 asks for at least the latest one; on overflow the oldest is dropped.
pub const NEIGHBOR_QUEUE: usize = 256;

/// Frames that wait for all neighbors of a network together. One more is dropped.
pub const NEIGHBOR_QUEUE_TOTAL: usize = 1024;

/// Least time between two ARP requests for one address (RFC 1122 2.3.2.1: at most one a second).
pub const ARP_INTERVAL: Duration = Duration::from_secs(1);

/// Requests without an answer after which a neighbor is unreachable.
pub const ARP_TRIES: u32 = 3;

/// Requests to the known MAC address of a neighbor on the uplink, without an answer, after which another one is
/// believed.
pub const NEIGHBOR_POLLS: u32 = 2;

/// How long a neighbor that did not answer counts as unreachable, before traffic for it is worth asking again.
pub const NEIGHBOR_HOLD: Duration = Duration::from_secs(3);

/// How long an answer is believed before it is asked for again, when traffic needs it.
pub const NEIGHBOR_REACHABLE: Duration = Duration::from_secs(30);

/// How long an unused neighbor is remembered.
pub const NEIGHBOR_AGEING: Duration = Duration::from_secs(600);

/// Time that a datagram's fragments have to arrive in, from the first one on (RFC 1122 3.3.2 asks for a fixed
/// one of 60 to 120 s; a NAT's table is a better target, and Linux's 30 s are what it meets elsewhere).
pub const FRAGMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Datagrams of which fragments are kept, those of all sources together. At the bound, the source with most of
/// them loses its oldest.
pub const FRAGMENT_DATAGRAMS: usize = 1024;

/// Bytes that their fragments take, as [`FRAGMENT_DATAGRAMS`].
pub const FRAGMENT_BYTES: usize = 4 * 1024 * 1024;

/// Datagrams of one source, which is a port, or at the uplink a remote address. At the bound, it loses its oldest.
pub const FRAGMENT_DATAGRAMS_PER_SOURCE: usize = FRAGMENT_DATAGRAMS / 2;

/// Bytes that the fragments of one source take, as [`FRAGMENT_DATAGRAMS_PER_SOURCE`].
pub const FRAGMENT_BYTES_PER_SOURCE: usize = FRAGMENT_BYTES / 2;

/// Fragments of one datagram: what the smallest link, [`MTU_MIN`], makes of the largest datagram. One more
/// ends it.
pub const FRAGMENTS_MAX: usize = 65_515 / 48 + 1;

/// Least time between two defences of an address that somebody else claims (RFC 5227 2.4, DEFEND_INTERVAL).
pub const ARP_DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// ICMP errors in any second, all together (RFC 1812 4.3.2.8). More are not sent.
pub const ICMP_ERRORS_PER_SECOND: u32 = 1000;

/// ICMP errors in any second about what came in by one port, so that who floods the switch with what cannot be
/// delivered does not use up the errors that tell others the MTU of their path.
pub const ICMP_ERRORS_PER_PORT: u32 = 250;

/// Packets that wait for a thread that gives services of the gateway. One more is dropped.
pub const PUNT_QUEUE: usize = 1024;

/// Of these, packets from one port.
pub const PUNT_QUEUE_PER_PORT: usize = PUNT_QUEUE / 4;

/// Packets that such a thread takes before it looks after what else it has to do. The others wait for its next turn.
pub const PUNTS_PER_TURN: usize = 32;

/// DHCP messages of one port a second, and as many at once: a machine that starts all of its guests. More are
/// dropped, and their senders try again (RFC 2131 4.1).
pub const DHCP_MESSAGES: u32 = 100;

/// Queries that wait for the host's resolvers, each with a socket or three. One more is refused.
pub const DNS_WAITING: usize = 1024;

/// Of these, queries of one port.
pub const DNS_WAITING_PER_PORT: usize = DNS_WAITING / 4;

/// Bytes of a DNS message over UDP or TCP, at most (RFC 1035 4.2.2).
pub const DNS_MESSAGE_MAX: usize = 65_535;

/// Resolvers of the host that are asked: the first so many (resolv.conf(5), `MAXNS`).
pub const DNS_RESOLVERS_MAX: usize = 3;

/// Connections to the DNS server of a network at one time. One more is refused.
pub const DNS_CONNECTIONS: usize = 256;

/// Of these, connections of one port.
pub const DNS_CONNECTIONS_PER_PORT: usize = DNS_CONNECTIONS / 8;

/// Connections that are relayed from processes of the host at one time, some 150 KiB each. One more is closed.
pub const RELAY_CONNECTIONS: usize = 512;

/// UDP flows that are relayed from processes of the host. One more ends the one that was idle longest.
pub const RELAY_FLOWS: usize = 1024;

/// Datagrams of processes of the host that wait until it is known where a container is, which they are all for. One
/// more is dropped.
pub const RELAY_WAITING: usize = 64;

/// Bytes of a resolv.conf that are read. What stands behind them does not count.
pub const RESOLV_CONF_MAX: u64 = 64 * 1024;

/// Addresses of a DHCP pool that are held for the clients of one port: its own, and those of guests and stages of a
/// start that call themselves differently. The next takes the place of the port's oldest.
pub const DHCP_LEASES_PER_PORT: usize = 16;

/// Leases of a network that are remembered, those that have ended included. The next takes the place of the oldest.
pub const DHCP_LEASES_MAX: usize = 65_536;

/// How long an offered address is kept for its client.
pub const DHCP_OFFER_HOLD: Duration = Duration::from_secs(60);

/// How long a declined address is given to nobody.
pub const DHCP_DECLINE_HOLD: Duration = Duration::from_secs(600);

/// Seconds that a DHCP lease can be set to.
pub const DHCP_LEASE_RANGE: std::ops::RangeInclusive<u32> = 10..=30 * 24 * 3600;

/// Addresses, names or routes in one setting of a DHCP server.
pub const DHCP_LIST_MAX: usize = 16;

/// Connections that are tracked. One more is refused with ICMP 3/13.
pub const CONNECTIONS_MAX: usize = 1_048_576;

/// Longest timeout of a connection that can be set.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Connections of one port. One more is refused with ICMP 3/13.
pub const CONNECTIONS_PER_PORT: u32 = 65_536;

/// Time for which a freed external port is not dealt again while others are free (RFC 6888 REQ-8).
pub const NAT_PORT_HOLD: Duration = Duration::from_secs(120);

/// TCP connections that are over and may make room for new ones, and connections that others have opened, for each
/// part of the table: the latest so many of both. They are counted in at most 256 KiB each.
pub const RECLAIMABLE_MAX: usize = 16_384;

/// One of so many external ports of each protocol is the most that a port may have unless it is told otherwise:
/// whatever one container does, half of them are left for the others. One more is refused with ICMP 3/13.
pub const NAT_PORTS_SHARE: u32 = 2;

/// How long a port within the range for masquerading may be a socket's of the host before it is noticed. From then
/// on it is the host's.
pub const HOST_PORTS_INTERVAL: Duration = Duration::from_millis(500);

/// Dropped frames that are kept for `vswitchctl drops`, per worker. The oldest makes room.
pub const DROP_SAMPLES: usize = 64;

/// Bytes that are kept of a dropped frame.
pub const DROP_SAMPLE_BYTES: usize = 96;

/// Ports whose addresses are remembered while they are not there, those that are there included. At the bound, the
/// longest unused one is forgotten.
pub const REMEMBERED_PORTS: usize = 4 * PORTS_MAX;

/// Addresses that are asked for by ARP before a port is refused one because all of them are answered for.
pub const ADDRESSES_PROBED: usize = 8;

/// How long an answer to such a question is waited for, while no other request is served. RFC 5227 has hosts wait for
/// seconds on links of any kind; these are stations on virtual wires, and who does not know may say --ip.
pub const ADDRESS_PROBE_WAIT: Duration = Duration::from_millis(100);

/// Largest document of the state directory in bytes; a larger one was not written by us, and is not read.
pub const STATE_DOCUMENT_MAX: u64 = 64 * 1024 * 1024;

/// Largest control request in bytes.
pub const REQUEST_MAX: usize = 1024 * 1024;

/// Control connections at one time; further ones wait in the socket's backlog.
pub const API_CLIENTS_MAX: usize = 256;

/// Longest name of a network or port.
pub const NAME_MAX: usize = 64;

/// Published ports of a switch. One more is refused.
pub const PUBLICATIONS_MAX: usize = 65_536;

/// Where a port is chosen for a publication that names none: below the range for masquerading, in the host's own
/// range for ephemeral ports, as Docker does.
pub const PUBLISH_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Containers that a publication spreads connections over. Each one more is one more lookup.
pub const PUBLISH_TARGETS_MAX: usize = 16;

/// Time between two checks of a target of a publication, in seconds, unless another is asked for.
pub const HEALTH_INTERVAL: u32 = 2;

/// What may be asked for, in seconds.
pub const HEALTH_INTERVALS: std::ops::RangeInclusive<u32> = 1..=3600;

/// How long a check waits for an answer. A container's own TCP would be asked a second time after one second (RFC 6298
/// 2.1), so this is one packet lost.
pub const HEALTH_WAIT: Duration = Duration::from_millis(900);

/// Failed checks in a row that take a target down, and passed ones that bring it back.
pub const HEALTH_FALL: u8 = 2;
/// As [`HEALTH_FALL`].
pub const HEALTH_RISE: u8 = 2;

/// Checks at a time; the others wait for their turn.
pub const HEALTH_CHECKS: usize = 128;

/// Rules of the policy. One more is refused.
pub const RULES_MAX: usize = 16_384;

/// Places that a rule names on one side. One more is refused: it counts for as many rules as there are pairs.
pub const RULE_PLACES_MAX: usize = 16;
