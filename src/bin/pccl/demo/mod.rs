//! `pccl demo`: a real training run that loses a worker and gains one, and proves at the end that
//! nobody noticed.
//!
//! ```text
//! mod.rs (this process, with the master)               worker.rs (four child processes, then one more)
//!   cast    starts, hears and kills the workers    <--    event    what they tell, as JSON lines
//!   script  who is killed when                            trainer  inner steps on the own shard
//!   record  what was heard and what it proves             model    the network that is trained
//!   display, chart, report  show it                       dataset  handwritten digits, in the program
//! ```
//!
//! Beside the run, one worker is trained alone on its shard, for comparison.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program: it prints, reads clocks, starts threads and waits"
)]

mod cast;
mod chart;
mod dataset;
mod display;
mod event;
pub(crate) mod master;
mod model;
mod random;
mod record;
mod report;
mod script;
mod trainer;
pub(crate) mod worker;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use cast::{Cast, Heard};
use display::Display;
use event::Event;
use master::Place;
use record::Record;
use report::{Frame, Report};
use script::{Cue, Script};

/// Between the last call of the all-reduce that is to be hit and the kill. It cannot end meanwhile,
/// but its bytes move as far as they can, and the master hears who has begun.
const INSIDE: Duration = Duration::from_millis(250);
/// How long the master is away once it was killed.
const MASTER_AWAY: Duration = Duration::from_secs(1);
/// A run in which nobody says anything for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Train a small model with DiLoCo on four workers, kill one during an all-reduce, let a new one
/// join, and compare what they end with.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArguments {
    /// Workers that start the run
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(3..=16))]
    peers: u32,
    /// Outer steps: each ends with one all-reduce
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(6..=10_000))]
    steps: u64,
    /// Inner steps of each worker in an outer step
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    inner_steps: u32,
    /// Seed of the parameters and of the order of the images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Kill the master as well, during a later all-reduce, and start another a second later
    #[arg(long)]
    kill_master: bool,
    /// Print one JSON object a line, the last of them a summary
    #[arg(long)]
    json: bool,
    /// Folder for the chart and the workers' logs
    #[arg(long, default_value = "out/demo")]
    out: PathBuf,
}

/// Runs the demo. Fails if the workers end with different parameters, if the kill did not hit an
/// all-reduce, if the newcomer did not finish with the others, or if the death of the master failed
/// a call.
pub(crate) fn run(arguments: &DemoArguments) -> ExitCode {
    match play(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!(
                "demo: {error}; the workers' logs are in {}",
                arguments.out.display()
            );
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &DemoArguments) -> Result<bool, String> {
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("cannot make {}: {error}", arguments.out.display()))?;
    let (master, address) = match arguments.kill_master {
        true => Place::process(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?,
        false => Place::here()?,
    };
    let mut script = Script::new(arguments.peers as usize, arguments.steps);
    if arguments.kill_master {
        script = script.kill_master(arguments.steps);
    }
    let lone = train_alone(arguments);
    let (sender, heard) = channel();
    let mut run = Run {
        start: Instant::now(),
        master,
        address,
        master_due: None,
        script,
        record: Record::default(),
        display: Display::new(arguments.json, arguments.steps),
        cast: Cast::new(arguments.out.clone(), sender),
        arguments,
    };
    run.display.say(
        0.0,
        &format!("master at {}, {} workers", run.address, arguments.peers),
    );
    for worker in 0..run.script.founders {
        run.start_worker(worker)?;
    }
    run.listen(&heard)?;

    let chart = arguments.out.join("demo.svg");
    chart::draw(&chart, &run.record, &run.script)
        .map_err(|error| format!("cannot draw {}: {error}", chart.display()))?;
    let lone_accuracy = lone.join().map_err(|_| "the lone worker has failed")??;
    let report = run.report(lone_accuracy, &chart);
    if arguments.json {
        display::print_json(&report);
    } else {
        report.lines().iter().for_each(|line| println!("{line}"));
    }
    Ok(report.ok())
}

/// One worker on one shard, with the same seed and as many inner steps; gives its accuracy.
fn train_alone(arguments: &DemoArguments) -> JoinHandle<Result<f64, String>> {
    let DemoArguments {
        peers,
        steps,
        inner_steps,
        seed,
        ..
    } = *arguments;
    std::thread::spawn(move || {
        let (train, test) = dataset::load()?;
        let mut trainer = trainer::Trainer::new(&train, 0, peers as usize, seed);
        let mut params = model::initial_parameters(seed);
        for step in 0..steps {
            trainer.train(&mut params, step * u64::from(inner_steps), inner_steps);
        }
        Ok(trainer.accuracy(&params, &test))
    })
}

/// A run that is being played.
struct Run<'a> {
    arguments: &'a DemoArguments,
    start: Instant,
    master: Place,
    address: SocketAddr,
    /// When the master is started again.
    master_due: Option<Instant>,
    script: Script,
    record: Record,
    display: Display,
    cast: Cast,
}

