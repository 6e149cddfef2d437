//! The `verify` section: policies, and what is known of some units beforehand.
//!
//! Whether policies go together, and whether relations fit the buffers, is the `program` crate's question.

use std::ops::Range;

use protocol::{
    Hash,
    manifest::{Dtype, Policy, Product, Relation, Sorted, Verify},
};

use crate::{
    compile::{AUDIT_RATE_MIN_DEFAULT, Result},
    error::{Code, Fault},
    file::{
        At, KnownValue, Named, Number, OutputSection, PolicyName, RelationSection, VerifySection,
        VerifySections,
    },
};

/// A unit whose outputs are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The unit's number in its stage (of the first iteration, where there are several).
    pub unit: u64,
    /// For each output, its blob and its length in bytes.
    pub outputs: Vec<(Hash, u64)>,
}

/// The manifest's policies.
pub(crate) fn policies(sections: Option<&VerifySections>) -> Result<Verify> {
    match sections {
        None => Ok(Policy::Audit { rate_min: AUDIT_RATE_MIN_DEFAULT }.into()),
        Some(VerifySections::One(section)) => policy(section).map(Verify::One),
        Some(VerifySections::Several(sections)) => {
            sections.iter().map(policy).collect::<Result<_>>().map(Verify::All)
        }
    }
}

/// The section that names known outputs, if there is one.
pub(crate) fn canary(sections: Option<&VerifySections>) -> Option<&VerifySection> {
    let sections = match sections? {
        VerifySections::One(section) => std::slice::from_ref(&**section),
        VerifySections::Several(sections) => &sections[..],
    };
    sections.iter().find(|section| section.policy.value == PolicyName::Canary)
}

fn wrong<T>(span: &Range<usize>, message: impl Into<String>) -> Result<T> {
    Err(Fault::new(Code::Value, span.clone(), message.into()))
}

fn policy(section: &VerifySection) -> Result<Policy> {
    use PolicyName::{Algebraic, Audit, Canary, Freivalds, Quorum};
    let VerifySection { policy, rate_min, agree, of, rate, products, relations, units, outputs } = section;
    let name = policy.value;
    fn span<T>(key: &Option<At<T>>) -> Option<&Range<usize>> {
        key.as_ref().map(|key| &key.span)
    }
    for (key, span, of_policies) in [
        ("rate_min", span(rate_min), &[Audit][..]),
        ("agree", span(agree), &[Quorum]),
        ("of", span(of), &[Quorum]),
        ("rate", span(rate), &[Freivalds, Algebraic]),
        ("products", span(products), &[Freivalds]),
        ("relations", span(relations), &[Algebraic]),
        ("units", span(units), &[Canary]),
        ("outputs", span(outputs), &[Canary]),
    ] {
        if let (Some(span), false) = (span, of_policies.contains(&name)) {
            return wrong(span, format!("\"{key}\" belongs to the policy \"{}\"", of_policies[0].word()));
        }
    }
    let share = |key: &str, rate: &Option<At<f64>>, default: f64| match rate {
        Some(rate) if !(0.0..=1.0).contains(&rate.value) => {
            wrong(&rate.span, format!("{key} is a share, 0 to 1"))
        }
        rate => Ok(rate.as_ref().map_or(default, |rate| rate.value)),
    };
    fn needed<'a, T>(policy: &At<PolicyName>, key: &str, value: &'a Option<At<T>>) -> Result<&'a At<T>> {
        value.as_ref().ok_or_else(|| {
            let message = format!("the policy \"{}\" needs \"{key}\"", policy.value.word());
            Fault::new(Code::MissingKey, policy.span.clone(), message)
        })
    }
    Ok(match name {
        Audit => Policy::Audit { rate_min: share("rate_min", rate_min, AUDIT_RATE_MIN_DEFAULT)? },
        Quorum => {
            if let Some(agree) = agree.as_ref().filter(|agree| !(2..=5).contains(&agree.value)) {
                return wrong(&agree.span, "2 to 5 owners can be asked to agree");
            }
            let agree = agree.as_ref().map_or(2, |agree| agree.value);
            if let Some(of) =
                of.as_ref().filter(|of| of.value < agree || of.value > 5 || 2 * agree <= of.value)
            {
                return wrong(
                    &of.span,
                    format!("{agree} owners are more than half of {agree} to {}, at most 5", 2 * agree - 1),
                );
            }
            Policy::Quorum { agree, of: of.as_ref().map(|of| of.value) }
        }
        Canary => {
            needed(policy, "units", units)?;
            needed(policy, "outputs", outputs)?;
            Policy::Canary {}
        }
        Freivalds => {
            let products = needed(policy, "products", products)?.value.iter().map(|section| {
                let (a, b, c) = (section.a.clone(), section.b.clone(), section.c.clone());
                Product { a, b, c, b_transposed: section.b_transposed, bias: section.bias.clone() }
            });
            Policy::Freivalds { products: products.collect(), rate: share("rate", rate, 1.0)? }
        }
        Algebraic => {
            let relations =
                needed(policy, "relations", relations)?.value.iter().map(|section| match section {
                    RelationSection::Product { a, b, c, b_transposed, bias } => Relation::Product(Product {
                        a: a.clone(),
                        b: b.clone(),
                        c: c.clone(),
                        b_transposed: *b_transposed,
                        bias: bias.clone(),
                    }),
                    RelationSection::Sorted { input, output, descending } => Relation::Sorted(Sorted {
                        input: input.clone(),
                        output: output.clone(),
                        descending: *descending,
                    }),
                });
            Policy::Algebraic { relations: relations.collect(), rate: share("rate", rate, 1.0)? }
        }
    })
}

