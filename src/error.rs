//! Public errors, one per kind of call, filed by what the caller should do next.
//!
//! Every error names its culprit: the peer by label and address, the field, the limit. After any
//! failed all-reduce the caller's input is as it was before the call, in place or not.

use thiserror::Error;

use crate::types::{PeerName, Revision, Tag};

/// Why this communicator is not, or no longer, part of a run. All calls return it at once.
///
/// **Next:** make a new communicator, connect, and synchronise the shared state; this one can only
/// be dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Gone {
    /// The master removed this peer from the run.
    #[error("evicted from the run: {reason}")]
    Evicted {
        /// What the master said.
        reason: String,
    },
    /// The master stayed away for longer than `master_grace`; this peer has left the run for good.
    #[error("master {master} was away for longer than {grace_ms} ms: {cause}")]
    MasterLost {
        /// Its address; where there are several masters, those of all.
        master: String,
        /// The configured patience.
        grace_ms: u64,
        /// What the last attempt to reach it met.
        cause: String,
    },
    /// The master came back, or another took over, and for `master_grace` too few of the run's
    /// peers came back to it for anything to be decided; this peer has left the run for good.
    #[error(
        "master {master} was without a majority of the run's peers for longer than {grace_ms} ms"
    )]
    NoMajority {
        /// Its address.
        master: String,
        /// The configured patience.
        grace_ms: u64,
    },
    /// This communicator was closed, or has left the run, by its owner.
    #[error("the communicator is closed")]
    Closed,
}

/// Why a communicator could not join a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting makes no sense. **Next:** correct it; trying again will not help.
    #[error("setting `{field}`: {reason}")]
    InvalidConfig {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No port of the configured range could be listened on. **Next:** widen `listen_ports`.
    #[error("cannot listen on {range}: {reason}")]
    Listen {
        /// The range that was tried.
        range: String,
        /// What the system said of the last one.
        reason: String,
    },
    /// The master could not be reached; of several, none that rules a run. **Next:** try again later, or
    /// correct the address. A run begins only while all masters of the list can be reached.
    #[error("cannot reach master {master}: {reason}")]
    MasterUnreachable {
        /// Its address as configured; where there are several masters, those of all.
        master: String,
        /// What the last attempt met.
        reason: String,
    },
    /// The master, or the run, does not want this peer. **Next:** mend what the reason says, then
    /// connect again.
    #[error("master {master} refused: {reason}")]
    Refused {
        /// Its address as configured.
        master: String,
        /// What it said.
        reason: String,
    },
    /// This communicator is connected already. **Next:** nothing, or make another one.
    #[error("already connected")]
    AlreadyConnected,
    /// `cancel` was called from another thread. **Next:** connect again when wanted.
    #[error("cancelled")]
    Cancelled,
    /// This communicator is no longer part of a run.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// Why `update_topology`, `are_peers_pending` or `leave` failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// `connect` has not succeeded yet. **Next:** connect.
    #[error("not connected")]
    NotConnected,
    /// Operations of this communicator are still in flight. **Next:** await them, then call again.
    #[error("{count} operation(s) are still in flight")]
    OperationsInFlight {
        /// How many.
        count: usize,
    },
    /// Another joint call of this communicator is still running. **Next:** wait for it.
    #[error("`{running}` is still running on this communicator")]
    CallInProgress {
        /// The running call.
        running: &'static str,
    },
    /// This call and another peer's could never have met. **Next:** make all peers call the same
    /// thing; this is an error of the program.
    #[error("calls that can never meet: {detail}")]
    CannotMeet {
        /// Who called what.
        detail: String,
    },
    /// `cancel` was called from another thread. **Next:** call again when wanted.
    #[error("cancelled")]
    Cancelled,
    /// This communicator is no longer part of a run.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// Why an all-reduce failed. The input is as it was before the call; the output buffer of an
/// out-of-place call holds nothing of meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Peers were lost while the operation ran. Membership is already up to date.
    /// **Next:** retry at once with the peers that are left.
    #[error("aborted: lost {}", list(lost))]
    PeersLost {
        /// Who, and why.
        lost: Vec<LostPeer>,
    },
    /// The operation was aborted for a reason other than a lost peer: a peer reported a local
    /// failure, a deadline passed, a link broke for good. **Next:** retry.
    #[error("aborted: {reason}")]
    Aborted {
        /// What was reported, and by whom.
        reason: String,
    },
    /// The group has fewer than two accepted peers. **Next:** go on alone, or wait for others with
    /// `update_topology`.
    #[error("too few peers: {world_size} in the group, 2 needed")]
    TooFewPeers {
        /// Accepted peers in the group.
        world_size: u32,
    },
    /// Peers meant different things under one tag. **Next:** correct the program.
    #[error("peers disagree on {field} under tag {tag}: {detail}")]
    Mismatch {
        /// The tag.
        tag: Tag,
        /// The field, with the values.
        field: String,
        /// Who said what.
        detail: String,
    },
    /// A joint call of this communicator that excludes operations is running. **Next:** wait for
    /// it.
    #[error("`{running}` is running on this communicator")]
    CallInProgress {
        /// The running call.
        running: &'static str,
    },
    /// The operation's own deadline, or another peer's, passed. **Next:** call again, or find out
    /// why those it names are late.
    #[error("aborted: {reason}")]
    DeadlinePassed {
        /// Whose deadline, and whom it waited for.
        reason: String,
    },
    /// The tag is in use by an operation of this communicator that is not awaited yet.
    /// **Next:** await it, or use another tag.
    #[error("tag {tag} is in use by an operation in flight")]
    TagInUse {
        /// The tag.
        tag: Tag,
    },
    /// The operation and another peer's joint call could never have met. **Next:** make all peers
    /// call the same thing; this is an error of the program.
    #[error("calls that can never meet: {detail}")]
    CannotMeet {
        /// Who called what.
        detail: String,
    },
    /// More operations at once than the limit. **Next:** await some first.
    #[error("{limit} operations are in flight, which is the limit")]
    TooManyOperations {
        /// The limit.
        limit: usize,
    },
    /// An argument makes no sense. **Next:** correct the program.
    #[error("argument `{field}`: {reason}")]
    InvalidArgument {
        /// The argument.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// `connect` has not succeeded yet. **Next:** connect.
    #[error("not connected")]
    NotConnected,
    /// `cancel` was called from another thread. **Next:** call again when wanted.
    #[error("cancelled")]
    Cancelled,
    /// This communicator is no longer part of a run.
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl CollectiveError {
    /// Whether calling again with the same arguments can succeed without any other step.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            CollectiveError::PeersLost { .. }
                | CollectiveError::Aborted { .. }
                | CollectiveError::DeadlinePassed { .. }
        )
    }
}

