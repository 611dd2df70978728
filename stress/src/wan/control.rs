//! The control channel: a FIFO that orders come through while the emulator runs, a line each.
//!
//! Whoever writes into it takes no more of the emulator's time and memory than a little: it is read
//! once a turn, and a line without an end is dropped.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::order::{self, Order};
use super::os;

/// What is read in one turn.
const READ_BYTES: usize = 4 << 10;

/// No order is nearly as long.
const LONGEST_LINE: usize = 64 << 10;

pub(super) struct Control {
    fifo: File,
    lines: Lines,
}

impl Control {
    /// Makes the FIFO.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        os::make_fifo(path).map_err(failed)?;
        // A FIFO that is open for writing here, too, never ends when a writer goes.
        let mut options = File::options();
        options.read(true).write(true);
        let options = options.custom_flags(libc::O_NONBLOCK);
        Ok(Self {
            fifo: options.open(path).map_err(failed)?,
            lines: Lines::default(),
        })
    }

    /// What has come, and what of it is no order and why. What is left in the FIFO is for the next
    /// turn.
    pub(super) fn read(&mut self, peers: usize) -> impl Iterator<Item = Result<Order, String>> {
        let mut bytes = [0; READ_BYTES];
        // Nothing to read is the only error that a FIFO has.
        let len = self.fifo.read(&mut bytes).unwrap_or(0);
        self.lines.add(&bytes[..len]);
        std::iter::from_fn(move || self.lines.next(peers))
    }
}

impl AsRawFd for Control {
    fn as_raw_fd(&self) -> RawFd {
        self.fifo.as_raw_fd()
    }
}

/// Bytes, cut into lines.
#[derive(Default)]
struct Lines {
    /// From the first line on that has not been given out.
    bytes: Vec<u8>,
    /// Lines that have ended, of all that ever came.
    ended: u64,
    /// The line that has not ended is one whose beginning was dropped.
    is_dropping: bool,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next order of those whose lines have ended, or why a line is none.
    fn next(&mut self, peers: usize) -> Option<Result<Order, String>> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.ended += 1;
            if std::mem::take(&mut self.is_dropping) {
                continue;
            }
            let line = String::from_utf8_lossy(&line);
            let order = order::parse_line(self.ended, &line, peers);
            if let Some(order) = order.transpose() {
                return Some(order);
            }
        }
        if self.bytes.len() <= LONGEST_LINE {
            return None;
        }
        self.bytes.clear();
        let was_dropping = std::mem::replace(&mut self.is_dropping, true);
        let number = self.ended + 1;
        (!was_dropping).then(|| Err(format!("line {number} is longer than 64 KiB: dropped")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::Ways;
    use super::*;

    fn add(lines: &mut Lines, bytes: &[u8]) -> Vec<Result<Order, String>> {
        lines.add(bytes);
        std::iter::from_fn(|| lines.next(3)).collect()
    }

    #[test]
    fn an_order_holds_from_its_end_on_however_it_came() {
        let mut lines = Lines::default();
        assert_eq!(add(&mut lines, b"cut"), []);
        assert_eq!(add(&mut lines, b" 0>1"), []);
        let orders = add(&mut lines, b"\n# nothing\n\nheal\ncu");
        let cut = Order::Cut(Ways::One(0, 1));
        assert_eq!(orders, [Ok(cut), Ok(Order::Heal(Ways::All))]);
        assert_eq!(add(&mut lines, b"t 0>1\n"), [Ok(cut)]);
    }

    #[test]
    fn lines_are_counted_from_the_first_that_ever_came() {
        let mut lines = Lines::default();
        assert_eq!(add(&mut lines, b"# nothing\nheal\n").len(), 1);
        let orders = add(&mut lines, b"hello\n");
        let [Err(reason)] = &orders[..] else {
            panic!("{orders:?}");
        };
        assert!(reason.starts_with("line 3: `hello`"), "{reason}");
    }

    #[test]
    fn a_line_without_an_end_is_dropped_and_said_once() {
        let mut lines = Lines::default();
        assert_eq!(add(&mut lines, b"heal\n").len(), 1);
        let mut said = Vec::new();
        for _ in 0..100 {
            said.extend(add(&mut lines, &[b'0'; READ_BYTES]));
            assert!(lines.bytes.len() <= LONGEST_LINE);
        }
        assert_eq!(
            said,
            [Err("line 2 is longer than 64 KiB: dropped".to_owned())]
        );
        assert_eq!(
            add(&mut lines, b"heal\nheal\n"),
            [Ok(Order::Heal(Ways::All))]
        );
        assert_eq!(lines.ended, 3);
    }
}
