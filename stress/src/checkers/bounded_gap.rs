//! As long as two peers are unhurt the run makes progress; where it has ended, with most of them and their
//! master, another one begins once those who are left have waited for it in vain.

use crate::event::{Event, Line};
use crate::history::History;

pub(super) fn check(history: &History) -> Vec<(String, Vec<Line>)> {
    let mut found = Vec::new();
    for (before, after) in gaps(history) {
        let until_us = after.map_or(history.finishing_us, |line| line.at_us);
        let mut gap_us = until_us.saturating_sub(before.at_us);
        if after.is_some_and(|after| lineage(after) != lineage(before)) {
            // A stop postpones the end of a peer's patience with the master.
            let stopped_us = history.longest_stopped_us(before.at_us, until_us);
            gap_us = gap_us.saturating_sub(stopped_us);
        }
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
    lineage(line).is_some()
}

fn lineage(line: &Line) -> Option<u64> {
    match &line.event {
        Event::Committed { work, .. } => Some(work.lineage),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Work;
    use crate::history::Bounds;
    use crate::profile::Profile;

    fn line(at_s: u64, event: Event) -> Line {
        Line {
            at_us: at_s * 1_000_000,
            who: "p1".to_owned(),
            event,
        }
    }

    fn committed(at_s: u64, lineage: u64) -> Line {
        let work = Work {
            lineage,
            step: 0,
            tag: 0,
        };
        line(
            at_s,
            Event::Committed {
                work,
                id: 1,
                attempt: 1,
                epoch: String::new(),
                contributors: Vec::new(),
                world: 2,
                digest: 0,
                wrong: None,
                took_us: 1,
            },
        )
    }

    #[test]
    fn a_stop_excuses_a_gap_only_where_the_run_ended() {
        for (lineage, is_excused) in [(1, false), (2, true)] {
            let stop = line(12, Event::Stopped { for_ms: 6000 });
            let end = line(40, Event::Finishing);
            let lines = vec![committed(10, 1), stop, committed(35, lineage), end];
            let history = History::of(lines, Bounds::of(Profile::Default));
            assert_eq!(check(&history).is_empty(), is_excused);
        }
    }
}
