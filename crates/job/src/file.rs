//! The job file's keys, as serde reads them. The published JSON Schema comes from these types.
//!
//! Nothing here knows whether the keys make sense together: that is `compile`'s part.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData, ops::Range};

use protocol::manifest::{Dtype, JobKind};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};

/// A Plexus job: kernels, inputs, outputs and how they are cut into units and joined again. Paths are relative to this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Plexus job file")]
pub(crate) struct JobFile {
    /// The format's version: 1.
    #[schemars(schema_with = "version_schema")]
    pub(crate) version: At<u64>,
    /// A name for people, up to 64 letters, digits, `-`, `_` and `.`.
    pub(crate) name: At<String>,
    /// Which segment of the queue the job belongs to.
    #[serde(default)]
    #[schemars(schema_with = "kind_schema")]
    pub(crate) kind: JobKind,
    /// The class it is served in: a higher one may take devices back from a lower one; `"normal"` by default.
    #[serde(default)]
    #[schemars(schema_with = "priority_schema")]
    pub(crate) priority: Option<Priority>,
    /// In how many seconds after its submission the job is to be done; what is not given out by then is not computed.
    pub(crate) deadline_s: Option<At<u32>>,
    /// Failed attempts after which a unit is given up, 1 to 20; the market's limit by default.
    pub(crate) attempts_max: Option<At<u32>>,
    /// WGSL kernels by name.
    pub(crate) kernels: Named<KernelSection>,
    /// Input buffers by name.
    #[serde(default)]
    pub(crate) inputs: Named<InputSection>,
    /// Buffers that live only within a unit, by name.
    #[serde(default)]
    pub(crate) scratch: Named<ScratchSection>,
    /// Output buffers by name.
    pub(crate) outputs: Named<OutputSection>,
    /// Kernel runs in order; each sees what the ones before it wrote.
    pub(crate) passes: At<Vec<PassSection>>,
    /// How results are verified; an audit of at least 5 % by default.
    pub(crate) verify: Option<VerifySections>,
    /// What is paid.
    #[serde(default)]
    pub(crate) pay: PaySection,
    /// Bounds on one unit.
    #[serde(default)]
    pub(crate) limits: LimitsSection,
    /// What a device must have.
    #[serde(default)]
    pub(crate) needs: NeedsSection,
    /// How units are given out.
    #[serde(default)]
    pub(crate) schedule: ScheduleSection,
}

/// A Plexus job of several stages, or one that is run again and again. Paths are relative to this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Plexus job file with stages")]
pub(crate) struct GraphFile {
    /// The format's version: 1.
    #[schemars(schema_with = "version_schema")]
    pub(crate) version: At<u64>,
    /// A name for people, up to 64 letters, digits, `-`, `_` and `.`.
    pub(crate) name: At<String>,
    /// Which segment of the queue the job belongs to.
    #[serde(default)]
    #[schemars(schema_with = "kind_schema")]
    pub(crate) kind: JobKind,
    /// The class it is served in: a higher one may take devices back from a lower one; `"normal"` by default.
    #[serde(default)]
    #[schemars(schema_with = "priority_schema")]
    pub(crate) priority: Option<Priority>,
    /// In how many seconds after its submission the job is to be done; what is not given out by then is not computed.
    pub(crate) deadline_s: Option<At<u32>>,
    /// Failed attempts after which a unit is given up, 1 to 20; the market's limit by default.
    pub(crate) attempts_max: Option<At<u32>>,
    /// What is computed; a stage reads files and what stages before it put out.
    pub(crate) stage: At<Vec<StageSection>>,
    /// Run all stages again and again.
    pub(crate) iterate: Option<IterateSection>,
    /// What is paid.
    #[serde(default)]
    pub(crate) pay: PaySection,
}

