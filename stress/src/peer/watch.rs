//! Writes down calls that go on for long, so that one that never returns leaves a trace.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::log::Log;

/// What takes longer than this is written down, and again after each such time.
const LONG: Duration = Duration::from_secs(5);

/// The call that this process is in, if it is in one.
pub(super) struct Watch(Mutex<Option<(&'static str, Instant)>>);

/// The call lasts until this is dropped.
pub(super) struct Watched(Arc<Watch>);

impl Watch {
    pub(super) fn start(log: &Path, who: &str) -> Result<Arc<Self>, String> {
        let mut log = Log::open(log, who)?;
        let watch = Arc::new(Self(Mutex::new(None)));
        let watched = watch.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(LONG);
                let current = *watched.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((call, since)) = current.filter(|(_, since)| since.elapsed() > LONG) {
                    let took_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    let call = call.to_owned();
                    log.note(Event::StillIn { call, took_us });
                }
            }
        });
        Ok(watch)
    }

    pub(super) fn enter(self: &Arc<Self>, call: &'static str) -> Watched {
        self.set(Some((call, Instant::now())));
        Watched(self.clone())
    }

    fn set(&self, call: Option<(&'static str, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
