//! The reading half of a lane: headers through a small buffer, large payloads straight into user
//! memory, reductions in between.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::LaneEnd;
use super::lane::{LaneKey, Pulse};
use super::operation::{Applied, Operation};
use super::plane::DataPlane;
use crate::engine::{Segment, Taken};
use crate::mutation::{Mutation, mutated};
use crate::wire::lane::{FrameHeader, HEADER_BYTES, TRAILER_BYTES, TRAILER_SPOILED, TRAILER_WHOLE};

/// Read-ahead: many small frames in one read, and little of a large payload copied twice.
const STAGING_BYTES: usize = 16 * 1024;

/// What is read at once of a segment that is combined, or that overwrites what must be saved: it stays
/// in the second-level cache, and so does its part of the input and the output.
const PIECE_BYTES: usize = 128 * 1024;

/// What becomes of a frame whose header came.
pub(super) enum Incoming {
    /// It has no payload, and is dealt with.
    Nothing,
    /// Nobody wants the payload.
    Skip,
    /// It goes straight into user memory.
    Receive(Receiving),
    /// Another lane is receiving the same segment.
    Park(Arc<Operation>),
    /// Its operation has not been begun here; room is reserved.
    Keep,
}

/// A claim that is given back unless the segment is received whole.
pub(super) struct Receiving {
    plane: Arc<DataPlane>,
    operation: Arc<Operation>,
    taken: Option<Taken>,
}

/// Reads until the lane ends; the error says why it did.
pub(super) async fn read_lane<R: AsyncRead + Unpin>(
    plane: &Arc<DataPlane>,
    key: LaneKey,
    reader: R,
    pulse: &Pulse,
) -> Result<(), LaneEnd> {
    let broken = |error: io::Error| LaneEnd::of_io(&error, pulse);
    let mut stream = Stream::new(Counted { reader, pulse });
    loop {
        let header = stream.array::<HEADER_BYTES>().await.map_err(broken)?;
        let header = FrameHeader::decode(&header);
        let header = header.map_err(|error| LaneEnd::Rejected(error.to_string()))?;
        let len = header.len as usize;
        match plane.incoming(key, &header).map_err(LaneEnd::Rejected)? {
            Incoming::Nothing => continue,
            Incoming::Skip => {
                stream.skip(len).await.map_err(broken)?;
                is_whole(stream.array().await.map_err(broken)?)?;
            }
            Incoming::Receive(receiving) if receiving.operation.is_quantized() => {
                let mut payload = plane.segments.take(len);
                stream.read(&mut payload).await.map_err(broken)?;
                if is_whole(stream.array().await.map_err(broken)?)? {
                    receiving.apply(payload);
                }
            }
            Incoming::Receive(mut receiving) => {
                let is_open = stream.receive(&receiving).await.map_err(broken)?;
                if is_whole(stream.array().await.map_err(broken)?)? && is_open {
                    receiving.complete(header.len);
                } else if !is_open {
                    receiving.forget();
                }
            }
            Incoming::Park(operation) => {
                let payload = stream.payload(len).await.map_err(broken)?;
                if is_whole(stream.array().await.map_err(broken)?)? {
                    plane
                        .deliver(&operation, key.peer, &header, payload)
                        .map_err(LaneEnd::Rejected)?;
                }
            }
            Incoming::Keep => {
                let mut reservation = Reservation {
                    plane,
                    key,
                    header,
                    is_held: true,
                };
                let payload = stream.payload(len).await.map_err(broken)?;
                let whole = is_whole(stream.array().await.map_err(broken)?)?;
                reservation.is_held = false;
                plane
                    .early(key.peer, &header, whole.then_some(payload))
                    .map_err(LaneEnd::Rejected)?;
            }
        }
        plane.took(key, header.len);
    }
}

/// Whether the payload before this trailer was what its header promised.
fn is_whole(trailer: [u8; TRAILER_BYTES]) -> Result<bool, LaneEnd> {
    match trailer {
        TRAILER_WHOLE => Ok(true),
        TRAILER_SPOILED => Ok(false),
        other => Err(LaneEnd::Rejected(format!("trailer {other:02x?}"))),
    }
}

/// Tells the pulse of every byte that comes, so that a long frame on a slow lane is seen to move.
struct Counted<'a, R> {
    reader: R,
    pulse: &'a Pulse,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<'_, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(context, buffer))?;
        self.pulse.came(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl Receiving {
    pub(super) fn new(plane: Arc<DataPlane>, operation: Arc<Operation>, taken: Taken) -> Receiving {
        Receiving {
            plane,
            operation,
            taken: Some(taken),
        }
    }

    /// It was received into the caller's memory.
    fn complete(&mut self, len: u32) {
        if let Some(taken) = self.taken.take() {
            self.plane
                .arrived(&self.operation, &taken, len, Applied::IN_PLACE);
        }
    }

    /// It was received into memory of its own.
    fn apply(mut self, payload: Segment) {
        if let Some(taken) = self.taken.take() {
            self.plane.apply(&self.operation, &taken, payload);
        }
    }

    /// The memory was taken back: the operation is over, and its claims mean nothing.
    fn forget(&mut self) {
        self.taken = None;
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if mutated(Mutation::TakeTornSegments) && !self.operation.is_quantized() {
            return self.complete(0);
        }
        if let Some(taken) = self.taken.take() {
            self.plane.abandoned(&self.operation, &taken);
        }
    }
}

/// Room for an early frame, given back if the frame does not arrive.
struct Reservation<'a> {
    plane: &'a Arc<DataPlane>,
    key: LaneKey,
    header: FrameHeader,
    is_held: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.is_held {
            // Without a payload there is nothing that could be refused.
            self.plane.early(self.key.peer, &self.header, None).ok();
        }
    }
}

