//! As long as two peers are unhurt the run makes progress.

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    for (before, after) in gaps(history) {
        let until_us = after.map_or(history.finishing_us, |line| line.at_us);
        let gap_us = until_us.saturating_sub(before.at_us);
        if gap_us > history.bounds.patience_us {
            let text = format!("nothing committed for {} ms", gap_us / 1000);
            let evidence = [Some(before), after].into_iter().flatten().cloned();
            found.push((text, evidence.collect()));
        }
    }
    if !history.lines.iter().any(is_commit) {
        found.push(("nothing ever committed".to_owned(), Vec::new()));
    }
    found
}

/// Each commit with the one that follows, the last one with nothing.
pub(crate) fn gaps(history: &History) -> impl Iterator<Item = (&Line, Option<&Line>)> {
    let is_early = |line: &&Line| line.at_us <= history.finishing_us;
    let commits = || {
        history
            .lines
            .iter()
            .filter(|line| is_commit(line))
            .filter(is_early)
    };
    let following = commits().skip(1).map(Some).chain([None]);
    commits().zip(following)
}

fn is_commit(line: &Line) -> bool {
    matches!(line.event, Event::Committed { .. })
}
