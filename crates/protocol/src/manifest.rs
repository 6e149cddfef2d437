//! The manifest: what a unit computes, in a form that native and browser runtimes obey alike.
//!
//! These are the wire types alone. Whether a manifest makes sense (shapes, bindings, sizes, WGSL) is decided by the
//! `program` crate before anything is scheduled. Unknown fields are refused: a typo must not silently change a computation.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::Hash;

/// The one manifest version there is.
pub const VERSION: u32 = 1;

/// A program with its limits and the policy that verifies it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Manifest {
    /// Format version: 1.
    pub version: u32,
    /// What runs it.
    pub runtime: Runtime,
    /// What kind of work it is, for the queue.
    pub kind: JobKind,
    /// The passes and buffers.
    pub program: Program,
    /// Bounds that end a unit which exceeds them.
    pub limits: Limits,
    /// What a device must have.
    #[serde(default)]
    pub needs: Needs,
    /// How results are verified.
    pub verify: Verify,
}

/// The runtime a manifest is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Runtime {
    /// WGSL compute passes: wgpu natively, WebGPU in a browser.
    Wgsl,
}

/// The queue's segments.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum JobKind {
    /// Throughput work.
    #[default]
    Batch,
    /// Model inference.
    Inference,
    /// Model training.
    Training,
}

/// Compute passes over named buffers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Program {
    /// WGSL modules by name.
    pub kernels: BTreeMap<String, Kernel>,
    /// Buffers by name.
    pub buffers: BTreeMap<String, Buffer>,
    /// Passes in the order they run; each sees what the ones before it wrote.
    pub passes: Vec<Pass>,
}

/// One WGSL entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Kernel {
    /// The blob that holds the WGSL text.
    pub blob: Hash,
    /// The entry point's name.
    pub entry: String,
    /// Values of the module's `override` constants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, Override>,
}

/// The value of an `override` constant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Override {
    /// This value on every device.
    Value(u32),
    /// Whatever is fastest on the device; results must not depend on it.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Auto {
    /// Calibrated on the device.
    Auto,
}

/// A named buffer. Exactly one of `input`, `blob`, `output` and `scratch` says where its bytes come from or go to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Buffer {
    /// Filled from this input of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u32>,
    /// Filled from this blob, the same for every unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Hash>,
    /// Read back as this output of the unit; zero before the first pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u32>,
    /// Lives only within the unit; zero before the first pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scratch: bool,
    /// The element type.
    pub dtype: Dtype,
    /// The extent of each axis, outermost first.
    pub shape: Vec<u32>,
    /// How two executions of this output are compared (outputs only; `exact` by default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Compare>,
    /// A name under which the device may keep the buffer between units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident: Option<String>,
}

/// An element type, stored little endian and tightly packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Dtype {
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// 32-bit signed integer.
    I32,
    /// 32-bit unsigned integer.
    U32,
    /// 16-bit float.
    F16,
    /// 32-bit float.
    F32,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
        }
    }

    /// Whether elements are floating point.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32)
    }

    /// The value of one little-endian element, exact in double precision for every element type.
    ///
    /// # Panics
    ///
    /// If `element` is not one element of this type.
    pub fn value(self, element: &[u8]) -> f64 {
        match (self, element) {
            (Self::I8, &[byte]) => f64::from(byte as i8),
            (Self::U8, &[byte]) => f64::from(byte),
            (Self::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f64(),
            (Self::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            (Self::U32, &[a, b, c, d]) => f64::from(u32::from_le_bytes([a, b, c, d])),
            (Self::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            _ => panic!("{} bytes are not one {self}", element.len()),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::F16 => "f16",
            Self::F32 => "f32",
        })
    }
}

/// How two executions of an output are compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Compare {
    /// The word `exact`: bit for bit, by hash.
    Exact(Exact),
    /// Within a tolerance, element by element (float outputs).
    Within(Tolerance),
}

/// The word `exact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Exact {
    /// Bit for bit.
    Exact,
}

impl Default for Compare {
    fn default() -> Self {
        Self::Exact(Exact::Exact)
    }
}

