//! A master's disk: what was synced outlives a crash, of the rest only as much as had been written.

use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::driver;

/// What becomes of a master's disk while it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFate {
    /// It is as it was, but for what was not synced: so much of it is there, in percent.
    Kept {
        /// So much.
        unsynced_percent: u8,
    },
    /// A copy that somebody made before is put in its place.
    Copied {
        /// Which.
        copy: u64,
    },
    /// It is gone.
    Lost,
}

/// One file that is always there for the next start of the same master.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    synced: Option<Vec<u8>>,
    unsynced: Vec<u8>,
    copies: Vec<Vec<u8>>,
}

impl Disk {
    /// Somebody makes a copy of what is there.
    pub(super) fn copy(&self) {
        let contents = &mut *self.0.lock();
        let synced = contents.synced.iter().cloned();
        contents.copies.extend(synced);
    }

    /// What the next start finds.
    pub(super) fn suffer(&self, fate: DiskFate) {
        let contents = &mut *self.0.lock();
        let unsynced = std::mem::take(&mut contents.unsynced);
        match fate {
            DiskFate::Kept { unsynced_percent } => {
                let len_bytes = unsynced.len() * usize::from(unsynced_percent.min(100)) / 100;
                if let Some(synced) = &mut contents.synced {
                    synced.extend_from_slice(&unsynced[..len_bytes]);
                }
            }
            DiskFate::Copied { copy } => {
                let place = copy.checked_rem(contents.copies.len() as u64);
                contents.synced = place.map(|place| contents.copies[place as usize].clone());
            }
            DiskFate::Lost => contents.synced = None,
        }
    }
}

impl driver::Disk for Disk {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().synced.clone())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let contents = &mut *self.0.lock();
        contents.synced = Some(bytes.to_vec());
        contents.unsynced.clear();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unsynced.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let contents = &mut *self.0.lock();
        if let Some(synced) = &mut contents.synced {
            synced.append(&mut contents.unsynced);
        }
        Ok(())
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a simulated disk")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Disk as _;

    fn written() -> Disk {
        let mut disk = Disk::default();
        disk.replace(b"first").unwrap();
        disk.copy();
        disk.append(b" second").unwrap();
        disk.sync().unwrap();
        disk.copy();
        disk.append(b" third").unwrap();
        disk
    }

    fn found(fate: DiskFate) -> Option<Vec<u8>> {
        let mut disk = written();
        disk.suffer(fate);
        disk.read().unwrap()
    }

    #[test]
    fn what_was_synced_outlives_a_crash() {
        for (unsynced_percent, expected) in [
            (0, "first second"),
            (50, "first second th"),
            (100, "first second third"),
        ] {
            let bytes = found(DiskFate::Kept { unsynced_percent }).unwrap();
            assert_eq!(bytes, expected.as_bytes());
        }
        assert_eq!(found(DiskFate::Lost), None);
    }

    #[test]
    fn copies_are_what_was_there_when_they_were_made() {
        for (copy, expected) in [(0, "first"), (1, "first second"), (2, "first")] {
            let bytes = found(DiskFate::Copied { copy }).unwrap();
            assert_eq!(bytes, expected.as_bytes());
        }
        let disk = Disk::default();
        disk.suffer(DiskFate::Copied { copy: 7 });
        assert_eq!(disk.clone().read().unwrap(), None);
    }
}
