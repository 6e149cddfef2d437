//! The rules that a manifest obeys, in the order in which a reader would check them: the document, its buffers, its kernels, its
//! passes, and then the sums over all of them.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    Expression, ExpressionError, Hash, Manifest,
    manifest::{self, Compare, Dispatch, Override},
};

use crate::{
    AUTO_CANDIDATES, AXES_MAX, BINDINGS_MAX, BUFFER_BYTES_MAX, BUFFERS_MAX, FEATURES, INPUTS_MAX,
    INVOCATIONS_MAX, KERNEL_BYTES_MAX, KERNELS_BYTES_MAX, KERNELS_MAX, MEMORY_BYTES_MAX, OUTPUTS_MAX,
    PASSES_MAX, TIME_MS_MAX, UNIFORM_BYTES_MAX, WORKGROUP_BYTES_MAX, WORKGROUPS_MAX,
    error::{Problem, ProgramError},
    plan::{Access, Binding, Buffer, Kernel, Pass, Plan, Source, Variant},
    verify,
    wgsl::{Compiled, Resource},
    work,
};

pub(crate) type Result<T> = std::result::Result<T, ProgramError>;

pub(crate) fn check(manifest: &Manifest, texts: &BTreeMap<Hash, String>) -> Result<Plan> {
    document(manifest)?;
    let program = &manifest.program;
    count("program.kernels", program.kernels.len(), 1, KERNELS_MAX)?;
    count("program.buffers", program.buffers.len(), 1, BUFFERS_MAX)?;
    count("program.passes", program.passes.len(), 1, PASSES_MAX)?;

    let mut buffers = Vec::new();
    for (name, declared) in &program.buffers {
        buffers.push(buffer(name, declared)?);
    }
    let inputs = numbered(&buffers, "input", INPUTS_MAX, |source| match source {
        Source::Input(n) => Some(n),
        _ => None,
    })?;
    let outputs = numbered(&buffers, "output", OUTPUTS_MAX, |source| match source {
        Source::Output(n) => Some(n),
        _ => None,
    })?;
    if outputs.is_empty() {
        let fix = "give the buffer that holds the result \"output\": 0";
        return Err(Problem::new("program.buffers", "no buffer is an output", fix).manifest());
    }
    verify::check(manifest, &buffers)?;

    // Each kernel's text is read for itself.
    let text_bytes: usize =
        program.kernels.values().filter_map(|kernel| texts.get(&kernel.blob)).map(String::len).sum();
    if text_bytes > KERNELS_BYTES_MAX {
        let message = format!("the kernels' texts are larger than {KERNELS_BYTES_MAX} bytes together");
        return Err(Problem::new("program.kernels", message, "move tables into a buffer").limit());
    }

    let mut kernels = Vec::new();
    let mut passes: Vec<Option<Pass>> = vec![None; program.passes.len()];
    for (index, (name, declared)) in program.kernels.iter().enumerate() {
        let field = format!("program.kernels.{name}");
        identifier(&field, name)?;
        let text = kernel_text(&field, name, declared, texts)?;
        let compiled = Compiled::new(name, &field, text, &manifest.needs.features)?;
        let entry = compiled.entry(&declared.entry)?;
        let resources = compiled.resources(entry)?;
        let (fixed, auto) = overrides(&field, name, declared, &compiled)?;
        for (number, pass) in program.passes.iter().enumerate().filter(|(_, pass)| &pass.kernel == name) {
            let field = format!("program.passes[{number}]");
            passes[number] = Some(Pass {
                kernel: index,
                bind: bindings(&field, name, pass, &resources, &program.buffers, &buffers)?,
                dispatch: dispatch(&field, pass, declared)?,
            });
        }
        let mut kernel = Kernel {
            name: name.clone(),
            blob: declared.blob,
            wgsl: compiled.native.as_ref().into(),
            entry: declared.entry.clone(),
            fixed,
            auto,
            variants: Vec::new(),
        };
        kernel.variants = variants(&field, &kernel, &compiled, entry, &passes, index)?;
        kernels.push(kernel);
    }
    let mut planned = Vec::new();
    for (number, (pass, declared)) in passes.into_iter().zip(&program.passes).enumerate() {
        planned.push(pass.ok_or_else(|| {
            let message = format!("there is no kernel {:?}", declared.kernel);
            let names: Vec<_> = program.kernels.keys().map(String::as_str).collect();
            let fix = format!("name one of: {}", names.join(", "));
            Problem::new(format!("program.passes[{number}].kernel"), message, fix).manifest()
        })?);
    }
    everything_is_used(&kernels, &buffers, &planned)?;

    let memory_bytes: u64 = buffers.iter().map(|buffer| buffer.size_bytes).sum();
    if memory_bytes > manifest.limits.memory_bytes_max {
        let message = format!(
            "the buffers take {memory_bytes} bytes and memory_bytes_max is {}",
            manifest.limits.memory_bytes_max
        );
        let fix = format!("raise it to {memory_bytes}, or make the buffers smaller");
        return Err(Problem::new("limits.memory_bytes_max", message, fix).limit());
    }
    let largest = planned
        .iter()
        .flat_map(|pass| &pass.bind)
        .filter(|binding| binding.access != Access::Uniform)
        .map(|binding| buffers[binding.buffer].size_bytes)
        .max();
    let mut features = manifest.needs.features.clone();
    features.sort();
    let work = work::of_passes(&planned, &kernels, &buffers);
    Ok(Plan {
        work,
        kernels,
        storage_buffer_bytes: largest.unwrap_or(0).max(manifest.needs.storage_buffer_bytes_min),
        buffers,
        passes: planned,
        inputs,
        outputs,
        features,
        memory_bytes,
        time_ms_max: manifest.limits.time_ms_max,
    })
}

