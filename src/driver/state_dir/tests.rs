//! What is written is read, whatever has happened to the file.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use parking_lot::Mutex;

use super::file::HEADER_BYTES;
use super::*;
use crate::types::{Epoch, GroupId, OperationId, PeerId, PeerName, RunId, Tag, WorldSizes};
use crate::wire::control::{CallCounts, Outcome, Proposal, Reign, Settlement, ToPeer};

/// A directory of its own, gone with this.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("pccl-state-{}-{name}", std::process::id());
        let place = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&place);
        Self(place)
    }

    fn open(&self) -> Result<Option<Memory>, String> {
        StateDir::open(&self.0).map(|(_, memory)| memory)
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn told(message: ToPeer) -> Record {
    Record::Told {
        group: GroupId(0),
        message,
    }
}

fn settled(n: u32) -> Record {
    told(ToPeer::OperationSettled(Settlement {
        op: OperationId {
            epoch: Epoch { term: 1, count: 1 },
            tag: Tag(4),
            n,
        },
        outcome: Outcome::Committed {
            contributors: vec![PeerId(1)],
        },
        number: u64::from(n) + 1,
        everybody_has: 0,
    }))
}

fn story() -> Vec<Record> {
    let epoch = Epoch { term: 1, count: 1 };
    let sizes = WorldSizes {
        global: 1,
        group: 1,
        groups: 1,
        largest_group: 1,
    };
    let proposal = Proposal {
        epoch,
        sizes,
        ring: vec![PeerName {
            id: PeerId(1),
            label: "ada".to_owned(),
            address: "10.0.0.1:48149".to_owned(),
        }],
        links: Vec::new(),
        outcomes: Vec::new(),
        others: Vec::new(),
        voters: vec![PeerId(1)],
        calls: CallCounts::default(),
    };
    let run = RunId(77);
    let reign = Reign { term: 1, start: 5 };
    let mut records = vec![
        Record::Ruling { run, reign },
        Record::NextPeer(2),
        told(ToPeer::EpochProposed(proposal)),
        told(ToPeer::EpochActive { epoch }),
    ];
    records.extend((0..6).map(settled));
    records
}

fn written(place: &Place) -> Memory {
    let (mut state, before) = StateDir::open(&place.0).unwrap();
    assert_eq!(before, None);
    for record in story() {
        state.write(record);
        state.sync();
    }
    state.memory.clone()
}

#[test]
fn what_was_written_is_read() {
    let place = Place::new("read");
    let memory = written(&place);
    assert_eq!(memory.term(), 1);
    assert_eq!(place.open().unwrap(), Some(memory.clone()));
    // And what is written after it has been read.
    let (mut state, _) = StateDir::open(&place.0).unwrap();
    state.write(settled(6));
    state.sync();
    let more = state.memory.clone();
    drop(state);
    assert_ne!(more, memory);
    assert_eq!(place.open().unwrap(), Some(more));
}

#[test]
fn a_file_that_has_grown_is_begun_anew_and_says_the_same() {
    let place = Place::new("grown");
    let (mut state, _) = StateDir::open(&place.0).unwrap();
    for record in story() {
        state.write(record);
    }
    state.sync();
    let mut longest = 0;
    for n in 6..40_000 {
        let mut record = settled(n);
        if let Record::Told {
            message: ToPeer::OperationSettled(settlement),
            ..
        } = &mut record
        {
            settlement.everybody_has = u64::from(n);
        }
        state.write(record);
        if n % 1000 == 0 {
            state.sync();
            longest = longest.max(fs::metadata(place.file()).unwrap().len());
        }
    }
    assert!(longest < 2 * GROWTH_BYTES_MAX, "{longest}");
    state.sync();
    let memory = state.memory.clone();
    drop(state);
    assert_eq!(place.open().unwrap(), Some(memory));
}

#[test]
fn a_file_that_is_cut_off_anywhere_says_less_or_is_refused() {
    let place = Place::new("cut");
    let whole_memory = written(&place);
    let whole = fs::read(place.file()).unwrap();
    // As it is after each record.
    let mut stages = vec![Memory::default()];
    for record in story() {
        let mut next = stages.last().unwrap().clone();
        next.learn(record);
        stages.push(next);
    }
    let (mut refused, mut shorter) = (0, 0);
    for len in 0..whole.len() {
        fs::write(place.file(), &whole[..len]).unwrap();
        match place.open() {
            Ok(memory) => {
                assert!(stages.contains(&memory.unwrap()), "{len}");
                shorter += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > HEADER_BYTES && shorter > 0);
    fs::write(place.file(), &whole).unwrap();
    assert_eq!(place.open().unwrap(), Some(whole_memory));
}

#[test]
fn a_byte_that_is_wrong_is_told_from_one_that_is_missing() {
    let place = Place::new("wrong");
    written(&place);
    let whole = fs::read(place.file()).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(place.file(), &bytes).unwrap();
        match place.open() {
            Err(reason) => assert!(reason.contains(FILE), "{reason}"),
            // A length that reaches beyond the end looks like a torn record.
            Ok(memory) => assert_eq!(memory.unwrap().term(), 1, "byte {at}"),
        }
    }
}

#[test]
fn sectors_that_a_power_loss_left_unwritten_are_dropped() {
    let place = Place::new("zeros");
    let (mut state, _) = StateDir::open(&place.0).unwrap();
    for record in story() {
        state.write(record);
    }
    state.sync();
    let (before, known) = (fs::read(place.file()).unwrap(), state.memory.clone());
    let mut long = settled(6);
    if let Record::Told {
        message: ToPeer::OperationSettled(settlement),
        ..
    } = &mut long
    {
        let contributors = (1..1000).map(PeerId).collect();
        settlement.outcome = Outcome::Committed { contributors };
    }
    state.write(long);
    state.sync();
    drop(state);
    let whole = fs::read(place.file()).unwrap();
    let sectors = (before.len()..whole.len()).filter(|at| at % 512 == 0);
    let mut cuts: Vec<usize> = sectors.collect();
    assert!(cuts.len() > 2);
    cuts.push(before.len());
    for at in cuts {
        let mut bytes = whole.clone();
        bytes[at..].fill(0);
        fs::write(place.file(), bytes).unwrap();
        assert_eq!(place.open().unwrap(), Some(known.clone()), "from byte {at}");
    }
    // What was synced is not taken for unwritten.
    let mut bytes = whole.clone();
    bytes[before.len() + 200] ^= 1;
    fs::write(place.file(), bytes).unwrap();
    assert!(place.open().is_err());
}

#[test]
fn a_new_master_takes_the_place_of_the_one_before_with_all_that_it_says() {
    let place = Place::new("ruling");
    let before = written(&place);
    let (mut state, _) = StateDir::open(&place.0).unwrap();
    state.write(Record::Ruling {
        run: RunId(77),
        reign: Reign { term: 2, start: 6 },
    });
    let found = |place: &Place| file::parse(&fs::read(place.file()).unwrap()).unwrap();
    assert_eq!(found(&place), before);
    state.write(Record::NextPeer(9));
    state.sync();
    assert_eq!(found(&place), state.memory);
    assert_eq!(found(&place).term(), 2);
}

/// A disk that is full while told so.
#[derive(Clone, Debug, Default)]
struct Full {
    is_full: Arc<AtomicBool>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Full {
    fn check(&self) -> io::Result<()> {
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Disk for Full {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let bytes = self.bytes.lock().clone();
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        *self.bytes.lock() = bytes.to_vec();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Half of it is written.
        let len = if self.check().is_ok() {
            bytes.len()
        } else {
            bytes.len() / 2
        };
        self.bytes.lock().extend_from_slice(&bytes[..len]);
        self.check()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.check()
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a disk")
    }
}

#[test]
fn a_disk_that_was_full_says_all_once_it_has_room() {
    let disk = Full::default();
    let (mut state, _) = StateDir::on(Box::new(disk.clone())).unwrap();
    for (n, record) in story().into_iter().enumerate() {
        disk.is_full.store((3..7).contains(&n), Ordering::Relaxed);
        state.write(record);
        state.sync();
        let found = file::parse(&disk.bytes.lock()).unwrap();
        assert_eq!(found == state.memory, !(3..7).contains(&n), "record {n}");
    }
}

#[test]
fn a_disk_that_is_full_at_the_start_keeps_no_master_from_its_run() {
    let disk = Full::default();
    let (mut state, _) = StateDir::on(Box::new(disk.clone())).unwrap();
    for record in story() {
        state.write(record);
    }
    state.sync();
    let before = state.memory.clone();
    disk.is_full.store(true, Ordering::Relaxed);
    let (mut state, found) = StateDir::on(Box::new(disk.clone())).unwrap();
    assert_eq!(found, Some(before));
    disk.is_full.store(false, Ordering::Relaxed);
    state.write(settled(6));
    state.sync();
    assert_eq!(file::parse(&disk.bytes.lock()).unwrap(), state.memory);
}

#[test]
fn a_file_that_was_removed_is_written_again() {
    let place = Place::new("removed");
    written(&place);
    let (mut state, _) = StateDir::open(&place.0).unwrap();
    fs::remove_file(place.file()).unwrap();
    for n in 6..8 {
        state.write(settled(n));
        state.sync();
    }
    let memory = state.memory.clone();
    drop(state);
    assert_eq!(place.open().unwrap(), Some(memory));
}

#[test]
fn a_file_of_somebody_else_is_refused_and_left_alone() {
    let place = Place::new("foreign");
    fs::create_dir_all(&place.0).unwrap();
    fs::write(place.file(), b"PCCLRUN9 of another version").unwrap();
    assert!(place.open().unwrap_err().contains("another version"));
    fs::write(place.file(), b"something else").unwrap();
    assert!(place.open().unwrap_err().contains("not the state"));
    assert_eq!(fs::read(place.file()).unwrap(), b"something else");
}

#[test]
fn one_master_at_a_time() {
    let place = Place::new("locked");
    let (_state, _) = StateDir::open(&place.0).unwrap();
    let refused = StateDir::open(&place.0).unwrap_err();
    assert!(refused.contains("another master"), "{refused}");
}
