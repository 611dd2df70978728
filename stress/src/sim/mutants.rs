//! Worlds in which a rule of the library is broken on purpose: who sees it, and where soonest.

use std::collections::BTreeMap;

use pccl::mutation::Mutation;
use serde_json::json;

use super::Played;
use super::pool::Outcome;

/// How many seeds are named of those that see it soonest.
const SOONEST: usize = 6;

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

/// Prints what came of a broken rule; whether anybody saw it.
pub(super) fn show(rule: Mutation, outcome: &Outcome, as_json: bool) -> bool {
    let mut by_checker: BTreeMap<&str, Vec<&Played>> = BTreeMap::new();
    for played in &outcome.failed {
        if let Some(kind) = played.kind() {
            by_checker.entry(kind).or_default().push(played);
        }
    }
    for seen in by_checker.values_mut() {
        seen.sort_by_key(|played| records(played));
    }
    let mut checkers: Vec<(&str, Vec<&Played>)> = by_checker.into_iter().collect();
    checkers.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.len()));
    let soonest = |seen: &[&Played]| -> Vec<u64> {
        let seeds = seen.iter().map(|played| played.plan.seed);
        seeds.take(SOONEST).collect()
    };
    let (caught, worlds) = (outcome.failed.len(), outcome.summary.worlds);
    if as_json {
        let checkers: Vec<_> = checkers
            .iter()
            .map(|(name, seen)| {
                json!({ "checker": name, "seeds": seen.len(), "soonest": soonest(seen) })
            })
            .collect();
        println!(
            "{}",
            json!({
                "mutation": format!("{rule:?}"),
                "worlds": worlds,
                "caught": caught,
                "checkers": checkers,
            })
        );
    } else {
        println!("{rule:?}: caught in {caught} of {worlds} worlds");
        for (name, seen) in &checkers {
            let seeds: Vec<String> = soonest(seen).iter().map(u64::to_string).collect();
            println!(
                "  {name} in {}, soonest in seeds {}",
                seen.len(),
                seeds.join(" ")
            );
        }
    }
    caught > 0
}

/// How much had happened when it was seen.
fn records(played: &Played) -> u64 {
    played.verdict.as_ref().map_or(u64::MAX, |v| v.records)
}
