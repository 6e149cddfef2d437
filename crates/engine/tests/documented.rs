//! What `docs/market.md` says is what the rules do. `UPDATE_DOCS=1` writes its table of parameters anew.

use std::{fmt::Write as _, path::PathBuf};

use plexus_engine::{PPM, Params, stake_ppm};
use protocol::{Amount, BASE_UNITS_PER_TOKEN};

#[test]
fn the_table_of_parameters_is_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/market.md");
    let text = std::fs::read_to_string(&path).expect("the page is there");
    let head = "| --- | --- | --- | --- |\n";
    let at = text.find(head).expect("it has a table") + head.len();
    let mut table = String::new();
    for (name, value) in Params::default().values() {
        let (low, high) = Params::bounds(&name).expect("a parameter");
        let most =
            if high >= u32::MAX.into() && high != 1_000_000_000_000 { "".into() } else { high.to_string() };
        writeln!(table, "| `{name}` | {value} | {low} | {most} |").expect("a String takes all");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{table}", &text[..at])).expect("writable");
        return;
    }
    assert!(text[at..] == table, "UPDATE_DOCS=1 writes the table anew");
}

#[test]
fn the_examples_compute() {
    let stake = |tokens: u64| stake_ppm(Amount(tokens * BASE_UNITS_PER_TOKEN));
    assert_eq!([1_000, 10_000, 1_023_000].map(stake), [100_000, 345_943, PPM]);
    let rate = 3_000 * 1_500_000 / PPM * 1_200_000 / PPM * 1_100_000 / PPM;
    assert_eq!((rate, rate / 4), (5_940, 1_485));
    assert_eq!(Params::default().check(), Ok(()));
}
