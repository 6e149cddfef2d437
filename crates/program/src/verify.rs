//! Policies: each at most once, bounded, and every relation about buffers that the market can read.
//!
//! What the market checks by itself has to settle every output if nobody executes the unit again. So without an audit or a quorum
//! each output is the result of a relation, whose other sides the market knows: inputs, blobs, and results of relations before.

use std::collections::BTreeSet;

use protocol::manifest::{Dtype, Manifest, Policy, Product, Relation, Sorted};

use crate::{
    check::Result,
    error::Problem,
    plan::{Buffer, Source},
};

/// Relations of one program.
pub const RELATIONS_MAX: usize = 16;
/// Rows or columns of a matrix in a relation, so that sums in a check stay exact.
const SIDE_MAX: u64 = 1 << 24;
/// Owners that execute a unit.
const OWNERS_MAX: u32 = 5;

/// Checks a manifest's policies against its buffers.
pub(crate) fn check(manifest: &Manifest, buffers: &[Buffer]) -> Result<()> {
    let verify = &manifest.verify;
    let policies = verify.policies();
    let one = matches!(verify, protocol::manifest::Verify::One(_));
    let field = |index: usize| if one { "verify".to_owned() } else { format!("verify[{index}]") };
    if policies.is_empty() {
        let fix = "name one, such as {\"policy\": \"audit\", \"rate_min\": 0.02}";
        return Err(Problem::new("verify", "there is no policy", fix).manifest());
    }
    let mut named = BTreeSet::new();
    for (index, policy) in policies.iter().enumerate() {
        if !named.insert(policy.name()) {
            let message = format!("the policy {} stands twice", policy.name());
            return Err(Problem::new(field(index), message, "name each policy once").manifest());
        }
    }
    for (one, other, fix) in [
        ("audit", "quorum", "leave the audit out: a quorum executes every unit elsewhere"),
        ("freivalds", "algebraic", "name the products among the relations"),
    ] {
        if named.contains(one) && named.contains(other) {
            let message = format!("{one} and {other} do not go together");
            return Err(Problem::new("verify", message, fix).manifest());
        }
    }
    let again = named.contains("audit") || named.contains("quorum");
    for (index, policy) in policies.iter().enumerate() {
        let at = field(index);
        let share = |name: &str, share: f64| {
            if (0.0..=1.0).contains(&share) {
                return Ok(());
            }
            let message = format!("{share} is not between 0 and 1");
            Err(Problem::new(format!("{at}.{name}"), message, "give a share of units, such as 0.05")
                .manifest())
        };
        match policy {
            Policy::Audit { rate_min } => share("rate_min", *rate_min)?,
            Policy::Quorum { agree, of } => quorum(&at, *agree, *of)?,
            Policy::Canary {} => {}
            Policy::Freivalds { products, rate } => {
                share("rate", *rate)?;
                let products: Vec<_> = products.iter().cloned().map(Relation::Product).collect();
                relations(&format!("{at}.products"), &products, buffers, again)?;
            }
            Policy::Algebraic { relations: stated, rate } => {
                share("rate", *rate)?;
                relations(&format!("{at}.relations"), stated, buffers, again)?;
            }
        }
    }
    Ok(())
}

fn quorum(at: &str, agree: u32, of: Option<u32>) -> Result<()> {
    if !(2..=OWNERS_MAX).contains(&agree) {
        let message = format!("{agree} is not between 2 and {OWNERS_MAX}");
        return Err(Problem::new(format!("{at}.agree"), message, "let 2 to 5 owners agree").manifest());
    }
    let Some(of) = of else { return Ok(()) };
    if !(agree..=OWNERS_MAX).contains(&of) {
        let message = format!("{of} is not between {agree} and {OWNERS_MAX}");
        let fix = "let as many owners execute as must agree, or more, up to 5";
        return Err(Problem::new(format!("{at}.of"), message, fix).manifest());
    }
    if 2 * agree <= of {
        let message = format!("{agree} of {of} is no majority: two results could stand");
        return Err(Problem::new(format!("{at}.agree"), message, "let more than half agree").manifest());
    }
    Ok(())
}

fn relations(at: &str, relations: &[Relation], buffers: &[Buffer], again: bool) -> Result<()> {
    if relations.is_empty() || relations.len() > RELATIONS_MAX {
        let message = format!("there are {} and there may be 1 to {RELATIONS_MAX}", relations.len());
        return Err(Problem::new(at, message, "state what holds for the outputs").limit());
    }
    let mut settled = BTreeSet::new();
    for (index, relation) in relations.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let result = match relation {
            Relation::Product(product) => self::product(&at, product, buffers)?,
            Relation::Sorted(sorted) => self::sorted(&at, sorted, buffers)?,
        };
        let (sides, output) = sides(relation);
        let open = sides.into_iter().find(|name| {
            let source = buffers.iter().find(|buffer| buffer.name == **name).map(|buffer| buffer.source);
            matches!(source, Some(Source::Output(_))) && !settled.contains(*name)
        });
        if let (Some(name), false) = (open, again) {
            let message = format!("{name} is an output that no relation before this one settles");
            let fix = "state the relation that gives it first, or add the policy audit";
            return Err(Problem::new(at, message, fix).manifest());
        }
        debug_assert!(matches!(result.source, Source::Output(_)));
        settled.insert(output);
    }
    let open = buffers
        .iter()
        .find(|buffer| matches!(buffer.source, Source::Output(_)) && !settled.contains(buffer.name.as_str()));
    if let (Some(buffer), false) = (open, again) {
        let message = format!("no relation settles the output {}", buffer.name);
        let fix = "state one, or add the policy audit";
        return Err(Problem::new(at, message, fix).manifest());
    }
    Ok(())
}

