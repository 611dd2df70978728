#![allow(
    unsafe_code,
    reason = "std cannot fork without `exec`, which closes all sockets"
)]
//! What only processes of their own can show: forked children, and connections that a firewall has
//! forgotten.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pccl::{CollectiveError, Communicator, ReduceOptions};

use crate::common::{Run, Task, communicator, config, each, end_all, let_in, meet};

/// Tells the process that a test starts where its master is.
const MASTER: &str = "PCCL_IT_MASTER";
/// Set in a process that has a network of its own.
const OWN_NETWORK: &str = "PCCL_IT_OWN_NETWORK";

#[test]
fn a_killed_parent_whose_forked_child_lives_on_is_noticed_like_any_death() {
    if let Ok(master) = std::env::var(MASTER) {
        return fork_and_wait_for_the_end(&master);
    }
    let test = "processes::a_killed_parent_whose_forked_child_lives_on_is_noticed_like_any_death";
    let (run, peers) = Run::with(&["ada", "ben"]);
    let parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(MASTER, run.master.local_addr().to_string())
        .stdout(Stdio::piped())
        .spawn();
    let mut parent = Killed(parent.unwrap());
    let_in(&peers);
    let forked = Forked(forked_child(&mut parent.0));

    let begun: Vec<_> = peers
        .iter()
        .map(|peer| peer.start_all_reduce(vec![1_u32; 100_000], &ReduceOptions::sum()))
        .collect();
    // The parent asks for newcomers all the time, which holds nobody up.
    meet(&peers);
    drop(parent);
    let tasks = begun
        .into_iter()
        .map(|reduction| Task::start("survivor", || reduction.wait().1));
    for outcome in end_all(tasks.collect()) {
        let Err(CollectiveError::PeersLost { lost }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(lost[0].peer.label, "cyd");
        // Its sockets told, not its silence: the child holds none of them.
        let reason = &lost[0].reason;
        assert!(reason.contains("connection closed"), "{reason}");
    }
    assert!(is_alive(forked.0), "the child was to live on");
}

/// The parent: a peer whose child holds whatever it was not made to let go of.
fn fork_and_wait_for_the_end(master: &str) {
    let peer = communicator(config(master, "cyd"));
    peer.connect().unwrap();
    // SAFETY: the child calls `alarm` and `pause` only, which are async-signal-safe.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Should all who know of it die, it ends by itself.
        // SAFETY: takes no pointers.
        unsafe { libc::alarm(120) };
        loop {
            // SAFETY: takes nothing.
            unsafe { libc::pause() };
        }
    }
    println!("forked {child}");
    while peer.are_peers_pending().is_ok() {}
}

fn forked_child(parent: &mut Child) -> u32 {
    let output = BufReader::new(parent.stdout.take().unwrap());
    let mut lines = output.lines().map_while(Result::ok);
    let said = lines.find_map(|line| Some(line.split_once("forked ")?.1.parse::<u32>().unwrap()));
    said.expect("the process forks")
}

/// Is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The forked child, which is killed when this is dropped.
struct Forked(u32);

impl Drop for Forked {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-KILL", &self.0.to_string()])
            .status();
    }
}

fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|text| !text.contains(") Z "))
}

#[test]
fn lanes_that_a_firewall_forgot_while_they_were_idle_cost_no_operation() {
    let test = "processes::lanes_that_a_firewall_forgot_while_they_were_idle_cost_no_operation";
    if std::env::var_os(OWN_NETWORK).is_none() {
        return with_own_network(test);
    }
    ip("link set lo up");
    // Rules of one's own are to be asked before that for local addresses.
    ip("rule add pref 100 lookup local");
    ip("rule del pref 0");
    let (run, peers) = Run::with(&["ada", "ben", "cyd"]);
    sum_over_all(&peers);
    let master = run.master.local_addr().port();
    let lanes = connections(master);
    assert!(lanes.len() >= 2 * 3, "two lanes between any two: {lanes:?}");
    for (from, to) in lanes {
        ip(&format!(
            "rule add pref 10 iif lo ipproto tcp sport {from} dport {to} blackhole"
        ));
    }
    sum_over_all(&peers);
}

fn sum_over_all(peers: &[Arc<Communicator>]) {
    let world = peers.len() as u64;
    each(peers, move |_, peer| {
        let mut buffer = vec![1_u64; 50_000];
        let report = peer.all_reduce_in_place(&mut buffer, &ReduceOptions::sum());
        assert_eq!(report.unwrap().contributors.len() as u64, world);
        assert_eq!(buffer, vec![world; 50_000]);
    });
}

/// Runs the test again in a network of its own, with the rights to change it there.
fn with_own_network(test: &str) {
    let unshare = |rights: &[&str], program: &str| {
        let mut command = Command::new("unshare");
        command.args(rights).args(["--net", program]);
        command
    };
    let can = |rights: &&[&str]| {
        let mut tried = unshare(rights, "ip");
        tried.args("rule add pref 10 iif lo ipproto tcp sport 1 dport 2 blackhole".split(' '));
        tried
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let Some(rights) = [&[][..], &["--map-root-user"]].into_iter().find(can) else {
        let needs = "needs root or user namespaces, and ip";
        assert!(
            std::env::var_os("PCCL_TEST_REQUIRE_ALL").is_none(),
            "{needs}"
        );
        println!("skipped: {needs}");
        return;
    };
    let program = std::env::current_exe().unwrap();
    let output = unshare(rights, program.to_str().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(OWN_NETWORK, "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "no test is named {test}");
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

/// The ports of both ends of all established connections but the master's, once from either end.
fn connections(master: u16) -> Vec<(u16, u16)> {
    let mut found = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = |word: usize| {
                let (_, port) = words[word].rsplit_once(':').unwrap();
                u16::from_str_radix(port, 16).unwrap()
            };
            let ends = (port(1), port(2));
            if words[3] == "01" && ends.0 != master && ends.1 != master {
                found.push(ends);
            }
        }
    }
    found
}