/// Why a shared-state sync failed. Tensors that were being received are *tainted*: they hold parts
/// of two versions, and this peer offers none of them to others until a sync commits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum SyncError {
    /// A transfer failed, or peers were lost, and nobody else could serve. **Next:** sync again.
    #[error("sync aborted: {reason}")]
    Aborted {
        /// What happened, and to whom.
        reason: String,
    },
    /// Nobody has a clean copy that may be sent. **Next:** load a checkpoint, make a new
    /// communicator, connect and sync.
    #[error("no clean copy of the shared state is left: {reason}; load a checkpoint")]
    NoCleanState {
        /// Which tensors, or which strategies stand in the way.
        reason: String,
    },
    /// Everybody presented a revision that is committed already. **Next:** raise the revision by
    /// one after each committed sync, then sync again.
    #[error("revision {presented} is committed already; {expected} is expected")]
    StaleRevision {
        /// The newest revision that anybody presented.
        presented: Revision,
        /// The revision the run expects.
        expected: Revision,
    },
    /// The shared state itself makes no sense (no tensors, a name twice, ...). **Next:** correct it.
    #[error("shared state: {reason}")]
    InvalidState {
        /// What is wrong with it.
        reason: String,
    },
    /// Operations of this communicator are still in flight. **Next:** await them, then call again.
    #[error("{count} operation(s) are still in flight")]
    OperationsInFlight {
        /// How many.
        count: usize,
    },
    /// Another joint call of this communicator is still running. **Next:** wait for it.
    #[error("`{running}` is still running on this communicator")]
    CallInProgress {
        /// The running call.
        running: &'static str,
    },
    /// This call and another peer's could never have met. **Next:** make all peers call the same
    /// thing; this is an error of the program.
    #[error("calls that can never meet: {detail}")]
    CannotMeet {
        /// Who called what.
        detail: String,
    },
    /// `connect` has not succeeded yet. **Next:** connect.
    #[error("not connected")]
    NotConnected,
    /// `cancel` was called from another thread. **Next:** sync again when wanted.
    #[error("cancelled")]
    Cancelled,
    /// This communicator is no longer part of a run. **Next:** restore the tensors that
    /// `Communicator::tainted` names (they hold parts of two versions, and a new communicator does
    /// not know which), make a new communicator, connect and sync.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// A peer that left the run while others still needed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LostPeer {
    /// Who.
    pub peer: PeerName,
    /// Why the master removed it.
    pub reason: String,
}

fn list(lost: &[LostPeer]) -> String {
    let mut text = String::new();
    for LostPeer { peer, reason } in lost {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&format!("{peer} ({reason})"));
    }
    text
}
