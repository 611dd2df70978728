//! Wires: in-memory byte streams that are as slow, as broken and as unfair as a test wants.
//!
//! ```text
//!   end 0 --- way 0: room, pace, hold, cut ---> end 1
//!         <-- way 1 ---------------------------
//! ```
//!
//! Time is the runtime's, so that a paused clock makes all of it virtual; chance comes from seeds.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::transport::{Ends, Stream};

/// Numbers that look random and are the same in every run.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// How the bytes of one direction arrive.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    /// As they are written.
    AtOnce,
    /// So many bytes each so many milliseconds.
    Steady { piece: usize, every: u64 },
    /// In pieces of up to so many bytes, each up to so many milliseconds after the one before.
    Random {
        random: Random,
        piece: usize,
        delay: usize,
    },
}

/// How a wire dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Both ends hear of it at once.
    Reset,
    /// The reader sees the end; the writer goes on into the void until the reader has closed.
    Eof,
    /// Neither end hears of it, and nothing arrives any more.
    Silence,
    /// The writer's end breaks, the reader's end hears nothing.
    HalfOpen,
}

pub(crate) const EVERY_DEATH: [How; 4] = [How::Reset, How::Eof, How::Silence, How::HalfOpen];

/// When and how a wire dies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// With the byte before this one written.
    pub(crate) after: usize,
    pub(crate) how: How,
    /// What was on its way then is lost.
    pub(crate) loses: bool,
}

/// One direction.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Bytes that are on their way at most.
    pub(crate) room: usize,
    pub(crate) pace: Pace,
    /// Bytes from this one on arrive after [`Wire::release`].
    pub(crate) hold: usize,
    pub(crate) cut: Option<Cut>,
}

/// A sound and swift one.
pub(crate) const SOUND: Way = Way {
    room: 64 * 1024,
    pace: Pace::AtOnce,
    hold: usize::MAX,
    cut: None,
};

impl Way {
    pub(crate) fn random(seed: u64, piece: usize, delay: usize) -> Way {
        let random = Random::new(seed);
        Way {
            pace: Pace::Random {
                random,
                piece,
                delay,
            },
            ..SOUND
        }
    }
}

