//! `plexus device`: the GPUs of this machine.

use std::process::ExitCode;

use gpu::Gpu;
use serde_json::json;

use crate::{
    exit::{Exit, Failure},
    say,
};

#[derive(clap::Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    #[cfg(target_os = "linux")]
    start_with_runtime_folder();
    let adapters = Gpu::enumerate();
    if options.json {
        say::json(&json!({ "adapters": adapters }));
    }
    if adapters.is_empty() {
        let failure = Failure::new("this machine has no GPU that plexus can use, not even a software one");
        return Err(failure.exit(Exit::NoDevice).code("no_device").fix(
            "install a Vulkan driver; on Debian and Ubuntu `apt install mesa-vulkan-drivers` brings a software one",
        ));
    }
    if options.json {
        return Ok(ExitCode::SUCCESS);
    }
    for (index, adapter) in adapters.iter().enumerate() {
        if index > 0 {
            say::out("");
        }
        let limits = &adapter.limits;
        let mebibytes = |bytes: u64| match bytes >> 20 {
            0 => format!("{} KiB", bytes >> 10),
            mebibytes => format!("{mebibytes} MiB"),
        };
        let used = if index == 0 { " (the one a worker takes without --device)" } else { "" };
        say::facts(&[
            ("adapter", format!("{index}: {}{used}", adapter.adapter)),
            ("vendor", adapter.vendor.clone()),
            ("backend", adapter.backend.clone()),
            ("features", adapter.features.join(", ")),
            ("largest binding", mebibytes(limits.storage_buffer_bytes_max)),
            ("largest buffer", mebibytes(limits.buffer_bytes_max)),
            ("bindings a pass", limits.storage_buffers_max.to_string()),
            (
                "workgroup",
                format!(
                    "{} invocations, {}",
                    limits.workgroup_invocations_max,
                    mebibytes(limits.workgroup_bytes_max.into())
                ),
            ),
            ("workgroups", format!("{} along a dimension", limits.workgroups_per_dimension_max)),
        ]);
    }
    Ok(ExitCode::SUCCESS)
}

/// Drivers that also show windows look for a display in this folder and complain on standard error where a server has none. They
/// read the variable by themselves, and it cannot be set safely here: this process starts over with it.
#[cfg(target_os = "linux")]
fn start_with_runtime_folder() {
    use std::os::unix::process::CommandExt;

    const VARIABLE: &str = "XDG_RUNTIME_DIR";
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut command = std::process::Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, std::env::temp_dir());
        // Comes back only if it fails; then the driver complains.
        let error = command.exec();
        tracing::debug!(%error, "could not start over");
    }
}