/// What a relation reads, and what it settles.
fn sides(relation: &Relation) -> (Vec<&str>, &str) {
    match relation {
        Relation::Product(Product { a, b, c, bias, .. }) => {
            let read = [Some(a), Some(b), bias.as_ref()];
            (read.into_iter().flatten().map(String::as_str).collect(), c)
        }
        Relation::Sorted(Sorted { input, output, .. }) => (vec![input], output),
    }
}

/// The buffer of this name, if the market can read it.
fn side<'a>(at: &str, side: &str, name: &str, buffers: &'a [Buffer]) -> Result<&'a Buffer> {
    let field = format!("{at}.{side}");
    let Some(found) = buffers.iter().find(|buffer| buffer.name == name) else {
        let names: Vec<_> = buffers.iter().map(|buffer| buffer.name.as_str()).collect();
        let message = format!("there is no buffer {name:?}");
        return Err(Problem::new(field, message, format!("name one of: {}", names.join(", "))).manifest());
    };
    if found.source == Source::Scratch {
        let fix = "make it an output, or check something else";
        return Err(Problem::new(field, format!("{name} is scratch, which nobody keeps"), fix).manifest());
    }
    Ok(found)
}

fn result<'a>(at: &str, name: &str, buffer: &'a str, buffers: &'a [Buffer]) -> Result<&'a Buffer> {
    let found = side(at, name, buffer, buffers)?;
    if matches!(found.source, Source::Output(_)) {
        return Ok(found);
    }
    let message = format!("{buffer} is not an output");
    Err(Problem::new(format!("{at}.{name}"), message, "name what the unit puts out").manifest())
}

fn product<'a>(at: &str, product: &'a Product, buffers: &'a [Buffer]) -> Result<&'a Buffer> {
    let (a, b) = (side(at, "a", &product.a, buffers)?, side(at, "b", &product.b, buffers)?);
    let c = result(at, "c", &product.c, buffers)?;
    let wrong = |name: &str, message: String, fix: &str| {
        Err(Problem::new(format!("{at}.{name}"), message, fix).manifest())
    };
    let word = |dtype: Dtype| matches!(dtype, Dtype::I32 | Dtype::U32);
    let fits = if c.dtype.is_float() {
        a.dtype.is_float() && b.dtype.is_float()
    } else {
        !a.dtype.is_float() && !b.dtype.is_float() && word(c.dtype)
    };
    if !fits {
        let message = format!("a product of {} and {} in {} cannot be checked", a.dtype, b.dtype, c.dtype);
        return wrong("c", message, "integers give i32 or u32, floats give floats");
    }
    let (Some((m, k)), Some((rows, n))) = (rows(&a.shape), rows(&c.shape)) else {
        return wrong(
            "a",
            "a and c have at least two axes each".into(),
            "give them shapes such as [m, k] and [m, n]",
        );
    };
    let wanted = if product.b_transposed { vec![n, k] } else { vec![k, n] };
    let found: Vec<u64> = b.shape.iter().copied().map(u64::from).collect();
    if m != rows || found != wanted {
        let (a, b, c) = (&a.shape, &b.shape, &c.shape);
        let transposed = if product.b_transposed { " transposed" } else { "" };
        let message = format!("{a:?} times {b:?}{transposed} is not {c:?}");
        return wrong("b", message, "a is [m, k], b is [k, n] (transposed [n, k]) and c is [m, n]");
    }
    if let Some(side) = [m, k, n].into_iter().find(|side| *side > SIDE_MAX) {
        let message = format!("a side of {side} is longer than {SIDE_MAX}");
        return Err(Problem::new(at, message, "cut the work into smaller units").limit());
    }
    if let Some(name) = &product.bias {
        let bias = side(at, "bias", name, buffers)?;
        if !word(c.dtype) || bias.dtype != c.dtype || bias.shape != [n as u32] {
            let message =
                format!("{name} is {} {:?}, and {} is {}", bias.dtype, bias.shape, product.c, c.dtype);
            return wrong("bias", message, "a bias is [n], of the same integers as c");
        }
    }
    Ok(c)
}

/// Rows and columns of a shape whose axes before the last are rows.
fn rows(shape: &[u32]) -> Option<(u64, u64)> {
    let (columns, before) = shape.split_last()?;
    (!before.is_empty())
        .then(|| (before.iter().map(|extent| u64::from(*extent)).product(), u64::from(*columns)))
}

fn sorted<'a>(at: &str, sorted: &'a Sorted, buffers: &'a [Buffer]) -> Result<&'a Buffer> {
    let input = side(at, "input", &sorted.input, buffers)?;
    let output = result(at, "output", &sorted.output, buffers)?;
    if input.dtype != output.dtype || input.dtype.is_float() || input.shape != output.shape {
        let message = format!(
            "{} is {} {:?} and {} is {} {:?}",
            sorted.input, input.dtype, input.shape, sorted.output, output.dtype, output.shape
        );
        let fix = "both have one shape, and the same integers";
        return Err(Problem::new(format!("{at}.output"), message, fix).manifest());
    }
    Ok(output)
}
