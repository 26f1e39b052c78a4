//! Edge: a file that is wholly old or wholly new after any crash.
#![expect(clippy::disallowed_methods, reason = "edge: files")]
#![expect(clippy::disallowed_types, reason = "edge: files")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes `path` by a temporary beside it: flushed, renamed, and the name flushed too.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        std::fs::create_dir_all(dir)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // One writer of a path at a time: what one that was cut off left is taken by the next.
    let temporary = dir.join(format!(".maand-{name}-new"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    written
}

/// The same without waiting for the disk: for what is written again at the next start anyway. One writer of a path
/// at a time: what one that was cut off left is taken by the next.
pub fn write_soon(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("maand-new");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    written
}

/// A directory that is this user's alone, with its parents.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}
