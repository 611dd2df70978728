//! From a fault on, as each peer saw it; and what all repeats together amount to.

use std::fmt;

use serde::Serialize;

use super::{Arguments, Fault};
use crate::event::{Event, Line};
use crate::history::History;
use crate::{checkers, size};

/// Over all repeats and all peers to whom nothing was done. All times are milliseconds.
#[derive(Serialize)]
pub(super) struct Summary {
    fault: String,
    peers: u64,
    bytes: u64,
    pages: &'static str,
    profile: &'static str,
    /// From the fault to the error of a call that was under way.
    to_error: Vec<f64>,
    /// From the fault to the end of the first all-reduce without the lost.
    to_commit: Vec<f64>,
    /// What of it is longer than the survivors' own all-reduces of the same repeat.
    beyond_operation: Vec<f64>,
    /// All-reduces of the survivors among themselves.
    operation: Vec<f64>,
    /// All-reduces of everybody before the fault.
    operation_before: Vec<f64>,
    /// The longest all-reduce of each that committed after the fault: what a fault costs that ends
    /// no call.
    longest_after: Vec<f64>,
    /// With `kill-master --away-ms`: what of it is longer than there was no master, and than the
    /// peers' own all-reduces before.
    beyond_absence: Vec<f64>,
    /// With `idle-cut`: the first all-reduces over lanes that were cut.
    after_idle: Vec<f64>,
    /// A process as large as a peer is killed: until the other end of its one socket sees it.
    bare_socket: Vec<f64>,
    /// Survivors that were between two calls, which do not count for `to_error`.
    between_calls: usize,
    violations: Vec<String>,
}

