//! One peer of a benchmark: joins, waits until all are there, measures each size.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use pccl::{CollectiveError, Communicator, Config, DataType, ReduceOptions, ReduceReport, Tag};

use super::pages::Buffer;
use super::ping::Ping;
use super::raw::{RawMeasurement, RawRing};
use super::record::{PeerMeasurement, Printer, Record};
use super::sample::{self, Sample};
use super::{Workload, cpu};

/// Measured operations use the tags from 0 upwards, these stay out of their way.
const BARRIER: Tag = Tag(1 << 32);
pub(super) const EXCHANGE: Tag = Tag((1 << 32) + 1);

/// What bare sockets are measured under, the system's choice and what every system has; the better
/// one counts.
const RAW_CONGESTION: [Option<&str>; 2] = [None, Some("reno")];

/// How often a peer looks whether others want to join.
const JOIN_INTERVAL: Duration = Duration::from_millis(10);

/// What `bench --spawn` tells each process that it starts.
#[derive(Args)]
pub(crate) struct PeerArguments {
    #[arg(long)]
    master: String,
    #[arg(long)]
    peers: u32,
    #[arg(long)]
    label: String,
    #[command(flatten)]
    workload: Workload,
}

/// Measures and prints a JSON line a size, for the process that started this one. Ends when that
/// process does: its death closes our stdin.
pub(crate) fn run_peer(arguments: &PeerArguments) -> ExitCode {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let outcome = measure_all(
        Config::new(&arguments.master).label(&arguments.label),
        arguments.peers,
        &arguments.workload,
        |_, measurement| {
            let line = serde_json::to_string(&measurement).map_err(|error| error.to_string())?;
            writeln!(std::io::stdout(), "{line}").map_err(|error| error.to_string())
        },
    );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{}: {reason}", arguments.label);
            ExitCode::FAILURE
        }
    }
}

/// Takes part as one of `peers` processes on any machines, and prints what all of them measured.
/// `masters` are the first one and its standbys, in the order that all peers were given.
pub(super) fn join(
    masters: &[String],
    peers: u32,
    workload: &Workload,
    printer: &mut Printer,
) -> Result<(), String> {
    let timeout = workload.timeout();
    std::thread::spawn(move || {
        std::thread::sleep(timeout);
        eprintln!("pccl bench: not done after {} s", timeout.as_secs());
        std::process::exit(1);
    });
    let [first, standbys @ ..] = masters else {
        return Err("--master names no master".to_owned());
    };
    let config = standbys
        .iter()
        .fold(Config::new(first), Config::standby_master);
    measure_all(
        config.label("bench"),
        peers,
        workload,
        |communicator, mine| {
            let all = exchange(communicator, mine).map_err(|error| error.to_string())?;
            printer.print(&Record::merge(peers, workload, &[all])?)
        },
    )
}

fn measure_all(
    mut config: Config,
    peers: u32,
    workload: &Workload,
    mut report: impl FnMut(&Communicator, PeerMeasurement) -> Result<(), String>,
) -> Result<(), String> {
    if let Some(lanes) = workload.lanes {
        config = config.lanes_per_link(lanes);
    }
    if let Some(threads) = workload.data_threads {
        config = config.data_threads(threads.into());
    }
    let communicator = Communicator::new(config).map_err(|error| error.to_string())?;
    communicator.connect().map_err(|error| error.to_string())?;
    gather(&communicator, peers).map_err(|error| error.to_string())?;
    let mut bare = Bare::default();
    if let Some(streams) = workload.raw {
        for congestion in RAW_CONGESTION {
            bare.rings.push(RawRing::connect(
                &communicator,
                streams,
                congestion,
                workload.pages,
            )?);
        }
    }
    if workload.ping {
        bare.ping = Some(Ping::connect(&communicator)?);
    }
    for &bytes in &workload.bytes {
        let measurement = measure_type(&communicator, workload, bytes, &mut bare)?;
        report(&communicator, measurement)?;
    }
    communicator.leave().map_err(|error| error.to_string())
}

/// Lets newcomers in until `peers` are there. Every accepted peer runs this loop in step, as each
/// call in it is a joint one and gives all the same answer.
fn gather(communicator: &Communicator, peers: u32) -> Result<(), pccl::MembershipError> {
    while communicator.world_sizes().group < peers {
        if communicator.are_peers_pending()? {
            communicator.update_topology()?;
        } else {
            std::thread::sleep(JOIN_INTERVAL);
        }
    }
    Ok(())
}

