//! The shared state as a caller presents it.

use zerocopy::IntoBytes;

use super::Element;
use crate::shared_state::{Entry, Presentation, SyncStrategy, digest};
use crate::types::{DataType, Revision};

/// Named tensors that are to be bit-identical on every peer of a group, and their version.
///
/// All peers present the same names, types and sizes in the same order. A newcomer presents
/// whatever it has, at revision 0.
///
/// ```
/// let mut weights = vec![0.0f32; 1000];
/// let mut state = pccl::SharedState::new();
/// state.revision = pccl::Revision(7);
/// state.tensor("weights", &mut weights);
/// ```
#[derive(Debug, Default)]
pub struct SharedState<'a> {
    /// The version presented; after a sync that succeeded, the version everybody has. Raise it by
    /// one when the content has advanced, before the next sync.
    pub revision: Revision,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    data_type: DataType,
    count: u64,
    bytes: &'a mut [u8],
    allows_inequality: bool,
}

/// What a sync that succeeded has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// The revision everybody has.
    pub revision: Revision,
    /// Bytes of tensors this peer sent.
    pub tx_bytes: u64,
    /// Bytes of tensors this peer received; 0 where it had them all.
    pub rx_bytes: u64,
}

impl<'a> SharedState<'a> {
    /// No tensors yet, at revision 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor that must be equal everywhere. The name has 1 to 1024 bytes and is unique.
    pub fn tensor<T: Element>(&mut self, name: impl Into<String>, data: &'a mut [T]) -> &mut Self {
        self.push(name.into(), data, false)
    }

    /// Adds a tensor whose content may differ between peers of the same revision; it is sent once
    /// to a peer whose revision is lower, a newcomer say.
    pub fn tensor_unequal<T: Element>(
        &mut self,
        name: impl Into<String>,
        data: &'a mut [T],
    ) -> &mut Self {
        self.push(name.into(), data, true)
    }

    /// Adds a tensor of `data_type` at any alignment, as [`tensor`](Self::tensor) or, where
    /// `allows_inequality`, as [`tensor_unequal`](Self::tensor_unequal) does. What is left behind
    /// the last whole element is no part of it.
    pub fn tensor_bytes(
        &mut self,
        name: impl Into<String>,
        data_type: DataType,
        bytes: &'a mut [u8],
        allows_inequality: bool,
    ) -> &mut Self {
        let count = bytes.len() / data_type.size_bytes();
        self.tensors.push(Tensor {
            name: name.into(),
            data_type,
            count: count as u64,
            bytes: &mut bytes[..count * data_type.size_bytes()],
            allows_inequality,
        });
        self
    }

    fn push<T: Element>(
        &mut self,
        name: String,
        data: &'a mut [T],
        allows_inequality: bool,
    ) -> &mut Self {
        self.tensor_bytes(name, T::DATA_TYPE, data.as_mut_bytes(), allows_inequality)
    }

    /// Names of the tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// What the master is shown. Costs one pass over all tensors.
    pub(super) fn present(
        &self,
        strategy: SyncStrategy,
        is_tainted: impl Fn(&str) -> bool,
    ) -> Presentation {
        let entries = self.tensors.iter().map(|tensor| Entry {
            name: tensor.name.clone(),
            data_type: tensor.data_type,
            count: tensor.count,
            digest: (!tensor.allows_inequality).then(|| digest(tensor.bytes)),
            tainted: is_tainted(&tensor.name),
        });
        Presentation {
            revision: self.revision,
            strategy,
            entries: entries.collect(),
        }
    }

    pub(super) fn memory(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.tensors.iter_mut().map(|tensor| &mut *tensor.bytes)
    }
}
