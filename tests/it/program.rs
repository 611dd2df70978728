//! `pccl master` as people run it: however its process ends, the next one goes on.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use crate::common::{admit, config, reduce_everywhere};

/// A directory of its own, gone with this.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place =
            std::env::temp_dir().join(format!("pccl-program-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        Self(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pccl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pccl"));
    command.args(arguments).env("PCCL_LOG_LEVEL", "WARN");
    command
}

/// A master in a process, which is killed when this is dropped.
struct MasterProcess {
    child: Child,
    address: String,
}

impl MasterProcess {
    fn start(listen: &str, state_dir: &Path) -> Self {
        let state_dir = state_dir.to_str().unwrap();
        let mut child = pccl(&["master", "--listen", listen, "--state-dir", state_dir])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Self { child, address }
    }

    fn signal(&mut self, name: &str) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap()
    }
}

impl Drop for MasterProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hand_over(state_dir: &Path) -> Output {
    let state_dir = state_dir.to_str().unwrap();
    pccl(&["master", "handover", "--state-dir", state_dir])
        .output()
        .unwrap()
}

#[test]
fn however_the_process_of_a_master_ends_the_next_one_goes_on() {
    let place = Place::new("ends");
    let mut master = MasterProcess::start("127.0.0.1:0", &place.0);
    let address = master.address.clone();
    let mut peers = Vec::new();
    for label in ["ada", "ben", "cyd"] {
        admit(&mut peers, config(&address, label));
    }
    reduce_everywhere(&peers);
    let epoch = peers[0].epoch();

    let asked = hand_over(&place.0);
    assert!(asked.status.success(), "{asked:?}");
    assert!(master.child.wait().unwrap().success());
    master = MasterProcess::start(&address, &place.0);
    reduce_everywhere(&peers);

    assert!(master.signal("-TERM").success());
    master = MasterProcess::start(&address, &place.0);
    reduce_everywhere(&peers);

    assert_eq!(master.signal("-KILL").signal(), Some(9));
    // Without what it wrote down: the peers know it all.
    let other = Place::new("other");
    let _master = MasterProcess::start(&address, &other.0);
    reduce_everywhere(&peers);
    assert_eq!(peers[0].epoch(), epoch);
}

#[test]
fn a_handover_that_nobody_hears_says_what_to_do() {
    let place = Place::new("nobody");
    let asked = hand_over(&place.0);
    assert!(!asked.status.success());
    let words = String::from_utf8_lossy(&asked.stderr);
    assert!(
        words.contains("no master") && words.contains("SIGTERM"),
        "{words}"
    );
    let nowhere = hand_over(&place.0.join("nowhere"));
    let words = String::from_utf8_lossy(&nowhere.stderr);
    assert!(words.contains("no such directory"), "{words}");
}

#[test]
fn a_master_whose_directory_has_no_room_for_a_socket_rules_all_the_same() {
    let place = Place::new("long");
    let long = place.0.join("of-a-directory-with-a-long-name/".repeat(5));
    let mut master = MasterProcess::start("127.0.0.1:0", &long);
    let mut peers = Vec::new();
    for label in ["ada", "ben"] {
        admit(&mut peers, config(&master.address, label));
    }
    reduce_everywhere(&peers);
    assert!(master.signal("-TERM").success());
}
