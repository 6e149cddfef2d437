//! Dispatch expressions: how many workgroups, as a function of the overrides a device chose.
//!
//! Grammar: unsigned integers, override names, `+ - * /` (division rounds down), `ceil(a / b)`, `min(a, b)`, `max(a, b)` and
//! parentheses. All arithmetic is checked; a result must fit 32 bits.

use std::collections::BTreeMap;

/// A parsed dispatch expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression(Node);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Number(u64),
    Name(String),
    Binary(Operator, Box<Node>, Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    CeilDivide,
    Min,
    Max,
}

/// Why an expression has no value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExpressionError {
    /// The text does not follow the grammar.
    #[error("{message} at character {position} of {text:?}")]
    Syntax {
        /// What was expected.
        message: &'static str,
        /// Where, from 1.
        position: usize,
        /// The whole text.
        text: String,
    },
    /// A name that no kernel of the pass overrides.
    #[error("{0:?} is not an override of this pass's kernel")]
    UnknownName(String),
    /// A division by zero, a negative difference or an overflow.
    #[error("the value leaves the range of a 32-bit count")]
    OutOfRange,
}

/// Longest text that is parsed, which also bounds the depth of recursion.
const TEXT_LENGTH_MAX: usize = 200;

impl Expression {
    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut parser = Parser { text, bytes: text.as_bytes(), at: 0 };
        if text.len() > TEXT_LENGTH_MAX {
            return Err(parser.error("the expression is longer than 200 characters"));
        }
        let node = parser.sum()?;
        parser.skip_spaces();
        if parser.at < parser.bytes.len() {
            return Err(parser.error("expected an operator or the end"));
        }
        Ok(Self(node))
    }

    /// The value with these overrides.
    pub fn value(&self, overrides: &BTreeMap<String, u32>) -> Result<u32, ExpressionError> {
        let value = evaluate(&self.0, overrides)?;
        u32::try_from(value).map_err(|_| ExpressionError::OutOfRange)
    }

    /// The override names that occur.
    pub fn names(&self) -> Vec<&str> {
        fn collect<'a>(node: &'a Node, names: &mut Vec<&'a str>) {
            match node {
                Node::Number(_) => {}
                Node::Name(name) => names.push(name),
                Node::Binary(_, a, b) => {
                    collect(a, names);
                    collect(b, names);
                }
            }
        }
        let mut names = Vec::new();
        collect(&self.0, &mut names);
        names
    }
}

