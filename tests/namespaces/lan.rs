//! Containers on the LAN of the host: a real bridge with stations, a router and dnsmasq on it, and `vswitchd` with
//! `--uplink-mode bridge` on a host that is one of its stations.
//!
//! ```text
//!  web, db ──(TAP)── vswitchd ── eth0 192.0.2.1 ──── br0 192.0.2.254 (router, dnsmasq), lo 198.51.100.7
//!                                                     └── station 192.0.2.77
//! ```

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use serde_json::Value;
use vswitchd::addr::{Endpoint, MacAddr, MacRange};
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::frames::Tap;
use vswitchd::lab::rig::{GATEWAY, INTERNET, Rig, UPLINK, on_uplink};
use vswitchd::lab::traffic::{self, PATIENCE, SILENCE, Talk, ping};
use vswitchd::sim::packet::{self, Macs};

use crate::switch::{Switch, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("lan::containers_are_stations_of_the_lan", containers_are_stations_of_the_lan),
    ("lan::the_lans_dhcp_server_gives_addresses", the_lans_dhcp_server_gives_addresses),
    ("lan::everything_of_a_lan_passes_and_nothing_false", everything_of_a_lan_passes_and_nothing_false),
    ("lan::the_interface_is_followed", the_interface_is_followed),
    ("lan::what_a_lan_does_not_have_is_refused", what_a_lan_does_not_have_is_refused),
    ("lan::beside_other_networks_nothing_crosses", beside_other_networks_nothing_crosses),
    ("lan::a_file_makes_it_and_is_made_of_it", a_file_makes_it_and_is_made_of_it),
];

/// A station of the LAN.
const STATION: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// Containers.
const WEB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const DB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 51);

const BRIDGED: &[&str] = &["--uplink", "eth0", "--uplink-mode", "bridge"];

/// Sets the address that a DHCP server gave.
const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] && ip addr replace "$ip/24" dev eth0 && ip route replace default via "$router"
exit 0
"#;

/// The rig with a LAN in place of a wire.
struct Site {
    rig: Rig,
    station: Netns,
}

impl Site {
    fn new() -> Result<Site, Failed> {
        let rig = Rig::new()?;
        let station = rig.container("station")?;
        rig.internet.run(|| {
            netlink::create_bridge("br0")?;
            netlink::del_address("eth0", on_uplink(GATEWAY))?;
            netlink::set_bridge("eth0", "br0")?;
            netlink::create_veth("to-station", "wire")?;
            netlink::move_link("wire", &station)?;
            netlink::set_bridge("to-station", "br0")?;
            netlink::set_up("to-station")?;
            netlink::set_up("br0")?;
            netlink::add_address("br0", on_uplink(GATEWAY))
        })??;
        station.run(|| {
            netlink::rename("wire", "eth0")?;
            netlink::add_address("eth0", on_uplink(STATION))?;
            netlink::set_up("eth0")
        })??;
        ensure!(ping(&rig.switch, STATION, PATIENCE)?.is_some(), "the LAN does not work");
        Ok(Site { rig, station })
    }

    /// A container on the LAN; `more` says with which address.
    fn attach(&self, switch: &Switch, name: &str, more: &str) -> Result<Netns, Failed> {
        let netns = self.rig.container(name)?;
        switch.done(&format!("port add {name} --netns {} {more}", netns.path().display()))?;
        Ok(netns)
    }
}

fn launch(rig: &Rig, arguments: &[&str]) -> Result<Switch, Failed> {
    Switch::launch(rig, arguments, Stdio::inherit())
}

fn mac_of(switch: &Switch, name: &str) -> Result<MacAddr, Failed> {
    let text = switch.list(&format!("port inspect {name}"))?["mac"].as_str().unwrap_or_default().to_owned();
    text.parse().map_err(|_| format!("{name} has the MAC address {text:?}").into())
}

fn own_mac(netns: &Netns) -> Result<MacAddr, Failed> {
    Ok(netns.run(|| netlink::expect_link("eth0"))??.mac)
}

fn between<'a>(client: &'a Netns, server: &'a Netns, ip: Ipv4Addr) -> Talk<'a> {
    let at = SocketAddrV4::new(ip, 5001);
    Talk { client, to: at, server, at }
}

