//! The operator's files: mistakes in them are said, whatever they are.

use ::controller::workspace::{Raw, RawFile, RawJob, parse, spans};
use shared::BlobDigest;

/// One document of an otherwise good workspace; the first byte says which.
pub(super) fn workspace(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let mut raw = good();
    let job = raw.jobs.get_mut("api").unwrap();
    let text = text.to_owned();
    match which {
        b'm' => job.manifest = text,
        b'v' => job.vars = Some(text),
        b'w' => raw.workers = Some(text),
        b'd' => raw.disabled = Some(text),
        b'b' => raw.bucket_conf = Some(text),
        b'o' => raw.overrides = Some(("workspace/bucket.jobs.conf".to_owned(), Some(text))),
        b's' => return spans_of(&text),
        _ => return,
    }
    let parsed = parse::parse(&raw);
    for problem in &parsed.problems {
        assert!(!problem.to_string().is_empty());
    }
    if parsed.problems.is_empty() {
        assert_eq!(parsed, parse::parse(&raw));
    }
}

fn good() -> Raw {
    let file = |path: &str| RawFile { path: path.parse().unwrap(), mode: 0o644, len: 1, blob: BlobDigest::of(b"x") };
    let job = RawJob {
        manifest: r#"{"version":"1.0.0","selectors":["web"],"hooks":{"hook_a":{"executed_on":["pre_deploy"]}}}"#
            .to_owned(),
        vars: Some("db_name = \"x\"\n".to_owned()),
        files: ["Makefile", "manifest.json", "vars.toml", "_modules/hook_a.py", "app.conf.j2"].map(file).into(),
    };
    Raw {
        workers: Some(r#"[{"host":"10.0.0.1","labels":["web"],"memory":"1 gb","cpu":"1 ghz"}]"#.to_owned()),
        bucket_conf: Some("port_min = 30000\n".to_owned()),
        overrides: None,
        disabled: Some(r#"{"jobs":{},"workers":[]}"#.to_owned()),
        jobs: [("api".to_owned(), job)].into(),
    }
}

/// workers.json as it is edited in place.
fn spans_of(text: &str) {
    let Some(list) = spans::document(text) else { return };
    let Some(all) = spans::elements(text, &list) else { return };
    for of in &all {
        let Some(edits) = spans::set(text, of, &[("memory", "\"5 mb\"".to_owned()), ("cpu", "1".to_owned())]) else {
            continue;
        };
        let after = spans::apply(text, &edits);
        if serde_json::from_str::<serde_json::Value>(text).is_ok() {
            assert!(serde_json::from_str::<serde_json::Value>(&after).is_ok(), "{text:?} became {after:?}");
        }
        drop(spans::hunks(text, &edits));
    }
}

/// maand.conf and agent.toml.
pub(super) fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match ::controller::config::Settings::parse(text) {
        Ok(settings) => assert!(settings.advertised().starts_with("https://")),
        Err(problems) => assert!(!problems.is_empty()),
    }
    let config: Result<::agent::config::Config, _> =
        ::agent::config::Config::parse(text, std::path::Path::new("agent.toml"));
    if let Err(problem) = config {
        assert!(!problem.to_string().is_empty());
    }
}
