//! Accepts connections and hears their greetings; only those that greet properly come through.
//!
//! A connection that has not greeted yet costs one small task and at most one greeting of memory,
//! and there is a bound on how many wait. Whoever is slow, silent or speaks something else is
//! closed with a log line that says why, and holds up nobody.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::close_log::CloseLog;
use super::greet::{GreetError, read_greeting, refuse};
use super::listen::{Listener, Port};
#[cfg(any(test, feature = "sim"))]
use super::network::InMemoryListener;
use super::options::SocketOptions;
use super::os::fork::Registration;
use super::stream::{Stream, canonical};
use crate::mutation::{Mutation, mutated};
use crate::wire::greeting::{Greeting, GreetingError};

/// A connection that has greeted and waits for [`welcome`](super::welcome) or
/// [`refuse`](super::refuse).
#[derive(Debug)]
pub struct Incoming {
    /// What it is for, checked: never an answer.
    pub greeting: Greeting,
    /// The connection; nothing after the greeting has been read.
    pub stream: Stream,
    /// Where it comes from.
    pub from: SocketAddr,
}

/// What an [`Acceptor`] allows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AcceptorOptions {
    /// For the whole greeting; who takes longer is closed. Default 2 s.
    pub greeting_timeout: Duration,
    /// Connections that have not greeted yet, or wait for room in the queue; where there are more,
    /// the oldest is closed. Default 1024; each costs a descriptor and some KiB.
    pub max_waiting: usize,
    /// Greeted connections that may lie in the queue. Default 64.
    pub queue: usize,
    /// Applied to each connection.
    pub socket: SocketOptions,
}

impl AcceptorOptions {
    /// The defaults, with these options for what is accepted.
    pub fn with_socket(socket: SocketOptions) -> Self {
        Self {
            socket,
            ..Self::default()
        }
    }
}

impl Default for AcceptorOptions {
    fn default() -> Self {
        Self {
            greeting_timeout: Duration::from_secs(2),
            max_waiting: 1024,
            queue: 64,
            socket: SocketOptions::default(),
        }
    }
}

/// The task that accepts connections on a [`Listener`]. Stops, with all that have not come through
/// yet, when it or the receiver of its connections is dropped.
#[derive(Debug)]
pub struct Acceptor {
    task: JoinHandle<()>,
    local_addr: SocketAddr,
}

impl Acceptor {
    /// Starts accepting, on the tokio runtime that this is called in.
    pub fn spawn(
        listener: Listener,
        options: AcceptorOptions,
    ) -> io::Result<(Self, mpsc::Receiver<Incoming>)> {
        let local_addr = listener.local_addr();
        let (sender, receiver) = mpsc::channel(options.queue.max(1));
        let accepting = Accepting {
            door: Door::open(listener.port)?,
            options,
            sender,
            greeters: JoinSet::new(),
            waiting: BTreeMap::new(),
            accepted: 0,
            log: CloseLog::new(),
            pause: Pause::default(),
        };
        let task = tokio::spawn(accepting.run());
        Ok((Self { task, local_addr }, receiver))
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops, and returns once the port is free again.
    pub async fn stop(mut self) {
        if mutated(Mutation::KeepListener) {
            return;
        }
        self.task.abort();
        // The only possible failure is the cancellation just asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if !mutated(Mutation::KeepListener) {
            self.task.abort();
        }
    }
}

/// Counts connections in the order in which they came.
type Number = u64;

struct Accepting {
    door: Door,
    options: AcceptorOptions,
    sender: mpsc::Sender<Incoming>,
    /// One task for each connection in `waiting`.
    greeters: JoinSet<(Number, Result<(), String>)>,
    /// The oldest first.
    waiting: BTreeMap<Number, (SocketAddr, AbortHandle)>,
    accepted: Number,
    log: CloseLog,
    pause: Pause,
}

/// What connections come in by.
enum Door {
    Tcp {
        // Before the socket, which leaves the registry before it is closed.
        _registration: Registration,
        listener: TcpListener,
    },
    #[cfg(any(test, feature = "sim"))]
    InMemory(Box<dyn InMemoryListener>),
}

impl Door {
    fn open(port: Port) -> io::Result<Self> {
        match port {
            Port::Tcp {
                registration,
                socket,
            } => Ok(Self::Tcp {
                _registration: registration,
                listener: TcpListener::from_std(socket)?,
            }),
            #[cfg(any(test, feature = "sim"))]
            Port::InMemory(listener) => Ok(Self::InMemory(listener)),
        }
    }

