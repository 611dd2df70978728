//! Parts of states that are shared between them until they change, each with its own fingerprint: a
//! step costs what it touches.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A part of a state, with its fingerprint.
#[derive(Clone, Debug)]
pub(crate) struct Shared<T> {
    part: Arc<T>,
    /// None while it is being changed.
    pub(crate) fingerprint: Option<u64>,
}

impl<T: Clone + Hash> Shared<T> {
    pub(crate) fn new(part: T) -> Self {
        let mut shared = Self {
            part: Arc::new(part),
            fingerprint: None,
        };
        shared.seal();
        shared
    }

    pub(crate) fn change(&mut self) -> &mut T {
        self.fingerprint = None;
        Arc::make_mut(&mut self.part)
    }

    pub(crate) fn seal(&mut self) {
        if self.fingerprint.is_none() {
            let mut hasher = Folding::default();
            self.part.hash(&mut hasher);
            self.fingerprint = Some(hasher.finish());
        }
    }
}

/// A quick hash of 64 bits (folded multiplication, as in wyhash): most of a step is hashing, and
/// nobody chooses these states to collide. Chance makes two of ten million meet once in 370,000 runs.
struct Folding(u64);

impl Default for Folding {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Folding {
    fn mix(&mut self, word: u64) {
        const FACTOR: u128 = 0xa076_1d64_78bd_642f;
        let product = u128::from(self.0 ^ word).wrapping_mul(FACTOR);
        self.0 =
            (product as u64) ^ ((product >> 64) as u64).rotate_left(23) ^ self.0.rotate_left(29);
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(word) ^ ((rest.len() as u64) << 60));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = Self(self.0);
        last.mix(0xe703_7ed1_a0b4_28db);
        last.0
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.part
    }
}
