//! Histories made up for tests of checkers.

use std::sync::Arc;
use std::time::Duration;

use super::{Checker, End};
use crate::error::{CollectiveError, SyncError};
use crate::protocol::peer::Membership;
use crate::sim::history::{Call, CallId, Event, ProcessId, Record, Returned, WorldTime};
use crate::types::{
    DataType, Descriptor, Epoch, OperationId, PeerId, PeerName, Rank, ReduceOp, Revision, Tag,
    WorldSizes,
};

/// Tells a checker what happens, a millisecond apart; process `n` is peer `10 n`.
pub(super) struct Story<C> {
    pub(super) checker: C,
    pub(super) ms: u64,
    next_call: CallId,
}

pub(super) fn peer(process: u32) -> PeerId {
    PeerId(u64::from(process) * 10)
}

pub(super) fn epoch(count: u32) -> Epoch {
    Epoch { term: 1, count }
}

pub(super) fn op(count: u32, tag: u64, n: u32) -> OperationId {
    OperationId {
        epoch: epoch(count),
        tag: Tag(tag),
        n,
    }
}

pub(super) fn membership(process: u32, ring: &[u32]) -> Membership {
    let rank = ring.iter().position(|other| *other == process).unwrap();
    let size = ring.len() as u32;
    Membership {
        peer: peer(process),
        rank: Rank(rank as u32),
        sizes: WorldSizes {
            global: size,
            group: size,
            groups: 1,
            largest_group: size,
        },
        ring: ring
            .iter()
            .map(|process| PeerName {
                id: peer(*process),
                label: String::new(),
                address: String::new(),
            })
            .collect(),
    }
}

pub(super) fn aborted() -> CollectiveError {
    CollectiveError::Aborted {
        reason: "a link broke".to_owned(),
    }
}

impl<C: Checker> Story<C> {
    /// Two processes, registered.
    pub(super) fn of_two(checker: C) -> Self {
        let mut story = Self {
            checker,
            ms: 0,
            next_call: 0,
        };
        for process in [1, 2] {
            story.tell(process, Event::Started);
            story.tell(process, Event::LifeBegan(0));
            story.tell(process, Event::Registered(peer(process)));
        }
        story
    }

    pub(super) fn try_tell(&mut self, process: u32, event: Event) -> Result<(), String> {
        self.ms += 1;
        self.checker.see(&Record {
            at: WorldTime::from_ms(self.ms),
            process: ProcessId(process),
            event,
        })
    }

    #[track_caller]
    pub(super) fn tell(&mut self, process: u32, event: Event) {
        self.try_tell(process, event).unwrap();
    }

    #[track_caller]
    pub(super) fn call(&mut self, process: u32, what: Call) -> CallId {
        let call = self.next_call;
        self.next_call += 1;
        let life = 0;
        self.tell(process, Event::Called { call, life, what });
        call
    }

    /// Begins an operation of bytes between the two.
    #[track_caller]
    pub(super) fn reduce(&mut self, process: u32, op: OperationId, input: &[u8]) -> CallId {
        self.reduce_with(process, op, (ReduceOp::Sum, DataType::U8), input, true)
    }

    #[track_caller]
    pub(super) fn reduce_with(
        &mut self,
        process: u32,
        op: OperationId,
        (reduction, data_type): (ReduceOp, DataType),
        input: &[u8],
        in_place: bool,
    ) -> CallId {
        let what = Call::Reduce {
            tag: op.tag,
            data_type,
            op: reduction,
            input: input.into(),
            in_place,
            deadline: None,
        };
        let call = self.call(process, what);
        let event = Event::OperationBegan {
            op,
            descriptor: Descriptor {
                count: (input.len() / data_type.size_bytes()) as u64,
                data_type,
                op: reduction,
                quantization: None,
            },
            ring: vec![peer(1), peer(2)],
        };
        self.tell(process, event);
        call
    }

    /// An operation in place comes back.
    pub(super) fn reduced(
        &mut self,
        process: u32,
        call: CallId,
        result: Result<&[u32], CollectiveError>,
        buffer: &[u8],
    ) -> Result<(), String> {
        let (input, output): (Arc<[u8]>, Arc<[u8]>) = match &result {
            Ok(_) => ([].into(), buffer.into()),
            Err(_) => (buffer.into(), [].into()),
        };
        let result = result.map(|processes| processes.iter().map(|p| peer(*p)).collect());
        let result = Returned::Reduce {
            result,
            input,
            output,
        };
        self.try_tell(process, Event::Returned { call, result })
    }

    #[track_caller]
    pub(super) fn sync(
        &mut self,
        process: u32,
        round: u64,
        revision: u64,
        content: &[u8],
    ) -> CallId {
        let what = Call::Sync {
            revision: Revision(revision),
            content: content.into(),
        };
        let call = self.call(process, what);
        self.tell(process, Event::SyncBegan { round });
        call
    }

    pub(super) fn synced(
        &mut self,
        process: u32,
        call: CallId,
        result: Result<u64, SyncError>,
        content: &[u8],
    ) -> Result<(), String> {
        let result = Returned::Sync {
            result: result.map(Revision),
            content: content.into(),
        };
        self.try_tell(process, Event::Returned { call, result })
    }

    /// A second after the last record, which was a second after the last fault.
    pub(super) fn end(&mut self, owed: &[u32]) -> Result<(), String> {
        self.checker.end(&End {
            at: WorldTime::from_ms(self.ms + 1000),
            calm: WorldTime::from_ms(self.ms),
            bound: Duration::from_secs(10),
            owed: owed.iter().map(|process| ProcessId(*process)).collect(),
        })
    }
}
