//! How one epoch follows another.
//!
//! ```text
//!   active ---- change: what it starts from, rings ----> proposal: who agrees, who is wired
//!     ^                  ^                                    |              |
//!     |                  '------------ replaced --------------'              |
//!     '----------------------------------------------------------------------'
//! ```

mod active;
mod change;
mod proposal;

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{GroupId, PeerId};

pub(super) use active::ActiveEpoch;
pub(super) use change::Change;
pub use change::{Solution, SolveRequest};

/// The peers of each group in ring order.
pub(super) type Rings = BTreeMap<GroupId, Vec<PeerId>>;

/// The links of a ring, each once, as (lower, higher) id.
pub(super) fn neighbours(ring: &[PeerId]) -> BTreeSet<(PeerId, PeerId)> {
    let successors = ring.iter().cycle().skip(1);
    ring.iter()
        .zip(successors)
        .filter(|(a, b)| a != b)
        .map(|(a, b)| (*a.min(b), *a.max(b)))
        .collect()
}
