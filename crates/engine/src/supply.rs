//! Who offers what: providers that are online, counted by kind of device.
//!
//! Two devices are of one kind when no job can tell them apart. There are few kinds, so a question about "all providers that
//! could run this" costs as many steps as there are kinds, and not as there are providers.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use protocol::{Amount, DeviceFacts, PublicKey, WorkerOffer};

use crate::{Requirements, reason::fits};

/// What jobs may look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
struct Kind {
    storage_buffer_bytes_max: u64,
    buffer_bytes_max: u64,
    storage_buffers_max: u32,
    features: Vec<String>,
    memory_bytes: u64,
    flaws: Vec<String>,
}

impl Kind {
    fn of(device: &DeviceFacts, offer: &WorkerOffer) -> Self {
        let limits = &device.limits;
        Self {
            storage_buffer_bytes_max: limits.storage_buffer_bytes_max,
            buffer_bytes_max: limits.buffer_bytes_max,
            storage_buffers_max: limits.storage_buffers_max,
            features: device.features.clone(),
            memory_bytes: offer.memory_bytes,
            flaws: offer.flaws.clone(),
        }
    }
}

/// Providers of one kind.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Group {
    /// One of them stands for all.
    device: DeviceFacts,
    count: u64,
    capacity_ppm: u64,
    asks: Asks,
}

/// Asks, counted in buckets of a sixteenth of a doubling, so that the middle of many groups is found without visiting each ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Asks(BTreeMap<u32, (u64, BTreeMap<u64, u64>)>);

fn bucket(ask: u64) -> u32 {
    match ask.checked_ilog2() {
        None => 0,
        Some(log @ 0..4) => (log << 4) + (ask << (4 - log)) as u32,
        Some(log) => (log << 4) + (ask >> (log - 4)) as u32,
    }
}

impl Asks {
    /// Nothing asked is not an ask.
    fn add(&mut self, ask: u64) {
        if ask == 0 {
            return;
        }
        let (count, exact) = self.0.entry(bucket(ask)).or_default();
        *count += 1;
        *exact.entry(ask).or_default() += 1;
    }

    /// How many ask for more.
    fn above(&self, rate: u64) -> u64 {
        let exact = self
            .0
            .get(&bucket(rate))
            .into_iter()
            .flat_map(|(_, exact)| exact.range((Excluded(rate), Unbounded)));
        let whole = self.0.range(bucket(rate) + 1..).map(|(_, (count, _))| count);
        exact.map(|(_, count)| count).chain(whole).sum()
    }

    fn remove(&mut self, ask: u64) {
        if ask == 0 {
            return;
        }
        let (count, exact) = self.0.get_mut(&bucket(ask)).expect("a counted ask");
        *count -= 1;
        let of_ask = exact.get_mut(&ask).expect("a counted ask");
        *of_ask -= 1;
        if *of_ask == 0 {
            exact.remove(&ask);
        }
        if *count == 0 {
            self.0.remove(&bucket(ask));
        }
    }
}

/// What a provider adds.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Member {
    kind: Kind,
    speed_ppm: u64,
    ask: u64,
}

/// Every provider that may be given first work.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Supply {
    members: BTreeMap<PublicKey, Member>,
    groups: BTreeMap<Kind, Group>,
    capacity_ppm: u64,
}

/// Providers that could run something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fitting {
    pub count: u64,
    /// Their speeds together, in parts per million of the reference device.
    pub capacity_ppm: u64,
    /// The middle of their asks; the lower one of two, and nothing when none of them asks for something.
    pub ask_median: Option<Amount>,
    /// The lowest of their asks; 0 when one takes anything.
    pub ask_min: Amount,
}

impl Supply {
    /// Counts a provider, in place of what was counted of it before.
    pub fn put(
        &mut self,
        worker: PublicKey,
        device: &DeviceFacts,
        offer: &WorkerOffer,
        speed_ppm: u64,
        ask: Amount,
    ) {
        // Most changes are of the speed alone.
        if let Some(member) = self.members.get_mut(&worker)
            && member.ask == ask.0
            && member.kind == Kind::of(device, offer)
        {
            let group = self.groups.get_mut(&member.kind).expect("a member is in its group");
            group.capacity_ppm = group.capacity_ppm - member.speed_ppm + speed_ppm;
            self.capacity_ppm = self.capacity_ppm - member.speed_ppm + speed_ppm;
            member.speed_ppm = speed_ppm;
            return;
        }
        self.take(worker);
        let kind = Kind::of(device, offer);
        let group = self.groups.entry(kind.clone()).or_insert_with(|| Group {
            device: device.clone(),
            count: 0,
            capacity_ppm: 0,
            asks: Asks::default(),
        });
        group.count += 1;
        group.capacity_ppm += speed_ppm;
        group.asks.add(ask.0);
        self.capacity_ppm += speed_ppm;
        self.members.insert(worker, Member { kind, speed_ppm, ask: ask.0 });
    }

    /// Forgets a provider, if it was counted.
    pub fn take(&mut self, worker: PublicKey) {
        let Some(Member { kind, speed_ppm, ask }) = self.members.remove(&worker) else { return };
        let group = self.groups.get_mut(&kind).expect("a member is in its group");
        group.count -= 1;
        group.capacity_ppm -= speed_ppm;
        group.asks.remove(ask);
        self.capacity_ppm -= speed_ppm;
        if group.count == 0 {
            self.groups.remove(&kind);
        }
    }

