//! What a worker tells the program that started it: one JSON object a line on its output.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// Something that happened in a worker. Steps are outer steps, counted from 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The worker is a member of the run.
    Accepted {
        /// Workers in the run, this one included.
        world: u32,
    },
    /// A sync of the shared state brought this worker something: it was new, or had drifted.
    Received {
        step: u64,
        revision: u64,
        bytes: u64,
    },
    /// The worker was told to be the last at this reduction, and waits for the word to go on.
    Holding { step: u64 },
    /// Its all-reduce has started and has not returned.
    Reducing { step: u64 },
    /// Its all-reduce failed and will be tried again.
    Aborted {
        step: u64,
        /// Labels of the peers that were lost; empty for another cause.
        lost: Vec<String>,
        error: String,
        /// Workers that are left.
        world: u32,
        /// Since the call.
        seconds: f64,
        /// Whether the input is, bit for bit, what it was before the call.
        input_restored: bool,
    },
    /// An outer step is done.
    Step {
        step: u64,
        /// Workers whose pseudo-gradients are in it.
        world: u32,
        /// Mean over the inner steps.
        loss: f32,
        /// Share of `seconds` spent in calls of the library, waiting for others included.
        communication_seconds: f64,
        seconds: f64,
        /// Of parameters, momentum and step count after it.
        digest: String,
    },
    /// All outer steps are done.
    Final {
        steps: u64,
        world: u32,
        digest: String,
        /// On the test images, 0 to 1.
        accuracy: f64,
    },
    /// The worker gives up.
    Error { message: String },
}

impl Event {
    /// Writes the event as a line, at once.
    pub(super) fn write(&self, mut out: impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()
    }

    /// Reads a line that [`write`](Self::write) wrote.
    pub(super) fn parse(line: &str) -> Result<Event, String> {
        serde_json::from_str(line).map_err(|error| format!("not an event ({error}): {line}"))
    }
}

/// Short hex digest of what workers must agree on.
pub(super) fn digest(params: &[f32], momentum: &[f32], step: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    hash_floats(&mut hasher, params);
    hash_floats(&mut hasher, momentum);
    hasher.update(&step.to_le_bytes());
    let mut hex = hasher.finalize().to_hex().to_string();
    hex.truncate(16);
    hex
}

/// Adds the bits of `values`, little-endian.
pub(super) fn hash_floats(hasher: &mut blake3::Hasher, values: &[f32]) {
    const BLOCK: usize = 4096;
    let mut bytes = Vec::with_capacity(4 * BLOCK);
    for block in values.chunks(BLOCK) {
        bytes.clear();
        bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_pipe() {
        let events = [
            Event::Accepted { world: 3 },
            Event::Step {
                step: 7,
                world: 4,
                loss: 0.25,
                communication_seconds: 0.5,
                seconds: 1.5,
                digest: "00ff".into(),
            },
            Event::Aborted {
                step: 1,
                lost: vec!["worker-1".into()],
                error: "aborted:\nlost".into(),
                world: 3,
                seconds: 0.1,
                input_restored: true,
            },
        ];
        for event in events {
            let mut bytes = Vec::new();
            event.write(&mut bytes).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(text.matches('\n').count(), 1);
            assert_eq!(Event::parse(text.trim_end()).unwrap(), event);
        }
        assert!(Event::parse("hello").unwrap_err().contains("hello"));
    }

    #[test]
    fn the_digest_sees_every_part() {
        let base = digest(&[1.0, 2.0], &[3.0], 4);
        assert_eq!(base.len(), 16);
        assert_eq!(base, digest(&[1.0, 2.0], &[3.0], 4));
        assert_ne!(base, digest(&[1.0, -2.0], &[3.0], 4));
        assert_ne!(base, digest(&[1.0, 2.0], &[3.5], 4));
        assert_ne!(base, digest(&[1.0, 2.0], &[3.0], 5));
    }
}
