//! Checks a manifest and its WGSL and turns them into an execution plan.
