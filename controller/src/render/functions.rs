//! The functions of templates (`spec/behaviour.md` 7) that need no key-values.

use minijinja::{Environment, Error, ErrorKind, Value};

fn whole(value: &Value) -> Result<i64, Error> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let parsed = value.as_str().and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{value} is no whole number")))
}

/// Adds them.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_function("split", |text: String, separator: String| -> Vec<String> {
        text.split(&separator).map(str::to_owned).collect()
    });
    environment.add_function("join", |items: Vec<String>, separator: String| items.join(&separator));
    environment.add_function("trim", |text: String| text.trim().to_owned());
    environment.add_function("upper", |text: String| text.to_uppercase());
    environment.add_function("lower", |text: String| text.to_lowercase());
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
