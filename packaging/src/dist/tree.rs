//! What a package puts where: paths below `/`, sorted, each with its mode. Everything is root's.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory, 0755.
    Dir,
    /// A file.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// 0644 or 0755.
        mode: u32,
    },
}

/// A tree of them, by path without a leading slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Adds a file and the directories above it.
    pub fn file(&mut self, path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) {
        let path = path.into();
        for (slash, _) in path.match_indices('/') {
            self.0.insert(path[..slash].to_owned(), Entry::Dir);
        }
        self.0.insert(path, Entry::File { content: content.into(), mode });
    }

    /// Adds all files below `dir`, below `prefix` (empty, or with a slash at its end).
    pub fn copy(&mut self, prefix: &str, dir: &Path) -> io::Result<()> {
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
        let mut names = std::fs::read_dir(dir).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if entry.file_type()?.is_dir() {
                self.copy(&format!("{prefix}{name}/"), &entry.path())?;
            } else {
                let runs = entry.metadata()?.permissions().mode() & 0o100 != 0;
                let content = std::fs::read(entry.path()).map_err(failed)?;
                self.file(format!("{prefix}{name}"), if runs { 0o755 } else { 0o644 }, content);
            }
        }
        Ok(())
    }

    /// Everything, directories before what is in them.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Files alone.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8], u32)> {
        self.entries().filter_map(|(path, entry)| match entry {
            Entry::File { content, mode } => Some((path, content.as_slice(), *mode)),
            Entry::Dir => None,
        })
    }

    /// The same with other names for some files.
    pub fn renamed(&self, name: impl Fn(&str) -> String) -> Self {
        let mut renamed = Self::default();
        self.files().for_each(|(path, content, mode)| renamed.file(name(path), mode, content));
        renamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_with_files_and_before_them() {
        let mut tree = Tree::default();
        tree.file("usr/bin/b", 0o755, "b");
        tree.file("etc/a", 0o644, "a");
        let paths: Vec<_> = tree.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["etc", "etc/a", "usr", "usr/bin", "usr/bin/b"]);
        assert_eq!(tree.renamed(|path| path.replace("bin", "sbin")).files().last().unwrap().0, "usr/sbin/b");
    }
}
