//! The examples of docs/reference/, as they stand there: every file is written, every command is run,
//! every output compared. `<!-- example -->` begins a new bucket; in it
//!
//! - ` ```json file=PATH ` is a file of the bucket
//! - ` ```console ` are commands behind `$ `, each with all that it prints; `…` stands for anything, and the
//!   blanks behind it, which keep a column, for none; alone on a line it stands for any lines
//! - ` ```toml rendered=JOB/HOST/PATH ` is what the last build rendered
//! - ` ```text ` is only shown

use std::path::{Path, PathBuf};

use harness::bucket::Bucket;

use crate::support::{bucket, rendered};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Name and text of every page.
fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<(String, String)> = std::fs::read_dir(root().join("docs/reference"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap()))
        .collect();
    pages.sort();
    assert!(pages.len() >= 5 && pages.iter().all(|(name, _)| name.ends_with(".md")), "the pages are found");
    pages
}

/// A piece of a page: the beginning of an example, or a fenced block with its place.
enum Piece {
    Example,
    Block { at: String, info: String, text: String },
}

fn pieces(name: &str, page: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        if line == "<!-- example -->" {
            found.push(Piece::Example);
        } else if let Some(info) = line.strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text = inside.map(|line| format!("{line}\n")).collect();
            found.push(Piece::Block { at: format!("docs/reference/{name}:{}", n + 1), info: info.to_owned(), text });
        }
    }
    found
}

#[test]
fn every_example_of_the_reference_is_true() {
    let (mut commands, mut wrong) = (0, Vec::new());
    for (name, page) in pages() {
        let mut open: Option<Bucket> = None;
        for piece in pieces(&name, &page) {
            let Piece::Block { at, info, text } = piece else {
                let made = bucket();
                made.workers(&["10.0.0.1".to_owned()], &["api"]);
                open = Some(made);
                continue;
            };
            // A piece of a file, shown for its form alone, is no part of an example.
            let is_piece = open.is_none() && info != "console" && !info.contains('=');
            if info == "text" || is_piece {
                continue;
            }
            let bucket = open.as_ref().unwrap_or_else(|| panic!("{at}: no example has begun"));
            match info.split_once(' ').and_then(|(_, place)| place.split_once('=')) {
                Some(("file", path)) => bucket.write(path, &text),
                Some(("rendered", path)) if rendered(bucket, path) == text => {}
                Some(("rendered", path)) => wrong.push(format!("{at}: it is\n{}", rendered(bucket, path))),
                None if info == "console" => commands += console(bucket, &at, &text, &mut wrong),
                _ => panic!("{at}: what is a block of {info:?}?"),
            }
        }
    }
    assert!(commands > 20, "the examples are found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs the commands of a block, and says what went another way; how many there were.
fn console(bucket: &Bucket, at: &str, text: &str, wrong: &mut Vec<String>) -> usize {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, Vec::new())),
            (None, Some((_, said))) => said.push(line),
            (None, None) => panic!("{at}: {line:?} is said by no command"),
        }
    }
    for (command, expected) in &commands {
        makefiles(bucket);
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "maand", "{at}: {command}");
        let output = bucket.maand(&words[1..]);
        let said = format!("{}{}", output.stdout, output.stderr);
        let failed = expected.iter().any(|line| line.starts_with("error["));
        let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
        if (output.code != 0) != failed || !alike(expected, &lines) {
            wrong.push(format!("{at}: {command}: exit code {}\n{said}", output.code));
        }
    }
    commands.len()
}

/// A job that shows no Makefile has one that does nothing.
fn makefiles(bucket: &Bucket) {
    for job in std::fs::read_dir(bucket.path("workspace/jobs")).unwrap() {
        let dir = job.unwrap().path();
        if !dir.join("Makefile").exists() && !dir.join("Makefile.j2").exists() {
            std::fs::write(dir.join("Makefile"), "start stop restart reload:\n\t@true\n").unwrap();
        }
    }
}

fn alike(expected: &[&str], said: &[&str]) -> bool {
    match (expected, said) {
        ([], []) => true,
        ([first, rest @ ..], _) if first.trim() == "…" => {
            alike(rest, said) || said.split_first().is_some_and(|(_, said)| alike(expected, said))
        }
        ([first, rest @ ..], [line, said @ ..]) => line_alike(first, line) && alike(rest, said),
        _ => false,
    }
}

fn line_alike(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let mut middle: Vec<&str> = parts.map(str::trim_start).collect();
    let Some(last) = middle.pop() else { return expected == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn every_field_setting_and_code_is_described() {
    let all: String = pages().into_iter().map(|(_, text)| text).collect();
    let table = include_str!("rules.txt");
    // What messages list.
    let mut words: Vec<String> = Vec::new();
    for line in table.lines().filter_map(|line| line.split_once("do: the fields are ")) {
        words.extend(line.1.split(", ").map(str::to_owned));
    }
    let bucket = bucket();
    bucket.setting("qqqqqqqq = 1");
    let settings = bucket.maand(&["build"]).expect(3).stderr;
    let (_, settings) = settings.trim_end().split_once("the settings are ").unwrap();
    words.extend(settings.split(", ").map(str::to_owned));
    assert!(words.len() > 40, "{words:?}");
    let missing: Vec<&String> = words
        .iter()
        .filter(|word| ![format!("`{word}`"), format!("`{word}("), format!(".{word}`")].iter().any(|w| all.contains(w)))
        .collect();
    assert!(missing.is_empty(), "not described: {missing:?}");
    // What a build may say.
    let codes = (20..=44).chain([3, 4, 5, 6, 7, 9, 10, 11, 12]);
    let known = |number: &u16| shared::Code::ALL.iter().any(|code| code.number() == *number);
    let missing: Vec<String> =
        codes.filter(known).map(|n| format!("`MD{n:04}`")).filter(|code| !all.contains(code)).collect();
    assert!(missing.is_empty(), "not described: {missing:?}");
    let (job, host) = ("some-job".parse().unwrap(), "some-host".parse().unwrap());
    let access = controller::model::kv::Access { job: &job, host: &host, upstream: &Default::default() };
    for namespace in access.readable() {
        let shown = namespace.to_string().replace("some-job", "<job>").replace("some-host", "<host>");
        assert!(all.contains(&format!("`{shown}`")), "{shown}");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut texts = pages();
    texts.push(("../../README.md".to_owned(), std::fs::read_to_string(root().join("README.md")).unwrap()));
    for (name, text) in &texts {
        let dir = root().join("docs/reference").join(name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join("docs/reference").join(name) } else { dir.join(file) };
            assert!(target.exists(), "{name}: {link}");
            if !anchor.is_empty() {
                let page = std::fs::read_to_string(&target).unwrap();
                assert!(page.lines().any(|line| anchor_of(line).as_deref() == Some(anchor)), "{name}: {link}");
            }
        }
    }
}

/// The anchor that a heading gets.
fn anchor_of(line: &str) -> Option<String> {
    let text = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = text.to_lowercase().replace(' ', "-");
    Some(kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect())
}
