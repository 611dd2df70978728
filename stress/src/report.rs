//! What a run was put through and how it took it, in numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::checkers::Violation;
use crate::event::{Event, Line};
use crate::history::History;

/// Lines of evidence shown for each violation, and violations shown of each checker.
const SHOWN_MAX: usize = 10;

/// Whoever was held until so long before a kill has been heard again by then.
const CALM_US: u64 = 1_000_000;

#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    steps: usize,
    operations: usize,
    /// Runs that began from nothing; more than one means that everybody was lost.
    lineages: usize,
    /// Of peers.
    kills: usize,
    master_kills: usize,
    stops: usize,
    cuts: usize,
    /// Processes that were started.
    starts: usize,
    /// How often a peer was accepted into the run.
    joins: usize,
    leaves: usize,
    /// How often a member was lost or evicted, by the reason that was given.
    evictions: BTreeMap<String, usize>,
    /// Of peers that were never killed, nor stopped or cut off for longer than the bound. None may
    /// be.
    wrong_evictions: usize,
    /// Processes that ended, or did not when asked to. None may be.
    ended_unasked: usize,
    longest_gap_ms: u64,
    /// For how much of it somebody was stopped or cut off.
    longest_gap_held_ms: u64,
    /// From a kill to the next all-reduce that survivors committed without the dead.
    recovery_median_ms: u64,
    recovery_max_ms: u64,
    /// The same of kills up to whose recovery nobody was stopped or cut off.
    calm_recovery_median_ms: u64,
    calm_recovery_max_ms: u64,
    /// Errors that calls ended with, by class.
    errors: BTreeMap<String, usize>,
    /// What evicted peers were told, and what others were told of lost ones.
    reasons: BTreeMap<String, usize>,
    /// The longest calls that failed and that committed.
    longest_failed_ms: u64,
    longest_committed_ms: u64,
    violations: &'a [Violation],
}

impl<'a> Report<'a> {
    pub(crate) fn new(history: &History, violations: &'a [Violation]) -> Self {
        let count = |is: fn(&Event) -> bool| {
            let events = history.lines.iter().map(|line| &line.event);
            events.filter(|event| is(event)).count()
        };
        let of_checker = |name: &str| {
            let by_name = violations.iter().filter(|found| found.checker == name);
            by_name.count()
        };
        let is_master_kill =
            |line: &&Line| line.who == "master" && matches!(line.event, Event::Killed);
        let master_kills = history.lines.iter().filter(is_master_kill).count();
        let mut works = BTreeSet::new();
        let mut errors = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        let (mut longest_failed_ms, mut longest_committed_ms) = (0, 0);
        let add =
            |map: &mut BTreeMap<String, usize>, key: String| *map.entry(key).or_insert(0) += 1;
        for line in &history.lines {
            match &line.event {
                Event::Committed { work, took_us, .. } => {
                    works.insert(*work);
                    longest_committed_ms = longest_committed_ms.max(*took_us / 1000);
                }
                Event::Failed {
                    class,
                    lost,
                    took_us,
                    error,
                    ..
                } => {
                    add(&mut errors, format!("all_reduce: {class}"));
                    longest_failed_ms = longest_failed_ms.max(*took_us / 1000);
                    for lost in lost {
                        add(&mut reasons, format!("lost: {}", numberless(&lost.reason)));
                    }
                    if class == "Aborted" {
                        add(&mut reasons, numberless(error));
                    }
                }
                Event::SyncFailed { class, error, .. } => {
                    add(&mut errors, format!("sync_shared_state: {class}"));
                    if class == "Aborted" {
                        add(&mut reasons, numberless(error));
                    }
                }
                Event::CallFailed { call, class, .. } => {
                    add(&mut errors, format!("{call}: {class}"))
                }
                Event::Gone { error, .. } | Event::NotConnected { error } => {
                    add(&mut reasons, numberless(error));
                }
                _ => {}
            }
        }
        let steps: BTreeSet<_> = works.iter().map(|work| (work.lineage, work.step)).collect();
        let lineages: BTreeSet<u64> = works.iter().map(|work| work.lineage).collect();
        let (recovery_median_ms, recovery_max_ms) = middle_and_last_ms(recoveries(history));
        let is_calm = |&(from, to): &(u64, u64)| {
            history.anybody_held_us(from.saturating_sub(CALM_US), to) == 0
        };
        let (calm_recovery_median_ms, calm_recovery_max_ms) =
            middle_and_last_ms(recoveries(history).filter(is_calm));
        let gaps = crate::checkers::gaps(history).map(|(before, after)| {
            let until_us = after.map_or(history.finishing_us, |line| line.at_us);
            (before.at_us, until_us)
        });
        let (gap_from_us, gap_to_us) = gaps.max_by_key(|(from, to)| to - from).unwrap_or((0, 0));
        Self {
            steps: steps.len(),
            operations: works.len(),
            lineages: lineages.len(),
            kills: count(|event| matches!(event, Event::Killed)) - master_kills,
            master_kills,
            stops: count(|event| matches!(event, Event::Stopped { .. })),
            cuts: count(|event| matches!(event, Event::Cut { .. })),
            starts: count(|event| matches!(event, Event::Started { .. })),
            joins: count(|event| matches!(event, Event::Connected { .. })),
            leaves: count(|event| matches!(event, Event::AskedToLeave)),
            evictions: evictions(history),
            wrong_evictions: of_checker("right_evictions"),
            ended_unasked: of_checker("nobody_ended_unasked"),
            longest_gap_ms: (gap_to_us - gap_from_us) / 1000,
            longest_gap_held_ms: history.anybody_held_us(gap_from_us, gap_to_us) / 1000,
            recovery_median_ms,
            recovery_max_ms,
            calm_recovery_median_ms,
            calm_recovery_max_ms,
            errors,
            reasons,
            longest_failed_ms,
            longest_committed_ms,
            violations,
        }
    }

