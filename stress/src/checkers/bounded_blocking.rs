//! No call takes longer than faults can hold it up, those that never returned among them.

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    for line in &history.lines {
        let (call, took_us) = match &line.event {
            Event::Committed { took_us, .. } | Event::Failed { took_us, .. } => {
                ("all_reduce", *took_us)
            }
            Event::SyncFailed { took_us, .. } => ("sync_shared_state", *took_us),
            Event::Connected { took_us, .. } => ("connect", *took_us),
            Event::CallFailed { call, took_us, .. } | Event::StillIn { call, took_us } => {
                (call.as_str(), *took_us)
            }
            _ => continue,
        };
        let from_us = line.at_us.saturating_sub(took_us);
        let stopped_us = history.stopped_us(&line.who, from_us, line.at_us);
        if took_us.saturating_sub(stopped_us) > history.bounds.patience_us {
            let verb = match line.event {
                Event::StillIn { .. } => "has not returned after",
                _ => "took",
            };
            let text = format!("{call} of {} {verb} {} ms", line.who, took_us / 1000);
            found.push((text, vec![line.clone()]));
        }
    }
    found
}
