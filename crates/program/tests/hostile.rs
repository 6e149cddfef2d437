//! The corpus of hostile programs at the gate: what is refused, with which words, and that nothing of it harms the one who checks.

use plexus_program::{Plan, ProgramError, check, parse};

#[path = "../../../tests/hostile/corpus.rs"]
mod corpus;

fn checked(case: &corpus::Case) -> Result<Plan, ProgramError> {
    check(&parse(&case.manifest())?, &case.kernels())
}

#[test]
fn hostile_programs_are_refused_or_bounded() {
    let mut wrong = Vec::new();
    for case in corpus::cases() {
        match (checked(&case), &case.refused) {
            (Ok(_), None) => {}
            (Err(error), Some(refused)) => {
                let text = error.to_string();
                if error.code() != refused.code || !text.contains(&refused.says) {
                    wrong.push(format!("{}: refused with {}: {text}", case.name, error.code()));
                }
                // Words for a person, on a terminal.
                let (fix, field) = (error.fix(), error.field());
                assert!(
                    !fix.is_empty() && [&text, fix, field].iter().all(|t| t.len() < 5000),
                    "{}",
                    case.name
                );
                assert!(![&text, fix, field].iter().any(|t| t.contains(char::is_control)), "{text:?}");
            }
            (Ok(_), Some(_)) => wrong.push(format!("{}: let through", case.name)),
            (Err(error), None) => {
                wrong.push(format!("{}: refused with {}: {error}", case.name, error.code()))
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_says_what_must_come_of_it() {
    let cases = corpus::cases();
    for case in &cases {
        let runs = case.gives.is_some() || case.of.is_some() || !case.ends.is_empty();
        assert!(runs != case.refused.is_some(), "{} is either refused or runs", case.name);
        let named = |name: &String| cases.iter().any(|other| other.name == *name && other.refused.is_none());
        assert!(case.after.as_ref().is_none_or(named), "{} comes after something that runs", case.name);
    }
}