/// Everything outside `program`.
fn document(manifest: &Manifest) -> Result<()> {
    if manifest.version != manifest::VERSION {
        let message = format!("version {} is not known", manifest.version);
        return Err(Problem::new("version", message, "set version to 1").manifest());
    }
    let bounded = |field: &str, value: u64, max: u64| {
        if (1..=max).contains(&value) {
            return Ok(());
        }
        let message = format!("{value} is not between 1 and {max}");
        Err(Problem::new(field, message, "choose a value in that range").limit())
    };
    bounded("limits.memory_bytes_max", manifest.limits.memory_bytes_max, MEMORY_BYTES_MAX)?;
    bounded("limits.time_ms_max", manifest.limits.time_ms_max, TIME_MS_MAX)?;
    let needs = &manifest.needs;
    if needs.storage_buffer_bytes_min > BUFFER_BYTES_MAX {
        let message = format!("no device binds {} bytes", needs.storage_buffer_bytes_min);
        let fix = format!("ask for at most {BUFFER_BYTES_MAX}");
        return Err(Problem::new("needs.storage_buffer_bytes_min", message, fix).limit());
    }
    for (index, feature) in needs.features.iter().enumerate() {
        let field = format!("needs.features[{index}]");
        if !FEATURES.contains(&feature.as_str()) {
            let message = format!("the feature {feature:?} is not known");
            let fix = format!("there are {}", FEATURES.join(", "));
            return Err(Problem::new(field, message, fix).feature());
        }
        if needs.features[..index].contains(feature) {
            return Err(Problem::new(field, format!("{feature} stands twice"), "name it once").manifest());
        }
    }
    Ok(())
}

fn count(field: &str, count: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&count) {
        return Ok(());
    }
    let message = format!("there are {count} and there may be {min} to {max}");
    Err(Problem::new(field, message, "split the program, or merge what is alike").limit())
}

fn identifier(field: &str, name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if starts_well && name.len() <= 32 && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    let fix = "use 1 to 32 of A-Z a-z 0-9 _, and do not start with a digit";
    Err(Problem::new(field, format!("{shown:?} is not a name"), fix).manifest())
}

