//! What only looks: tables, counters, drops. And the small changes of tables that need no host.

use std::net::IpAddr;
use std::time::Duration;

use super::apply::Control;
use super::error::Error;
use super::host::Host;
use super::name::Name;
use super::request::{CtFilter, CtTimeouts, Drops, FdbAdd, FdbAgeing, FdbDel, FdbFlush, FdbShow};
use super::response::{
    ConnectionInfo, ConnectionStats, Counts, DropInfo, DroppedFrame, FdbEntry, Limits, NeighborInfo,
    PortStats, StateInfo, Stats, Status, Timeout, UplinkInfo, Usage,
};
use super::samples;
use super::uplink::UplinkRecord;
use crate::addr::{Endpoint, MacAddr, NetworkId, PortId, Protocol};
use crate::clock::Time;
use crate::counters::Totals;
use crate::drops::DropReason;
use crate::limits::{
    CONNECTIONS_PER_PORT, MAC_AGEING_RANGE, MAC_TABLE_SIZE, NETWORKS_MAX, PORTS_MAX, PUBLICATIONS_MAX,
    RULES_MAX, TIMEOUT_MAX,
};
use crate::shared::{DropSample, Neighbors};
use crate::snapshot::Port;
use crate::table::conntrack::{Info, Timeouts};
use crate::table::policy::Question;

/// Dropped frames that are listed per reason and port.
const SAMPLES_LISTED: usize = 8;

