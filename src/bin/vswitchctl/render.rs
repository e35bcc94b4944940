//! Answers as text for people.

use std::fmt::{Display, Write};
use std::net::{IpAddr, SocketAddr};

use vswitchd::control::client::Client;
use vswitchd::control::error::Error;
use vswitchd::control::request::{NoArguments, Request};
use vswitchd::control::response::{
    Applied, CheckInfo, Configuration, ConnectionInfo, ConnectionStats, DefaultInfo, DhcpInfo, Done,
    DropInfo, FdbEntry, Flow, LeaseInfo, NeighborInfo, NetworkDetail, NetworkInfo, PolicingInfo, PortDetail,
    PortInfo, PublicationInfo, RuleInfo, Stats, Status, Timeout, UplinkInfo, Usage,
};
use vswitchd::control::table::{self, Table};
use vswitchd::limits::UPLINKS_MAX;
use vswitchd::snapshot::NetworkMode;

/// Asks, and lays the answer out. `wide` has more columns and exact numbers.
pub(crate) fn table(client: &Client, request: &Request, wide: bool) -> Result<String, Error> {
    let status = || client.call::<Status>(&Request::Status(NoArguments {}));
    Ok(match request {
        Request::Status(_) => status_text(&status()?, wide),
        Request::UplinkLs(_) => uplinks(&client.call::<Vec<UplinkInfo>>(request)?),
        Request::NetworkLs(_) => networks(&client.call::<Vec<NetworkInfo>>(request)?, &status()?),
        Request::NetworkCreate(_) => {
            let network: NetworkInfo = client.call(request)?;
            let way = match (network.mode, network.uplink) {
                (NetworkMode::Bridge, Some(uplink)) => format!("bridged to {uplink}"),
                (mode, Some(uplink)) => format!("{} by {uplink}", mode.as_str()),
                (mode, None) => mode.as_str().to_owned(),
            };
            format!("{}: {}, gateway {}, {way}\n", network.name, network.subnet, or_dash(network.gateway))
        }
        Request::NetworkInspect(_) => network_detail(&client.call(request)?),
        Request::NetworkDhcp(_) => dhcp(&client.call(request)?),
        Request::DhcpLeases(_) => leases(&client.call::<Vec<LeaseInfo>>(request)?, wide),
        Request::PortLs(_) => ports(&client.call::<Vec<PortInfo>>(request)?, &status()?, wide),
        Request::NetworkHostPort(host_port) if host_port.off => {
            client.call::<Done>(request).map(|_| String::new())?
        }
        Request::PortAdd(_) | Request::NetworkConnect(_) | Request::NetworkHostPort(_) => {
            let port: PortInfo = client.call(request)?;
            format!("{}: {}, {} on {}\n", port.name, or_dash(port.ip), or_dash(port.mac), port.network)
        }
        Request::PortInspect(_) => port_detail(&client.call(request)?, wide),
        Request::FdbShow(_) => fdb(&client.call::<Vec<FdbEntry>>(request)?, &status()?, wide),
        Request::NeighShow(_) => neighbors(&client.call::<Vec<NeighborInfo>>(request)?, wide),
        Request::CtLs(_) => connections(&client.call::<Vec<ConnectionInfo>>(request)?, &status()?, wide),
        Request::CtStats(_) => connection_stats(&client.call(request)?),
        Request::CtTimeouts(_) | Request::FdbAgeing(_) => timeouts(&client.call::<Vec<Timeout>>(request)?),
        Request::PublishAdd(_) => {
            let publication: PublicationInfo = client.call(request)?;
            format!("{}/{} to {}\n", listen(&publication), publication.proto, target(&publication))
        }
        Request::PublishLs(_) => publications(&client.call::<Vec<PublicationInfo>>(request)?, &status()?),
        Request::PolicyAdd(_) => {
            let rule: RuleInfo = client.call(request)?;
            format!("rule {}: {rule}\n", rule.n)
        }
        Request::PolicyLs(_) => rules(&client.call::<Vec<RuleInfo>>(request)?, &status()?),
        Request::PolicyDefault(_) => defaults(&client.call::<Vec<DefaultInfo>>(request)?),
        Request::PolicyCheck(_) => format!("{}\n", client.call::<CheckInfo>(request)?.text),
        Request::Drops(_) => drops(&client.call::<Vec<DropInfo>>(request)?, wide),
        Request::Stats(_) => stats(&client.call(request)?, wide),
        Request::Dump(_) => client.call::<Configuration>(request)?.text,
        Request::Apply(_) => client.call::<Applied>(request)?.changes.join("\n"),
        Request::FdbFlush(_) | Request::CtFlush(_) => {
            format!("{} flushed\n", client.call::<Done>(request)?.changed)
        }
        Request::NetworkRm(_)
        | Request::NetworkSet(_)
        | Request::UplinkSet(_)
        | Request::NetworkDisconnect(_)
        | Request::PortRm(_)
        | Request::PortSet(_)
        | Request::FdbAdd(_)
        | Request::FdbDel(_)
        | Request::PolicyRm(_)
        | Request::PublishRm(_) => client.call::<Done>(request).map(|_| String::new())?,
    })
}

