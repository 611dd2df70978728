//! The loop that the documentation recommends.
//!
//! Everything that decides which call comes next is the same for all: the answer to
//! `are_peers_pending`, and the step, which is part of the shared state. Where somebody else's calls
//! could not meet these, all that were told start the turn anew, with a sync: what was half done in
//! a step may not be the same for all.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::any_order::patiently;
use super::life::{Life, Work};
use super::manner::Recommended;
use super::model::Model;
use super::numbers::{Shape, mix};
use super::{GLANCE, Ground};
use crate::error::{CollectiveError, MembershipError, SyncError};
use crate::sim::history::Event;
use crate::types::Tag;

/// How long operations may take where programs may call anything.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why a turn did not come to its end.
enum Stop {
    /// Somebody called something else.
    Again,
    /// This life is over.
    End,
}

/// What went well with everybody since it is calm.
#[derive(Clone, Copy, Debug, Default)]
struct Right {
    updated: bool,
    synced: bool,
    reduced: bool,
    told: bool,
}

/// One life after the other, until the world is over.
pub(super) async fn run(ground: &Ground, parameters: &Recommended, model: &mut Model) {
    while !ground.signals.is_over() {
        let Some(life) = Life::begin(ground, false) else {
            return;
        };
        if life.connect().await.is_ok() {
            go_on(life, parameters, model).await;
        } else {
            life.end().await;
        }
        tokio::time::sleep(parameters.pause).await;
    }
}

/// The rest of a life that is connected.
pub(super) async fn go_on(life: Life, parameters: &Recommended, model: &mut Model) {
    let mut steps = 0;
    let mut turns = Turns {
        parameters,
        life: &life,
        model: &mut *model,
        is_first: true,
        must_sync: true,
        right: Right::default(),
    };
    while !life.ground.signals.is_over() {
        tokio::time::sleep(parameters.think).await;
        match turns.turn().await {
            Ok(()) => steps += 1,
            Err(Stop::Again) => turns.must_sync = true,
            Err(Stop::End) => break,
        }
        turns.is_first = false;
        let may_leave = life.ground.signals.calm().is_none();
        if parameters.leave_after > 0 && steps >= parameters.leave_after && may_leave {
            let _ = life.leave().await;
            break;
        }
    }
    model.begin_anew(&life.tainted());
    life.end().await;
}

struct Turns<'a> {
    parameters: &'a Recommended,
    life: &'a Life,
    model: &'a mut Model,
    /// The others, who have just let this peer in, sync next.
    is_first: bool,
    must_sync: bool,
    right: Right,
}

impl Turns<'_> {
    /// Everything between two looks at the world.
    async fn turn(&mut self) -> Result<(), Stop> {
        let manner = &self.life.ground.manner;
        let calm = self.life.ground.signals.calm();
        if !self.is_first {
            let pending = self.life.are_peers_pending().await.map_err(stop)?;
            // Until they have synced, the others may be at another step.
            let due = !self.must_sync && self.model.step().is_multiple_of(manner.update_every);
            if pending || due {
                self.life.update().await.map_err(stop)?;
                self.right.updated |= self.is_everybody(calm);
                self.must_sync = true;
            }
        }
        if self.must_sync || self.model.step().is_multiple_of(manner.sync_every) {
            self.sync().await?;
            self.right.synced |= self.is_everybody(calm);
        }
        let results = self.reduce().await?;
        self.right.reduced |= self.is_everybody(calm);
        let own = self.life.ground.process.0.to_le_bytes();
        let own = if manner.diverges { &own[..] } else { &[] };
        self.model.learn(&results, own);
        let Right {
            updated,
            synced,
            reduced,
            told,
        } = self.right;
        if updated && synced && reduced && !told {
            self.right.told = true;
            self.life.ground.record(Event::CameRight);
        }
        if self.life.sizes().group < 2 {
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Whether it was calm before, and nobody is missing.
    fn is_everybody(&self, calm: Option<u32>) -> bool {
        calm == Some(self.life.sizes().global)
    }

    async fn sync(&mut self) -> Result<(), Stop> {
        loop {
            match self.life.sync(self.model).await {
                Ok(()) => {
                    self.must_sync = false;
                    return Ok(());
                }
                // All were told the same, and try again.
                Err(SyncError::Aborted { .. }) => {}
                Err(SyncError::StaleRevision { expected, .. }) => self.model.revision = expected,
                Err(SyncError::CannotMeet { .. } | SyncError::Cancelled) => {
                    return Err(Stop::Again);
                }
                Err(_) => return Err(Stop::End),
            }
        }
    }

    /// All tags at once, those that were aborted again, until all have committed.
    async fn reduce(&mut self) -> Result<Vec<Vec<u8>>, Stop> {
        let (life, step) = (self.life, self.model.step());
        let manner = &life.ground.manner;
        let mut works: Vec<Work> = (0..manner.tags)
            .map(|tag| {
                let shape = Shape::of(manner, Tag(tag), step);
                let draw = mix(&[u64::from(life.ground.process.0), tag, step]);
                let one_in = self.parameters.in_place_one_in;
                let hurries = manner.deadline_one_in > 0
                    && (draw >> 16).is_multiple_of(manner.deadline_one_in)
                    && life.ground.signals.calm().is_none();
                Work {
                    tag: Tag(tag),
                    shape,
                    nonce: step.wrapping_add(tag),
                    in_place: one_in > 0 && draw.is_multiple_of(one_in),
                    deadline: hurries.then(|| Duration::from_millis(20 + draw % 300)),
                }
            })
            .collect();
        let mut results: Vec<Option<Vec<u8>>> = vec![None; works.len()];
        while results.contains(&None) {
            let open: Vec<usize> = (0..works.len())
                .filter(|index| results[*index].is_none())
                .collect();
            let attempts = open.iter().map(|index| attempt(life, works[*index]));
            let attempts = all(attempts.collect());
            let outcomes = if manner.fixed_shapes {
                // Somebody may be in a call that these do not meet, and wait for others as well.
                patiently(life, PATIENCE, attempts).await
            } else {
                attempts.await
            };
            for (index, outcome) in open.iter().zip(outcomes) {
                results[*index] = outcome?;
            }
            for work in works.iter_mut().filter(|_| manner.new_inputs) {
                work.nonce = work.nonce.wrapping_add(1);
                work.deadline = None;
            }
        }
        Ok(results.into_iter().flatten().collect())
    }
}

/// None where it is worth another attempt.
async fn attempt(life: &Life, work: Work) -> Result<Option<Vec<u8>>, Stop> {
    match life.reduce(work).await {
        Ok(result) => Ok(Some(result)),
        // Alone, the sum is what one has.
        Err(CollectiveError::TooFewPeers { .. }) => {
            Ok(Some(work.shape.fill(life.ground.process, work.nonce)))
        }
        Err(error) if error.is_retryable() => Ok(None),
        Err(CollectiveError::Mismatch { .. }) => Ok(None),
        Err(CollectiveError::CannotMeet { .. }) => {
            // Those that started anew do not call the other tags any more.
            life.cancel().await;
            Err(Stop::Again)
        }
        Err(CollectiveError::Cancelled) => Err(Stop::Again),
        Err(_) => Err(Stop::End),
    }
}

fn stop(error: MembershipError) -> Stop {
    match error {
        MembershipError::CannotMeet { .. } | MembershipError::Cancelled => Stop::Again,
        _ => Stop::End,
    }
}

/// All of them, beside each other in this task.
pub(super) async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_ready = true;
        for (future, output) in running.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
