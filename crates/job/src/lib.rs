//! Job files: from a person's TOML to a manifest, blobs and units, and from outputs back to a file.