/// Lines of a name and a value.
fn facts(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:<width$}{value}");
    }
    text
}

fn status_text(status: &Status, wide: bool) -> String {
    let mut uplinks: Vec<_> = status.uplinks.iter().map(|it| ("uplink", uplink_text(it))).collect();
    if uplinks.is_empty() {
        uplinks.push(("uplink", "none".to_owned()));
    }
    let connections = &status.connections;
    let workers = if wide {
        format!("{}, io {}, poll {}", status.workers, status.io, status.poll)
    } else {
        status.workers.to_string()
    };
    let directory = status.state.directory.as_deref().unwrap_or("none");
    // The problem names the file.
    let state = status.state.problem.as_deref().unwrap_or(directory);
    let mut lines = vec![
        ("version", status.version.clone()),
        ("uptime", time(status.uptime_seconds, wide)),
        ("workers", workers),
        ("networks", format!("{}/{}", status.networks, status.limits.networks)),
        ("ports", format!("{}/{}", status.ports, status.limits.ports)),
        ("connections", format!("{}/{}", connections.used, connections.limit)),
        ("state", state.to_owned()),
        ("received", traffic(status.totals.rx_packets, status.totals.rx_bytes, wide)),
        ("sent", traffic(status.totals.tx_packets, status.totals.tx_bytes, wide)),
        ("dropped", format!("{} frames", status.totals.drops)),
    ];
    lines.splice(2..2, uplinks);
    facts(&lines)
}

fn uplinks(uplinks: &[UplinkInfo]) -> String {
    let mut table = Table::new(&["NAME", "MODE", "ADDRESS", "GATEWAY", ">MTU", "MAC", "STATE"]);
    for uplink in uplinks {
        table.row(vec![
            uplink.name.clone(),
            uplink.mode.as_str().to_owned(),
            or_dash(uplink.address),
            or_dash(uplink.gateway),
            uplink.mtu.to_string(),
            uplink.mac.to_string(),
            if uplink.up { "up" } else { "down" }.to_owned(),
        ]);
    }
    table.footer(format!("{}/{UPLINKS_MAX} uplinks", uplinks.len()));
    table.to_string()
}

fn uplink_text(uplink: &UplinkInfo) -> String {
    let state = if uplink.up { "up" } else { "down" };
    let (address, gateway) = (or_dash(uplink.address), or_dash(uplink.gateway));
    let (name, mode) = (&uplink.name, &uplink.mode);
    format!("{name} ({mode}, {state}), {address}, gateway {gateway}, MTU {}", uplink.mtu)
}

fn networks(networks: &[NetworkInfo], status: &Status) -> String {
    let mut table = Table::new(&["NAME", "SUBNET", "GATEWAY", "MODE", ">MTU", ">PORTS", "UPLINK"]);
    for network in networks {
        table.row(vec![
            network.name.clone(),
            network.subnet.to_string(),
            or_dash(network.gateway),
            network.mode.as_str().to_owned(),
            network.mtu.to_string(),
            network.ports.to_string(),
            or_dash(network.uplink.as_ref()),
        ]);
    }
    table.footer(format!("{}/{} networks", networks.len(), status.limits.networks));
    table.to_string()
}