impl Summary {
    pub(super) fn new(arguments: &Arguments, bytes: u64) -> Self {
        Self {
            fault: format!("{:?}", arguments.fault),
            peers: arguments.peers,
            bytes,
            pages: arguments.pages.name(),
            profile: arguments.profile.name(),
            to_error: Vec::new(),
            to_commit: Vec::new(),
            beyond_operation: Vec::new(),
            operation: Vec::new(),
            operation_before: Vec::new(),
            longest_after: Vec::new(),
            beyond_absence: Vec::new(),
            after_idle: Vec::new(),
            bare_socket: Vec::new(),
            between_calls: 0,
            violations: Vec::new(),
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    pub(super) fn json(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|error| error.to_string())
    }

    pub(super) fn add_bare(&mut self, times_ms: Vec<f64>) {
        self.bare_socket = times_ms;
    }

    /// Takes in one repeat.
    pub(super) fn add(&mut self, arguments: &Arguments, time: u64, history: &History) {
        arguments.say(&format!("{time}:"));
        let is_fault = |line: &&Line| {
            matches!(
                line.event,
                Event::Killed | Event::Stopped { .. } | Event::Cut { .. }
            )
        };
        if let Some(fault) = history.lines.iter().rfind(is_fault) {
            self.look(arguments, history, fault);
        }
        self.check(arguments, history);
    }

    fn look(&mut self, arguments: &Arguments, history: &History, fault: &Line) {
        let before = |line: &&Line| line.at_us < fault.at_us;
        let commits = history.lines.iter().filter(before).filter_map(took_ms);
        let before_ms: Vec<f64> = commits.collect();
        let own_ms = median(&before_ms).unwrap_or(0.0);
        self.operation_before.extend(before_ms);
        for (label, process) in &history.processes {
            if process.killed_us.is_some() || label == "orchestrator" || label == "master" {
                continue;
            }
            let lines = || {
                let own = history.lines.iter().filter(|line| line.who == *label);
                own.filter(|line| line.at_us < history.finishing_us)
            };
            let sight = Sight::of(lines, fault);
            arguments.say(&format!("  {label}: {sight}"));
            // Both ends of a pair live, and are told.
            let is_pair = |cut: &Option<String>| cut.as_ref().is_some_and(|way| way.contains(' '));
            if !process.holds.iter().all(|hold| is_pair(&hold.cut)) {
                continue;
            }
            // Who lost its place waits for newcomers to be let in, which nobody does here.
            let is_over = arguments.fault == Fault::KillMaster && !arguments.master_follows();
            let waits = sight.gone.is_some() || is_over;
            if sight.to_commit_ms.is_none() && !waits {
                self.violations
                    .push(format!("{label} never went on after the fault"));
            }
            match sight.was_in_call {
                true => self.to_error.extend(sight.to_error_ms),
                false => self.between_calls += 1,
            }
            if sight.to_error_ms.is_some() {
                self.to_commit.extend(sight.to_commit_ms);
                let operation = median(&sight.later_ms);
                if let (Some(total), Some(own)) = (sight.to_commit_ms, operation) {
                    self.beyond_operation.push(total - own);
                }
            }
            if let (Some(away_us), Some(longest_ms)) = (history.master_away_us(), sight.longest_ms)
            {
                // Nobody waits for the one that was killed where another takes over.
                let away_ms = match arguments.standby {
                    true => 0.0,
                    false => away_us as f64 / 1000.0,
                };
                self.beyond_absence.push(longest_ms - away_ms - own_ms);
            }
            if arguments.master_follows()
                && let Some(error) = sight.error
            {
                let text = format!("{label} was told of it: {error}");
                self.violations.push(text);
            }
            self.longest_after.extend(sight.longest_ms);
            self.operation.extend(sight.later_ms);
        }
    }

    /// Takes in one repeat in which lanes were cut while nobody used them.
    pub(super) fn add_idle(&mut self, arguments: &Arguments, time: u64, history: &History) {
        let is_cut = |line: &&Line| matches!(line.event, Event::Cut { .. });
        let Some(cut) = history.lines.iter().rfind(is_cut) else {
            self.violations.push("nothing was cut".to_owned());
            return;
        };
        for label in history.processes.keys() {
            let mut own = history.lines.iter().filter(|line| {
                line.who == *label && line.at_us > cut.at_us && line.at_us < history.finishing_us
            });
            let next = own.find_map(|line| match &line.event {
                Event::Committed { took_us, .. } => Some(Ok(*took_us as f64 / 1000.0)),
                Event::Failed { error, .. } => Some(Err(error)),
                _ => None,
            });
            match next {
                Some(Ok(took_ms)) => {
                    arguments.say(&format!(
                        "{time}: {label}: the next all-reduce took {took_ms:.1} ms"
                    ));
                    self.after_idle.push(took_ms);
                }
                Some(Err(error)) => self.violations.push(format!("{label}: {error}")),
                None if label.starts_with('p') => {
                    self.violations.push(format!("{label} never reduced again"));
                }
                None => {}
            }
        }
        self.check(arguments, history);
    }

    fn check(&mut self, arguments: &Arguments, history: &History) {
        for violation in checkers::check(history) {
            let text = format!("{}: {}", violation.checker, violation.text);
            arguments.say(&format!("  VIOLATED {text}"));
            self.violations.push(text);
        }
        let noticed_ms = arguments.profile.noticed_within().as_secs_f64() * 1000.0;
        let late = self.to_error.iter().filter(|ms| **ms > noticed_ms).count();
        if late > 0 && arguments.fault != Fault::KillMaster {
            arguments.say(&format!(
                "  {late} so far noticed later than {noticed_ms} ms"
            ));
        }
    }
}

/// From the fault on, as one peer saw it.
struct Sight<'a> {
    was_in_call: bool,
    to_error_ms: Option<f64>,
    error: Option<&'a str>,
    to_commit_ms: Option<f64>,
    gone: Option<(f64, &'a str)>,
    /// What all-reduces took after the first one without the lost.
    later_ms: Vec<f64>,
    /// Of all that committed after the fault.
    longest_ms: Option<f64>,
}

impl<'a> Sight<'a> {
    fn of<I: Iterator<Item = &'a Line>>(lines: impl Fn() -> I, fault: &Line) -> Self {
        let since_ms = |line: &Line| line.at_us.saturating_sub(fault.at_us) as f64 / 1000.0;
        let is_after = |line: &&Line| line.at_us >= fault.at_us;
        let is_call = |line: &Line| {
            matches!(
                line.event,
                Event::Reducing { .. } | Event::Committed { .. } | Event::Failed { .. }
            )
        };
        let last = lines()
            .filter(|line| !is_after(line) && is_call(line))
            .last();
        let error = lines().filter(is_after).find_map(|line| match &line.event {
            Event::Failed { error, .. }
            | Event::SyncFailed { error, .. }
            | Event::CallFailed { error, .. }
            | Event::NotConnected { error } => Some((line, error)),
            _ => None,
        });
        let gone = lines().filter(is_after).find_map(|line| match &line.event {
            Event::Gone { error, .. } => Some((since_ms(line), error.as_str())),
            _ => None,
        });
        // What was under way may still commit; the next one after the error is without the lost.
        let from_us = error.map_or(fault.at_us, |(line, _)| line.at_us);
        let commits = || lines().filter(|line| line.at_us >= from_us && took_ms(line).is_some());
        Self {
            was_in_call: last.is_some_and(|line| matches!(line.event, Event::Reducing { .. })),
            to_error_ms: error.map(|(line, _)| since_ms(line)),
            error: error.map(|(_, error)| error.as_str()),
            to_commit_ms: commits().next().map(since_ms),
            gone,
            later_ms: commits().skip(1).filter_map(took_ms).collect(),
            longest_ms: lines()
                .filter(is_after)
                .filter_map(took_ms)
                .max_by(f64::total_cmp),
        }
    }
}

