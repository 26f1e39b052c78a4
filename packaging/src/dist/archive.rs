//! tar, and the tar.zst for everybody without dpkg or rpm: the same tree below one directory.

use std::io;

use super::package::Package;
use super::tree::{Entry, Tree};
use super::{Release, package};

/// A tar of a tree, every name below `prefix` (empty, or with a slash at its end).
pub fn tar(tree: &Tree, prefix: &str, time: u64) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |name: &str, kind: tar::EntryType, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_mtime(time);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content)
    };
    if !prefix.is_empty() {
        append(prefix, tar::EntryType::Directory, 0o755, &[])?;
    }
    for (path, entry) in tree.entries() {
        match entry {
            Entry::Dir => append(&format!("{prefix}{path}/"), tar::EntryType::Directory, 0o755, &[])?,
            Entry::File { content, mode } => {
                append(&format!("{prefix}{path}"), tar::EntryType::Regular, *mode, content)?;
            }
        }
    }
    builder.into_inner()
}

/// Both packages' files in one archive, with a page that says how they are put in place.
pub fn make(packages: &[Package], name: &str, release: Release<'_>) -> io::Result<Vec<u8>> {
    let mut all = Tree::default();
    for package in packages {
        package.tree.files().for_each(|(path, content, mode)| all.file(path, mode, content));
    }
    all.file("INSTALL", 0o644, package::INSTALL);
    let tar = tar(&all, &format!("{name}/"), release.time)?;
    let level = if release.level == 9 { 19 } else { 1 };
    zstd::encode_all(tar.as_slice(), level)
}