/// Whether the host's interface is promiscuous.
fn is_promiscuous(rig: &Rig, ifname: &str) -> Result<bool, Failed> {
    let mut command = Command::new("ip");
    command.args(["-d", "-j", "link", "show", "dev", ifname]).stdout(Stdio::piped());
    let links: Value = serde_json::from_slice(&rig.switch.spawn(&mut command)?.wait_with_output()?.stdout)?;
    Ok(links[0]["promiscuity"].as_u64() > Some(0))
}

fn ip(netns: &Netns, words: &str) -> Outcome {
    let status = netns.spawn(Command::new("ip").args(words.split(' ')))?.wait()?;
    ensure!(status.success(), "ip {words}: {status}");
    Ok(())
}

/// What `vswitchctl` says when it refuses: its exit code and its error.
fn refused(switch: &Switch, words: &str) -> Result<(Option<i32>, String), Failed> {
    let output = switch.ctl(words)?;
    ensure!(!output.status.success(), "vswitchctl {words} succeeds");
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}

fn dropped(switch: &Switch, port: &str, reason: &str) -> Result<u64, Failed> {
    let drops = switch.list(&format!("drops --port {port}"))?;
    let row = drops.as_array().into_iter().flatten().find(|row| row["reason"] == reason).cloned();
    Ok(row.and_then(|row| row["count"].as_u64()).unwrap_or(0))
}

fn containers_are_stations_of_the_lan() -> Outcome {
    let site = Site::new()?;
    let Site { rig, station } = &site;
    let host = traffic::connect(between(&rig.switch, station, STATION))?;
    let switch = launch(rig, BRIDGED)?;
    let status = switch.list("status")?["uplink"].clone();
    ensure!(status["name"] == "eth0" && status["mode"] == "bridge" && status["up"] == true, "{status}");
    let network = switch.list("network ls")?[0].clone();
    ensure!(network["subnet"] == "192.0.2.0/24" && network["gateway"] == GATEWAY.to_string(), "{network}");
    ensure!(is_promiscuous(rig, "eth0")?, "eth0 is not promiscuous");
    let web = site.attach(&switch, "web", &format!("--ip {WEB}"))?;
    let db = site.attach(&switch, "db", &format!("--ip {DB}"))?;

    for (from, to) in [(&web, STATION), (station, WEB), (&web, DB), (&db, WEB), (&web, GATEWAY)] {
        ensure!(ping(from, to, PATIENCE)?.is_some(), "{to} does not answer {from}");
    }
    ensure!(ping(&web, INTERNET, PATIENCE)?.is_some(), "the LAN's router does not lead out");
    let asked = Tap::open(station)?.who_has((own_mac(station)?, STATION), WEB, PATIENCE)?;
    ensure!(asked == Some(own_mac(&web)?), "the station finds {asked:?} and not the container's own MAC");
    ensure!(asked == Some(mac_of(&switch, "web")?), "port ls says otherwise");

    // Both ways, with all offloads: what is sent arrives, byte for byte.
    for talk in [between(&web, station, STATION), between(station, &web, WEB), between(&web, &db, DB)] {
        let (to, expected) = (talk.to, if std::ptr::eq(talk.client, station) { STATION } else { WEB });
        let transfer = traffic::tcp_transfer(talk, 100_000_000)?;
        ensure!(transfer.seen.ip() == expected, "{to} sees {}", transfer.seen);
        let talk = Talk { client: talk.client, to: talk.to, server: talk.server, at: talk.at };
        ensure!(traffic::udp_echo(talk)?.ip() == expected, "{to} sees another sender");
    }
    let stats = switch.list("port inspect eth0")?;
    ensure!(stats["kind"] == "uplink" && stats["rx_super"].as_u64() > Some(0), "no super-frames: {stats}");

    // The host goes on as it did, and does not meet the containers.
    traffic::tcp_transfer(between(&rig.switch, station, STATION), 20_000_000)?;
    for to in [STATION, GATEWAY, INTERNET] {
        ensure!(ping(&rig.switch, to, PATIENCE)?.is_some(), "{to} does not answer the host any more");
    }
    drop(host);
    ensure!(ping(&rig.switch, WEB, SILENCE)?.is_none(), "the host meets a container");
    let status = switch.list("status")?;
    ensure!(status["imbalance"] == 0, "{status}");
    // Its talk with the LAN is nobody's loss.
    let drops = switch.list("drops --port eth0")?;
    ensure!(drops.as_array().is_some_and(Vec::is_empty), "{drops}");

    switch.done("port rm web")?;
    switch.done("port rm db")?;
    switch.done("network rm default")?;
    ensure!(!is_promiscuous(rig, "eth0")?, "eth0 is still promiscuous");
    ensure!(switch.ports()?.is_empty(), "{:?}", switch.ports()?);
    Ok(())
}

