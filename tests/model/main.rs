//! model
mod driving;
mod instance;
mod moves;
mod properties;
mod state;

use instance::Instance;
use stateright::{Checker, Model};

fn check(instance: Instance) {
    let started = std::time::Instant::now();
    let checker = instance.clone().checker().threads(2).spawn_dfs().join();
    println!(
        "{instance:?}: {} states, {} unique, depth {}, {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    for (name, path) in checker.discoveries() {
        println!("{name}: {} steps", path.clone().into_states().len());
        let last = path.last_state();
        println!("{:?}", last.world.broken);
        for a in path.into_actions() { println!("   {a:?}"); }
    }
    checker.assert_properties();
}

#[test]
fn exp() {
    let v = |n: &str, d: usize| std::env::var(n).ok().and_then(|x| x.parse().ok()).unwrap_or(d);
    let kinds: Vec<moves::Kind> = moves::ALL.iter().copied().filter(|k| std::env::var("K").map_or(true, |s| s.split(',').any(|x| x == format!("{k:?}")))).collect();
    check(Instance {
        peers: v("P", 2),
        newcomers: v("N", 0),
        tags: v("T", 1),
        faults: v("F", 1) as u8,
        kinds: kinds.leak(),
        in_full: v("FULL", 0) == 1,
        mutation: None,
    });
}
