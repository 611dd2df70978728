//! What a matrix file and the control channel say, a line each:
//!
//! ```text
//!   0 1 100 500 1000 5 6000   from 0 to 1 and back: 100 ms round trip, 500 Mbit/s,
//!                             1000 of a million segments lost, 5 ms jitter, 6000 KiB queue
//!   0>1 - 100                 from 0 to 1 only: 100 Mbit/s; `-` and what is left out stay
//!   egress 2 800              all that 2 sends: 800 Mbit/s together; 0 is no limit
//!   cut 0 1                   nothing arrives any more, either way; cut 0>1 one way
//!   cut 2                     2 and all others do not hear each other
//!   heal 0 1                  likewise; `heal` alone: everything
//!   # a comment
//! ```

use super::link::{Nanos, Shape};

/// Which ways of links are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ways {
    All,
    /// From and to this one.
    Of(usize),
    Both(usize, usize),
    One(usize, usize),
}

impl Ways {
    pub(super) fn contains(self, from: usize, to: usize) -> bool {
        match self {
            Ways::All => true,
            Ways::Of(peer) => peer == from || peer == to,
            Ways::Both(one, other) => (one, other) == (from, to) || (other, one) == (from, to),
            Ways::One(start, end) => (start, end) == (from, to),
        }
    }
}

/// What is to change of a link; what is not there stays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) delay_ns: Option<Nanos>,
    pub(super) rate_bit: Option<u64>,
    pub(super) loss_ppm: Option<u32>,
    pub(super) jitter_ns: Option<Nanos>,
    pub(super) queue_bytes: Option<u64>,
}

impl Change {
    /// A queue that is not named holds what is under way in one round trip, and at least 256 KiB.
    pub(super) fn apply(self, shape: Shape) -> Shape {
        let delay_ns = self.delay_ns.unwrap_or(shape.delay_ns);
        let rate_bit = self.rate_bit.unwrap_or(shape.rate_bit);
        let is_as_before = delay_ns == shape.delay_ns && rate_bit == shape.rate_bit;
        let queue_bytes = match self.queue_bytes {
            Some(bytes) => bytes,
            None if is_as_before => shape.queue_bytes,
            None => usual_queue(2 * delay_ns, rate_bit),
        };
        Shape {
            delay_ns,
            rate_bit,
            loss_ppm: self.loss_ppm.unwrap_or(shape.loss_ppm),
            jitter_ns: self.jitter_ns.unwrap_or(shape.jitter_ns),
            queue_bytes,
        }
    }
}

/// Bytes that are under way in one round trip, and at least 256 KiB.
pub(super) fn usual_queue(rtt_ns: Nanos, rate_bit: u64) -> u64 {
    const LEAST: u64 = 256 << 10;
    let under_way = u128::from(rate_bit) * u128::from(rtt_ns) / 8_000_000_000;
    LEAST.max(under_way as u64)
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    Change(Ways, Change),
    Egress { peer: usize, rate_bit: u64 },
    Cut(Ways),
    Heal(Ways),
}

/// All orders of a text, or which line is none and why.
pub(super) fn parse_all(text: &str, peers: usize) -> Result<Vec<Order>, String> {
    let mut orders = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        orders.extend(parse_line(number, line, peers)?);
    }
    Ok(orders)
}

/// The order of a line, if there is any, or why it is none.
pub(super) fn parse_line(number: u64, line: &str, peers: usize) -> Result<Option<Order>, String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if line.is_empty() {
        return Ok(None);
    }
    let order = parse(line, peers);
    order
        .map(Some)
        .map_err(|reason| format!("line {number}: `{line}`: {reason}"))
}

/// One line without a comment.
pub(super) fn parse(line: &str, peers: usize) -> Result<Order, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.split_first() {
        Some((&"cut", rest)) if !rest.is_empty() => all_of(rest, peers).map(Order::Cut),
        Some((&"heal", [])) => Ok(Order::Heal(Ways::All)),
        Some((&"heal", rest)) => all_of(rest, peers).map(Order::Heal),
        Some((&"egress", [number, rate])) => Ok(Order::Egress {
            peer: peer(number, peers)?,
            rate_bit: megabits(rate)?,
        }),
        Some((first, _)) if first.starts_with(|c: char| c.is_ascii_digit()) => {
            let (ways, rest) = pair(&words, peers)?;
            Ok(Order::Change(ways, change(rest)?))
        }
        _ => Err("no such order: see `A WAN on one machine` in docs/TESTING.md".to_owned()),
    }
}

fn all_of(words: &[&str], peers: usize) -> Result<Ways, String> {
    if let [only] = words
        && !only.contains('>')
    {
        return peer(only, peers).map(Ways::Of);
    }
    match pair(words, peers)? {
        (ways, []) => Ok(ways),
        (_, [word, ..]) => Err(format!("`{word}` is too much")),
    }
}

