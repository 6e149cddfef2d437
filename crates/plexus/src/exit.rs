//! How the command ends: exit codes, and errors with what to do next.

use std::process::ExitCode;

use client::Error;

use crate::say;

/// The exit codes, at the end of `plexus --help`. Code 2 is clap's.
pub const HELP: &str = "Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  the job ended cancelled or incomplete, or is not done yet
  4  the market does not answer
  5  the market refused
  6  there is no usable GPU

Environment:
  PLEXUS_MARKET   the market's address
  PLEXUS_CA       a PEM file with certificate authorities to trust instead of the system's
  PLEXUS_WALLET   the wallet's file
  PLEXUS_ADAPTER  the GPU of a worker: a part of its name, or its number in `plexus device`
  PLEXUS_CONFIG   the file with the settings of `plexus up`
  PLEXUS_LOG      what is logged to standard error, such as `info` or `plexus_worker=debug`
  PLEXUS_LOG_FORMAT  `text` or `json`
  NO_COLOR        no colours";

/// An exit code other than 0 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Failed.
    Failed = 1,
    /// The job did not end well, or not yet.
    JobUnfinished = 3,
    /// The market does not answer.
    Unreachable = 4,
    /// The market refused.
    Refused = 5,
    /// There is no usable GPU.
    NoDevice = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

/// Why a command failed, in words.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// A stable code, where there is one.
    code: String,
    /// What happened.
    text: String,
    /// What to do next.
    fix: String,
    /// Where in the input, for scripts; the text says it to people.
    place: Box<Place>,
}

/// Where in the input something is wrong.
#[derive(Debug, Default, serde::Serialize)]
pub struct Place {
    /// The file, where it is one of the caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The field of the request or the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in that line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(text: impl Into<String>) -> Self {
        let (text, code) = (text.into(), "failed".to_owned());
        Self { exit: Exit::Failed, code, text, fix: String::new(), place: Box::default() }
    }

    /// Other words for what happened.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// Says what to do next.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Another exit code.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// A stable code for scripts.
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    /// Where in the input it is.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Box::new(place);
        self
    }

    /// As `--json` prints it.
    pub fn to_json(&self) -> serde_json::Value {
        let mut error = serde_json::to_value(&self.place).unwrap_or_default();
        error["code"] = self.code.as_str().into();
        error["detail"] = self.text.as_str().into();
        error["fix"] = self.fix.as_str().into();
        serde_json::json!({ "error": error })
    }

    /// Prints it to standard error.
    pub fn print(&self, json: bool) {
        if json {
            return say::err(&self.to_json().to_string());
        }
        say::err(&format!("{} {}", say::red("error:"), self.text));
        if !self.fix.is_empty() {
            say::err(&format!("  {} {}", say::bold("next:"), self.fix));
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        if error.is_untrusted() {
            return Self::new(text).exit(Exit::Unreachable).code("market_untrusted").fix(
                "name the certificate authority of the market with --ca FILE, and reach it by a name in its certificate",
            );
        }
        match error {
            Error::Unreachable { .. } => Self::new(text)
                .exit(Exit::Unreachable)
                .code("market_unreachable")
                .fix("start a market with `plexus up`, or name another one with --market"),
            Error::Problem(problem) => {
                let place = match (&problem.field, problem.line, problem.column) {
                    (Some(field), Some(line), Some(column)) => {
                        format!("{field}, line {line}, column {column}: ")
                    }
                    (Some(field), ..) => format!("{field}: "),
                    _ => String::new(),
                };
                Self::new(format!("{place}{}", problem.detail))
                    .exit(Exit::Refused)
                    .code(problem.code)
                    .fix(problem.fix)
                    .at(Place {
                        file: None,
                        field: problem.field,
                        line: problem.line,
                        column: problem.column,
                    })
            }
            Error::Answer { .. } => {
                Self::new(text).fix("check that this is the address of a plexus market of this version")
            }
            _ => Self::new(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_hears_where_the_problem_is() {
        let mut problem = api::Problem::new(api::code::REQUEST_INVALID, "no such type", "take f32");
        let said = |problem: &api::Problem| {
            let failure = Failure::from(Error::Problem(Box::new(problem.clone())));
            failure.to_json()["error"].clone()
        };
        let detail =
            serde_json::json!({"code": "request_invalid", "detail": "no such type", "fix": "take f32"});
        assert_eq!(said(&problem), detail);
        problem.field = Some("manifest".to_owned());
        (problem.line, problem.column) = (Some(3), Some(7));
        let error = said(&problem);
        assert_eq!(
            (&error["field"], &error["line"], &error["column"]),
            (&"manifest".into(), &3.into(), &7.into())
        );
    }
}
