//! Syncs of the shared state: who is right, who receives, what moves, who is thrown out.

use std::sync::Arc;

use half::{bf16, f16};
use pccl::SyncStrategy::{EnforcePopular, ReceiveOnly, SendOnly};
use pccl::{
    Communicator, Gone, GroupId, Revision, SharedState, SyncError, SyncReport, SyncStrategy,
};

use crate::common::{Run, Task, admit, each, end_all};

const LEN: usize = 5000;
const BYTES: u64 = LEN as u64 * 4;

/// What one peer holds between syncs: tensors by name, and their revision.
#[derive(Clone, Debug, PartialEq)]
struct Local {
    revision: u64,
    tensors: Vec<(&'static str, Vec<f32>)>,
}

type Outcome = Result<SyncReport, SyncError>;

/// A state at this revision in which every element of a tensor has the same value.
fn local(revision: u64, tensors: &[(&'static str, f32)]) -> Local {
    let tensors = tensors
        .iter()
        .map(|(name, value)| (*name, vec![*value; LEN]));
    Local {
        revision,
        tensors: tensors.collect(),
    }
}

fn sync(peer: &Communicator, local: &mut Local, strategy: SyncStrategy) -> Outcome {
    let mut state = SharedState::new();
    state.revision = Revision(local.revision);
    for (name, tensor) in &mut local.tensors {
        state.tensor(*name, tensor);
    }
    let outcome = peer.sync_shared_state(&mut state, strategy);
    let revision = state.revision.0;
    drop(state);
    local.revision = revision;
    outcome
}

/// All sync at once; gives back what each then holds.
fn sync_all(
    peers: &[Arc<Communicator>],
    locals: Vec<Local>,
    strategies: &[SyncStrategy],
) -> Vec<(Local, Outcome)> {
    assert_eq!(peers.len(), locals.len());
    let tasks = peers
        .iter()
        .zip(locals)
        .enumerate()
        .map(|(index, (peer, mut local))| {
            let peer = peer.clone();
            let strategy = strategies[index % strategies.len()];
            Task::start(&peer.config().label.clone(), move || {
                let outcome = sync(&peer, &mut local, strategy);
                (local, outcome)
            })
        });
    end_all(tasks.collect())
}

fn popular(peers: &[Arc<Communicator>], locals: Vec<Local>) -> Vec<(Local, SyncReport)> {
    let synced = sync_all(peers, locals, &[EnforcePopular]);
    synced
        .into_iter()
        .map(|(local, outcome)| (local, outcome.unwrap()))
        .collect()
}

fn moved(synced: &[(Local, SyncReport)]) -> Vec<(u64, u64)> {
    synced
        .iter()
        .map(|(_, report)| (report.tx_bytes, report.rx_bytes))
        .collect()
}

fn assert_evicted(outcome: &Outcome, why: &str) {
    match outcome {
        Err(SyncError::Gone(Gone::Evicted { reason })) => {
            assert!(reason.contains(why), "{reason}, not {why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_that_differ_agree_after_one_transfer() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let locals = vec![local(0, &[("w", 1.0)]), local(0, &[("w", 2.0)])];
    let synced = popular(&peers, locals);
    assert_eq!(synced[0].0, synced[1].0);
    let mut bytes = moved(&synced);
    bytes.sort();
    assert_eq!(bytes, [(0, BYTES), (BYTES, 0)]);
    assert!(
        synced
            .iter()
            .all(|(_, report)| report.revision == Revision(0))
    );
}

#[test]
fn identical_states_move_no_bytes_however_often() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    for revision in 0..5 {
        let here = local(revision, &[("w", revision as f32), ("b", 0.5)]);
        let synced = popular(&peers, vec![here.clone(); 3]);
        assert_eq!(moved(&synced), [(0, 0); 3]);
        assert!(synced.iter().all(|(local, _)| *local == here));
    }
}

#[test]
fn only_the_tensor_that_differs_moves() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let clean = local(0, &[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
    let mut dirty = clean.clone();
    dirty.tensors[1].1[LEN - 1] = 7.0;
    let synced = popular(&peers, vec![clean.clone(), dirty, clean.clone()]);
    assert!(synced.iter().all(|(local, _)| *local == clean));
    assert_eq!(synced[1].1.rx_bytes, BYTES);
    let sent: u64 = synced.iter().map(|(_, report)| report.tx_bytes).sum();
    assert_eq!(sent, BYTES);
}

#[test]
fn the_majority_wins_also_where_the_minority_was_first_in_the_run_and_in_the_vote() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let minority = local(0, &[("w", 9.0), ("v", 1.0)]);
    let majority = local(0, &[("w", 1.0), ("v", 1.0)]);
    let ada = peers[0].clone();
    let first = Task::start("ada", move || {
        let mut local = minority;
        let outcome = sync(&ada, &mut local, EnforcePopular);
        (local, outcome.unwrap())
    });
    let synced = popular(&peers[1..], vec![majority.clone(); 2]);
    let (local, report) = first.end();
    assert_eq!((local, report.rx_bytes), (majority.clone(), BYTES));
    assert!(
        synced
            .iter()
            .all(|(local, report)| *local == majority && report.rx_bytes == 0)
    );
}

#[test]
fn whole_states_are_elected_not_single_tensors() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd", "dan"]);
    // Every tensor of the third kind is popular by itself, as a whole it has one vote.
    let locals = vec![
        local(0, &[("a", 1.0), ("b", 1.0)]),
        local(0, &[("a", 1.0), ("b", 1.0)]),
        local(0, &[("a", 2.0), ("b", 2.0)]),
        local(0, &[("a", 1.0), ("b", 2.0)]),
    ];
    let expected = locals[0].clone();
    let synced = popular(&peers, locals);
    assert!(synced.iter().all(|(local, _)| *local == expected));
    let received: Vec<u64> = moved(&synced).iter().map(|(_, rx)| *rx).collect();
    assert_eq!(received, [0, 0, 2 * BYTES, BYTES]);
}

#[test]
fn a_peer_that_stays_behind_is_dragged_along() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    // Cyd presents what it has, at the revision it has: its contents differ only at first.
    let mut behind = local(0, &[("w", 5.0)]);
    for revision in 0..4 {
        let ahead = local(revision, &[("w", 1.0)]);
        let synced = popular(&peers, vec![ahead.clone(), ahead.clone(), behind]);
        let (local, report) = &synced[2];
        assert_eq!(*local, ahead);
        assert_eq!(report.rx_bytes, if revision == 0 { BYTES } else { 0 });
        assert_eq!(report.revision, Revision(revision));
        behind = local.clone();
    }
}

#[test]
fn a_peer_that_never_computes_receives_every_step_from_one_of_the_others() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let mut behind = local(0, &[("w", -1.0)]);
    for revision in 0..4 {
        let ahead = local(revision, &[("w", revision as f32)]);
        let synced = popular(&peers, vec![ahead.clone(), ahead.clone(), behind]);
        assert!(synced.iter().all(|(local, _)| *local == ahead));
        let mut bytes = moved(&synced);
        assert_eq!(bytes.pop(), Some((0, BYTES)));
        bytes.sort();
        assert_eq!(bytes, [(0, 0), (BYTES, 0)]);
        behind = synced[2].0.clone();
    }
}

#[test]
fn a_revision_that_rises_by_two_evicts_and_the_others_go_on() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let at = |revision| local(revision, &[("w", 1.0)]);
    popular(&peers, vec![at(0); 3]);
    let synced = sync_all(&peers, vec![at(1), at(1), at(2)], &[EnforcePopular]);
    assert_evicted(&synced[2].1, "revision 2 where 1 is expected");
    assert_eq!(synced[0].1.as_ref().unwrap().revision, Revision(1));
    assert_eq!(synced[1].1.as_ref().unwrap().revision, Revision(1));
    popular(&peers[..2], vec![at(2); 2]);
    let again = sync_all(&peers[2..], vec![at(3)], &[EnforcePopular]);
    assert_evicted(&again[0].1, "revision 2 where 1 is expected");
}

#[test]
fn where_all_rise_by_two_all_are_evicted_and_the_run_is_free_again() {
    let (run, peers) = Run::with(&["ada", "ben"]);
    let at = |revision| local(revision, &[("w", 1.0)]);
    popular(&peers, vec![at(0); 2]);
    for (_, outcome) in sync_all(&peers, vec![at(2); 2], &[EnforcePopular]) {
        assert_evicted(&outcome, "revision 2 where 1 is expected");
    }
    // When everyone has left a group any revision is taken, a checkpoint's for instance.
    drop(peers);
    let peers = run.populate(vec![run.config("cyd"), run.config("dan")]);
    let synced = popular(&peers, vec![at(2); 2]);
    assert!(
        synced
            .iter()
            .all(|(_, report)| report.revision == Revision(2))
    );
}

#[test]
fn the_first_revision_may_be_any_and_a_newcomer_at_zero_receives() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let checkpoint = local(13, &[("w", 13.0)]);
    let locals = vec![local(0, &[("w", 0.0)]), checkpoint.clone()];
    let synced = popular(&peers, locals);
    assert!(synced.iter().all(|(local, _)| *local == checkpoint));
    assert_eq!(moved(&synced), [(0, BYTES), (BYTES, 0)]);
    let next = local(14, &[("w", 14.0)]);
    assert_eq!(moved(&popular(&peers, vec![next; 2])), [(0, 0); 2]);
}

