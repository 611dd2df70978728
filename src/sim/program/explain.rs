//! Which errors a program may be told, given what it and the others do.

use super::Manner;
use crate::error::{CollectiveError, ConnectError, MembershipError, SyncError};
use crate::types::WorldSizes;

/// What can explain an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances<'a> {
    pub(super) manner: &'a Manner,
    /// This program makes several calls at once.
    pub(super) at_once: bool,
    /// This program has cancelled in this life.
    pub(super) cancelled: bool,
    /// World sizes after the call.
    pub(super) sizes: WorldSizes,
}

impl Circumstances<'_> {
    /// Somebody may call anything.
    fn is_disorderly(&self) -> bool {
        self.manner.fixed_shapes || self.manner.misbehaving
    }

    pub(super) fn explain_connect(&self, error: &ConnectError) -> bool {
        match error {
            ConnectError::InvalidConfig { .. }
            | ConnectError::Listen { .. }
            | ConnectError::AlreadyConnected => false,
            ConnectError::Cancelled => self.cancelled,
            _ => true,
        }
    }

    pub(super) fn explain_membership(&self, error: &MembershipError) -> bool {
        match error {
            MembershipError::NotConnected => false,
            MembershipError::OperationsInFlight { .. } | MembershipError::CallInProgress { .. } => {
                self.at_once
            }
            MembershipError::CannotMeet { .. } => self.is_disorderly(),
            MembershipError::Cancelled => self.cancelled,
            _ => true,
        }
    }

    pub(super) fn explain_reduce(&self, error: &CollectiveError) -> bool {
        match error {
            CollectiveError::NotConnected
            | CollectiveError::TagInUse { .. }
            | CollectiveError::TooManyOperations { .. }
            | CollectiveError::InvalidArgument { .. } => false,
            CollectiveError::TooFewPeers { world_size } => *world_size < 2 && self.sizes.group < 2,
            CollectiveError::Mismatch { .. } => self.manner.misbehaving,
            CollectiveError::CannotMeet { .. } => self.is_disorderly(),
            CollectiveError::DeadlinePassed { .. } => {
                self.is_disorderly() || self.manner.deadline_one_in > 0
            }
            CollectiveError::CallInProgress { .. } => self.at_once,
            CollectiveError::Cancelled => self.cancelled,
            _ => true,
        }
    }

    pub(super) fn explain_sync(&self, error: &SyncError) -> bool {
        match error {
            SyncError::NotConnected | SyncError::InvalidState { .. } => false,
            SyncError::StaleRevision { .. } => self.is_disorderly(),
            SyncError::OperationsInFlight { .. } | SyncError::CallInProgress { .. } => self.at_once,
            SyncError::CannotMeet { .. } => self.is_disorderly(),
            SyncError::Cancelled => self.cancelled,
            _ => true,
        }
    }
}
