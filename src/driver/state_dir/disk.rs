//! Where the file lies.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::FILE;

/// The largest file that is read: all of a run of the most peers there may be is far below.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What to do where a directory cannot be used.
pub(super) const WITHOUT: &str =
    "mend that, or start without a state directory: peers that are alive know all that is needed";

/// Holds one file. Its name is what people are told.
pub(crate) trait Disk: fmt::Display + fmt::Debug + Send {
    /// The whole file, if there is one.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Puts a file in the place of what is there, as a whole or not at all; it is there for good on
    /// return, and appended to from then on.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Appends to it; what was appended is there for good after the next `sync`.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    fn sync(&mut self) -> io::Result<()>;
}

/// A directory that one master uses at a time.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// What is appended to.
    file: Option<File>,
    _lock: File,
}

impl Directory {
    /// Makes it where there is none.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}; {WITHOUT}");
        if path.exists() && !path.is_dir() {
            return Err("it is not a directory".to_owned());
        }
        make(path).map_err(|error| failed("make it", error))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(|error| failed("open `lock` in it", error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                "another master uses it; end that one, or give this one its own".to_owned()
            }
            TryLockError::Error(error) => failed("lock it", error),
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: None,
            _lock: lock,
        })
    }
}

/// Makes a directory, and those above it; they are there for good on return.
fn make(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|above| !above.exists()).count();
    fs::create_dir_all(path)?;
    let parents = path.ancestors().skip(1).take(missing);
    for parent in parents {
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

impl Disk for Directory {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let path = self.path.join(FILE);
        let len_bytes = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?.len(),
        };
        if len_bytes > FILE_BYTES_MAX {
            let reason = format!("it has {len_bytes} bytes, more than {FILE_BYTES_MAX}");
            return Err(io::Error::other(reason));
        }
        fs::read(path).map(Some)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file = None;
        let next = self.path.join("run.pccl.next");
        let mut file = File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&next, self.path.join(FILE))?;
        File::open(&self.path)?.sync_all()?;
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::Error::other("no file was put in place")),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        if file.metadata()?.nlink() == 0 {
            return Err(io::Error::other(format!("`{FILE}` was removed")));
        }
        file.sync_data()
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