fn buffer(name: &str, declared: &manifest::Buffer) -> Result<Buffer> {
    let field = format!("program.buffers.{name}");
    identifier(&field, name)?;
    let sources = [
        declared.input.map(Source::Input),
        declared.blob.map(Source::Blob),
        declared.output.map(Source::Output),
        declared.scratch.then_some(Source::Scratch),
    ];
    let mut given = sources.into_iter().flatten();
    let (Some(source), None) = (given.next(), given.next()) else {
        let message =
            "exactly one of input, blob, output and scratch says where the bytes come from or go to";
        return Err(Problem::new(field, message, "keep one of them").manifest());
    };
    if let Some(resident) = &declared.resident {
        identifier(&format!("{field}.resident"), resident)?;
        if !matches!(source, Source::Blob(_)) {
            let message = "only a blob's buffer can stay on the device";
            return Err(Problem::new(format!("{field}.resident"), message, "remove it").manifest());
        }
    }

    let shape = format!("{field}.shape");
    if declared.shape.is_empty() || declared.shape.len() > AXES_MAX {
        let message = format!("a shape has 1 to {AXES_MAX} axes");
        return Err(Problem::new(shape, message, "write a single number as [1]").manifest());
    }
    if declared.shape.contains(&0) {
        return Err(Problem::new(shape, "an axis is empty", "make every axis at least 1").manifest());
    }
    let elements = declared.shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis.into()));
    let length_bytes = elements
        .and_then(|n| n.checked_mul(declared.dtype.bytes()))
        .filter(|bytes| *bytes <= BUFFER_BYTES_MAX)
        .ok_or_else(|| {
            let message = format!("the buffer takes more than {BUFFER_BYTES_MAX} bytes");
            Problem::new(shape, message, "split the work into more units").limit()
        })?;

    let compare = declared.compare.unwrap_or_default();
    if declared.compare.is_some() && !matches!(source, Source::Output(_)) {
        let message = "only an output is compared";
        return Err(Problem::new(format!("{field}.compare"), message, "remove it").manifest());
    }
    if let Compare::Within(tolerance) = compare {
        let field = format!("{field}.compare");
        if !declared.dtype.is_float() {
            let message = format!("{} values are compared exactly", declared.dtype);
            return Err(Problem::new(field, message, "write \"exact\"").manifest());
        }
        let mean = tolerance.mean_abs_max.unwrap_or(0.0);
        let sane = [tolerance.abs, tolerance.rel, mean].iter().all(|t| t.is_finite() && *t >= 0.0);
        if !sane || !(0.0..=1.0).contains(&tolerance.outliers_max) {
            let message = "a tolerance is finite and not negative, and outliers_max is a share";
            let fix = "give abs, rel and mean_abs_max from 0 up, and outliers_max from 0 to 1";
            return Err(Problem::new(field, message, fix).manifest());
        }
    }
    Ok(Buffer {
        name: name.to_owned(),
        source,
        dtype: declared.dtype,
        shape: declared.shape.clone(),
        length_bytes,
        size_bytes: length_bytes.next_multiple_of(4),
        compare,
    })
}

/// For each number from 0 on, the one buffer that has it.
fn numbered(
    buffers: &[Buffer],
    what: &str,
    max: usize,
    number: impl Fn(Source) -> Option<u32>,
) -> Result<Vec<usize>> {
    let mut found = BTreeMap::new();
    for (index, buffer) in buffers.iter().enumerate() {
        let Some(number) = number(buffer.source) else { continue };
        if let Some(other) = found.insert(number, index) {
            let field = format!("program.buffers.{}.{what}", buffer.name);
            let message = format!("{what} {number} is {} too", buffers[other].name);
            let fix = format!("number the {what}s 0, 1, 2 and so on");
            return Err(Problem::new(field, message, fix).manifest());
        }
    }
    count("program.buffers", found.len(), 0, max)?;
    if let Some((expected, (_, &index))) =
        found.iter().enumerate().find(|(expected, (number, _))| *expected != **number as usize)
    {
        let field = format!("program.buffers.{}.{what}", buffers[index].name);
        let message = format!("there is no {what} {expected}");
        return Err(Problem::new(field, message, format!("number the {what}s 0, 1, 2 and so on")).manifest());
    }
    Ok(found.into_values().collect())
}

