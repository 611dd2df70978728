//! `pccl master`: the embeddable master as a process of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pccl::{Master, MasterConfig};

#[derive(Args)]
pub(crate) struct MasterArguments {
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
    /// How long it waits for them, in milliseconds; 2000 by default, 1000 with the fast profile.
    #[arg(long, value_name = "MS", conflicts_with = "new_run")]
    recovery_window_ms: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    /// Within 2 to 4 seconds, on any network.
    Default,
    /// In under a second at 100 ms round trip; a peer held up for half a second loses its place.
    Fast,
}

/// Runs until a signal ends the process: SIGINT and SIGTERM do what they always do. The peers
/// notice the closed connections at once.
pub(crate) fn run(arguments: &MasterArguments) -> ExitCode {
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
    let master = match Master::bind_with(arguments.listen, config) {
        Ok(master) => master,
        Err(error) => {
            eprintln!(
                "pccl master: cannot listen on {}: {error}",
                arguments.listen
            );
            return ExitCode::FAILURE;
        }
    };
    // Whoever started this may read one line and close the pipe.
    let _ = writeln!(std::io::stdout(), "listening on {}", master.local_addr());
    loop {
        // May return early, hence the loop.
        std::thread::park();
    }
}
