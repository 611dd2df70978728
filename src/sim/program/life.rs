//! One communicator of a process, whose every call is written down.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Ground;
use super::explain::Circumstances;
use super::model::Model;
use super::numbers::Shape;
use crate::communicator::{Communicator, OwnedBuffers, OwnedTensor, ReduceOptions};
use crate::engine::UserMemory;
use crate::error::{CollectiveError, ConnectError, MembershipError, SyncError};
use crate::sim::history::{self, Call, CallId, Event, Returned};
use crate::types::{Revision, Tag, WorldSizes};

/// A communicator, from its making to its end.
pub(super) struct Life {
    pub(super) ground: Ground,
    number: history::Life,
    communicator: Communicator,
    lent: Mutex<Vec<Weak<UserMemory>>>,
    cancelled: AtomicBool,
    /// Whether its program makes several calls at once, or calls what it must not.
    pub(super) at_once: bool,
}

/// One all-reduce to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) tag: Tag,
    pub(super) shape: Shape,
    pub(super) nonce: u64,
    pub(super) in_place: bool,
    pub(super) deadline: Option<Duration>,
}

impl Life {
    /// None where it cannot be made.
    pub(super) fn begin(ground: &Ground, at_once: bool) -> Option<Self> {
        let number = ground.next_life.fetch_add(1, Ordering::Relaxed);
        ground.record(Event::LifeBegan(number));
        match Communicator::on(ground.host.clone(), ground.config.clone()) {
            Ok(communicator) => Some(Self {
                ground: ground.clone(),
                number,
                communicator,
                lent: Mutex::default(),
                cancelled: AtomicBool::new(false),
                at_once,
            }),
            Err(error) => {
                ground.complain(format!("no communicator: {error}"));
                None
            }
        }
    }

    /// Drops the communicator and says what is left of it.
    pub(super) async fn end(self) {
        let Self {
            ground,
            number,
            communicator,
            lent,
            ..
        } = self;
        drop(communicator);
        let held = || {
            let lent = lent.lock();
            lent.iter()
                .filter(|memory| memory.strong_count() > 0)
                .count()
        };
        ground.farewell(number, held).await;
    }

    pub(super) fn sizes(&self) -> WorldSizes {
        self.communicator.world_sizes()
    }

