//! The boundary: every function runs in [`guard`] or [`guard_of`], which turn a failure into its code, keep
//! its text for `pcclGetLastError`, and let no panic out.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::types::{
    Code, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, NOT_INITIALIZED, Opaque, SUCCESS,
};

/// What a call failed with: the code for the program, the text for who reads the log.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) text: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Failure {
        Failure {
            code,
            text: text.into(),
        }
    }

    pub(crate) fn argument(text: impl Into<String>) -> Failure {
        Self::new(INVALID_ARGUMENT, text)
    }

    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Self::new(INVALID_USAGE, text)
    }
}

static INITIALIZED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Of the last call that failed on this thread.
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on communicators can be made.
pub(crate) fn initialize() {
    INITIALIZED.store(true, Ordering::Release);
}

/// What every function of a communicator asks first.
pub(crate) fn initialized() -> Outcome {
    if INITIALIZED.load(Ordering::Acquire) {
        return Ok(());
    }
    Err(Failure::new(NOT_INITIALIZED, "pcclInit was not called"))
}

/// Runs one function of the API.
pub(crate) fn guard(name: &str, call: impl FnOnce() -> Outcome) -> Code {
    match caught(name, call) {
        Ok(()) => SUCCESS,
        Err(Failure { code, .. }) => code,
    }
}

/// Runs one function of a communicator, which keeps the text as well.
pub(crate) fn guard_of(
    name: &str,
    communicator: *const Opaque,
    call: impl FnOnce() -> Outcome,
) -> Code {
    match caught(name, call) {
        Ok(()) => SUCCESS,
        Err(Failure { code, text }) => {
            crate::communicator::keep_error(communicator, text);
            code
        }
    }
}

fn caught(name: &str, call: impl FnOnce() -> Outcome) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let reason = panic.downcast_ref::<String>().map(String::as_str);
        let reason = reason.or_else(|| panic.downcast_ref::<&str>().copied());
        let reason = reason.unwrap_or("no reason given");
        let text = format!("a defect of the library: {reason}");
        Err(Failure::new(INTERNAL_ERROR, text))
    });
    outcome.map_err(|Failure { code, text }| {
        tracing::debug!(call = name, code, reason = %text, "failed");
        let text = format!("{name}: {text}");
        // A thread that is ending has no place for it any more.
        let _ = LAST_ERROR.try_with(|last| last.borrow_mut().clone_from(&text));
        Failure { code, text }
    })
}

/// The text of this thread's last failure; empty where nothing failed.
pub(crate) fn last_error() -> String {
    LAST_ERROR
        .try_with(|last| last.borrow().clone())
        .unwrap_or_default()
}
