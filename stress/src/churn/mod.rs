//! `stress churn`: hurts a run for some minutes, then says what came of it.

mod blows;
mod faults;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::history::{Bounds, History};
use crate::net::{self, Cuts};
use crate::pages::Pages;
use crate::profile::Profile;
use crate::stage::{Stage, Work};
use crate::{checkers, report, size};
use faults::{Limits, Script};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Peers to have when nothing is missing.
    #[arg(long, default_value_t = 4)]
    peers: u64,
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Draws the same blows again; when they fall on what is up to the machine.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of each all-reduce.
    #[arg(long, default_value = "256KiB", value_parser = size::parse)]
    bytes: u64,
    /// All-reduces that run beside each other.
    #[arg(long, default_value_t = 4)]
    tags: u64,
    /// Bytes of the shared state.
    #[arg(long, default_value = "64KiB", value_parser = size::parse)]
    state_bytes: u64,
    /// Stop nobody.
    #[arg(long)]
    no_stops: bool,
    /// Cut networks: where this process may (root and `ip`), never, or not run without.
    #[arg(long, value_enum, default_value_t = Cuts::Auto)]
    cuts: Cuts,
    /// The master's settings of time.
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    profile: Profile,
    /// Pages of the buffers.
    #[arg(long, value_enum, default_value_t = Pages::Huge)]
    pages: Pages,
    /// Stop the master, too.
    #[arg(long)]
    stop_master: bool,
    /// Kill the master every so many seconds; another comes in its place after 0.2 to 5 s.
    #[arg(long, value_name = "SECONDS")]
    kill_master_every: Option<f64>,
    /// The longest pause between two blows; the shortest is a seventh of it.
    #[arg(long, default_value_t = 2000)]
    pause_max_ms: u64,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Where logs go. Default: a folder of its own in the system's temporary one.
    #[arg(long)]
    logs: Option<PathBuf>,
}

/// The folder for logs where none was named.
pub(crate) fn default_folder() -> PathBuf {
    std::env::temp_dir().join(format!("pccl-stress-{}", std::process::id()))
}

/// Returns whether the run kept its promises.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let has_networks = net::enter(arguments.cuts)?;
    let folder = arguments.logs.clone().unwrap_or_else(default_folder);
    let work = Work {
        bytes: arguments.bytes,
        tags: arguments.tags,
        state_bytes: arguments.state_bytes,
        master_grace_ms: 10_000,
        pages: arguments.pages,
        is_sparse: false,
        profile: arguments.profile,
        has_networks,
        has_standby: false,
    };
    let mut stage = Stage::open(&folder, work)?;
    let mut script = Script::new(
        arguments.seed,
        Limits {
            stops: !arguments.no_stops,
            // Without networks of its own a peer is stopped instead.
            cuts: has_networks || !(arguments.no_stops || arguments.cuts == Cuts::Never),
            master: arguments.stop_master,
            pause_max: Duration::from_millis(arguments.pause_max_ms),
        },
    );
    eprintln!(
        "stress: seed {}, logs in {}",
        arguments.seed,
        folder.display()
    );
    for _ in 0..arguments.peers {
        stage.join()?;
    }
    let end = Instant::now() + Duration::from_secs_f64(60.0 * arguments.minutes.clamp(0.0, 1e6));
    // A moment of peace first, so that there is something to hurt.
    stage.wait(Duration::from_secs(1))?;
    let every = arguments.kill_master_every.map(|s| s.clamp(0.1, 1e6));
    let mut next_kill = every.map(|s| Instant::now() + Duration::from_secs_f64(s));
    while Instant::now() < end {
        stage.wait(script.pause())?;
        if let (Some(due), Some(every)) = (next_kill, every)
            && due <= Instant::now()
        {
            next_kill = Some(due + Duration::from_secs_f64(every));
            stage.kill_master(Some(script.away()))?;
        }
        for _ in 0..script.at_once() {
            let fault = script.fault();
            blows::strike(&mut stage, fault, &mut script, arguments.peers)?;
        }
    }
    stage.finish(Duration::ZERO)?;

    let history = History::read(&folder, Bounds::of(arguments.profile))?;
    let violations = checkers::check(&history);
    let report = report::Report::new(&history, &violations);
    if arguments.json {
        println!("{}", report.json()?);
    } else {
        print!("{report}");
    }
    Ok(violations.is_empty())
}
