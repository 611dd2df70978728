//! `stress sim`: plays many worlds of the simulator, each from a seed, and shows what went wrong.

mod mutants;
mod pool;
mod show;

use std::time::Instant;

use clap::{Args, ValueEnum};
use pccl::mutation::Mutation;
use pccl::sim::{Mode, Plan, Verdict, play, shrink};

/// Worlds that a failing one may cost while it is made smaller.
const SHRINK_ATTEMPTS_MAX: u32 = 400;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many seeds to play.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Play this one alone, and print its whole trace if it fails.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// What programs do; by default two seeds of four are honest, one lossy, one misbehaving.
    #[arg(long)]
    mode: Option<Who>,
    /// Break this rule of the library in every world, or each of them in turn, and print a table of
    /// which checker sees it in which seeds.
    #[arg(long, value_name = "NAME|all", value_parser = mutants::named)]
    mutation: Option<mutants::Broken>,
    /// Go on to the next rule once so many seeds have caught this one.
    #[arg(long, requires = "mutation", value_name = "SEEDS", default_value_t = usize::MAX)]
    enough: usize,
    /// Make a failing world as small as it gets before it is shown.
    #[arg(long)]
    shrink: bool,
    /// Print the trace of a single seed also where nothing is wrong with it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Threads that play; by default one for each core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Print one JSON object instead of words.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Who {
    /// Everybody keeps the rules of the API.
    Honest,
    /// So they do, on a network that breaks links again and again.
    Lossy,
    /// Some break them, and strangers speak to the ports.
    Misbehaving,
}

/// One seed and what came of it.
pub(crate) struct Played {
    plan: Plan,
    /// An error is one of the system, or a panic in the world.
    verdict: Result<Verdict, String>,
}

impl Played {
    fn has_failed(&self) -> bool {
        self.verdict
            .as_ref()
            .map_or(true, |verdict| verdict.violation.is_some())
    }

    /// What is wrong, in a few words that are the same for the same fault.
    fn kind(&self) -> Option<&str> {
        match &self.verdict {
            Ok(verdict) => verdict.violation.as_ref().map(|v| v.invariant),
            Err(_) => Some("the world itself"),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let started = Instant::now();
    let draw = |seed| {
        let mode = match arguments.mode {
            None => Mode::of(seed),
            Some(Who::Honest) => Mode::Honest,
            Some(Who::Lossy) => Mode::Lossy,
            Some(Who::Misbehaving) => Mode::Misbehaving,
        };
        Plan::draw(seed, mode)
    };
    if let Some(seed) = arguments.seed {
        let broken = match &arguments.mutation {
            Some(mutants::Broken(rules)) => rules.first().copied(),
            None => None,
        };
        let played = pool::play_one(draw(seed), broken, true);
        let played = made_small(played, broken, arguments.shrink);
        show::one(&played, arguments.trace, arguments.json);
        return Ok(!played.has_failed());
    }
    let seeds = arguments.first..arguments.first.saturating_add(arguments.seeds);
    let jobs = arguments.jobs.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
    });
    if let Some(mutants::Broken(rules)) = &arguments.mutation {
        let mut table = mutants::Table::new(arguments.json);
        for rule in rules {
            let (seeds, enough) = (seeds.clone(), arguments.enough);
            let outcome = pool::play_all(seeds, jobs, Some(*rule), enough, draw)?;
            table.row(*rule, outcome, enough);
        }
        return Ok(table.end());
    }
    let outcome = pool::play_all(seeds, jobs, None, usize::MAX, draw)?;
    let failed: Vec<Played> = outcome
        .failed
        .into_iter()
        .map(|played| {
            let again = pool::play_one(played.plan, None, true);
            made_small(again, None, arguments.shrink)
        })
        .collect();
    let summary = show::Summary {
        failed: &failed,
        ..outcome.summary
    };
    show::all(&summary, started.elapsed(), arguments.json);
    Ok(failed.is_empty())
}

fn made_small(played: Played, broken: Option<Mutation>, wanted: bool) -> Played {
    let Some(kind) = played.kind().filter(|_| wanted).map(str::to_owned) else {
        return played;
    };
    let fails = &mut |plan: &Plan| {
        let again = pool::play_one(plan.clone(), broken, false);
        again.kind() == Some(kind.as_str())
    };
    let small = shrink(&played.plan, SHRINK_ATTEMPTS_MAX, fails);
    pool::play_one(small, broken, true)
}

fn verdict_of(plan: &Plan, keeps_trace: bool) -> Result<Verdict, String> {
    let world = std::panic::AssertUnwindSafe(|| play(plan, keeps_trace));
    match std::panic::catch_unwind(world) {
        Ok(verdict) => verdict.map_err(|error| error.to_string()),
        Err(panic) => Err(format!(
            "it panicked: {}",
            panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied())
                .unwrap_or("no words")
        )),
    }
}
