//! What happened in a world: every record goes past all checkers as it is made.
//!
//! Processes run one after the other for a few virtual milliseconds each, so the times of two
//! processes' records may be out of order by that much; the order of records is one in which causes
//! come before their effects.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::network::Strike;
use crate::error::{CollectiveError, ConnectError, Gone, MembershipError, SyncError};
use crate::protocol::peer::Membership;
use crate::types::{DataType, Descriptor, Epoch, OperationId, PeerId, ReduceOp, Revision, Tag};

/// Virtual nanoseconds since the world began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorldTime(pub u64);

impl WorldTime {
    /// From the beginning of the world.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// Whole milliseconds since the beginning.
    pub const fn ms(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl std::ops::Add<Duration> for WorldTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for WorldTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.ms();
        write!(f, "{}.{:03}", ms / 1000, ms % 1000)
    }
}

/// A process of the world, in the order in which they were started. Masters have numbers of their own,
/// and keep them when they are started again. Any other that dies never comes back; another one may take its
/// address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

impl ProcessId {
    /// The first master.
    pub const MASTER: Self = Self(0);
    /// The second one, in worlds that have it.
    pub const STANDBY: Self = Self(u32::MAX);

    /// Whether it is a master.
    pub fn is_master(self) -> bool {
        self == Self::MASTER || self == Self::STANDBY
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => write!(f, "master"),
            u32::MAX => write!(f, "standby"),
            n => write!(f, "p{n}"),
        }
    }
}

/// One communicator of a process, counted from 0: after it is gone a program may make another.
pub type Life = u32;

/// A call of a process, numbered in the order in which they began, over all its lives.
pub type CallId = u64;

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Record {
    /// When.
    pub at: WorldTime,
    /// To whom; for what befalls the network, the first one concerned.
    pub process: ProcessId,
    /// What.
    pub event: Event,
}

/// Things that happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A process begins.
    Started,
    /// A fault strikes this process, or a path from it. In words, for the trace.
    Fault(String),
    /// The process has died: of SIGKILL, or with its machine.
    Died,
    /// The process stands still from now on.
    Frozen,
    /// It goes on.
    Thawed,
    /// Some path to or from this process does not work, or stands still, from now on.
    CutOff,
    /// All its paths work again.
    Healed,
    /// This process breaks the rules from now on; whatever becomes of it is right.
    Misbehaves,
    /// Connections between this process's machine and another's were harmed.
    Struck {
        /// The other.
        with: ProcessId,
        /// How.
        strike: Strike,
    },
    /// No more faults: from now on everything must come right.
    Calm,

    /// A communicator was made.
    LifeBegan(Life),
    /// The communicator is gone, with all that belonged to it: what is left over.
    LifeEnded {
        /// Which.
        life: Life,
        /// Sockets and listeners of the process.
        sockets: usize,
        /// Tasks on its runtime, this program's own not counted.
        tasks: usize,
        /// Buffers that were lent and are still held by somebody.
        buffers: usize,
    },
    /// The program calls.
    Called {
        /// Number of the call.
        call: CallId,
        /// In which life.
        life: Life,
        /// What.
        what: Call,
    },
    /// A call returns.
    Returned {
        /// Number of the call.
        call: CallId,
        /// With what.
        result: Returned,
    },
    /// After [`Event::Calm`], with everybody who is alive: an update, a sync and an all-reduce
    /// without an error.
    CameRight,
    /// The program saw something that must not be. In words.
    Complaint(String),

    /// The machine of this life was registered, or resumed under this id.
    Registered(PeerId),
    /// An epoch is active here.
    EpochOpened {
        /// Which.
        epoch: Epoch,
        /// As this peer has it.
        membership: Membership,
    },
    /// An operation begins to move data here.
    OperationBegan {
        /// Which.
        op: OperationId,
        /// What it is.
        descriptor: Descriptor,
        /// With whom, by rank.
        ring: Vec<PeerId>,
    },
    /// An operation ends here.
    OperationEnded {
        /// Which.
        op: OperationId,
        /// Whether the input is put back.
        roll_back: bool,
    },
    /// A sync moves tensors here, or has nothing to move.
    SyncBegan {
        /// Stands for its number and its token.
        round: u64,
    },
    /// The machine of this life has left the run.
    MachineGone(Gone),

    /// At the master: nobody of the run before is left, and another begins. Numbers begin anew.
    NewRun,
    /// At the master, which was started again: the run goes on.
    MasterRules,
    /// At the master: an epoch is active.
    MasterEpoch(Epoch),
    /// At the master: who is to be in the next epoch.
    NextMembers(Vec<PeerId>),
    /// At the master: a peer is thrown out.
    Evicted {
        /// Who.
        peer: PeerId,
        /// What it is told.
        reason: String,
    },
}

/// What programs call.
#[derive(Clone, Debug)]
pub enum Call {
    /// `connect`
    Connect,
    /// `update_topology`
    UpdateTopology,
    /// `are_peers_pending`
    ArePeersPending,
    /// `sync_shared_state`
    Sync {
        /// The revision presented.
        revision: Revision,
        /// The tensors that are to be equal, before, one after the other.
        content: Arc<[u8]>,
    },
    /// `all_reduce`, in any form
    Reduce {
        /// The tag.
        tag: Tag,
        /// Type of the elements.
        data_type: DataType,
        /// The reduction.
        op: ReduceOp,
        /// This peer's contribution.
        input: Arc<[u8]>,
        /// One buffer for input and output.
        in_place: bool,
        /// The caller's patience.
        deadline: Option<Duration>,
    },
    /// `leave`
    Leave,
    /// `cancel`
    Cancel,
    /// Dropped, or `close`
    Close,
}

/// What calls come back with.
#[derive(Clone, Debug)]
pub enum Returned {
    /// From `connect`.
    Connect(Result<(), ConnectError>),
    /// From `update_topology`, `leave`, `cancel`, `close`.
    Membership(Result<(), MembershipError>),
    /// From `are_peers_pending`.
    Pending(Result<bool, MembershipError>),
    /// From `sync_shared_state`.
    Sync {
        /// The revision that all have.
        result: Result<Revision, SyncError>,
        /// The same tensors after.
        content: Arc<[u8]>,
    },
    /// From an all-reduce.
    Reduce {
        /// The contributors.
        result: Result<Vec<PeerId>, CollectiveError>,
        /// The input buffer after; of an operation in place that went well, empty.
        input: Arc<[u8]>,
        /// The output buffer after; of an operation in place that failed, empty.
        output: Arc<[u8]>,
    },
}
