//! Which of several masters to ask next.
//!
//! Peers that have lost the same master are to meet at the same one: whoever is asked in vain, or
//! does not rule yet, the list is gone through from its beginning.

use std::collections::BTreeSet;

/// Answers in a row that tell to wait, before a master further down the list is asked as well:
/// the first one may be out of reach of the others.
const WAITS_BEFORE_NEXT: u32 = 4;

/// See the module's text.
#[derive(Clone, Debug, Hash)]
pub(super) struct Masters {
    addresses: Vec<String>,
    /// Asked at present, or followed.
    at: usize,
    /// Those that have waited for peers of a run in vain, when they were asked last.
    waited_in_vain: BTreeSet<usize>,
    /// Answers that told to wait, since one was followed.
    waits: u32,
}

impl Masters {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            at: 0,
            waited_in_vain: BTreeSet::new(),
            waits: 0,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.addresses.len()).unwrap_or(u32::MAX)
    }

    /// The one that is asked, or followed.
    pub(super) fn address(&self) -> String {
        self.addresses.get(self.at).cloned().unwrap_or_default()
    }

    /// All of them, for people.
    pub(super) fn names(&self) -> String {
        self.addresses.join(", ")
    }

    /// This one is followed.
    pub(super) fn follow(&mut self) {
        self.waits = 0;
        self.waited_in_vain.clear();
    }

    /// The one that was followed does not answer: from the beginning of the list, but for itself.
    pub(super) fn leave(&mut self) {
        self.at = match self.at {
            0 => 1 % self.addresses.len().max(1),
            _ => 0,
        };
    }

    /// This one does not answer.
    pub(super) fn go_on(&mut self) {
        self.waited_in_vain.remove(&self.at);
        self.at = (self.at + 1) % self.addresses.len().max(1);
    }

    /// This one has been waited at for a majority.
    pub(super) fn wait_in_vain(&mut self) {
        self.waits = self.waits.saturating_add(1);
    }

    /// This one answers a member, and does not rule.
    pub(super) fn wait(&mut self) {
        self.wait_in_vain();
        match self.waits % WAITS_BEFORE_NEXT {
            0 => self.go_on(),
            _ => self.at = 0,
        }
    }

    /// This one answers a newcomer, and does not rule: somebody else may.
    pub(super) fn ask_another(&mut self, nobody_came: bool) {
        let asked = self.at;
        self.go_on();
        if nobody_came {
            self.waited_in_vain.insert(asked);
        }
    }

    /// Whether the one that is asked is the first.
    pub(super) fn is_first(&self) -> bool {
        self.at == 0
    }

    /// Whether the last answer was to wait.
    pub(super) fn are_waiting(&self) -> bool {
        self.waits > 0
    }

    /// Whether the one that is asked is the first, and all others have waited in vain.
    pub(super) fn nobody_came_elsewhere(&self) -> bool {
        let others = self.addresses.len().saturating_sub(1);
        let vain = self.waited_in_vain.range(1..).count();
        self.at == 0 && vain == others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Masters {
        Masters::new(["a:1", "b:1", "c:1"].map(str::to_owned).to_vec())
    }

    #[test]
    fn a_master_that_is_lost_is_looked_for_from_the_beginning_of_the_list() {
        let mut masters = three();
        masters.leave();
        assert_eq!(masters.address(), "b:1");
        masters.go_on();
        masters.leave();
        assert_eq!(masters.address(), "a:1");
    }

    #[test]
    fn who_is_told_to_wait_meets_the_others_before_it_goes_further_down() {
        let mut masters = three();
        for _ in 1..WAITS_BEFORE_NEXT {
            masters.leave();
            masters.wait();
            assert_eq!(masters.address(), "a:1");
        }
        masters.leave();
        masters.wait();
        assert_eq!(masters.address(), "c:1");
    }

    #[test]
    fn a_run_begins_at_the_first_once_all_others_have_waited_in_vain() {
        let mut masters = three();
        masters.ask_another(true);
        masters.ask_another(true);
        masters.ask_another(false);
        assert!(!masters.nobody_came_elsewhere());
        masters.ask_another(true);
        masters.ask_another(true);
        assert!(!masters.nobody_came_elsewhere());
        masters.ask_another(true);
        assert!(masters.nobody_came_elsewhere());
        masters.ask_another(true);
        masters.go_on();
        masters.ask_another(true);
        assert!(!masters.nobody_came_elsewhere());
        let alone = Masters::new(vec!["a:1".to_owned()]);
        assert!(alone.nobody_came_elsewhere());
    }
}
