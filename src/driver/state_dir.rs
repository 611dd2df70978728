//! A master's state directory: what it writes down before it tells it.
//!
//! ```text
//!   run.pccl    magic "PCCLRUN1", length of the first part (u64), CRC-32 of these 16 bytes (u32)
//!               first part: records that say all, in place as a whole or not at all
//!               then records as they came, each synced before it is told; the last may be torn
//!   lock        held while a master uses the directory
//! ```
//!
//! A record is framed as a control message is: length, CRC-32, body (`wire/record.rs`). Integers are
//! little-endian. What is torn at the end was told to nobody, and is dropped. Anything else that is
//! wrong is refused: nobody can say what is missing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use crate::protocol::master::Memory;
use crate::wire::control::{FRAME_HEADER_BYTES, FrameHeader};
use crate::wire::record::Record;

const MAGIC: &[u8; 8] = b"PCCLRUN1";
const HEADER_BYTES: usize = 20;

/// A file that has grown by so much since it began is begun anew.
const GROWTH_BYTES_MAX: u64 = 1 << 20;

/// The largest file that is read: all of a run of the most peers there may be is far below.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// See the module's text.
#[derive(Debug)]
pub(super) struct StateDir {
    directory: PathBuf,
    file: Option<File>,
    /// What is in the file.
    memory: Memory,
    grown_bytes: u64,
    is_synced: bool,
    /// Writing has failed: it is only said once.
    has_failed: bool,
    _lock: File,
}

impl StateDir {
    /// Opens a directory, which is made where there is none; gives what is written there, if
    /// anything is.
    pub(super) fn open(directory: &Path) -> Result<(Self, Option<Memory>), String> {
        let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
        fs::create_dir_all(directory).map_err(|error| failed("make it", error))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("lock"))
            .map_err(|error| failed("open `lock` in it", error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                "another master uses it; end that one, or give this one its own".to_owned()
            }
            TryLockError::Error(error) => failed("lock it", error),
        })?;
        let memory = match read(&directory.join(FILE)) {
            Ok(bytes) => Some(parse(&bytes).map_err(|damage| {
                format!("{damage}; move it away to start without it: peers that are alive know all that is needed")
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&format!("read `{FILE}` in it"), error)),
        };
        let mut opened = Self {
            directory: directory.to_owned(),
            file: None,
            memory: memory.clone().unwrap_or_default(),
            grown_bytes: 0,
            is_synced: true,
            has_failed: false,
            _lock: lock,
        };
        if memory.is_some() {
            info!(directory = %directory.display(), "a run is written down here; its peers are waited for");
            opened
                .begin()
                .map_err(|error| failed("write to it", error))?;
        }
        Ok((opened, memory))
    }

    /// Writes a record, which is on the disk after the next `sync`.
    pub(super) fn write(&mut self, record: Record) {
        let begins_anew =
            matches!(record, Record::Ruling { .. }) || self.grown_bytes > GROWTH_BYTES_MAX;
        let bytes = FrameHeader::frame(&record.encode());
        self.memory.learn(record);
        let written = match &mut self.file {
            Some(file) if !begins_anew => {
                self.is_synced = false;
                self.grown_bytes += bytes.len() as u64;
                file.write_all(&bytes)
            }
            _ => self.begin(),
        };
        self.note(written);
    }

    /// What was written is there for good on return.
    pub(super) fn sync(&mut self) {
        if let Some(file) = &self.file
            && !self.is_synced
        {
            let synced = file.sync_data();
            self.is_synced = true;
            self.note(synced);
        }
    }

    /// The run does not depend on it: its peers know all of it.
    fn note(&mut self, result: io::Result<()>) {
        match result {
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                // Half a record must not be followed by a whole one.
                self.file = None;
                error!(directory = %self.directory.display(), %error, "cannot write to the state directory; the run goes on without, and it is tried again");
            }
            Err(_) => self.file = None,
            Ok(()) if self.has_failed => {
                self.has_failed = false;
                warn!(directory = %self.directory.display(), "the state directory is written to again");
            }
            Ok(()) => {}
        }
    }

    /// Puts a file in place that says all of it.
    fn begin(&mut self) -> io::Result<()> {
        self.file = None;
        let records = self.memory.records();
        let frames: Vec<u8> = records
            .iter()
            .flat_map(|record| FrameHeader::frame(&record.encode()))
            .collect();
        let next = self.directory.join("run.pccl.next");
        let mut file = File::create(&next)?;
        file.write_all(&header(frames.len() as u64))?;
        file.write_all(&frames)?;
        file.sync_all()?;
        fs::rename(&next, self.directory.join(FILE))?;
        File::open(&self.directory)?.sync_all()?;
        self.file = Some(file);
        self.grown_bytes = 0;
        self.is_synced = true;
        Ok(())
    }
}

const FILE: &str = "run.pccl";

fn header(len_bytes: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&len_bytes.to_le_bytes());
    let checksum = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let len_bytes = fs::metadata(path)?.len();
    if len_bytes > FILE_BYTES_MAX {
        let reason = format!("it has {len_bytes} bytes, more than {FILE_BYTES_MAX}");
        return Err(io::Error::other(reason));
    }
    fs::read(path)
}

/// What is in a file.
fn parse(bytes: &[u8]) -> Result<Memory, String> {
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
        return Err(format!(
            "`{FILE}` is not the state of a master, or that of another version"
        ));
    }
    let (first_part_bytes, records) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .and_then(|(found, rest)| {
            let len_bytes = u64::from_le_bytes(found[8..16].try_into().ok()?);
            (*found == header(len_bytes)).then_some((len_bytes, rest))
        })
        .ok_or_else(|| format!("the beginning of `{FILE}` is damaged"))?;
    let mut memory = Memory::default();
    let mut at = 0;
    while at < records.len() {
        let is_first_part = (at as u64) < first_part_bytes;
        match next(&records[at..]) {
            Ok((record, len_bytes)) => {
                memory.learn(record);
                at += len_bytes;
            }
            Err(Damage::Torn) if !is_first_part => {
                warn!(
                    dropped_bytes = records.len() - at,
                    "the last record of the state directory is torn; it was told to nobody"
                );
                return Ok(memory);
            }
            Err(damage) => {
                let at = HEADER_BYTES + at;
                let what = match damage {
                    Damage::Torn => "ends in the middle of a record".to_owned(),
                    Damage::Wrong(reason) => reason,
                };
                return Err(format!("`{FILE}` is damaged at byte {at}: {what}"));
            }
        }
    }
    if (records.len() as u64) < first_part_bytes {
        return Err(format!("`{FILE}` is cut off"));
    }
    Ok(memory)
}

enum Damage {
    /// The bytes end before the record does.
    Torn,
    Wrong(String),
}

fn next(bytes: &[u8]) -> Result<(Record, usize), Damage> {
    let wrong = |error: crate::wire::control::DecodeError| Damage::Wrong(error.to_string());
    let (header, rest) = bytes
        .split_first_chunk::<FRAME_HEADER_BYTES>()
        .ok_or(Damage::Torn)?;
    let header = FrameHeader::decode(*header).map_err(wrong)?;
    let body = rest.get(..header.len_bytes).ok_or(Damage::Torn)?;
    header.check(body).map_err(wrong)?;
    let record = Record::decode(body).map_err(wrong)?;
    Ok((record, FRAME_HEADER_BYTES + header.len_bytes))
}

#[cfg(test)]
mod tests {
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
                longest = longest.max(fs::metadata(place.file()).unwrap().len());
            }
        }
        assert!(longest < 2 * GROWTH_BYTES_MAX, "{longest}");
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
}
