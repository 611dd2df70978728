//! No call takes longer than faults can hold it up.

use crate::event::{Event, Line};
use crate::history::History;

/// Several silent peers after each other, each 3 s until it is evicted; and a wiring that fails.
const LIMIT_MS: u64 = 20_000;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    for line in &history.lines {
        let took_ms = match line.event {
            Event::Committed { took_ms, .. }
            | Event::Failed { took_ms, .. }
            | Event::CallFailed { took_ms, .. }
            | Event::SyncFailed { took_ms, .. }
            | Event::Connected { took_ms, .. } => took_ms,
            _ => continue,
        };
        let from_us = line.at_us.saturating_sub(took_ms * 1000);
        let stopped_ms = history.stopped_us(&line.who, from_us, line.at_us) / 1000;
        if took_ms.saturating_sub(stopped_ms) > LIMIT_MS {
            let text = format!("a call of {} took {took_ms} ms", line.who);
            found.push((text, vec![line.clone()]));
        }
    }
    found
}
