//! One way of a link: what it does to what is sent, as arithmetic. Time is passed in.
//!
//! ```text
//!   offered -> queue, of so many bytes -> rate -> loss -> delay, with jitter -> arrives
//!              what does not fit is lost
//! ```
//!
//! Nothing is ever reordered. The queue is not stored: it is the time for which the line is taken.

use crate::random::Random;

/// Nanoseconds since the start of the run.
pub(super) type Nanos = u64;

/// Delays wander from one random value to the next in this time, or twice the jitter where that
/// is longer: slowly enough for what is sent later to arrive later.
const WANDER_NS: Nanos = 10_000_000;

/// What one way of a link is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    /// From one end to the other.
    pub(super) delay_ns: Nanos,
    /// The most that is added to it.
    pub(super) jitter_ns: Nanos,
    /// Bits a second of IP packets; 0 is no limit.
    pub(super) rate_bit: u64,
    /// Segments that are lost, of a million.
    pub(super) loss_ppm: u32,
    /// Bytes that may wait for the line.
    pub(super) queue_bytes: u64,
}

/// A line that carries one byte after the other.
#[derive(Default)]
pub(super) struct Line {
    free_at_ns: Nanos,
}

impl Line {
    /// Bytes that wait or are under way onto the line.
    fn backlog_bytes(&self, now: Nanos, rate_bit: u64) -> u64 {
        let busy_ns = self.free_at_ns.saturating_sub(now);
        (u128::from(busy_ns) * u128::from(rate_bit) / 8_000_000_000) as u64
    }

    /// How many of so many segments, from the first on, find room in the queue before the line.
    pub(super) fn fitting(
        &self,
        now: Nanos,
        rate_bit: u64,
        queue_bytes: u64,
        segments: usize,
        wire_bytes: impl Fn(usize) -> u64,
    ) -> usize {
        if rate_bit == 0 {
            return segments;
        }
        let waiting = self.backlog_bytes(now, rate_bit);
        let room = queue_bytes.saturating_sub(waiting);
        // A queue has room for a packet while it is empty, however small it is.
        let at_least = segments.min(usize::from(waiting == 0));
        let mut fitting = segments;
        while fitting > at_least && wire_bytes(fitting) > room {
            fitting -= 1;
        }
        fitting
    }

    /// Puts bytes behind those that wait; returns when the last has left.
    pub(super) fn send(&mut self, now: Nanos, bytes: u64, rate_bit: u64) -> Nanos {
        let start = self.free_at_ns.max(now);
        let takes_ns = match rate_bit {
            0 => 0,
            rate => (u128::from(bytes) * 8_000_000_000).div_ceil(u128::from(rate)) as u64,
        };
        self.free_at_ns = start + takes_ns;
        self.free_at_ns
    }
}

/// What became of the segments of one packet.
#[derive(Debug, PartialEq)]
pub(super) struct Fate {
    /// So many fitted into the queue, from the first on.
    pub(super) fitted: usize,
    /// Those of them that are lost on the way, in order.
    pub(super) lost: Vec<usize>,
    /// When the others arrive, all together.
    pub(super) arrives_at: Nanos,
}

pub(super) struct Link {
    pub(super) shape: Shape,
    pub(super) is_cut: bool,
    line: Line,
    losses: Losses,
    wander: Wander,
    last_arrival: Nanos,
}

impl Link {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            is_cut: false,
            line: Line::default(),
            losses: Losses::new(shape.loss_ppm, seed),
            wander: Wander::new(seed),
            last_arrival: 0,
        }
    }

    /// From now on; what is under way arrives as it would have.
    pub(super) fn reshape(&mut self, shape: Shape) {
        if shape.loss_ppm != self.shape.loss_ppm {
            self.losses.set(shape.loss_ppm);
        }
        self.shape = shape;
    }

    /// A packet of so many segments; `wire_bytes` says how large the first few of them are.
    pub(super) fn offer(
        &mut self,
        now: Nanos,
        segments: usize,
        wire_bytes: impl Fn(usize) -> u64,
    ) -> Fate {
        let shape = self.shape;
        let (rate_bit, queue_bytes) = (shape.rate_bit, shape.queue_bytes);
        let line = &self.line;
        let fitted = line.fitting(now, rate_bit, queue_bytes, segments, &wire_bytes);
        let bytes = if fitted == 0 { 0 } else { wire_bytes(fitted) };
        let sent_at = self.line.send(now, bytes, shape.rate_bit);
        let delay_ns = shape.delay_ns + self.wander.at(sent_at, shape.jitter_ns);
        self.last_arrival = self.last_arrival.max(sent_at + delay_ns);
        Fate {
            fitted,
            lost: self.losses.among(fitted),
            arrives_at: self.last_arrival,
        }
    }
}

/// Independent losses, drawn once a loss and not once a segment.
struct Losses {
    random: Random,
    ppm: u32,
    /// Segments that pass before the next is lost.
    pass: u64,
}

impl Losses {
    fn new(ppm: u32, seed: u64) -> Self {
        let mut losses = Self {
            random: Random::new(seed),
            ppm: 0,
            pass: 0,
        };
        losses.set(ppm);
        losses
    }

    fn set(&mut self, ppm: u32) {
        self.ppm = ppm;
        self.pass = self.draw();
    }

