//! Edge: the blob store, content by its sha256: `data/store/blobs/ab/<64 digits>`, and private
//! content sealed beside it. Hash while writing, fsync, rename: what has a name is whole.
#![expect(clippy::disallowed_methods, reason = "edge: the store's files")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use shared::BlobDigest;
use shared::digest::HashingWriter;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::paths::BucketDir;
use crate::permissions;
use crate::secrets::SealingKey;

/// How the names of files begin that are being written.
const TEMPORARY: &str = "tmp-";
/// Nobody writes such a file for so long.
const LEFT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Why the store could not be used.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of it.
    #[error("store: cannot {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Asked for with a bound that it exceeds.
    #[error("store: blob {digest} has more than {cap} bytes")]
    TooLarge {
        /// Which.
        digest: BlobDigest,
        /// The bound.
        cap: u64,
    },
    /// Its content is not what its name says.
    #[error("store: blob {0} is damaged")]
    Damaged(BlobDigest),
    /// Sealing or opening.
    #[error("store: blob {digest}")]
    Sealed {
        /// Which.
        digest: BlobDigest,
        /// Why not.
        source: crate::secrets::Error,
    },
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// The blob store of a bucket.
#[derive(Debug)]
pub struct Store {
    blobs: PathBuf,
    private: PathBuf,
    temporary: AtomicU64,
}

impl Store {
    /// Opens the store, making its directories.
    pub fn open(bucket: &BucketDir) -> Result<Self> {
        let blobs = bucket.blobs();
        let private = bucket.private_blobs();
        for dir in [&blobs, &private] {
            private_dir(dir)?;
        }
        Ok(Self { blobs, private, temporary: AtomicU64::new(0) })
    }

    /// Forgets what a killed process was writing: temporary files that nobody has touched for a day.
    pub fn sweep(&self, now_ms: i64) -> Result<()> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms.max(0).unsigned_abs());
        for base in [&self.blobs, &self.private] {
            let failed = |source| Error::Io { operation: "list", path: base.clone(), source };
            for entry in std::fs::read_dir(base).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let left = entry.file_name().to_string_lossy().starts_with(TEMPORARY)
                    && entry.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at + LEFT_FOR < now);
                if left {
                    drop(std::fs::remove_file(entry.path()));
                }
            }
        }
        Ok(())
    }

    /// Where a blob's file is.
    pub fn path(&self, digest: &BlobDigest) -> PathBuf {
        place(&self.blobs, digest)
    }

    /// Whether the blob is there.
    pub fn contains(&self, digest: &BlobDigest) -> bool {
        self.path(digest).is_file()
    }

    /// Stores `content`.
    pub fn put(&self, content: &[u8]) -> Result<BlobDigest> {
        let digest = BlobDigest::of(content);
        if !self.contains(&digest) {
            self.write(&self.blobs, &digest, content)?;
        }
        Ok(digest)
    }

    /// Stores what `source` gives; its digest and length.
    pub fn put_reader(&self, source: &mut impl Read) -> Result<(BlobDigest, u64)> {
        let (temporary, file) = self.temporary(&self.blobs)?;
        let failed = |operation, source| Error::Io { operation, path: temporary.clone(), source };
        let mut writer = HashingWriter::new(file);
        let copied = io::copy(source, &mut writer);
        let (file, digest, len) = writer.finish();
        let stored = copied.map_err(|e| failed("write", e)).and_then(|_| {
            if self.contains(&digest) {
                return Ok(false);
            }
            file.sync_all().map_err(|e| failed("flush", e))?;
            self.publish(&self.blobs, &temporary, &digest).map(|()| true)
        });
        if !matches!(stored, Ok(true)) {
            drop(std::fs::remove_file(&temporary));
        }
        stored.map(|_| (digest, len))
    }

    /// Stores private content, sealed.
    pub fn put_private(&self, key: &SealingKey, content: &[u8]) -> Result<BlobDigest> {
        let digest = BlobDigest::of(content);
        if !place(&self.private, &digest).is_file() {
            let sealed = key.seal(digest.as_bytes(), content).map_err(|source| Error::Sealed { digest, source })?;
            self.write(&self.private, &digest, &sealed)?;
        }
        Ok(digest)
    }

    /// Stores many small blobs with two flushes of the file system instead of two for each.
    pub fn batch(&self) -> Batch<'_> {
        Batch { store: self, waiting: Vec::new() }
    }

    /// Opens a blob.
    pub fn open_blob(&self, digest: &BlobDigest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| Error::Io { operation: "open", path, source })
    }

    /// Reads a blob of at most `cap` bytes, and checks it.
    pub fn read(&self, digest: &BlobDigest, cap: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let read = self.open_blob(digest)?.take(cap.saturating_add(1)).read_to_end(&mut content);
        read.map_err(|source| Error::Io { operation: "read", path: self.path(digest), source })?;
        match content.len() as u64 {
            len if len > cap => Err(Error::TooLarge { digest: *digest, cap }),
            _ if BlobDigest::of(&content) != *digest => Err(Error::Damaged(*digest)),
            _ => Ok(content),
        }
    }

    /// Reads a private blob.
    pub fn read_private(&self, key: &SealingKey, digest: &BlobDigest) -> Result<Zeroizing<Vec<u8>>> {
        let path = place(&self.private, digest);
        let sealed = std::fs::read(&path).map_err(|source| Error::Io { operation: "read", path, source })?;
        key.open(digest.as_bytes(), &sealed).map_err(|source| Error::Sealed { digest: *digest, source })
    }

    fn write(&self, base: &Path, digest: &BlobDigest, content: &[u8]) -> Result<()> {
        let (temporary, mut file) = self.temporary(base)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        let written = written.map_err(|source| Error::Io { operation: "write", path: temporary.clone(), source });
        let stored = written.and_then(|()| self.publish(base, &temporary, digest));
        if stored.is_err() {
            drop(std::fs::remove_file(&temporary));
        }
        stored
    }

    fn temporary(&self, base: &Path) -> Result<(PathBuf, File)> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let file = File::options().write(true).create(true).truncate(true).mode(permissions::file(&path)).open(&path);
        file.map(|file| (path.clone(), file)).map_err(|source| Error::Io { operation: "create", path, source })
    }

    fn publish(&self, base: &Path, temporary: &Path, digest: &BlobDigest) -> Result<()> {
        let path = place(base, digest);
        let dir = path.parent().unwrap_or(base);
        if !dir.is_dir() {
            private_dir(dir)?;
        }
        std::fs::rename(temporary, &path).map_err(|source| Error::Io {
            operation: "name",
            path: path.clone(),
            source,
        })?;
        // The name must be durable before a row refers to it.
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|source| Error::Io { operation: "flush", path: dir.to_owned(), source })
    }
}

