//! `stress scene`: one fault in an otherwise quiet run, repeated, and what each peer met and when.

mod bare;
mod busy;
mod idle;
mod sights;

pub(crate) use bare::{MappedArguments, run_mapped};

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

use crate::churn::default_folder;
use crate::event::{Event, Line};
use crate::history::{Bounds, History};
use crate::net::{self, Cuts};
use crate::pages::Pages;
use crate::profile::Profile;
use crate::random::Random;
use crate::size;
use crate::stage::{Stage, Way, Work};
use sights::Summary;

/// How long peers may take to get going.
const START_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// SIGKILL one peer.
    Kill,
    /// SIGKILL two peers at once.
    KillTwo,
    /// SIGKILL one peer whose forked child lives on.
    Fork,
    /// SIGSTOP one peer for `--hold-ms`.
    Stop,
    /// Set the link of one peer down for `--hold-ms`.
    Cut,
    /// Drop all that one peer sends, in every second repeat all that it is sent.
    CutOneWay,
    /// Drop what two of the peers send each other.
    CutPair,
    /// SIGKILL the master.
    KillMaster,
    /// Start a peer and SIGKILL it up to 150 ms later.
    KillJoiner,
    /// Start a peer and SIGSTOP it up to 150 ms later.
    StopJoiner,
    /// Drop what comes over every lane that there is, while all are idle; then use them again.
    IdleCut,
    /// Keep all cores busy for `--minutes`; nothing else happens, and nobody may be lost.
    Busy,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    fault: Fault,
    #[arg(long, default_value_t = 3)]
    peers: u64,
    /// Bytes of each all-reduce; several sizes are played one after the other.
    #[arg(long, default_value = "16MiB", value_delimiter = ',', value_parser = size::parse)]
    bytes: Vec<u64>,
    /// All-reduces that run beside each other.
    #[arg(long, default_value_t = 1)]
    tags: u64,
    /// How often the fault is played.
    #[arg(long, visible_alias = "repeats", default_value_t = 5)]
    times: u64,
    /// How long a peer is stopped or cut off.
    #[arg(long, visible_alias = "stop-ms", default_value_t = 8000)]
    hold_ms: u64,
    #[arg(long, default_value_t = 10_000)]
    master_grace_ms: u64,
    /// How long to watch after the fault.
    #[arg(long, default_value_t = 3000)]
    watch_ms: u64,
    /// With `kill-master`: start another in its place after so long. Two numbers with a `-` between
    /// them are bounds to draw it from; without, none comes.
    #[arg(long, value_parser = parse_bounds)]
    away_ms: Option<(u64, u64)>,
    /// With `kill-master`: between all-reduces peers go on asking for newcomers and syncing, and one
    /// comes just before the fault, so that it falls into joint calls as well.
    #[arg(long)]
    calls: bool,
    /// With `kill-master`: there is a second master, which takes over.
    #[arg(long)]
    standby: bool,
    /// With `idle-cut`: how long the peers do nothing between all-reduces.
    #[arg(long, default_value_t = 5000)]
    idle_ms: u64,
    /// With `busy`: for how long.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// The master's settings of time.
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    profile: Profile,
    /// Pages of the buffers.
    #[arg(long, value_enum, default_value_t = Pages::Huge)]
    pages: Pages,
    /// Cut networks where a fault asks for it; elsewhere, and with `never`, peers are stopped.
    #[arg(long, value_enum, default_value_t = Cuts::Auto)]
    cuts: Cuts,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object for each size, and nothing else.
    #[arg(long)]
    json: bool,
    /// Where logs go. Default: a folder of its own in the system's temporary one.
    #[arg(long)]
    logs: Option<PathBuf>,
}

impl Arguments {
    fn work(&self, bytes: u64, has_networks: bool) -> Work {
        Work {
            bytes,
            tags: self.tags,
            state_bytes: 64 << 10,
            master_grace_ms: self.master_grace_ms,
            pages: self.pages,
            is_sparse: true,
            profile: self.profile,
            has_networks,
            has_standby: self.standby,
        }
    }

    /// Whether a master is there after the one that is killed.
    fn master_follows(&self) -> bool {
        self.away_ms.is_some() || self.standby
    }

    /// Says something to a human.
    fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }
}

