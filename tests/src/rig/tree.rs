//! What is below a directory, taken down whole, so that two looks can be compared.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use shared::BlobDigest;

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `file`, `dir` or `other`.
    pub kind: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Inode.
    pub inode: u64,
    /// When it was written, nanoseconds; of a directory 0, for making a file in it is no change of it.
    pub mtime: i128,
    /// sha256 of a file's content; the target of a link.
    pub content: String,
}

/// Everything below a directory, itself as the empty path.
pub type Listing = BTreeMap<String, Item>;

/// Takes down what is below `dir`.
pub fn list(dir: &Path) -> Listing {
    let mut all = Listing::new();
    below(dir, "", &mut all);
    all
}

fn below(root: &Path, path: &str, all: &mut Listing) {
    let at = if path.is_empty() { root.to_owned() } else { root.join(path) };
    // A neighbour may take it away meanwhile.
    let Ok(stat) = std::fs::symlink_metadata(&at) else { return };
    let (kind, content) = match stat.file_type() {
        kind if kind.is_dir() => ("dir", String::new()),
        kind if kind.is_file() => {
            ("file", std::fs::read(&at).map(|bytes| BlobDigest::of(&bytes).hex()).unwrap_or_default())
        }
        _ => ("other", std::fs::read_link(&at).map(|to| to.display().to_string()).unwrap_or_default()),
    };
    let time = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
    let mtime = if kind == "dir" { 0 } else { time };
    let (mode, uid, inode) = (stat.mode() & 0o7777, stat.uid(), stat.ino());
    all.insert(path.to_owned(), Item { kind, mode, uid, inode, mtime, content });
    if kind == "dir" {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            below(root, &if path.is_empty() { name } else { format!("{path}/{name}") }, all);
        }
    }
}

/// Whether a path is the job's own: `data`, `logs`, `bin` and what is below.
pub fn is_own(path: &str) -> bool {
    matches!(path.split('/').next(), Some("data" | "logs" | "bin"))
}

/// Whether a file is one that the agent makes while it writes another.
pub fn is_temporary(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(shared::path::TEMPORARY_PREFIX))
}

/// The lines by which a Makefile of the rig says what it found, and their sha256; see [`FINGERPRINT`].
pub fn fingerprint<'a>(files: impl Iterator<Item = (&'a str, u32, u32, &'a str)>) -> String {
    let mut lines: Vec<String> =
        files.map(|(path, mode, uid, content)| format!("{mode:o} {uid} {content} {path}\n")).collect();
    lines.sort();
    BlobDigest::of(lines.concat().as_bytes()).hex()
}

/// Shell that prints the same of the directory that it runs in.
pub const FINGERPRINT: &str = "find . \\( -path ./data -o -path ./logs -o -path ./bin \\) -prune -o -type f \
    -printf '%m %U %P\\n' | while read -r m u p; do s=$$(sha256sum \"$$p\"); echo \"$$m $$u $${s%% *} $$p\"; done \
    | LC_ALL=C sort | sha256sum | cut -c1-64";
