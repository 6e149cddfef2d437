//! `cargo xtask openapi`: the committed API document and the TypeScript types that come from it.
//!
//! The document is what `plexus openapi` prints; the types are made from it by a script of the SDK.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{process, setup};

#[derive(clap::Args)]
pub struct Options {
    /// Change nothing; fail if the committed files are not what the code says
    #[arg(long)]
    check: bool,
}

pub fn openapi(options: &Options) -> Result<()> {
    process::run(process::cargo().args(["build", "--package", "plexus"]), "the build of plexus")?;
    write_or_check(&process::plexus_binary("debug"), options.check)
}

/// With a binary that is already built.
pub fn write_or_check(plexus: &Path, check: bool) -> Result<()> {
    let root = process::root();
    let printed = process::output(process::command(plexus).arg("openapi"), "plexus openapi")?;
    serde_json::from_str::<serde_json::Value>(&printed)
        .context("plexus openapi printed something that is not JSON")?;
    let text = format!("{}\n", printed.trim_end());
    let mut stale = Vec::new();
    place(&root.join("docs/openapi.json"), &text, check, &mut stale)?;

    if process::on_path("node").is_none() {
        eprintln!("openapi: the TypeScript types were left alone, Node.js is missing; {}", setup::NODE_HOW);
    } else {
        // From the text just made, not from the committed file, so that `--check` compares like with like.
        let scratch = process::target_dir().join("openapi");
        std::fs::create_dir_all(&scratch).context("failed to create a scratch folder")?;
        let (from, to) = (scratch.join("openapi.json"), scratch.join("api.gen.ts"));
        std::fs::write(&from, &text).context("failed to write the scratch document")?;
        let mut node = process::command("node");
        node.arg("sdk/ts/scripts/api-types.mjs").arg(&from).arg("--output").arg(&to);
        process::output(&mut node, "sdk/ts/scripts/api-types.mjs")?;
        let types = std::fs::read_to_string(&to).context("failed to read the generated types")?;
        place(&root.join("sdk/ts/src/api.gen.ts"), &types, check, &mut stale)?;
    }

    if !stale.is_empty() {
        let names: Vec<String> = stale.iter().map(|path: &PathBuf| path.display().to_string()).collect();
        bail!(
            "{} differ from the code; run `cargo xtask openapi` and commit the result",
            names.join(" and ")
        );
    }
    Ok(())
}

fn place(path: &Path, text: &str, check: bool, stale: &mut Vec<PathBuf>) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|committed| committed == text) {
        return Ok(());
    }
    if check {
        stale.push(path.to_path_buf());
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
