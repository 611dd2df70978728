//! Makes a plan that fails smaller, as long as it still fails.

use super::plan::Plan;

/// The smallest plan found in at most `attempts_max` tries. `fails` plays a plan.
///
/// Faults are taken out in ever smaller runs (the `ddmin` of Zeller and Hildebrandt, 2002), then
/// what is left of the world is made simpler.
pub fn shrink(plan: &Plan, attempts_max: u32, fails: &mut dyn FnMut(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    let mut attempts = 0;
    let mut still_fails = |candidate: &Plan| {
        attempts += 1;
        attempts <= attempts_max && fails(candidate)
    };
    let mut run = best.faults.len().div_ceil(2);
    while run > 0 {
        let mut start = 0;
        let mut smaller = false;
        while start < best.faults.len() {
            let mut candidate = best.clone();
            let end = (start + run).min(candidate.faults.len());
            candidate.faults.drain(start..end);
            if still_fails(&candidate) {
                best = candidate;
                smaller = true;
            } else {
                start += run;
            }
        }
        if run == 1 && !smaller {
            break;
        }
        if run > 1 || !smaller {
            run /= 2;
        }
    }
    let simpler: [fn(&mut Plan); 5] = [
        |plan| plan.processes = plan.processes.saturating_sub(1).max(2),
        |plan| plan.lanes = 1,
        |plan| plan.drift_ppm = 0,
        |plan| plan.has_state_dirs = false,
        |plan| plan.path.jitter = std::time::Duration::ZERO,
    ];
    for make_simpler in simpler {
        let mut candidate = best.clone();
        make_simpler(&mut candidate);
        if candidate != best && still_fails(&candidate) {
            best = candidate;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::plan::Mode;

    #[test]
    fn only_the_faults_that_matter_are_left() {
        let plan = Plan::draw(5, Mode::Honest);
        assert!(plan.faults.len() >= 6);
        let needed = [plan.faults[1].clone(), plan.faults[4].clone()];
        let mut played = 0;
        let small = shrink(&plan, 1000, &mut |candidate| {
            played += 1;
            needed.iter().all(|fault| candidate.faults.contains(fault))
        });
        assert_eq!(small.faults, needed);
        assert_eq!((small.lanes, small.drift_ppm), (1, 0));
        assert!(played < 100, "{played} worlds were played");
    }

    #[test]
    fn the_number_of_tries_is_bounded() {
        let plan = Plan::draw(5, Mode::Honest);
        let mut played = 0;
        shrink(&plan, 7, &mut |_| {
            played += 1;
            true
        });
        assert!(played <= 7);
    }
}
