//! Nobody loses its place, or is named as lost, to whom nothing was done; and no joiner is turned
//! away to whom nothing was done.

use std::collections::BTreeSet;

use crate::event::{Event, Line};
use crate::history::History;

/// Each membership once, however many were told that it is over.
pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for line in &history.lines {
        let mut judge = |id: Option<u64>, label: &str, what: &str| {
            let is_new = id.is_none_or(|id| seen.insert(id));
            if is_new && !history.was_hurt(label, line.at_us) {
                let text = format!("{label} {what} for nothing{}", held(history, label));
                found.push((text, vec![line.clone()]));
            }
        };
        match &line.event {
            Event::Gone { id, .. } => judge(Some(*id), &line.who, "lost its place"),
            // A newcomer goes where one that is in the run cannot be reached.
            Event::NotConnected { error } => {
                let named = error.split('"').skip(1).step_by(2);
                let is_of_others = error.contains("no link can be made")
                    && named
                        .into_iter()
                        .any(|label| history.was_hurt(label, line.at_us));
                if !is_of_others {
                    judge(None, &line.who, "was turned away");
                }
            }
            Event::Failed { lost, .. } => {
                for lost in lost {
                    judge(Some(lost.id), &lost.label, "is named as lost");
                }
            }
            _ => {}
        }
    }
    found
}

/// What was done to it, though not for long enough.
fn held(history: &History, label: &str) -> String {
    let holds = history
        .processes
        .get(label)
        .map(|process| &process.holds[..]);
    let holds = holds.unwrap_or_default().iter().map(|hold| {
        let how = hold.cut.as_deref().unwrap_or("stopped");
        let for_ms = hold.to_us.saturating_sub(hold.from_us) / 1000;
        format!("{how} from {} for {for_ms} ms", hold.from_us)
    });
    match holds.collect::<Vec<_>>() {
        holds if holds.is_empty() => String::new(),
        holds => format!(" (held: {})", holds.join(", ")),
    }
}