impl<H: Host> Control<H> {
    pub(super) fn status(&self, now: Time) -> Status {
        let snapshot = self.snapshot();
        let conntrack = self.shared.conntrack.stats();
        let mut totals = self.retired;
        let mut missed = 0;
        for port in snapshot.ports.iter().flatten() {
            totals += port.counters.totals();
            missed += port.missed.load(std::sync::atomic::Ordering::Relaxed);
        }
        let tables = snapshot.networks.iter().flatten().map(|network| &network.neighbors);
        let tables = tables.chain(snapshot.uplinks.iter().map(|uplink| &uplink.neighbors));
        let waiting: usize = tables.map(|neighbors| neighbors.lock().waiting()).sum();
        let options = self.host.worker_options();
        let uplinks = self.uplink_ls();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.as_secs(),
            uplink: uplinks.first().cloned(),
            uplinks,
            workers: self.shared.workers(),
            io: options.io.as_str().to_owned(),
            poll: options.poll.as_str().to_owned(),
            ports: self.ports.len(),
            networks: snapshot.networks.iter().flatten().count(),
            connections: Usage { used: conntrack.connections, limit: conntrack.limit },
            state: StateInfo {
                directory: self.state.path().map(|path| path.display().to_string()),
                problem: self.state.problem(),
            },
            limits: Limits {
                ports: PORTS_MAX - 1,
                networks: NETWORKS_MAX,
                publications: PUBLICATIONS_MAX,
                rules: RULES_MAX,
                connections_per_port: CONNECTIONS_PER_PORT,
                macs_per_network: MAC_TABLE_SIZE,
            },
            totals: counts(&totals, missed),
            imbalance: i64::try_from(totals.imbalance(waiting as u64)).unwrap_or(i64::MAX),
        }
    }

    /// The uplinks that are translated or routed to, and then those that networks are bridged to.
    pub(super) fn uplink_ls(&self) -> Vec<UplinkInfo> {
        let snapshot = self.snapshot();
        let bridged = snapshot.networks.iter().flatten().filter_map(|network| self.lan_info(network));
        self.uplinks.iter().map(uplink_info).chain(bridged).collect()
    }

    pub(super) fn fdb_show(&self, show: &FdbShow, now: Time) -> Result<Vec<FdbEntry>, Error> {
        let only_network = show.network.as_ref().map(|name| self.network(name.as_str())).transpose()?;
        let only_port =
            show.port.as_ref().map(|name| self.port(name).map(|_| self.ids_of(name))).transpose()?;
        let snapshot = self.snapshot();
        let networks = snapshot.networks.iter().flatten();
        let mut rows = Vec::new();
        for network in networks.filter(|n| only_network.as_ref().is_none_or(|only| only.id == n.id)) {
            let mut entries = network.fdb.entries(now, snapshot.mac_ageing);
            let is_of =
                |port: Option<PortId>, only: &Vec<PortId>| port.is_some_and(|port| only.contains(&port));
            entries.retain(|entry| only_port.as_ref().is_none_or(|only| is_of(entry.port, only)));
            entries.sort_by_key(|entry| entry.mac);
            rows.extend(entries.into_iter().map(|entry| FdbEntry {
                network: network.name.clone(),
                mac: entry.mac,
                port: entry.port.map(|port| self.port_name(port)),
                r#type: entry.kind.as_str().to_owned(),
                age_seconds: entry.age.as_secs(),
            }));
        }
        Ok(rows)
    }

    pub(super) fn fdb_add(&self, add: &FdbAdd, now: Time) -> Result<usize, Error> {
        let port = match &add.network {
            Some(network) => self.interface(&add.port, network)?,
            None => self.port(&add.port)?,
        };
        if !add.mac.is_station() {
            return Err(Error::usage(add.mac, "is no station's address", "use a unicast address"));
        }
        let snapshot = self.snapshot();
        let Some(network) = snapshot.network(port.network) else { return Ok(0) };
        if add.mac == network.gateway_mac {
            let why = format_args!("is the gateway of network {}", network.name);
            return Err(Error::exists(add.mac, why, "use the station's own address"));
        }
        if let Some(holder) = self.holder(add.mac, port.network).filter(|holder| **holder != add.port) {
            let why = format_args!("is the address of port {holder}");
            return Err(Error::exists(add.mac, why, "use the station's own address"));
        }
        if !network.fdb.add_static(add.mac, port.id, now) {
            return Err(Error::failed(
                &network.name,
                "the forwarding database is full of static entries",
                "vswitchctl fdb del some",
            ));
        }
        Ok(1)
    }

    pub(super) fn fdb_del(&self, del: &FdbDel) -> Result<usize, Error> {
        let only = del.network.as_ref().map(|name| self.network(name.as_str())).transpose()?;
        let snapshot = self.snapshot();
        let networks = snapshot.networks.iter().flatten();
        let networks = networks.filter(|network| only.as_ref().is_none_or(|only| only.id == network.id));
        if let Some(holder) = networks.clone().find_map(|network| self.holder(del.mac, network.id)) {
            let why = format_args!("is the address of port {holder}");
            return Err(Error::exists(
                del.mac,
                why,
                format_args!("vswitchctl port rm {holder} takes it away"),
            ));
        }
        match networks.filter(|network| network.fdb.remove(del.mac)).count() {
            0 => Err(Error::not_found(del.mac, "no such entry", "see vswitchctl fdb show")),
            removed => Ok(removed),
        }
    }

    /// The port that has a MAC address on a network as its own.
    fn holder(&self, mac: MacAddr, network: NetworkId) -> Option<&Name> {
        let mut on_it = self.ports.on_network(network);
        on_it.find_map(|(name, record)| (record.mac == Some(mac)).then_some(name))
    }

    pub(super) fn fdb_flush(&self, flush: &FdbFlush) -> Result<usize, Error> {
        let snapshot = self.snapshot();
        let networks = snapshot.networks.iter().flatten();
        let Some(name) = &flush.port else {
            return Ok(networks.map(|network| network.fdb.flush(None)).sum());
        };
        self.port(name)?;
        let ids = self.ids_of(name);
        Ok(networks.flat_map(|network| ids.iter().map(|&id| network.fdb.flush(Some(id)))).sum())
    }

    pub(super) fn neigh_show(&self, now: Time) -> Vec<NeighborInfo> {
        let snapshot = self.snapshot();
        let networks = snapshot.networks.iter().flatten().map(|n| (&n.name, &n.neighbors));
        let uplink = snapshot.uplinks.iter().map(|uplink| (&uplink.name, &uplink.neighbors));
        networks.chain(uplink).flat_map(|(name, neighbors)| neighbors_of(name, neighbors, now)).collect()
    }

    pub(super) fn ct_ls(&self, filter: &CtFilter, now: Time) -> Result<Vec<ConnectionInfo>, Error> {
        let chosen = self.connection_filter(filter)?;
        let connections = self.shared.conntrack.entries(now);
        Ok(connections
            .iter()
            .filter(|connection| chosen(connection))
            .map(|c| self.connection_info(c))
            .collect())
    }

    pub(super) fn ct_flush(&self, filter: &CtFilter, now: Time) -> Result<usize, Error> {
        let chosen = self.connection_filter(filter)?;
        Ok(self.shared.conntrack.flush(now, chosen))
    }

    pub(super) fn ct_stats(&self) -> ConnectionStats {
        let stats = self.shared.conntrack.stats();
        ConnectionStats {
            connections: stats.connections,
            limit: stats.limit,
            created: stats.created,
            expired: stats.expired,
            reclaimed: stats.reclaimed,
            flushed: stats.flushed,
            refused_full: stats.refused_full,
            refused_quota: stats.refused_quota,
            refused_port_quota: stats.refused_port_quota,
            ports_exhausted: stats.ports_exhausted,
        }
    }

    pub(super) fn ct_timeouts(&self, change: &CtTimeouts) -> Result<Vec<Timeout>, Error> {
        let mut timeouts = self.snapshot().timeouts;
        for setting in &change.settings {
            let value = Duration::from_secs(u64::from(setting.seconds));
            if value.is_zero() || value > TIMEOUT_MAX {
                let hint = format_args!("choose 1 to {} seconds", TIMEOUT_MAX.as_secs());
                return Err(Error::usage(&setting.key, "out of range", hint));
            }
            if !timeouts.set(&setting.key, value) {
                let hint = format_args!("one of {}", Timeouts::KEYS.join(", "));
                return Err(Error::usage(&setting.key, "no such timeout", hint));
            }
        }
        if !change.settings.is_empty() {
            self.shared.publish(|snapshot| snapshot.timeouts = timeouts);
        }
        let seconds = |key: &str| timeouts.value(key).map_or(0, |value| value.as_secs());
        Ok(Timeouts::KEYS.iter().map(|&key| Timeout { key: key.into(), seconds: seconds(key) }).collect())
    }

    pub(super) fn fdb_ageing(&self, change: FdbAgeing) -> Result<Vec<Timeout>, Error> {
        if let Some(seconds) = change.seconds {
            if !MAC_AGEING_RANGE.contains(&seconds) {
                let (first, last) = (MAC_AGEING_RANGE.start(), MAC_AGEING_RANGE.end());
                let hint = format_args!("choose {first} to {last} seconds");
                return Err(Error::usage(seconds, "out of range", hint));
            }
            let ageing = Duration::from_secs(u64::from(seconds));
            self.shared.publish(|snapshot| snapshot.mac_ageing = ageing);
        }
        Ok(vec![Timeout { key: "ageing".into(), seconds: self.snapshot().mac_ageing.as_secs() }])
    }

    pub(super) fn drops(&self, wanted: &Drops, now: Time) -> Result<Vec<DropInfo>, Error> {
        let only = wanted.port.as_ref().map(|name| self.port_or_uplink(name)).transpose()?;
        let snapshot = self.snapshot();
        let ports = snapshot
            .ports
            .iter()
            .flatten()
            .filter(|port| only.as_ref().is_none_or(|only| only.contains(&port.id)));
        let mut rows: Vec<_> = ports.flat_map(|port| self.drops_of(port, now)).collect();
        rows.retain(|row| wanted.since.is_none_or(|since| row.last_seconds <= since));
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        Ok(rows)
    }

    pub(super) fn drops_of(&self, port: &Port, now: Time) -> Vec<DropInfo> {
        let samples: Vec<DropSample> = self.shared.drop_samples();
        let of = |sample: &&DropSample, reason| sample.port == port.id && sample.reason == reason;
        let rows = port.counters.drops().map(|(reason, count, last)| DropInfo {
            reason: reason.as_str().to_owned(),
            port: port.name.clone(),
            count,
            last_seconds: now.since(last).as_secs(),
            meaning: reason.explain().trim().to_owned(),
            frames: samples
                .iter()
                .filter(|sample| of(sample, reason))
                .take(SAMPLES_LISTED)
                .map(|sample| self.describe_drop(sample, now))
                .collect(),
        });
        rows.collect()
    }

    /// Describes a dropped frame, and which rule refuses it.
    fn describe_drop(&self, sample: &DropSample, now: Time) -> DroppedFrame {
        let mut frame = samples::describe(sample, now);
        let (Some(IpAddr::V4(src)), Some(IpAddr::V4(dst))) = (frame.src, frame.dst) else { return frame };
        if sample.reason != DropReason::PolicyDenied {
            return frame;
        }
        let snapshot = self.snapshot();
        let protocol = match frame.proto.as_deref() {
            Some("tcp") => Some(Protocol::Tcp),
            Some("udp") => Some(Protocol::Udp),
            Some("icmp") => Some(Protocol::Icmp),
            _ => None,
        };
        let (client, called) =
            (Endpoint::new(src, frame.sport.unwrap_or(0)), Endpoint::new(dst, frame.dport.unwrap_or(0)));
        let publications = &snapshot.publications;
        let published = protocol.and_then(|protocol| publications.find(protocol, called));
        let target = published.and_then(|p| publications.choose(p, called.port, client));
        let called = target.map_or(called, |target| target.endpoint);
        let by = snapshot.port(sample.port).and_then(|port| match port.network {
            Some(network) => snapshot.uplink_of(snapshot.network(network)?),
            None => snapshot.uplink_at(port),
        });
        let by = by.map(|uplink| &**uplink);
        let from = match snapshot.port(sample.port).filter(|port| port.network.is_some()) {
            Some(port) => snapshot.end_at(port, src),
            None => snapshot.end(src, by),
        };
        let bridged = snapshot.port(sample.port).and_then(|port| snapshot.network(port.network?));
        let to = match bridged.filter(|network| network.gateway.is_none()) {
            Some(network) => snapshot.end_on(network, called.ip),
            None => snapshot.end(called.ip, by),
        };
        frame.rule = self.refusing_rule(&Question { from, to, protocol, port: called.port });
        frame
    }

    pub(super) fn stats(&self) -> Stats {
        let snapshot = self.snapshot();
        let ports = snapshot.ports.iter().flatten().map(|port| {
            let totals = port.counters.totals();
            let network = port.network.and_then(|id| snapshot.network(id));
            PortStats {
                name: port.name.clone(),
                network: network.map(|network| network.name.clone()),
                counts: counts(&totals, port.missed.load(std::sync::atomic::Ordering::Relaxed)),
                originated: totals.originated,
                copies: totals.copies,
                consumed: totals.consumed,
                left_to_host: totals.left_to_host,
                reassembled: totals.reassembled,
            }
        });
        Stats { ports: ports.collect(), workers: self.host.worker_stats() }
    }

    fn connection_filter(&self, filter: &CtFilter) -> Result<impl Fn(&Info) -> bool + use<H>, Error> {
        let name = filter.port.as_ref();
        let ports = name.map(|name| self.port(name).map(|_| self.ids_of(name))).transpose()?;
        let protocol: Option<Protocol> = filter.proto;
        Ok(move |connection: &Info| {
            ports.as_ref().is_none_or(|ports| ports.contains(&connection.port))
                && protocol.is_none_or(|protocol| protocol == connection.protocol)
        })
    }

    fn connection_info(&self, connection: &Info) -> ConnectionInfo {
        let snapshot = self.snapshot();
        let port = snapshot.port(connection.port);
        let network = port.and_then(|port| port.network).and_then(|network| snapshot.network(network));
        ConnectionInfo {
            proto: connection.protocol,
            state: connection.state.to_owned(),
            port: port.map_or_else(String::new, |port| port.name.clone()),
            network: network.map_or_else(String::new, |network| network.name.clone()),
            original: connection.original().into(),
            reply: connection.reply().into(),
            expires_seconds: connection.expires.as_secs(),
            packets: connection.packets.into(),
            bytes: connection.bytes.into(),
            nat: connection.nat.as_str().to_owned(),
        }
    }
}