impl Run<'_> {
    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn start_worker(&mut self, worker: usize) -> Result<(), String> {
        let DemoArguments {
            peers,
            steps,
            inner_steps,
            seed,
            ..
        } = self.arguments;
        let label = label(worker);
        let shard = self.script.shard(worker);
        let mut words = format!(
            "demo-worker --master {} --label {label} --shard {shard} --shards {peers} --seed {seed} \
             --steps {steps} --inner-steps {inner_steps}",
            self.address
        );
        if worker < self.script.founders {
            words += &format!(" --wait-for {peers}");
        }
        for step in self.script.hold_at(worker) {
            words += &format!(" --hold-at {step}");
        }
        let words: Vec<String> = words.split_whitespace().map(str::to_string).collect();
        self.cast.start(&label, &words)?;
        self.display.add_worker(&label);
        Ok(())
    }

    /// Plays the script until every worker has ended.
    fn listen(&mut self, heard: &Receiver<Heard>) -> Result<(), String> {
        let mut ended = 0;
        while ended < self.cast.len() {
            let patience = match self.master_due {
                Some(due) => due.saturating_duration_since(Instant::now()),
                None => SILENCE_MAX,
            };
            let heard = match heard.recv_timeout(patience) {
                Ok(heard) => heard,
                Err(_) if self.master_due.take().is_some() => {
                    self.return_master()?;
                    continue;
                }
                Err(_) => return Err(format!("no worker has said anything for {SILENCE_MAX:?}")),
            };
            match heard {
                Heard::Said(worker, event) => self.hear(worker, &event)?,
                Heard::Garbled(worker, what) => return Err(format!("{}: {what}", label(worker))),
                Heard::Ended(worker) => {
                    self.check_end(worker)?;
                    ended += 1;
                }
            }
        }
        Ok(())
    }

    fn return_master(&mut self) -> Result<(), String> {
        (self.master, self.address) = Place::process(self.address)?;
        let time = self.now();
        self.record.master_returned = Some(time);
        self.display
            .emit(time, "master", json!({ "event": "started" }));
        self.display.say(time, "master started again");
        Ok(())
    }

    fn hear(&mut self, worker: usize, event: &Event) -> Result<(), String> {
        let cue = self.script.hear(worker, event);
        if let Some(Cue::KillThenRelease { victim, holder }) = cue {
            std::thread::sleep(INSIDE);
            let status = self.cast.kill(victim)?;
            self.record.killed = Some((self.now(), status.signal()));
            self.cast.release(holder)?;
        }
        if let Some(Cue::KillMasterThenRelease { holder }) = cue {
            std::thread::sleep(INSIDE);
            self.master.kill();
            self.record.master_killed = Some(self.now());
            self.master_due = Some(Instant::now() + MASTER_AWAY);
            self.cast.release(holder)?;
        }
        let time = self.now();
        let name = label(worker);
        self.display.emit(time, &name, event);
        self.display.update_worker(worker, event);
        if let Some(text) = describe(event) {
            self.display.say(time, &format!("{name} {text}"));
        }
        if let Some(row) = self.record.note(&self.script, time, worker, event) {
            self.display.row(time, self.arguments.steps, &row);
        }
        match cue {
            Some(Cue::KillThenRelease { victim, .. }) => {
                let (victim_name, step) = (label(victim), self.script.kill_step);
                self.display
                    .end_worker(victim, "killed by SIGKILL during an all-reduce");
                self.display.emit(
                    time,
                    &victim_name,
                    json!({ "event": "killed", "step": step }),
                );
                let text = format!(
                    "{victim_name} killed by SIGKILL during all-reduce {}",
                    step + 1
                );
                self.display.say(time, &text);
            }
            Some(Cue::KillMasterThenRelease { .. }) => {
                let step = self.script.master_step;
                self.display
                    .emit(time, "master", json!({ "event": "killed", "step": step }));
                let number = step.map_or(0, |step| step + 1);
                let text = format!("master killed by SIGKILL during all-reduce {number}");
                self.display.say(time, &text);
            }
            Some(Cue::Start { newcomer }) => {
                self.start_worker(newcomer)?;
                self.record.started = Some(time);
                self.display
                    .emit(time, &label(newcomer), json!({ "event": "started" }));
                self.display
                    .say(time, &format!("{} started", label(newcomer)));
            }
            None => {}
        }
        Ok(())
    }

    /// A worker ends well when it was killed by us, or has said how it ended.
    fn check_end(&mut self, worker: usize) -> Result<(), String> {
        let status = self.cast.wait(worker)?;
        let killed = worker == self.script.victim && self.record.killed.is_some();
        let finished = self.record.endings.contains_key(&worker) && status.success();
        if killed || finished {
            return Ok(());
        }
        Err(format!("{} ended too early ({status})", label(worker)))
    }

    fn report(&self, lone_accuracy: f64, chart: &Path) -> Report {
        let frame = Frame {
            lone_accuracy,
            inner_steps: self.arguments.steps * u64::from(self.arguments.inner_steps),
            seconds: self.now(),
            chart,
            logs: &self.arguments.out,
        };
        Report::new(&self.record, &self.script, &label, &frame)
    }
}

fn label(worker: usize) -> String {
    format!("worker-{worker}")
}

/// What people are told of an event beside their bars and rows.
fn describe(event: &Event) -> Option<String> {
    match event {
        Event::Accepted { world } => Some(format!("is in the run, world {world}")),
        Event::Received { step, bytes, .. } => {
            let megabytes = *bytes as f64 / 1e6;
            Some(format!(
                "received {megabytes:.1} MB of shared state, of outer step {step}"
            ))
        }
        Event::Aborted {
            error,
            world,
            seconds,
            ..
        } => Some(format!(
            "all-reduce failed after {seconds:.2} s: {error}; world {world}, again"
        )),
        Event::Error { message } => Some(format!("failed: {message}")),
        _ => None,
    }
}
