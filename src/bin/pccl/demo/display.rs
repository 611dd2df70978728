//! Progress as it happens: bars on a terminal, plain lines elsewhere, JSON lines on request.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::event::Event;
use super::record::Row;

/// Where and how progress is shown. A closed output is no reason to stop.
pub(super) enum Display {
    /// A bar for each worker.
    Bars {
        all: MultiProgress,
        steps: u64,
        bars: Vec<ProgressBar>,
    },
    /// A line for each outer step and each happening.
    Lines,
    /// An object for each event, on one line.
    Json,
}

#[derive(Serialize)]
struct Stamped<'a, T> {
    time: f64,
    worker: &'a str,
    #[serde(flatten)]
    event: T,
}

impl Display {
    /// Bars where the output is a terminal, lines where it is not, unless `json` is wanted.
    pub(super) fn new(json: bool, steps: u64) -> Self {
        if json {
            Display::Json
        } else if io::stdout().is_terminal() {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
            Display::Bars {
                all,
                steps,
                bars: Vec::new(),
            }
        } else {
            Display::Lines
        }
    }

    /// Something that people want to read.
    pub(super) fn say(&self, time: f64, text: &str) {
        match self {
            Display::Bars { all, .. } => {
                let _ = all.println(format!("{time:6.2} s  {text}"));
            }
            Display::Lines => {
                let _ = writeln!(io::stdout(), "{time:6.2} s  {text}");
            }
            Display::Json => {}
        }
    }

    /// Something that programs want to read: an event, or anything else in its place.
    pub(super) fn emit(&self, time: f64, worker: &str, event: impl Serialize) {
        if matches!(self, Display::Json) {
            print_json(&Stamped {
                time,
                worker,
                event,
            });
        }
    }

    /// A worker was started: workers get their bars in the order of their numbers.
    pub(super) fn add_worker(&mut self, label: &str) {
        let Display::Bars { all, steps, bars } = self else {
            return;
        };
        let bar = all.add(ProgressBar::new(*steps));
        let style =
            ProgressStyle::with_template("{prefix} {bar:24.cyan/blue} {pos:>3}/{len} {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label.to_string());
        bar.set_message("starting");
        bar.enable_steady_tick(Duration::from_millis(250));
        bars.push(bar);
    }

    /// A worker is where its event says.
    pub(super) fn update_worker(&self, worker: usize, event: &Event) {
        let Display::Bars { bars, .. } = self else {
            return;
        };
        let Some(bar) = bars.get(worker) else { return };
        match event {
            Event::Accepted { world } => bar.set_message(format!("world {world}  in the run")),
            Event::Step {
                step,
                world,
                loss,
                communication_seconds,
                seconds,
                digest,
            } => {
                bar.set_position(step + 1);
                let share = 100.0 * communication_seconds / seconds.max(f64::MIN_POSITIVE);
                bar.set_message(format!(
                    "world {world}  loss {loss:<8.4}  communication {share:3.0} %  digest {digest}"
                ));
            }
            Event::Final {
                digest, accuracy, ..
            } => {
                bar.finish_with_message(format!(
                    "done, {:.2} % right  digest {digest}",
                    100.0 * accuracy
                ));
            }
            Event::Error { message } => bar.abandon_with_message(message.clone()),
            _ => {}
        }
    }

    /// A worker is gone for a reason of ours.
    pub(super) fn end_worker(&self, worker: usize, reason: &str) {
        if let Display::Bars { bars, .. } = self
            && let Some(bar) = bars.get(worker)
        {
            bar.abandon_with_message(reason.to_string());
        }
    }

    /// An outer step is done everywhere.
    pub(super) fn row(&self, time: f64, steps: u64, row: &Row) {
        if matches!(self, Display::Lines) {
            let digest = row.digest.as_deref().unwrap_or("DIFFERENT");
            let text = format!(
                "outer step {:>3}/{steps}  world {}  loss {:<8.4}  communication {:3.0} %  digest {digest}",
                row.step + 1,
                row.world,
                row.loss,
                100.0 * row.communication,
            );
            self.say(time, &text);
        }
    }
}

/// Prints one JSON object on one line.
pub(super) fn print_json(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        let _ = writeln!(io::stdout(), "{line}");
    }
}
