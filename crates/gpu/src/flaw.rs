//! Flaws of a device that no limit or feature tells, found by trying.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use program::Plan;
use protocol::{
    Hash,
    manifest::{
        Buffer, Dispatch, Dtype, JobKind, Kernel, Limits, Manifest, Needs, Pass, Policy, Program, Runtime,
        VERSION,
    },
};

use crate::{Gpu, GpuError};

/// More rounds than llvmpipe's limit of 65,535, and few enough to take milliseconds.
const ROUNDS: u32 = 70_000;

const COUNT: &str = "
@group(0) @binding(0) var<storage, read> rounds: array<u32>;
@group(0) @binding(1) var<storage, read_write> counted: array<u32>;
@compute @workgroup_size(1)
fn main() {
    for (var i = 0u; i < rounds[0]; i++) { counted[0] += 1u; }
}
";

/// The rounds after which the device leaves loops that should go on, if it does.
///
/// llvmpipe (Mesa's software device) gives each invocation 65,535 rounds of all its loops together; after that every loop ends
/// with its first round, and the results are wrong without a word.
pub(crate) fn loop_rounds_max(gpu: &Gpu) -> Result<Option<u32>, GpuError> {
    let program = crate::Program::load(gpu, Arc::new(plan()), &BTreeMap::<Hash, Vec<u8>>::new())?;
    let outcome = program.submit(&[ROUNDS.to_le_bytes()])?.wait(Duration::from_secs(30))?;
    let counted = outcome.outputs[0].as_slice().try_into().map_or(0, u32::from_le_bytes);
    Ok((counted != ROUNDS).then_some(counted))
}

fn plan() -> Plan {
    let kernel = Hash::of(COUNT.as_bytes());
    let word = |input, output| Buffer {
        input,
        blob: None,
        output,
        scratch: false,
        dtype: Dtype::U32,
        shape: vec![1],
        compare: None,
        resident: None,
    };
    let manifest = Manifest {
        version: VERSION,
        runtime: Runtime::Wgsl,
        kind: JobKind::Batch,
        program: Program {
            kernels: [(
                "count".to_owned(),
                Kernel { blob: kernel, entry: "main".into(), overrides: [].into() },
            )]
            .into(),
            buffers: [
                ("counted".to_owned(), word(None, Some(0))),
                ("rounds".to_owned(), word(Some(0), None)),
            ]
            .into(),
            passes: vec![Pass {
                kernel: "count".into(),
                bind: vec!["rounds".into(), "counted".into()],
                dispatch: vec![Dispatch::Count(1)],
            }],
        },
        limits: Limits { memory_bytes_max: 8, time_ms_max: 1000 },
        needs: Needs::default(),
        verify: Policy::Audit { rate_min: 0.0 }.into(),
    };
    program::check(&manifest, &[(kernel, COUNT.to_owned())].into()).expect("the check's own program is sound")
}
