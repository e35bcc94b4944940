//! The host's own resolvers: what `/etc/resolv.conf` says now.
//!
//! The file is looked at when somebody asks, at most once in [`LOOK_INTERVAL`], and read when it is another one than
//! last time: another file behind the name (editors and NetworkManager rename, systemd-resolved links), or of another
//! time or length. An idle switch does nothing, and a link may point wherever it likes.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use crate::clock::Time;
use crate::limits::{DNS_RESOLVERS_MAX, RESOLV_CONF_MAX};
use crate::wire::transport::DNS;

/// How long a change of the file may go unnoticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What tells a file from the one that was read: device, inode, length, and time of change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// The resolvers, followed.
#[derive(Debug)]
pub struct Resolvers {
    path: PathBuf,
    looked: Option<Time>,
    stamp: Option<Stamp>,
    servers: Vec<SocketAddr>,
}

impl Resolvers {
    /// Those of the file at `path`.
    pub fn new(path: PathBuf) -> Self {
        Resolvers { path, looked: None, stamp: None, servers: parse("") }
    }

    /// The servers now, the preferred one first. Never none: without a file, or with one that names nobody, it is
    /// this machine (resolv.conf(5)).
    pub fn now(&mut self, now: Time) -> &[SocketAddr] {
        if self.looked.is_none_or(|looked| now.since(looked) >= LOOK_INTERVAL) {
            self.looked = Some(now);
            self.look();
        }
        &self.servers
    }

    fn look(&mut self) {
        let stamp = fs::metadata(&self.path)
            .ok()
            .map(|file| (file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec()));
        if stamp == self.stamp && stamp.is_some() {
            return;
        }
        let text = match self.read() {
            Ok(text) => text,
            Err(error) => {
                // Said once: when it is there again, it has a stamp.
                if self.stamp.take().is_some() {
                    log::warn!("{}: {error}; asking the resolver of this machine", self.path.display());
                }
                String::new()
            }
        };
        self.stamp = stamp;
        let servers = parse(&text);
        if servers != self.servers {
            log::info!("DNS: the host's resolvers are {servers:?} now");
            self.servers = servers;
        }
    }

    fn read(&self) -> io::Result<String> {
        use std::io::Read;
        let mut text = Vec::new();
        fs::File::open(&self.path)?.take(RESOLV_CONF_MAX).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The servers that a resolv.conf names (resolv.conf(5)).
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? != "nameserver" {
            return None;
        }
        let word = words.next()?;
        // An IPv6 link-local address has its link behind it, as std's address with a port has.
        match word.parse::<IpAddr>() {
            Ok(ip) => Some(SocketAddr::new(ip, DNS)),
            Err(_) => format!("[{word}]:{DNS}").parse().ok(),
        }
    });
    let servers: Vec<_> = servers.take(DNS_RESOLVERS_MAX).collect();
    if servers.is_empty() { vec![SocketAddr::new(IpAddr::from([127, 0, 0, 1]), DNS)] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(servers: &[SocketAddr]) -> Vec<String> {
        servers.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn every_form_of_line_is_read() {
        let text = "# nameserver 192.0.2.9\nsearch lan\n nameserver\t192.0.2.1 # one\nnameserver 2001:db8::1\n\
                    nameserver nonsense\nnameserver fe80::1%2\nnameserver 192.0.2.4\n";
        assert_eq!(texts(&parse(text)), ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%2]:53"]);
        assert_eq!(texts(&parse("search lan\n")), ["127.0.0.1:53"]);
    }

    #[test]
    fn row_87_a_change_is_noticed_whichever_way_it_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut resolvers = Resolvers::new(path.clone());
        let mut time = Time::ZERO;
        let mut expect = |resolvers: &mut Resolvers, expected: &str| {
            time += LOOK_INTERVAL;
            assert_eq!(texts(resolvers.now(time)), [expected]);
        };
        expect(&mut resolvers, "127.0.0.1:53");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        expect(&mut resolvers, "192.0.2.1:53");
        fs::write(&path, "nameserver 192.0.2.22\n").unwrap();
        expect(&mut resolvers, "192.0.2.22:53");
        let other = directory.path().join("other");
        fs::write(&other, "nameserver 192.0.2.33\n").unwrap();
        fs::rename(&other, &path).unwrap();
        expect(&mut resolvers, "192.0.2.33:53");
        fs::remove_file(&path).unwrap();
        expect(&mut resolvers, "127.0.0.1:53");
        fs::write(&other, "nameserver 192.0.2.44\n").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        expect(&mut resolvers, "192.0.2.44:53");
    }
}
