//! The first job that `plexus submit --init` writes.

/// One file of the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateFile {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// A small job to start from: it draws the Mandelbrot set in tiles.
pub fn template() -> [TemplateFile; 2] {
    [
        TemplateFile { name: "job.toml", text: include_str!("../template/job.toml") },
        TemplateFile { name: "kernel.wgsl", text: include_str!("../template/kernel.wgsl") },
    ]
}
