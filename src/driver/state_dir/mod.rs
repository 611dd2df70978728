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
//! little-endian. What is torn at the end was told to nobody, and is dropped: the file ends in the middle
//! of a record, or in sectors of zeros, as a file that grew is left by a power loss. Anything else that
//! is wrong is refused: nobody can say what is missing.

mod disk;
mod file;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use tracing::{error, info, warn};

pub(crate) use disk::Disk;
use disk::{Directory, WITHOUT};
use file::FILE;

use crate::protocol::master::Memory;
use crate::wire::record::Record;

/// A file that has grown by so much since it began is begun anew.
const GROWTH_BYTES_MAX: u64 = 1 << 20;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct StateDir {
    disk: Box<dyn Disk>,
    /// What is in the file.
    memory: Memory,
    /// Whether the file may be appended to.
    is_begun: bool,
    grown_bytes: u64,
    is_synced: bool,
    /// Writing has failed: it is only said once.
    has_failed: bool,
}

impl StateDir {
    /// Opens a directory, which is made where there is none; gives what is written there, if
    /// anything is.
    pub(super) fn open(directory: &Path) -> Result<(Self, Option<Memory>), String> {
        Self::on(Box::new(Directory::open(directory)?))
    }

    /// Opens what is on a disk.
    pub(crate) fn on(mut disk: Box<dyn Disk>) -> Result<(Self, Option<Memory>), String> {
        let bytes = disk
            .read()
            .map_err(|error| format!("cannot read `{FILE}` in it: {error}; {WITHOUT}"))?;
        let memory = match bytes {
            Some(bytes) => Some(file::parse(&bytes).map_err(|damage| {
                format!("{damage}; move it away to start without it: peers that are alive know all that is needed")
            })?),
            None => None,
        };
        let mut opened = Self {
            disk,
            memory: memory.clone().unwrap_or_default(),
            is_begun: false,
            grown_bytes: 0,
            is_synced: true,
            has_failed: false,
        };
        if memory.is_some() {
            info!(directory = %opened.disk, "a run is written down here");
            // As later: where it cannot be written to, the run goes on without.
            let begun = opened.begin();
            opened.note(begun);
        }
        Ok((opened, memory))
    }

    /// Writes a record, which is on the disk after the next `sync`.
    pub(super) fn write(&mut self, record: Record) {
        // A file that begins anew takes the place of the one before only with all that belongs to it.
        self.is_begun &=
            !matches!(record, Record::Ruling { .. }) && self.grown_bytes <= GROWTH_BYTES_MAX;
        self.is_synced = false;
        if self.is_begun {
            let bytes = file::frame(&record);
            self.grown_bytes += bytes.len() as u64;
            let appended = self.disk.append(&bytes);
            self.note(appended);
        }
        self.memory.learn(record);
    }

    /// What was written is there for good on return.
    pub(super) fn sync(&mut self) {
        if self.is_synced {
            return;
        }
        let synced = match self.is_begun {
            true => self.disk.sync(),
            false => self.begin(),
        };
        self.is_synced = true;
        self.note(synced);
    }

    /// The run does not depend on it: its peers know all of it.
    fn note(&mut self, result: io::Result<()>) {
        // Half a record must not be followed by a whole one.
        self.is_begun &= result.is_ok();
        match result {
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                error!(directory = %self.disk, %error, "cannot write to the state directory; the run goes on without, and it is tried again");
            }
            Ok(()) if self.has_failed => {
                self.has_failed = false;
                warn!(directory = %self.disk, "the state directory is written to again");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Puts a file in place that says all of it.
    fn begin(&mut self) -> io::Result<()> {
        self.is_begun = false;
        self.disk.replace(&file::whole(&self.memory))?;
        self.is_begun = true;
        self.grown_bytes = 0;
        Ok(())
    }
}