fn uplink_info(uplink: &UplinkRecord) -> UplinkInfo {
    let facts = &uplink.facts;
    UplinkInfo {
        name: uplink.settings.name.clone(),
        mode: uplink.settings.mode.as_str().to_owned(),
        address: facts.addresses.first().copied(),
        gateway: uplink.gateway(),
        mtu: facts.mtu,
        mac: facts.mac,
        up: facts.up,
        nat_ports: Some([*uplink.settings.nat_ports.start(), *uplink.settings.nat_ports.end()]),
    }
}

fn neighbors_of(name: &str, neighbors: &Neighbors, now: Time) -> Vec<NeighborInfo> {
    let mut entries = neighbors.lock().entries(now);
    entries.sort_by_key(|entry| entry.ip);
    let row = |entry: crate::table::neighbor_table::NeighborEntry<_>| NeighborInfo {
        network: name.to_owned(),
        ip: entry.ip,
        mac: entry.mac,
        state: entry.state.to_owned(),
        age_seconds: entry.age.as_secs(),
    };
    entries.into_iter().map(row).collect()
}

fn counts(totals: &Totals, missed: u64) -> Counts {
    Counts {
        rx_packets: totals.rx_packets,
        rx_bytes: totals.rx_bytes,
        tx_packets: totals.tx_packets,
        tx_bytes: totals.tx_bytes,
        rx_super: totals.rx_super,
        tx_super: totals.tx_super,
        rx_cached: totals.rx_cached,
        tx_coalesced: totals.tx_coalesced,
        drops: totals.drops,
        missed,
    }
}
