//! What training is about here: a state that all peers hold alike and that depends on every result,
//! and time spent on it.

use std::time::{Duration, Instant};

use super::Arguments;
use super::numbers::digest;
use crate::clock;

/// What all peers hold alike, and what this one holds of it.
pub(super) struct Model {
    pub(super) weights: Vec<u64>,
    /// Lineage and step.
    pub(super) place: [u64; 2],
    pub(super) revision: u64,
}

impl Model {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let nonce = clock::now_us().wrapping_mul(31) ^ u64::from(std::process::id());
        Self {
            weights: (0..arguments.state_bytes / 8).map(|i| i ^ nonce).collect(),
            place: [nonce, 0],
            revision: 0,
        }
    }

    pub(super) fn digest(&self) -> u64 {
        digest(self.weights.iter().chain(&self.place).copied())
    }

    /// Makes the weights depend on every bit of a result, by its digest.
    pub(super) fn learn(&mut self, digest: u64) {
        for (index, weight) in (0..).zip(&mut self.weights) {
            *weight = weight
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(digest ^ index);
        }
    }
}

/// Keeps a core busy.
pub(super) fn compute_for(duration: Duration) {
    let end = Instant::now() + duration;
    let mut number = 1_u64;
    while Instant::now() < end {
        for _ in 0..10_000 {
            number = std::hint::black_box(number.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 1);
        }
    }
}
