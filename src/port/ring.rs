//! A ring: many reads and writes in one system call, by io_uring.
//!
//! Each operation is what the plain call would be, and the kernel makes one after the other in the order in
//! which they were queued, within the one call that submits them. Two things make that so (Linux
//! `io_uring/rw.c`): every operation carries `RWF_NOWAIT`, so that one that would have to wait fails with
//! EAGAIN instead of being left to a thread of the kernel's or to a later poll; and nothing but the submitting
//! call executes them (no SQPOLL). So frames to one device keep their order, and no buffer is in use any more
//! when [`Ring::read`] or [`Ring::write`] returns: that is what lets them be safe functions of plain slices.
//!
//! Files are not registered: it would save taking and dropping a reference for each operation, which could not
//! be measured, but a registered file is closed some time after its process was killed, and not at once.
//! A TAP without an owner would stay in its container.
//!
//! The ring belongs to the one thread that uses it (`SINGLE_ISSUER`), where the kernel knows that: it is made
//! disabled by whoever starts that thread, and enabled at the first use.
#![allow(unsafe_code)] // buffers and descriptors that the kernel is told of

use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use nix::libc;

use crate::limits::BURST_FRAMES;

/// Most operations of one batch.
pub(super) const BATCH: usize = BURST_FRAMES;

/// What became of an operation: bytes read or written.
pub(super) type Outcome = Result<usize, Errno>;

/// An io_uring instance for batches of reads and writes.
pub(super) struct Ring {
    uring: IoUring,
    enabled: bool,
    outcomes: Vec<Outcome>,
}

impl Ring {
    /// A ring for the thread that will first use it.
    ///
    /// # Errors
    /// ENOSYS or EPERM where the system knows or allows no io_uring, EINVAL where it is too old.
    pub(super) fn new() -> io::Result<Ring> {
        let uring = build(|builder| builder.setup_single_issuer().setup_defer_taskrun())
            .or_else(|_| build(|builder| builder))?;
        let outcomes = Vec::with_capacity(BATCH);
        Ok(Ring { uring, enabled: false, outcomes })
    }

    /// Reads once into each of at most [`BATCH`] spaces, and says what became of each.
    ///
    /// # Errors
    /// If the ring is of no more use. It is unknown then which of the reads were made.
    pub(super) fn read<'a>(
        &mut self,
        fd: RawFd,
        spaces: impl Iterator<Item = &'a mut [u8]>,
    ) -> io::Result<&[Outcome]> {
        let entries = spaces.map(|space| {
            let len = u32::try_from(space.len()).unwrap_or(u32::MAX);
            opcode::Read::new(types::Fd(fd), space.as_mut_ptr(), len).rw_flags(libc::RWF_NOWAIT).build()
        });
        // SAFETY: the iterator's items borrow the spaces, each of them alone, until this returns.
        unsafe { self.run(entries) }
    }

    /// Writes at most [`BATCH`] pieces in order, each to its file, and says what became of each.
    ///
    /// # Errors
    /// If the ring is of no more use. It is unknown then which of the writes were made.
    pub(super) fn write<'a>(
        &mut self,
        pieces: impl Iterator<Item = (RawFd, &'a [u8])>,
    ) -> io::Result<&[Outcome]> {
        let entries = pieces.map(|(fd, piece)| {
            let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            opcode::Write::new(types::Fd(fd), piece.as_ptr(), len).rw_flags(libc::RWF_NOWAIT).build()
        });
        // SAFETY: the iterator's items borrow the pieces until this returns.
        unsafe { self.run(entries) }
    }

    /// Queues the entries, submits them, and waits until all are done.
    ///
    /// # Safety
    /// What the entries point to must stay as it is until this returns.
    unsafe fn run(&mut self, entries: impl Iterator<Item = squeue::Entry>) -> io::Result<&[Outcome]> {
        if !self.enabled {
            self.uring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        self.outcomes.clear();
        let mut queue = self.uring.submission();
        for entry in entries {
            let entry = entry.user_data(self.outcomes.len() as u64);
            // SAFETY: what it points to stays until it is done, by this function's contract and because
            // this function only returns when it is, or when the ring is never entered again.
            if unsafe { queue.push(&entry) }.is_err() {
                debug_assert!(false, "a batch of more than {BATCH}");
                break;
            }
            self.outcomes.push(Err(Errno::EAGAIN));
        }
        drop(queue);

        let mut missing = self.outcomes.len();
        // All are done by the first call, which therefore does not ask to wait.
        let mut want = 0;
        while missing > 0 {
            match self.uring.submit_and_wait(want) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            for done in self.uring.completion() {
                let Some(outcome) =
                    usize::try_from(done.user_data()).ok().and_then(|n| self.outcomes.get_mut(n))
                else {
                    continue;
                };
                *outcome = usize::try_from(done.result()).map_err(|_| Errno::from_raw(-done.result()));
                missing -= 1;
            }
            want = missing;
        }
        Ok(&self.outcomes)
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

fn build(more: impl FnOnce(&mut io_uring::Builder) -> &mut io_uring::Builder) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // One operation that cannot even begin does not keep the others from it.
    more(builder.setup_r_disabled().setup_submit_all()).build(u32::try_from(BATCH).unwrap_or(u32::MAX))
}
