//! What must be known about WGSL text before naga may see it: its `enable` directives, and that it is not nested so deeply that a
//! recursive compiler runs out of stack.

use std::borrow::Cow;

/// The `enable` directives at the start of a module.
pub(crate) struct Extensions<'a> {
    /// Extension names with their byte offsets.
    pub(crate) enabled: Vec<(&'a str, usize)>,
    /// Byte ranges of the directives.
    directives: Vec<std::ops::Range<usize>>,
}

impl<'a> Extensions<'a> {
    /// Reads the directives of `text`. Malformed ones are left for naga to refuse.
    pub(crate) fn read(text: &'a str) -> Self {
        let mut found = Self { enabled: Vec::new(), directives: Vec::new() };
        let mut at = 0;
        loop {
            at = after_blanks(text, at);
            let rest = &text[at..];
            let word =
                &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())];
            if !matches!(word, "enable" | "requires" | "diagnostic") {
                return found;
            }
            let Some(length) = rest.find(';') else { return found };
            if word == "enable" {
                let mut offset = at + word.len();
                for part in rest[word.len()..length].split(',') {
                    let start = after_blanks(text, offset).min(offset + part.len());
                    let name = text[start..offset + part.len()].trim();
                    let name = &name
                        [..name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len())];
                    if !name.is_empty() {
                        found.enabled.push((name, start));
                    }
                    offset += part.len() + 1;
                }
                found.directives.push(at..at + length + 1);
            }
            at += length + 1;
        }
    }

    /// Whether the module enables `name`.
    pub(crate) fn enables(&self, name: &str) -> bool {
        self.enabled.iter().any(|(enabled, _)| *enabled == name)
    }

    /// The text in naga's dialect: naga 30 knows the subgroup functions but refuses `enable subgroups;`, which browsers demand.
    /// Everything else stays at its line and column.
    pub(crate) fn native(&self, text: &'a str) -> Cow<'a, str> {
        if !self.enables("subgroups") {
            return Cow::Borrowed(text);
        }
        let mut native = text.as_bytes().to_vec();
        for directive in &self.directives {
            let names: Vec<_> =
                self.enabled.iter().filter(|(_, at)| directive.contains(at)).map(|(name, _)| *name).collect();
            if !names.contains(&"subgroups") {
                continue;
            }
            for byte in &mut native[directive.clone()] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            if names.contains(&"f16") {
                // Not longer than what was there: `enable f16, subgroups;` or more.
                native[directive.start..directive.start + 11].copy_from_slice(b"enable f16;");
            }
        }
        Cow::Owned(String::from_utf8(native).expect("blanks replace whole directives"))
    }
}

/// Offset of the first byte from `at` on that is neither white space nor a comment.
pub(crate) fn after_blanks(text: &str, mut at: usize) -> usize {
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start_matches(is_blank);
        at += rest.len() - trimmed.len();
        if trimmed.starts_with("//") {
            at += line_comment_length(trimmed);
        } else if trimmed.starts_with("/*") {
            at += block_comment_length(trimmed);
        } else {
            return at;
        }
    }
}

/// What WGSL takes for white space: Unicode's Pattern_White_Space.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{9}'..='\u{d}' | ' ' | '\u{85}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
}

/// Length of the line comment that `text` starts with. Not only `\n` ends one: what hid behind another end would be read by the
/// compiler alone.
fn line_comment_length(text: &str) -> usize {
    text.find(|c| matches!(c, '\u{a}'..='\u{d}' | '\u{85}' | '\u{2028}' | '\u{2029}')).unwrap_or(text.len())
}

/// Length of the block comment that `text` starts with; they nest.
fn block_comment_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0usize, 0);
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Most operators that may be chained in one expression, all levels of parentheses together.
const OPERATORS_MAX: usize = 1000;
/// Most `else` branches in one module. A chain of them nests once per branch.
const ELSE_MAX: usize = 1000;

/// Where `text` nests deeper than a recursive compiler can follow, if anywhere. naga bounds parentheses and braces itself, but not
/// chains such as `a + a + …`, which are trees as deep as they are long.
pub(crate) fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut levels = vec![0usize];
    let mut operators = 0;
    let (mut elses, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += line_comment_length(&text[at..]);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at += block_comment_length(&text[at..]);
                continue;
            }
            b'(' => levels.push(0),
            b')' if levels.len() > 1 => operators -= levels.pop().unwrap_or(0),
            b',' => {
                if let Some(level) = levels.last_mut() {
                    operators -= std::mem::take(level);
                }
            }
            b';' | b'{' | b'}' => {
                levels = vec![0];
                operators = 0;
            }
            b'+' | b'-' | b'*' | b'/' | b'%' | b'&' | b'|' | b'^' | b'<' | b'>' | b'!' | b'~' | b'.'
            | b'[' | b'=' => {
                operators += 1;
                if let Some(level) = levels.last_mut() {
                    *level += 1;
                }
            }
            b'e' if bytes[at..].starts_with(b"else")
                && (at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')) =>
            {
                elses += 1;
            }
            _ => {}
        }
        if operators > OPERATORS_MAX || elses > ELSE_MAX {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Line and column of a byte offset, from 1, in characters.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (u32, u32) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    let column = before[line_start..].chars().count() + 1;
    (line as u32, column as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_past_comments() {
        let text = "// enable nothing;\n/* /* nested */ */ enable f16, subgroups;\nrequires x;\nenable a;\nfn f() {}";
        let names: Vec<_> = Extensions::read(text).enabled.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["f16", "subgroups", "a"]);
    }

    #[test]
    fn naga_never_sees_enable_subgroups_and_lines_stay() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Extensions::read(text).native(text), expected);
        };
        check("enable subgroups;\nfn f() {}", "                 \nfn f() {}");
        check(
            "enable\n subgroups, f16;fn f() {}",
            "enable f16;            fn f() {}"
                .replace("enable f16;            ", &format!("{:<23}", "enable f16;"))
                .as_str(),
        );
        check("enable f16;\nfn f() {}", "enable f16;\nfn f() {}");
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(line_and_column("a\n// ä b\n", "a\n// ä ".len()), (2, 6));
        assert_eq!(line_and_column("", 7), (1, 1));
    }

    #[test]
    fn long_chains_are_too_deep_and_long_tables_are_not() {
        assert!(too_deep(&format!("const x = 1{};", "+1".repeat(2000))).is_some());
        assert!(too_deep(&format!("fn f() {{ if a {{}}{} }}", " else if a {}".repeat(2000))).is_some());
        assert_eq!(too_deep(&format!("const x = array({});", "-1.5, ".repeat(20000))), None);
        assert_eq!(too_deep(&format!("// {}\nconst x = 1;", "+1".repeat(2000))), None);
        for end in ["\n", "\r", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}"] {
            assert!(too_deep(&format!("// a{end}const x = 1{};", "+1".repeat(2000))).is_some(), "{end:?}");
        }
    }
}