/// A byte stream with read-ahead. `staging[start..end]` was read and not yet used.
struct Stream<R> {
    reader: R,
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    /// What is to be combined, on its way: it never leaves the cache. Empty until it is needed.
    pieces: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> Stream<R> {
    fn new(reader: R) -> Stream<R> {
        let staging = vec![0; STAGING_BYTES].into_boxed_slice();
        Stream {
            reader,
            staging,
            start: 0,
            end: 0,
            pieces: Box::default(),
        }
    }

    /// Reads a claimed segment and applies it. False: the memory was taken back, and what was left of
    /// the segment is gone.
    async fn receive(&mut self, receiving: &Receiving) -> io::Result<bool> {
        let Receiving {
            operation,
            taken: Some(taken),
            ..
        } = receiving
        else {
            return Ok(false);
        };
        let range = taken.range.clone();
        if operation.combines(taken) {
            return self.combine(operation, taken).await;
        }
        let mut at = range.start;
        while at < range.end {
            let (staged, rest) = (&self.staging[self.start..self.end], range.end - at);
            let reader = &mut self.reader;
            let piece = match operation.buffers.is_in_place() {
                true => at..range.end.min(at + PIECE_BYTES),
                false => at..range.end,
            };
            let read = poll_fn(|context| {
                let Some(mut access) = operation.buffers.access() else {
                    return Poll::Ready(Ok(None));
                };
                access.prepare(&range, piece.end);
                let place = access.output_mut(piece.clone());
                if !staged.is_empty() {
                    let count = staged.len().min(place.len());
                    place[..count].copy_from_slice(&staged[..count]);
                    return Poll::Ready(Ok(Some(count)));
                }
                let mut place = ReadBuf::new(place);
                ready!(Pin::new(&mut *reader).poll_read(context, &mut place))?;
                match place.filled().len() {
                    0 => Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof))),
                    count => Poll::Ready(Ok(Some(count))),
                }
            });
            match read.await? {
                Some(count) => {
                    self.start = self.end.min(self.start + count);
                    at += count;
                }
                None => {
                    self.skip(rest).await?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads a claimed segment piece by piece, and combines each as it comes.
    async fn combine(&mut self, operation: &Operation, taken: &Taken) -> io::Result<bool> {
        if self.pieces.is_empty() {
            self.pieces = vec![0; PIECE_BYTES].into_boxed_slice();
        }
        let element_bytes = operation.element_bytes();
        // Bytes of an element whose rest is still to come lie in front.
        let (mut at, mut held) = (taken.range.start, 0);
        while at < taken.range.end {
            let rest = taken.range.end - at - held;
            let staged = &self.staging[self.start..self.end];
            let place = &mut self.pieces[held..PIECE_BYTES.min(held + rest)];
            let count = if staged.is_empty() {
                self.reader.read(place).await?
            } else {
                let count = staged.len().min(place.len());
                place[..count].copy_from_slice(&staged[..count]);
                self.start += count;
                count
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            held += count;
            let whole = held - held % element_bytes;
            if whole > 0 && !operation.combine(taken, at, &self.pieces[..whole]) {
                self.skip(rest - count).await?;
                return Ok(false);
            }
            at += whole;
            self.pieces.copy_within(whole..held, 0);
            held -= whole;
        }
        Ok(true)
    }

    async fn payload(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut payload = vec![0; len];
        self.read(&mut payload).await?;
        Ok(payload)
    }

    async fn read(&mut self, payload: &mut [u8]) -> io::Result<()> {
        let staged = payload.len().min(self.end - self.start);
        payload[..staged].copy_from_slice(&self.staging[self.start..][..staged]);
        self.start += staged;
        self.reader.read_exact(&mut payload[staged..]).await?;
        Ok(())
    }

    async fn skip(&mut self, len: usize) -> io::Result<()> {
        let mut left = len;
        loop {
            let staged = left.min(self.end - self.start);
            self.start += staged;
            left -= staged;
            if left == 0 {
                return Ok(());
            }
            self.fill(1).await?;
        }
    }

    async fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.fill(N).await?;
        let mut array = [0; N];
        array.copy_from_slice(&self.staging[self.start..][..N]);
        self.start += N;
        Ok(array)
    }

    /// Reads until at least `count` bytes are staged; `count` is far below the staging size.
    async fn fill(&mut self, count: usize) -> io::Result<()> {
        if self.end - self.start >= count {
            return Ok(());
        }
        self.staging.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < count {
            match self.reader.read(&mut self.staging[self.end..]).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                read => self.end += read,
            }
        }
        Ok(())
    }
}
