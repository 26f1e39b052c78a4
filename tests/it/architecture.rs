//! ARCHITECTURE.md's layers, enforced: which module may import which, and which files touch the world.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The controller's modules by layer: a module may import its own layer only where this table says
/// so, and everything below.
const PURE: &[&str] =
    &["model", "admission", "workspace", "build", "render", "plan", "rollout", "gc", "recover", "why"];
/// Of those, the files that touch the world: one reads a workspace, one sweeps the bucket.
const PURE_EXCEPT: &[&str] = &["workspace/load.rs", "gc/run.rs"];

/// What a pure module may import of the crate.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &["model"]),
    ("admission", &["model", "admission"]),
    ("workspace", &["model", "workspace"]),
    ("build", &["model", "workspace", "build"]),
    ("render", &["model", "render"]),
    ("plan", &["model", "plan"]),
    ("rollout", &["model", "plan", "rollout"]),
    ("gc", &["model", "gc"]),
    ("recover", &["model", "recover"]),
    ("why", &["model", "admission", "plan", "rollout", "why"]),
];

/// Files of the agent that decide, outside `reconcile/`.
const PURE_OF_AGENT: &[&str] = &["health/schedule.rs"];

/// What an edge that is not to know the others may import of the crate.
const EDGE_MAY_IMPORT: &[(&str, &[&str])] = &[(
    "hooks",
    &["hooks", "model", "catalog", "bundle", "secrets", "paths", "permissions", "telemetry", "clock", "failure"],
)];

/// Files of edges that decide and touch nothing.
const PURE_FILES: &[&str] = &[
    "hooks/env.rs",
    "hooks/output.rs",
    "hooks/report.rs",
    "hooks/api/body.rs",
    "hooks/api/openapi.rs",
    "hooks/api/routes.rs",
    "renderer/death.rs",
    "renderer/wire.rs",
    "telemetry.rs",
    "telemetry/blocks.rs",
    "telemetry/record.rs",
];

/// Words that have no place in a pure file.
const WORLDLY: &[&str] =
    &["std::fs", "std::net", "std::process", "std::env", "tokio", "rusqlite", "reqwest", "axum", "::now("];

/// Every file that opts out of the purity lint. A new edge is a visible change of this list.
const EDGES: &str = include_str!("edges.txt");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(below: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![below.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(below).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{}", below.display());
    found
}

/// The part of a file that ships: without its inline tests.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    shipped(text).lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn module(name: &str) -> &str {
    name.split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn pure_modules_import_only_what_stands_before_them() {
    let mut wrong = Vec::new();
    for (name, text) in sources(&root().join("controller/src")) {
        let table = MAY_IMPORT.iter().chain(EDGE_MAY_IMPORT).find(|(of, _)| *of == module(&name));
        let Some((_, allowed)) = table else { continue };
        if PURE_EXCEPT.contains(&name.as_str()) {
            continue;
        }
        for line in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let imported: String =
                    line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !imported.is_empty() && !allowed.contains(&imported.as_str()) {
                    wrong.push(format!("controller/src/{name} imports {imported}"));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn pure_files_do_not_name_the_world() {
    let mut wrong = Vec::new();
    let mut check = |prefix: &str, name: &str, text: &str| {
        for word in WORLDLY {
            if code(text).any(|line| line.contains(word)) {
                wrong.push(format!("{prefix}/{name}: {word}"));
            }
        }
    };
    for (name, text) in sources(&root().join("shared/src")) {
        check("shared/src", &name, &text);
    }
    for (name, text) in sources(&root().join("controller/src")) {
        let pure = PURE.contains(&module(&name)) && !PURE_EXCEPT.contains(&name.as_str());
        if pure || PURE_FILES.contains(&name.as_str()) {
            check("controller/src", &name, &text);
        }
    }
    for (name, text) in sources(&root().join("agent/src")) {
        if module(&name) == "reconcile" || PURE_OF_AGENT.contains(&name.as_str()) {
            check("agent/src", &name, &text);
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_list_of_edges_is_whole() {
    let mut found = BTreeSet::new();
    for package in ["shared", "controller", "agent"] {
        for (name, text) in sources(&root().join(package).join("src")) {
            if shipped(&text).contains("expect(clippy::disallowed_")
                || shipped(&text).contains("expect(\n    clippy::disallowed_")
            {
                found.insert(format!("{package}/src/{name}"));
            }
            assert!(!shipped(&text).contains("allow(clippy::disallowed_"), "{package}/src/{name}: expect, not allow");
        }
    }
    let listed: BTreeSet<String> = EDGES.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(new.is_empty() && gone.is_empty(), "add to tests/it/edges.txt: {new:#?}\ntake out: {gone:#?}");
}

#[test]
fn programs_do_not_import_each_other_and_shared_stays_small() {
    let manifest = |package: &str| std::fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
    assert!(!manifest("controller").contains("\nagent"));
    assert!(!manifest("agent").contains("\ncontroller"));
    for heavy in ["tokio", "axum", "rusqlite", "reqwest", "rustls"] {
        assert!(!manifest("shared").contains(heavy), "shared needs no {heavy}");
    }
}

#[test]
fn no_test_file_is_forgotten() {
    let dir = root().join("tests/it");
    let list = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    for (name, _) in sources(&dir) {
        // A file is declared by the mod.rs of its folder, a folder by that of the folder above, or main.rs.
        let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
        let (parent, module) = match path.rsplit_once('/') {
            Some((folder, module)) => (format!("{folder}/mod.rs"), module),
            None => ("main.rs".to_owned(), path),
        };
        let declared = name == "main.rs" || list(&parent).contains(&format!("mod {module};"));
        assert!(declared, "tests/it/{name} is in no mod list");
    }
}
