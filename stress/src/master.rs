//! `stress master`: a master in a process of its own, so that it can be hurt too.

use std::io::{Read, Write};
use std::net::SocketAddr;

use pccl::Master;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Prints the address it listens on, and ends when its input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    crate::log_library();
    let master = Master::bind(arguments.listen).map_err(|error| error.to_string())?;
    println!("{}", master.local_addr());
    std::io::stdout()
        .flush()
        .map_err(|error| error.to_string())?;
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    master.stop();
    Ok(())
}
