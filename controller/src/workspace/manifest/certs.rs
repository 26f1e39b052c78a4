//! `certs` (`spec/behaviour.md` 2.5, `spec/decisions.md`).

use serde_json::Value;
use shared::{Code, Name};

use super::Manifest;
use crate::model::cert::{CertSpec, KeyKind};
use crate::workspace::json::Reader;

/// Longest common name that X.509 has room for.
const MAX_COMMON_NAME: usize = 64;

pub(super) fn read(reader: &mut Reader<'_>, manifest: &mut Manifest, job: &str, value: &Value) {
    for (name, value) in reader.object("certs", value).into_iter().flatten() {
        let key = format!("certs.{name}");
        let parsed: Option<Name> = reader.parsed(&key, &Value::from(name.as_str()));
        if name == "ca" {
            let problem = reader.problem(Code::InvalidName, &key, "certs/ca.crt is the bucket's authority");
            problem.remedy = Some("give the certificate another name".to_owned());
            continue;
        }
        let mut spec = CertSpec { pkcs8: false, one: false, common_name: job.to_owned(), key: KeyKind::default() };
        for (field, value) in reader.object(&key, value).into_iter().flatten() {
            let key = format!("{key}.{field}");
            match field.as_str() {
                "pkcs8" => flag(reader, &key, value, &mut spec.pkcs8),
                "one" => flag(reader, &key, value, &mut spec.one),
                "key" => match value.as_str() {
                    Some("ecdsa") => spec.key = KeyKind::Ecdsa,
                    Some("rsa") => spec.key = KeyKind::Rsa,
                    _ => reader.expected(&key, "\"ecdsa\" or \"rsa\"", value),
                },
                "subject" => {
                    for (field, value) in reader.object(&key, value).into_iter().flatten() {
                        let key = format!("{key}.{field}");
                        match field.as_str() {
                            "common_name" => match value.as_str().map(str::trim) {
                                Some("") => {}
                                Some(text) if text.len() <= MAX_COMMON_NAME && !text.contains(char::is_control) => {
                                    spec.common_name = text.to_owned();
                                }
                                _ => reader.expected(&key, "a text of at most 64 characters", value),
                            },
                            unknown => reader.unknown(&key, unknown, &["common_name"]),
                        }
                    }
                }
                unknown => reader.unknown(&key, unknown, &["pkcs8", "one", "key", "subject"]),
            }
        }
        manifest.certs.extend(parsed.map(|name| (name, spec)));
    }
}

fn flag(reader: &mut Reader<'_>, key: &str, value: &Value, into: &mut bool) {
    match value.as_bool() {
        Some(flag) => *into = flag,
        None => reader.expected(key, "true or false", value),
    }
}
