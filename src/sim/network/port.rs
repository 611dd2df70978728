//! A process's door to the network: dialling, and ports that are listened on.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use super::Machine;
use super::connection::Dial;
use super::socket::stream;
use super::switch::{Port, Switch};
use crate::sim::history::ProcessId;
use crate::transport::{Connecting, InMemory, InMemoryListener, Stream};

/// What a process has of the network.
pub(super) struct Nic {
    pub(super) switch: Arc<Mutex<Switch>>,
    pub(super) process: ProcessId,
    pub(super) machine: Machine,
}

impl fmt::Debug for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nic({})", self.process)
    }
}

impl InMemory for Nic {
    fn connect(&self, address: SocketAddr, _bind: Option<IpAddr>) -> Connecting {
        let number = self.switch.lock().dial(self.process, self.machine, address);
        Box::pin(Dialling {
            switch: self.switch.clone(),
            number,
            is_over: false,
        })
    }

    fn listen(&self, _bind: Option<IpAddr>, port: u16) -> io::Result<Box<dyn InMemoryListener>> {
        let switch = &mut *self.switch.lock();
        let ip = self.machine.ip();
        let address = match port {
            0 => (50_000..=u16::MAX)
                .map(|port| SocketAddr::new(ip, port))
                .find(|address| !switch.ports.contains_key(address))
                .ok_or(io::ErrorKind::AddrInUse)?,
            port => SocketAddr::new(ip, port),
        };
        if switch.ports.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let port = Port {
            process: self.process,
            backlog: VecDeque::new(),
            waker: None,
        };
        switch.ports.insert(address, port);
        Ok(Box::new(Listening {
            switch: self.switch.clone(),
            address,
        }))
    }
}

struct Dialling {
    switch: Arc<Mutex<Switch>>,
    number: u64,
    is_over: bool,
}

impl Future for Dialling {
    type Output = io::Result<Stream>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = {
            let switch = &mut *self.switch.lock();
            match switch
                .connections
                .get_mut(&self.number)
                .map(|c| &mut c.dial)
            {
                None => Err(io::ErrorKind::ConnectionReset),
                Some(Dial::Waiting(waker)) => {
                    *waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Some(Dial::Failed(kind)) => Err(*kind),
                Some(dial @ Dial::Answered) => {
                    *dial = Dial::Taken;
                    Ok(())
                }
                Some(Dial::Taken) => Err(io::ErrorKind::InvalidInput),
            }
        };
        match outcome {
            Ok(()) => {
                self.is_over = true;
                Poll::Ready(stream(&self.switch, self.number, 0))
            }
            Err(kind) => Poll::Ready(Err(kind.into())),
        }
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if !self.is_over {
            self.switch.lock().give_up(self.number);
        }
    }
}

struct Listening {
    switch: Arc<Mutex<Switch>>,
    address: SocketAddr,
}

impl InMemoryListener for Listening {
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let number = {
            let switch = &mut *self.switch.lock();
            let Some(port) = switch.ports.get_mut(&self.address) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let Some(number) = port.backlog.pop_front() else {
                port.waker = Some(context.waker().clone());
                return Poll::Pending;
            };
            number
        };
        Poll::Ready(stream(&self.switch, number, 1))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.switch.lock().close_port(self.address);
    }
}
