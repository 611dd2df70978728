//! `stress wan` as its users see it: machines that are as far from each other as they asked for,
//! and nothing left running.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test on sockets"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const RTT: Duration = Duration::from_millis(20);

/// A hundredth of its segments is lost on the way.
const BYTES: usize = 1 << 20;

/// Only a hang takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn machines_are_as_far_from_each_other_as_asked_for() {
    let machine = std::env::current_exe().unwrap();
    let Some(output) = wan(&[
        "--rtt-ms",
        "20",
        "--loss-ppm",
        "10000",
        "--",
        machine.to_str().unwrap(),
        "--exact",
        "on_a_machine",
        "--ignored",
        "--nocapture",
    ]) else {
        return;
    };
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout.matches("1 passed").count(), 2, "{stdout}\n{stderr}");
}

#[test]
#[ignore = "the other test runs it on both machines"]
fn on_a_machine() {
    match std::env::var("PCCL_WAN_PEER").as_deref() {
        Ok("0") => serve(),
        Ok("1") => ask(),
        _ => println!("skipped: needs a machine of `stress wan`"),
    }
}

#[test]
fn the_first_command_that_fails_ends_all_others() {
    let script = "[ $PCCL_WAN_PEER = 1 ] && exit 3; sleep 100000";
    let Some(output) = wan(&["--", "sh", "-c", script]) else {
        return;
    };
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("command of 1 failed"), "{stderr}");
}

#[test]
fn a_matrix_with_a_mistake_is_refused_with_its_line() {
    let folder = std::env::temp_dir().join(format!("pccl-wan-{}", std::process::id()));
    std::fs::write(&folder, "0 1 50\n0 7 50\n").unwrap();
    let output = stress(&["--matrix", folder.to_str().unwrap(), "--", "true"]);
    std::fs::remove_file(&folder).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let (_, stderr) = texts(&output);
    assert!(stderr.contains("line 2: `0 7 50`"), "{stderr}");
}

/// Answers a byte with a byte, and all bytes with whether they are right; then whatever comes.
fn serve() {
    let listener = TcpListener::bind((own_address(), PORT)).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(&byte).unwrap();
    let mut bytes = vec![0; BYTES];
    stream.read_exact(&mut bytes).unwrap();
    stream.write_all(&[u8::from(bytes == pattern())]).unwrap();
    while stream.read(&mut byte).unwrap() == 1 {
        stream.write_all(&byte).unwrap();
    }
}

fn ask() {
    let addresses = std::env::var("PCCL_WAN_ADDRESSES").unwrap();
    let server = addresses.split(' ').next().unwrap();
    let mut stream = dial(server);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [7];
    stream.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
    // Nothing that the machine does beside makes it faster than the links are.
    let shortest = shortest_round_trip(server);
    assert!(shortest >= RTT, "{shortest:?}");
    stream.write_all(&pattern()).unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [1], "what arrived is not what was sent");

    order("cut 0>1\n");
    stream.write_all(&[9]).unwrap();
    stream.set_read_timeout(Some(10 * RTT)).unwrap();
    let answer = stream.read(&mut byte);
    assert!(answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    order("heal\n");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [9]);
}

const PORT: u16 = 4000;

fn own_address() -> String {
    std::env::var("PCCL_WAN_ADDRESS").unwrap()
}

/// The other machine may not listen yet.
fn dial(server: &str) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((server, PORT)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

/// As the kernel has measured it on the connection to this machine, its handshake included.
fn shortest_round_trip(server: &str) -> Duration {
    let mut command = Command::new("ss");
    let output = command.args(["-tinH", "dst", server]).output();
    let output = output.expect("`ss`, which comes with `ip`");
    let text = texts(&output).0;
    let mut words = text.split_whitespace();
    let shortest = words.find_map(|word| word.strip_prefix("minrtt:")?.parse().ok());
    let milliseconds: f64 = shortest.expect(&text);
    Duration::from_secs_f64(milliseconds / 1000.0)
}

fn order(line: &str) {
    let control = std::env::var("PCCL_WAN_CONTROL").unwrap();
    std::fs::write(control, line).unwrap();
}

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|n| ((n * n) >> 8) as u8).collect()
}

/// None where it cannot run here, which is said.
fn wan(arguments: &[&str]) -> Option<Output> {
    let output = stress(arguments);
    let needs = "wan needs root, /dev/net/tun, ip, unshare and setpriv";
    if !texts(&output).1.contains(needs) {
        return Some(output);
    }
    assert!(
        std::env::var_os("PCCL_TEST_REQUIRE_ALL").is_none(),
        "{needs}"
    );
    println!("skipped: {needs}");
    None
}

fn stress(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stress"));
    command.arg("wan").args(arguments).output().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
