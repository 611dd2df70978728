//! The transfer of elected tensors as two machines that never touch a socket or a tensor.
//!
//! The receiver opens a byte stream to the holder; after the greeting both sides ask their machine
//! for the next step, do as much of it as the stream allows, and report how far they came:
//!
//! ```text
//!   Receiver                                  Holder
//!   WriteRequest(bytes) ── wrote(n)           Read { len } ── feed(bytes)
//!   ReadHeader { len } ── feed_header(bytes)  Request { round } ── answer(offer)
//!   ReadTensor { .. } ── received(n)          WriteHeader(bytes) ── wrote(n)
//!   Done                                      WriteTensor { .. } ── wrote(n)
//!                                             Done
//! ```
//!
//! Every step can be done in pieces of any size, down to a byte. No step asks for more bytes than
//! the other side may send, and a receiver takes exactly the lengths that were elected. After an
//! error the machine stays `Failed`: the connection is to be closed.
//!
//! A holder is `Done` when it has written the last byte, which says nothing about arrival; only the
//! receiver knows, and tells the master after [`verify`](super::verify).

use thiserror::Error;

use crate::wire::state::{
    ANSWER_HEADER_BYTES, AnswerHeader, DecodeError, REQUEST_HEADER_BYTES, RequestHeader, Status,
    encode_request,
};

/// Why a transfer cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// The other side sent bytes that are no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The holder does not serve this.
    #[error("the holder refused tensor {index} in round {round}: {status:?}")]
    Refused {
        /// Its reason.
        status: Status,
        /// The first tensor it does not serve.
        index: usize,
        /// The round it is in; 0 where it is in none.
        round: u64,
    },
    /// The holder sends another tensor than the one whose turn it is.
    #[error("tensor {found} of round {found_round} came where {wanted} of round {round} belongs")]
    OutOfTurn {
        /// Whose turn it is.
        wanted: usize,
        /// The round of this transfer.
        round: u64,
        /// What came.
        found: u32,
        /// And of which round.
        found_round: u64,
    },
    /// The holder's tensor has another length than the elected one.
    #[error("tensor {index} comes with {found} bytes, not {wanted}")]
    Length {
        /// Which.
        index: usize,
        /// As elected.
        wanted: u64,
        /// As announced.
        found: u64,
    },
    /// The driver reported more than the step asked for, or answered a step that was not due.
    #[error("{given} bytes for a step that takes {asked}")]
    Overrun {
        /// What the step takes.
        asked: u64,
        /// What it was given.
        given: u64,
    },
}

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

    /// Tensors that have arrived whole. Another holder can be asked for the others alone.
    pub fn complete(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted[..self.turn].iter().map(|&(index, _)| index)
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

/// What a holder has to give: the tensors of one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The sync round, as the master numbered it.
    pub round: u64,
    /// Length in bytes of each elected tensor, by index.
    pub lens: Vec<u64>,
}

/// What a holder does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderStep<'a> {
    /// Read up to this many bytes, then hand them to [`feed`](Holder::feed).
    Read {
        /// At most this many.
        len: usize,
    },
    /// The request is complete: [`answer`](Holder::answer) it. A holder that has yet to hear of
    /// this round from the master waits with that.
    Request {
        /// The round that is asked for.
        round: u64,
    },
    /// Write these bytes, then say [`wrote`](Holder::wrote).
    WriteHeader(&'a [u8]),
    /// Write up to `len` bytes of a tensor, then say [`wrote`](Holder::wrote).
    WriteTensor {
        /// Its index among the elected ones.
        index: usize,
        /// Where in it the next byte is.
        offset: u64,
        /// At most this many; at least 1.
        len: u64,
    },
    /// All is written: flush, and close when the other side has.
    Done,
    /// An error was returned: close the connection.
    Failed,
}

/// The side that has the tensors.
#[derive(Clone, Debug)]
pub struct Holder {
    state: HolderState,
    sent_bytes: u64,
}

#[derive(Clone, Debug)]
enum HolderState {
    Header(Partial<REQUEST_HEADER_BYTES>),
    /// The body grows only as its bytes arrive: a header alone takes no memory.
    Body {
        header: RequestHeader,
        body: Vec<u8>,
    },
    Requested {
        round: u64,
        indices: Vec<u32>,
    },
    Sending {
        round: u64,
        /// What is asked for, with the length; `Err` where it ends with a refusal.
        queue: std::vec::IntoIter<(u32, Result<u64, Status>)>,
        header: [u8; ANSWER_HEADER_BYTES],
        index: u32,
        len: u64,
        /// Bytes of header and tensor together that are written.
        written: u64,
    },
    Done,
    Failed,
}

impl Default for Holder {
    fn default() -> Self {
        Self::new()
    }
}

impl Holder {
    /// A holder that waits for a request.
    pub fn new() -> Self {
        Self {
            state: HolderState::Header(Partial::default()),
            sent_bytes: 0,
        }
    }

