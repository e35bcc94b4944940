//! A resolv.conf for a named namespace, as `ip netns exec` and its kind lay over `/etc/resolv.conf`.
//!
//! `ip-netns(8)` binds every file of `/etc/netns/NAME/` over its namesake in `/etc` for what it starts in the namespace
//! NAME. A namespace without a name (a PID, a path elsewhere) has no such place: what its processes read is a file of
//! their own mount namespace, which is their container engine's to write.
//!
//! The file says whose it is. One that somebody else wrote is left alone and refused; one of ours that an earlier
//! process left behind is replaced. It goes when its owner is dropped.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::host::netns::name;
use crate::host::{ErrorKind, HostError};

/// Where `ip netns` looks.
const DIRECTORY: &str = "/etc/netns";

/// The first line of a file of ours.
const MARK: &str = "# by vswitchd; removed with the port\n";

/// A file that is ours.
#[derive(Debug)]
pub struct ResolvConf {
    directory: PathBuf,
    text: String,
}

impl ResolvConf {
    /// Has the namespace that a user calls `netns` ask `resolver`.
    ///
    /// # Errors
    /// `Other` if the namespace has no name, `Exists` if it has a resolv.conf that is not ours, else what the kernel
    /// says.
    pub fn write(netns: &str, resolver: Ipv4Addr) -> Result<ResolvConf, HostError> {
        let Some(name) = name(netns) else {
            let why = "its namespace has no name, so nothing would read a resolv.conf for it";
            return Err(HostError::new(ErrorKind::Other, format!("namespace {netns}"), why).hint(
                "name it (ip netns attach NAME PID), or have its resolv.conf say the gateway's address",
            ));
        };
        Self::write_in(Path::new(DIRECTORY).join(name), resolver)
    }

    fn write_in(directory: PathBuf, resolver: Ipv4Addr) -> Result<ResolvConf, HostError> {
        let path = file(&directory);
        let failed = |error| HostError::os(path.display().to_string(), error);
        let text = format!("{MARK}nameserver {resolver}\n");
        match fs::read_to_string(&path) {
            Ok(there) if there != text && !there.starts_with(MARK) => {
                let why = "the namespace has a resolv.conf of its own";
                return Err(HostError::new(ErrorKind::Exists, path.display().to_string(), why)
                    .hint("leave --dns out, or remove it"));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::create_dir_all(&directory).map_err(failed)?;
        let ours = ResolvConf { directory, text };
        fs::File::create(&path).and_then(|mut file| file.write_all(ours.text.as_bytes())).map_err(failed)?;
        Ok(ours)
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        let path = file(&self.directory);
        // Whoever has written another one since keeps it.
        if !fs::read_to_string(&path).is_ok_and(|there| there == self.text) {
            return;
        }
        if let Err(error) = fs::remove_file(&path) {
            log::warn!("{}: cannot remove it: {error}", path.display());
        }
        // It stays if there is something else in it.
        let _ = fs::remove_dir(&self.directory);
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("resolv.conf")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOLVER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

    #[test]
    fn a_file_comes_and_goes_and_nobody_elses_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("netns/red");
        let ours = ResolvConf::write_in(directory.clone(), RESOLVER).unwrap();
        assert!(fs::read_to_string(file(&directory)).unwrap().ends_with("nameserver 172.30.0.1\n"));
        drop(ours);
        assert!(!directory.exists());

        // What a process that was killed has left.
        std::mem::forget(ResolvConf::write_in(directory.clone(), Ipv4Addr::new(10, 0, 0, 1)).unwrap());
        let ours = ResolvConf::write_in(directory.clone(), RESOLVER).unwrap();
        fs::write(file(&directory), "nameserver 192.0.2.1\n").unwrap();
        drop(ours);
        assert!(file(&directory).exists(), "somebody has written another one");
        assert_eq!(ResolvConf::write_in(directory.clone(), RESOLVER).unwrap_err().kind, ErrorKind::Exists);
        assert_eq!(fs::read_to_string(file(&directory)).unwrap(), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn only_named_namespaces_have_a_place_for_it() {
        assert_eq!(name("/run/netns/red"), Some("red"));
        assert_eq!(name("/proc/1/ns/net"), None);
        assert_eq!(name("1"), None);
        // The directory itself is there, and is no namespace.
        for none in ["", ".", "..", "/run/netns/", "/run/netns/..", "/run/netns/.", "/"] {
            assert_eq!(name(none), None, "{none:?}");
        }
        let error = ResolvConf::write("/proc/1/ns/net", RESOLVER).unwrap_err();
        assert!(error.to_string().contains("ip netns attach"), "{error}");
    }
}
