//! The clock that the state machines are told.

use std::time::Duration;

use tokio::time::Instant;

use crate::types::Timestamp;

/// Counts from its own making. Tokio's clock, so that tests can pause it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_start(self.start.elapsed())
    }

    pub(super) fn instant(&self, timestamp: Timestamp) -> Instant {
        // A day is for ever as long as every tick asks again.
        const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);
        self.start + timestamp.since_start().min(self.start.elapsed() + FOREVER)
    }
}
