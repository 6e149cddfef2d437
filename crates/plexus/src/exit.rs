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
  PLEXUS_WALLET   the wallet's file
  PLEXUS_ADAPTER  the GPU of a worker: a part of its name, or its number in `plexus device`
  PLEXUS_LOG      what is logged to standard error, such as `info` or `worker=debug`
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
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(text: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, code: "failed".to_owned(), text: text.into(), fix: String::new() }
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

    /// Prints it to standard error.
    pub fn print(&self, json: bool) {
        if json {
            let error =
                serde_json::json!({ "error": { "code": self.code, "detail": self.text, "fix": self.fix } });
            say::err(&error.to_string());
            return;
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
            }
            Error::Answer { .. } => {
                Self::new(text).fix("check that this is the address of a plexus market of this version")
            }
            _ => Self::new(text),
        }
    }
}
