//! Set-up that all behaviours share: a master, peers that are in its run, threads that cannot hang.

use std::any::Any;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use pccl::{Communicator, Config, Master, PeerId, ReduceOptions};

/// How long anything may take before it counts as stuck. Only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// A master of its own for one test.
pub(crate) struct Run {
    pub(crate) master: Master,
}

impl Run {
    pub(crate) fn new() -> Self {
        let master = Master::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { master }
    }

    /// Settings of a peer named `label`: any free port, two lanes, one thread.
    pub(crate) fn config(&self, label: &str) -> Config {
        config(&self.master.local_addr().to_string(), label)
    }

    /// A run with these peers in it, registered in this order.
    pub(crate) fn with(labels: &[&str]) -> (Self, Vec<Arc<Communicator>>) {
        let run = Self::new();
        let configs = labels.iter().map(|label| run.config(label)).collect();
        let peers = run.populate(configs);
        (run, peers)
    }

    /// Lets peers with these settings in, one after the other.
    pub(crate) fn populate(&self, configs: Vec<Config>) -> Vec<Arc<Communicator>> {
        let mut peers = Vec::new();
        for config in configs {
            admit(&mut peers, config);
        }
        peers
    }
}

/// Settings of a peer named `label` with its master there.
pub(crate) fn config(master: &str, label: &str) -> Config {
    Config::new(master)
        .label(label)
        .listen_ports(0..=0)
        .lanes_per_link(2)
        .data_threads(1)
}

/// A communicator that is not connected.
pub(crate) fn communicator(config: Config) -> Arc<Communicator> {
    Arc::new(Communicator::new(config).unwrap())
}

/// Lets one more peer into the run that `peers` are all of.
pub(crate) fn admit(peers: &mut Vec<Arc<Communicator>>, config: Config) {
    let newcomer = communicator(config);
    let connecting = start_connect(&newcomer);
    let_in(peers);
    connecting.end().unwrap();
    peers.push(newcomer);
}

/// Starts `connect` in a thread.
pub(crate) fn start_connect(newcomer: &Arc<Communicator>) -> Task<Result<(), pccl::ConnectError>> {
    let connecting = newcomer.clone();
    Task::start(&newcomer.config().label, move || connecting.connect())
}

/// All of `peers` wait until somebody asks to be let in, and let them in.
pub(crate) fn let_in(peers: &[Arc<Communicator>]) {
    each(peers, |_, peer| {
        while !peer.are_peers_pending().unwrap() {
            thread::yield_now();
        }
        peer.update_topology().unwrap();
    });
}

/// What everybody has said to the master so far has been heard when this returns.
pub(crate) fn meet(peers: &[Arc<Communicator>]) {
    each(peers, |_, peer| peer.are_peers_pending().unwrap());
}

/// Runs `part` for all peers at once, each in a thread of its own.
pub(crate) fn each<R: Send + 'static>(
    peers: &[Arc<Communicator>],
    part: impl Fn(usize, &Communicator) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let part = Arc::new(part);
    let tasks = peers.iter().enumerate().map(|(index, peer)| {
        let (part, peer) = (part.clone(), peer.clone());
        let label = peer.config().label.clone();
        Task::start(&label, move || part(index, &peer))
    });
    let tasks: Vec<Task<R>> = tasks.collect();
    end_all(tasks)
}

/// All of them reduce, and have the right sum.
pub(crate) fn reduce_everywhere(peers: &[Arc<Communicator>]) {
    let world = peers.len() as f32;
    let sums = each(peers, |_, peer| {
        let mut values = vec![1f32; 20_000];
        let report = peer.all_reduce_in_place(&mut values, &ReduceOptions::sum());
        report.map(|_| values)
    });
    for sum in sums {
        assert_eq!(sum.unwrap(), vec![world; 20_000]);
    }
}

/// The ids of these peers.
pub(crate) fn ids(peers: &[Arc<Communicator>]) -> Vec<PeerId> {
    let mut ids: Vec<PeerId> = peers.iter().map(|p| p.peer_id().unwrap()).collect();
    ids.sort();
    ids
}

type Panic = Box<dyn Any + Send>;

/// A thread whose end is waited for with [`PATIENCE`].
pub(crate) struct Task<R> {
    name: String,
    result: Receiver<Result<R, Panic>>,
    finished: Option<Result<R, Panic>>,
}

impl<R: Send + 'static> Task<R> {
    pub(crate) fn start(name: &str, work: impl FnOnce() -> R + Send + 'static) -> Self {
        let (sender, result) = mpsc::channel();
        thread::Builder::new()
            .name(format!("test {name}"))
            .spawn(move || {
                let work = std::panic::AssertUnwindSafe(work);
                let _ = sender.send(std::panic::catch_unwind(work));
            })
            .unwrap();
        Self {
            name: name.to_owned(),
            result,
            finished: None,
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.finished.is_none() {
            self.finished = self.result.try_recv().ok();
        }
        self.finished.is_some()
    }

    /// Its result; fails the test if it hangs or panics.
    pub(crate) fn end(self) -> R {
        end_all(vec![self]).remove(0)
    }

    fn wait(&mut self, until: Instant) -> bool {
        if self.finished.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            self.finished = match self.result.recv_timeout(left) {
                Ok(result) => Some(result),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Err(Box::new("no result"))),
            };
        }
        self.finished.is_some()
    }
}

/// The results of all, in order; names all that are stuck.
pub(crate) fn end_all<R: Send + 'static>(mut tasks: Vec<Task<R>>) -> Vec<R> {
    let until = Instant::now() + PATIENCE;
    let mut stuck = Vec::new();
    for task in &mut tasks {
        // Once one is known to be stuck the others get no extra time.
        if !task.wait(until) {
            stuck.push(task.name.clone());
        }
    }
    let mut results = Vec::new();
    for task in tasks {
        match task.finished {
            Some(Ok(result)) => results.push(result),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => {}
        }
    }
    assert!(stuck.is_empty(), "stuck: {}", stuck.join(", "));
    results
}

/// Asks again until `done`; fails the test, naming `what`, if that never comes.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < limit, "never came: {what}");
        thread::yield_now();
    }
}

/// Runs `body` in a process in which nothing else runs: this test again, in a child.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "PCCL_IT_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "no test is named {test}");
}

/// Nothing of the library is left in this process: no thread, no socket. Needs Linux and a process
/// of its own ([`alone`]).
pub(crate) fn assert_nothing_left() {
    if !Path::new("/proc/self/task").exists() {
        return;
    }
    assert_eq!(threads(), [""; 0], "threads are left");
    assert_eq!(sockets(), [""; 0], "sockets are left");
}

fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| {
        // A thread may end between the listing and the reading.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    });
    names
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("pccl"))
        .collect()
}

fn sockets() -> Vec<String> {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| target.starts_with("socket:"))
        .collect()
}

/// Resident memory of this process in bytes, where the system tells.
pub(crate) fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// A small generator, so that what is random comes from a seed: SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