fn evaluate(node: &Node, overrides: &BTreeMap<String, u32>) -> Result<u64, ExpressionError> {
    let (operator, a, b) = match node {
        Node::Number(n) => return Ok(*n),
        Node::Name(name) => {
            let value = overrides.get(name).ok_or_else(|| ExpressionError::UnknownName(name.clone()))?;
            return Ok(u64::from(*value));
        }
        Node::Binary(operator, a, b) => (operator, evaluate(a, overrides)?, evaluate(b, overrides)?),
    };
    let value = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide => a.checked_div(b),
        Operator::CeilDivide => (b != 0).then(|| a.div_ceil(b)),
        Operator::Min => Some(a.min(b)),
        Operator::Max => Some(a.max(b)),
    };
    // Bounding every step to 2⁵³ keeps the TypeScript twin exact.
    value.filter(|v| *v < 1 << 53).ok_or(ExpressionError::OutOfRange)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn error(&self, message: &'static str) -> ExpressionError {
        ExpressionError::Syntax {
            message,
            position: self.at + 1,
            text: self.text.chars().take(TEXT_LENGTH_MAX).collect(),
        }
    }

    fn skip_spaces(&mut self) {
        while self.bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.skip_spaces();
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, message: &'static str) -> Result<(), ExpressionError> {
        if self.eat(byte) { Ok(()) } else { Err(self.error(message)) }
    }

    fn sum(&mut self) -> Result<Node, ExpressionError> {
        let mut left = self.product()?;
        loop {
            let operator = match () {
                () if self.eat(b'+') => Operator::Add,
                () if self.eat(b'-') => Operator::Subtract,
                () => return Ok(left),
            };
            left = Node::Binary(operator, left.into(), self.product()?.into());
        }
    }

    fn product(&mut self) -> Result<Node, ExpressionError> {
        let mut left = self.atom()?;
        loop {
            let operator = match () {
                () if self.eat(b'*') => Operator::Multiply,
                () if self.eat(b'/') => Operator::Divide,
                () => return Ok(left),
            };
            left = Node::Binary(operator, left.into(), self.atom()?.into());
        }
    }

    fn atom(&mut self) -> Result<Node, ExpressionError> {
        self.skip_spaces();
        let start = self.at;
        match self.bytes.get(self.at) {
            Some(b'(') => {
                self.at += 1;
                let node = self.sum()?;
                self.expect(b')', "expected \")\"")?;
                Ok(node)
            }
            Some(b'0'..=b'9') => {
                while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
                    self.at += 1;
                }
                let number: u32 =
                    self.text[start..self.at].parse().map_err(|_| ExpressionError::OutOfRange)?;
                Ok(Node::Number(number.into()))
            }
            Some(b'A'..=b'Z' | b'a'..=b'z' | b'_') => {
                while self.bytes.get(self.at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
                    self.at += 1;
                }
                let name = &self.text[start..self.at];
                if !self.eat(b'(') {
                    return Ok(Node::Name(name.to_owned()));
                }
                self.call(name, start)
            }
            _ => Err(self.error("expected a number, a name or \"(\"")),
        }
    }

    /// The rest of a function call after its opening parenthesis.
    fn call(&mut self, name: &str, start: usize) -> Result<Node, ExpressionError> {
        let operator = match name {
            "ceil" => {
                // `ceil(a / b)`: the outermost operator of the argument must be a division.
                let argument = self.sum()?;
                self.expect(b')', "expected \")\"")?;
                let Node::Binary(Operator::Divide, a, b) = argument else {
                    self.at = start;
                    return Err(self.error("ceil takes a division, as in ceil(a / b),"));
                };
                return Ok(Node::Binary(Operator::CeilDivide, a, b));
            }
            "min" => Operator::Min,
            "max" => Operator::Max,
            _ => {
                self.at = start;
                return Err(self.error("unknown function (there are ceil, min and max)"));
            }
        };
        let a = self.sum()?;
        self.expect(b',', "expected \",\"")?;
        let b = self.sum()?;
        self.expect(b')', "expected \")\"")?;
        Ok(Node::Binary(operator, a.into(), b.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<u32, ExpressionError> {
        let overrides = BTreeMap::from([("TILE".to_owned(), 8), ("WG".to_owned(), 64)]);
        Expression::parse(text)?.value(&overrides)
    }

    #[test]
    fn expressions_have_their_values() {
        for (text, expected) in [
            ("7", 7),
            ("ceil(65/TILE)", 9),
            ("64 / TILE", 8),
            ("2 + 3 * 4", 14),
            ("(2 + 3) * 4", 20),
            ("10 - 2 - 3", 5),
            ("max(1, min(WG, 9))", 9),
            ("ceil((64 * 3) / (TILE + 1))", 22),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        assert!(matches!(value("2 +"), Err(ExpressionError::Syntax { position: 4, .. })));
        assert!(matches!(value("ceil(3)"), Err(ExpressionError::Syntax { .. })));
        assert!(matches!(value("sin(3)"), Err(ExpressionError::Syntax { .. })));
        assert!(matches!(value("1 2"), Err(ExpressionError::Syntax { position: 3, .. })));
        assert!(matches!(value(&"(".repeat(300)), Err(ExpressionError::Syntax { .. })));
        assert_eq!(value("N"), Err(ExpressionError::UnknownName("N".into())));
        for text in
            ["1 / 0", "ceil(1 / 0)", "1 - 2", "4294967295 + 1", "99999999999", "4294967295 * 4294967295"]
        {
            assert_eq!(value(text), Err(ExpressionError::OutOfRange), "{text}");
        }
    }
}
