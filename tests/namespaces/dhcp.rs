//! DHCP clients that others wrote, at the switch's servers: udhcpc (busybox), dhclient (ISC) and dhcpcd.
//!
//! Each runs in a container of its own and in a mount namespace of its own, where `/run` and `/var/lib` are empty. A
//! script notes what they tell it, and sets the address as they say; dhcpcd does that itself.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{GATEWAY, INTERNET, Rig};
use vswitchd::lab::traffic::ping;

use crate::switch::{Switch, inside, wait_until};
use crate::{Outcome, Test, ensure};

pub(crate) const TESTS: &[Test] = &[
    ("dhcp::clients_get_renew_rebind_and_release", clients_get_renew_rebind_and_release),
    ("dhcp::clients_decline_what_somebody_else_has", clients_decline_what_somebody_else_has),
    ("dhcp::row_86_addresses_survive_a_restart", row_86_addresses_survive_a_restart),
    ("dhcp::the_uplink_has_an_address_by_dhcp", the_uplink_has_an_address_by_dhcp),
];

/// The clients.
const PROGRAMS: [&str; 3] = ["udhcpc", "dhclient", "dhcpcd"];

/// How long a client may take for what it does at once: dhcpcd looks for others with its address for five seconds,
/// and some wait for ten after they declined one.
const SOON: Duration = Duration::from_secs(40);

/// Sets the address, and then notes `EVENT ADDRESS` in the file `log`. The variables are those of udhcpc and dhclient.
/// With a file `doubt` beside it, the first address is not wanted, which dhclient takes for a reason to decline it.
const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0")
event=${reason:-$1}
address=${new_ip_address:-$ip}
if [ "$event" = BOUND ] && [ -e "$here/doubt" ]; then
    rm "$here/doubt"
    exit 1
fi
case "$event" in
    bound|renew|BOUND|RENEW|REBIND|REBOOT)
        [ -e "$here/sets-itself" ] || ip addr replace "$address/24" dev eth0 ;;
    deconfig|PREINIT) ip link set eth0 up ;;
    EXPIRE|RELEASE|STOP|FAIL) [ -e "$here/sets-itself" ] || ip addr flush dev eth0 ;;
esac
echo "$event $address" >> "$here/log"
exit 0
"#;

/// A client in a container.
struct Client {
    program: &'static str,
    netns: Netns,
    directory: PathBuf,
    child: Child,
}

