//! A correct loop meets only the errors that faults bring, and those that speak of lost peers
//! name them.

use std::collections::BTreeSet;

use crate::event::{Event, Line};
use crate::history::History;

/// What a lost peer, or the loss of this peer, may bring.
const REDUCE: [&str; 5] = [
    "PeersLost",
    "Aborted",
    "TooFewPeers",
    "Evicted",
    "MasterLost",
];
const SYNC: [&str; 3] = ["Aborted", "Evicted", "MasterLost"];
/// The same for a newcomer, whose run may be lost before it was given anything.
const FIRST_SYNC: [&str; 4] = ["Aborted", "Evicted", "MasterLost", "NoCleanState"];
const CALL: [&str; 2] = ["Evicted", "MasterLost"];

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    let mut synced = BTreeSet::new();
    for line in &history.lines {
        match line.event {
            Event::Synced { .. } => {
                synced.insert(&line.who);
            }
            Event::Connecting => {
                synced.remove(&line.who);
            }
            _ => {}
        }
        let (class, expected): (&String, &[&str]) = match &line.event {
            Event::Failed { class, .. } => (class, &REDUCE),
            Event::SyncFailed { class, .. } if !synced.contains(&line.who) => (class, &FIRST_SYNC),
            Event::SyncFailed { class, .. } => (class, &SYNC),
            Event::CallFailed { class, .. } => (class, &CALL),
            _ => continue,
        };
        if !expected.contains(&class.as_str()) {
            let text = format!("{} met {class}", line.who);
            found.push((text, vec![line.clone()]));
        }
        if let Event::Failed { lost, .. } = &line.event
            && class == "PeersLost"
            && lost.is_empty()
        {
            let text = format!("{} is told of lost peers without a name", line.who);
            found.push((text, vec![line.clone()]));
        }
    }
    found
}
