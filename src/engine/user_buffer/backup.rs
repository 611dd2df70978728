//! Memory for what an operation in place overwrites, kept from one operation to the next.
//!
//! Fresh memory costs a page fault for every page that is touched, which takes longer than the
//! copy that it is for. So an operation gives its backup back, and the next one takes it.
#![allow(unsafe_code)]

use std::sync::Mutex;

use super::lock;

/// Below this a fresh allocation is as cheap.
const KEPT_BYTES_MIN: usize = 64 * 1024;

#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// As long as a buffer or longer; touched, and so backed by memory, only where it was written.
pub struct Backup {
    /// From `Box::into_raw`: lanes write disjoint segments of it at the same time.
    bytes: *mut [u8],
}

// SAFETY: it owns its bytes; concurrent accesses touch disjoint segments.
unsafe impl Send for Backup {}
// SAFETY: as above.
unsafe impl Sync for Backup {}

impl Backup {
    pub(super) fn new(len_bytes: usize) -> Backup {
        let mut bytes = vec![0u8; len_bytes].into_boxed_slice();
        ask_for_huge_pages(&mut bytes);
        Backup {
            bytes: Box::into_raw(bytes),
        }
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.bytes.cast::<u8>()
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Every page costs a fault when it is first touched, and the processor remembers the places of few:
/// of 4 KiB each, they make up a tenth of an operation in place.
fn ask_for_huge_pages(bytes: &mut [u8]) {
    #[cfg(target_os = "linux")]
    if bytes.len() >= 2 * HUGE_PAGE_BYTES {
        let before = bytes.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let inner = &mut bytes[before..];
        // SAFETY: the range lies inside an allocation that is ours alone, and the advice changes
        // nothing about what it holds. A kernel that does not follow it loses nothing.
        unsafe {
            libc::madvise(
                inner.as_mut_ptr().cast(),
                inner.len() - inner.len() % HUGE_PAGE_BYTES,
                libc::MADV_HUGEPAGE,
            );
        }
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // SAFETY: it came from `Box::into_raw` and nobody refers to it any more.
        drop(unsafe { Box::from_raw(self.bytes) });
    }
}

/// Backups that nobody uses now. Never more than were in use at once.
#[derive(Default)]
pub struct Spares {
    /// With the number of times that [`Spares::age`] has passed them by.
    spares: Mutex<Vec<(Backup, u32)>>,
}

impl Spares {
    /// The smallest that is long enough.
    pub fn take(&self, len_bytes: usize) -> Option<Backup> {
        let mut spares = lock(&self.spares);
        let fits = spares
            .iter()
            .enumerate()
            .filter(|(_, (backup, _))| backup.len_bytes() >= len_bytes);
        let (index, _) = fits.min_by_key(|(_, (backup, _))| backup.len_bytes())?;
        Some(spares.swap_remove(index).0)
    }

    /// Keeps one for the next operation, unless it is small.
    pub fn put(&self, backup: Backup) {
        if backup.len_bytes() >= KEPT_BYTES_MIN {
            lock(&self.spares).push((backup, 0));
        }
    }

    /// Frees those that nobody has taken since the call before the last.
    pub fn age(&self) {
        lock(&self.spares).retain_mut(|(_, passed_by)| {
            *passed_by += 1;
            *passed_by < 2
        });
    }

    /// Frees all.
    pub fn clear(&self) {
        lock(&self.spares).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_spare_that_is_long_enough_is_taken() {
        let spares = Spares::default();
        for len_bytes in [4 << 20, 1 << 20, 2 << 20, 100] {
            spares.put(Backup::new(len_bytes));
        }
        assert!(spares.take(5 << 20).is_none());
        let taken = |len_bytes| spares.take(len_bytes).map(|backup| backup.len_bytes());
        assert_eq!(taken((1 << 20) + 1), Some(2 << 20));
        assert_eq!(taken((1 << 20) + 1), Some(4 << 20));
        assert_eq!(taken(1), Some(1 << 20));
        assert_eq!(taken(1), None, "small ones are not kept");
    }

    #[test]
    fn a_spare_that_nobody_takes_is_freed_after_two_rounds() {
        let spares = Spares::default();
        spares.put(Backup::new(1 << 20));
        spares.age();
        let used = spares.take(1).unwrap();
        spares.put(used);
        spares.age();
        assert!(spares.take(1).map(|used| spares.put(used)).is_some());
        spares.age();
        spares.age();
        assert!(spares.take(1).is_none());
    }
}
