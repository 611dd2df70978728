//! The recommended training loop, with every error answered, while peers vanish and join.
//!
//! ```text
//! cargo run --example train_loop_with_churn [-- --short]
//! ```
//!
//! Alice, Bob and Carol train one small model together. Halfway through, Carol vanishes without a
//! goodbye while the others wait for her gradient: they retry with two and lose no step. Dave
//! takes her place and is given the model. In the end all three hold the same bits.
//!
//! Copy `train`, `share`, `average` and the `Stop` conversions: the rest is scenery.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example speaks to its reader, and may start threads and sleep"
)]

use std::thread;
use std::time::Duration;

use pccl::{
    CollectiveError, Communicator, Config, ConnectError, Gone, Master, MembershipError,
    ReduceOptions, Revision, SharedState, SyncError, SyncStrategy,
};

/// Fewer peers than this wait for others. A run that may go on alone sets it to 1.
const PEERS_WANTED: u32 = 3;
/// How long a peer pauses between two looks for newcomers while it waits, and between two
/// attempts to reach the master.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a peer that fell out of the run tries to get back in.
const REJOINS_MAX: u32 = 5;
const CONNECT_ATTEMPTS_MAX: u32 = 50;

/// Everything that must be equal on all peers, the step count included.
#[derive(Clone)]
struct Model {
    weights: Vec<f32>,
    step: [u64; 1],
    /// The revision that the next sync presents.
    revision: Revision,
}

/// Why `train` ended before the last step.
enum Stop {
    /// This membership is over; another one may well work.
    Rejoin(Gone),
    /// Trying again cannot help: a mistake in the program or in its settings.
    Mistake(String),
}

/// Trains to the last step, with as many memberships as that takes.
fn work(master: &str, name: &str, model: &mut Model, plan: &Plan) -> Result<(), String> {
    for _ in 0..=REJOINS_MAX {
        match train(master, name, model, plan) {
            Ok(()) => return Ok(()),
            Err(Stop::Rejoin(gone)) => println!("{name}: {gone}; joining again"),
            Err(Stop::Mistake(reason)) => return Err(format!("{name}: {reason}")),
        }
    }
    Err(format!("{name}: thrown out too often"))
}

/// One membership: from `connect` to `leave`.
fn train(master: &str, name: &str, model: &mut Model, plan: &Plan) -> Result<(), Stop> {
    let communicator = join(master, name)?;
    // Whoever was let in, and those who let it in, share the state as the next thing they do.
    share(&communicator, name, model)?;

    while model.step[0] < plan.steps {
        // All peers of the run ask together, so all get the same answer and stay in step.
        if communicator.are_peers_pending()? {
            communicator.update_topology()?;
            share(&communicator, name, model)?;
            continue;
        }

        let mut gradient = model.gradient(name);
        if plan.vanishes_at == Some(model.step[0]) {
            println!("{name}: vanishing in step {}", model.step[0]);
            // Dropped, with the others waiting for this gradient.
            return Ok(());
        }
        let contributors = average(&communicator, name, &mut gradient)?;
        // All contributors know the same number, so all wait or none does. `world_sizes` would not do:
        // one peer may look before another is lost, and the next one after.
        if contributors < PEERS_WANTED {
            thread::sleep(PAUSE);
            continue;
        }
        model.apply(&gradient);
        if model.step[0].is_multiple_of(plan.steps / 4) {
            println!("{name}: step {} done by {contributors}", model.step[0]);
        }
    }
    communicator.leave()?;
    Ok(())
}

/// Connects, with patience: the master may be a moment late, or starting again.
fn join(master: &str, name: &str) -> Result<Communicator, Stop> {
    let communicator = Communicator::new(Config::new(master).label(name))?;
    for _ in 1..CONNECT_ATTEMPTS_MAX {
        match communicator.connect() {
            Err(ConnectError::MasterUnreachable { .. }) => thread::sleep(PAUSE),
            outcome => return Ok(outcome.map(|()| communicator)?),
        }
    }
    communicator.connect()?;
    Ok(communicator)
}

/// Gives this peer the model that most of the run holds; costs next to nothing where it has it.
fn share(communicator: &Communicator, name: &str, model: &mut Model) -> Result<(), Stop> {
    let before = model.clone();
    loop {
        let mut state = SharedState::new();
        state.revision = model.revision;
        state.tensor("weights", &mut model.weights[..]);
        state.tensor("step", &mut model.step[..]);
        let outcome = communicator.sync_shared_state(&mut state, SyncStrategy::EnforcePopular);
        // Gives the tensors back, with what was received.
        drop(state);
        match outcome {
            Ok(report) => {
                // Each committed sync uses up a revision.
                model.revision = Revision(report.revision.0 + 1);
                if report.rx_bytes > 0 {
                    println!("{name}: was given the model of step {}", model.step[0]);
                }
                return Ok(());
            }
            // Somebody was lost, or a transfer failed: what was received so far is not offered to
            // anybody, and the next attempt completes it.
            Err(SyncError::Aborted { reason }) => println!("{name}: syncing again: {reason}"),
            // Everybody counted wrong alike, for instance after loading an old checkpoint.
            Err(SyncError::StaleRevision { expected, .. }) => model.revision = expected,
            // With `NoCleanState` a real program loads its checkpoint and joins again. This peer may
            // hold parts of two models now, and the next communicator would not know: back to what
            // it had.
            Err(error) => {
                *model = before;
                return Err(error.into());
            }
        }
    }
}