/// Blobs that are written, and get their names once they are on the disk.
#[derive(Debug)]
pub struct Batch<'a> {
    store: &'a Store,
    /// Where it is, where it goes.
    waiting: Vec<(PathBuf, PathBuf)>,
}

/// Most blobs that wait for their names.
const BATCH: usize = 4096;

impl Batch<'_> {
    /// Stores `content` with the batch.
    pub fn put(&mut self, content: &[u8]) -> Result<BlobDigest> {
        let digest = BlobDigest::of(content);
        if !self.store.contains(&digest) {
            self.write(&self.store.blobs.clone(), &digest, content)?;
        }
        Ok(digest)
    }

    /// Stores private content with the batch, sealed.
    pub fn put_private(&mut self, key: &SealingKey, content: &[u8]) -> Result<BlobDigest> {
        let digest = BlobDigest::of(content);
        if !place(&self.store.private, &digest).is_file() {
            let sealed = key.seal(digest.as_bytes(), content).map_err(|source| Error::Sealed { digest, source })?;
            self.write(&self.store.private.clone(), &digest, &sealed)?;
        }
        Ok(digest)
    }

    fn write(&mut self, base: &Path, digest: &BlobDigest, content: &[u8]) -> Result<()> {
        let (temporary, mut file) = self.store.temporary(base)?;
        let written = file.write_all(content);
        self.waiting.push((temporary.clone(), place(base, digest)));
        written.map_err(|source| Error::Io { operation: "write", path: temporary, source })?;
        if self.waiting.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for (temporary, path) in std::mem::take(&mut self.waiting) {
            let named = path.parent().map_or(Ok(()), |dir| if dir.is_dir() { Ok(()) } else { private_dir(dir) });
            named?;
            std::fs::rename(&temporary, &path).map_err(|source| Error::Io { operation: "name", path, source })?;
        }
        self.sync()
    }

    /// Everything of this file system: one wait, however many files.
    fn sync(&self) -> Result<()> {
        let path = self.store.blobs.clone();
        let synced = File::open(&path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        synced.map_err(|source| Error::Io { operation: "flush the file system of", path, source })
    }

    /// All of it is on the disk, under its name, when this returns.
    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for (temporary, _) in &self.waiting {
            drop(std::fs::remove_file(temporary));
        }
    }
}

/// Where a blob is below a base.
pub fn place(base: &Path, digest: &BlobDigest) -> PathBuf {
    let hex = digest.hex();
    base.join(&hex[..2]).join(hex)
}

fn private_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(permissions::dir(dir)).create(dir);
    made.map_err(|source| Error::Io { operation: "make", path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_by_its_digest_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        let store = Store::open(&bucket).unwrap();
        let digest = store.put(b"one").unwrap();
        assert_eq!(store.put_reader(&mut &b"one"[..]).unwrap(), (digest, 3));
        assert_eq!(store.read(&digest, 3).unwrap(), b"one");
        assert!(matches!(store.read(&digest, 2), Err(Error::TooLarge { .. })));
        let (other, len) = store.put_reader(&mut &b"other"[..]).unwrap();
        assert_eq!((store.read(&other, 10).unwrap(), len), (b"other".to_vec(), 5));
        std::fs::write(store.path(&digest), b"0ne").unwrap();
        assert!(matches!(store.read(&digest, 10), Err(Error::Damaged(_))));
        let left: Vec<_> = std::fs::read_dir(bucket.blobs()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.len() == 2), "no temporaries stay: {left:?}");
    }

    #[test]
    fn private_content_is_not_readable_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        SealingKey::create(&bucket.kv_key()).unwrap();
        let key = SealingKey::load(&bucket.kv_key()).unwrap();
        let store = Store::open(&bucket).unwrap();
        let digest = store.put_private(&key, b"canary-secret").unwrap();
        assert_eq!(&**store.read_private(&key, &digest).unwrap(), b"canary-secret");
        assert!(!store.contains(&digest), "never among the shared ones");
        let sealed = std::fs::read(place(&bucket.private_blobs(), &digest)).unwrap();
        assert!(!sealed.windows(6).any(|w| w == b"canary"));
    }
}
