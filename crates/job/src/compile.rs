//! From a job file to what a market is told.
//!
//! Everything that has a place in the text is checked here, so that the error can point at it.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use protocol::{
    Amount, Expression, Hash, InputSplit, JoinFormat, JoinLayout, JoinParameter, JoinSpec, Manifest,
    PublicKey,
    manifest::{self, Buffer, Compare, Dispatch, Dtype, Override},
};

use crate::{
    array::{ARRAY_BYTES_MAX, Array, Rounding, bytes_of, push},
    codec,
    error::{Code, Fault, JobError, suggestion},
    file::{
        At, InputSection, JobFile, JoinSection, KernelSection, Layout, Money, Number, OutputSection,
        PassSection, Priority, RoyaltySection, ScratchSection, SplitSection, Sweep, SweepRange, TilesSection,
    },
    graph::{Gather, Stages},
    join::{COLUMNS_MAX, check_join},
    source::FileSource,
    split::{self, Tiling, UNITS_MAX, Units},
    verify::{self, Canary, Known},
};

/// Longest job file, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 20;
/// Longest kernel, in bytes.
const KERNEL_BYTES_MAX: u64 = 1 << 20;
/// Time of a unit when the job file does not say, in milliseconds.
const TIME_MS_MAX_DEFAULT: u64 = 10_000;
/// Least share of units to audit when the job file does not say.
pub(crate) const AUDIT_RATE_MIN_DEFAULT: f64 = 0.05;
/// Most devices that units run on at once.
const DEVICES_MAX: u32 = 64;
/// Most owners that compute a unit at once.
const REPLICAS_MAX: u32 = 5;
/// Most attempts at a unit that a job may ask for: the market's bound.
const ATTEMPTS_MAX: u32 = 20;
/// Most axes of a shape.
const AXES_MAX: usize = 8;

/// A job file with all that it names: what is uploaded and submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledJob {
    /// The job's name for people.
    pub name: String,
    /// What a unit computes.
    pub manifest: Manifest,
    /// Kernels, inputs and expected values by their hash.
    pub blobs: BTreeMap<Hash, Bytes>,
    /// Where input `n` of the units lies.
    pub inputs: Vec<InputSplit>,
    /// How many units there are.
    pub units: u64,
    /// Units whose outputs are known; their outputs are among the blobs.
    pub canaries: Vec<Canary>,
    /// The files that the outputs become.
    pub joins: Vec<JoinSpec>,
    /// What one unit is paid; the market's price without.
    pub unit_price: Option<Amount>,
    /// The most that may be set aside, checks included.
    pub budget: Option<Amount>,
    /// How it is served, and who else is paid.
    pub terms: Terms,
    /// Units that one worker takes at a time; the market sizes it without.
    pub package_units: Option<u32>,
    /// Units that run at the same time, each on a device of its own.
    pub devices: u32,
    /// Owners that compute each unit at the same time.
    pub replicas: u32,
}

/// How a job is served, and who else is paid, as far as the job file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The class it is served in.
    pub priority: Option<Priority>,
    /// In how many seconds it is to be done.
    pub deadline_s: Option<u32>,
    /// Failed attempts after which a unit is given up.
    pub attempts_max: Option<u32>,
    /// Who has a part in what is paid for first execution, and how much in basis points.
    pub royalty: Option<(PublicKey, u32)>,
}

pub(crate) fn terms(
    priority: Option<Priority>,
    deadline_s: Option<&At<u32>>,
    attempts_max: Option<&At<u32>>,
    royalty: Option<&RoyaltySection>,
) -> Result<Terms> {
    let within = |number: Option<&At<u32>>, most: u32, message: &str| match number {
        Some(number) if !(1..=most).contains(&number.value) => {
            Err(Fault::new(Code::Value, number.span.clone(), message))
        }
        number => Ok(number.map(|number| number.value)),
    };
    let royalty = royalty.map(|royalty| {
        let account = royalty.account.value.parse().map_err(|_| {
            let message = format!("\"{}\" is no wallet's address", royalty.account.value);
            Fault::new(Code::Value, royalty.account.span.clone(), message)
                .fix("`plexus wallet show` prints an address")
        })?;
        within(Some(&royalty.bps), 10_000, "a royalty is 1 to 10000 basis points")?;
        Ok::<_, Box<Fault>>((account, royalty.bps.value))
    });
    Ok(Terms {
        priority,
        deadline_s: within(deadline_s, u32::MAX, "a deadline is at least a second away")?,
        attempts_max: within(attempts_max, ATTEMPTS_MAX, "a unit is tried 1 to 20 times")?,
        royalty: royalty.transpose()?,
    })
}

/// A number that is 1 when the job file does not say.
fn between_one_and(number: Option<&At<u32>>, most: u32, message: &str) -> Result<u32> {
    match number {
        None => Ok(1),
        Some(number) if (1..=most).contains(&number.value) => Ok(number.value),
        Some(number) => Err(Fault::new(Code::Value, number.span.clone(), message)),
    }
}

/// Compiles `text`, the content of the job file `file_name` (used in errors only); `files` reads what it names.
pub fn compile(text: &str, file_name: &str, files: &dyn FileSource) -> Result<CompiledJob, JobError> {
    parse(text)
        .and_then(|file| Compiler::new(files).compile(&file))
        .map_err(|fault| fault.locate(file_name, text))
}

pub(crate) type Result<T, E = Box<Fault>> = std::result::Result<T, E>;

fn parse(text: &str) -> Result<JobFile> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Fault::new(Code::Limit, 0..0, "the job file is longer than 1 MiB"));
    }
    toml::from_str(text).map_err(|error| Fault::from_toml(&error, text))
}

/// How the job is cut into units: one way for all inputs that differ between units.
struct Cut {
    units: u64,
    /// The first input that is cut, for messages.
    input: String,
    way: Way,
}

enum Way {
    /// Sizes and extents of the cut axes, in the order of the inputs.
    Axis(Vec<(u32, u32)>),
    Tiles(Tiling),
    Sweep,
    /// By the units of another stage.
    Gather,
}

