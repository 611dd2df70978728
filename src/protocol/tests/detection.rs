//! Who is noticed to be gone, how soon, and who is not: in the machines' own time, to the
//! millisecond.

use std::time::Duration;

use super::cluster::reduce;
use super::random::Dice;
use super::timed::Timed;
use crate::error::Gone;
use crate::protocol::master::MasterConfig;
use crate::protocol::peer::{Command, Reply};
use crate::types::PeerId;

const NEAR: Duration = Duration::from_micros(200);
const FAR: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn profiles() -> [MasterConfig; 2] {
    [MasterConfig::default(), MasterConfig::fast()]
}

/// From a blow at the last of three peers to the moment when the others know, at worst.
fn worst_time_to_tell(
    config: &MasterConfig,
    delay: Duration,
    jitter: Duration,
    blow: fn(&mut Timed),
) -> Duration {
    let mut worst = Duration::ZERO;
    for moment in 0..40 {
        let mut run = Timed::of(3, config.clone(), delay);
        for node in &mut run.nodes {
            node.path.jitter = jitter;
        }
        // Half of them fall before anything is known of the paths.
        let minutes = moment % 2;
        run.run_for(Duration::from_secs(60) * minutes + config.heartbeat_interval * moment / 40);
        let calls = [run.command(0, reduce(1)), run.command(1, reduce(1))];
        run.run_for(delay);
        blow(&mut run);
        let told = |run: &Timed| {
            (0..2).all(|node| run.nodes[node].replies.contains_key(&calls[node]))
                && (0..2).all(|node| run.nodes[node].world_size == 2)
        };
        worst = worst.max(run.run_until(told));
        for (node, call) in calls.iter().enumerate() {
            let Reply::AllReduce(Err(error)) = &run.nodes[node].replies[call].1 else {
                panic!("no error at {node}");
            };
            assert!(error.to_string().contains("node-2"), "{error}");
        }
    }
    worst
}

fn stop(run: &mut Timed) {
    run.nodes[2].frozen = true;
}

fn cut(run: &mut Timed) {
    run.nodes[2].path.cut_up = true;
    run.nodes[2].path.cut_down = true;
}

fn cut_up(run: &mut Timed) {
    run.nodes[2].path.cut_up = true;
}

fn cut_down(run: &mut Timed) {
    run.nodes[2].path.cut_down = true;
}

#[test]
fn the_fast_profile_tells_a_dead_peer_in_under_a_second_at_100_ms_round_trip() {
    for blow in [stop, cut, cut_up, cut_down] {
        let told = worst_time_to_tell(&MasterConfig::fast(), FAR, Duration::ZERO, blow);
        assert!(told < ms(1000), "{told:?}");
        let told = worst_time_to_tell(&MasterConfig::fast(), ms(45), ms(10), blow);
        assert!(told < ms(1000), "with jitter {told:?}");
    }
}

#[test]
fn the_default_profile_tells_a_dead_peer_within_3_s_on_a_good_network_and_4_s_on_any() {
    for blow in [stop, cut, cut_up, cut_down] {
        let told = worst_time_to_tell(&MasterConfig::default(), NEAR, Duration::ZERO, blow);
        assert!(told < ms(3000), "{told:?}");
        let told = worst_time_to_tell(&MasterConfig::default(), FAR, ms(10), blow);
        assert!(told < ms(3200), "far {told:?}");
    }
    for blow in [stop, cut] {
        let told = worst_time_to_tell(&MasterConfig::default(), ms(100), ms(200), blow);
        assert!(told < ms(4000), "bad {told:?}");
    }
}

#[test]
fn a_computing_peer_keeps_its_place_however_its_heartbeats_stutter_below_the_ceiling() {
    for (config, seed) in profiles().iter().flat_map(|c| (0..10).map(move |s| (c, s))) {
        let most = config.silence_ceiling - config.heartbeat_interval * 3 / 2;
        let mut run = Timed::of(2, config.clone(), ms(1));
        run.dice = Dice(seed);
        // As a network does that fills up: not from one moment to the next.
        for step in 1..=300 {
            run.nodes[1].path.jitter = most * step.min(60) / 60;
            run.run_for(Duration::from_secs(1));
            assert_eq!(run.nodes[1].peer.gone(), None, "seed {seed}, step {step}");
        }
        assert_eq!(run.nodes[0].world_size, 2);
    }
}