/// Units of one program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StageSection {
    /// Its name, unlike those of the other stages.
    pub(crate) name: At<String>,
    /// WGSL kernels by name.
    pub(crate) kernels: Named<KernelSection>,
    /// Input buffers by name.
    #[serde(default)]
    pub(crate) inputs: Named<InputSection>,
    /// Buffers that live only within a unit, by name.
    #[serde(default)]
    pub(crate) scratch: Named<ScratchSection>,
    /// Output buffers by name.
    pub(crate) outputs: Named<OutputSection>,
    /// Kernel runs in order; each sees what the ones before it wrote.
    pub(crate) passes: At<Vec<PassSection>>,
    /// How results are verified; an audit of at least 5 % by default.
    pub(crate) verify: Option<VerifySections>,
    /// What one unit of this stage is paid; the job's `unit_price` by default.
    pub(crate) unit_price: Option<At<Money>>,
    /// Bounds on one unit.
    #[serde(default)]
    pub(crate) limits: LimitsSection,
    /// What a device must have.
    #[serde(default)]
    pub(crate) needs: NeedsSection,
    /// How units are given out.
    #[serde(default)]
    pub(crate) schedule: ScheduleSection,
}

/// Running all stages again and again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IterateSection {
    /// Most iterations; the escrow covers them all.
    pub(crate) times_max: At<u32>,
    /// When to stop earlier.
    pub(crate) until: Option<At<UntilSection>>,
}

/// When an iterated job is done: one of `unchanged` and `equals`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UntilSection {
    /// A stage's name.
    pub(crate) stage: At<String>,
    /// One of its outputs.
    pub(crate) output: At<String>,
    /// `true`: an iteration put out the same as the one before.
    pub(crate) unchanged: Option<At<bool>>,
    /// `"zeros"`: the output of every unit is zero.
    pub(crate) equals: Option<At<String>>,
}

/// One entry point of one WGSL file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelSection {
    /// The WGSL file.
    pub(crate) file: At<String>,
    /// The entry point; `main` by default.
    pub(crate) entry: Option<String>,
    /// Values of the module's `override` constants: a number, or `"auto"` for whatever is fastest on the device.
    #[serde(default)]
    pub(crate) overrides: Named<OverrideValue>,
}

/// An input buffer. Exactly one of `file`, `tiles`, `sweep`, `value` and `from` says where its numbers come from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputSection {
    /// A `.npy`, `.png` or `.csv` file, or any other with raw numbers, little endian (then dtype and shape are needed).
    pub(crate) file: Option<At<String>>,
    /// Tiles of a picture, one a unit: the buffer is u32 [4], the tile's x, y, width and height.
    pub(crate) tiles: Option<At<TilesSection>>,
    /// Values of a parameter, one a unit; several sweeps give every combination, the last one fastest.
    pub(crate) sweep: Option<At<Sweep>>,
    /// Constant numbers, the same for every unit.
    pub(crate) value: Option<At<Numbers>>,
    /// The element type: needed for raw files, converts others; f32 by default for sweeps, values and CSV.
    #[serde(default)]
    #[schemars(schema_with = "dtype_schema")]
    pub(crate) dtype: Option<At<Dtype>>,
    /// The extent of each axis: needed for raw files, reshapes others.
    pub(crate) shape: Option<At<Vec<u32>>>,
    /// Raw files: where the numbers begin, in bytes.
    pub(crate) offset: Option<At<u64>>,
    /// Raw files: how many bytes they are; must be what dtype and shape say.
    pub(crate) length: Option<At<u64>>,
    /// Files: how they are cut into units. Without it every unit sees all of it.
    pub(crate) split: Option<At<SplitSection>>,
    /// A name under which a device may keep the buffer between units (not for what differs from unit to unit).
    pub(crate) resident: Option<At<String>>,
    /// In a stage: what another one puts out, such as `"assign.sums"`. With `each`, `all`, `group` or `rows`.
    pub(crate) from: Option<At<String>>,
    /// With `from`: `true` gives each unit the output of the upstream unit of the same number.
    pub(crate) each: Option<At<bool>>,
    /// With `from`: `true` gives every unit all outputs, one after the other on the first axis. The default of one unit.
    pub(crate) all: Option<At<bool>>,
    /// With `from`: each unit sees the outputs of so many upstream units, one after the other on the first axis.
    pub(crate) group: Option<At<u64>>,
    /// With `from`: each unit sees so many rows of all outputs, one after the other on the first axis.
    pub(crate) rows: Option<At<u64>>,
    /// With `from`: `true` reads the iteration before; `initial` says what the first one reads.
    pub(crate) previous: Option<At<bool>>,
    /// With `previous`: a `.npy` or `.csv` file that the first iteration reads as if it were the outputs.
    pub(crate) initial: Option<At<String>>,
}