fn network_detail(detail: &NetworkDetail) -> String {
    let network = &detail.network;
    let gateway = match network.gateway_mac {
        Some(mac) => format!("{} ({mac})", or_dash(network.gateway)),
        None => or_dash(network.gateway),
    };
    let vlans: Vec<_> = detail.vlans.iter().map(|(port, vid)| format!("{vid} of {port}")).collect();
    let mut lines = vec![
        ("name", network.name.clone()),
        ("subnet", network.subnet.to_string()),
        ("gateway", gateway),
        ("mode", network.mode.as_str().to_owned()),
        ("mtu", network.mtu.to_string()),
        ("uplink", or_dash(network.uplink.as_ref())),
        ("ports", detail.port_names.join(", ")),
        ("vlans", vlans.join(", ")),
        ("addresses", format!("{}/{}", detail.addresses.used, detail.addresses.limit)),
        ("macs", format!("{}/{}", detail.macs.used, detail.macs.limit)),
        ("neighbors", detail.neighbors.to_string()),
    ];
    lines.extend(detail.bridged_to.as_ref().map(|uplink| ("bridged to", uplink_text(uplink))));
    facts(&lines)
}

fn dhcp(dhcp: &DhcpInfo) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let addresses = |ips: &[std::net::Ipv4Addr]| list(&mut ips.iter().map(ToString::to_string));
    facts(&[
        ("network", dhcp.network.clone()),
        ("dhcp", if dhcp.enabled { "on" } else { "off" }.to_owned()),
        ("lease", format!("{} s", dhcp.lease_seconds)),
        (
            "range",
            dhcp.range.map_or_else(|| "all".to_owned(), |range| format!("{}-{}", range.first, range.last)),
        ),
        ("dns", dhcp.dns.as_deref().map_or_else(|| "gateway".to_owned(), addresses)),
        ("ntp", addresses(&dhcp.ntp)),
        ("domain", or_dash(dhcp.domain.as_ref())),
        ("search", dhcp.search.join(", ")),
        ("routes", list(&mut dhcp.routes.iter().map(ToString::to_string))),
    ])
}

fn leases(leases: &[LeaseInfo], wide: bool) -> String {
    let columns = ["NETWORK", "IP", "PORT", "MAC", "HOSTNAME", "STATE", ">EXPIRES"];
    let mut table = Table::new(&if wide { [&columns[..], &["CLIENT"]].concat() } else { columns.to_vec() });
    for lease in leases {
        let mut cells = vec![
            lease.network.clone(),
            lease.ip.to_string(),
            lease.port.clone(),
            or_dash(lease.mac),
            or_dash(lease.hostname.as_ref()),
            lease.state.clone(),
            lease.expires_seconds.map_or_else(|| "-".to_owned(), |seconds| time(seconds, wide)),
        ];
        if wide {
            cells.push(lease.client.clone());
        }
        table.row(cells);
    }
    table.footer(format!("{} leases", leases.len()));
    table.to_string()
}

fn ports(ports: &[PortInfo], status: &Status, wide: bool) -> String {
    let columns = ["NAME", "NETWORK", "KIND", "IP", "MAC", "STATE", ">RX", ">TX", ">DROPS", ">VLAN"];
    let extra = ["NETNS", "IFNAME", ">RX-PACKETS", ">TX-PACKETS"];
    let mut table = Table::new(&if wide { [&columns[..], &extra].concat() } else { columns.to_vec() });
    for port in ports {
        let mut cells = vec![
            port.name.clone(),
            port.network.clone(),
            port.kind.as_str().to_owned(),
            or_dash(port.ip),
            or_dash(port.mac),
            port.state.clone(),
            bytes(port.rx_bytes, wide),
            bytes(port.tx_bytes, wide),
            port.drops.to_string(),
            or_dash(port.vlan),
        ];
        if wide {
            cells.extend([or_dash(port.netns.as_ref()), port.ifname.clone()]);
            cells.extend([port.rx_packets.to_string(), port.tx_packets.to_string()]);
        }
        table.row(cells);
    }
    table.footer(format!("{}/{} ports", ports.len(), status.limits.ports));
    table.to_string()
}

