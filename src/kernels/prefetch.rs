//! A word to the memory ahead of its use.
#![allow(unsafe_code)]

/// Asks for memory that is read soon, where the processor takes such a request. Loops that go over a
/// block twice wait for each block otherwise: the first pass takes no time to calculate in.
#[inline(always)]
pub(super) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

        for line in bytes.chunks(64) {
            // SAFETY: it reads nothing, whatever the address; this one is valid at that. Every x86-64
            // processor has SSE.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
