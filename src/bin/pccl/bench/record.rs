//! What one peer measured, what all of them together amount to, and how that is printed.

use serde::{Deserialize, Serialize};

use super::raw::RawMeasurement;
use super::{Workload, size};

/// One size as one peer saw it; a line of JSON between the peer and who started it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct PeerMeasurement {
    /// Of one operation.
    pub(super) bytes: u64,
    /// Of each iteration, from the barrier to the end of its last operation.
    pub(super) seconds: Vec<f64>,
    /// Of this process over all iterations, the barrier before each included.
    pub(super) cpu_seconds: Option<f64>,
    /// Payload that this peer sent in one iteration.
    pub(super) tx_bytes: u64,
    /// Over all operations of the last iteration.
    pub(super) max_abs_error: f64,
    /// Of bare sockets, by turns with the iterations.
    #[serde(default)]
    pub(super) raw: Vec<RawMeasurement>,
    /// Round trips of 64 bytes over a bare socket; of one peer.
    #[serde(default)]
    pub(super) ping_seconds: Vec<f64>,
}

/// One size as all peers saw it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    op: &'static str,
    world: u32,
    /// Of one operation.
    bytes: u64,
    dtype: &'static str,
    /// None: the library's default.
    lanes: Option<u16>,
    concurrent: u32,
    in_place: bool,
    pages: &'static str,
    quantize: String,
    iters: usize,
    seconds_median: f64,
    seconds_p99: f64,
    seconds_min: f64,
    seconds_max: f64,
    /// Of the peer that sent most, in one iteration.
    tx_bytes: u64,
    /// 2(N-1)/N x bytes x concurrent / median.
    bus_bytes_per_s: f64,
    /// Of all peers together, per operation; the barrier before each iteration is included.
    cpu_seconds_per_op: Option<f64>,
    max_abs_error: f64,
    /// None: not measured.
    raw: Option<Raw>,
    /// None: not measured.
    ping: Option<PingRecord>,
}

/// Bare sockets under the congestion control that was faster.
#[derive(Clone, Debug, Serialize)]
struct Raw {
    congestion: String,
    seconds_median: f64,
    cpu_seconds_per_op: Option<f64>,
    /// Their median time as a part of the operation's: 1 is as fast as bare sockets.
    reached: f64,
}

/// A round trip of 64 bytes over a bare socket.
#[derive(Clone, Debug, Serialize)]
struct PingRecord {
    seconds_median: f64,
    /// The operation's median time, in such round trips.
    round_trips: f64,
}

impl Record {
    /// Puts the peers' measurements of one size together: the slowest counts in each iteration.
    pub(super) fn merge(
        world: u32,
        workload: &Workload,
        peers: &[PeerMeasurement],
    ) -> Result<Record, String> {
        let first = peers.first().ok_or("nobody measured anything")?;
        let iters = first.seconds.len();
        if iters == 0 || peers.iter().any(|peer| peer.seconds.len() != iters) {
            return Err("the peers measured different numbers of iterations".to_owned());
        }
        let of_peers: Vec<&[f64]> = peers.iter().map(|peer| &peer.seconds[..]).collect();
        let seconds = slowest_sorted(&of_peers);
        let median = quantile(&seconds, 0.5);
        let cpu_seconds: Option<f64> = peers.iter().map(|peer| peer.cpu_seconds).sum();
        let operations = f64::from(workload.concurrent) * iters as f64;
        let moved = first.bytes as f64 * f64::from(workload.concurrent);
        Ok(Record {
            op: workload.op.name(),
            world,
            bytes: first.bytes,
            dtype: workload.dtype.name(),
            lanes: workload.lanes,
            concurrent: workload.concurrent,
            in_place: workload.in_place,
            pages: workload.pages.name(),
            quantize: workload.quantize_name().to_owned(),
            iters,
            seconds_median: median,
            seconds_p99: quantile(&seconds, 0.99),
            seconds_min: quantile(&seconds, 0.0),
            seconds_max: quantile(&seconds, 1.0),
            tx_bytes: peers.iter().map(|peer| peer.tx_bytes).max().unwrap_or(0),
            bus_bytes_per_s: 2.0 * f64::from(world - 1) / f64::from(world) * moved / median,
            cpu_seconds_per_op: cpu_seconds.map(|seconds| seconds / operations),
            max_abs_error: largest(peers.iter().map(|peer| peer.max_abs_error)),
            raw: (0..first.raw.len())
                .map(|index| Raw::merge(peers, index, median, operations))
                .min_by(|one, other| one.seconds_median.total_cmp(&other.seconds_median)),
            ping: PingRecord::merge(peers, median),
        })
    }

