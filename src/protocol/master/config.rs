//! A master's settings: how soon failures are noticed, and how many peers there may be.

use std::path::PathBuf;
use std::time::Duration;

use crate::wire::control::Timings;

/// Settings of a master. All durations cost time to notice a failure when large, and wrong
/// suspicion when small. Peers are told the first five when they register. [`Default`] is for any
/// network; [`MasterConfig::fast`] tells a dead peer in under a second at 100 ms round trip.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MasterConfig {
    /// How often master and peers speak at least. Default 500 ms, fast 100 ms; each beat is about
    /// 70 bytes each way.
    pub heartbeat_interval: Duration,
    /// The least silence after which a peer may be evicted; at least three times
    /// `heartbeat_interval`. Default 2 s, fast 500 ms. What is held up for less costs nobody its
    /// place; a peer that hangs holds everybody up for so long on a good network.
    pub silence_floor: Duration,
    /// The silence after which a peer is evicted however bad its connection has been. Default
    /// 2.5 s, fast 700 ms. A peer that hangs holds everybody up for so long at most.
    pub silence_ceiling: Duration,
    /// How long a lane between two peers may be silent while one of them owes the other something,
    /// before it is made anew; two and a half of the longest round trips if that is more. Default
    /// 1 s, fast 350 ms. Below the longest time that a network drops everything, lanes are made
    /// anew in vain.
    pub lane_stall_timeout: Duration,
    /// How long a link between two peers may be without a lane before the master hears of it, where
    /// a peer's own setting does not say otherwise; three and a half of the longest round trips
    /// if that is more. Default 1 s, fast 300 ms. A link that is cut costs this and
    /// `lane_stall_timeout`.
    pub link_timeout: Duration,
    /// How long a peer whose control connection broke may take to resume, unless a second witness
    /// says that it is dead; three of its round trips if that is more. Default 1.2 s, fast 300 ms.
    /// A peer whose host vanished holds everybody up for so long.
    pub resume_grace: Duration,
    /// How long the links of a new epoch may take to come up while newcomers are let in.
    /// Default 10 s, fast 3 s. One that does not come up holds `update_topology` up for so long;
    /// longer than `link_timeout`, or a broken link is blamed on the newcomer.
    pub wiring_timeout: Duration,
    /// How long a master that starts waits for peers of a run that had a master before it. Default
    /// 2 s, fast 1 s. The first peers of a new run wait for so long. Zero begins a new run at once.
    pub recovery_window: Duration,
    /// Begins a new run at its start, and does not wait; peers of another are evicted when they come.
    /// Default false. Where it has to look for its own peers again later, it waits all the same.
    pub begins_new_run: bool,
    /// Where a master writes down what it tells, before it tells it, so that the next one here knows
    /// what only peers that died with it were told. Default none. It is one more report beside
    /// those of the peers, of whom a majority must come back all the same; an old copy is told by
    /// its term, and not heard. Costs a write to the disk, and waiting for it, for each operation
    /// and joint call that ends.
    pub state_dir: Option<PathBuf>,
    /// Most peers, registered and accepted. Default 256: each learns the whole ring, so
    /// that memory at the master grows with the square of it. Each costs a connection and two small
    /// tasks.
    pub peers_max: usize,
}

impl Default for MasterConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(500),
            silence_floor: Duration::from_secs(2),
            silence_ceiling: Duration::from_millis(2500),
            lane_stall_timeout: Duration::from_secs(1),
            link_timeout: Duration::from_secs(1),
            resume_grace: Duration::from_millis(1200),
            wiring_timeout: Duration::from_secs(10),
            recovery_window: Duration::from_secs(2),
            begins_new_run: false,
            state_dir: None,
            peers_max: 256,
        }
    }
}

impl MasterConfig {
    /// For runs that would rather lose a peer wrongly than wait for one: a peer that is dead,
    /// stopped or cut off is told to everybody in under a second at 100 ms round trip. Costs five
    /// times the heartbeats, and the place of a peer that is held up for half a second.
    pub fn fast() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            silence_floor: Duration::from_millis(500),
            silence_ceiling: Duration::from_millis(700),
            lane_stall_timeout: Duration::from_millis(350),
            link_timeout: Duration::from_millis(300),
            resume_grace: Duration::from_millis(300),
            wiring_timeout: Duration::from_secs(3),
            recovery_window: Duration::from_secs(1),
            ..Self::default()
        }
    }

    /// Begins a new run at once, whatever peers of another come.
    #[must_use]
    pub fn new_run(self) -> Self {
        Self {
            begins_new_run: true,
            ..self
        }
    }

    /// Whether it waits for peers of a run before it begins one.
    pub(crate) fn waits_for_a_run(&self) -> bool {
        !self.begins_new_run && !self.recovery_window.is_zero()
    }

    /// What peers are told of it.
    pub(crate) fn timings(&self) -> Timings {
        Timings {
            heartbeat_interval: self.heartbeat_interval,
            silence_floor: self.silence_floor,
            silence_ceiling: self.silence_ceiling,
            lane_stall_timeout: self.lane_stall_timeout,
            link_timeout: self.link_timeout,
        }
    }
}