impl Way {
    fn describe(&self) -> &'static str {
        match self {
            Self::Axis(_) => "split along an axis",
            Self::Tiles(_) => "split into tiles",
            Self::Sweep => "a sweep",
            Self::Gather => "what another stage puts out",
        }
    }
}

pub(crate) struct Compiler<'a> {
    files: &'a dyn FileSource,
    /// The other stages, where the job has some.
    stages: Option<&'a Stages<'a>>,
    /// Inputs that are other units' outputs, by their number; their places in `inputs` have only a length.
    gathers: BTreeMap<usize, Gather>,
    blobs: BTreeMap<Hash, Bytes>,
    buffers: BTreeMap<String, Buffer>,
    inputs: Vec<InputSplit>,
    cut: Option<Cut>,
    /// What each sweep goes through, in the order of the inputs, and how many of them are placed.
    sweeps: Vec<Array>,
    sweeps_placed: usize,
    /// Sweeps as columns of a table.
    parameters: Vec<JoinParameter>,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(files: &'a dyn FileSource) -> Self {
        Self {
            files,
            stages: None,
            gathers: BTreeMap::new(),
            blobs: BTreeMap::new(),
            buffers: BTreeMap::new(),
            inputs: Vec::new(),
            cut: None,
            sweeps: Vec::new(),
            sweeps_placed: 0,
            parameters: Vec::new(),
        }
    }

    /// For a stage among others.
    pub(crate) fn for_stage(files: &'a dyn FileSource, stages: &'a Stages<'a>) -> Self {
        Self { stages: Some(stages), ..Self::new(files) }
    }

    /// A stage, as if it were a job of its own, and which of its inputs are other stages' outputs.
    pub(crate) fn compile_stage(mut self, file: &JobFile) -> Result<(CompiledJob, BTreeMap<usize, Gather>)> {
        let job = self.compile_parts(file)?;
        Ok((job, self.gathers))
    }

    fn compile(mut self, file: &JobFile) -> Result<CompiledJob> {
        self.compile_parts(file)
    }

    fn compile_parts(&mut self, file: &JobFile) -> Result<CompiledJob> {
        check_head(file)?;
        let mut kernels = BTreeMap::new();
        for (name, section) in &file.kernels.0 {
            check_name(name)?;
            kernels.insert(name.value.clone(), self.kernel(section)?);
        }
        self.read_sweeps(file)?;
        for (name, section) in &file.inputs.0 {
            let buffer = self.input(name, section)?;
            self.add_buffer(name, buffer)?;
        }
        for (name, ScratchSection { dtype, shape }) in &file.scratch.0 {
            let buffer =
                Buffer { scratch: true, ..plain_buffer(dtype.value, checked_shape(dtype.value, shape)?) };
            self.add_buffer(name, buffer)?;
        }
        for (index, (name, section)) in file.outputs.0.iter().enumerate() {
            let buffer = output(index as u32, section)?;
            self.add_buffer(name, buffer)?;
        }
        let passes: Result<Vec<_>> =
            file.passes.value.iter().map(|section| self.pass(section, &kernels)).collect();
        let padded = |buffer: &Buffer| bytes_of(buffer.dtype, &buffer.shape).map(|b| b.next_multiple_of(4));
        let sizes = || self.buffers.values().filter_map(padded);
        let memory_bytes = file.limits.memory_bytes_max.as_ref().map_or(sizes().sum(), |max| max.value);
        let largest_bytes = sizes().max().unwrap_or(0);
        let manifest = Manifest {
            version: manifest::VERSION,
            runtime: manifest::Runtime::Wgsl,
            kind: file.kind,
            program: manifest::Program {
                kernels,
                buffers: std::mem::take(&mut self.buffers),
                passes: passes?,
            },
            limits: manifest::Limits {
                memory_bytes_max: memory_bytes,
                time_ms_max: file.limits.time_ms_max.as_ref().map_or(TIME_MS_MAX_DEFAULT, |max| max.value),
            },
            needs: manifest::Needs {
                features: file.needs.features.clone(),
                storage_buffer_bytes_min: largest_bytes,
            },
            verify: verify::policies(file.verify.as_ref())?,
        };
        let joins = self.joins(file, &manifest)?;
        let package_units = file.schedule.package_units.as_ref();
        if let Some(zero) = package_units.filter(|units| units.value == 0) {
            return Err(Fault::new(Code::Value, zero.span.clone(), "a package has at least one unit"));
        }
        let devices = between_one_and(
            file.schedule.devices.as_ref(),
            DEVICES_MAX,
            "units run on 1 to 64 devices at once",
        )?;
        let replicas =
            between_one_and(file.schedule.replicas.as_ref(), REPLICAS_MAX, "a unit has 1 to 5 replicas")?;
        if let Some(at) = file.schedule.replicas.as_ref().filter(|_| replicas > 1)
            && (devices > 1 || package_units.is_some_and(|units| units.value > 1))
        {
            let message = "a unit with replicas is a package of its own, and runs on one device";
            return Err(Fault::new(Code::Value, at.span.clone(), message));
        }
        let units = self.cut.as_ref().map_or(1, |cut| cut.units);
        let canaries = self.canaries(file, units)?;
        Ok(CompiledJob {
            name: file.name.value.clone(),
            manifest,
            inputs: std::mem::take(&mut self.inputs),
            units,
            canaries,
            joins,
            blobs: std::mem::take(&mut self.blobs),
            unit_price: file.pay.unit_price.as_ref().map(amount).transpose()?,
            budget: file.pay.budget.as_ref().map(amount).transpose()?,
            terms: terms(
                file.priority,
                file.deadline_s.as_ref(),
                file.attempts_max.as_ref(),
                file.pay.royalty.as_ref(),
            )?,
            package_units: package_units.map(|units| units.value),
            devices,
            replicas,
        })
    }

    /// What is known of some units beforehand.
    fn canaries(&mut self, file: &JobFile, units: u64) -> Result<Vec<Canary>> {
        let Some(section) = verify::canary(file.verify.as_ref()) else { return Ok(Vec::new()) };
        let sizes: Vec<u64> = file
            .outputs
            .0
            .iter()
            .map(|(_, output)| {
                let shape = checked_shape(output.dtype.value, &output.shape)?;
                Ok(bytes_of(output.dtype.value, &shape).expect("checked"))
            })
            .collect::<Result<_>>()?;
        let mut canaries = Vec::new();
        for (unit, outputs) in verify::known(section, &file.outputs, units)? {
            let mut blobs = Vec::with_capacity(outputs.len());
            for ((dtype, known), size) in outputs.into_iter().zip(&sizes) {
                let (bytes, span) = match known {
                    Known::File(path) => {
                        let raw = !matches!(extension(&path.value).as_str(), "npy" | "csv" | "png");
                        let bytes = if raw {
                            self.read(&path, ARRAY_BYTES_MAX)?.to_vec()
                        } else {
                            self.decoded(&path, Some(dtype))?.bytes
                        };
                        (bytes, path.span)
                    }
                    Known::Numbers(values, span) => (numbers(values, dtype, &span)?.bytes, span),
                };
                if bytes.len() as u64 != *size {
                    let message = format!("unit {unit} puts out {size} bytes, and {} are known", bytes.len());
                    return Err(Fault::new(Code::Value, span, message));
                }
                blobs.push((self.add_blob(bytes), *size));
            }
            canaries.push(Canary { unit, outputs: blobs });
        }
        Ok(canaries)
    }

    fn add_blob(&mut self, bytes: Vec<u8>) -> Hash {
        let hash = Hash::of(&bytes);
        self.blobs.entry(hash).or_insert_with(|| bytes.into());
        hash
    }

    fn add_buffer(&mut self, name: &At<String>, buffer: Buffer) -> Result<()> {
        check_name(name)?;
        if self.buffers.contains_key(&name.value) {
            let message = format!("there is already a buffer named \"{}\"", name.value);
            return Err(Fault::new(Code::Value, name.span.clone(), message)
                .fix("inputs, scratch and outputs share one set of names"));
        }
        self.buffers.insert(name.value.clone(), buffer);
        Ok(())
    }

    fn kernel(&mut self, section: &KernelSection) -> Result<manifest::Kernel> {
        let bytes = self.read(&section.file, KERNEL_BYTES_MAX)?;
        if std::str::from_utf8(&bytes).is_err() {
            let message = format!("\"{}\" is not text", section.file.value);
            return Err(
                Fault::new(Code::File, section.file.span.clone(), message).fix("a kernel is WGSL in UTF-8")
            );
        }
        let overrides = section.overrides.0.iter();
        Ok(manifest::Kernel {
            blob: self.add_blob(bytes),
            entry: section.entry.clone().unwrap_or_else(|| "main".to_owned()),
            overrides: overrides.map(|(name, value)| (name.value.clone(), value.0)).collect(),
        })
    }

    fn input(&mut self, name: &At<String>, section: &InputSection) -> Result<Buffer> {
        let sources = [
            section.file.as_ref().map(|file| file.span.clone()),
            section.tiles.as_ref().map(|tiles| tiles.span.clone()),
            section.sweep.as_ref().map(|sweep| sweep.span.clone()),
            section.value.as_ref().map(|value| value.span.clone()),
            section.from.as_ref().map(|from| from.span.clone()),
        ];
        let mut present = sources.iter().flatten();
        let none_or_two = match (present.next(), present.next()) {
            (None, _) => Some((name.span.clone(), "has no source")),
            (Some(_), Some(second)) => Some((second.clone(), "has two sources")),
            _ => None,
        };
        if let Some((span, what)) = none_or_two {
            return Err(Fault::new(Code::Value, span, format!("the input \"{}\" {what}", name.value)).fix(
                if self.stages.is_some() {
                    "give it exactly one of file, tiles, sweep, value and from"
                } else {
                    "give it exactly one of file, tiles, sweep and value"
                },
            ));
        }
        check_input_keys(section)?;
        let buffer = if let Some(path) = &section.file {
            let array = self.file_array(path, section)?;
            match &section.split {
                Some(split) => self.split_input(name, array, split)?,
                None => self.constant(array),
            }
        } else if let Some(tiles) = &section.tiles {
            self.tiles_input(name, tiles)?
        } else if section.sweep.is_some() {
            self.sweep_input(name)
        } else if let Some(from) = &section.from {
            self.gathered_input(name, from, section)?
        } else {
            let value = section.value.as_ref().expect("one source is there");
            let dtype = section.dtype.as_ref().map_or(Dtype::F32, |dtype| dtype.value);
            let array = numbers(&value.value.0, dtype, &value.span)?;
            let array = reshaped(array, section.shape.as_ref())?;
            self.constant(array)
        };
        match &section.resident {
            Some(resident) if buffer.input.is_some() => {
                let message = "what differs from unit to unit cannot stay on the device";
                Err(Fault::new(Code::Value, resident.span.clone(), message))
            }
            resident => Ok(Buffer { resident: resident.as_ref().map(|name| name.value.clone()), ..buffer }),
        }
    }

    /// A buffer that all units share.
    fn constant(&mut self, array: Array) -> Buffer {
        let blob = self.add_blob(array.bytes);
        Buffer { blob: Some(blob), ..plain_buffer(array.dtype, array.shape) }
    }

    /// A buffer that differs from unit to unit.
    fn varying(&mut self, dtype: Dtype, units: Units) -> Buffer {
        let expected = self.cut.as_ref().map(|cut| cut.units);
        assert_eq!(Some(units.count), expected, "every input that is cut gives the job's number of units");
        let index = self.inputs.len() as u32;
        let blob = self.add_blob(units.bytes);
        self.inputs.push(InputSplit { blob, offset: 0, stride: units.unit_bytes, length: units.unit_bytes });
        Buffer { input: Some(index), ..plain_buffer(dtype, units.shape) }
    }

    /// What other units put out.
    fn gathered_input(
        &mut self,
        name: &At<String>,
        from: &At<String>,
        section: &InputSection,
    ) -> Result<Buffer> {
        let Some(stages) = self.stages else {
            let message = "only a stage reads what another one puts out";
            return Err(Fault::new(Code::Value, from.span.clone(), message)
                .fix("write [[stage]] tables; see docs/job-file.md"));
        };
        let initial = match &section.initial {
            Some(path) => Some((path.span.clone(), self.decoded(path, Some(stages.dtype(from)?))?)),
            None => None,
        };
        let wiring = stages.wire(from, section, initial.as_ref().map(|(span, array)| (span, array)))?;
        if let Some(units) = wiring.units {
            self.cut(name, from.span.clone(), units, Way::Gather)?;
        }
        let mut gather = wiring.gather;
        if let Some((_, array)) = initial {
            let stride = if wiring.units.is_some() { gather.length } else { 0 };
            let blob = self.add_blob(array.bytes);
            gather.initial = Some(InputSplit { blob, offset: 0, stride, length: gather.length });
        }
        let index = self.inputs.len();
        self.inputs.push(InputSplit { blob: Hash([0; 32]), offset: 0, stride: 0, length: gather.length });
        self.gathers.insert(index, gather);
        Ok(Buffer { input: Some(index as u32), ..plain_buffer(wiring.dtype, wiring.shape) })
    }

    fn split_input(&mut self, name: &At<String>, array: Array, split: &At<SplitSection>) -> Result<Buffer> {
        let dtype = array.dtype;
        let wrong =
            |span: &Range<usize>, message: String| Err(Fault::new(Code::Value, span.clone(), message));
        let units = match &split.value {
            SplitSection { axis: Some(axis), size: Some(size), tile: None } => {
                let Some(extent) = array.shape.get(axis.value as usize).copied() else {
                    let message = format!("there is no axis {}: the shape is {:?}", axis.value, array.shape);
                    return wrong(&axis.span, message);
                };
                if size.value == 0 {
                    return wrong(&size.span, "a unit sees at least 1 of the axis".to_owned());
                }
                let units = u64::from(extent.div_ceil(size.value));
                check_packed(dtype, &array.shape, axis.value as usize, size, units)?;
                self.cut(name, split.span.clone(), units, Way::Axis(vec![(size.value, extent)]))?;
                split::by_axis(array, axis.value as usize, size.value)
            }
            SplitSection { axis: None, size: None, tile: Some(tile) } => {
                if !matches!(array.shape[..], [_, _] | [_, _, _]) {
                    let message = format!(
                        "tiles are cut from [height, width] or [height, width, channels], and this is {:?}",
                        array.shape
                    );
                    return wrong(&tile.span, message);
                }
                let tiling = tiling(array.shape[1], array.shape[0], tile)?;
                let channels = array.shape.get(2).copied().unwrap_or(1);
                let pixels = [tiling.tile_height, tiling.tile_width, channels];
                let packed = bytes_of(dtype, &pixels).and_then(|bytes| bytes.checked_mul(tiling.units()));
                if packed.is_none_or(|bytes| bytes > ARRAY_BYTES_MAX) {
                    return Err(too_large(&tile.span));
                }
                self.cut(name, split.span.clone(), tiling.units(), Way::Tiles(tiling))?;
                split::by_tile(&array, &tiling)
            }
            _ => {
                let message = "a split has either axis and size, or tile".to_owned();
                return Err(Fault::new(Code::Value, split.span.clone(), message)
                    .fix("write { axis = 0, size = 16 } or { tile = [64, 64] }"));
            }
        };
        Ok(self.varying(dtype, units))
    }

    fn tiles_input(&mut self, name: &At<String>, tiles: &At<TilesSection>) -> Result<Buffer> {
        let TilesSection { width, height, tile } = &tiles.value;
        let tiling = tiling(width.value, height.value, tile)?;
        self.cut(name, tiles.span.clone(), tiling.units(), Way::Tiles(tiling))?;
        let bytes = tiling.parameters();
        Ok(self.varying(Dtype::U32, Units { bytes, shape: vec![4], unit_bytes: 16, count: tiling.units() }))
    }

    /// Reads what all sweeps go through, because each one's values are repeated by the number of the others'.
    fn read_sweeps(&mut self, file: &JobFile) -> Result<()> {
        let mut units = 1u64;
        for (name, section) in &file.inputs.0 {
            let Some(sweep) = &section.sweep else { continue };
            let dtype = section.dtype.as_ref().map_or(Dtype::F32, |dtype| dtype.value);
            let values = match &sweep.value {
                Sweep::Values(values) => values.clone(),
                Sweep::Range(range) => range_values(range, &sweep.span)?,
            };
            let array = numbers(&values, dtype, &sweep.span)?;
            units = units.saturating_mul(array.elements());
            check_units(units, &sweep.span)?;
            self.sweeps.push(array);
            self.cut(name, sweep.span.clone(), units, Way::Sweep)?;
        }
        if !self.sweeps.is_empty() {
            self.cut.iter_mut().for_each(|cut| cut.units = units);
        }
        Ok(())
    }

    fn sweep_input(&mut self, name: &At<String>) -> Buffer {
        let dtype = self.sweeps[self.sweeps_placed].dtype;
        let units = split::by_sweep(&self.sweeps, self.sweeps_placed);
        self.sweeps_placed += 1;
        let buffer = self.varying(dtype, units);
        let split = *self.inputs.last().expect("just added");
        self.parameters.push(JoinParameter { name: name.value.clone(), dtype, split });
        buffer
    }

    /// Notes that input `name` cuts the job into `units`, and refuses a second way or another number.
    fn cut(&mut self, name: &At<String>, span: Range<usize>, units: u64, way: Way) -> Result<()> {
        check_units(units, &span)?;
        let Some(cut) = &mut self.cut else {
            self.cut = Some(Cut { units, input: name.value.clone(), way });
            return Ok(());
        };
        let conflict = match (&mut cut.way, way) {
            (Way::Axis(sizes), Way::Axis(more)) if units == cut.units => {
                sizes.extend(more);
                return Ok(());
            }
            (Way::Gather, Way::Gather) | (Way::Axis(_), Way::Gather) if units == cut.units => return Ok(()),
            (way @ Way::Gather, Way::Axis(sizes)) if units == cut.units => {
                *way = Way::Axis(sizes);
                return Ok(());
            }
            (Way::Axis(_) | Way::Gather, Way::Axis(_) | Way::Gather) => {
                format!("\"{}\" makes {units} units and \"{}\" makes {}", name.value, cut.input, cut.units)
            }
            (Way::Tiles(one), Way::Tiles(other)) if *one == other => return Ok(()),
            (Way::Tiles(_), Way::Tiles(_)) => {
                format!("\"{}\" and \"{}\" have different tiles", name.value, cut.input)
            }
            (Way::Sweep, Way::Sweep) => return Ok(()),
            (one, other) => format!(
                "\"{}\" is {}, but \"{}\" is {}",
                name.value,
                other.describe(),
                cut.input,
                one.describe()
            ),
        };
        Err(Fault::new(Code::Value, span, conflict).fix("all inputs of a job are cut into units in one way"))
    }

    fn pass(
        &self,
        section: &PassSection,
        kernels: &BTreeMap<String, manifest::Kernel>,
    ) -> Result<manifest::Pass> {
        let Some(kernel) = kernels.get(&section.kernel.value) else {
            let names: Vec<&String> = kernels.keys().collect();
            return Err(unknown("kernel", &section.kernel, &names));
        };
        for name in &section.bind.value {
            if !self.buffers.contains_key(&name.value) {
                let names: Vec<&String> = self.buffers.keys().collect();
                return Err(unknown("buffer", name, &names));
            }
        }
        if !(1..=3).contains(&section.dispatch.value.len()) {
            let message = "a dispatch has one to three numbers of workgroups: x, y and z";
            return Err(Fault::new(Code::Value, section.dispatch.span.clone(), message));
        }
        for count in &section.dispatch.value {
            check_dispatch(count.span.clone(), &count.value.0, kernel)?;
        }
        Ok(manifest::Pass {
            kernel: section.kernel.value.clone(),
            bind: section.bind.value.iter().map(|name| name.value.clone()).collect(),
            dispatch: section.dispatch.value.iter().map(|count| count.value.0.clone()).collect(),
        })
    }

    fn joins(&mut self, file: &JobFile, manifest: &Manifest) -> Result<Vec<JoinSpec>> {
        let mut joins: Vec<JoinSpec> = Vec::new();
        for (index, (name, section)) in file.outputs.0.iter().enumerate() {
            let Some(join) = &section.join else { continue };
            if joins.iter().any(|other| other.file == join.file.value) {
                let message = format!("another output already becomes \"{}\"", join.file.value);
                return Err(Fault::new(Code::Value, join.file.span.clone(), message));
            }
            joins.push(self.join(index as u32, &name.value, section, join, manifest)?);
        }
        Ok(joins)
    }

    fn join(
        &mut self,
        output: u32,
        name: &str,
        section: &OutputSection,
        join: &JoinSection,
        manifest: &Manifest,
    ) -> Result<JoinSpec> {
        let units = self.cut.as_ref().map_or(1, |cut| cut.units);
        let shape = &section.shape.value;
        let format = match extension(&join.file.value).as_str() {
            "csv" => JoinFormat::Csv,
            "npy" => JoinFormat::Npy,
            "png" => JoinFormat::Png,
            _ => {
                let message = format!("it is not clear what kind of file \"{}\" is", join.file.value);
                return Err(Fault::new(Code::Value, join.file.span.clone(), message)
                    .fix("end its name in .csv, .npy or .png"));
            }
        };
        let layout = self.layout(shape, format, join.layout.as_ref(), units)?;
        let is_table = format == JoinFormat::Csv;
        let columns = match &join.columns {
            Some(columns) => columns.value.clone(),
            None if is_table => default_columns(name, shape, layout, join)?,
            None => Vec::new(),
        };
        let is_swept = is_table && layout == JoinLayout::Stack;
        let parameters = if is_swept { self.parameters.clone() } else { Vec::new() };
        let mut spec = JoinSpec {
            stage: None,
            output,
            file: join.file.value.clone(),
            format,
            layout,
            columns,
            parameters,
            expect: None,
        };
        let check = |spec: &JoinSpec, span: &Range<usize>| {
            check_join(spec, manifest, units)
                .map_err(|error| Fault::new(Code::Value, span.clone(), error.to_string()).caused_by(error))
        };
        let place = join.columns.as_ref().map_or(&join.file.span, |columns| &columns.span);
        let bytes = check(&spec, place)?;
        if let Some(expect) = &join.expect {
            let array = self.decoded(expect, Some(section.dtype.value))?;
            if array.bytes.len() as u64 != bytes {
                let message = format!(
                    "\"{}\" has {} numbers, and the result has {}",
                    expect.value,
                    array.elements(),
                    bytes / array.dtype.bytes()
                );
                return Err(Fault::new(Code::Value, expect.span.clone(), message));
            }
            spec.expect = Some(self.add_blob(array.bytes));
            check(&spec, &expect.span)?;
        }
        Ok(spec)
    }

    /// Where a unit's elements go: as the job file says, or as follows from how the job is cut.
    fn layout(
        &self,
        shape: &[u32],
        format: JoinFormat,
        asked: Option<&At<Layout>>,
        units: u64,
    ) -> Result<JoinLayout> {
        let rows = shape[0];
        let tiles = |tiling: &Tiling| JoinLayout::Tiles {
            width: tiling.width,
            height: tiling.height,
            tile_width: tiling.tile_width,
            tile_height: tiling.tile_height,
        };
        let in_rows = |rows_total| JoinLayout::Axis { rows_total, rows_per_unit: rows };
        let all_rows = in_rows(units * u64::from(rows));
        let way = self.cut.as_ref().map(|cut| &cut.way);
        match (asked.map(|asked| asked.value), way) {
            (Some(Layout::Stack), _) | (None, Some(Way::Sweep)) => Ok(JoinLayout::Stack),
            (None | Some(Layout::Axis), Some(Way::Axis(sizes))) => {
                let source = sizes.iter().find(|(size, _)| *size == rows);
                Ok(source.map_or(all_rows, |(_, extent)| in_rows(u64::from(*extent))))
            }
            (None, None | Some(Way::Gather)) | (Some(Layout::Axis), _) => Ok(all_rows),
            (Some(Layout::Tiles), Some(Way::Tiles(tiling))) => Ok(tiles(tiling)),
            (None, Some(Way::Tiles(tiling))) => {
                let is_tile = shape.len() >= 2 && shape[..2] == [tiling.tile_height, tiling.tile_width];
                let is_picture = format == JoinFormat::Png || (is_tile && format == JoinFormat::Npy);
                Ok(if is_picture { tiles(tiling) } else { JoinLayout::Stack })
            }
            (Some(Layout::Tiles), _) => {
                let span = asked.map_or(0..0, |asked| asked.span.clone());
                Err(Fault::new(Code::Value, span, "no input of this job is in tiles"))
            }
        }
    }

    /// The bytes of a file of at most `bytes_max`.
    fn read(&self, path: &At<String>, bytes_max: u64) -> Result<Vec<u8>> {
        let length = self.length(path)?;
        if length > bytes_max {
            let message =
                format!("\"{}\" has {length} bytes, and at most {bytes_max} can be read", path.value);
            return Err(Fault::new(Code::Limit, path.span.clone(), message));
        }
        self.read_range(path, 0..length)
    }

    fn length(&self, path: &At<String>) -> Result<u64> {
        self.files.length(&path.value).map_err(|error| unreadable(path, error))
    }

    fn read_range(&self, path: &At<String>, range: Range<u64>) -> Result<Vec<u8>> {
        let expected = range.end - range.start;
        let bytes = self.files.read(&path.value, range).map_err(|error| unreadable(path, error))?;
        if bytes.len() as u64 == expected {
            Ok(bytes)
        } else {
            Err(unreadable(path, std::io::ErrorKind::UnexpectedEof.into()))
        }
    }

    /// The array in a file that describes itself.
    fn decoded(&self, path: &At<String>, dtype: Option<Dtype>) -> Result<Array> {
        let decode = match extension(&path.value).as_str() {
            "npy" => codec::npy::decode,
            "csv" => codec::csv::decode,
            "png" => codec::png::decode,
            _ => {
                let message = format!("it is not clear what \"{}\" contains", path.value);
                return Err(
                    Fault::new(Code::File, path.span.clone(), message).fix("use a .npy, .csv or .png file")
                );
            }
        };
        // Twice, because 64-bit numbers narrow to 32 bits.
        let bytes = self.read(path, 2 * ARRAY_BYTES_MAX)?;
        let array = decode(&bytes, dtype).map_err(|error| {
            let code = if matches!(error, codec::CodecError::TooLarge) { Code::Limit } else { Code::File };
            let mut fault =
                Fault::new(code, path.span.clone(), format!("cannot read \"{}\": {error}", path.value));
            fault.fix = error.fix();
            fault.caused_by(error)
        })?;
        if array.bytes.len() as u64 > ARRAY_BYTES_MAX {
            return Err(too_large(&path.span));
        }
        if array.bytes.is_empty() {
            let message = format!("\"{}\" has the shape {:?}, which is empty", path.value, array.shape);
            return Err(Fault::new(Code::File, path.span.clone(), message));
        }
        Ok(array)
    }

    fn file_array(&self, path: &At<String>, section: &InputSection) -> Result<Array> {
        let is_raw = !matches!(extension(&path.value).as_str(), "npy" | "csv" | "png");
        if !is_raw {
            if let Some(key) = section.offset.as_ref().or(section.length.as_ref()) {
                let message =
                    "offset and length are for raw files; this one says itself where its numbers are";
                return Err(Fault::new(Code::Value, key.span.clone(), message));
            }
            let array = self.decoded(path, section.dtype.as_ref().map(|dtype| dtype.value))?;
            return reshaped(array, section.shape.as_ref());
        }
        let (Some(dtype), Some(shape)) = (&section.dtype, &section.shape) else {
            let message = format!("\"{}\" is raw, so it needs dtype and shape", path.value);
            return Err(Fault::new(Code::MissingKey, path.span.clone(), message)
                .fix("write dtype = \"f32\" and shape = [rows, columns], or use a .npy, .csv or .png file"));
        };
        let dtype = dtype.value;
        let checked = checked_shape(dtype, shape)?;
        let size = bytes_of(dtype, &checked).expect("checked");
        if let Some(length) = section.length.as_ref().filter(|length| length.value != size) {
            let message = format!("{dtype} {checked:?} are {size} bytes, not {}", length.value);
            return Err(Fault::new(Code::Value, length.span.clone(), message));
        }
        let start = section.offset.as_ref().map_or(0, |offset| offset.value);
        let present = self.length(path)?;
        let end = start.saturating_add(size);
        if end > present {
            let message = format!("\"{}\" has {present} bytes; {dtype} {checked:?} needs {end}", path.value);
            return Err(Fault::new(Code::File, path.span.clone(), message));
        }
        Ok(Array { dtype, shape: checked, bytes: self.read_range(path, start..end)? })
    }
}

