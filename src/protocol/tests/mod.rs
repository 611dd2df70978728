//! The two machines against each other, in memory: scenarios by hand, and random ones from seeds.

mod cluster;
mod detection;
mod membership;
mod operations;
mod random;
mod reports;
mod returning;
mod silence;
mod standby;
mod strangers;
mod syncs;
mod testimony;
mod timed;