#[test]
fn presenting_a_committed_revision_fails_for_all_and_costs_nobody_the_run() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let at = |revision, value| local(revision, &[("w", value)]);
    popular(&peers, vec![at(4, 1.0); 2]);
    for _ in 0..2 {
        for (local, outcome) in sync_all(&peers, vec![at(4, 2.0), at(3, 3.0)], &[EnforcePopular]) {
            let stale = SyncError::StaleRevision {
                presented: Revision(4),
                expected: Revision(5),
            };
            assert_eq!(outcome, Err(stale));
            assert_ne!(local.tensors[0].1[0], 1.0, "a refused sync writes nothing");
        }
    }
    let synced = popular(&peers, vec![at(5, 2.0); 2]);
    assert!(
        synced
            .iter()
            .all(|(_, report)| report.revision == Revision(5))
    );
}

#[test]
fn other_names_evict_the_minority_and_the_others_go_on() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let right = |revision| local(revision, &[("a", 1.0), ("b", 2.0)]);
    let synced = sync_all(
        &peers,
        vec![right(0), local(0, &[("a", 1.0), ("x", 2.0)]), right(0)],
        &[EnforcePopular],
    );
    assert_evicted(&synced[1].1, "\"x\"");
    assert!(synced[0].1.is_ok() && synced[2].1.is_ok());
    assert_eq!(peers[1].world_sizes().global, 1);
    let rest = [peers[0].clone(), peers[2].clone()];
    assert_eq!(moved(&popular(&rest, vec![right(1); 2])), [(0, 0); 2]);
    let again = sync_all(&peers[1..2], vec![right(1)], &[EnforcePopular]);
    assert_evicted(&again[0].1, "\"x\"");
}