    pub(crate) fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map_err(|error| error.to_string())
    }
}

/// Why members were lost: each counts once, with what was said first.
fn evictions(history: &History) -> BTreeMap<String, usize> {
    let mut reasons: BTreeMap<u64, String> = BTreeMap::new();
    let mut said = |id: u64, reason: &str| {
        reasons.entry(id).or_insert_with(|| numberless(reason));
    };
    for line in &history.lines {
        match &line.event {
            Event::Failed { lost, .. } => lost.iter().for_each(|lost| said(lost.id, &lost.reason)),
            Event::Gone { id, error, .. } => said(*id, error),
            _ => {}
        }
    }
    let mut counts = BTreeMap::new();
    for reason in reasons.into_values() {
        *counts.entry(reason).or_insert(0) += 1;
    }
    counts
}

fn middle_and_last_ms(times: impl Iterator<Item = (u64, u64)>) -> (u64, u64) {
    let mut lengths: Vec<u64> = times.map(|(from, to)| (to - from) / 1000).collect();
    lengths.sort_unstable();
    let middle = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
    (middle, lengths.last().copied().unwrap_or(0))
}

/// For each member that was killed: from when to when others committed nothing without it.
fn recoveries(history: &History) -> impl Iterator<Item = (u64, u64)> {
    let killed = history
        .memberships
        .iter()
        .filter_map(|((id, _), membership)| {
            let killed_us = history.processes.get(&membership.label)?.killed_us?;
            (membership.to_us == Some(killed_us)).then_some((*id, killed_us))
        });
    killed.filter_map(|(id, killed_us)| {
        let goes_on = |line: &&Line| {
            line.at_us > killed_us
                && matches!(&line.event, Event::Committed { contributors, .. } if !contributors.contains(&id))
        };
        let next = history.lines.iter().find(goes_on)?;
        Some((killed_us, next.at_us))
    })
}

/// Without what differs from peer to peer, so that it can be counted.
fn numberless(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if short.ends_with('#') => {}
            '0'..='9' => short.push('#'),
            c => short.push(c),
        }
    }
    short
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            steps,
            operations,
            kills,
            master_kills,
            stops,
            cuts,
            starts,
            joins,
            leaves,
            ..
        } = self;
        writeln!(
            f,
            "{steps} steps, {operations} all-reduces committed, {} lineage(s)",
            self.lineages
        )?;
        writeln!(
            f,
            "{kills} kills, {master_kills} of the master, {stops} stops, {cuts} cuts, {starts} starts, {joins} joins, \
             {leaves} asked to leave"
        )?;
        for (what, value) in [
            ("longest gap without a commit, ms", self.longest_gap_ms),
            (
                "  somebody was held in it for, ms",
                self.longest_gap_held_ms,
            ),
            ("kill to next commit, median, ms", self.recovery_median_ms),
            ("kill to next commit, max, ms", self.recovery_max_ms),
            ("  nobody held, median, ms", self.calm_recovery_median_ms),
            ("  nobody held, max, ms", self.calm_recovery_max_ms),
            ("longest call that failed, ms", self.longest_failed_ms),
            ("longest call that committed, ms", self.longest_committed_ms),
            ("wrong evictions", self.wrong_evictions as u64),
            ("ended unasked", self.ended_unasked as u64),
        ] {
            writeln!(f, "{what:<34}{value:>8}")?;
        }
        for (title, counts) in [
            ("members lost", &self.evictions),
            ("errors", &self.errors),
            ("reasons", &self.reasons),
        ] {
            writeln!(f, "{title}:")?;
            for (text, count) in counts {
                writeln!(f, "  {count:>5}  {text}")?;
            }
        }
        let mut by_checker: BTreeMap<&str, Vec<&Violation>> = BTreeMap::new();
        for violation in self.violations {
            by_checker
                .entry(violation.checker)
                .or_default()
                .push(violation);
        }
        for (checker, violations) in by_checker {
            writeln!(f, "VIOLATED {checker}: {} time(s)", violations.len())?;
            for violation in violations.iter().take(SHOWN_MAX) {
                writeln!(f, "  {}", violation.text)?;
                for line in violation.evidence.iter().take(SHOWN_MAX) {
                    let text = serde_json::to_string(line).map_err(|_| fmt::Error)?;
                    writeln!(f, "    {text}")?;
                }
            }
        }
        match self.violations.len() {
            0 => writeln!(f, "every promise was kept"),
            count => writeln!(f, "{count} violation(s)"),
        }
    }
}
