//! docs/reference/security.md names a test for each promise: each of them is there.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What is between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_path(word: &str) -> bool {
    word.split("::")
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
}

/// Every test of the workspace's sources, as far as a name can be seen in a text.
fn is_unit_test(name: &str) -> bool {
    let mut open: Vec<PathBuf> =
        ["shared/src", "controller/src", "agent/src"].iter().map(|dir| root().join(dir)).collect();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if is_test_in(&std::fs::read_to_string(&path).unwrap_or_default(), name) {
                return true;
            }
        }
    }
    false
}

fn is_test_in(text: &str, name: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let above = text[..at].trim_end().trim_end_matches("async").trim_end();
    let mut attributes = above.lines().rev().take_while(|line| line.trim_start().starts_with("#["));
    attributes.any(|line| line.contains("test]") || line.contains("tokio::test"))
}

/// `module::…::name` of the integration tests.
fn is_integration_test(path: &str) -> bool {
    let (module, name) = path.rsplit_once("::").unwrap();
    let file = root().join("tests/it").join(module.replace("::", "/"));
    let found = [file.with_extension("rs"), file.join("mod.rs")]
        .into_iter()
        .find_map(|file| std::fs::read_to_string(file).ok());
    let Some(text) = found else { return false };
    let is_property = module == "outside" && harness::outside::TARGETS.iter().any(|(target, _)| *target == name);
    is_test_in(&text, name) || is_property
}

#[test]
fn every_test_that_a_promise_names_is_there() {
    let page = std::fs::read_to_string(root().join("docs/reference/security.md")).unwrap();
    let mut named = Vec::new();
    for line in page.lines() {
        let shown_by = line.strip_suffix(" |").and_then(|row| row.rsplit(" | ").next()).unwrap_or_default();
        named.extend(quoted(shown_by).filter(|word| is_path(word) && word.contains('_')));
        named.extend(quoted(line).filter(|word| is_path(word) && word.contains("::")));
    }
    assert!(named.len() > 40, "{}", named.len());
    let is_there = |name: &&str| if name.contains("::") { is_integration_test(name) } else { is_unit_test(name) };
    let missing: Vec<&str> = named.into_iter().filter(|name| !is_there(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "docs/reference/security.md names tests that are not there");
    assert!(!is_unit_test("no_such_test") && !is_integration_test("api::no_such_test"));
}

#[test]
fn every_file_that_the_pages_on_security_name_is_there() {
    for page in ["docs/reference/security.md", "SECURITY.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let files =
            quoted(&text).filter(|word| word.starts_with("tests/") || ["deny.toml", "Cargo.lock"].contains(word));
        for file in files {
            assert!(root().join(file).exists(), "{page} names {file}");
        }
    }
}