#[test]
fn another_order_count_or_number_of_tensors_evicts() {
    let elected = local(0, &[("a", 1.0), ("b", 2.0)]);
    let mut short = elected.clone();
    short.tensors[1].1.pop();
    let others = [
        (local(0, &[("b", 2.0), ("a", 1.0)]), "tensor 0 is \"b\""),
        (short, "4999 elements"),
        (local(0, &[("a", 1.0)]), "\"b\" is missing"),
        (
            local(0, &[("a", 1.0), ("b", 2.0), ("c", 3.0)]),
            "\"c\" is one too many",
        ),
    ];
    for (other, why) in others {
        let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
        let locals = vec![elected.clone(), elected.clone(), other];
        let synced = sync_all(&peers, locals, &[EnforcePopular]);
        assert_evicted(&synced[2].1, why);
        assert!(synced[0].1.is_ok() && synced[1].1.is_ok());
    }
}

#[test]
fn another_type_or_flag_evicts() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd", "dan"]);
    let outcomes = each(&peers, |rank, peer| {
        let (mut float, mut integer) = ([0.0f32; 8], [0u32; 8]);
        let mut state = SharedState::new();
        match rank {
            2 => state.tensor("w", &mut integer),
            3 => state.tensor_unequal("w", &mut float),
            _ => state.tensor("w", &mut float),
        };
        peer.sync_shared_state(&mut state, EnforcePopular)
    });
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok());
    assert_evicted(&outcomes[2], "holds u32, not f32");
    assert_evicted(&outcomes[3], "allow_content_inequality");
}

