//! Writes and reads logs of events.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::clock;
use crate::event::{Event, Line};

/// Appends to a log; each event is one write, so that a kill costs at most the last line.
pub(crate) struct Log {
    file: File,
    who: String,
}

impl Log {
    pub(crate) fn open(path: &Path, who: &str) -> Result<Self, String> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            file: file.map_err(|error| format!("cannot write {}: {error}", path.display()))?,
            who: who.to_owned(),
        })
    }

    pub(crate) fn note(&mut self, event: Event) {
        let who = self.who.clone();
        self.note_of(&who, event);
    }

    /// Notes what was done to another process.
    pub(crate) fn note_of(&mut self, who: &str, event: Event) {
        let line = Line {
            at_us: clock::now_us(),
            who: who.to_owned(),
            event,
        };
        let written = serde_json::to_string(&line)
            .map_err(std::io::Error::other)
            .and_then(|text| self.file.write_all(format!("{text}\n").as_bytes()));
        if let Err(error) = written {
            eprintln!("stress: a line of the log is lost: {error}");
        }
    }
}

/// All lines of all logs in a folder, in order of time.
pub(crate) fn read_all(folder: &Path) -> Result<Vec<Line>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        for line in text.lines() {
            match serde_json::from_str::<Line>(line) {
                Ok(line) => lines.push(line),
                // The last line of a process that was killed may be half written.
                Err(_) if text.ends_with(line) => {}
                Err(error) => return Err(format!("{}: {error}: {line}", path.display())),
            }
        }
    }
    lines.sort_by_key(|line| line.at_us);
    Ok(lines)
}
