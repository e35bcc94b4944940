//! Network namespaces: naming, making and entering them.
//!
//! A namespace is held by an open file descriptor; it lives as long as somebody holds it, a process or
//! thread is in it, or a file is bind-mounted on it (what `ip netns add` does). A thread enters one with
//! `setns(2)` and never comes back here: code runs in another namespace on a thread of its own, so that no
//! panic or early return can leave a thread in the wrong place.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use crate::host::{ErrorKind, HostError};

/// Where `ip netns` keeps names; the second is where old systems have the first.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// The calling thread's namespace.
const HERE: &str = "/proc/thread-self/ns/net";

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    label: String,
}

impl Netns {
    /// Opens a namespace by what a user writes: a name under `/run/netns`, a path, or the PID of a process
    /// in it. A number is a PID unless there is a namespace of that name.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Permission` if it may not be opened, `Other` if it is something else.
    pub fn open(spec: &str) -> Result<Netns, HostError> {
        if spec.contains('/') {
            return Self::open_path(Path::new(spec), spec);
        }
        if let Some(path) = named(spec) {
            return Self::open_path(&path, spec);
        }
        if !spec.is_empty() && spec.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::open_path(Path::new(&format!("/proc/{spec}/ns/net")), spec).map_err(|error| {
                match error.kind {
                    ErrorKind::NotFound => HostError::new(
                        ErrorKind::NotFound,
                        format!("namespace {spec}"),
                        "no process has this PID, and no name under /run/netns is this",
                    )
                    .hint("give the PID of a running process, as this host counts them"),
                    ErrorKind::Permission => error.hint("run as root, or as the owner of the process"),
                    ErrorKind::Exists | ErrorKind::Other => error,
                }
            });
        }
        Err(HostError::new(
            ErrorKind::NotFound,
            format!("namespace {spec:?}"),
            "no such name under /run/netns",
        )
        .hint("see `ip netns`, or give a path or a PID"))
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn current() -> Result<Netns, HostError> {
        let file = File::open(HERE).map_err(|error| HostError::os(HERE, error).hint("mount /proc"))?;
        Ok(Netns { file, label: "this namespace".to_owned() })
    }

    /// Makes a namespace without a name. It lives as long as the value, and then as long as anything that
    /// holds it.
    ///
    /// # Errors
    /// `Permission` without CAP_SYS_ADMIN.
    pub fn new_anonymous(label: &str) -> Result<Netns, HostError> {
        let what = || format!("new namespace {label}");
        let file = in_thread(|| -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open(HERE)
        })?
        .map_err(|error| HostError::os(what(), error))?;
        Ok(Netns { file, label: label.to_owned() })
    }

    fn open_path(path: &Path, spec: &str) -> Result<Netns, HostError> {
        let what = || format!("namespace {spec}");
        let hint = "give a name under /run/netns, a path, or the PID of a process";
        let file = File::open(path).map_err(|error| HostError::os(what(), error).hint(hint))?;
        if ns_type(file.as_fd()) != Ok(libc::CLONE_NEWNET) {
            return Err(HostError::new(ErrorKind::Other, what(), "not a network namespace")
                .hint("give a file like /run/netns/NAME or /proc/PID/ns/net"));
        }
        Ok(Netns { file, label: spec.to_owned() })
    }

    /// Runs `f` in the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// `Permission` without CAP_SYS_ADMIN over the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, HostError> {
        in_thread(|| {
            self.enter()?;
            Ok(f())
        })?
    }

    /// Moves the calling thread into the namespace for good: for threads that begin here.
    ///
    /// # Errors
    /// `Permission` without CAP_SYS_ADMIN over the namespace.
    pub fn enter(&self) -> Result<(), HostError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|error| HostError::os(format!("entering namespace {self}"), error))
    }

    /// Starts a program in the namespace.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the program not be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, HostError> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?.map_err(|error| HostError::os(program, error))
    }

    /// Another handle to the same namespace.
    ///
    /// # Errors
    /// If the process has no more descriptors.
    pub fn try_clone(&self) -> Result<Netns, HostError> {
        let file = self.file.try_clone().map_err(|error| HostError::os(self.to_string(), error))?;
        Ok(Netns { file, label: self.label.clone() })
    }

    /// A path by which other processes can open the namespace while this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Device and inode number of the namespace: equal for the same namespace only.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn id(&self) -> Result<(u64, u64), HostError> {
        let meta = self.file.metadata().map_err(|error| HostError::os(self.to_string(), error))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Whether both are the same namespace.
    pub fn same_as(&self, other: &Netns) -> bool {
        matches!((self.id(), other.id()), (Ok(here), Ok(there)) if here == there)
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where the namespace is that has this name, if there is one.
fn named(name: &str) -> Option<PathBuf> {
    // One path component, so that no name reaches out of the directory.
    if matches!(name, "" | "." | "..") || name.contains('/') {
        return None;
    }
    NAMED.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}

/// The name of the namespace that a user calls `spec`, by its name or by the path of that; `None` if it has none.
pub(super) fn name(spec: &str) -> Option<&str> {
    let path = Path::new(spec);
    if !spec.contains('/') {
        return named(spec).is_some().then_some(spec);
    }
    let parent = path.parent()?;
    NAMED.iter().any(|named| Path::new(named) == parent).then(|| path.file_name()?.to_str()).flatten()
}

/// Runs `f` on a new thread, which starts in the caller's namespace, and waits for it.
pub(super) fn in_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f);
        let thread = thread.map_err(|error| HostError::os("starting a thread", error))?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The clone flag of the kind of namespace that the file is of; an error for other files.
fn ns_type(file: BorrowedFd<'_>) -> Result<i32, Errno> {
    // NS_GET_NSTYPE, ioctl_ns(2).
    nix::ioctl_none!(ns_get_nstype, 0xb7, 0x3);
    // SAFETY: the descriptor is open, and the call takes no argument and writes no memory.
    unsafe { ns_get_nstype(file.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_names_say_what_to_do() {
        for (spec, kind, words) in [
            ("no-such-namespace", ErrorKind::NotFound, "ip netns"),
            ("4194305", ErrorKind::NotFound, "PID"),
            ("/nonexistent/ns", ErrorKind::NotFound, "no such file"),
            ("/proc/self/ns/mnt", ErrorKind::Other, "not a network namespace"),
            ("/dev/null", ErrorKind::Other, "not a network namespace"),
            ("..", ErrorKind::NotFound, "ip netns"),
            ("", ErrorKind::NotFound, "ip netns"),
        ] {
            let error = Netns::open(spec).map(drop).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(words) && !error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_process_and_a_path_lead_to_the_same_namespace() {
        let here = Netns::current().unwrap();
        let pid = std::process::id().to_string();
        assert!(here.same_as(&Netns::open(&pid).unwrap()));
        assert!(here.same_as(&Netns::open(here.path().to_str().unwrap()).unwrap()));
    }
}
