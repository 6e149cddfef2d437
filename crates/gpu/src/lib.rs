//! Runs execution plans with wgpu: on Vulkan, Metal or DX12, software devices included.
//!
//! [`Gpu::open`] takes a device; [`Program::load`] builds a [`program::Plan`] on it, with the plan's blobs uploaded once;
//! [`Program::submit`] starts a unit and [`Pending::wait`] returns its outputs. Up to [`RING_LENGTH`] units are in flight, each on
//! its own set of buffers, so that one is read back while the next one runs. Outputs and scratch are zero before each unit.
//!
//! The crate trusts its plans (they come from `program::check`) but not the device: it may refuse, run out of memory or vanish,
//! and each is an error of its own. It cannot stop a unit that never ends; whoever needs that runs it in a process of its own.

mod calibration;
mod device;
mod error;
mod flaw;
mod speed;
mod unit;

pub use crate::{
    device::{ADAPTER_VARIABLE, Gpu},
    error::GpuError,
    unit::{Pending, Program, RING_LENGTH, UnitOutcome, device_bytes},
};
