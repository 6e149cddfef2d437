//! The market's parameters: what governance may change within bounds.

use borsh::{BorshDeserialize, BorshSerialize};

/// Parameters of the rules. Shares are basis points (1/10 000), rates parts per million, times milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Params {
    /// The treasury's share of every payment.
    pub treasury_bps: u32,
    /// The burned share of every payment. The provider gets what the two shares leave, rounding included.
    pub burn_bps: u32,
    /// A lease lasts this long unless a heartbeat renews it.
    pub lease_ms: u64,
    /// A worker that is silent this long is gone and loses its leases.
    pub heartbeat_ms_max: u64,
    /// A package is sized to take about this long on the device.
    pub package_target_ms: u64,
    /// A worker holds units of one job for about this long at most, so that what others could run does not queue behind it.
    pub hold_target_ms: u64,
    /// Most units in a package that the market sizes.
    pub package_units_max: u32,
    /// A unit that failed this often is parked.
    pub attempts_max: u32,
    /// Leases one worker may hold.
    pub leases_per_worker_max: u32,
    /// Consecutive valid packages before a worker's units are checked less than always (BOINC's adaptive replication: 10).
    pub trust_after_packages: u32,
    /// The audit rate never falls below this, however trusted the worker.
    pub audit_rate_floor_ppm: u32,
    /// The market's own verifier leaves a check to others for this long.
    pub verifier_wait_ms: u64,
    /// Closed leases whose receipts are remembered, so that a repeated one gets the first answer again.
    pub closed_leases_max: u32,
    /// Idempotency keys that are remembered.
    pub idempotency_keys_max: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            treasury_bps: 500,
            burn_bps: 500,
            lease_ms: 30_000,
            heartbeat_ms_max: 15_000,
            package_target_ms: 1_000,
            hold_target_ms: 4_000,
            package_units_max: 256,
            attempts_max: 5,
            leases_per_worker_max: 128,
            trust_after_packages: 10,
            audit_rate_floor_ppm: 5_000,
            verifier_wait_ms: 2_000,
            closed_leases_max: 65_536,
            idempotency_keys_max: 65_536,
        }
    }
}
