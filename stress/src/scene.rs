//! `stress scene`: one fault in an otherwise quiet run, repeated, and what each peer met and when.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::churn::default_folder;
use crate::event::{Event, Line};
use crate::history::History;
use crate::random::Random;
use crate::stage::{Stage, Work};
use crate::{checkers, size};

/// How long peers may take to get going.
const START_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// SIGKILL one peer.
    Kill,
    /// SIGKILL two peers at once.
    KillTwo,
    /// SIGSTOP one peer for `--stop-ms`.
    Stop,
    /// SIGKILL the master.
    KillMaster,
    /// Start a peer and SIGKILL it up to 150 ms later.
    KillJoiner,
    /// Start a peer and SIGSTOP it up to 150 ms later.
    StopJoiner,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    fault: Fault,
    #[arg(long, default_value_t = 3)]
    peers: u64,
    /// Bytes of each all-reduce.
    #[arg(long, default_value = "16MiB", value_parser = size::parse)]
    bytes: u64,
    /// All-reduces that run beside each other.
    #[arg(long, default_value_t = 1)]
    tags: u64,
    #[arg(long, default_value_t = 5)]
    repeats: u64,
    #[arg(long, default_value_t = 8000)]
    stop_ms: u64,
    #[arg(long, default_value_t = 10_000)]
    master_grace_ms: u64,
    /// How long to watch after the fault.
    #[arg(long, default_value_t = 3000)]
    watch_ms: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where logs go. Default: a folder of its own in the system's temporary one.
    #[arg(long)]
    logs: Option<PathBuf>,
}

/// From a fault on, as one peer saw it.
struct Sight {
    to_error_ms: Option<f64>,
    to_commit_ms: Option<f64>,
}

/// Returns whether all promises were kept in all repeats.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let mut random = Random::new(arguments.seed);
    let folder = arguments.logs.clone().unwrap_or_else(default_folder);
    let mut sights = Vec::new();
    let mut all_kept = true;
    for repeat in 0..arguments.repeats {
        let folder = folder.join(repeat.to_string());
        let history = play(arguments, folder, &mut random)?;
        println!("repeat {repeat}:");
        sights.extend(tell(&history));
        for violation in checkers::check(&history) {
            all_kept = false;
            println!("  VIOLATED {}: {}", violation.checker, violation.text);
        }
    }
    let errors = sights.iter().filter_map(|sight| sight.to_error_ms);
    summary("fault to error", errors.collect());
    let commits = sights.iter().filter_map(|sight| sight.to_commit_ms);
    summary("fault to next commit", commits.collect());
    Ok(all_kept)
}

fn play(arguments: &Arguments, folder: PathBuf, random: &mut Random) -> Result<History, String> {
    let mut stage = Stage::open(
        &folder,
        Work {
            bytes: arguments.bytes,
            tags: arguments.tags,
            state_bytes: 64 << 10,
            master_grace_ms: arguments.master_grace_ms,
        },
    )?;
    for _ in 0..arguments.peers {
        stage.join()?;
    }
    wait_for_all(&mut stage, arguments.peers)?;
    let mut moment = |to| Duration::from_millis(random.within(0, to));
    stage.wait(moment(200));
    let stop = Duration::from_millis(arguments.stop_ms);
    match arguments.fault {
        Fault::Kill => stage.kill(0)?,
        Fault::KillTwo => {
            stage.kill(0)?;
            stage.kill(0)?;
        }
        Fault::Stop => stage.stop(0, stop)?,
        Fault::KillMaster => stage.kill_master()?,
        Fault::KillJoiner => {
            stage.join()?;
            stage.wait(moment(150));
            stage.kill(stage.peers().len() - 1)?;
        }
        Fault::StopJoiner => {
            stage.join()?;
            stage.wait(moment(150));
            stage.stop(stage.peers().len() - 1, stop)?;
        }
    }
    stage.wait(Duration::from_millis(arguments.watch_ms));
    stage.finish();
    History::read(&folder)
}

/// Until somebody has reduced with all peers.
fn wait_for_all(stage: &mut Stage, peers: u64) -> Result<(), String> {
    let look = Duration::from_millis(100);
    for _ in 0..START_TIMEOUT.as_millis() / look.as_millis() {
        let history = History::read(stage.folder())?;
        let has_all = |line: &Line| matches!(&line.event, Event::Committed { world, .. } if u64::from(*world) == peers);
        if peers == 1 || history.lines.iter().any(has_all) {
            return Ok(());
        }
        stage.wait(look);
    }
    Err("the peers did not come together".to_owned())
}

/// Says what each peer met after the fault.
fn tell(history: &History) -> Vec<Sight> {
    let is_fault = |line: &&Line| matches!(line.event, Event::Killed | Event::Stopped { .. });
    let Some(fault) = history.lines.iter().rfind(is_fault) else {
        return Vec::new();
    };
    let since_ms = |line: &Line| line.at_us.saturating_sub(fault.at_us) as f64 / 1000.0;
    let mut sights = Vec::new();
    for (label, process) in &history.processes {
        let after = |line: &&Line| {
            line.who == *label && line.at_us >= fault.at_us && line.at_us < history.finishing_us
        };
        let lines = || history.lines.iter().filter(after);
        let error = lines().find_map(|line| match &line.event {
            Event::Failed { error, .. }
            | Event::SyncFailed { error, .. }
            | Event::CallFailed { error, .. }
            | Event::NotConnected { error } => Some((since_ms(line), error)),
            _ => None,
        });
        let gone = lines().find_map(|line| match &line.event {
            Event::Gone { error, .. } => Some((since_ms(line), error)),
            _ => None,
        });
        // What was under way may still commit; the next one after the error is without the lost.
        let from_us = fault.at_us + error.map_or(0, |(ms, _)| (ms * 1000.0) as u64);
        let commit = lines()
            .find(|line| line.at_us >= from_us && matches!(line.event, Event::Committed { .. }));
        if process.killed_us.is_none() && label != "orchestrator" && label != "master" {
            let show = |at: Option<f64>| at.map_or("never".to_owned(), |ms| format!("{ms:.1} ms"));
            let commit_ms = commit.map(since_ms);
            println!(
                "  {label}: error after {}, commit after {}",
                show(error.map(|(ms, _)| ms)),
                show(commit_ms)
            );
            if let Some((_, text)) = error {
                println!("      {text}");
            }
            if let Some((ms, text)) = gone {
                println!("      gone after {ms:.1} ms: {text}");
            }
            if process.stops.is_empty() {
                sights.push(Sight {
                    to_error_ms: error.map(|(ms, _)| ms),
                    to_commit_ms: error.and(commit_ms),
                });
            }
        }
    }
    sights
}

fn summary(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    if let (Some(first), Some(last)) = (values.first(), values.last()) {
        let median = values[values.len() / 2];
        println!(
            "{what}: min {first:.1} ms, median {median:.1} ms, max {last:.1} ms of {}",
            values.len()
        );
    }
}
