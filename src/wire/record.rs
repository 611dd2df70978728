//! What a master writes down of its run, record by record: see `driver/state_dir/` for the file.

use prost::{Message as _, Oneof};

use super::control::{DecodeError, Frame, Message, Reign, Report, ToMaster, ToPeer};
use crate::types::{GroupId, RunId};

/// One thing that a master is about to tell somebody, or has been told.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Record {
    /// It rules this run from now on. What was written before no longer counts.
    Ruling {
        /// The run.
        run: RunId,
        /// In which term, and by which start.
        reign: Reign,
    },
    /// No peer has got this id, or a higher one.
    NextPeer(u64),
    /// What the members of a group know, in one.
    Known(Box<Report>),
    /// The members of a group are told this.
    Told {
        /// The group.
        group: GroupId,
        /// The message.
        message: ToPeer,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct Proto {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Ruling(Ruling),
    /// A frame with a `Report`.
    #[prost(bytes, tag = "2")]
    Known(Vec<u8>),
    #[prost(message, tag = "3")]
    Told(Told),
    #[prost(uint64, tag = "4")]
    NextPeer(u64),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Ruling {
    #[prost(fixed64, tag = "1")]
    run: u64,
    #[prost(uint32, tag = "2")]
    term: u32,
    #[prost(fixed64, tag = "3")]
    start: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(uint32, tag = "1")]
    group: u32,
    /// A frame without numbers.
    #[prost(bytes, tag = "2")]
    frame: Vec<u8>,
}

fn unnumbered<M>(message: M) -> Frame<M> {
    Frame {
        sequence: 0,
        acknowledged: 0,
        message,
    }
}

impl Record {
    /// The record as it is written.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Record::Ruling { run, reign } => Kind::Ruling(Ruling {
                run: run.0,
                term: reign.term,
                start: reign.start,
            }),
            Record::NextPeer(id) => Kind::NextPeer(*id),
            Record::Known(report) => {
                Kind::Known(unnumbered(ToMaster::Report(report.clone())).encode())
            }
            Record::Told { group, message } => Kind::Told(Told {
                group: group.0,
                frame: unnumbered(message.clone()).encode(),
            }),
        };
        Proto { kind: Some(kind) }.encode_to_vec()
    }

    /// What was written.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let none = || DecodeError::Malformed("a record of no kind".to_owned());
        Ok(match Proto::decode(bytes)?.kind.ok_or_else(none)? {
            Kind::Ruling(ruling) => Record::Ruling {
                run: RunId(ruling.run),
                reign: Reign {
                    term: ruling.term,
                    start: ruling.start,
                },
            },
            Kind::NextPeer(id) => Record::NextPeer(id),
            Kind::Known(frame) => match Frame::<ToMaster>::decode(&frame)?.message {
                ToMaster::Report(report) => Record::Known(report),
                _ => return Err(none()),
            },
            Kind::Told(told) => Record::Told {
                group: GroupId(told.group),
                message: Frame::<ToPeer>::decode(&told.frame)?.message,
            },
        })
    }
}
