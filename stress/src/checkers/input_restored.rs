//! After a failure the caller's input is as it was.

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let damaged = history.lines.iter().filter_map(|line| match &line.event {
        Event::Failed {
            input_damage: Some(damage),
            ..
        } => Some((format!("{}: {damage}", line.who), vec![line.clone()])),
        _ => None,
    });
    damaged.collect()
}