fn port_detail(detail: &PortDetail, wide: bool) -> String {
    let port = &detail.port;
    let published: Vec<_> =
        detail.published.iter().map(|p| format!("{}/{} to {}", listen(p), p.proto, p.target_first)).collect();
    let network = |port: &PortInfo| {
        let vlan = port.vlan.map_or_else(String::new, |vid| format!(" VLAN {vid}"));
        format!("{} ({}{vlan} {})", port.network, port.ifname, or_dash(port.ip))
    };
    let networks: Vec<_> = detail.interfaces.iter().map(network).collect();
    let mut text = facts(&[
        ("name", port.name.clone()),
        ("network", port.network.clone()),
        ("all networks", networks.join(", ")),
        ("kind", port.kind.as_str().to_owned()),
        ("netns", or_dash(port.netns.as_ref())),
        ("ifname", port.ifname.clone()),
        ("vlan", or_dash(port.vlan)),
        ("ip", or_dash(port.ip)),
        ("mac", or_dash(port.mac)),
        ("mtu", detail.mtu.to_string()),
        ("state", port.state.clone()),
        ("security", detail.security.as_str().to_owned()),
        ("storm", storm(&detail.policing)),
        ("macs", off_if_zero(detail.policing.macs)),
        ("moves", per_second(detail.policing.moves)),
        ("connections", used(detail.connections)),
        ("NAT ports, TCP", used(detail.nat_ports.tcp)),
        ("NAT ports, UDP", used(detail.nat_ports.udp)),
        ("NAT ports, ICMP", used(detail.nat_ports.icmp)),
        ("received", traffic(port.rx_packets, port.rx_bytes, wide)),
        ("sent", traffic(port.tx_packets, port.tx_bytes, wide)),
        ("super-frames", format!("{} received, {} sent", detail.rx_super, detail.tx_super)),
        ("coalesced", format!("{} sent", detail.tx_coalesced)),
        ("missed", detail.missed.to_string()),
        ("published", published.join(", ")),
    ]);
    if !detail.drop_reasons.is_empty() {
        text.push('\n');
        text.push_str(&drops(&detail.drop_reasons, wide));
    }
    text
}

/// Frames a second of each kind.
fn storm(policing: &PolicingInfo) -> String {
    let PolicingInfo { broadcast, multicast, unknown, .. } = *policing;
    let [broadcast, multicast, unknown] = [broadcast, multicast, unknown].map(per_second);
    format!("broadcast {broadcast}, multicast {multicast}, unknown {unknown}")
}

fn per_second(bound: u32) -> String {
    if bound == 0 { "off".to_owned() } else { format!("{bound}/s") }
}

fn off_if_zero(bound: u32) -> String {
    if bound == 0 { "off".to_owned() } else { bound.to_string() }
}

fn fdb(entries: &[FdbEntry], status: &Status, wide: bool) -> String {
    let mut table = Table::new(&["NETWORK", "MAC", "PORT", "TYPE", ">AGE"]);
    for entry in entries {
        table.row(vec![
            entry.network.clone(),
            entry.mac.to_string(),
            or_dash(entry.port.as_ref()),
            entry.r#type.clone(),
            time(entry.age_seconds, wide),
        ]);
    }
    let limit = status.limits.macs_per_network * status.networks;
    table.footer(format!("{}/{limit} addresses", entries.len()));
    table.to_string()
}

fn neighbors(neighbors: &[NeighborInfo], wide: bool) -> String {
    let mut table = Table::new(&["NETWORK", "IP", "MAC", "STATE", ">AGE"]);
    for neighbor in neighbors {
        table.row(vec![
            neighbor.network.clone(),
            neighbor.ip.to_string(),
            or_dash(neighbor.mac),
            neighbor.state.clone(),
            time(neighbor.age_seconds, wide),
        ]);
    }
    table.to_string()
}

fn used(usage: Usage) -> String {
    format!("{}/{}", usage.used, usage.limit)
}

fn connections(connections: &[ConnectionInfo], status: &Status, wide: bool) -> String {
    let columns = ["PROTO", "STATE", "PORT", "ORIGINAL", "REPLY", ">EXPIRES", ">PACKETS", ">BYTES"];
    let extra = ["NETWORK", "NAT"];
    let mut table = Table::new(&if wide { [&columns[..], &extra].concat() } else { columns.to_vec() });
    connections.iter().for_each(|connection| table.row(connection_cells(connection, wide)));
    table.footer(format!("{}/{} connections", status.connections.used, status.connections.limit));
    table.to_string()
}

