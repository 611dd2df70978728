//! Copies of what is not read again soon.
#![allow(unsafe_code)]

/// Copies `source` to `target`, past the cache where the processor knows how.
///
/// A store to memory that is not in the cache reads it first and pushes other things out; this one
/// does neither. For a copy that is kept in reserve that is a third less traffic to memory; what is
/// read soon is better left in the cache. Both are of the same length; what one has beyond the
/// other is left alone.
pub fn copy_past_cache(target: &mut [u8], source: &[u8]) {
    let len = target.len().min(source.len());
    let (target, source) = (&mut target[..len], &source[..len]);
    #[cfg(target_arch = "x86_64")]
    if len >= STREAMED_BYTES_MIN {
        stream(target, source);
        return wait_for_stores();
    }
    target.copy_from_slice(source);
}

/// As [`copy_past_cache`] of a part of a larger copy; [`wait_for_stores`] ends it.
#[inline]
pub(super) fn copy_part_past_cache(target: &mut [u8], source: &[u8]) {
    let len = target.len().min(source.len());
    let (target, source) = (&mut target[..len], &source[..len]);
    #[cfg(target_arch = "x86_64")]
    stream(target, source);
    #[cfg(not(target_arch = "x86_64"))]
    target.copy_from_slice(source);
}

/// Lets other threads see all stores past the cache before whatever tells them of them.
pub(super) fn wait_for_stores() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it has no operands. Every x86-64 processor has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Below this the wait for the last stores costs more than they save.
#[cfg(target_arch = "x86_64")]
const STREAMED_BYTES_MIN: usize = 16 * 1024;

#[cfg(target_arch = "x86_64")]
fn stream(target: &mut [u8], source: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};

    // Whole lines, as the processor puts four stores to one together.
    const LINE_BYTES: usize = 64;
    let head = target.as_ptr().align_offset(LINE_BYTES).min(target.len());
    let (target_head, target) = target.split_at_mut(head);
    let (source_head, source) = source.split_at(head);
    target_head.copy_from_slice(source_head);
    let (lines, target_tail) = target.as_chunks_mut::<LINE_BYTES>();
    let (source_lines, source_tail) = source.as_chunks::<LINE_BYTES>();
    for (line, source) in lines.iter_mut().zip(source_lines) {
        let line: *mut __m128i = line.as_mut_ptr().cast();
        let source: *const __m128i = source.as_ptr().cast();
        // SAFETY: both are of 64 bytes, four vectors; the target is aligned to 64, and loads need
        // no alignment. Every x86-64 processor has SSE2.
        unsafe {
            let loaded = [0, 1, 2, 3].map(|at| _mm_loadu_si128(source.add(at)));
            for (at, vector) in loaded.into_iter().enumerate() {
                _mm_stream_si128(line.add(at), vector);
            }
        }
    }
    target_tail.copy_from_slice(source_tail);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_at_every_length_and_alignment_and_no_other() {
        let source: Vec<u8> = (0..40_000_u32).map(|n| (n * 31 % 251) as u8).collect();
        for len in [0, 1, 63, 64, 65, 16_383, 16_384, 16_385, 32_768 + 100] {
            for (to, from) in [(0, 0), (1, 0), (0, 1), (3, 61), (63, 63), (64, 17)] {
                let mut target = vec![0xEE; to + len + 70];
                copy_past_cache(&mut target[to..to + len], &source[from..]);
                assert_eq!(target[to..to + len], source[from..from + len]);
                let around = target[..to].iter().chain(&target[to + len..]);
                assert!(around.into_iter().all(|byte| *byte == 0xEE));
            }
        }
    }
}