fn kernel_text<'a>(
    field: &str,
    name: &str,
    declared: &manifest::Kernel,
    texts: &'a BTreeMap<Hash, String>,
) -> Result<&'a str> {
    let Some(text) = texts.get(&declared.blob) else {
        let message = format!("the text with hash {} is not there", declared.blob);
        let problem = Problem::new(format!("{field}.blob"), message, "upload the WGSL first");
        return Err(ProgramError::KernelMissing(problem.of_kernel(name, None).into()));
    };
    if text.len() > KERNEL_BYTES_MAX {
        let message = format!("the text is larger than {KERNEL_BYTES_MAX} bytes");
        let problem = Problem::new(format!("{field}.blob"), message, "move tables into a buffer");
        return Err(problem.of_kernel(name, None).limit());
    }
    Ok(text)
}

/// The overrides with a fixed value and the names of those that are `auto`.
fn overrides(
    field: &str,
    name: &str,
    declared: &manifest::Kernel,
    compiled: &Compiled<'_>,
) -> Result<(BTreeMap<String, u32>, Vec<String>)> {
    let mut fixed = BTreeMap::new();
    let mut auto = Vec::new();
    for (constant, value) in &declared.overrides {
        let field = format!("{field}.overrides.{constant}");
        let refuse = |message: String, fix: String| {
            Err(Problem::new(&field, message, fix).of_kernel(name, None).overrides())
        };
        let Some(is_integer) = compiled.override_is_integer(constant) else {
            let names = compiled.override_names();
            let fix = match names.is_empty() {
                true => format!("declare `override {constant}: u32;`"),
                false => format!("the WGSL declares {}", names.join(", ")),
            };
            return refuse(format!("the WGSL declares no override {constant:?}"), fix);
        };
        if compiled.override_has_id(constant) {
            let message = format!("the override {constant} has an @id");
            return refuse(message, "remove the @id: overrides are given by name".into());
        }
        match value {
            Override::Value(value) => {
                fixed.insert(constant.clone(), *value);
            }
            Override::Auto(_) if is_integer => auto.push(constant.clone()),
            Override::Auto(_) => {
                let message = format!("{constant} is not an integer and cannot be auto");
                return refuse(message, "declare it as u32 or i32, or give a value".into());
            }
        }
    }
    Ok((fixed, auto))
}

