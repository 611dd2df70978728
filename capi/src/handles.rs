//! Pointers that C holds, and the objects behind them.
//!
//! A pointer is a number that is never followed: it is looked up, and none is given out twice. So one
//! that was destroyed already, in whatever thread, is an error and no crash, and an object lives for as
//! long as a call is inside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::guard::{Failure, Outcome};
use crate::types::Opaque;

/// All objects of one kind that C knows of.
pub(crate) struct Handles<T> {
    objects: Mutex<BTreeMap<usize, Arc<T>>>,
}

/// Of both kinds, so that one is never taken for the other. Not small, so that it looks like a
/// pointer, and a multiple of 16, as pointers to objects are.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000_0000);

impl<T> Handles<T> {
    pub(crate) const fn new() -> Self {
        Self {
            objects: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn insert(&self, object: T) -> *mut Opaque {
        let number = NEXT.fetch_add(16, Ordering::Relaxed);
        self.objects.lock().insert(number, Arc::new(object));
        std::ptr::without_provenance_mut(number)
    }

    pub(crate) fn get(&self, handle: *const Opaque) -> Outcome<Arc<T>> {
        if handle.is_null() {
            return Err(Failure::argument("the handle is NULL"));
        }
        let object = self.objects.lock().get(&handle.addr()).cloned();
        object.ok_or_else(gone)
    }

    pub(crate) fn remove(&self, handle: *const Opaque) -> Outcome<Arc<T>> {
        if handle.is_null() {
            return Err(Failure::argument("the handle is NULL"));
        }
        let object = self.objects.lock().remove(&handle.addr());
        object.ok_or_else(gone)
    }
}

fn gone() -> Failure {
    Failure::usage("the handle was destroyed, or never came from this library")
}
