//! `pccl master`: the embeddable master as a process of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use pccl::Master;

#[derive(Args)]
pub(crate) struct MasterArguments {
    /// Where peers reach it. Port 0 takes a free one, which the first line of output names.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:48148")]
    listen: SocketAddr,
}

/// Runs until a signal ends the process: SIGINT and SIGTERM do what they always do. The peers
/// notice the closed connections at once.
pub(crate) fn run(arguments: &MasterArguments) -> ExitCode {
    let master = match Master::bind(arguments.listen) {
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