/// Matches the names that a pass binds with what its kernel declares.
fn bindings(
    field: &str,
    kernel: &str,
    pass: &manifest::Pass,
    resources: &[Resource],
    declared: &BTreeMap<String, manifest::Buffer>,
    buffers: &[Buffer],
) -> Result<Vec<Binding>> {
    count(&format!("{field}.bind"), pass.bind.len(), 1, BINDINGS_MAX)?;
    if let Some(resource) = resources.iter().find(|r| r.binding as usize >= pass.bind.len()) {
        let message = format!(
            "{} is binding {} and the pass binds {} buffers",
            resource.name,
            resource.binding,
            pass.bind.len()
        );
        let problem = Problem::new(format!("{field}.bind"), message, "bind a buffer to it, or renumber it");
        return Err(problem.of_kernel(kernel, resource.at).bindings());
    }
    let mut bound = Vec::new();
    for (number, name) in pass.bind.iter().enumerate() {
        let field = format!("{field}.bind[{number}]");
        let Some(index) = declared.keys().position(|declared| declared == name) else {
            let names: Vec<_> = declared.keys().map(String::as_str).collect();
            let fix = format!("name one of: {}", names.join(", "));
            return Err(Problem::new(field, format!("there is no buffer {name:?}"), fix).manifest());
        };
        let buffer = &buffers[index];
        let mut here = resources.iter().filter(|resource| resource.binding as usize == number);
        let Some(resource) = here.next() else {
            let message =
                format!("the entry point uses no @group(0) @binding({number}), which {name} is bound to");
            let fix = "use it in the WGSL, or do not bind it";
            return Err(Problem::new(field, message, fix).of_kernel(kernel, None).bindings());
        };
        let refuse = |message: String, fix: &str| {
            Err(Problem::new(&field, message, fix).of_kernel(kernel, resource.at).bindings())
        };
        if let Some(other) = here.next() {
            let message = format!("{} and {} are both binding {number}", resource.name, other.name);
            return refuse(message, "give each its own number");
        }
        let is_source = matches!(buffer.source, Source::Input(_) | Source::Blob(_));
        match resource.access {
            Access::ReadWrite if is_source => {
                let message = format!("{} is read_write and {name} is only read", resource.name);
                return refuse(message, "declare it as var<storage, read>, or bind an output or scratch");
            }
            Access::Uniform if !is_source || buffer.size_bytes > UNIFORM_BYTES_MAX => {
                let message = format!(
                    "{} is uniform and {name} is not an input or blob of at most {UNIFORM_BYTES_MAX} bytes",
                    resource.name
                );
                return refuse(message, "declare it as var<storage, read>");
            }
            _ => {}
        }
        if resource.bytes_min > buffer.size_bytes {
            let message = format!(
                "{} takes at least {} bytes and {name} has {}",
                resource.name, resource.bytes_min, buffer.size_bytes
            );
            return refuse(message, "make the buffer's shape as large as the WGSL type");
        }
        bound.push(Binding { buffer: index, access: resource.access });
    }
    for (number, binding) in bound.iter().enumerate() {
        let others = bound[..number].iter().filter(|other| other.buffer == binding.buffer);
        if others
            .clone()
            .any(|other| binding.access == Access::ReadWrite || other.access == Access::ReadWrite)
        {
            let message = format!("{} is bound twice and written", pass.bind[number]);
            let fix = "write to another buffer, or bind it once";
            return Err(Problem::new(format!("{field}.bind[{number}]"), message, fix).bindings());
        }
    }
    Ok(bound)
}

fn dispatch(field: &str, pass: &manifest::Pass, kernel: &manifest::Kernel) -> Result<[Expression; 3]> {
    if pass.dispatch.is_empty() || pass.dispatch.len() > 3 {
        let message = "a dispatch has 1 to 3 dimensions";
        return Err(Problem::new(format!("{field}.dispatch"), message, "give x, y and z").dispatch());
    }
    let mut parsed = Vec::new();
    for (number, value) in pass.dispatch.iter().enumerate() {
        let field = format!("{field}.dispatch[{number}]");
        let text = match value {
            Dispatch::Count(count) => count.to_string(),
            Dispatch::Expression(text) => text.clone(),
        };
        let expression = Expression::parse(&text).map_err(|error| {
            let fix = "write whole numbers, override names, + - * /, ceil(a/b), min(a,b) and max(a,b)";
            Problem::new(&field, error.to_string(), fix).dispatch()
        })?;
        for name in expression.names() {
            if !kernel.overrides.contains_key(name) {
                let message = ExpressionError::UnknownName(name.to_owned()).to_string();
                let fix = format!("name it in program.kernels.{}.overrides", pass.kernel);
                return Err(Problem::new(&field, message, fix).dispatch());
            }
        }
        parsed.push(expression);
    }
    let one = Expression::parse("1").expect("a number is an expression");
    parsed.resize(3, one);
    Ok(parsed.try_into().expect("three dimensions"))
}

