//! Edge: the directory that a hook runs in, `tmp/hooks/<runner>/<number>/<job>/`: a fresh copy of the job's
//! files for each process (templates as they are, without `_prometheus`), with the SDK and the
//! allocation's certificates in `_modules`. It goes with its process; what a crash left goes with the
//! next command that runs hooks.
#![expect(clippy::disallowed_methods, reason = "edge: directories of hooks")]

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use shared::digest::HashingWriter;

use crate::bundle::store::Store;
use crate::clock;
use crate::model::{Allocation, JobFile};
use crate::paths::BucketDir;
use crate::permissions;

/// Where a job's scripts are.
pub(super) const MODULES: &str = "_modules";
/// What else of the job no hook sees.
const NOT_STAGED: &str = "_prometheus";
/// Held by the command that a directory belongs to, for as long as it lives.
const LOCK: &str = ".lock";
/// How long another command may take to make its own.
const TURN: Duration = Duration::from_secs(10);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);
/// What scripts import.
const SDK: [(&str, &str); 2] = [("maand.py", include_str!("sdk/maand.py")), ("maand.ts", include_str!("sdk/maand.ts"))];

/// The directories of one runner.
#[derive(Debug)]
pub(super) struct Stages {
    dir: PathBuf,
    store: Store,
    next: AtomicU64,
    _lock: File,
}

/// A certificate's file: its name below `_modules/certs`, its text, whether it is private.
pub(super) type CertFile = (String, String, bool);

