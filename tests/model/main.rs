//! The protocol of membership and settlement under a model checker: every order in which a small
//! number of faults, calls and messages can happen to the *production* machines, `Master` and
//! `Peer`. Nothing of the protocol is written down a second time here.
//!
//! ```text
//!   cargo test --release --features sim --test model               the sizes of every change
//!   cargo test --release --features sim --test model -- --ignored  larger ones; takes long
//! ```
//!
//! An unoptimised build looks at two peers, one operation and one fault only.
//!
//! `state` says what a state is, `shared` keeps it small, `driving` and `peers` feed and obey the machines, `moves` lists what
//! may happen, `steps` and `settling` do it, `properties` says what must hold, `instance` joins them into a `stateright` model,
//! `walks` goes at random through what is too large, `mutations` breaks rules that must be noticed.
//!
//! # What is modelled
//!
//! Callers reduce under each tag until it commits, in any order, and call again after an abort.
//! With a newcomer, the others call `update_topology` once before. Data moves once everybody in a
//! ring has begun. A fault is a death (two witnesses, to the master it spoke with last), a connection that is reset, one that falls
//! silent, a deadline or local failure that is reported, a link that is lost for good, a caller that
//! cancels or closes. After a break or silence either side may give up, or the peer resumes, at any
//! later time. With a standby, peers that have lost their connection dial either master, in any order,
//! whatever the other end of their list does: that stands for networks that are split with a master on
//! each side, and for lists that are gone through at any pace. Shared-state syncs are left out, so all
//! members are voters.
//!
//! # Why the states are few, and what that loses
//!
//! * *Time is a fault, not a clock.* That silence is noticed is one step: everybody else is heard,
//!   and the limit of silence passes. Machines compare moments only to decide what is overdue.
//! * *Numbers without meaning are left out of a state*: sequence numbers (each side hears the
//!   other's without a gap, and what was heard is acknowledged at once, which only makes a side
//!   forget it), connection and request ids (used again once free), whoever is dead or gone (nobody
//!   sees more of it than what it had finished).
//! * *What a machine asks for in its own process happens at once*, and a ring is solved at once: what
//!   the master hears while a solver thinks it could have heard before the loss.
//! * *What the master says is heard in the same step*, what peers say waits in a queue for as long as
//!   it likes. A step of a peer before it hears a message could as well have come before the message
//!   was sent, unless data of a peer that heard earlier led to it; the two then commute (the
//!   message ends another operation). A peer that is cut off hears late all the same. The instances
//!   `in_full`, and all walks, hear in steps of their own.
//! * *A death is noticed when it happens*, by its connection and its port: lanes that close are a third
//!   witness, and change what is logged. One that nobody has noticed is a peer that does nothing
//!   more, whose queue is lost when it is.
//! * *What can only be dropped by its number is dropped at once*: numbers rise, so it can never be
//!   otherwise.
//! * *A peer speaks of a lower tag before a higher one* where it could do either: operations with
//!   different tags do not know of one another.
//! * *A peer that was thrown out learns it at once* where nobody reduces with it any more.
//! * *With a standby, what a peer has to tell a master that listens arrives whole*: it keeps all of it, of
//!   each peer in the order in which that says it.
//! * *Waiting in vain is no step*: a peer whose dialling changes nothing, and a master that listens and
//!   does not rule, are as they were. A master that has come begins its own clock.
//! * *The first to call is node 0*: nodes are alike until one does something.
//! * *When no fault is to come and the last one's dust has settled, one order stands for all*: only
//!   calls and reports are left, which add to one another. The same stretches are seen in every
//!   order where a fault is still to come.

#![allow(clippy::disallowed_methods, reason = "says how long it took")]
#![allow(
    clippy::print_stdout,
    reason = "its figures are what people run it for"
)]

mod driving;
mod instance;
mod moves;
#[cfg(feature = "sim")]
mod mutations;
mod peers;
mod properties;
mod settling;
mod shared;
mod state;
mod steps;
mod walks;

use std::time::Instant;

use instance::Instance;
use moves::{ABRUPT, ALL, CRASHES, DEATHS, DISTINCT, Kind, MISHAPS, PARTINGS, SILENCES};
use stateright::{Checker, Model};

