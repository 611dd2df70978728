//! `pccl bench`: how long a collective takes, how many bytes it moves and what CPU it costs.
//!
//! ```text
//! pccl bench all-reduce --spawn N       bench-peer ... bench-peer     N processes, loopback
//!     spawn.rs: master, children  --->  peer.rs: measures its part
//!     record.rs: one line a size  <---  one JSON line a size
//!
//! pccl bench all-reduce --master ADDR --peers N       this process is one of N, anywhere
//! ```
//!
//! The time of an iteration is that of its slowest peer. Every result is compared with one
//! computed from the known inputs of all ranks, so that a fast wrong answer is seen.

mod cpu;
mod pages;
mod peer;
mod ping;
mod raw;
mod record;
mod sample;
mod size;
mod spawn;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use pccl::{DataType, Quantization, ReduceOp, ReduceOptions};

use pages::Pages;
pub(crate) use peer::{PeerArguments, run_peer};

#[derive(Args)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    collective: Collective,
}

#[derive(Subcommand)]
enum Collective {
    /// Every peer ends with the sum (or another reduction) of all peers' buffers.
    AllReduce(AllReduceArguments),
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("where").required(true))]
struct AllReduceArguments {
    /// Start this many peer processes and a master on loopback.
    #[arg(long, value_name = "N", group = "where", value_parser = clap::value_parser!(u32).range(2..))]
    spawn: Option<u32>,
    /// Join the run of this master as one of several peers; needs --peers. Standby masters follow it
    /// after commas; all peers need the same list.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        group = "where",
        requires = "peers"
    )]
    master: Vec<String>,
    /// With --master: how many peers to wait for, this one included.
    #[arg(long, value_name = "N", conflicts_with = "spawn", value_parser = clap::value_parser!(u32).range(2..))]
    peers: Option<u32>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    workload: Workload,
}

/// What is measured: the same on every peer.
#[derive(Args, Clone, Debug, PartialEq)]
struct Workload {
    /// Sizes of one operation, such as 4,1MiB,64MB.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = size::parse, default_value = "4,1MiB,64MiB")]
    bytes: Vec<u64>,
    /// Connections per link; the library's default where it is left out.
    #[arg(long, value_name = "K")]
    lanes: Option<u16>,
    /// Operations in flight at once, each of the given size.
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrent: u32,
    /// Element type: u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32 or f64.
    #[arg(long, default_value = "f32", value_parser = data_type)]
    dtype: DataType,
    /// sum, avg, prod, max or min.
    #[arg(long, default_value = "sum", value_parser = reduce_op)]
    op: ReduceOp,
    /// Quantize: int8, int4, mx-fp8-e4m3, mx-fp8-e5m2, mx-fp4, min-max-u8, zero-point-scale-u8, ...
    #[arg(long, value_name = "SCHEME", value_parser = scheme)]
    quantize: Option<Scheme>,
    /// Reduce in the caller's buffer instead of into a second one.
    #[arg(long)]
    in_place: bool,
    /// Also measure bare sockets, K to a link, by turns with each iteration: as many bytes, the
    /// same processes, and no library. At most 128.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=raw::MOST_STREAMS))]
    raw: Option<u16>,
    /// Also measure a round trip of 64 bytes between two of the processes, by turns with each
    /// iteration.
    #[arg(long)]
    ping: bool,
    /// Threads of each peer that move data; the library's default where it is left out.
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=64))]
    data_threads: Option<u16>,
    /// Pages of the buffers.
    #[arg(long, value_enum, default_value_t = Pages::Huge)]
    pages: Pages,
    /// Measured iterations per size [default: 200 up to 64 KiB, 50 up to 4 MiB, then 10].
    #[arg(long, value_name = "I", value_parser = clap::value_parser!(u32).range(1..))]
    iters: Option<u32>,
    /// Iterations before them that are not counted.
    #[arg(long, value_name = "I", default_value_t = 3)]
    warmup: u32,
    /// Seconds of rest before each iteration: what connections forget while they are idle counts.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pause: u64,
    /// Seconds after which everything is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// A quantization and its name.
#[derive(Clone, Debug, PartialEq)]
struct Scheme {
    name: String,
    quantization: Quantization,
}

fn scheme(name: &str) -> Result<Scheme, String> {
    let quantization = name.parse()?;
    let name = name.to_owned();
    Ok(Scheme { name, quantization })
}

impl Workload {
    /// The name of the quantization in records.
    fn quantize_name(&self) -> &str {
        self.quantize.as_ref().map_or("none", |scheme| &scheme.name)
    }

    /// What each operation is told.
    fn options(&self) -> ReduceOptions {
        let mut options = ReduceOptions::new(self.op);
        options.quantization = self.quantize.as_ref().map(|scheme| scheme.quantization);
        options
    }