#[test]
fn where_all_only_receive_all_are_evicted() {
    for other in [1.0, 2.0] {
        let (_run, peers) = Run::with(&["ada", "ben"]);
        let locals = vec![local(0, &[("w", 1.0)]), local(0, &[("w", other)])];
        for (_, outcome) in sync_all(&peers, locals, &[ReceiveOnly]) {
            assert_evicted(&outcome, "ReceiveOnly");
        }
    }
}

#[test]
fn one_that_sends_serves_those_that_only_receive() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let locals = [1.0, 2.0, 3.0].map(|value| local(0, &[("w", value)]));
    let strategies = [ReceiveOnly, SendOnly, ReceiveOnly];
    let synced = sync_all(&peers, locals.to_vec(), &strategies);
    for (local, outcome) in &synced {
        assert_eq!(*local, locals[1]);
        outcome.as_ref().unwrap();
    }
    assert_eq!(synced[1].1.as_ref().unwrap().tx_bytes, 2 * BYTES);
}

#[test]
fn of_two_that_only_send_the_one_that_loses_is_evicted() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let locals = vec![local(0, &[("w", 1.0)]), local(0, &[("w", 2.0)])];
    let synced = sync_all(&peers, locals.clone(), &[SendOnly]);
    let evicted: Vec<bool> = synced.iter().map(|(_, outcome)| outcome.is_err()).collect();
    assert_eq!(evicted.iter().filter(|evicted| **evicted).count(), 1);
    for ((after, outcome), before) in synced.iter().zip(&locals) {
        assert_eq!(after.tensors, before.tensors);
        if outcome.is_err() {
            assert_evicted(outcome, "SendOnly");
        }
    }
}

#[test]
fn who_enforces_the_popular_state_tolerates_no_other_strategy() {
    for strategies in [
        vec![EnforcePopular, ReceiveOnly],
        vec![EnforcePopular, SendOnly],
        vec![EnforcePopular, SendOnly, SendOnly],
        vec![EnforcePopular, SendOnly, ReceiveOnly],
    ] {
        let labels = &["ada", "ben", "cyd"][..strategies.len()];
        let (_run, peers) = Run::with(labels);
        let locals = vec![local(0, &[("w", 1.0)]); strategies.len()];
        let synced = sync_all(&peers, locals, &strategies);
        synced[0].1.as_ref().unwrap();
        for (_, outcome) in &synced[1..] {
            assert_evicted(outcome, "EnforcePopular");
        }
    }
}

#[test]
fn groups_have_states_and_revisions_of_their_own_under_the_same_names() {
    let run = Run::new();
    let of_group = |label: &str, group| run.config(label).group(GroupId(group));
    let peers = run.populate(vec![
        of_group("ada", 0),
        of_group("ben", 1),
        of_group("cyd", 0),
        of_group("dan", 1),
    ]);
    for step in 0..3 {
        let locals = vec![
            local(step, &[("w", 1.0)]),
            local(10 + step, &[("w", 7.0 + step as f32)]),
            local(step, &[("w", 1.0)]),
            local(if step == 0 { 0 } else { 9 + step }, &[("w", 0.0)]),
        ];
        let expected = [locals[0].clone(), locals[1].clone()];
        let synced = popular(&peers, locals);
        for (index, (local, _)) in synced.iter().enumerate() {
            assert_eq!(*local, expected[index % 2]);
        }
        assert_eq!(moved(&synced), [(0, 0), (BYTES, 0), (0, 0), (0, BYTES)]);
    }
}

#[test]
fn a_group_syncs_while_another_does_not() {
    let run = Run::new();
    let peers = run.populate(vec![
        run.config("ada"),
        run.config("ben"),
        run.config("cyd").group(GroupId(1)),
    ]);
    for revision in 0..3 {
        popular(&peers[..2], vec![local(revision, &[("w", 1.0)]); 2]);
    }
}

