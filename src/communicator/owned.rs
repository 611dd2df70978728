//! The async face for simulated programs: plain bytes of any element type, owned by the call, and
//! nothing that blocks the thread.

use std::sync::Arc;

use super::completion::Outcome;
use super::{Communicator, ReduceOptions, SharedState, SyncReport};
use crate::engine::{OwnedPair, OwnedVec, UserMemory};
use crate::error::SyncError;
use crate::protocol::peer::Command;
use crate::shared_state::SyncStrategy;
use crate::types::{DataType, Revision};

/// A tensor of a simulated program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedTensor {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) allows_inequality: bool,
}

/// The buffers of an all-reduce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnedBuffers {
    InPlace(Vec<u8>),
    Apart { send: Vec<u8>, recv: Vec<u8> },
}

/// Is shown all memory that is lent.
pub(crate) type Lent<'a> = &'a (dyn Fn(&Arc<UserMemory>) + Send + Sync);

impl Communicator {
    /// An all-reduce that gives its buffers back.
    pub(crate) async fn all_reduce_owned(
        &self,
        buffers: OwnedBuffers,
        data_type: DataType,
        options: &ReduceOptions,
        lent: Lent<'_>,
    ) -> (OwnedBuffers, Outcome) {
        match buffers {
            OwnedBuffers::InPlace(buffer) => {
                let owned = OwnedVec::new(buffer);
                lent(owned.memory());
                let outcome = self.reduce_bytes(owned.memory(), data_type, options).await;
                (OwnedBuffers::InPlace(owned.take_back()), outcome)
            }
            OwnedBuffers::Apart { send, recv } => {
                let owned = OwnedPair::new(send, recv);
                lent(owned.memory());
                let outcome = self.reduce_bytes(owned.memory(), data_type, options).await;
                let (send, recv) = owned.take_back();
                (OwnedBuffers::Apart { send, recv }, outcome)
            }
        }
    }

    async fn reduce_bytes(
        &self,
        memory: &Arc<UserMemory>,
        data_type: DataType,
        options: &ReduceOptions,
    ) -> Outcome {
        let count = memory.len_bytes() / data_type.size_bytes();
        let completion = self.start_elements(memory, count, data_type, options);
        std::future::poll_fn(|context| completion.poll(context)).await
    }

    /// A sync that gives its tensors back.
    pub(crate) async fn sync_owned(
        &self,
        revision: Revision,
        mut tensors: Vec<OwnedTensor>,
        lent: Lent<'_>,
    ) -> (Vec<OwnedTensor>, Result<SyncReport, SyncError>) {
        let mut state = SharedState::new();
        state.revision = revision;
        for tensor in &mut tensors {
            if tensor.allows_inequality {
                state.tensor_unequal(tensor.name.clone(), &mut tensor.bytes[..]);
            } else {
                state.tensor(tensor.name.clone(), &mut tensor.bytes[..]);
            }
        }
        let presentation = self.present(&state, SyncStrategy::EnforcePopular);
        let names: Vec<String> = state.names().map(str::to_owned).collect();
        drop(state);
        let owned: Vec<OwnedVec<u8>> = tensors
            .iter_mut()
            .map(|tensor| OwnedVec::new(std::mem::take(&mut tensor.bytes)))
            .collect();
        let memory: Vec<Arc<UserMemory>> = owned.iter().map(|o| o.memory().clone()).collect();
        memory.iter().for_each(lent);
        let result = self.sync_memory(presentation, &names, &memory).await;
        for (tensor, owned) in tensors.iter_mut().zip(owned) {
            tensor.bytes = owned.take_back();
        }
        (tensors, result)
    }

    /// As [`cancel`](Self::cancel).
    pub(crate) async fn cancel_async(&self) {
        let _ = self.membership(Command::Cancel).await;
    }

    /// As [`close`](Self::close).
    pub(crate) async fn close_async(&self) {
        let _ = self.membership(Command::Close).await;
    }
}