/// Elements `a` and `b` agree when `|a − b| ≤ abs + rel · max(|a|, |b|)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Tolerance {
    /// Absolute error allowed.
    pub abs: f64,
    /// Relative error allowed.
    #[serde(default)]
    pub rel: f64,
    /// Share of elements, 0 to 1, that may disagree.
    #[serde(default)]
    pub outliers_max: f64,
    /// Bound on the mean of `|a − b|` over all elements, outliers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_abs_max: Option<f64>,
}

/// One dispatch of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Pass {
    /// A name in `kernels`.
    pub kernel: String,
    /// Buffer names; number `i` is `@group(0) @binding(i)`.
    pub bind: Vec<String>,
    /// Workgroups along x, y and z; missing ones are 1.
    pub dispatch: Vec<Dispatch>,
}

/// A number of workgroups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Dispatch {
    /// This many.
    Count(u32),
    /// An [`Expression`](crate::Expression) over the kernel's overrides.
    Expression(String),
}

/// Bounds on one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Limits {
    /// Device memory of all buffers together, in bytes.
    pub memory_bytes_max: u64,
    /// Time of one unit on the device, in milliseconds; a watchdog ends the lease after it.
    pub time_ms_max: u64,
}

/// What a device must offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Needs {
    /// WebGPU feature names, and `long-loops` for kernels whose invocations loop more than 65,535 times.
    #[serde(default)]
    pub features: Vec<String>,
    /// Least size of the largest storage binding, in bytes.
    #[serde(default)]
    pub storage_buffer_bytes_min: u64,
}

/// How results are verified: by one policy, or by several together, each at most once.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Verify {
    /// By this one.
    One(Policy),
    /// By all of these.
    All(Vec<Policy>),
}

/// One way to verify results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "lowercase", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Policy {
    /// Units drawn after the commitment are executed again by somebody else.
    Audit {
        /// Least share of units that is drawn, 0 to 1, however trusted the worker.
        rate_min: f64,
    },
    /// Every unit is executed by several owners.
    Quorum {
        /// Owners that must agree, 2 to 5.
        agree: u32,
        /// Owners that execute, at most 5, of whom more than half must agree; as many as must agree when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<u32>,
    },
    /// The submitter knows what some units put out, and says so with the job, not here.
    Canary {},
    /// The market checks matrix products with random vectors, without computing them.
    Freivalds {
        /// The products.
        products: Vec<Product>,
        /// Least share of units that is drawn after the commitment, 0 to 1, however trusted the worker.
        #[serde(default = "every")]
        rate: f64,
    },
    /// The market checks relations between what a unit reads and what it puts out.
    Algebraic {
        /// The relations.
        relations: Vec<Relation>,
        /// Least share of units that is drawn after the commitment, 0 to 1, however trusted the worker.
        #[serde(default = "every")]
        rate: f64,
    },
}

fn every() -> f64 {
    1.0
}

/// What holds between buffers of a correct unit, and is cheaper to check than to compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "relation", rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Relation {
    /// One is the matrix product of two others.
    Product(Product),
    /// One holds the elements of another one in order.
    Sorted(Sorted),
}

/// `c = a · b`, or `c = a · b + bias`. Each is the name of a buffer: an input, a blob or an output, and `c` an output.
///
/// `a` has the shape `[.., k]`, `b` `[k, n]`, `c` `[.., n]`; the axes of `a` and `c` before the last are rows. Integers give `i32` or
/// `u32`, which wrap; floats give floats, and are forgiven what rounding can do and the tolerance of `c`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Product {
    /// The left factor.
    pub a: String,
    /// The right factor.
    pub b: String,
    /// The product.
    pub c: String,
    /// Whether `b` is transposed in its buffer: `[n, k]`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub b_transposed: bool,
    /// What is added to every row: `[n]`, of the integer type of `c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<String>,
}

/// `output` holds the elements of `input`, each as often, in ascending order. Each is the name of a buffer, of the same integers.
/// Of more than one axis, each line along the last one is sorted by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Sorted {
    /// What is sorted: an input, a blob or an output.
    pub input: String,
    /// What comes out: an output.
    pub output: String,
    /// Whether the order is descending.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub descending: bool,
}

