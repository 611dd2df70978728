//! Log lines go to stderr, as `PCCL_LOG_LEVEL` says; without it, errors only.
//!
//! A program that has a subscriber of `tracing` of its own keeps it.

use tracing_subscriber::EnvFilter;

const VARIABLE: &str = "PCCL_LOG_LEVEL";

/// Starts logging, once for the process.
pub(crate) fn start() {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| "ERR".to_owned());
    // PCCL is silent where it does not know the level.
    let filter = EnvFilter::try_new(directive(&wanted)).unwrap_or_else(|_| EnvFilter::new("off"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Another one is there already.
    let _ = subscriber.try_init();
}

fn directive(level: &str) -> &str {
    match level {
        // Nothing is fatal here: what cannot go on is a code that the caller gets.
        "ERR" | "FATAL" => "error",
        "NONE" => "off",
        filter => filter,
    }
}