/// How an input is cut into units: `axis` and `size`, or `tile`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitSection {
    /// The axis to cut, from 0.
    pub(crate) axis: Option<At<u32>>,
    /// How much of the axis a unit sees; the last unit is padded with zeros.
    pub(crate) size: Option<At<u32>>,
    /// Width and height of the tiles that a picture ([height, width] or [height, width, channels]) is cut into.
    pub(crate) tile: Option<At<[u32; 2]>>,
}

/// A picture that is made in tiles.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TilesSection {
    /// Width of the picture in pixels.
    pub(crate) width: At<u32>,
    /// Height of the picture in pixels.
    pub(crate) height: At<u32>,
    /// Width and height of a tile in pixels.
    pub(crate) tile: At<[u32; 2]>,
}

/// A buffer that lives only within a unit, zero at first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScratchSection {
    /// The element type.
    #[schemars(schema_with = "dtype_schema")]
    pub(crate) dtype: At<Dtype>,
    /// The extent of each axis.
    pub(crate) shape: At<Vec<u32>>,
}

/// A result buffer, zero at first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputSection {
    /// The element type.
    #[schemars(schema_with = "dtype_schema")]
    pub(crate) dtype: At<Dtype>,
    /// The extent of each axis, for one unit.
    pub(crate) shape: At<Vec<u32>>,
    /// How two executions are compared; `"exact"` by default.
    pub(crate) compare: Option<At<CompareValue>>,
    /// The file that all units' outputs become.
    pub(crate) join: Option<JoinSection>,
}

/// The file that all units' outputs become.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinSection {
    /// The file's name; it ends in `.csv`, `.npy` or `.png`.
    pub(crate) file: At<String>,
    /// Names of the CSV's columns; the output's name by default.
    pub(crate) columns: Option<At<Vec<String>>>,
    /// A file of the values that are right: the share of equal rows is reported.
    pub(crate) expect: Option<At<String>>,
    /// Where a unit's elements go; found from the job's split by default.
    #[serde(default)]
    #[schemars(schema_with = "layout_schema")]
    pub(crate) layout: Option<At<Layout>>,
}

/// Where a unit's elements go in the joined array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    Axis,
    Tiles,
    Stack,
}

/// One run of one kernel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PassSection {
    /// A name in `kernels`.
    pub(crate) kernel: At<String>,
    /// Names of buffers; number `i` is `@group(0) @binding(i)`.
    pub(crate) bind: At<Vec<At<String>>>,
    /// Workgroups along x, y and z: numbers, or expressions over the kernel's overrides such as `"ceil(64/TILE)"`.
    pub(crate) dispatch: At<Vec<At<DispatchValue>>>,
}

/// How results are verified: one policy, or a list of them (`[[verify]]`) that are used together, each at most once.
#[derive(Debug)]
pub(crate) enum VerifySections {
    One(Box<VerifySection>),
    Several(Vec<VerifySection>),
}

