//! Job files with stages: which stage reads what of which other one.
//!
//! Each stage is compiled as a job of its own; this module only adds how its inputs are wired to other stages' outputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use bytes::Bytes;
use protocol::{Amount, Hash, InputSplit, JoinSpec, manifest::Dtype};

use crate::{
    array::{Array, bytes_of},
    compile::{
        CompiledJob, Compiler, Result, TEXT_BYTES_MAX, Terms, amount, check_name_and_version, compile, terms,
        unknown,
    },
    error::{Code, Fault, JobError},
    file::{At, GraphFile, InputSection, JobFile, OutputSection, PaySection, StageSection, UntilSection},
    source::FileSource,
};

/// Most upstream outputs that one unit may read: the market's bound.
const FAN_IN_MAX: u64 = 4_096;

/// A job file of either form.
#[derive(Clone, Debug, PartialEq)]
pub enum Compiled {
    /// One stage that is run once.
    Plain(CompiledJob),
    /// Several stages, or a loop.
    Graph(CompiledGraph),
}

/// A job file with stages, and all that it names.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledGraph {
    /// The job's name for people.
    pub name: String,
    /// What is computed.
    pub stages: Vec<CompiledStage>,
    /// Whether all stages are run again and again.
    pub iterate: Option<Loop>,
    /// The files that outputs become.
    pub joins: Vec<JoinSpec>,
    /// Kernels, inputs and expected values by their hash.
    pub blobs: BTreeMap<Hash, Bytes>,
    /// The most that may be set aside, checks included.
    pub budget: Option<Amount>,
    /// How it is served, and who else is paid.
    pub terms: Terms,
}

impl Compiled {
    /// The job as stages; a plain one has one without a name.
    pub fn into_graph(self) -> CompiledGraph {
        match self {
            Self::Graph(graph) => graph,
            Self::Plain(mut job) => CompiledGraph {
                name: job.name.clone(),
                iterate: None,
                joins: std::mem::take(&mut job.joins),
                blobs: std::mem::take(&mut job.blobs),
                budget: job.budget,
                terms: job.terms,
                stages: vec![CompiledStage { name: String::new(), job, gathers: BTreeMap::new() }],
            },
        }
    }
}

impl CompiledGraph {
    /// Whether it is one stage that is run once.
    pub fn is_plain(&self) -> bool {
        matches!(&self.stages[..], [only] if only.name.is_empty()) && self.iterate.is_none()
    }

    /// Iterations at most.
    pub fn iterations_max(&self) -> u64 {
        self.iterate.as_ref().map_or(1, |iterate| iterate.times_max.into())
    }

    /// Units of all stages and iterations.
    pub fn units(&self) -> u64 {
        let each: u64 = self.stages.iter().map(|stage| stage.job.units).sum();
        each.saturating_mul(self.iterations_max())
    }
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledStage {
    /// Its name.
    pub name: String,
    /// The stage as a job of its own; its blobs and joins stand in the graph.
    pub job: CompiledJob,
    /// Inputs that are other units' outputs, by their number; `job.inputs` has only their lengths.
    pub gathers: BTreeMap<usize, Gather>,
}

/// Outputs of one stage as the input of another one; see the market's API for what the numbers mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The upstream stage's name.
    pub stage: String,
    /// Which of its outputs.
    pub output: u32,
    /// Upstream units from one unit's first to the next one's.
    pub step: u64,
    /// Upstream units a unit reads.
    pub count: u64,
    /// From one unit's beginning to the next one's, in bytes.
    pub stride: u64,
    /// Bytes a unit sees.
    pub length: u64,
    /// Set when the upstream units are those of the iteration before; the first iteration reads this instead.
    pub initial: Option<InputSplit>,
}

/// A job that is run again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Most iterations.
    pub times_max: u32,
    /// When to stop earlier.
    pub until: Option<Until>,
}

/// When a loop is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Until {
    /// The stage's name.
    pub stage: String,
    /// Which of its outputs.
    pub output: u32,
    /// The blob that the output is to be; unchanged from the iteration before when absent.
    pub equals: Option<Hash>,
}