pub(crate) fn check_name_and_version(name: &At<String>, version: &At<u64>) -> Result<()> {
    if version.value != 1 {
        let message = format!("version {} of the job file is unknown", version.value);
        return Err(Fault::new(Code::Value, version.span.clone(), message).fix("write version = 1"));
    }
    let text = &name.value;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(1..=64).contains(&text.len()) || !text.chars().all(is_plain) {
        let message = "a job's name is 1 to 64 letters, digits, \"-\", \"_\" and \".\"";
        return Err(Fault::new(Code::Value, name.span.clone(), message));
    }
    Ok(())
}

fn check_head(file: &JobFile) -> Result<()> {
    check_name_and_version(&file.name, &file.version)?;
    if file.passes.value.is_empty() {
        return Err(Fault::new(Code::Value, file.passes.span.clone(), "there is no pass to run"));
    }
    Ok(())
}

/// Names of kernels and buffers stand in dispatch errors, URLs and WGSL-like places.
fn check_name(name: &At<String>) -> Result<()> {
    let mut chars = name.value.chars();
    let begins = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if begins && name.value.len() <= 64 && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(());
    }
    let message = format!("\"{}\" is not a name", name.value.escape_debug());
    Err(Fault::new(Code::Value, name.span.clone(), message)
        .fix("a name is up to 64 letters, digits and \"_\", and does not begin with a digit"))
}

