//! I5: after a committed sync all members hold equal content, and the revision has advanced by
//! exactly one; a sync that one member saw fail nobody saw commit; and what commits is what somebody
//! brought, never what a failed sync left half written.
//!
//! Where another master has come to rule, what the one before told only those who are dead, or gave up
//! waiting, is told to nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use super::calls::{Calls, Step};
use super::peers::Peers;
use crate::error::SyncError;
use crate::sim::history::{Call, Event, Life, ProcessId, Record, Returned};
use crate::types::Revision;

/// See the module's text.
#[derive(Debug, Default)]
pub struct StateParity {
    calls: Calls,
    peers: Peers,
    rounds: BTreeMap<u64, Round>,
    /// The last committed revision of each life.
    last: BTreeMap<(ProcessId, Life), Revision>,
    /// Hashes of what was ever brought to a sync, but for what is torn there.
    whole: BTreeSet<[u8; 32]>,
    /// What a failed sync left at a process where it is not what it was before.
    torn: BTreeMap<ProcessId, blake3::Hash>,
    is_another_master: bool,
}

/// What callers were told of one round of one group.
#[derive(Debug, Default)]
struct Round {
    committed: Option<(ProcessId, Revision, blake3::Hash)>,
    winners: Vec<(ProcessId, Life)>,
    failed: Option<(ProcessId, SyncError)>,
}

impl Checker for StateParity {
    fn invariant(&self) -> &'static str {
        "state_parity"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        let process = record.process;
        self.peers.see(record);
        self.is_another_master |= matches!(record.event, Event::MasterRules);
        if let Event::NewRun = record.event {
            self.rounds.clear();
            self.last.clear();
        }
        if let Event::Called {
            what: Call::Sync { content, .. },
            ..
        } = &record.event
        {
            let hash = blake3::hash(content);
            if self.torn.get(&process) != Some(&hash) {
                self.whole.insert(*hash.as_bytes());
            }
        }
        let Some(Step::Ended {
            call,
            result: Returned::Sync { result, content },
        }) = self.calls.see(record)
        else {
            return Ok(());
        };
        let hash = blake3::hash(content);
        if result.is_ok() {
            self.torn.remove(&process);
        } else if matches!(&call.what, Call::Sync { content: before, .. } if before != content) {
            self.torn.insert(process, hash);
        }
        if let Ok(revision) = result {
            let last = self.last.insert((process, call.life), *revision);
            if last.is_some_and(|last| last.0 + 1 != revision.0) {
                let last = last.unwrap_or_default();
                return Err(format!(
                    "{process} went from revision {last} to {revision} with one sync"
                ));
            }
        }
        let Some(number) = call.round else {
            return match result {
                // It had nothing to receive, and hears of the end from another master.
                Ok(revision) if has_committed(&self.rounds, *revision, hash) => Ok(()),
                Ok(_) if self.is_another_master && is_as_brought(&call.what, content) => Ok(()),
                Ok(revision) => Err(format!("{process} synced {revision} in no round at all")),
                Err(_) => Ok(()),
            };
        };
        let round = self.rounds.entry(number).or_default();
        match result {
            Ok(revision) => {
                round.winners.push((process, call.life));
                round.commit(process, *revision, hash)?;
                if !self.whole.contains(hash.as_bytes()) {
                    return Err(format!(
                        "{process} synced to a content at revision {revision} that nobody brought"
                    ));
                }
            }
            // It has left the run, and nobody knows how the round ended.
            Err(SyncError::Gone(_)) => {}
            Err(error) => round.failed = Some((process, error.clone())),
        }
        if self.is_another_master && round.winners.iter().all(|who| self.peers.is_lost(*who)) {
            return Ok(());
        }
        match (&round.committed, &round.failed) {
            (Some((winner, revision, _)), Some((loser, error))) => Err(format!(
                "round {number} committed revision {revision} at {winner}, {loser} was told: {error}"
            )),
            _ => Ok(()),
        }
    }
}

fn is_as_brought(call: &Call, after: &[u8]) -> bool {
    matches!(call, Call::Sync { content, .. } if content[..] == *after)
}

fn has_committed(rounds: &BTreeMap<u64, Round>, revision: Revision, hash: blake3::Hash) -> bool {
    let mut committed = rounds.values().filter_map(|r| r.committed.as_ref());
    committed.any(|(_, theirs, content)| (*theirs, *content) == (revision, hash))
}

impl Round {
    fn commit(
        &mut self,
        process: ProcessId,
        revision: Revision,
        hash: blake3::Hash,
    ) -> Result<(), String> {
        let (other, theirs, content) = self.committed.get_or_insert((process, revision, hash));
        if *theirs != revision {
            return Err(format!(
                "{other} synced revision {theirs}, {process} {revision} in the same round"
            ));
        }
        if *content != hash {
            return Err(format!(
                "{other} and {process} hold different content at revision {revision}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn aborted() -> SyncError {
        SyncError::Aborted {
            reason: "the holder was lost".to_owned(),
        }
    }

    fn story() -> (Story<StateParity>, u64) {
        let mut story = Story::of_two(StateParity::default());
        let one = story.sync(1, 1, 4, b"state");
        let two = story.sync(2, 1, 0, b"begin");
        story.synced(1, one, Ok(4), b"state").unwrap();
        (story, two)
    }

    #[test]
    fn equal_content_and_one_step_is_right() {
        let (mut story, two) = story();
        story.synced(2, two, Ok(4), b"state").unwrap();
        let one = story.sync(1, 2, 5, b"next");
        story.synced(1, one, Err(aborted()), b"torn").unwrap();
        let one = story.sync(1, 3, 5, b"torn");
        story.synced(1, one, Ok(5), b"next").unwrap();
    }

    #[test]
    fn different_content_is_seen() {
        let (mut story, two) = story();
        assert!(story.synced(2, two, Ok(4), b"other").is_err());
    }

    #[test]
    fn a_failure_beside_a_commit_is_seen() {
        let (mut story, two) = story();
        assert!(story.synced(2, two, Err(aborted()), b"state").is_err());
    }

    #[test]
    fn what_only_the_dead_were_told_by_a_master_before_is_told_to_nobody() {
        for is_another_master in [true, false] {
            let (mut story, two) = story();
            story.tell(1, Event::Died);
            if is_another_master {
                story.tell(0, Event::MasterRules);
            }
            let failed = story.synced(2, two, Err(aborted()), b"state");
            assert_eq!(failed.is_ok(), is_another_master);
        }
    }

    #[test]
    fn a_revision_that_stays_or_jumps_is_seen() {
        for revision in [4, 6] {
            let (mut story, _) = story();
            let one = story.sync(1, 2, revision, b"next");
            assert!(story.synced(1, one, Ok(revision), b"next").is_err());
        }
    }

    #[test]
    fn a_content_that_a_failed_sync_tore_is_nobodys() {
        let (mut story, two) = story();
        story.synced(2, two, Ok(4), b"state").unwrap();
        let one = story.sync(1, 2, 5, b"next");
        story.synced(1, one, Err(aborted()), b"nete").unwrap();
        let one = story.sync(1, 3, 5, b"nete");
        assert!(story.synced(1, one, Ok(5), b"nete").is_err());
    }
}