#[test]
fn a_peer_that_computes_for_an_hour_says_little_and_makes_no_second_connection() {
    for config in profiles() {
        let usual = HOUR.as_millis() / config.heartbeat_interval.as_millis();
        let mut run = Timed::of(2, config, FAR);
        run.beats = 0;
        run.run_for(HOUR);
        for node in &run.nodes {
            assert_eq!((node.peer.gone(), node.connections), (None, 1));
        }
        let beats = u128::from(run.beats);
        assert!(beats <= 2 * usual * 101 / 100, "{beats} heartbeats");
    }
}

#[test]
fn a_stop_of_less_than_the_floor_costs_nobody_its_place() {
    for config in profiles() {
        let stop = config.silence_floor - config.heartbeat_interval - ms(5);
        let mut run = Timed::of(2, config, ms(1));
        for moment in 0..40 {
            run.run_for(Duration::from_secs(30) + ms(13) * moment);
            run.nodes[1].frozen = true;
            run.run_for(stop);
            run.thaw(1);
        }
        assert_eq!(
            (run.nodes[1].peer.gone(), run.nodes[1].connections),
            (None, 1)
        );
    }
}

#[test]
fn a_peer_that_is_not_heard_and_one_that_does_not_hear_are_told_apart() {
    for config in profiles() {
        for (blow, words) in [
            (cut_up as fn(&mut Timed), "it was silent for"),
            (cut_down, "control connection closed"),
        ] {
            let mut run = Timed::of(3, config.clone(), FAR);
            run.run_for(Duration::from_secs(60));
            let call = run.command(0, reduce(1));
            blow(&mut run);
            run.run_until(|run| run.nodes[0].replies.contains_key(&call));
            let text = format!("{:?}", run.nodes[0].replies[&call].1);
            assert!(text.contains(words), "{text}");
        }
    }
}

#[test]
fn a_peer_that_is_not_heard_finds_out_by_itself() {
    for config in profiles() {
        let limit = config.silence_ceiling + config.heartbeat_interval;
        let mut run = Timed::of(2, config, FAR);
        run.nodes[1].path.cut_up = true;
        let noticed = run.run_until(|run| run.nodes[1].connections > 1);
        assert!(noticed < limit, "{noticed:?}");
    }
}

#[test]
fn who_gives_up_its_connection_and_its_lanes_as_it_hears_nobody_is_not_taken_for_dead() {
    for config in profiles() {
        let mut run = Timed::of(3, config, ms(1));
        let peers: Vec<PeerId> = run.master.peers().map(|name| name.id).collect();
        for moment in 0..20 {
            run.run_for(Duration::from_secs(60) + ms(17) * moment);
            let before = run.nodes[1].connections;
            run.nodes[1].path.cut_down = true;
            run.run_until(|run| run.nodes[1].connections > before);
            run.run_for(ms(5));
            run.see_lanes_close(0, peers[1]);
            run.see_lanes_close(2, peers[1]);
            run.run_for(ms(50));
            run.nodes[1].path.cut_down = false;
            run.run_for(Duration::from_secs(5));
            assert_eq!(run.nodes[1].peer.gone(), None, "moment {moment}");
            assert_eq!(run.nodes[0].world_size, 3);
        }
    }
}

#[test]
fn who_loses_only_its_connection_is_back_before_the_master_gives_up() {
    for config in profiles() {
        let mut run = Timed::of(2, config, FAR);
        for moment in 0..20 {
            run.run_for(Duration::from_secs(60) + ms(17) * moment);
            run.half_open(1);
        }
        run.run_for(Duration::from_secs(60));
        assert_eq!(
            (run.nodes[1].peer.gone(), run.nodes[1].connections),
            (None, 21)
        );
    }
}

#[test]
fn an_honest_redial_is_in_time_after_a_reset_that_the_master_saw_first() {
    for config in profiles() {
        for delay in [NEAR, FAR, ms(200)] {
            let mut run = Timed::of(2, config.clone(), delay);
            for _ in 0..20 {
                run.run_for(Duration::from_secs(10) + ms(17));
                run.reset(1);
            }
            run.run_for(Duration::from_secs(10));
            assert_eq!(
                (run.nodes[1].peer.gone(), run.nodes[1].connections),
                (None, 21)
            );
        }
    }
}