/// Compiles a job file of either form; see [`compile`].
pub fn compile_any(text: &str, file_name: &str, files: &dyn FileSource) -> Result<Compiled, JobError> {
    /// Whatever else there is.
    #[derive(serde::Deserialize)]
    struct Form {
        stage: Option<toml::Value>,
    }
    let has_stages =
        text.len() <= TEXT_BYTES_MAX && toml::from_str::<Form>(text).is_ok_and(|form| form.stage.is_some());
    if !has_stages {
        return compile(text, file_name, files).map(Compiled::Plain);
    }
    let graph = toml::from_str(text)
        .map_err(|error| Fault::from_toml(&error, text))
        .and_then(|file| compile_graph(file, files));
    graph.map(Compiled::Graph).map_err(|fault| fault.locate(file_name, text))
}

/// What a stage may read: the outputs of all, and how many units the ones before it have.
pub(crate) struct Stages<'a> {
    sections: &'a [Outputs],
    /// Units of the stages that are compiled.
    units: &'a [u64],
}

/// A stage's name and outputs.
pub(crate) struct Outputs {
    name: String,
    outputs: Vec<(String, Dtype, Vec<u32>)>,
}

/// An input that is wired to another stage.
pub(crate) struct Wiring {
    pub(crate) gather: Gather,
    /// Units that it makes; nothing when every unit sees the same.
    pub(crate) units: Option<u64>,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u32>,
}

impl Stages<'_> {
    /// The stage and output that a `from` names.
    fn find(&self, from: &At<String>) -> Result<(usize, usize)> {
        let wrong = |message: String| Fault::new(Code::Value, from.span.clone(), message);
        let Some((stage, output)) = from.value.split_once('.') else {
            return Err(wrong(format!("\"{}\" names no output", from.value)).fix("write \"STAGE.OUTPUT\""));
        };
        let part = |value: &str| At { value: value.to_owned(), span: from.span.clone() };
        let Some(number) = self.sections.iter().position(|section| section.name == stage) else {
            let names: Vec<&String> = self.sections.iter().map(|section| &section.name).collect();
            return Err(unknown("stage", &part(stage), &names));
        };
        let outputs = &self.sections[number].outputs;
        let Some(output) = outputs.iter().position(|(name, ..)| name == output) else {
            let names: Vec<&String> = outputs.iter().map(|(name, ..)| name).collect();
            return Err(unknown("output", &part(output), &names));
        };
        Ok((number, output))
    }

    /// The element type of what `from` names.
    pub(crate) fn dtype(&self, from: &At<String>) -> Result<Dtype> {
        let (stage, output) = self.find(from)?;
        Ok(self.sections[stage].outputs[output].1)
    }

    /// How an input reads what `from` names; `initial` is what the first iteration reads.
    pub(crate) fn wire(
        &self,
        from: &At<String>,
        section: &InputSection,
        initial: Option<(&Range<usize>, &Array)>,
    ) -> Result<Wiring> {
        let (stage, output) = self.find(from)?;
        let (_, dtype, unit_shape) = &self.sections[stage].outputs[output];
        let wrong = |span: &Range<usize>, message: String| Fault::new(Code::Value, span.clone(), message);
        let is_set = |key: &Option<At<bool>>| key.as_ref().is_some_and(|key| key.value);
        let previous = is_set(&section.previous);
        let unit_bytes = bytes_of(*dtype, unit_shape).unwrap_or(u64::MAX);
        let units = match (previous, initial) {
            (true, Some((span, array))) => {
                // A later stage's units are not known yet: what stands in for them says how many they are.
                let bytes = array.bytes.len() as u64;
                if bytes == 0 || !bytes.is_multiple_of(unit_bytes) {
                    let message = format!("{bytes} bytes are not a number of outputs of {unit_bytes} bytes");
                    return Err(wrong(span, message));
                }
                bytes / unit_bytes
            }
            (true, None) => {
                return Err(wrong(&from.span, "the first iteration has none before it".into())
                    .fix("write initial = \"FILE.npy\""));
            }
            (false, Some((span, _))) => {
                return Err(wrong(span, "\"initial\" belongs to previous = true".into()));
            }
            (false, None) => *self.units.get(stage).ok_or_else(|| {
                let message =
                    format!("stage \"{}\" does not come before this one", self.sections[stage].name);
                wrong(&from.span, message).fix("name an earlier stage, or write previous = true")
            })?,
        };
        let (group, rows) = (section.group.as_ref(), section.rows.as_ref());
        let ways = [is_set(&section.each), is_set(&section.all), group.is_some(), rows.is_some()];
        let rows_all = units * u64::from(unit_shape[0]);
        let row_bytes = unit_bytes / u64::from(unit_shape[0]);
        let (step, count, stride, first_axis, cut) = match (ways, group, rows) {
            ([true, false, false, false], ..) => (1, 1, 0, unit_shape[0].into(), Some(units)),
            ([false, true, false, false], ..) => (0, units, 0, rows_all, None),
            ([false, false, false, false], ..) if units == 1 => (0, 1, 0, rows_all, None),
            ([false, false, true, false], Some(k), _) if k.value > 0 => {
                (k.value, k.value, 0, k.value * u64::from(unit_shape[0]), Some(units.div_ceil(k.value)))
            }
            ([false, false, false, true], _, Some(n)) if n.value > 0 => {
                (0, units, n.value * row_bytes, n.value, Some(rows_all.div_ceil(n.value)))
            }
            _ => {
                let message = format!("it is not clear what of {units} outputs a unit reads");
                return Err(wrong(&from.span, message)
                    .fix("write one of each = true, all = true, group = COUNT and rows = COUNT"));
            }
        };
        if count > FAN_IN_MAX {
            let message = format!("a unit would read {count} outputs, and at most {FAN_IN_MAX} can be read");
            return Err(Fault::new(Code::Limit, from.span.clone(), message).fix("reduce them in two stages"));
        }
        let mut shape = unit_shape.clone();
        shape[0] = u32::try_from(first_axis).unwrap_or(u32::MAX);
        let Some(length) = bytes_of(*dtype, &shape).filter(|_| first_axis <= u32::MAX.into()) else {
            return Err(Fault::new(Code::Limit, from.span.clone(), "this is larger than 1 GiB"));
        };
        let name = self.sections[stage].name.clone();
        let gather =
            Gather { stage: name, output: output as u32, step, count, stride, length, initial: None };
        Ok(Wiring { gather, units: cut, dtype: *dtype, shape })
    }
}

