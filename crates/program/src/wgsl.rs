//! What naga knows about a kernel: that it compiles, what it binds, and how large its workgroups are.
//!
//! Nothing here knows the manifest. Errors carry naga's message with the line and column in the text as submitted.

use std::{borrow::Cow, collections::BTreeMap};

use naga::{
    AddressSpace, Module, ScalarKind, ShaderStage, Span, StorageAccess, TypeInner,
    back::pipeline_constants::{PipelineConstantError, process_overrides},
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};

use crate::{
    CONSTANT_VALUES_MAX, EXPRESSIONS_MAX, FUNCTION_TOKENS_MAX, INVOCATION_BYTES_MAX, VALUE_BYTES_MAX,
    error::{Problem, ProgramError},
    outline::{self, TooMuch},
    plan::Access,
    size, text, work,
};

/// A kernel that compiled.
pub(crate) struct Compiled<'a> {
    kernel: &'a str,
    field: &'a str,
    submitted: &'a str,
    /// The text that naga accepts; as long as the submitted one, byte for byte at the same places.
    pub(crate) native: Cow<'a, str>,
    module: Module,
    info: ModuleInfo,
}

/// A resource that an entry point uses.
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) binding: u32,
    pub(crate) access: Access,
    /// Least size of the buffer: a runtime-sized array counts as one element.
    pub(crate) bytes_min: u64,
    pub(crate) at: Option<(u32, u32)>,
}

/// What an entry point is with all overrides given.
pub(crate) struct Workgroup {
    pub(crate) size: [u32; 3],
    pub(crate) bytes: u32,
    /// Arithmetic of one invocation, estimated.
    pub(crate) operations: u64,
}

impl<'a> Compiled<'a> {
    /// Parses and validates `text` as `kernel`, whose place in the manifest is `field`, with the declared WebGPU features.
    pub(crate) fn new(
        kernel: &'a str,
        field: &'a str,
        text: &'a str,
        features: &[String],
    ) -> Result<Self, ProgramError> {
        let extensions = text::Extensions::read(text);
        let problem =
            |message: String, fix: &str, at| Problem::new(field, message, fix).of_kernel(kernel, at);
        for (name, offset) in &extensions.enabled {
            let feature = match *name {
                "f16" => "shader-f16",
                "subgroups" => "subgroups",
                _ => {
                    let message = format!("the extension {name} is not available on every runtime");
                    let at = Some(text::line_and_column(text, *offset));
                    return Err(problem(message, "enable nothing but f16 and subgroups", at).feature());
                }
            };
            if !features.iter().any(|f| f == feature) {
                let message = format!("enables {name} but the manifest does not declare the feature");
                let fix = format!("add \"{feature}\" to needs.features, or do without {name}");
                return Err(problem(message, &fix, Some(text::line_and_column(text, *offset))).feature());
            }
        }
        if let Some(offset) = text::too_deep(text) {
            let at = Some(text::line_and_column(text, offset));
            let fix = "split the expression or the chain of else if";
            return Err(problem("the code is nested too deeply".into(), fix, at).limit());
        }

        if let Some((what, offset)) = outline::too_much(text) {
            let at = Some(text::line_and_column(text, offset));
            let (message, fix) = match what {
                TooMuch::Function => (
                    format!("the function has more than {FUNCTION_TOKENS_MAX} tokens"),
                    "split it, or write a loop",
                ),
                TooMuch::Constants => (
                    format!("the constants stand for more than {CONSTANT_VALUES_MAX} values"),
                    "move tables into a buffer, and declare zero arrays as var without a value",
                ),
            };
            return Err(problem(message, fix, at).limit());
        }

        let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        if extensions.enables("f16") {
            capabilities |= Capabilities::SHADER_FLOAT16;
        }
        if extensions.enables("subgroups") {
            capabilities |= Capabilities::SUBGROUP;
        }
        let native = extensions.native(text);
        let module = naga::front::wgsl::parse_str(&native).map_err(|error| {
            let mut message = error.message().to_owned();
            for label in error.labels().map(|(_, label)| label).filter(|label| !label.is_empty()).take(2) {
                message = format!("{message} ({label})");
            }
            for note in error.notes() {
                message = format!("{message}; {note}");
            }
            let span = error.labels().map(|(span, _)| span).find(Span::is_defined);
            let at = span.map(|span| place(text, span));
            problem(message, "correct the kernel's WGSL", at).wgsl()
        })?;
        let info =
            Validator::new(ValidationFlags::all(), capabilities).validate(&module).map_err(|error| {
                let at = error.spans().next().map(|(span, _)| place(text, *span));
                let message = chain(error.as_inner());
                if message.contains("apabilit") || message.contains("not supported") {
                    let fix =
                        "declare the feature in needs.features and enable it in the WGSL, or do without it";
                    return problem(message, fix, at).feature();
                }
                problem(message, "correct the kernel's WGSL", at).wgsl()
            })?;
        Ok(Self { kernel, field, submitted: text, native, module, info })
    }

