//! Bytes to messages and back. Pure: no sockets, no clocks; nothing here can panic on bad input.

pub mod greeting;