fn measure_type(
    communicator: &Communicator,
    workload: &Workload,
    bytes: u64,
    bare: &mut Bare,
) -> Result<PeerMeasurement, String> {
    let measure = match workload.dtype {
        DataType::U8 => measure::<u8>,
        DataType::I8 => measure::<i8>,
        DataType::U16 => measure::<u16>,
        DataType::I16 => measure::<i16>,
        DataType::U32 => measure::<u32>,
        DataType::I32 => measure::<i32>,
        DataType::U64 => measure::<u64>,
        DataType::I64 => measure::<i64>,
        DataType::F16 => measure::<half::f16>,
        DataType::BF16 => measure::<half::bf16>,
        DataType::F32 => measure::<f32>,
        DataType::F64 => measure::<f64>,
    };
    measure(communicator, workload, bytes, bare)
}

/// Bare sockets that are measured by turns with the operation.
#[derive(Default)]
struct Bare {
    rings: Vec<RawRing>,
    ping: Option<Ping>,
}

/// The memory of one operation.
struct Buffers<T> {
    send: Buffer<T>,
    /// Empty where the operation is done in place.
    receive: Buffer<T>,
}

impl<T: Sample> Buffers<T> {
    fn new(count: usize, workload: &Workload) -> std::io::Result<Self> {
        let receive_count = if workload.in_place { 0 } else { count };
        Ok(Self {
            send: Buffer::zeroed(count, workload.pages)?,
            receive: Buffer::zeroed(receive_count, workload.pages)?,
        })
    }

    fn result(&self) -> &[T] {
        if self.receive.is_empty() {
            &self.send
        } else {
            &self.receive
        }
    }
}

fn measure<T: Sample>(
    communicator: &Communicator,
    workload: &Workload,
    bytes: u64,
    bare: &mut Bare,
) -> Result<PeerMeasurement, String> {
    let rank = communicator.rank().ok_or("this peer has no rank")?.0;
    let world = communicator.world_sizes().group;
    let count = workload.elements(bytes)?;
    let mut operations = (0..workload.concurrent)
        .map(|_| Buffers::<T>::new(count, workload))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("no memory for {bytes} bytes: {error}"))?;
    // So that no measured operation is the first to touch a page.
    for buffers in &mut operations {
        buffers.receive.fill(T::of_steps(0));
    }
    let iters = workload.iters(bytes);
    let mut seconds = Vec::new();
    let mut cpu_seconds = Some(0.0);
    let mut tx_bytes = 0;
    for iteration in 0..workload.warmup + iters {
        // An operation in place leaves its sum behind.
        if workload.in_place || iteration == 0 {
            for (operation, buffers) in (0..).zip(&mut operations) {
                sample::fill(&mut buffers.send, rank, operation);
            }
        }
        let failed = |error: CollectiveError| format!("{bytes} bytes: {error}");
        std::thread::sleep(Duration::from_secs(workload.pause));
        // The first barrier puts this thread to sleep, so that its CPU time is up to date when it
        // is read; the second makes good for the time that the reading takes.
        barrier(communicator).map_err(failed)?;
        let cpu_before = cpu::used();
        barrier(communicator).map_err(failed)?;
        let started = Instant::now();
        let sent = reduce_all(communicator, workload, &mut operations).map_err(failed)?;
        let elapsed = started.elapsed();
        let cpu_after = cpu::used();
        if iteration >= workload.warmup {
            seconds.push(elapsed.as_secs_f64());
            cpu_seconds = cpu::sum(cpu_seconds, cpu_before, cpu_after);
            tx_bytes = sent;
        }
        let share = 2 * u64::from(world - 1) * bytes / u64::from(world);
        for ring in &mut bare.rings {
            barrier(communicator).map_err(failed)?;
            ring.exchange(
                share * u64::from(workload.concurrent),
                iteration >= workload.warmup,
            )?;
        }
        if let Some(ping) = &mut bare.ping {
            barrier(communicator).map_err(failed)?;
            ping.exchange(iteration >= workload.warmup)?;
        }
    }
    let max_abs_error = (0..)
        .zip(&operations)
        .map(|(operation, buffers)| {
            sample::max_abs_error(buffers.result(), workload.op, world, operation)
        })
        .fold(0.0, f64::max);
    Ok(PeerMeasurement {
        bytes,
        seconds,
        cpu_seconds,
        tx_bytes,
        max_abs_error,
        raw: bare.rings.iter_mut().map(RawRing::take).collect(),
        ping_seconds: bare.ping.as_mut().map(Ping::take).unwrap_or_default(),
    })
}

