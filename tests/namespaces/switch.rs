//! The real programs: a `vswitchd` in the rig's namespace, and `vswitchctl` talking to it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use vswitchd::host::netlink;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::{Rig, UPLINK};
use vswitchd::lab::traffic::Talk;

use crate::{Outcome, ensure};

/// The daemon's program.
pub(crate) const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");

/// The network that containers of the tests are on.
pub(crate) const NETWORK: &str = "default=10.99.0.0/24";

/// Address number `host` of it.
pub(crate) const fn inside(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, host)
}

/// A running daemon, killed when it was not stopped.
pub(crate) struct Switch {
    child: Child,
    socket: PathBuf,
}

impl Switch {
    /// Starts `vswitchd` on the rig's uplink with more arguments, and waits until it is ready.
    pub(crate) fn start(rig: &Rig, more: &[&str]) -> Result<Switch, Failed> {
        Switch::start_logging(rig, more, Stdio::inherit())
    }

    /// As [`Switch::start`], with its log in `stderr`.
    pub(crate) fn start_logging(rig: &Rig, more: &[&str], stderr: Stdio) -> Result<Switch, Failed> {
        Switch::launch(rig, &[&["--uplink", "eth0", "--network", NETWORK], more].concat(), stderr)
    }

    /// Starts `vswitchd` with these arguments, and waits until it is ready.
    pub(crate) fn launch(rig: &Rig, more: &[&str], stderr: Stdio) -> Result<Switch, Failed> {
        let socket = rig.socket();
        let mut command = Command::new(VSWITCHD);
        command.args(["--log", "warn", "--socket"]).arg(&socket).args(more);
        if !more.contains(&"--state-dir") {
            command.arg("--state-dir").arg(state_dir(rig));
        }
        // The machine's own resolvers are nobody's business here.
        command.arg("--resolv-conf").arg(rig.directory().join("resolv.conf"));
        let mut child = rig.switch.spawn(command.stdout(Stdio::piped()).stderr(stderr))?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let switch = Switch { child, socket };
        let (sender, first_line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            sender.send(read.map(|_| line))
        });
        let line = first_line.recv_timeout(Duration::from_secs(10))??;
        ensure!(line == "ready\n", "vswitchd says {line:?} instead of \"ready\"");
        Ok(switch)
    }

    /// Runs `vswitchctl` with these words, whatever comes of it.
    pub(crate) fn ctl(&self, words: &str) -> Result<Output, Failed> {
        ctl(&self.socket, words)
    }

    /// Runs `vswitchctl` and expects that it is done.
    pub(crate) fn done(&self, words: &str) -> Result<String, Failed> {
        let output = self.ctl(words)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "vswitchctl {words}: {} {errors}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `vswitchctl -o json` lists.
    pub(crate) fn list(&self, words: &str) -> Result<Value, Failed> {
        Ok(serde_json::from_str(&self.done(&format!("-o json {words}"))?)?)
    }

    /// Attaches a new namespace as container number `host`, with that address.
    pub(crate) fn container(&self, rig: &Rig, host: u8) -> Result<Netns, Failed> {
        let name = format!("c{host}");
        let netns = rig.container(&name)?;
        let path = netns.path();
        self.done(&format!("port add {name} --netns {} --ip {}", path.display(), inside(host)))?;
        Ok(netns)
    }

    /// Names of the ports that are there.
    pub(crate) fn ports(&self) -> Result<Vec<String>, Failed> {
        let ports = self.list("port ls")?;
        let names = ports.as_array().ok_or("no list")?.iter().map(|port| port["name"].as_str());
        Ok(names.map(|name| name.unwrap_or_default().to_owned()).collect())
    }

    /// Sends SIGTERM, and waits for the end: how it ended, and how long that took.
    pub(crate) fn terminate(mut self) -> Result<(ExitStatus, Duration), Failed> {
        let begun = Instant::now();
        kill(self.pid(), Signal::SIGTERM)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, begun.elapsed()));
            }
            ensure!(begun.elapsed() < Duration::from_secs(10), "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// CPU time that it has used so far, in all threads.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Failed> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // proc_pid_stat(5): utime and stime are fields 14 and 15, in ticks; the name in field 2 may have spaces.
        let fields = stat.rsplit_once(')').ok_or("stat")?.1.split_whitespace();
        let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.ok_or("no CLK_TCK")?;
        Ok(Duration::from_millis(ticks * 1000 / u64::try_from(per_second)?))
    }

    /// Bytes of memory that it has in use, without what is a file's.
    pub(crate) fn memory(&self) -> Result<u64, Failed> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        // proc_pid_status(5): "RssAnon:    1234 kB".
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1024)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // It has ended if it was terminated.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the switches of a rig remember, one after the other.
pub(crate) fn state_dir(rig: &Rig) -> PathBuf {
    rig.directory().join("state")
}

