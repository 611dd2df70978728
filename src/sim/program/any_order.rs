//! Any legal call at any time: several at once, under few tags, cancelled when they take long, with
//! deadlines; left, closed and dropped in between.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::Ground;
use super::life::{Life, Work};
use super::manner::AnyOrder;
use super::model::Model;
use super::numbers::Shape;
use super::recommended::all;
use crate::error::{CollectiveError, ConnectError, MembershipError, SyncError};
use crate::sim::Dice;
use crate::types::Tag;

/// A call that is made, and whether it says that this life is over.
pub(super) type Calling<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Until it is calm; then the life it is in, if it is a member.
pub(super) async fn run(ground: &Ground, parameters: AnyOrder, model: &mut Model) -> Option<Life> {
    let mut dice = Dice::new(parameters.seed, 0);
    while goes_on(ground) {
        let life = Life::begin(ground, true)?;
        if connect(&life, parameters.patience, &mut dice).await {
            let mut is_over = false;
            while goes_on(ground) && !is_over {
                is_over = act(&life, &parameters, model, &mut dice).await;
                tokio::time::sleep(dice.ms(0, parameters.idle.as_millis() as u64)).await;
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

pub(super) fn goes_on(ground: &Ground) -> bool {
    ground.signals.calm().is_none() && !ground.signals.is_over()
}

/// Whether it became a member.
pub(super) async fn connect(life: &Life, patience: Duration, dice: &mut Dice) -> bool {
    while goes_on(&life.ground) {
        // Being let in is up to the others.
        let wait = patience * dice.between(1, 8) as u32;
        match patiently(life, wait, life.connect()).await {
            Ok(()) => return true,
            Err(ConnectError::Gone(_)) => return false,
            Err(_) => tokio::time::sleep(dice.ms(10, 300)).await,
        }
    }
    false
}

/// Cancels what takes long, and again what began after that.
pub(super) async fn patiently<T>(
    life: &Life,
    patience: Duration,
    call: impl Future<Output = T>,
) -> T {
    let mut call = std::pin::pin!(call);
    loop {
        tokio::select! {
            biased;
            output = &mut call => return output,
            () = tokio::time::sleep(patience) => {}
        }
        life.cancel().await;
    }
}

/// Some calls; whether the life is over.
async fn act(life: &Life, parameters: &AnyOrder, model: &mut Model, dice: &mut Dice) -> bool {
    let mut calls: Vec<Calling<'_>> = Vec::new();
    let mut closes = false;
    match dice.below(12) {
        0..=4 => {
            let manner = &life.ground.manner;
            let first = dice.below(manner.tags);
            for tag in 0..dice.between(1, manner.tags.min(3)) {
                let tag = Tag((first + tag) % manner.tags);
                let work = Work {
                    tag,
                    shape: Shape::of(manner, tag, 0),
                    nonce: dice.below(1000),
                    in_place: dice.one_in(2),
                    deadline: dice.one_in(4).then(|| dice.ms(1, 800)),
                };
                calls.push(after(dice.ms(0, 30), reduce(life, work)));
            }
            if dice.one_in(3) {
                calls.push(after(dice.ms(0, 30), pending(life)));
            }
            if dice.one_in(10) {
                calls.push(after(dice.ms(0, 30), update(life)));
            }
            closes = dice.one_in(12);
        }
        5 | 6 => calls.push(Box::pin(pending(life))),
        7 => calls.push(Box::pin(update(life))),
        8 | 9 => calls.push(Box::pin(sync(life, model))),
        10 if dice.one_in(3) => {
            let _ = life.leave().await;
            return true;
        }
        // Dropped as it is.
        11 => return dice.one_in(4),
        _ => {}
    }
    if dice.one_in(6) {
        let delay = dice.ms(0, 200);
        calls.push(Box::pin(async move {
            tokio::time::sleep(delay).await;
            life.cancel().await;
            false
        }));
    }
    if closes {
        let delay = dice.ms(0, 100);
        calls.push(Box::pin(async move {
            tokio::time::sleep(delay).await;
            life.close().await;
            true
        }));
    }
    patiently(life, parameters.patience, all(calls))
        .await
        .contains(&true)
}

/// A call that begins a little later.
pub(super) fn after<'a>(
    delay: Duration,
    call: impl Future<Output = bool> + Send + 'a,
) -> Calling<'a> {
    Box::pin(async move {
        tokio::time::sleep(delay).await;
        call.await
    })
}

pub(super) async fn reduce(life: &Life, work: Work) -> bool {
    matches!(life.reduce(work).await, Err(CollectiveError::Gone(_)))
}

pub(super) async fn pending(life: &Life) -> bool {
    matches!(
        life.are_peers_pending().await,
        Err(MembershipError::Gone(_))
    )
}

pub(super) async fn update(life: &Life) -> bool {
    matches!(life.update().await, Err(MembershipError::Gone(_)))
}

async fn sync(life: &Life, model: &mut Model) -> bool {
    match life.sync(model).await {
        Err(SyncError::StaleRevision { expected, .. }) => {
            model.revision = expected;
            false
        }
        // It asks for a checkpoint, and a new communicator.
        Err(SyncError::Gone(_) | SyncError::NoCleanState { .. }) => true,
        _ => false,
    }
}
