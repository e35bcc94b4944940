//! A peer's process: started in a namespace, measured, stopped while others are measured, ended with us.
//!
//! Nothing may be left behind, not even when this program is killed. So every peer is started by way of this
//! program itself: [`become_program`] is what the child does first. It asks the kernel to be killed when its
//! parent dies, enters the namespace, and then turns into the peer. The kernel sends that signal when the
//! *thread* that started the child ends: start processes from the main thread.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, getppid};
use vswitchd::control::error::Error;
use vswitchd::host::netns::Netns;

/// The hidden first argument: become another program in a namespace.
pub(crate) const INSIDE: &str = "inside";

/// The name under which this program runs its own daemon.
pub(crate) const VSWITCHD: &str = "vswitchd";

/// How long a peer may take to be ready.
const START: Duration = Duration::from_secs(10);

/// How long a peer may take to end before it is killed.
const END: Duration = Duration::from_secs(3);

/// What the child of [`Process::start`] is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Inside {
    /// The process that must be alive.
    parent: i32,
    /// The namespace.
    netns: PathBuf,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    program: Vec<OsString>,
}

/// Moves this process into a namespace for life and death with its parent, and makes it another program.
///
/// # Errors
/// If that cannot be; it does not return otherwise, except for our own daemon, whose command line it returns.
pub(crate) fn become_program(inside: Inside) -> Result<Vec<OsString>, Error> {
    let failed = |error: nix::Error| Error::failed(INSIDE, error, "");
    set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    if getppid().as_raw() != inside.parent {
        return Err(Error::failed(INSIDE, "the parent is gone", ""));
    }
    // We hold SIGINT and SIGTERM back, and a child inherits that.
    SigSet::all().thread_unblock().map_err(failed)?;
    Netns::open(&inside.netns.to_string_lossy())?.enter()?;
    if inside.program[0] == VSWITCHD {
        return Ok(inside.program);
    }
    let error = Command::new(&inside.program[0]).args(&inside.program[1..]).exec();
    Err(Error::failed(inside.program[0].to_string_lossy(), error, "is it installed?"))
}

/// A running peer. It ends with the value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in the namespace. Its standard error goes to a file in `directory`.
    ///
    /// # Errors
    /// If it cannot be started. Whether it runs then is another question.
    pub(crate) fn start(netns: &Netns, directory: &Path, program: &[OsString]) -> Result<Process, Error> {
        let name = Path::new(&program[0]).file_name().unwrap_or(&program[0]).to_string_lossy().into_owned();
        let failed = |error: std::io::Error| Error::failed(&name, error, "");
        let log = directory.join(format!("{name}.log"));
        let child = Command::new("/proc/self/exe")
            .arg(INSIDE)
            .arg(std::process::id().to_string())
            .arg(netns.path())
            .args(program)
            // Some end at the end of their input, which is to be when we end.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().append(true).create(true).open(&log).map_err(failed)?)
            // A Ctrl-C on the terminal is for us; we end the peers.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Process { child, name, log })
    }

    /// Waits until it says a line on its standard output.
    ///
    /// # Errors
    /// If it ends before, or says nothing for [`START`].
    pub(crate) fn says(&mut self, line: &str) -> Result<(), Error> {
        let Some(stdout) = self.child.stdout.take() else {
            return Err(self.failed("has no standard output"));
        };
        let mut poll_for = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(START).unwrap_or(PollTimeout::NONE);
        if poll(&mut poll_for, patience).is_ok_and(|ready| ready == 0) {
            return Err(self.failed("says nothing"));
        }
        let mut said = String::new();
        // At the end of the file the line is empty, and that is not what we wait for.
        let read = BufReader::new(stdout).read_line(&mut said);
        if read.is_ok() && said.trim_end() == line { Ok(()) } else { Err(self.failed("did not start")) }
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// If the process ends before, or it does not hold within [`START`].
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Error> {
        let begun = Instant::now();
        while !condition() {
            if begun.elapsed() > START {
                return Err(self.failed(&format!("waited in vain for {what}")));
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("{status}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// An error with the last thing that it logged.
    fn failed(&self, why: &str) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Error::failed(&self.name, why, log.lines().last().unwrap_or_default())
    }

    /// The CPU time that it has used, all its threads together.
    pub(crate) fn cpu_time(&self) -> Duration {
        let time = clock_getcpuclockid(self.pid()).and_then(clock_gettime);
        time.map_or(Duration::ZERO, Duration::from)
    }

    /// Its resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap_or_default();
        let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        pages.unwrap_or(0) * page.unsigned_abs()
    }

    /// Stops it, while somebody else is measured.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        // It may have ended; the next measurement will say so.
        let _ = kill(self.pid(), signal);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.resume();
        let begun = Instant::now();
        while begun.elapsed() < END {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        // Whatever fails here, the kernel kills it when we end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
