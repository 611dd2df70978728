//! The side that lacks tensors: asks for them and takes exactly the lengths that were elected.

use super::{Partial, TransferError, overrun};
use crate::wire::state::{ANSWER_HEADER_BYTES, AnswerHeader, Status, encode_request};

/// What a receiver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverStep<'a> {
    /// Write these bytes, then say [`wrote`](Receiver::wrote).
    WriteRequest(&'a [u8]),
    /// Read up to this many bytes, then hand them to [`feed_header`](Receiver::feed_header).
    ReadHeader {
        /// At most this many.
        len: usize,
    },
    /// Read up to `len` bytes straight into a tensor, then say [`received`](Receiver::received).
    /// The tensor is tainted from here on.
    ReadTensor {
        /// Its index among the elected ones.
        index: usize,
        /// Where in it the next byte goes.
        offset: u64,
        /// At most this many; at least 1.
        len: u64,
    },
    /// All tensors have arrived; verify them.
    Done,
    /// An error was returned: close the connection.
    Failed,
}

/// The side that lacks tensors and asks for them.
#[derive(Clone, Debug)]
pub struct Receiver {
    round: u64,
    /// Index and length of each, in the order of the request.
    wanted: Vec<(usize, u64)>,
    /// Which of them is due.
    turn: usize,
    begun: usize,
    received_bytes: u64,
    state: ReceiverState,
}

#[derive(Clone, Debug)]
enum ReceiverState {
    Requesting { request: Vec<u8>, written: usize },
    Header(Partial<ANSWER_HEADER_BYTES>),
    Tensor { offset: u64 },
    Done,
    Failed,
}

impl Receiver {
    /// A receiver of these tensors of `round`: index among the elected ones, ascending, and length
    /// in bytes. It is `Done` at once where there are none.
    pub fn new(round: u64, wanted: Vec<(usize, u64)>) -> Result<Self, TransferError> {
        let state = if wanted.is_empty() {
            ReceiverState::Done
        } else {
            let number = |&(index, _): &(usize, u64)| u32::try_from(index).unwrap_or(u32::MAX);
            let indices: Vec<u32> = wanted.iter().map(number).collect();
            let request = encode_request(round, &indices)?;
            ReceiverState::Requesting {
                request,
                written: 0,
            }
        };
        Ok(Self {
            round,
            wanted,
            turn: 0,
            begun: 0,
            received_bytes: 0,
            state,
        })
    }

    /// What to do next.
    pub fn step(&self) -> ReceiverStep<'_> {
        match &self.state {
            ReceiverState::Requesting { request, written } => {
                ReceiverStep::WriteRequest(&request[*written..])
            }
            ReceiverState::Header(header) => ReceiverStep::ReadHeader {
                len: header.missing(),
            },
            ReceiverState::Tensor { offset } => {
                let (index, total) = self.wanted[self.turn];
                ReceiverStep::ReadTensor {
                    index,
                    offset: *offset,
                    len: total - offset,
                }
            }
            ReceiverState::Done => ReceiverStep::Done,
            ReceiverState::Failed => ReceiverStep::Failed,
        }
    }

    /// `n` bytes of the request were written.
    pub fn wrote(&mut self, n: usize) -> Result<(), TransferError> {
        let ReceiverState::Requesting { request, written } = &mut self.state else {
            return self.fail(overrun(0, n));
        };
        let asked = request.len() - *written;
        if n > asked {
            return self.fail(overrun(asked, n));
        }
        *written += n;
        if n == asked {
            self.state = ReceiverState::Header(Partial::default());
        }
        Ok(())
    }

    /// These bytes of a header were read. The error of a refusal comes from here.
    pub fn feed_header(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let ReceiverState::Header(header) = &mut self.state else {
            return self.fail(overrun(0, bytes.len()));
        };
        match header.feed(bytes) {
            Err(error) => self.fail(error),
            Ok(None) => Ok(()),
            Ok(Some(whole)) => match self.accept(&whole) {
                Err(error) => self.fail(error),
                Ok(()) => self.received(0),
            },
        }
    }

    /// `n` bytes were read into the tensor that the step named.
    pub fn received(&mut self, n: u64) -> Result<(), TransferError> {
        let ReceiverState::Tensor { offset } = &mut self.state else {
            return self.fail(overrun(0, n));
        };
        let asked = self.wanted[self.turn].1 - *offset;
        if n > asked {
            return self.fail(overrun(asked, n));
        }
        *offset += n;
        self.received_bytes += n;
        if n == asked {
            self.turn += 1;
            self.state = if self.turn == self.wanted.len() {
                ReceiverState::Done
            } else {
                ReceiverState::Header(Partial::default())
            };
        }
        Ok(())
    }

    /// Tensors whose bytes have begun to arrive, complete or not: tainted until the sync commits.
    pub fn begun(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted[..self.begun].iter().map(|&(index, _)| index)
    }

    /// Tensors that have arrived whole.
    pub fn complete(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted[..self.turn].iter().map(|&(index, _)| index)
    }

    /// What is left to ask another holder for: tensors that have not arrived whole, each from its
    /// first byte on, since content that may differ between peers differs between holders too.
    pub fn remaining(&self) -> &[(usize, u64)] {
        &self.wanted[self.turn..]
    }

    /// Bytes of tensors received so far, headers not counted.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    fn accept(&mut self, bytes: &[u8; ANSWER_HEADER_BYTES]) -> Result<(), TransferError> {
        let header = AnswerHeader::decode(bytes)?;
        let (index, wanted) = self.wanted[self.turn];
        if header.status != Status::Data {
            return Err(TransferError::Refused {
                status: header.status,
                index: header.index as usize,
                round: header.round,
            });
        }
        if header.index as usize != index || header.round != self.round {
            return Err(TransferError::OutOfTurn {
                wanted: index,
                round: self.round,
                found: header.index,
                found_round: header.round,
            });
        }
        if header.len != wanted {
            return Err(TransferError::Length {
                index,
                wanted,
                found: header.len,
            });
        }
        self.begun = self.turn + 1;
        self.state = ReceiverState::Tensor { offset: 0 };
        Ok(())
    }

    fn fail(&mut self, error: TransferError) -> Result<(), TransferError> {
        self.state = ReceiverState::Failed;
        Err(error)
    }
}
