//! A seed is all there is to a world.

use std::thread;

use pccl::mutation::Mutation;

use super::verdict;

/// One of each mode.
const SEEDS: [u64; 4] = [4, 5, 6, 7];

#[test]
fn a_seed_is_played_the_same_way_twice() {
    for seed in SEEDS {
        assert_eq!(verdict(seed, None), verdict(seed, None), "seed {seed}");
    }
}

#[test]
fn worlds_in_two_threads_at_once_do_not_know_of_each_other() {
    let hashes = || SEEDS.map(|seed| verdict(seed, None).trace_hash);
    let [one, other] = thread::scope(|threads| {
        let broken = threads.spawn(|| verdict(SEEDS[0], Some(Mutation::SkipRollBack)));
        let both = [threads.spawn(hashes), threads.spawn(hashes)];
        broken.join().unwrap();
        both.map(|thread| thread.join().unwrap())
    });
    assert_eq!(one, other);
    assert_eq!(one, hashes());
}

#[test]
fn seeds_differ() {
    let mut hashes = SEEDS.map(|seed| verdict(seed, None).trace_hash).to_vec();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), SEEDS.len());
}