#[test]
fn breaking_the_rules_in_one_group_costs_the_other_nothing() {
    let run = Run::new();
    let of_group = |label: &str, group| run.config(label).group(GroupId(group));
    let peers = run.populate(vec![
        of_group("ada", 0),
        of_group("ben", 1),
        of_group("cyd", 0),
        of_group("dan", 1),
    ]);
    let strategies = [EnforcePopular, EnforcePopular, ReceiveOnly, EnforcePopular];
    let synced = sync_all(&peers, vec![local(0, &[("w", 1.0)]); 4], &strategies);
    assert_evicted(&synced[2].1, "EnforcePopular");
    for index in [0, 1, 3] {
        synced[index].1.as_ref().unwrap();
    }
    let rest: Vec<_> = [0, 1, 3].map(|index| peers[index].clone()).to_vec();
    popular(&rest, vec![local(1, &[("w", 1.0)]); 3]);
}

#[test]
fn a_newcomer_that_has_the_content_already_receives_nothing() {
    let (run, mut peers) = Run::with(&["ada", "ben"]);
    for revision in 0..3 {
        popular(&peers, vec![local(revision, &[("w", 1.0)]); 2]);
    }
    admit(&mut peers, run.config("cyd"));
    let synced = popular(&peers, vec![local(3, &[("w", 1.0)]); 3]);
    assert_eq!(moved(&synced), [(0, 0); 3]);
}

#[test]
fn a_newcomer_is_given_everything_also_what_may_differ_and_that_once() {
    let (run, mut peers) = Run::with(&["ada", "ben"]);
    let round = |peers: &[Arc<Communicator>], revision: u64, newcomer: bool| {
        each(peers, move |rank, peer| {
            let is_new = newcomer && rank == 2;
            let mut weights = vec![if is_new { 0.0f32 } else { 1.0 }; LEN];
            let mut own = [if is_new { 99u8 } else { rank as u8 }; 10];
            let mut state = SharedState::new();
            state.revision = Revision(if is_new { 0 } else { revision });
            state.tensor("weights", &mut weights);
            state.tensor_unequal("own", &mut own);
            let report = peer.sync_shared_state(&mut state, EnforcePopular).unwrap();
            assert_eq!(state.revision, Revision(revision));
            (weights, own, report.rx_bytes)
        })
    };
    for (rank, (_, own, rx_bytes)) in round(&peers, 5, false).into_iter().enumerate() {
        assert_eq!((own, rx_bytes), ([rank as u8; 10], 0));
    }
    admit(&mut peers, run.config("cyd"));
    let synced = round(&peers, 6, true);
    assert!(
        synced
            .iter()
            .all(|(weights, _, _)| weights.iter().all(|w| *w == 1.0))
    );
    assert_eq!((synced[0].1, synced[1].1), ([0; 10], [1; 10]));
    assert!(
        synced[2].1 == [0; 10] || synced[2].1 == [1; 10],
        "{:?}",
        synced[2].1
    );
    assert_eq!(synced[2].2, BYTES + 10);
    // From then on it has its own.
    for (rank, (_, own, rx_bytes)) in round(&peers, 7, false).into_iter().enumerate() {
        assert_eq!((own, rx_bytes), ([rank as u8; 10], 0));
    }
}

