//! What a text would make a compiler do, read from its tokens before one sees it.
//!
//! naga takes time that grows with the square of a function's length, and it writes the values of constant arrays and structs out,
//! each time they are used: `const b = array(a, a);` a few times over stands for more values than a machine has memory. Both
//! happen while it parses, so both are bounded here, from above: names are taken as they are written, whatever scope they are in.
//! Whether the text is WGSL is for naga to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use protocol::Expression;

use crate::{CONSTANT_VALUES_MAX, FUNCTION_TOKENS_MAX, text};

/// A word, a number, or another character.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    at: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c == '_' || c.is_alphabetic())
    }
}

/// Tokens of a template that are read for its end; one that is longer may be anything.
const TEMPLATE_TOKENS_MAX: usize = 4096;

/// Why a text is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMuch {
    /// A function has more tokens than it may.
    Function,
    /// Its constants stand for more values than they may.
    Constants,
}

/// What is too much about `text`, and the byte where that shows.
pub(crate) fn too_much(text: &str) -> Option<(TooMuch, usize)> {
    let tokens = tokens(text);
    if let Some(at) = long_function(&tokens) {
        return Some((TooMuch::Function, at));
    }
    let mut outline = Outline::new(&tokens);
    let mut values = 0u64;
    for (index, token) in tokens.iter().enumerate() {
        values = values.saturating_add(outline.value(index));
        if values > CONSTANT_VALUES_MAX {
            return Some((TooMuch::Constants, token.at));
        }
    }
    None
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at = text::after_blanks(text, at);
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else { return tokens };
        let continues = |c: char| match first.is_ascii_digit() {
            // Suffixes, hexadecimal digits and exponents; a sign within an exponent is a token of its own here.
            true => c.is_ascii_alphanumeric() || c == '.',
            false => c.is_alphanumeric() || c == '_',
        };
        let length = match first == '_' || first.is_alphanumeric() {
            true => rest.find(|c| !continues(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        // A letter that is neither alphanumeric by this nor blank: it stands alone.
        let length = length.max(first.len_utf8());
        tokens.push(Token { text: &rest[..length], at });
        at += length;
    }
}

/// Where the first function begins that is too long.
fn long_function(tokens: &[Token<'_>]) -> Option<usize> {
    let mut function = None;
    let mut depth = 0u32;
    for (index, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    function = None;
                }
            }
            "fn" if depth == 0 => function = Some(index),
            _ => {}
        }
        if let Some(began) = function
            && index - began > FUNCTION_TOKENS_MAX
        {
            return Some(tokens[began].at);
        }
    }
    None
}

/// The declarations of a text, and what was found out about them. Everything saturates.
struct Outline<'t, 'a> {
    tokens: &'t [Token<'a>],
    /// Aliases and structs: the tokens of what they stand for.
    types: BTreeMap<&'a str, Vec<Range<usize>>>,
    /// Constants: the tokens of their values.
    constants: BTreeMap<&'a str, Vec<Range<usize>>>,
    composite: BTreeMap<&'a str, bool>,
    /// Values that a constant stands for.
    values: BTreeMap<&'a str, u64>,
    /// Values of one of a type.
    leaves: BTreeMap<&'a str, u64>,
    numbers: BTreeMap<&'a str, Option<u32>>,
    /// What is being found out, for names that stand for themselves.
    open: BTreeSet<&'a str>,
}

