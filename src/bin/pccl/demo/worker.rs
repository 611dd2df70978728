//! One worker of the demo: the DiLoCo loop around a communicator.
//!
//! This is the recommended loop: at the top of each outer step let newcomers in, then synchronise
//! the shared state, which moves nothing while all agree and everything to a newcomer; then
//! train alone, reduce, step. All workers take the same branches: `are_peers_pending` gives all the
//! same answer, and a worker that was just accepted goes straight to the sync where the
//! others, back from `update_topology`, meet it.

use std::error::Error;
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Args;
use pccl::Revision;
use pccl::diloco::{OuterNesterov, pseudo_gradient};
use pccl::{CollectiveError, SyncError};
use pccl::{Communicator, Config, ReduceOptions, SharedState, SyncStrategy};

use super::cast::GO;
use super::dataset;
use super::event::{Event, digest, hash_floats};
use super::model::{PARAMETERS, initial_parameters};
use super::trainer::Trainer;

/// Pause between two looks at who is there yet, before the first step.
const GATHER_PAUSE: Duration = Duration::from_millis(20);

/// What the demo tells its workers.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerArguments {
    /// Address of the master
    #[arg(long)]
    pub(crate) master: String,
    /// Name of this worker in messages and errors
    #[arg(long)]
    pub(crate) label: String,
    /// Which part of the training images it sees
    #[arg(long)]
    pub(crate) shard: usize,
    /// Parts that the training images are cut into
    #[arg(long)]
    pub(crate) shards: usize,
    /// Seed of the parameters and of the order of the images
    #[arg(long)]
    pub(crate) seed: u64,
    /// Outer steps of the whole run
    #[arg(long)]
    pub(crate) steps: u64,
    /// Inner steps in each outer step
    #[arg(long)]
    pub(crate) inner_steps: u32,
    /// Do not begin before so many workers are there; without it, join a run that is under way
    #[arg(long)]
    pub(crate) wait_for: Option<u32>,
    /// Outer step at which to say "holding" and wait for "go" on the input before reducing
    #[arg(long)]
    pub(crate) hold_at: Vec<u64>,
}

/// Runs a worker until all outer steps are done, or its input ends.
pub(crate) fn run(arguments: &WorkerArguments) -> ExitCode {
    // Fails where the program has set one up already.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .try_init();
    let orders = watch_input();
    let Err(error) = work(arguments, &orders) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{}: {error}", arguments.label);
    // Whoever would read it may be the one that is gone.
    let _ = tell(&Event::Error {
        message: error.to_string(),
    });
    ExitCode::FAILURE
}

/// Reads orders in the background, and ends the process when whoever gives them is gone.
fn watch_input() -> Receiver<()> {
    let (sender, orders) = channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if line == GO && sender.send(()).is_err() {
                return;
            }
        }
        eprintln!("the input has ended: stopping");
        std::process::exit(3);
    });
    orders
}

fn tell(event: &Event) -> io::Result<()> {
    event.write(io::stdout().lock())
}

/// What peers share: with it a newcomer goes on exactly as the others do.
struct Shared {
    params: Vec<f32>,
    outer: OuterNesterov,
    /// Outer steps done; a tensor of one element.
    step: [u64; 1],
    /// The revision to present at the next sync.
    revision: Revision,
}

impl Shared {
    fn digest(&self) -> String {
        digest(&self.params, self.outer.velocity(), self.step[0])
    }
}

