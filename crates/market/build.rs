//! Puts the built web app into the program: a table of its files. Without one, a page that says how to build it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const PLACEHOLDER: &str = "<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>Plexus</title>
<body style=\"font: 16px/1.5 system-ui; max-width: 40rem; margin: 4rem auto; padding: 0 1rem\">
<h1>The web app is not built in</h1>
<p>This market runs, but its program was built without the web app. Build both with <code>cargo xtask web</code> and then
<code>cargo build</code>. The API is described in <a href=\"/v1/openapi.json\">/v1/openapi.json</a>.</p>
</body></html>
";

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("no OUT_DIR"))?);
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web");
    let dist = web.join("dist");
    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        println!("cargo::rerun-if-changed={}", dist.display());
        collect(&dist, &dist, &mut files)?;
    } else {
        // The folder's own time changes when `dist` appears in it.
        println!("cargo::rerun-if-changed={}", web.display());
        let placeholder = out.join("index.html");
        fs::write(&placeholder, PLACEHOLDER)?;
        files.push(("index.html".to_owned(), placeholder));
    }
    files.sort();
    let mut table = String::from("&[\n");
    for (name, path) in files {
        table.push_str(&format!("    ({name:?}, include_bytes!({:?})),\n", path.canonicalize()?));
    }
    table.push_str("]\n");
    fs::write(out.join("assets.rs"), table)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            files.push((name.to_string_lossy().replace('\\', "/"), path));
        }
    }
    Ok(())
}
