//! Worlds in which a rule of the library is broken on purpose: who sees it, and where soonest.

use std::collections::BTreeMap;

use pccl::mutation::Mutation;
use serde_json::json;

use super::Played;
use super::pool::Outcome;

/// How many seeds a row names.
const FIRST: usize = 3;

/// How many seeds of a rule are kept for the tests, of the checker that sees it most.
const KEPT: usize = 4;

/// The rules that `--mutation` names.
#[derive(Clone, Debug)]
pub(super) struct Broken(pub(super) Vec<Mutation>);

/// One rule by its name, or all of them.
pub(super) fn named(name: &str) -> Result<Broken, String> {
    if name == "all" {
        return Ok(Broken(Mutation::ALL.to_vec()));
    }
    let found = Mutation::ALL
        .iter()
        .find(|rule| format!("{rule:?}") == name);
    found.map(|rule| Broken(vec![*rule])).ok_or_else(|| {
        let names: Vec<String> = Mutation::ALL.iter().map(|m| format!("{m:?}")).collect();
        format!("there are: all, {}", names.join(", "))
    })
}

/// What came of every broken rule: a row each as it is known, as in the documentation; in the end the
/// seeds in which each checker sees each rule soonest, as in `tests/sim/caught.rs`.
pub(super) struct Table {
    as_json: bool,
    /// By checker: what the tests keep.
    shown: BTreeMap<String, Vec<String>>,
    escaped: Vec<Mutation>,
}

impl Table {
    pub(super) fn new(as_json: bool) -> Self {
        if !as_json {
            println!("| rule that is broken | seen by | in worlds | first seeds |");
            println!("| --- | --- | --- | --- |");
        }
        Self {
            as_json,
            shown: BTreeMap::new(),
            escaped: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, rule: Mutation, outcome: Outcome, enough: usize) {
        let mut worlds = outcome.summary.worlds;
        let mut caught = outcome.failed;
        // Threads that were under way play on when it is enough.
        if let Some(last) = enough.checked_sub(1).and_then(|last| caught.get(last)) {
            worlds = worlds.min(last.plan.seed - outcome.first + 1);
        }
        caught.truncate(enough);
        let mut by_checker: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for played in &caught {
            let kind = played.kind().unwrap_or_default();
            by_checker.entry(kind).or_default().push(played.plan.seed);
        }
        let mut checkers: Vec<(&str, Vec<u64>)> = by_checker.into_iter().collect();
        checkers.sort_by_key(|(_, seeds)| std::cmp::Reverse(seeds.len()));
        if self.as_json {
            let checkers: Vec<_> = checkers
                .iter()
                .map(|(name, seeds)| json!({ "checker": name, "seeds": seeds }))
                .collect();
            let row = json!({
                "mutation": format!("{rule:?}"),
                "worlds": worlds,
                "caught": caught.len(),
                "checkers": checkers,
            });
            println!("{row}");
        } else {
            let seen_by: Vec<String> = checkers
                .iter()
                .map(|(name, seeds)| format!("{name} {}", seeds.len()))
                .collect();
            let first: Vec<String> = caught.iter().map(|p| p.plan.seed.to_string()).collect();
            let first = &first[..first.len().min(FIRST)];
            println!(
                "| `{rule:?}` | {} | {} of {worlds} | {} |",
                seen_by.join(", "),
                caught.len(),
                first.join(", ")
            );
        }
        if caught.is_empty() {
            self.escaped.push(rule);
        }
        for (place, (checker, _)) in checkers.iter().enumerate() {
            let seen = caught.iter().filter(|p| p.kind() == Some(checker));
            let mut seen: Vec<&Played> = seen.collect();
            // Small worlds make quick tests.
            seen.sort_by_key(|played| records(played));
            let kept = if place == 0 { KEPT } else { 1 };
            let seeds = seen.iter().take(kept).map(|p| p.plan.seed.to_string());
            let seeds: Vec<String> = seeds.collect();
            let line = format!("(Mutation::{rule:?}, &[{}]),", seeds.join(", "));
            let lines = self.shown.entry((*checker).to_owned()).or_default();
            lines.push(line);
        }
    }

    /// Whether all were caught.
    pub(super) fn end(self) -> bool {
        if !self.as_json {
            for (checker, lines) in &self.shown {
                println!("\n{checker}:\n        {}", lines.join("\n        "));
            }
            if !self.escaped.is_empty() {
                println!("\nnobody saw {:?}", self.escaped);
            }
        }
        self.escaped.is_empty()
    }
}

/// How much had happened when it was seen.
fn records(played: &Played) -> u64 {
    played.verdict.as_ref().map_or(u64::MAX, |v| v.records)
}