/// Replaces `gradient` by the average over all peers; says how many that were.
fn average(communicator: &Communicator, name: &str, gradient: &mut [f32]) -> Result<u32, Stop> {
    loop {
        match communicator.all_reduce_in_place(gradient, &ReduceOptions::avg()) {
            Ok(report) => return Ok(report.world_size),
            // The gradient is as it was and the membership is up to date: just call again.
            Err(error) if error.is_retryable() => println!("{name}: {error}; retrying"),
            // Alone: the own gradient is the average. The loop waits for others afterwards.
            Err(CollectiveError::TooFewPeers { .. }) => return Ok(1),
            Err(error) => return Err(error.into()),
        }
    }
}

impl From<ConnectError> for Stop {
    fn from(error: ConnectError) -> Stop {
        match error {
            ConnectError::Gone(gone) => Stop::Rejoin(gone),
            // A setting, a port, a refusal: people must look at it.
            other => Stop::Mistake(other.to_string()),
        }
    }
}

impl From<MembershipError> for Stop {
    fn from(error: MembershipError) -> Stop {
        match error {
            MembershipError::Gone(gone) => Stop::Rejoin(gone),
            other => Stop::Mistake(other.to_string()),
        }
    }
}

impl From<CollectiveError> for Stop {
    fn from(error: CollectiveError) -> Stop {
        match error {
            CollectiveError::Gone(gone) => Stop::Rejoin(gone),
            other => Stop::Mistake(other.to_string()),
        }
    }
}

impl From<SyncError> for Stop {
    fn from(error: SyncError) -> Stop {
        match error {
            SyncError::Gone(gone) => Stop::Rejoin(gone),
            other => Stop::Mistake(other.to_string()),
        }
    }
}

// From here on: scenery.

struct Plan {
    steps: u64,
    vanishes_at: Option<u64>,
}

impl Model {
    fn new(size: usize) -> Model {
        Model {
            weights: vec![0.0; size],
            step: [0],
            revision: Revision(0),
        }
    }

    /// Pulls every weight towards 1, with a disturbance that differs from peer to peer.
    fn gradient(&self, name: &str) -> Vec<f32> {
        let seed = name.len() as u64 * 31 + self.step[0] * 17;
        (0..)
            .zip(&self.weights)
            .map(|(index, weight)| {
                let noise = ((seed + index) * 2_654_435_761 % 1000) as f32 / 1000.0 - 0.5;
                weight - 1.0 + noise * 0.1
            })
            .collect()
    }

    fn apply(&mut self, gradient: &[f32]) {
        for (weight, gradient) in self.weights.iter_mut().zip(gradient) {
            *weight -= 0.1 * gradient;
        }
        self.step[0] += 1;
    }

    fn distance(&self) -> f32 {
        let sum: f32 = self.weights.iter().map(|weight| (weight - 1.0).abs()).sum();
        sum / self.weights.len() as f32
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let short = std::env::args().any(|argument| argument == "--short");
    let (steps, size) = if short { (20, 1_000) } else { (200, 100_000) };
    let master = Master::bind("127.0.0.1:0".parse()?)?;
    let address = master.local_addr().to_string();

    let run = |name: &'static str, vanishes_at| {
        let address = address.clone();
        thread::spawn(move || {
            let mut model = Model::new(size);
            let plan = Plan { steps, vanishes_at };
            work(&address, name, &mut model, &plan).map(|()| model)
        })
    };
    let stayers = [run("alice", None), run("bob", None)];
    let carol = run("carol", Some(steps / 2));
    carol.join().map_err(|_| "carol panicked")??;
    let dave = run("dave", None);

    let mut models = Vec::new();
    for peer in stayers.into_iter().chain([dave]) {
        models.push(peer.join().map_err(|_| "a peer panicked")??);
    }
    let same = models.windows(2).all(|pair| {
        let bits =
            |model: &Model| -> Vec<u32> { model.weights.iter().map(|w| w.to_bits()).collect() };
        bits(&pair[0]) == bits(&pair[1])
    });
    println!(
        "{steps} steps, mean distance from the goal {:.4}, models {}",
        models[0].distance(),
        if same {
            "equal bit by bit"
        } else {
            "DIFFERENT"
        },
    );
    if same {
        Ok(())
    } else {
        Err("the peers' models differ".into())
    }
}
