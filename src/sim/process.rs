//! A process of the world: a runtime of its own whose clock stands still unless the world runs it.
//!
//! The runtime is tokio's, on the world's one thread, with a paused clock: while its tasks have
//! something to do, no time passes; when they all wait, the clock jumps to the next timer, but never
//! past the moment that the world allows. So one process after the other runs through the same few
//! milliseconds.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep, sleep_until};

use super::history::{ProcessId, WorldTime};
use super::network::Machine;

const MS: Duration = Duration::from_millis(1);

/// Parts in a million.
const MILLION: i64 = 1_000_000;

pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) machine: Machine,
    pub(super) state: State,
    runtime: Option<Runtime>,
    born: WorldTime,
    /// The process's own time when it was born, and up to when it has run.
    start: Instant,
    ran_until: Instant,
    /// How much faster its clock runs than the world's.
    drift_ppm: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Frozen,
    Dead,
}

impl Process {
    /// A process that begins with `main`, or says why the system has no runtime for it.
    pub(super) fn start<F>(
        id: ProcessId,
        machine: Machine,
        born: WorldTime,
        drift_ppm: i64,
        main: F,
    ) -> std::io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        // The first moment of its own clock, which stands still.
        let start = runtime.block_on(async { sleep(Duration::ZERO).deadline() });
        drop(runtime.spawn(main));
        Ok(Self {
            id,
            machine,
            state: State::Running,
            runtime: Some(runtime),
            born,
            start,
            ran_until: start,
            drift_ppm,
        })
    }

    /// Its own time at a moment of the world.
    fn local(&self, now: WorldTime) -> Instant {
        let age_ms = now.ms().saturating_sub(self.born.ms());
        let drift_ms = age_ms as i64 * self.drift_ppm / MILLION;
        self.start + Duration::from_millis(age_ms.saturating_add_signed(drift_ms))
    }

    /// Runs until its own clock shows what it has at `now`, and at least a millisecond: then
    /// everything that was woken has run.
    pub(super) fn run_until(&mut self, now: WorldTime) {
        if self.state != State::Running {
            return;
        }
        let target = self.local(now).max(self.ran_until + MS);
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async { sleep_until(target).await });
        }
        self.ran_until = target;
    }

    pub(super) fn freeze(&mut self) {
        if self.state == State::Running {
            self.state = State::Frozen;
        }
    }

    /// Goes on: all that was due meanwhile is due at once.
    pub(super) fn thaw(&mut self, now: WorldTime) {
        if self.state != State::Frozen {
            return;
        }
        self.state = State::Running;
        let missed = self.local(now).saturating_duration_since(self.ran_until);
        if let Some(runtime) = &self.runtime
            && missed > MS
        {
            runtime.block_on(advance(missed - MS));
            self.ran_until += missed - MS;
        }
    }

    /// Ends it in the middle of whatever it does.
    pub(super) fn kill(&mut self) {
        self.state = State::Dead;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state != State::Dead
    }
}