fn compile_graph(file: GraphFile, files: &dyn FileSource) -> Result<CompiledGraph> {
    let GraphFile { version, name, kind, priority, deadline_s, attempts_max, stage: sections, iterate, pay } =
        file;
    check_name_and_version(&name, &version)?;
    let wrong = |span: &Range<usize>, message: &str| Fault::new(Code::Value, span.clone(), message);
    let mut names = BTreeSet::new();
    let mut outputs = Vec::new();
    for StageSection { name, outputs: of_stage, .. } in &sections.value {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.value.is_empty() || name.value.len() > 64 || !name.value.chars().all(plain) {
            return Err(wrong(&name.span, "a stage's name is 1 to 64 letters, digits and \"_\""));
        }
        if !names.insert(name.value.clone()) {
            return Err(wrong(&name.span, "another stage already has this name"));
        }
        let of_stage = of_stage.0.iter();
        let output = |(name, OutputSection { dtype, shape, .. }): &(At<String>, OutputSection)| {
            (name.value.clone(), dtype.value, shape.value.clone())
        };
        outputs.push(Outputs { name: name.value.clone(), outputs: of_stage.map(output).collect() });
    }
    if let Some(empty) = sections
        .value
        .iter()
        .flat_map(|stage| &stage.outputs.0)
        .find(|(_, output)| output.shape.value.is_empty())
    {
        return Err(wrong(&empty.1.shape.span, "a shape has at least one axis"));
    }
    let (mut units, mut stages, mut spans) = (Vec::new(), Vec::<CompiledStage>::new(), Vec::new());
    let (mut joins, mut blobs) = (Vec::<JoinSpec>::new(), BTreeMap::new());
    for section in sections.value {
        let known = Stages { sections: &outputs, units: &units };
        let stage_name = section.name.clone();
        let initial = |(_, input): &(At<String>, InputSection)| {
            Some((input.from.clone()?, input.initial.as_ref().map(|key| key.span.clone())))
        };
        spans.push(section.inputs.0.iter().filter_map(initial).collect::<Vec<_>>());
        let previous =
            section.inputs.0.iter().find_map(|(_, input)| input.previous.as_ref().filter(|p| p.value));
        if let (Some(previous), None) = (previous, &iterate) {
            return Err(
                wrong(&previous.span, "this job has no iteration before").fix("write an [iterate] table")
            );
        }
        let file = JobFile {
            version: version.clone(),
            name: name.clone(),
            kind,
            kernels: section.kernels,
            inputs: section.inputs,
            scratch: section.scratch,
            outputs: section.outputs,
            passes: section.passes,
            verify: section.verify,
            pay: PaySection {
                unit_price: section.unit_price.or_else(|| pay.unit_price.clone()),
                budget: None,
                royalty: None,
            },
            priority: None,
            deadline_s: None,
            attempts_max: None,
            limits: section.limits,
            needs: section.needs,
            schedule: section.schedule,
        };
        let (mut job, gathers) = Compiler::for_stage(files, &known).compile_stage(&file)?;
        units.push(job.units);
        blobs.append(&mut job.blobs);
        for join in std::mem::take(&mut job.joins) {
            if joins.iter().any(|other| other.file == join.file) {
                let message = format!("another output already becomes \"{}\"", join.file);
                return Err(wrong(&stage_name.span, &message));
            }
            joins.push(JoinSpec { stage: Some(stage_name.value.clone()), ..join });
        }
        stages.push(CompiledStage { name: stage_name.value, job, gathers });
    }
    check_initial(&stages, &spans)?;
    let known = Stages { sections: &outputs, units: &units };
    let iterate = match iterate {
        None => None,
        Some(section) => {
            if section.times_max.value == 0 {
                return Err(wrong(&section.times_max.span, "a job is run at least once"));
            }
            let until = section.until.as_ref().map(|until| self::until(&known, until)).transpose()?;
            Some(Loop { times_max: section.times_max.value, until })
        }
    };
    let budget = pay.budget.as_ref().map(amount).transpose()?;
    let terms = terms(priority, deadline_s.as_ref(), attempts_max.as_ref(), pay.royalty.as_ref())?;
    Ok(CompiledGraph { name: name.value, stages, iterate, joins, blobs, budget, terms })
}

