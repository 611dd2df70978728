//! The run that is hurt: a master, peers, and a log of what was done to them.

mod cuts;

pub(crate) use cuts::Way;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cast::Actor;
use crate::event::Event;
use crate::log::Log;
use crate::net::Network;
use crate::pages::Pages;
use crate::peer::LEAVE;
use crate::profile::Profile;
use cuts::Wound;

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long peers that were asked to leave may take.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a blow may go on after the last one was struck.
const BLOW_TIMEOUT: Duration = Duration::from_secs(30);

/// What the peers do, and where.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) bytes: u64,
    pub(crate) tags: u64,
    pub(crate) state_bytes: u64,
    pub(crate) master_grace_ms: u64,
    pub(crate) pages: Pages,
    /// Whether peers touch a sample of each buffer only, and spend their time in all-reduces.
    pub(crate) is_sparse: bool,
    pub(crate) profile: Profile,
    /// Whether each process has a network of its own, which can be cut.
    pub(crate) has_networks: bool,
    /// Whether there is a second master, which nobody hurts.
    pub(crate) has_standby: bool,
}

pub(crate) struct Stage {
    folder: PathBuf,
    log: Log,
    work: Work,
    master: Actor,
    master_is_gone: bool,
    /// When another is started in its place.
    master_due: Option<Instant>,
    address: String,
    standby: Option<(Actor, String)>,
    peers: Vec<Actor>,
    leaving: Vec<Actor>,
    next_label: u64,
    wounds: Vec<Wound>,
    network: Option<Network>,
}