/// Keys that mean nothing beside the input's source are mistakes, not decoration.
fn check_input_keys(section: &InputSection) -> Result<()> {
    let is_file = section.file.is_some();
    let is_constant = is_file || section.value.is_some();
    let span = |key: &Option<At<u64>>| key.as_ref().map(|key| key.span.clone());
    let flag = |key: &Option<At<bool>>| key.as_ref().map(|key| key.span.clone());
    let is_from = section.from.is_some();
    let misplaced = [
        ("each", flag(&section.each), is_from),
        ("all", flag(&section.all), is_from),
        ("group", span(&section.group), is_from),
        ("rows", span(&section.rows), is_from),
        ("previous", flag(&section.previous), is_from),
        ("initial", section.initial.as_ref().map(|key| key.span.clone()), is_from),
        ("dtype", section.dtype.as_ref().map(|key| key.span.clone()), section.tiles.is_none() && !is_from),
        ("shape", section.shape.as_ref().map(|key| key.span.clone()), is_constant),
        ("offset", span(&section.offset), is_file),
        ("length", span(&section.length), is_file),
        ("split", section.split.as_ref().map(|key| key.span.clone()), is_file),
    ];
    for (key, place, is_allowed) in misplaced {
        if let (Some(place), false) = (place, is_allowed) {
            let source = if section.tiles.is_some() {
                "tiles"
            } else if section.sweep.is_some() {
                "sweep"
            } else if is_from {
                "from"
            } else if is_file {
                "file"
            } else {
                "value"
            };
            let message = format!("\"{key}\" has no meaning for an input with \"{source}\"");
            return Err(Fault::new(Code::Value, place, message).fix("leave it out"));
        }
    }
    Ok(())
}

