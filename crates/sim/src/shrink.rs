//! Finding a smaller scenario that still goes wrong.

use crate::{Faults, Scenario};

/// A scenario that fails as the given one does and is smaller: fewer minutes, fewer providers, fewer kinds of faults. No single
/// step from it fails, which does not say that no smaller one does.
pub fn shrink(scenario: &Scenario, fails: &mut dyn FnMut(&Scenario) -> bool) -> Scenario {
    let mut best = scenario.clone();
    while let Some(smaller) = smaller(&best).into_iter().find(|candidate| fails(candidate)) {
        best = smaller;
    }
    best
}

/// The steps from here, the largest first.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let Scenario { minutes, providers, faults, .. } = *scenario;
    let shorter = [minutes / 2, minutes - 1].map(|minutes| Scenario { minutes, ..scenario.clone() });
    let fewer = [providers / 2, providers - 1].map(|providers| Scenario { providers, ..scenario.clone() });
    let calmer =
        Faults::KINDS.into_iter().map(|kind| Scenario { faults: faults.without(kind), ..scenario.clone() });
    let sized = shorter.into_iter().chain(fewer).filter(|s| s.minutes > 0 && s.providers > 0);
    sized.chain(calmer.filter(|calmer| calmer.faults != faults)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let large = Scenario { faults: Faults::all(), ..Scenario::new(7, 90, 12) };
        let mut runs = 0;
        let small = shrink(&large, &mut |s| {
            runs += 1;
            s.providers >= 13 && s.minutes >= 3 && s.faults.loss_ppm > 0 && s.faults.clock_jump_s > 0
        });
        assert_eq!((small.seed, small.providers, small.minutes), (7, 13, 3));
        assert_eq!(small.faults.kinds(), ["loss", "clock"]);
        assert!(runs < 100, "{runs}");
    }
}
