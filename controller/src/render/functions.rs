//! The functions of templates (`spec/behaviour.md` 7) that need no key-values. The library counts what they return;
//! what they take meanwhile is counted here, and before it is taken: one step is 64 bytes.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Longest text that is made of a value which is none, bytes.
const SHOWN: usize = 64 << 10;
/// Bytes of one step.
const STEP: usize = 64;

/// Text that grows no longer than it may.
struct Short(String);

impl std::fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > SHOWN {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// A value as text. A list is written out: it may be short and its text without end, as a list has one text in many
/// places.
fn text(value: &Value) -> Result<Cow<'_, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.into());
    }
    let mut short = Short(String::new());
    write!(short, "{value}").map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("this {} is too long to be used as text", value.kind()))
    })?;
    Ok(short.0.into())
}

/// Pays for `bytes` that are about to be taken.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / STEP) as u64)
}

fn whole(value: &Value) -> Result<i64, Error> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let parsed = value.as_str().and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| {
        let said = text(value).unwrap_or_else(|_| format!("this {}", value.kind()).into());
        let said: String = said.chars().take(80).collect();
        Error::new(ErrorKind::InvalidOperation, format!("{said} is no whole number"))
    })
}

fn split(state: &State<'_, '_>, from: &Value, separator: &Value) -> Result<Vec<Value>, Error> {
    let (from, separator) = (text(from)?, text(separator)?);
    let pieces = from.matches(&*separator).count() + 1;
    pay(state, from.len().saturating_add(pieces.saturating_mul(STEP)))?;
    Ok(from.split(&*separator).map(Value::from).collect())
}

fn join(state: &State<'_, '_>, items: &Value, separator: &Value) -> Result<String, Error> {
    let separator = text(separator)?;
    let mut joined = String::new();
    for (at, item) in items.try_iter()?.enumerate() {
        let item = text(&item)?.into_owned();
        let before = if at == 0 { "" } else { &*separator };
        pay(state, item.len() + before.len() + STEP)?;
        joined.push_str(before);
        joined.push_str(&item);
    }
    Ok(joined)
}

/// Adds them.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_function("split", split);
    environment.add_function("join", join);
    // The library's own counts no text but the separators.
    environment.add_filter("join", |state: &State<'_, '_>, items: &Value, separator: Option<&Value>| {
        join(state, items, separator.unwrap_or(&Value::from("")))
    });
    for (name, apply) in [
        ("trim", (|text| text.trim().to_owned()) as fn(&str) -> String),
        ("upper", |text| text.to_uppercase()),
        ("lower", |text| text.to_lowercase()),
    ] {
        environment.add_function(name, move |state: &State<'_, '_>, value: &Value| -> Result<String, Error> {
            let text = text(value)?;
            pay(state, text.len())?;
            Ok(apply(&text))
        });
    }
    for (name, apply) in [
        ("add", i64::checked_add as fn(i64, i64) -> Option<i64>),
        ("sub", i64::checked_sub),
        ("mul", i64::checked_mul),
        ("div", i64::checked_div),
    ] {
        environment.add_function(name, move |a: Value, b: Value| -> Result<i64, Error> {
            let (a, b) = (whole(&a)?, whole(&b)?);
            apply(a, b)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{name} of {a} and {b} has no result")))
        });
    }
    environment.add_function("int", |value: Value| whole(&value));
    environment.add_function("min", |a: Value, b: Value| -> Result<i64, Error> { Ok(whole(&a)?.min(whole(&b)?)) });
    environment.add_function("max", |a: Value, b: Value| -> Result<i64, Error> { Ok(whole(&a)?.max(whole(&b)?)) });
}
