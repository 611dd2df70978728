//! Eight peers keep all cores busy, a ninth computes for a minute between its calls, and a tenth
//! waits for it in a call all that time: nobody may be taken for dead.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Arguments, wait_for_all};
use crate::history::{Bounds, History};
use crate::stage::Stage;
use crate::{checkers, report};

/// Peers of the group that trains.
const TRAINING: u64 = 8;
/// With the two of the other group.
const ALL: &str = "10";

const COMPUTE_MS: &str = "40";
const LONG_COMPUTE: Duration = Duration::from_secs(60);

pub(super) fn run(arguments: &Arguments, folder: &Path) -> Result<bool, String> {
    let mut bounds = Bounds::of(arguments.profile);
    // Whoever waits for the one that computes is not held up by a fault.
    bounds.patience_us += u64::try_from(LONG_COMPUTE.as_micros()).unwrap_or(u64::MAX);
    let bytes = arguments.bytes.first().copied().unwrap_or(1 << 20);
    let mut stage = Stage::open(folder, arguments.work(bytes, false))?;
    for _ in 0..TRAINING {
        stage.join_with(&["--settle-at", ALL, "--compute-ms", COMPUTE_MS])?;
    }
    let long = LONG_COMPUTE.as_millis().to_string();
    let second = ["--settle-at", ALL, "--group", "1"];
    stage.join_with(&[&second[..], &["--compute-ms", &long]].concat())?;
    stage.join_with(&second)?;
    wait_for_all(&mut stage, bounds, TRAINING, Duration::ZERO)?;
    let minutes = arguments.minutes.clamp(0.0, 1e6);
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    while Instant::now() < end {
        stage.wait(Duration::from_secs(1))?;
    }
    stage.finish(LONG_COMPUTE)?;

    let history = History::read(folder, bounds)?;
    let violations = checkers::check(&history);
    let report = report::Report::new(&history, &violations);
    if arguments.json {
        println!("{}", report.json()?);
    } else {
        print!("{report}");
    }
    Ok(violations.is_empty())
}
