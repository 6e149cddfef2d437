//! Which devices the providers have: `data/devices.toml`, which says where its numbers come from.

use protocol::{DeviceFacts, DeviceLimits, WorkerKind};
use serde::Deserialize;

use crate::chance::Chance;

/// What WebGPU promises of every device: `maxStorageBufferBindingSize`.
const BROWSER_BINDING_BYTES: u64 = 128 << 20;
/// No backend binds more at once.
const NATIVE_BINDING_BYTES_MAX: u64 = 4 << 30;
/// Vendors whose floating-point results differ in the last bits.
pub(crate) const VENDORS: [&str; 3] = ["nvidia", "amd", "intel"];
/// Steam Hardware Survey as reported in June 2026 (<https://www.technetbooks.com/2026/06/steam-hardware-survey-analysis-reveals.html>):
/// 72.42 %, 19.13 %, and the rest as Intel.
const VENDORS_PPM: [u64; 2] = [724_200, 724_200 + 191_300];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    class: Vec<Class>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    share_ppm: u64,
    memory_mib: u64,
    speed_ppm: (u64, u64),
    browser_ppm: u32,
}

/// The distribution.
#[derive(Debug)]
pub(crate) struct Devices(Vec<Class>);

/// One device.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) facts: DeviceFacts,
    /// Against the reference device, parts per million.
    pub(crate) speed_ppm: u64,
    /// Index into [`VENDORS`].
    pub(crate) vendor: u64,
}

impl Devices {
    /// The table that comes with the crate.
    pub(crate) fn published() -> Self {
        let table: Table = toml::from_str(include_str!("../data/devices.toml")).expect("a test reads it");
        Self(table.class)
    }

    pub(crate) fn draw(&self, chance: &mut Chance) -> Device {
        let mut drawn = chance.below(self.0.iter().map(|class| class.share_ppm).sum());
        let class = self.0.iter().find(|class| {
            let here = drawn < class.share_ppm;
            if !here {
                drawn -= class.share_ppm;
            }
            here
        });
        let class = class.expect("the number is below the sum of the shares");
        let browser = chance.happens(class.browser_ppm);
        let vendor = chance.below(1_000_000);
        let vendor = VENDORS_PPM.iter().filter(|end| vendor >= **end).count() as u64;
        let binding = if browser {
            BROWSER_BINDING_BYTES
        } else {
            (class.memory_mib << 18).min(NATIVE_BINDING_BYTES_MAX)
        };
        Device {
            facts: facts(browser, &class.name, vendor, binding),
            speed_ppm: chance.between(class.speed_ppm),
            vendor,
        }
    }

    /// The market's own verifier: a native device that nothing is too large for.
    pub(crate) fn verifier() -> Device {
        let speed_ppm = 4_000_000;
        Device { facts: facts(false, "verifier", 0, NATIVE_BINDING_BYTES_MAX), speed_ppm, vendor: 0 }
    }
}

fn facts(browser: bool, class: &str, vendor: u64, storage_buffer_bytes_max: u64) -> DeviceFacts {
    let vendor = VENDORS[vendor as usize];
    DeviceFacts {
        kind: if browser { WorkerKind::Browser } else { WorkerKind::Native },
        adapter: format!("simulated {vendor}, {class}"),
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
        let devices = Devices::published();
        assert_eq!(devices.0.iter().map(|class| class.share_ppm).sum::<u64>(), 1_000_000);
        assert!(devices.0.iter().all(|class| class.speed_ppm.0 < class.speed_ppm.1));
    }

    #[test]
    fn devices_are_drawn_by_their_shares() {
        let (devices, mut chance) = (Devices::published(), Chance::new(3));
        let drawn: Vec<_> = (0..10_000).map(|_| devices.draw(&mut chance)).collect();
        let of = |what: &str| drawn.iter().filter(|device| device.facts.adapter.ends_with(what)).count();
        assert!((2_800..3_100).contains(&of(", 8 GB")), "{}", of(", 8 GB"));
        assert!((650..860).contains(&of(", 16 GB")), "{}", of(", 16 GB"));
        let nvidia = drawn.iter().filter(|device| device.vendor == 0).count();
        assert!((7_000..7_500).contains(&nvidia), "{nvidia}");
    }
}