fn check_dispatch(span: Range<usize>, count: &Dispatch, kernel: &manifest::Kernel) -> Result<()> {
    let Dispatch::Expression(text) = count else { return Ok(()) };
    let expression = Expression::parse(text)
        .map_err(|error| Fault::new(Code::Value, span.clone(), error.to_string()).caused_by(error))?;
    let names: Vec<&String> = kernel.overrides.keys().collect();
    for name in expression.names() {
        if !kernel.overrides.contains_key(name) {
            let message = format!("\"{name}\" is not an override of this pass's kernel");
            let fault = Fault::new(Code::Value, span, message);
            return Err(if names.is_empty() {
                fault
                    .fix(format!("write overrides = {{ {name} = \"auto\" }} at the kernel, or a number here"))
            } else {
                fault.fix(suggestion(name, &names))
            });
        }
    }
    let fixed = kernel.overrides.iter().map(|(name, value)| match value {
        Override::Value(value) => Some((name.clone(), *value)),
        Override::Auto(_) => None,
    });
    // With every override fixed there is one value, and it must exist.
    if let Some(overrides) = fixed.collect::<Option<BTreeMap<String, u32>>>() {
        expression
            .value(&overrides)
            .map_err(|error| Fault::new(Code::Value, span, error.to_string()).caused_by(error))?;
    }
    Ok(())
}