impl fmt::Display for Sight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |at: Option<f64>| at.map_or("never".to_owned(), |ms| format!("{ms:.1} ms"));
        let own = median(&self.later_ms);
        write!(
            f,
            "error after {}, commit after {}, longest all-reduce {}, own {}",
            show(self.to_error_ms),
            show(self.to_commit_ms),
            show(self.longest_ms),
            show(own)
        )?;
        if let Some(error) = self.error {
            write!(f, "\n      {error}")?;
        }
        if let Some((ms, error)) = self.gone {
            write!(f, "\n      gone after {ms:.1} ms: {error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} peers, {}, {} pages, {} profile:",
            self.fault,
            self.peers,
            size::format(self.bytes),
            self.pages,
            self.profile
        )?;
        for (what, values) in [
            ("fault to error", &self.to_error),
            ("fault to finished retry", &self.to_commit),
            ("beyond own all-reduce", &self.beyond_operation),
            ("survivors' own all-reduce", &self.operation),
            ("everybody's before", &self.operation_before),
            ("longest that committed", &self.longest_after),
            ("beyond master's absence", &self.beyond_absence),
            ("first after the cut", &self.after_idle),
            ("bare socket, as large", &self.bare_socket),
        ] {
            let sorted = sorted(values);
            if let (Some(first), Some(median), Some(last)) =
                (sorted.first(), median(values), sorted.last())
            {
                writeln!(
                    f,
                    "  {what:<26} min {first:>8.1}  median {median:>8.1}  max {last:>8.1} ms of {}",
                    sorted.len()
                )?;
            }
        }
        if self.between_calls > 0 {
            writeln!(f, "  {} were between two calls", self.between_calls)?;
        }
        match self.violations.len() {
            0 => writeln!(f, "  every promise was kept"),
            count => writeln!(f, "  {count} violation(s)"),
        }
    }
}

fn took_ms(line: &Line) -> Option<f64> {
    match line.event {
        Event::Committed { took_us, .. } => Some(took_us as f64 / 1000.0),
        _ => None,
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> Option<f64> {
    sorted(values).get(values.len() / 2).copied()
}
