//! SIGINT and SIGTERM as something to be asked about, so that whoever is interrupted cleans up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::control::error::Error;

/// Whether somebody wants us to end.
#[derive(Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Blocks the signals in this thread and those that it starts, and waits for one on a thread of its own.
    /// A process that this one starts inherits what is blocked.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn watch() -> Result<Interrupt, Error> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().map_err(|error| Error::failed("signals", error, ""))?;
        let came = Arc::new(AtomicBool::new(false));
        let (flag, watched) = (Arc::clone(&came), thread::current());
        let wait = move || {
            // Only fails for a signal that does not exist.
            let _ = signals.wait();
            flag.store(true, Ordering::Relaxed);
            watched.unpark();
        };
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(wait);
        thread.map(|_| Interrupt(came)).map_err(|error| Error::failed("signals", error, ""))
    }

    /// Whether one came.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits for one. To be called by the thread that began to watch.
    pub fn wait(&self) {
        while !self.came() {
            thread::park();
        }
    }
}
