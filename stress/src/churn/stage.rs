//! The run that is hurt: a master, peers, and a log of what was done to them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::faults::{Fault, Script};
use crate::cast::Actor;
use crate::event::Event;
use crate::log::Log;
use crate::peer::LEAVE;

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long peers that were asked to leave may take.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);

/// A blow never leaves fewer peers unhurt than this.
const UNHURT_MIN: usize = 1;

/// What the peers do.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) bytes: u64,
    pub(super) tags: u64,
    pub(super) state_bytes: u64,
}

pub(super) struct Stage {
    folder: PathBuf,
    log: Log,
    work: Work,
    master: Actor,
    address: String,
    peers: Vec<Actor>,
    leaving: Vec<Actor>,
    next_label: u64,
}

impl Stage {
    pub(super) fn open(folder: &Path, work: Work) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot make {}: {error}", folder.display());
        std::fs::create_dir_all(folder).map_err(failed)?;
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "jsonl")
            {
                std::fs::remove_file(path).map_err(failed)?;
            }
        }
        let (master, address) = Actor::start_master(folder)?;
        Ok(Self {
            log: Log::open(&folder.join("orchestrator.jsonl"), "orchestrator")?,
            folder: folder.to_owned(),
            work,
            master,
            address,
            peers: Vec::new(),
            leaving: Vec::new(),
            next_label: 1,
        })
    }

    /// Starts a peer.
    pub(super) fn join(&mut self) -> Result<(), String> {
        let label = format!("p{}", self.next_label);
        self.next_label += 1;
        let log = self.folder.join(format!("{label}.jsonl"));
        let Work {
            bytes,
            tags,
            state_bytes,
        } = self.work;
        let mut arguments = vec!["peer".to_owned(), "--rejoin".to_owned()];
        for (name, value) in [
            ("--master", self.address.clone()),
            ("--label", label.clone()),
            ("--log", log.display().to_string()),
            ("--bytes", bytes.to_string()),
            ("--tags", tags.to_string()),
            ("--state-bytes", state_bytes.to_string()),
            ("--master-grace-ms", "10000".to_owned()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        let actor = Actor::start(&label, &self.folder, &arguments)?;
        let pid = actor.pid();
        self.log.note_of(&label, Event::Started { pid });
        self.peers.push(actor);
        Ok(())
    }

    pub(super) fn apply(
        &mut self,
        fault: Fault,
        script: &mut Script,
        peers: u64,
    ) -> Result<(), String> {
        match fault {
            Fault::Kill => self.kill_one(script)?,
            Fault::KillSeveral(count) => {
                for _ in 0..count {
                    self.kill_one(script)?;
                }
            }
            Fault::Stop(duration) => {
                if let Some(index) = self.victim(script) {
                    self.stop(index, duration)?;
                }
            }
            Fault::Leave => {
                if let Some(index) = self.victim(script) {
                    let mut actor = self.peers.swap_remove(index);
                    self.log.note_of(&actor.label, Event::AskedToLeave);
                    actor.tell(LEAVE);
                    self.leaving.push(actor);
                }
            }
            Fault::Join | Fault::JoinSeveral(_) => {
                let wanted = match fault {
                    Fault::JoinSeveral(count) => count,
                    _ => 1,
                };
                for _ in 0..wanted {
                    if (self.peers.len() as u64) < peers {
                        self.join()?;
                    }
                }
            }
            Fault::JoinAndKill(after) => {
                self.join()?;
                self.wait(after);
                self.kill(self.peers.len() - 1)?;
            }
            Fault::JoinAndStop(duration) => {
                self.join()?;
                self.wait(script.moment());
                self.stop(self.peers.len() - 1, duration)?;
            }
        }
        // Nobody reduces alone: the last ones always get company.
        while self.peers.iter().filter(|peer| !peer.is_stopped()).count() < 2 {
            self.join()?;
        }
        Ok(())
    }

    /// Somebody who may be hurt, so that others are left.
    fn victim(&mut self, script: &mut Script) -> Option<usize> {
        let unhurt: Vec<usize> = (0..self.peers.len())
            .filter(|index| !self.peers[*index].is_stopped())
            .collect();
        if unhurt.len() <= UNHURT_MIN {
            return None;
        }
        script.pick(&unhurt).copied()
    }

    fn kill_one(&mut self, script: &mut Script) -> Result<(), String> {
        match self.victim(script) {
            Some(index) => self.kill(index),
            None => Ok(()),
        }
    }

    fn kill(&mut self, index: usize) -> Result<(), String> {
        let mut actor = self.peers.swap_remove(index);
        self.log.note_of(&actor.label, Event::Killed);
        actor.kill().map(|_| ())
    }

    fn stop(&mut self, index: usize, duration: Duration) -> Result<(), String> {
        let actor = &mut self.peers[index];
        let for_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.log.note_of(&actor.label, Event::Stopped { for_ms });
        actor.stop_for(duration)
    }

    /// Lets time pass, with an eye on everybody.
    pub(super) fn wait(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        loop {
            self.look();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn look(&mut self) {
        let log = &mut self.log;
        for actors in [&mut self.peers, &mut self.leaving] {
            actors.retain_mut(|actor| {
                if actor.was_woken() {
                    log.note_of(&actor.label, Event::Continued);
                }
                let Some(status) = actor.ended() else {
                    return true;
                };
                let ended = Event::Ended {
                    status: status.to_string(),
                    success: status.success(),
                };
                log.note_of(&actor.label, ended);
                false
            });
        }
        if let Some(status) = self.master.ended() {
            let ended = Event::Ended {
                status: status.to_string(),
                success: false,
            };
            log.note_of("master", ended);
        }
    }

    /// Wakes everybody, asks everybody to leave, and waits for that.
    pub(super) fn finish(&mut self) {
        while self.peers.iter().any(Actor::is_stopped) {
            self.wait(LOOK);
        }
        // Those who were just woken learn what became of them.
        self.wait(Duration::from_secs(2));
        self.log.note(Event::Finishing);
        for mut actor in std::mem::take(&mut self.peers) {
            self.log.note_of(&actor.label, Event::AskedToLeave);
            actor.tell(LEAVE);
            self.leaving.push(actor);
        }
        let end = Instant::now() + FINISH_TIMEOUT;
        while !self.leaving.is_empty() && Instant::now() < end {
            self.wait(LOOK);
        }
        // Whoever is still here hangs; the checkers see that it has not ended.
        self.leaving.clear();
    }
}
