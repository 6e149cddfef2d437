//! Why a manifest was refused, in words for the person who wrote it.

use std::fmt;

/// Why a manifest and its kernels are not a program. All of these are the submitter's to fix.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The manifest contradicts itself or names what is not there.
    #[error("{0}")]
    Manifest(Box<Problem>),
    /// A bound of the network, or of the manifest's own limits, is exceeded.
    #[error("{0}")]
    Limit(Box<Problem>),
    /// The text of a kernel was not given.
    #[error("{0}")]
    KernelMissing(Box<Problem>),
    /// The WGSL does not compile.
    #[error("{0}")]
    Wgsl(Box<Problem>),
    /// The WGSL's bindings are not the ones that a pass binds.
    #[error("{0}")]
    Bindings(Box<Problem>),
    /// The WGSL's overrides are not the ones that the manifest gives.
    #[error("{0}")]
    Overrides(Box<Problem>),
    /// The WGSL uses a feature that the manifest does not declare, or one that the network does not have.
    #[error("{0}")]
    Feature(Box<Problem>),
    /// A dispatch has no value, or one that no device accepts.
    #[error("{0}")]
    Dispatch(Box<Problem>),
}

/// What is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The manifest's field, such as `program.passes[0].bind[2]`.
    pub field: String,
    /// The kernel whose text is at fault.
    pub kernel: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
    /// Line and column from 1, in characters, of the kernel's text (or of the manifest's, where there is no kernel).
    pub at: Option<(u32, u32)>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kernel, self.at) {
            (Some(kernel), Some((line, column))) => {
                write!(f, "kernel {kernel} line {line} column {column}: ")?
            }
            (Some(kernel), None) => write!(f, "kernel {kernel}: ")?,
            (None, Some((line, column))) => write!(f, "line {line} column {column}: ")?,
            (None, None) if !self.field.is_empty() => write!(f, "{}: ", self.field)?,
            (None, None) => {}
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let [field, message, fix] = [field.into(), message.into(), fix.into()].map(shortened);
        Self { field, kernel: None, message, fix, at: None }
    }

    pub(crate) fn of_kernel(mut self, kernel: &str, at: Option<(u32, u32)>) -> Self {
        self.kernel = Some(kernel.to_owned());
        self.at = at;
        self
    }

    pub(crate) fn manifest(self) -> ProgramError {
        ProgramError::Manifest(self.into())
    }

    pub(crate) fn limit(self) -> ProgramError {
        ProgramError::Limit(self.into())
    }

    pub(crate) fn wgsl(self) -> ProgramError {
        ProgramError::Wgsl(self.into())
    }

    pub(crate) fn bindings(self) -> ProgramError {
        ProgramError::Bindings(self.into())
    }

    pub(crate) fn overrides(self) -> ProgramError {
        ProgramError::Overrides(self.into())
    }

    pub(crate) fn feature(self) -> ProgramError {
        ProgramError::Feature(self.into())
    }

    pub(crate) fn dispatch(self) -> ProgramError {
        ProgramError::Dispatch(self.into())
    }
}

/// Most bytes of a text that a problem carries: names in it are a stranger's, and may be as long as a manifest.
const TEXT_BYTES_MAX: usize = 2_000;

/// `text` on one line and not too long: problems go to terminals, logs and answers.
fn shortened(text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control) {
        return text;
    }
    let mut short = String::new();
    for c in text.chars() {
        if short.len() > TEXT_BYTES_MAX {
            short.push('…');
            break;
        }
        short.push(if c.is_control() { ' ' } else { c });
    }
    short
}

impl ProgramError {
    /// The stable code, as it stands in a problem document.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "manifest_invalid",
            Self::Limit(_) => "limits_exceeded",
            Self::KernelMissing(_) => "kernel_missing",
            Self::Wgsl(_) => "wgsl_invalid",
            Self::Bindings(_) => "wgsl_bindings",
            Self::Overrides(_) => "wgsl_overrides",
            Self::Feature(_) => "feature_unavailable",
            Self::Dispatch(_) => "dispatch_invalid",
        }
    }

    /// What is wrong and where.
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Manifest(problem)
            | Self::Limit(problem)
            | Self::KernelMissing(problem)
            | Self::Wgsl(problem)
            | Self::Bindings(problem)
            | Self::Overrides(problem)
            | Self::Feature(problem)
            | Self::Dispatch(problem) => problem,
        }
    }

    /// The manifest's field, such as `program.passes[0].bind[2]`; empty for the whole document.
    pub fn field(&self) -> &str {
        &self.problem().field
    }

    /// The name of the kernel at fault.
    pub fn kernel(&self) -> Option<&str> {
        self.problem().kernel.as_deref()
    }

    /// The line in the kernel's text, from 1.
    pub fn line(&self) -> Option<u32> {
        self.problem().at.map(|(line, _)| line)
    }

    /// The column in the kernel's text, from 1, in characters.
    pub fn column(&self) -> Option<u32> {
        self.problem().at.map(|(_, column)| column)
    }

    /// What to do about it.
    pub fn fix(&self) -> &str {
        &self.problem().fix
    }
}
