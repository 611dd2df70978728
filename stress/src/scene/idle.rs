//! Every connection between peers is cut silently while nobody uses it, as NATs and firewalls do
//! with those that they have forgotten. Connections that are made afterwards work.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Arguments, wait_for_all};
use crate::event::{Event, Line};
use crate::history::{Bounds, History};
use crate::net::{Cut, Place};
use crate::stage::{Stage, Work};

/// An operation over cut lanes may take as long as noticing that they are cut; only a hang takes
/// longer than this.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn play(arguments: &Arguments, work: Work, folder: &Path) -> Result<History, String> {
    if !work.has_networks {
        return Err("idle-cut needs networks that can be cut: root and ip".to_owned());
    }
    let mut bounds = Bounds::of(arguments.profile);
    bounds.patience_us += arguments.idle_ms * 1000;
    let mut stage = Stage::open(folder, work)?;
    let (all, idle) = (arguments.peers.to_string(), arguments.idle_ms.to_string());
    for _ in 0..arguments.peers {
        stage.join_with(&["--settle-at", &all, "--pause-ms", &idle])?;
    }
    let pause = Duration::from_millis(arguments.idle_ms);
    wait_for_all(&mut stage, bounds, arguments.peers, pause)?;
    // All of them have ended the same all-reduce by then, and none has begun the next.
    stage.wait(Duration::from_millis(arguments.idle_ms / 4))?;

    let places: Vec<Place> = stage
        .peers()
        .iter()
        .filter_map(|peer| peer.place().cloned())
        .collect();
    for index in 0..places.len() {
        let pid = stage.peers()[index].pid();
        let lanes: Vec<Cut> = connections(pid)?
            .into_iter()
            .filter(|(_, from, _)| places.iter().any(|place| place.address() == *from))
            .map(|(to_port, from, from_port)| Cut::Connection {
                from,
                from_port,
                to_port,
            })
            .collect();
        stage.cut_connections(index, &lanes)?;
    }

    let cut_us = crate::clock::now_us();
    let end = Instant::now() + Duration::from_millis(arguments.idle_ms) + TIMEOUT;
    while Instant::now() < end {
        stage.wait(Duration::from_millis(100))?;
        let history = History::read(folder, bounds)?;
        let has_reduced = |label: &str| {
            let is_commit = |line: &&Line| matches!(line.event, Event::Committed { .. });
            let mut commits = history.lines.iter().filter(is_commit);
            commits.any(|line| line.who == label && line.at_us > cut_us)
        };
        if stage.peers().iter().all(|peer| has_reduced(&peer.label)) {
            break;
        }
    }
    stage.finish(Duration::from_millis(arguments.idle_ms))?;
    History::read(folder, bounds)
}

/// The established connections of a process's network: own port, and the other end.
fn connections(pid: u32) -> Result<Vec<(u16, Ipv4Addr, u16)>, String> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{pid}/net/{table}");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        found.extend(text.lines().skip(1).filter_map(connection));
    }
    Ok(found)
}

/// One line of such a table, where it is of an established connection over IPv4.
fn connection(line: &str) -> Option<(u16, Ipv4Addr, u16)> {
    const ESTABLISHED: &str = "01";
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    let (_, own_port) = end(local)?;
    let (address, port) = end(remote)?;
    (state == ESTABLISHED).then_some((own_port, address, port))
}

/// `0100007F:1F90`, with the address in the machine's order of bytes; of an address that is mapped
/// to IPv6 the last word.
fn end(text: &str) -> Option<(Ipv4Addr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = address.get(address.len().checked_sub(8)?..)?;
    let word = u32::from_str_radix(word, 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Ipv4Addr::from(word.to_ne_bytes()), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn established_connections_are_read_from_both_tables() {
        let from = Ipv4Addr::new(10, 77, 0, 3);
        let line = "   2: 02004D0A:BC14 03004D0A:9C40 01 00000000:00000000 00:00000000";
        assert_eq!(connection(line), Some((0xbc14, from, 0x9c40)));
        let line = "   2: 0000000000000000FFFF000002004D0A:BC14 \
                    0000000000000000FFFF000003004D0A:9C40 01 0:0 0:0";
        assert_eq!(connection(line), Some((0xbc14, from, 0x9c40)));
        let listening = "   0: 02004D0A:BC14 00000000:0000 0A 00000000:00000000 00:00000000";
        assert_eq!(connection(listening), None);
    }
}
