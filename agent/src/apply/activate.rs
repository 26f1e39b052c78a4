//! Edge: carries a plan out. Each file: a temporary in the same directory, written, flushed, renamed;
//! at the end each touched directory is flushed. A crash anywhere is answered by planning again.

use std::collections::BTreeSet;
use std::io::{self, Seek};
use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown, fstatvfs, fsync};
use shared::digest::HashingWriter;
use shared::{Entry, RelPath};

use super::plan::Change;
use super::tree::Tree;
use crate::failpoint;
use crate::state::layout::Layout;

/// Bytes that stay free beyond what is written.
const RESERVE: u64 = 16 << 20;

/// Why a plan could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Checked before the first write.
    #[error("{needed} bytes are needed, {free} are free")]
    NoSpace {
        /// How many.
        needed: u64,
        /// How many there are.
        free: u64,
    },
    /// A file or directory of the job.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: RelPath,
        /// Why not.
        source: io::Error,
    },
    /// The stored blob is not what it should be.
    #[error("the stored content of {0} is damaged")]
    Damaged(RelPath),
    /// The file system as a whole.
    #[error("cannot {operation} the job's directory")]
    Tree {
        /// What was being done.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Carries `steps` out in `tree`, taking content from the store.
pub fn activate(tree: &Tree, layout: &Layout, steps: &[Change]) -> Result<(), Error> {
    let needed: u64 = steps
        .iter()
        .map(
            |step| if let Change::Replace { entry, .. } | Change::Rewrite { entry, .. } = step { entry.len } else { 0 },
        )
        .sum();
    let space = fstatvfs(tree.root()).map_err(|e| Error::Tree { operation: "measure", source: e.into() })?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if needed > 0 && free < needed.saturating_add(RESERVE) {
        return Err(Error::NoSpace { needed, free });
    }
    let mut touched: BTreeSet<String> = BTreeSet::new();
    for (number, step) in steps.iter().enumerate() {
        let (operation, path) = match step {
            Change::Sweep { dir, name } => {
                let swept = tree.dir(dir).and_then(|dir| tree.sweep(&dir, name));
                swept.map_err(|source| Error::Tree { operation: "clear", source })?;
                touched.insert(dir.clone());
                failpoint::hit("activate::between");
                continue;
            }
            Change::MakeDir(path) => ("make", path),
            Change::Replace { entry, .. } | Change::Rewrite { entry, .. } => ("write", &entry.path),
            Change::SetMode { path, .. } => ("set the mode of", path),
            Change::Delete(path) => ("delete", path),
            Change::RemoveDir(path) => ("remove", path),
        };
        let done = match step {
            Change::Sweep { .. } => Ok(()),
            Change::MakeDir(path) => tree.mkdir(path),
            Change::Replace { entry, mode, owner } => replace(tree, layout, entry, *mode, *owner)
                .inspect_err(|_| discard_damaged(layout, &steps[number..]))?,
            Change::Rewrite { entry, mode } => {
                rewrite(tree, layout, entry, *mode).inspect_err(|_| discard_damaged(layout, &steps[number..]))?
            }
            Change::SetMode { path, mode } => tree.own(path).and_then(|file| {
                fchmod(file.as_fd(), Mode::from_raw_mode(*mode))?;
                file.sync_all()
            }),
            Change::Delete(path) => tree.unlink(path),
            Change::RemoveDir(path) => tree.rmdir(path),
        };
        done.map_err(|source| Error::Io { operation, path: path.clone(), source })?;
        touched.insert(path.parent().unwrap_or("").to_owned());
        failpoint::hit("activate::between");
    }
    for dir in touched {
        match tree.dir(&dir).and_then(|dir| Ok(fsync(dir)?)) {
            Err(error) if !super::tree::absent(&error) => {
                return Err(Error::Tree { operation: "flush", source: error });
            }
            _ => {}
        }
    }
    failpoint::hit("activate::after");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "edge: a blob of the store")]