/// Returns whether all promises were kept in all repeats.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    if arguments.fault == Fault::KillTwo && arguments.peers < 4 {
        return Err("kill-two needs --peers 4 or more: two must be left to go on".to_owned());
    }
    let needs_networks = matches!(
        arguments.fault,
        Fault::Cut | Fault::CutOneWay | Fault::CutPair | Fault::IdleCut
    );
    let has_networks = needs_networks && net::enter(arguments.cuts)?;
    let folder = arguments.logs.clone().unwrap_or_else(default_folder);
    eprintln!(
        "stress: seed {}, logs in {}",
        arguments.seed,
        folder.display()
    );
    if arguments.fault == Fault::Busy {
        return busy::run(arguments, &folder);
    }
    let mut all_kept = true;
    for &bytes in &arguments.bytes {
        let mut random = Random::new(arguments.seed);
        let work = arguments.work(bytes, has_networks);
        let mut summary = Summary::new(arguments, bytes);
        for time in 0..arguments.times {
            let folder = folder.join(format!("{bytes}-{time}"));
            if arguments.fault == Fault::IdleCut {
                let history = idle::play(arguments, work, &folder)?;
                summary.add_idle(arguments, time, &history);
            } else {
                let history = play(arguments, work, &folder, time, &mut random)?;
                summary.add(arguments, time, &history);
            }
        }
        if arguments.fault == Fault::Kill {
            summary.add_bare(bare::measure(arguments, bytes, &folder)?);
        }
        all_kept &= summary.is_clean();
        if arguments.json {
            println!("{}", summary.json()?);
        } else {
            print!("{summary}");
        }
    }
    Ok(all_kept)
}

fn play(
    arguments: &Arguments,
    work: Work,
    folder: &Path,
    time: u64,
    random: &mut Random,
) -> Result<History, String> {
    let bounds = Bounds::of(arguments.profile);
    let mut stage = Stage::open(folder, work)?;
    let all = arguments.peers.to_string();
    for number in 0..arguments.peers {
        let mut more = match arguments.fault {
            Fault::KillJoiner | Fault::StopJoiner => vec![],
            _ if arguments.calls => vec![],
            _ => vec!["--settle-at", &all],
        };
        if arguments.fault == Fault::Fork && number == 0 {
            more.push("--fork");
        }
        stage.join_with(&more)?;
    }
    wait_for_all(&mut stage, bounds, arguments.peers, Duration::ZERO)?;
    // Long enough for some all-reduces before, to compare with.
    let mut moment = |from, to| Duration::from_millis(random.within(from, to));
    stage.wait(moment(1000, 1500))?;
    let hold = Duration::from_millis(arguments.hold_ms);
    match arguments.fault {
        Fault::Kill | Fault::Fork => stage.kill(0)?,
        Fault::KillTwo => {
            stage.kill(0)?;
            stage.kill(0)?;
        }
        Fault::Stop => stage.stop(0, hold)?,
        Fault::Cut => stage.cut(0, Way::Link, None, hold)?,
        Fault::CutOneWay => {
            let way = if time.is_multiple_of(2) {
                Way::Out
            } else {
                Way::In
            };
            stage.cut(0, way, None, hold)?;
        }
        Fault::CutPair => stage.cut(0, Way::Pair, Some(1), hold)?,
        Fault::KillMaster => {
            if arguments.calls {
                stage.join()?;
                stage.wait(moment(0, 150))?;
            }
            let away = arguments.away_ms.map(|(from, to)| moment(from, to + 1));
            stage.kill_master(away)?;
            stage.wait(away.unwrap_or_default())?;
        }
        Fault::KillJoiner => {
            let label = stage.join()?;
            stage.wait(moment(0, 150))?;
            if let Some(index) = stage.find(&label) {
                stage.kill(index)?;
            }
        }
        Fault::StopJoiner => {
            let label = stage.join()?;
            stage.wait(moment(0, 150))?;
            if let Some(index) = stage.find(&label) {
                stage.stop(index, hold)?;
            }
        }
        Fault::IdleCut | Fault::Busy => {}
    }
    stage.wait(Duration::from_millis(arguments.watch_ms))?;
    stage.finish(Duration::ZERO)?;
    let history = History::read(folder, bounds)?;
    end_forked(&history);
    Ok(history)
}

/// `LOW-HIGH`, or one number for both.
fn parse_bounds(text: &str) -> Result<(u64, u64), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        text.trim()
            .parse()
            .map_err(|_| format!("`{text}` is no number"))
    };
    match (number(low)?, number(high)?) {
        (low, high) if low <= high => Ok((low, high)),
        (low, high) => Err(format!("{low} is more than {high}")),
    }
}

/// Until somebody has reduced with all peers, which do nothing for `pause` between all-reduces.
fn wait_for_all(
    stage: &mut Stage,
    bounds: Bounds,
    peers: u64,
    pause: Duration,
) -> Result<(), String> {
    let look = Duration::from_millis(100);
    // One all-reduce may be done without the last to come.
    let patience = START_TIMEOUT + 2 * pause;
    for _ in 0..patience.as_millis() / look.as_millis() {
        let history = History::read(stage.folder(), bounds)?;
        let has_all = |line: &Line| matches!(&line.event, Event::Committed { world, .. } if u64::from(*world) == peers);
        if peers == 1 || history.lines.iter().any(has_all) {
            return Ok(());
        }
        stage.wait(look)?;
    }
    Err("the peers did not come together".to_owned())
}

/// Forked children live on until they are told otherwise: that is what they are for.
fn end_forked(history: &History) {
    for line in &history.lines {
        if let Event::Forked { pid } = line.event {
            let ended = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
            if !ended.is_ok_and(|status| status.success()) {
                eprintln!("stress: the forked child {pid} was gone already");
            }
        }
    }
}
