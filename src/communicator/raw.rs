//! The face for callers that hold raw pointers, such as a C ABI.
#![allow(unsafe_code, reason = "the caller vouches for the memory")]

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::completion::Completion;
use super::{Communicator, ReduceOptions, ReduceReport};
use crate::engine::UserMemory;
use crate::error::CollectiveError;
use crate::types::DataType;

/// An all-reduce in flight on memory that its starter vouches for.
///
/// Dropped or leaked, the operation goes on and the memory stays in use: nothing tells then when
/// it is free again.
#[must_use = "the memory is in use until it is waited for"]
pub struct RawReduction {
    completion: Arc<Completion>,
    buffers: Arc<UserMemory>,
}

impl Communicator {
    /// Starts to combine `count` elements at `send` into `recv`; in place if the two are one.
    ///
    /// # Safety
    ///
    /// Until the [`RawReduction`] was waited for, or was ready:
    /// * `send` is valid for reads and `recv` for writes of `count` elements of `data_type`; no
    ///   alignment is asked for;
    /// * the two are the same address or do not overlap;
    /// * nobody else writes to either, or reads from `recv`.
    pub unsafe fn start_all_reduce_raw(
        &self,
        send: *const u8,
        recv: *mut u8,
        count: usize,
        data_type: DataType,
        options: &ReduceOptions,
    ) -> RawReduction {
        let len_bytes = count.saturating_mul(data_type.size_bytes());
        // SAFETY: the caller's promise.
        let buffers = unsafe { UserMemory::new(send, recv, len_bytes, None) };
        let completion = self.start_elements(&buffers, count, data_type, options);
        RawReduction {
            completion,
            buffers,
        }
    }
}

impl RawReduction {
    /// Blocks until the operation is settled and nobody touches the memory any more.
    pub fn wait(self) -> Result<ReduceReport, CollectiveError> {
        let result = self.completion.wait();
        self.buffers.take_back();
        result
    }
}

impl Future for RawReduction {
    type Output = Result<ReduceReport, CollectiveError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(self.completion.poll(context));
        self.buffers.take_back();
        Poll::Ready(result)
    }
}

impl std::fmt::Debug for RawReduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawReduction").finish_non_exhaustive()
    }
}
