//! What an agent has when a point begins, and what it is told to have: from no files at all to every kind of
//! change at once.

use std::collections::BTreeMap;

use shared::api::v1::desired::RunState;
use shared::{ActionKind, BlobDigest, Bundle, Entry};

use super::tree::FINGERPRINT;

/// One file: path, mode, content, private.
pub type File = (&'static str, u32, String, bool);

/// What a worker is told.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What should be.
    pub state: RunState,
    /// With which files.
    pub version: usize,
    /// What is to be done.
    pub action: Option<ActionKind>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its word on the command line.
    pub name: &'static str,
    /// Whether it begins with version 1 in place; else with nothing.
    pub placed: bool,
    /// What is wished for when the agent is hit.
    pub wish: Wish,
    /// What is wished for when it starts again, where that is something else.
    pub then: Option<Wish>,
    /// A file that somebody has mounted by itself.
    pub pinned: Option<&'static str>,
}

/// Files that no bundle has, outside of what is the job's own.
pub const UNMANAGED: &[(&str, &str)] = &[("stray", "stray"), ("conf/stranger", "stranger")];
/// Files of the job's own.
pub const OWN: &[(&str, &str)] = &[("data/db/rows", "rows"), ("logs/out.log", "said"), ("bin/tool", "tool")];
/// Managed files that the job or somebody else changed after version 1 was placed: mode, owner, content.
pub const CHANGED: &[(&str, u32, u32, Option<&str>)] =
    &[("kept", 0o640, 999, None), ("owned", 0o600, 999, None), ("drifted", 0o644, 0, Some("by hand"))];

/// All of them.
pub fn all() -> Vec<Scenario> {
    let wish = |state, version, action| Wish { state, version, action };
    let run = |version, kind| wish(RunState::Running, version, Some(kind));
    let plain = |name, placed, wish| Scenario { name, placed, wish, then: None, pinned: None };
    let update = plain("update", true, run(2, ActionKind::Restart));
    let absent = plain("absent", true, wish(RunState::Absent, 1, Some(ActionKind::Stop)));
    vec![
        plain("first", false, run(1, ActionKind::Start)),
        Scenario { name: "pinned", pinned: Some("conf/a"), wish: run(2, ActionKind::Reload), ..update.clone() },
        Scenario { name: "overtaken", then: Some(run(3, ActionKind::Restart)), ..update.clone() },
        Scenario { name: "wanted-again", then: Some(run(1, ActionKind::Start)), ..absent.clone() },
        plain("purged", true, wish(RunState::Purged, 1, None)),
        update,
        absent,
    ]
}

/// The files of a version. `ran` is where the Makefile writes what it found.
pub fn files(version: usize, ran: &std::path::Path) -> Vec<File> {
    let target = |name: &str| format!("{name}:\n\t@echo \"{name} $$({FINGERPRINT})\" >> {}\n", ran.display());
    let makefile = ["start", "restart", "reload", "stop"].map(target).concat();
    let mut all = vec![
        ("Makefile", 0o644, makefile, false),
        ("conf/same", 0o644, "the same".to_owned(), false),
        // Of one length in every version: only its content tells.
        ("conf/a", 0o644, format!("a of {version}"), false),
        ("conf/big", 0o644, version.to_string().repeat(200_000), false),
        ("kept", 0o644, format!("kept of {version}, with a mode and owner of the job's own"), false),
        ("owned", 0o640, "the same, with an owner of the job's own".to_owned(), false),
        ("drifted", 0o644, "as it should be".to_owned(), false),
    ];
    let more: &[(&str, u32, &str, bool)] = match version {
        1 => &[
            ("conf/gone", 0o644, "goes", false),
            ("old/only/x", 0o644, "the only one", false),
            ("run.sh", 0o644, "#!/bin/sh\n", false),
            ("tool.sh", 0o755, "#!/bin/sh\n# one\n", false),
            ("turns", 0o644, "a file that becomes a directory", false),
            ("folder/x", 0o644, "of a directory that becomes a file", false),
            ("folder/deep/y", 0o644, "the same", false),
            ("was-private", 0o600, "no longer a secret", true),
            ("certs/ca.crt", 0o644, "ca", false),
        ],
        2 => &[
            ("run.sh", 0o755, "#!/bin/sh\n", false),
            ("tool.sh", 0o644, "#!/bin/sh\n# two\n", false),
            ("turns/x", 0o644, "a directory that was a file", false),
            ("folder", 0o644, "a file that was a directory", false),
            ("was-private", 0o644, "no longer a secret", false),
            ("certs/ca.crt", 0o644, "ca", false),
            ("certs/key", 0o600, "secret", true),
            ("only2/new/z", 0o644, "new", false),
            ("empty", 0o644, "", false),
        ],
        _ => &[
            ("run.sh", 0o644, "#!/bin/sh\n", false),
            ("tool.sh", 0o755, "#!/bin/sh\n# one\n", false),
            ("turns", 0o644, "a file again", false),
            ("was-private", 0o600, "a secret again", true),
            ("only3", 0o644, "new", false),
        ],
    };
    all.extend(more.iter().map(|(path, mode, content, private)| (*path, *mode, (*content).to_owned(), *private)));
    all
}

/// The same as a bundle.
pub fn bundle(files: &[File]) -> Bundle {
    let entry = |(path, mode, content, private): &File| Entry {
        path: path.parse().unwrap(),
        mode: *mode,
        len: content.len() as u64,
        blob: BlobDigest::of(content.as_bytes()),
        private: *private,
    };
    Bundle::new(files.iter().map(entry).collect()).unwrap()
}

/// What a file should be: mode, owner, sha256.
pub type Expected = BTreeMap<String, (u32, u32, String)>;

/// What should be in place once a version is, the job's own left out. More than one answer where files were
/// removed and put there again: then what the job had made of them may be gone.
pub fn expected(files: &[File], scenario: &Scenario) -> Vec<Expected> {
    let root = rustix::process::geteuid().as_raw();
    let hash = |content: &str| BlobDigest::of(content.as_bytes()).hex();
    let plain = files.iter().map(|(path, mode, content, _)| ((*path).to_owned(), (*mode, root, hash(content))));
    let mut all = vec![plain.collect::<Expected>()];
    if !scenario.placed {
        return all;
    }
    let removed = scenario.then.is_some() && scenario.wish.state == RunState::Absent;
    // What was edited is overwritten by the next placement; where there was none it stays.
    for (path, mode, uid, content) in CHANGED.iter().filter(|changed| removed || changed.3.is_none()) {
        let mut kept = all.clone();
        kept.iter_mut().filter_map(|one| one.get_mut(*path)).for_each(|file| {
            *file = (*mode, *uid, content.map_or(file.2.clone(), hash));
        });
        all = if removed { kept.into_iter().chain(all).collect() } else { kept };
    }
    for (path, content) in UNMANAGED {
        all.iter_mut().for_each(|one| drop(one.insert((*path).to_owned(), (0o644, root, hash(content)))));
    }
    all
}
