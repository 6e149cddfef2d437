//! Writes `tests/vectors/kernels.json` from the CPU references.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/kernels.json");
    let text = serde_json::to_string_pretty(&kernels::vectors::all())? + "\n";
    std::fs::write(path, text)?;
    println!("wrote {path}");
    Ok(())
}
