//! What committed for one peer committed for all, with the same contributors and the same bits.

use std::collections::BTreeMap;

use crate::event::{Event, Line, Work};
use crate::history::History;

/// A peer that was told nothing by then is not asked: the end of the run cut it short.
const GRACE_US: u64 = 5_000_000;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut commits: BTreeMap<Work, Vec<&Line>> = BTreeMap::new();
    for line in &history.lines {
        if let Event::Committed { work, .. } = &line.event {
            commits.entry(*work).or_default().push(line);
        }
    }
    let mut found = Vec::new();
    for (work, lines) in &commits {
        let mut ids = Vec::new();
        for line in lines {
            if outcome(line) != outcome(lines[0]) {
                let text = format!("{work:?} has two outcomes");
                found.push((text, vec![lines[0].clone(), (*line).clone()]));
            }
            if let Event::Committed { id, .. } = line.event {
                if ids.contains(&id) {
                    found.push((
                        format!("{work:?} committed twice for {}", line.who),
                        vec![(*line).clone()],
                    ));
                }
                ids.push(id);
            }
        }
        found.extend(untold(history, lines[0], &ids));
    }
    found
}

fn outcome(line: &Line) -> Option<(&[u64], u64)> {
    match &line.event {
        Event::Committed {
            contributors,
            digest,
            ..
        } => Some((contributors, *digest)),
        _ => None,
    }
}

/// Contributors that live on and were never told that it committed.
fn untold(history: &History, line: &Line, told: &[u64]) -> Vec<(String, Vec<Line>)> {
    let contributors = outcome(line).map_or(&[][..], |(contributors, _)| contributors);
    let untold = contributors.iter().filter(|id| !told.contains(id));
    untold
        .filter_map(|id| {
            let membership = history.membership(*id, line.at_us)?;
            let lives = membership.to_us.is_none()
                || membership
                    .to_us
                    .is_some_and(|to| to > line.at_us + GRACE_US);
            let label = &membership.label;
            let is_late = line.at_us + GRACE_US < history.finishing_us
                && !history.was_held(label, line.at_us.saturating_sub(GRACE_US), u64::MAX);
            let text = format!("{label} contributed and was never told that it committed");
            (lives && is_late).then(|| (text, vec![line.clone()]))
        })
        .collect()
}
