//! The demo's master: a thread of the demo, or a process that is killed and started again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitCode, Stdio};

use clap::Args;
use pccl::{Master, MasterConfig};

/// What the demo tells its master.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoMasterArguments {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
}

/// Listens, says where, and ends when its input ends.
pub(crate) fn run(arguments: &DemoMasterArguments) -> ExitCode {
    let master = match Master::bind_with(arguments.listen, MasterConfig::default()) {
        Ok(master) => master,
        Err(error) => {
            eprintln!("cannot listen on {}: {error}", arguments.listen);
            return ExitCode::FAILURE;
        }
    };
    println!("{}", master.local_addr());
    let _ = io::stdout().flush();
    let _ = io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

/// The master of a run; it ends when this is dropped.
pub(super) enum Place {
    /// In this process.
    Here { _master: Master },
    /// In one of its own.
    Process(Child),
}

impl Place {
    /// A master in this process, on a free port of loopback, and its address.
    pub(super) fn here() -> Result<(Self, SocketAddr), String> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let master =
            Master::bind(any).map_err(|error| format!("cannot start a master: {error}"))?;
        let address = master.local_addr();
        Ok((Self::Here { _master: master }, address))
    }

    /// A master in a process of its own. With port 0 it takes a free one, and begins a run; with
    /// the port of one before it, it goes on with the run of that one.
    pub(super) fn process(listen: SocketAddr) -> Result<(Self, SocketAddr), String> {
        let failed = |error: io::Error| format!("cannot start a master: {error}");
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["demo-master", "--listen", &listen.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(failed)?;
        }
        let mut place = Self::Process(child);
        match line.trim().parse() {
            Ok(address) => Ok((place, address)),
            Err(_) => {
                place.kill();
                Err(format!("no master listens on {listen}"))
            }
        }
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Self::Process(child) = self {
            // It fails where the process has ended before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill();
    }
}