#[test]
fn every_type_empty_tensors_and_slices_that_begin_anywhere_are_synchronised() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let results = each(&peers, |rank, peer| {
        let right = rank != 1;
        let value = if right { 3.0f32 } else { 4.0 };
        let mut half = vec![f16::from_f32(value); 1001];
        let mut brain = [bf16::from_f32(value); 77];
        let mut short = [value as i16; 31];
        let mut double = vec![f64::from(value); 5];
        let mut long = vec![value as u64; 1];
        let mut none: [f32; 0] = [];
        let mut empty: [i16; 0] = [];
        let mut bytes = vec![value as u8; 70_003];
        let mut state = SharedState::new();
        state.tensor("half", &mut half[1..]);
        state.tensor("none", &mut none);
        state.tensor("brain", &mut brain[3..]);
        state.tensor("short", &mut short[5..30]);
        state.tensor("double", &mut double);
        state.tensor("empty", &mut empty);
        state.tensor("long", &mut long);
        state.tensor("bytes", &mut bytes[1..70_002]);
        let report = peer.sync_shared_state(&mut state, EnforcePopular).unwrap();
        assert!(half[1..].iter().all(|v| *v == f16::from_f32(3.0)));
        assert!(brain[3..].iter().all(|v| *v == bf16::from_f32(3.0)));
        assert!(short[5..30].iter().all(|v| *v == 3));
        assert_eq!((double, long), (vec![3.0; 5], vec![3]));
        assert!(bytes[1..70_002].iter().all(|v| *v == 3));
        // What lies around the slices is not touched.
        assert_eq!(half[0], f16::from_f32(value));
        assert_eq!((short[4], short[30]), (value as i16, value as i16));
        assert_eq!((bytes[0], bytes[70_002]), (value as u8, value as u8));
        report.rx_bytes
    });
    let all = 1000 * 2 + 74 * 2 + 25 * 2 + 5 * 8 + 8 + 70_001;
    assert_eq!(results, [0, all, 0]);
}

#[test]
fn a_state_that_makes_no_sense_is_refused_here() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let outcomes = each(&peers[..1], |_, ada| {
        let mut state = SharedState::new();
        let nothing = ada.sync_shared_state(&mut state, EnforcePopular);
        let (mut a, mut b) = ([0u8], [0u8]);
        let mut state = SharedState::new();
        state.tensor("w", &mut a).tensor("w", &mut b);
        let twice = ada.sync_shared_state(&mut state, EnforcePopular);
        let mut state = SharedState::new();
        let mut tensor = [0u8];
        state.tensor("", &mut tensor);
        [
            nothing,
            twice,
            ada.sync_shared_state(&mut state, EnforcePopular),
        ]
    });
    for outcome in &outcomes[0] {
        assert!(
            matches!(outcome, Err(SyncError::InvalidState { .. })),
            "{outcome:?}"
        );
    }
    popular(&peers, vec![local(0, &[("w", 1.0)]); 2]);
}

#[test]
fn a_peer_alone_syncs_with_itself() {
    let (_run, peers) = Run::with(&["ada"]);
    for revision in 3..6 {
        let synced = popular(&peers, vec![local(revision, &[("w", 1.0)])]);
        assert_eq!(moved(&synced), [(0, 0)]);
    }
}

#[test]
fn a_sync_goes_on_without_those_that_vanish() {
    let (_run, mut peers) = Run::with(&["ada", "ben", "cyd"]);
    let syncing: Vec<_> = peers[..2]
        .iter()
        .zip([1.0, 2.0])
        .map(|(peer, value)| {
            let peer = peer.clone();
            Task::start(&peer.config().label.clone(), move || {
                let mut local = local(0, &[("w", value)]);
                let outcome = sync(&peer, &mut local, EnforcePopular);
                (local, outcome.unwrap())
            })
        })
        .collect();
    drop(peers.pop());
    let synced = end_all(syncing);
    assert_eq!(synced[0].0, synced[1].0);
}

#[test]
fn a_large_state_reaches_many_newcomers_bit_by_bit() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd", "dan"]);
    let len = 3_000_017;
    let synced = each(&peers, move |rank, peer| {
        let mut tensor: Vec<u8> = match rank {
            3 => (0..len).map(|index| (index * 31 % 251) as u8).collect(),
            _ => vec![0; len],
        };
        let mut state = SharedState::new();
        state.revision = Revision(if rank == 3 { 2 } else { 0 });
        state.tensor("w", &mut tensor);
        let report = peer.sync_shared_state(&mut state, EnforcePopular).unwrap();
        (tensor, report)
    });
    for (tensor, report) in &synced[..3] {
        assert_eq!(report.rx_bytes, len as u64);
        assert!(*tensor == synced[3].0);
    }
    assert_eq!(synced[3].1.tx_bytes, 3 * len as u64);
}
