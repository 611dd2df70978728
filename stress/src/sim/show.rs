//! What the user sees of played worlds: progress, a summary, and of a failing world its faults and
//! its trace.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Played;

/// Lines of a trace that are shown of one failing seed among many; alone it is shown whole.
const TRACE_LINES: usize = 60;

/// What many worlds came to.
#[derive(Clone, Default)]
pub(super) struct Summary<'a> {
    pub(super) worlds: u64,
    pub(super) virtual_ms: u64,
    pub(super) records: u64,
    pub(super) faults: u64,
    /// Of any world that came to its end.
    pub(super) faults_min: Option<u32>,
    pub(super) failed: &'a [Played],
}

impl Summary<'_> {
    pub(super) fn count(&mut self, played: &Played) {
        self.worlds += 1;
        if let Ok(verdict) = &played.verdict {
            self.virtual_ms += verdict.lasted.ms();
            self.records += verdict.records;
            self.faults += u64::from(verdict.faults);
            if verdict.violation.is_none() {
                let least = self.faults_min.unwrap_or(u32::MAX);
                self.faults_min = Some(least.min(verdict.faults));
            }
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(worlds: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(worlds);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} worlds, {eta} left{msg}")
        {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn step(&self, summary: &Summary<'_>) {
        self.0.set_position(summary.worlds);
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

pub(super) fn one(played: &Played, wants_trace: bool, as_json: bool) {
    if as_json {
        println!("{}", as_value(played));
        return;
    }
    match &played.verdict {
        Ok(verdict) if verdict.violation.is_none() => {
            if wants_trace {
                verdict.trace.iter().for_each(|line| println!("{line}"));
            }
            println!(
                "seed {}: nothing wrong in {} virtual seconds with {} faults, trace {}",
                played.plan.seed,
                verdict.lasted,
                verdict.faults,
                hex(&verdict.trace_hash),
            );
        }
        _ => failure(played, usize::MAX),
    }
}

pub(super) fn all(summary: &Summary<'_>, took: Duration, as_json: bool) {
    if as_json {
        let failed: Vec<_> = summary.failed.iter().map(as_value).collect();
        println!(
            "{}",
            json!({
                "worlds": summary.worlds,
                "faults": summary.faults,
                "faults_min": summary.faults_min,
                "records": summary.records,
                "virtual_seconds": summary.virtual_ms / 1000,
                "wall_seconds": took.as_secs_f64(),
                "failed": failed,
            })
        );
        return;
    }
    for played in summary.failed {
        failure(played, TRACE_LINES);
    }
    println!(
        "{} worlds, {} virtual hours, {} faults (at least {} in each), {} records: {} failed, in {:.1} s",
        summary.worlds,
        summary.virtual_ms / 3_600_000,
        summary.faults,
        summary.faults_min.unwrap_or(0),
        summary.records,
        summary.failed.len(),
        took.as_secs_f64(),
    );
}

fn failure(played: &Played, lines: usize) {
    let plan = &played.plan;
    println!(
        "seed {} failed ({:?}, {:?} profile)",
        plan.seed, plan.mode, plan.profile
    );
    println!(
        "  {} processes, {} lanes, paths of {:?} + up to {:?} at {} bytes/s, calm at {}",
        plan.processes,
        plan.lanes,
        plan.path.delay,
        plan.path.jitter,
        plan.path.rate_bytes_per_s,
        plan.calm_at,
    );
    for fault in &plan.faults {
        println!("  fault {fault}");
    }
    match &played.verdict {
        Err(reason) => println!("  the world itself: {reason}"),
        Ok(verdict) => {
            let skipped = verdict.trace.len().saturating_sub(lines);
            if skipped > 0 {
                println!(
                    "  ({skipped} lines before; `--seed {}` shows all)",
                    plan.seed
                );
            }
            for line in &verdict.trace[skipped..] {
                println!("  {line}");
            }
            if let Some(violation) = &verdict.violation {
                println!("  VIOLATED: {violation}");
            }
        }
    }
}

fn as_value(played: &Played) -> serde_json::Value {
    let faults: Vec<String> = played.plan.faults.iter().map(|f| f.to_string()).collect();
    let mut value = json!({ "seed": played.plan.seed, "plan": faults });
    match &played.verdict {
        Err(reason) => value["error"] = json!(reason),
        Ok(verdict) => {
            value["trace_hash"] = json!(hex(&verdict.trace_hash));
            value["faults"] = json!(verdict.faults);
            value["virtual_ms"] = json!(verdict.lasted.ms());
            if let Some(violation) = &verdict.violation {
                value["invariant"] = json!(violation.invariant);
                value["at_ms"] = json!(violation.at.ms());
                value["words"] = json!(violation.words);
            }
        }
    }
    value
}

fn hex(hash: &[u8]) -> String {
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
