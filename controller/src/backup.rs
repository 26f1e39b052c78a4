//! Edge: a bucket as one file, consistent while everything runs: the catalog as SQLite copies it, what it refers
//! to in the store, the keys, the settings and the workspace. What can be made anew (packs, logs) is left out,
//! and so is the high-water mark: a copy must not take back what was handed out since it was made.
#![expect(clippy::disallowed_methods, reason = "edge: reads the bucket, writes the archive")]
#![expect(clippy::disallowed_types, reason = "edge: the archive is 0600 from its first byte")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use shared::BlobDigest;
use thiserror::Error;

use crate::bundle::store::place;
use crate::catalog::{self, Catalog, gc as rows};
use crate::paths::BucketDir;
use crate::recover::FromBackup;
use crate::tally::Tally;

/// Compression level: mostly what is compressed already, or small.
const LEVEL: i32 = 3;

/// Why there is no backup.
#[derive(Debug, Error)]
pub enum Error {
    /// A file.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive is there.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// A blob that the catalog refers to.
    #[error("the store has no blob {0}, and the catalog refers to it")]
    Missing(BlobDigest),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
}

/// What a backup came to.
#[derive(Debug, Default, serde::Serialize)]
pub struct Summary {
    /// Files in it.
    pub files: u64,
    /// Of these, content from the store.
    pub blobs: u64,
    /// Bytes that went in.
    pub bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
}

/// Writes the archive to `to`, which must not exist; it has its name once it is whole and on the disk. The caller
/// keeps content from being swept meanwhile.
pub fn write(
    bucket: &BucketDir,
    to: &Path,
    with_workspace: bool,
    now_ms: i64,
    tally: &Tally,
) -> Result<Summary, Error> {
    if to.symlink_metadata().is_ok() {
        return Err(Error::Exists(to.to_owned()));
    }
    let partial = beside(to, &format!(".partial-{}", std::process::id()));
    let copy = bucket.data().join(format!("backup-{}.db", std::process::id()));
    let written = archive(bucket, &partial, &copy, with_workspace, now_ms, tally).and_then(|mut summary| {
        let failed = |operation| io_error(operation, to);
        // Somebody may have made it meanwhile.
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, &partial, rustix::fs::CWD, to, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(Error::Exists(to.to_owned())),
            Err(error) => return Err(failed("name")(error.into())),
        }
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("flush"))?;
        summary.archive_bytes = to.metadata().map_err(failed("measure"))?.len();
        Ok(summary)
    });
    for left in [partial, copy.clone(), beside(&copy, "-wal"), beside(&copy, "-shm")] {
        drop(std::fs::remove_file(left));
    }
    written
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

fn archive(
    bucket: &BucketDir,
    partial: &Path,
    copy: &Path,
    with_workspace: bool,
    now_ms: i64,
    tally: &Tally,
) -> Result<Summary, Error> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial);
    let file = file.map_err(io_error("create", partial))?;
    let encoder = zstd::Encoder::new(io::BufWriter::new(file), LEVEL).map_err(io_error("write", partial))?;
    let mut into = Archive { tar: tar::Builder::new(encoder), partial, now_ms, summary: Summary::default() };

    drop(std::fs::remove_file(copy));
    tally.begin("copying the catalog", 0);
    Catalog::back_up(&bucket.database(), copy)?;
    let (blobs, _) = Catalog::open(copy)?.read(|tx| rows::blobs_in_use(tx))?;
    into.file("data/maand.db", copy, 0o600)?;
    tally.begin("archiving content", blobs.len());
    for digest in &blobs {
        into.blob(bucket, digest)?;
        tally.add(1);
    }
    // Secrets after the catalog: a key is made before anything is sealed with it.
    let note = serde_json::to_vec(&FromBackup { made_ms: now_ms }).unwrap_or_default();
    into.bytes("secrets/from-backup.json", &note)?;
    let kept = |name: &str| !matches!(name, "high-water.json" | "high-water.tmp" | "from-backup.json");
    for (name, path) in files(&bucket.secrets())?.into_iter().filter(|(name, _)| kept(name)) {
        into.file(&format!("secrets/{name}"), &path, 0o600)?;
    }
    if bucket.conf().is_file() {
        into.file("maand.conf", &bucket.conf(), 0o644)?;
    }
    if with_workspace {
        tally.begin("archiving the workspace", 0);
        into.tree(&bucket.workspace())?;
    }
    let encoder = into.tar.into_inner().map_err(io_error("write", partial))?;
    let buffered = encoder.finish().map_err(io_error("write", partial))?;
    let file = buffered.into_inner().map_err(|error| io_error("write", partial)(error.into_error()))?;
    file.sync_all().map_err(io_error("flush", partial))?;
    Ok(into.summary)
}

