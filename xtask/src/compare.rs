//! `cargo xtask compare`: one blocking all-reduce on this machine, ours beside bare sockets, Open MPI
//! over TCP and a `libpccl.so`, PCCL's where it can be loaded, by turns in one run.
//!
//! Other days' figures compare with nothing: a shared machine is twice as fast at one hour as at
//! the next. So every round measures everyone, and the medians of the rounds are set in relation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde::Deserialize;

use crate::part::{Failure, cargo, succeeds};
use crate::workspace_root;

const NAME: &str = "compare";

/// Up to here an operation is set in relation to a round trip, above to bare sockets.
const SMALL_BYTES_MAX: u64 = 64 << 10;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Worlds to measure.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [2, 4],
          value_parser = clap::value_parser!(u32).range(2..=64))]
    peers: Vec<u32>,
    /// Bytes of an operation.
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = [4, 1 << 20, 64 << 20, 256 << 20],
          value_parser = clap::value_parser!(u64).range(4..))]
    bytes: Vec<u64>,
    /// Rounds, in each of which everyone is measured once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// PCCL's shared object, to be measured as well; it must load on this machine.
    #[arg(long, value_name = "LIBPCCL_SO")]
    pccl: Option<PathBuf>,
    /// Streams of each link of bare sockets.
    #[arg(long, default_value_t = 4)]
    raw: u16,
}

/// A world and a size.
type Case = (u32, u64);

/// Seconds that one contender needed, a value a round.
type Measured = BTreeMap<Case, Vec<f64>>;

#[derive(Default)]
struct Rounds {
    ours: Measured,
    in_place: Measured,
    raw: Measured,
    ping: Measured,
    open_mpi: Measured,
    pccl: Measured,
}

/// A line of `pccl bench --json`, as far as it is used here.
#[derive(Deserialize)]
struct Ours {
    bytes: u64,
    seconds_median: f64,
    raw: Option<Median>,
    ping: Option<Median>,
}

/// A line of the programs in `benches/compare`.
#[derive(Deserialize)]
struct Theirs {
    bytes: u64,
    seconds_median: f64,
}

#[derive(Deserialize)]
struct Median {
    seconds_median: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    compare(arguments).map_err(|reason| Failure {
        part: NAME.to_owned(),
        reason,
    })
}

fn compare(arguments: &Arguments) -> Result<(), String> {
    succeeds(&mut cargo("build --locked --release --bin pccl"))?;
    let release = workspace_root().join("target/release");
    let open_mpi = build_open_mpi(&release)?;
    let pccl_program = match &arguments.pccl {
        Some(library) => Some(build_pccl(&release, library)?),
        None => {
            eprintln!("skipped: needs PCCL's shared object, by --pccl");
            None
        }
    };
    let mut rounds = Rounds::default();
    for round in 1..=arguments.rounds {
        for &world in &arguments.peers {
            eprintln!("== round {round} of {}, {world} peers", arguments.rounds);
            let pccl = release.join("pccl");
            for in_place in [false, true] {
                measure_ours(&pccl, world, arguments, in_place, &mut rounds)?;
            }
            if let Some(program) = &open_mpi {
                let measured = &mut rounds.open_mpi;
                measure(&mut mpirun(program, world), world, arguments, measured)?;
            }
            if let Some(program) = &pccl_program {
                let mut command = Command::new(program);
                command.arg(world.to_string());
                measure(&mut command, world, arguments, &mut rounds.pccl)?;
            }
        }
    }
    print(arguments, &rounds);
    Ok(())
}

/// The program, or nothing where no MPI is installed.
fn build_open_mpi(release: &Path) -> Result<Option<PathBuf>, String> {
    let installed = |tool| {
        let status = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !(installed("mpicc") && installed("mpirun")) {
        eprintln!("skipped: needs mpicc and mpirun (Debian: openmpi-bin, libopenmpi-dev)");
        return Ok(None);
    }
    let program = release.join("compare-openmpi");
    let source = workspace_root().join("benches/compare/openmpi.c");
    succeeds(
        Command::new("mpicc")
            .args(["-O2", "-o"])
            .args([&program, &source]),
    )?;
    Ok(Some(program))
}

fn measure_ours(
    pccl: &Path,
    world: u32,
    arguments: &Arguments,
    in_place: bool,
    rounds: &mut Rounds,
) -> Result<(), String> {
    let bytes: Vec<String> = arguments.bytes.iter().map(u64::to_string).collect();
    let mut command = Command::new(pccl);
    command
        .args(["bench", "all-reduce", "--json"])
        .arg(format!("--spawn={world}"))
        .arg(format!("--bytes={}", bytes.join(",")));
    if in_place {
        command.arg("--in-place");
    } else {
        command
            .arg("--ping")
            .arg(format!("--raw={}", arguments.raw));
    }
    for line in lines(&mut command)? {
        let ours: Ours = read(&line)?;
        let case = (world, ours.bytes);
        let of = |measured: &mut Measured, seconds: f64| {
            measured.entry(case).or_default().push(seconds);
        };
        if in_place {
            of(&mut rounds.in_place, ours.seconds_median);
            continue;
        }
        of(&mut rounds.ours, ours.seconds_median);
        if let Some(raw) = ours.raw {
            of(&mut rounds.raw, raw.seconds_median);
        }
        if let Some(ping) = ours.ping {
            of(&mut rounds.ping, ping.seconds_median);
        }
    }
    Ok(())
}

/// A program that uses this very shared object.
fn build_pccl(release: &Path, library: &Path) -> Result<PathBuf, String> {
    let library = library
        .canonicalize()
        .map_err(|error| format!("{}: {error}", library.display()))?;
    let program = release.join("compare-pccl");
    let folder = library.parent().unwrap_or(Path::new("/"));
    succeeds(
        Command::new("cc")
            .args(["-O2", "-Icapi/include", "-o"])
            .arg(&program)
            .arg("benches/compare/pccl.c")
            .arg(&library)
            .arg(format!("-Wl,-rpath,{}", folder.display()))
            .arg("-pthread")
            .current_dir(workspace_root()),
    )?;
    Ok(program)
}

fn mpirun(program: &Path, world: u32) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["-np", &world.to_string(), "--oversubscribe"])
        .args(["--mca", "pml", "ob1", "--mca", "btl", "tcp,self"])
        .args(["--mca", "btl_tcp_if_include", "lo"])
        // As root only where these say so; others do not mind them.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .arg(program);
    command
}

