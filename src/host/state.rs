//! The state directory: what must outlive the process, as documents with names.
//!
//! A document is one file, `NAME.json`, and is replaced as a whole: a temporary file is written, synced and renamed
//! over it, and the directory is synced. Whatever ends the process or the machine, the document is the one from
//! before or the one from after.
//!
//! Nothing here can stop the switch. A thread of its own does the writing, so that no disk keeps a change waiting;
//! of a document that is stored faster than it can be written, only the latest is. What cannot be written (a full or
//! read-only directory) is kept and tried again every [`RETRY`], and [`StateDir::problem`] says so until it has
//! worked. A document that cannot be read, torn or written by somebody else, is put aside as `NAME.json.damaged` and
//! begins anew. Two switches must not share a directory: a lock keeps the second one from reading or writing any.
//!
//! What was stored in the last moments before a crash may be lost; dropping the directory writes all of it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::{ErrorKind, HostError};
use crate::limits::STATE_DOCUMENT_MAX;

/// Time between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(5);

/// Where the system's daemon keeps its state.
const SYSTEM: &str = "/var/lib/vswitchd";

/// Its owner only: nobody else writes there, and whoever wants to know asks the switch.
const MODE: u32 = 0o700;

/// Where the switch with this API socket keeps its state unless it is told otherwise: under `/var/lib/vswitchd`, or
/// a user's own `$XDG_STATE_HOME`. A switch is known by its socket, so one with another than the `usual` has a
/// directory of its own in there.
pub fn default_path(socket: &Path, usual: &Path) -> PathBuf {
    let base = if Uid::effective().is_root() { SYSTEM.into() } else { user_path() };
    if socket == usual {
        return base;
    }
    let absolute = std::path::absolute(socket).unwrap_or_else(|_| socket.into());
    let name = absolute.to_string_lossy().trim_start_matches('/').replace('/', "-");
    base.join("instances").join(name)
}

fn user_path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").unwrap_or_else(|| "/".into()).join(".local/state");
    variable("XDG_STATE_HOME").unwrap_or_else(home).join("vswitchd")
}

/// An open state directory, or none.
#[derive(Debug)]
pub struct StateDir {
    path: Option<PathBuf>,
    /// What has been wrong with it since it was opened.
    faults: Vec<HostError>,
    /// `None` if it must not be written to.
    writer: Option<Writer>,
}

impl StateDir {
    /// No directory: nothing is remembered, and nothing is wrong with that.
    pub fn none() -> StateDir {
        StateDir { path: None, faults: Vec::new(), writer: None }
    }

    /// Opens the directory, and makes it if need be. If that cannot be, nothing is remembered, and
    /// [`StateDir::problem`] says why.
    pub fn open(path: &Path) -> StateDir {
        let opened = make(path).and_then(|()| lock(path)).and_then(|lock| Writer::start(path, lock));
        let mut state = StateDir { path: Some(path.into()), faults: Vec::new(), writer: None };
        match opened {
            Ok(writer) => state.writer = Some(writer),
            Err(error) => state.fault(error),
        }
        state
    }

    /// The directory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What is wrong with the directory, in one line, if anything is.
    pub fn problem(&self) -> Option<String> {
        let failing = self.writer.as_ref().and_then(|writer| writer.shelf.lock().failing.clone());
        let all: Vec<_> = self.faults.iter().chain(&failing).map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Reads a document. One that is not there, or cannot be read, is an empty one.
    pub fn load<T: DeserializeOwned + Default>(&mut self, document: &'static str) -> T {
        let (Some(directory), Some(_)) = (&self.path, &self.writer) else { return T::default() };
        let path = file(directory, document);
        match read(&path) {
            Ok(None) => T::default(),
            Ok(Some(content)) => content,
            Err(error) => {
                let aside = path.with_extension("json.damaged");
                let kept = fs::rename(&path, &aside).is_ok();
                let hint = if kept { format!("it is kept as {}", aside.display()) } else { String::new() };
                self.fault(error.hint(hint));
                T::default()
            }
        }
    }

    /// Writes a document soon, in the place of the one before.
    pub fn store(&self, document: &'static str, content: &impl Serialize) {
        let Some(writer) = &self.writer else { return };
        match serde_json::to_vec(content) {
            Ok(bytes) => writer.shelf.put(document, bytes),
            Err(error) => log::warn!("state: {document}: {error}"),
        }
    }

    fn fault(&mut self, error: HostError) {
        log::warn!("state: {error}");
        self.faults.push(error);
    }
}

fn file(directory: &Path, document: &str) -> PathBuf {
    directory.join(document).with_extension("json")
}

fn make(path: &Path) -> Result<(), HostError> {
    DirBuilder::new().recursive(true).mode(MODE).create(path).map_err(|error| refused(path, error))
}

fn lock(path: &Path) -> Result<Flock<File>, HostError> {
    let lock_path = path.join("lock");
    let open = || File::options().write(true).create(true).truncate(false).open(&lock_path);
    let file = open().map_err(|error| refused(path, error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno != Errno::EWOULDBLOCK {
            return refused(path, errno);
        }
        HostError::new(ErrorKind::Exists, path.display().to_string(), "another vswitchd uses it")
            .hint("give each a --state-dir of its own")
    })
}

fn refused(path: &Path, error: impl Into<io::Error>) -> HostError {
    HostError::os(path.display().to_string(), error)
        .hint("addresses and leases are not remembered: make it writable, or choose another --state-dir")
}

/// The document in a file; `None` if there is none.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, HostError> {
    let what = path.display().to_string();
    let length = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(HostError::os(what, error)),
    };
    if length > STATE_DOCUMENT_MAX {
        return Err(HostError::new(ErrorKind::Other, what, "is too large to be ours"));
    }
    let bytes = fs::read(path).map_err(|error| HostError::os(what.clone(), error))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        HostError::new(ErrorKind::Other, what, format!("cannot be understood, and begins anew: {error}"))
    })
}

