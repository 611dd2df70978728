//! `stress master`: a master in a process of its own, so that it can be hurt too.

use std::io::{Read, Write};
use std::net::SocketAddr;

use pccl::Master;

use crate::profile::Profile;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    profile: Profile,
}

/// Prints the address it listens on, and ends when its input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    crate::log_library();
    let master = Master::bind_with(arguments.listen, arguments.profile.settings())
        .map_err(|error| error.to_string())?;
    println!("{}", master.local_addr());
    std::io::stdout()
        .flush()
        .map_err(|error| error.to_string())?;
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    master.stop();
    Ok(())
}
