//! What an all-reduce is told, and what it tells.

use std::time::Duration;

use crate::types::{PeerId, ReduceOp, Tag};

/// How an all-reduce is to be done.
///
/// ```
/// use pccl::{ReduceOptions, Tag};
/// let options = ReduceOptions::avg().tag(Tag(7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "setters return the changed options and leave the original as it is"]
pub struct ReduceOptions {
    /// How contributions are combined. Default sum.
    pub op: ReduceOp,
    /// The operation's name: all peers use the same; unique among those in flight. Default 0.
    pub tag: Tag,
    /// Ask for the operation to be aborted, everywhere, if it has not ended by then; the error
    /// names whom it waited for. Default none: a peer that has not called yet is waited for.
    pub deadline: Option<Duration>,
}

impl ReduceOptions {
    /// Combine with this operation.
    pub fn new(op: ReduceOp) -> Self {
        Self {
            op,
            ..Self::default()
        }
    }

    /// Add contributions up.
    pub fn sum() -> Self {
        Self::new(ReduceOp::Sum)
    }

    /// Average contributions.
    pub fn avg() -> Self {
        Self::new(ReduceOp::Avg)
    }

    /// Multiply contributions.
    pub fn prod() -> Self {
        Self::new(ReduceOp::Prod)
    }

    /// Keep the largest.
    pub fn max() -> Self {
        Self::new(ReduceOp::Max)
    }

    /// Keep the smallest.
    pub fn min() -> Self {
        Self::new(ReduceOp::Min)
    }

    /// Sets [`tag`](Self::tag).
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tag = tag;
        self
    }

    /// Sets [`deadline`](Self::deadline).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// What an all-reduce that succeeded has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReduceReport {
    /// Peers whose input is in the result.
    pub world_size: u32,
    /// Who they are, in ring order; the same at every peer.
    pub contributors: Vec<PeerId>,
    /// Payload bytes this peer sent for it, repeats after a broken lane included.
    pub tx_bytes: u64,
    /// Payload bytes this peer took for it.
    pub rx_bytes: u64,
}
