//! A whole run on this machine: a master in this process, and peers that are this program again.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use pccl::Master;

use super::Workload;
use super::record::{PeerMeasurement, Printer, Record};

/// Starts `world` peers, and prints a record as soon as all have measured a size.
pub(super) fn measure(
    world: u32,
    workload: &Workload,
    printer: &mut Printer,
) -> Result<(), String> {
    let deadline = Instant::now() + workload.timeout();
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let master = Master::bind(loopback).map_err(|error| format!("master: {error}"))?;
    let address = master.local_addr().to_string();
    let (lines, measured) = mpsc::channel();
    let _peers = (0..world)
        .map(|number| Peer::start(number, world, &address, workload, lines.clone()))
        .collect::<Result<Vec<Peer>, String>>()?;
    drop(lines);

    let mut inbox = Inbox::new(world, measured);
    for _ in &workload.bytes {
        let peers = inbox.next_of_each(deadline)?;
        printer.print(&Record::merge(world, workload, &peers)?)?;
    }
    Ok(())
}

/// A line that a peer printed, or `None` after its last one.
type Line = (usize, Option<String>);

/// A running peer process. Dropping it ends the process.
struct Peer {
    child: Child,
    /// Held open: the peer ends when this is closed, also if this process is killed.
    _stdin: Option<ChildStdin>,
}

impl Peer {
    fn start(
        number: u32,
        world: u32,
        master: &str,
        workload: &Workload,
        lines: Sender<Line>,
    ) -> Result<Peer, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .arg("bench-peer")
            .arg(format!("--master={master}"))
            .arg(format!("--peers={world}"))
            .arg(format!("--label=peer-{number}"))
            .args(workload.to_flags())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start peer {number}: {error}"))?;
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = lines.send((number as usize, Some(line)));
                }
                let _ = lines.send((number as usize, None));
            });
        }
        Ok(Peer {
            child,
            _stdin: stdin,
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peers' measurements, put in step: one peer may be a size ahead of another.
struct Inbox {
    measured: Receiver<Line>,
    waiting: Vec<std::collections::VecDeque<PeerMeasurement>>,
}

impl Inbox {
    fn new(world: u32, measured: Receiver<Line>) -> Inbox {
        Inbox {
            measured,
            waiting: (0..world).map(|_| Default::default()).collect(),
        }
    }

    /// Waits until every peer has measured one more size.
    fn next_of_each(&mut self, deadline: Instant) -> Result<Vec<PeerMeasurement>, String> {
        while let Some(missing) = self.waiting.iter().position(|queue| queue.is_empty()) {
            let patience = deadline.saturating_duration_since(Instant::now());
            let (number, line) =
                self.measured
                    .recv_timeout(patience)
                    .map_err(|error| match error {
                        RecvTimeoutError::Timeout => {
                            format!("gave up at the deadline; peer {missing} has not measured")
                        }
                        RecvTimeoutError::Disconnected => "all peers have ended".to_owned(),
                    })?;
            match line {
                Some(line) => {
                    let measurement = serde_json::from_str(&line)
                        .map_err(|error| format!("peer {number} printed `{line}`: {error}"))?;
                    self.waiting[number].push_back(measurement);
                }
                // Not an error for one that has measured everything.
                None if self.waiting[number].is_empty() => {
                    return Err(format!("peer {number} ended early"));
                }
                None => {}
            }
        }
        Ok(self
            .waiting
            .iter_mut()
            .filter_map(std::collections::VecDeque::pop_front)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(bytes: u64) -> Option<String> {
        Some(format!(
            r#"{{"bytes":{bytes},"seconds":[1.0],"cpu_seconds":null,"tx_bytes":0,"max_abs_error":0.0}}"#
        ))
    }

    fn inbox(lines: &[Line]) -> Inbox {
        let (sender, receiver) = mpsc::channel();
        for line in lines {
            sender.send(line.clone()).expect("a receiver");
        }
        Inbox::new(2, receiver)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_peer_that_is_a_size_ahead_is_kept_for_later() {
        let mut inbox = inbox(&[
            (0, line(4)),
            (0, line(8)),
            (0, None),
            (1, line(4)),
            (1, line(8)),
        ]);
        for bytes in [4, 8] {
            let peers = inbox.next_of_each(soon()).expect("both measured");
            assert!(peers.iter().all(|peer| peer.bytes == bytes));
        }
    }

    #[test]
    fn a_peer_that_ends_early_ends_the_wait() {
        let mut inbox = inbox(&[(0, line(4)), (1, None)]);
        assert!(
            inbox
                .next_of_each(soon())
                .is_err_and(|text| text.contains("peer 1"))
        );
    }

    #[test]
    fn what_is_no_measurement_is_shown() {
        let mut inbox = inbox(&[(0, Some("hello".to_owned()))]);
        assert!(
            inbox
                .next_of_each(soon())
                .is_err_and(|text| text.contains("hello"))
        );
    }
}
