//! Memory of segments that lie outside the caller's: used again, because the first touch of fresh
//! pages costs as much as all that is done with them.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Segments that are kept for the next ones; each is [`SEGMENT_BYTES_MAX`](super::SEGMENT_BYTES_MAX)
/// long and a little at most, and a few per lane are under way.
const KEPT_MAX: usize = 32;

/// Where segments come from, and go back to when they are dropped.
#[derive(Clone, Default)]
pub struct Segments(Arc<Mutex<Vec<Vec<u8>>>>);

/// Bytes of one segment.
#[derive(Clone)]
pub struct Segment {
    bytes: Vec<u8>,
    from: Segments,
}

impl Segments {
    /// A segment of so many bytes, whatever they are.
    pub fn take(&self, len_bytes: usize) -> Segment {
        let mut bytes = self.kept().pop().unwrap_or_default();
        bytes.resize(len_bytes, 0);
        self.wrap(bytes)
    }

    /// Bytes that came from elsewhere.
    pub fn wrap(&self, bytes: Vec<u8>) -> Segment {
        Segment {
            bytes,
            from: self.clone(),
        }
    }

    /// Lets go of what is kept.
    pub fn clear(&self) {
        self.kept().clear();
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let mut kept = self.from.kept();
        if kept.len() < KEPT_MAX && self.bytes.capacity() > 0 {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Segment {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl PartialEq for Segment {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Segment {}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_used_again_and_no_more_are_kept_than_that() {
        let segments = Segments::default();
        let first = segments.take(1000);
        let start = first.as_ptr();
        drop(first);
        let second = segments.take(500);
        assert_eq!((second.as_ptr(), second.len()), (start, 500));
        drop(second);
        let many: Vec<Segment> = (0..2 * KEPT_MAX).map(|_| segments.take(10)).collect();
        drop(many);
        assert_eq!(segments.kept().len(), KEPT_MAX);
        segments.clear();
        assert!(segments.kept().is_empty());
    }
}