/// A connection as a row of `ct ls`.
pub(crate) fn connection_cells(connection: &ConnectionInfo, wide: bool) -> Vec<String> {
    let (packets, octets) = (&connection.packets, &connection.bytes);
    let mut cells = vec![
        connection.proto.to_string(),
        connection.state.clone(),
        connection.port.clone(),
        flow(&connection.original),
        flow(&connection.reply),
        time(connection.expires_seconds, wide),
        format!("{}/{}", packets.original, packets.reply),
        format!("{}/{}", bytes(octets.original, wide), bytes(octets.reply, wide)),
    ];
    if wide {
        cells.extend([connection.network.clone(), connection.nat.clone()]);
    }
    cells
}

fn flow(flow: &Flow) -> String {
    format!("{}:{}->{}:{}", flow.src, flow.sport, flow.dst, flow.dport)
}

fn connection_stats(stats: &ConnectionStats) -> String {
    facts(&[
        ("connections", format!("{}/{}", stats.connections, stats.limit)),
        ("created", stats.created.to_string()),
        ("expired", stats.expired.to_string()),
        ("reclaimed", stats.reclaimed.to_string()),
        ("flushed", stats.flushed.to_string()),
        ("refused, table full", stats.refused_full.to_string()),
        ("refused, port's quota", stats.refused_quota.to_string()),
        ("refused, port's quota of NAT ports", stats.refused_port_quota.to_string()),
        ("refused, no NAT port", stats.ports_exhausted.to_string()),
    ])
}

fn timeouts(timeouts: &[Timeout]) -> String {
    let mut table = Table::new(&["KEY", ">SECONDS"]);
    timeouts.iter().for_each(|timeout| table.row(vec![timeout.key.clone(), timeout.seconds.to_string()]));
    table.to_string()
}

fn publications(publications: &[PublicationInfo], status: &Status) -> String {
    let mut table = Table::new(&["PROTO", "LISTEN", "TARGET", ">CONNECTIONS", "SCOPE", "HEALTH"]);
    for publication in publications {
        table.row(vec![
            publication.proto.to_string(),
            listen(publication),
            target(publication),
            publication.connections.to_string(),
            publication.scope.clone(),
            health(publication),
        ]);
    }
    let ports = publications.iter().map(|p| usize::from(p.port_last - p.port_first) + 1);
    table.footer(format!("{}/{} ports", ports.sum::<usize>(), status.limits.publications));
    table.to_string()
}

fn listen(publication: &PublicationInfo) -> String {
    let ip = publication.ip.map_or_else(String::new, |ip| format!("{ip}:"));
    format!("{ip}{}", range(publication.port_first, publication.port_last))
}

fn target(publication: &PublicationInfo) -> String {
    let first = publication.target_first;
    let last = first.saturating_add(publication.port_last - publication.port_first);
    let targets = publication.targets.iter();
    let targets = targets.map(|target| {
        let down = if target.up { "" } else { " (down)" };
        format!("{} {}:{}{down}", target.port, target.ip, range(first, last))
    });
    targets.collect::<Vec<_>>().join(", ")
}

/// How many targets are up of those that are checked.
fn health(publication: &PublicationInfo) -> String {
    let (targets, up) = (&publication.targets, publication.targets.iter().filter(|target| target.up).count());
    publication
        .health
        .map_or_else(|| "-".into(), |check| format!("{} {up}/{}", check.as_str(), targets.len()))
}

fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Counts by reason and port, and below them the last frames.
fn drops(drops: &[DropInfo], wide: bool) -> String {
    let columns = ["REASON", "PORT", ">COUNT", ">LAST", "MEANING"];
    let mut counts = Table::new(if wide { &columns } else { &columns[..4] });
    for drop in drops {
        let (count, last) = (drop.count.to_string(), time(drop.last_seconds, wide));
        let mut cells = vec![drop.reason.clone(), drop.port.clone(), count, last];
        if wide {
            cells.push(drop.meaning.clone());
        }
        counts.row(cells);
    }
    let mut frames: Vec<_> =
        drops.iter().flat_map(|drop| drop.frames.iter().map(move |f| (drop, f))).collect();
    if frames.is_empty() {
        return counts.to_string();
    }
    frames.sort_by_key(|(_, frame)| frame.age_seconds);
    let mut samples =
        Table::new(&[">AGE", "REASON", "PORT", ">VLAN", "TYPE", "SOURCE", "DESTINATION", "RULE"]);
    for (drop, frame) in frames {
        let end = |ip: Option<IpAddr>, port: Option<u16>, mac: String| match (ip, port) {
            (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
            (Some(ip), None) => ip.to_string(),
            (None, _) => mac,
        };
        samples.row(vec![
            time(frame.age_seconds, wide),
            drop.reason.clone(),
            drop.port.clone(),
            or_dash(frame.vid),
            or_dash(frame.proto.as_ref().or(frame.ethertype.as_ref())),
            end(frame.src, frame.sport, or_dash(frame.src_mac)),
            end(frame.dst, frame.dport, or_dash(frame.dst_mac)),
            frame.rule.map_or_else(String::new, |rule| rule.to_string()),
        ]);
    }
    format!("{counts}\n{samples}")
}

fn rules(rules: &[RuleInfo], status: &Status) -> String {
    let columns = [">N", "ACTION", "FROM", "TO", "PROTO", "DPORT", ">CONNECTIONS", ">DENIED", "NAME"];
    let mut table = Table::new(&columns);
    for rule in rules {
        table.row(vec![
            rule.n.to_string(),
            rule.action.as_str().to_owned(),
            rule.from.clone(),
            rule.to.clone(),
            rule.proto.map_or_else(|| "any".to_owned(), |protocol| protocol.to_string()),
            rule.dport.clone().unwrap_or_else(|| "any".to_owned()),
            rule.connections.to_string(),
            rule.denied.to_string(),
            rule.name.clone().unwrap_or_default(),
        ]);
    }
    table.footer(format!("{}/{} rules", rules.len(), status.limits.rules));
    table.to_string()
}

fn defaults(defaults: &[DefaultInfo]) -> String {
    let mut table = Table::new(&["FROM", "TO", "ACTION"]);
    for DefaultInfo { from, to, action } in defaults {
        table.row(vec![from.clone(), to.clone(), action.as_str().to_owned()]);
    }
    table.footer("all others: deny between networks, allow within".to_owned());
    table.to_string()
}

fn stats(stats: &Stats, wide: bool) -> String {
    let mut columns = vec!["PORT", "NETWORK", ">RX", ">RX-PACKETS", ">RX-SUPER", ">RX-CACHED"];
    columns.extend([">TX", ">TX-PACKETS", ">TX-SUPER", ">TX-COALESCED", ">DROPS", ">MISSED"]);
    let mut ports = Table::new(&columns);
    for port in &stats.ports {
        let counts = &port.counts;
        let mut cells = vec![port.name.clone(), or_dash(port.network.as_ref()), bytes(counts.rx_bytes, wide)];
        cells.extend([counts.rx_packets, counts.rx_super, counts.rx_cached].map(|count| count.to_string()));
        cells.push(bytes(counts.tx_bytes, wide));
        cells
            .extend([counts.tx_packets, counts.tx_super, counts.tx_coalesced].map(|count| count.to_string()));
        cells.extend([counts.drops, counts.missed].map(|count| count.to_string()));
        ports.row(cells);
    }
    let mut workers = Table::new(&[">WORKER", ">TURNS", ">FRAMES", ">BUSY"]);
    for worker in &stats.workers {
        let (turns, frames) = (worker.turns.to_string(), worker.frames.to_string());
        let busy = format!("{}.{:03} s", worker.busy_micros / 1_000_000, worker.busy_micros / 1000 % 1000);
        workers.row(vec![worker.worker.to_string(), turns, frames, busy]);
    }
    format!("{ports}\n{workers}")
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn bytes(count: u64, exact: bool) -> String {
    if exact { count.to_string() } else { table::bytes(count) }
}

fn time(count: u64, exact: bool) -> String {
    if exact { count.to_string() } else { table::seconds(count) }
}

fn traffic(packets: u64, count: u64, exact: bool) -> String {
    let unit = if exact { " B" } else { "" };
    format!("{packets} frames, {}{unit}", bytes(count, exact))
}
