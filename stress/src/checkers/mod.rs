//! One promise of the library each: they read what happened and say where it was broken.

mod bounded_blocking;
mod bounded_gap;
mod exact_sum;
mod expected_errors;
mod input_restored;
mod nobody_ended_unasked;
mod one_outcome;
mod right_evictions;
mod state_parity;

pub(crate) use bounded_gap::gaps;

use crate::event::Line;
use crate::history::History;

/// A promise that was broken.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Violation {
    /// The checker's name.
    pub(crate) checker: &'static str,
    pub(crate) text: String,
    /// The lines that show it.
    pub(crate) evidence: Vec<Line>,
}

type Checker = fn(&History) -> Vec<(String, Vec<Line>)>;

const CHECKERS: [(&str, Checker); 9] = [
    ("one_outcome", one_outcome::check),
    ("exact_sum", exact_sum::check),
    ("input_restored", input_restored::check),
    ("state_parity", state_parity::check),
    ("nobody_ended_unasked", nobody_ended_unasked::check),
    ("right_evictions", right_evictions::check),
    ("expected_errors", expected_errors::check),
    ("bounded_blocking", bounded_blocking::check),
    ("bounded_gap", bounded_gap::check),
];

pub(crate) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (checker, check) in CHECKERS {
        for (text, evidence) in check(history) {
            violations.push(Violation {
                checker,
                text,
                evidence,
            });
        }
    }
    violations
}