/// The plain files of a directory, by name.
fn files(dir: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.symlink_metadata().is_ok_and(|meta| meta.is_file())
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

/// The archive while it is written.
struct Archive<'a, W: Write> {
    tar: tar::Builder<W>,
    partial: &'a Path,
    now_ms: i64,
    summary: Summary,
}

impl<W: Write> Archive<'_, W> {
    fn header(&self, len: u64, mode: u32, modified_s: i64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_size(len);
        header.set_mode(mode);
        header.set_mtime(u64::try_from(modified_s).unwrap_or(0));
        header
    }

    fn append(&mut self, name: &str, mut header: tar::Header, from: impl Read) -> Result<(), Error> {
        self.summary.files += 1;
        self.summary.bytes += header.size().unwrap_or(0);
        self.tar.append_data(&mut header, name, from).map_err(io_error("write", self.partial))
    }

    fn bytes(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let header = self.header(content.len() as u64, 0o600, self.now_ms / 1000);
        self.append(name, header, content)
    }

    /// A file as it is now; one that grows meanwhile is cut there, one that shrinks is an error.
    fn file(&mut self, name: &str, path: &Path, mode: u32) -> Result<(), Error> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let meta = file.metadata().map_err(io_error("measure", path))?;
        let header = self.header(meta.len(), mode, meta.mtime());
        let exact = Exact { from: file.take(meta.len()), left: meta.len() };
        self.append(name, header, exact).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                Error::Io { operation: "read to its end (it was changed meanwhile)", path: path.to_owned(), source }
            }
            other => other,
        })
    }

    fn blob(&mut self, bucket: &BucketDir, digest: &BlobDigest) -> Result<(), Error> {
        let mut found = false;
        for base in [bucket.blobs(), bucket.private_blobs()] {
            let path = place(&base, digest);
            if path.is_file() {
                found = true;
                let name = bucket.shown(&path).to_string();
                self.file(&name, &path, 0o600)?;
                self.summary.blobs += 1;
            }
        }
        if found { Ok(()) } else { Err(Error::Missing(*digest)) }
    }

    fn tree(&mut self, workspace: &Path) -> Result<(), Error> {
        for entry in walkdir::WalkDir::new(workspace).sort_by_file_name() {
            let entry = entry.map_err(|error| io_error("list", workspace)(error.into()))?;
            let below = entry.path().strip_prefix(workspace).unwrap_or(entry.path());
            let name = Path::new("workspace").join(below);
            let (kind, path) = (entry.file_type(), entry.path());
            let failed = io_error("read", path);
            if kind.is_file() {
                let mode = entry.metadata().map_err(|error| failed(error.into()))?.mode() & 0o777;
                self.file(&name.to_string_lossy(), path, mode)?;
            } else if kind.is_dir() {
                let mut header = self.header(0, 0o755, self.now_ms / 1000);
                header.set_entry_type(tar::EntryType::Directory);
                self.append(&format!("{}/", name.to_string_lossy().trim_end_matches('/')), header, io::empty())?;
            } else if kind.is_symlink() {
                let target = std::fs::read_link(path).map_err(failed)?;
                let mut header = self.header(0, 0o777, self.now_ms / 1000);
                header.set_entry_type(tar::EntryType::Symlink);
                self.tar.append_link(&mut header, &name, target).map_err(io_error("write", self.partial))?;
                self.summary.files += 1;
            }
        }
        Ok(())
    }
}

/// Exactly so many bytes, or an error.
struct Exact<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.left -= read as u64;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}