impl Verify {
    /// The policies, one or several.
    pub fn policies(&self) -> &[Policy] {
        match self {
            Self::One(policy) => std::slice::from_ref(policy),
            Self::All(policies) => policies,
        }
    }

    /// The least share of units that is executed again. A job that is verified by nothing else is audited.
    pub fn audit_rate_min(&self) -> Option<f64> {
        let policies = self.policies();
        let stated = policies.iter().find_map(|policy| match policy {
            Policy::Audit { rate_min } => Some(*rate_min),
            _ => None,
        });
        let alone = policies.iter().all(|policy| matches!(policy, Policy::Canary {}));
        stated.or(alone.then_some(0.0))
    }

    /// How many owners must agree, of how many that execute every unit.
    pub fn quorum(&self) -> Option<(u32, u32)> {
        self.policies().iter().find_map(|policy| match policy {
            Policy::Quorum { agree, of } => Some((*agree, of.unwrap_or(*agree))),
            _ => None,
        })
    }

    /// Whether the job comes with units whose outputs its submitter knows.
    pub fn canaries(&self) -> bool {
        self.policies().iter().any(|policy| matches!(policy, Policy::Canary {}))
    }

    /// Executions of each unit that a job sets money aside for.
    pub fn executions(&self) -> u32 {
        self.quorum().map_or(1 + u32::from(self.audit_rate_min().is_some()), |(_, of)| of)
    }

    /// What the market checks by itself, in the order in which it is stated, and the least share of units that it checks.
    pub fn relations(&self) -> Option<(Vec<Relation>, f64)> {
        self.policies().iter().find_map(|policy| match policy {
            Policy::Freivalds { products, rate } => {
                Some((products.iter().cloned().map(Relation::Product).collect(), *rate))
            }
            Policy::Algebraic { relations, rate } => Some((relations.clone(), *rate)),
            _ => None,
        })
    }
}

impl Relation {
    /// The names of the buffers that it is about.
    pub fn buffers(&self) -> impl Iterator<Item = &str> {
        let [first, second, third, fourth] = match self {
            Self::Product(Product { a, b, c, bias, .. }) => [Some(a), Some(b), Some(c), bias.as_ref()],
            Self::Sorted(Sorted { input, output, .. }) => [Some(input), Some(output), None, None],
        };
        [first, second, third, fourth].into_iter().flatten().map(String::as_str)
    }
}

impl Policy {
    /// Its name in a manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Audit { .. } => "audit",
            Self::Quorum { .. } => "quorum",
            Self::Canary {} => "canary",
            Self::Freivalds { .. } => "freivalds",
            Self::Algebraic { .. } => "algebraic",
        }
    }
}

impl From<Policy> for Verify {
    fn from(policy: Policy) -> Self {
        Self::One(policy)
    }
}

/// By hand, so that what is wrong is said of the form that was meant.
impl<'de> Deserialize<'de> for Verify {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> serde::de::Visitor<'de> for Form {
            type Value = Verify;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a policy or a list of policies")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Verify, A::Error> {
                Policy::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Verify::One)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Verify, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Verify::All)
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl Manifest {
    /// The manifest's canonical bytes: compact JSON with sorted maps. Their hash is the manifest's blob id.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has string keys and finite numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_has_its_value() {
        assert_eq!(Dtype::I8.value(&[0x80]), -128.0);
        assert_eq!(Dtype::U8.value(&[0x80]), 128.0);
        assert_eq!(Dtype::F16.value(&[0x00, 0x3c]), 1.0);
        assert_eq!(Dtype::F16.value(&[0x01, 0x00]), 2f64.powi(-24));
        assert_eq!(Dtype::F16.value(&[0x00, 0xfc]), f64::NEG_INFINITY);
        assert_eq!(Dtype::I32.value(&[0xff; 4]), -1.0);
        assert_eq!(Dtype::U32.value(&[0xff; 4]), 4_294_967_295.0);
        assert_eq!(Dtype::F32.value(&1.5f32.to_le_bytes()), 1.5);
    }
}
