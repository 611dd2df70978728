//! Integration tests, a module per behaviour.

fn main() {}