/// A dnsmasq on the LAN, killed with its value.
struct Dnsmasq(Child);

impl Dnsmasq {
    /// Gives addresses from 192.0.2.100 on.
    fn start(site: &Site) -> Result<Dnsmasq, Failed> {
        let at = site.rig.directory().display().to_string();
        let line = format!(
            "--keep-in-foreground --conf-file=/dev/null --port=0 --interface=br0 --bind-interfaces --user=root \
             --pid-file= --no-ping --dhcp-leasefile={at}/lan.leases --log-facility={at}/lan.log \
             --dhcp-authoritative --dhcp-range=192.0.2.100,192.0.2.109,255.255.255.0,2m \
             --dhcp-option=option:router,{GATEWAY}"
        );
        let mut command = Command::new("dnsmasq");
        command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Dnsmasq(site.rig.internet.spawn(&mut command)?))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // It has ended if it could not begin.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether these programs are there. Where they must be, their absence is a failure.
fn found(programs: &[&str]) -> Result<bool, Failed> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| std::env::split_paths(&paths).any(|path| path.join(program).is_file());
    let Some(missing) = programs.iter().find(|program| !is_there(program)) else { return Ok(true) };
    let must_run = std::env::var("CI").is_ok_and(|ci| ci == "true");
    ensure!(!must_run, "needs {missing}");
    println!("skipped: needs {missing}");
    Ok(false)
}

fn the_lans_dhcp_server_gives_addresses() -> Outcome {
    if !found(&["udhcpc", "dnsmasq"])? {
        return Ok(());
    }
    let site = Site::new()?;
    let _dnsmasq = Dnsmasq::start(&site)?;
    let switch = launch(&site.rig, BRIDGED)?;
    let (one, two) =
        (site.attach(&switch, "one", "--no-address")?, site.attach(&switch, "two", "--no-address")?);
    let script = site.rig.directory().join("script");
    fs::write(&script, SCRIPT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    for netns in [&one, &two] {
        let line = format!(
            "mount -t tmpfs none /run && exec udhcpc -f -q -n -t 10 -T 1 -i eth0 -s {}",
            script.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &line]).stdout(Stdio::null()).stderr(Stdio::null());
        ensure!(netns.spawn(&mut command)?.wait()?.success(), "{netns} gets no address");
    }
    let address = |netns: &Netns| -> Result<Ipv4Addr, Failed> {
        let link = netns.run(|| netlink::expect_link("eth0"))??;
        let addresses = netns.run(|| netlink::addresses(Some(link.index)))??;
        Ok(addresses.first().ok_or("no address")?.addr())
    };
    let (first, second) = (address(&one)?, address(&two)?);
    let is_dealt = |ip: Ipv4Addr| (100..110).contains(&ip.octets()[3]);
    ensure!(is_dealt(first) && is_dealt(second) && first != second, "{first} and {second}");
    for (from, to) in [(&one, second), (&one, INTERNET), (&site.station, first), (&two, STATION)] {
        ensure!(ping(from, to, PATIENCE)?.is_some(), "{to} does not answer {from}");
    }
    // Two switches on one LAN must not give their containers the same MAC addresses.
    ensure!(
        own_mac(&one)?.0[1] == MacRange::LanPort as u8 && own_mac(&one)? != own_mac(&two)?,
        "{}",
        own_mac(&one)?
    );
    let leases = switch.list("dhcp leases")?;
    ensure!(leases.as_array().is_some_and(Vec::is_empty), "the switch has given some: {leases}");
    Ok(())
}

