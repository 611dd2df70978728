//! The bytes of the file: see the module above for its layout.

use tracing::warn;

use crate::protocol::master::Memory;
use crate::wire::control::{DecodeError, FRAME_HEADER_BYTES, FrameHeader};
use crate::wire::record::Record;

/// Its name in the directory.
pub(super) const FILE: &str = "run.pccl";

const MAGIC: &[u8; 8] = b"PCCLRUN1";
pub(super) const HEADER_BYTES: usize = 20;

/// What a disk writes as a whole, or not at all.
const SECTOR_BYTES: usize = 512;

/// A file that says all of this, and nothing else so far.
pub(super) fn whole(memory: &Memory) -> Vec<u8> {
    let frames: Vec<u8> = memory.records().iter().flat_map(frame).collect();
    let mut bytes = header(frames.len() as u64).to_vec();
    bytes.extend(frames);
    bytes
}

/// A record as it is appended.
pub(super) fn frame(record: &Record) -> Vec<u8> {
    FrameHeader::frame(&record.encode())
}

fn header(len_bytes: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&len_bytes.to_le_bytes());
    let checksum = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// What is in a file.
pub(super) fn parse(bytes: &[u8]) -> Result<Memory, String> {
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
        let is_torn = || is_unwritten(HEADER_BYTES + at, &records[at..]);
        match next(&records[at..]) {
            Ok((record, len_bytes)) => {
                memory.learn(record);
                at += len_bytes;
            }
            Err(damage) if !is_first_part && (damage == Damage::Torn || is_torn()) => {
                warn!(
                    dropped_bytes = records.len() - at,
                    "the last record of the state directory is torn, and dropped: unless writing had failed before, it was told to nobody"
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

/// Whether the file has grown to its end, and what comes from here on never was written there, or not
/// all of it: sectors of zeros are left.
fn is_unwritten(at: usize, rest: &[u8]) -> bool {
    let zeros_at = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let first_sector = match zeros_at {
        0 => 0,
        _ => (at + zeros_at).next_multiple_of(SECTOR_BYTES) - at,
    };
    first_sector < rest.len()
}

#[derive(PartialEq)]
enum Damage {
    /// The bytes end before the record does.
    Torn,
    Wrong(String),
}

fn next(bytes: &[u8]) -> Result<(Record, usize), Damage> {
    let wrong = |error: DecodeError| Damage::Wrong(error.to_string());
    let (header, rest) = bytes
        .split_first_chunk::<FRAME_HEADER_BYTES>()
        .ok_or(Damage::Torn)?;
    let header = FrameHeader::decode(*header).map_err(wrong)?;
    let body = rest.get(..header.len_bytes).ok_or(Damage::Torn)?;
    header.check(body).map_err(wrong)?;
    let record = Record::decode(body).map_err(wrong)?;
    Ok((record, FRAME_HEADER_BYTES + header.len_bytes))
}
