//! A set of unit numbers as ranges, so that its size grows with packages and not with units.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};

/// Numbers, kept as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Ranges {
    /// Each range's end by its start.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds `[start, end)`.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((&before, &to)) = self.ends.range(..=start).next_back()
            && to >= start
        {
            (start, end) = (before, end.max(to));
        }
        while let Some((&next, &to)) = self.ends.range(start..=end).next() {
            self.ends.remove(&next);
            end = end.max(to);
        }
        self.ends.insert(start, end);
    }

    /// Takes `[start, end)` out.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        let within: Vec<_> = self.within(start, end).collect();
        for (from, to) in within {
            let (&first, &last) = self.ends.range(..=from).next_back().expect("a part lies in a range");
            self.ends.remove(&first);
            if first < from {
                self.ends.insert(first, from);
            }
            if to < last {
                self.ends.insert(to, last);
            }
        }
    }

    /// What of `[start, end)` is in the set, in order.
    pub(crate) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = self.ends.range(..start).next_back().map(|(from, to)| (*from, *to));
        let reaching =
            before.filter(move |(_, to)| *to > start && start < end).map(|(_, to)| (start, to.min(end)));
        let inside = (start < end).then(|| self.ends.range(start..end)).into_iter().flatten();
        reaching.into_iter().chain(inside.map(move |(from, to)| (*from, (*to).min(end))))
    }

    /// What of `[start, end)` is not in the set, in order.
    pub(crate) fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut gaps, mut at) = (Vec::new(), start);
        for (from, to) in self.within(start, end) {
            if at < from {
                gaps.push((at, from));
            }
            at = to;
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// Whether all of `[start, end)` is in the set.
    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        start >= end || self.within(start, end).next() == Some((start, end))
    }

    /// How many numbers of `[start, end)` are in the set.
    pub(crate) fn count(&self, start: u64, end: u64) -> u64 {
        self.within(start, end).map(|(from, to)| to - from).sum()
    }

    /// The end of the last range.
    pub(crate) fn end(&self) -> Option<u64> {
        self.ends.values().next_back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_set_of_their_numbers() {
        let mut set = std::collections::BTreeSet::new();
        let mut ranges = Ranges::default();
        // A small linear congruential sequence: every kind of overlap comes up.
        let mut seed = 7u64;
        let mut next = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2_000 {
            let start = next(60);
            let end = start + next(9);
            if next(2) == 0 {
                ranges.insert(start, end);
                set.extend(start..end);
            } else {
                ranges.remove(start, end);
                set.retain(|n| !(start..end).contains(n));
            }
            let flat: Vec<u64> = ranges.within(0, 100).flat_map(|(from, to)| from..to).collect();
            assert_eq!(flat, set.iter().copied().collect::<Vec<_>>());
            let missing: Vec<u64> =
                ranges.gaps(start, end).into_iter().flat_map(|(from, to)| from..to).collect();
            assert_eq!(missing, (start..end).filter(|n| !set.contains(n)).collect::<Vec<_>>());
            assert_eq!(ranges.covers(start, end), missing.is_empty());
            assert_eq!(ranges.count(start, end), end - start - missing.len() as u64);
            assert_eq!(ranges.end(), set.last().map(|n| n + 1));
        }
    }
}
