//! The model is proved by rules that the machines break on purpose: each must be found, by the
//! property that it is about.

use pccl::mutation::Mutation;
use stateright::{Checker, HasDiscoveries, Model};

use super::instance::Instance;
use super::moves::{Kind, MISHAPS, PARTINGS, SILENCES};
use super::properties::{COMPLETE, IN_STEP, LINEAR, MAJORITY, NO_HANG, ONE_OUTCOME};

/// Whether a state is found in which a property does not hold.
fn is_found(mutation: Mutation, instance: Instance) -> bool {
    let instance = Instance {
        mutation: Some(mutation),
        ..instance
    };
    let checker = instance.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::Any).spawn_dfs().join();
    for name in checker.discoveries().into_keys() {
        let states = checker.unique_state_count();
        println!("{mutation:?}: not so: {name}, in {states} states");
    }
    !checker.discoveries().is_empty()
}

/// The shortest way to a state in which a property does not hold: its name and the number of steps.
fn found(
    mutation: Mutation,
    peers: usize,
    faults: u8,
    kinds: &'static [Kind],
) -> Vec<&'static str> {
    let instance = Instance {
        faults,
        kinds,
        mutation: Some(mutation),
        ..Instance::of(peers)
    };
    let checker = instance.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let discoveries = checker.discoveries();
    for (name, path) in &discoveries {
        println!(
            "{mutation:?}: not so: {name}, in {} states",
            checker.unique_state_count()
        );
        for action in path.clone().into_actions() {
            println!("    {action:?}");
        }
    }
    discoveries.into_keys().collect()
}

#[test]
fn settling_at_the_first_report_is_found() {
    assert_eq!(found(Mutation::SettleAtFirstDone, 2, 0, &[]), [COMPLETE]);
}

#[test]
fn a_reused_epoch_number_is_found() {
    let names = found(
        Mutation::ReuseEpochNumber,
        3,
        2,
        &[Kind::Kill, Kind::Silence],
    );
    assert!(
        names.contains(&LINEAR) || names.contains(&NO_HANG),
        "{names:?}"
    );
}

#[test]
fn an_epoch_without_a_majority_is_found() {
    let names = found(Mutation::ActivateWithoutMajority, 3, 1, MISHAPS);
    assert_eq!(names, [MAJORITY]);
}

#[test]
fn committing_whatever_an_epoch_leaves_is_found() {
    assert_eq!(
        found(Mutation::CommitAllAtEpochEnd, 3, 1, MISHAPS),
        [COMPLETE]
    );
}

#[test]
fn a_forgotten_debt_is_found() {
    assert_eq!(found(Mutation::ForgetDebt, 2, 1, MISHAPS), [IN_STEP]);
}

#[test]
fn settling_while_the_epoch_changes_is_found() {
    let kinds = &[Kind::Kill];
    assert_eq!(
        found(Mutation::SettleWhileChanging, 3, 1, kinds),
        [ONE_OUTCOME]
    );
}

#[test]
fn outcomes_told_before_they_are_true_are_found() {
    let kinds = &[Kind::Kill];
    assert_eq!(
        found(Mutation::OutcomesAtProposal, 3, 1, kinds),
        [ONE_OUTCOME]
    );
}

#[test]
fn an_operation_that_is_not_put_back_is_found() {
    let names = found(Mutation::KeepUnlisted, 3, 1, MISHAPS);
    assert!(!names.is_empty());
}

#[test]
fn a_resume_that_says_nothing_is_found() {
    let names = found(Mutation::ResumeSaysNothing, 2, 1, &[Kind::Break]);
    assert!(!names.is_empty());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs --release")]
fn a_master_that_comes_back_and_rules_without_a_majority_is_found() {
    let instance = Instance::two_restarts_and_two_deaths();
    assert!(is_found(Mutation::RuleWithoutMajority, instance.clone()));
    assert!(is_found(Mutation::TakeBackWhoWasLeftOut, instance));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs --release")]
fn a_master_that_comes_back_and_does_not_ask_how_operations_ended_is_found() {
    let instance = Instance {
        faults: 2,
        restarts: 1,
        losses: 1,
        kinds: SILENCES,
        ..Instance::of(3)
    };
    assert!(is_found(Mutation::InheritNothing, instance));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs --release")]
fn a_master_that_rules_beside_another_one_without_a_majority_is_found() {
    let instance = Instance::a_standby_and_a_loss(3);
    assert!(is_found(Mutation::RuleBesideStandbys, instance));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs --release")]
fn a_master_that_goes_on_in_an_epoch_without_all_of_it_is_found() {
    let instance = Instance {
        faults: 2,
        kinds: PARTINGS,
        ..Instance::a_standby_and_a_loss(3)
    };
    assert!(is_found(Mutation::GoOnWithoutTheAbsent, instance));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs --release")]
fn a_master_that_comes_back_and_does_not_answer_who_is_behind_is_found() {
    let instance = Instance::a_newcomer_a_silence_and_a_restart();
    assert!(is_found(Mutation::AnswerNobodyBehind, instance));
}