impl Stages {
    /// Makes the runner's directory, and removes those of commands that are gone.
    pub(super) fn open(bucket: &BucketDir, store: Store) -> io::Result<Self> {
        let all = bucket.hook_stages();
        private_dir(&all)?;
        // One at a time: a directory without its lock yet must not look like one that was left.
        let turn = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(permissions::file(&all.join(LOCK)))
            .open(all.join(LOCK))?;
        take(&turn, &all)?;
        for entry in std::fs::read_dir(&all)?.flatten() {
            if entry.path().is_dir() && left(&entry.path()) {
                remove(&entry.path());
            }
        }
        let dir = all.join(clock::random_uuid().simple().to_string());
        private_dir(&dir)?;
        let lock = File::options()
            .write(true)
            .create_new(true)
            .mode(permissions::file(&dir.join(LOCK)))
            .open(dir.join(LOCK))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self { dir, store, next: AtomicU64::new(0), _lock: lock })
    }

    /// Copies a job for one process.
    pub(super) fn make(&self, allocation: &Allocation, files: &[JobFile], certs: &[CertFile]) -> io::Result<Stage> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stage = Stage { dir: self.dir.join(number.to_string()), job: allocation.job.to_string() };
        let job = stage.dir.join(&stage.job);
        private_dir(&job)?;
        for file in files.iter().filter(|file| file.path.components().next() != Some(NOT_STAGED)) {
            let to = job.join(file.path.as_str());
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.path));
            self.copy(file, &to).map_err(named)?;
        }
        let modules = stage.modules();
        for (name, text) in SDK {
            write(&modules.join(name), text.as_bytes(), 0o644)?;
        }
        for (name, pem, private) in certs {
            let line = if pem.ends_with('\n') { "" } else { "\n" };
            let mode = if *private { 0o600 } else { 0o644 };
            write(&modules.join("certs").join(name), format!("{pem}{line}").as_bytes(), mode)?;
        }
        Ok(stage)
    }

    /// Copies and checks: a hook runs as the operator.
    fn copy(&self, file: &JobFile, to: &Path) -> io::Result<()> {
        let mut from = self.store.open_blob(&file.blob).map_err(io::Error::other)?;
        if let Some(dir) = to.parent() {
            private_dir(dir)?;
        }
        let target = File::options().write(true).create_new(true).mode(file.mode).open(to)?;
        let mut writer = HashingWriter::new(target);
        io::copy(&mut from, &mut writer)?;
        let (_, digest, _) = writer.finish();
        if digest == file.blob { Ok(()) } else { Err(io::Error::other("its blob in the store is damaged")) }
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// The directory of one process, removed with this.
#[derive(Debug)]
pub(super) struct Stage {
    dir: PathBuf,
    job: String,
}

impl Stage {
    /// Where the process runs.
    pub(super) fn modules(&self) -> PathBuf {
        self.dir.join(&self.job).join(MODULES)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Waits for another command's turn to end, which is short.
fn take(turn: &File, dir: &Path) -> io::Result<()> {
    let end = clock::instant() + TURN;
    while flock(turn, FlockOperation::NonBlockingLockExclusive).is_err() {
        if clock::instant() >= end {
            let why = format!("another maand has held {} for {} s", dir.join(LOCK).display(), TURN.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether the command that made a directory is gone.
fn left(dir: &Path) -> bool {
    match File::options().write(true).open(dir.join(LOCK)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "hook_stage_left");
        }
        _ => {}
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    // The SDK and the certificates stand above files of the job with their names.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(mode).open(path)?.write_all(content)
}

fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(permissions::dir(dir)).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FileKind;
    use shared::{AllocId, BlobDigest, WorkerId};
    use std::os::unix::fs::PermissionsExt;
    use uuid::Uuid;

    fn allocation() -> Allocation {
        Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            host: "w1".parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            disabled: false,
            removed: false,
            start_pending: false,
            deployment_seq: 0,
            new_version: "1.0.0".into(),
            bundle: None,
            promoted: None,
            rolled: None,
            render_inputs: None,
        }
    }

    fn file(store: &Store, path: &str, mode: u32) -> JobFile {
        let blob: BlobDigest = store.put(path.as_bytes()).unwrap();
        JobFile { path: path.parse().unwrap(), mode, len: path.len() as u64, blob, kind: FileKind::Control }
    }

    #[test]
    fn the_whole_job_is_there_for_each_process_and_gone_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        let store = Store::open(&bucket).unwrap();
        let files = [
            file(&store, "Makefile", 0o644),
            file(&store, "_modules/hook_x.py", 0o755),
            file(&store, "_modules/maand.py", 0o644),
            file(&store, "_prometheus/scrape.yaml", 0o644),
            file(&store, "conf/app.j2", 0o644),
        ];
        let stages = Stages::open(&bucket, Store::open(&bucket).unwrap()).unwrap();
        let certs = [("a.key".to_owned(), "KEY".to_owned(), true), ("ca.crt".to_owned(), "CA\n".to_owned(), false)];
        let one = stages.make(&allocation(), &files, &certs).unwrap();
        let two = stages.make(&allocation(), &files, &certs).unwrap();
        assert_ne!(one.modules(), two.modules());
        let job = one.modules().parent().unwrap().to_owned();
        let read = |path: &str| std::fs::read_to_string(job.join(path)).unwrap();
        let mode = |path: &str| std::fs::metadata(job.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(read("conf/app.j2"), "conf/app.j2", "templates are not rendered");
        assert!(!job.join("_prometheus").exists());
        assert!(read("_modules/maand.py").contains("def get_store_value"), "the SDK is ours");
        assert_eq!(read("_modules/certs/a.key"), "KEY\n");
        assert_eq!((mode("_modules/certs/a.key"), mode("_modules/hook_x.py")), (0o600, 0o755));
        assert_eq!(std::fs::metadata(&one.dir).unwrap().permissions().mode() & 0o777, 0o700);
        let gone = one.dir.clone();
        drop(one);
        assert!(!gone.exists() && two.modules().exists());
        std::fs::write(store.path(&files[0].blob), b"altered!").unwrap();
        let error = stages.make(&allocation(), &files, &certs).unwrap_err();
        assert!(error.to_string().contains("Makefile: its blob in the store is damaged"), "{error}");
    }

    #[test]
    fn what_a_crash_left_goes_and_what_another_command_uses_stays() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        let open = || Stages::open(&bucket, Store::open(&bucket).unwrap()).unwrap();
        let used = open();
        let left = bucket.hook_stages().join("of-a-crash");
        std::fs::create_dir_all(left.join("0/api/_modules")).unwrap();
        std::fs::write(left.join(LOCK), b"").unwrap();
        let second = open();
        assert!(!left.exists());
        assert!(used.dir.is_dir() && second.dir.is_dir());
    }
}
