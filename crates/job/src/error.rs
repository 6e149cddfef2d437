//! Errors of a job file: where in the text, what, and what to do about it.

use std::{error::Error as StdError, fmt, ops::Range};

/// What is wrong with a job file or with a file that it names. Displays the place in the text with a caret under it.
#[derive(Debug)]
pub struct JobError(Box<Parts>);

#[derive(Debug)]
struct Parts {
    code: Code,
    file: String,
    line: u32,
    column: u32,
    /// The whole line of the text, and how many characters of it are meant.
    quoted: String,
    width: usize,
    message: String,
    fix: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What kind of mistake it is; stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Not TOML.
    Syntax,
    /// A key that does not exist.
    UnknownKey,
    /// A key that must be there.
    MissingKey,
    /// A value that does not fit its key, or the rest of the job.
    Value,
    /// A file that cannot be read or decoded.
    File,
    /// Larger than a bound of this crate.
    Limit,
}

impl Code {
    /// The code as a text, such as `job_file_syntax`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "job_file_syntax",
            Self::UnknownKey => "job_file_unknown_key",
            Self::MissingKey => "job_file_missing_key",
            Self::Value => "job_file_value",
            Self::File => "job_file_input",
            Self::Limit => "job_file_limit",
        }
    }
}

impl JobError {
    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The job file's name as the caller gave it.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.0.line
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> u32 {
        self.0.column
    }

    /// What is wrong, in one sentence without its place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it.
    pub fn fix(&self) -> Option<&str> {
        self.0.fix.as_deref()
    }
}

/// A mistake that the TOML reader found in any file of ours, in the words of this crate: an unknown key with the nearest right
/// one, say.
pub fn toml_mistake(file: &str, text: &str, error: &toml::de::Error) -> JobError {
    Fault::from_toml(error, text).locate(file, text)
}

/// A key at `span` of `text` that is none of `known`.
pub fn unknown_key(file: &str, text: &str, span: Range<usize>, found: &str, known: &[String]) -> JobError {
    let fault = Fault::new(Code::UnknownKey, span, format!("there is no key \"{found}\" here"));
    fault.fix(suggestion(found, known)).locate(file, text)
}

/// A value at `span` of `text` that its key does not take.
pub fn wrong_value(file: &str, text: &str, span: Range<usize>, message: String) -> JobError {
    Fault::new(Code::Value, span, message).locate(file, text)
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { file, line, column, quoted, width, message, fix, .. } = &*self.0;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{file}:{line}:{column}: {message}")?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {quoted}")?;
        write!(f, "{margin} | {}{}", " ".repeat(*column as usize - 1), "^".repeat((*width).max(1)))?;
        match fix {
            Some(fix) => write!(f, "\n{margin} = help: {fix}"),
            None => Ok(()),
        }
    }
}

impl StdError for JobError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A mistake before it is known in which text it lies.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) fix: Option<String>,
    pub(crate) source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Fault {
    pub(crate) fn new(code: Code, span: Range<usize>, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { code, span, message: message.into(), fix: None, source: None })
    }

    pub(crate) fn fix(mut self: Box<Self>, fix: impl Into<String>) -> Box<Self> {
        self.fix = Some(fix.into());
        self
    }

    pub(crate) fn caused_by(mut self: Box<Self>, source: impl StdError + Send + Sync + 'static) -> Box<Self> {
        self.source = Some(Box::new(source));
        self
    }

    /// The error in `text`, the content of `file`.
    pub(crate) fn locate(self, file: &str, text: &str) -> JobError {
        let start = floor_char(text, self.span.start);
        let end = floor_char(text, self.span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let quoted = text[line_start..line_end].trim_end_matches('\r');
        let before = text[line_start..start].chars().count();
        let width = text[start..end.min(line_end)].trim_end().chars().count();
        JobError(Box::new(Parts {
            code: self.code,
            file: file.to_owned(),
            line: count(text[..start].matches('\n').count() + 1),
            column: count(before + 1),
            // A tab would move the caret.
            quoted: quoted.replace('\t', " "),
            width,
            message: self.message,
            fix: self.fix,
            source: self.source,
        }))
    }

    /// The same mistake as the TOML reader words it, in our words.
    pub(crate) fn from_toml(error: &toml::de::Error, text: &str) -> Box<Self> {
        let span = error.span().unwrap_or(0..0);
        let message = error.message();
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let found = quoted.first().copied().unwrap_or_default();
        let known = quoted.get(1..).unwrap_or_default();
        if message.starts_with("unknown field") {
            let fault = Self::new(Code::UnknownKey, span, format!("there is no key \"{found}\" here"));
            return fault.fix(suggestion(found, known));
        }
        if message.starts_with("missing field") {
            return Self::new(
                Code::MissingKey,
                header_of(text, span),
                format!("the key \"{found}\" is missing"),
            );
        }
        if message.starts_with("unknown variant") {
            let fault =
                Self::new(Code::Value, span, format!("\"{found}\" is not one of the values of this key"));
            return fault.fix(suggestion(found, known));
        }
        // Types and values come from serde; everything else is the TOML grammar.
        let is_value = ["invalid type", "invalid value", "invalid length"]
            .iter()
            .any(|start| message.starts_with(start));
        let code = if is_value { Code::Value } else { Code::Syntax };
        Self::new(code, span, message.replace('\n', ", "))
    }
}

/// The first line of a table that lacks something, rather than all of it.
fn header_of(text: &str, span: Range<usize>) -> Range<usize> {
    let start = floor_char(text, span.start);
    let length = text[start..].find('\n').unwrap_or(text.len() - start);
    start..span.end.min(start + length)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn floor_char(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// "did you mean …" when one of `known` is close to `found`, and otherwise all of them.
pub(crate) fn suggestion(found: &str, known: &[impl AsRef<str>]) -> String {
    let nearest = known.iter().map(AsRef::as_ref).min_by_key(|name| distance(found, name));
    match nearest {
        Some(name) if distance(found, name) <= (found.chars().count() / 3).max(1) => {
            format!("did you mean \"{name}\"?")
        }
        Some(_) => {
            let names: Vec<String> = known.iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
            format!("there is {}", names.join(", "))
        }
        None => "there is nothing to name here".to_owned(),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours between two names (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        best = best.min(rows[i - 2][j - 2] + 1);
                    }
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_counted_in_lines_and_characters() {
        let text = "a = 1\nñame = 2\r\nlast";
        let at = |range| Fault::new(Code::Value, range, "no").fix("yes").locate("job.toml", text);
        let error = at(7..12);
        assert_eq!((error.line(), error.column()), (2, 1), "a byte in mid-character counts for its start");
        assert_eq!(at(9..11).to_string(), "job.toml:2:3: no\n  |\n2 | ñame = 2\n  |   ^^\n  = help: yes");
        let end = at(99..120);
        assert_eq!((end.line(), end.column()), (3, 5));
    }

    #[test]
    fn the_nearest_name_is_suggested_and_otherwise_all() {
        let known = ["file", "entry", "overrides"];
        assert_eq!(suggestion("fiel", &known), "did you mean \"file\"?");
        assert_eq!(suggestion("override", &known), "did you mean \"overrides\"?");
        assert_eq!(suggestion("budget", &known), "there is \"file\", \"entry\", \"overrides\"");
    }
}
