//! One watch alone: what it asks, answers and judges.

use std::time::Duration;

use super::detection::{ms, profiles};
use crate::protocol::master::MasterConfig;
use crate::protocol::silence::{Silence, Watch, Watcher};
use crate::types::Timestamp;
use crate::wire::control::Heartbeat;

/// A watch of each side in each profile, on which a first heartbeat has come.
fn watches() -> Vec<(Watch, MasterConfig)> {
    let start = Timestamp::default();
    let mut watches = Vec::new();
    for config in profiles() {
        for watcher in [Watcher::Master, Watcher::Peer] {
            let mut watch = Watch::new(watcher, config.timings(), start, start);
            assert!(watch.beat(start).is_some());
            hear(&mut watch, start + ms(100), 1, 1, false);
            watches.push((watch, config.clone()));
        }
    }
    watches
}

fn hear(watch: &mut Watch, now: Timestamp, number: u64, heard: u64, answer: bool) {
    watch.hear(now);
    let beat = Heartbeat {
        number,
        heard,
        held: Duration::ZERO,
        answer,
    };
    watch.hear_beat(now, &beat);
}

#[test]
fn a_peer_that_only_answers_when_asked_is_not_taken_for_dead() {
    for (mut watch, _) in watches() {
        let mut number = 1;
        for _ in 0..1000 {
            let now = watch.next_timeout();
            assert_eq!(watch.verdict(now), None);
            if let Some(beat) = watch.beat(now)
                && beat.answer
            {
                number += 1;
                hear(&mut watch, now + ms(100), number, beat.number, false);
            }
        }
    }
}

#[test]
fn silence_is_asked_about_at_half_the_limit_and_judged_at_the_whole() {
    for (mut watch, _) in watches() {
        let (heard_at, limit) = (Timestamp::from_start(ms(100)), watch.limit());
        let mut asked_at = None;
        let silence = loop {
            let now = watch.next_timeout();
            if let Some(silence) = watch.verdict(now) {
                assert_eq!(now, heard_at + limit);
                break silence;
            }
            let beat = watch.beat(now);
            if beat.is_some_and(|beat| beat.answer) {
                asked_at = asked_at.or(Some(now));
            }
        };
        assert_eq!(asked_at, Some(heard_at + limit / 2));
        assert_eq!(silence, Silence::Mute { limit });
    }
}

#[test]
fn who_speaks_and_never_hears_is_taken_for_silent_and_the_reason_says_so() {
    for (mut watch, config) in watches() {
        let limit = watch.limit();
        let interval = config.heartbeat_interval;
        let mut number = 1;
        let mut spoken_at = Timestamp::from_start(ms(100));
        let silence = loop {
            let now = watch.next_timeout().min(spoken_at + interval);
            if now == spoken_at + interval {
                spoken_at = now;
                number += 1;
                hear(&mut watch, now, number, 1, false);
            }
            if let Some(silence) = watch.verdict(now) {
                assert!(now <= Timestamp::from_start(ms(100)) + limit + interval * 2);
                break silence.to_string();
            }
            watch.beat(now);
        };
        assert!(silence.starts_with("it does not hear us: nothing we said for "));
    }
}

#[test]
fn questions_without_end_are_answered_a_few_times_an_interval() {
    for (mut watch, config) in watches() {
        let step = config.heartbeat_interval / 1000;
        let mut now = Timestamp::from_start(ms(100));
        let mut answers = 0;
        for number in 2..10_002 {
            now = now + step;
            hear(&mut watch, now, number, 0, true);
            answers += u32::from(watch.beat(now).is_some());
        }
        assert!(answers <= 10 * 5, "{answers} in ten intervals");
    }
}

#[test]
fn one_that_confirms_nothing_costs_no_more_memory_for_it() {
    for (mut watch, _) in watches() {
        let interval = watch.interval();
        let mut now = Timestamp::from_start(ms(100));
        for number in 2..100_000 {
            now = now + interval;
            hear(&mut watch, now, number, 0, false);
            watch.beat(now);
        }
        assert!(format!("{watch:?}").len() < 10_000);
    }
}
