//! A bundle: the canonical list of an allocation's files. Its digest is what decides whether a job
//! changed; how the content travels never enters it (`design/pull.md`, The objects).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{BlobDigest, BundleDigest, RelPath};

/// Most files in one bundle.
pub const MAX_ENTRIES: usize = 50_000;
/// Largest file, in bytes (64 GiB).
pub const MAX_FILE: u64 = 64 << 30;

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where, relative to the job directory.
    pub path: RelPath,
    /// Permission bits, at most 0o777.
    pub mode: u32,
    /// Length in bytes.
    pub len: u64,
    /// Content.
    pub blob: BlobDigest,
    /// Only this allocation has a right to the content: keys, and what a template rendered after
    /// reading a secret. Travels apart, is stored sealed, is never in a shared cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

/// Why a list of files is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Two entries with one path.
    #[error("path {0} is listed twice")]
    Duplicate(RelPath),
    /// A file where another entry needs a directory.
    #[error("{file} is a file, and {below} needs it to be a directory")]
    FileIsDirectory {
        /// The file.
        file: RelPath,
        /// The entry below it.
        below: RelPath,
    },
    /// `data`, `logs` and `bin` are the job's own on the worker.
    #[error("path {0} is reserved for the job on the worker (data, logs, bin)")]
    Reserved(RelPath),
    /// Set-id, sticky or stranger bits.
    #[error("mode {mode:o} of {path} is not allowed (at most 777, octal)")]
    Mode {
        /// The file.
        path: RelPath,
        /// Its mode.
        mode: u32,
    },
    /// Larger than [`MAX_FILE`].
    #[error("{path} has {len} bytes, more than 64 GiB")]
    TooLarge {
        /// The file.
        path: RelPath,
        /// Its length.
        len: u64,
    },
    /// More than [`MAX_ENTRIES`].
    #[error("{0} files, more than 50000")]
    TooMany(usize),
    /// The list is not the one that the digest names.
    #[error("the list has digest {actual}, not {expected}")]
    Digest {
        /// The digest that was asked for.
        expected: BundleDigest,
        /// The digest of the list.
        actual: BundleDigest,
    },
    /// A difference that does not fit its base.
    #[error("the difference removes {0}, which the base does not have")]
    NotInBase(RelPath),
}

/// A checked list of files, ordered by path. There is no way to have an unchecked one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Bundle(Vec<Entry>);

impl Bundle {
    /// Sorts and checks `entries`.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, BundleError> {
        if entries.len() > MAX_ENTRIES {
            return Err(BundleError::TooMany(entries.len()));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        for entry in &entries {
            if entry.path.is_reserved() {
                return Err(BundleError::Reserved(entry.path.clone()));
            }
            if entry.mode & !0o777 != 0 {
                return Err(BundleError::Mode { path: entry.path.clone(), mode: entry.mode });
            }
            if entry.len > MAX_FILE {
                return Err(BundleError::TooLarge { path: entry.path.clone(), len: entry.len });
            }
        }
        for pair in entries.windows(2) {
            if pair[0].path == pair[1].path {
                return Err(BundleError::Duplicate(pair[0].path.clone()));
            }
        }
        // Not only neighbours: "a", "a-b", "a/c" sort in that order.
        for entry in &entries {
            let mut prefix = entry.path.as_str();
            while let Some((parent, _)) = prefix.rsplit_once('/') {
                if let Ok(at) = entries.binary_search_by(|e| e.path.as_str().cmp(parent)) {
                    return Err(BundleError::FileIsDirectory {
                        file: entries[at].path.clone(),
                        below: entry.path.clone(),
                    });
                }
                prefix = parent;
            }
        }
        Ok(Self(entries))
    }

    /// The files, ordered by path.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The entry at `path`.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.0.binary_search_by(|e| e.path.as_str().cmp(path)).ok().map(|at| &self.0[at])
    }

    /// The paths that are in one of the two only, or differ between them, sorted.
    pub fn changed_paths(&self, other: &Self) -> Vec<RelPath> {
        let gone = self.0.iter().filter(|e| other.get(e.path.as_str()).is_none());
        let new = other.0.iter().filter(|e| self.get(e.path.as_str()) != Some(*e));
        let mut paths: Vec<RelPath> = gone.chain(new).map(|e| e.path.clone()).collect();
        paths.sort();
        paths
    }

    /// Sum of the files' lengths, in bytes.
    pub fn total_len(&self) -> u64 {
        self.0.iter().fold(0, |sum, e| sum.saturating_add(e.len))
    }

    /// sha256 of the canonical encoding: a version tag, the number of entries, then for each entry
    /// its path (length first), mode, length, blob and the private bit; integers little-endian.
    /// It is frozen: another encoding would restart every job of every user.
    pub fn digest(&self) -> BundleDigest {
        let mut hash = Sha256::new();
        hash.update(b"maand-bundle-1\n");
        hash.update((self.0.len() as u64).to_le_bytes());
        for entry in &self.0 {
            let path = entry.path.as_str().as_bytes();
            hash.update((path.len() as u64).to_le_bytes());
            hash.update(path);
            hash.update(entry.mode.to_le_bytes());
            hash.update(entry.len.to_le_bytes());
            hash.update(entry.blob.as_bytes());
            hash.update([u8::from(entry.private)]);
        }
        BundleDigest::from_bytes(hash.finalize().into())
    }

    /// What turns `base` into `self`.
    pub fn diff(&self, base: &Bundle) -> BundleDiff {
        let changed = self.0.iter().filter(|e| base.get(e.path.as_str()) != Some(e)).cloned().collect();
        let removed = base.0.iter().filter(|e| self.get(e.path.as_str()).is_none()).map(|e| e.path.clone()).collect();
        BundleDiff { changed, removed }
    }

    /// Applies a difference and checks that the result is `expected`.
    pub fn patched(&self, diff: BundleDiff, expected: BundleDigest) -> Result<Self, BundleError> {
        for path in &diff.removed {
            if self.get(path.as_str()).is_none() {
                return Err(BundleError::NotInBase(path.clone()));
            }
        }
        let gone: std::collections::BTreeSet<&RelPath> =
            diff.removed.iter().chain(diff.changed.iter().map(|e| &e.path)).collect();
        let kept = self.0.iter().filter(|e| !gone.contains(&e.path)).cloned();
        let bundle = Self::new(kept.chain(diff.changed.iter().cloned()).collect())?;
        bundle.checked(expected)
    }

    /// The bundle, if its digest is `expected`.
    pub fn checked(self, expected: BundleDigest) -> Result<Self, BundleError> {
        let actual = self.digest();
        if actual == expected { Ok(self) } else { Err(BundleError::Digest { expected, actual }) }
    }
}

