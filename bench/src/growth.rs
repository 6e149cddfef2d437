//! What a decision costs as the network grows: the bare engine with 10² to 10⁵ providers.
//!
//! The mix is that of a network at work: providers drawn at random from all of them say that they live, or commit to what they
//! hold and ask for the next package. There are a hundred jobs, of which each provider's device fits some; a job that ends
//! is followed by another.

use engine::Requirements;
use protocol::{LeaseId, PublicKey};

use crate::{
    engine_load::{Network, key, patient},
    report::Report,
    stopwatch::Stopwatch,
};

const PROVIDERS: [u64; 4] = [100, 1_000, 10_000, 100_000];
const JOBS: u64 = 100;
const JOB_UNITS: u64 = 2_000;
const PACKAGE_UNITS: u32 = 4;
/// Decisions measured, after as many that are not.
const DECISIONS: u64 = 200_000;
/// Storage buffers of the devices, and what jobs want of them.
const BUFFER_MIB: [u64; 4] = [128, 256, 512, 1024];

struct Provider {
    key: PublicKey,
    held: Option<LeaseId>,
}

/// Measures each size; the last row compares the largest network with the smallest.
pub fn measure(report: &mut Report) {
    let mut costs = Vec::new();
    for providers in PROVIDERS {
        let cost_us = cost_us(providers);
        report.add(format!("cost of a decision, {providers} providers"), cost_us, "µs", None);
        costs.push(cost_us);
    }
    // What grows with the logarithm grows from 10² to 10⁵ by 5 : 2.
    let metric = "cost of a decision, 100000 providers over 100";
    report.add_ratio(metric, costs[costs.len() - 1], costs[0], Some("<= 2.5"));
}

fn cost_us(count: u64) -> f64 {
    let mut random = Random(count);
    let mut network = Network::found(patient());
    let client = key(u64::MAX);
    network.deposit(client);
    let mut providers: Vec<Provider> =
        (0..count).map(|number| Provider { key: key(number), held: None }).collect();
    for (provider, mib) in providers.iter().zip(BUFFER_MIB.into_iter().cycle()) {
        let mut device = crate::load::device();
        device.limits.storage_buffer_bytes_max = mib << 20;
        network.announce(provider.key, device);
    }
    // In the middle between ten packages a provider and what a small network can hold.
    let units = JOB_UNITS.max(count * u64::from(PACKAGE_UNITS) / 10);
    let submit = |network: &mut Network, number: u64| {
        let requirements = Requirements {
            storage_buffer_bytes: BUFFER_MIB[(number % 4) as usize] << 20,
            ..Requirements::default()
        };
        network.submit(client, units, PACKAGE_UNITS, requirements);
    };
    for number in 0..JOBS {
        submit(&mut network, number);
    }
    let (mut started, mut before) = (Stopwatch::start(), network.decisions);
    let mut measuring = false;
    let mut submitted = JOBS;
    loop {
        if network.decisions - before >= DECISIONS {
            if measuring {
                break;
            }
            measuring = true;
            (started, before) = (Stopwatch::start(), network.decisions);
        }
        let provider = &mut providers[random.below(count) as usize];
        match (random.below(3), provider.held.take()) {
            (0, held) => {
                network.heartbeat(provider.key);
                provider.held = held;
            }
            (_, Some(lease)) => network.commit(provider.key, lease),
            (_, None) => {
                provider.held = network.lease(provider.key);
                if provider.held.is_none() {
                    submit(&mut network, submitted);
                    submitted += 1;
                }
            }
        }
    }
    started.seconds() * 1e6 / (network.decisions - before) as f64
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }
}
