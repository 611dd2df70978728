//! The end of one operation, for a thread that blocks, a task that awaits, or both.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use super::ReduceReport;
use crate::driver::{Respond, Response};
use crate::error::{CollectiveError, Gone};
use crate::protocol::peer::Reply;

pub(super) type Outcome = Result<ReduceReport, CollectiveError>;

/// What the driver calls with the answer to an all-reduce. Dropped without a call, the loop has
/// ended: closed.
pub(super) fn respond(finish: impl FnOnce(Outcome) + Send + 'static) -> Respond {
    struct Finish<F: FnOnce(Outcome)>(Option<F>);
    impl<F: FnOnce(Outcome)> Finish<F> {
        fn finish(&mut self, outcome: Outcome) {
            if let Some(finish) = self.0.take() {
                finish(outcome);
            }
        }
    }
    impl<F: FnOnce(Outcome)> Drop for Finish<F> {
        fn drop(&mut self) {
            self.finish(Err(Gone::Closed.into()));
        }
    }
    let mut finish = Finish(Some(finish));
    Box::new(move |response| {
        let Response {
            reply: Reply::AllReduce(result),
            traffic,
            ..
        } = response
        else {
            return;
        };
        finish.finish(result.map(|contributors| ReduceReport {
            world_size: u32::try_from(contributors.len()).unwrap_or(u32::MAX),
            contributors,
            tx_bytes: traffic.tx_bytes,
            rx_bytes: traffic.rx_bytes,
        }));
    })
}

/// Finished once; read by as many as want to.
#[derive(Debug, Default)]
pub(super) struct Completion {
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Completion {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What the driver calls.
    pub(super) fn responder(self: &Arc<Self>) -> Respond {
        let completion = self.clone();
        respond(move |outcome| completion.finish(outcome))
    }

    /// The first outcome counts.
    pub(super) fn finish(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        self.finished.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn wait(&self) -> Outcome {
        let mut state = self.state.lock();
        loop {
            match &state.outcome {
                Some(outcome) => return outcome.clone(),
                None => self.finished.wait(&mut state),
            }
        }
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.state.lock();
        match &state.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
