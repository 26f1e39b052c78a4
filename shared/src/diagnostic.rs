//! One problem as its user sees it: what, where, why, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Code;

/// A problem. [`fmt::Display`] prints the form that both programs print:
///
/// ```text
/// error[MD0042]: template reads a key that does not exist: "db_host" in vars/job/api
///   at workspace/jobs/api/app.conf.j2:7
///   keys there: db_name, db_user
///   do: add it to vars.toml, write it in a pre_deploy hook, or read it with get_optional
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The class.
    pub code: Code,
    /// What is wrong, with its operands; one line, no full stop.
    pub message: String,
    /// Where: a file, with `:line` or ` key path` behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Causes and context, a line each; an output's tail may be several lines in one note.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What to do.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Diagnostic {
    /// A problem that is nothing but its message so far.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), at: None, notes: Vec::new(), remedy: None }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.at = Some(place.to_string());
        self
    }

    /// Adds a line of context.
    #[must_use]
    pub fn note(mut self, note: impl fmt::Display) -> Self {
        self.notes.push(note.to_string());
        self
    }

    /// Adds the chain of causes below `error`, itself included, as one note: `a: b: c`.
    #[must_use]
    pub fn cause(self, error: &dyn std::error::Error) -> Self {
        let note = chain(error);
        self.note(note)
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, text: impl fmt::Display) -> Self {
        self.remedy = Some(text.to_string());
        self
    }
}

/// `error` and its sources on one line, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if let Some(at) = &self.at {
            write!(f, "\n  at {at}")?;
        }
        for note in &self.notes {
            for line in note.lines() {
                write!(f, "\n  {line}")?;
            }
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  do: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_why_and_what_to_do() {
        let problem =
            Diagnostic::new(Code::TemplateKey, "template reads a key that does not exist: \"x\" in vars/job/api")
                .at("workspace/jobs/api/app.conf.j2:7")
                .note("keys there: db_name, db_user")
                .remedy("read it with get_optional");
        assert_eq!(
            problem.to_string(),
            "error[MD0042]: template reads a key that does not exist: \"x\" in vars/job/api\n\
             \x20 at workspace/jobs/api/app.conf.j2:7\n\
             \x20 keys there: db_name, db_user\n\
             \x20 do: read it with get_optional"
        );
        assert_eq!(serde_json::to_value(&problem).unwrap()["do"], "read it with get_optional");
    }
}
