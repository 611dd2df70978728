//! Does to the run what the script says, and sees to it that somebody is left.

use super::faults::{Fault, Script};
use crate::stage::Stage;

/// A blow never leaves fewer peers unhurt than this.
const UNHURT_MIN: usize = 1;

/// Strikes, then fills up to two unhurt peers.
pub(super) fn strike(
    stage: &mut Stage,
    fault: Fault,
    script: &mut Script,
    peers_max: u64,
) -> Result<(), String> {
    match fault {
        Fault::Kill => kill_one(stage, script)?,
        Fault::KillSeveral(count) => {
            for _ in 0..count {
                kill_one(stage, script)?;
            }
        }
        Fault::Stop(duration) => {
            if let Some(index) = victim(stage, script) {
                stage.stop(index, duration)?;
            }
        }
        Fault::Leave => {
            if let Some(index) = victim(stage, script) {
                stage.ask_to_leave(index);
            }
        }
        Fault::Join => join(stage, 1, peers_max)?,
        Fault::JoinSeveral(count) => join(stage, count, peers_max)?,
        Fault::Cut(way, duration) => {
            if let Some(index) = victim(stage, script) {
                let other = other(stage, script, index);
                stage.cut(index, way, other, duration)?;
            }
        }
        Fault::JoinAndKill(after) => {
            let label = stage.join()?;
            stage.wait(after)?;
            if let Some(index) = stage.find(&label) {
                stage.kill(index)?;
            }
        }
        Fault::JoinAndStop(duration) => {
            let label = stage.join()?;
            stage.wait(script.moment())?;
            if let Some(index) = stage.find(&label) {
                stage.stop(index, duration)?;
            }
        }
        Fault::JoinAndCut(way, duration) => {
            let label = stage.join()?;
            stage.wait(script.moment())?;
            if let Some(index) = stage.find(&label) {
                let other = other(stage, script, index);
                stage.cut(index, way, other, duration)?;
            }
        }
        Fault::StopMaster(duration) => stage.stop_master(duration)?,
        Fault::StopAll(duration) => {
            for index in 0..stage.peers().len() {
                if !stage.is_held(index) {
                    stage.stop(index, duration)?;
                }
            }
            return Ok(());
        }
    }
    // Nobody reduces alone: the last ones always get company.
    while unhurt(stage).len() < 2 {
        stage.join()?;
    }
    Ok(())
}

fn join(stage: &mut Stage, count: u64, peers_max: u64) -> Result<(), String> {
    for _ in 0..count {
        if (stage.peers().len() as u64) < peers_max {
            stage.join()?;
        }
    }
    Ok(())
}

fn kill_one(stage: &mut Stage, script: &mut Script) -> Result<(), String> {
    match victim(stage, script) {
        Some(index) => stage.kill(index),
        None => Ok(()),
    }
}

/// Somebody who may be hurt, so that others are left.
fn victim(stage: &Stage, script: &mut Script) -> Option<usize> {
    let unhurt = unhurt(stage);
    match unhurt.len() > UNHURT_MIN {
        true => script.pick(&unhurt).copied(),
        false => None,
    }
}

/// Somebody else to be cut off from this one.
fn other(stage: &Stage, script: &mut Script, index: usize) -> Option<usize> {
    let mut others = unhurt(stage);
    others.retain(|other| *other != index);
    script.pick(&others).copied()
}

fn unhurt(stage: &Stage) -> Vec<usize> {
    (0..stage.peers().len())
        .filter(|index| !stage.is_held(*index))
        .collect()
}
