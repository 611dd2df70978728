//! Nobody loses its place, or is named as lost, to whom nothing was done; and no joiner is turned
//! away to whom nothing was done.

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    for line in &history.lines {
        match &line.event {
            Event::Gone { .. } | Event::NotConnected { .. }
                if !history.was_hurt(&line.who, line.at_us) =>
            {
                let text = format!("{} lost its place for nothing", line.who);
                found.push((text, vec![line.clone()]));
            }
            Event::Failed { lost, .. } => {
                for lost in lost {
                    if !history.was_hurt(&lost.label, line.at_us) {
                        let text = format!("{} is named as lost for nothing", lost.label);
                        found.push((text, vec![line.clone()]));
                    }
                }
            }
            _ => {}
        }
    }
    found
}