struct Flow {
    way: Way,
    bytes: VecDeque<u8>,
    /// When how many bytes in all will have arrived, in order.
    arrivals: VecDeque<(Instant, usize)>,
    written: usize,
    arrived: usize,
    read: usize,
    /// What is written vanishes.
    is_void: bool,
    is_closed: bool,
    is_abandoned: bool,
    write_fails: bool,
    read_fails: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Flow {
    fn new(way: Way) -> Flow {
        Flow {
            way,
            bytes: VecDeque::new(),
            arrivals: VecDeque::new(),
            written: 0,
            arrived: 0,
            read: 0,
            is_void: false,
            is_closed: false,
            is_abandoned: false,
            write_fails: false,
            read_fails: false,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    fn lose(&mut self) {
        (self.arrived, self.read) = (self.written, self.written);
        self.bytes.clear();
        self.arrivals.clear();
    }

    /// Bytes that may be read now.
    fn ready(&mut self) -> usize {
        let now = Instant::now();
        while let Some((_, count)) = self.arrivals.front().filter(|(at, _)| *at <= now) {
            self.arrived = *count;
            self.arrivals.pop_front();
        }
        self.arrived.min(self.way.hold).saturating_sub(self.read)
    }

    /// Takes what fits of a write that the pace cuts into pieces.
    fn accept(&mut self, bytes: &[u8]) -> usize {
        let before_cut = self.way.cut.map_or(usize::MAX, |cut| cut.after) - self.written;
        // As a socket does: room for a few bytes is not told, or all pieces would shrink to that.
        if self.bytes.len() > self.way.room / 2 {
            return 0;
        }
        let room = self.way.room - self.bytes.len();
        let mut count = bytes.len().min(before_cut).min(room);
        let now = Instant::now();
        let mut at = self.arrivals.back().map_or(now, |(at, _)| now.max(*at));
        let mut arrival = self.written;
        match &mut self.way.pace {
            Pace::AtOnce => self.arrivals.push_back((now, arrival + count)),
            Pace::Steady { piece, every } => {
                for part in bytes[..count].chunks(*piece) {
                    at += Duration::from_millis(*every);
                    arrival += part.len();
                    self.arrivals.push_back((at, arrival));
                }
            }
            Pace::Random {
                random,
                piece,
                delay,
            } => {
                count = count.min(1 + random.below(*piece));
                at += Duration::from_millis(random.below(*delay + 1) as u64);
                self.arrivals.push_back((at, arrival + count));
            }
        }
        self.bytes.extend(&bytes[..count]);
        self.written += count;
        count
    }
}

type Flows = Arc<Mutex<[Flow; 2]>>;

/// The test's hand on a wire.
pub(crate) struct Wire(Flows);

pub(crate) struct PipeReader {
    flows: Flows,
    way: usize,
    alarm: Option<Pin<Box<Sleep>>>,
}

pub(crate) struct PipeWriter {
    flows: Flows,
    way: usize,
}

/// A wire and what each of its ends reads from and writes to.
pub(crate) fn wire(ways: [Way; 2]) -> (Wire, [(PipeReader, PipeWriter); 2]) {
    let flows = Arc::new(Mutex::new(ways.map(Flow::new)));
    let ends = [0, 1].map(|end| {
        let reader = PipeReader {
            flows: flows.clone(),
            way: 1 - end,
            alarm: None,
        };
        let writer = PipeWriter {
            flows: flows.clone(),
            way: end,
        };
        (reader, writer)
    });
    (Wire(flows), ends)
}

/// Addresses for streams whose ends do not matter.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// A wire between two connections as `transport` has them.
pub(crate) fn streams(ways: [Way; 2]) -> (Wire, [Stream; 2]) {
    let (wire, ends) = wire(ways);
    let ends_of = Ends {
        local: NOWHERE,
        peer: NOWHERE,
    };
    let streams = ends.map(|(reader, writer)| Stream::in_memory(reader, writer, ends_of));
    (wire, streams)
}

impl Wire {
    pub(crate) fn written(&self, way: usize) -> usize {
        self.0.lock()[way].written
    }

    /// Lets everything through that was held back.
    pub(crate) fn release(&self) {
        for flow in &mut *self.0.lock() {
            flow.way.hold = usize::MAX;
            flow.wake();
        }
    }
}

fn die(flows: &mut [Flow; 2], way: usize, cut: Cut) {
    for flow in flows.iter_mut() {
        if cut.loses {
            flow.lose();
        }
        flow.wake();
    }
    let back = 1 - way;
    match cut.how {
        How::Reset => flows.iter_mut().for_each(|flow| {
            (flow.read_fails, flow.write_fails) = (true, true);
        }),
        How::Eof => (flows[way].is_closed, flows[way].is_void) = (true, true),
        How::Silence => flows.iter_mut().for_each(|flow| flow.is_void = true),
        How::HalfOpen => {
            (flows[way].write_fails, flows[back].read_fails) = (true, true);
            flows.iter_mut().for_each(|flow| flow.is_void = true);
        }
    }
}

fn reset() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

impl AsyncWrite for PipeWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flows = &mut *self.flows.lock();
        let mut count = 0;
        let flow = &mut flows[self.way];
        if !flow.is_void && !flow.write_fails && !flow.is_abandoned {
            count = flow.accept(bytes);
            flow.reader.take().into_iter().for_each(Waker::wake);
            let cut = flow.way.cut.filter(|cut| flow.written == cut.after);
            if let Some(cut) = cut {
                flow.way.cut = None;
                die(flows, self.way, cut);
            }
        }
        let flow = &mut flows[self.way];
        if count > 0 {
            Poll::Ready(Ok(count))
        } else if flow.write_fails || flow.is_abandoned {
            Poll::Ready(Err(reset()))
        } else if flow.is_void {
            Poll::Ready(Ok(bytes.len()))
        } else {
            flow.writer = Some(context.waker().clone());
            Poll::Pending
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for PipeReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let flows = &mut *this.flows.lock();
            let flow = &mut flows[this.way];
            let ready = flow.ready();
            if ready > 0 {
                let count = ready.min(buffer.remaining());
                let (first, second) = flow.bytes.as_slices();
                let from_first = count.min(first.len());
                buffer.put_slice(&first[..from_first]);
                buffer.put_slice(&second[..count - from_first]);
                flow.bytes.drain(..count);
                flow.read += count;
                flow.writer.take().into_iter().for_each(Waker::wake);
                return Poll::Ready(Ok(()));
            }
            if flow.bytes.is_empty() && flow.read_fails {
                return Poll::Ready(Err(reset()));
            }
            if flow.bytes.is_empty() && flow.is_closed {
                return Poll::Ready(Ok(()));
            }
            flow.reader = Some(context.waker().clone());
            let next = flow.arrivals.front();
            let Some((at, _)) = next.filter(|_| flow.read < flow.way.hold) else {
                return Poll::Pending;
            };
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep_until(*at)));
            alarm.as_mut().reset(*at);
            if alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        let flow = &mut self.flows.lock()[self.way];
        // Of a wire that died silently the other end hears nothing more.
        flow.is_closed |= !flow.is_void;
        flow.wake();
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let flow = &mut self.flows.lock()[self.way];
        flow.is_abandoned |= !flow.is_void;
        flow.lose();
        flow.wake();
    }
}
