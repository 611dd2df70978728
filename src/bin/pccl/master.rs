//! `pccl master`: the embeddable master as a process of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use pccl::{Master, MasterConfig};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MasterArguments {
    #[command(subcommand)]
    command: Option<MasterCommand>,
    /// Where peers reach it. Port 0 takes a free one, which the first line of output names.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:48148")]
    listen: SocketAddr,
    /// How soon a peer that is silent, stopped or cut off is given up.
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    profile: Profile,
    /// Begin a new run at once. Without it a master waits at its start for the peers of a run that
    /// had a master before it, which go on where they were; new peers wait meanwhile.
    #[arg(long)]
    new_run: bool,
    /// How long it waits for them, in milliseconds; 2000 by default, 1000 with the fast profile. With
    /// --new-run: where it has to look for its own peers again.
    #[arg(long, value_name = "MS")]
    recovery_window_ms: Option<u64>,
    /// Write down here what is told to peers, before it is: the next master that is started with it
    /// knows what those were told that died together with this one. One directory for each master.
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

/// Runs until a signal ends the process. SIGTERM and SIGINT hand over: the peers are told to go on with
/// another master of theirs, or with the next one here.
pub(crate) fn run(arguments: &MasterArguments) -> ExitCode {
    if let Some(MasterCommand::Handover { state_dir }) = &arguments.command {
        return match handover::ask(state_dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let path = state_dir.display();
                eprintln!("pccl master handover: no master answers in {path}: {error}");
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

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    const SOCKET: &str = "handover.sock";

    /// Has the master end; it has, on return.
    pub(super) fn ask(state_dir: &Path) -> io::Result<()> {
        let mut stream = UnixStream::connect(state_dir.join(SOCKET))?;
        // It says nothing, and closes when its process ends.
        stream.read_to_end(&mut Vec::new()).map(drop)
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
        if let Some(directory) = state_dir {
            listen(directory, asked)?;
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
