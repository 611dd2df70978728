//! Three peers in one process add up their ranks.
//!
//! ```text
//! cargo run --example hello_ring
//! ```
//!
//! Shows the smallest whole program: a master, `connect`, waiting for the others, one all-reduce.
//! On real machines the master is `pccl master`, and each peer is a process of its own.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example speaks to its reader, and may start threads and sleep"
)]

use std::error::Error;
use std::time::Duration;

use pccl::{Communicator, Config, Master, ReduceOptions};

const PEERS: u32 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let master = Master::bind("127.0.0.1:0".parse()?)?;
    let address = master.local_addr().to_string();

    std::thread::scope(|threads| {
        let peers: Vec<_> = (0..PEERS)
            .map(|number| {
                let address = &address;
                threads.spawn(move || peer(address, number).map_err(|error| error.to_string()))
            })
            .collect();
        for peer in peers {
            peer.join().map_err(|_| "a peer panicked")??;
        }
        Ok(())
    })
}

fn peer(master: &str, number: u32) -> Result<(), Box<dyn Error>> {
    let communicator = Communicator::new(Config::new(master).label(format!("peer-{number}")))?;
    communicator.connect()?;

    // The first peer is alone at once; the others are let in when those inside say so together.
    while communicator.world_sizes().group < PEERS {
        if communicator.are_peers_pending()? {
            communicator.update_topology()?;
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    let rank = communicator.rank().ok_or("not in a run")?;
    let mine = vec![rank.0 as f32 + 1.0; 1000];
    let mut sum = vec![0.0_f32; 1000];
    let report = communicator.all_reduce(&mine, &mut sum, &ReduceOptions::sum())?;

    println!(
        "peer-{number}: rank {rank} of {} gave {} and got {}, sending {} bytes",
        report.world_size, mine[0], sum[0], report.tx_bytes
    );
    if sum.iter().any(|value| *value != 6.0) {
        return Err("1 + 2 + 3 should be 6".into());
    }
    communicator.leave()?;
    Ok(())
}