fn everything_of_a_lan_passes_and_nothing_false() -> Outcome {
    let site = Site::new()?;
    let switch = launch(&site.rig, BRIDGED)?;
    let web = site.attach(&switch, "web", &format!("--ip {WEB}"))?;
    let db = site.attach(&switch, "db", &format!("--ip {DB}"))?;
    let (web_mac, station_mac) = (own_mac(&web)?, own_mac(&site.station)?);
    let (at_web, at_db, at_station) = (Tap::open(&web)?, Tap::open(&db)?, Tap::open(&site.station)?);
    let group = MacAddr([0x01, 0, 0x5e, 0, 0, 0xfb]);
    for (dst, text) in [(MacAddr::BROADCAST, "to all"), (group, "to a group")] {
        at_station.says(station_mac, dst, text)?;
        ensure!(at_web.hears(text, PATIENCE) && at_db.hears(text, PATIENCE), "{text} does not come in");
        let text = format!("{text} from web");
        at_web.says(web_mac, dst, &text)?;
        ensure!(at_station.hears(&text, PATIENCE) && at_db.hears(&text, PATIENCE), "{text} does not go out");
    }
    at_station.says(station_mac, web_mac, "only for web")?;
    ensure!(at_web.hears("only for web", PATIENCE), "what is for web does not arrive");
    ensure!(!at_db.hears("only for web", SILENCE), "db hears what is for web");

    // IPv6, with its neighbor discovery.
    for (netns, address) in [(&web, "fd00::50"), (&site.station, "fd00::77")] {
        netns.run(|| fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0"))??;
        ip(netns, &format!("-6 addr add {address}/64 dev eth0 nodad"))?;
    }
    let server = site.station.run(|| UdpSocket::bind("[fd00::77]:7"))??;
    server.set_read_timeout(Some(PATIENCE))?;
    let client = web.run(|| UdpSocket::bind("[fd00::50]:0"))??;
    client.send_to(b"by IPv6", "[fd00::77]:7".parse::<SocketAddrV6>()?)?;
    let (length, from) = server.recv_from(&mut [0; 64])?;
    ensure!(length == 7 && from.ip().to_string() == "fd00::50", "{length} bytes from {from}");

    // What a container may not say on the LAN.
    let all = Macs { src: web_mac, dst: MacAddr::BROADCAST };
    let offer = packet::udp(
        all,
        Endpoint::new(WEB, 67),
        Endpoint::new(Ipv4Addr::BROADCAST, 68),
        b"take this address",
    );
    let arp = packet::arp(all, 1, (web_mac, GATEWAY), (MacAddr::ZERO, GATEWAY));
    let ip_of_other = packet::udp(all, Endpoint::new(STATION, 1), Endpoint::new(DB, 1), b"it is me");
    let as_other = packet::frame(Macs { src: station_mac, dst: MacAddr::BROADCAST }, 0x88b5, b"it is me");
    let lies = [
        (&offer, "dhcp-server"),
        (&arp, "spoofed-arp"),
        (&ip_of_other, "spoofed-ip"),
        (&as_other, "spoofed-mac"),
    ];
    for (frame, reason) in lies {
        let before = dropped(&switch, "web", reason)?;
        at_web.send_frame(frame)?;
        ensure!(!at_station.sees(SILENCE, |seen| seen.starts_with(frame)), "{reason}: the station sees it");
        ensure!(!at_db.sees(Duration::ZERO, |seen| seen.starts_with(frame)), "{reason}: db sees it");
        ensure!(dropped(&switch, "web", reason)? > before, "{}", switch.done("drops --port web")?);
    }
    // The server of the LAN may.
    let all = Macs { src: station_mac, dst: MacAddr::BROADCAST };
    let offer = packet::udp(
        all,
        Endpoint::new(STATION, 67),
        Endpoint::new(Ipv4Addr::BROADCAST, 68),
        b"take this address",
    );
    at_station.send_frame(&offer)?;
    ensure!(at_web.sees(PATIENCE, |seen| seen.starts_with(&offer)), "an offer does not come in");

    // To the host, by whatever address, there is no way.
    let host_mac = own_mac(&site.rig.switch)?;
    at_web.says(web_mac, host_mac, "to the host")?;
    wait_until(PATIENCE, "a drop", || Ok(dropped(&switch, "web", "host-behind-uplink")? > 0))?;
    Ok(())
}

fn the_interface_is_followed() -> Outcome {
    const SOON: Duration = Duration::from_secs(3);
    let site = Site::new()?;
    let rig = &site.rig;
    let switch = launch(rig, BRIDGED)?;
    let web = site.attach(&switch, "web", &format!("--ip {WEB}"))?;
    let db = site.attach(&switch, "db", &format!("--ip {DB}"))?;
    ensure!(ping(&web, STATION, PATIENCE)?.is_some(), "the station does not answer");
    let is_said = |up: bool| -> Result<bool, Failed> {
        let (status, ports) = (switch.list("status")?, switch.list("port ls")?);
        let row = ports.as_array().into_iter().flatten().find(|row| row["kind"] == "uplink").cloned();
        let state = row.and_then(|row| row["state"].as_str().map(str::to_owned)).unwrap_or_default();
        Ok(status["uplink"]["up"] == up && (state == "up") == up)
    };
    let mtu = || Ok::<_, Failed>(web.run(|| netlink::expect_link("eth0"))??.mtu);
    let reached = || Ok(ping(&web, STATION, Duration::from_millis(200))?.is_some());

    rig.switch.run(|| netlink::set_down("eth0"))??;
    wait_until(SOON, "it is down", || is_said(false))?;
    ensure!(ping(&web, DB, PATIENCE)?.is_some(), "containers have lost each other");
    rig.switch.run(|| netlink::set_up("eth0"))??;
    wait_until(SOON, "it is up again", || is_said(true))?;
    wait_until(SOON, "the LAN is back", reached)?;

    rig.switch.run(|| netlink::set_mtu("eth0", 1400))??;
    wait_until(SOON, "the containers' MTU follows", || Ok(mtu()? == 1400))?;
    rig.switch.run(|| netlink::set_mtu("eth0", 1500))??;
    wait_until(SOON, "and back", || Ok(mtu()? == 1500))?;

    rig.switch.run(|| {
        netlink::set_down("eth0")?;
        netlink::rename("eth0", "lan0")
    })??;
    wait_until(SOON, "its name is gone", || is_said(false))?;
    rig.switch.run(|| {
        netlink::rename("lan0", "eth0")?;
        netlink::set_up("eth0")
    })??;
    wait_until(SOON, "its name is back", || is_said(true))?;
    wait_until(SOON, "the LAN is back", reached)?;

    rig.switch.run(|| netlink::delete_link("eth0"))??;
    wait_until(SOON, "it is gone", || is_said(false))?;
    ensure!(ping(&web, DB, PATIENCE)?.is_some(), "containers have lost each other");
    ensure!(switch.ports()?.len() == 3, "{:?}", switch.ports()?);
    rig.switch.run(|| {
        netlink::create_veth("eth0", "wire")?;
        netlink::move_link("wire", &rig.internet)?;
        netlink::set_up("eth0")
    })??;
    rig.internet.run(|| {
        netlink::rename("wire", "eth0")?;
        netlink::set_bridge("eth0", "br0")?;
        netlink::set_up("eth0")
    })??;
    wait_until(SOON, "another one has its name", || is_said(true))?;
    wait_until(SOON, "the LAN is back", reached)?;
    traffic::tcp_transfer(between(&site.station, &web, WEB), 20_000_000)?;
    ensure!(ping(&db, STATION, PATIENCE)?.is_some(), "db does not reach the station");
    ensure!(switch.terminate()?.0.success(), "it does not end well");
    Ok(())
}

fn what_a_lan_does_not_have_is_refused() -> Outcome {
    let site = Site::new()?;
    let switch = launch(&site.rig, &[BRIDGED, &["--network", "inner=10.98.0.0/24"]].concat())?;
    let web = site.attach(&switch, "web", &format!("--ip {WEB}"))?;
    let _db = site.attach(&switch, "db", "--network inner")?;
    let netns = site.rig.container("more")?;
    let path = netns.path().display().to_string();
    for (words, code, says) in [
        (format!("port add more --netns {path}"), 2, "--no-address"),
        (format!("port add more --netns {path} --ip {STATION}"), 5, "is in use"),
        (format!("port add more --netns {path} --ip {UPLINK}"), 5, "host's own address"),
        (format!("port add more --netns {path} --ip {GATEWAY}"), 5, "gateway"),
        (format!("port add more --netns {path} --ip {WEB}"), 5, "port web"),
        (format!("port add more --netns {path} --ip 10.0.0.1"), 2, "outside the network"),
        ("port add more --device eth0".to_owned(), 5, "is port eth0"),
        ("port rm eth0".to_owned(), 5, "network rm default"),
        ("network connect default db".to_owned(), 2, "--ip"),
        ("network host-port default".to_owned(), 2, "bridged"),
        ("network dhcp default".to_owned(), 2, "bridged"),
        ("network set default mode=nat".to_owned(), 5, "bridge"),
        ("network set inner mode=bridge".to_owned(), 5, "make another network"),
        ("network create lan --mode bridge".to_owned(), 2, "--uplink"),
        ("network create lan --mode bridge --uplink eth7".to_owned(), 4, "no such interface"),
        ("network create lan --mode bridge --uplink lo --subnet 10.97.0.0/24".to_owned(), 2, "Ethernet"),
        (
            "network create lan --mode bridge --uplink eth0 --subnet 10.97.0.0/24".to_owned(),
            5,
            "is port eth0",
        ),
        ("network create lan --uplink eth0".to_owned(), 4, "no such uplink"),
        ("network set default uplink=eth0".to_owned(), 4, "no such uplink"),
        ("network rm default".to_owned(), 5, "web"),
        ("publish add 8080:80 --to web".to_owned(), 2, "own address"),
        ("policy add allow --from web --to db".to_owned(), 2, "routes nothing"),
        ("policy default inner default allow".to_owned(), 2, "routes nothing"),
    ] {
        let (got, error) = refused(&switch, &words)?;
        ensure!(got == Some(code) && error.contains(says), "{words}: {got:?} {error}");
        ensure!(error.starts_with("error: ") && error.contains('('), "{error}");
    }
    ensure!(switch.ports()? == ["db", "eth0", "web"], "{:?}", switch.ports()?);
    // Rules hold on the LAN.
    switch.done("policy add deny --from web --to lan")?;
    ensure!(ping(&web, STATION, SILENCE)?.is_none(), "web reaches the LAN against a rule");
    ensure!(ping(&web, INTERNET, PATIENCE)?.is_some(), "web does not reach the internet any more");
    let check = switch.done("policy check --from web --to lan tcp 80")?;
    ensure!(check.starts_with("deny: rule 1"), "{check}");
    Ok(())
}

fn beside_other_networks_nothing_crosses() -> Outcome {
    let site = Site::new()?;
    let rig = &site.rig;
    let switch = launch(rig, &["--no-uplink", "--network", "inner=10.98.0.0/24"])?;
    let made = switch.done("network create lan --mode bridge --uplink eth0")?;
    ensure!(made == format!("lan: 192.0.2.0/24, gateway {GATEWAY}, bridged to eth0\n"), "{made:?}");
    // The very same again.
    switch.done("network create lan --mode bridge --uplink eth0")?;
    let web = site.attach(&switch, "web", &format!("--network lan --ip {WEB}"))?;
    let db = site.attach(&switch, "db", "--network inner")?;
    let (inner, db_ip) = (Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2));
    ensure!(ping(&web, STATION, PATIENCE)?.is_some(), "the station does not answer");
    ensure!(ping(&db, inner, PATIENCE)?.is_some(), "the gateway of inner does not answer");
    let gateway_mac: MacAddr = switch.list("network inspect inner")?["gateway_mac"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .map_err(|_| "no MAC address of the gateway")?;
    let (web_mac, station_mac, db_mac) = (own_mac(&web)?, own_mac(&site.station)?, own_mac(&db)?);
    let (at_web, at_station, at_db) = (Tap::open(&web)?, Tap::open(&site.station)?, Tap::open(&db)?);
    let groups = [MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1])];
    let across = |tap: &Tap<'_>, mark: &[u8]| {
        tap.sees(SILENCE, |frame| frame.windows(mark.len()).any(|part| part == mark))
    };
    let mark = b"from the LAN";
    for (tap, mac, own) in [(&at_web, web_mac, WEB), (&at_station, station_mac, STATION)] {
        for dst in [groups[0], groups[1], db_mac, gateway_mac] {
            let macs = Macs { src: mac, dst };
            tap.send_frame(&packet::frame(macs, 0x88b5, mark))?;
            tap.send_frame(&packet::frame(macs, 0x86dd, mark))?;
            for to in [db_ip, inner] {
                tap.send_frame(&packet::udp(macs, Endpoint::new(own, 1), Endpoint::new(to, 2), mark))?;
            }
            let mut tagged = packet::frame(macs, 0x88b5, mark);
            tagged.splice(12..12, [0x81, 0, 0, 5]);
            tap.send_frame(&tagged)?;
        }
        ensure!(!across(&at_db, mark), "something of {own} arrives on another network");
        let asked = tap.who_has((mac, own), inner, SILENCE)?;
        ensure!(asked.is_none(), "the gateway of another network answers {own}: {asked:?}");
    }
    let mark = b"to the LAN";
    for dst in [groups[0], groups[1], web_mac, station_mac, gateway_mac] {
        let macs = Macs { src: db_mac, dst };
        at_db.send_frame(&packet::frame(macs, 0x88b5, mark))?;
        for to in [WEB, STATION] {
            at_db.send_frame(&packet::udp(macs, Endpoint::new(db_ip, 1), Endpoint::new(to, 2), mark))?;
        }
    }
    ensure!(!across(&at_web, mark) && !across(&at_station, mark), "something of db arrives on the LAN");
    let status = switch.list("status")?;
    ensure!(status["imbalance"] == 0, "{status}");
    Ok(())
}

