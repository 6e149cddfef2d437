//! Which devices the providers have: `data/devices.toml`, which says where its numbers come from.

use std::rc::Rc;

use protocol::{DeviceFacts, DeviceLimits, WorkerKind};
use serde::Deserialize;

use crate::chance::Chance;

/// What WebGPU promises of every device: `maxStorageBufferBindingSize`.
const BROWSER_BINDING_BYTES: u64 = 128 << 20;
/// No backend binds more at once.
const NATIVE_BINDING_BYTES_MAX: u64 = 4 << 30;
/// Vendors, whose floating-point results differ in the last bits.
pub(crate) const VENDORS: [&str; 4] = ["nvidia", "amd", "intel", "apple"];
/// What the reference device computes and moves in a second: f32 GFLOP and GB.
const REFERENCE_GFLOPS: u64 = 1_000;
const REFERENCE_GBPS: u64 = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    achieved_flops_ppm: u64,
    achieved_bandwidth_ppm: u64,
    class: Vec<Class>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    vendor: String,
    share_ppm: u64,
    memory_mib: u64,
    gflops: (u64, u64),
    gbps: (u64, u64),
    browser_ppm: u32,
}

/// The distribution.
#[derive(Debug)]
pub(crate) struct Devices {
    table: Table,
    /// Of each class, native and in a browser.
    facts: Vec<[Rc<DeviceFacts>; 2]>,
}

/// One device.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// Shared by all of a class.
    pub(crate) facts: Rc<DeviceFacts>,
    /// Arithmetic against the reference device, parts per million.
    pub(crate) speed_ppm: u64,
    /// Memory traffic against the reference device, parts per million.
    pub(crate) bandwidth_ppm: u64,
    /// Index into [`VENDORS`].
    pub(crate) vendor: u64,
}

impl Devices {
    /// The table that comes with the crate.
    pub(crate) fn published() -> Self {
        let table: Table = toml::from_str(include_str!("../data/devices.toml")).expect("a test reads it");
        let facts = table.class.iter().map(|class| {
            let vendor = class.vendor();
            let native = (class.memory_mib << 18).min(NATIVE_BINDING_BYTES_MAX);
            [(false, native), (true, BROWSER_BINDING_BYTES)]
                .map(|(browser, binding)| Rc::new(facts(browser, &class.name, vendor, binding)))
        });
        let facts = facts.collect();
        Self { table, facts }
    }

    pub(crate) fn draw(&self, chance: &mut Chance) -> Device {
        let Table { class: classes, achieved_flops_ppm, achieved_bandwidth_ppm } = &self.table;
        let mut drawn = chance.below(classes.iter().map(|class| class.share_ppm).sum());
        let number = classes.iter().position(|class| {
            let here = drawn < class.share_ppm;
            if !here {
                drawn -= class.share_ppm;
            }
            here
        });
        let number = number.expect("the number is below the sum of the shares");
        let class = &classes[number];
        let browser = chance.happens(class.browser_ppm);
        // The faster one of a class has the faster memory, too.
        let place_ppm = chance.between((0, 1_000_000));
        let at = |(least, most): (u64, u64)| least + (most - least) * place_ppm / 1_000_000;
        Device {
            facts: self.facts[number][usize::from(browser)].clone(),
            speed_ppm: at(class.gflops) * achieved_flops_ppm / REFERENCE_GFLOPS,
            bandwidth_ppm: at(class.gbps) * achieved_bandwidth_ppm / REFERENCE_GBPS,
            vendor: class.vendor(),
        }
    }

    /// The market's own verifier: a native device that nothing is too large for.
    pub(crate) fn verifier() -> Device {
        let (speed_ppm, bandwidth_ppm) = (10_000_000, 6_000_000);
        let facts = Rc::new(facts(false, "verifier", 0, NATIVE_BINDING_BYTES_MAX));
        Device { facts, speed_ppm, bandwidth_ppm, vendor: 0 }
    }
}

impl Class {
    fn vendor(&self) -> u64 {
        VENDORS.iter().position(|vendor| *vendor == self.vendor).expect("a test reads it") as u64
    }
}

impl Device {
    /// The same for devices that can run the same programs.
    pub(crate) fn kind(&self) -> u64 {
        let browser = self.facts.kind == WorkerKind::Browser;
        self.facts.limits.storage_buffer_bytes_max << 1 | u64::from(browser)
    }

    /// How long it takes for what takes the reference device `reference_us`, of which memory traffic is `traffic_ppm`.
    pub(crate) fn time_us(&self, reference_us: u64, traffic_ppm: u32) -> u64 {
        let traffic_ppm = u64::from(traffic_ppm);
        let arithmetic_us = reference_us * (1_000_000 - traffic_ppm) / self.speed_ppm;
        (arithmetic_us + reference_us * traffic_ppm / self.bandwidth_ppm).max(1)
    }
}

fn facts(browser: bool, class: &str, vendor: u64, storage_buffer_bytes_max: u64) -> DeviceFacts {
    let vendor = VENDORS[vendor as usize];
    DeviceFacts {
        kind: if browser { WorkerKind::Browser } else { WorkerKind::Native },
        adapter: format!("simulated: {class}"),
        vendor: vendor.to_owned(),
        backend: if browser { "webgpu" } else { "vulkan" }.to_owned(),
        features: Vec::new(),
        limits: DeviceLimits {
            storage_buffer_bytes_max,
            buffer_bytes_max: storage_buffer_bytes_max,
            storage_buffers_max: 8,
            workgroup_invocations_max: 256,
            workgroup_bytes_max: 16_384,
            workgroups_per_dimension_max: 65_535,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_all_providers() {
        let classes = Devices::published().table.class;
        assert_eq!(classes.iter().map(|class| class.share_ppm).sum::<u64>(), 1_000_000);
        for class in classes {
            assert!(class.gflops.0 <= class.gflops.1 && class.gbps.0 <= class.gbps.1, "{}", class.name);
            assert!(VENDORS.contains(&&*class.vendor), "{}", class.name);
        }
    }

    #[test]
    fn devices_are_drawn_by_their_shares() {
        let (devices, mut chance) = (Devices::published(), Chance::new(3));
        let drawn: Vec<_> = (0..10_000).map(|_| devices.draw(&mut chance)).collect();
        let of = |what: &str| drawn.iter().filter(|device| device.facts.adapter.contains(what)).count();
        assert!((3_050..3_320).contains(&of("GeForce 8 GB")), "{}", of("GeForce 8 GB"));
        assert!((670..850).contains(&of("GeForce 16 GB")), "{}", of("GeForce 16 GB"));
        let nvidia = drawn.iter().filter(|device| device.vendor == 0).count();
        assert!((7_450..7_780).contains(&nvidia), "{nvidia}");
        // From an integrated device of ten years ago to the fastest card that can be bought.
        let speeds = drawn.iter().map(|device| device.speed_ppm);
        assert!(speeds.clone().min() < Some(110_000) && speeds.max() > Some(34_000_000));
    }

    #[test]
    fn a_unit_takes_its_arithmetic_and_its_traffic() {
        let device = Device { speed_ppm: 4_000_000, bandwidth_ppm: 500_000, ..Devices::verifier() };
        assert_eq!(device.time_us(1_000_000, 0), 250_000);
        assert_eq!(device.time_us(1_000_000, 1_000_000), 2_000_000);
        assert_eq!(device.time_us(1_000_000, 200_000), 200_000 + 400_000);
        assert_eq!(device.time_us(0, 0), 1);
    }
}
