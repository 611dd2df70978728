//! A simulated world that the whole library runs in, as it is shipped.

pub mod history;
