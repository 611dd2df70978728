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

    /// Whoever is stopped or cut off for less than this must not lose its place.
    pub(crate) fn harmless(self) -> Duration {
        self.settings().silence_floor
    }

    /// Whoever falls silent is named after this at the latest.
    pub(crate) fn noticed_within(self) -> Duration {
        match self {
            Profile::Default => Duration::from_secs(4),
            Profile::Fast => Duration::from_secs(1),
        }
    }
}
