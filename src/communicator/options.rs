//! What an all-reduce is told, and what it tells.

use std::time::Duration;

use crate::error::CollectiveError;
use crate::types::{DataType, Descriptor, PeerId, Quantization, ReduceOp, Tag};

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
    /// Send fewer bits for each element, at the price of exactness; all peers end with the same bits
    /// all the same. Default none. Only floats can be quantized:
    /// [`CollectiveError::InvalidArgument`], before anything is sent, says what does not fit.
    pub quantization: Option<Quantization>,
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

    /// Sets [`quantization`](Self::quantization).
    pub fn quantize(mut self, quantization: Quantization) -> Self {
        self.quantization = Some(quantization);
        self
    }

    /// Whether elements of `data_type` can be reduced so; the error is what an operation would give.
    pub fn check(&self, data_type: DataType) -> Result<(), CollectiveError> {
        self.descriptor(0, data_type).map(drop)
    }

    /// What all peers must mean alike, or which argument makes no sense.
    pub(super) fn descriptor(
        &self,
        count: u64,
        data_type: DataType,
    ) -> Result<Descriptor, CollectiveError> {
        if let Some(quantization) = self.quantization {
            quantization
                .check(data_type)
                .map_err(|reason| CollectiveError::InvalidArgument {
                    field: "quantization",
                    reason,
                })?;
        }
        Ok(Descriptor {
            count,
            data_type,
            op: self.op,
            quantization: self.quantization,
        })
    }
}

/// What an all-reduce that succeeded has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReduceReport {
    /// Peers whose input is in the result.
    pub world_size: u32,
    /// Who they are, in ring order; the same at every peer.
    pub contributors: Vec<PeerId>,
    /// Bytes this peer sent for it: elements or codes, their scales, the headers of frames, and
    /// repeats after a broken lane.
    pub tx_bytes: u64,
    /// Bytes this peer took for it, likewise.
    pub rx_bytes: u64,
}
