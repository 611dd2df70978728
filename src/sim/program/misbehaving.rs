//! What nobody may call: operations that the others mean differently, joint calls at the wrong time,
//! states that are not the others', revisions that nobody has. Its peers may be told of it in
//! errors that name it; nothing else may befall them.

use super::Ground;
use super::any_order::{Calling, after, connect, goes_on, patiently, pending, reduce, update};
use super::life::{Life, Work};
use super::manner::Misbehaving;
use super::model::Model;
use super::numbers::Shape;
use super::recommended::all;
use super::stranger;
use crate::communicator::OwnedTensor;
use crate::error::SyncError;
use crate::sim::Dice;
use crate::types::{DataType, ReduceOp, Revision, Tag};

/// Until it is calm; then the life it is in, if it is a member.
pub(super) async fn run(
    ground: &Ground,
    parameters: Misbehaving,
    model: &mut Model,
) -> Option<Life> {
    let mut dice = Dice::new(parameters.seed, 0);
    while goes_on(ground) {
        let life = Life::begin(ground, true)?;
        if connect(&life, parameters.patience, &mut dice).await {
            let mut is_over = false;
            while goes_on(ground) && !is_over {
                is_over = act(&life, &parameters, model, &mut dice).await;
                tokio::time::sleep(dice.ms(0, 200)).await;
            }
            if !is_over {
                return Some(life);
            }
        }
        model.begin_anew(&life.tainted());
        life.end().await;
    }
    None
}

/// Whether the life is over.
async fn act(life: &Life, parameters: &Misbehaving, model: &mut Model, dice: &mut Dice) -> bool {
    let mut calls: Vec<Calling<'_>> = Vec::new();
    match dice.below(8) {
        0..=2 => {
            let tag = Tag(dice.below(life.ground.manner.tags));
            let work = Work {
                tag,
                shape: lie(Shape::of(&life.ground.manner, tag, 0), dice),
                nonce: dice.below(1000),
                in_place: dice.one_in(2),
                deadline: None,
            };
            calls.push(Box::pin(reduce(life, work)));
        }
        3 => calls.push(Box::pin(update(life))),
        4 => calls.push(Box::pin(pending(life))),
        5 | 6 => {
            let (revision, tensors) = lying_state(model, dice);
            calls.push(Box::pin(async move {
                let (_, result) = life.sync_tensors(revision, tensors).await;
                matches!(
                    result,
                    Err(SyncError::Gone(_) | SyncError::NoCleanState { .. })
                )
            }));
        }
        _ => {}
    }
    if parameters.stranger && dice.one_in(2) {
        let lie = stranger::Lie::draw(&life.ground, &life.addresses(), dice);
        let network = life.ground.host.network.clone();
        calls.push(after(dice.ms(0, 50), async move {
            lie.tell(&network).await;
            false
        }));
    }
    patiently(life, parameters.patience, all(calls))
        .await
        .contains(&true)
}

/// Something else than what the others mean.
fn lie(shape: Shape, dice: &mut Dice) -> Shape {
    match dice.below(3) {
        0 => Shape {
            count: shape.count + 1,
            ..shape
        },
        1 => Shape {
            data_type: *dice.pick(&DataType::ALL),
            quantization: None,
            ..shape
        },
        _ => Shape {
            op: *dice.pick(&ReduceOp::ALL),
            ..shape
        },
    }
}

/// A state in which something is not as it must be.
fn lying_state(model: &Model, dice: &mut Dice) -> (Revision, Vec<OwnedTensor>) {
    let (mut revision, mut tensors) = (model.revision, model.tensors.clone());
    match dice.below(5) {
        0 => revision = Revision(revision.0 + dice.between(1, 5)),
        1 => revision = Revision(0),
        2 => tensors[0].bytes.push(7),
        3 => tensors[1].name.push('s'),
        _ => tensors.reverse(),
    }
    (revision, tensors)
}
