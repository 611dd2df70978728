//! The processes of a run: started, hurt, and never left behind.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::net::Place;
use crate::profile::Profile;

/// This program once more, with other arguments. Killed when dropped.
///
/// It ends by itself when its input ends, so it does not outlive the orchestrator however that
/// one dies; Ctrl-C reaches it directly, as it shares the process group.
pub(crate) struct Actor {
    pub(crate) label: String,
    child: Child,
    input: ChildStdin,
    /// What wakes it while it is stopped.
    waker: Option<Child>,
    /// Its network, where it has one of its own. Goes after the process.
    place: Option<Place>,
}

impl Actor {
    /// Starts a peer; what it says on stderr goes to a file in `folder`.
    pub(crate) fn start(
        label: &str,
        folder: &Path,
        arguments: &[String],
        place: Option<Place>,
    ) -> Result<Self, String> {
        Self::spawn(label, folder, arguments, Stdio::null(), place)
    }

    /// Starts a master, at the address of one before it where there was one; returns where it
    /// listens, too.
    pub(crate) fn start_master(
        label: &str,
        folder: &Path,
        profile: Profile,
        place: Option<Place>,
        before: Option<&str>,
    ) -> Result<(Self, String), String> {
        let host = place.as_ref().map_or(Ipv4Addr::LOCALHOST, Place::address);
        let listen = before.map_or_else(|| format!("{host}:0"), str::to_owned);
        let arguments =
            ["master", "--listen", &listen, "--profile", profile.name()].map(str::to_owned);
        let mut actor = Self::spawn(label, folder, &arguments, Stdio::piped(), place)?;
        let mut address = String::new();
        if let Some(output) = actor.child.stdout.take() {
            let read = BufReader::new(output).read_line(&mut address);
            read.map_err(|error| format!("the master says nothing: {error}"))?;
        }
        match address.trim() {
            "" => Err("the master did not start".to_owned()),
            address => Ok((actor, address.to_owned())),
        }
    }

    fn spawn(
        label: &str,
        folder: &Path,
        arguments: &[String],
        output: Stdio,
        place: Option<Place>,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start {label}: {error}");
        let errors: PathBuf = folder.join(format!("{label}.log"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = match &place {
            Some(place) => place.command(&program),
            None => Command::new(program),
        };
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(
                File::options()
                    .create(true)
                    .append(true)
                    .open(errors)
                    .map_err(failed)?,
            )
            .spawn()
            .map_err(failed)?;
        let input = child
            .stdin
            .take()
            .ok_or_else(|| format!("{label} has no pipe"))?;
        Ok(Self {
            label: label.to_owned(),
            child,
            input,
            waker: None,
            place,
        })
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The network of one that is dead, for another in its place.
    pub(crate) fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus, String> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map_err(|error| format!("cannot kill {}: {error}", self.label))
    }

    /// Stops the process for so long. A process of its own wakes it: whoever is stopped cannot
    /// notice that the orchestrator has died.
    pub(crate) fn stop_for(&mut self, duration: Duration) -> Result<(), String> {
        let waker = Command::new("sh")
            .args(["-c", "kill -STOP $0 && sleep $1; kill -CONT $0"])
            .arg(self.pid().to_string())
            .arg(format!("{:.3}", duration.as_secs_f64()))
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot stop {}: {error}", self.label))?;
        self.waker = Some(waker);
        Ok(())
    }

    /// Whether the process is stopped now.
    pub(crate) fn is_stopped(&self) -> bool {
        self.waker.is_some()
    }

    /// Whether it was woken since this was asked last.
    pub(crate) fn was_woken(&mut self) -> bool {
        let is_over = |waker: &mut Child| !matches!(waker.try_wait(), Ok(None));
        self.waker.take_if(is_over).is_some()
    }

    /// Tells the process a word.
    pub(crate) fn tell(&mut self, word: &str) {
        // Fails where the process has just ended, which is noticed elsewhere.
        let _ = writeln!(self.input, "{word}").and_then(|()| self.input.flush());
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Fails for those that have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(waker) = &mut self.waker {
            let _ = waker.kill();
            let _ = waker.wait();
        }
    }
}
