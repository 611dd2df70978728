//! What one end decides, without a network.

use std::collections::BTreeSet;

use tokio::time::advance;

use super::*;
use crate::types::{PeerId, PeerName};

const TIMEOUT: Duration = Duration::from_secs(3);

fn link(lanes: u16, dials: bool) -> Link {
    let peer = PeerName {
        id: PeerId(2),
        label: String::new(),
        address: "127.0.0.1:1".to_owned(),
    };
    let spec = LinkSpec {
        peer,
        secret: [0; 16],
        lanes: Some(lanes),
        dials,
        round_trip: Duration::ZERO,
    };
    Link::new(spec, TIMEOUT)
}

/// With all its lanes open for a long time, dialled by the end that was told to.
async fn settled(lanes: u16, dials: bool) -> Link {
    let mut link = link(lanes, dials);
    (0..lanes).for_each(|lane| assert!(link.on_open(lane, dials).0));
    advance(Duration::from_secs(60)).await;
    link
}

fn dial(link: &mut Link, lane: u16) {
    let task = tokio::spawn(std::future::pending::<()>());
    link.dialling(lane, task.abort_handle());
}

fn stalled(delivered: u64) -> LaneEnd {
    LaneEnd::Stalled {
        silent_ms: 1500,
        unfinished: 3,
        delivered,
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_that_was_told_to_dials_at_once_and_the_other_after_a_third() {
    for lost in [vec![1], vec![0, 1, 2]] {
        let mut told = settled(3, true).await;
        let mut other = settled(3, false).await;
        for lane in &lost {
            told.on_closed(*lane, &LaneEnd::ClosedThere);
            other.on_closed(*lane, &LaneEnd::ClosedThere);
        }
        let at_once: Vec<_> = lost.iter().map(|lane| (*lane, Duration::ZERO)).collect();
        assert_eq!(told.due(), at_once);
        assert_eq!(other.due(), []);
        assert_eq!(other.next_timeout(), Some(Instant::now() + TIMEOUT / 3));
        advance(TIMEOUT / 3).await;
        assert_eq!(other.due(), at_once);
        dial(&mut other, lost[0]);
        assert_eq!(other.due().len(), lost.len() - 1, "not twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_lost_as_soon_as_it_is_open_is_dialled_after_a_growing_pause() {
    let mut link = link(1, true);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        link.on_open(0, true);
        link.on_closed(0, &LaneEnd::ClosedThere);
        pauses.push(link.due()[0].1);
    }
    assert_eq!(pauses[0], RETRY_FIRST);
    assert!(pauses.is_sorted() && pauses[7] == TIMEOUT / 4, "{pauses:?}");
    link.on_open(0, true);
    advance(RETRY_LONGEST).await;
    link.on_closed(0, &LaneEnd::ClosedThere);
    assert_eq!(link.due()[0].1, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn only_lanes_that_the_other_side_closed_are_a_witness() {
    let given_up = LaneEnd::Broken("timed out".to_owned());
    let rejected = LaneEnd::Rejected("frame kind 9".to_owned());
    let closed = LaneEnd::ClosedThere;
    for (ends, witness) in [
        ([closed.clone(), closed.clone()], LinkLoss::ClosedThere),
        ([given_up.clone(), closed.clone()], LinkLoss::GivenUp),
        ([closed.clone(), given_up], LinkLoss::GivenUp),
        ([stalled(1), closed.clone()], LinkLoss::GivenUp),
        ([closed.clone(), rejected], LinkLoss::GivenUp),
    ] {
        let mut link = settled(2, false).await;
        assert_eq!(link.on_closed(0, &ends[0]), []);
        assert_eq!(
            link.on_closed(1, &ends[1]),
            [Change::Down(witness)],
            "{ends:?}"
        );
        assert_eq!(link.on_open(0, true), (true, Some(Change::Up)));
    }
    let mut link = settled(1, false).await;
    assert_eq!(link.welcomes(0), Ok(()));
    let replaced = link.on_closed(0, &closed);
    assert_eq!(
        replaced,
        [Change::Down(LinkLoss::GivenUp)],
        "it has a new one for us"
    );
}

#[tokio::test(start_paused = true)]
async fn lanes_that_open_and_carry_nothing_are_no_link() {
    let mut link = settled(1, true).await;
    let mut failed = 0;
    for round in 0..10 {
        // Until the fifth time something is delivered in between.
        let end = stalled(round.min(5));
        let changes = link.on_closed(0, &end);
        failed += usize::from(
            changes
                .iter()
                .any(|change| matches!(change, Change::Failed(LinkFault::NothingDelivered, _))),
        );
        assert!(round > 5 || failed == 0);
        link.on_open(0, true);
        advance(Duration::from_millis(1500)).await;
    }
    assert_eq!(failed, 2, "once in each timeout");
}

#[tokio::test(start_paused = true)]
async fn idle_lanes_that_do_not_answer_are_not_held_against_their_link() {
    let mut link = settled(1, true).await;
    for _ in 0..10 {
        let end = LaneEnd::Stalled {
            silent_ms: 1500,
            unfinished: 0,
            delivered: 7,
        };
        assert_eq!(link.on_closed(0, &end), [Change::Down(LinkLoss::GivenUp)]);
        link.on_open(0, true);
        advance(Duration::from_secs(31)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_without_a_lane_is_reported_again_and_again() {
    let mut link = link(1, true);
    for _ in 0..3 {
        assert_eq!(link.tick(), None);
        advance(TIMEOUT).await;
        assert!(matches!(
            link.tick(),
            Some(Change::Failed(LinkFault::NoLane, _))
        ));
    }
}

/// What can happen where both ends dial the same lane: the dial of each arrives at the other, and
/// the welcome comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Arrives { of_told: bool },
    Welcomed { of_told: bool },
    ComesBack { of_told: bool },
}

const STEPS: [Step; 6] = [
    Step::Arrives { of_told: true },
    Step::Welcomed { of_told: true },
    Step::ComesBack { of_told: true },
    Step::Arrives { of_told: false },
    Step::Welcomed { of_told: false },
    Step::ComesBack { of_told: false },
];

#[tokio::test(start_paused = true)]
async fn of_two_dials_that_cross_the_same_one_stays_at_both_ends() {
    let mut orders = vec![Vec::new()];
    for _ in 0..STEPS.len() {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<Step>| {
                let next = STEPS.into_iter().filter({
                    let order = order.clone();
                    move |step| {
                        let before = STEPS.iter().position(|other| other == step).unwrap() % 3;
                        let index = STEPS.iter().position(|other| other == step).unwrap();
                        !order.contains(step) && (before == 0 || order.contains(&STEPS[index - 1]))
                    }
                });
                next.map(|step| [&order[..], &[step]].concat())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    assert_eq!(orders.len(), 20);
    for order in orders {
        play(&order);
    }
}

/// Plays an order, and checks that no dial that one end has is closed at the other.
fn play(order: &[Step]) {
    let (mut told, mut other) = (link(1, true), link(1, false));
    dial(&mut told, 0);
    dial(&mut other, 0);
    // Whose dial each end has, and which were closed by either.
    let mut has: [Option<bool>; 2] = [None, None];
    let mut closed: BTreeSet<bool> = BTreeSet::new();
    for step in order {
        match *step {
            Step::Arrives { of_told } => {
                let at = if of_told { &mut other } else { &mut told };
                if !closed.contains(&of_told) && at.welcomes(0).is_err() {
                    closed.insert(of_told);
                }
            }
            Step::Welcomed { of_told } | Step::ComesBack { of_told } => {
                if closed.contains(&of_told) {
                    continue;
                }
                let dialled_here = matches!(step, Step::ComesBack { .. });
                let is_told = of_told == dialled_here;
                let at = if is_told { &mut told } else { &mut other };
                let place = &mut has[usize::from(!is_told)];
                if !at.on_open(0, dialled_here).0 {
                    closed.insert(of_told);
                    continue;
                }
                if let Some(replaced) = place.replace(of_told)
                    && replaced != of_told
                {
                    closed.insert(replaced);
                }
                if !is_told && of_told && has[1] != Some(false) {
                    // It gives its own dial up.
                    closed.insert(false);
                }
            }
        }
    }
    assert_eq!(has, [Some(true); 2], "{order:?}");
    assert!(!closed.contains(&true), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stall_long_after_another_is_the_first_again() {
    let mut link = settled(1, true).await;
    for _ in 0..5 {
        // What stalled was of an operation that has ended since: nothing was left to deliver.
        assert_eq!(
            link.on_closed(0, &stalled(7)),
            [Change::Down(LinkLoss::GivenUp)]
        );
        link.on_open(0, true);
        advance(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn across_far_paths_the_end_that_dials_later_is_through_before_it_complains() {
    let base = Patience {
        link_timeout: Duration::from_millis(300),
        lane_stall_timeout: Duration::from_millis(350),
    };
    for round_trip_ms in [0, 20, 100, 150, 300, 600] {
        let round_trip = Duration::from_millis(round_trip_ms);
        let mut link = settled(1, false).await;
        link.allow(base.across(round_trip).link_timeout);
        // The other end does not know yet that the lane is lost.
        link.on_closed(0, &stalled(1));
        while link.due().is_empty() {
            advance(Duration::from_millis(1)).await;
        }
        dial(&mut link, 0);
        advance(round_trip * 2).await;
        assert_eq!(link.tick(), None, "{round_trip_ms} ms");
        assert_eq!(link.on_open(0, true), (true, Some(Change::Up)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_without_a_wish_has_more_lanes_from_a_far_path_on() {
    let mut told = link(1, true);
    told.respecify(LinkSpec {
        lanes: None,
        ..told.spec.clone()
    });
    let mut other = link(1, false);
    other.respecify(LinkSpec {
        lanes: None,
        ..other.spec.clone()
    });
    assert_eq!(told.due().len(), usize::from(LANES_NEAR));
    assert!(!told.on_round_trip(FAR / 2));
    assert!(told.on_round_trip(FAR));
    assert!(!told.on_round_trip(FAR), "once");
    let due: Vec<u16> = told.due().into_iter().map(|(lane, _)| lane).collect();
    assert_eq!(due, Vec::from_iter(0..LANES_FAR));
    // The other end learns of it by the lanes that come, and takes no more than there may be.
    assert_eq!(other.welcomes(LANES_FAR - 1), Ok(()));
    assert!(other.welcomes(LANES_FAR).is_err());
    // Where somebody has a wish, it holds.
    let mut wished = link(2, true);
    assert!(!wished.on_round_trip(FAR));
    assert!(wished.welcomes(2).is_err());
    assert_eq!(wished.due().len(), 2);
}
