//! After a sync all hold the same state; revisions advance one by one; and who was there for the
//! last one receives nothing.

use std::collections::BTreeMap;

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    let mut states: BTreeMap<(u64, u64), &Line> = BTreeMap::new();
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    for line in &history.lines {
        let Event::Synced {
            lineage,
            revision,
            rx_bytes,
            is_veteran,
            ..
        } = line.event
        else {
            continue;
        };
        let first = states.entry((lineage, revision)).or_insert(line);
        if state(first) != state(line) {
            let text = format!("two states at revision {revision}");
            found.push((text, vec![(*first).clone(), line.clone()]));
        }
        if is_veteran && rx_bytes > 0 {
            let text = format!("{} had drifted from the others", line.who);
            found.push((text, vec![line.clone()]));
        }
        let newest = newest.entry(lineage).or_insert(revision);
        if revision > *newest + 1 {
            let text = format!("revision {revision} follows {newest}");
            found.push((text, vec![line.clone()]));
        }
        *newest = revision.max(*newest);
    }
    found
}

fn state(line: &Line) -> Option<(u64, u64)> {
    match line.event {
        Event::Synced { step, digest, .. } => Some((step, digest)),
        _ => None,
    }
}