    fn problem(&self, message: String, fix: &str, at: Option<(u32, u32)>) -> Problem {
        Problem::new(self.field, message, fix).of_kernel(self.kernel, at)
    }

    /// Index of the compute entry point `name`.
    pub(crate) fn entry(&self, name: &str) -> Result<usize, ProgramError> {
        let points = &self.module.entry_points;
        let Some(index) = points.iter().position(|point| point.name == name) else {
            let names: Vec<_> = points.iter().map(|point| point.name.as_str()).collect();
            let message = format!("there is no entry point {name:?}");
            let fix = if names.is_empty() {
                "mark a function with @compute and @workgroup_size".to_owned()
            } else {
                format!("set entry to one of: {}", names.join(", "))
            };
            return Err(self.problem(message, &fix, None).wgsl());
        };
        if points[index].stage != ShaderStage::Compute {
            let message = format!("the entry point {name:?} is not a compute shader");
            return Err(self.problem(message, "mark it with @compute and @workgroup_size", None).wgsl());
        }
        self.bounded(index)?;
        Ok(index)
    }

    /// Refuses what a driver's compiler could not take, or an invocation not keep.
    fn bounded(&self, entry: usize) -> Result<(), ProgramError> {
        let size = size::of_entry(&self.module, &self.info, entry);
        let refuse = |message: String, fix: &str| Err(self.problem(message, fix, None).limit());
        if size.expressions > EXPRESSIONS_MAX {
            let message =
                format!("with every call written out there are more than {EXPRESSIONS_MAX} expressions");
            return refuse(message, "call functions from loops instead of again and again");
        }
        if size.invocation_bytes > INVOCATION_BYTES_MAX {
            let message = format!(
                "the variables of one invocation take {} bytes of {INVOCATION_BYTES_MAX}",
                size.invocation_bytes
            );
            return refuse(message, "keep less in private and function variables, or use a scratch buffer");
        }
        if size.value_bytes > VALUE_BYTES_MAX {
            let message = format!(
                "an array or struct of {} bytes is used as a whole; there may be {VALUE_BYTES_MAX}",
                size.value_bytes
            );
            return refuse(message, "read and write its elements one by one");
        }
        Ok(())
    }

