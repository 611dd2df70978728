//! `pccl master`: the embeddable master as a process of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use pccl::{Master, MasterConfig, MasterError};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MasterArguments {
    #[command(subcommand)]
    command: Option<MasterCommand>,
    /// Where peers reach it: an IP address and a port. Port 0 takes a free one, which the first line of
    /// output names.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:48148", value_parser = listen_address)]
    listen: SocketAddr,
    /// How soon a peer that is silent, stopped or cut off is given up.
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    profile: Profile,
    /// Begin a new run at once, which ends one whose peers come back to this master. Not for a line
    /// that starts it again after a crash: without this a master waits at its start for the peers of a run
    /// that had a master before it, and they go on where they were; new peers wait meanwhile.
    #[arg(long)]
    new_run: bool,
    /// How long it waits for them, in milliseconds; 2000 by default, 1000 with the fast profile. Longer
    /// finds peers that are slow to come back, and keeps the first peers of a new run waiting; 0 is as
    /// --new-run.
    #[arg(long, value_name = "MS")]
    recovery_window_ms: Option<u64>,
    /// Write down here what is told to peers, before it is. A run outlives its master without: the peers
    /// know it all. With it the next master that is started here knows also what only those peers were
    /// told that died together with this one. Some megabytes at most; of no use once the run has
    /// ended. One directory for each master.
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum MasterCommand {
    /// Have a master on this machine hand over and end: its peers go on with another one of theirs,
    /// or with the next one at its address. SIGTERM and SIGINT do the same.
    Handover {
        /// The state directory of the master.
        #[arg(long, value_name = "DIRECTORY")]
        state_dir: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    /// Within 2 to 4 seconds, on any network.
    Default,
    /// In under a second at 100 ms round trip; a peer held up for half a second loses its place.
    Fast,
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "no IP address and port, such as 0.0.0.0:48148 or [::]:48148".to_owned())
}

/// Runs until a signal ends the process. SIGTERM and SIGINT hand over: the peers are told to go on with
/// another master of theirs, or with the next one here.
pub(crate) fn run(arguments: &MasterArguments) -> ExitCode {
    if let Some(MasterCommand::Handover { state_dir }) = &arguments.command {
        return match handover::ask(state_dir) {
            Ok(()) => {
                let _ = writeln!(std::io::stdout(), "the master has handed over and ended");
                ExitCode::SUCCESS
            }
            Err(reason) => {
                eprintln!("pccl master handover: {}: {reason}", state_dir.display());
                ExitCode::FAILURE
            }
        };
    }
    let mut config = match arguments.profile {
        Profile::Default => MasterConfig::default(),
        Profile::Fast => MasterConfig::fast(),
    };
    if arguments.new_run {
        config = config.new_run();
    }
    if let Some(window_ms) = arguments.recovery_window_ms {
        config.recovery_window = Duration::from_millis(window_ms);
    }
    config.state_dir.clone_from(&arguments.state_dir);
    let master = match Master::bind_with(arguments.listen, config) {
        Ok(master) => master,
        Err(error) => {
            eprintln!("pccl master: {error}");
            if matches!(error, MasterError::Listen { .. }) {
                eprintln!(
                    "where another master holds this address, end it first with `pccl master handover` or SIGTERM"
                );
            }
            return ExitCode::FAILURE;
        }
    };
    // Whoever started this may read one line and close the pipe.
    let _ = writeln!(std::io::stdout(), "listening on {}", master.local_addr());
    match handover::wait(arguments.state_dir.as_deref()) {
        Ok(_asked) => {
            master.hand_over();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pccl master: cannot wait for signals: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What makes a master end: SIGTERM, SIGINT, or a word on a socket in its state directory, where
/// only those reach it who may write there.
mod handover {
    use std::io::{self, Read};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::sync::mpsc::{self, Sender};
    use std::thread;
    use std::time::Duration;

    use tracing::warn;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    const SOCKET: &str = "handover.sock";

    /// A master that runs ends within a moment.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Has the master end; it has, on return.
    pub(super) fn ask(state_dir: &Path) -> Result<(), String> {
        if !state_dir.is_dir() {
            return Err("there is no such directory".to_owned());
        }
        let stream = UnixStream::connect(state_dir.join(SOCKET)).map_err(|error| {
            format!(
                "no master that was started with this --state-dir answers here ({error}); SIGTERM to its \
                 process does the same"
            )
        })?;
        // It says nothing, and closes when its process ends.
        let ended = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| (&stream).read_to_end(&mut Vec::new()));
        ended.map(drop).map_err(|error| {
            let patience = PATIENCE.as_secs();
            format!(
                "the master has not ended within {patience} s ({error}); is its process stopped?"
            )
        })
    }

    /// Until the master is to end; gives the connection of whoever asked for it, to be kept open
    /// until it has.
    pub(super) fn wait(state_dir: Option<&Path>) -> io::Result<Option<UnixStream>> {
        let (asked, orders) = mpsc::channel();
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let by_signal = asked.clone();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = by_signal.send(None);
            }
        });
        if let Some(directory) = state_dir
            && let Err(error) = listen(directory, asked)
        {
            let path = directory.join(SOCKET);
            warn!(path = %path.display(), %error, "`pccl master handover` cannot reach this master; SIGTERM does the same");
        }
        orders.recv().map_err(io::Error::other)
    }

    fn listen(directory: &Path, asked: Sender<Option<UnixStream>>) -> io::Result<()> {
        let path = directory.join(SOCKET);
        // That of a master before: the directory is ours alone.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = std::fs::remove_file(&path);
                let _ = asked.send(Some(stream));
            }
        });
        Ok(())
    }
}
