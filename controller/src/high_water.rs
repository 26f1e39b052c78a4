//! Edge: the highest (epoch, update_seq) ever handed out, in a file outside the database, and the note that a
//! bucket came out of a backup: a catalog that is older than what agents were told must tell them nothing.
#![expect(clippy::disallowed_methods, reason = "edge: secrets/high-water.json, secrets/from-backup.json")]

use std::io::Write;
use std::path::Path;

use serde::de::DeserializeOwned;
use shared::{BucketId, Code, Diagnostic};

use crate::catalog::{Catalog, read, recover as rows};
use crate::failure::{Exit, Failure};
use crate::paths::BucketDir;
use crate::recover::{Evidence, FromBackup, Mark};

/// Raises the mark to what is about to be handed out, durably; refuses when it is higher already.
pub fn raise(bucket: &BucketDir, id: BucketId, epoch: u64, update_seq: u64) -> Result<(), Failure> {
    if let Some(mark) = mark(bucket)?
        && mark.bucket_id == id
        && (mark.epoch, mark.update_seq, mark.used) >= (epoch, update_seq, true)
    {
        return Err(Evidence::of((epoch, update_seq.saturating_sub(1)), Some(mark), None, Vec::new()).into());
    }
    write(bucket, &Mark { bucket_id: id, epoch, update_seq, used: false })
}

/// What the mark was raised to is in the catalog now.
pub fn confirm(bucket: &BucketDir, id: BucketId, epoch: u64, update_seq: u64) -> Result<(), Failure> {
    write(bucket, &Mark { bucket_id: id, epoch, update_seq, used: true })
}

/// The mark, if there is one.
pub fn mark(bucket: &BucketDir) -> Result<Option<Mark>, Failure> {
    json(bucket, &bucket.high_water())
}

/// What says that the catalog is older than what agents were told. The files first: what is handed out while
/// this looks is in the catalog that it looks at last.
pub fn evidence(bucket: &BucketDir, catalog: &mut Catalog) -> Result<Evidence, Failure> {
    let mark = mark(bucket)?;
    let backup: Option<FromBackup> = json(bucket, &bucket.from_backup())?;
    let (id, at, ahead) = catalog.read(|tx| Ok((read::bucket_id(tx)?, rows::position(tx)?, rows::ahead(tx)?)))?;
    Ok(Evidence::of(at, mark.filter(|mark| mark.bucket_id == id), backup, ahead))
}

/// Recovered: the bucket is no copy out of a backup any more.
pub fn settle(bucket: &BucketDir) -> Result<(), Failure> {
    let path = bucket.from_backup();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unusable(bucket, &path, &error)),
        _ => Ok(()),
    }
}

fn json<T: DeserializeOwned>(bucket: &BucketDir, path: &Path) -> Result<Option<T>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| unusable(bucket, path, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(bucket, path, &error)),
    }
}

fn unusable(bucket: &BucketDir, path: &Path, error: &dyn std::error::Error) -> Failure {
    let problem = Diagnostic::new(Code::Storage, format!("{} cannot be used", bucket.shown(path))).cause(error);
    Failure::new(Exit::Failed, problem)
}

fn write(bucket: &BucketDir, mark: &Mark) -> Result<(), Failure> {
    let path = bucket.high_water();
    let store = || -> std::io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(mark)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(bucket.secrets())?.sync_all()
    };
    store().map_err(|error| unusable(bucket, &path, &error))
}

impl From<Evidence> for Failure {
    fn from(evidence: Evidence) -> Self {
        let problem = Diagnostic::new(Code::Regressed, "the catalog is older than what agents have been told");
        let mut problem = evidence.lines().iter().fold(problem, Diagnostic::note);
        problem = problem.note("agents keep what they have, and are told nothing until then");
        // An agent can claim anything.
        if let ([ahead, ..], None, None) = (evidence.ahead.as_slice(), &evidence.mark, &evidence.backup) {
            let host = &ahead.host;
            problem = problem.note(format!("if nothing was restored, do not trust {host}: maand agent revoke {host}"));
        }
        let remedy = "put the newest data/maand.db back if there is one; otherwise maand recover: it restarts nothing";
        Failure::new(Exit::Failed, problem.remedy(remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_from_a_backup_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        std::fs::create_dir(bucket.secrets()).unwrap();
        let id = BucketId::from_uuid(uuid::Uuid::from_u128(1));
        raise(&bucket, id, 1, 1).unwrap();
        confirm(&bucket, id, 1, 1).unwrap();
        raise(&bucket, id, 1, 2).unwrap();
        // Cut off before it was handed out.
        raise(&bucket, id, 1, 2).unwrap();
        confirm(&bucket, id, 1, 2).unwrap();
        for (epoch, seq) in [(1, 2), (1, 1)] {
            assert_eq!(raise(&bucket, id, epoch, seq).unwrap_err().problems[0].code, Code::Regressed);
        }
        raise(&bucket, id, 2, 1).unwrap();
    }
}