impl Client {
    fn start(rig: &Rig, program: &'static str, netns: Netns, doubts: bool) -> Result<Client, Failed> {
        let directory = rig.directory().join(program);
        fs::create_dir(&directory)?;
        let script = directory.join("script");
        fs::write(&script, SCRIPT)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        fs::write(directory.join("log"), "")?;
        let marks = [("doubt", doubts && program == "dhclient"), ("sets-itself", program == "dhcpcd")];
        for (mark, _) in marks.into_iter().filter(|(_, wanted)| *wanted) {
            fs::write(directory.join(mark), "")?;
        }
        let at = directory.display();
        let line = match program {
            "udhcpc" => format!("exec udhcpc -f -i eth0 -s {at}/script -a500 -t 5 -T 1 -A 2"),
            "dhclient" => {
                format!("exec dhclient -d -4 -cf /dev/null -sf {at}/script -lf {at}/leases -pf {at}/pid eth0")
            }
            _ => {
                fs::write(directory.join("conf"), format!("ipv4only\nclientid\nscript {at}/script\n"))?;
                format!("exec dhcpcd -B -4 -f {at}/conf eth0")
            }
        };
        let line = format!("mount -t tmpfs none /run && mount -t tmpfs none /var/lib && {line}");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &line]).stdin(Stdio::null());
        let output = fs::File::create(directory.join("output"))?;
        command.stdout(output.try_clone()?).stderr(output);
        let child = netns.spawn(&mut command)?;
        Ok(Client { program, netns, directory, child })
    }

    /// What it has told its script, in lower case: event and address.
    fn log(&self) -> Result<Vec<(String, String)>, Failed> {
        let text = fs::read_to_string(self.directory.join("log"))?.to_lowercase();
        let words = |line: &str| line.split_once(' ').map(|(event, ip)| (event.to_owned(), ip.to_owned()));
        Ok(text.lines().filter_map(words).collect())
    }

    /// The address that it was last told to have.
    fn address(&self) -> Result<Option<Ipv4Addr>, Failed> {
        let has = |event: &str| ["bound", "renew", "rebind", "reboot"].contains(&event);
        Ok(self.log()?.iter().rev().find(|(event, _)| has(event)).and_then(|(_, ip)| ip.parse().ok()))
    }

    fn said(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let output = fs::read_to_string(self.directory.join("output")).unwrap_or_default();
        format!("{}: {log}\n{output}", self.program)
    }

    /// Waits until it has an address, which the switch knows as its port's.
    fn expect_address(&self, switch: &Switch) -> Result<Ipv4Addr, Failed> {
        let bound =
            || Ok(self.address()?.is_some_and(|ip| state(switch, ip).is_ok_and(|state| state == "bound")));
        wait_until(SOON, "an address", bound).map_err(|_| format!("no address: {}", self.said()))?;
        self.address()?.ok_or_else(|| "no address".into())
    }

    /// Waits until the lease's end is put off by so many of its seconds.
    fn expect_renewal(&self, switch: &Switch, ip: Ipv4Addr, lease: u64) -> Outcome {
        let fresh = || Ok(expires(switch, ip)? + 1 >= lease);
        let old = || Ok(expires(switch, ip)? + 2 < lease);
        wait_until(SOON, "some time", old)?;
        wait_until(SOON, "a renewal", fresh).map_err(|_| format!("not renewed: {}", self.said()))?;
        ensure!(self.address()? == Some(ip), "another address: {}", self.said());
        Ok(())
    }

    fn release(&self) -> Outcome {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        match self.program {
            "udhcpc" => kill(pid, Signal::SIGUSR2)?,
            "dhcpcd" => kill(pid, Signal::SIGALRM)?,
            _ => {
                let at = self.directory.display();
                let words = format!("-r -4 -cf /dev/null -sf {at}/script -lf {at}/leases -pf {at}/pid eth0");
                let mut command = Command::new("dhclient");
                command.args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
                self.netns.spawn(&mut command)?.wait()?;
            }
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It has ended if it was told to.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A container whose port has no address.
fn bare(switch: &Switch, rig: &Rig, name: &str) -> Result<Netns, Failed> {
    let netns = rig.container(name)?;
    switch.done(&format!("port add {name} --netns {} --no-address", netns.path().display()))?;
    Ok(netns)
}

/// A client of each program, each in a container that is called as it.
fn clients(switch: &Switch, rig: &Rig, doubts: bool) -> Result<Vec<Client>, Failed> {
    let one = |program| Client::start(rig, program, bare(switch, rig, program)?, doubts);
    PROGRAMS.into_iter().map(one).collect()
}

fn all_found() -> Result<bool, Failed> {
    for program in PROGRAMS {
        if !found(program)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a program is there, without running it: a DHCP client would begin with this machine's interfaces. Where it
/// must be, its absence is a failure.
pub(crate) fn found(program: &str) -> Result<bool, Failed> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&paths).any(|directory| directory.join(program).is_file());
    let must_run = std::env::var("CI").is_ok_and(|ci| ci == "true");
    ensure!(there || !must_run, "needs {program}");
    if !there {
        println!("skipped: needs {program}");
    }
    Ok(there)
}

fn lease(switch: &Switch, ip: Ipv4Addr) -> Result<serde_json::Value, Failed> {
    let leases = switch.list("dhcp leases")?;
    let found = leases.as_array().into_iter().flatten().find(|lease| lease["ip"] == ip.to_string());
    found.cloned().ok_or_else(|| format!("no lease of {ip}: {leases}").into())
}

fn state(switch: &Switch, ip: Ipv4Addr) -> Result<String, Failed> {
    Ok(lease(switch, ip)?["state"].as_str().unwrap_or_default().to_owned())
}

fn expires(switch: &Switch, ip: Ipv4Addr) -> Result<u64, Failed> {
    Ok(lease(switch, ip)?["expires_seconds"].as_u64().unwrap_or(0))
}

fn ip(netns: &Netns, words: &str) -> Outcome {
    let status = netns.spawn(Command::new("ip").args(words.split(' ')))?.wait()?;
    ensure!(status.success(), "ip {words}: {status}");
    Ok(())
}

fn clients_get_renew_rebind_and_release() -> Outcome {
    const LEASE: u64 = 12;
    if !all_found()? {
        return Ok(());
    }
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    switch.done(&format!("network dhcp default lease={LEASE}"))?;
    let clients = clients(&switch, &rig, false)?;
    let mut addresses = Vec::new();
    for client in &clients {
        let ip = client.expect_address(&switch)?;
        ensure!(lease(&switch, ip)?["port"] == client.program, "{}", switch.done("dhcp leases")?);
        ensure!(
            ping(&client.netns, inside(1), SOON)?.is_some(),
            "{} does not reach its gateway",
            client.program
        );
        addresses.push(ip);
    }
    let mut sorted = addresses.clone();
    sorted.sort_unstable();
    ensure!(sorted == [2, 3, 4].map(inside), "addresses in order: {addresses:?}");
    for (client, &ip) in clients.iter().zip(&addresses) {
        client.expect_renewal(&switch, ip, LEASE)?;
    }
    // Nobody is where they renew any more: they ask all.
    for client in &clients {
        ip(&client.netns, "neigh replace 10.99.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent")?;
    }
    for (client, &ip) in clients.iter().zip(&addresses) {
        client.expect_renewal(&switch, ip, LEASE)?;
        client.expect_renewal(&switch, ip, LEASE)?;
    }
    for (client, &address) in clients.iter().zip(&addresses) {
        // A client that was late may have set up its interface anew, and the entry is gone already.
        ip(&client.netns, "neigh flush 10.99.0.1 dev eth0 nud permanent")?;
        client.release()?;
        let free = || Ok(state(&switch, address)? == "free");
        wait_until(SOON, "a release", free).map_err(|_| format!("not released: {}", client.said()))?;
    }
    Ok(())
}

fn clients_decline_what_somebody_else_has() -> Outcome {
    if !all_found()? {
        return Ok(());
    }
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    switch.done("network dhcp default range=10.99.0.10-10.99.0.60")?;
    // It says nothing unless it is asked, so that the switch does not know it.
    let squatter = bare(&switch, &rig, "squatter")?;
    switch.done("port set squatter security=off")?;
    squatter.run(|| {
        for last in 10..=12 {
            netlink::add_address("eth0", ipnet::Ipv4Net::new_assert(inside(last), 24))?;
        }
        Ok::<_, vswitchd::host::HostError>(())
    })??;
    for client in clients(&switch, &rig, true)? {
        let ip = client.expect_address(&switch)?;
        ensure!(ip >= inside(13), "{} has {ip}", client.program);
    }
    for last in 10..=12 {
        ensure!(state(&switch, inside(last))? == "declined", "{}", switch.done("dhcp leases")?);
    }
    Ok(())
}

fn row_86_addresses_survive_a_restart() -> Outcome {
    if !found("udhcpc")? {
        return Ok(());
    }
    let rig = Rig::new()?;
    let mut before = Vec::new();
    for order in [[5, 6, 7], [7, 6, 5]] {
        let switch = Switch::start(&rig, &[])?;
        let mut now = Vec::new();
        for number in order {
            let netns = bare(&switch, &rig, &format!("c{number}"))?;
            let line = format!(
                "mount -t tmpfs none /run && exec udhcpc -f -q -n -i eth0 -x 0x3d:00{number:02x} -s /bin/true"
            );
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &line]).stdout(Stdio::null()).stderr(Stdio::null());
            ensure!(netns.spawn(&mut command)?.wait()?.success(), "c{number} gets no address");
            let port = switch.list(&format!("port inspect c{number}"))?;
            now.push((number, port["ip"].as_str().unwrap_or_default().to_owned()));
        }
        now.sort();
        ensure!(now.iter().all(|(number, ip)| *ip == inside(number - 3).to_string()), "{now:?}");
        ensure!(before.is_empty() || before == now, "{before:?}, then {now:?}");
        before = now;
        switch.terminate()?;
    }
    Ok(())
}

