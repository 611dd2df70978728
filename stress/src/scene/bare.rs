#![allow(
    clippy::disallowed_types,
    reason = "a bare socket is what the library's are compared with"
)]
//! What the kernel alone takes: a process with as much memory as a peer and one socket is killed,
//! and its other end waits for the end of the stream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use super::Arguments;
use crate::cast::Actor;
use crate::pages::{Buffer, Pages};
use crate::size;

#[derive(clap::Args)]
pub(crate) struct MappedArguments {
    #[arg(long)]
    connect: SocketAddr,
    #[arg(long, value_parser = size::parse)]
    bytes: u64,
    #[arg(long, value_enum)]
    pages: Pages,
}

/// Touches a peer's two buffers, says so, and waits for the end.
pub(crate) fn run_mapped(arguments: &MappedArguments) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let count = usize::try_from(arguments.bytes).map_err(|error| error.to_string())?;
    let mut buffers = Vec::new();
    for _ in 0..2 {
        let mut buffer = Buffer::<u8>::zeroed(count, arguments.pages).map_err(failed)?;
        buffer.fill(1);
        buffers.push(buffer);
    }
    let mut stream = TcpStream::connect(arguments.connect).map_err(failed)?;
    stream.write_all(&[1]).map_err(failed)?;
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(buffers);
    Ok(())
}

/// As often as the scene is played; milliseconds.
pub(super) fn measure(
    arguments: &Arguments,
    bytes: u64,
    folder: &Path,
) -> Result<Vec<f64>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    let line = [
        "mapped",
        "--connect",
        &address,
        "--bytes",
        &bytes.to_string(),
        "--pages",
        arguments.pages.name(),
    ]
    .map(str::to_owned);
    let mut times_ms = Vec::new();
    for _ in 0..arguments.times {
        let mut actor = Actor::start("bare", folder, &line, None)?;
        let (mut stream, _) = listener.accept().map_err(failed)?;
        stream.read_exact(&mut [0]).map_err(failed)?;
        let end = std::thread::spawn(move || {
            // An error is the end of the stream, too.
            let _ = stream.read(&mut [0]);
            Instant::now()
        });
        let start = Instant::now();
        actor.kill()?;
        let end = end.join().map_err(|_| "the reader panicked".to_owned())?;
        times_ms.push(end.saturating_duration_since(start).as_secs_f64() * 1000.0);
    }
    Ok(times_ms)
}
