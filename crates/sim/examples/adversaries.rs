//! What cheating is worth, as the tables of `docs/security.md`.
//!
//! `cargo xtask bench adversaries [--json FILE] [-- --seeds N]`

use std::{fs, process::ExitCode};

use plexus_sim::adversary::{Cheat, Row, STEADY_PACKAGES, measure, steady};

/// Enough for standard errors of a few percent.
const SEEDS: u64 = 200;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let seeds: u64 = value("--seeds").map_or(SEEDS, |text| text.parse().expect("--seeds takes a number"));
    let rows: Vec<Row> = Cheat::ALL.into_iter().map(|cheat| measure(cheat, 0..seeds)).collect();
    println!("{seeds} seeds each\n");
    println!(
        "| who | wrong | found | promised | deviation | gained | lost | worth | executed again | honest slashed |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for row in &rows {
        println!(
            "| {} | {} | {} | {:.1} ± {:.1} | {:+.1} σ | {:.2} | {:.2} | {:.2} ± {:.2} | {:.1} % | {} |",
            row.cheat.name(),
            row.wrong,
            row.found,
            row.expected,
            row.sigma,
            row.deviation(),
            row.gained,
            row.lost,
            row.worth,
            row.worth_error,
            row.again * 100.0,
            row.honest_slashed,
        );
    }
    println!(
        "\n| units a package | rate | executed again | found within {STEADY_PACKAGES} packages | promised |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let steady = [(64, 20_000), (128, 20_000), (160, 29_000), (256, 20_000)]
        .map(|(package_units, rate_min_ppm)| steady(package_units, rate_min_ppm, 0..seeds));
    for row in &steady {
        println!(
            "| {} | {:.1} % | {:.2} % | {:.1} % | {:.1} ± {:.1} % |",
            row.package_units,
            f64::from(row.rate_min_ppm) / 1e4,
            row.again * 100.0,
            row.found as f64 / row.seeds as f64 * 100.0,
            row.expected / row.seeds as f64 * 100.0,
            row.sigma / row.seeds as f64 * 100.0,
        );
    }
    let told: Vec<_> = rows.iter().filter(|row| row.cheat == Cheat::AuditsOnly).collect();
    for row in told {
        println!(
            "\nOf the checks that it was given {:.1} % looked like one, of the packages {:.1} %.",
            row.checks_told * 100.0,
            row.packages_mistaken * 100.0,
        );
    }
    if let Some(file) = value("--json") {
        let report = serde_json::json!({ "seeds": seeds, "cheats": rows, "steady": steady });
        fs::write(&file, format!("{report:#}\n")).expect("the file can be written");
    }
    let problems: Vec<_> = rows.iter().flat_map(|row| &row.problems).collect();
    for problem in &problems {
        eprintln!("problem: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
