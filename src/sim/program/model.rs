//! What a program trains: the shared state, as it is between syncs.

use super::Ground;
use super::numbers::mix;
use crate::communicator::OwnedTensor;
use crate::types::Revision;

/// A model that depends on every bit of every result.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// Empty while a sync has them.
    pub(super) tensors: Vec<OwnedTensor>,
    /// As of the last sync that committed.
    checkpoint: Vec<OwnedTensor>,
    /// What the next sync presents.
    pub(super) revision: Revision,
}

const STEP: usize = 1;

impl Model {
    /// Everybody's is another one, until they sync.
    pub(super) fn new(ground: &Ground) -> Self {
        let nonce = mix(&[u64::from(ground.process.0)]);
        let tensor = |name: &str, bytes: Vec<u8>, allows_inequality| OwnedTensor {
            name: name.to_owned(),
            bytes,
            allows_inequality,
        };
        let weights = (0..ground.manner.state_bytes as u64 / 8)
            .flat_map(|index| mix(&[nonce, index]).to_le_bytes())
            .collect();
        let tensors = vec![
            tensor("weights", weights, false),
            tensor("step", 0u64.to_le_bytes().to_vec(), false),
            tensor("empty", Vec::new(), false),
            tensor("own", nonce.to_le_bytes().to_vec(), true),
        ];
        Self {
            checkpoint: tensors.clone(),
            tensors,
            revision: Revision(0),
        }
    }

    /// What is to be equal everywhere, one tensor after the other.
    pub(super) fn content(tensors: &[OwnedTensor]) -> Vec<u8> {
        let equal = tensors.iter().filter(|tensor| !tensor.allows_inequality);
        equal.flat_map(|tensor| tensor.bytes.clone()).collect()
    }

    /// How often it was trained.
    pub(super) fn step(&self) -> u64 {
        let bytes = self.tensors.get(STEP).map(|tensor| &tensor.bytes[..]);
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    }

    /// Trains it with the results of a step, and with what is one's own.
    pub(super) fn learn(&mut self, results: &[Vec<u8>], own: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(own);
        for result in results {
            hasher.update(result);
        }
        let next = self.step().wrapping_add(1);
        let learned = hasher.finalize();
        if let Some(weights) = self.tensors.first_mut() {
            for (weight, byte) in weights
                .bytes
                .iter_mut()
                .zip(learned.as_bytes().iter().cycle())
            {
                *weight = weight.wrapping_mul(5).wrapping_add(*byte);
            }
        }
        if let Some(step) = self.tensors.get_mut(STEP) {
            step.bytes = next.to_le_bytes().to_vec();
        }
    }

    /// A sync committed.
    pub(super) fn note_committed(&mut self, revision: Revision) {
        self.revision = Revision(revision.0.saturating_add(1));
        self.checkpoint.clone_from(&self.tensors);
    }

    /// A new membership: as its owner, with all that a failed sync tore put back, and without a
    /// claim to any revision.
    pub(super) fn begin_anew(&mut self, tainted: &[String]) {
        if !tainted.is_empty() {
            self.tensors.clone_from(&self.checkpoint);
        }
        self.revision = Revision(0);
    }
}