/// What an input reads, and where the job file says what the first iteration reads.
type Wired = (At<String>, Option<Range<usize>>);

/// Whether what the first iteration reads stands for as many units as there are.
fn check_initial(stages: &[CompiledStage], inputs: &[Vec<Wired>]) -> Result<()> {
    for (stage, inputs) in stages.iter().zip(inputs) {
        // In the order of the file, as the inputs were numbered.
        for (gather, (from, initial)) in stage.gathers.values().zip(inputs) {
            let (Some(_), Some(span)) = (&gather.initial, initial) else { continue };
            let upstream = stages.iter().find(|other| other.name == gather.stage);
            let Some(upstream) = upstream else { continue };
            let per_unit =
                upstream.job.manifest.program.buffers.values().find(|b| b.output == Some(gather.output));
            let bytes = per_unit.and_then(|buffer| bytes_of(buffer.dtype, &buffer.shape)).unwrap_or(1);
            let seen = match (gather.step, gather.stride) {
                (0, 0) => gather.length / bytes,
                (0, _) => gather.count,
                (step, _) => stage.job.units * step,
            };
            let there = upstream.job.units;
            if there.div_ceil(gather.step.max(1)) != seen.div_ceil(gather.step.max(1)) {
                let message =
                    format!("\"{}\" has {there} outputs, and these values stand for {seen}", from.value);
                return Err(Fault::new(Code::Value, span.clone(), message));
            }
        }
    }
    Ok(())
}

fn until(stages: &Stages, section: &At<UntilSection>) -> Result<Until> {
    let UntilSection { stage, output, unchanged, equals } = &section.value;
    let from = At { value: format!("{}.{}", stage.value, output.value), span: stage.span.clone() };
    let (stage, output) = stages.find(&from)?;
    let (_, dtype, shape) = &stages.sections[stage].outputs[output];
    let equals = match (unchanged, equals) {
        (Some(At { value: true, .. }), None) => None,
        (None, Some(text)) if text.value == "zeros" => {
            let bytes = bytes_of(*dtype, shape).unwrap_or(0);
            Some(Hash::of(&vec![0; bytes as usize]))
        }
        (None, Some(text)) => {
            let message = format!("an output cannot be asked to be \"{}\"", text.value);
            return Err(Fault::new(Code::Value, text.span.clone(), message).fix("write equals = \"zeros\""));
        }
        _ => {
            let message = "a loop ends either when an output is unchanged or when it equals something";
            return Err(Fault::new(Code::Value, section.span.clone(), message)
                .fix("write unchanged = true or equals = \"zeros\""));
        }
    };
    Ok(Until { stage: stages.sections[stage].name.clone(), output: output as u32, equals })
}
