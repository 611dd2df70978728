//! Buffers on huge pages, or on small ones.
//!
//! When a process dies the kernel frees its memory before it closes its sockets, page by page: a
//! peer with 512 MiB on small pages is noticed tens of milliseconds later than one on huge pages.
//! Faulting them in costs as much, in the first operation.
//!
//! `stress` includes this file by its path (`stress/src/main.rs`).

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use clap::ValueEnum;
use memmap2::{Advice, MmapMut};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a buffer lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pages {
    /// Of 2 MiB, where the system gives them (`madvise`).
    Huge,
    /// Of 4 KiB, also where the system would give huge ones unasked.
    Small,
}

impl Pages {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pages::Huge => "huge",
            Pages::Small => "small",
        }
    }
}

/// A number that any bytes are a value of.
pub(crate) trait Number: FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> Number for T {}

/// A slice of numbers in pages of its own.
pub(crate) struct Buffer<T> {
    map: MmapMut,
    used_bytes: usize,
    numbers: PhantomData<T>,
}

impl<T: Number> Buffer<T> {
    /// `count` zeros.
    pub(crate) fn zeroed(count: usize, pages: Pages) -> io::Result<Self> {
        let used_bytes = count
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(used_bytes.max(1))?;
        #[cfg(target_os = "linux")]
        {
            let advice = match pages {
                Pages::Huge => Advice::HugePage,
                Pages::Small => Advice::NoHugePage,
            };
            // A kernel without huge pages refuses both, and has small ones only.
            let _ = map.advise(advice);
        }
        Ok(Self {
            map,
            used_bytes,
            numbers: PhantomData,
        })
    }
}

impl<T: Number> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = &self.map[..self.used_bytes];
        <[T]>::ref_from_bytes(bytes).expect("pages are aligned, and hold whole numbers")
    }
}

impl<T: Number> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = &mut self.map[..self.used_bytes];
        <[T]>::mut_from_bytes(bytes).expect("pages are aligned, and hold whole numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_both_kinds_hold_what_is_written() {
        for pages in [Pages::Huge, Pages::Small] {
            for count in [0, 1, 300_000] {
                let mut buffer = Buffer::<f32>::zeroed(count, pages).expect("memory");
                assert_eq!(buffer.len(), count);
                assert!(buffer.iter().all(|number| *number == 0.0));
                buffer.fill(7.0);
                assert!(buffer.iter().all(|number| *number == 7.0));
            }
        }
    }

    #[test]
    fn more_memory_than_there_is_is_an_error() {
        assert!(Buffer::<u64>::zeroed(usize::MAX, Pages::Small).is_err());
    }
}
