//! Many worlds at once, each in a thread of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pccl::mutation::{self, Mutation};
use pccl::sim::Plan;

use super::show::{Progress, Summary};
use super::{Played, verdict_of};

/// A world that takes longer does not come to its end: virtual time costs little.
const WORLD_MAX: Duration = Duration::from_secs(120);

/// What was played.
pub(super) struct Outcome {
    pub(super) summary: Summary<'static>,
    /// The first seed.
    pub(super) first: u64,
    /// Those that failed, in the order of their seeds, without their traces.
    pub(super) failed: Vec<Played>,
}

/// Plays one, with a rule of the library broken where one is named.
pub(super) fn play_one(plan: Plan, broken: Option<Mutation>, keeps_trace: bool) -> Played {
    let verdict = mutation::with(broken, || verdict_of(&plan, keeps_trace));
    Played { plan, verdict }
}

/// Plays all seeds, or until so many have failed. An error: one of them does not end.
pub(super) fn play_all(
    seeds: Range<u64>,
    jobs: usize,
    broken: Option<Mutation>,
    enough: usize,
    draw: impl Fn(u64) -> Plan + Sync,
) -> Result<Outcome, String> {
    let next = AtomicU64::new(seeds.start);
    let outcome = Mutex::new(Outcome {
        summary: Summary::default(),
        first: seeds.start,
        failed: Vec::new(),
    });
    let playing: Vec<Mutex<Option<(u64, Instant)>>> =
        (0..jobs.max(1)).map(|_| Mutex::new(None)).collect();
    let progress = Progress::new(seeds.end - seeds.start);
    std::thread::scope(|threads| {
        let workers: Vec<_> = playing
            .iter()
            .map(|now_playing| {
                threads.spawn(|| {
                    loop {
                        let is_enough = lock(&outcome).failed.len() >= enough;
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end || is_enough {
                            break;
                        }
                        *lock(now_playing) = Some((seed, Instant::now()));
                        let played = play_one(draw(seed), broken, false);
                        *lock(now_playing) = None;
                        let outcome = &mut *lock(&outcome);
                        outcome.summary.count(&played);
                        progress.step(&outcome.summary);
                        if played.has_failed() {
                            outcome.failed.push(played);
                        }
                    }
                })
            })
            .collect();
        while !workers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            std::thread::sleep(Duration::from_millis(50));
            for now_playing in &playing {
                if let Some((seed, since)) = *lock(now_playing)
                    && since.elapsed() > WORLD_MAX
                {
                    // Its thread cannot be ended; the process can.
                    eprintln!("seed {seed} has not ended within {} s", WORLD_MAX.as_secs());
                    std::process::exit(3);
                }
            }
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    progress.end();
    outcome.failed.sort_by_key(|played| played.plan.seed);
    Ok(outcome)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