#[test]
fn a_clock_that_jumps_evicts_nobody() {
    for config in profiles() {
        let mut run = Timed::of(3, config, FAR);
        for _ in 0..10 {
            run.run_for(Duration::from_secs(10) + ms(7));
            run.now = run.now + HOUR;
        }
        run.run_for(Duration::from_secs(10));
        for node in &run.nodes {
            assert_eq!((node.peer.gone(), node.connections), (None, 1));
        }
    }
}

#[test]
fn a_master_that_was_away_blames_nobody_for_it() {
    for config in profiles() {
        let mut run = Timed::of(3, config, FAR);
        run.run_for(Duration::from_secs(60));
        run.master_frozen = true;
        run.run_for(Duration::from_secs(20));
        run.thaw_master();
        run.run_for(Duration::from_secs(60));
        for node in &run.nodes {
            assert_eq!((node.peer.gone(), node.world_size), (None, 3));
        }
    }
}

#[test]
fn a_master_that_is_always_late_still_evicts_in_the_end() {
    for config in profiles() {
        let ticks = config.silence_ceiling.as_micros() / config.heartbeat_interval.as_micros();
        let late = config.silence_ceiling * 2;
        let mut run = Timed::of(2, config, ms(1));
        run.nodes[1].frozen = true;
        let mut looks = 0;
        while run.nodes[0].world_size == 2 {
            run.master_frozen = true;
            run.run_for(late);
            run.thaw_master();
            run.run_for(ms(5));
            looks += 1;
            assert!(looks <= ticks + 2, "{looks} looks");
        }
        assert_eq!(run.nodes[0].peer.gone(), None);
    }
}

#[test]
fn a_machine_that_slept_with_everything_on_it_goes_on() {
    for config in profiles() {
        let mut run = Timed::of(2, config, NEAR);
        run.run_for(Duration::from_secs(60));
        run.master_frozen = true;
        run.nodes.iter_mut().for_each(|node| node.frozen = true);
        run.run_for(HOUR);
        // The peers wake first: what the master said before it slept is all there is to read.
        run.thaw(0);
        run.thaw(1);
        run.run_for(ms(20));
        run.thaw_master();
        run.run_for(Duration::from_secs(60));
        for node in &run.nodes {
            assert_eq!((node.peer.gone(), node.world_size), (None, 2));
        }
    }
}

#[test]
fn a_thawed_peer_reads_first_and_learns_why_it_is_gone() {
    for config in profiles() {
        let mut run = Timed::of(3, config, FAR);
        run.run_for(Duration::from_secs(10));
        run.nodes[2].frozen = true;
        run.run_for(Duration::from_secs(100));
        run.thaw(2);
        let Some(Gone::Evicted { reason }) = run.nodes[2].peer.gone() else {
            panic!("{:?}", run.nodes[2].peer.gone());
        };
        assert!(reason.contains("silent"), "{reason}");
        assert_eq!(run.nodes[2].connections, 1);
    }
}

#[test]
fn a_newcomer_that_is_stopped_while_it_is_let_in_costs_no_more_than_any_silent_peer() {
    for config in profiles() {
        let limit = config.silence_ceiling + FAR * 6;
        let mut run = Timed::of(1, config, FAR);
        run.join(FAR);
        run.run_for(ms(500));
        run.nodes[1].frozen = true;
        let update = run.command(0, Command::UpdateTopology);
        let waited = run.run_until(|run| run.nodes[0].replies.contains_key(&update));
        assert!(waited < limit, "{waited:?}");
    }
}

#[test]
fn a_newcomer_that_has_said_nothing_for_half_the_limit_is_not_waited_for() {
    for config in profiles() {
        let half = config.silence_ceiling / 2 + ms(1);
        let mut run = Timed::of(1, config, FAR);
        run.join(FAR);
        run.run_for(ms(500));
        run.nodes[1].frozen = true;
        run.run_for(half + FAR);
        let update = run.command(0, Command::UpdateTopology);
        let waited = run.run_until(|run| run.nodes[0].replies.contains_key(&update));
        assert!(waited <= FAR * 2, "{waited:?}");
        assert_eq!(run.nodes[0].world_size, 1);
    }
}

#[test]
fn however_far_peers_seem_they_tell_of_a_broken_link_before_wiring_is_given_up() {
    for config in profiles() {
        let run = Timed::of(2, config.clone(), ms(150));
        for node in &run.nodes {
            let link_timeout = node.round_trip * 7 / 2;
            assert!(node.round_trip > Duration::ZERO);
            assert!(
                link_timeout <= config.wiring_timeout / 2,
                "{link_timeout:?}"
            );
        }
    }
}
