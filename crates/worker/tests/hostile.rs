//! The corpus of hostile programs in a worker's child process, each between units of an honest program.
//!
//! The watchdog is the caller's, so the test is one: as the worker does, it gives a unit its time and a grace, and kills the child.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use plexus_worker::{
    Device, DeviceError, Program,
    executor::{Executor, ExecutorCommand},
};
use protocol::Hash;

#[path = "../../../tests/hostile/corpus.rs"]
mod corpus;

/// As the worker's own: what a unit may take beyond its limit, and how long a program may take to be built.
const GRACE: Duration = Duration::from_secs(3);
const LOAD_TIME_MAX: Duration = Duration::from_secs(120);
/// For what is honest, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a case ended.
#[derive(Debug, PartialEq)]
enum End {
    Gave(Vec<u32>),
    TimedOut,
    ProgramFailed(String),
    DeviceFailed(String),
}

fn program(case: &corpus::Case) -> Arc<Program> {
    let manifest = program::parse(&case.manifest()).expect("it was let through");
    let kernels = case.kernels();
    let plan = program::check(&manifest, &kernels).expect("it was let through");
    Arc::new(Program {
        id: Hash::of(&manifest.to_bytes()),
        manifest,
        kernels,
        plan,
        blobs: Default::default(),
    })
}

async fn started(executor: &mut Executor) {
    if let Err(error) = executor.start().await {
        panic!("no Vulkan adapter: install mesa-vulkan-drivers ({error})");
    }
}

/// Runs a case under the watchdog. The child is gone after anything but a result or a refusal.
async fn run(executor: &mut Executor, case: &corpus::Case) -> End {
    let program = program(case);
    let ended = tokio::time::timeout(LOAD_TIME_MAX, executor.load(program.clone())).await;
    let end = match ended {
        Ok(Ok(())) => {
            let inputs = case.inputs(program.plan.input_lengths()).into_iter().map(Bytes::from).collect();
            let time_max = Duration::from_millis(program.plan.time_ms_max) + GRACE;
            match tokio::time::timeout(time_max, executor.run(program.id, inputs)).await {
                Ok(Ok(output)) => {
                    let words = output.outputs[0].chunks_exact(4).map(|w| w.try_into().expect("four bytes"));
                    executor.unload(program.id);
                    return End::Gave(words.map(u32::from_le_bytes).collect());
                }
                Ok(Err(error)) => failed(error),
                Err(_) => End::TimedOut,
            }
        }
        Ok(Err(error)) => failed(error),
        Err(_) => End::TimedOut,
    };
    if !matches!(end, End::ProgramFailed(_)) {
        executor.kill().await;
        started(executor).await;
    }
    end
}

fn failed(error: DeviceError) -> End {
    match error {
        DeviceError::Program(why) => End::ProgramFailed(why),
        DeviceError::Lost(why) => End::DeviceFailed(why),
    }
}

fn is_right(case: &corpus::Case, end: &End) -> bool {
    let named = |name: &str| case.ends.iter().any(|ends| ends == name || ends == "any");
    match end {
        End::Gave(words) => {
            let of = case.of.as_ref().is_some_and(|of| words.iter().all(|word| of.contains(word)));
            of || case.gives.as_ref() == Some(words) || case.ends.iter().any(|ends| ends == "any")
        }
        End::TimedOut => named("timed_out"),
        End::ProgramFailed(_) => named("program_failed"),
        End::DeviceFailed(_) => named("device_failed"),
    }
}

#[tokio::test]
async fn hostile_programs_are_contained_and_the_next_honest_unit_is_right() {
    let cases = corpus::cases();
    let by_name = |name: &str| cases.iter().find(|case| case.name == name).expect("a case of that name");
    let honest = by_name("many-passes");
    let mut executor = Executor::new(ExecutorCommand {
        program: env!("CARGO_BIN_EXE_plexus-executor").into(),
        args: Vec::new(),
        device: None,
    });
    started(&mut executor).await;
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| case.refused.is_none()) {
        if let Some(before) = &case.after {
            let before = by_name(before);
            let end = run(&mut executor, before).await;
            assert!(is_right(before, &end), "{}: {end:?}", before.name);
        }
        let end = run(&mut executor, case).await;
        if !is_right(case, &end) {
            wrong.push(format!("{}: {end:?}", case.name));
        }
        let after = tokio::time::timeout(PATIENCE, run(&mut executor, honest)).await;
        let after = after.unwrap_or_else(|_| panic!("after {} nothing runs any more", case.name));
        assert_eq!(Some(after), honest.gives.clone().map(End::Gave), "after {}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