/// Where one known output comes from.
pub(crate) enum Known<'a> {
    /// A file.
    File(At<String>),
    /// Numbers in the job file.
    Numbers(&'a [Number], Range<usize>),
}

/// A unit's number, and of each of its outputs the element type and where it comes from.
pub(crate) type KnownUnit<'a> = (u64, Vec<(Dtype, Known<'a>)>);

/// What the job file says of each known unit: for each output, in the outputs' order, its element type and where it comes from.
pub(crate) fn known<'a>(
    section: &'a VerifySection,
    outputs: &'a Named<OutputSection>,
    units_total: u64,
) -> Result<Vec<KnownUnit<'a>>> {
    let (Some(units), Some(named)) = (&section.units, &section.outputs) else {
        unreachable!("a canary without them was refused")
    };
    let at = units.span.clone();
    if units.value.is_empty() {
        return wrong(&at, "a canary is at least one unit");
    }
    if let Some(unit) = units.value.iter().find(|unit| **unit >= units_total) {
        return wrong(&at, format!("there is no unit {unit}: the job has {units_total}, from 0"));
    }
    let mut sorted = units.value.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != units.value.len() {
        return wrong(&at, "a unit stands twice");
    }
    if let Some((name, _)) =
        named.value.0.iter().find(|(name, _)| outputs.0.iter().all(|(o, _)| o.value != name.value))
    {
        return wrong(&name.span, format!("there is no output \"{}\"", name.value));
    }
    let mut found = Vec::with_capacity(units.value.len());
    for (index, unit) in units.value.iter().enumerate() {
        let mut of_unit = Vec::with_capacity(outputs.0.len());
        for (output, about) in &outputs.0 {
            let Some((_, value)) = named.value.0.iter().find(|(name, _)| name.value == output.value) else {
                return wrong(&named.span, format!("the output \"{}\" of a canary is missing", output.value));
            };
            let known = match &value.value {
                KnownValue::Files(pattern) => {
                    if !pattern.contains("{unit}") && units.value.len() > 1 {
                        let message = "the file of each unit has another name";
                        return Err(Fault::new(Code::Value, value.span.clone(), message)
                            .fix("write {unit} where the unit's number belongs"));
                    }
                    let file = pattern.replace("{unit}", &unit.to_string());
                    Known::File(At { value: file, span: value.span.clone() })
                }
                KnownValue::Numbers(lists) => match lists.get(index) {
                    Some(numbers) if lists.len() == units.value.len() => {
                        Known::Numbers(numbers, value.span.clone())
                    }
                    _ => {
                        let message =
                            format!("{} units are known, and {} lists", units.value.len(), lists.len());
                        return wrong(&value.span, message);
                    }
                },
            };
            of_unit.push((about.dtype.value, known));
        }
        found.push((*unit, of_unit));
    }
    found.sort_by_key(|(unit, _)| *unit);
    Ok(found)
}
