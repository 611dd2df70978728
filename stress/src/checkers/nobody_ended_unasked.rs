//! Processes end when they are killed or asked to, and then they do.

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    for (label, process) in &history.processes {
        match &process.ended {
            Some(line) => {
                let was_asked = process
                    .asked_to_leave_us
                    .is_some_and(|asked| asked <= line.at_us);
                if !was_asked || !matches!(line.event, Event::Ended { success: true, .. }) {
                    found.push((format!("{label} ended by itself"), vec![line.clone()]));
                }
            }
            None if process.asked_to_leave_us.is_some() && process.killed_us.is_none() => {
                let last =
                    history.lines.iter().rev().find(|line| {
                        line.who == *label && !matches!(line.event, Event::AskedToLeave)
                    });
                let text = format!("{label} was asked to leave and hangs");
                found.push((text, last.cloned().into_iter().collect()));
            }
            None => {}
        }
    }
    found
}