fn barrier(communicator: &Communicator) -> Result<(), CollectiveError> {
    communicator
        .all_reduce_in_place(&mut [0_u8], &ReduceOptions::sum().tag(BARRIER))
        .map(drop)
}

/// Runs every operation once, all in flight together; gives back the bytes that were sent.
fn reduce_all<T: Sample>(
    communicator: &Communicator,
    workload: &Workload,
    operations: &mut [Buffers<T>],
) -> Result<u64, CollectiveError> {
    if let [only] = operations {
        return reduce_one(communicator, workload, only).map(|report| report.tx_bytes);
    }
    communicator.scope(|scope| {
        let mut running = Vec::new();
        for (number, Buffers { send, receive }) in (0..).zip(operations) {
            let options = workload.options().tag(Tag(number));
            running.push(if workload.in_place {
                scope.all_reduce_in_place(send, &options)
            } else {
                scope.all_reduce(send, receive, &options)
            });
        }
        let mut tx_bytes = 0;
        for operation in running {
            tx_bytes += operation.wait()?.tx_bytes;
        }
        Ok(tx_bytes)
    })
}

fn reduce_one<T: Sample>(
    communicator: &Communicator,
    workload: &Workload,
    buffers: &mut Buffers<T>,
) -> Result<ReduceReport, CollectiveError> {
    let options = workload.options();
    if workload.in_place {
        communicator.all_reduce_in_place(&mut buffers.send, &options)
    } else {
        communicator.all_reduce(&buffers.send, &mut buffers.receive, &options)
    }
}

/// Merges the measurements of all peers through the communicator itself, as no process started
/// the others: the slowest time, the sum of the CPU times, the most bytes, the worst error.
fn exchange(
    communicator: &Communicator,
    mine: PeerMeasurement,
) -> Result<PeerMeasurement, CollectiveError> {
    let iters = mine.seconds.len();
    let mut pings = [mine.ping_seconds.len() as u64];
    communicator.all_reduce_in_place(&mut pings, &ReduceOptions::max().tag(EXCHANGE))?;
    let mut ping_seconds = mine.ping_seconds;
    ping_seconds.resize(pings[0] as usize, 0.0);
    if !ping_seconds.is_empty() {
        communicator.all_reduce_in_place(&mut ping_seconds, &ReduceOptions::max().tag(EXCHANGE))?;
    }
    let mut largest = mine.seconds;
    for raw in &mine.raw {
        largest.extend(&raw.seconds);
    }
    largest.extend([mine.tx_bytes as f64, mine.max_abs_error]);
    communicator.all_reduce_in_place(&mut largest, &ReduceOptions::max().tag(EXCHANGE))?;
    // Not a number where one peer does not know: it stays that through the sum.
    let known = |cpu_seconds: Option<f64>| cpu_seconds.unwrap_or(f64::NAN);
    let mut cpu_seconds = vec![known(mine.cpu_seconds)];
    cpu_seconds.extend(mine.raw.iter().map(|raw| known(raw.cpu_seconds)));
    communicator.all_reduce_in_place(&mut cpu_seconds, &ReduceOptions::sum().tag(EXCHANGE))?;
    let mut cpu_seconds = cpu_seconds
        .into_iter()
        .map(|s| Some(s).filter(|s| !s.is_nan()));
    let max_abs_error = largest.pop().unwrap_or_default();
    let tx_bytes = largest.pop().unwrap_or_default() as u64;
    let mut seconds = largest.chunks(iters.max(1)).map(<[f64]>::to_vec);
    Ok(PeerMeasurement {
        bytes: mine.bytes,
        seconds: seconds.next().unwrap_or_default(),
        cpu_seconds: cpu_seconds.next().flatten(),
        tx_bytes,
        max_abs_error,
        ping_seconds,
        raw: (mine.raw.into_iter().zip(seconds).zip(cpu_seconds))
            .map(|((raw, seconds), cpu_seconds)| RawMeasurement {
                seconds,
                cpu_seconds,
                ..raw
            })
            .collect(),
    })
}