    /// What to do next.
    pub fn step(&self) -> HolderStep<'_> {
        match &self.state {
            HolderState::Header(header) => HolderStep::Read {
                len: header.missing(),
            },
            HolderState::Body { header, body } => HolderStep::Read {
                len: header.body_bytes() - body.len(),
            },
            HolderState::Requested { round, .. } => HolderStep::Request { round: *round },
            HolderState::Sending {
                header,
                index,
                len,
                written,
                ..
            } => match written.checked_sub(ANSWER_HEADER_BYTES as u64) {
                None => HolderStep::WriteHeader(&header[*written as usize..]),
                Some(offset) => HolderStep::WriteTensor {
                    index: *index as usize,
                    offset,
                    len: len - offset,
                },
            },
            HolderState::Done => HolderStep::Done,
            HolderState::Failed => HolderStep::Failed,
        }
    }

    /// These bytes of the request were read.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        match &mut self.state {
            HolderState::Header(header) => match header.feed(bytes) {
                Err(error) => self.fail(error),
                Ok(None) => Ok(()),
                Ok(Some(whole)) => match RequestHeader::decode(&whole) {
                    Err(error) => self.fail(error.into()),
                    Ok(header) => {
                        let body = Vec::new();
                        self.state = HolderState::Body { header, body };
                        Ok(())
                    }
                },
            },
            HolderState::Body { header, body } => {
                let asked = header.body_bytes() - body.len();
                if bytes.len() > asked {
                    return self.fail(overrun(asked, bytes.len()));
                }
                body.extend_from_slice(bytes);
                if bytes.len() < asked {
                    return Ok(());
                }
                let round = header.round;
                match header.decode_body(body) {
                    Err(error) => self.fail(error.into()),
                    Ok(indices) => {
                        self.state = HolderState::Requested { round, indices };
                        Ok(())
                    }
                }
            }
            _ => self.fail(overrun(0, bytes.len())),
        }
    }

    /// Answers the request with what this side offers; `None` where it is in no sync or may not
    /// send. What does not fit the request is refused: tensors before the first unknown one are
    /// sent, then the refusal ends the stream.
    pub fn answer(&mut self, offer: Option<&Offer>) -> Result<(), TransferError> {
        let HolderState::Requested { round, indices } = &self.state else {
            return self.fail(overrun(0, 0));
        };
        let verdict = |index: u32| match offer {
            None => Err(Status::NotDistributing),
            Some(offer) if offer.round != *round => Err(Status::OtherRound),
            Some(offer) => {
                let len = offer.lens.get(index as usize).copied();
                len.ok_or(Status::UnknownIndex)
            }
        };
        let queue: Vec<_> = indices.iter().map(|&i| (i, verdict(i))).collect();
        let own_round = offer.map_or(0, |offer| offer.round);
        self.next(own_round, queue.into_iter());
        Ok(())
    }

    /// `n` bytes of what the step named were written.
    pub fn wrote(&mut self, n: u64) -> Result<(), TransferError> {
        let HolderState::Sending {
            round,
            queue,
            len,
            written,
            ..
        } = &mut self.state
        else {
            return self.fail(overrun(0, n));
        };
        let header_bytes = ANSWER_HEADER_BYTES as u64;
        let in_header = *written < header_bytes;
        let asked = match in_header {
            true => header_bytes - *written,
            false => *len - (*written - header_bytes),
        };
        if n > asked {
            return self.fail(overrun(asked, n));
        }
        *written += n;
        if !in_header {
            self.sent_bytes += n;
        }
        if *written >= header_bytes && *written - header_bytes == *len {
            let (round, queue) = (*round, std::mem::take(queue));
            self.next(round, queue);
        }
        Ok(())
    }

    /// Bytes of tensors written so far, headers not counted.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    fn next(&mut self, round: u64, mut queue: std::vec::IntoIter<(u32, Result<u64, Status>)>) {
        self.state = match queue.next() {
            None => HolderState::Done,
            Some((index, verdict)) => {
                let (status, len) = match verdict {
                    Ok(len) => (Status::Data, len),
                    Err(status) => {
                        // A refusal is the last that is sent.
                        queue = Vec::new().into_iter();
                        (status, 0)
                    }
                };
                let header = AnswerHeader {
                    status,
                    round,
                    index,
                    len,
                };
                HolderState::Sending {
                    round,
                    queue,
                    header: header.encode(),
                    index,
                    len,
                    written: 0,
                }
            }
        };
    }

    fn fail(&mut self, error: TransferError) -> Result<(), TransferError> {
        self.state = HolderState::Failed;
        Err(error)
    }
}

/// A header of `N` bytes of which some have arrived.
#[derive(Clone, Debug)]
struct Partial<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Default for Partial<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            filled: 0,
        }
    }
}

impl<const N: usize> Partial<N> {
    fn missing(&self) -> usize {
        N - self.filled
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<Option<[u8; N]>, TransferError> {
        let missing = self.missing();
        let Some(slot) = self.bytes[self.filled..].get_mut(..bytes.len()) else {
            return Err(overrun(missing, bytes.len()));
        };
        slot.copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok((self.filled == N).then_some(self.bytes))
    }
}

fn overrun(asked: impl TryInto<u64>, given: impl TryInto<u64>) -> TransferError {
    TransferError::Overrun {
        asked: asked.try_into().unwrap_or(u64::MAX),
        given: given.try_into().unwrap_or(u64::MAX),
    }
}