/// Looks at every state, and says how many there were.
fn check(name: &str, instance: Instance) {
    if cfg!(debug_assertions) && (instance.peers, instance.tags, instance.faults) > (2, 1, 1) {
        println!("{name}: skipped: needs --release");
        return;
    }
    let started = Instant::now();
    let checker = instance.checker().threads(2).spawn_dfs().join();
    println!(
        "{name}: {} states, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    for path in checker.discoveries().into_values() {
        println!("{:?}", path.last_state().world.broken);
    }
    checker.assert_properties();
}

#[test]
fn two_peers_and_one_fault_in_every_order() {
    let instance = Instance {
        faults: 1,
        kinds: ALL,
        in_full: true,
        ..Instance::of(2)
    };
    check("2 peers, 1 tag, 1 fault, in full", instance);
}

#[test]
fn two_peers_two_operations_and_two_faults() {
    let instance = Instance {
        tags: 2,
        faults: 2,
        kinds: MISHAPS,
        ..Instance::of(2)
    };
    check("2 peers, 2 tags, 2 faults", instance);
}

#[test]
fn three_peers_and_two_faults() {
    let instance = Instance {
        faults: 2,
        kinds: MISHAPS,
        ..Instance::of(3)
    };
    check("3 peers, 1 tag, 2 faults", instance);
}

#[test]
fn three_peers_two_operations_and_one_abrupt_fault() {
    let instance = Instance {
        tags: 2,
        faults: 1,
        kinds: ABRUPT,
        ..Instance::of(3)
    };
    check("3 peers, 2 tags, 1 abrupt fault", instance);
}

#[test]
#[ignore = "takes minutes; see docs/TESTING.md"]
fn three_peers_two_operations_and_one_fault() {
    let instance = Instance {
        tags: 2,
        faults: 1,
        kinds: DISTINCT,
        ..Instance::of(3)
    };
    check("3 peers, 2 tags, 1 fault", instance);
}

#[test]
fn four_peers_and_one_fault() {
    let instance = Instance {
        faults: 1,
        kinds: MISHAPS,
        ..Instance::of(4)
    };
    check("4 peers, 1 tag, 1 fault", instance);
}

#[test]
fn two_peers_whose_master_dies_and_two_faults() {
    let instance = Instance {
        faults: 2,
        kinds: CRASHES,
        ..Instance::of(2)
    };
    check("2 peers, 1 tag, 2 faults, masters die", instance);
}

#[test]
fn three_peers_of_whom_one_dies_and_their_master() {
    let instance = Instance {
        faults: 2,
        restarts: 1,
        kinds: DEATHS,
        ..Instance::of(3)
    };
    check("3 peers, 1 tag, a master and a peer die", instance);
}

#[test]
fn three_peers_of_whom_two_die_and_their_master_twice() {
    let instance = Instance::two_restarts_and_two_deaths();
    check("3 peers, 1 tag, 2 restarts and 2 deaths", instance);
}

#[test]
fn three_peers_with_a_standby_of_whom_one_is_lost() {
    let instance = Instance::a_standby_and_a_loss(3);
    check("3 peers and a standby, 1 tag, all part, 1 loss", instance);
}

#[test]
#[ignore = "takes half an hour; see docs/TESTING.md"]
fn four_peers_with_a_standby_of_whom_one_is_lost() {
    let instance = Instance::a_standby_and_a_loss(4);
    check("4 peers and a standby, 1 tag, all part, 1 loss", instance);
}

#[test]
#[ignore = "takes minutes; see docs/TESTING.md"]
fn three_peers_with_a_standby_and_two_faults() {
    let instance = Instance {
        faults: 2,
        kinds: PARTINGS,
        ..Instance::a_standby_and_a_loss(3)
    };
    check("3 peers and a standby, 1 tag, 2 faults, 1 loss", instance);
}

#[test]
fn two_peers_one_newcomer_a_silence_and_a_restart() {
    let instance = Instance::a_newcomer_a_silence_and_a_restart();
    check("2 peers and 1 newcomer, a restart and a silence", instance);
}

#[test]
#[ignore = "takes minutes; see docs/TESTING.md"]
fn three_peers_of_whom_two_fall_silent_and_their_master_dies() {
    let instance = Instance {
        faults: 3,
        restarts: 1,
        losses: 2,
        kinds: SILENCES,
        ..Instance::of(3)
    };
    check("3 peers, 1 tag, a restart and 2 silences", instance);
}

