//! The writing half of a lane: small frames gathered into one write, large payloads straight from
//! user memory.
//!
//! The header of a large payload goes out in one write with it, and no lone header wakes the other
//! side up.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::LaneEnd;
use super::lane::{LaneKey, Pulse};
use super::operation::Operation;
use super::outbox::Item;
use super::plane::DataPlane;
use crate::engine::{Access, Due, Source};
use crate::wire::lane::{FrameHeader, FrameKind, TRAILER_SPOILED, TRAILER_WHOLE};

/// Payloads up to this size are copied next to their header: one write, one wake-up at the other
/// side. The copy is cheaper than a second call up to about here.
const SMALL_BYTES: usize = 16 * 1024;

/// Staged frames are written when there are this many bytes, or nothing more to send.
const STAGING_BYTES: usize = 32 * 1024;

/// What spoiled frames are filled with.
static FILLER: [u8; 16 * 1024] = [0; 16 * 1024];

/// What a lane's writer does next.
pub(super) enum Next {
    Send(Outgoing),
    Nothing,
    /// The lane was removed.
    Gone,
}

/// A frame to send.
pub(super) struct Outgoing {
    header: FrameHeader,
    data: Option<(Arc<Operation>, Due)>,
}

impl Outgoing {
    pub(super) fn bare(header: FrameHeader) -> Outgoing {
        Outgoing { header, data: None }
    }

    /// The frame of an item; `operation` is that of a segment.
    pub(super) fn new(item: &Item, operation: Option<Arc<Operation>>, acked: u64) -> Outgoing {
        match (item, operation) {
            (Item::Data(id, due), Some(operation)) => {
                let header = FrameHeader {
                    kind: FrameKind::Data,
                    operation: *id,
                    step: due.step,
                    segment: due.segment,
                    len: due.len_bytes as u32,
                    digest: operation.digest,
                    acked,
                };
                Outgoing {
                    header,
                    data: Some((operation, due.clone())),
                }
            }
            (Item::Data(id, _) | Item::Grant(id), _) => {
                let header = FrameHeader::bare(FrameKind::Grant, acked);
                Outgoing::bare(FrameHeader {
                    operation: *id,
                    ..header
                })
            }
        }
    }
}

/// Writes until the lane ends; the error says why it did.
pub(super) async fn write_lane<W: AsyncWrite + Unpin>(
    plane: &Arc<DataPlane>,
    key: LaneKey,
    writer: W,
    wake: &Notify,
    pulse: &Pulse,
) -> Result<(), LaneEnd> {
    let broken = |error: io::Error| LaneEnd::of_io(&error, pulse);
    let mut stream = Stream {
        writer,
        staging: Vec::with_capacity(2 * STAGING_BYTES),
    };
    loop {
        // With bytes staged the writer is not idle: it may yet be held up writing them.
        match plane.next(key, stream.staging.is_empty()) {
            Next::Send(outgoing) => stream.send(outgoing).await.map_err(broken)?,
            Next::Gone => return Ok(()),
            Next::Nothing if stream.staging.is_empty() => wake.notified().await,
            Next::Nothing => stream.flush().await.map_err(broken)?,
        }
    }
}

struct Stream<W> {
    writer: W,
    staging: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Stream<W> {
    /// Stages a frame or writes it; the trailer of a large one is staged for the next header to
    /// join it.
    async fn send(&mut self, outgoing: Outgoing) -> io::Result<()> {
        self.staging.extend_from_slice(&outgoing.header.encode());
        if let Some((operation, due)) = outgoing.data {
            let payload = Payload::of(&operation, &due);
            let is_whole = if due.len_bytes <= SMALL_BYTES {
                self.stage(&payload, due.len_bytes)
            } else {
                self.write_payload(&payload, due.len_bytes).await?
            };
            let trailer = if is_whole {
                TRAILER_WHOLE
            } else {
                TRAILER_SPOILED
            };
            self.staging.extend_from_slice(&trailer);
            operation.count_sent(due.len_bytes);
        }
        if self.staging.len() >= STAGING_BYTES {
            self.write_staged().await?;
        }
        Ok(())
    }

    /// Stages a payload, or filler if the memory was taken back (false).
    fn stage(&mut self, payload: &Payload<'_>, len: usize) -> bool {
        let open = payload.open();
        let bytes = open.rest(0);
        let is_whole = bytes.is_some();
        self.staging
            .extend_from_slice(bytes.unwrap_or(&FILLER[..len]));
        is_whole
    }

    /// Writes what is staged, and a payload straight from where it is, or filler from where the memory
    /// was taken back (false).
    async fn write_payload(&mut self, payload: &Payload<'_>, len: usize) -> io::Result<bool> {
        // Of what is staged, then of the payload.
        let (mut ahead, mut written, mut is_whole) = (0, 0, true);
        while written < len {
            let (writer, staged) = (&mut self.writer, &self.staging[ahead..]);
            let is_whole = &mut is_whole;
            let write = poll_fn(|context| {
                let open = payload.open();
                let rest = open.rest(written);
                let bytes = rest.unwrap_or(&FILLER[..FILLER.len().min(len - written)]);
                let writer = Pin::new(&mut *writer);
                let count = ready!(if staged.is_empty() {
                    writer.poll_write(context, bytes)
                } else {
                    let both = [IoSlice::new(staged), IoSlice::new(bytes)];
                    writer.poll_write_vectored(context, &both)
                })?;
                if rest.is_none() && count > staged.len() {
                    *is_whole = false;
                }
                Poll::Ready(io::Result::Ok(count))
            });
            match write.await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                count => {
                    let of_staged = count.min(self.staging.len() - ahead);
                    ahead += of_staged;
                    written += count - of_staged;
                }
            }
        }
        self.staging.clear();
        Ok(is_whole)
    }

    async fn write_staged(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.staging.len() {
            match self.writer.write(&self.staging[written..]).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                count => written += count,
            }
        }
        self.staging.clear();
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.write_staged().await?;
        self.writer.flush().await
    }
}

/// The bytes of a segment that is sent, wherever they are.
enum Payload<'a> {
    /// In the caller's memory.
    Lent(&'a Operation, &'a Due),
    /// In memory of their own; nothing, if what they come from was taken back.
    Own(Option<&'a [u8]>),
}

/// A payload for the moment.
enum Open<'a> {
    Lent(Option<Access<'a>>, &'a Due),
    Own(Option<&'a [u8]>),
}

impl<'a> Payload<'a> {
    fn of(operation: &'a Operation, due: &'a Due) -> Payload<'a> {
        match &due.source {
            Source::Input | Source::Output => Payload::Lent(operation, due),
            Source::Encoded(encoded) => Payload::Own(operation.encoded(due, encoded)),
        }
    }

    fn open(&self) -> Open<'a> {
        match self {
            Payload::Lent(operation, due) => Open::Lent(operation.buffers.access(), due),
            Payload::Own(bytes) => Open::Own(*bytes),
        }
    }
}

impl Open<'_> {
    /// What is left after `written` bytes. `None`: the memory was taken back.
    fn rest(&self, written: usize) -> Option<&[u8]> {
        match self {
            Open::Lent(access, due) => {
                let range = due.range.start + written..due.range.end;
                access.as_ref().map(|access| match due.source {
                    Source::Input => access.input(range),
                    _ => access.output(range),
                })
            }
            Open::Own(bytes) => bytes.map(|bytes| &bytes[written..]),
        }
    }
}
