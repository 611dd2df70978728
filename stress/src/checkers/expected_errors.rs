//! A correct loop meets only the errors that faults bring; those that speak of lost peers name
//! them; and nothing is aborted for no reason.

use std::collections::BTreeSet;

use crate::event::{Event, Line};
use crate::history::History;

/// How long after a blow something may be aborted for it: a peer that is cut off is told of what
/// happened meanwhile when it is heard again.
const AFTERMATH_US: u64 = 15_000_000;

/// What a lost peer, or the loss of this peer, may bring.
const REDUCE: [&str; 6] = [
    "PeersLost",
    "Aborted",
    "TooFewPeers",
    "Evicted",
    "MasterLost",
    "NoMajority",
];
const SYNC: [&str; 4] = ["Aborted", "Evicted", "MasterLost", "NoMajority"];
/// The same for a newcomer, whose run may be lost before it was given anything.
const FIRST_SYNC: [&str; 5] = [
    "Aborted",
    "Evicted",
    "MasterLost",
    "NoMajority",
    "NoCleanState",
];
const CALL: [&str; 3] = ["Evicted", "MasterLost", "NoMajority"];

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
        if class == "Aborted" && !is_explained(history, line) {
            let text = format!("{} is told of an abort that nothing explains", line.who);
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

/// Whether something happened, during the call or not long before it, that may end it.
fn is_explained(history: &History, line: &Line) -> bool {
    let took_us = match line.event {
        Event::Failed { took_us, .. } | Event::SyncFailed { took_us, .. } => took_us,
        _ => 0,
    };
    let from_us = line.at_us.saturating_sub(took_us + AFTERMATH_US);
    let during = |other: &&Line| (from_us..=line.at_us).contains(&other.at_us);
    history.lines.iter().filter(during).any(|other| {
        matches!(
            other.event,
            Event::Killed
                | Event::Stopped { .. }
                | Event::Continued
                | Event::Cut { .. }
                | Event::Mended { .. }
                | Event::AskedToLeave
                | Event::Ended { .. }
                | Event::Gone { .. }
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Bounds;
    use crate::profile::Profile;

    fn found(blow_at_us: Option<u64>) -> usize {
        let line = |at_us, who: &str, event| Line {
            at_us,
            who: who.to_owned(),
            event,
        };
        let aborted = Event::SyncFailed {
            class: "Aborted".to_owned(),
            error: "aborted".to_owned(),
            took_us: 10,
        };
        let blow = blow_at_us.map(|at_us| line(at_us, "p2", Event::Killed));
        let lines = blow.into_iter().chain([line(60_000_000, "p1", aborted)]);
        check(&History::of(lines.collect(), Bounds::of(Profile::Default))).len()
    }

    #[test]
    fn an_abort_is_expected_after_a_blow_only() {
        assert_eq!(found(Some(59_000_000)), 0);
        assert_eq!(found(Some(1_000_000)), 1);
        assert_eq!(found(None), 1);
    }
}
