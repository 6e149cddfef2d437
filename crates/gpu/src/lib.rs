//! Runs execution plans with wgpu.