    /// Where the members' ports are.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let members = self.communicator.members().into_iter();
        members
            .filter_map(|member| member.address.parse().ok())
            .collect()
    }

    pub(super) fn tainted(&self) -> Vec<String> {
        self.communicator.tainted()
    }

    pub(super) async fn connect(&self) -> Result<(), ConnectError> {
        let call = self.called(Call::Connect);
        let result = self.communicator.connect_async().await;
        self.returned(call, Returned::Connect(result.clone()));
        if let Err(error) = &result
            && !self.circumstances().explain_connect(error)
        {
            self.ground.complain(format!("connect: {error}"));
        }
        if result.is_ok() && self.communicator.peer_id().is_none() {
            self.ground.complain("connected without an id".to_owned());
        }
        result
    }

    pub(super) async fn update(&self) -> Result<(), MembershipError> {
        let call = self.called(Call::UpdateTopology);
        let result = self.communicator.update_topology_async().await;
        self.returned(call, Returned::Membership(result.clone()));
        self.explain_membership("update_topology", result)
    }

    pub(super) async fn are_peers_pending(&self) -> Result<bool, MembershipError> {
        let call = self.called(Call::ArePeersPending);
        let result = self.communicator.are_peers_pending_async().await;
        self.returned(call, Returned::Pending(result.clone()));
        self.explain_membership("are_peers_pending", result)
    }

    pub(super) async fn leave(&self) -> Result<(), MembershipError> {
        let call = self.called(Call::Leave);
        let result = self.communicator.leave_async().await;
        self.returned(call, Returned::Membership(result.clone()));
        self.explain_membership("leave", result)
    }

    /// Ends all calls of this life.
    pub(super) async fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        let call = self.called(Call::Cancel);
        self.communicator.cancel_async().await;
        self.returned(call, Returned::Membership(Ok(())));
    }

    /// Ends all calls of this life, and its membership.
    pub(super) async fn close(&self) {
        let call = self.called(Call::Close);
        self.communicator.close_async().await;
        self.returned(call, Returned::Membership(Ok(())));
    }

    /// Syncs the model; its step and its revision are those of all afterwards.
    pub(super) async fn sync(&self, model: &mut Model) -> Result<(), SyncError> {
        let tensors = std::mem::take(&mut model.tensors);
        let (tensors, result) = self.sync_tensors(model.revision, tensors).await;
        model.tensors = tensors;
        let revision = result?;
        model.note_committed(revision);
        Ok(())
    }

    /// Syncs anything.
    pub(super) async fn sync_tensors(
        &self,
        revision: Revision,
        tensors: Vec<OwnedTensor>,
    ) -> (Vec<OwnedTensor>, Result<Revision, SyncError>) {
        let call = self.called(Call::Sync {
            revision,
            content: Model::content(&tensors).into(),
        });
        let lent = |memory: &Arc<UserMemory>| self.note_lent(memory);
        let (tensors, result) = self.communicator.sync_owned(revision, tensors, &lent).await;
        let result = result.map(|report| report.revision);
        let returned = Returned::Sync {
            result: result.clone(),
            content: Model::content(&tensors).into(),
        };
        self.returned(call, returned);
        if let Err(error) = &result
            && !self.circumstances().explain_sync(error)
        {
            self.ground.complain(format!("sync_shared_state: {error}"));
        }
        (tensors, result)
    }

    /// The result, or nothing but the error.
    pub(super) async fn reduce(&self, work: Work) -> Result<Vec<u8>, CollectiveError> {
        let input = work.shape.fill(self.ground.process, work.nonce);
        let call = self.called(Call::Reduce {
            tag: work.tag,
            data_type: work.shape.data_type,
            op: work.shape.op,
            input: input.as_slice().into(),
            in_place: work.in_place,
            deadline: work.deadline,
        });
        let mut options = ReduceOptions::new(work.shape.op).tag(work.tag);
        options.deadline = work.deadline;
        options.quantization = work.shape.quantization;
        let buffers = if work.in_place {
            OwnedBuffers::InPlace(input)
        } else {
            let recv = vec![0xa5; input.len()];
            OwnedBuffers::Apart { send: input, recv }
        };
        let lent = |memory: &Arc<UserMemory>| self.note_lent(memory);
        let (buffers, outcome) = self
            .communicator
            .all_reduce_owned(buffers, work.shape.data_type, &options, &lent)
            .await;
        let (input, output) = match (buffers, &outcome) {
            (OwnedBuffers::InPlace(buffer), Ok(_)) => (Vec::new(), buffer),
            (OwnedBuffers::InPlace(buffer), Err(_)) => (buffer, Vec::new()),
            (OwnedBuffers::Apart { send, recv }, _) => (send, recv),
        };
        let returned = Returned::Reduce {
            result: outcome.clone().map(|report| report.contributors),
            input: input.into(),
            output: output.as_slice().into(),
        };
        self.returned(call, returned);
        if let Err(error) = &outcome
            && !self.circumstances().explain_reduce(error)
        {
            let tag = work.tag;
            self.ground
                .complain(format!("all_reduce with tag {tag}: {error}"));
        }
        outcome.map(|_| output)
    }

    fn circumstances(&self) -> Circumstances<'_> {
        Circumstances {
            manner: &self.ground.manner,
            at_once: self.at_once,
            cancelled: self.cancelled.load(Ordering::Relaxed),
            sizes: self.sizes(),
        }
    }

    fn explain_membership<T>(
        &self,
        call: &str,
        result: Result<T, MembershipError>,
    ) -> Result<T, MembershipError> {
        if let Err(error) = &result
            && !self.circumstances().explain_membership(error)
        {
            self.ground.complain(format!("{call}: {error}"));
        }
        result
    }

    fn note_lent(&self, memory: &Arc<UserMemory>) {
        let mut lent = self.lent.lock();
        lent.retain(|memory| memory.strong_count() > 0);
        lent.push(Arc::downgrade(memory));
    }

    fn called(&self, what: Call) -> CallId {
        let call = self.ground.next_call.fetch_add(1, Ordering::Relaxed);
        let life = self.number;
        self.ground.record(Event::Called { call, life, what });
        call
    }

    fn returned(&self, call: CallId, result: Returned) {
        self.ground.record(Event::Returned { call, result });
    }
}
