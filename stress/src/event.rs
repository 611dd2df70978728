//! What is written down, one JSON object a line: by the peers what they were told, by the
//! orchestrator what it did to them.

use serde::{Deserialize, Serialize};

/// One line of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Microseconds since 1970.
    pub(crate) at_us: u64,
    /// Label of the process that it is about.
    pub(crate) who: String,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// Names one all-reduce of the loop for all attempts at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Drawn anew whenever a run starts from nothing, and shared with the state.
    pub(crate) lineage: u64,
    pub(crate) step: u64,
    pub(crate) tag: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    // By a peer.
    /// `connect` was called.
    Connecting,
    Connected {
        id: u64,
        epoch: String,
        world: u32,
        took_us: u64,
    },
    /// `connect` failed for good.
    NotConnected {
        error: String,
    },
    Synced {
        lineage: u64,
        revision: u64,
        step: u64,
        digest: u64,
        rx_bytes: u64,
        /// Whether the last sync of this membership committed one revision before.
        is_veteran: bool,
        world: u32,
    },
    SyncFailed {
        class: String,
        error: String,
        took_us: u64,
    },
    Committed {
        #[serde(flatten)]
        work: Work,
        id: u64,
        attempt: u32,
        /// Of this peer when the call had returned; may be one that came after.
        epoch: String,
        contributors: Vec<u64>,
        world: u32,
        /// Of the bits of the result.
        digest: u64,
        /// What differs from the sum over the contributors.
        wrong: Option<String>,
        took_us: u64,
    },
    Failed {
        #[serde(flatten)]
        work: Work,
        id: u64,
        attempt: u32,
        class: String,
        error: String,
        lost: Vec<Lost>,
        /// What differs from the input before the call.
        input_damage: Option<String>,
        took_us: u64,
    },
    /// A joint call failed.
    CallFailed {
        call: String,
        class: String,
        error: String,
        took_us: u64,
    },
    /// This membership is over and not by the owner's wish.
    Gone {
        id: u64,
        class: String,
        error: String,
    },
    Left {
        outcome: String,
    },
    /// An all-reduce is called; written down where a fault is to hit one.
    Reducing {
        step: u64,
        attempt: u32,
    },
    /// A call goes on, and on.
    StillIn {
        call: String,
        took_us: u64,
    },
    /// There is a child now with copies of all descriptors.
    Forked {
        pid: u32,
    },
    // By the orchestrator.
    Started {
        pid: u32,
    },
    Killed,
    Stopped {
        for_ms: u64,
    },
    Continued,
    /// Its network is cut.
    Cut {
        way: String,
        /// The other end, where only one pair is cut.
        with: Option<String>,
        for_ms: u64,
    },
    /// The cut of that way is over.
    Mended {
        way: String,
    },
    AskedToLeave,
    Ended {
        status: String,
        success: bool,
    },
    /// From here on the run winds down.
    Finishing,
}

/// A peer that an error names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lost {
    pub(crate) id: u64,
    pub(crate) label: String,
    pub(crate) reason: String,
}