#[test]
#[ignore = "takes an hour; see docs/TESTING.md"]
fn three_peers_of_whom_two_are_lost_and_their_master_twice() {
    let instance = Instance {
        faults: 4,
        restarts: 2,
        losses: 2,
        kinds: CRASHES,
        ..Instance::of(3)
    };
    check("3 peers, 1 tag, 2 restarts and 2 losses", instance);
}

#[test]
fn two_peers_one_newcomer_and_one_fault() {
    let instance = Instance {
        newcomers: 1,
        faults: 1,
        kinds: ALL,
        ..Instance::of(2)
    };
    check("2 peers and 1 newcomer, 1 tag, 1 fault", instance);
}

#[test]
fn random_walks_of_five_peers() {
    let seeds = if cfg!(debug_assertions) { 20 } else { 2000 };
    println!("seeds 0 to {seeds}");
    for newcomers in 0..2 {
        let instance = Instance {
            newcomers,
            tags: 2,
            rounds: 2,
            faults: 3,
            kinds: ALL,
            in_full: true,
            ..Instance::of(5 - newcomers)
        };
        let steps = walks::walk(&instance, 0..seeds);
        println!("5 peers, {newcomers} of them new, 2 tags, 3 faults: {steps} steps");
    }
}

#[test]
fn random_walks_of_five_peers_whose_master_dies() {
    let seeds = if cfg!(debug_assertions) { 10 } else { 2000 };
    let instance = Instance {
        tags: 2,
        rounds: 2,
        faults: 4,
        kinds: &[
            Kind::RestartMaster,
            Kind::Kill,
            Kind::Break,
            Kind::Silence,
            Kind::Report,
        ],
        in_full: true,
        ..Instance::of(5)
    };
    let steps = walks::walk(&instance, 0..seeds);
    println!("5 peers, 2 tags, 4 faults, masters die: {steps} steps");
}

#[test]
fn random_walks_of_five_peers_with_a_standby() {
    let seeds = if cfg!(debug_assertions) { 10 } else { 5000 };
    let instance = Instance {
        tags: 2,
        rounds: 2,
        faults: 5,
        kinds: &[
            Kind::BreakAll,
            Kind::Break,
            Kind::Silence,
            Kind::Kill,
            Kind::Report,
            Kind::RestartMaster,
        ],
        in_full: true,
        standbys: 1,
        ..Instance::of(5)
    };
    let steps = walks::walk(&instance, 0..seeds);
    println!("5 peers and a standby, 2 tags, 5 faults: {steps} steps");
}

#[test]
#[ignore = "takes minutes; see docs/TESTING.md"]
fn two_peers_one_newcomer_and_two_faults() {
    let instance = Instance {
        newcomers: 1,
        faults: 2,
        kinds: ALL,
        ..Instance::of(2)
    };
    check("2 peers and 1 newcomer, 1 tag, 2 faults", instance);
}

#[test]
#[ignore = "takes minutes; see docs/TESTING.md"]
fn three_peers_one_newcomer_and_one_fault() {
    let instance = Instance {
        newcomers: 1,
        faults: 1,
        kinds: ALL,
        ..Instance::of(3)
    };
    check("3 peers and 1 newcomer, 1 tag, 1 fault", instance);
}

#[test]
#[ignore = "takes minutes; see docs/TESTING.md"]
fn three_peers_two_operations_in_a_row_and_two_faults() {
    let instance = Instance {
        rounds: 2,
        faults: 2,
        kinds: DISTINCT,
        ..Instance::of(3)
    };
    check("3 peers, 1 tag twice, 2 faults", instance);
}

#[test]
#[ignore = "takes minutes; see docs/TESTING.md"]
fn two_peers_and_two_faults_in_every_order() {
    let instance = Instance {
        faults: 2,
        kinds: MISHAPS,
        in_full: true,
        ..Instance::of(2)
    };
    check("2 peers, 1 tag, 2 faults, in full", instance);
}

#[test]
#[ignore = "takes an hour; see docs/TESTING.md"]
fn three_peers_two_operations_and_two_faults() {
    let instance = Instance {
        tags: 2,
        faults: 2,
        kinds: DISTINCT,
        ..Instance::of(3)
    };
    check("3 peers, 2 tags, 2 faults", instance);
}