    /// The buffers that the entry point uses, by binding.
    pub(crate) fn resources(&self, entry: usize) -> Result<Vec<Resource>, ProgramError> {
        let uses = self.info.get_entry_point(entry);
        let mut resources = Vec::new();
        for (handle, global) in self.module.global_variables.iter() {
            if uses[handle].is_empty() {
                continue;
            }
            let at = Some(place(self.submitted, self.module.global_variables.get_span(handle)));
            let name = global.name.clone().unwrap_or_default();
            let access = match global.space {
                AddressSpace::Private | AddressSpace::WorkGroup | AddressSpace::Function => continue,
                AddressSpace::Uniform => Access::Uniform,
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => {
                    Access::ReadWrite
                }
                AddressSpace::Storage { .. } => Access::Read,
                _ => {
                    let message = format!("{name} is neither a storage nor a uniform buffer");
                    let fix =
                        "bind nothing but var<storage, read>, var<storage, read_write> and var<uniform>";
                    return Err(self.problem(message, fix, at).bindings());
                }
            };
            let Some(binding) = global.binding else { continue };
            if binding.group != 0 {
                let message = format!("{name} is in group {}", binding.group);
                return Err(self.problem(message, "put every buffer into @group(0)", at).bindings());
            }
            let bytes = self.module.types[global.ty].inner.try_size(self.module.to_ctx()).unwrap_or(u32::MAX);
            let bytes_min = u64::from(bytes);
            resources.push(Resource { name, binding: binding.binding, access, bytes_min, at });
        }
        resources.sort_by_key(|resource| resource.binding);
        Ok(resources)
    }

    /// Whether the override `name` is an integer; `None` if there is none of that name.
    pub(crate) fn override_is_integer(&self, name: &str) -> Option<bool> {
        let (_, found) = self.module.overrides.iter().find(|(_, o)| o.name.as_deref() == Some(name))?;
        Some(match self.module.types[found.ty].inner {
            TypeInner::Scalar(scalar) => matches!(scalar.kind, ScalarKind::Sint | ScalarKind::Uint),
            _ => false,
        })
    }

    /// Whether the override `name` has a numeric id, which would take the name's place at pipeline creation.
    pub(crate) fn override_has_id(&self, name: &str) -> bool {
        self.module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name) && o.id.is_some())
    }

    /// Names of the module's overrides.
    pub(crate) fn override_names(&self) -> Vec<&str> {
        self.module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect()
    }

    /// The entry point's workgroup with these overrides.
    pub(crate) fn workgroup(
        &self,
        entry: usize,
        overrides: &BTreeMap<String, u32>,
    ) -> Result<Workgroup, ProgramError> {
        let name = &self.module.entry_points[entry].name;
        let constants = overrides.iter().map(|(name, value)| (name.clone(), f64::from(*value))).collect();
        let (module, info) =
            process_overrides(&self.module, &self.info, Some((ShaderStage::Compute, name)), &constants)
                .map_err(|error| self.override_problem(&error))?;
        let entry = module
            .entry_points
            .iter()
            .position(|point| &point.name == name)
            .expect("processing overrides keeps the entry point");
        let uses = info.get_entry_point(entry);
        let operations = work::operations(&module, &info, entry);
        let bytes: u64 = module
            .global_variables
            .iter()
            .filter(|(handle, global)| global.space == AddressSpace::WorkGroup && !uses[*handle].is_empty())
            .map(|(_, global)| {
                let bytes = module.types[global.ty].inner.try_size(module.to_ctx()).unwrap_or(u32::MAX);
                // WebGPU rounds every variable up to 16 bytes.
                u64::from(bytes).next_multiple_of(16)
            })
            .sum();
        let size = module.entry_points[entry].workgroup_size;
        Ok(Workgroup { size, operations, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) })
    }

    fn override_problem(&self, error: &PipelineConstantError) -> ProgramError {
        let (message, fix) = match error {
            PipelineConstantError::MissingValue(name) => (
                format!("the override {name} has neither a default nor a value"),
                format!("give it in {}.overrides", self.field),
            ),
            _ => (chain(error), format!("correct the values in {}.overrides", self.field)),
        };
        Problem::new(format!("{}.overrides", self.field), message, fix)
            .of_kernel(self.kernel, None)
            .overrides()
    }
}

fn place(text: &str, span: Span) -> (u32, u32) {
    let offset = span.to_range().map_or(0, |range| range.start);
    text::line_and_column(text, offset)
}

/// An error with the errors that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        // Transparent errors repeat themselves.
        if !message.ends_with(&next) {
            message = format!("{message}: {next}");
        }
        source = cause.source();
    }
    message
}
