//! How hard the master looks, and what may be expected of it.

use std::time::Duration;

use clap::ValueEnum;
use pccl::MasterConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    Default,
    Fast,
}

impl Profile {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Fast => "fast",
        }
    }

    /// What the master is told.
    pub(crate) fn settings(self) -> MasterConfig {
        match self {
            Profile::Default => MasterConfig::default(),
            Profile::Fast => MasterConfig::fast(),
        }
    }

    /// Whoever is stopped or cut off for less than this must not lose its place: it may be held
    /// just before a heartbeat was due, and needs a moment to be heard again.
    pub(crate) fn harmless(self) -> Duration {
        let settings = self.settings();
        let due = settings.heartbeat_interval * 6 / 5;
        settings.silence_floor.saturating_sub(due)
    }

    /// Whoever falls silent is named after this at the latest.
    pub(crate) fn noticed_within(self) -> Duration {
        match self {
            Profile::Default => Duration::from_secs(4),
            Profile::Fast => Duration::from_secs(1),
        }
    }
}