    /// Measured iterations for operations of `bytes`: a small one is repeated more often, as its
    /// time is shorter and varies more.
    fn iters(&self, bytes: u64) -> u32 {
        self.iters.unwrap_or(match bytes {
            0..=0x1_0000 => 200,
            0x1_0001..=0x40_0000 => 50,
            _ => 10,
        })
    }

    /// Elements of an operation of `bytes`, or why that is no size for this type.
    fn elements(&self, bytes: u64) -> Result<usize, String> {
        let size = self.dtype.size_bytes() as u64;
        if bytes == 0 || !bytes.is_multiple_of(size) {
            return Err(format!(
                "{bytes} bytes are no whole number of {} elements",
                self.dtype
            ));
        }
        usize::try_from(bytes / size).map_err(|error| error.to_string())
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// The flags that make another process read the same workload.
    fn to_flags(&self) -> Vec<String> {
        let sizes: Vec<String> = self.bytes.iter().map(u64::to_string).collect();
        let mut flags = vec![
            format!("--bytes={}", sizes.join(",")),
            format!("--concurrent={}", self.concurrent),
            format!("--dtype={}", self.dtype),
            format!("--op={}", self.op),
            format!("--pages={}", self.pages.name()),
            format!("--warmup={}", self.warmup),
            format!("--pause={}", self.pause),
            format!("--timeout={}", self.timeout),
        ];
        let scheme = self.quantize.as_ref().map(|scheme| &scheme.name);
        flags.extend(scheme.map(|name| format!("--quantize={name}")));
        flags.extend(self.lanes.map(|lanes| format!("--lanes={lanes}")));
        flags.extend(self.raw.map(|streams| format!("--raw={streams}")));
        flags.extend(self.iters.map(|iters| format!("--iters={iters}")));
        flags.extend(self.ping.then(|| "--ping".to_owned()));
        flags.extend((self.data_threads).map(|threads| format!("--data-threads={threads}")));
        flags.extend(self.in_place.then(|| "--in-place".to_owned()));
        flags
    }
}

pub(crate) fn run(arguments: &BenchArguments) -> ExitCode {
    let Collective::AllReduce(arguments) = &arguments.collective;
    match run_all_reduce(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("pccl bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run_all_reduce(arguments: &AllReduceArguments) -> Result<(), String> {
    let workload = &arguments.workload;
    for &bytes in &workload.bytes {
        workload.elements(bytes)?;
    }
    let checked = workload.options().check(workload.dtype);
    checked.map_err(|error| error.to_string())?;
    let mut printer = record::Printer::new(arguments.json);
    match (arguments.spawn, arguments.peers) {
        (Some(world), _) => spawn::measure(world, workload, &mut printer),
        (None, Some(peers)) => peer::join(&arguments.master, peers, workload, &mut printer),
        _ => Err("either --spawn, or --master with --peers".to_owned()),
    }
}

fn data_type(name: &str) -> Result<DataType, String> {
    named(name, &DataType::ALL, DataType::name)
}

fn reduce_op(name: &str) -> Result<ReduceOp, String> {
    named(name, &ReduceOp::ALL, ReduceOp::name)
}

fn named<T: Copy>(name: &str, all: &[T], name_of: fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| name_of(*one) == name);
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().copied().map(name_of).collect();
        format!("not one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        workload: Workload,
    }

    fn read(flags: impl IntoIterator<Item = String>) -> Workload {
        let line = std::iter::once("bench".to_owned()).chain(flags);
        Line::try_parse_from(line).expect("valid flags").workload
    }

    #[test]
    fn another_process_reads_the_same_workload_from_the_flags() {
        for line in [
            "",
            "--bytes 8,1MiB --lanes 4 --concurrent 8 --dtype bf16 --op max --in-place --quantize int4 \
             --pages small --iters 7 --raw 4 --ping --data-threads 3 --pause 60",
        ] {
            let workload = read(line.split_whitespace().map(str::to_owned));
            assert_eq!(read(workload.to_flags()), workload);
        }
    }

    #[test]
    fn a_size_that_splits_an_element_is_refused() {
        let workload = read(["--dtype=f64".to_owned()]);
        assert_eq!(workload.elements(16), Ok(2));
        assert!(workload.elements(4).is_err());
        assert!(workload.elements(0).is_err());
    }

    #[test]
    fn names_of_types_and_operations_are_read_back() {
        assert_eq!(data_type("bf16"), Ok(DataType::BF16));
        assert_eq!(reduce_op("avg"), Ok(ReduceOp::Avg));
        assert!(data_type("f8").is_err_and(|text| text.contains("f16")));
    }
}
