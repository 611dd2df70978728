//! A control connection as two tasks: one reads whole messages, one writes what is queued.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::transport::{ReadHalf, Stream, WriteHalf};
use crate::wire::control::{FRAME_HEADER_BYTES, Frame, FrameHeader, Message};

/// The largest message of a peer that is not accepted: it has nothing to say that is longer.
const STRANGER_FRAME_BYTES_MAX: usize = 64 << 10;

/// What comes from a control connection.
#[derive(Debug)]
pub(super) enum FromControl<M> {
    /// A message.
    Frame(Frame<M>),
    /// The end, and why.
    Closed(String),
}

/// The sending side of a control connection. Dropping it closes the connection once everything
/// queued has gone out.
#[derive(Debug)]
pub(super) struct ControlWriter {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    writer: Option<JoinHandle<()>>,
    reader: JoinHandle<()>,
    is_trusted: Arc<AtomicBool>,
}

impl ControlWriter {
    /// Starts both tasks; `deliver` is called for each message and once for the end, and stops
    /// the reader by returning `false`. Nothing more is read before it has returned.
    pub(super) fn spawn<M, F, D>(stream: Stream, deliver: F) -> Self
    where
        Frame<M>: Message + Send,
        M: Send + 'static,
        F: FnMut(FromControl<M>) -> D + Send + 'static,
        D: Future<Output = bool> + Send + 'static,
    {
        let (reader, writer) = stream.into_split();
        let (queue, queued) = mpsc::unbounded_channel();
        let writer = Some(tokio::spawn(write(writer, queued)));
        let is_trusted = Arc::new(AtomicBool::new(false));
        let reader = tokio::spawn(read(reader, is_trusted.clone(), deliver));
        Self {
            queue,
            writer,
            reader,
            is_trusted,
        }
    }

    /// From now on the other side may send messages of any size that the encoding allows.
    pub(super) fn trust(&self) {
        self.is_trusted.store(true, Ordering::Relaxed);
    }

    /// Closes the connection; the task ends once everything queued has gone out.
    pub(super) fn close(mut self) -> Option<JoinHandle<()>> {
        self.writer.take()
    }

    pub(super) fn send<M>(&self, frame: &Frame<M>)
    where
        Frame<M>: Message,
    {
        // A writer that is gone is told by the reader's end.
        let _ = self.queue.send(FrameHeader::frame(&frame.encode()));
    }
}

impl Drop for ControlWriter {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn write(mut writer: WriteHalf, mut queued: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(mut bytes) = queued.recv().await {
        // What has queued up meanwhile goes out in the same segment.
        while let Ok(more) = queued.try_recv() {
            bytes.extend_from_slice(&more);
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

async fn read<M, F, D>(mut reader: ReadHalf, is_trusted: Arc<AtomicBool>, mut deliver: F)
where
    Frame<M>: Message,
    F: FnMut(FromControl<M>) -> D,
    D: Future<Output = bool>,
{
    let reason = loop {
        match read_frame(&mut reader, &is_trusted).await {
            Ok(frame) => {
                if !deliver(FromControl::Frame(frame)).await {
                    return;
                }
            }
            Err(reason) => break reason,
        }
    };
    deliver(FromControl::Closed(reason)).await;
}

async fn read_frame<M>(reader: &mut ReadHalf, is_trusted: &AtomicBool) -> Result<Frame<M>, String>
where
    Frame<M>: Message,
{
    let mut header = [0; FRAME_HEADER_BYTES];
    reader
        .read_exact(&mut header)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "closed by the other side".to_owned(),
            _ => error.to_string(),
        })?;
    let header = FrameHeader::decode(header).map_err(|error| error.to_string())?;
    if header.len_bytes > STRANGER_FRAME_BYTES_MAX && !is_trusted.load(Ordering::Relaxed) {
        let len_bytes = header.len_bytes;
        return Err(format!(
            "{len_bytes} bytes in one message before it was accepted"
        ));
    }
    // Memory grows with what arrives, not with what a header promises.
    let mut body = Vec::with_capacity(header.len_bytes.min(64 << 10));
    let mut limited = reader.take(header.len_bytes as u64);
    limited
        .read_to_end(&mut body)
        .await
        .map_err(|error| error.to_string())?;
    header.check(&body).map_err(|error| error.to_string())?;
    Frame::<M>::decode(&body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