    /// The next connection, and where it comes from. Nothing is lost where the wait is given up.
    async fn accept(&mut self, options: &SocketOptions) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp { listener, .. } => {
                let (tcp, from) = listener.accept().await?;
                options.apply(&SockRef::from(&tcp));
                options.settle(&SockRef::from(&tcp));
                Ok((Stream::new(tcp), canonical(from)))
            }
            #[cfg(any(test, feature = "sim"))]
            Self::InMemory(listener) => {
                let stream = std::future::poll_fn(|context| listener.poll_accept(context)).await?;
                let from = stream.peer_addr()?;
                Ok((stream, from))
            }
        }
    }
}

impl Accepting {
    async fn run(mut self) {
        loop {
            let summary = self.log.due();
            let resume = self.pause.until;
            // In this order nobody starves: only new connections make the others busy.
            tokio::select! {
                biased;
                () = self.sender.closed(), if !mutated(Mutation::KeepListener) => return,
                () = at(resume) => self.pause.until = None,
                () = at(summary) => self.log.flush(),
                Some(finished) = self.greeters.join_next() => {
                    // A cancelled one was taken note of when it was closed.
                    if let Ok((number, outcome)) = finished {
                        self.see_off(number, outcome);
                    }
                }
                accepted = self.door.accept(&self.options.socket), if resume.is_none() => {
                    match accepted {
                        Ok((stream, from)) => self.take_in(stream, from),
                        Err(error) => self.pause.after(&error),
                    }
                }
            }
        }
    }

    fn take_in(&mut self, stream: Stream, from: SocketAddr) {
        self.pause = Pause::default();
        let number = self.accepted;
        self.accepted += 1;
        if self.waiting.len() >= self.options.max_waiting.max(1)
            && let Some((_, (oldest, task))) = self.waiting.pop_first()
        {
            task.abort();
            let count = self.options.max_waiting;
            self.log
                .closed(oldest, format!("{count} others are waiting as well"));
        }
        let sender = self.sender.clone();
        let limit = self.options.greeting_timeout;
        let task = self
            .greeters
            .spawn(async move { (number, hear_out(stream, from, limit, sender).await) });
        self.waiting.insert(number, (from, task));
    }

    fn see_off(&mut self, number: Number, outcome: Result<(), String>) {
        if let Some((from, _)) = self.waiting.remove(&number)
            && let Err(reason) = outcome
        {
            self.log.closed(from, reason);
        }
    }
}

/// Reads the greeting and passes the connection on; the error says why it was closed instead.
async fn hear_out(
    mut stream: Stream,
    from: SocketAddr,
    limit: Duration,
    sender: mpsc::Sender<Incoming>,
) -> Result<(), String> {
    let greeting = match timeout(limit, read_greeting(&mut stream)).await {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(GreetError::Version { ours, theirs })) => {
            let reason = GreetingError::Version { ours, theirs };
            // Words that are true on both sides of the connection.
            let answer = format!("you speak wire version {theirs}, I speak {ours}");
            refuse(stream, &answer).await;
            return Err(reason.to_string());
        }
        Ok(Err(GreetError::Io(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err("left before its greeting was complete".into());
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no greeting within {} ms", limit.as_millis())),
    };
    if greeting.kind.is_answer() {
        return Err(format!(
            "opened with {:?}, which is an answer",
            greeting.kind
        ));
    }
    let incoming = Incoming {
        greeting,
        stream,
        from,
    };
    // Fails only where nobody listens any more; the acceptor ends as well then.
    let _ = sender.send(incoming).await;
    Ok(())
}

/// Waits out errors of `accept`, each time longer, so that a full descriptor table costs no CPU.
#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    length: Duration,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    fn after(&mut self, error: &io::Error) {
        let of_one_connection = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        );
        if of_one_connection {
            return;
        }
        self.length = (self.length * 2).clamp(Self::FIRST, Self::LONGEST);
        self.until = Some(Instant::now() + self.length);
        let pause_ms = self.length.as_millis() as u64;
        tracing::warn!(%error, pause_ms, "cannot accept connections, trying again");
    }
}

/// Comes at `when`; never where there is none.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
