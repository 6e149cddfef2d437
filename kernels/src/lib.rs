//! WGSL kernel library with CPU references.