impl Stage {
    pub(crate) fn open(folder: &Path, work: Work) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot make {}: {error}", folder.display());
        std::fs::create_dir_all(folder).map_err(failed)?;
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let is_ours = |extension: &std::ffi::OsStr| extension == "jsonl" || extension == "log";
            if path.extension().is_some_and(is_ours) {
                std::fs::remove_file(path).map_err(failed)?;
            }
        }
        let mut network = work.has_networks.then(Network::open).transpose()?;
        let mut start = |label| {
            let place = network.as_mut().map(Network::place).transpose()?;
            Actor::start_master(label, folder, work.profile, place, None)
        };
        let (master, address) = start("master")?;
        let standby = match work.has_standby {
            true => {
                // At a port that the system picks it has begun a run of its own.
                let (mut first, at) = start("standby")?;
                first.kill()?;
                let place = first.take_place();
                let profile = work.profile;
                let again = Actor::start_master("standby", folder, profile, place, Some(&at))?;
                Some(again)
            }
            false => None,
        };
        Ok(Self {
            log: Log::open(&folder.join("orchestrator.jsonl"), "orchestrator")?,
            folder: folder.to_owned(),
            work,
            master,
            master_is_gone: false,
            master_due: None,
            address,
            standby,
            peers: Vec::new(),
            leaving: Vec::new(),
            next_label: 1,
            wounds: Vec::new(),
            network,
        })
    }

    /// The peers that are not known to have ended or to be about to, oldest first as long as
    /// nobody was removed.
    pub(crate) fn peers(&self) -> &[Actor] {
        &self.peers
    }

    /// Where everybody writes down what happens.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the peer with this label is among the peers, if it is still there.
    pub(crate) fn find(&self, label: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.label == label)
    }

    /// Starts a peer; returns its label.
    pub(crate) fn join(&mut self) -> Result<String, String> {
        self.join_with(&[])
    }

    /// Starts a peer with more arguments.
    pub(crate) fn join_with(&mut self, more: &[&str]) -> Result<String, String> {
        let label = format!("p{}", self.next_label);
        self.next_label += 1;
        let log = self.folder.join(format!("{label}.jsonl"));
        let work = self.work;
        let mut arguments = vec!["peer".to_owned(), "--rejoin".to_owned()];
        for (name, value) in [
            ("--master", self.address.clone()),
            ("--label", label.clone()),
            ("--log", log.display().to_string()),
            ("--bytes", work.bytes.to_string()),
            ("--tags", work.tags.to_string()),
            ("--state-bytes", work.state_bytes.to_string()),
            ("--master-grace-ms", work.master_grace_ms.to_string()),
            ("--pages", work.pages.name().to_owned()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        if let Some((_, address)) = &self.standby {
            arguments.extend(["--standby".to_owned(), address.clone()]);
        }
        arguments.extend(work.is_sparse.then(|| "--sparse".to_owned()));
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let place = self.network.as_mut().map(Network::place).transpose()?;
        let actor = Actor::start(&label, &self.folder, &arguments, place)?;
        let pid = actor.pid();
        self.log.note_of(&label, Event::Started { pid });
        self.peers.push(actor);
        Ok(label)
    }

    /// Kills the peer with this index.
    pub(crate) fn kill(&mut self, index: usize) -> Result<(), String> {
        let mut actor = self.peers.swap_remove(index);
        self.log.note_of(&actor.label, Event::Killed);
        let killed = actor.kill().map(|_| ());
        retire(self.network.as_mut(), &actor);
        killed
    }

    /// Kills the master, unless it is dead; another comes after so long, if any does.
    pub(crate) fn kill_master(&mut self, away: Option<Duration>) -> Result<(), String> {
        if self.master_is_gone {
            return Ok(());
        }
        self.log.note_of(&self.master.label, Event::Killed);
        self.master_is_gone = true;
        self.master_due = away.map(|away| Instant::now() + away);
        self.master.kill().map(|_| ())
    }

    /// Starts a master in the place of the one that was killed.
    fn return_master(&mut self) -> Result<(), String> {
        let place = self.master.take_place();
        let before = Some(self.address.as_str());
        let profile = self.work.profile;
        (self.master, _) = Actor::start_master("master", &self.folder, profile, place, before)?;
        self.master_is_gone = false;
        let pid = self.master.pid();
        self.log.note_of(&self.master.label, Event::Started { pid });
        Ok(())
    }

    /// Stops the master for so long, unless it is stopped already.
    pub(crate) fn stop_master(&mut self, duration: Duration) -> Result<(), String> {
        if self.master.is_stopped() {
            return Ok(());
        }
        let for_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.log
            .note_of(&self.master.label, Event::Stopped { for_ms });
        self.master.stop_for(duration)
    }

    /// Asks the peer with this index to leave.
    pub(crate) fn ask_to_leave(&mut self, index: usize) {
        let mut actor = self.peers.swap_remove(index);
        self.log.note_of(&actor.label, Event::AskedToLeave);
        actor.tell(LEAVE);
        self.leaving.push(actor);
    }

    /// Stops the peer with this index for so long.
    pub(crate) fn stop(&mut self, index: usize, duration: Duration) -> Result<(), String> {
        let actor = &mut self.peers[index];
        let for_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.log.note_of(&actor.label, Event::Stopped { for_ms });
        actor.stop_for(duration)
    }

    /// Lets time pass, with an eye on everybody.
    pub(crate) fn wait(&mut self, duration: Duration) -> Result<(), String> {
        let end = Instant::now() + duration;
        loop {
            self.look();
            self.mend()?;
            if self
                .master_due
                .take_if(|due| *due <= Instant::now())
                .is_some()
            {
                self.return_master()?;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn look(&mut self) {
        let (log, network) = (&mut self.log, &mut self.network);
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
                retire(network.as_mut(), actor);
                false
            });
        }
        if self.master.was_woken() {
            log.note_of("master", Event::Continued);
        }
        if let Some(status) = self.master.ended()
            && !self.master_is_gone
        {
            self.master_is_gone = true;
            let ended = Event::Ended {
                status: status.to_string(),
                success: false,
            };
            log.note_of("master", ended);
        }
    }

    /// Waits until everybody is awake and can be reached, asks everybody to leave, and waits for
    /// that; whoever may be computing is given as long more.
    pub(crate) fn finish(&mut self, computing: Duration) -> Result<(), String> {
        let end = Instant::now() + BLOW_TIMEOUT;
        while (self.master.is_stopped()
            || self.master_due.is_some()
            || (0..self.peers.len()).any(|index| self.is_held(index)))
            && Instant::now() < end
        {
            self.wait(LOOK)?;
        }
        // Those who were just woken learn what became of them.
        self.wait(Duration::from_secs(2))?;
        self.log.note(Event::Finishing);
        while !self.peers.is_empty() {
            self.ask_to_leave(0);
        }
        let end = Instant::now() + FINISH_TIMEOUT + computing;
        while !self.leaving.is_empty() && Instant::now() < end {
            self.wait(LOOK)?;
        }
        // Whoever is still here hangs; the checkers see that it has not ended.
        self.leaving.clear();
        Ok(())
    }
}

fn retire(network: Option<&mut Network>, actor: &Actor) {
    if let (Some(network), Some(place)) = (network, actor.place()) {
        network.retire(place.clone());
    }
}
