//! What a peer shows when it opens a connection to another peer: the body of the greeting.
//!
//! The secrets come from the master, with the wiring or with the sync plan: who knows them was
//! told to dial.

use prost::Message;

use super::control::DecodeError;
use crate::types::{Epoch, PeerId, RunId};

/// The greeting of one lane of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneHello {
    /// The run both belong to.
    pub run: RunId,
    /// Who dials.
    pub from: PeerId,
    /// Who is meant.
    pub to: PeerId,
    /// The secret of the link.
    pub secret: [u8; 16],
    /// Which lane of the link.
    pub lane: u16,
    /// The newest epoch the dialler knows: the other end may not have heard of it yet.
    pub epoch: Epoch,
}

/// The greeting of a transfer of shared state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferHello {
    /// The run both belong to.
    pub run: RunId,
    /// Who wants to receive.
    pub from: PeerId,
    /// Who is to serve.
    pub to: PeerId,
    /// The sync round.
    pub round: u64,
    /// The token of the round.
    pub token: [u8; 16],
}

#[derive(Clone, PartialEq, Message)]
struct Fields {
    #[prost(fixed64, tag = "1")]
    run: u64,
    #[prost(uint64, tag = "2")]
    from: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
    #[prost(bytes = "vec", tag = "4")]
    secret: Vec<u8>,
    #[prost(uint32, tag = "5")]
    lane: u32,
    #[prost(uint32, tag = "6")]
    term: u32,
    #[prost(uint32, tag = "7")]
    count: u32,
    #[prost(uint64, tag = "8")]
    round: u64,
}

impl LaneHello {
    /// As the body of a greeting.
    pub fn encode(&self) -> Vec<u8> {
        Fields {
            run: self.run.0,
            from: self.from.0,
            to: self.to.0,
            secret: self.secret.to_vec(),
            lane: u32::from(self.lane),
            term: self.epoch.term,
            count: self.epoch.count,
            round: 0,
        }
        .encode_to_vec()
    }

    /// From the body of a greeting.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::decode(body)?;
        Ok(Self {
            run: RunId(fields.run),
            from: PeerId(fields.from),
            to: PeerId(fields.to),
            secret: secret(&fields.secret)?,
            lane: u16::try_from(fields.lane).map_err(|_| DecodeError::Field {
                field: "lane",
                value: fields.lane.to_string(),
            })?,
            epoch: Epoch {
                term: fields.term,
                count: fields.count,
            },
        })
    }
}

impl TransferHello {
    /// As the body of a greeting.
    pub fn encode(&self) -> Vec<u8> {
        Fields {
            run: self.run.0,
            from: self.from.0,
            to: self.to.0,
            secret: self.token.to_vec(),
            round: self.round,
            ..Fields::default()
        }
        .encode_to_vec()
    }

    /// From the body of a greeting.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::decode(body)?;
        Ok(Self {
            run: RunId(fields.run),
            from: PeerId(fields.from),
            to: PeerId(fields.to),
            round: fields.round,
            token: secret(&fields.secret)?,
        })
    }
}

fn secret(bytes: &[u8]) -> Result<[u8; 16], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Field {
        field: "secret",
        value: format!("{} bytes", bytes.len()),
    })
}