/// The two peers that a line begins with, and what comes after them.
fn pair<'a, 'b>(words: &'a [&'b str], peers: usize) -> Result<(Ways, &'a [&'b str]), String> {
    let (ways, one, other, rest) = match words {
        [way, rest @ ..] if way.contains('>') => {
            let (from, to) = way.split_once('>').unwrap_or_default();
            let [from, to] = [peer(from, peers)?, peer(to, peers)?];
            (Ways::One(from, to), from, to, rest)
        }
        [one, other, rest @ ..] => {
            let [one, other] = [peer(one, peers)?, peer(other, peers)?];
            (Ways::Both(one, other), one, other, rest)
        }
        _ => return Err("names no two peers".to_owned()),
    };
    match one == other {
        true => Err("a peer has no link to itself".to_owned()),
        false => Ok((ways, rest)),
    }
}

fn peer(word: &str, peers: usize) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| *number < peers);
    number.ok_or_else(|| format!("`{word}` is no peer from 0 to {}", peers - 1))
}

fn change(words: &[&str]) -> Result<Change, String> {
    let mut change = Change::default();
    if words.is_empty() || words.len() > 5 {
        return Err("wants RTT_MS [RATE_MBIT [LOSS_PPM [JITTER_MS [QUEUE_KIB]]]]".to_owned());
    }
    for (column, word) in words.iter().enumerate().filter(|(_, word)| **word != "-") {
        match column {
            0 => change.delay_ns = Some(milliseconds(word)? / 2),
            1 => change.rate_bit = Some(megabits(word)?),
            2 => change.loss_ppm = Some(parts_per_million(word)?),
            3 => change.jitter_ns = Some(milliseconds(word)?),
            _ => change.queue_bytes = Some(kibibytes(word)?),
        }
    }
    Ok(change)
}

fn number(word: &str, most: f64) -> Result<f64, String> {
    let number = word.parse().ok().filter(|n| (0.0..=most).contains(n));
    number.ok_or_else(|| format!("`{word}` is no number from 0 to {most}"))
}

/// As nanoseconds; at most an hour.
pub(super) fn milliseconds(word: &str) -> Result<Nanos, String> {
    number(word, 3.6e6).map(|ms| (ms * 1e6).round() as Nanos)
}

/// As bits a second; at most a terabit.
pub(super) fn megabits(word: &str) -> Result<u64, String> {
    number(word, 1e6).map(|mbit| (mbit * 1e6).round() as u64)
}

pub(super) fn parts_per_million(word: &str) -> Result<u32, String> {
    number(word, 1e6).map(|ppm| ppm.round() as u32)
}

/// As bytes; at most 4 GiB.
pub(super) fn kibibytes(word: &str) -> Result<u64, String> {
    number(word, 4_194_304.0).map(|kib| (kib * 1024.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: Shape = Shape {
        delay_ns: 25_000_000,
        jitter_ns: 0,
        rate_bit: 1_000_000_000,
        loss_ppm: 7,
        queue_bytes: 6_250_000,
    };

    #[test]
    fn a_matrix_changes_what_it_names_and_leaves_the_rest() {
        let text = "# ours\n0 1 100 500 1000 5 64 # far\n\n1>2 - 100\negress 2 0.5\n";
        let orders = parse_all(text, 3).unwrap();
        let [
            Order::Change(first, far),
            Order::Change(second, slow),
            egress,
        ] = orders[..]
        else {
            panic!("{orders:?}");
        };
        assert_eq!((first, second), (Ways::Both(0, 1), Ways::One(1, 2)));
        let expected = Shape {
            delay_ns: 50_000_000,
            jitter_ns: 5_000_000,
            rate_bit: 500_000_000,
            loss_ppm: 1000,
            queue_bytes: 65_536,
        };
        assert_eq!(far.apply(FLAGS), expected);
        let expected = Shape {
            rate_bit: 100_000_000,
            queue_bytes: 625_000,
            ..FLAGS
        };
        assert_eq!(slow.apply(FLAGS), expected);
        let expected = Order::Egress {
            peer: 2,
            rate_bit: 500_000,
        };
        assert_eq!(egress, expected);
    }

    #[test]
    fn cuts_and_heals_name_one_way_both_or_all() {
        let order = |line| parse(line, 3).unwrap();
        assert_eq!(order("cut 0 1"), Order::Cut(Ways::Both(0, 1)));
        assert_eq!(order("cut 0>1"), Order::Cut(Ways::One(0, 1)));
        assert_eq!(order("cut 2"), Order::Cut(Ways::Of(2)));
        assert_eq!(order("heal 2"), Order::Heal(Ways::Of(2)));
        assert_eq!(order("heal"), Order::Heal(Ways::All));
        assert!(Ways::Both(0, 1).contains(1, 0) && !Ways::One(0, 1).contains(1, 0));
        assert!(Ways::Of(2).contains(2, 0) && !Ways::Of(2).contains(1, 0));
    }

    #[test]
    fn what_is_no_order_is_refused_with_its_line() {
        for line in [
            "cut",
            "cut 0 3",
            "cut 0 1 2",
            "cut 1 1",
            "heal x",
            "0 1",
            "0 1 x",
            "0 1 -5",
            "0 1 nan",
            "0 1 1 1 1 1 1 1",
            "0 1 50 1000 1000001",
            "0>",
            "egress 0",
            "egress 3 5",
            "hello",
            "0 0 50",
        ] {
            assert!(parse(line, 3).is_err(), "{line}");
            let refused = parse_all(&format!("0 1 50\n{line}"), 3);
            assert!(refused.is_err_and(|text| text.starts_with("line 2:")));
        }
    }
}