impl<'de> Deserialize<'de> for VerifySections {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = VerifySections;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a policy, or a list of policies")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<VerifySections, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(VerifySections::Several)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VerifySections, A::Error> {
                let section = VerifySection::deserialize(MapAccessDeserializer::new(map))?;
                Ok(VerifySections::One(section.into()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for VerifySections {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "VerifySections".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<VerifySection>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// One way to verify results.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifySection {
    /// `audit`: units drawn after the commitment run again elsewhere. `quorum`: every unit runs at several owners. `canary`: the
    /// outputs of some units are known. `freivalds`: the market checks matrix products. `algebraic`: the market checks relations
    /// between buffers.
    #[schemars(schema_with = "policy_schema")]
    pub(crate) policy: At<PolicyName>,
    /// Audit: least share of units that is drawn, 0 to 1.
    pub(crate) rate_min: Option<At<f64>>,
    /// Quorum: owners that must agree, 2 to 5.
    pub(crate) agree: Option<At<u32>>,
    /// Quorum: owners that execute every unit, of whom more than half must agree; as many as must agree by default.
    pub(crate) of: Option<At<u32>>,
    /// Freivalds and algebraic: least share of units that is drawn, 0 to 1; all by default.
    pub(crate) rate: Option<At<f64>>,
    /// Freivalds: matrix products among the buffers.
    pub(crate) products: Option<At<Vec<ProductSection>>>,
    /// Algebraic: what holds between buffers.
    pub(crate) relations: Option<At<Vec<RelationSection>>>,
    /// Canary: units whose outputs are known, from 0.
    pub(crate) units: Option<At<Vec<u64>>>,
    /// Canary: for each output, a file whose name has `{unit}` where the unit's number belongs, or a list of numbers a unit.
    pub(crate) outputs: Option<At<Named<At<KnownValue>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PolicyName {
    Audit,
    Quorum,
    Canary,
    Freivalds,
    Algebraic,
}

impl PolicyName {
    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Quorum => "quorum",
            Self::Canary => "canary",
            Self::Freivalds => "freivalds",
            Self::Algebraic => "algebraic",
        }
    }
}

/// `c = a · b`, or `c = a · b + bias`, by the names of buffers; `c` is an output.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductSection {
    /// The left factor, `[.., k]`.
    pub(crate) a: String,
    /// The right factor, `[k, n]`.
    pub(crate) b: String,
    /// The product, `[.., n]`.
    pub(crate) c: String,
    /// Whether `b` is `[n, k]`.
    #[serde(default)]
    pub(crate) b_transposed: bool,
    /// What is added to every row, `[n]`.
    pub(crate) bias: Option<String>,
}

/// What holds between buffers, by their names.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "relation", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum RelationSection {
    /// `c = a · b`, or `c = a · b + bias`.
    Product {
        /// The left factor, `[.., k]`.
        a: String,
        /// The right factor, `[k, n]`.
        b: String,
        /// The product, `[.., n]`.
        c: String,
        /// Whether `b` is `[n, k]`.
        #[serde(default)]
        b_transposed: bool,
        /// What is added to every row, `[n]`.
        bias: Option<String>,
    },
    /// `output` holds the integers of `input` in order, each line along the last axis by itself.
    Sorted {
        /// What is sorted.
        input: String,
        /// What comes out.
        output: String,
        /// Whether the order is descending.
        #[serde(default)]
        descending: bool,
    },
}

/// What is known of an output.
#[derive(Clone, Debug)]
pub(crate) enum KnownValue {
    /// A file a unit.
    Files(String),
    /// A list of numbers a unit, in the order of the units.
    Numbers(Vec<Vec<Number>>),
}

