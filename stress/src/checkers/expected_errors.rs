//! A correct loop meets only the errors that faults bring, and those that speak of lost peers
//! name them.

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
const CALL: [&str; 2] = ["Evicted", "MasterLost"];

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    for line in &history.lines {
        let (class, expected): (&String, &[&str]) = match &line.event {
            Event::Failed { class, .. } => (class, &REDUCE),
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
