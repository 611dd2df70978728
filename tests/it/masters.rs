//! Several masters: when one ends, however it does, the run goes on with another.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use pccl::{Config, Master, MasterConfig, MasterError};

use crate::common::{admit, config, reduce_everywhere};

/// Addresses that are free now, and stay the same for masters that come back.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses = listeners.iter().map(|l| l.local_addr().unwrap());
    addresses.collect()
}

fn follows(masters: &[SocketAddr], label: &str) -> Config {
    let first = config(&masters[0].to_string(), label);
    let others = masters[1..].iter().map(ToString::to_string);
    others.fold(first, Config::standby_master)
}

#[test]
fn a_setting_that_is_for_ever_is_refused() {
    let config = MasterConfig {
        resume_grace: Duration::MAX,
        ..MasterConfig::default()
    };
    match Master::bind_with("127.0.0.1:0".parse().unwrap(), config) {
        Err(MasterError::InvalidConfig { field, .. }) => assert_eq!(field, "resume_grace"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_goes_from_master_to_master() {
    let places = free_addresses(2);
    let first = Master::bind(places[0]).unwrap();
    let second = Master::bind(places[1]).unwrap();
    let mut peers = Vec::new();
    for label in ["ada", "ben", "cyd"] {
        admit(&mut peers, follows(&places, label));
    }
    reduce_everywhere(&peers);
    // As a crash.
    first.stop();
    reduce_everywhere(&peers);
    let epoch = peers[0].epoch();
    // The first one is started again, and the second hands over to it.
    let first = Master::bind(places[0]).unwrap();
    reduce_everywhere(&peers);
    second.hand_over();
    reduce_everywhere(&peers);
    assert_eq!(peers[0].epoch(), epoch);
    // Who is new finds the one that rules.
    admit(&mut peers, follows(&places, "dan"));
    reduce_everywhere(&peers);
    drop(first);
}

#[test]
fn a_master_hands_over_to_the_one_that_is_started_after_it() {
    let places = free_addresses(1);
    let master = Master::bind(places[0]).unwrap();
    let mut peers = Vec::new();
    for label in ["ada", "ben", "cyd"] {
        admit(&mut peers, follows(&places, label));
    }
    let epoch = peers[0].epoch();
    for _ in 0..3 {
        reduce_everywhere(&peers);
    }
    master.hand_over();
    let next = Master::bind(places[0]).unwrap();
    reduce_everywhere(&peers);
    assert_eq!(peers[0].epoch(), epoch);
    drop(next);
}