    fn row(&self) -> String {
        let cpu = self
            .cpu_seconds_per_op
            .map_or_else(|| "?".to_owned(), |seconds| format!("{:.3}", seconds * 1e3));
        let raw = self.raw.as_ref().map_or_else(String::new, Raw::columns);
        let ping = self
            .ping
            .as_ref()
            .map_or_else(String::new, PingRecord::columns);
        format!(
            "{:>10} {:>5} {:>10.3} {:>10.3} {:>10.3} {:>10.3} {:>9.3} {:>12} {:>10} {:>10}{raw}{ping}",
            size::format(self.bytes),
            self.iters,
            self.seconds_median * 1e3,
            self.seconds_p99 * 1e3,
            self.seconds_min * 1e3,
            self.seconds_max * 1e3,
            self.bus_bytes_per_s / 1e9,
            self.tx_bytes,
            cpu,
            self.max_abs_error,
        )
    }
}

impl PingRecord {
    fn merge(peers: &[PeerMeasurement], median: f64) -> Option<PingRecord> {
        let mut seconds: Vec<f64> = (peers.iter())
            .flat_map(|peer| peer.ping_seconds.iter().copied())
            .collect();
        seconds.sort_by(f64::total_cmp);
        let seconds_median = quantile(&seconds, 0.5);
        (!seconds.is_empty()).then(|| PingRecord {
            seconds_median,
            round_trips: median / seconds_median,
        })
    }

    fn columns(&self) -> String {
        let micros = self.seconds_median * 1e6;
        format!(" {micros:>10.1} {:>11.1}", self.round_trips)
    }
}

impl Raw {
    fn merge(peers: &[PeerMeasurement], index: usize, median: f64, operations: f64) -> Raw {
        let measured = || peers.iter().filter_map(|peer| peer.raw.get(index));
        let of_peers: Vec<&[f64]> = measured().map(|raw| &raw.seconds[..]).collect();
        let seconds_median = quantile(&slowest_sorted(&of_peers), 0.5);
        let cpu_seconds: Option<f64> = measured().map(|raw| raw.cpu_seconds).sum();
        Raw {
            congestion: measured()
                .map(|raw| raw.congestion.clone())
                .next()
                .unwrap_or_default(),
            seconds_median,
            cpu_seconds_per_op: cpu_seconds.map(|seconds| seconds / operations),
            reached: seconds_median / median,
        }
    }

    fn columns(&self) -> String {
        let cpu = self
            .cpu_seconds_per_op
            .map_or_else(|| "?".to_owned(), |seconds| format!("{:.3}", seconds * 1e3));
        format!(
            " {:>10.3} {:>5} {cpu:>10} {:>7.1}%",
            self.seconds_median * 1e3,
            self.congestion,
            self.reached * 100.0,
        )
    }
}

/// Prints records as they come: a table with a heading, or a JSON object a line.
pub(super) struct Printer {
    json: bool,
    heading_printed: bool,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Printer {
            json,
            heading_printed: false,
        }
    }

    pub(super) fn print(&mut self, record: &Record) -> Result<(), String> {
        if self.json {
            let line = serde_json::to_string(record).map_err(|error| error.to_string())?;
            println!("{line}");
            return Ok(());
        }
        if !self.heading_printed {
            self.heading_printed = true;
            let lanes = record.lanes.map_or("default".to_owned(), |n| n.to_string());
            println!(
                "all-reduce {} {}, {} peers, lanes {lanes}, {} at once, {}",
                record.op,
                record.dtype,
                record.world,
                record.concurrent,
                if record.in_place {
                    "in place"
                } else {
                    "out of place"
                },
            );
            let raw = match record.raw {
                Some(_) => format!(
                    " {:>10} {:>5} {:>10} {:>8}",
                    "raw ms", "under", "cpu ms/op", "reached"
                ),
                None => String::new(),
            };
            let ping = match record.ping {
                Some(_) => format!(" {:>10} {:>11}", "ping us", "round trips"),
                None => String::new(),
            };
            println!(
                "{:>10} {:>5} {:>10} {:>10} {:>10} {:>10} {:>9} {:>12} {:>10} {:>10}{raw}{ping}",
                "bytes",
                "iters",
                "median ms",
                "p99 ms",
                "min ms",
                "max ms",
                "bus GB/s",
                "tx bytes",
                "cpu ms/op",
                "max error",
            );
        }
        println!("{}", record.row());
        Ok(())
    }
}