/// Runs `vswitchctl` on this socket.
pub(crate) fn ctl(socket: &Path, words: &str) -> Result<Output, Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchctl"));
    command.arg("--socket").arg(socket).args(words.split_whitespace());
    Ok(command.output()?)
}

/// From a container straight to another.
pub(crate) fn across<'a>(client: &'a Netns, server: &'a Netns, host: u8) -> Talk<'a> {
    let at = SocketAddrV4::new(inside(host), 5001);
    Talk { client, to: at, server, at }
}

/// From a container to the internet's host.
pub(crate) fn outwards<'a>(client: &'a Netns, rig: &'a Rig) -> Talk<'a> {
    let at = SocketAddrV4::new(vswitchd::lab::rig::INTERNET, 5002);
    Talk { client, to: at, server: &rig.internet, at }
}

/// From the internet to a published port, which leads to port 5003 of a container.
pub(crate) fn inwards<'a>(rig: &'a Rig, server: &'a Netns, host: u8) -> Talk<'a> {
    let to = SocketAddrV4::new(UPLINK, 8080);
    Talk { client: &rig.internet, to, server, at: SocketAddrV4::new(inside(host), 5003) }
}

/// Whether the namespaces have no interfaces but those of the rig, and the switch's no table.
pub(crate) fn expect_nothing_left(rig: &Rig, containers: &[&Netns]) -> Outcome {
    for netns in containers {
        let left = netns.run(netlink::links)??;
        ensure!(left.iter().all(|link| link.name == "lo"), "{netns} still has {left:?}");
    }
    let left = rig.switch.run(netlink::links)??;
    let foreign = left.iter().find(|link| !["lo", "eth0"].contains(&link.name.as_str()));
    ensure!(foreign.is_none(), "the switch's namespace still has {foreign:?}");
    let tables = nft(&rig.switch, &["list", "tables"])?;
    ensure!(tables.is_empty(), "still there: {tables}");
    ensure!(!rig.socket().exists(), "the socket is still there");
    // Whoever is left in the namespace: the nft of the guard, say.
    let (_, inode) = rig.switch.id()?;
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Ok(link) = std::fs::read_link(process.path().join("ns/net")) else { continue };
        ensure!(link.as_os_str() != format!("net:[{inode}]").as_str(), "still there: {:?}", process.path());
    }
    Ok(())
}

/// What `nft` prints in the namespace.
pub(crate) fn nft(netns: &Netns, words: &[&str]) -> Result<String, Failed> {
    let mut command = Command::new("nft");
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(String::from_utf8(netns.spawn(&mut command)?.wait_with_output()?.stdout)?)
}

/// Waits until `condition` holds, and says how long that took, to a twentieth: whoever waits for long asks less often.
pub(crate) fn wait_until(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool, Failed>,
) -> Result<Duration, Failed> {
    let begun = Instant::now();
    while !condition()? {
        ensure!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep((begun.elapsed() / 20).clamp(Duration::from_millis(10), Duration::from_millis(100)));
    }
    Ok(begun.elapsed())
}
