//! Pages for tables that are read at random.
//!
//! A table of a hundred MiB in pages of 4 KiB is more pages than a processor remembers the places of, so that
//! most reads cost a walk through the page tables on top of the read itself, and within a virtual machine two
//! nested ones. Pages of 2 MiB take a quarter off a lookup among a million connections.
#![allow(unsafe_code)] // a hint to the kernel about addresses

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// What a page's address is a multiple of, wherever Linux runs.
const PAGE: usize = 64 * 1024;

/// Asks the kernel to back these addresses by huge pages where it can. They take effect where nothing has been
/// written yet, and none is taken before something is. Where there are none, nothing changes.
pub fn prefer_huge_pages(memory: Range<usize>) {
    let (start, end) = (memory.start.next_multiple_of(PAGE), memory.end / PAGE * PAGE);
    let (Some(address), Some(len)) = (NonNull::new(start as *mut c_void), end.checked_sub(start)) else {
        return;
    };
    // SAFETY: the advice changes how memory is backed, never what is in it; the kernel refuses addresses where
    // there is none.
    if let Err(error) = unsafe { madvise(address, len, MmapAdvise::MADV_HUGEPAGE) } {
        log::debug!("no huge pages: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_as_it_is() {
        let mut bytes = vec![0_u8; 8 << 20];
        bytes[5 << 20] = 7;
        let range = bytes.as_ptr_range();
        prefer_huge_pages(range.start as usize..range.end as usize);
        // Less than a page, and nowhere.
        prefer_huge_pages(100..200);
        prefer_huge_pages(0..0);
        assert_eq!(bytes.iter().map(|&byte| usize::from(byte)).sum::<usize>(), 7);
    }
}