fn check_units(units: u64, span: &Range<usize>) -> Result<()> {
    match units {
        0 => Err(Fault::new(Code::Value, span.clone(), "this makes no units")),
        1..=UNITS_MAX => Ok(()),
        _ => {
            let message = format!("this makes {units} units, and a job has at most {UNITS_MAX}");
            Err(Fault::new(Code::Limit, span.clone(), message).fix("give each unit more to do"))
        }
    }
}

fn check_packed(dtype: Dtype, shape: &[u32], axis: usize, size: &At<u32>, units: u64) -> Result<()> {
    let mut unit = shape.to_vec();
    unit[axis] = size.value;
    let packed = bytes_of(dtype, &unit).and_then(|bytes| bytes.checked_mul(units));
    if packed.is_none_or(|bytes| bytes > ARRAY_BYTES_MAX) { Err(too_large(&size.span)) } else { Ok(()) }
}

fn too_large(span: &Range<usize>) -> Box<Fault> {
    Fault::new(Code::Limit, span.clone(), "this is larger than 1 GiB").fix("cut the data into several jobs")
}

pub(crate) fn unknown(what: &str, name: &At<String>, names: &[&String]) -> Box<Fault> {
    let message = format!("there is no {what} named \"{}\"", name.value);
    let fault = Fault::new(Code::Value, name.span.clone(), message);
    if names.is_empty() { fault } else { fault.fix(suggestion(&name.value, names)) }
}

