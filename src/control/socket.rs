//! The Unix socket of the API: where it is, who may use it, and that only one daemon has it.
//!
//! A lock file beside the socket (`PATH.lock`, `flock`) says whether a daemon is alive; the socket file
//! alone cannot, because it outlives a crash. Whoever holds the lock may therefore remove a socket it
//! finds. The socket has its final owner and permissions before it listens, and before that nobody can
//! connect.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Group, Uid, chown};

use super::error::Error;
use crate::limits::API_CLIENTS_MAX;

/// The group that owns the socket if it exists and no other was named.
pub const DEFAULT_GROUP: &str = "vswitchd";

/// Names the socket for daemon and client alike.
pub const SOCKET_VARIABLE: &str = "VSWITCHD_SOCKET";

/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Where a daemon of this user listens unless told otherwise.
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
        return path.into();
    }
    usual_path()
}

/// Where a daemon of this user listens if nobody says anything.
pub fn usual_path() -> PathBuf {
    if Uid::effective().is_root() { system_path() } else { user_path() }
}

/// Where a client looks unless told otherwise: this user's daemon, or else the system's.
pub fn client_path() -> PathBuf {
    let path = default_path();
    let own = std::env::var_os(SOCKET_VARIABLE).is_some() || path.exists();
    if own { path } else { system_path() }
}

fn system_path() -> PathBuf {
    "/run/vswitchd.sock".into()
}

fn user_path() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let runtime = runtime.map_or_else(|| format!("/run/user/{}", Uid::effective()).into(), PathBuf::from);
    runtime.join("vswitchd.sock")
}

/// A listening socket that this process alone has. Dropping it removes socket and lock.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

impl Socket {
    /// Listens on `path` for its owner and for `group`; without a group named, for the group `vswitchd` if
    /// there is one.
    ///
    /// # Errors
    /// `Exists` if another daemon listens there or the path is something else than a socket, `NotFound` for
    /// an unknown group, `Failed` if the system refuses.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Socket, Error> {
        let gid = group_id(group)?;
        let lock_path = with_suffix(path, ".lock");
        let lock = lock(path, &lock_path)?;
        let refused = |errno: Errno| refused(path, &errno.into());
        let made = remove_stale(path).and_then(|()| listen(path, gid).map_err(refused));
        match made {
            Ok(listener) => Ok(Socket { listener, path: path.into(), lock_path, _lock: lock }),
            Err(error) => {
                let _ = fs::remove_file(&lock_path);
                Err(error)
            }
        }
    }

    /// The listener, non-blocking.
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Both while the lock is still held: what is removed is certainly ours.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn group_id(group: Option<&str>) -> Result<Option<Gid>, Error> {
    let found = Group::from_name(group.unwrap_or(DEFAULT_GROUP)).ok().flatten();
    match (group, found) {
        (Some(name), None) => Err(Error::not_found(
            name,
            "no such group",
            format_args!("groupadd {name}, or leave out --group"),
        )),
        (_, found) => Ok(found.map(|group| group.gid)),
    }
}

/// Takes the lock, and makes sure that it is the file that others find: the last owner may have removed it
/// between our open and our lock.
fn lock(path: &Path, lock_path: &Path) -> Result<Flock<File>, Error> {
    loop {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let file = options.open(lock_path).map_err(|error| refused(lock_path, &error))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::exists(
                    path.display(),
                    "another vswitchd listens there",
                    "stop it, or choose another --socket",
                ));
            }
            Err((_, errno)) => return Err(refused(lock_path, &errno.into())),
        };
        let ours = lock.metadata().map_err(|error| refused(lock_path, &error))?;
        if fs::metadata(lock_path)
            .is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
        {
            return Ok(lock);
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            fs::remove_file(path).map_err(|error| refused(path, &error))
        }
        Ok(_) => Err(Error::exists(path.display(), "exists and is not a socket", "choose another --socket")),
        Err(_) => Ok(()),
    }
}

fn listen(path: &Path, group: Option<Gid>) -> Result<UnixListener, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file that bind makes takes its mode from the descriptor, less the umask.
    nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(SOCKET_MODE))?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let finish = || {
        if group.is_some() {
            chown(path, None, group)?;
        }
        let mode = fs::Permissions::from_mode(SOCKET_MODE);
        fs::set_permissions(path, mode)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        let backlog = i32::try_from(API_CLIENTS_MAX).unwrap_or(i32::MAX);
        socket::listen(&socket, Backlog::new(backlog)?)
    };
    match finish() {
        Ok(()) => Ok(UnixListener::from(socket)),
        Err(errno) => {
            let _ = fs::remove_file(path);
            Err(errno)
        }
    }
}

fn refused(path: &Path, error: &io::Error) -> Error {
    Error::failed(path.display(), error, "run as root, or choose another --socket")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::error::Kind;
    use super::*;

    #[test]
    fn the_socket_has_its_permissions_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_second_daemon_is_refused_and_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Socket::bind(&path, None).unwrap();
        let error = Socket::bind(&path, None).unwrap_err();
        assert_eq!(error.kind, Kind::Exists);
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
        assert!(Socket::bind(&path, None).is_ok());
    }

    #[test]
    fn a_stale_socket_is_taken_over_but_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(Socket::bind(&path, None).is_ok());
        fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path, None).unwrap_err().kind, Kind::Exists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(!with_suffix(&path, ".lock").exists());
    }

    #[test]
    fn an_unknown_group_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Socket::bind(&dir.path().join("s"), Some("no-such-group-here")).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
    }
}
