//! Reading JSON whose every mistake is to be reported, with its place: a document is parsed to a tree,
//! and the tree is walked field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use shared::text::closest;
use shared::{Code, Diagnostic};

/// One file's problems, as they are found.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The file, as the user knows it.
    pub file: &'a str,
    /// What was found so far.
    pub problems: Vec<Diagnostic>,
    /// Older words that were used, each with the one that took its place.
    pub older: BTreeMap<&'static str, &'static str>,
}

impl<'a> Reader<'a> {
    /// Nothing found yet.
    pub fn new(file: &'a str) -> Self {
        Self { file, problems: Vec::new(), older: BTreeMap::new() }
    }

    /// The document; `None`, and a problem with line and column, when it is no JSON.
    pub fn parse(&mut self, text: &str) -> Option<Value> {
        match serde_json::from_str(text) {
            Ok(value) => Some(value),
            Err(error) => {
                let what = error.to_string();
                let what = what.split(" at line").next().unwrap_or(&what).to_owned();
                let place = format!("{}:{}:{}", self.file, error.line(), error.column());
                self.problems.push(Diagnostic::new(Code::Syntax, format!("this is no JSON: {what}")).at(place));
                None
            }
        }
    }

    /// A problem at `key`.
    pub fn problem(&mut self, code: Code, key: &str, message: impl Into<String>) -> &mut Diagnostic {
        let at = if key.is_empty() { self.file.to_owned() } else { format!("{} {key}", self.file) };
        self.problems.push(Diagnostic::new(code, message).at(at));
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    /// The value is not what the field takes.
    pub fn expected(&mut self, key: &str, what: &str, found: &Value) {
        let found = match found {
            Value::Null => "null".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
            other => shared::text::clean(&other.to_string()),
        };
        self.problem(Code::InvalidValue, key, format!("expected {what}, found {found}"));
    }

    /// The object at `key`, or a problem.
    pub fn object<'v>(&mut self, key: &str, value: &'v Value) -> Option<&'v Map<String, Value>> {
        if value.as_object().is_none() {
            self.expected(key, "an object", value);
        }
        value.as_object()
    }

    /// A field that there is not.
    pub fn unknown(&mut self, key: &str, field: &str, known: &[&str]) {
        let close = closest(field, known.iter().copied());
        let problem = self.problem(Code::UnknownField, key, format!("there is no field {field:?} here"));
        problem.remedy = Some(match close {
            Some(close) => format!("did you mean {close:?}?"),
            None => format!("the fields are {}", known.join(", ")),
        });
    }

    /// An older word was used, which keeps working.
    pub fn older(&mut self, word: &'static str, now: &'static str) {
        self.older.insert(word, now);
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: &Value) -> Option<String> {
        if value.as_str().is_none() {
            self.expected(key, "a text in quotes", value);
        }
        value.as_str().map(str::to_owned)
    }

    /// A whole number between `min` and `max`.
    pub fn number(&mut self, key: &str, value: &Value, min: u64, max: u64) -> Option<u64> {
        let number = value.as_u64().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.expected(key, &format!("a whole number from {min} to {max}"), value);
        }
        number
    }

    /// A value that parses, such as a name.
    pub fn parsed<T: std::str::FromStr>(&mut self, key: &str, value: &Value) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(key, value)?;
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let error: T::Err = error;
                let lower = text.to_lowercase();
                let problem = self.problem(Code::InvalidName, key, error.to_string());
                if lower.parse::<T>().is_ok() {
                    problem.remedy = Some(format!("write it in lower case: {lower:?}"));
                }
                None
            }
        }
    }
}

/// A TOML document, or the place where it is none.
pub fn toml(file: &str, text: &str) -> Result<toml::Table, Vec<Diagnostic>> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let what = error.message().lines().next().unwrap_or_default().to_owned();
        vec![Diagnostic::new(Code::Syntax, format!("this is no TOML: {what}")).at(format!("{file}:{line}"))]
    })
}

/// A flat TOML table: texts, numbers and booleans by key. `within` names the table in problems.
pub fn flat(file: &str, within: &str, table: &toml::Table) -> Result<BTreeMap<String, String>, Vec<Diagnostic>> {
    let mut found = BTreeMap::new();
    let mut problems = Vec::new();
    for (key, value) in table {
        let place = if within.is_empty() { key.clone() } else { format!("{within}.{key}") };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => {
                let problem = Diagnostic::new(Code::InvalidValue, format!("{key} is neither text nor number"));
                problems.push(problem.at(format!("{file} {place}")).remedy("put it in quotes"));
                continue;
            }
        };
        found.insert(key.clone(), text);
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// The flat TOML files.
pub fn flat_toml(file: &str, text: &str) -> Result<BTreeMap<String, String>, Vec<Diagnostic>> {
    flat(file, "", &toml(file, text)?)
}
