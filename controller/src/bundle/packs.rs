//! Edge: packs, made once for each want-list and kept as files, so that a fleet that goes from one
//! version to the next costs one compression, and a broken download can go on where it stopped.
#![expect(clippy::disallowed_methods, reason = "edge: the cache of packs")]

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use shared::digest::HashingReader;
use shared::{BlobDigest, PackDigest, pack};
use thiserror::Error;

use super::store::{self, Store};
use crate::paths::BucketDir;
use crate::permissions;
use crate::secrets::SealingKey;

/// Most bytes of cached packs; the ones not used for the longest go first.
const CACHE_BYTES: u64 = 4 << 30;
/// Most bytes of a private pack, which is made in memory.
pub const PRIVATE_CAP: u64 = 64 << 20;

/// Why a pack could not be made.
#[derive(Debug, Error)]
pub enum Error {
    /// A blob of it.
    #[error("pack of {count} blobs")]
    Store {
        /// How many were wanted.
        count: usize,
        /// Why one could not be had.
        source: store::Error,
    },
    /// Writing it.
    #[error("pack {digest}")]
    Write {
        /// Which.
        digest: PackDigest,
        /// Why not.
        source: pack::PackError,
    },
    /// Its file.
    #[error("cannot {operation} pack {}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// More private bytes than fit.
    #[error("private pack of {0} bytes, more than 64 MiB")]
    TooLarge(u64),
}

/// A blob on its way into a pack.
struct Checked<'a> {
    inner: Option<HashingReader<File>>,
    blob: BlobDigest,
    damaged: &'a Cell<u32>,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.as_mut().map_or(Ok(0), |inner| inner.read(buffer))
    }
}

impl Drop for Checked<'_> {
    fn drop(&mut self) {
        let Some((actual, _)) = self.inner.take().map(HashingReader::finish) else { return };
        if actual != self.blob {
            self.damaged.set(self.damaged.get() + 1);
            tracing::error!(blob = %self.blob, "blob_damaged: remove its file and run maand build");
        }
    }
}

/// The packs of a bucket.
#[derive(Debug)]
pub struct Packs {
    dir: PathBuf,
    store: Arc<Store>,
    /// One maker for each pack; the others wait for it.
    making: Mutex<HashMap<PackDigest, Arc<Mutex<()>>>>,
}

impl Packs {
    /// Opens the cache; what an earlier process left half made goes.
    pub fn open(bucket: &BucketDir, store: Arc<Store>) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = bucket.packs();
        let failed = |operation, source| Error::File { operation, path: dir.clone(), source };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(permissions::dir(&dir))
            .create(&dir)
            .map_err(|e| failed("make the place of", e))?;
        for entry in std::fs::read_dir(&dir).map_err(|e| failed("list", e))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("tmp-") {
                drop(std::fs::remove_file(entry.path()));
            }
        }
        Ok(Self { dir, store, making: Mutex::new(HashMap::new()) })
    }

    /// The pack of `wants`, opened, with its digest and length; made if it is not there.
    pub fn open_pack(&self, wants: &BTreeMap<BlobDigest, u64>) -> Result<(PackDigest, File, u64), Error> {
        let digest = pack::digest(wants.keys().copied());
        let path = self.dir.join(digest.hex());
        let maker = {
            let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            making.entry(digest).or_default().clone()
        };
        let made = {
            let _one = maker.lock().unwrap_or_else(PoisonError::into_inner);
            if path.is_file() { Ok(None) } else { self.make(&digest, wants, &path) }
        };
        self.making.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        let failed = |operation| {
            let path = path.clone();
            move |source| Error::File { operation, path, source }
        };
        let file = match made? {
            Some(damaged) => damaged,
            None => File::open(&path).map_err(failed("open"))?,
        };
        // What is used last is removed last.
        drop(file.set_modified(std::time::SystemTime::now()));
        let len = file.metadata().map_err(failed("measure"))?.len();
        Ok((digest, file, len))
    }

    /// Makes the file. One that has a damaged blob in it gets no name, and is returned: its other blobs are good,
    /// and whoever mends the store is not answered with the damage again.
    fn make(&self, digest: &PackDigest, wants: &BTreeMap<BlobDigest, u64>, path: &Path) -> Result<Option<File>, Error> {
        let temporary = self.dir.join(format!("tmp-{}-{}", std::process::id(), digest.hex()));
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { operation, path, source }
        };
        for want in wants.keys() {
            if !self.store.contains(want) {
                let source = self.store.open_blob(want).map(drop);
                source.map_err(|source| Error::Store { count: wants.len(), source })?;
            }
        }
        let file = File::create(&temporary).map_err(failed("create", &temporary))?;
        let damaged = Cell::new(0u32);
        let open = |blob: &BlobDigest| {
            let file = self.store.open_blob(blob).map_err(std::io::Error::other)?;
            Ok(Checked { inner: Some(HashingReader::new(file)), blob: *blob, damaged: &damaged })
        };
        let written = pack::write(wants, open, std::io::BufWriter::new(file));
        let made = written.map_err(|source| Error::Write { digest: *digest, source }).and_then(|()| {
            if damaged.get() == 0 {
                return std::fs::rename(&temporary, path).map(|()| None).map_err(failed("name", path));
            }
            let file = File::open(&temporary).map_err(failed("open", &temporary))?;
            std::fs::remove_file(&temporary).map_err(failed("remove", &temporary))?;
            Ok(Some(file))
        });
        if made.is_err() {
            drop(std::fs::remove_file(&temporary));
        }
        self.prune(path);
        made
    }

    /// Keeps the cache below its bound; a pack that is gone is made again when it is asked for.
    fn prune(&self, keep: &Path) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let mut packs: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        packs.sort();
        let mut total: u64 = packs.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in packs {
            if total <= CACHE_BYTES {
                break;
            }
            if path != keep && std::fs::remove_file(&path).is_ok() {
                total -= len;
            }
        }
    }

    /// A pack of private blobs, in memory: it is nobody else's.
    pub fn private_pack(&self, key: &SealingKey, wants: &BTreeMap<BlobDigest, u64>) -> Result<Vec<u8>, Error> {
        let total: u64 = wants.values().sum();
        if total > PRIVATE_CAP {
            return Err(Error::TooLarge(total));
        }
        let open = |blob: &BlobDigest| {
            let content = self.store.read_private(key, blob).map_err(std::io::Error::other)?;
            Ok(std::io::Cursor::new(content.to_vec()))
        };
        let mut out = Vec::new();
        let digest = pack::digest(wants.keys().copied());
        pack::write(wants, open, &mut out).map_err(|source| Error::Write { digest, source })?;
        Ok(out)
    }
}