/// A dnsmasq on the uplink's link, killed with its value.
struct Dnsmasq {
    child: Child,
    log: PathBuf,
}

impl Dnsmasq {
    /// Begins to give addresses from `first` on, and remembers them under `name`.
    fn start(rig: &Rig, name: &str, first: u8) -> Result<Dnsmasq, Failed> {
        let log = rig.directory().join(format!("{name}.log"));
        let at = rig.directory().display();
        let line = format!(
            "--keep-in-foreground --conf-file=/dev/null --port=0 --interface=eth0 --bind-interfaces --user=root \
             --pid-file= --no-ping --log-dhcp --log-facility={} --dhcp-leasefile={at}/{name}.leases \
             --dhcp-authoritative --dhcp-range=192.0.2.{first},192.0.2.{},255.255.255.0,2m \
             --dhcp-option=option:router,{GATEWAY} --dhcp-option=option:T1,3s --dhcp-option=option:T2,6s",
            log.display(),
            first + 9,
        );
        let mut command = Command::new("dnsmasq");
        command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Dnsmasq { child: rig.internet.spawn(&mut command)?, log })
    }

    /// How many leases it has given or prolonged.
    fn acknowledged(&self) -> Result<usize, Failed> {
        Ok(fs::read_to_string(&self.log).unwrap_or_default().matches("DHCPACK(").count())
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // It has ended if it could not begin.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn the_uplink_has_an_address_by_dhcp() -> Outcome {
    if !found("dnsmasq")? {
        return Ok(());
    }
    let rig = Rig::new()?;
    let server = Dnsmasq::start(&rig, "first", 50)?;
    let switch = Switch::start(&rig, &["--uplink-mode", "own", "--uplink-address", "dhcp"])?;
    let address = || -> Result<String, Failed> {
        Ok(switch.list("status")?["uplink"]["address"].as_str().unwrap_or_default().to_owned())
    };
    let is_of = |address: &str, first: u8| {
        let ip = address.split_once('/').and_then(|(ip, _)| ip.parse::<Ipv4Addr>().ok());
        ip.is_some_and(|ip| (first..first + 10).contains(&ip.octets()[3]))
    };
    wait_until(SOON, "an address", || Ok(is_of(&address()?, 50)))?;
    let first = address()?;
    let container = switch.container(&rig, 2)?;
    ensure!(ping(&container, INTERNET, SOON)?.is_some(), "the internet does not answer");
    wait_until(SOON, "renewals", || Ok(server.acknowledged()? >= 4))?;
    ensure!(address()? == first, "{} after renewals", address()?);

    // The server is away until nobody answers where the lease came from, and then asks all.
    drop(server);
    std::thread::sleep(Duration::from_secs(7));
    ensure!(ping(&container, INTERNET, SOON)?.is_some(), "the address is good without the server");
    let server = Dnsmasq::start(&rig, "first", 50)?;
    let before = server.acknowledged()?;
    wait_until(SOON, "a renewal after the restart", || Ok(server.acknowledged()? > before))?;
    ensure!(address()? == first, "{} after the server's restart", address()?);

    // Another server, which does not know the address, refuses it and gives another.
    drop(server);
    let _server = Dnsmasq::start(&rig, "second", 70)?;
    wait_until(SOON, "another address", || Ok(is_of(&address()?, 70)))?;
    ensure!(ping(&container, INTERNET, SOON)?.is_some(), "the internet does not answer at the new address");
    Ok(())
}