/// The ways to build a kernel whose workgroups and dispatches no bound forbids.
fn variants(
    field: &str,
    kernel: &Kernel,
    compiled: &Compiled<'_>,
    entry: usize,
    passes: &[Option<Pass>],
    index: usize,
) -> Result<Vec<Variant>> {
    let candidates: Vec<Option<u32>> = match kernel.auto.is_empty() {
        true => vec![None],
        false => AUTO_CANDIDATES.iter().copied().map(Some).collect(),
    };
    let mut accepted = Vec::new();
    let mut refused = None;
    for auto in candidates {
        match variant(field, kernel, compiled, entry, auto, passes, index) {
            Ok(variant) => accepted.push(variant),
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    match refused {
        Some(error) if accepted.is_empty() => Err(error),
        _ => Ok(accepted),
    }
}

fn variant(
    field: &str,
    kernel: &Kernel,
    compiled: &Compiled<'_>,
    entry: usize,
    auto: Option<u32>,
    passes: &[Option<Pass>],
    index: usize,
) -> Result<Variant> {
    let overrides = kernel.overrides(auto);
    let workgroup = compiled.workgroup(entry, &overrides)?;
    let [x, y, z] = workgroup.size;
    let invocations = u64::from(x) * u64::from(y) * u64::from(z);
    let refuse = |message: String, fix: &str| {
        Err(Problem::new(field, message, fix).of_kernel(&kernel.name, None).limit())
    };
    if invocations > INVOCATIONS_MAX.into() || z > 64 {
        let message = format!(
            "the workgroup is {x} × {y} × {z}; there may be {INVOCATIONS_MAX} invocations, 64 of them along z"
        );
        return refuse(message, "make the workgroup smaller: every device runs 256");
    }
    if workgroup.bytes > WORKGROUP_BYTES_MAX {
        let message = format!("the workgroup takes {} bytes of {WORKGROUP_BYTES_MAX}", workgroup.bytes);
        return refuse(message, "use less workgroup memory: every device has 16384 bytes");
    }
    let mut workgroups_max = 0;
    for (number, pass) in passes.iter().enumerate() {
        let Some(pass) = pass.as_ref().filter(|pass| pass.kernel == index) else { continue };
        for (dimension, expression) in pass.dispatch.iter().enumerate() {
            let field = format!("program.passes[{number}].dispatch[{dimension}]");
            let count = expression
                .value(&overrides)
                .map_err(|e| Problem::new(&field, e.to_string(), "correct the expression").dispatch())?;
            if !(1..=WORKGROUPS_MAX).contains(&count) {
                let message = format!("{count} workgroups are not between 1 and {WORKGROUPS_MAX}");
                let fix = "spread them over x, y and z, or let each invocation do more";
                return Err(Problem::new(field, message, fix).dispatch());
            }
            workgroups_max = count.max(workgroups_max);
        }
    }
    Ok(Variant {
        auto,
        workgroup_size: workgroup.size,
        workgroup_bytes: workgroup.bytes,
        workgroups_max,
        operations: workgroup.operations,
    })
}

/// What no pass uses is a mistake, and an output that no pass writes is one too.
fn everything_is_used(kernels: &[Kernel], buffers: &[Buffer], passes: &[Pass]) -> Result<()> {
    if let Some((_, kernel)) =
        kernels.iter().enumerate().find(|(index, _)| passes.iter().all(|pass| pass.kernel != *index))
    {
        let field = format!("program.kernels.{}", kernel.name);
        return Err(Problem::new(field, "no pass runs this kernel", "remove it, or add a pass").manifest());
    }
    let bound: BTreeSet<usize> = passes.iter().flat_map(|pass| &pass.bind).map(|b| b.buffer).collect();
    let written: BTreeSet<usize> = passes
        .iter()
        .flat_map(|pass| &pass.bind)
        .filter(|binding| binding.access == Access::ReadWrite)
        .map(|binding| binding.buffer)
        .collect();
    for (index, buffer) in buffers.iter().enumerate() {
        let field = format!("program.buffers.{}", buffer.name);
        if !bound.contains(&index) {
            return Err(Problem::new(field, "no pass binds this buffer", "remove it, or bind it").manifest());
        }
        if matches!(buffer.source, Source::Output(_)) && !written.contains(&index) {
            let message = "no pass writes this output";
            let fix = "bind it where the WGSL declares var<storage, read_write>";
            return Err(Problem::new(field, message, fix).bindings());
        }
    }
    Ok(())
}