/// The slowest peer's time of each iteration, shortest first.
fn slowest_sorted(of_peers: &[&[f64]]) -> Vec<f64> {
    let iters = of_peers.iter().map(|peer| peer.len()).min().unwrap_or(0);
    let mut seconds: Vec<f64> = (0..iters)
        .map(|iteration| largest(of_peers.iter().map(|peer| peer[iteration])))
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// The value below or at which the fraction `q` of the sorted values lies (nearest rank).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        workload: Workload,
    }

    fn measured(seconds: &[f64], cpu_seconds: f64) -> PeerMeasurement {
        PeerMeasurement {
            bytes: 1000,
            seconds: seconds.to_vec(),
            cpu_seconds: Some(cpu_seconds),
            tx_bytes: 1500,
            max_abs_error: 0.0,
            raw: Vec::new(),
            ping_seconds: Vec::new(),
        }
    }

    fn merge(flags: &[&str], peers: &[PeerMeasurement]) -> Result<Record, String> {
        let line = std::iter::once(&"bench").chain(flags);
        let workload = Line::try_parse_from(line).expect("valid flags").workload;
        Record::merge(u32::try_from(peers.len()).expect("few"), &workload, peers)
    }

    #[test]
    fn the_slowest_peer_counts_in_each_iteration() {
        let peers = [
            measured(&[1.0, 5.0, 2.0], 3.0),
            measured(&[4.0, 1.0, 2.0], 3.0),
        ];
        let record = merge(&[], &peers).expect("a record");
        assert_eq!(record.seconds_min, 2.0);
        assert_eq!(record.seconds_median, 4.0);
        assert_eq!(record.seconds_max, 5.0);
        assert_eq!(record.bus_bytes_per_s, 1000.0 / 4.0);
        assert_eq!(record.cpu_seconds_per_op, Some(2.0));
    }

    #[test]
    fn concurrent_operations_share_the_time_and_the_cpu() {
        let peers = [measured(&[2.0], 4.0), measured(&[1.0], 4.0)];
        let record = merge(&["--concurrent=4"], &peers).expect("a record");
        assert_eq!(record.bus_bytes_per_s, 4.0 * 1000.0 / 2.0);
        assert_eq!(record.cpu_seconds_per_op, Some(2.0));
    }

    #[test]
    fn peers_that_measured_different_things_are_refused() {
        assert!(merge(&[], &[]).is_err());
        let peers = [measured(&[1.0], 1.0), measured(&[1.0, 2.0], 1.0)];
        assert!(merge(&[], &peers).is_err());
    }

    #[test]
    fn the_faster_of_the_bare_sockets_is_the_measure() {
        let raw = |congestion: &str, seconds: &[f64]| RawMeasurement {
            congestion: congestion.to_owned(),
            seconds: seconds.to_vec(),
            cpu_seconds: Some(1.0),
        };
        let one = PeerMeasurement {
            raw: vec![raw("slow", &[3.0]), raw("quick", &[1.0])],
            ..measured(&[4.0], 1.0)
        };
        let other = PeerMeasurement {
            raw: vec![raw("slow", &[1.0]), raw("quick", &[2.0])],
            ..measured(&[2.0], 1.0)
        };
        let record = merge(&[], &[one, other]).expect("a record");
        let raw = record.raw.expect("measured");
        assert_eq!(
            (raw.congestion.as_str(), raw.seconds_median),
            ("quick", 2.0)
        );
        assert_eq!((raw.reached, raw.cpu_seconds_per_op), (0.5, Some(2.0)));
    }

    #[test]
    fn a_small_operation_is_counted_in_round_trips() {
        let asks = PeerMeasurement {
            ping_seconds: vec![9.0, 0.5, 0.5],
            ..measured(&[2.0], 1.0)
        };
        let record = merge(&[], &[asks, measured(&[1.0], 1.0)]).expect("a record");
        assert_eq!(record.ping.map(|ping| ping.round_trips), Some(4.0));
        let record = merge(&[], &[measured(&[1.0], 1.0)]).expect("a record");
        assert!(record.ping.is_none());
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.0), 7.0);
    }
}
