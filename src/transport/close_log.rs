//! One log line for each connection that is closed, until there are too many: then one line a
//! second that counts them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Says who was closed and why. Whoever owns it calls [`flush`](Self::flush) once
/// [`due`](Self::due) has come.
pub(super) struct CloseLog {
    /// When the current second began.
    started: Instant,
    /// Closed in it, with and without a line.
    closed: usize,
    /// The last one that got no line.
    last_unnamed: Option<(SocketAddr, String)>,
}

impl CloseLog {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            closed: 0,
            last_unnamed: None,
        }
    }

    /// Notes that the connection from `from` was closed because of `reason`.
    pub(super) fn closed(&mut self, from: SocketAddr, reason: String) {
        if self.started.elapsed() >= SECOND {
            self.flush();
        }
        self.closed += 1;
        if self.closed <= LINES_PER_SECOND {
            tracing::info!(%from, reason, "closed a connection that did not greet properly");
        } else {
            self.last_unnamed = Some((from, reason));
        }
    }

    /// When the count of those that got no line is to be said, if there are any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.last_unnamed.as_ref().map(|_| self.started + SECOND)
    }

    /// Says the count, and begins the next second.
    pub(super) fn flush(&mut self) {
        if let Some((from, reason)) = self.last_unnamed.take() {
            let more = self.closed - LINES_PER_SECOND;
            tracing::warn!(
                more,
                last_from = %from,
                last_reason = reason,
                "closed many connections that did not greet properly"
            );
        }
        self.started = Instant::now();
        self.closed = 0;
    }
}

const SECOND: Duration = Duration::from_secs(1);
const LINES_PER_SECOND: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beyond_ten_a_second_they_are_only_counted() {
        let from = "127.0.0.1:1".parse().unwrap();
        let mut log = CloseLog::new();
        for _ in 0..LINES_PER_SECOND {
            log.closed(from, "garbage".into());
        }
        assert_eq!(log.due(), None);
        log.closed(from, "garbage".into());
        let due = log.due().unwrap();
        assert_eq!(due, Instant::now() + SECOND);

        tokio::time::advance(SECOND).await;
        log.closed(from, "garbage".into());
        assert_eq!((log.closed, log.due()), (1, None));
    }
}