/// Replaces a document.
fn replace(directory: &Path, document: &str, bytes: &[u8]) -> io::Result<()> {
    let path = file(directory, document);
    let temporary = path.with_extension("json.new");
    let mut new = File::create(&temporary)?;
    let written = new.write_all(bytes).and_then(|()| new.sync_all());
    let renamed = written.and_then(|()| fs::rename(&temporary, &path));
    if renamed.is_err() {
        // It would take the room that is missing.
        let _ = fs::remove_file(&temporary);
    }
    renamed.and_then(|()| File::open(directory)?.sync_all())
}

/// The thread that writes, and the directory's lock.
#[derive(Debug)]
struct Writer {
    shelf: Arc<Shelf>,
    thread: Option<JoinHandle<()>>,
    _lock: Flock<File>,
}

impl Writer {
    fn start(directory: &Path, lock: Flock<File>) -> Result<Writer, HostError> {
        let shelf = Arc::new(Shelf::default());
        let (directory, shared) = (directory.to_owned(), Arc::clone(&shelf));
        let thread = thread::Builder::new().name("state".to_owned()).spawn(move || shared.serve(&directory));
        let thread = thread.map_err(|error| HostError::os("starting a thread", error))?;
        Ok(Writer { shelf, thread: Some(thread), _lock: lock })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shelf.lock().closing = true;
        self.shelf.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

/// What is still to be written.
#[derive(Debug, Default)]
struct Shelf {
    state: Mutex<ShelfState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ShelfState {
    /// The latest content of each document.
    waiting: BTreeMap<&'static str, Vec<u8>>,
    /// Why the last attempt failed.
    failing: Option<HostError>,
    closing: bool,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, ShelfState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, document: &'static str, bytes: Vec<u8>) {
        self.lock().waiting.insert(document, bytes);
        self.changed.notify_one();
    }

    /// Writes what comes until the directory is closed.
    fn serve(&self, directory: &Path) {
        let mut state = self.lock();
        loop {
            let closing = state.closing;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            let (failed, why) = write_all(directory, waiting);
            state = self.lock();
            tell(directory, state.failing.as_ref(), why.as_ref());
            state.failing = why;
            for (document, bytes) in failed {
                state.waiting.entry(document).or_insert(bytes);
            }
            if closing {
                return;
            }
            state = self.pause(state);
        }
    }

    /// Waits for something to do; after a failure only for so long.
    fn pause<'a>(&self, state: MutexGuard<'a, ShelfState>) -> MutexGuard<'a, ShelfState> {
        let failing = state.failing.is_some();
        let idle = |state: &mut ShelfState| !state.closing && (failing || state.waiting.is_empty());
        if failing {
            let waited = self.changed.wait_timeout_while(state, RETRY, idle);
            return waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes documents; those that could not be, and why the first of them could not.
fn write_all(
    directory: &Path,
    documents: BTreeMap<&'static str, Vec<u8>>,
) -> (BTreeMap<&'static str, Vec<u8>>, Option<HostError>) {
    let mut why = None;
    let failed = documents.into_iter().filter(|(document, bytes)| {
        let written = replace(directory, document, bytes);
        written.is_err_and(|error| {
            why.get_or_insert_with(|| refused(&file(directory, document), error));
            true
        })
    });
    (failed.collect(), why)
}

/// Logs when writing begins to fail, and when it works again.
fn tell(directory: &Path, before: Option<&HostError>, now: Option<&HostError>) {
    match (before, now) {
        (before, Some(now)) if before != Some(now) => log::warn!("state: {now}"),
        (Some(_), None) => log::info!("state: {} can be written to again", directory.display()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Document = BTreeMap<String, u32>;

    fn document(value: u32) -> Document {
        BTreeMap::from([("web".to_owned(), value)])
    }

    fn loaded(path: &Path) -> (Document, Option<String>) {
        let mut state = StateDir::open(path);
        (state.load("addresses"), state.problem())
    }

    #[test]
    fn a_document_outlives_its_directory_value_and_the_latest_one_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        for round in 0..3 {
            let mut state = StateDir::open(&path);
            let before: Document = state.load("addresses");
            assert_eq!(before, if round == 0 { Document::new() } else { document(round * 100) });
            (1..=100).for_each(|value| state.store("addresses", &document(round * 100 + value)));
            assert_eq!(state.problem(), None);
        }
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["addresses.json", "lock"]);
    }

    #[test]
    fn a_document_is_replaced_and_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        StateDir::open(directory.path()).store("addresses", &document(1));
        let before = File::open(directory.path().join("addresses.json")).unwrap();
        StateDir::open(directory.path()).store("addresses", &document(2));
        // Whoever has the one from before, as a machine that stops now would, has all of it.
        assert_eq!(serde_json::from_reader::<_, Document>(before).unwrap(), document(1));
        assert_eq!(loaded(directory.path()), (document(2), None));
    }

    #[test]
    fn a_torn_document_is_put_aside_and_said() {
        let directory = tempfile::tempdir().unwrap();
        StateDir::open(directory.path()).store("addresses", &document(7));
        let path = directory.path().join("addresses.json");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (content, problem) = loaded(directory.path());
            assert_eq!(content, Document::new());
            let problem = problem.unwrap();
            assert!(problem.contains("addresses.json: cannot be understood"), "{problem}");
            assert!(problem.contains("addresses.json.damaged") && !problem.contains('\n'), "{problem}");
            assert_eq!(fs::read(path.with_extension("json.damaged")).unwrap(), whole[..length]);
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(loaded(directory.path()), (document(7), None));
    }

    #[test]
    fn a_directory_that_cannot_be_is_said_and_nothing_is_remembered() {
        let mut state = StateDir::open(Path::new("/proc/vswitchd-has-no-place-here"));
        state.store("addresses", &document(1));
        assert_eq!(state.load::<Document>("addresses"), Document::new());
        assert!(state.problem().unwrap().contains("not remembered"));
        let mut none = StateDir::none();
        none.store("addresses", &document(1));
        assert_eq!((none.load::<Document>("addresses"), none.problem()), (Document::new(), None));
    }

    #[test]
    fn two_switches_do_not_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDir::open(directory.path());
        first.store("addresses", &document(1));
        let mut second = StateDir::open(directory.path());
        second.store("addresses", &document(2));
        assert_eq!(second.load::<Document>("addresses"), Document::new());
        assert!(second.problem().unwrap().contains("another vswitchd uses it"));
        drop((first, second));
        assert_eq!(loaded(directory.path()), (document(1), None));
    }

    #[test]
    fn what_cannot_be_written_is_kept_and_said_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path());
        // Nothing can be renamed over a directory with something in it.
        let obstacle = directory.path().join("addresses.json");
        fs::create_dir_all(obstacle.join("x")).unwrap();
        state.store("addresses", &document(1));
        let wait = |wanted: bool| {
            for _ in 0..2000 {
                if state.problem().is_some() == wanted {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
            panic!("{:?}", state.problem());
        };
        wait(true);
        fs::remove_dir_all(&obstacle).unwrap();
        wait(false);
        drop(state);
        assert_eq!(loaded(directory.path()), (document(1), None));
    }

    #[test]
    fn a_switch_is_known_by_its_socket() {
        let usual = Path::new("/run/vswitchd.sock");
        let base = default_path(usual, usual);
        assert!(base.ends_with("vswitchd"));
        let other = default_path(Path::new("/tmp/x/s.sock"), usual);
        assert_eq!(other, base.join("instances/tmp-x-s.sock"));
    }
}