impl<'de> Deserialize<'de> for KnownValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = KnownValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file such as \"known/{unit}.npy\", or a list of numbers for each unit")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<KnownValue, E> {
                Ok(KnownValue::Files(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<KnownValue, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(KnownValue::Numbers)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for KnownValue {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "KnownValue".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let numbers = json_schema!({ "type": "array", "items": { "type": "number" }, "minItems": 1 });
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": numbers, "minItems": 1 }] })
    }
}

/// What is paid, in tokens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PaySection {
    /// For one unit, such as `"0.001"`; the market's price at the moment of submission without.
    pub(crate) unit_price: Option<At<Money>>,
    /// The most that may be set aside for the whole job, checks included.
    pub(crate) budget: Option<At<Money>>,
    /// Who else has a part in what is paid for first execution, such as a model's author.
    pub(crate) royalty: Option<RoyaltySection>,
}

/// A part of what is paid.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoyaltySection {
    /// The wallet's address.
    pub(crate) account: At<String>,
    /// The part, in basis points (1/10 000).
    pub(crate) bps: At<u32>,
}

/// The class a job is served in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Whatever is left over.
    Low,
    /// The usual.
    Normal,
    /// Before the usual.
    High,
    /// At once.
    Urgent,
}

/// Bounds on one unit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsSection {
    /// Time on the device in milliseconds, after which a watchdog ends the unit; 10000 by default.
    pub(crate) time_ms_max: Option<At<u64>>,
    /// Device memory of all buffers together, in bytes; what the buffers need by default.
    pub(crate) memory_bytes_max: Option<At<u64>>,
}

/// What a device must have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NeedsSection {
    /// WebGPU feature names, such as `"shader-f16"`.
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

/// How units are given out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleSection {
    /// Units that one worker takes at a time; the market sizes it by default.
    pub(crate) package_units: Option<At<u32>>,
    /// Units that must run at the same time, each on a device of its own, up to 64; 1 by default.
    pub(crate) devices: Option<At<u32>>,
    /// Owners that compute each unit at the same time, up to 5, so that losing one of them costs no time; 1 by default.
    pub(crate) replicas: Option<At<u32>>,
}

fn version_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "const": 1 })
}

fn kind_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["batch", "inference", "training"], "default": "batch" })
}

fn priority_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["low", "normal", "high", "urgent"], "default": "normal" })
}

fn dtype_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["i8", "u8", "i32", "u32", "f16", "f32"] })
}

fn layout_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["axis", "tiles", "stack"] })
}

fn policy_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["audit", "quorum", "canary", "freivalds", "algebraic"] })
}

/// A value with its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        let span = spanned.span();
        Ok(Self { value: spanned.into_inner(), span })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Entries by name, in the order of the text.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<(At<String>, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some((name, entry)) = map.next_entry::<At<String>, T>()? {
                    entries.push((name, entry));
                }
                entries.sort_by_key(|(name, _)| name.span.start);
                Ok(Named(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        <BTreeMap<String, T>>::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <BTreeMap<String, T>>::json_schema(generator)
    }
}

/// An amount of tokens: decimal text, or a whole number.
#[derive(Clone, Debug)]
pub(crate) struct Money(pub(crate) String);

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Money;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of tokens in quotes, such as \"0.001\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Money, E> {
                Ok(Money(text.to_owned()))
            }
            fn visit_i64<E: Error>(self, whole: i64) -> Result<Money, E> {
                Ok(Money(whole.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Money {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Money".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,9})?$" },
            { "type": "integer", "minimum": 0 },
        ] })
    }
}

/// The value of an `override` constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverrideValue(pub(crate) protocol::manifest::Override);

impl<'de> Deserialize<'de> for OverrideValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use protocol::manifest::{Auto, Override};
        struct Either;
        impl Visitor<'_> for Either {
            type Value = OverrideValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0 to 4294967295, or \"auto\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<OverrideValue, E> {
                match text {
                    "auto" => Ok(OverrideValue(Override::Auto(Auto::Auto))),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<OverrideValue, E> {
                let small = u32::try_from(value);
                small
                    .map(|value| OverrideValue(Override::Value(value)))
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(value), &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for OverrideValue {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "OverrideValue".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": u32::MAX }, { "const": "auto" }] })
    }
}

/// A number of workgroups.
#[derive(Clone, Debug)]
pub(crate) struct DispatchValue(pub(crate) protocol::manifest::Dispatch);

impl<'de> Deserialize<'de> for DispatchValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use protocol::manifest::Dispatch;
        struct Either;
        impl Visitor<'_> for Either {
            type Value = DispatchValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of workgroups, or an expression such as \"ceil(64/TILE)\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<DispatchValue, E> {
                Ok(DispatchValue(Dispatch::Expression(text.to_owned())))
            }
            fn visit_i64<E: Error>(self, count: i64) -> Result<DispatchValue, E> {
                let small = u32::try_from(count);
                small
                    .map(|count| DispatchValue(Dispatch::Count(count)))
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for DispatchValue {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "DispatchValue".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": u32::MAX }, { "type": "string" }] })
    }
}