fn work(arguments: &WorkerArguments, orders: &Receiver<()>) -> Result<(), Box<dyn Error>> {
    let (train, test) = dataset::load()?;
    let mut trainer = Trainer::new(&train, arguments.shard, arguments.shards, arguments.seed);
    let mut shared = Shared {
        params: initial_parameters(arguments.seed),
        outer: OuterNesterov::new(
            PARAMETERS,
            OuterNesterov::LEARNING_RATE,
            OuterNesterov::MOMENTUM,
        ),
        step: [0],
        revision: Revision(0),
    };

    let comm = Communicator::new(Config::new(&arguments.master).label(&arguments.label))?;
    comm.connect()?;
    tell(&Event::Accepted {
        world: comm.world_sizes().group,
    })?;
    if let Some(count) = arguments.wait_for {
        gather(&comm, count)?;
    }

    let mut just_accepted = true;
    loop {
        let start = Instant::now();
        if !just_accepted && comm.are_peers_pending()? {
            comm.update_topology()?;
        }
        just_accepted = false;
        synchronise(&comm, &mut shared)?;
        let mut communication = start.elapsed();

        let step = shared.step[0];
        if step >= arguments.steps {
            break;
        }
        let mut gradient = shared.params.clone();
        let first = step * u64::from(arguments.inner_steps);
        let loss = trainer.train(&mut gradient, first, arguments.inner_steps);
        pseudo_gradient(&shared.params, &mut gradient);
        if arguments.hold_at.contains(&step) {
            tell(&Event::Holding { step })?;
            orders.recv()?;
        }

        let reducing = Instant::now();
        let (gradient, world) = average(&comm, gradient, step)?;
        communication += reducing.elapsed();
        shared.outer.step(&mut shared.params, &gradient);
        shared.step[0] += 1;
        tell(&Event::Step {
            step,
            world,
            loss,
            communication_seconds: communication.as_secs_f64(),
            seconds: start.elapsed().as_secs_f64(),
            digest: shared.digest(),
        })?;
    }

    tell(&Event::Final {
        steps: shared.step[0],
        world: comm.world_sizes().group,
        digest: shared.digest(),
        accuracy: trainer.accuracy(&shared.params, &test),
    })?;
    comm.leave()?;
    Ok(())
}

/// Lets others in until the run has `count` workers. Those already in it do this together.
fn gather(comm: &Communicator, count: u32) -> Result<(), Box<dyn Error>> {
    while comm.world_sizes().group < count {
        if comm.are_peers_pending()? {
            comm.update_topology()?;
        } else {
            std::thread::sleep(GATHER_PAUSE);
        }
    }
    Ok(())
}

/// Brings everyone to the same shared state; a newcomer receives all of it.
fn synchronise(comm: &Communicator, shared: &mut Shared) -> Result<(), Box<dyn Error>> {
    let report = loop {
        let mut state = SharedState::new();
        state.revision = shared.revision;
        state.tensor("parameters", &mut shared.params[..]);
        state.tensor("momentum", shared.outer.velocity_mut());
        state.tensor("outer_step", &mut shared.step[..]);
        match comm.sync_shared_state(&mut state, SyncStrategy::EnforcePopular) {
            Ok(report) => break report,
            Err(SyncError::Aborted { reason }) => tracing::warn!("sync again: {reason}"),
            Err(error) => return Err(error.into()),
        }
    };
    shared.revision = Revision(report.revision.0 + 1);
    if report.rx_bytes > 0 {
        tell(&Event::Received {
            step: shared.step[0],
            revision: report.revision.0,
            bytes: report.rx_bytes,
        })?;
    }
    Ok(())
}

/// The mean of everyone's pseudo-gradient, and of how many; tries again with those who are left.
fn average(
    comm: &Communicator,
    mut gradient: Vec<f32>,
    step: u64,
) -> Result<(Vec<f32>, u32), Box<dyn Error>> {
    let before = fingerprint(&gradient);
    loop {
        let start = Instant::now();
        let reduction = comm.start_all_reduce(gradient, &ReduceOptions::avg());
        tell(&Event::Reducing { step })?;
        let outcome;
        (gradient, outcome) = reduction.wait();
        match outcome {
            Ok(report) => return Ok((gradient, report.world_size)),
            // Alone, its own pseudo-gradient is the mean.
            Err(CollectiveError::TooFewPeers { .. }) => return Ok((gradient, 1)),
            Err(error) if error.is_retryable() => tell(&Event::Aborted {
                step,
                lost: lost_labels(&error),
                error: error.to_string(),
                world: comm.world_sizes().group,
                seconds: start.elapsed().as_secs_f64(),
                input_restored: fingerprint(&gradient) == before,
            })?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn lost_labels(error: &CollectiveError) -> Vec<String> {
    let CollectiveError::PeersLost { lost } = error else {
        return Vec::new();
    };
    lost.iter().map(|lost| lost.peer.label.clone()).collect()
}

fn fingerprint(values: &[f32]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hash_floats(&mut hasher, values);
    hasher.finalize()
}