fn a_file_makes_it_and_is_made_of_it() -> Outcome {
    let site = Site::new()?;
    let rig = &site.rig;
    let (web, file) = (rig.container("web")?, rig.directory().join("switch.toml"));
    let text = format!(
        "uplink = \"eth0\"\nuplink_mode = \"bridge\"\n\n[[network]]\nname = \"inner\"\nsubnet = \"10.98.0.0/24\"\n\n\
         [[port]]\nname = \"web\"\nnetns = \"{}\"\nip = \"{WEB}\"\n",
        web.path().display()
    );
    fs::write(&file, text)?;
    let path = file.display().to_string();
    let checked = Command::new(crate::switch::VSWITCHD).args(["check", "--config", &path]).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let switch = launch(rig, &["--config", &path])?;
    ensure!(ping(&web, STATION, PATIENCE)?.is_some(), "the station does not answer");
    switch.done("port set eth0 broadcast=900 security=off")?;
    let dumped = switch.done("dump")?;
    for words in ["mode = \"bridge\"", "uplink = \"eth0\"", "uplink_mode = \"bridge\"", "broadcast = 900"] {
        ensure!(dumped.contains(words), "no {words} in {dumped}");
    }
    fs::write(&file, &dumped)?;
    let changes = switch.done(&format!("apply --dry-run {path}"))?;
    ensure!(changes.trim().is_empty(), "{changes}");
    // Without it and with it again, by files.
    let without = dumped.replace("broadcast = 900", "broadcast = 800");
    fs::write(&file, without)?;
    let changes = switch.done(&format!("apply {path}"))?;
    ensure!(changes.trim() == "port set eth0 --network default broadcast=800", "{changes}");
    ensure!(switch.terminate()?.0.success(), "it does not end well");
    fs::write(&file, &dumped)?;
    let switch = launch(rig, &["--config", &path])?;
    ensure!(ping(&web, STATION, PATIENCE)?.is_some(), "the station does not answer after a restart");
    let policing = switch.list("port inspect eth0")?["policing"].clone();
    ensure!(policing["broadcast"] == 900, "{policing}");
    Ok(())
}
