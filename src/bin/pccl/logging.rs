//! Log lines go to stderr, as `PCCL_LOG_LEVEL` says.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const VARIABLE: &str = "PCCL_LOG_LEVEL";

/// Starts logging. Where `PCCL_LOG_LEVEL` is unset, or cannot be read, `default` is the level.
///
/// Takes the level names of `pccl.h` (`TRACE` to `FATAL`, `NONE`) and the filters of
/// tracing-subscriber, such as `info,pccl::transport=trace`.
pub(crate) fn start(default: &str) {
    let mut wanted = std::env::var(VARIABLE).unwrap_or_else(|_| default.to_owned());
    if !is_known(&wanted) {
        eprintln!(
            "{VARIABLE}: `{wanted}` is no level (TRACE, DEBUG, INFO, WARN, ERR, FATAL, NONE); using `{default}`"
        );
        wanted = default.to_owned();
    }
    let filter = EnvFilter::try_new(directive(&wanted)).unwrap_or_else(|error| {
        eprintln!("{VARIABLE}: {error}; using `{default}`");
        EnvFilter::new(default)
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Whether a single word means something: any would be taken for the name of a module.
fn is_known(level: &str) -> bool {
    let is_filter = level.contains(['=', ',']) || level.starts_with("pccl");
    is_filter || directive(level).parse::<LevelFilter>().is_ok()
}

/// The filter for a level name of `pccl.h`; everything else is a filter already.
fn directive(level: &str) -> &str {
    match level {
        // Nothing is fatal here: what cannot go on is an error that the caller gets.
        "ERR" | "FATAL" => "error",
        "NONE" => "off",
        filter => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_the_c_header_is_a_filter() {
        for level in ["TRACE", "DEBUG", "INFO", "WARN", "ERR", "FATAL", "NONE"] {
            assert!(EnvFilter::try_new(directive(level)).is_ok(), "{level}");
            assert!(is_known(level), "{level}");
        }
        assert!(is_known("warn") && is_known("pccl::wire=trace"));
        assert!(!is_known("bogus"));
        assert_eq!(directive("NONE"), "off");
        assert_eq!(directive("info,pccl=trace"), "info,pccl=trace");
    }
}
