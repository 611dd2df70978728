//! A result is exactly the sum over the contributors that its report names.

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let wrong = history.lines.iter().filter_map(|line| match &line.event {
        Event::Committed {
            wrong: Some(wrong), ..
        } => Some((format!("{}: {wrong}", line.who), vec![line.clone()])),
        Event::Committed {
            contributors, id, ..
        } if !contributors.contains(id) => {
            let text = format!("{} is told a sum without its own input", line.who);
            Some((text, vec![line.clone()]))
        }
        _ => None,
    });
    wrong.collect()
}
