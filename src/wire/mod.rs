//! Bytes to messages and back. Every length is bounded before memory is taken, and no input can
//! make a decoder panic.

pub mod control;
pub mod greeting;
pub mod hello;
pub mod lane;
pub mod record;
pub mod state;
