//! Operations on borrowed buffers that run beside each other, as threads do in
//! [`std::thread::scope`].
#![allow(
    unsafe_code,
    reason = "lends borrows of a scope to a book that is closed at its end"
)]

use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::Mutex;
use zerocopy::IntoBytes;

use super::completion::Completion;
use super::{Communicator, Element, ReduceOptions, ReduceReport, same_length};
use crate::engine::{Loans, with_loans};
use crate::error::CollectiveError;

/// Where operations on borrowed buffers are started. See [`Communicator::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    communicator: &'env Communicator,
    loans: &'scope Loans,
    started: &'scope Mutex<Vec<Arc<Completion>>>,
    // Invariant, so that neither lifetime can be shortened to let a borrow end early.
    _scope: PhantomData<&'scope mut &'scope ()>,
    _env: PhantomData<&'env mut &'env ()>,
}

/// An operation that was started in a [`Scope`]; it ends before the scope does, waited for or not.
#[derive(Debug)]
#[must_use = "its outcome says whether the buffer was reduced"]
pub struct ScopedReduction<'scope> {
    completion: Arc<Completion>,
    _scope: PhantomData<&'scope ()>,
}

impl ScopedReduction<'_> {
    /// Blocks until the operation is settled.
    pub fn wait(self) -> Result<ReduceReport, CollectiveError> {
        self.completion.wait()
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts what [`Communicator::all_reduce`] does.
    pub fn all_reduce<T: Element>(
        &'scope self,
        send: &'scope [T],
        recv: &'scope mut [T],
        options: &ReduceOptions,
    ) -> ScopedReduction<'scope> {
        if let Err(error) = same_length(send.len(), recv.len()) {
            let completion = Completion::new();
            completion.finish(Err(error));
            return ScopedReduction {
                completion,
                _scope: PhantomData,
            };
        }
        // SAFETY: both are borrowed for 'scope, which ends after `with_loans` has returned.
        let buffers = unsafe { self.loans.lend(send.as_bytes(), recv.as_mut_bytes()) };
        self.note(self.communicator.start::<T>(&buffers, options))
    }

    /// Starts what [`Communicator::all_reduce_in_place`] does.
    pub fn all_reduce_in_place<T: Element>(
        &'scope self,
        buffer: &'scope mut [T],
        options: &ReduceOptions,
    ) -> ScopedReduction<'scope> {
        // SAFETY: as above.
        let buffers = unsafe { self.loans.lend_in_place(buffer.as_mut_bytes()) };
        self.note(self.communicator.start::<T>(&buffers, options))
    }

    fn note(&self, completion: Arc<Completion>) -> ScopedReduction<'scope> {
        self.started.lock().push(completion.clone());
        ScopedReduction {
            completion,
            _scope: PhantomData,
        }
    }
}

impl std::fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

pub(super) fn run<'env, R>(
    communicator: &'env Communicator,
    work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
) -> R {
    let started = Mutex::new(Vec::<Arc<Completion>>::new());
    let settle = || {
        // None can be added any more: `work` is over.
        for completion in started.lock().iter() {
            let _ = completion.wait();
        }
    };
    with_loans(settle, |loans| {
        let scope = Scope {
            communicator,
            loans,
            started: &started,
            _scope: PhantomData,
            _env: PhantomData,
        };
        work(&scope)
    })
}