fn unreadable(path: &At<String>, error: std::io::Error) -> Box<Fault> {
    let is_missing = error.kind() == std::io::ErrorKind::NotFound;
    let reason = if is_missing { "there is no such file".to_owned() } else { error.to_string() };
    let message = format!("cannot read \"{}\": {reason}", path.value);
    Fault::new(Code::File, path.span.clone(), message)
        .fix("paths are relative to the folder of the job file")
        .caused_by(error)
}

fn extension(path: &str) -> String {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

fn plain_buffer(dtype: Dtype, shape: Vec<u32>) -> Buffer {
    Buffer {
        input: None,
        blob: None,
        output: None,
        scratch: false,
        dtype,
        shape,
        compare: None,
        resident: None,
    }
}

fn checked_shape(dtype: Dtype, shape: &At<Vec<u32>>) -> Result<Vec<u32>> {
    if !(1..=AXES_MAX).contains(&shape.value.len()) || shape.value.contains(&0) {
        let message = format!("a shape has 1 to {AXES_MAX} axes, each at least 1 long");
        return Err(Fault::new(Code::Value, shape.span.clone(), message));
    }
    match bytes_of(dtype, &shape.value) {
        Some(0..=ARRAY_BYTES_MAX) => Ok(shape.value.clone()),
        _ => Err(too_large(&shape.span)),
    }
}

/// `array` in another shape with the same number of elements.
fn reshaped(array: Array, shape: Option<&At<Vec<u32>>>) -> Result<Array> {
    let Some(shape) = shape else { return Ok(array) };
    let wanted = checked_shape(array.dtype, shape)?;
    if bytes_of(array.dtype, &wanted) != Some(array.bytes.len() as u64) {
        let message = format!("{} numbers do not fill {wanted:?}", array.elements());
        return Err(Fault::new(Code::Value, shape.span.clone(), message)
            .fix(format!("the data has the shape {:?}", array.shape)));
    }
    Ok(Array { shape: wanted, ..array })
}

fn numbers(values: &[Number], dtype: Dtype, span: &Range<usize>) -> Result<Array> {
    if values.is_empty() {
        return Err(Fault::new(Code::Value, span.clone(), "there is no number"));
    }
    let mut bytes = Vec::with_capacity(values.len() * dtype.bytes() as usize);
    for (index, Number(value)) in values.iter().enumerate() {
        // Decimal fractions have no exact binary form: rounding them is what everybody expects.
        push(&mut bytes, *value, dtype, Rounding::Nearest, index as u64).map_err(|error| {
            Fault::new(Code::Value, span.clone(), error.to_string())
                .fix("choose another dtype")
                .caused_by(error)
        })?;
    }
    Ok(Array { dtype, shape: vec![values.len() as u32], bytes })
}

fn range_values(range: &SweepRange, span: &Range<usize>) -> Result<Vec<Number>> {
    let wrong = |message: &str| Err(Fault::new(Code::Value, span.clone(), message));
    let SweepRange { from, to, step, count, log } = range;
    if !from.is_finite() || !to.is_finite() {
        return wrong("a range has finite ends");
    }
    match (count, step) {
        (Some(_), Some(_)) => wrong("a range has either a step or a count"),
        (Some(count), None) => {
            check_units(u64::from(*count), span)?;
            if *log && (*from <= 0.0 || *to <= 0.0) {
                return wrong("a logarithmic range has positive ends");
            }
            let last = f64::from((count - 1).max(1));
            let at = |index: u32| match f64::from(index) / last {
                0.0 => *from,
                1.0 => *to,
                share if *log => from * (to / from).powf(share),
                share => from + (to - from) * share,
            };
            Ok((0..*count).map(|index| Number(at(index))).collect())
        }
        (None, step) => {
            let step = step.unwrap_or(1.0);
            if *log {
                return wrong("a logarithmic range needs a count");
            }
            // A little more than a step, so that 0.1 + 0.1 + 0.1 reaches 0.3.
            let steps = ((to - from) / step + 1e-9).floor();
            if step == 0.0 || !steps.is_finite() || steps < 0.0 {
                return wrong("the step does not lead from one end to the other");
            }
            check_units((steps as u64).saturating_add(1), span)?;
            Ok((0..=steps as u64).map(|index| Number(from + step * index as f64)).collect())
        }
    }
}

fn tiling(width: u32, height: u32, tile: &At<[u32; 2]>) -> Result<Tiling> {
    let [tile_width, tile_height] = tile.value;
    if [width, height, tile_width, tile_height].contains(&0) {
        let message = "pictures and tiles are at least 1 pixel wide and high";
        return Err(Fault::new(Code::Value, tile.span.clone(), message));
    }
    if tile_width > width || tile_height > height {
        let message = format!("a tile of {tile_width} × {tile_height} is larger than {width} × {height}");
        return Err(Fault::new(Code::Value, tile.span.clone(), message).fix("write tile = [width, height]"));
    }
    Ok(Tiling { width, height, tile_width, tile_height })
}

fn output(index: u32, section: &OutputSection) -> Result<Buffer> {
    let OutputSection { dtype, shape, compare, .. } = section;
    if let Some(At { value, span }) = compare {
        check_compare(&value.0, dtype.value, span)?;
    }
    let compare = compare.as_ref().map_or(Compare::default(), |compare| compare.value.0);
    let shape = checked_shape(dtype.value, shape)?;
    Ok(Buffer { output: Some(index), compare: Some(compare), ..plain_buffer(dtype.value, shape) })
}

fn check_compare(compare: &Compare, dtype: Dtype, span: &Range<usize>) -> Result<()> {
    let Compare::Within(t) = compare else { return Ok(()) };
    let wrong = |message: &str| Err(Fault::new(Code::Value, span.clone(), message));
    if !dtype.is_float() {
        let message = "a tolerance is for f32 and f16; integers are the same everywhere";
        return Err(Fault::new(Code::Value, span.clone(), message).fix("write compare = \"exact\""));
    }
    let mean = t.mean_abs_max.unwrap_or(0.0);
    if [t.abs, t.rel, t.outliers_max, mean].iter().any(|bound| !bound.is_finite() || *bound < 0.0) {
        return wrong("the bounds of a tolerance are finite and not negative");
    }
    if t.outliers_max > 1.0 { wrong("outliers_max is a share, 0 to 1") } else { Ok(()) }
}

fn default_columns(name: &str, shape: &[u32], layout: JoinLayout, join: &JoinSection) -> Result<Vec<String>> {
    let row = if layout == JoinLayout::Stack { shape } else { &shape[1..] };
    let count = row.iter().fold(1u64, |count, extent| count.saturating_mul(u64::from(*extent)));
    if count > COLUMNS_MAX as u64 {
        let message = format!("a row would have {count} columns, and a table has at most {COLUMNS_MAX}");
        return Err(Fault::new(Code::Limit, join.file.span.clone(), message).fix("use an .npy file"));
    }
    Ok(match count {
        1 => vec![name.to_owned()],
        several => (0..several).map(|index| format!("{name}_{index}")).collect(),
    })
}

pub(crate) fn amount(money: &At<Money>) -> Result<Amount> {
    Amount::from_tokens(&money.value.0)
        .map_err(|error| Fault::new(Code::Value, money.span.clone(), error.to_string()).caused_by(error))
}
