//! The end of the demo: what was proved, for people and for programs.

use std::path::Path;

use serde::Serialize;

use super::record::{Findings, Record};
use super::script::Script;

/// Accuracy that the run is expected to reach, 0 to 1.
const ACCURACY_WANTED: f64 = 0.90;
/// How far below the lone worker it may end, 0 to 1.
const ACCURACY_SLACK: f64 = 0.005;

/// The summary of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    event: &'static str,
    /// Whether everything below holds that does not depend on how long was trained.
    ok: bool,
    identical_digests: bool,
    diverged_at_step: Option<u64>,
    steps_compared: u64,
    killed_inside_all_reduce: bool,
    inputs_restored: bool,
    newcomer_finished: bool,
    /// None was killed, or it came back and no call failed.
    master_unnoticed: bool,
    /// At least 90 % right, and at most 0.5 points below the lone worker.
    accuracy_as_expected: bool,
    accuracy: f64,
    lone_accuracy: f64,
    /// Inner steps that each of them was given.
    inner_steps: u64,
    seconds: f64,
    victim: String,
    killed_at_seconds: Option<f64>,
    killed_in_step: u64,
    recovery_seconds: Option<f64>,
    newcomer: String,
    newcomer_started_at_seconds: Option<f64>,
    newcomer_joined_at_seconds: Option<f64>,
    newcomer_received_bytes: u64,
    master_killed_at_seconds: Option<f64>,
    master_returned_at_seconds: Option<f64>,
    /// From its death to the result of the all-reduce that it fell into.
    master_stall_seconds: Option<f64>,
    communication_share: f64,
    aborted: Vec<AbortLine>,
    workers: Vec<WorkerLine>,
    chart: String,
    logs: String,
}

#[derive(Debug, Serialize)]
struct WorkerLine {
    worker: String,
    shard: usize,
    steps: u64,
    digest: String,
    accuracy: f64,
}

#[derive(Debug, Serialize)]
struct AbortLine {
    worker: String,
    error: String,
    input_restored: bool,
}

/// What the record does not know.
pub(super) struct Frame<'a> {
    pub(super) lone_accuracy: f64,
    pub(super) inner_steps: u64,
    pub(super) seconds: f64,
    pub(super) chart: &'a Path,
    pub(super) logs: &'a Path,
}

impl Report {
    /// Sums up a run.
    pub(super) fn new(
        record: &Record,
        script: &Script,
        labels: &dyn Fn(usize) -> String,
        frame: &Frame<'_>,
    ) -> Self {
        let Findings {
            identical,
            diverged_at,
            steps_compared,
            killed_inside,
            inputs_restored,
            newcomer_finished,
            master_unnoticed,
        } = record.findings(script, labels);
        let endings = record.endings.values();
        let accuracy = endings
            .map(|ending| ending.accuracy)
            .reduce(f64::min)
            .unwrap_or(0.0);
        let shares = record.steps.iter().map(|seen| seen.communication);
        Self {
            event: "summary",
            ok: record.findings(script, labels).hold(),
            identical_digests: identical,
            diverged_at_step: diverged_at,
            steps_compared,
            killed_inside_all_reduce: killed_inside,
            inputs_restored,
            newcomer_finished,
            master_unnoticed,
            accuracy_as_expected: accuracy >= ACCURACY_WANTED
                && accuracy >= frame.lone_accuracy - ACCURACY_SLACK,
            accuracy,
            lone_accuracy: frame.lone_accuracy,
            inner_steps: frame.inner_steps,
            seconds: frame.seconds,
            victim: labels(script.victim),
            killed_at_seconds: record.killed.map(|(time, _)| time),
            killed_in_step: script.kill_step,
            recovery_seconds: record.recovery_seconds(script),
            newcomer: labels(script.newcomer),
            newcomer_started_at_seconds: record.started,
            newcomer_joined_at_seconds: record.joined,
            newcomer_received_bytes: record.received_bytes,
            master_killed_at_seconds: record.master_killed,
            master_returned_at_seconds: record.master_returned,
            master_stall_seconds: record.stall_seconds(script),
            communication_share: shares.sum::<f64>() / record.steps.len().max(1) as f64,
            aborted: record
                .aborts
                .iter()
                .map(|abort| AbortLine {
                    worker: labels(abort.worker),
                    error: abort.error.clone(),
                    input_restored: abort.input_restored,
                })
                .collect(),
            workers: record
                .endings
                .iter()
                .map(|(&worker, ending)| WorkerLine {
                    worker: labels(worker),
                    shard: script.shard(worker),
                    steps: ending.steps,
                    digest: ending.digest.clone(),
                    accuracy: ending.accuracy,
                })
                .collect(),
            chart: frame.chart.display().to_string(),
            logs: frame.logs.display().to_string(),
        }
    }

