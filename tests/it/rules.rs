//! Every rule of a workspace, with the whole message that breaking it gets: the table is `rules.txt`.
//! `MAAND_BLESS=1` writes the messages anew, to be read before they are committed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use controller::build;
use controller::model::Snapshot;
use controller::workspace::{Raw, RawFile, RawJob, parse};
use shared::{BlobDigest, BucketId, WorkerId};
use uuid::Uuid;

const TABLE: &str = include_str!("rules.txt");

/// One case: what is broken, the files, the messages.
struct Case {
    title: String,
    files: BTreeMap<String, String>,
    expected: String,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in TABLE.lines() {
        if let Some(title) = line.strip_prefix("# ") {
            let defaults = [
                ("jobs/api/manifest.json", "{}"),
                ("jobs/api/Makefile", "start:\n"),
                ("workers.json", r#"[{"host": "w1", "labels": ["api"]}]"#),
            ];
            let files = defaults.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
            cases.push(Case { title: title.to_owned(), files, expected: String::new() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        if let Some((path, text)) = line.strip_prefix('@').map(|line| line.split_once(' ').unwrap_or((line, ""))) {
            case.files.insert(path.to_owned(), text.replace("\\n", "\n"));
        } else if let Some(path) = line.strip_prefix('-') {
            assert!(case.files.remove(path).is_some(), "{path}");
        } else if let Some(text) = line.strip_prefix('>') {
            writeln!(case.expected, "{}", text.strip_prefix(' ').unwrap_or(text)).unwrap();
        }
    }
    assert!(cases.len() > 70, "the table is read");
    cases
}

fn raw(files: &BTreeMap<String, String>) -> Raw {
    let mut raw = Raw {
        workers: files.get("workers.json").cloned(),
        bucket_conf: files.get("bucket.conf").cloned(),
        disabled: files.get("disabled.json").cloned(),
        ..Raw::default()
    };
    raw.overrides =
        files.get("bucket.jobs.conf").map(|text| ("workspace/bucket.jobs.conf".to_owned(), Some(text.clone())));
    for (path, text) in files {
        let Some((job, path)) = path.strip_prefix("jobs/").and_then(|path| path.split_once('/')) else { continue };
        let job: &mut RawJob = raw.jobs.entry(job.to_owned()).or_default();
        match path {
            "manifest.json" => job.manifest.clone_from(text),
            "vars.toml" => job.vars = Some(text.clone()),
            _ => {}
        }
        let blob = BlobDigest::of(text.as_bytes());
        job.files.push(RawFile { path: path.parse().unwrap(), mode: 0o644, len: text.len() as u64, blob });
    }
    raw
}

fn said(files: &BTreeMap<String, String>) -> String {
    let before = Snapshot {
        bucket_id: BucketId::from_uuid(Uuid::from_u128(1)),
        epoch: 1,
        update_seq: 0,
        built_at_ms: None,
        workers: vec![],
        jobs: vec![],
        allocations: vec![],
    };
    let mut ids = (1..).map(|n| WorkerId::from_uuid(Uuid::from_u128(n)));
    let (_, problems) = build::build(&parse::parse(&raw(files)), &before, &mut ids);
    problems.iter().fold(String::new(), |mut text, problem| {
        writeln!(text, "{problem}").unwrap();
        text
    })
}

#[test]
fn every_rule_says_what_where_and_what_to_do() {
    let cases = cases();
    if std::env::var_os("MAAND_BLESS").is_some() {
        return bless(&cases);
    }
    let mut wrong = Vec::new();
    for case in &cases {
        let said = said(&case.files);
        if said != case.expected {
            wrong.push(format!("# {}\nsaid:\n{said}expected:\n{}", case.title, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn twenty_mistakes_are_twenty_messages() {
    let cases = cases();
    let case = cases.iter().find(|case| case.title.starts_with("twenty mistakes")).unwrap();
    assert_eq!(case.expected.lines().filter(|line| line.starts_with("error[")).count(), 20, "{}", case.expected);
}

fn bless(cases: &[Case]) {
    let mut text = String::new();
    let mut cases = cases.iter();
    for line in TABLE.lines().filter(|line| !line.starts_with('>')) {
        if line.is_empty() && text.ends_with("\n\n") {
            continue;
        }
        writeln!(text, "{line}").unwrap();
    }
    let mut blessed = String::new();
    for block in text.split_inclusive("\n\n") {
        let block = block.trim_end();
        writeln!(blessed, "{block}").unwrap();
        if block.lines().any(|line| line.starts_with("# ")) {
            for line in said(&cases.next().unwrap().files).lines() {
                writeln!(blessed, "> {line}").unwrap();
            }
        }
        blessed.push('\n');
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("it/rules.txt");
    std::fs::write(path, format!("{}\n", blessed.trim_end())).unwrap();
}
