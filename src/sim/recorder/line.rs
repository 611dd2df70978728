//! How a record looks in the trace.

use std::fmt::{self, Write};

use crate::sim::history::{Call, Event, Record, Returned};

/// One line without its end. Of long content, its length and the beginning of its hash.
pub(super) fn write(line: &mut String, record: &Record) {
    let _ = write!(line, "{} {} ", record.at, record.process);
    let _ = match &record.event {
        Event::Called { call, life, what } => match what {
            Call::Sync { revision, content } => {
                write!(
                    line,
                    "call {call} in life {life}: Sync {revision}, {}",
                    Bytes(content)
                )
            }
            Call::Reduce {
                tag,
                data_type,
                op,
                input,
                in_place,
                deadline,
            } => write!(
                line,
                "call {call} in life {life}: Reduce tag {tag}, {op} of {data_type}, {}, \
                 in place {in_place}, deadline {deadline:?}",
                Bytes(input)
            ),
            what => write!(line, "call {call} in life {life}: {what:?}"),
        },
        Event::Returned { call, result } => match result {
            Returned::Sync { result, content } => {
                write!(line, "return {call}: {result:?}, {}", Bytes(content))
            }
            Returned::Reduce {
                result,
                input,
                output,
            } => write!(
                line,
                "return {call}: {result:?}, input {}, output {}",
                Bytes(input),
                Bytes(output)
            ),
            result => write!(line, "return {call}: {result:?}"),
        },
        event => write!(line, "{event:?}"),
    };
}

struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = blake3::hash(self.0);
        write!(f, "{} bytes {}", self.0.len(), &hash.to_hex()[..8])
    }
}