/// `"exact"`, or a tolerance for float outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompareValue(pub(crate) protocol::manifest::Compare);

/// Elements agree when |a − b| ≤ abs + rel · max(|a|, |b|).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ToleranceSection {
    /// Absolute error allowed.
    abs: f64,
    /// Relative error allowed; 0 by default.
    #[serde(default)]
    rel: f64,
    /// Share of elements that may disagree, 0 to 1; 0 by default.
    #[serde(default)]
    outliers_max: f64,
    /// Bound on the mean of |a − b|, outliers included; none by default.
    mean_abs_max: Option<f64>,
}

impl<'de> Deserialize<'de> for CompareValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use protocol::manifest::{Compare, Tolerance};
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = CompareValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"exact\" or a tolerance such as { abs = 1e-3, outliers_max = 0.01 }")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<CompareValue, E> {
                match text {
                    "exact" => Ok(CompareValue(Compare::default())),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CompareValue, A::Error> {
                let ToleranceSection { abs, rel, outliers_max, mean_abs_max } =
                    ToleranceSection::deserialize(MapAccessDeserializer::new(map))?;
                Ok(CompareValue(Compare::Within(Tolerance { abs, rel, outliers_max, mean_abs_max })))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for CompareValue {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "CompareValue".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let tolerance = generator.subschema_for::<ToleranceSection>();
        json_schema!({ "anyOf": [{ "const": "exact" }, tolerance] })
    }
}

/// A number, whole or not. Whole ones beyond 2⁵³ do not fit any element type anyway.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Number(pub(crate) f64);

/// What a sweep goes through.
#[derive(Clone, Debug)]
pub(crate) enum Sweep {
    Values(Vec<Number>),
    Range(SweepRange),
}

/// From one number to another: in steps (of 1 by default), or as a `count` of values, evenly or (`log`) geometrically spaced.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SweepRange {
    /// The first value.
    pub(crate) from: f64,
    /// The last value (a step may end before it).
    pub(crate) to: f64,
    /// From one value to the next; 1 by default.
    pub(crate) step: Option<f64>,
    /// How many values, both ends included.
    pub(crate) count: Option<u32>,
    /// With `count`: equal ratios instead of equal differences.
    #[serde(default)]
    pub(crate) log: bool,
}

impl<'de> Deserialize<'de> for Sweep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Sweep;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers, or a range such as { from = 0, to = 9 }")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Sweep, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Sweep::Values)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sweep, A::Error> {
                SweepRange::deserialize(MapAccessDeserializer::new(map)).map(Sweep::Range)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Sweep {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Sweep".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let range = generator.subschema_for::<SweepRange>();
        json_schema!({ "anyOf": [{ "type": "array", "items": { "type": "number" }, "minItems": 1 }, range] })
    }
}

/// One number, or a list of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(pub(crate) Vec<Number>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Numbers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list of numbers")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Numbers, E> {
                Ok(Numbers(vec![Number(value as f64)]))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Numbers, E> {
                Ok(Numbers(vec![Number(value)]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Numbers, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Numbers)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Numbers {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Numbers".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "number" }, { "type": "array", "items": { "type": "number" }, "minItems": 1 }] })
    }
}