impl<'t, 'a> Outline<'t, 'a> {
    fn new(tokens: &'t [Token<'a>]) -> Self {
        let mut outline = Self {
            tokens,
            types: BTreeMap::new(),
            constants: BTreeMap::new(),
            composite: BTreeMap::new(),
            values: BTreeMap::new(),
            leaves: BTreeMap::new(),
            numbers: BTreeMap::new(),
            open: BTreeSet::new(),
        };
        for (index, token) in tokens.iter().enumerate() {
            let Some(name) = tokens.get(index + 1).filter(|name| name.is_word()) else { continue };
            let until = |end: &str| {
                let length = tokens[index..].iter().position(|token| token.text == end);
                length.map_or(tokens.len(), |length| index + length)
            };
            let from = |begin: &str| until(begin).saturating_add(1);
            match token.text {
                "alias" => outline.types.entry(name.text).or_default().push(from("=")..until(";")),
                "struct" => outline.types.entry(name.text).or_default().push(from("{")..until("}")),
                "const" => outline.constants.entry(name.text).or_default().push(from("=")..until(";")),
                _ => {}
            }
        }
        outline
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.text == text)
    }

    /// Values that the token at `at` makes a compiler write out.
    fn value(&mut self, at: usize) -> u64 {
        let name = self.tokens[at].text;
        if name == "array" && self.is(at + 1, "<") {
            let Some(end) = self.template_end(at + 1) else { return u64::MAX };
            return match self.is(end + 1, "(") && self.is(end + 2, ")") {
                true => self.leaves_of(at..end + 1),
                false => 1,
            };
        }
        if self.types.contains_key(name) && self.is(at + 1, "(") && self.is(at + 2, ")") {
            return self.leaves_of_name(name);
        }
        match self.constants.contains_key(name) && self.is_composite(name) {
            true => self.values_of_name(name),
            false => 1,
        }
    }

    /// Whether a constant is an array or a struct, as far as names tell.
    fn is_composite(&mut self, name: &'a str) -> bool {
        if let Some(known) = self.composite.get(name) {
            return *known;
        }
        // What stands for itself is one only if something else about it says so.
        self.composite.insert(name, false);
        let ranges = self.constants.get(name).cloned().unwrap_or_default();
        let found = ranges.into_iter().any(|range| {
            range.into_iter().any(|at| {
                let word = self.tokens.get(at).map_or("", |token| token.text);
                word == "array"
                    || (self.types.contains_key(word) && self.is(at + 1, "("))
                    || (self.constants.contains_key(word) && self.is_composite(word))
            })
        });
        self.composite.insert(name, found);
        found
    }

    fn values_of_name(&mut self, name: &'a str) -> u64 {
        if let Some(known) = self.values.get(name) {
            return *known;
        }
        if !self.open.insert(name) {
            return u64::MAX;
        }
        let mut most = 1;
        for range in self.constants.get(name).cloned().unwrap_or_default() {
            let mut sum = 0u64;
            for at in range.start..range.end.min(self.tokens.len()) {
                sum = sum.saturating_add(self.value(at));
            }
            most = sum.max(most);
        }
        self.open.remove(name);
        self.values.insert(name, most);
        most
    }

    fn leaves_of_name(&mut self, name: &'a str) -> u64 {
        if let Some(known) = self.leaves.get(name) {
            return *known;
        }
        // A type cannot hold itself, which naga says better.
        self.leaves.insert(name, 1);
        let ranges = self.types.get(name).cloned().unwrap_or_default();
        let most = ranges.into_iter().map(|range| self.leaves_of(range)).max().unwrap_or(1);
        self.leaves.insert(name, most);
        most
    }

    /// Values of all types that are named in a range.
    fn leaves_of(&mut self, range: Range<usize>) -> u64 {
        let mut sum = 0u64;
        let mut at = range.start;
        while at < range.end.min(self.tokens.len()) {
            let name = self.tokens[at].text;
            if name == "array" && self.is(at + 1, "<") {
                let Some(end) = self.template_end(at + 1) else { return u64::MAX };
                let comma = self.comma(at + 2..end);
                let element = self.leaves_of(at + 2..comma.unwrap_or(end)).max(1);
                let length =
                    comma.and_then(|comma| self.number_of(comma + 1..end)).map_or(u64::MAX, u64::from);
                sum = sum.saturating_add(element.saturating_mul(length));
                at = end + 1;
                continue;
            }
            let leaves = match self.types.contains_key(name) {
                true => self.leaves_of_name(name),
                false => u64::from(self.tokens[at].is_word()),
            };
            sum = sum.saturating_add(leaves);
            at += 1;
        }
        sum
    }

    /// The `>` that belongs to the `<` at `at`, where it is near.
    fn template_end(&self, at: usize) -> Option<usize> {
        let (mut templates, mut parens) = (0u32, 0u32);
        for index in at..self.tokens.len().min(at + TEMPLATE_TOKENS_MAX) {
            match self.tokens[index].text {
                "(" | "[" => parens += 1,
                ")" | "]" => parens = parens.checked_sub(1)?,
                // As WGSL finds templates: a shift is none.
                "<" if parens == 0 && self.tokens[index - 1].is_word() && !self.is(index + 1, "<") => {
                    templates += 1;
                }
                ">" if parens == 0 => {
                    templates = templates.checked_sub(1)?;
                    if templates == 0 {
                        return Some(index);
                    }
                }
                ";" | "{" | "}" => return None,
                _ => {}
            }
        }
        None
    }

    /// The comma in a range that stands in no template or parenthesis of its own.
    fn comma(&self, range: Range<usize>) -> Option<usize> {
        let mut depth = 0i64;
        range.into_iter().find(|&at| {
            match self.tokens[at].text {
                "<" | "(" => depth += 1,
                ">" | ")" => depth -= 1,
                _ => {}
            }
            depth == 0 && self.tokens[at].text == ","
        })
    }

    /// The number that a range of tokens says, where it says one plainly.
    fn number_of(&mut self, range: Range<usize>) -> Option<u32> {
        let mut text = String::new();
        for token in self.tokens.get(range.clone())? {
            let number = token.text.strip_suffix(['u', 'i']).unwrap_or(token.text);
            match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
                Some(digits) => text.push_str(&u32::from_str_radix(digits, 16).ok()?.to_string()),
                None if token.text.starts_with(|c: char| c.is_ascii_digit()) => text.push_str(number),
                None => text.push_str(token.text),
            }
        }
        // A template may end with a comma.
        let expression = Expression::parse(text.strip_suffix(',').unwrap_or(&text)).ok()?;
        let names: BTreeSet<&str> = expression.names().into_iter().collect();
        let mut values = BTreeMap::new();
        for name in names {
            let at = range.clone().find(|&at| self.tokens[at].text == name)?;
            values.insert(name.to_owned(), self.number_of_name(self.tokens[at].text)?);
        }
        expression.value(&values).ok()
    }

    fn number_of_name(&mut self, name: &'a str) -> Option<u32> {
        if let Some(known) = self.numbers.get(name) {
            return *known;
        }
        self.numbers.insert(name, None);
        let ranges = self.constants.get(name).cloned()?;
        let numbers: Option<Vec<u32>> = ranges.into_iter().map(|range| self.number_of(range)).collect();
        let most = numbers.and_then(|numbers| numbers.into_iter().max());
        self.numbers.insert(name, most);
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<TooMuch>) {
        assert_eq!(too_much(text).map(|(what, _)| what), expected, "{}", &text[..text.len().min(300)]);
    }

    fn doublings(first: &str, count: u32) -> String {
        (1..=count)
            .map(|i| format!("const a{i} = array(a{}, a{});\n", i - 1, i - 1))
            .fold(first.to_owned(), |a, b| a + &b)
    }

    #[test]
    fn constants_that_stand_for_many_values_are_too_much_and_tables_are_not() {
        let many = Some(TooMuch::Constants);
        check(&doublings("const a0 = array(1, 2);\n", 10), None);
        check(&doublings("const a0 = array(1, 2);\n", 24), many);
        check("const x = -array<i32, 500000000>();", many);
        check("const N = 0x10000u; const M = N * 64; const x = array<array<i32, N>, M>();", many);
        check("struct S { a: array<i32, 1024>, b: array<vec4<f32>, 1024> }\nconst x = S();", None);
        check("struct S { a: array<i32, 1024> } struct T { a: array<S, 1024> }\nconst x = T();", many);
        check("alias A = array<i32, 1 << 30>;\nconst x = A();", many);
        check("const x = -array<i32, 1 << 30>();", many);
        check("const N = array(1, 2); const x = -array<i32, N[u32(1>0)] * 1000000>();", many);
        check("const x = array<i32, (65536 >> 8) * 2>();", many);
        check("const x = array<array<i32, 4>, 4>(); const y = array<vec2<f32>, 8>();", None);
        check(&format!("const TABLE = array<f32, 4096>({});", "0.5, ".repeat(4096)), None);
        // Declared, not written out.
        check("alias A = array<f32, 100000000>; @group(0) @binding(0) var<storage> x: A;", None);
        check("var<workgroup> tile: array<array<f32, 64>, 64>;", None);
        // Numbers may be chained as long as one likes.
        let chain: String = (1..200).map(|i| format!("const c{i} = c{} + c{};", i - 1, i - 1)).collect();
        check(&format!("const c0 = 0;{chain}"), None);
        // A name that stands for itself.
        check("const a = array(a, a); fn f() { const b = a; }", many);
        check("const a = a;", None);
    }

    #[test]
    fn constants_count_as_often_as_they_are_used() {
        let uses = |count| {
            format!(
                "{} fn f() {{ {} }}",
                doublings("const a0 = array(1, 2);\n", 8),
                "let b = a8;".repeat(count)
            )
        };
        check(&uses(50), None);
        check(&uses(400), Some(TooMuch::Constants));
    }

    #[test]
    fn long_functions_are_too_much_and_long_modules_are_not() {
        let function = |count| format!("fn f() {{ {} }}\n", "y[0] += 1u;".repeat(count));
        check(&function(2000), None);
        check(&function(2000).repeat(5), None);
        check(&function(2100), Some(TooMuch::Function));
    }

    #[test]
    fn any_text_is_read() {
        for text in [
            "",
            "const",
            "const a =",
            "struct S {",
            "alias A = array<",
            "array<>()",
            "array<u32,>()",
            ">(<",
            "é = ಠ_ಠ;",
            "/*",
        ] {
            // Whatever it says, it says something.
            let _ = too_much(text);
        }
    }
}
