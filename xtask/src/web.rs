//! `cargo xtask web`: the TypeScript SDK, then the web app that the market serves, into `web/dist`.
//!
//! Nothing is built when no source has changed: the market embeds the result, and would be compiled again for files that
//! are merely newer.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use anyhow::{Context, Result};

use crate::{process, setup};

/// Whether the web app is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Built {
    Yes,
    /// npm or its packages are missing; said on the terminal.
    No,
}

pub fn web() -> Result<Built> {
    let Some(mut build) = process::npm() else {
        println!("web: skipped, npm is missing; {}", setup::NODE_HOW);
        return Ok(Built::No);
    };
    if let Err(error) = setup::npm_packages() {
        println!("web: skipped, the npm packages could not be installed: {error:#}");
        return Ok(Built::No);
    }
    let dist = process::root().join("web/dist");
    // Not in `dist`, which the market serves as a whole.
    let stamp = process::root().join("node_modules/.plexus-web-sources");
    let sources = sources().ok();
    if sources.is_some()
        && sources == std::fs::read_to_string(&stamp).ok()
        && dist.join("index.html").is_file()
    {
        println!("web: up to date");
        return Ok(Built::Yes);
    }
    // The app is built on the SDK.
    build.args(["run", "--silent", "build", "--if-present", "--workspace", "sdk/ts", "--workspace", "web"]);
    process::run(&mut build, "the build of the web app")?;
    if let Some(sources) = sources {
        std::fs::write(&stamp, sources).with_context(|| format!("failed to write {}", stamp.display()))?;
    }
    Ok(Built::Yes)
}

/// A digest of everything the app is made of.
fn sources() -> Result<String> {
    let root = process::root();
    let mut git = process::command("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]);
    git.args(["package.json", "package-lock.json", "sdk/ts", "web"]);
    let mut hasher = DefaultHasher::new();
    for path in process::output(&mut git, "git ls-files")?.split('\0').filter(|path| !path.is_empty()) {
        path.hash(&mut hasher);
        std::fs::read(root.join(path)).ok().hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}