    /// Whether it is counted.
    pub fn contains(&self, worker: &PublicKey) -> bool {
        self.members.contains_key(worker)
    }

    /// All that are counted.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.members.keys()
    }

    /// How many are counted.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Speeds of all together.
    pub fn capacity_ppm(&self) -> u64 {
        self.capacity_ppm
    }

    fn groups(&self, needs: &Requirements) -> impl Iterator<Item = &Group> {
        self.groups.values().filter(|group| fits(needs, &group.device).is_ok())
    }

    /// How many could run this and would for this price of a reference second.
    pub fn count_for(&self, needs: &Requirements, rate: Amount) -> u64 {
        self.groups(needs).map(|group| group.count - group.asks.above(rate.0)).sum()
    }

    /// Who could run this, and what they ask.
    pub fn fitting(&self, needs: &Requirements) -> Fitting {
        let mut fitting = Fitting::default();
        let mut buckets = BTreeMap::<u32, u64>::new();
        for group in self.groups(needs) {
            fitting.count += group.count;
            fitting.capacity_ppm += group.capacity_ppm;
            for (bucket, (count, _)) in &group.asks.0 {
                *buckets.entry(*bucket).or_default() += count;
            }
        }
        // The number of the ask that is wanted: the first of all, and the middle one.
        let find = |mut number: u64| {
            let bucket = buckets.iter().find(|(_, count)| {
                let here = number < **count;
                if !here {
                    number -= **count;
                }
                here
            })?;
            let mut asks = BTreeMap::<u64, u64>::new();
            for group in self.groups(needs) {
                for (ask, count) in group.asks.0.get(bucket.0).into_iter().flat_map(|(_, exact)| exact) {
                    *asks.entry(*ask).or_default() += count;
                }
            }
            asks.into_iter().find_map(|(ask, count)| {
                let here = number < count;
                number = number.saturating_sub(count);
                here.then_some(Amount(ask))
            })
        };
        let asking: u64 = buckets.values().sum();
        if asking > 0 {
            fitting.ask_median = find((asking - 1) / 2);
            fitting.ask_min = find(0).filter(|_| asking == fitting.count).unwrap_or_default();
        }
        fitting
    }
}

#[cfg(test)]
mod tests {
    use protocol::{DeviceLimits, WorkerKind};

    use super::*;

    fn device(storage_buffer_bytes_max: u64) -> DeviceFacts {
        DeviceFacts {
            kind: WorkerKind::Native,
            adapter: String::new(),
            vendor: String::new(),
            backend: String::new(),
            features: vec![],
            limits: DeviceLimits {
                storage_buffer_bytes_max,
                buffer_bytes_max: 0,
                storage_buffers_max: 8,
                workgroup_invocations_max: 256,
                workgroup_bytes_max: 0,
                workgroups_per_dimension_max: 0,
            },
        }
    }

    #[test]
    fn buckets_are_in_the_order_of_asks() {
        let mut asks: Vec<u64> = (0..3_000).chain((0..64).map(|log| 1 << log)).collect();
        asks.sort_unstable();
        assert!(asks.windows(2).all(|pair| bucket(pair[0]) <= bucket(pair[1])));
        assert!(bucket(u64::MAX) < 1_100);
    }

    #[test]
    fn the_middle_ask_is_exact_over_all_kinds() {
        let mut supply = Supply::default();
        let mut asks = Vec::new();
        for n in 0..201u64 {
            let ask = 1 + (n * 7_919) % 1_013;
            let key = PublicKey([n as u8; 32]);
            supply.put(key, &device(1 << (n % 5)), &WorkerOffer::default(), n, Amount(ask));
            asks.push((n, ask));
        }
        for n in 0..20u64 {
            supply.take(PublicKey([n as u8; 32]));
        }
        let check = |supply: &Supply, least: u64| {
            let needs = Requirements { storage_buffer_bytes: least, ..Requirements::default() };
            let mut fit: Vec<u64> =
                asks.iter().filter(|(n, _)| *n >= 20 && 1 << (n % 5) >= least).map(|(_, ask)| *ask).collect();
            fit.sort_unstable();
            let found = supply.fitting(&needs);
            assert_eq!(found.count, fit.len() as u64);
            assert_eq!(found.ask_min, Amount(fit.first().copied().unwrap_or(0)));
            assert_eq!(found.ask_median, fit.get(fit.len().saturating_sub(1) / 2).copied().map(Amount));
        };
        for least in [0, 4, 16, 17] {
            check(&supply, least);
        }
        assert_eq!(supply.capacity_ppm(), (20..201).sum::<u64>());
        // A change of speed, of ask and of kind.
        let key = PublicKey([200; 32]);
        supply.put(key, &device(1), &WorkerOffer::default(), 5, Amount(9));
        supply.put(key, &device(1), &WorkerOffer::default(), 6, Amount(9));
        assert_eq!(supply.capacity_ppm(), (20..200).sum::<u64>() + 6);
        assert_eq!(supply.len(), 181);
        for rate in [0, 1, 9, 500, 1_013, u64::MAX] {
            let takes = asks.iter().filter(|(n, ask)| (20..200).contains(n) && *ask <= rate).count() as u64;
            let all = Requirements::default();
            assert_eq!(supply.count_for(&all, Amount(rate)), takes + u64::from(rate >= 9), "{rate}");
        }
        supply.put(key, &device(1), &WorkerOffer::default(), 6, Amount(0));
        let all = supply.fitting(&Requirements::default());
        assert_eq!((all.count, all.ask_min), (181, Amount(0)), "one takes anything");
    }
}