/// Runs one of the programs in `benches/compare`.
fn measure(
    command: &mut Command,
    world: u32,
    arguments: &Arguments,
    measured: &mut Measured,
) -> Result<(), String> {
    for &bytes in &arguments.bytes {
        // As often as `pccl bench` does it.
        let iterations = match bytes {
            0..=0x1_0000 => 200,
            0x1_0001..=0x40_0000 => 50,
            _ => 10,
        };
        command.arg(format!("{bytes}:{iterations}"));
    }
    for line in lines(command)? {
        let theirs: Theirs = read(&line)?;
        let of = measured.entry((world, theirs.bytes)).or_default();
        of.push(theirs.seconds_median);
    }
    Ok(())
}

/// What a command that must succeed says, in lines.
fn lines(command: &mut Command) -> Result<Vec<String>, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

fn read<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| format!("`{line}`: {error}"))
}

/// A table in Markdown: times in milliseconds, others' as a part of ours.
fn print(arguments: &Arguments, rounds: &Rounds) {
    println!(
        "| peers, bytes | ours ms | of bare sockets | ms of these | in place, of ours | Open MPI ms | ours, of it | libpccl.so ms | ours, of it | ping us | ours, in pings |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for &world in &arguments.peers {
        for &bytes in &arguments.bytes {
            let of = |measured: &Measured| median(measured.get(&(world, bytes)));
            let Some(ours) = of(&rounds.ours) else {
                continue;
            };
            let (open_mpi, pccl) = (of(&rounds.open_mpi), of(&rounds.pccl));
            // What a small operation costs is messages, what a large one costs is bytes.
            let is_small = bytes <= SMALL_BYTES_MAX;
            let raw = of(&rounds.raw).filter(|_| !is_small);
            let ping = of(&rounds.ping).filter(|_| is_small);
            let row = [
                format!("{world}, {bytes}"),
                format!("{:.3}", ours * 1e3),
                cell(raw, |raw| format!("{:.0} %", raw / ours * 100.0)),
                cell(raw, |raw| format!("{:.3}", raw * 1e3)),
                cell(of(&rounds.in_place), |it| format!("{:.2} x", it / ours)),
                cell(open_mpi, |it| format!("{:.3}", it * 1e3)),
                cell(open_mpi, |it| format!("{:.2} x", ours / it)),
                cell(pccl, |it| format!("{:.3}", it * 1e3)),
                cell(pccl, |it| format!("{:.2} x", ours / it)),
                cell(ping, |it| format!("{:.1}", it * 1e6)),
                cell(ping, |it| format!("{:.1}", ours / it)),
            ];
            println!("| {} |", row.join(" | "));
        }
    }
}

fn cell(value: Option<f64>, text: impl FnOnce(f64) -> String) -> String {
    value.map_or_else(String::new, text)
}

fn median(values: Option<&Vec<f64>>) -> Option<f64> {
    let mut sorted = values?.clone();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_programs_are_read() {
        let line = r#"{"op":"sum","bytes":4,"seconds_median":2.0,"raw":{"congestion":"reno","seconds_median":1.0},"ping":null}"#;
        let ours: Ours = read(line).expect("a line of pccl bench");
        assert_eq!((ours.bytes, ours.seconds_median), (4, 2.0));
        assert_eq!(ours.raw.map(|raw| raw.seconds_median), Some(1.0));
        assert!(ours.ping.is_none());
        let theirs: Theirs = read(r#"{"bytes":4,"seconds_median":0.000008}"#).expect("a line");
        assert_eq!((theirs.bytes, theirs.seconds_median), (4, 0.000_008));
        assert!(read::<Theirs>("mpirun: warning").is_err());
    }

    #[test]
    fn the_median_is_a_value_of_a_round() {
        assert_eq!(median(Some(&vec![3.0, 1.0, 2.0])), Some(2.0));
        assert_eq!(median(Some(&vec![2.0, 1.0])), Some(1.0));
        assert_eq!(median(Some(&Vec::new())), None);
        assert_eq!(median(None), None);
    }
}
