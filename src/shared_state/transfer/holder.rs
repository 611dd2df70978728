//! The side that has the tensors: reads one request and answers it, or says why not.

use super::{Partial, TransferError, overrun};
use crate::wire::state::{
    ANSWER_HEADER_BYTES, AnswerHeader, REQUEST_HEADER_BYTES, RequestHeader, Status,
};

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
            return self.fail(TransferError::NotRequested);
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
