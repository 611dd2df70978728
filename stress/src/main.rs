//! Churn with real processes.

fn main() {}