impl TryFrom<Vec<Entry>> for Bundle {
    type Error = BundleError;

    fn try_from(entries: Vec<Entry>) -> Result<Self, BundleError> {
        Self::new(entries)
    }
}

impl From<Bundle> for Vec<Entry> {
    fn from(bundle: Bundle) -> Self {
        bundle.0
    }
}

/// The difference of two bundles, in files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleDiff {
    /// Added, or with another mode or content.
    pub changed: Vec<Entry>,
    /// No longer there.
    pub removed: Vec<RelPath>,
}

impl BundleDiff {
    /// Every path that was added, changed or deleted, sorted: what `restart_globs` and `matched=` look at.
    pub fn paths(&self) -> Vec<&RelPath> {
        let mut paths: Vec<_> = self.changed.iter().map(|e| &e.path).chain(&self.removed).collect();
        paths.sort();
        paths
    }

    /// Whether the two bundles are equal.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(path: &str, content: &str) -> Entry {
        Entry {
            path: path.parse().unwrap(),
            mode: 0o644,
            len: content.len() as u64,
            blob: BlobDigest::of(content.as_bytes()),
            private: false,
        }
    }

    #[test]
    fn the_digest_is_frozen() {
        assert_eq!(
            Bundle::default().digest().to_string(),
            "sha256:50d8998e3046a932a075f355e25c9253d95377905ef8f5e6e5d00e9c214214a9"
        );
        let bundle = Bundle::new(vec![entry("conf/app.toml", "a=1\n"), entry("Makefile", "start:\n")]).unwrap();
        assert_eq!(
            bundle.digest().to_string(),
            "sha256:00ab3a4bb72074edeca930734bf922f45a5827330b1be744207730852fa89310"
        );
    }

    #[test]
    fn everything_that_matters_moves_the_digest() {
        let base = Bundle::new(vec![entry("a", "1"), entry("b", "2")]).unwrap();
        let mut others =
            vec![vec![entry("a", "2"), entry("b", "1")], vec![entry("a", "1"), entry("c", "2")], vec![entry("a", "1")]];
        let mut mode = base.entries().to_vec();
        mode[0].mode = 0o755;
        others.push(mode);
        let mut private = base.entries().to_vec();
        private[1].private = true;
        others.push(private);
        for other in others {
            assert_ne!(Bundle::new(other.clone()).unwrap().digest(), base.digest(), "{other:?}");
        }
        let reordered = Bundle::new(vec![entry("b", "2"), entry("a", "1")]).unwrap();
        assert_eq!(reordered.digest(), base.digest());
    }

    #[test]
    fn what_could_hurt_a_worker_is_no_bundle() {
        let setuid = Entry { mode: 0o4755, ..entry("a", "1") };
        let huge = Entry { len: MAX_FILE + 1, ..entry("a", "1") };
        for bad in [
            vec![entry("a", "1"), entry("a", "2")],
            vec![entry("a", "1"), entry("a-b", "2"), entry("a/c", "3")],
            vec![entry("a/b", "1"), entry("a/b/c/d", "2")],
            vec![entry("data/x", "1")],
            vec![entry("bin", "1")],
            vec![setuid],
            vec![huge],
        ] {
            assert!(Bundle::new(bad.clone()).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<Bundle>(serde_json::to_value(&bad).unwrap()).is_err());
        }
    }

    #[test]
    fn a_diff_for_another_base_is_refused() {
        let v1 = Bundle::new(vec![entry("a", "1"), entry("b", "2")]).unwrap();
        let v2 = Bundle::new(vec![entry("a", "1")]).unwrap();
        let diff = v2.diff(&v1);
        assert!(matches!(Bundle::default().patched(diff.clone(), v2.digest()), Err(BundleError::NotInBase(_))));
        assert!(matches!(v1.patched(diff, v1.digest()), Err(BundleError::Digest { .. })));
    }

    proptest! {
        #[test]
        fn base_and_diff_give_the_bundle(
            old in proptest::collection::btree_map("[a-c]{1,2}(/[x-z])?", "[0-2]", 0..12),
            new in proptest::collection::btree_map("[a-c]{1,2}(/[x-z])?", "[0-2]", 0..12),
        ) {
            let bundle = |files: &std::collections::BTreeMap<String, String>| {
                Bundle::new(files.iter().map(|(p, c)| entry(p, c)).collect())
            };
            if let (Ok(old), Ok(new)) = (bundle(&old), bundle(&new)) {
                let diff = new.diff(&old);
                prop_assert_eq!(diff.is_empty(), old == new);
                prop_assert_eq!(old.patched(diff, new.digest()).unwrap(), new);
            }
        }
    }
}
