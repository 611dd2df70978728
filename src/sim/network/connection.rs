//! A connection: two ends, and a pipe of bytes from each to the other.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use crate::sim::history::{ProcessId, WorldTime};

/// Bytes that may be under way or unread in one direction, as in a kernel's socket buffers.
pub(super) const WINDOW_BYTES: usize = 192 * 1024;

/// Which end: 0 dialled, 1 accepted.
pub(super) type Side = usize;

pub(super) struct Connection {
    pub(super) ends: [End; 2],
    pub(super) dial: Dial,
    /// Whatever is sent is lost, as behind a NAT that has forgotten it.
    pub(super) is_swallowed: bool,
}

/// What the dialling side knows.
pub(super) enum Dial {
    Waiting(Option<Waker>),
    Answered,
    Failed(io::ErrorKind),
    Taken,
}

pub(super) struct End {
    pub(super) process: ProcessId,
    pub(super) address: SocketAddr,
    /// Its program, or kernel, has let go of it.
    pub(super) is_closed: bool,
    pub(super) halves: u8,
    pub(super) error: Option<io::ErrorKind>,
    pub(super) unread: VecDeque<u8>,
    /// Nothing comes after what is unread.
    pub(super) saw_fin: bool,
    pub(super) sent_fin: bool,
    /// Room for sending.
    pub(super) credit: usize,
    /// Read, and the other side not told yet.
    pub(super) uncredited: usize,
    /// Without room since then.
    pub(super) blocked_since: Option<WorldTime>,
    /// When the latest piece sent from here arrives: the next one comes after it.
    pub(super) last_arrival: WorldTime,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl End {
    pub(super) fn new(process: ProcessId, address: SocketAddr) -> Self {
        Self {
            process,
            address,
            is_closed: false,
            halves: 2,
            error: None,
            unread: VecDeque::new(),
            saw_fin: false,
            sent_fin: false,
            credit: WINDOW_BYTES,
            uncredited: 0,
            blocked_since: None,
            last_arrival: WorldTime::default(),
            reader: None,
            writer: None,
        }
    }

    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        if self.error.is_none() {
            self.error = Some(kind);
        }
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}
