//! The worker processes: started, listened to, killed, and never left behind.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;

use super::event::Event;

/// The word that lets a holding worker go on.
pub(super) const GO: &str = "go";

/// What is heard from the workers.
pub(super) enum Heard {
    /// An event of this worker.
    Said(usize, Event),
    /// A line of this worker that is no event; what is wrong with it.
    Garbled(usize, String),
    /// The output of this worker has ended: it is dead, or about to be.
    Ended(usize),
}

/// Every worker that was started; kills them when dropped.
///
/// A worker ends by itself when its input ends, so none outlives this program however
/// it dies; Ctrl-C reaches them directly, as they share its process group.
pub(super) struct Cast {
    logs: PathBuf,
    heard: Sender<Heard>,
    workers: Vec<Worker>,
}

struct Worker {
    label: String,
    child: Child,
    /// Stays open: its end is the sign to stop.
    input: ChildStdin,
}

impl Cast {
    /// Workers will log into the folder `logs` and be heard through `heard`.
    pub(super) fn new(logs: PathBuf, heard: Sender<Heard>) -> Self {
        Self {
            logs,
            heard,
            workers: Vec::new(),
        }
    }

    /// Starts this program once more with `arguments`; the new worker gets the next number.
    pub(super) fn start(&mut self, label: &str, arguments: &[String]) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot start {label}: {error}");
        let log = File::create(self.logs.join(format!("{label}.log"))).map_err(failed)?;
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let number = self.workers.len();
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{label} has no pipes"));
        };
        self.workers.push(Worker {
            label: label.to_string(),
            child,
            input,
        });
        let heard = self.heard.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let message = match Event::parse(&line) {
                    Ok(event) => Heard::Said(number, event),
                    Err(error) => Heard::Garbled(number, error),
                };
                if heard.send(message).is_err() {
                    return;
                }
            }
            // Nobody listens any more when the program itself is about to end.
            let _ = heard.send(Heard::Ended(number));
        });
        Ok(())
    }

    /// Number of workers that were started.
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub(super) fn kill(&mut self, worker: usize) -> Result<ExitStatus, String> {
        let Worker { label, child, .. } = self.get(worker)?;
        let killed = child.kill().and_then(|()| child.wait());
        killed.map_err(|error| format!("cannot kill {label}: {error}"))
    }

    /// Lets a holding worker go on.
    pub(super) fn release(&mut self, worker: usize) -> Result<(), String> {
        let Worker { label, input, .. } = self.get(worker)?;
        let said = writeln!(input, "{GO}").and_then(|()| input.flush());
        said.map_err(|error| format!("cannot talk to {label}: {error}"))
    }

    /// Waits for a worker whose output has ended.
    pub(super) fn wait(&mut self, worker: usize) -> Result<ExitStatus, String> {
        let Worker { label, child, .. } = self.get(worker)?;
        child
            .wait()
            .map_err(|error| format!("cannot wait for {label}: {error}"))
    }

    fn get(&mut self, worker: usize) -> Result<&mut Worker, String> {
        self.workers
            .get_mut(worker)
            .ok_or_else(|| format!("there is no worker {worker}"))
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // Fails for those that have ended already, as they should have.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}