    /// Whether the demo has shown what it is there to show.
    pub(super) fn ok(&self) -> bool {
        self.ok
    }

    /// The report as lines for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            "worker     shard  outer steps  digest            accuracy".to_string(),
        ];
        for line in &self.workers {
            let WorkerLine {
                worker,
                shard,
                steps,
                digest,
                accuracy,
            } = line;
            let percent = 100.0 * accuracy;
            lines.push(format!(
                "{worker:<9}  {shard:>5}  {steps:>11}  {digest}  {percent:.2} %"
            ));
        }
        lines.push(String::new());
        lines.push(match (self.identical_digests, self.diverged_at_step) {
            (true, None) => format!(
                "parameters, momentum and step count are identical on all {} workers, after each of \
                 {} outer steps and at the end",
                self.workers.len(),
                self.steps_compared
            ),
            (_, Some(step)) => format!("FAILED: workers differ after outer step {}", step + 1),
            (false, None) => "FAILED: not all workers ended with the same digest".to_string(),
        });
        lines.push(format!(
            "accuracy: {:.2} %; one worker alone on its shard, {} inner steps as well: {:.2} %{}",
            100.0 * self.accuracy,
            self.inner_steps,
            100.0 * self.lone_accuracy,
            if self.accuracy_as_expected {
                ""
            } else {
                " (less than expected: more steps?)"
            },
        ));
        lines.push(format!(
            "{} was killed at {} inside the all-reduce of outer step {}; the others had its result after {}{}",
            self.victim,
            seconds(self.killed_at_seconds),
            self.killed_in_step + 1,
            seconds(self.recovery_seconds),
            if self.killed_inside_all_reduce { "" } else { "\nFAILED: no proof that it died inside" },
        ));
        for AbortLine {
            worker,
            error,
            input_restored,
        } in &self.aborted
        {
            let input = if *input_restored {
                "input as it was"
            } else {
                "FAILED: INPUT CHANGED"
            };
            lines.push(format!("  {worker}: {error} ({input})"));
        }
        lines.push(format!(
            "{} was started at {}, in the run at {}, and received {:.1} MB of state{}",
            self.newcomer,
            seconds(self.newcomer_started_at_seconds),
            seconds(self.newcomer_joined_at_seconds),
            self.newcomer_received_bytes as f64 / 1e6,
            if self.newcomer_finished {
                ""
            } else {
                "\nFAILED: it did not finish with the others"
            },
        ));
        if self.master_killed_at_seconds.is_some() || !self.master_unnoticed {
            lines.push(format!(
                "the master was killed at {} inside an all-reduce, another was there at {}; all had \
                 the result {} after the kill{}",
                seconds(self.master_killed_at_seconds),
                seconds(self.master_returned_at_seconds),
                seconds(self.master_stall_seconds),
                if self.master_unnoticed {
                    ", and no call failed"
                } else {
                    "\nFAILED: the run did not go on as if nothing had happened"
                },
            ));
        }
        lines.push(format!(
            "{:.1} s in all; {:.0} % of the workers' time in communication, waiting for slower ones included",
            self.seconds,
            100.0 * self.communication_share
        ));
        lines.push(format!("chart: {}   logs: {}", self.chart, self.logs));
        lines
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "(never)".to_string(), |value| format!("{value:.2} s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::record::tests::played;

    fn report(record: &Record, script: &Script) -> Report {
        let frame = Frame {
            lone_accuracy: 0.95,
            inner_steps: 180,
            seconds: 9.5,
            chart: Path::new("chart.svg"),
            logs: Path::new("logs"),
        };
        Report::new(record, script, &|worker| format!("worker-{worker}"), &frame)
    }

    #[test]
    fn a_good_run_says_so_in_words_and_in_json() {
        let (script, record) = played();
        let report = report(&record, &script);
        assert!(report.ok() && report.accuracy_as_expected);
        let text = report.lines().join("\n");
        assert!(text.contains("identical on all 3 workers"), "{text}");
        assert!(!text.contains("FAILED"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["event"], "summary");
        assert_eq!(json["workers"][2]["shard"], 1);
    }

    #[test]
    fn a_bad_run_says_what_failed() {
        let (script, mut record) = played();
        record.endings.get_mut(&2).unwrap().digest = "other".into();
        record.aborts.clear();
        let report = report(&record, &script);
        assert!(!report.ok());
        let text = report.lines().join("\n");
        assert!(
            text.contains("not all workers") && text.contains("no proof"),
            "{text}"
        );
    }
}