    /// Geometrically distributed.
    fn draw(&mut self) -> u64 {
        let chance = f64::from(self.ppm) / 1e6;
        if chance <= 0.0 {
            return u64::MAX;
        }
        // Above 0 and at most 1.
        let uniform = ((self.random.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (uniform.ln() / (-chance).ln_1p()) as u64
    }

    /// Which of the next so many segments are lost.
    fn among(&mut self, segments: usize) -> Vec<usize> {
        let mut lost = Vec::new();
        let mut seen = 0_u64;
        while self.pass < segments as u64 - seen {
            seen += self.pass;
            lost.push(seen as usize);
            seen += 1;
            self.pass = self.draw();
        }
        if self.ppm > 0 {
            self.pass -= segments as u64 - seen;
        }
        lost
    }
}

/// An extra delay that moves in straight lines between random values.
struct Wander {
    random: Random,
    from: (Nanos, Nanos),
    to: (Nanos, Nanos),
}

impl Wander {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(!seed),
            from: (0, 0),
            to: (0, 0),
        }
    }

    /// The extra delay at this time, which never goes back; at most `jitter_ns`.
    fn at(&mut self, now: Nanos, jitter_ns: Nanos) -> Nanos {
        if jitter_ns == 0 {
            self.to = (now, 0);
            return 0;
        }
        if now >= self.to.0 {
            let period = WANDER_NS.max(2 * jitter_ns);
            // After a pause nothing is under way that could be overtaken.
            self.from = (now, self.to.1.min(jitter_ns));
            self.to = (now + period, self.random.within(0, jitter_ns + 1));
        }
        let [(start, low), (end, high)] = [self.from, self.to];
        let [low, high] = [low as f64, high as f64];
        let share = (now - start) as f64 / (end - start) as f64;
        (low + (high - low) * share) as Nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIGABIT: Shape = Shape {
        delay_ns: 25_000_000,
        jitter_ns: 0,
        rate_bit: 1_000_000_000,
        loss_ppm: 0,
        queue_bytes: 10_000,
    };

    fn even(segments: usize) -> u64 {
        segments as u64 * 1000
    }

    #[test]
    fn bytes_leave_one_after_the_other_and_arrive_a_delay_later() {
        let mut link = Link::new(GIGABIT, 1);
        // 1000 bytes take 8 us.
        assert_eq!(link.offer(0, 1, even).arrives_at, 25_008_000);
        assert_eq!(link.offer(2_000, 2, even).arrives_at, 25_024_000);
        // The line has been free for a while.
        assert_eq!(link.offer(1_000_000, 1, even).arrives_at, 26_008_000);
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_dropped_from_the_tail() {
        let mut link = Link::new(GIGABIT, 1);
        assert_eq!(link.offer(0, 7, even).fitted, 7);
        assert_eq!(link.offer(0, 7, even).fitted, 3);
        assert_eq!(link.offer(0, 7, even).fitted, 0);
        // Two segments have left.
        assert_eq!(link.offer(16_000, 7, even).fitted, 2);
    }

    #[test]
    fn an_empty_queue_takes_a_packet_that_is_larger_than_it() {
        let shape = Shape {
            queue_bytes: 1,
            ..GIGABIT
        };
        let mut link = Link::new(shape, 1);
        assert_eq!(link.offer(0, 5, even).fitted, 1);
        assert_eq!(link.offer(0, 5, even).fitted, 0);
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let shape = Shape {
            rate_bit: 0,
            ..GIGABIT
        };
        let mut link = Link::new(shape, 1);
        for _ in 0..3 {
            assert_eq!(link.offer(0, 60, even).arrives_at, 25_000_000);
        }
    }

    #[test]
    fn losses_are_as_many_as_asked_for_however_segments_are_packed() {
        for segments in [1, 7, 45] {
            let mut losses = Losses::new(10_000, 7);
            let packets = 1_000_000 / segments;
            let lost: usize = (0..packets).map(|_| losses.among(segments).len()).sum();
            assert!((9_500..10_500).contains(&lost), "{lost}");
        }
        let mut all = Losses::new(1_000_000, 7);
        assert_eq!(all.among(3), [0, 1, 2]);
        let mut none = Losses::new(0, 7);
        assert_eq!(none.among(1 << 30), [0_usize; 0]);
    }

    #[test]
    fn the_same_segments_are_lost_however_they_are_packed() {
        let lost = |packing: &[usize]| {
            let mut losses = Losses::new(200_000, 3);
            let mut base = 0;
            let mut all = Vec::new();
            for segments in packing {
                all.extend(losses.among(*segments).iter().map(|index| base + index));
                base += segments;
            }
            all
        };
        assert_eq!(lost(&[30]), lost(&[1; 30]));
        assert_eq!(lost(&[30]), lost(&[7, 3, 20]));
    }

    #[test]
    fn jitter_varies_the_delay_within_its_bounds_and_keeps_the_order() {
        let shape = Shape {
            jitter_ns: 8_000_000,
            rate_bit: 0,
            ..GIGABIT
        };
        let mut link = Link::new(shape, 5);
        let mut delays = Vec::new();
        let mut last = 0;
        for now in (0..10_000_000_000).step_by(100_000) {
            let arrives_at = link.offer(now, 1, even).arrives_at;
            assert!(arrives_at >= last);
            last = arrives_at;
            delays.push(arrives_at - now);
        }
        let (low, high) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!((25_000_000..26_000_000).contains(low), "{low}");
        assert!((32_000_000..=33_000_000).contains(high), "{high}");
    }
}
