//! The two halves of an end, as the library reads and writes them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{Side, WINDOW_BYTES};
use super::machine_of;
use super::switch::Switch;
use crate::transport::{Ends, Stream};

pub(super) fn stream(switch: &Arc<Mutex<Switch>>, number: u64, side: Side) -> io::Result<Stream> {
    let ends = {
        let switch = switch.lock();
        let connection = switch.connections.get(&number);
        let connection = connection.ok_or(io::ErrorKind::NotConnected)?;
        Ends {
            local: connection.ends[side].address,
            peer: connection.ends[1 - side].address,
        }
    };
    let half = |writes| Half {
        switch: switch.clone(),
        number,
        side,
        writes,
    };
    Ok(Stream::in_memory(half(false), half(true), ends))
}

struct Half {
    switch: Arc<Mutex<Switch>>,
    number: u64,
    side: Side,
    writes: bool,
}

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let switch = &mut *self.switch.lock();
        let Some(connection) = switch.connections.get_mut(&self.number) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let end = &mut connection.ends[self.side];
        if end.unread.is_empty() {
            if let Some(kind) = end.error {
                return Poll::Ready(Err(kind.into()));
            }
            if end.saw_fin {
                return Poll::Ready(Ok(()));
            }
            end.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut len = end.unread.len().min(buf.remaining());
        if switch.dice.one_in(8) {
            len = 1 + switch.dice.below(len as u64) as usize;
        }
        let (first, second) = end.unread.as_slices();
        let from_first = first.len().min(len);
        buf.put_slice(&first[..from_first]);
        buf.put_slice(&second[..len - from_first]);
        end.unread.drain(..len);
        end.uncredited += len;
        if end.uncredited >= WINDOW_BYTES / 2 || end.unread.is_empty() {
            let credit = std::mem::take(&mut end.uncredited);
            switch.send_credit(self.number, self.side, credit);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let switch = &mut *self.switch.lock();
        let Some(connection) = switch.connections.get_mut(&self.number) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let end = &mut connection.ends[self.side];
        if let Some(kind) = end.error {
            return Poll::Ready(Err(kind.into()));
        }
        if end.sent_fin {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let credit = end.credit;
        let [from, to] =
            [self.side, 1 - self.side].map(|side| machine_of(connection.ends[side].address));
        let path = switch.path(from, to);
        // What is under way and unread already counts.
        let room = (credit + path.window_bytes()).saturating_sub(WINDOW_BYTES);
        if room == 0 {
            if let Some(connection) = switch.connections.get_mut(&self.number) {
                connection.ends[self.side].writer = Some(context.waker().clone());
            }
            switch.blocked(self.number, self.side);
            return Poll::Pending;
        }
        let mut len = buf.len().min(room).min(path.piece_bytes_max());
        if switch.dice.one_in(8) && len > 0 {
            len = 1 + switch.dice.below(len as u64) as usize;
        }
        if let Some(connection) = switch.connections.get_mut(&self.number) {
            connection.ends[self.side].credit -= len;
        }
        switch.send_bytes(self.number, self.side, buf[..len].to_vec());
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.switch.lock().finish(self.number, self.side);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.switch
            .lock()
            .drop_half(self.number, self.side, self.writes);
    }
}