fn replace(
    tree: &Tree,
    layout: &Layout,
    entry: &Entry,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<io::Result<()>, Error> {
    let write = || -> io::Result<bool> {
        let mut blob = std::fs::File::open(layout.blob(&entry.blob))?;
        let parent = tree.parent(&entry.path)?;
        let name = format!("{}{}", shared::path::TEMPORARY_PREFIX, std::process::id());
        let file = tree.temporary(&parent, &name)?;
        let mut writer = HashingWriter::new(file);
        io::copy(&mut blob, &mut writer)?;
        let (file, digest, _) = writer.finish();
        if digest != entry.blob {
            let _gone = rustix::fs::unlinkat(&parent, name.as_str(), rustix::fs::AtFlags::empty());
            return Ok(false);
        }
        if let Some((user, group)) = owner {
            let stat = rustix::fs::fstat(&file)?;
            // Where an agent without root runs nobody else has files.
            if (stat.st_uid, stat.st_gid) != (user, group) {
                fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
            }
        }
        fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()?;
        tree.rename(&parent, &name, entry.path.file_name())?;
        Ok(true)
    };
    match write() {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Err(Error::Damaged(entry.path.clone())),
        Err(error) => Ok(Err(error)),
    }
}

/// One blob is damaged, after a power cut as a rule, and so may others be: all that are go at once, and the next try
/// fetches them again.
#[expect(clippy::disallowed_methods, reason = "edge: blobs of the store")]
fn discard_damaged(layout: &Layout, steps: &[Change]) {
    for step in steps {
        let (Change::Replace { entry, .. } | Change::Rewrite { entry, .. }) = step else { continue };
        let path = layout.blob(&entry.blob);
        let good = std::fs::File::open(&path).and_then(|mut blob| {
            let mut reader = HashingWriter::new(io::sink());
            io::copy(&mut blob, &mut reader)?;
            Ok(reader.finish().1 == entry.blob)
        });
        if !good.is_ok_and(|good| good) {
            drop(std::fs::remove_file(path));
        }
    }
}

/// In place, for a file that something has mounted. Readers may see a mix for a moment, never an empty
/// file; a crash in between leaves content that the next plan finds to be wrong and writes again.
#[expect(clippy::disallowed_methods, reason = "edge: a blob of the store")]
fn rewrite(tree: &Tree, layout: &Layout, entry: &Entry, mode: u32) -> Result<io::Result<()>, Error> {
    // Known to be whole before the first byte is overwritten.
    let digest = std::fs::File::open(layout.blob(&entry.blob)).and_then(|mut blob| {
        let mut reader = HashingWriter::new(io::sink());
        io::copy(&mut blob, &mut reader)?;
        Ok((reader.finish().1, blob))
    });
    let mut blob = match digest {
        Ok((digest, blob)) if digest == entry.blob => blob,
        Ok(_) => return Err(Error::Damaged(entry.path.clone())),
        Err(error) => return Ok(Err(error)),
    };
    let mut write = || -> io::Result<()> {
        let mut file = tree.overwrite(&entry.path)?;
        blob.seek(io::SeekFrom::Start(0))?;
        let written = io::copy(&mut blob, &mut file)?;
        file.set_len(written)?;
        fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()
    };
    Ok(write())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests look at files")]
mod tests {
    use super::super::plan::{Before, plan};
    use super::super::survey::survey;
    use super::*;
    use shared::{BlobDigest, Bundle};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    struct Place {
        _dir: tempfile::TempDir,
        layout: Layout,
        job: std::path::PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), shared::BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        let job = layout.job(&"api".parse().unwrap());
        Place { _dir: dir, layout, job }
    }

    fn bundle(place: &Place, files: &[(&str, &str)]) -> Bundle {
        let entry = |(path, content): &(&str, &str)| {
            let blob = BlobDigest::of(content.as_bytes());
            let at = place.layout.blob(&blob);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, content).unwrap();
            Entry { path: path.parse().unwrap(), mode: 0o644, len: content.len() as u64, blob, private: false }
        };
        Bundle::new(files.iter().map(entry).collect()).unwrap()
    }

    fn apply(place: &Place, last: &Bundle, new: &Bundle) -> Result<usize, Error> {
        let tree = Tree::open(&place.job, true).unwrap();
        let before = Before::whole(last, 0);
        let changes = plan(&before, &survey(&tree, &before, new).unwrap(), new).unwrap();
        let writes = changes.steps.iter().filter(|step| !matches!(step, Change::MakeDir(_))).count();
        activate(&tree, &place.layout, &changes.steps).map(|()| writes)
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn what_belongs_to_the_job_is_not_touched() {
        let place = place();
        let v1 = bundle(&place, &[("Makefile", "m"), ("conf/a", "1"), ("conf/sub/b", "1")]);
        apply(&place, &Bundle::default(), &v1).unwrap();
        for own in ["data/db", "logs/x", "bin/app", "stranger"] {
            let path = place.job.join(own);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "own").unwrap();
        }
        let inode = std::fs::metadata(place.job.join("conf")).unwrap().ino();
        let v2 = bundle(&place, &[("Makefile", "m"), ("conf/a", "2")]);
        assert_eq!(apply(&place, &v1, &v2).unwrap(), 3, "a replaced, b deleted, sub removed");
        assert_eq!(read(&place.job.join("conf/a")), "2");
        assert!(!place.job.join("conf/sub").exists());
        assert_eq!(std::fs::metadata(place.job.join("conf")).unwrap().ino(), inode, "a directory is never replaced");
        for own in ["data/db", "logs/x", "bin/app", "stranger"] {
            assert_eq!(read(&place.job.join(own)), "own", "{own}");
        }
        assert_eq!(apply(&place, &v2, &v2).unwrap(), 0, "a second apply writes nothing");
        let tree = Tree::open(&place.job, false).unwrap();
        assert_eq!(survey(&tree, &Before::whole(&v2, 0), &v2).unwrap().unmanaged, ["stranger".parse().unwrap()]);
        assert_eq!(std::fs::metadata(place.job.join("conf/a")).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn links_and_fifos_are_never_followed() {
        let place = place();
        let outside = place.layout.bucket().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("key"), "precious").unwrap();
        std::fs::create_dir_all(&place.job).unwrap();
        let v1 = bundle(&place, &[("key", "1"), ("pipe", "2")]);
        std::os::unix::fs::symlink(outside.join("key"), place.job.join("key")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, place.job.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        apply(&place, &Bundle::default(), &v1).unwrap();
        assert_eq!(read(&outside.join("key")), "precious");
        assert_eq!((read(&place.job.join("key")), read(&place.job.join("pipe"))), ("1".into(), "2".into()));
        let v2 = bundle(&place, &[("key", "1"), ("pipe", "2"), ("conf/key", "3")]);
        std::os::unix::fs::symlink(&outside, place.job.join("conf")).unwrap();
        assert!(apply(&place, &v1, &v2).is_err(), "a link in place of a directory stops the apply");
        assert_eq!(read(&outside.join("key")), "precious");
    }

    #[test]
    fn a_mounted_file_is_written_in_place() {
        let place = place();
        let v1 = bundle(&place, &[("app.conf", "a long first version")]);
        apply(&place, &Bundle::default(), &v1).unwrap();
        let path = place.job.join("app.conf");
        let held = std::fs::File::open(&path).unwrap();
        let v2 = bundle(&place, &[("app.conf", "second")]);
        let tree = Tree::open(&place.job, true).unwrap();
        let before = Before::whole(&v1, 0);
        let mut survey = survey(&tree, &before, &v2).unwrap();
        survey.mounted.insert("app.conf".parse().unwrap());
        let steps = plan(&before, &survey, &v2).unwrap().steps;
        let at = place.layout.blob(&v2.entries()[0].blob);
        std::fs::write(&at, "evil!!").unwrap();
        assert!(matches!(activate(&tree, &place.layout, &steps), Err(Error::Damaged(_))));
        assert_eq!(read(&path), "a long first version", "checked before the first byte is written");
        std::fs::write(&at, "second").unwrap();
        activate(&tree, &place.layout, &steps).unwrap();
        assert_eq!(io::read_to_string(held).unwrap(), "second", "who had it open sees the new content");
        std::fs::hard_link(&path, place.job.join("other-name")).unwrap();
        assert!(tree.overwrite(&"app.conf".parse().unwrap()).is_err(), "another name's content is not ours to change");
    }

    #[test]
    fn a_damaged_blob_is_never_put_in_place() {
        let place = place();
        let v1 = bundle(&place, &[("a", "good"), ("b", "as good"), ("c", "whole")]);
        let [a, b, c] = [0, 1, 2].map(|n| place.layout.blob(&v1.entries()[n].blob));
        std::fs::write(&a, "evil").unwrap();
        std::fs::write(&b, "").unwrap();
        assert!(matches!(apply(&place, &Bundle::default(), &v1), Err(Error::Damaged(_))));
        assert!(!place.job.join("a").exists() && !a.exists(), "and it is fetched again");
        assert!(!b.exists() && c.exists(), "with all others that are damaged");
    }
}
