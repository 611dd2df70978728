//! `stress peer`: a process that runs the recommended loop until it is told to stop, and writes
//! down everything the library tells it.

mod classes;
mod fork;
mod membership;
mod model;
mod numbers;
mod watch;

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::event::Event;
use crate::log::Log;
use crate::pages::Pages;
use membership::{End, Membership};
use model::Model;
use watch::Watch;

/// The word that asks a peer to leave.
pub(crate) const LEAVE: &str = "leave";

/// How long a peer waits before it joins again.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    pub(crate) master: String,
    /// Another one that may take over.
    #[arg(long)]
    pub(crate) standby: Option<String>,
    #[arg(long)]
    pub(crate) label: String,
    /// Where to write down what happens.
    #[arg(long)]
    pub(crate) log: PathBuf,
    /// Bytes of each all-reduce.
    #[arg(long)]
    pub(crate) bytes: u64,
    /// All-reduces of a step.
    #[arg(long)]
    pub(crate) tags: u64,
    /// Bytes of the shared state.
    #[arg(long)]
    pub(crate) state_bytes: u64,
    /// How long the master may be away, in milliseconds.
    #[arg(long)]
    pub(crate) master_grace_ms: u64,
    /// Whether to join again after an eviction.
    #[arg(long)]
    pub(crate) rejoin: bool,
    /// Group to be in.
    #[arg(long, default_value_t = 0)]
    pub(crate) group: u32,
    /// Pages of the buffers.
    #[arg(long, value_enum, default_value_t = Pages::Huge)]
    pub(crate) pages: Pages,
    /// Touch a sample of each buffer only, and say when each all-reduce begins.
    #[arg(long)]
    pub(crate) sparse: bool,
    /// Once so many peers are in all groups together: all-reduces only, nobody is let in any more.
    #[arg(long)]
    pub(crate) settle_at: Option<u32>,
    /// From then on, compute for so long before each all-reduce, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub(crate) compute_ms: u64,
    /// From then on, pause for so long before each all-reduce, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub(crate) pause_ms: u64,
    /// From then on, have a forked child.
    #[arg(long)]
    pub(crate) fork: bool,
}

/// Ends when asked to leave, and at once when the input ends: then nobody is left to ask.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    crate::log_library();
    let mut log = Log::open(&arguments.log, &arguments.label)?;
    let leave = listen();
    let watch = Watch::start(&arguments.log, &arguments.label)?;
    let mut model = Model::new(arguments);
    loop {
        let end = match Membership::join(arguments, &mut log, &mut model, &leave, &watch) {
            Ok(mut membership) => membership.run(),
            Err(end) => end,
        };
        match end {
            End::Left => return Ok(()),
            End::Again if leave.load(Ordering::Relaxed) || !arguments.rejoin => {
                log.note(Event::Left {
                    outcome: "told to stop while out of the run".to_owned(),
                });
                return Ok(());
            }
            End::Again => {
                // A process that comes back is a new peer, and has nothing.
                model = Model::new(arguments);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Set once this process is asked to leave.
fn listen() -> Arc<AtomicBool> {
    let leave = Arc::new(AtomicBool::new(false));
    let asked = leave.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == LEAVE {
                asked.store(true, Ordering::Relaxed);
            }
        }
        std::process::exit(0);
    });
    leave
}
