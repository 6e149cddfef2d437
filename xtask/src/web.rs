//! `cargo xtask web`: the TypeScript SDK, then the web app that the market serves, into `web/dist`.

use anyhow::Result;

use crate::{process, setup};

/// Whether the web app was built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Built {
    Yes,
    /// npm or its packages are missing; said on the terminal.
    No,
}

pub fn web() -> Result<Built> {
    let Some(mut build) = process::npm() else {
        eprintln!("web: skipped, npm is missing; {}", setup::NODE_HOW);
        return Ok(Built::No);
    };
    if let Err(error) = setup::npm_packages() {
        eprintln!("web: skipped, the npm packages could not be installed: {error:#}");
        return Ok(Built::No);
    }
    // The app is built on the SDK.
    build.args(["run", "--silent", "build", "--if-present", "--workspace", "sdk/ts", "--workspace", "web"]);
    process::run(&mut build, "the build of the web app")?;
    Ok(Built::Yes)
}
