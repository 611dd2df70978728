//! An operation that owns its buffer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::completion::Completion;
use super::{Communicator, Element, ReduceOptions, ReduceReport};
use crate::engine::OwnedVec;
use crate::error::CollectiveError;

/// An all-reduce in flight on a buffer of its own: a future, and something to wait for.
///
/// Gives the buffer back with the result: the combined values, or the input as it was. Dropped or
/// leaked, the operation goes on and the memory stays alive for as long as it is used.
#[must_use = "dropping it loses the buffer"]
pub struct Reduction<T> {
    completion: Arc<Completion>,
    buffer: Option<OwnedVec<T>>,
}

impl<T: Element> Reduction<T> {
    pub(super) fn start(
        communicator: &Communicator,
        buffer: Vec<T>,
        options: &ReduceOptions,
    ) -> Self {
        let buffer = OwnedVec::new(buffer);
        let completion = communicator.start::<T>(buffer.memory(), options);
        Self {
            completion,
            buffer: Some(buffer),
        }
    }

    /// Blocks until the operation is settled.
    pub fn wait(mut self) -> (Vec<T>, Result<ReduceReport, CollectiveError>) {
        let result = self.completion.wait();
        (self.take(), result)
    }

    fn take(&mut self) -> Vec<T> {
        self.buffer
            .take()
            .map(OwnedVec::take_back)
            .unwrap_or_default()
    }
}

/// The buffer and the result. After it was ready once, further polls give an empty buffer.
impl<T: Element> Future for Reduction<T> {
    type Output = (Vec<T>, Result<ReduceReport, CollectiveError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.completion.poll(context));
        Poll::Ready((self.take(), result))
    }
}

impl<T> Unpin for Reduction<T> {}

impl<T> std::fmt::Debug for Reduction<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reduction").finish_non_exhaustive()
    }
}
